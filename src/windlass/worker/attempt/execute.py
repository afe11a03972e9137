"""The pipeline of one attempt: decode, call, and an Outcome, or None when nothing is to settle. ``judge`` has failures.

No I/O of its own, no threads, no engine: whoever calls it decides where it runs. Nothing that a job raises leaves
here, ``SystemExit`` and ``KeyboardInterrupt`` included: they are that job's failure and not the worker's end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import NoReturn, cast

from windlass.core.aio import hop
from windlass.core.codec import encode_result
from windlass.core.errors import ConfigError, EngineError, PayloadError, ResultExpired, ResultNotStored
from windlass.core.foreign import Shield
from windlass.core.model import RESULT_NOT_STORED
from windlass.core.work import Kind, Outcome
from windlass.events import JobStarted, JobSucceeded, ResultDropped
from windlass.guards.circuits import Circuits
from windlass.jobs.context import CURRENT, JobContext
from windlass.jobs.middleware import AsyncBody, Body, Middleware
from windlass.jobs.spec import JobSpec
from windlass.logs import Log
from windlass.worker.attempt.judge import failed, stop_is_due, unreadable
from windlass.worker.attempt.outcomes import released
from windlass.worker.attempt.refs import fill_in
from windlass.worker.attempt.run import JobRun, Prepared
from windlass.worker.attempt.told import overtime_of, tell, took

__all__ = ["prepare", "run_alone", "run_async", "run_sync"]

log = Log("windlass.job")

# What keeps a body from running: arguments that nobody can read or that are not there, no store, no memory, a cancel.
UNBEGUN = (PayloadError, ResultNotStored, ResultExpired, EngineError, MemoryError, asyncio.CancelledError)

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
        return Prepared(spec, spec.slot, None, middleware.wrap_async(cast("AsyncBody", call)), circuits, middleware)
    return Prepared(spec, spec.slot, middleware.wrap(call), None, circuits, middleware)


def run_sync(run: JobRun) -> Outcome | None:
    """Run a sync job to its outcome in this thread."""
    try:
        if run.meta.refs:
            fill_in(run)
        args, kwargs = run.prepared.spec.signature.decode(run.lease.payload)
    except UNBEGUN as error:
        return unbegun(run, error)
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
        for seconds in stop_is_due(run, error):
            time.sleep(seconds)
        return failed(run, error)
    finally:
        CURRENT.reset(token)
        ctx.flush()
    return succeeded(run, value)


async def run_async(run: JobRun) -> Outcome | None:
    """Run an async job to its outcome in this task."""
    try:
        if run.meta.refs:
            await hop(lambda: fill_in(run))
        args, kwargs = run.prepared.spec.signature.decode(run.lease.payload)
    except UNBEGUN as error:
        return unbegun(run, error)
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
        for seconds in stop_is_due(run, error):
            with contextlib.suppress(asyncio.CancelledError):  # the body is over
                await asyncio.sleep(seconds)
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


def unbegun(run: JobRun, error: BaseException) -> Outcome | None:
    """The outcome of a run whose arguments cannot be had."""
    match error:
        case PayloadError() | ResultNotStored() | ResultExpired():
            return unreadable(run, error)
        case EngineError():
            log.warning("job %s %s goes back, what it takes could not be read: %s", run.lease.name, run.lease.id, error)
            return released(run)
        case _:
            run.began_ns = time.monotonic_ns()
            return failed(run, error)


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
    if run.outlived and not run.settled:
        return failed(run, overtime_of(run))
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
