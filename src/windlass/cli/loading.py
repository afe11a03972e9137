"""From ``module:attr`` to the application of the user.

The text comes from the operator (argument, environment, settings), never from a store. Invariants: the current
directory and that of the settings file are importable from here on, behind all that is installed, so that a file of the
user's that happens to be called ``click.py`` replaces nothing; what the user's module prints while it is imported goes
to stderr, since stdout belongs to the command; a failing import is one error that names the user's file and line.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Final

import windlass
from windlass.app import Windlass
from windlass.core.errors import ConfigError
from windlass.core.units import nearest
from windlass.settings import load_settings

__all__ = ["DEFAULT_ATTRIBUTE", "load_app"]

DEFAULT_ATTRIBUTE: Final = "app"

# Code that is not the user's: a failing import is reported where the user can change something.
FOREIGN: Final = (
    "<frozen",
    str(Path(windlass.__file__).parent),
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)


def load_app(target: str) -> Windlass:
    """Import ``module:attr`` (``attr`` is ``app`` when left out) and give the application.

    Puts the current directory on the import path, and then that of the settings file, so that a command in a folder
    below finds what the file names: last, but the application itself is looked for there first. Raises ConfigError for
    a module that is not there or fails, with the file and line of the failure, and for an attribute that is missing or
    no Windlass.
    """
    module_name, _, attribute = target.partition(":")
    if not module_name or "/" in module_name or module_name.endswith(".py"):
        dotted = module_name.removeprefix("./").removesuffix(".py").replace("/", ".").strip(".") or "shop.jobs"
        raise ConfigError(f"application {target!r} is not a module: write module:attr, such as {dotted}:app")
    file = load_settings().file
    folders = list(dict.fromkeys([os.getcwd(), *([str(file.parent)] if file else [])]))
    sys.path += [folder for folder in folders if folder not in sys.path]
    return _pick(_import(module_name, target, folders), attribute or DEFAULT_ATTRIBUTE, target)


def _import(name: str, target: str, folders: list[str]) -> ModuleType:
    try:
        with contextlib.redirect_stdout(sys.stderr), _first_in(folders, name.partition(".")[0]):
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(name, target, error) from error
        raise ConfigError(
            f"application {target!r}: there is no module {error.name!r}{nearest(error.name, _siblings(error.name))}; "
            f"looked in {os.getcwd()}, beside the settings file and in the Python path"
        ) from error
    except (Exception, SystemExit) as error:  # the user's module may raise anything
        raise _failed(name, target, error) from error


@contextlib.contextmanager
def _first_in(folders: list[str], name: str) -> Iterator[None]:
    """Look for one module or package in these folders before anywhere else, since the operator named it.

    What is loaded already and what is Python's own stay what they are.
    """

    class First(MetaPathFinder):
        def find_spec(
            self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
        ) -> ModuleSpec | None:
            found = PathFinder.find_spec(name, folders) if fullname == name else None
            return None if found is None or found.loader is None else found  # a folder without __init__ may be anything

    first = First()
    if name not in sys.stdlib_module_names:
        sys.meta_path.insert(0, first)
    try:
        yield
    finally:
        sys.meta_path[:] = [each for each in sys.meta_path if each is not first]


def _siblings(name: str) -> list[str]:
    """Modules that stand where ``name`` was looked for."""
    package, _, _ = name.rpartition(".")
    folders = getattr(sys.modules[package], "__path__", []) if package in sys.modules else [os.getcwd()]
    prefix = f"{package}." if package else ""
    return [prefix + found.name for found in pkgutil.iter_modules(list(folders))]


def _failed(name: str, target: str, error: BaseException) -> ConfigError:
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return ConfigError(f"application {target!r}: importing {name} failed{_place(error)}: {what}")


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {error.filename}:{error.lineno}"
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(file, line) for file, line in frames if not file.startswith(FOREIGN)]
    return f" at {own[-1][0]}:{own[-1][1]}" if own else ""


def _pick(module: ModuleType, attribute: str, target: str) -> Windlass:
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            apps = [name for name, value in vars(module).items() if isinstance(value, Windlass)]
            hint = nearest(part, apps) or (f"; it has the applications {', '.join(apps)}" if apps else "")
            raise ConfigError(f"application {target!r}: {module.__name__} has no {attribute!r}{hint}")
        found = getattr(found, part)
    if isinstance(found, Windlass):
        return found
    raise ConfigError(
        f"application {target!r} is of type {type(found).__name__}, not a Windlass; "
        "name the object that Windlass(...) gave"
    )
