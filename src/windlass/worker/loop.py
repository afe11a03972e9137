"""The event loop for async jobs: one loop in one thread, and for each pool its slots on it, a task for each busy one.

Runs come in from the pump's thread, one call into the loop for each claim. A slot's task goes on with the next run that
waits, because a new task per job costs a third of a no-op job; it yields to the other tasks every ``TURN``. A job that
left something behind in its task (a context variable, a cancel) takes the task with it, so no job sees another's.

The jobs share the loop, so none of them may end it, set it up for the others, or cancel their tasks. Invariants: the
loop ends when its worker ends it; a job cancels no task of another job that is running; whatever ends a slot's task,
its job gets an end and the slot is free again.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Final, TypeVar, cast

from windlass.core.foreign import Shield, kind_name, said, start_thread
from windlass.core.model import Slot
from windlass.jobs.context import CURRENT
from windlass.logs import Log
from windlass.worker.attempt.run import JobRun
from windlass.worker.lane import Lane

__all__ = ["JobTask", "Loop", "LoopThread"]

log = Log("windlass.worker")

T = TypeVar("T")

TURN = 0.001  # seconds a slot may go through short jobs before it lets the other tasks run

WHOLE: Final = (
    "stop", "close", "set_task_factory", "set_exception_handler", "set_default_executor", "shutdown_asyncgens",
    "shutdown_default_executor",
)  # fmt: skip
"""What is asked of a loop as a whole. A shutdown recipe calls them, or a library that thinks the loop is its own."""

HANDLE_RUN: Final = asyncio.Handle._run.__code__


class JobTask(asyncio.Task[T]):
    """A task on the loop of the jobs, of a job or one that runs jobs: no other job can cancel it while its own runs.

    ``asyncio.all_tasks()`` gives a job the tasks of all, and recipes for a shutdown cancel what they find there. When
    its job has ended a task is anybody's: it may serve a client that several jobs share.
    """

    run: JobRun | None = None  # the job that runs, or that made it

    def cancel(self, msg: object = None) -> bool:
        caller, run = CURRENT.get(None), self.run
        if caller is None or run is None or run.took_ns or run.context is caller:
            return super().cancel(msg)
        log.warning(
            "job %s %s tried to cancel a task of job %s %s, which goes on; a job may cancel its own tasks only",
            caller.name, caller.id, run.lease.name, run.lease.id,
        )  # fmt: skip
        return False


def make_task(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[object, object, T] | Generator[object, None, T],
    **options: object,
) -> JobTask[T]:
    """The task factory of the loop."""
    task = JobTask(coro, loop=loop, **options)  # type: ignore[arg-type]  # name and context, as asyncio gives them
    context = CURRENT.get(None)
    if context is not None:
        task.run = cast("JobRun", context._run)
    return task


def new_loop() -> asyncio.AbstractEventLoop:
    """Make a loop of the kind that the application's policy gives, which its jobs cannot set up for each other."""
    loop = asyncio.new_event_loop()
    loop.set_task_factory(make_task)
    for name in WHOLE:
        setattr(loop, name, _not_by_a_job(name, getattr(loop, name)))
    return loop


