"""A misspelt keyword of anything public names the nearest one.

``spelled`` wraps the public methods of a class; ``Spelled`` is the base of the structs that users make. Both look at
keywords only after Python has refused a call, so a correct call pays for one more frame and nothing else, and what type
checkers, ``inspect.signature`` and ``help`` see is the method itself. Methods that take any keyword check them in their
body and say the same, with ``unknown_option``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from msgspec import Struct

from windlass.core.errors import UnknownOption
from windlass.core.units import nearest

__all__ = ["Spelled", "spelled", "unknown_option"]

C = TypeVar("C", bound=type)

VAR_KEYWORDS: Final = 0x08  # of a code object's flags: inspect.CO_VARKEYWORDS
COROUTINE: Final = 0x80


def unknown_option(where: str, word: str, words: Iterable[str]) -> UnknownOption:
    """Make the error about a keyword that does not exist. ``words`` are those that do."""
    words = list(words)
    hint = nearest(word, words) or f"; it takes {', '.join(words)}"
    return UnknownOption(f"{where}: there is no option {word!r}{hint}")


def spelled(target: C) -> C:
    """Make a misspelt keyword of any public method of a class an UnknownOption."""
    for name, member in list(vars(target).items()):
        if isinstance(member, FunctionType) and (name == "__init__" or not name.startswith("_")):
            code = member.__code__
            named = code.co_argcount - max(1, code.co_posonlyargcount) + code.co_kwonlyargcount
            if named and not code.co_flags & VAR_KEYWORDS:
                setattr(target, name, _wrapped(member))
    return target


def _wrapped(fn: FunctionType) -> Callable[..., Any]:
    checked: Callable[..., Any]
    if fn.__code__.co_flags & COROUTINE:

        @functools.wraps(fn)
        async def checked(*args: Any, **kwargs: Any) -> Any:
            try:
                return await fn(*args, **kwargs)
            except TypeError:
                _check(fn, kwargs)
                raise
    else:

        @functools.wraps(fn)
        def checked(*args: Any, **kwargs: Any) -> Any:
            try:
                return fn(*args, **kwargs)
            except TypeError:
                _check(fn, kwargs)
                raise

    return checked


def _check(target: Callable[..., Any], kwargs: Mapping[str, object]) -> None:
    """Raise UnknownOption where a keyword is none of the target's; else the TypeError is about something else."""
    from inspect import Parameter, signature  # late: only a call that has failed needs it

    parameters = signature(target).parameters.values()
    positional = {one.name for one in parameters if one.kind is Parameter.POSITIONAL_ONLY}
    words = [one.name for one in parameters if one.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)]
    if words and words[0] == "self":
        del words[0]
    for key in kwargs:
        if key not in words and key not in positional:
            raise unknown_option(f"{target.__qualname__}()", key, words) from None


if TYPE_CHECKING:

    class Spelled(Struct, frozen=True):
        """A struct that names the nearest keyword for a misspelt one."""

else:

    class _Meta(type(Struct)):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            try:
                return super().__call__(*args, **kwargs)
            except TypeError:
                _check(cls, kwargs)
                raise

    class Spelled(Struct, frozen=True, metaclass=_Meta):
        """A struct that names the nearest keyword for a misspelt one."""
