"""What is said of a run, to listeners, in the log and in its error: nothing that its job keeps hidden."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

from windlass.core.errors import JobStalled, JobTimeout
from windlass.core.foreign import said
from windlass.core.history import clean_reason, encode_error
from windlass.core.units import show_duration
from windlass.events import Event
from windlass.jobs.redaction import MASK
from windlass.worker.attempt.run import JobRun

__all__ = ["describe", "hidden", "overtime_of", "reason_of", "short", "tell", "took"]


def tell(run: JobRun, kind: Callable[..., Event], *facts: object) -> None:
    """Emit an event of this job, built only when somebody listens."""
    events = run.host.events
    if events.wants(cast("type[Event]", kind)):
        lease = run.lease
        events.emit(kind(lease.id, lease.name, lease.queue, *facts))


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


def overtime_of(run: JobRun) -> JobTimeout | JobStalled:
    """The error of a run whose time is up: it took too long, or made no progress."""
    if (stall := run.stall) is not None:
        quiet = show_duration(stall.quiet_ms)
        return JobStalled(f"job {run.lease.id} made no progress for {quiet} and was ended, at {stall.line}")
    return JobTimeout(f"job {run.lease.id} ran longer than its timeout of {show_duration(run.timeout_ms or 0)}")
