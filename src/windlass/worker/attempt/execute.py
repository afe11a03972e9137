"""The pipeline of one attempt: decode, call, classify. It answers with an Outcome, or None when nothing is to settle.

No I/O of its own, no threads, no engine: whoever calls it decides where it runs. Nothing that a job raises leaves
here, ``SystemExit`` and ``KeyboardInterrupt`` included: they are that job's failure and not the worker's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import NoReturn, assert_never, cast

from msgspec import structs

from windlass.core import caps
from windlass.core.codec import encode_result
from windlass.core.control import Discard
from windlass.core.errors import (
    CircuitOpen,
    ConfigError,
    GuardUnavailable,
    JobCancelled,
    JobInterrupted,
    JobTimeout,
    LockBusy,
    PayloadError,
)
from windlass.core.fingerprint import cause_of
from windlass.core.foreign import Shield, kind_name, said
from windlass.core.history import clean_reason, encode_error
from windlass.core.model import RESULT_NOT_STORED, Kind, Outcome
from windlass.core.retry import Buried, Facts, PutOff, Retry, RunAgain, Withdrawn, decide, decode_backoff, leaf
from windlass.core.units import show_duration
from windlass.events import (
    Event,
    JobDead,
    JobFailed,
    JobRetrying,
    JobStarted,
    JobSucceeded,
    JobWithdrawn,
    ResultDropped,
)
from windlass.guards.circuits import Circuits
from windlass.jobs.context import CURRENT, JobContext
from windlass.jobs.middleware import AsyncBody, Body, Middleware
from windlass.jobs.redaction import MASK
from windlass.jobs.spec import JobSpec
from windlass.logs import Log
from windlass.worker.attempt.run import JobRun, Prepared

__all__ = ["escaped", "failed", "interrupted", "prepare", "run_alone", "run_async", "run_sync", "tell", "timeout_of"]

log = Log("windlass.job")

# Seconds. A busy lock is asked again soon, and seldomer the longer it is busy.
LOCK_DELAY = 1.0
LOCK_DELAY_MAX = 30.0
CHAIN = 10  # errors behind an error that are looked at
TERMINATED = (-signal.SIGTERM, 128 + signal.SIGTERM)  # as Python and as a shell say it
CIRCUIT_DELAY = 30.0  # one that was opened by hand says nothing of when it closes

# What a body gives that has not run.
UNRUN = (CoroutineType, GeneratorType, AsyncGeneratorType)


COPIES: list[int] = []  # grows in every fork of a process that has this module, and in no process that forks
os.register_at_fork(after_in_child=lambda: COPIES.append(os.getpid()))


def end_copy(run: JobRun) -> NoReturn:
    """End a copy of this process that the body made with ``os.fork()`` and came back in: the run is not its to end."""
    lease = run.lease
    text = f"job {lease.name} {lease.id} forked its process, and the copy came back from the job's body: it ends here\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode("utf-8", "replace"))
    os._exit(1)


def prepare(spec: JobSpec, middleware: Middleware, circuits: Circuits | None = None) -> Prepared:
    """Compose a job's body with its middleware. Raises ConfigError for async middleware around a sync job."""
    fn = spec.fn
    call: Body
    if spec.takes_context:
        call = lambda ctx, args, kwargs: fn(ctx, *args, **kwargs)  # noqa: E731 - two shapes of one thing
    else:
        call = lambda _ctx, args, kwargs: fn(*args, **kwargs)  # noqa: E731
    if spec.is_async:
        return Prepared(spec, None, middleware.wrap_async(cast("AsyncBody", call)), circuits)
    return Prepared(spec, middleware.wrap(call), None, circuits)


def run_sync(run: JobRun) -> Outcome | None:
    """Run a sync job to its outcome in this thread."""
    try:
        args, kwargs = run.prepared.spec.signature.decode(run.lease.payload)
    except PayloadError as error:
        return unreadable(run, error)
    except MemoryError as error:
        return failed(run, error)
    ctx = begin(run)
    token = CURRENT.set(ctx)
    copies = len(COPIES)
    try:
        value = cast("Body", run.prepared.body)(ctx, args, kwargs)
        if len(COPIES) != copies:
            end_copy(run)
    except BaseException as error:  # noqa: BLE001 - whatever a job raises is that job's failure
        if len(COPIES) != copies:
            end_copy(run)
        return failed(run, error)
    finally:
        CURRENT.reset(token)
        ctx.flush()
    return succeeded(run, value)


