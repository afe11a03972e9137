"""What a job is, as data: states, legal transitions, and the frozen records that cross the engine boundary.

Pure. Nothing here does I/O or knows an engine. Times are integer milliseconds: ``*_at`` on the engine's wall clock,
``*_ms`` a length. Arguments, results and errors are JSON text to an engine; only ``codec`` looks inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from msgspec import UNSET, Struct, UnsetType

__all__ = [
    "FINISHED",
    "RESULT_NOT_STORED",
    "TRANSITIONS",
    "UNKNOWN_GROUP",
    "WAITING",
    "Action",
    "Buried",
    "Cause",
    "CircuitPolicy",
    "CircuitRow",
    "Claimed",
    "Gates",
    "Grip",
    "GroupRow",
    "Guard",
    "Heartbeat",
    "JobError",
    "JobFilter",
    "JobRow",
    "Kind",
    "Lease",
    "LeaseRef",
    "LimitRow",
    "LockRow",
    "Moved",
    "NewJob",
    "OnConflict",
    "Outcome",
    "Pause",
    "Placed",
    "PoolInfo",
    "Progress",
    "QueueBound",
    "QueueChange",
    "QueueFlow",
    "QueueRow",
    "QueueShare",
    "QueueWork",
    "RateBound",
    "Recovery",
    "Room",
    "Rules",
    "Settled",
    "Slot",
    "State",
    "Swap",
    "Tally",
    "UniqueKey",
    "Until",
    "Upkeep",
    "Versioned",
    "Waiting",
    "Want",
    "Watch",
    "Which",
    "WorkerInfo",
    "WorkerRow",
    "Write",
    "Written",
    "can_move",
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
# done without running when its Once key is done already.
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.READY: frozenset({State.RUNNING, State.BLOCKED, State.DONE, State.CANCELLED}),
    State.SCHEDULED: frozenset({State.READY, State.CANCELLED}),
    State.BLOCKED: frozenset({State.READY, State.SCHEDULED, State.RUNNING, State.DONE, State.CANCELLED}),
    State.RUNNING: frozenset({State.READY, State.SCHEDULED, State.DONE, State.DEAD, State.CANCELLED}),
    State.DONE: frozenset(),
    State.DEAD: frozenset({State.READY}),
    State.CANCELLED: frozenset({State.READY}),
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


class Gates(StrEnum):
    """The kinds of guards that are judged when a job is claimed."""

    ONCE = "once"
    CIRCUIT = "circuit"
    CONCURRENCY = "concurrency"
    RATE = "rate"


class Guard(Struct, frozen=True, array_like=True):
    """One guard of a job, its key rendered. ``limit`` is the n of Concurrency and Rate; lengths are milliseconds."""

    kind: Gates
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


class Placed(Struct, frozen=True):
    """What became of one NewJob: stored, or a duplicate of the job that has its id or its unique key."""

    id: str
    duplicate: bool = False


class Swap(Struct, frozen=True):
    """A new value for a document that still has this version (0: there is none). ``value`` None removes it.

    It is over ``ttl_ms`` from when it is stored; None is never.
    """

    key: str
    version: int
    value: str | None
    ttl_ms: int | None = None


class Versioned(Struct, frozen=True):
    """A document at one moment. ``version`` 0 and ``value`` None: there is none."""

    key: str
    version: int
    value: str | None


class Write(Struct, frozen=True):
    """What is stored in one step, all or nothing: jobs, and documents by compare-and-set."""

    jobs: tuple[NewJob, ...] = ()
    swaps: tuple[Swap, ...] = ()


class Written(Struct, frozen=True):
    """What became of a Write: of its jobs, and of the documents of its swaps, in the order of each.

    ``lost``: a swap met another version, so nothing is stored. Then ``placed`` is empty, and ``documents`` are as they
    stand.
    """

    placed: list[Placed]
    documents: tuple[Versioned, ...] = ()
    lost: bool = False


class QueueShare(Struct, frozen=True):
    """A queue to claim from and how many jobs at most on the first pass over the queues."""

    name: str
    limit: int


class RateBound(Struct, frozen=True):
    """At most ``count`` in any ``per_ms``."""

    count: int
    per_ms: int


class Pause(Struct, frozen=True):
    """Why no job of a queue is claimed, until when (wall-clock ms; None: until it is lifted), and who asked for it."""

    reason: str | None = None
    until: int | None = None
    who: str | None = None


class QueueChange(Struct, frozen=True):
    """What holds for a queue from now on. None lifts a pause or a bound; what is not given stays as it is."""

    pause: Pause | UnsetType | None = UNSET
    limit: int | UnsetType | None = UNSET
    rate: RateBound | UnsetType | None = UNSET


class QueueBound(Struct, frozen=True):
    """What a queue is held to: how many of its jobs may run at once, how many may be claimed in a window; None: any."""

    name: str
    limit: int | None = None
    rate: RateBound | None = None


class Room(Struct, frozen=True):
    """What a worker can take of one kind of job: so many that could start at once, and so many more to hold ahead."""

    slot: Slot
    free: int
    ahead: int = 0


class Want(Struct, frozen=True):
    """What a worker can take. ``queues`` None means every queue of the store with equal shares.

    With ``queues``, a first pass takes each queue's share (0: none) in the order given, a second one fills what is left
    in the same order. ``alone`` asks for one job that killed its process before, to be run with no neighbours. ``room``
    is how many could start at once (None: all); a job whose Rate is nearly spent, and a circuit's probe, is given only
    to such a place, so that it is not counted now and run later. ``late_ms`` is how late it may start even so: the
    window of a Rate grows by it, so that what holds for claims holds for starts. ``bounds`` hold where the store has
    none of its own.

    With ``rooms``, ``room`` does not count: no more jobs of each kind of slot are given than its Room says, none of a
    kind that has no Room, and jobs of an unknown kind only where some kind has a free slot.
    """

    worker: str
    limit: int
    queues: tuple[QueueShare, ...] | None = None
    alone: bool = False
    room: int | None = None
    late_ms: int = 0
    bounds: tuple[QueueBound, ...] = ()
    rooms: tuple[Room, ...] = ()


class Watch(Struct, frozen=True):
    """A queue (None: every one) and the kinds of slots for whose jobs a worker wants to be woken; none: every kind."""

    queue: str | None = None
    slots: tuple[Slot, ...] = ()


class LeaseRef(Struct, frozen=True):
    """The proof of ownership that every write of a worker carries."""

    id: str
    fence: int


class Lease(Struct, frozen=True):
    """One claimed job. ``attempt`` is the number of this run, from 1; ``fence`` never repeats and never falls.

    ``slot`` is the kind that the record says. ``held``: claimed beyond the free slots, so the store counts the job as
    held and not as running until it is reported.
    """

    id: str
    name: str
    queue: str
    payload: bytes
    fence: int
    attempt: int
    max_attempts: int
    priority: int
    enqueued_at: int
    run_at: int
    crashes: int = 0
    interruptions: int = 0
    snoozes: int = 0
    tags: tuple[str, ...] = ()
    meta: bytes | None = None
    reason: str | None = None  # what the last outcome said
    retrying_ms: int = 0  # since the first failed run of this budget began, by the engine's clock; 0: none failed
    guards: tuple[Guard, ...] = ()
    slot: Slot | None = None
    held: bool = False


class Claimed(Struct, frozen=True):
    """The answer to a claim.

    ``leases`` in the order they should start. ``cancels`` are running jobs of this worker whose cancel was asked for.
    ``due_in_ms`` says when the next scheduled job is due or the next gate opens by itself. ``ended`` are jobs that
    this claim ended instead: expired, or duplicates of a Once key. ``expelled`` means the store does not know this
    worker as alive: it was declared dead, holds nothing, and must not go on under this id.
    """

    leases: list[Lease]
    cancels: tuple[LeaseRef, ...] = ()
    due_in_ms: int | None = None
    expelled: bool = False
    ended: tuple[str, ...] = ()


class Kind(StrEnum):
    """How an attempt ended. The closed set that every engine settles."""

    DONE = "done"
    RETRY = "retry"  # an attempt used; scheduled again after delay_ms
    DEAD = "dead"
    CANCELLED = "cancelled"
    SNOOZE = "snooze"  # no attempt used; scheduled again after delay_ms
    RELEASE = "release"  # no attempt used; back to its place
    CRASH = "crash"  # its process died; no attempt used, a crash charge instead


class Outcome(Struct, frozen=True):
    """What one attempt decided. Applied by ``settle`` if the fence still holds, else without any effect."""

    id: str
    fence: int
    kind: Kind
    result: str | None = None
    error: str | None = None  # a JobError as JSON, appended to the history
    reason: str | None = None
    delay_ms: int = 0
    keep_ms: int | None = None  # how long the finished record stays; None: the engine's setting for the state
    interrupted: bool = False  # with RELEASE: it had started, so the interruption is counted
    cause: Cause | None = None  # with DEAD
    then: tuple[NewJob, ...] = ()  # stored by the same write
    slot: Slot | None = None  # where the job will wait again: the kind it really is, if the record says another


class Settled(StrEnum):
    """Whether an outcome took effect. STALE: the fence is not the job's any more, and nothing was changed."""

    APPLIED = "applied"
    STALE = "stale"


