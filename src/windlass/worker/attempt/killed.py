"""The end of a job whose process had to be killed for it: another process says what it is, from what the store has."""

from __future__ import annotations

import time

from windlass.core.rows import JobRow
from windlass.core.work import Lease, Outcome
from windlass.worker.attempt.judge import timed_out
from windlass.worker.attempt.run import Host, JobRun, Prepared

__all__ = ["killed"]


def killed(row: JobRow, prepared: Prepared, host: Host) -> Outcome:
    """What becomes of a job that did not end when its time was up, and was killed with its process."""
    run = JobRun(lease_of(row), prepared, host)
    run.timed_out = True
    run.began_ns = time.monotonic_ns() - (run.timeout_ms or 0) * 1_000_000
    return timed_out(run)


def lease_of(row: JobRow) -> Lease:
    """The claim of a job that runs, as far as its record tells."""
    return Lease(
        row.id, row.name, row.queue, row.payload, row.fence, row.attempt, row.max_attempts, row.priority,
        row.enqueued_at, row.run_at, row.crashes, row.interruptions, row.snoozes, row.tags, row.meta, row.reason,
        guards=row.guards,
    )  # fmt: skip
