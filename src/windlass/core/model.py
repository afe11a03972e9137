"""What a job is, as data: states, legal moves, what a caller stores and what the store answers.

Pure. Nothing here does I/O or knows an engine. Times are integer milliseconds: ``*_at`` on the engine's wall clock,
``*_ms`` a length. Arguments, results and errors are JSON text to an engine; only ``codec`` looks inside.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Literal, TypeAlias

from msgspec import Struct

__all__ = [
    "CLOCK_SLACK_MS",
    "COUNTED_BACK",
    "FINISHED",
    "MINUTE_MS",
    "PLACES",
    "RESULT_NOT_STORED",
    "TRANSITIONS",
    "UNKNOWN_GROUP",
    "WAITING",
    "Cause",
    "Count",
    "Ends",
    "Guard",
    "GuardKind",
    "JobError",
    "NewJob",
    "NewJoin",
    "OnConflict",
    "Opening",
    "Placed",
    "Slot",
    "State",
    "Swap",
    "Times",
    "UniqueKey",
    "Until",
    "Versioned",
    "Wait",
    "Write",
    "Written",
    "can_move",
    "minute_of",
]


class State(StrEnum):
    """Where a job stands. A retry waits as ``scheduled`` with ``attempt > 0``."""

    READY = "ready"
    SCHEDULED = "scheduled"
    BLOCKED = "blocked"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


WAITING: Final = frozenset({State.READY, State.SCHEDULED, State.BLOCKED})


FINISHED: Final = frozenset({State.DONE, State.DEAD, State.CANCELLED})


# The one table of legal moves. Engines may not make any other; the conformance suite walks it. A waiting job goes to
# done without running when its Once key is done already. One that was skipped waits again when the verdict on what it
# waited for is taken back.
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.READY: frozenset({State.RUNNING, State.BLOCKED, State.DONE, State.CANCELLED}),
    State.SCHEDULED: frozenset({State.READY, State.CANCELLED}),
    State.BLOCKED: frozenset({State.READY, State.SCHEDULED, State.RUNNING, State.DONE, State.CANCELLED}),
    State.RUNNING: frozenset({State.READY, State.SCHEDULED, State.BLOCKED, State.DONE, State.DEAD, State.CANCELLED}),
    State.DONE: frozenset(),
    State.DEAD: frozenset({State.READY}),
    State.CANCELLED: frozenset({State.READY, State.BLOCKED}),
}


def can_move(before: State, after: State) -> bool:
    """Whether a job may go from one state to another."""
    return after in TRANSITIONS[before]


class Slot(StrEnum):
    """The kind of slot that a job runs in. One with ``executor="process"`` holds a thread while its child runs."""

    THREAD = "thread"
    LOOP = "loop"


# How the reason of a done job begins whose result was too large or was no JSON.
RESULT_NOT_STORED: Final = "result not stored"


class JobError(Struct, frozen=True, omit_defaults=True):
    """Why one attempt failed. ``at`` is milliseconds; ``attempt`` is the number of the run, from 1.

    ``host`` and ``worker`` say where it ran, ``version`` which code; empty where that is not known.
    """

    type: str
    message: str
    traceback: str
    at: int
    attempt: int
    host: str = ""
    worker: str = ""
    version: str = ""


# The group of dead jobs whose end came without a cause.
UNKNOWN_GROUP: Final = "unknown"


class Cause(Struct, frozen=True):
    """What a death has in common with others of its kind; ``fingerprint`` makes and names the group.

    ``error_type`` is the dotted name of the exception, ``frame`` the function of the application it came from.
    """

    error_type: str
    fingerprint: str
    frame: str = ""


class GuardKind(StrEnum):
    """The kinds of guards that are judged when a job is claimed."""

    ONCE = "once"
    CIRCUIT = "circuit"
    CONCURRENCY = "concurrency"
    RATE = "rate"


# The kinds whose gate has ``limit`` places: a job has one of them while it runs.
PLACES: Final = frozenset({GuardKind.CONCURRENCY})


class Guard(Struct, frozen=True, array_like=True):
    """One guard of a job, its key rendered. ``limit`` is the n of Concurrency and Rate; lengths are milliseconds."""

    kind: GuardKind
    key: str
    limit: int = 0
    per_ms: int = 0  # the window of a Rate
    burst: int | None = None  # of a Rate: how many at once at most, and then evenly spaced
    keep_ms: int = 0  # how long a Once marker stays

    @property
    def gate(self) -> str:
        """The name of what the job waits at, such as ``circuit:stripe``."""
        return f"{self.kind}:{self.key}"


Until: TypeAlias = Literal["start", "done", "expiry"]


OnConflict: TypeAlias = Literal["return", "raise", "replace", "keep_latest"]


class UniqueKey(Struct, frozen=True, array_like=True):
    """The unique key of a job. ``until``: start, done or expiry; ``rule``: return, raise, replace or keep_latest."""

    key: str
    until: Until
    ttl_ms: int | None  # from the due time
    rule: OnConflict


Ends: TypeAlias = Literal["ok", "bad", "end"]  # done; dead; in any way


class Wait(Struct, frozen=True, array_like=True):
    """What a job waits for: that ``count`` members of a join have ended so; 0: all of them, once the join is sealed."""

    join: str
    of: Ends = "ok"
    count: int = 0

    @property
    def gate(self) -> str:
        """The name of what the job waits at."""
        return f"join:{self.join}"


class NewJoin(Struct, frozen=True):
    """A set of jobs that is counted by how they end. It is kept for ``keep_ms`` from when the last of them has ended.

    ``members`` are jobs that are stored already; others enter it when they are stored. One that is not ``sealed`` takes
    more. With a ``home`` it is kept as long as that join, whatever its own ``keep_ms``. ``meta`` is JSON of whoever
    made it.
    """

    id: str
    members: tuple[str, ...] = ()
    sealed: bool = True
    keep_ms: int = 0
    home: str | None = None
    meta: str | None = None


class NewJob(Struct, frozen=True):
    """A request to store one job. The caller makes the id, so sending it twice stores it once."""

    id: str
    name: str
    queue: str
    payload: str
    priority: int = 0
    run_at: int | None = None  # None: now + delay_ms, by the engine's clock
    delay_ms: int = 0
    at_front: bool = False
    max_attempts: int = 11
    expires_ms: int | None = None  # counts from the due time
    tags: tuple[str, ...] = ()
    meta: str | None = None  # JSON that only the worker reads: timeout, keep, redacted names, backoff
    caller_id: bool = False  # the id was chosen by the user: a tombstone keeps it idempotent for id_keep
    durable: bool | None = None  # None: the engine's setting
    aging_ms: int = 0  # waiting so long outweighs one step of priority; 0: nothing does
    guards: tuple[Guard, ...] = ()
    unique: UniqueKey | None = None
    slot: Slot | None = None  # None: not known
    joins: tuple[str, ...] = ()  # whose member it is
    waits: Wait | None = None


class Placed(Struct, frozen=True):
    """What became of one NewJob: stored, or a duplicate of the job that has its id or its unique key."""

    id: str
    duplicate: bool = False


class Swap(Struct, frozen=True):
    """A new value for a document that still has this version (0: there is none). ``value`` None removes it.

    It is over ``ttl_ms`` from when it is stored; None is never. ``durable`` False: a power cut may take it.
    """

    key: str
    version: int
    value: str | None
    ttl_ms: int | None = None
    durable: bool = True  # as the engine's setting says


class Versioned(Struct, frozen=True):
    """A document at one moment. ``version`` 0 and ``value`` None: there is none."""

    key: str
    version: int
    value: str | None


class Times(Struct, frozen=True):
    """The clocks of an engine: that of leases, and the wall clock. Milliseconds."""

    leases: int
    wall: int


CLOCK_SLACK_MS: Final = 1_000  # how far a write may be from the time that it was decided for


class Opening(Struct, frozen=True):
    """In ``in_ms`` from now the jobs that wait at a gate are judged anew. None: not by itself any more."""

    gate: str
    in_ms: int | None = 0


class Count(Struct, frozen=True):
    """So many more of something in one minute. A series is a text, ``KIND:WHAT``; ``n`` is positive.

    ``at`` is wall-clock ms; None: the engine's present time. The engine takes no time to come, and none before a day
    ago.
    """

    series: str
    n: int
    at: int | None = None


MINUTE_MS: Final = 60_000
COUNTED_BACK: Final = 1_440  # minutes


def minute_of(at: int | None, now: int) -> int:
    """The minute that a count is for: that of ``at`` as far as ``now`` believes it, both in wall-clock ms."""
    present = now // MINUTE_MS
    return present if at is None else max(present - COUNTED_BACK, min(at // MINUTE_MS, present))


class Write(Struct, frozen=True):
    """What is stored in one step, all or nothing: jobs, joins, documents by compare-and-set, gates to look at, counts.

    ``clock`` is the time of the clock of leases that it was decided for. One that is more than ``CLOCK_SLACK_MS`` off
    has lost. ``seals`` are joins that take no more members. ``enters`` are pairs of a join and a job, each of which may
    be there or not.
    """

    jobs: tuple[NewJob, ...] = ()
    swaps: tuple[Swap, ...] = ()
    opens: tuple[Opening, ...] = ()
    clock: int | None = None
    counts: tuple[Count, ...] = ()
    joins: tuple[NewJoin, ...] = ()
    seals: tuple[str, ...] = ()
    enters: tuple[tuple[str, str], ...] = ()

    @property
    def has_ties(self) -> bool:
        """Whether it makes, seals or enters joins, beside what its jobs do."""
        return bool(self.joins or self.seals or self.enters)


class Written(Struct, frozen=True):
    """What became of a Write: of its jobs, and of the documents of its swaps, in the order of each.

    ``lost``: a swap met another version, one of its joins is there already, or it was decided for another time, so
    nothing is stored. Then ``placed`` is empty, and ``documents`` are as they stand.
    """

    placed: list[Placed]
    documents: tuple[Versioned, ...] = ()
    lost: bool = False