class Progress(Struct, frozen=True):
    """A fenced report of a run: it has started, and is no longer held. ``progress`` is JSON text of done, total and
    message; None leaves what there is.
    """

    id: str
    fence: int
    progress: str | None = None


class PoolInfo(Struct, frozen=True):
    """Slots of a worker that serve a set of queues. ``serves`` are names and patterns (``report-*``; ``*``: every)."""

    name: str
    queues: str  # as the operator wrote them
    serves: tuple[str, ...]
    threads: int
    async_slots: int
    without: tuple[str, ...] = ()  # queues that the worker's settings pause


class QueueWork(Struct, frozen=True):
    """How much one worker has done for one queue since it started."""

    queue: str
    ended: int  # runs
    busy_ms: int  # of its slots


class WorkerInfo(Struct, frozen=True):
    """What one process incarnation says of itself at every beat. ``id`` is fresh at every start."""

    id: str
    group: str  # the supervisor it belongs to
    host: str
    pid: int
    queues: str  # as the operator wrote them; "*" for all
    slots: int
    version: str
    started_at: int
    pools: tuple[PoolInfo, ...] = ()
    work: tuple[QueueWork, ...] = ()
    trouble: str = ""  # what keeps it from doing its work, in words; empty: nothing
    supervisor_pid: int | None = None  # the process to signal; None: there is none, or the record is of an old version