async def run_async(run: JobRun) -> Outcome | None:
    """Run an async job to its outcome in this task."""
    try:
        args, kwargs = run.prepared.spec.signature.decode(run.lease.payload)
    except PayloadError as error:
        return unreadable(run, error)
    except MemoryError as error:
        return failed(run, error)
    ctx = begin(run)
    token = CURRENT.set(ctx)
    copies = len(COPIES)
    try:
        value = await cast("AsyncBody", run.prepared.async_body)(ctx, args, kwargs)
        if len(COPIES) != copies:
            end_copy(run)
    except BaseException as error:  # noqa: BLE001
        if len(COPIES) != copies:
            end_copy(run)
        return failed(run, error)
    finally:
        CURRENT.reset(token)
        ctx.flush()
    return succeeded(run, value)


def run_alone(run: JobRun) -> Outcome | None:
    """Run an async job to its outcome on a loop of its own, in this thread."""
    outcome: Outcome | None = None

    async def body() -> None:
        nonlocal outcome
        outcome = await run_async(run)

    with asyncio.Runner() as runner:
        try:
            runner.run(body())
        except BaseException as error:  # noqa: BLE001 - a task or callback exits, or stops the loop
            run.exited = error  # what the body is cancelled with as the runner closes
    return outcome


def begin(run: JobRun) -> JobContext:
    """Note the start; make the context."""
    run.began_ns = time.monotonic_ns()
    ctx = run.context = JobContext(run.lease, run)
    if run.host.events.wants(JobStarted):
        tell(run, JobStarted, run.lease.attempt, max(0, run.host.clock.wall_ms() - run.lease.run_at) / 1000)
    return ctx


def succeeded(run: JobRun, value: object) -> Outcome | None:
    """The outcome of a body that returned."""
    ctx, lease = cast("JobContext", run.context), run.lease
    if issubclass(type(value), UNRUN) and not run.settled:  # isinstance would ask the value what it is
        return failed(run, unrun(run, value))
    tell(run, JobSucceeded, lease.attempt, took(run))
    if run.settled:
        return None
    if value is None:
        return Outcome(lease.id, lease.fence, Kind.DONE, "null", keep_ms=run.keep_ms, then=ctx.follow_ups)
    try:
        result = encode_result(value, run.host.settings.result_max)
    except PayloadError as error:
        reason = f"{RESULT_NOT_STORED}: {error}"
        tell(run, ResultDropped, lease.attempt, reason)
        return Outcome(lease.id, lease.fence, Kind.DONE, reason=reason, keep_ms=run.keep_ms, then=ctx.follow_ups)
    return Outcome(lease.id, lease.fence, Kind.DONE, result, keep_ms=run.keep_ms, then=ctx.follow_ups)


def unrun(run: JobRun, value: object) -> ConfigError:
    """The error of a body that only made another one: a plain function around a coroutine or a generator."""
    if isinstance(value, CoroutineType | GeneratorType):
        with Shield(log, "what job %s %s returned could not be closed", run.lease.name, run.lease.id):
            value.close()  # or Python warns that nobody awaited it
    return ConfigError(
        f"job {run.lease.name} returned a {type(value).__name__}, whose body has not run; make the job an "
        "`async def` that awaits it, or return what it gives"
    )


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
    """What becomes of a run that raised: stopped from outside, put off by a guard, or its policy decides."""
    stopped = isinstance(error, asyncio.CancelledError | JobCancelled)
    if stopped and run.timed_out:
        error = timeout_of(run)
    elif (
        stopped and run.interrupted
    ):  # before cancelled, which only told the body to end; the store knows a real cancel
        return interrupted(run)
    elif stopped and run.cancelled:
        return withdrawn(run, "cancelled")
    elif isinstance(error, LockBusy | CircuitOpen | GuardUnavailable):
        return put_off(run, error)
    elif run.stopping and was_terminated(error):
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
    return again(run, decision, text, trouble) if isinstance(decision, RunAgain) else dead(run, None, text, trouble)


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
    return Outcome(lease.id, lease.fence, Kind.SNOOZE, reason=clean_reason(reason), delay_ms=round(pause_ms(run)))


def pause_ms(run: JobRun) -> float:
    """How long to put a job back that cannot go on now: longer each time."""
    delay: float = min(LOCK_DELAY_MAX, LOCK_DELAY * 2 ** min(run.lease.snoozes, 10)) * 1000
    return run.host.rng.uniform(0.5, 1.0) * delay


