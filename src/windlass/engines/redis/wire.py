"""How jobs look in Redis, as bytes: what is packed here, and what the scripts pack and ``reading`` reads.

The fields of a job are those of ``Rest``, ``Head`` and ``Record``, each of which is packed and read in one place; a new
one that no script looks at is a line of ``Rest``. Beside them stand the texts that have hashes of their own.

A body is written once: three numbers (stored at, due at, length of the head; ``PREFIX``), the head that the scripts
read (queue, priority, max attempts, expiry, who chose the id), the rest that they never look into (name, tags, meta,
payload), and ``SUFFIX`` bytes of place and sequence. A record is what changes. A job that nothing has touched yet has
no record: its body says all of it. Numbers stay below 2**53, since Lua has only doubles.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import UNSET, Struct

from windlass.core.errors import ConfigError
from windlass.core.model import (
    Cause,
    Count,
    Guard,
    GuardKind,
    JobError,
    NewJob,
    NewJoin,
    OnConflict,
    Slot,
    State,
    UniqueKey,
    Until,
    Wait,
)
from windlass.core.rows import JobRow, QueueChange, all_notes
from windlass.core.work import Outcome, QueueBound, Room, Rules
from windlass.engines.base import no_text
from windlass.engines.redis.connection import Command

__all__ = [
    "CANCEL_ASKED",
    "FENCE",
    "FOREVER",
    "HELD",
    "NULL_RESULT",
    "OF_REST",
    "PREFIX",
    "RECORD",
    "STATES",
    "SUFFIX",
    "Head",
    "JobTexts",
    "OutcomeTexts",
    "Record",
    "Rest",
    "Runs",
    "StoredGuard",
    "StoredGuards",
    "StoredJoin",
    "StoredKey",
    "as_int",
    "cause_text",
    "change_texts",
    "dead_texts",
    "encode_info",
    "error_head",
    "guards_text",
    "is_bare",
    "keep_dead",
    "none_below_zero",
    "pack",
    "pack_bounds",
    "pack_guards",
    "pack_joins",
    "pack_rooms",
]

FOREVER: Final = 9_000_000_000_000_000 - 4_000_000_000_000  # ms to keep what has no end; now + this stays under 2**53
LANE: Final = 2**51  # apart are the priorities of the kinds of slots, as scripts/lib/base.lua has them
LANES: Final = (None, Slot.THREAD, Slot.LOOP)
LANE_OF: Final = {slot: lane for lane, slot in enumerate(LANES)}
TIME_MAX: Final = 260_000_000_000_000  # the year 10,000 and a bit; with the bias of a place it still fits six bytes
NUMBER_MAX: Final = 2**53
PRIORITY_MAX: Final = LANE // 2
HEADS_MAX: Final = 1_000  # that are remembered; most jobs of a program share a few
PREFIX: Final = 14
SUFFIX: Final = 12

pack = msgspec.msgpack.Encoder().encode

# What changes of a job, as ``scripts/lib/records.lua`` packs it: these numbers, then head, worker and fence.
RECORD: Final = struct.Struct(">BBIIIIQQQQ6s6sQQH")
FENCE: Final = struct.Struct(">q")
CANCEL_ASKED, NULL_RESULT, HELD = 1, 2, 4  # bits of the second field


class Record(NamedTuple):
    """The numbers of RECORD, in their order."""

    state: int = 0
    flags: int = 0
    attempt: int = 0
    crashes: int = 0
    interruptions: int = 0
    snoozes: int = 0
    started_at: int = 0
    finished_at: int = 0
    purge_at: int = 0
    run_at: int = 0
    place: bytes = b""
    seq: bytes = b""
    expires_at: int = 0
    retrying: int = 0
    head_size: int = 0

    def told(self, state: State) -> dict[str, Any]:
        """What a row says of it."""
        same = {name: getattr(self, name) for name in OF_RECORD}
        times = {name: getattr(self, name) or None for name in TIMES}
        return same | times | {"attempt": self.attempt + (state is State.RUNNING)}


OF_RECORD: Final = ("attempt", "crashes", "interruptions", "snoozes", "run_at")  # as a row has them
TIMES: Final = ("started_at", "finished_at", "expires_at")  # 0: none


class Head(Struct, array_like=True, frozen=True):
    """What the scripts read of a body. ``level`` is the priority, LANE more for each number of its lane.

    Of a job that does not age ``shift`` is left out: the scripts tell by it.
    """

    queue: str
    level: int
    max_attempts: int
    expires_ms: int
    caller_id: int
    shift: int = 0

    @classmethod
    def of(cls, job: NewJob | JobRow, shift: int) -> Head:
        """That of a job, whose place is put off by so many ms."""
        expires = -1 if job.expires_ms is None else job.expires_ms
        level = job.priority + LANE_OF[job.slot] * LANE
        return cls(job.queue, level, job.max_attempts, expires, int(job.caller_id), shift)

    def packed(self) -> bytes:
        """What stands in a body: its length in front."""
        values = msgspec.structs.astuple(self)
        text = pack(values if self.shift else values[:-1])
        return struct.pack(">H", len(text)) + text

    @property
    def lane(self) -> int:
        return (self.level + PRIORITY_MAX) // LANE

    @property
    def priority(self) -> int:
        return self.level - self.lane * LANE

    @property
    def slot(self) -> Slot | None:
        return LANES[self.lane]

    def told(self) -> dict[str, Any]:
        """What a row says of it."""
        return {
            "queue": self.queue,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "expires_ms": none_below_zero(self.expires_ms),
            "caller_id": bool(self.caller_id),
            "slot": self.slot,
            "shift_ms": self.shift,
        }


class Rest(Struct, array_like=True, frozen=True):
    """What only workers and people read of a body: of a NewJob and of a JobRow the fields of the same names."""

    name: str
    tags: tuple[str, ...]
    meta: bytes | None
    payload: bytes


OF_REST: Final = Rest.__struct_fields__
rest_values = attrgetter(*OF_REST)


class StoredGuard(Struct, array_like=True, frozen=True):
    """One guard of a job."""

    kind: GuardKind
    gate: str
    limit: int
    per_ms: int
    burst: int
    keep_ms: int


class StoredKey(Struct, array_like=True, frozen=True):
    """A unique key as the scripts have it; an empty array for none."""

    key: str | None = None
    until: Until = "done"
    ttl_ms: int = -1
    rule: OnConflict = "return"


class StoredGuards(Struct, array_like=True, frozen=True):
    """All guards of a job. What else stands there, its ties to joins, only the scripts read."""

    guards: tuple[StoredGuard, ...]
    once: str
    unique: StoredKey


class StoredJoin(Struct, array_like=True, frozen=True):
    """A join, as ``scripts/lib/joining.lua`` packs it. Its numbers are whole, and may be written as Lua's."""

    sealed: float
    total: float
    ok: float
    bad: float
    void: float
    made_at: float
    moved_at: float
    ended_at: float
    keep_ms: float
    home: str
    meta: str
    watch_ms: float = 0