class Heartbeat(Struct, frozen=True):
    """The answer to a beat: leases that are lost, cancels asked for, control words (``quiet``, ``stop``).

    ``strays`` are leases that the store has for this worker and that the worker did not list: claimed a moment ago,
    or claimed by a call whose answer never arrived.
    """

    lost: tuple[LeaseRef, ...] = ()
    strays: tuple[LeaseRef, ...] = ()
    cancels: tuple[LeaseRef, ...] = ()
    control: tuple[str, ...] = ()


class Rules(Struct, frozen=True):
    """Policy handed down to the engine as data, for what it decides without a worker."""

    max_crashes: int = 3
    max_interruptions: int = 10
    crash_delay_ms: int = 1_000  # doubles with every further crash,
    crash_delay_max_ms: int = 3_600_000  # up to this
    keep_done_ms: int = 600_000
    keep_done_max: int | None = 10_000  # per queue
    dead_keep_ms: int | None = 90 * 86_400_000
    dead_max: int | None = None
    dead_held: bool = False  # dead jobs past their keep are not removed but handed up, to be archived first
    id_keep_ms: int = 86_400_000


class Buried(Struct, frozen=True):
    """What became of the jobs of a process that departed, or whose death was witnessed."""

    released: tuple[str, ...] = ()  # back to their place, no crash charged
    charged: tuple[str, ...] = ()  # started: a crash charge, will run again
    dead: tuple[str, ...] = ()  # out of crash charges, or interrupted once too often


