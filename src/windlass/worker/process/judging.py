"""What becomes of jobs whose process had to be killed for them: another process, which knows the application, decides.

The supervisor knows no retry policy. Until there is an answer, it renews the lease of the dead process, so that nobody
runs these jobs meanwhile. When no answer comes in time, the jobs are charged with the crash.
"""

from __future__ import annotations

from collections.abc import Sequence

from windlass.core.work import LeaseRef, Outcome
from windlass.worker.process.fleet import Fleet
from windlass.worker.process.generation import Process
from windlass.worker.process.messages import Bye, Judge
from windlass.worker.table import Running

__all__ = ["Judging"]

JUDGED_WITHIN = 15.0  # seconds for another process to say what becomes of a job that had to be killed


class Judging:
    """The processes that were killed for jobs of theirs, and nobody has said yet what becomes of those."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._unjudged: list[Process] = []

    @property
    def pending(self) -> bool:
        """Whether anybody waits for a word."""
        return bool(self._unjudged)

    def begin(self, process: Process) -> None:
        """Have a process that knows the application say what becomes of the jobs that another was killed for.

        Which of several coroutines held the loop, nobody knows, nor who stopped a process (SIGSTOP). They count as
        having crashed it, which uses no attempt, and in the end each runs alone.
        """
        self._unjudged.append(process)
        if self._fleet.stopping or process.was_stopped or share_a_thread(process.culprits):
            self._give_up(process)
        else:
            self.ask()
            self._fleet.timers.after(JUDGED_WITHIN, lambda: self._give_up(process))

    def ask(self) -> None:
        """Ask whoever can answer, if there is one."""
        able = self._fleet.able()
        if able is not None:
            for process in self._unjudged:
                able.send(Judge(process.token, tuple(LeaseRef(one.id, one.fence) for one in process.culprits)))

    def answered(self, token: int, outcomes: tuple[Outcome, ...]) -> None:
        """Somebody has said what becomes of the jobs of a process."""
        process = next((one for one in self._unjudged if one.token == token), None)
        if process is not None and self._fleet.reports is not None:
            self._unjudged.remove(process)
            process.bye = Bye(overdue=outcomes, held=True)
            self._fleet.reports.departed(process)

    def hold(self) -> None:
        """Keep the leases of those processes."""
        if self._fleet.reports is not None:
            for process in self._unjudged:
                self._fleet.reports.hold(process)

    def give_up(self) -> None:
        """Wait for no answer any more."""
        for process in list(self._unjudged):
            self._give_up(process)

    def _give_up(self, process: Process) -> None:
        """Nobody can say: the jobs are charged as if they had crashed their process, which they have."""
        if process in self._unjudged and self._fleet.reports is not None:
            self._unjudged.remove(process)
            fences = [one.fence for one in process.culprits]
            self._fleet.reports.died(process, fences, "had to be killed: the job was past its timeout and did not end")
            self._fleet.end_reports()


def share_a_thread(jobs: Sequence[Running]) -> bool:
    """Whether some of these jobs are coroutines of one loop; those in children have no thread here."""
    threads = [one.thread for one in jobs if one.thread]
    return len(set(threads)) < len(threads)