def _not_by_a_job(name: str, method: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(method)
    def guarded(*args: object) -> object:
        job = CURRENT.get(None)
        if job is None:
            return method(*args)
        log.warning(
            "job %s %s called %s() of the event loop, which it shares with other jobs; nothing was done",
            job.name, job.id, name,
        )  # fmt: skip
        return nothing() if inspect.iscoroutinefunction(method) else None

    return guarded


async def nothing() -> None:
    """What a job awaits in place of what is not done."""


class LoopThread:
    """The one event loop of a process, in a thread that starts when first needed."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        """``on_end`` is called when the loop has ended for good though nobody ended it."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._on_end = on_end
        self._stopping = False

    def start(self) -> asyncio.AbstractEventLoop:
        """Give the loop, running. *Idempotent.*"""
        with self._lock:
            if self.loop is None:
                loop = new_loop()
                try:
                    self._thread = start_thread(lambda: self._serve(loop), "windlass-loop")
                except RuntimeError:  # the next run that comes tries again
                    loop.close()
                    raise
                self.loop = loop
            return self.loop

    @property
    def ident(self) -> int | None:
        """The id of the thread."""
        return None if self._thread is None else self._thread.ident

    def call(self, callback: Callable[[], object]) -> None:
        """Have the loop call something soon, in no job's context. *Thread-safe.*"""
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(callback, context=Context())

    def current_run(self) -> JobRun | None:
        """The run that the task belongs to that the loop is in at this moment. *Thread-safe.*"""
        task = None if self.loop is None else asyncio.current_task(self.loop)
        return task.run if isinstance(task, JobTask) else None

    def stop(self, timeout: float) -> None:
        """End the thread; the tasks must have ended or been cancelled."""
        self._stopping = True
        if self.loop is not None and self._thread is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(timeout)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while not (self._stopping or loop.is_closed()):
            try:
                loop.run_forever()
                if not self._stopping:
                    log.error("the event loop of the coroutine jobs was stopped from outside; it goes on")
            except BaseException as error:  # noqa: BLE001 - an exit of one job must not end the loop of the others
                with Shield(log, "it cannot be told what raised an error on the event loop, which goes on"):
                    self._blame(loop, error)
        if not self._stopping:
            log.critical("the event loop of the coroutine jobs was closed from outside; this process ends in order")
            self._on_end()
        loop.close()

    def _blame(self, loop: asyncio.AbstractEventLoop, error: BaseException) -> None:
        """Fail the job whose task or callback raised what leaves the loop, where asyncio tells which."""
        words = f"{kind_name(error)}: {said(error)}"
        handle = _handle_of(error)
        context = None if handle is None else handle._context.get(CURRENT)  # type: ignore[attr-defined]
        if handle is None or context is None:
            log.error("a callback on the event loop of the coroutine jobs raised %s; the loop goes on", words)
            return
        run = cast("JobRun", context._run)
        log.error(
            "job %s %s raised %s in a task or callback of its own; the event loop goes on",
            context.name, context.id, run.hide(words),
        )  # fmt: skip
        task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
        if not isinstance(task, asyncio.Task):
            loop_of(run).exit(run, error)
        elif task.done():
            # Whoever awaits the task gets the error from there, and that takes two turns of the loop.
            loop.call_soon(loop.call_soon, loop_of(run).exit_unless_known, run, error, task)


def _handle_of(error: BaseException) -> asyncio.Handle | None:
    """The callback that an error came out of."""
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is HANDLE_RUN:
            return cast(asyncio.Handle, trace.tb_frame.f_locals["self"])
        trace = trace.tb_next
    return None


class Loop(Lane):
    """Up to ``slots`` async jobs at once."""

    def __init__(
        self,
        slots: int,
        run: Callable[[JobRun, int], Coroutine[object, object, None]],
        rescue: Callable[[JobRun, int, BaseException], None],
        thread: LoopThread,
        first: int = 0,
    ) -> None:
        """``run(job, slot)`` runs one job to its end, its slot counted from ``first``.

        ``rescue(job, slot, error)`` gives a job its end out of which something came nevertheless.
        """
        super().__init__(Slot.LOOP, slots)
        self._run = run
        self._rescue = rescue
        self._waiting: deque[JobRun] = deque()
        self._free = list(range(first + slots - 1, first - 1, -1))
        self._tasks: dict[JobRun, JobTask[None]] = {}
        self._thread = thread
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = False  # a call of _start_some is on its way into the loop

    @property
    def busy(self) -> int:
        return len(self._tasks)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_stuck(self) -> bool:
        return self._starting or self.busy >= self.count  # the former: the loop has not come to its turn

    def start(self) -> asyncio.AbstractEventLoop:
        """Have the loop run, before there is a job: what keeps it from running must not cost one. *Idempotent.*"""
        if self._loop is None:
            self._loop = self._thread.start()
        return self._loop

    def put(self, runs: list[JobRun]) -> None:
        """Add runs to the queue."""
        self._waiting.extend(runs)
        self.start()
        if not self._starting:
            self._starting = True
            self._thread.call(self._start_some)

    def take_back(self) -> list[JobRun]:
        taken: list[JobRun] = []
        while self._waiting:
            try:
                taken.append(self._waiting.popleft())
            except IndexError:  # the loop took the last one
                break
        return taken

    def cancel(self, run: JobRun) -> None:
        """Cancel the task of a run; nothing happens if it has ended."""
        self._thread.call(lambda: self.cancel_here(run))

    def exit(self, run: JobRun, error: BaseException) -> None:
        """Fail a run, unless it has ended, with what its callback raised. For the loop's own thread."""
        if run in self._tasks:
            run.exited = error
            self._tasks[run].cancel()

    def exit_unless_known(self, run: JobRun, error: BaseException, task: asyncio.Task[object]) -> None:
        """Fail a run with what its task raised when nobody has asked the task. For the loop's own thread."""
        if getattr(task, "_log_traceback", False):  # asyncio's own note that nobody has
            self.exit(run, error)

    def _start_some(self) -> None:
        self._starting = False
        self.last_start = time.monotonic()  # the loop turns: what waits for it has a chance again
        loop = self._loop
        assert loop is not None
        while self._waiting and self._free:
            try:
                run = self._waiting.popleft()
            except IndexError:  # taken back in this moment
                return
            slot = self._free.pop()
            task = self._tasks[run] = JobTask(self._work(run, slot), loop=loop, context=Context())
            task.run = run
            task.add_done_callback(functools.partial(self._end_slot, slot), context=Context())

    async def _work(self, first: JobRun, slot: int) -> None:
        """One slot: run after run until none waits."""
        task = cast("JobTask[None]", asyncio.current_task())
        turn_ends = time.monotonic() + TURN
        run: JobRun | None = first
        while run is not None:
            task.run = run
            await self._run(run, slot)
            del self._tasks[run]
            if task.cancelling() or len(copy_context()):  # it began with none
                return
            if time.monotonic() >= turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + TURN
            run = self._next(task)

    def _end_slot(self, slot: int, task: asyncio.Task[None]) -> None:
        """A slot's task has ended, by itself or by what was raised or cancelled in it. Its run gets an end."""
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        run = cast("JobTask[None]", task).run
        try:
            if run is not None and self._tasks.get(run) is task:
                del self._tasks[run]
                self._rescue(run, slot, error or RuntimeError("its task ended without it"))
        finally:
            self._free.append(slot)
            self._start_some()

    def _next(self, task: JobTask[None]) -> JobRun | None:
        try:
            run = self._waiting.popleft()
        except IndexError:
            return None
        self._tasks[run] = task
        return run

    def cancel_here(self, run: JobRun) -> None:
        """Cancel the task of a run. For the loop's own thread."""
        task = self._tasks.get(run)
        if task is not None:
            task.cancel()


def loop_of(run: JobRun) -> Loop:
    """The lane of a run that is a coroutine."""
    assert isinstance(run.lane, Loop)
    return run.lane
