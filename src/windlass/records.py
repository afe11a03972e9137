"""A dead job as one line of JSON: what ``export`` and the archive write and ``load`` reads back.

Pure. A line holds everything that the store knows of the job, so that it can be put back as it was. Invariants: what
``to_line`` writes, ``from_line`` reads back equal, whatever bytes the payload is; a line whose arguments were hidden
says so and is refused, since it would come back as a job that pays with ``•••``.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Raw, Struct

from windlass.codec import decode_errors
from windlass.errors import PayloadError, WindlassError
from windlass.ids import check_id
from windlass.model import Guard, JobRow, State, UniqueKey
from windlass.units import check_name

__all__ = ["from_line", "to_line"]

SAFE: Final = 2**53  # numbers up to here survive every store


NULL: Final = Raw(b"null")


class Line(Struct, omit_defaults=True, forbid_unknown_fields=True, kw_only=True):
    """The fields of a line; instants are milliseconds. JSON stays as it is, a payload that is none is base64."""

    id: str
    name: str
    queue: str
    hidden: tuple[str, ...] = ()
    payload: Raw = NULL
    payload_base64: str | None = None
    error_type: str | None = None
    fingerprint: str | None = None
    frame: str | None = None
    reason: str | None = None
    errors: Raw = NULL
    priority: int = 0
    attempt: int = 0
    max_attempts: int = 1
    fence: int = 0
    enqueued_at: int = 0
    run_at: int = 0
    started_at: int | None = None
    finished_at: int | None = None
    expires_ms: int | None = None
    caller_id: bool = False
    progress: Raw = NULL
    tags: tuple[str, ...] = ()
    meta: Raw = NULL
    crashes: int = 0
    interruptions: int = 0
    snoozes: int = 0
    recoveries: int = 0
    guards: tuple[Guard, ...] = ()
    unique: UniqueKey | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)


def to_line(row: JobRow, hidden: Sequence[str] = ()) -> bytes:
    """Write a dead job as one line, its newline included. ``hidden`` names the arguments that are masked in ``row``."""
    line = Line(
        id=row.id,
        name=row.name,
        queue=row.queue,
        hidden=tuple(hidden),
        payload=_raw(row.payload),
        payload_base64=None if _is_json(row.payload) else b64encode(row.payload).decode(),
        error_type=row.error_type,
        fingerprint=row.fingerprint,
        frame=row.frame,
        reason=row.reason,
        errors=_raw(row.errors),
        priority=row.priority,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        fence=row.fence,
        enqueued_at=row.enqueued_at,
        run_at=row.run_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_ms=row.expires_ms,
        caller_id=row.caller_id,
        progress=_raw(row.progress),
        tags=row.tags,
        meta=_raw(row.meta),
        crashes=row.crashes,
        interruptions=row.interruptions,
        snoozes=row.snoozes,
        recoveries=row.recoveries,
        guards=row.guards,
        unique=row.unique,
    )
    return _encoder.encode(line) + b"\n"


def from_line(raw: bytes, where: str) -> JobRow:
    """Read a line back. ``where`` names it in an error, such as ``"dead.jsonl line 3"``. Raises PayloadError."""
    try:
        line = _decoder.decode(raw)
        payload = bytes(line.payload) if line.payload_base64 is None else b64decode(line.payload_base64, validate=True)
        errors = _bytes(line.errors)
        decode_errors(errors)
        check_id(line.id)
        check_name(line.queue, "queue")
    except (msgspec.MsgspecError, ValueError, WindlassError) as error:
        raise PayloadError(f"{where} is not a dead job: {error}") from error
    if line.hidden:
        raise PayloadError(
            f"{where}: the arguments {', '.join(line.hidden)} of job {line.id} are hidden, so it cannot be run; "
            "export it with reveal=True"
        )
    numbers = [line.priority, line.fence, line.enqueued_at, line.run_at, line.finished_at or 0, line.expires_ms or 0]
    numbers += [n or 0 for one in line.guards for n in (one.limit, one.per_ms, one.burst, one.keep_ms)]
    numbers.append(line.unique.ttl_ms or 0 if line.unique else 0)
    if any(abs(number) >= SAFE for number in numbers):
        raise PayloadError(f"{where} is not a dead job: it has a number beyond 2**53")
    return JobRow(
        id=line.id,
        name=line.name,
        queue=line.queue,
        state=State.DEAD,
        payload=payload,
        priority=line.priority,
        attempt=line.attempt,
        max_attempts=line.max_attempts,
        fence=line.fence,
        enqueued_at=line.enqueued_at,
        run_at=line.run_at,
        started_at=line.started_at,
        finished_at=line.run_at if line.finished_at is None else line.finished_at,
        expires_at=None,
        worker=None,
        result=None,
        errors=errors,
        reason=line.reason,
        progress=_bytes(line.progress),
        tags=line.tags,
        meta=_bytes(line.meta),
        crashes=line.crashes,
        interruptions=line.interruptions,
        snoozes=line.snoozes,
        cancel_requested=False,
        error_type=line.error_type,
        fingerprint=line.fingerprint,
        frame=line.frame,
        recoveries=line.recoveries,
        expires_ms=line.expires_ms,
        caller_id=line.caller_id,
        guards=line.guards,
        unique=line.unique,
    )


def _is_json(raw: bytes) -> bool:
    """Whether it may stand in a line and come back the same: JSON on one line, with nothing around it."""
    try:
        msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return b"\n" not in raw and b"\r" not in raw and raw.strip() == raw != b"null"


def _raw(raw: bytes | None) -> Raw:
    return Raw(raw) if raw is not None and _is_json(raw) else NULL


def _bytes(raw: Raw) -> bytes | None:
    data = bytes(raw)
    return None if data == b"null" else data
