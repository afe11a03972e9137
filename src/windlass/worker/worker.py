"""One worker: the parts of a running process put together, and the order in which they start and stop.

The pump hands claimed jobs to its slots, which put them into the threads or the loop of a pool. There they run and end
in the host; their outcomes go to the settler, which the pump empties. What the parts share has one owner each: ``held``
the runs, ``notes`` what the store is told of them, ``account`` what was done. What becomes of a job is not decided
here.

Start: register (heart), then keeper and pump.

Stop, in this order, and every step for a reason:

1. stop claiming: nothing new comes in
2. release what was claimed and has not started: others can have it at once, nothing is charged
3. let running jobs end within the grace; leases go on being renewed meanwhile
4. cancel coroutines and kill child processes; their jobs are given back, counted as interrupted
5. settle everything that has ended
6. deregister last. A thread that still runs a job cannot be stopped, so its job is not given back here: that happens
   when the process has gone (its supervisor does it, or the lease runs out). Never a second run beside a body that
   still runs.
7. ``finish_hooks``: they are for people, so neither the store nor the supervisor need wait for them

A job in a thread that outlives its timeout ends its process the same way: neighbours finish first, and its failure is
settled only after the process has gone.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence

from windlass.core.clock import Clock, SystemClock
from windlass.core.errors import EngineError
from windlass.core.foreign import shield_logs
from windlass.core.history import Origin
from windlass.core.ids import new_id
from windlass.core.model import Slot, State
from windlass.core.recovery import rules_in
from windlass.core.work import LeaseRef, Outcome, Upkeep, WorkerInfo
from windlass.engines.base import Store
from windlass.engines.url import rules_of
from windlass.events import Events, StoreRolledBack, WorkerStarted, WorkerStopped
from windlass.jobs.hooks import Hooks, Moment
from windlass.jobs.middleware import Middleware
from windlass.jobs.registry import Registry
from windlass.logs import Log
from windlass.settings import Settings
from windlass.worker.account import Account
from windlass.worker.archive import Archive
from windlass.worker.attempt.endings import Endings
from windlass.worker.attempt.execute import prepare
from windlass.worker.attempt.judge import timed_out
from windlass.worker.attempt.killed import killed
from windlass.worker.attempt.outcomes import released
from windlass.worker.attempt.run import Prepared
from windlass.worker.beats import Beats
from windlass.worker.children import Children, Fork
from windlass.worker.heart import Heart
from windlass.worker.held import Held
from windlass.worker.hooks import HookThread
from windlass.worker.host import RunHost
from windlass.worker.keeper import Keeper
from windlass.worker.layout import PoolPlan
from windlass.worker.loop import LoopThread
from windlass.worker.notes import Notes
from windlass.worker.pool import Pool
from windlass.worker.pump import Pump
from windlass.worker.recycle import Recycler
from windlass.worker.redriver import Redriver
from windlass.worker.settler import Settler
from windlass.worker.slots import WorkerSlots
from windlass.worker.table import SlotTable

__all__ = ["Worker", "WorkerOptions"]

log = Log("windlass.worker")

CANCEL_GRACE = 1.0  # seconds for coroutines to end after they were cancelled at shutdown


class WorkerOptions:
    """How one worker process is to run."""

    def __init__(
        self,
        *,
        pools: Sequence[PoolPlan] = (),
        burst: bool = False,
        alone: bool = False,
        quiet: bool = False,
        group: str | None = None,
        supervisor_pid: int | None = None,
        version: str = "",
    ) -> None:
        """``pools`` stand side by side; none: one for every queue, as large as the settings say."""
        self.pools = tuple(pools)
        self.burst = burst
        self.alone = alone  # run jobs that killed their process before, one at a time
        self.quiet = quiet  # claim nothing from the start
        self.group = group
        self.supervisor_pid = supervisor_pid
        self.version = version


class Worker:
    """Runs jobs in this process until it is stopped. One incarnation: it cannot be started twice."""

    def __init__(
        self,
        engine: Store,
        registry: Registry,
        settings: Settings,
        events: Events,
        middleware: Middleware,
        options: WorkerOptions | None = None,
        *,
        clock: Clock | None = None,
        table: SlotTable | None = None,
        fork: Fork | None = None,
        on_alone: Callable[[int], None] | None = None,
        on_full: Callable[[], None] | None = None,
        on_overrun: Callable[[], None] = lambda: None,
        on_control: Callable[[str], None] | None = None,
        hooks: Hooks | None = None,
    ) -> None:
        """``fork`` starts child processes for ``executor="process"``; without it such jobs run in a thread.

        ``on_full`` is called when a successor should start (``max_jobs``, ``max_memory``; without it, no bound),
        ``on_overrun`` when this worker ends because a job does not, ``on_control`` with what somebody asked of this
        worker through the store (without it, it obeys by itself).
        """
        options = options or WorkerOptions()
        shield_logs()
        self.engine = engine
        self.settings = settings
        self.events = events
        self.clock = clock or SystemClock()
        self.options = options
        self.cut_off = False
        self._end = threading.Event()
        self._abort = threading.Event()
        self._on_overrun = on_overrun
        self._on_alone = on_alone
        self._circuits = registry.circuits
        self._prepared: dict[str, Prepared] = {
            name: prepare(registry.get(name), middleware, registry.circuits) for name in registry.all_names()
        } | {name: prepare(spec, Middleware()) for name, spec in registry.builtin().items()}
        plans = options.pools or (PoolPlan("common", (), settings.threads, settings.async_slots),)
        slots = sum(plan.threads + plan.async_slots for plan in plans)
        worker_id, machine = new_id(), socket.gethostname()
        self._table = table or SlotTable.create(slots)
        self._held = Held()
        self._notes = Notes()
        self._settler = Settler(settings.settle_batch, settings.settle_flush)
        self._endings = Endings(self.clock, quiet=settings.quiet_jobs)
        self._hooks = HookThread(hooks or Hooks(), engine, registry, events)
        self._children = Children(fork) if fork is not None else None
        self._loop = LoopThread(self.stop)
        self._heart = Heart(
            engine,
            self.clock,
            lambda: self._account.info(),
            lease_ms=settings.lease,
            renew_ms=settings.renew,
            table=self._table,
            leases=self._held.refs,
            on_beat=lambda beat: self._beats.hear(beat),
            on_end=self._cut_off,
        )
        self._host = host = RunHost(
            engine,
            self.clock,
            settings,
            events,
            Origin(machine, worker_id, options.version),
            held=self._held,
            notes=self._notes,
            settler=self._settler,
            table=self._table,
            loop=self._loop,
            children=self._children,
            trust=self._heart.trust,
            running=lambda: any(pool.loop.busy for pool in self._pools),
            on_overrun=self._overrun,
        )
        self._pools: list[Pool] = self._make_pools(plans)
        only = self._pools[0].policy if len(self._pools) == 1 else None
        self.info = WorkerInfo(
            id=worker_id,
            group=options.group or new_id(),
            host=machine,
            pid=os.getpid(),
            queues=" ".join(map(str, self._pools)) if only is None else str(only),
            slots=slots,
            version=options.version,
            started_at=self.clock.wall_ms(),
            pools=tuple(pool.info for pool in self._pools),
            supervisor_pid=options.supervisor_pid,
        )
        self._account = Account(self.info, host, held=self._held, table=self._table, children=self._children)
        self._beats = Beats(host, self._held, self._settler, on_control or self._obey)
        self._redriver = Redriver(engine, self.info.id)
        self._keeper = Keeper(
            engine,
            rules_of(settings),
            settings.reap,
            host.rng,
            self._on_upkeep,
            events=events,
            redriver=self._redriver,
            recoveries=[*registry.recoveries, *rules_in(settings.recover)],
            archive=None if settings.dead_archive is None else Archive(settings.dead_archive, engine),
        )
        self._slots = WorkerSlots(
            self._prepared,
            host,
            held=self._held,
            notes=self._notes,
            settler=self._settler,
            table=self._table,
            heart=self._heart,
            account=self._account,
            endings=self._endings,
            hooks=self._hooks,
        )
        bounded = on_full is not None and not options.alone
        self._pump = host.pump = Pump(
            engine,
            settings,
            self.info.id,
            self._pools,
            self._settler,
            self._slots,
            host.rng,
            Recycler(
                settings.max_jobs if bounded else None,
                settings.max_memory if bounded else None,
                on_full or (lambda: None),
            ),
            alone=options.alone,
            when_empty=self._store_is_empty if options.burst or options.alone else None,
        )

    def _make_pools(self, plans: Sequence[PoolPlan]) -> list[Pool]:
        host, kinds = self._host, {one.slot for one in self._prepared.values()}
        pools, first = [], 0
        for plan in plans:
            pools.append(
                Pool(
                    plan, first, self._loop, host.run_in_thread, host.run_on_loop, host.rescue,
                    has_sync=Slot.THREAD in kinds, has_async=Slot.LOOP in kinds,
                )
            )  # fmt: skip
            first += plan.threads + plan.async_slots
        return pools

    # -- life --

    @property
    def stopping(self) -> bool:
        """Whether it has been told to end."""
        return self._host.stopping

    @property
    def held(self) -> int:
        """Claimed runs that have not ended."""
        return len(self._held)

    def run(self) -> None:
        """Work until ``stop``, or in burst mode until nothing is left. *Blocking.*"""
        self.start()
        self.wait()
        self.shut_down()
        self.finish_hooks()

    def start(self, on_claiming: Callable[[], None] = lambda: None) -> None:
        """Register and begin to claim, then tell the application. Raises EngineError when the store is away.

        ``on_claiming`` is called in between: from then on there may be jobs, and a handler may take its time.
        """
        self.engine.open()
        self._heart.start()
        if self._children is not None and any(one.in_child for one in self._prepared.values()):
            self._children.open()
        for pool in self._pools:
            pool.start()
        self._keeper.start()
        if self.options.quiet:
            self._pump.quiet()
        self._pump.start()
        on_claiming()
        self.events.emit(WorkerStarted(self.info.id))
        log.info(
            "worker %s serves %s with %d threads and %d async slots",
            self.info.id, self.info.queues,
            sum(pool.threads.count for pool in self._pools), sum(pool.loop.count for pool in self._pools),
        )  # fmt: skip

    def wait(self) -> None:
        """Block until somebody called ``stop``, or until a burst has found the store empty."""
        if self._pump.empty.is_set():
            return
        if self.options.burst or self.options.alone:
            while not (self._pump.empty.wait(0.1) or self._end.is_set()):
                pass
        else:
            self._end.wait()

    def quiet(self) -> None:
        """Claim no more; what is held goes on."""
        self._pump.quiet()

    def stop(self) -> None:
        """Begin an orderly end; ``run`` returns when it is over. *Idempotent, thread-safe.*"""
        self._host.stopping = True
        self._pump.quiet()
        self._end.set()

    def abort(self) -> None:
        """End without a grace: jobs that run are given back."""
        self._abort.set()
        self.stop()

    def shut_down(self) -> bool:
        """Stop in the order of this module's docstring; false when a thread still runs a job afterwards. *Blocking.*"""
        self._host.stopping = True
        self._pump.quiet()
        if self._children is not None:
            self._children.stop()
        deadline = time.monotonic() + self.settings.shutdown_timeout / 1000
        # What a claim that is under way brings must be seen below, or it would be cut off with no grace at all.
        while not (self._pump.rest(0.02) or self._abort.is_set()) and time.monotonic() < deadline:
            pass
        for lane in (lane for pool in self._pools for lane in pool.lanes):
            self._slots.give_back(lane)
        self._wait_for_runs(deadline)
        self._interrupt_runs()
        self._pump.stop()
        self._heart.stop()
        self._keeper.stop()
        self._redriver.stop()
        self._host.deadlines.close()
        if self._children is not None:
            self._children.close()
        for pool in self._pools:
            pool.threads.stop()
        self._loop.stop(CANCEL_GRACE)
        for run in self._held.runs():
            if not run.outlived:  # it comes back when this process has gone
                self._endings.tell_one(run.lease, released(run, interrupted=True), run)
        self._pump.settle_rest()  # threads may have ended since
        self._slots.tally()
        clean = not self._held
        if clean and not self.cut_off:
            self._depart()
        self.events.emit(WorkerStopped(self.info.id))
        return clean

    def finish_hooks(self) -> None:
        """Let the hooks that are owed run, within some seconds. *Blocking.*"""
        self._hooks.close()

    def answer(self) -> None:
        """Tell the supervisor that threads of this process get to run."""
        self._table.answer(self.clock.boot_ms())

    def overdue(self) -> list[Outcome]:
        """The outcomes of jobs that outlived their timeout in a thread: to be settled when this process has gone."""
        outlived = self._held.outlived()
        if outlived and self._circuits is not None:
            self._circuits.flush(self.engine)  # the process ends before they would report what was counted last
        outcomes = []
        for run in outlived:
            outcomes.append(timed_out(run))
            self._endings.tell_one(run.lease, outcomes[-1], run)
        return outcomes

    def judge(self, ref: LeaseRef) -> Outcome | None:
        """What becomes of a job that was killed with another process, since it did not end when its time was up.

        None: the job is not that process's any more. *Blocking.* Raises EngineError when the store is away.
        """
        row = self.engine.job(ref.id)
        prepared = None if row is None else self._prepared.get(row.name)
        if row is None or prepared is None or row.fence != ref.fence or row.state is not State.RUNNING:
            return None
        return killed(row, prepared, self._host)

    def describe(self) -> list[str]:
        """What this worker runs, a line each."""
        running = [
            f"  {run.lease.name} {run.lease.id} attempt {run.lease.attempt}"
            for run in self._held.runs()
            if run.context is not None
        ]
        return [f"worker {self.info.id} pid {self.info.pid} runs:", *(running or ["  nothing"])]

    def tasks(self) -> set[asyncio.Task[object]]:
        """Every task on the event loop, for a stack dump."""
        return set() if self._loop.loop is None else asyncio.all_tasks(self._loop.loop)

    def _depart(self) -> None:
        try:
            self.tell_died(self.engine.depart(self.info.id).dead)
        except EngineError as error:
            log.warning("worker %s could not deregister, its lease will run out: %s", self.info.id, error)

    def _wait_for_runs(self, deadline: float) -> None:
        while self._held and not self._abort.is_set() and time.monotonic() < deadline:
            if all(map(self._host.is_hopeless, self._held.runs())):
                return
            self._abort.wait(0.02)

    def _interrupt_runs(self) -> None:
        for run in self._held.runs():
            self._host.interrupt(run)
        deadline = time.monotonic() + CANCEL_GRACE
        while time.monotonic() < deadline and any(map(self._host.can_end, self._held.runs())):
            time.sleep(0.005)

    # -- what its parts tell it --

    def tell_hooks(self, moment: Moment, ids: Sequence[str]) -> None:
        """Have the hooks of these jobs called, on a thread of their own. *Thread-safe.*"""
        self._hooks.tell(moment, ids)

    def tell_died(self, ids: Sequence[str]) -> None:
        """Report that these jobs died by no outcome of their own: poison, interrupted too often. *Thread-safe.*"""
        self._hooks.tell_died(ids)

    def _obey(self, word: str) -> None:
        if word == "stop":
            self.stop()
        else:
            self.quiet()

    def _overrun(self) -> None:
        """A job does not end though its time is up."""
        self._on_overrun()
        self.stop()

    def _cut_off(self) -> None:
        """Two leases without a renewal: whatever runs here must not go on beside its successor."""
        self.cut_off = True
        self.abort()

    def _on_upkeep(self, done: Upkeep) -> None:
        for what in done.rollbacks:
            self.events.emit(StoreRolledBack(self.info.id, what))
        self.tell_died(done.died)
        if done.alone_in_ms is not None and self._on_alone is not None:
            self._on_alone(done.alone_in_ms)

    def _store_is_empty(self) -> bool:
        """Whether nothing is ready or running in the queues that are served (burst mode)."""
        for queue in self.engine.queues():
            served = any(pool.policy.covers(queue.name) for pool in self._pools)
            if served and not queue.paused and (queue.ready or queue.running or queue.held):
                return self.options.alone and not queue.ready
        return True