class Upkeep(Struct, frozen=True):
    """What one bounded maintenance step did. ``more`` asks for another step at once."""

    promoted: int = 0
    expired_workers: tuple[str, ...] = ()
    recovered: tuple[str, ...] = ()  # jobs whose lease ran out, back in their place
    died: tuple[str, ...] = ()  # jobs that ended dead because a lease ran out once too often
    pruned: int = 0
    trimmed: tuple[str, ...] = ()  # dead jobs removed by age or count, oldest first
    overdue: tuple[LeaseRef, ...] = ()  # dead jobs that would have been, but for ``Rules.dead_held``
    alone_in_ms: int | None = None  # when the next job that must run alone is due; 0: now
    due_in_ms: int | None = None
    more: bool = False
    rollbacks: tuple[str, ...] = ()  # where this engine object saw that the store had lost writes, since the last step


class JobRow(Struct, frozen=True):
    """Everything the store knows of one job."""

    id: str
    name: str
    queue: str
    state: State
    payload: bytes
    priority: int
    attempt: int  # runs that count, the present one included
    max_attempts: int
    fence: int
    enqueued_at: int
    run_at: int
    started_at: int | None
    finished_at: int | None
    expires_at: int | None
    worker: str | None
    result: bytes | None
    errors: bytes | None  # JSON list of JobError
    reason: str | None
    progress: bytes | None
    tags: tuple[str, ...]
    meta: bytes | None
    crashes: int
    interruptions: int
    snoozes: int
    cancel_requested: bool
    error_type: str | None = None  # of a dead job, as ``Cause`` has them
    fingerprint: str | None = None
    frame: str | None = None
    recoveries: int = 0  # how often a rule redrove it since a person last did
    expires_ms: int | None = None
    caller_id: bool = False
    blocked_by: str | None = None  # the gate that a blocked job waits at, such as "circuit:stripe"
    guards: tuple[Guard, ...] = ()
    unique: UniqueKey | None = None
    held: bool = False  # running, but its worker has not said that it has started


class JobFilter(Struct, frozen=True):
    """Which jobs to list. Empty means all.

    ``before`` and ``after`` bound ``enqueued_at``, ``ended_before`` and ``ended_after`` bound ``finished_at``; all are
    half-open. ``group`` is the fingerprint of dead jobs; ``error`` the name of their exception, whole or its last part.
    """

    state: State | None = None
    name: str | None = None
    queue: str | None = None
    tag: str | None = None
    before: int | None = None
    after: int | None = None
    ended_before: int | None = None
    ended_after: int | None = None
    group: str | None = None
    error: str | None = None
    ids: tuple[str, ...] | None = None


class GroupRow(Struct, frozen=True):
    """The dead jobs that share a fingerprint, as they stand. ``sample`` is the id of the one that died last."""

    fingerprint: str
    error_type: str | None
    frame: str | None
    names: tuple[str, ...]  # of their jobs, sorted
    count: int
    first_seen: int
    last_seen: int
    sample: str


class Recovery(Struct, frozen=True):
    """Up to ``limit`` dead jobs, the longest dead first: of these exceptions (whole names), dead for ``after_ms``.

    One that a rule redrove ``attempts`` times since a person last did is none of them.
    """

    errors: tuple[str, ...]
    after_ms: int
    attempts: int
    limit: int


class Waiting(Struct, frozen=True):
    """Up to ``limit`` jobs of a queue that wait: ready, scheduled and blocked ones, in no order."""

    queue: str
    limit: int


Which: TypeAlias = Sequence[str | LeaseRef] | Recovery | Waiting
"""Which jobs to move: named by id, or by a death (a dead job, and the fence of its last run); or those that fit."""


class BlockedRow(Struct, frozen=True):
    """How many jobs of a queue are blocked at a gate, such as ``circuit:stripe``, and how long one has been due."""

    queue: str
    gate: str
    jobs: int
    due_ms: int


