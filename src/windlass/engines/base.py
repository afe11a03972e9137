"""The contract of an engine: the protocols that every store fulfils and the conformance suite proves.

Engines store facts and do atomic batch transitions; policy is decided above and handed down as data. Rules:

1. Every hot call is a batch; one is a batch of one. An empty batch is free.
2. Every write after a claim carries the fence of that claim. A stale fence changes nothing and is an answer, not an
   error.
3. Per-item trouble is data in the answer. Only an outage raises: EngineUnavailable or EngineFull, and then nothing of
   the batch was stored.
4. The engine's clock decides due times and leases. Callers never send "now". Where one decides by what ``times`` has
   told it, the engine refuses what was decided for another time.
5. Engines are blocking and thread-safe, and usable after a fork (a child opens its own handles).
6. ``wait`` is a hint. Missed and spurious wake-ups are legal; the caller polls as well.

Source of the shape: docs/decisions/0001-one-exchange-per-cycle.md and 0002-sqlite-engine.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, runtime_checkable

from msgspec import Struct

from windlass.core.coordination import Grip, HoldRow, LimitRow
from windlass.core.errors import ConfigError
from windlass.core.model import Count, Times, Versioned, Write, Written
from windlass.core.rows import (
    Action,
    BlockedRow,
    GroupRow,
    JobFilter,
    JobRow,
    JoinRow,
    Member,
    Metrics,
    Moved,
    QueueChange,
    QueueRow,
    Which,
    WorkerRow,
)
from windlass.core.work import (
    Buried,
    Claimed,
    Heartbeat,
    LeaseRef,
    Note,
    Outcome,
    QueueBound,
    Rules,
    Settled,
    Upkeep,
    Want,
    Watch,
    WorkerInfo,
)

__all__ = [
    "Coordinator",
    "Engine",
    "EngineInfo",
    "Finding",
    "Inspector",
    "Store",
    "TransactionalCommit",
    "TransactionalSettle",
    "Tx",
]


class EngineInfo(Struct, frozen=True):
    """Frozen facts for logs and tuning; core never branches its semantics on them."""

    name: str  # "sqlite", "memory", "redis", ...
    target: str  # where the store is, without secrets
    version: str  # of the server or library
    durability: str  # what a returned enqueue survives: "fsync", "normal", "memory", ...
    shared: bool  # whether several processes can use it
    one_writer: bool = False  # whether an open transaction keeps all others from writing, the renewal of leases too


REPAIR: Final = "windlass doctor --repair"


class Finding(Struct, frozen=True):
    """One line of a doctor's report. ``level``: ok, warning or error; ``advice`` says what to do."""

    check: str
    level: str
    message: str
    advice: str = ""


def no_text(error: UnicodeEncodeError) -> ConfigError:
    """The error for an id, name or key that no store can hold, so that nothing of that name is there either."""
    return ConfigError(
        f"{error.object[:80]!r} is not valid text: it has a lone surrogate at position {error.start}, "
        "which is what bytes that are not UTF-8 become; correct it"
    )


