"""Threads for sync jobs: they take runs from one queue, and hand their outcomes to the worker.

A thread that is busy takes its next run without a hand-over, so a backlog of short jobs costs no switch between
threads. A job with ``executor="process"`` is driven from here too: the thread waits for the child process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import Context
from queue import Empty, SimpleQueue

from windlass.core.foreign import Shield
from windlass.core.model import Slot
from windlass.logs import Log
from windlass.worker.attempt.run import JobRun
from windlass.worker.lane import Lane

__all__ = ["Threads"]

log = Log("windlass.worker")


class Threads(Lane):
    """A fixed number of threads over one queue of runs."""

    def __init__(
        self,
        count: int,
        run: Callable[[JobRun, int], None],
        rescue: Callable[[JobRun, int, BaseException], None],
        first: int = 0,
    ) -> None:
        """``run(job, slot)`` runs one job in the slot of its thread, from ``first`` on.

        ``rescue(job, slot, error)`` gives a job its end out of which something came nevertheless.
        """
        super().__init__(Slot.THREAD, count)
        self._first = first
        self._run = run
        self._rescue = rescue
        self._queue: SimpleQueue[JobRun | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = [False] * count

    def start(self) -> None:
        """Start all threads: one by one when work comes, they would cost the first jobs 0.4 ms each."""
        for number in range(self.count):
            thread = threading.Thread(
                target=self._work, args=(number,), name=f"windlass-job-{self._first + number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    @property
    def busy(self) -> int:
        return sum(self._busy)

    @property
    def waiting(self) -> int:
        return self._queue.qsize()

    @property
    def is_stuck(self) -> bool:
        return all(self._busy)

    def put(self, run: JobRun) -> None:
        """Add a run to the queue."""
        self._queue.put(run)

    def take_back(self) -> list[JobRun]:
        taken: list[JobRun] = []
        while True:
            try:
                run = self._queue.get_nowait()
            except Empty:
                return taken
            if run is not None:
                taken.append(run)

    def stop(self) -> None:
        """Let every thread end after the job it runs."""
        for _ in self._threads:
            self._queue.put(None)

    def _work(self, number: int) -> None:
        ended = False
        while not ended:
            # A job may have an error raised here after it has ended, by a timer that it forgot to stop.
            with Shield(log, "job thread %d was hit between two jobs; it goes on", self._first + number):
                self._work_on(number)
                ended = True

    def _work_on(self, number: int) -> None:
        run_one, busy = self._run, self._busy
        slot = self._first + number
        busy[number] = False
        # A for loop, since an error from another thread strikes at calls, and what get() gives would be lost with it.
        for run in iter(self._queue.get, None):
            try:
                busy[number] = True
                Context().run(run_one, run, slot)  # what a job puts into context variables ends with it
            except BaseException as error:  # noqa: BLE001 - whatever it is, the job gets an end and the thread goes on
                self._rescue(run, slot, error)
            finally:
                busy[number] = False
