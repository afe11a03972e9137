"""Exceptions named by dotted text, for rules about libraries that not every process has.

A text comes from the application's code, never from a store. It is looked up where it is written when its top module
can be imported, else when a job first fails and the rule is asked. Invariants: a text that is wrong for good (the
module is here and has no such exception) is a ConfigError; one that cannot be told here is NotYet and matches nothing,
and that is logged once.
"""

from __future__ import annotations

import builtins
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from windlass.core.errors import ConfigError, WindlassError
from windlass.core.foreign import is_ctrl_c, kind_name, said
from windlass.core.units import nearest
from windlass.logs import Log

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

__all__ = ["NamedError", "NotYet", "resolve"]

log = Log("windlass.job")


class NotYet(WindlassError):
    """The exception of this name cannot be looked up here and now; the message says why."""


class NamedError:
    """An exception by its dotted text."""

    def __init__(self, text: str) -> None:
        """Look the text up at once if that can be done. Raises ConfigError for a text that is wrong for good."""
        self.text = text
        self._found: type[BaseException] | None = None
        self._given_up = False
        try:
            self._found = resolve(text)
        except NotYet:
            pass

    def __repr__(self) -> str:
        return repr(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedError) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def known(self) -> type[BaseException] | None:
        """The class, if it has been found already."""
        return self._found

    def find(self) -> type[BaseException] | None:
        """Give the class, looked up now if need be; None when it cannot be found, which is logged once."""
        if self._found is None and not self._given_up:
            try:
                self._found = resolve(self.text)
            except (NotYet, ConfigError) as error:
                self._given_up = True
                log.error("a retry rule never matches in this process: %s", error)
        return self._found

    def problem(self) -> str | None:
        """Say why the class cannot be found in this process, or None when it can."""
        try:
            self._found = resolve(self.text)
        except (NotYet, ConfigError) as error:
            return str(error)
        return None


def resolve(text: str) -> type[BaseException]:
    """Look an exception up by dotted text (a built-in one by its bare name).

    Imports its module. Raises ConfigError, with the nearest spelling, when what is there is no such exception, and
    NotYet when the module is not installed, fails to import, or is being imported at this moment.
    """
    head, *rest = text.split(".")
    if not all(part.isidentifier() for part in (head, *rest)):
        raise ConfigError(f"on({text!r}): write the dotted name of an exception, such as 'requests.exceptions.Timeout'")
    if not rest:
        return _checked(text, getattr(builtins, head, None), builtins, head)
    found: object = _module(head, text)
    for part in rest:
        owner = found
        if isinstance(owner, ModuleType) and not hasattr(owner, part):
            found = _submodule(owner, part, text)
        else:
            found = getattr(owner, part, None)
        if found is None:
            _checked(text, None, owner, part)
    return _checked(text, found, owner, rest[-1])


def _module(name: str, text: str) -> ModuleType:
    if name not in sys.modules and _spec_of(name) is None:
        raise NotYet(f"on({text!r}): there is no module {name!r} here")
    try:
        return import_module(name)
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        raise NotYet(_not_imported(text, name, error)) from error


def _spec_of(name: str) -> ModuleSpec | None:
    from importlib.util import find_spec  # late: few rules name a module

    return find_spec(name)


def _submodule(owner: ModuleType, part: str, text: str) -> ModuleType | None:
    name = f"{owner.__name__}.{part}"
    try:
        if hasattr(owner, "__path__") and _spec_of(name) is not None:
            return import_module(name)
    except BaseException as error:
        if is_ctrl_c(error):
            raise
        raise NotYet(_not_imported(text, name, error)) from error
    if getattr(owner.__spec__, "_initializing", False):
        # Named in a module that is still on its way: the class may stand further down.
        raise NotYet(f"on({text!r}): the module {owner.__name__!r} is still being imported")
    return None


def _not_imported(text: str, name: str, error: BaseException) -> str:
    # Whatever it is: a module that is a script may exit.
    return f"on({text!r}): the module {name!r} cannot be imported: {said(error) or kind_name(error)}"


def _checked(text: str, found: object, owner: object, part: str) -> type[BaseException]:
    if isinstance(found, type) and issubclass(found, BaseException):
        return found
    if found is not None:
        raise ConfigError(f"on({text!r}) is {found!r}, which is not an exception class")
    names = [
        name
        for name, value in vars(owner).items()
        if isinstance(value, ModuleType) or (isinstance(value, type) and issubclass(value, BaseException))
    ]
    place = getattr(owner, "__name__", repr(owner))
    raise ConfigError(f"on({text!r}): {place} has no exception {part!r}{nearest(part, names)}")
