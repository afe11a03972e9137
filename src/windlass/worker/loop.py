"""The event loop for async jobs: one loop in one thread, and for each pool its slots on it, a task for each busy one.

Runs come in from the pump's thread, one call into the loop for each claim. A slot's task goes on with the next run that
waits, because a new task per job costs a third of a no-op job; it yields to the other tasks every ``TURN``. A job that
left something behind in its task (a context variable, a cancel) takes the task with it, so no job sees another's.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, cast

from windlass.context import CURRENT
from windlass.logs import Log
from windlass.worker.run import JobRun

__all__ = ["Loop", "LoopThread"]

log = Log("windlass.worker")

TURN = 0.001  # seconds a slot may go through short jobs before it lets the other tasks run


class LoopThread:
    """The one event loop of a process, in a thread that starts when first needed."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> asyncio.AbstractEventLoop:
        """Give the loop, running. *Idempotent.*"""
        with self._lock:
            if self.loop is None:
                self.loop = asyncio.new_event_loop()
                if sys.version_info < (3, 12):
                    self.loop.set_task_factory(remember_context)
                self._thread = threading.Thread(
                    target=self._serve, args=(self.loop,), name="windlass-loop", daemon=True
                )
                self._thread.start()
            return self.loop

    @property
    def ident(self) -> int | None:
        """The id of the thread."""
        return None if self._thread is None else self._thread.ident

    def call(self, callback: Callable[[], object]) -> None:
        """Have the loop call something soon. *Thread-safe.*"""
        if self.loop is not None:
            self.loop.call_soon_threadsafe(callback)

    def current_run(self) -> JobRun | None:
        """The run that the task belongs to that the loop is in at this moment. *Thread-safe.*"""
        task = None if self.loop is None else asyncio.current_task(self.loop)
        if task is None:
            return None
        if sys.version_info >= (3, 12):
            context = task.get_context().get(CURRENT)
        else:
            context = getattr(task, "windlass_context", None)
        return None if context is None else cast("JobRun", context._run)

    def stop(self, timeout: float) -> None:
        """End the thread; the tasks must have ended or been cancelled."""
        if self.loop is not None and self._thread is not None:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(timeout)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()


class Loop:
    """Up to ``slots`` async jobs at once."""

    def __init__(
        self,
        slots: int,
        run: Callable[[JobRun, int], Coroutine[object, object, None]],
        thread: LoopThread,
        first: int = 0,
    ) -> None:
        """``run(job, slot)`` runs one job to its end, its slot counted from ``first``; it must not raise."""
        self.slots = slots
        self._run = run
        self._waiting: deque[JobRun] = deque()
        self._free = list(range(first + slots - 1, first - 1, -1))
        self._tasks: dict[JobRun, asyncio.Task[None]] = {}
        self._thread = thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = False  # a call of _start_some is on its way into the loop

    @property
    def busy(self) -> int:
        """How many jobs are running."""
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        """How many runs wait for a slot."""
        return len(self._waiting)

    def start(self) -> asyncio.AbstractEventLoop:
        """Have the loop run, before there is a job: what keeps it from running must not cost one. *Idempotent.*"""
        if self._loop is None:
            self._loop = self._thread.start()
        return self._loop

    def put(self, runs: list[JobRun]) -> None:
        """Add runs to the queue."""
        self._waiting.extend(runs)
        loop = self.start()
        if not self._starting:
            self._starting = True
            loop.call_soon_threadsafe(self._start_some)

    def take_back(self) -> list[JobRun]:
        """Remove every run that has not started."""
        taken: list[JobRun] = []
        while self._waiting:
            try:
                taken.append(self._waiting.popleft())
            except IndexError:  # the loop took the last one
                break
        return taken

    def cancel(self, run: JobRun) -> None:
        """Cancel the task of a run; nothing happens if it has ended."""
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(self._cancel, run)

    def _start_some(self) -> None:
        self._starting = False
        loop = self._loop
        assert loop is not None
        while self._waiting and self._free:
            try:
                run = self._waiting.popleft()
            except IndexError:  # taken back in this moment
                return
            slot = self._free.pop()
            self._tasks[run] = loop.create_task(self._work(run, slot))

    async def _work(self, first: JobRun, slot: int) -> None:
        """One slot: run after run until none waits."""
        task = cast("asyncio.Task[None]", asyncio.current_task())
        clean = copy_context()
        turn_ends = time.monotonic() + TURN
        run: JobRun | None = first
        while run is not None:
            await self._run(run, slot)
            del self._tasks[run]
            if task.cancelling() or copy_context() != clean:
                break
            if time.monotonic() >= turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + TURN
            run = self._next(task)
        self._free.append(slot)
        self._start_some()

    def _next(self, task: asyncio.Task[None]) -> JobRun | None:
        try:
            run = self._waiting.popleft()
        except IndexError:
            return None
        self._tasks[run] = task
        return run

    def _cancel(self, run: JobRun) -> None:
        task = self._tasks.get(run)
        if task is not None:
            task.cancel()


def remember_context(
    loop: asyncio.AbstractEventLoop, coroutine: Any, context: Context | None = None
) -> asyncio.Task[Any]:
    """Make a task that knows its job, which Python tells of a task from 3.12 on."""
    task = asyncio.Task(coroutine, loop=loop, context=context)
    task.windlass_context = CURRENT.get(None)  # type: ignore[attr-defined]
    return task
