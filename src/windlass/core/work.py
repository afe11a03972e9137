"""What workers and the store tell each other: claims, leases, outcomes, beats and upkeep.

Pure. Times are integer milliseconds, as in ``model``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from msgspec import Struct

from windlass.core.model import Cause, Guard, Slot, Wait, Write

__all__ = [
    "COUNTS_KEPT",
    "PROGRESS",
    "Buried",
    "Claimed",
    "Heartbeat",
    "Keep",
    "Kind",
    "Lease",
    "LeaseRef",
    "Note",
    "Outcome",
    "PoolInfo",
    "QueueBound",
    "QueueShare",
    "QueueWork",
    "RateBound",
    "Room",
    "Rules",
    "Settled",
    "Upkeep",
    "Want",
    "Watch",
    "WorkerInfo",
]


class QueueShare(Struct, frozen=True):
    """A queue to claim from and how many jobs at most on the first pass over the queues."""

    name: str
    limit: int


class RateBound(Struct, frozen=True):
    """At most ``count`` in any ``per_ms``."""

    count: int
    per_ms: int


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
    held and not as running until a Note says otherwise. ``notes`` are what its runs have noted, key and text, by key.
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
    notes: tuple[tuple[str, str], ...] = ()


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
    AWAIT = "await"  # no attempt used; blocked until what it waits for has ended


class Outcome(Struct, frozen=True):
    """What one attempt decided. Applied by ``settle`` if the fence still holds, else without any effect.

    ``notes`` are written with it, key and text (None removes); they leave the crash charges as they are.
    """

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
    then: tuple[Write, ...] = ()  # each stored by the same write: its jobs, joins and seals, and nothing else
    slot: Slot | None = None  # where the job will wait again: the kind it really is, if the record says another
    notes: tuple[tuple[str, str | None], ...] = ()
    waits: Wait | None = None  # with AWAIT; without one that is a RELEASE


class Settled(StrEnum):
    """Whether an outcome took effect. STALE: the fence is not the job's any more, and nothing was changed."""

    APPLIED = "applied"
    STALE = "stale"


PROGRESS: Final = "progress"  # the key of the note that people see: JSON text of done, total and message


class Note(Struct, frozen=True):
    """A named text of a running job, written under its fence; None removes it. It goes with the job's record.

    Whatever a note says, it also says that the run has started, so that the job is no longer held. One without a key
    says nothing else. A ``durable`` one is on disk when the call returns, as far as the store's setting goes, and
    proves that the job gets on: its crash charges are 0 from then on.
    """

    id: str
    fence: int
    key: str = ""
    value: str | None = None
    durable: bool = False


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


class Keep(Struct, frozen=True):
    """How many minutes before the present one the counts of a kind of series stay apart, and what becomes of others.

    ``into`` names the series that goes on with their sum; the kind itself means that each series goes on with its own;
    None: they are forgotten.
    """

    kind: str
    minutes: int
    into: str | None = None


# What the engine counts by itself. Whatever has arrived is in the total of all that was ever enqueued.
COUNTS_KEPT: Final = (Keep("total", 2, "total"), Keep("arrived", 2, "total:enqueued"), Keep("claimed", 2))


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
    counts: tuple[Keep, ...] = COUNTS_KEPT  # of a kind that is not named here every minute stays


class Buried(Struct, frozen=True):
    """What became of the jobs of a process that departed, or whose death was witnessed."""

    released: tuple[str, ...] = ()  # back to their place, no crash charged
    charged: tuple[str, ...] = ()  # started: a crash charge, will run again
    dead: tuple[str, ...] = ()  # out of crash charges, or interrupted once too often


class Upkeep(Struct, frozen=True):
    """What one bounded maintenance step did. ``more`` asks for another step at once."""

    promoted: int = 0
    expired_workers: tuple[str, ...] = ()
    released: tuple[str, ...] = ()  # jobs whose lease ran out, back in their place
    died: tuple[str, ...] = ()  # jobs that ended dead because a lease ran out once too often
    pruned: int = 0
    trimmed: tuple[str, ...] = ()  # dead jobs removed by age or count, oldest first
    overdue: tuple[LeaseRef, ...] = ()  # dead jobs that would have been, but for ``Rules.dead_held``
    watched: tuple[str, ...] = ()  # joins that have not ended, by ``NewJoin.watch_ms``; each is told to one caller
    alone_in_ms: int | None = None  # when the next job that must run alone is due; 0: now
    due_in_ms: int | None = None
    more: bool = False
    rollbacks: tuple[str, ...] = ()  # where this engine object saw that the store had lost writes, since the last step
