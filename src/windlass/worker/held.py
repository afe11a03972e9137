"""The runs that a worker holds: claimed, and not ended. The one record of what its leases are for.

It is a dict, since a method to add a run would cost each job a call. *Thread-safe*, because each step is one operation
of a dict under the interpreter lock: threads take their runs out while the pump puts new ones in.
"""

from __future__ import annotations

from windlass.core.work import LeaseRef
from windlass.worker.attempt.run import JobRun

__all__ = ["Held"]


class Held(dict[str, JobRun]):
    """The runs of one worker, by the id of the job. The same job may be held anew, by a later claim."""

    def drop(self, run: JobRun) -> None:
        """It is held no more."""
        if self.get(run.lease.id) is run:
            del self[run.lease.id]

    def has(self, run: JobRun) -> bool:
        """Whether a run has not ended."""
        return self.get(run.lease.id) is run

    def of(self, ref: LeaseRef) -> JobRun | None:
        """The run of a claim."""
        run = self.get(ref.id)
        return run if run is not None and run.lease.fence == ref.fence else None

    def runs(self) -> list[JobRun]:
        """All of them at this moment."""
        return list(self.values())

    def outlived(self) -> list[JobRun]:
        """Those that go on though their time is up, and that nothing can stop but the end of the process."""
        return [run for run in self.runs() if run.outlived]

    def refs(self) -> list[LeaseRef]:
        """The claims that the worker has."""
        return [LeaseRef(run.lease.id, run.lease.fence) for run in self.runs()]
