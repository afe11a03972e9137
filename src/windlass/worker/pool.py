"""One pool in one worker process: its slots, the runs that wait for them, and the queues they serve.

Must not talk to the store: the pump claims for it. Invariant: a run that was claimed for a pool runs in its slots.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine

from windlass.model import PoolInfo
from windlass.worker.layout import PoolPlan
from windlass.worker.loop import Loop, LoopThread
from windlass.worker.run import JobRun
from windlass.worker.threads import Threads

__all__ = ["Pool"]

MIXED_MOST = 10  # how many runs may wait when only one kind of slot is free and either kind of job may come


class Pool:
    """Threads and places on the event loop for one set of queues."""

    def __init__(
        self,
        plan: PoolPlan,
        first: int,
        loop: LoopThread,
        run_in_thread: Callable[[JobRun, int], None],
        run_on_loop: Callable[[JobRun, int], Coroutine[object, object, None]],
        rescue: Callable[[JobRun, int, BaseException], None],
        *,
        has_sync: bool,
        has_async: bool,
    ) -> None:
        """``first`` is the place of its first slot in the slot table of the process."""
        self.plan = plan
        self.policy = plan.policy()
        self.threads = Threads(plan.threads, run_in_thread, rescue, first)
        self.loop = Loop(plan.async_slots, run_on_loop, rescue, loop, first + plan.threads)
        self.ended = 0  # runs that have ended here, as far as the pump has counted
        self.low_water = 0  # it is time to claim when no more runs than this wait for a slot
        self.last_start = time.monotonic()  # of a run
        self._has_sync = has_sync
        self._has_async = has_async

    def __str__(self) -> str:
        return f"{self.policy}:{self.threads.count}"

    def start(self) -> None:
        """Start the threads and the event loop, as far as any job here runs in one."""
        if self._has_sync:
            self.threads.start()
        if self._has_async:
            self.loop.start()

    @property
    def info(self) -> PoolInfo:
        """What the worker says of it."""
        plan, policy = self.plan, self.policy
        return PoolInfo(plan.name, str(policy), policy.serves, plan.threads, plan.async_slots, plan.without)

    @property
    def room(self) -> int:
        """Slots that are free and have nothing waiting for them."""
        threads = self.threads.count - self.threads.busy - self.threads.waiting
        tasks = self.loop.slots - self.loop.busy - self.loop.waiting
        if not self._has_async:
            return threads
        if not self._has_sync:
            return tasks
        # A claim does not say which kind it will bring: take what both could hold, or a little for the one that can.
        return min(threads, tasks) if threads > 0 and tasks > 0 else min(max(threads, tasks), MIXED_MOST - self.waiting)

    @property
    def waiting(self) -> int:
        """Claimed runs that have not started."""
        return self.threads.waiting + self.loop.waiting

    @property
    def is_low(self) -> bool:
        """Whether it is time to claim."""
        return self.waiting <= self.low_water

    def take_back(self) -> list[JobRun]:
        """Remove every run that has not started."""
        return [*self.threads.take_back(), *self.loop.take_back()]
