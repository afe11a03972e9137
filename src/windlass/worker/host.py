"""The host of runs: where a run begins and ends, in a thread or on the loop, and what is done to it meanwhile.

Each run that a lane starts gets exactly one end here, whatever comes out of it: its outcome goes to the settler, and
the slot table and the pump are told. The host must not talk to the store, nor decide how a job ends: ``attempt`` does
that. It is called from every job thread, from the loop, and from the threads of the heart and the deadlines.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from random import Random

from windlass.core.clock import Clock
from windlass.core.history import Origin
from windlass.core.model import Slot
from windlass.core.units import show_duration
from windlass.core.work import LeaseRef, Outcome
from windlass.engines.base import Store
from windlass.events import Events
from windlass.logs import Log
from windlass.settings import Settings
from windlass.worker.attempt.budget import budgets_of
from windlass.worker.attempt.deadlines import Deadlines
from windlass.worker.attempt.execute import run_async, run_sync
from windlass.worker.attempt.guarded import count_outlived, run_async_guarded, run_guarded
from windlass.worker.attempt.judge import escaped
from windlass.worker.attempt.outcomes import released
from windlass.worker.attempt.run import JobRun
from windlass.worker.children import Children
from windlass.worker.heart import Trust
from windlass.worker.held import Held
from windlass.worker.loop import LoopThread, loop_of
from windlass.worker.notes import Notes
from windlass.worker.pump import Pump
from windlass.worker.settler import Settler
from windlass.worker.stalls import Stalls
from windlass.worker.table import Running, SlotTable, monotonic_ms
from windlass.worker.timeouts import GRACE, Timeouts

__all__ = ["RunHost"]

log = Log("windlass.worker")


class RunHost:
    """Runs the jobs of one worker process. Fulfils ``attempt.run.Host``."""

    pump: Pump  # that hears of ends; set before the first run comes

    def __init__(
        self,
        engine: Store,
        clock: Clock,
        settings: Settings,
        events: Events,
        origin: Origin,
        *,
        held: Held,
        notes: Notes,
        settler: Settler,
        table: SlotTable,
        loop: LoopThread,
        children: Children | None,
        trust: Callable[[], Trust],
        running: Callable[[], bool],
        on_overrun: Callable[[], None],
    ) -> None:
        """``trust`` is how far the lease carries; ``running``: whether any coroutine job is.

        ``on_overrun`` is called when the worker has to end, since a job does not.
        """
        self.engine = engine
        self.clock = clock
        self.settings = settings
        self.events = events
        self.origin = origin
        self.rng = Random()
        self.stopping = False
        self.ended: deque[JobRun] = deque()  # and not counted yet
        self.deadlines = Deadlines()
        self.timeouts = Timeouts(
            self.deadlines, loop, table, clock,
            holds=held.has, running=running, on_outlived=self._outlived, prolong=self.prolong,
            on_lag=lambda holder, seconds: self.stalls.lagged(holder, seconds),
        )  # fmt: skip
        self.stalls = Stalls(self.deadlines, loop, holds=held.has, holder=self.timeouts.holder, end=self._end_stalled)
        self._held = held
        self._notes = notes
        self._begun = notes.begun
        self._settler = settler
        self._table = table
        self._children = children
        self._trust = trust
        self._on_overrun = on_overrun
        self._budgets = budgets_of(settings)

    # -- a run, from its begin to its end --

    def run_in_thread(self, run: JobRun, slot: int) -> None:
        """Run a job to its end in this thread, or in a child process that this thread waits for."""
        if self._give_back_if_lost(run):
            return
        timeout = run.timeout_ms
        began = self._begin(run, slot, timeout)
        if run.prepared.in_child and self._children is not None:
            children = self._children
            outcome = run_guarded(run, lambda run: children.run(run, self.deadlines, self.stalls))
        else:
            watch = None if timeout is None else self.timeouts.watch_thread(run, timeout / 1000)
            stall = None if run.stall_ms is None else self.stalls.watch_thread(run)
            outcome = run_guarded(run) if run.lease.guards else run_sync(run)
            if watch is not None:
                self.timeouts.drop(watch)
            if stall is not None:
                self.stalls.drop(stall)
        self._end(run, slot, outcome, began)

    async def run_on_loop(self, run: JobRun, slot: int) -> None:
        """Run an async job to its end in this task."""
        if self._give_back_if_lost(run):
            return
        timeout = run.timeout_ms
        began = self._begin(run, slot, timeout)
        watch = None if timeout is None else self.timeouts.watch_coroutine(run, timeout / 1000)
        stall = None if run.stall_ms is None else self.stalls.watch_coroutine(run)
        outcome = await (run_async_guarded(run) if run.lease.guards else run_async(run))
        if watch is not None:
            self.timeouts.drop(watch)
        if stall is not None:
            self.stalls.drop(stall)
        self._end(run, slot, outcome, began)

    def rescue(self, run: JobRun, slot: int, error: BaseException) -> None:
        """Give a job an end out of which an error came on a way that none should."""
        if self._held.has(run):
            self._end(run, slot, escaped(run, error), run.began_ns or time.monotonic_ns())

    def _give_back_if_lost(self, run: JobRun) -> bool:
        """Whether a run must not begin, since the lease is over: a process that was stopped may wake up right here."""
        if not run.lost and self._trust() < Trust.NO_SETTLES:
            return False
        self._held.drop(run)
        if not run.lost:
            self._settler.add(released(run))
        return True

    def _begin(self, run: JobRun, slot: int, timeout: int | None) -> int:
        """Note that a run begins, where the supervisor can see it; give the time in ns."""
        lease = run.lease
        self._table.begin(lease.fence)
        if timeout is not None:
            run.slot = slot
            thread = 0 if run.prepared.in_child else threading.get_native_id()
            self._table.enter(slot, Running(lease.id, lease.name, lease.fence, monotonic_ms() + timeout, thread))
        began = time.monotonic_ns()
        run.lane.last_start = began / 1e9
        if lease.held:
            self._begun[run] = began
        return began

    def _end(self, run: JobRun, slot: int, outcome: Outcome | None, began: int) -> None:
        lease = run.lease
        if run.slot >= 0:
            self._table.leave(slot)
        if outcome is None:
            self._table.settle(lease.fence)
        self._held.drop(run)
        if lease.held:
            self._begun.pop(run, None)
        run.ended_ns = ended = time.monotonic_ns()
        run.took_ns = ended - began
        if self._budgets and (budget := self._budgets.get(lease.queue)) is not None:
            budget.count()
        run.outcome = outcome
        self.ended.append(run)
        full = self._settler.add(outcome) if outcome is not None else False
        self.pump.poke(run.lane, full=full)

    # -- what runs ask for (attempt.run.Host) --

    def note(self, run: JobRun, key: str, value: str | None, *, durable: bool = False) -> None:
        self._notes.add(run, key, value, durable=durable)
        if self.pump.sleeping:
            self.pump.wake()

    def prolong(self, run: JobRun, ms: float) -> None:
        """Tell the supervisor that a run with a timeout has so much time from now on. *Thread-safe.*"""
        if run.slot >= 0 and self._held.has(run):
            self._table.prolong(run.slot, monotonic_ms() + round(ms))

    def defer(self, run: JobRun, delay_ms: int) -> int:
        budget = self._budgets.get(run.lease.queue)
        if budget is None:
            return delay_ms
        delay = budget.defer(delay_ms)
        run.deferred = delay > delay_ms
        return delay

    # -- what is done to them --

    def cancel(self, ref: LeaseRef) -> None:
        """Cancel the run of a claim, as far as its body can be."""
        run = self._held.of(ref)
        if run is not None and not run.cancelled:
            run.cancelled = True
            self._end_body(run)

    def lose(self, run: JobRun) -> None:
        """Stop a run whose job another worker has now."""
        run.lost = run.cancelled = True
        self._end_body(run)

    def interrupt(self, run: JobRun) -> None:
        """Stop a run since the worker ends."""
        run.interrupted = run.cancelled = True
        self._end_body(run)

    def can_end(self, run: JobRun) -> bool:
        """Whether this process can make the body end: a coroutine or a child, not a thread."""
        return run.prepared.slot is Slot.LOOP or (run.prepared.in_child and self._children is not None)

    def is_hopeless(self, run: JobRun) -> bool:
        """Whether a run cannot end any more: it has outlived its timeout, or one that has holds the event loop."""
        if run.outlived or run.prepared.slot is not Slot.LOOP:
            return run.outlived
        return any(one.prepared.slot is Slot.LOOP for one in self._held.outlived())

    def _end_body(self, run: JobRun) -> None:
        if run.prepared.slot is Slot.LOOP:
            loop_of(run).cancel(run)
        elif run.prepared.in_child and self._children is not None:
            self._children.kill(run)

    def _end_stalled(self, run: JobRun) -> None:
        """End a run that makes no progress, as one whose time is up."""
        if run.prepared.in_child and self._children is not None:
            self._children.kill(run, timed_out=True)
        else:
            self.timeouts.end(run)

    def _outlived(self, run: JobRun | None) -> None:
        """A run does not end though its time is up; None: nobody's code keeps one from ending. This process has to."""
        if run is None:
            log.error("a job is past its timeout, and the event loop is blocked by no known job; this process ends")
        else:
            log.error(
                "job %s %s still runs %s after %s; this process ends when its other jobs have ended, and the "
                "job is settled then. %s",
                run.lease.name, run.lease.id, show_duration(GRACE * 1_000),
                "its timeout" if run.stall is None else "it was to end for its stall",
                "It must not block the event loop or ignore its cancellation" if run.prepared.slot is Slot.LOOP
                else 'Give it executor="process" to make it killable',
            )  # fmt: skip
            run.outlived = True
        self._on_overrun()
        if run is not None:
            count_outlived(run)
