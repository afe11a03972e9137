"""What people ask the store and change in it by hand: listings and their filters, actions, and what holds for a queue.

Pure. Times are integer milliseconds, as in ``model``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TypeAlias, TypedDict

from msgspec import UNSET, Struct, UnsetType

from windlass.core.join import Tally
from windlass.core.model import Count, Guard, Slot, State, UniqueKey
from windlass.core.work import PROGRESS, LeaseRef, RateBound, WorkerInfo

__all__ = [
    "Action",
    "BlockedRow",
    "GroupRow",
    "JobFilter",
    "JobRow",
    "JoinRow",
    "Member",
    "Metrics",
    "Moved",
    "Pause",
    "QueueChange",
    "QueueRow",
    "Recovery",
    "Waiting",
    "Which",
    "WorkerRow",
    "all_notes",
    "fields_of",
]


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


class JobRow(Struct, frozen=True):
    """Everything the store knows of one job. ``notes`` are what its runs have noted but for ``progress``, by key."""

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
    notes: tuple[tuple[str, str], ...] = ()
    slot: Slot | None = None
    shift_ms: int = 0  # of one that ages: how far its priority moves its place


class NoteFields(TypedDict):
    """The fields of a JobRow that its notes are."""

    progress: bytes | None
    notes: tuple[tuple[str, str], ...]


def fields_of(notes: Sequence[tuple[str, str]]) -> NoteFields:
    """The fields of a row for the notes of its job."""
    progress = next((text.encode() for key, text in notes if key == PROGRESS), None)
    return {"progress": progress, "notes": tuple(one for one in notes if one[0] != PROGRESS)}


def all_notes(row: JobRow) -> list[tuple[str, str]]:
    """The notes of a row, its progress among them."""
    progress = [] if row.progress is None else [(PROGRESS, row.progress.decode("utf-8", "replace"))]
    return [*row.notes, *progress]


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


class JoinRow(Struct, frozen=True):
    """Everything the store knows of one join. ``ended_at``: when the last member ended; None: some have not."""

    id: str
    tally: Tally
    made_at: int
    moved_at: int  # when a member last came or ended, or its end was taken back, or no more could come
    ended_at: int | None
    keep_ms: int
    home: str | None
    meta: bytes | None


class Member(Struct, frozen=True):
    """One member of a join, and how it has ended: ``done``, ``dead`` or ``cancelled``; None: it has not."""

    id: str
    end: State | None


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


class Metrics(Struct, frozen=True):
    """What was counted, by time and series. ``now`` is the engine's time, ``Count.at`` when a minute begins."""

    now: int
    counts: list[Count]


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
    SKIP = "skip"  # a waiting job ends cancelled, reason SKIPPED_BY_HAND
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
