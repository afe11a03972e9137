"""One pool in one worker process: its slots, the runs that wait for them, and the queues they serve.

Must not talk to the store: the pump claims for it. Invariant: a run that was claimed for a pool runs in its slots.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine

from windlass.core.work import PoolInfo
from windlass.worker.attempt.run import JobRun
from windlass.worker.lane import Lane
from windlass.worker.layout import PoolPlan
from windlass.worker.loop import Loop, LoopThread
from windlass.worker.threads import Threads

__all__ = ["Pool"]


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
        # The kinds of slot that the application has jobs for; every run of the pool is in one of these.
        # One that has none still puts back what it does not know.
        threads = (self.threads,) if has_sync or not has_async else ()
        self.lanes: tuple[Lane, ...] = (*threads, self.loop) if has_async else threads

    def __str__(self) -> str:
        return f"{self.policy}:{self.threads.count}"

    def start(self) -> None:
        """Start the threads and the event loop, as far as any job here runs in one."""
        if self.threads in self.lanes:
            self.threads.start()
        if self.loop in self.lanes:
            self.loop.start()

    @property
    def info(self) -> PoolInfo:
        """What the worker says of it."""
        plan, policy = self.plan, self.policy
        return PoolInfo(plan.name, str(policy), policy.serves, plan.threads, plan.async_slots, plan.without)

    @property
    def ended(self) -> int:
        """Runs that have ended here, as far as the pump has counted."""
        return sum(lane.ended for lane in self.lanes)

    @property
    def room(self) -> int:
        """Slots that are free and have nothing waiting for them."""
        return sum(lane.room for lane in self.lanes)

    @property
    def waiting(self) -> int:
        """Claimed runs that have not started."""
        return sum(lane.waiting for lane in self.lanes)

    @property
    def is_low(self) -> bool:
        """Whether it is time to claim."""
        return any(lane.is_low for lane in self.lanes)
