"""One worker: the parts of a running process put together, and the order in which they stop.

Start: register (heart), then keeper and pump. Jobs flow pump → a pool's threads or loop → pump.

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
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from random import Random

from msgspec import structs

from windlass.core.clock import Clock, SystemClock
from windlass.core.errors import EngineError, PayloadError
from windlass.core.fingerprint import cause_of
from windlass.core.foreign import shield_logs
from windlass.core.history import Origin, encode_error
from windlass.core.ids import new_id
from windlass.core.model import (
    Claimed,
    Heartbeat,
    JobRow,
    Kind,
    Lease,
    LeaseRef,
    Outcome,
    Progress,
    QueueWork,
    Settled,
    Slot,
    State,
    Upkeep,
    WorkerInfo,
)
from windlass.core.recovery import rules_in
from windlass.core.units import show_duration
from windlass.engines.base import Store
from windlass.engines.url import rules_of
from windlass.events import Events, JobDead, LeaseExpired, SettleDropped, StoreRolledBack, WorkerStarted, WorkerStopped
from windlass.jobs.hooks import Hooks, Moment
from windlass.jobs.middleware import Middleware
from windlass.jobs.registry import Registry
from windlass.logs import Log
from windlass.settings import Settings
from windlass.worker.archive import Archive
from windlass.worker.attempt.budget import RetryBudget, budgets_of
from windlass.worker.attempt.deadlines import Deadlines
from windlass.worker.attempt.endings import Endings
from windlass.worker.attempt.execute import escaped, failure, prepare, run_async, run_sync, timeout_of
from windlass.worker.attempt.guarded import count_outlived, run_async_guarded, run_guarded
from windlass.worker.attempt.run import JobRun, Prepared
from windlass.worker.children import Children, Fork
from windlass.worker.heart import Heart, Trust
from windlass.worker.hooks import HookThread
from windlass.worker.keeper import Keeper
from windlass.worker.lane import Lane
from windlass.worker.layout import PoolPlan
from windlass.worker.loop import LoopThread, loop_of
from windlass.worker.pool import Pool
from windlass.worker.pump import Pump
from windlass.worker.recycle import Recycler
from windlass.worker.redriver import Redriver
from windlass.worker.settler import Settler
from windlass.worker.slots import Running, SlotTable, monotonic_ms
from windlass.worker.timeouts import GRACE, Timeouts

__all__ = ["Worker", "WorkerOptions"]

log = Log("windlass.worker")

CANCEL_GRACE = 1.0  # seconds for coroutines to end after they were cancelled at shutdown
UNKNOWN_FIRST_MS = 1_000  # how long a job that nobody here knows is put back; another worker may know it
UNKNOWN_DELAY_MS = 30_000  # likewise, once nobody has known it for long; source: reliability constants
HELD_TOLD = 0.5  # seconds that a held job runs before the store is told that it has started: most have ended by then
UNKNOWN_SINCE = "no job of this name is registered; first met at "


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
        self.rng = Random()
        self.stopping = False
        self.options = options
        self._prepared: dict[str, Prepared] = {
            name: prepare(registry.get(name), middleware, registry.circuits) for name in registry.all_names()
        }
        has_sync = any(not self._on_loop(one) for one in self._prepared.values())
        has_async = any(self._on_loop(one) for one in self._prepared.values())
        self._circuits = registry.circuits
        self._loop = LoopThread(self.stop)
        self._pools: list[Pool] = []
        slots = 0
        for plan in options.pools or (PoolPlan("common", (), settings.threads, settings.async_slots),):
            self._pools.append(
                Pool(
                    plan, slots, self._loop, self._run_in_thread, self._run_on_loop, self._rescue,
                    has_sync=has_sync, has_async=has_async,
                )
            )  # fmt: skip
            slots += plan.threads + plan.async_slots
        only = self._pools[0].policy if len(self._pools) == 1 else None
        self.info = WorkerInfo(
            id=new_id(),
            group=options.group or new_id(),
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=" ".join(map(str, self._pools)) if only is None else str(only),
            slots=slots,
            version=options.version,
            started_at=self.clock.wall_ms(),
            pools=tuple(pool.info for pool in self._pools),
            supervisor_pid=options.supervisor_pid,
        )
        self.origin = Origin(self.info.host, self.info.id, self.info.version)
        self._table = table or SlotTable.create(slots)
        self._ran: deque[JobRun] = deque()  # ended, not counted yet
        self._work: dict[str, list[int]] = {}  # queue: runs, nanoseconds
        self._held: dict[str, JobRun] = {}
        self._begun: dict[JobRun, int] = {}  # of those that the store has as held: when they began, ns
        self._notes: dict[str, Progress] = {}
        self._overdue: dict[str, JobRun] = {}
        self._on_overrun = on_overrun
        self._strays: set[LeaseRef] = set()
        self._endings = Endings(self.clock, quiet=settings.quiet_jobs)
        self._settler = Settler(settings.settle_batch, settings.settle_flush)
        self._deadlines = Deadlines()
        self._timeouts = Timeouts(
            self._deadlines, self._loop, self._table, self.clock,
            holds=lambda run: self._held.get(run.lease.id) is run,
            running=lambda: any(pool.loop.busy for pool in self._pools),
            on_outlived=self._outlived,
            prolong=self.prolong,
        )  # fmt: skip
        self._children = Children(fork) if fork is not None else None
        self._rules = rules_of(settings)
        self._budgets = budgets_of(settings)
        self._hooks = HookThread(hooks or Hooks(), engine, registry, events)
        self._heart = Heart(
            engine,
            self.clock,
            self._describe,
            lease_ms=settings.lease,
            renew_ms=settings.renew,
            table=self._table,
            leases=lambda: [LeaseRef(run.lease.id, run.lease.fence) for run in list(self._held.values())],
            on_beat=self._on_beat,
            on_end=self._cut_off,
        )
        self._on_alone = on_alone
        self._on_control = on_control
        bounded = on_full is not None and not options.alone
        recycler = Recycler(
            settings.max_jobs if bounded else None,
            settings.max_memory if bounded else None,
            on_full or (lambda: None),
        )
        self._redriver = Redriver(engine, self.info.id)
        self._keeper = Keeper(
            engine,
            self._rules,
            settings.reap,
            self.rng,
            self._on_upkeep,
            events=events,
            redriver=self._redriver,
            recoveries=[
                *registry.recoveries,
                *rules_in(settings.recover),
            ],
            archive=None if settings.dead_archive is None else Archive(settings.dead_archive, engine),
        )
        self._pump = Pump(
            engine,
            settings,
            self.info.id,
            self._pools,
            self._settler,
            self,
            self.rng,
            recycler,
            alone=options.alone,
            when_empty=self._store_is_empty if options.burst or options.alone else None,
        )
        self._end = threading.Event()
        self._abort = threading.Event()
        self.cut_off = False

    # -- life --

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
        self.stopping = True
        self._pump.quiet()
        self._end.set()

    def abort(self) -> None:
        """End without a grace: jobs that run are given back."""
        self._abort.set()
        self.stop()

    def shut_down(self) -> bool:
        """Stop in the order of this module's docstring; false when a thread still runs a job afterwards. *Blocking.*"""
        self.stopping = True
        self._pump.quiet()
        if self._children is not None:
            self._children.stop()
        deadline = time.monotonic() + self.settings.shutdown_timeout / 1000
        # What a claim that is under way brings must be seen below, or it would be cut off with no grace at all.
        while not (self._pump.rest(0.02) or self._abort.is_set()) and time.monotonic() < deadline:
            pass
        for lane in (lane for pool in self._pools for lane in pool.lanes):
            self.give_back(lane)
        self._wait_for_runs(deadline)
        self._interrupt_runs()
        self._pump.stop()
        self._heart.stop()
        self._keeper.stop()
        self._redriver.stop()
        self._deadlines.close()
        if self._children is not None:
            self._children.close()
        for pool in self._pools:
            pool.threads.stop()
        self._loop.stop(CANCEL_GRACE)
        for run in list(self._held.values()):
            if run.lease.id not in self._overdue:  # it comes back when this process has gone
                self._endings.tell_one(
                    run.lease, Outcome(run.lease.id, run.lease.fence, Kind.RELEASE, interrupted=True), run
                )
        self._pump.settle_rest()  # threads may have ended since
        self.tally()
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
        if self._overdue and self._circuits is not None:
            self._circuits.flush(self.engine)  # the process ends before they would report what was counted last
        outcomes = []
        for run in list(self._overdue.values()):
            if run.lease.id in self._held:
                outcomes.append(failure(run, timeout_of(run)))
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
        run = JobRun(lease_of(row), prepared, self)
        run.timed_out = True
        run.began_ns = time.monotonic_ns() - (run.timeout_ms or 0) * 1_000_000
        return failure(run, timeout_of(run))

    def describe(self) -> list[str]:
        """What this worker runs, a line each."""
        running = [
            f"  {run.lease.name} {run.lease.id} attempt {run.lease.attempt}"
            for run in list(self._held.values())
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
            if self._overdue and all(map(self._is_hopeless, list(self._held.values()))):
                return
            self._abort.wait(0.02)

    def _is_hopeless(self, run: JobRun) -> bool:
        """Whether a run cannot end any more: it has outlived its timeout, or one that has holds the event loop."""
        if run.lease.id in self._overdue:
            return True
        holding = [one for one in list(self._overdue.values()) if self._held.get(one.lease.id) is one]
        return self._on_loop(run.prepared) and any(self._on_loop(one.prepared) for one in holding)

    def _interrupt_runs(self) -> None:
        for run in list(self._held.values()):
            run.interrupted = True
            run.cancelled = True
            self._end_body(run)
        deadline = time.monotonic() + CANCEL_GRACE
        while time.monotonic() < deadline and any(self._can_end(run) for run in list(self._held.values())):
            time.sleep(0.005)

    def _can_end(self, run: JobRun) -> bool:
        """Whether this process can make the body end: a coroutine or a child, not a thread."""
        return self._on_loop(run.prepared) or (run.prepared.in_child and self._children is not None)

    def _end_body(self, run: JobRun) -> None:
        if self._on_loop(run.prepared):
            loop_of(run).cancel(run)
        elif run.prepared.in_child and self._children is not None:
            self._children.kill(run)

    def _on_loop(self, prepared: Prepared) -> bool:
        return prepared.spec.slot is Slot.LOOP

    def _cut_off(self) -> None:
        """Two leases without a renewal: whatever runs here must not go on beside its successor."""
        self.cut_off = True
        self.abort()

    # -- what the pump asks (pump.Slots) --

    @property
    def held(self) -> int:
        return len(self._held)

    def trust(self) -> Trust:
        return self._heart.trust()

    def polling(self, *, away: bool) -> None:
        now = self.clock.boot_ms()
        self._table.poll(now)
        if away != bool(self._table.away_since):
            self._table.note_away(now if away else 0)

    def tally(self) -> None:
        work, runs = self._work, [self._ran.popleft() for _ in range(len(self._ran))]
        for run in runs:
            run.lane.ended += 1
            done = work.setdefault(run.lease.queue, [0, 0])
            done[0] += 1
            done[1] += run.took_ns
        if runs:
            self._endings.tell(runs)

    def _describe(self) -> WorkerInfo:
        """What this worker says of itself, with what it has done so far."""
        work = tuple(QueueWork(queue, ended, ns // 1_000_000) for queue, (ended, ns) in self._work.copy().items())
        return structs.replace(self.info, work=work, trouble="; ".join(self._troubles()))

    def _troubles(self) -> Iterator[str]:
        """What keeps this process from doing its work: pump, event loop, threads, children."""
        silent = self.clock.boot_ms() - self._table.polled_at
        if self._table.polled_at and silent > self.settings.live_within:
            yield f"it has not looked for jobs for {show_duration(silent)}"
        if self._timeouts.blocked_by is not None:
            yield f"{self._timeouts.blocked_by} blocks the event loop"
        for run in list(self._overdue.values()):
            yield f"job {run.lease.name} {run.lease.id} does not end though its time is up"
        if self._children is not None and (why := self._children.refusal()) is not None:
            yield f"no child process can be started: {why}"

    def take(self, pool: Pool, claimed: Claimed) -> None:
        if claimed.expelled:
            log.warning("the store does not know worker %s as alive; it registers anew", self.info.id)
            self._heart.beat_now()
        for ref in claimed.cancels:
            self._cancel(ref)
        tasks: list[JobRun] = []
        for lease in claimed.leases:
            run = self._make_run(lease)
            if run is None:
                continue
            run.lane = lane = pool.loop if self._on_loop(run.prepared) else pool.threads
            # Where its record says another kind than the code, the store has given it without a place for it.
            misfiled = lease.slot is not lane.slot and len(pool.lanes) > 1
            if misfiled and lane.room <= (len(tasks) if lane is pool.loop else 0):
                self._settler.add(released(run))
                continue
            lane.last_start = time.monotonic()
            self._held[lease.id] = run
            if lane is pool.loop:
                tasks.append(run)
            else:
                pool.threads.put(run)
        if tasks:
            pool.loop.put(tasks)
            self._timeouts.watch_loop()

    def settled(self, outcomes: Sequence[Outcome], answers: Sequence[Settled]) -> None:
        for one in outcomes:
            self._table.settle(one.fence)
        stale = [one for one, answer in zip(outcomes, answers, strict=True) if answer is Settled.STALE]
        if stale:
            self._tell_dropped(stale, "another worker owns the job now")
        for moment, kind in ((Moment.DEAD, Kind.DEAD), (Moment.RETRY, Kind.RETRY)):
            if self._hooks.wants(moment):
                pairs = zip(outcomes, answers, strict=True)
                self.tell_hooks(moment, [o.id for o, a in pairs if o.kind is kind and a is Settled.APPLIED])

    def dropped(self, outcomes: Sequence[Outcome]) -> None:
        for one in outcomes:
            self._table.settle(one.fence)
        self._tell_dropped(outcomes, "the lease ended before the store could be reached")

    def give_back(self, lane: Lane) -> None:
        for run in lane.take_back():
            self._let_go(run)
            self._settler.add(released(run))

    def notes_in(self) -> float | None:
        for _, began in list(self._begun.items()):
            return began / 1e9 + HELD_TOLD - time.monotonic()
        return None

    def notes(self) -> list[Progress]:
        if self._begun:
            told = time.monotonic_ns() - int(HELD_TOLD * 1e9)
            for run, began in list(self._begun.items()):
                if began > told:
                    break
                self._begun.pop(run, None)
                self._notes.setdefault(run.lease.id, Progress(run.lease.id, run.lease.fence))
        if not self._notes:
            return []
        notes, self._notes = self._notes, {}
        return list(notes.values())

    def _tell_dropped(self, outcomes: Sequence[Outcome], reason: str) -> None:
        ids = ", ".join(one.id for one in outcomes[:5]) + (", ..." if len(outcomes) > 5 else "")
        log.warning("the outcomes of %d jobs were dropped, and they run again: %s (%s)", len(outcomes), reason, ids)
        for one in outcomes:
            self.events.emit(SettleDropped(one.id, "", "", 0, reason))

    def _store_is_empty(self) -> bool:
        """Whether nothing is ready or running in the queues that are served (burst mode)."""
        for queue in self.engine.queues():
            served = any(pool.policy.covers(queue.name) for pool in self._pools)
            if served and not queue.paused and (queue.ready or queue.running or queue.held):
                return self.options.alone and not queue.ready
        return True

    # -- runs --

    def _make_run(self, lease: Lease) -> JobRun | None:
        prepared = self._prepared.get(lease.name)
        if prepared is None:
            self._settler.add(self._unknown(lease))
            return None
        try:
            return JobRun(lease, prepared, self)
        except PayloadError as error:
            self._settler.add(self._stillborn(lease, error, "undecodable payload"))
            return None

    def _unknown(self, lease: Lease) -> Outcome:
        """A job that this process has no code for: put back for a while (a deploy may be rolling), then dead."""
        now = self.clock.wall_ms()
        since = now
        if lease.reason is not None and lease.reason.startswith(UNKNOWN_SINCE):
            since = int(lease.reason.removeprefix(UNKNOWN_SINCE))
        if now - since < self.settings.unknown_grace:
            log.warning("no job named %s is registered here: job %s waits", lease.name, lease.id)
            longest = min(UNKNOWN_DELAY_MS, max(1, self.settings.unknown_grace // 30))
            delay = min(longest, max(UNKNOWN_FIRST_MS, now - since))  # so the time since then doubles at most
            return Outcome(lease.id, lease.fence, Kind.SNOOZE, reason=f"{UNKNOWN_SINCE}{since}", delay_ms=delay)
        error = LookupError(
            f"no job is registered under {lease.name!r}; import its module in the worker's application, "
            "or keep its old name as an alias, then retry the job"
        )
        return self._stillborn(lease, error, "unknown job")

    def _stillborn(self, lease: Lease, error: BaseException, reason: str) -> Outcome:
        """The death of a job that cannot even begin."""
        text = encode_error(
            error,
            attempt=lease.attempt,
            at=self.clock.wall_ms(),
            limit=self.settings.error_max,
            origin=self.origin,
        )
        self.events.emit(JobDead(lease.id, lease.name, lease.queue, lease.attempt, reason))
        outcome = Outcome(lease.id, lease.fence, Kind.DEAD, error=text, reason=reason, cause=cause_of(error))
        self._endings.tell_one(lease, outcome)
        return outcome

    def tell_hooks(self, moment: Moment, ids: Sequence[str]) -> None:
        """Have the hooks of these jobs called, on a thread of their own. *Thread-safe.*"""
        self._hooks.tell(moment, ids)

    def tell_died(self, ids: Sequence[str]) -> None:
        """Report that these jobs died by no outcome of their own: poison, interrupted too often. *Thread-safe.*"""
        self._hooks.tell_died(ids)

    def _give_back_if_lost(self, run: JobRun) -> bool:
        """Whether a run must not begin, since the lease is over: a process that was stopped may wake up right here."""
        if not run.lost and self._heart.trust() < Trust.NO_SETTLES:
            return False
        self._let_go(run)
        if not run.lost:
            self._settler.add(Outcome(run.lease.id, run.lease.fence, Kind.RELEASE))
        return True

    def _run_in_thread(self, run: JobRun, slot: int) -> None:
        if self._give_back_if_lost(run):
            return
        began = self._begin(run, slot)
        if run.prepared.in_child and self._children is not None:
            children = self._children
            outcome = run_guarded(run, lambda run: children.run(run, self._deadlines))
        else:
            timeout = run.timeout_ms
            watch = None if timeout is None else self._timeouts.watch_thread(run, timeout / 1000)
            outcome = run_guarded(run) if run.lease.guards else run_sync(run)
            if watch is not None:
                self._timeouts.drop(watch)
        self._ended(run, slot, outcome, began)

    async def _run_on_loop(self, run: JobRun, slot: int) -> None:
        if self._give_back_if_lost(run):
            return
        began = self._begin(run, slot)
        timeout = run.timeout_ms
        watch = None if timeout is None else self._timeouts.watch_coroutine(run, timeout / 1000)
        outcome = await (run_async_guarded(run) if run.lease.guards else run_async(run))
        if watch is not None:
            self._timeouts.drop(watch)
        self._ended(run, slot, outcome, began)

    def _begin(self, run: JobRun, slot: int) -> int:
        """Note that a run begins, where the supervisor can see it; give the time in ns."""
        lease, timeout = run.lease, run.timeout_ms
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

    def _let_go(self, run: JobRun) -> None:
        """It is held no more; the same job may be held anew, by a later claim."""
        if self._held.get(run.lease.id) is run:
            del self._held[run.lease.id]

    def prolong(self, run: JobRun, ms: float) -> None:
        """Tell the supervisor that a run with a timeout has so much time from now on. *Thread-safe.*"""
        if run.slot >= 0 and self._held.get(run.lease.id) is run:
            self._table.prolong(run.slot, monotonic_ms() + round(ms))

    def _rescue(self, run: JobRun, slot: int, error: BaseException) -> None:
        """Give a job an end out of which an error came on a way that none should."""
        if self._held.get(run.lease.id) is run:
            self._ended(run, slot, escaped(run, error), run.began_ns or time.monotonic_ns())

    def _ended(self, run: JobRun, slot: int, outcome: Outcome | None, began: int) -> None:
        lease = run.lease
        if run.timeout_ms is not None:
            self._table.leave(slot)
        if lease.id in self._overdue and not run.settled:
            outcome = failure(run, timeout_of(run))  # it was said to have failed, whatever it came to in the end
        if outcome is None:
            self._table.settle(lease.fence)
        self._let_go(run)
        if lease.held:
            self._begun.pop(run, None)
        run.ended_ns = ended = time.monotonic_ns()
        run.took_ns = ended - began
        if self._budgets and (budget := self._budgets.get(run.lease.queue)) is not None:
            budget.count()
            if outcome is not None and outcome.kind is Kind.RETRY:
                outcome = self._within_budget(budget, run, outcome)
        if outcome is not None and outcome.kind is not Kind.DONE and lease.slot is not run.lane.slot:
            outcome = structs.replace(outcome, slot=run.lane.slot)
        run.outcome = outcome
        self._ran.append(run)
        full = self._settler.add(outcome) if outcome is not None else False
        self._pump.poke(run.lane, full=full)

    def _within_budget(self, budget: RetryBudget, run: JobRun, outcome: Outcome) -> Outcome:
        delay = budget.defer(outcome.delay_ms)
        run.deferred = delay > outcome.delay_ms
        return structs.replace(outcome, delay_ms=delay)

    def _outlived(self, run: JobRun | None) -> None:
        """A run does not end though its time is up; None: nobody's code keeps one from ending. This process has to."""
        if run is None:
            log.error("a job is past its timeout, and the event loop is blocked by no known job; this process ends")
        else:
            log.error(
                "job %s %s still runs %s after its timeout; this process ends when its other jobs have ended, and the "
                "job is settled then. %s",
                run.lease.name, run.lease.id, show_duration(GRACE * 1_000),
                "It must not block the event loop or ignore its cancellation" if self._on_loop(run.prepared)
                else 'Give it executor="process" to make it killable',
            )  # fmt: skip
            self._overdue[run.lease.id] = run
        self._on_overrun()
        self.stop()
        if run is not None:
            count_outlived(run)

    def report(self, run: JobRun, text: str) -> None:
        self._notes[run.lease.id] = Progress(run.lease.id, run.lease.fence, text)
        if self._pump.sleeping:
            self._pump.wake()

    # -- what the store tells --

    def _on_beat(self, beat: Heartbeat) -> None:
        for ref in beat.cancels:
            self._cancel(ref)
        for ref in beat.lost:
            run = self._held.get(ref.id)
            if run is not None and run.lease.fence == ref.fence and not run.settled:
                run.lost = run.cancelled = True
                self._end_body(run)
                lease = run.lease
                log.warning("job %s %s was taken over by another worker; its run here is stopped", lease.name, lease.id)
                self.events.emit(LeaseExpired(lease.id, lease.name, lease.queue, lease.attempt))
        self._release_strays(set(beat.strays))
        for word in beat.control:
            if self._on_control is not None:
                self._on_control(word)
            elif word == "stop":
                self.stop()
            else:
                self.quiet()

    def _release_strays(self, strays: set[LeaseRef]) -> None:
        """Give back claims whose answer got lost: those that two beats in a row showed and that nothing here holds.

        One beat is not enough: a claim may have been answered after the beat's list of leases was made.
        """
        twice, self._strays = self._strays & strays, strays
        for ref in twice:
            run = self._held.get(ref.id)
            if (run is None or run.lease.fence != ref.fence) and not self._settler.holds(ref):
                log.warning("job %s was claimed by a call whose answer got lost; it is given back", ref.id)
                self._settler.add(Outcome(ref.id, ref.fence, Kind.RELEASE))

    def _on_upkeep(self, done: Upkeep) -> None:
        for what in done.rollbacks:
            self.events.emit(StoreRolledBack(self.info.id, what))
        self.tell_died(done.died)
        if done.alone_in_ms is not None and self._on_alone is not None:
            self._on_alone(done.alone_in_ms)

    def _cancel(self, ref: LeaseRef) -> None:
        run = self._held.get(ref.id)
        if run is not None and run.lease.fence == ref.fence and not run.cancelled:
            run.cancelled = True
            self._end_body(run)


def lease_of(row: JobRow) -> Lease:
    """The claim of a job that runs, as far as its record tells."""
    return Lease(
        row.id, row.name, row.queue, row.payload, row.fence, row.attempt, row.max_attempts, row.priority,
        row.enqueued_at, row.run_at, row.crashes, row.interruptions, row.snoozes, row.tags, row.meta, row.reason,
        guards=row.guards,
    )  # fmt: skip


def released(run: JobRun) -> Outcome:
    """A run that has not started goes back to its place, among the jobs of its kind."""
    slot = run.lane.slot
    return Outcome(run.lease.id, run.lease.fence, Kind.RELEASE, slot=None if run.lease.slot is slot else slot)