ERROR_TEXTS: Final = ("host", "worker", "version")
encode_error = msgspec.json.Encoder().encode
decode_error = msgspec.json.Decoder(JobError).decode

STATES: Final = (State.READY, State.RUNNING, State.DONE, State.DEAD, State.CANCELLED)


encode_info = msgspec.json.Encoder().encode


class JobTexts:
    """Turns new jobs into what ``scripts/lib/inserting.lua`` takes; queues are numbered in ``names``."""

    def __init__(self, names: Sequence[str]) -> None:
        self._numbers = {name: number for number, name in enumerate(names, 1)}
        self._heads: dict[tuple[object, ...], tuple[bytes, str]] = {}

    def texts(self, job: NewJob) -> tuple[bytes, str]:
        """The body without its times and place, and the spec."""
        key = (
            job.queue,
            job.priority,
            job.run_at,
            job.delay_ms,
            job.at_front,
            job.max_attempts,
            job.expires_ms,
            job.caller_id,
            job.aging_ms,
            job.slot,
            job.waits is None,
        )
        try:
            head, spec = self._heads[key]
        except KeyError:
            if len(self._heads) >= HEADS_MAX:
                self._heads.clear()
            head, spec = self._heads[key] = self._head(job)
        meta = job.meta
        # In the order of Rest, and written out: this is done for every job.
        rest = pack((job.name, job.tags, None if meta is None else meta.encode(), job.payload.encode()))
        return head + rest, spec

    def _head(self, job: NewJob) -> tuple[bytes, str]:
        expires = -1 if job.expires_ms is None else job.expires_ms
        # What waits for a join is due, and expires, by when it goes on: its ties say how much later.
        later = 0 if job.waits is not None else job.delay_ms
        due = f"+{later}" if job.run_at is None else f"={job.run_at}"
        wrong = [
            f"{name} {value}"
            for name, value, most in (
                ("priority", job.priority, PRIORITY_MAX),
                ("max_attempts", job.max_attempts, NUMBER_MAX),
                ("run_at", job.run_at or 0, TIME_MAX),
                ("delay_ms", job.delay_ms, TIME_MAX // 2),
                ("expires_ms", expires, TIME_MAX),
            )
            if not -most < value < most
        ]
        if wrong:
            raise ConfigError(f"job {job.id}: {', '.join(wrong)} is beyond what Redis can count: choose a smaller one")
        shift = max(-TIME_MAX, min(TIME_MAX, job.priority * job.aging_ms))
        lane = LANE_OF[job.slot] * LANE
        level = lane if shift else lane + job.priority
        number = self._numbers[job.queue]
        expires = expires if job.waits is None else -1
        spec = f"{number}|{level}|{due}|{int(job.at_front)}|{expires}|{int(job.caller_id)}|{shift}"
        return Head.of(job, shift).packed(), spec


def pack_counts(counts: Sequence[Count]) -> bytes:
    """What ``scripts/lib/base.lua`` reads of what a caller has counted. Raises ConfigError for what is no text."""
    if not counts:
        return b""
    try:
        return pack([part for one in counts for part in (one.series, one.n, -1 if one.at is None else one.at)])
    except UnicodeEncodeError as error:
        raise no_text(error) from error


def pack_bounds(bounds: Sequence[QueueBound]) -> bytes:
    """What ``scripts/lib/bounding.lua`` reads of the bounds of queues."""
    values: list[str | int] = []
    for one in bounds:
        count, per_ms = (0, 0) if one.rate is None else (one.rate.count, one.rate.per_ms)
        values += one.name, -1 if one.limit is None else one.limit, count, per_ms
    return pack(values)


def change_texts(change: QueueChange) -> list[str | int]:
    """What ``scripts/set_queue.lua`` takes."""
    given = ""
    pause, limit, count, per_ms = "", -1, 0, 0
    if change.pause is not UNSET:
        given += "p"
        if change.pause is not None:
            until, who = change.pause.until, (change.pause.who or "").replace("|", "/")
            pause = f"{0 if until is None else max(1, until)}|{who}|{change.pause.reason or ''}"
    if change.limit is not UNSET:
        given += "l"
        limit = -1 if change.limit is None else change.limit
    if change.rate is not UNSET:
        given += "r"
        count, per_ms = (0, 0) if change.rate is None else (change.rate.count, change.rate.per_ms)
    return [given, pause, limit, count, per_ms]


def pack_rooms(rooms: Sequence[Room]) -> bytes:
    """What ``scripts/lib/claiming.lua`` reads of what a worker has room for."""
    return pack([value for one in rooms for value in (LANE_OF[one.slot], max(0, one.free), max(0, one.ahead))])


def is_bare(job: NewJob) -> bool:
    """Whether a job has nothing of what ``pack_guards`` packs."""
    return not (job.guards or job.unique is not None or job.joins or job.waits is not None)


def guards_text(job: NewJob, rules: Rules) -> bytes:
    """What scripts read of a new job's guards, and of its ties to joins."""
    ties: tuple[object, ...] = ()
    if job.joins or job.waits is not None:
        delay = job.delay_ms if job.run_at is None else 0
        ties = ((job.joins, () if job.waits is None else wait_of(job.waits, rules, delay)),)
    return pack_guards(job.guards, job.unique, ties)


def wait_of(wait: Wait, rules: Rules, delay_ms: int = 0) -> tuple[object, ...]:
    """What ``scripts/lib/joining.lua`` reads of a wait."""
    return wait.join, wait.of, wait.count, delay_ms, rules.keep_done_ms


def pack_joins(joins: Sequence[NewJoin]) -> bytes:
    """What ``scripts/lib/joining.lua`` reads of new joins."""
    return pack(
        [
            part
            for one in joins
            for part in (
                one.id,
                int(one.sealed),
                one.keep_ms,
                one.home or "",
                one.meta or "",
                one.watch_ms,
                one.members,
            )
        ]
    )


def pack_guards(guards: tuple[Guard, ...], unique: UniqueKey | None, ties: tuple[object, ...] = ()) -> bytes:
    """What ``scripts/lib/guards.lua`` reads of a job's guards; empty when it has none."""
    if not guards and unique is None and not ties:
        return b""
    once = next((guard.key for guard in guards if guard.kind is GuardKind.ONCE), "")
    held = (
        ()
        if unique is None
        else (unique.key, unique.until, -1 if unique.ttl_ms is None else unique.ttl_ms, unique.rule)
    )
    packed = [
        (one.kind, one.gate, one.limit, one.per_ms, -1 if one.burst is None else one.burst, one.keep_ms)
        for one in guards
    ]
    return pack((packed, once, held, *ties))


def pack_notes(notes: Sequence[tuple[str, str | None]]) -> bytes:
    """What ``scripts/lib/settling.lua`` reads of notes: key, text (false for none), ..."""
    return pack([part for key, text in notes for part in (key, False if text is None else text)])


class Runs:
    """Specs as scripts take them: each with how many in a row have it, since most of a batch are alike."""

    def __init__(self) -> None:
        self._flat: list[str | int] = []
        self._last = ""

    def add(self, spec: str) -> None:
        """Add the spec of the next one."""
        if spec == self._last:
            self._flat[-1] += 1  # type: ignore[operator]
        else:
            self._flat += spec, 1
            self._last = spec

    def packed(self) -> bytes:
        """What ``enqueue.lua`` and ``lib/settling.lua`` take."""
        return pack(self._flat)


class OutcomeTexts:
    """Turns outcomes into what ``scripts/lib/settling.lua`` takes."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._specs: dict[tuple[object, ...], str] = {}

    def texts(self, one: Outcome) -> tuple[list[str | bytes], str]:
        """What is an outcome's own, and the spec, which most outcomes of a batch share."""
        texts: list[str | bytes] = [one.id, FENCE.pack(one.fence)]
        flags = 1 if one.interrupted else 0
        if one.result == "null" and one.kind == "done":
            flags |= 32
        elif one.result is not None:
            flags |= 2
            texts.append(one.result)
        if one.error is not None:
            flags |= 4
            texts.append(one.error)
        if one.reason is not None:
            flags |= 8
            texts.append(one.reason)
        if one.cause is not None:
            flags |= 16
            texts.append(cause_text(one.cause))
        if one.notes:
            flags |= 512
            texts.append(pack_notes(one.notes))
        if one.waits is not None and one.kind == "await":
            flags |= 1024
            texts.append(pack(wait_of(one.waits, self._rules)))
        if one.slot is not None:
            flags |= 64 if one.slot is Slot.THREAD else 128
        if one.keep_ms is not None and one.keep_ms > self._rules.keep_done_ms:
            flags |= 256
        key = (one.kind, flags, one.keep_ms, one.delay_ms)
        spec = self._specs.get(key)
        if spec is None:
            keep = one.keep_ms
            if keep is None:
                keep = keep_dead(self._rules) if one.kind == "dead" else self._rules.keep_done_ms
            kind = "release" if one.kind == "await" and not flags & 1024 else one.kind.value
            spec = f"{kind}|{flags}|{min(keep, FOREVER)}|{min(one.delay_ms, TIME_MAX // 2)}"
            self._specs[key] = spec
        return texts, spec


def cause_text(cause: Cause) -> str:
    """A cause as ``scripts/lib/records.lua`` takes it."""
    return "\0".join((cause.error_type, cause.fingerprint, cause.frame))


def keep_dead(rules: Rules) -> int:
    """How long a dead record stays, in ms."""
    return FOREVER if rules.dead_keep_ms is None else min(rules.dead_keep_ms, FOREVER)


def error_head(error: str | JobError) -> bytes:
    """A JobError as JSON up to its time: the scripts put time and attempt behind it."""
    one = decode_error(error) if isinstance(error, str) else error
    fields = {name: value for name in ERROR_TEXTS if (value := getattr(one, name))} | {"traceback": one.traceback}
    return encode_error({"type": one.type, "message": one.message} | fields)[:-1] + b',"at":'


def dead_texts(row: JobRow) -> list[Command]:
    """What ``scripts/put_dead.lua`` takes for one job."""
    head = Head.of(row, row.shift_ms).packed()
    kept: dict[str, Any] = {name: getattr(row, name) or 0 for name in (*OF_RECORD, *TIMES)}
    kept["finished_at"] = kept["finished_at"] or 1  # 0 is that of a job that has not ended
    kept["expires_at"] = 0
    record = Record(state=STATES.index(State.DEAD), purge_at=1, head_size=len(head) - 2, **kept)
    has_cause = row.fingerprint is not None
    return [
        row.id,
        row.fence,
        row.enqueued_at.to_bytes(6, "big") + row.run_at.to_bytes(6, "big") + head,
        pack(rest_values(row)),
        RECORD.pack(*record) + head[2:] + FENCE.pack(row.fence),
        row.recoveries,
        cause_text(Cause(row.error_type or "", row.fingerprint or "", row.frame or "")) if has_cause else "",
        b"" if row.errors is None else row.errors.strip()[1:-1],
        row.reason or "",
        pack_guards(row.guards, row.unique),
        pack_notes(all_notes(row)),
    ]


def as_int(reply: object) -> int:
    """A whole number that a script gave."""
    if isinstance(reply, int):
        return reply
    if isinstance(reply, bytes):
        return int(reply)
    raise TypeError(f"the server gave {type(reply).__name__} where a number belongs")


def none_below_zero(reply: object) -> int | None:
    """A number, where -1 stands for none."""
    number = as_int(reply)
    return None if number < 0 else number