def put_off(run: JobRun, error: LockBusy | CircuitOpen | GuardUnavailable) -> Outcome:
    """Put a job back that a guard inside it stopped: no attempt is used, however often it happens."""
    lease = run.lease
    if isinstance(error, CircuitOpen):
        left = (error.retry_in if error.retry_in is not None else CIRCUIT_DELAY) * 1000
        delay = left + run.host.rng.uniform(0, max(1000.0, left / 10))  # or all would come back at one instant
    else:
        delay = pause_ms(run)
    delay = min(delay, caps.DURATION_MS)  # also of an error that the application made itself
    return Outcome(lease.id, lease.fence, Kind.SNOOZE, reason=short(run, error), delay_ms=round(delay))


def unreadable(run: JobRun, error: PayloadError) -> Outcome:
    """The end of a job whose arguments nobody can read: dead, with its payload as it is."""
    text = describe(run, error)
    return dead(run, "undecodable payload", text, error)


def failure(run: JobRun, error: BaseException) -> Outcome:
    """What the job's policy makes of a run that failed, or that said itself how it ends."""
    lease, host = run.lease, run.host
    decision = decide(policy_of(run), error, facts_of(run), host.rng)
    if isinstance(decision, PutOff):
        reason = reason_of(run, decision.reason)
        return Outcome(lease.id, lease.fence, Kind.SNOOZE, reason=reason, delay_ms=decision.delay_ms)
    text = describe(run, error)
    if not isinstance(leaf(error), Discard):
        tell(run, JobFailed, lease.attempt, took(run), error)
    match decision:
        case RunAgain():
            return again(run, decision, text, error)
        case Withdrawn():
            return withdrawn(run, reason_of(run, decision.reason) or "", text)
        case Buried():
            return dead(run, reason_of(run, decision.reason), text, error)
        case _:
            assert_never(decision)


def again(run: JobRun, decision: RunAgain, text: str, error: BaseException) -> Outcome:
    """The outcome of a failed run that another one follows."""
    lease, delay = run.lease, decision.delay_ms
    if decision.trouble is not None:
        trouble = clean_reason(run.hide(decision.trouble))
        log.error("job %s %s uses the default wait instead, because of its %s", lease.name, lease.id, trouble)
    tell(run, JobRetrying, lease.attempt, delay / 1000)
    return Outcome(lease.id, lease.fence, Kind.RETRY, error=text, delay_ms=delay)


def describe(run: JobRun, error: BaseException) -> str:
    """The JobError of this attempt, as JSON."""
    host = run.host
    return encode_error(
        error,
        attempt=run.lease.attempt,
        at=host.clock.wall_ms(),
        limit=host.settings.error_max,
        origin=run.origin,
        hide=run.hide,
    )


def dead(run: JobRun, reason: str | None, text: str, error: BaseException) -> Outcome:
    """The end of a job that will not run again by itself."""
    lease = run.lease
    tell(run, JobDead, lease.attempt, reason)
    cause = cause_of(error, run.spec.fn.__module__)
    return Outcome(lease.id, lease.fence, Kind.DEAD, error=text, reason=reason, cause=cause)


def withdrawn(run: JobRun, reason: str, text: str | None = None) -> Outcome:
    """The end of a job that somebody called off, itself and its rules included."""
    lease = run.lease
    tell(run, JobWithdrawn, lease.attempt, reason)
    return Outcome(lease.id, lease.fence, Kind.CANCELLED, error=text, reason=reason, keep_ms=run.keep_ms)


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
    return Outcome(lease.id, lease.fence, Kind.RELEASE, interrupted=True)


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


def tell(run: JobRun, kind: Callable[..., Event], *facts: object) -> None:
    """Emit an event of this job, built only when somebody listens."""
    events = run.host.events
    if events.wants(cast("type[Event]", kind)):
        lease = run.lease
        events.emit(kind(lease.id, lease.name, lease.queue, *facts))


def took(run: JobRun) -> float:
    """Seconds since the run began."""
    return (time.monotonic_ns() - run.began_ns) / 1e9


def reason_of(run: JobRun, text: str | None) -> str | None:
    """A reason that the job or a rule gave, fit to be stored."""
    return None if text is None else clean_reason(run.hide(text))


def hidden(run: JobRun, error: BaseException) -> BaseException | None:
    """The error for a traceback in the log; none where arguments are redacted, since it tells what the message does."""
    return None if run.redacts else error


def short(run: JobRun, error: BaseException) -> str:
    """The first line of an error, on one line, for the log."""
    text = run.hide(said(error))
    return ascii(text.partition("\n")[0][:200])[1:-1].replace(ascii(MASK)[1:-1], MASK)


def timeout_of(run: JobRun) -> JobTimeout:
    """The error of a run that took too long."""
    return JobTimeout(f"job {run.lease.id} ran longer than its timeout of {show_duration(run.timeout_ms or 0)}")