class Engine(Protocol):
    """The hot path: what clients and workers call."""

    @property
    def info(self) -> EngineInfo: ...

    may_create: bool
    """Whether ``open`` makes a store that is not there. Else a file without our tables is EngineUnusable."""

    def open(self) -> None:
        """Open handles, create or migrate the schema. *Idempotent.* Raises EngineUnavailable or EngineUnusable."""
        ...

    def close(self) -> None:
        """Close handles. *Idempotent.* Calls that are under way end first."""
        ...

    def migrate(self) -> int:
        """Bring the schema up to this version under a lock; give the version. *Idempotent.*"""
        ...

    def commit(self, write: Write) -> Written:
        """Store jobs and documents, all or none, in order, and count. *Atomic; jobs are idempotent by id.*

        A swap writes its document if that still has the version it names (0: if there is none). When one has another,
        nothing of the write is stored, and ``Written.lost`` is true. Swaps go in order, so one may remove a document
        and the next make it anew. A version is never given twice, also when a key comes back. A write with a durable
        swap is as durable as the engine's setting says, whatever its jobs say.

        A write that was decided for a time (``Write.clock``) has lost as well when that is not now, or nearly.
        ``opens`` belong to the same step: jobs that wait at these gates are judged anew from then on, as many as may go
        on.

        An id that has a record is a duplicate, and so is a caller's own id that has a tombstone: nothing is changed and
        ``Placed.duplicate`` is true. A unique key that is taken is settled by the job's rule, in order within the
        batch: ``return`` and ``replace`` give the holder's id as a duplicate (``replace`` writes the new job over a
        waiting holder), ``keep_latest`` also lets one job wait behind a running holder. Raises Duplicate for the rule
        ``raise``, and then nothing of the write is stored.

        With ``enters`` a job becomes a member of a join that is there, as the job stands: what has no record counts as
        an end. For one that is a member already, its verdict is derived anew, but one whose record is gone keeps the
        end that is known of it. For a join that is not there nothing is done.

        A job enters the joins it names, in the same step; for a duplicate, the job that is there does, and counts as it
        has ended. A join that is there already makes the write lose: so a write with joins is stored once. A job with
        ``waits`` is ``blocked``; the write that ends a member decides who goes on and who is skipped (cancelled, reason
        ``skipped``), in cascade, see ``core.join``. So does whatever else ends a record: a cancel, a crash, an expiry,
        a deletion. A dead or cancelled member that runs again is open again: whoever was skipped for its end waits
        again, and who went on has gone on. A job that waits for a join that is not there is skipped, and one that is to
        be a member of such a join is a job as any. The records of members are kept, but for dead ones, as long as the
        join; and the join as long as a dead member may run again.
        """
        ...

    def claim(self, want: Want) -> Claimed:
        """Lease up to ``want.limit`` ready jobs to a worker. *Atomic.*

        Promotes a bounded slice of due jobs first. Never gives a job of a paused queue; a job past its ``expires_at``
        ends cancelled with reason ``expired`` instead. Order within a queue: priority, then place, then arrival. The
        place of a job is its due time. One with ``aging_ms`` stands at priority 0, its place put off (or brought
        forward) by that much for each step of its own priority, so that it rises by waiting.
        Jobs with two or more crash charges are given only to ``want.alone``, one a claim, by due time. Gives nothing,
        and ``expelled``, to a worker whose record is gone or expired.

        With ``want.rooms`` each kind of slot has an order of its own: a job that has no room stands in the way of none
        of another kind, and costs the claim nothing. Those that are given are in the order of all. What is given beyond
        the free slots is ``held``.

        A job's guards are judged here, all or none. One that meets a closed gate becomes ``blocked`` with the name of
        the gate in ``blocked_by``, keeps its place, is looked at again only when that gate may have opened, and does
        not count towards the limit. A Once key is held by the first job that was claimed with it until that job ends;
        when it is done already, the job ends done with the stored result and the reason ``duplicate of ID``. A
        Concurrency slot and a circuit's probe are held while the job runs. A Rate counts claims.

        A queue with a limit gives no more than leaves so many of its jobs running over all workers; one with a rate no
        more than so many in any window. What it may not give stays ready, and what it has of its share goes to the
        other queues. A bound of the store goes before ``want.bounds``, each of the two by itself.
        """
        ...

    def settle(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        """End attempts. *Atomic, fenced.* Same order as given.

        State, result, error history, counters, notes, follow-ups (``then``), the Once marker and the release of every
        guard are one write. A job that is to wait again does so with ``Outcome.slot`` as its kind, if that is given.
        Of each Write in ``then`` the jobs, joins and seals are stored, or nothing when one of its joins is there
        already; the outcome holds in either case. A follow-up whose unique key is taken gives way. One that waits
        (AWAIT) may wait for a join that it stores itself.
        Repeating a settle whose reply was lost is safe: it reports stale.
        """
        ...

    def exchange(
        self, outcomes: Sequence[Outcome], want: Want | None, counts: Sequence[Count] = ()
    ) -> tuple[list[Settled], Claimed]:
        """Settle and claim in one round trip. The same as ``settle`` then ``claim``, and atomic per part.

        ``counts`` are counted with it, whatever becomes of the outcomes.
        """
        ...

    def note(self, notes: Sequence[Note]) -> list[Settled]:
        """Write texts of running jobs, and that these have started. *Atomic, fenced, idempotent.*

        In the order given, all in one commit, which is durable if one of them is. Each claim brings a job's notes
        along. They are kept through whatever lets the job run again: a retry, a snooze, a release, a crash, a redrive;
        and through its end. They go with its record, and when another job is written over it. A durable note sets the
        job's crash charges to 0.
        """
        ...

    def extend(self, worker: WorkerInfo, leases: Sequence[LeaseRef], lease_ms: int) -> Heartbeat:
        """Register or renew a worker for ``lease_ms`` from now, and say which of its leases are lost. *Atomic.*

        A worker that was reaped and beats again is registered anew; its old leases come back as lost.
        """
        ...

    def depart(self, worker: str) -> Buried:
        """Deregister a worker that ends in order; what it still holds is released as interrupted. *Atomic.*

        ``Buried.dead`` are those that were interrupted once too often (see ``maintain``); nothing is charged.
        """
        ...

    def bury(self, worker: str, started: Sequence[int], error: str, rules: Rules) -> Buried:
        """Release what a process held whose death was witnessed, and deregister it. *Atomic, idempotent.*

        ``started`` are the fences of jobs it had begun: they get a crash charge and ``error`` (a JobError as JSON with
        the attempt set by the engine). First charge: claimable at once. From the second: alone, after a delay that
        doubles. At ``rules.max_crashes``: dead, reason ``poison``. The others go back to their place with nothing
        charged.
        """
        ...

    def maintain(self, rules: Rules, budget: int) -> Upkeep:
        """One bounded step of upkeep: promote due jobs, reap expired workers, prune finished records, fold
        counts. *Atomic.*

        Every worker may call it at once; each sweep is a compare-and-set and nobody needs to be leader. A job whose
        lease ran out unwitnessed counts an interruption; beyond ``rules.max_interruptions`` each one costs an attempt.
        How long a record stays was fixed when its job ended; the counts of ``rules`` bound how many stay. With
        ``rules.dead_held`` dead jobs stay and are named in ``Upkeep.overdue`` at every call until TRIM removes them.
        Joins that are watched and have not ended are named in ``Upkeep.watched``, each to one caller once in its time.
        What this engine object saw of confirmed writes that the store has lost is told here, once.
        """
        ...

    def names(self) -> list[str]:
        """Every queue the store knows, sorted: what a worker that serves patterns asks now and then. Counts nothing."""
        ...

    def wait(self, queues: Sequence[str | Watch] | None, timeout: float) -> bool:
        """Block until work may be ready in these queues (None: any), ``wake`` is called or ``timeout`` (s) is over.

        What wakes one worker alone must not wake one that does not watch for jobs of that kind.
        """
        ...

    def listen(self, queues: Sequence[str | Watch] | None, timeout: float, want: Want) -> Claimed | None:
        """``wait``, and then ``claim`` for what came: in one round trip where there is one to be saved.

        None: it was woken, or nothing came; look yourself. A store may claim at the end of the wait whatever ended it.
        """
        ...

    def wake(self) -> None:
        """End a ``wait`` or ``listen`` of this engine object in this process, now or the next one."""
        ...

    def writer(self) -> int | None:
        """The process that keeps all others from writing at this moment; None: there is none, or nobody can tell.

        Takes no lock and asks no server, so it can be asked while the store is held up.
        """
        ...


class Inspector(Protocol):
    """The cold path: people and dashboards. Workers never use it. Every list is bounded."""

    def job(self, job_id: str) -> JobRow | None:
        """One job, or None when no record of it is kept."""
        ...

    def jobs(self, where: JobFilter, cursor: str | None, limit: int) -> tuple[list[JobRow], str | None]:
        """A page of jobs, newest first, and the cursor of the next page (None: no more). Keyset, never offset."""
        ...

    def joins(self, ids: Sequence[str]) -> list[JoinRow | None]:
        """Joins by id, in that order; None where there is none."""
        ...

    def list_joins(self, prefix: str, cursor: str | None, limit: int) -> tuple[list[JoinRow], str | None]:
        """A page of the joins whose ids begin so, by id, and the cursor of the next page (None: no more)."""
        ...

    def members(self, join: str, cursor: str | None, limit: int) -> tuple[list[Member], str | None]:
        """A page of the members of a join, by id, and the cursor of the next page (None: no more)."""
        ...

    def queues(self, bounds: Sequence[QueueBound] = ()) -> list[QueueRow]:
        """Every queue the store knows, by name; ``bounds`` hold where the store has none of its own."""
        ...

    def blocked(self) -> list[BlockedRow]:
        """How many jobs of each queue are blocked, by gate, in order of both."""
        ...

    def workers(self) -> list[WorkerRow]:
        """Every registered worker, oldest first."""
        ...

    def counts(self) -> dict[str, int]:
        """Jobs by state (each state a key), and totals since the store was made, under ``total_*``.

        ``held`` says how many of the running jobs are only held.

        ``total_enqueued, total_done, total_retried, total_dead, total_cancelled, total_stale, total_recovered,
        total_crashed, total_trimmed``.
        """
        ...

    def transition(self, action: Action, which: Which) -> list[Moved]:
        """Do something to stored jobs, and say of each what. *Atomic per job.* Named ones are told in their order.

        CANCEL ends a waiting job and marks a running one. RETRY makes a dead, cancelled or scheduled job ready now
        with a fresh budget (attempt, crashes, interruptions, snoozes, recoveries, retrying_ms back to 0; the history
        stays). DELETE, DISCARD and TRIM remove the record of any job that is not running. A RETRY whose unique key
        another job has taken is refused with the reason, which is also left in the record.

        A job that is named by a death is left alone unless it is still dead of it: so what was decided about one death
        never hits the job's next life, and repeating a call does nothing (*idempotent*).

        Of a Recovery or of Waiting, the jobs that fit are found and moved in one step (*atomic*), so no two calls move
        one job for the same reason. A RETRY by a Recovery counts one more of each job's ``recoveries``.
        """
        ...

    def count(self, where: JobFilter) -> int:
        """How many jobs a listing would give."""
        ...

    def groups(self, where: JobFilter, limit: int) -> list[GroupRow]:
        """The dead jobs among these by fingerprint, the largest group first; counted from the records at each call.

        Jobs without a cause are in the group ``UNKNOWN_GROUP``.
        """
        ...

    def put_dead(self, rows: Sequence[JobRow], *, over: bool = False) -> list[bool]:
        """Store dead jobs as they were, where no record has their id; says of each whether. *Atomic, idempotent.*

        They are kept as if they had died now, with their notes. A tombstone does not hinder them.

        With ``over`` it is the other way round: where a job is still dead of that death (id and fence), name, payload,
        tags, meta, guards and unique key are those of the row from now on, and nothing else is changed: it goes on from
        its own notes.
        """
        ...

    def metrics(self, prefixes: Sequence[str], minutes: int) -> Metrics:
        """What the series that begin so counted, minute by minute, in the present one and in so many before it.

        The engine counts by itself ``arrived:QUEUE`` (jobs stored), ``claimed:QUEUE``, and in ``total:NAME`` what
        ``counts`` tells of all time, but for ``enqueued``, which is all that has arrived. Minutes that ``Rules.counts``
        does not keep apart are not there any more.
        """
        ...

    def control(self, target: str, word: str) -> int:
        """Ask a worker (by id) or all workers of a group for ``quiet`` or ``stop``; give how many were asked.

        Each learns of it with its next beat, and at every later one. *Idempotent.*
        """
        ...

    def set_queue(self, queue: str, change: QueueChange) -> None:
        """Set what holds for a queue, from the next claim of anybody on, also for jobs that wait. *Atomic, idempotent.*

        A paused queue gives no job until the pause is lifted or its time has come. With a limit at most so many of its
        jobs run at once, those that run already counted; with a rate at most so many are claimed in any window that
        begins from now on. Setting the rate that is set already leaves the window as it is.

        Lifting what is not there makes no name of a queue.
        """
        ...

    def wait_finished(self, ids: Sequence[str], timeout: float) -> bool:
        """Block until all of these jobs are finished or gone, or ``timeout`` seconds pass; true when they are."""
        ...

    def doctor(self, repair: bool = False) -> list[Finding]:
        """Check the store itself: versions, integrity, orphans, limits. With ``repair``, repair what can be repaired.

        A finding that ``repair`` can deal with names ``REPAIR`` in its advice, and no other one does.
        """
        ...


class Coordinator(Protocol):
    """Small facts that a fleet agrees on: holds, and documents, which ``commit`` changes by compare-and-set.

    A hold is one of the places at a gate: ``lock:KEY`` has one, ``concurrency:KEY`` its limit, ``circuit:NAME`` the
    probes that are still needed. A run has its place until it stops, and a token has one while its lease lasts; both
    count alike. Claims take places for runs, ``hold`` takes them for tokens.

    The time of holds and circuits is the engine's clock of leases. On SQLite no step of the wall clock moves it. On
    Redis it is the server's only clock, a wall clock, so its steps move all of them. Fences of tokens come from the
    store's one counter: they do not repeat and do not fall, whatever becomes of the hold.
    """

    def hold(
        self,
        gate: str,
        token: str,
        places: int,
        lease_ms: int,
        owner: str = "",
        wait_ms: int = 0,
        job: LeaseRef | None = None,
    ) -> Grip:
        """Try to take one of ``places`` at a gate, or a place in its line for ``wait_ms`` more. *Atomic, idempotent.*

        A token that has a place renews it. Whoever waits tries again when ``wait_released`` returns, and keeps its
        place in the line by doing so. The line is of tokens; jobs that wait at the gate do not stand in it. Who is
        first in line succeeds a holder whose lease ran out.

        With ``job`` it is the run that has the place and no token, if it still runs and the gate is one of its guards'.
        """
        ...

    def renew(self, held: Sequence[tuple[str, str]], lease_ms: int) -> list[bool]:
        """Renew held (gate, token) for ``lease_ms`` from now; false where the hold is lost. *Atomic.*

        One whose lease ran out is lost when somebody has taken a place at the gate since, or holds another one there.
        """
        ...

    def release(self, gate: str, token: str | None) -> bool:
        """Give a place back if the token has it, or leave the line; false when nothing was held. *Atomic.*

        None gives back the places of all tokens, and at a circuit those of runs as well. Other places of runs say that
        a job runs, so they are the job's until it stops. Jobs that wait at the gate are looked at by the next claim,
        and tokens in its line are woken.
        """
        ...

    def wait_released(self, seen: int, timeout: float) -> None:
        """Block until some hold may have been released since the Grip that had ``seen``, or ``timeout`` seconds pass.

        A hint, like ``wait``: the end of a run or of a lease wakes nobody here.
        """
        ...

    def holds(self, prefix: str = "") -> list[HoldRow]:
        """Every hold at the gates that begin so, by gate and fence."""
        ...

    def limits(self) -> list[LimitRow]:
        """Every Concurrency and Rate key in use or waited for, by key; at most 1,000."""
        ...

    def read(self, keys: Sequence[str]) -> list[Versioned]:
        """The documents of these keys, in order; what is absent or over has version 0."""
        ...

    def times(self) -> Times:
        """What time it is by the engine's clocks, as far as can be told without asking a server anew.

        That is as the last ``read`` or ``commit`` of documents and the time since have told it. A ``Write.clock`` of
        which the time since was not true, as after a suspend, is refused by the engine, which decides (rule 4).
        """
        ...

    def keys(self, prefix: str, limit: int = 1_000) -> list[str]:
        """The keys that begin so, in order, at most ``limit``."""
        ...


class Store(Engine, Inspector, Coordinator, Protocol):
    """A whole engine: hot and cold path. What ``windlass.engines.connect`` gives."""


class Tx(Protocol):
    """An open transaction of the engine's own database, with the caller's writes in it."""

    result: Any
    """What the job returns, stored when the block ends. Wins over the function's return value."""

    def execute(self, sql: str, bindings: Any = ()) -> Any:
        """Run one statement inside the transaction; gives the driver's cursor."""
        ...

    @property
    def connection(self) -> Any:
        """The driver's connection, to hand to ``options(connection=...)`` or to a library."""
        ...


@runtime_checkable
class TransactionalCommit(Protocol):
    """SQL engines only: commit inside a transaction that the caller owns."""

    def commit_within(self, connection: object, write: Write) -> Written:
        """Store jobs and documents with the caller's own writes, which appear together. *Atomic with the caller.*

        When a swap has lost, the caller decides what becomes of the rest of the transaction. Raises ConfigError for a
        connection of another kind or to another database.
        """
        ...

    def transaction(self) -> AbstractContextManager[Tx]:
        """A transaction on the engine's own writer: commits at the end of the block, rolls back on an error."""
        ...


@runtime_checkable
class TransactionalSettle(Protocol):
    """SQL engines only: commit a job's writes and its completion, or its notes, together."""

    def settle_within(self, tx: Tx, outcome: Outcome) -> Settled:
        """Settle inside an open ``transaction()``; STALE means the caller must roll back. *Fenced, atomic with it.*"""
        ...

    def note_within(self, tx: Tx, notes: Sequence[Note]) -> list[Settled]:
        """Note inside an open ``transaction()``; STALE means the caller must roll back. *Fenced, atomic with it.*"""
        ...
