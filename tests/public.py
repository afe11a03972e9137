"""The public classes: those at the top of the package, and all that their methods and properties lead to."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import windlass
from windlass.dead.deadlist import DeadList

# Modules of the worker, the command line and the engines are not for users, and neither are these.
HIDDEN = re.compile(r"windlass\.(worker|cli|bench|testing|__main__|engines\.(sqlite|redis))\b")
INTERNAL = {"Client", "Growing", "Store"}


@cache
def classes() -> dict[str, type]:
    """Every public class by its name."""
    known: dict[str, type] = {}
    for _, name, _ in pkgutil.walk_packages(windlass.__path__, "windlass."):
        if not HIDDEN.match(name):
            module = importlib.import_module(name)
            known |= {key: one for key, one in vars(module).items() if inspect.isclass(one) and one.__module__ == name}
    made = " ".join(
        str(found.__annotations__["return"])
        for name in windlass.__all__
        if inspect.isfunction(found := getattr(windlass, name))
    )
    waiting = [DeadList, *(known[word] for word in re.findall(r"\w+", made) if word in known)]
    waiting += [found for name in windlass.__all__ if inspect.isclass(found := getattr(windlass, name))]
    reached: dict[str, type] = {}
    while waiting:
        found = waiting.pop()
        if found.__name__ not in reached:
            reached[found.__name__] = found
            leads_to = " ".join(str(annotation) for _, annotation in annotations(found))
            waiting += [known[word] for word in re.findall(r"\w+", leads_to) if word in known and word not in INTERNAL]
    return dict(sorted(reached.items()))


def annotations(found: type) -> Iterator[tuple[str, object]]:
    """What the public methods and properties of a class give."""
    for name, member in inspect.getmembers(found):
        fn = member.fget if isinstance(member, property) else member
        if not name.startswith("_") and callable(fn):
            yield name, getattr(inspect.unwrap(fn), "__annotations__", {}).get("return", "")


def methods() -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """Every public method of a public class that windlass itself defines: class, name, function."""
    for name, found in classes().items():
        for method in dir(found):
            fn = inspect.getattr_static(found, method)
            fn = fn.__func__ if isinstance(fn, staticmethod | classmethod) else fn
            if not method.startswith("_") and inspect.isfunction(fn) and fn.__module__.startswith("windlass"):
                yield name, method, fn
