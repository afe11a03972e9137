"""What happens when a run's time is up, by where it runs; and whether the event loop still turns.

A run in a thread is told, and a coroutine is cancelled. One that has not ended ``GRACE`` later has outlived its
timeout, and its process has to end with it. A child process is killed, which ``children`` does.

One coroutine that makes a blocking call holds up all others, and then their time passes too. So a cancel that the loop
came to late counts for nothing, unless its own run held the loop: the others get that time again. Who holds the loop is
read from the stack of its thread, and from the job that the running task belongs to.

A loop that has not turned for ``BLOCKED`` seconds is reported with the job and the line that hold it, and in the slot
table, by which the supervisor's probes tell. It must not end anything itself: ``on_outlived`` does.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType

from windlass.core.clock import Clock
from windlass.core.model import Slot
from windlass.logs import Log
from windlass.worker.attempt.deadlines import Deadlines
from windlass.worker.attempt.execute import run_async
from windlass.worker.attempt.run import JobRun
from windlass.worker.loop import LoopThread, loop_of
from windlass.worker.stacks import where
from windlass.worker.table import SlotTable

__all__ = ["GRACE", "Timeouts"]

log = Log("windlass.worker")

GRACE = 2.0  # seconds that a run may take to notice that its time is up
GIVEN_MOST = 5  # times its timeout that a run may get again: a loop that is always late must not keep one for ever
LATE = 0.25  # seconds by which the loop may be late without being held by somebody
LOOK = 1.0  # seconds between looks whether the loop turns, while coroutine jobs run
BLOCKED = 5.0  # seconds without a turn from which on the loop counts as blocked
BLOCKED_MOST = 15.0  # seconds past a timeout that nobody can be blamed for, until the process ends all the same


class Overtime:
    """A coroutine whose time is up: what became of its cancel."""

    def __init__(self, run: JobRun, *, held_loop: bool) -> None:
        self.run = run
        self.held_loop = held_loop  # it was running when its time was up
        self.at = time.monotonic()
        self.arrived = False  # the loop has come to the cancel


class Timeouts:
    """The timeouts of one worker process, on the thread of its deadlines."""

    def __init__(
        self,
        deadlines: Deadlines,
        loop: LoopThread,
        table: SlotTable,
        clock: Clock,
        *,
        holds: Callable[[JobRun], bool],
        running: Callable[[], bool],
        on_outlived: Callable[[JobRun | None], None],
        prolong: Callable[[JobRun, float], None],
        on_lag: Callable[[JobRun | None, float], None],
    ) -> None:
        """``holds``: whether a run is still on; ``running``: whether any coroutine job is.

        ``on_outlived`` is called once for a run that does not end, and with None when the loop is held by something
        that belongs to no job and a timeout is long past. ``prolong`` tells the supervisor that a run has so many ms
        more, since it ends what it takes for hanging. ``on_lag`` is told who kept the loop, and for how many seconds.
        """
        self._deadlines = deadlines
        self._loop = loop
        self._table = table
        self._clock = clock
        self._holds = holds
        self._running = running
        self._on_outlived = on_outlived
        self._prolong = prolong
        self._on_lag = on_lag
        self._watching = False
        self._lag_from = 0.0  # since when a lag has not been told
        self._asked_at: float | None = None  # since when the loop owes an answer
        self.blocked_by: str | None = None  # what has blocked the loop for ``BLOCKED`` seconds

    def end(self, run: JobRun) -> None:
        """End a run in a thread or on the loop as one whose time is up. For the thread of the deadlines."""
        if run.prepared.slot is Slot.LOOP:
            self._time_out_coroutine(run, late_counts=True)
        else:
            self._time_out_thread(run)

    # -- threads --

    def watch_thread(self, run: JobRun, seconds: float) -> int:
        """Tell a run in a thread when its time is up; give what ``drop`` takes."""
        return self._deadlines.add(seconds, lambda: self._time_out_thread(run))

    def drop(self, number: int) -> None:
        """The run has ended."""
        self._deadlines.drop(number)

    def _time_out_thread(self, run: JobRun) -> None:
        if self._holds(run):
            run.timed_out = run.cancelled = True
            self._deadlines.add(GRACE, lambda: self._outlived(run))

    def _outlived(self, run: JobRun) -> None:
        if self._holds(run):
            self._on_outlived(run)

    # -- coroutines --

    def watch_coroutine(self, run: JobRun, seconds: float) -> int:
        """Cancel a coroutine when its time is up; give what ``drop`` takes."""
        return self._deadlines.add(seconds, lambda: self._time_out_coroutine(run))

    def _time_out_coroutine(self, run: JobRun, *, late_counts: bool = False) -> None:
        if self._holds(run):
            over = Overtime(run, held_loop=late_counts or self.holder() is run)
            self._loop.call(lambda: self._cancel(over))
            self._deadlines.add(GRACE, lambda: self._look_at(over))

    def _cancel(self, over: Overtime) -> None:
        """On the loop: cancel, unless the run spent its time waiting for the loop; then it gets that time again."""
        run, late = over.run, time.monotonic() - over.at
        over.arrived = True
        timeout = (run.timeout_ms or 0) / 1000
        again = min(late, timeout, GIVEN_MOST * timeout - run.given)
        if late > LATE and not over.held_loop and again > 0:
            run.given += again
            self._prolong(run, again * 1000)
            self._deadlines.add(again, lambda: self._time_out_coroutine(run))
        elif self._holds(run):
            run.timed_out = True
            over.at = time.monotonic()  # its grace begins now
            loop_of(run).cancel_here(run)

    def _look_at(self, over: Overtime) -> None:
        """A grace after its time: it does not listen, or it holds the loop, or something else does."""
        run = over.run
        if not self._holds(run) or (over.arrived and not run.timed_out):
            return  # it has ended, or has got its time again
        holder = None if over.arrived else self.holder()
        left = over.at + GRACE - time.monotonic()
        if over.arrived and left > 0.05:
            self._prolong(run, left * 1000)
            self._deadlines.add(left, lambda: self._look_at(over))
        elif over.arrived or holder is run:
            run.timed_out = True
            self._on_outlived(run)
        elif holder is None and time.monotonic() - over.at >= BLOCKED_MOST:
            self._on_outlived(None)
        else:
            self._prolong(run, GRACE * 1000)
            self._deadlines.add(GRACE, lambda: self._look_at(over))

    # -- whether the loop turns --

    def watch_loop(self) -> None:
        """Look at the loop now and then as long as coroutine jobs run. Call it when one has come. *Idempotent.*"""
        if not self._watching:
            self._watching = True
            try:
                self._ask()
            except BaseException:
                self._watching = False  # no room for the thread of the deadlines; the next run that comes tries again
                raise

    def _ask(self) -> None:
        self._asked_at = self._lag_from = time.monotonic()
        self._loop.call(self._answer)
        self._deadlines.add(LOOK, self._look_at_loop)

    def _answer(self) -> None:
        self._asked_at = None

    def _look_at_loop(self) -> None:
        asked_at = self._asked_at
        if asked_at is not None:
            now = time.monotonic()
            stood = now - asked_at
            self._on_lag(self.holder(), now - self._lag_from)
            self._lag_from = now
            if stood >= BLOCKED and self.blocked_by is None:
                self._note_blocked(stood)
            self._deadlines.add(LOOK, self._look_at_loop)
            return
        if self.blocked_by is not None:
            self.blocked_by = None
            self._table.note_blocked(0)
            log.warning("the event loop turns again")
        self._watching = False  # first: a run that comes now begins the watch anew
        if self._running():
            self.watch_loop()

    def _note_blocked(self, stood: float) -> None:
        self._table.note_blocked(self._clock.boot_ms() - round(stood * 1000))
        holder = self.holder()
        who = "something" if holder is None else f"job {holder.lease.name} {holder.lease.id}"
        self.blocked_by = who
        log.error(
            "%s has blocked the event loop for %.0f s, at %s; no other coroutine job of this process runs meanwhile. "
            "Await the call, move it to asyncio.to_thread, or make the job a plain function",
            who, stood, where(self._frame()),
        )  # fmt: skip

    def holder(self) -> JobRun | None:
        """The run whose code the loop's thread is in at this moment, if it is in one."""
        frame = self._frame()
        while frame is not None:
            if frame.f_code is run_async.__code__:
                found = frame.f_locals.get("run")
                return found if isinstance(found, JobRun) else None
            frame = frame.f_back
        return self._loop.current_run()

    def _frame(self) -> FrameType | None:
        ident = self._loop.ident
        return None if ident is None else sys._current_frames().get(ident)
