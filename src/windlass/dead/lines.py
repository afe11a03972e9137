"""A dead job as one line of JSON: what ``export`` and the archive write and ``load`` reads back.

Pure. A line holds everything that the store knows of the job, so that it can be stored again as it was. Invariants:
what ``to_line`` writes, ``from_line`` reads back equal, whatever bytes the payload is; a line whose arguments were
hidden says so and is refused, since it would be stored as a job that pays with ``•••``. What a line brings is held to
the same bounds as what is enqueued: a line may come from anywhere.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from windlass.core import caps
from windlass.core.errors import PayloadError, WindlassError
from windlass.core.history import clean_reason, decode_errors
from windlass.core.ids import check_id
from windlass.core.model import Guard, Slot, State, UniqueKey
from windlass.core.notebook import Notebook
from windlass.core.rows import JobRow
from windlass.core.stall import STALL
from windlass.core.units import check_name, check_text, shown

__all__ = ["from_line", "to_line"]

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
    notes: tuple[tuple[str, str], ...] = ()
    slot: Slot | None = None
    shift_ms: int = 0


JSON: Final = ("errors", "progress", "meta")
SAME: Final = tuple(
    name for name in Line.__struct_fields__ if name in JobRow.__struct_fields__ and name not in (*JSON, "payload")
)
# What a dead job has no more.
GONE: Final = {
    "state": State.DEAD,
    "expires_at": None,
    "worker": None,
    "result": None,
    "cancel_requested": False,
    "blocked_by": None,
    "held": False,
}

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)


def to_line(row: JobRow, hidden: Sequence[str] = ()) -> bytes:
    """Write a dead job as one line, its newline included. ``hidden`` names the arguments that are masked in ``row``."""
    values: dict[str, Any] = {name: getattr(row, name) for name in SAME}
    values |= {name: _raw(getattr(row, name)) for name in JSON}
    line = Line(
        **values,
        hidden=tuple(hidden),
        payload=_raw(row.payload),
        payload_base64=None if _is_json(row.payload) else b64encode(row.payload).decode(),
    )
    return _encoder.encode(line) + b"\n"


def from_line(raw: bytes, where: str, payload_max: int = caps.VALUE_SIZE) -> JobRow:
    """Read a line back. ``where`` names it in an error, such as ``"dead.jsonl line 3"``. Raises PayloadError."""
    try:
        line = _decoder.decode(raw)
        payload = bytes(line.payload) if line.payload_base64 is None else b64decode(line.payload_base64, validate=True)
        texts = {name: _bytes(getattr(line, name)) for name in JSON}
        _check_numbers(line)
        _check_texts(line)
        for what, data, most in (
            ("payload", payload, payload_max),
            ("errors", texts["errors"], caps.HISTORY_SIZE),
            ("progress", texts["progress"], caps.FACTS_SIZE),
            ("meta", texts["meta"], caps.FACTS_SIZE),
        ):
            if len(data or b"") > most:
                raise PayloadError(f"{what} takes {len(data or b''):,} bytes; the most is {most:,}")
        decode_errors(texts["errors"])
    except (msgspec.MsgspecError, ValueError, OverflowError, WindlassError) as error:
        raise PayloadError(f"{where} is not a dead job: {error}") from error
    if line.hidden:
        raise PayloadError(
            f"{where}: the arguments {', '.join(line.hidden)} of job {line.id} are hidden, so it cannot be run; "
            "export it with reveal=True"
        )
    values: dict[str, Any] = GONE | {name: getattr(line, name) for name in SAME} | texts
    values |= {name: clean_reason(getattr(line, name)) for name in ("reason", "error_type", "frame")}
    if line.finished_at is None:
        values["finished_at"] = line.run_at
    return JobRow(payload=payload, **values)


def _check_numbers(line: Line) -> None:
    instants = ("enqueued_at", "run_at", "started_at", "finished_at")
    charges = ("crashes", "interruptions", "snoozes")
    bounds = [
        ("priority", line.priority, -caps.PRIORITY, caps.PRIORITY),
        ("attempt", line.attempt, 0, caps.ATTEMPTS),
        ("max_attempts", line.max_attempts, 1, caps.ATTEMPTS),
        ("fence", line.fence, 0, caps.NUMBER // 2),
        ("recoveries", line.recoveries, 0, caps.RECOVERIES),
        ("expires_ms", line.expires_ms, 0, caps.DURATION_MS),
        ("shift_ms", line.shift_ms, -caps.INSTANT_MS, caps.INSTANT_MS),
        *((name, getattr(line, name), 0, caps.INSTANT_MS - 1) for name in instants),
        *((name, getattr(line, name), 0, caps.CHARGES) for name in charges),
    ]
    for guard in line.guards:
        bounds += [
            ("the limit of a guard", guard.limit, 0, caps.COUNT),
            ("the window of a guard", guard.per_ms, 0, caps.DURATION_MS),
            ("the burst of a guard", guard.burst, 0, caps.COUNT),
            ("the keep of a guard", guard.keep_ms, 0, caps.DURATION_MS),
        ]
    if line.unique is not None:
        bounds.append(("the ttl of the unique key", line.unique.ttl_ms, 0, caps.DURATION_MS))
    for name, number, least, most in bounds:
        if number is not None and not least <= number <= most:
            raise PayloadError(f"{name} is {shown(number)}; it must be from {least:,} to {most:,}")


def _check_texts(line: Line) -> None:
    check_id(line.id)
    check_name(line.queue, "queue")
    check_text(line.name, "name", caps.JOB_NAME)
    if len(line.tags) > caps.TAGS or len(line.guards) > caps.GUARDS:
        raise PayloadError(f"it has {len(line.tags):,} tags and {len(line.guards):,} guards")
    for tag in line.tags:
        check_text(tag, "a tag")
    for key in [guard.key for guard in line.guards] + ([] if line.unique is None else [line.unique.key]):
        check_text(key, "the key of a guard", caps.KEY)
    if line.fingerprint is not None:
        check_text(line.fingerprint, "fingerprint")
    of_job, of_worker = Notebook(line.id, ()), Notebook(line.id, ())
    for key, text in line.notes:
        (of_worker if key == STALL else of_job).put(key, text)


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
