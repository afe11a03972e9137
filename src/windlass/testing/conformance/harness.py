"""What an engine author supplies, and the short words that the suites are written in.

It must not assert anything about an engine: that is what the suites are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from windlass.core.clock import ManualClock
from windlass.core.model import Cause, Guard, JobError, NewJob, Placed, Slot, State, Swap, UniqueKey, Versioned, Write
from windlass.core.rows import Action, JobFilter, JobRow, Pause, QueueChange, Recovery, Waiting, Which
from windlass.core.work import (
    Kind,
    Lease,
    LeaseRef,
    Note,
    Outcome,
    PoolInfo,
    QueueShare,
    QueueWork,
    RateBound,
    Room,
    Rules,
    Settled,
    Upkeep,
    Want,
    WorkerInfo,
)
from windlass.engines.base import Store

T = TypeVar("T")

LEASE_MS = 30_000
BUDGET = 1_000
DEADLINE_S = 30.0  # how long a thread may take before a test gives up; never how long one is expected to take
NOTHING = JobFilter()


class Harness(Protocol):
    """An engine under test. The store is fresh for every test and ``close`` takes it away."""

    @property
    def engine(self) -> Store:
        """The engine, open, on an empty store, made with the default ``Rules`` if it takes any."""
        ...

    @property
    def clock(self) -> ManualClock:
        """The clock of the engine: every due time and lease follows it, and nothing else does."""
        ...

    def second(self) -> Store:
        """Another open engine object on the same store and clock, as another process has. May be the same object."""
        ...

    def corrupt(self, job_id: str, payload: bytes) -> None:
        """Write bytes as the payload of a stored job, behind the engine's back."""
        ...

    def close(self) -> None:
        """Close every engine and remove the store. *Idempotent.*"""
        ...


def job(
    job_id: str,
    *,
    name: str = "shop.jobs.add",
    queue: str = "default",
    payload: str = "[]",
    priority: int = 0,
    aging_ms: int = 0,
    run_at: int | None = None,
    delay_ms: int = 0,
    at_front: bool = False,
    max_attempts: int = 11,
    expires_ms: int | None = None,
    tags: tuple[str, ...] = (),
    meta: str | None = None,
    caller_id: bool = False,
    slot: Slot | None = None,
) -> NewJob:
    """A request to store a job, with everything but the id filled in."""
    return NewJob(
        id=job_id,
        name=name,
        queue=queue,
        payload=payload,
        priority=priority,
        aging_ms=aging_ms,
        run_at=run_at,
        delay_ms=delay_ms,
        at_front=at_front,
        max_attempts=max_attempts,
        expires_ms=expires_ms,
        tags=tags,
        meta=meta,
        caller_id=caller_id,
        slot=slot,
    )


def place(store: Store, jobs: Sequence[NewJob]) -> list[Placed]:
    """Store jobs, and nothing else."""
    return store.commit(Write(tuple(jobs))).placed


def swap(store: Store, key: str, version: int, value: str | None, ttl_ms: int | None = None) -> Versioned | None:
    """Write one document, and nothing else; None when it has another version."""
    written = store.commit(Write(swaps=(Swap(key, version, value, ttl_ms),)))
    return None if written.lost else written.documents[0]


def add(store: Store, *ids: str, queue: str = "default", max_attempts: int = 11, priority: int = 0) -> None:
    """Enqueue plain jobs in one batch."""
    place(store, [job(i, queue=queue, max_attempts=max_attempts, priority=priority) for i in ids])


def info(worker: str, group: str = "g1") -> WorkerInfo:
    """What a worker of that id says of itself."""
    return WorkerInfo(
        id=worker,
        group=group,
        host="box",
        pid=4242,
        queues="critical:2",
        slots=2,
        version="1.0",
        started_at=1_700_000_000_000,
        pools=(PoolInfo("critical", "critical", ("critical", "urgent-*"), threads=2, async_slots=2),),
        work=(QueueWork("critical", ended=7, busy_ms=900),),
        supervisor_pid=4200,
    )


def join(store: Store, worker: str = "w1", lease_ms: int = LEASE_MS) -> None:
    """Register or renew a worker."""
    store.extend(info(worker), (), lease_ms)


def take(
    store: Store,
    worker: str = "w1",
    limit: int = 100,
    queues: Sequence[QueueShare] | None = None,
    alone: bool = False,
    rooms: tuple[Room, ...] = (),
) -> list[Lease]:
    """Claim, and give the leases alone."""
    shares = None if queues is None else tuple(queues)
    return store.claim(Want(worker=worker, limit=limit, queues=shares, alone=alone, rooms=rooms)).leases


def take_one(store: Store, worker: str = "w1") -> Lease:
    """Claim the single job that is ready."""
    (lease,) = take(store, worker)
    return lease


