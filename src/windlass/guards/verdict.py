"""What the end of a call says about the dependency that was called: that it is well, that it is not, or nothing.

Pure. Must not know circuits. Errors are named by class, or by dotted name, so that settings need not import a client.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct

from windlass.core.control import RetryAfter
from windlass.core.errors import ConfigError
from windlass.core.foreign import is_ctrl_c, kind_name, said
from windlass.logs.lines import printable

__all__ = ["Kinds", "Verdict", "is_any", "reason_of", "retry_after_ms", "to_kinds"]

Kinds = tuple[type[BaseException] | str, ...]

RETRY_AFTER_MAX_MS: Final = 86_400_000


class Verdict(Struct, frozen=True, array_like=True):
    """What a call says about its dependency: that it is well (True), is not (False), or nothing (None)."""

    ok: bool | None
    reason: str | None = None  # of a call that ended badly
    retry_after_ms: int = 0


def to_kinds(value: object, what: str) -> Kinds:
    """Check what an option says of exceptions. Raises ConfigError, which begins with ``what``."""
    given = value if isinstance(value, list | tuple | set | frozenset) else (value,)
    kinds: list[type[BaseException] | str] = []
    for kind in given:
        if not ((isinstance(kind, str) and kind) or (isinstance(kind, type) and issubclass(kind, BaseException))):
            raise ConfigError(f"{what} has {kind!r}; give exception classes, or their dotted names as text")
        kinds.append(kind)
    return tuple(kinds)


def is_any(error: BaseException, kinds: Kinds) -> bool:
    """Whether an error is one of these, by class or by name. One that cannot be asked is none of them."""
    return any(_is(error, kind) for kind in kinds)


def _is(error: BaseException, kind: type[BaseException] | str) -> bool:
    try:
        if not isinstance(kind, str):
            return isinstance(error, kind)
        # By name, so that settings need not import the client library.
        return any(
            kind in (base.__qualname__, f"{base.__module__}.{base.__qualname__}") for base in type(error).__mro__
        )
    except BaseException as trouble:
        if is_ctrl_c(trouble):
            raise
        return False


def reason_of(error: BaseException | None, hide: Callable[[str], str] = str) -> str:
    """Say on one line what went wrong; ``hide`` masks what must not be seen, before anything is cut."""
    if error is None:
        return "slow calls"
    text = hide(f"{kind_name(error)}: {said(error)}")
    return printable(text.partition("\n")[0][:200])


def retry_after_ms(error: BaseException | None) -> int:
    """What a service asked for: ``error.retry_after``, or Retry-After among the headers of ``error.response``; or 0."""
    try:
        return _asked_ms(error)
    except BaseException as trouble:  # a property that fails, or a value that is no length of time
        if is_ctrl_c(trouble):
            raise
        return 0


def _asked_ms(error: BaseException | None) -> int:
    if isinstance(error, RetryAfter):
        return min(error.delay_ms, RETRY_AFTER_MAX_MS)
    value: object = getattr(error, "retry_after", None)
    if value is None:
        headers = getattr(getattr(error, "response", None), "headers", None)
        get: Callable[[str], object] | None = getattr(headers, "get", None)
        value = None if get is None else get("Retry-After")
    match value:
        case bool() | None:
            return 0
        case timedelta():
            seconds = value.total_seconds()
        case int() | float():
            seconds = float(value)
        case str() if value.strip().isdigit():
            seconds = float(value)
        case str():
            from email.utils import parsedate_to_datetime  # late: it brings a mail library, and few ever need it

            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        case _:
            return 0
    return min(max(0, round(seconds * 1_000)), RETRY_AFTER_MAX_MS)
