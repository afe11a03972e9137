"""What becomes of a run that did not succeed: its end from the error it raised, from outside, or by its policy.

It decides once, and what it says is final: the outcome that it gives is what the store, the events and the log get.
Nothing of a job's own making that goes wrong here (an error that cannot be told, a rule that raises) leaves a run
without an end.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Iterator
from typing import assert_never

from msgspec import structs

from windlass.core import caps
from windlass.core.control import Await, Discard
from windlass.core.errors import (
    CircuitOpen,
    ConfigError,
    GuardUnavailable,
    JobCancelled,
    JobInterrupted,
    LockBusy,
    PayloadError,
    ResultExpired,
    ResultNotStored,
)
from windlass.core.foreign import kind_name
from windlass.core.history import clean_reason
from windlass.core.retry import Cancelled, Died, Facts, Retried, Retry, Snoozed, decide, decode_backoff, leaf
from windlass.core.work import Outcome
from windlass.events import JobFailed
from windlass.logs import Log
from windlass.worker.attempt.outcomes import again, awaiting, cancelled, dead, released, snoozed
from windlass.worker.attempt.run import JobRun
from windlass.worker.attempt.told import describe, hidden, overtime_of, reason_of, short, tell, took

__all__ = ["escaped", "failed", "interrupted", "stop_is_due", "timed_out", "unreadable"]

log = Log("windlass.job")

# Seconds. A busy lock is asked again soon, and seldomer the longer it is busy.
LOCK_DELAY = 1.0
LOCK_DELAY_MAX = 30.0
CHAIN = 10  # errors behind an error that are looked at
TERMINATED = (-signal.SIGTERM, 128 + signal.SIGTERM)  # as Python and as a shell say it
STOP_LOOK, STOP_LATE = 0.01, 50  # seconds and times; a program may have the signal of a stop so long before us
CIRCUIT_DELAY = 30.0  # one that was opened by hand says nothing of when it closes


def failed(run: JobRun, error: BaseException) -> Outcome | None:
    """The outcome of a body that raised."""
    if run.exited is not None and isinstance(error, asyncio.CancelledError):
        error = run.exited  # the cancel only told the body to end
    run.error = error
    if run.settled:
        log.error(
            "job %s %s failed after its transaction had completed it; it stays done: %s: %s",
            run.lease.name,
            run.lease.id,
            kind_name(error),
            short(run, error),
            exc_info=hidden(run, error),
        )
        return None
    try:
        return judged(run, error)
    except BaseException as trouble:  # noqa: BLE001 - code of the application is at work in it; a run must have an end
        return unjudged(run, error, trouble)


def judged(run: JobRun, error: BaseException) -> Outcome:
    """What becomes of a run that raised: stopped from outside, put off by a guard, or its policy decides.

    One that outlived its timeout was said to have failed, whatever it came to in the end.
    """
    stopped = isinstance(error, asyncio.CancelledError | JobCancelled)
    if run.outlived or (stopped and run.timed_out):
        return timed_out(run)
    if stopped and run.interrupted:  # before cancelled, which only told the body to end; the store knows a real cancel
        return interrupted(run)
    if stopped and run.cancelled:
        return cancelled(run, "cancelled")
    if isinstance(error, LockBusy | CircuitOpen | GuardUnavailable):
        return busy(run, error)
    if isinstance(error, Await):
        return cancelled(run, "cancelled") if run.cancelled else awaiting(run, error)
    if run.stopping and was_terminated(error):
        return interrupted(run)
    return failure(run, error)


def was_terminated(error: BaseException | None) -> bool:
    """Whether a program that the job ran was ended by SIGTERM, which a stop may send to every process there is."""
    programs = sys.modules.get("subprocess")
    for _ in range(CHAIN):
        if error is None or programs is None:
            return False
        if isinstance(error, programs.CalledProcessError) and error.returncode in TERMINATED:
            return True
        error = error.__cause__ or error.__context__
    return False


def stop_is_due(run: JobRun, error: BaseException) -> Iterator[float]:
    """Seconds to wait, one after the other, until this worker knows of the stop that may have ended the job's program.

    The signal that goes to every process may reach the program first. Nothing to wait for with any other error.
    """
    try:
        terminated = was_terminated(error)
    except BaseException:  # noqa: BLE001 - the error is of the application's making; who judges it says so
        return
    for _ in range(STOP_LATE) if terminated else ():
        if run.stopping:
            return
        yield STOP_LOOK


def unjudged(run: JobRun, error: BaseException, trouble: BaseException) -> Outcome:
    """The outcome of a run whose error cannot be judged, as its class or a rule is broken: fails with what was raised.

    No rule is asked about that, or it could go on so.
    """
    lease = run.lease
    log.error("the %s of job %s %s could not be judged", kind_name(error), lease.name, lease.id)
    policy = structs.replace(policy_of(run), rules=())
    decision = decide(policy, RuntimeError(), facts_of(run), run.host.rng)
    text = describe(run, trouble)
    tell(run, JobFailed, lease.attempt, took(run), trouble)
    return again(run, decision, text) if isinstance(decision, Retried) else dead(run, None, text, trouble)


def escaped(run: JobRun, error: BaseException) -> Outcome | None:
    """The outcome of a run out of which an error came on a way that none should: its failure where the job had begun.

    One that had not begun is put back for a moment, with no attempt used. The worker calls this last of all.
    """
    lease = run.lease
    log.error("job %s %s was left by what should have ended in it", lease.name, lease.id, exc_info=hidden(run, error))
    if run.began_ns or run.cancelled:
        run.began_ns = run.began_ns or time.monotonic_ns()
        return failed(run, error)
    reason = f"it could not be started: {kind_name(error)}: {short(run, error)}"
    return snoozed(run, round(pause_ms(run)), clean_reason(reason))


def pause_ms(run: JobRun) -> float:
    """How long to put a job back that cannot go on now: longer each time."""
    delay: float = min(LOCK_DELAY_MAX, LOCK_DELAY * 2 ** min(run.lease.snoozes, 10)) * 1000
    return run.host.rng.uniform(0.5, 1.0) * delay


def busy(run: JobRun, error: LockBusy | CircuitOpen | GuardUnavailable) -> Outcome:
    """Put a job back that a guard inside it stopped: no attempt is used, however often it happens."""
    if isinstance(error, CircuitOpen):
        left = (error.retry_in if error.retry_in is not None else CIRCUIT_DELAY) * 1000
        delay = left + run.host.rng.uniform(0, max(1000.0, left / 10))  # or all would come back at one instant
    else:
        delay = pause_ms(run)
    delay = min(delay, caps.DURATION_MS)  # also of an error that the application made itself
    return snoozed(run, round(delay), short(run, error))


def unreadable(run: JobRun, error: PayloadError | ResultNotStored | ResultExpired) -> Outcome:
    """The end of a job whose arguments nobody can read, or one of which is not there: dead, its payload as it is."""
    text = describe(run, error)
    reason = "undecodable payload" if isinstance(error, PayloadError) else "no result to go on with"
    return dead(run, reason, text, error)


def timed_out(run: JobRun) -> Outcome:
    """What becomes of a run whose time is up, since it took too long or made no progress."""
    error = overtime_of(run)
    if run.stall is not None and run.on_stall == "cancel":
        return cancelled(run, reason_of(run, str(error)) or "")
    return failure(run, error)


def failure(run: JobRun, error: BaseException) -> Outcome:
    """What the job's policy makes of a run that failed, or that said itself how it ends."""
    decision = decide(policy_of(run), error, facts_of(run), run.host.rng)
    if isinstance(decision, Snoozed):
        return snoozed(run, decision.delay_ms, reason_of(run, decision.reason))
    text = describe(run, error)
    if not isinstance(leaf(error), Discard):
        tell(run, JobFailed, run.lease.attempt, took(run), error)
    match decision:
        case Retried():
            return again(run, decision, text)
        case Cancelled():
            return cancelled(run, reason_of(run, decision.reason) or "", text)
        case Died():
            return dead(run, reason_of(run, decision.reason), text, error)
        case _:
            assert_never(decision)