class QueueRow(Struct, frozen=True):
    """One queue as it stands. ``latency_ms`` is how long the job at its head has been due.

    ``running`` have started; ``held`` are claimed by a worker and about to start. ``limit`` counts both. It and
    ``rate`` are what holds: the store's own, or those that were asked with; ``started`` is how many were claimed in the
    window of ``rate``.
    """

    name: str
    ready: int
    scheduled: int
    running: int
    latency_ms: int
    paused: bool
    paused_reason: str | None = None
    paused_until: int | None = None
    paused_by: str | None = None
    limit: int | None = None
    rate: RateBound | None = None
    started: int = 0
    held: int = 0


class QueueFlow(Struct, frozen=True):
    """How many jobs came into a queue and how many were claimed from it in the last ``span_ms``."""

    name: str
    arrived: int
    claimed: int
    span_ms: int


class WorkerRow(Struct, frozen=True):
    """One worker as the store sees it."""

    info: WorkerInfo
    running: int
    beat_at: int
    lease_left_ms: int  # negative: it ran out and nobody has reaped it yet
    control: tuple[str, ...] = ()  # what it was asked to do


class Action(StrEnum):
    """What may be done to stored jobs by hand, or by a rule: the closed set of ``Inspector.transition``."""

    CANCEL = "cancel"
    RETRY = "retry"  # run now, with a fresh budget
    DELETE = "delete"  # the record; the id is free
    DISCARD = "discard"  # the record; an id that a user chose leaves a tombstone if the job has ended
    TRIM = "trim"  # as DISCARD, and counted in total_trimmed


class Moved(Struct, frozen=True, omit_defaults=True):
    """What an action did to one job. ``before`` None: no such job. ``applied`` False: its state does not allow it, or
    what ``reason`` says does not.
    """

    id: str
    before: State | None
    applied: bool
    reason: str | None = None


# -- what is coordinated beside jobs -----------------------------------------------------------------


class Grip(Struct, frozen=True):
    """The answer to a try for a lock. ``fence`` is None when it was not got; then ``left_ms`` is what the holder's
    lease has left (0: others wait in front). ``seen`` is for ``wait_unlocked``.
    """

    fence: int | None
    left_ms: int = 0
    owner: str = ""
    seen: int = 0


class LockRow(Struct, frozen=True):
    """One lock that is held, or whose lease ran out and that nobody has taken since (``left_ms`` below zero)."""

    key: str
    owner: str
    fence: int
    since: int
    left_ms: int
    waiting: int


class LimitRow(Struct, frozen=True):
    """One limit as it stands. ``used`` of ``limit`` slots or claims of the window; ``waiting`` jobs wait at it."""

    kind: Gates
    key: str
    used: int
    limit: int | None  # None: no waiting or running job says it
    per_ms: int
    waiting: int


class CircuitPolicy(Struct, frozen=True):
    """When a circuit opens and closes. At least one of ``failures`` and ``failure_rate`` is set."""

    failures: int | None = 5
    window_ms: int = 60_000
    open_for_ms: int = 300_000
    half_open: int = 1
    min_calls: int = 1
    failure_rate: float | None = None


class Tally(Struct, frozen=True):
    """Calls that ended since the last report. ``epoch`` is the circuit's when they began.

    ``probe`` is the token of a probe of a half-open circuit, which is reported by itself (neither ok nor failed: it
    proved nothing).
    """

    ok: int = 0
    failed: int = 0
    epoch: int = 0
    probe: str | None = None
    retry_after_ms: int = 0
    reason: str | None = None


class CircuitRow(Struct, frozen=True):
    """One circuit as it stands.

    ``epoch`` counts its changes. ``left_ms`` is when an open one may be probed (None: not by itself). ``changed`` is
    the state before, when the call that gave this row changed it. ``admitted``: that call may go on, as a probe when
    the state is not closed.
    """

    name: str
    state: str = "closed"
    epoch: int = 0
    since: int | None = None
    left_ms: int | None = None
    reason: str | None = None
    by_hand: bool = False
    calls: int = 0
    failures: int = 0
    successes: int = 0  # of probes in a row
    probes: int = 0  # on their way
    waiting: int = 0  # jobs
    changed: str | None = None
    admitted: bool = True
