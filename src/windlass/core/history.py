"""Why attempts failed, as it is stored with a job: one JobError for each, as JSON text that has a bound.

Invariant: ``encode_error`` never fails, whatever was raised.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from windlass.core import caps
from windlass.core.errors import PayloadError
from windlass.core.fingerprint import type_name
from windlass.core.foreign import kind_name
from windlass.core.hints import encode
from windlass.core.model import JobError
from windlass.core.values import check_depth

__all__ = ["NOWHERE", "Origin", "clean_reason", "decode_errors", "encode_error"]

UNPRINTED: Final = re.compile("[\ud800-\udfff\0]")

_ERRORS: Final = msgspec.json.Decoder(tuple[JobError, ...])


class Origin(Struct, frozen=True):
    """Where an attempt ran: the machine, the worker incarnation, and which version of the code."""

    host: str = ""
    worker: str = ""
    version: str = ""


NOWHERE: Final = Origin()


def encode_error(
    exc: BaseException,
    *,
    attempt: int,
    at: int,
    limit: int,
    origin: Origin = NOWHERE,
    hide: Callable[[str], str] = str,
) -> str:
    """Give a JobError as JSON text of at most ``limit`` bytes (at least 512). *Never fails.*

    The type is the dotted name (builtins without a module), the traceback has its chain and no local variables. What
    is too long loses its middle; NULs and lone surrogates, which stores refuse, become U+FFFD. ``hide`` masks what must
    not be seen, before anything is cut.
    """
    kind = type(exc)
    name = _safely(lambda: type_name(kind), kind_name(exc), limit)
    message = _safely(lambda: hide(str(exc)), "<the message cannot be shown: its __str__ fails>", limit)
    trace = _safely(
        lambda: hide("".join(traceback.format_exception(exc))),
        "<the traceback cannot be shown: formatting fails>",
        limit,
    )
    room = limit
    while True:
        short = _cut(message, max(room // 4, room - len(trace)))
        error = JobError(
            _cut(name, 160),
            short,
            _cut(trace, max(room - len(short), 0)),
            at,
            attempt,
            origin.host,
            origin.worker,
            origin.version,
        )
        data = encode(error)
        if len(data) <= limit or room == 0:
            return data.decode()
        room = room * 9 // 10


def clean_reason(text: str | None) -> str | None:
    """Make a reason that a job or a person gave fit to be stored: 1,000 characters, none that a store refuses."""
    return None if text is None else UNPRINTED.sub("\ufffd", _cut(text, caps.REASON))


def _safely(make: Callable[[], str], otherwise: str, limit: int) -> str:
    try:
        return UNPRINTED.sub("\ufffd", _cut(make(), limit))
    except BaseException:  # noqa: BLE001  a foreign __str__ may raise anything, SystemExit included
        return otherwise


def _cut(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    mark = f"\n... {len(text) - room} characters left out ...\n"
    half = max(room - len(mark), 0) // 2
    return text[:half] + mark + text[len(text) - half :] if half else text[:room]


def decode_errors(raw: bytes | None) -> tuple[JobError, ...]:
    """Give the error history of a job, oldest first. Raises PayloadError."""
    if raw is None:
        return ()
    check_depth(raw)
    try:
        return _ERRORS.decode(raw)
    except Exception as error:
        raise PayloadError(f"the error history cannot be decoded: {error}") from error
