"""The ends of runs in child processes that gave no answer: no process to be had, killed by us, or crashed.

Also how the crash of any process is told, which the supervisor needs for the worker processes.
"""

from __future__ import annotations

import contextlib
import os
import signal

from windlass.core.errors import WindlassError
from windlass.core.history import NOWHERE, Origin, encode_error
from windlass.core.work import Outcome, Rules
from windlass.engines.url import rules_of
from windlass.logs import Log
from windlass.worker.attempt.judge import interrupted, timed_out
from windlass.worker.attempt.outcomes import cancelled, crashed, poisoned, snoozed
from windlass.worker.attempt.run import JobRun

__all__ = ["NoProcess", "ProcessDied", "crash_error", "describe", "died", "no_process"]

log = Log("windlass.worker")

NO_PROCESS_DELAY = 1.0  # seconds until a job that found no process is tried again; longer each time, up to the next
NO_PROCESS_DELAY_MAX = 10.0


class ProcessDied(WindlassError):
    """The process that ran the job died."""


class NoProcess(Exception):
    """The system has no process to give, for now."""


def no_process(run: JobRun, error: NoProcess) -> Outcome:
    """Put a job back that found no process to run in: no attempt is used, however often it happens."""
    lease = run.lease
    delay = min(NO_PROCESS_DELAY_MAX, NO_PROCESS_DELAY * 2 ** min(lease.snoozes, 10)) * run.host.rng.uniform(0.5, 1.0)
    log.error("no process can be started for job %s %s, next try in %.1f s: %s", lease.name, lease.id, delay, error)
    reason = f"no process could be started: {error}"
    return snoozed(run, round(delay * 1000), reason)


def died(run: JobRun, status: int | None) -> Outcome | None:
    """The outcome of a run whose process died, by our hand or not."""
    if run.settled:
        return None  # whatever came after its transaction, it stays done
    if run.timed_out or run.interrupted or run.cancelled:
        return killed(run)
    return charged(run, describe(status))


def killed(run: JobRun) -> Outcome | None:
    """The outcome of a run whose process we killed ourselves."""
    if run.timed_out:
        return timed_out(run)
    return interrupted(run) if run.interrupted else cancelled(run, "cancelled")


def charged(run: JobRun, how: str) -> Outcome:
    """A crash charge: again, or dead when there have been too many."""
    lease, host = run.lease, run.host
    error = ProcessDied(f"the process that ran job {lease.id} {how}")
    text = crash_error(error, lease.attempt, host.clock.wall_ms(), host.settings.error_max, run.origin)
    crashes = 0 if run.proven else lease.crashes
    if crashes + 1 >= host.settings.max_crashes:
        return poisoned(run, text)
    return crashed(run, crash_delay(crashes, rules_of(host.settings)), text)


def crash_delay(crashes: int, rules: Rules) -> int:
    """The first crash is claimable at once; from the second on a job waits, twice as long each time up to a bound."""
    return 0 if crashes == 0 else min(rules.crash_delay_max_ms, rules.crash_delay_ms << (crashes - 1))


def crash_error(error: BaseException, attempt: int, at: int, limit: int, origin: Origin = NOWHERE) -> str:
    """A JobError of type ``WorkerCrashed``: the process is gone, so there is no traceback to show."""
    return encode_error(error, attempt=attempt, at=at, limit=limit, origin=origin).replace(
        f'"type":"{type(error).__module__}.{type(error).__qualname__}"', '"type":"WorkerCrashed"', 1
    )


def describe(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None:
        return "died"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(number).name}"
        return f"was killed by signal {number}"
    return f"ended with exit code {os.WEXITSTATUS(status)}"