def interrupted(run: JobRun) -> Outcome:
    """Give a started job back: no attempt used, unless it was interrupted too often."""
    lease, host = run.lease, run.host
    if lease.interruptions >= host.settings.max_interruptions:
        times = lease.interruptions + 1
        return failure(
            run,
            JobInterrupted(
                f"job {lease.id} was interrupted by a stopping worker {times} times, and max_interruptions is "
                f"{host.settings.max_interruptions}; make it shorter, or let it stop when ctx.stopping is true"
            ),
        )
    return released(run, interrupted=True)


def policy_of(run: JobRun) -> Retry:
    """The policy of this job: the definition's, with what the call carries in place of its backoff and time budget."""
    policy, meta = run.spec.retry, run.meta
    if meta.backoff is None:
        return policy
    try:
        within = None if meta.within_ms is None else meta.within_ms / 1000
        return structs.replace(policy, backoff=decode_backoff(meta.backoff), within=within)
    except ConfigError as error:
        log.warning("job %s %s: %s; its definition's backoff is used", run.lease.name, run.lease.id, error)
        return policy


def facts_of(run: JobRun) -> Facts:
    """What a decision about this run depends on."""
    lease, host = run.lease, run.host
    return Facts(
        lease.attempt,
        lease.max_attempts,
        capped=run.meta.capped,
        elapsed_ms=lease.retrying_ms + int(took(run) * 1000),
        snoozes=lease.snoozes,
        max_snoozes=host.settings.max_snoozes,
        now_ms=host.clock.wall_ms(),
        backoff=host.settings.backoff,
    )
