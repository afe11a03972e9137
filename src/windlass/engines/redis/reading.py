"""What the scripts answer, read back into the structs of ``core``. What cannot be read raises ``core.UNSOUND``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import msgspec
from msgspec import Struct

from windlass.core.join import Tally
from windlass.core.model import (
    Guard,
    State,
    UniqueKey,
)
from windlass.core.rows import JobRow, JoinRow, WorkerRow, fields_of
from windlass.core.work import Lease, WorkerInfo
from windlass.engines.damage import made
from windlass.engines.redis.wire import (
    CANCEL_ASKED,
    FENCE,
    HELD,
    NULL_RESULT,
    OF_REST,
    PREFIX,
    RECORD,
    STATES,
    SUFFIX,
    Head,
    Record,
    Rest,
    StoredGuards,
    StoredJoin,
    none_below_zero,
)

__all__ = [
    "as_list",
    "strings",
    "to_lease",
    "to_row",
    "to_worker",
]

decode_join = msgspec.msgpack.Decoder(StoredJoin).decode
decode_guards = msgspec.msgpack.Decoder(StoredGuards).decode


decode_head = msgspec.msgpack.Decoder(Head).decode


decode_rest = msgspec.msgpack.Decoder(Rest).decode


class WorkerRecord(Struct, array_like=True, frozen=True):
    """What the store keeps of a worker: the time of its last beat, the key of its inbox, and its own words."""

    beat_at: int
    inbox: str
    info: str
    asked: str = ""  # words, apart by spaces


decode_info = msgspec.json.Decoder(WorkerInfo).decode


decode_worker = msgspec.msgpack.Decoder(WorkerRecord).decode


def to_worker(record: bytes, until: int, held: int, boot: int) -> WorkerRow:
    """A worker as the store sees it."""
    one = decode_worker(record)
    return made(
        WorkerRow,
        info=decode_info(one.info),
        running=held,
        beat_at=one.beat_at,
        lease_left_ms=until - boot,
        control=tuple(one.asked.split()),
    )


def read_guards(packed: bytes) -> tuple[Guard, ...]:
    """The guards as the job was enqueued with them."""
    return tuple(
        Guard(
            one.kind,
            one.gate.partition(":")[2],
            one.limit,
            one.per_ms,
            one.burst if one.burst >= 0 else None,
            one.keep_ms,
        )
        for one in decode_guards(packed).guards
    )


def guards_in(packed: object) -> tuple[Guard, ...]:
    """The guards of a lease. It has been claimed, so what cannot be read is left out; the next listing tells of it."""
    try:
        return read_guards(packed) if isinstance(packed, bytes) else ()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ()


def notes_in(flat: object) -> tuple[tuple[str, str], ...]:
    """The notes of a job, by key. What is no text any more is left out."""
    given = as_list(flat)
    pairs = zip(given[::2], given[1::2], strict=True)
    return tuple(sorted(pair for key, value in pairs if (pair := as_note(key, value)) is not None))


def as_note(key: object, value: object) -> tuple[str, str] | None:
    try:
        return (key.decode(), value.decode()) if isinstance(key, bytes) and isinstance(value, bytes) else None
    except UnicodeDecodeError:
        return None


def read_unique(packed: bytes) -> UniqueKey | None:
    """The unique key of a job, if it has one."""
    one = decode_guards(packed).unique
    return None if one.key is None else UniqueKey(one.key, one.until, none_below_zero(one.ttl_ms), one.rule)


def to_join(id: str, packed: object) -> JoinRow | None:
    """A join as it is stored; None when there is none that is sound."""
    try:
        one = decode_join(packed) if isinstance(packed, bytes) else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    if one is None:
        return None
    tally = Tally(bool(one.sealed), int(one.total), int(one.ok), int(one.bad), int(one.void))
    return JoinRow(
        id,
        tally,
        int(one.made_at),
        int(one.moved_at),
        int(one.ended_at) or None,
        int(one.keep_ms),
        one.home or None,
        one.meta.encode() or None,
        int(one.watch_ms),
    )


def head_size(body: bytes) -> int:
    """How long the head of a body is."""
    return body[PREFIX - 2] << 8 | body[PREFIX - 1]


def rest_of(body: bytes, start: int) -> Rest:
    """The part of a body that only workers and people read; of one that is not ours, its bytes as the payload."""
    try:
        return decode_rest(memoryview(body)[start:-SUFFIX])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Rest("", (), None, body[start:-SUFFIX])


def to_lease(
    given: Sequence[object], fence: int, heads: dict[bytes, Head], guards: object = None, notes: object = None
) -> Lease:
    """A lease of what a claim gives for one job; ``heads`` remembers heads within a batch."""
    id, record, body, reason = given
    if not (
        isinstance(id, bytes) and isinstance(record, bytes) and isinstance(body, bytes) and isinstance(reason, bytes)
    ):
        raise TypeError("the server gave a lease that is no text")
    if len(record) > 1:
        _, flags, attempt, crashes, interruptions, snoozes, started, _, _, run_at, _, _, _, retrying, size = (
            RECORD.unpack_from(record)
        )
        text = record[RECORD.size : RECORD.size + size]  # its lane may have changed since the body was written
        end = PREFIX + head_size(body)
    else:
        attempt = crashes = interruptions = snoozes = started = retrying = 0
        run_at = int.from_bytes(body[6:12], "big")
        end = PREFIX + head_size(body)
        text = body[PREFIX:end]
        flags = HELD if record else 0
    head = heads.get(text)
    if head is None:
        head = heads[text] = decode_head(text)
    rest = rest_of(body, end)
    return Lease(
        id.decode("utf-8", "replace"),
        rest.name,
        head.queue,
        rest.payload,
        fence,
        attempt + 1,
        head.max_attempts,
        head.priority,
        int.from_bytes(body[:6], "big"),
        run_at,
        crashes,
        interruptions,
        snoozes,
        rest.tags,
        rest.meta,
        reason.decode("utf-8", "replace") or None,
        max(0, started - retrying) if retrying else 0,
        guards_in(guards),
        head.slot,
        bool(flags & HELD),
        () if notes is None else notes_in(notes),
    )


def to_row(id: str, values: Sequence[object], wall: int) -> JobRow | None:
    """A row of what ``scripts/rows.lua`` has for one id, or None when there is no such job.

    Raises ValueError or its like for a record that is not sound.
    """
    record, body, result, errors, reason, cause, recoveries, gate, guards, seq = (
        one if isinstance(one, bytes) else None for one in values[:-1]
    )
    if body is None and record is None and seq is None:
        return None
    if body is None or len(body) < PREFIX + SUFFIX or len(body) < PREFIX + SUFFIX + head_size(body):
        raise ValueError("its body is gone" if body is None else "its body is not readable")
    end = PREFIX + head_size(body)
    head, rest = decode_head(body[PREFIX:end]), rest_of(body, end)
    if record is None:
        run_at = int.from_bytes(body[6:12], "big")
        found = Record(run_at=run_at, expires_at=0 if head.expires_ms < 0 else run_at + head.expires_ms)
        worker, fence = b"", 0
    else:
        found = Record._make(RECORD.unpack_from(record))
        worker, fence = record[RECORD.size + found.head_size : -8], FENCE.unpack(record[-8:])[0]
    state = STATES[found.state]
    if state is State.READY and found.run_at > wall:
        state = State.SCHEDULED
    if gate is not None and found.state == 0:
        state = State.BLOCKED
    if found.flags & NULL_RESULT:
        result = b"null"
    return made(
        JobRow,
        id=id,
        state=state,
        fence=fence,
        enqueued_at=int.from_bytes(body[:6], "big"),
        worker=worker.decode() or None,
        result=result,
        errors=None if errors is None else b"[%b]" % errors,
        reason=None if reason is None else reason.decode("utf-8", "replace"),
        **fields_of(notes_in(values[-1])),
        cancel_requested=bool(found.flags & CANCEL_ASKED),
        recoveries=int(recoveries) if recoveries is not None and recoveries.isdigit() else 0,
        blocked_by=gate.decode("utf-8", "replace") if gate is not None and state is State.BLOCKED else None,
        guards=() if guards is None else read_guards(guards),
        unique=None if guards is None else read_unique(guards),
        held=state is State.RUNNING and bool(found.flags & HELD),
        **cause_of(cause),
        **{name: getattr(rest, name) for name in OF_REST},
        **head.told(),
        **found.told(state),
    )


class Died(TypedDict, total=False):
    """The cause of a death, as a row has it."""

    error_type: str
    fingerprint: str
    frame: str


def cause_of(text: bytes | None) -> Died:
    """Read a cause back; a job that is not dead has none."""
    if not text:
        return {}
    parts = text.decode("utf-8", "replace").split("\0")
    return {"error_type": parts[0], "fingerprint": parts[1], "frame": parts[2]} if len(parts) == 3 else {}


def as_list(reply: object) -> list[object]:
    """A list that a script gave."""
    if not isinstance(reply, list):
        raise TypeError(f"the server gave {type(reply).__name__} where a list belongs")
    return reply


def strings(replies: Sequence[object]) -> list[str]:
    """Texts that a script gave."""
    return [one.decode("utf-8", "replace") for one in replies if isinstance(one, bytes)]
