"""The outcomes of runs that are not simply done: each end has one function, and nothing else makes it.

It gives what goes to the store, and emits the event that says the same. Invariants: an outcome is final, its delay
included, before the event tells it, so the event, the log and the store never differ; one that lets the job run again
names the kind of slot that it really needs, where its record says another.
"""

from __future__ import annotations

from windlass.core.control import Await
from windlass.core.fingerprint import POISON, cause_of
from windlass.core.history import clean_reason
from windlass.core.model import Slot
from windlass.core.retry import Retried
from windlass.core.work import Kind, LeaseRef, Outcome
from windlass.events import JobDead, JobRetrying, JobWithdrawn
from windlass.logs import Log
from windlass.worker.attempt.run import JobRun
from windlass.worker.attempt.told import tell

__all__ = ["again", "awaiting", "cancelled", "crashed", "dead", "poisoned", "released", "snoozed", "stray"]

log = Log("windlass.job")


def again(run: JobRun, decision: Retried, text: str) -> Outcome:
    """The outcome of a failed run that another one follows: when its policy says, or later by the retry budget."""
    lease, delay = run.lease, run.host.defer(run, decision.delay_ms)
    if decision.trouble is not None:
        trouble = clean_reason(run.hide(decision.trouble))
        log.error("job %s %s uses the default wait instead, because of its %s", lease.name, lease.id, trouble)
    tell(run, JobRetrying, lease.attempt, delay / 1000)
    return Outcome(lease.id, lease.fence, Kind.RETRY, error=text, delay_ms=delay, slot=slot_of(run))


def dead(run: JobRun, reason: str | None, text: str, error: BaseException) -> Outcome:
    """The end of a job that will not run again by itself."""
    lease = run.lease
    tell(run, JobDead, lease.attempt, reason)
    cause = cause_of(error, run.spec.fn.__module__)
    return Outcome(lease.id, lease.fence, Kind.DEAD, error=text, reason=reason, cause=cause, slot=slot_of(run))


def poisoned(run: JobRun, text: str) -> Outcome:
    """The end of a job that has crashed its process too often."""
    lease = run.lease
    tell(run, JobDead, lease.attempt, "poison")
    return Outcome(lease.id, lease.fence, Kind.DEAD, error=text, reason="poison", cause=POISON, slot=slot_of(run))


def cancelled(run: JobRun, reason: str, text: str | None = None) -> Outcome:
    """The end of a job that somebody called off, itself and its rules included."""
    lease = run.lease
    tell(run, JobWithdrawn, lease.attempt, reason)
    return Outcome(
        lease.id, lease.fence, Kind.CANCELLED, error=text, reason=reason, keep_ms=run.keep_ms, slot=slot_of(run)
    )


def snoozed(run: JobRun, delay_ms: int, reason: str | None) -> Outcome:
    """Put a job back for a while: no attempt is used, however often it happens."""
    lease = run.lease
    return Outcome(lease.id, lease.fence, Kind.SNOOZE, reason=reason, delay_ms=delay_ms, slot=slot_of(run))


def awaiting(run: JobRun, told: Await) -> Outcome:
    """Put a job back until what it waits for has ended, and store what it starts; no attempt is used."""
    lease, then = run.lease, () if told.then is None else (told.then,)
    return Outcome(lease.id, lease.fence, Kind.AWAIT, waits=told.waits, then=then, slot=slot_of(run))


def crashed(run: JobRun, delay_ms: int, error: str) -> Outcome:
    """Charge a job with the crash of its process; it runs again."""
    lease = run.lease
    return Outcome(lease.id, lease.fence, Kind.CRASH, error=error, delay_ms=delay_ms, slot=slot_of(run))


def released(run: JobRun, *, interrupted: bool = False) -> Outcome:
    """Give a job back to its place, with no attempt used; ``interrupted``: it had started, and that is counted."""
    lease = run.lease
    return Outcome(lease.id, lease.fence, Kind.RELEASE, interrupted=interrupted, slot=slot_of(run))


def stray(ref: LeaseRef) -> Outcome:
    """Give a claim back of which nothing is here: its answer got lost."""
    return Outcome(ref.id, ref.fence, Kind.RELEASE)


def slot_of(run: JobRun) -> Slot | None:
    """The kind of slot that the job needs, where its record says another; None: its record is right."""
    slot = run.prepared.slot
    return None if run.lease.slot is slot else slot