def ended(
    lease: Lease,
    kind: Kind = Kind.DONE,
    *,
    result: str | None = None,
    error: str | None = None,
    reason: str | None = None,
    delay_ms: int = 0,
    keep_ms: int | None = None,
    interrupted: bool = False,
    then: tuple[NewJob, ...] = (),
    cause: Cause | None = None,
    slot: Slot | None = None,
    notes: tuple[tuple[str, str | None], ...] = (),
) -> Outcome:
    """The outcome of a leased run."""
    return Outcome(
        id=lease.id,
        fence=lease.fence,
        kind=kind,
        result=result,
        error=error,
        reason=reason,
        delay_ms=delay_ms,
        keep_ms=keep_ms,
        interrupted=interrupted,
        then=(Write(then),) if then else (),
        cause=cause,
        slot=slot,
        notes=notes,
    )


def note(store: Store, lease: Lease, key: str = "", value: str | None = None, durable: bool = False) -> Settled:
    """Write one note of a leased run."""
    (settled,) = store.note([Note(lease.id, lease.fence, key, value, durable)])
    return settled


def error(kind: str = "ValueError", message: str = "bad", attempt: int = 1) -> str:
    """A JobError as JSON text."""
    return msgspec.json.encode(JobError(type=kind, message=message, traceback="", at=1, attempt=attempt)).decode()


def history(row: JobRow) -> list[JobError]:
    """The errors of a job, oldest first."""
    return [] if row.errors is None else msgspec.json.decode(row.errors, type=list[JobError])


def row_of(store: Store, job_id: str) -> JobRow:
    """The row of a job that must exist."""
    row = store.job(job_id)
    if row is None:
        raise AssertionError(f"job {job_id} has no record")
    return row


def state_of(store: Store, job_id: str) -> State | None:
    """The state of a job, or None when it has no record."""
    row = store.job(job_id)
    return None if row is None else row.state


def finish(
    store: Store,
    *ids: str,
    kind: Kind = Kind.DONE,
    queue: str = "default",
    caller_id: bool = False,
    keep_ms: int | None = None,
) -> None:
    """Enqueue jobs one by one and end each as ``kind``, oldest first. Worker w1 must be registered."""
    for job_id in ids:
        place(store, [job(job_id, queue=queue, caller_id=caller_id)])
        (lease,) = take(store, queues=[QueueShare(queue, 1)], limit=1)
        store.settle([ended(lease, kind, keep_ms=keep_ms)])


def applied(store: Store, action: Action, which: Which) -> list[bool]:
    """Do something to stored jobs, and say of each whether it was done."""
    return [moved.applied for moved in store.transition(action, which)]


def redrive(store: Store, deaths: Sequence[LeaseRef]) -> list[bool]:
    """Make dead jobs ready, by their deaths."""
    return applied(store, Action.RETRY, deaths)


def discard(store: Store, deaths: Sequence[LeaseRef]) -> list[bool]:
    """Delete dead jobs, by their deaths."""
    return applied(store, Action.DISCARD, deaths)


def recover(store: Store, rule: Recovery) -> list[str]:
    """Make dead jobs ready by a rule, and give their ids."""
    return [moved.id for moved in store.transition(Action.RETRY, rule) if moved.applied]


def clear(store: Store, queue: str, limit: int) -> int:
    """Delete waiting jobs of a queue, and give how many."""
    return sum(applied(store, Action.DELETE, Waiting(queue, limit)))


def edit(store: Store, death: LeaseRef, payload: str, guards: tuple[Guard, ...], unique: UniqueKey | None) -> bool:
    """Write another payload and other guards over those of a dead job."""
    row = store.job(death.id)
    if row is None:
        return False
    changed = replace(row, fence=death.fence, payload=payload.encode(), guards=guards, unique=unique)
    return store.put_dead([changed], over=True)[0]


def pause(
    store: Store, queue: str, reason: str | None = None, until: int | None = None, who: str | None = None
) -> None:
    """Pause a queue."""
    store.set_queue(queue, QueueChange(pause=Pause(reason, until, who)))


def resume(store: Store, queue: str) -> None:
    """Lift the pause of a queue."""
    store.set_queue(queue, QueueChange(pause=None))


def set_limit(store: Store, queue: str, limit: int | None) -> None:
    """Set or lift the limit of a queue."""
    store.set_queue(queue, QueueChange(limit=limit))


def set_rate(store: Store, queue: str, rate: RateBound | None) -> None:
    """Set or lift the rate of a queue."""
    store.set_queue(queue, QueueChange(rate=rate))


def upkeep(store: Store, rules: Rules | None = None, budget: int = BUDGET) -> list[Upkeep]:
    """Maintain until no step asks for another."""
    rules = Rules() if rules is None else rules
    steps = [store.maintain(rules, budget)]
    while steps[-1].more:
        if len(steps) > 1_000:
            raise AssertionError("maintain still asks for more after 1,000 steps")
        steps.append(store.maintain(rules, budget))
    return steps


def all_jobs(store: Store, where: JobFilter = NOTHING, limit: int = 100) -> list[JobRow]:
    """Every page of a listing."""
    rows, cursor = store.jobs(where, None, limit)
    while cursor is not None:
        page, cursor = store.jobs(where, cursor, limit)
        rows += page
    return rows


def together(*calls: Callable[[], T]) -> list[T]:
    """Run calls in a thread each and give their answers; an error or a hang in one is raised here."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(DEADLINE_S) for future in [pool.submit(call) for call in calls]]
