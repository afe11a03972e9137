"""The application: the one place where settings, registry, events, middleware, engine and client meet.

Everything else takes what it needs by argument. Making an application reads settings and touches no store; the engine
is made at first use. Invariants: one application has one engine per process; ``close`` may be called at any time, and a
later use opens it again.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, Self, TypeVar, Unpack, overload

from windlass.client import Client
from windlass.core.aio import hop
from windlass.core.circuit import CircuitRow
from windlass.core.clock import Clock, SystemClock
from windlass.core.coordination import LOCKS
from windlass.core.errors import ConfigError
from windlass.core.model import State
from windlass.core.rows import Action, JobFilter, Moved
from windlass.core.spelling import spelled
from windlass.core.units import Duration, duration_ms, nearest, shown
from windlass.dead.deadlist import DeadList
from windlass.engines.base import Store, TransactionalCommit, Tx
from windlass.engines.url import connect
from windlass.events import Event, Events
from windlass.events import check_kind as check_event
from windlass.flow.batch import Batch, BatchInfo, list_batches
from windlass.flow.builtin import builtin_specs
from windlass.flow.handle import WorkflowHandle, WorkflowInfo, astart, list_workflows, start
from windlass.flow.reading import WorkflowState
from windlass.flow.workflow import Workflow
from windlass.guards import Circuit, CircuitInfo, Circuits, Lock, LockKeeper, agreed
from windlass.guards.keys import check_key
from windlass.insight.queues import Queue, QueueInfo, WorkerStatus, bounds_of, read_queues
from windlass.jobs.call import Call
from windlass.jobs.context import JobContext
from windlass.jobs.definition import AsyncJob, Job, JobDecorator, define
from windlass.jobs.handle import JobHandle
from windlass.jobs.hooks import Hook, Hooks, Moment
from windlass.jobs.info import JobInfo, Page
from windlass.jobs.middleware import Middleware
from windlass.jobs.middleware import check_kind as check_chain
from windlass.jobs.registry import Registry
from windlass.jobs.spec import JobOptions
from windlass.jobs.transactions import AsyncTx, Transaction
from windlass.logs import Log
from windlass.settings import Loaded, Settings, load_settings

if TYPE_CHECKING:  # what answers questions of people is loaded when one is asked
    from windlass.guards.limits import LimitInfo, LockInfo
    from windlass.insight.stats import Stats

__all__ = ["Windlass"]

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=Event)
F = TypeVar("F", bound=Callable[..., object])

CONTROL_WORDS: Final = ("quiet", "stop")
PAGE_MAX: Final = 1_000  # jobs; a page is read at once

CIRCUIT_DEFAULTS: Final[dict[str, object]] = {
    "failures": 5, "window": "60s", "open_for": "300s", "half_open": 1, "trip_on": (Exception,), "ignore": (),
    "min_calls": 1, "failure_rate": None, "slow_call": None,
}  # fmt: skip

logger = Log("windlass")


@spelled
class Windlass:
    """An application: its jobs, its settings and its engine. *Thread-safe.*

    ``url`` names the store (argument, ``WINDLASS_URL``, settings file, ``REDIS_URL``, else a SQLite file); every other
    setting is a keyword. ``client``, a ``redis.Redis`` or ``redis.RedisCluster``, stands in place of a URL: the engine
    makes connections of its own to the same server. Raises ConfigError for an unknown or wrong setting. Usable as a
    context manager.
    """

    def __init__(
        self, url: str | None = None, *, client: object = None, clock: Clock | None = None, **settings: object
    ) -> None:
        if url is not None and client is not None:
            raise ConfigError("Windlass(url, client=...): both name a store; leave one of them out")
        self.loaded: Loaded = load_settings(url, settings)
        self.settings: Settings = self.loaded.settings
        for warning in self.loaded.warnings:
            logger.warning(warning)
        self.events = Events()
        self.circuits = Circuits(lambda: self.engine, self.events, self.settings.circuits)
        self.registry = Registry(self.circuits, builtin_specs(self))
        self.middlewares = Middleware()
        self.hooks = Hooks()
        self.clock: Clock = clock or SystemClock()
        self._locks = LockKeeper(lambda: self.engine, self.clock)
        self._lock = threading.Lock()
        self._client: Client | None = None
        self.dead = DeadList(lambda: self.engine, self.registry, self.clock, self.settings.payload_max)
        self._store_client = client
        if client is not None:
            self.loaded.origin["url"] = "not used, the store is that of client="
            self._open()  # connects to nothing yet, and a wrong object shows here

    def __repr__(self) -> str:
        return f"<Windlass {self.settings.namespace} with {len(self.registry)} jobs>"

    # -- jobs ------------------------------------------------------------------------------------------

    @overload
    def job(  # type: ignore[overload-overlap]
        self, fn: Callable[Concatenate[JobContext, P], Coroutine[object, object, R]], /
    ) -> AsyncJob[P, R]: ...
    @overload
    def job(self, fn: Callable[Concatenate[JobContext, P], R], /) -> Job[P, R]: ...
    @overload
    def job(  # type: ignore[overload-overlap]
        self, fn: Callable[P, Coroutine[object, object, R]], /
    ) -> AsyncJob[P, R]: ...
    @overload
    def job(self, fn: Callable[P, R], /) -> Job[P, R]: ...
    @overload
    def job(self, /, **options: Unpack[JobOptions]) -> JobDecorator: ...
    def job(self, fn: Callable[..., object] | None = None, /, **options: object) -> object:
        """Make a function a job: ``@app.job`` or ``@app.job(queue=..., retry=...)``.

        A first parameter annotated JobContext is injected. Raises ConfigError for a wrong option or a taken name.
        """

        def decorate(fn: Callable[..., object]) -> object:
            job = define(fn, options, self, self.settings, self.circuits.names)
            self.registry.add(job.spec)
            return job

        return decorate if fn is None else decorate(fn)

    def enqueue(self, call: Call[R]) -> JobHandle[R]:
        """Store one call. *Atomic, idempotent by id, blocking.* Raises EngineUnavailable, EngineFull."""
        return self.client.enqueue(call)

    async def aenqueue(self, call: Call[R]) -> JobHandle[R]:
        """Store one call without blocking the event loop; calls of one tick share one engine call."""
        return await (await self._aclient()).aenqueue(call)

    def enqueue_many(self, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
        """Store calls of any jobs, each chunk of 1,000 atomic, and give their handles in order.

        A failure at a later chunk raises with the ids that are stored; calling again with the same calls is safe.
        """
        return self.client.enqueue_many(calls)

    async def aenqueue_many(self, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
        """Store calls without blocking the event loop; see ``enqueue_many``."""
        return await (await self._aclient()).aenqueue_many(calls)

    def enqueue_stream(self, calls: Iterable[Call[object]]) -> int:
        """Store calls as they come, in constant memory, and give how many were stored (duplicates are not counted)."""
        return self.client.enqueue_stream(calls)

    async def aenqueue_stream(self, calls: Iterable[Call[object]] | AsyncIterable[Call[object]]) -> int:
        """Store calls as they come without blocking the event loop; takes async iterables too."""
        return await (await self._aclient()).aenqueue_stream(calls)

    def batch(
        self,
        name: str | None = None,
        *,
        id: str | None = None,
        on_success: Call[object] | None = None,
        on_complete: Call[object] | None = None,
        on_death: Call[object] | None = None,
    ) -> Batch:
        """Make a batch for ``with`` or ``async with``, in which ``batch.add(call)`` stores jobs that belong together.

        ``on_success`` runs once when all its jobs are done, ``on_complete`` when all have ended, ``on_death`` when the
        first one dies. With ``id`` and no name it is the batch of that id: its own jobs add to it while they run.
        Raises ConfigError. See ``windlass.flow.batch``.
        """
        return Batch(self, name, id, {"on_success": on_success, "on_complete": on_complete, "on_death": on_death})

    def batches(self, *, limit: int = 100, cursor: str | None = None) -> Page[BatchInfo]:
        """Give a page of batches, by id. ``cursor`` is the ``next`` of the page before. Raises ConfigError."""
        return list_batches(self, _page_size(limit, "batches"), cursor)

    async def abatches(self, *, limit: int = 100, cursor: str | None = None) -> Page[BatchInfo]:
        """Give a page of batches; see ``batches``."""
        return await hop(lambda: self.batches(limit=limit, cursor=cursor))

    def start(self, workflow: Workflow, *, connection: object = None) -> WorkflowHandle:
        """Store a workflow; give its handle. *Atomic, idempotent by its id, blocking.*

        With ``connection`` it is stored inside the caller's SQL transaction. Raises ConfigError, EngineUnavailable,
        EngineFull.
        """
        return start(self, workflow, connection)

    async def astart(self, workflow: Workflow, *, connection: object = None) -> WorkflowHandle:
        """Store a workflow without blocking the event loop; see ``start``."""
        await self._aclient()
        return await astart(self, workflow, connection)

    def workflow(self, id: str) -> WorkflowHandle:
        """Give the handle of a workflow that is stored; whether it is shows when it is asked."""
        return WorkflowHandle(id, False, self)

    def workflows(
        self,
        state: WorkflowState | None = None,
        *,
        stalled: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[WorkflowInfo]:
        """Give a page of workflows, by id. ``stalled``: only those in which nothing can move, or moves for too long.

        A page may have fewer than ``limit`` although others follow: see its ``next``. Raises ConfigError.
        """
        return list_workflows(self, state, stalled, _page_size(limit, "workflows"), cursor)

    async def aworkflows(
        self,
        state: WorkflowState | None = None,
        *,
        stalled: bool = False,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[WorkflowInfo]:
        """Give a page of workflows; see ``workflows``."""
        return await hop(lambda: self.workflows(state, stalled=stalled, limit=limit, cursor=cursor))

    def transaction(self) -> AbstractContextManager[Tx]:
        """Open a transaction of the engine's own database: your writes and ``options(connection=tx)`` commit together.

        Raises ConfigError on an engine without transactions.
        """
        return Transaction(self._transaction)

    def atransaction(self) -> AbstractAsyncContextManager[AsyncTx]:
        """Open a transaction without blocking the event loop: ``async with app.atransaction() as tx``.

        See ``transaction``. ``await tx.aexecute(...)`` runs a statement, and a job stored by
        ``await job.options(connection=tx).aenqueue(...)`` appears with the commit. A cancel rolls back.
        """
        return Transaction(self._transaction)

    def _transaction(self) -> AbstractContextManager[Tx]:
        engine = self.engine
        if not isinstance(engine, TransactionalCommit):
            raise ConfigError(
                f"app.transaction(): the engine {engine.info.name!r} has none; it needs a SQL engine. "
                "Enqueue after your own commit, with an id of your own so that a repeat stores nothing"
            )
        return engine.transaction()

    # -- guards ----------------------------------------------------------------------------------------

    def lock(self, key: str, lease: Duration = "30s", wait: Duration = 0) -> Lock:
        """Make a lock on ``key`` for ``with`` or ``async with``: one holder at a time over the whole fleet.

        ``lease`` is how long it outlives a holder that vanishes; it is renewed while the block runs. ``wait`` is how
        long to wait for it, first come first served; 0 fails at once with LockBusy. ``lock.fence`` grows with every
        holder; ``lock.check()`` raises LockLost. Raises ConfigError for a wrong length.
        """
        where = f"lock {key!r}"
        lease_ms = duration_ms(lease, f"{where}: lease")
        if lease_ms == 0:
            raise ConfigError(f"{where}: lease is {lease!r}; it must be longer than zero")
        return Lock(check_key(key, "app.lock"), lease_ms, duration_ms(wait, f"{where}: wait"), self._locks)

    def circuit(
        self,
        name: str,
        *,
        failures: int | None = 5,
        window: Duration = "60s",
        open_for: Duration = "300s",
        half_open: int = 1,
        trip_on: Iterable[type[BaseException] | str] | type[BaseException] = (Exception,),
        ignore: Iterable[type[BaseException] | str] | type[BaseException] = (),
        min_calls: int = 1,
        failure_rate: float | None = None,
        slow_call: Duration | None = None,
    ) -> Circuit:
        """Declare a circuit, or give the one of this name; use it as ``@circuit``, ``with`` or ``circuit="name"``.

        It opens for ``open_for`` (longer where the service said Retry-After) when ``failures`` calls of a ``window``
        failed, or ``failure_rate`` of at least ``min_calls``; an error of ``trip_on`` that is none of ``ignore`` is a
        failure, and so is a call of ``slow_call`` or longer. Then ``half_open`` probes are let through, and as many
        successes close it. The settings (``[windlass.circuits.NAME]``) win over what is given here. Raises ConfigError.
        """
        given = {
            "failures": failures, "window": window, "open_for": open_for, "half_open": half_open, "trip_on": trip_on,
            "ignore": ignore, "min_calls": min_calls, "failure_rate": failure_rate, "slow_call": slow_call,
        }  # fmt: skip
        return self.circuits.declare(
            name, {key: value for key, value in given.items() if value != CIRCUIT_DEFAULTS[key]}
        )

    def circuit_states(self) -> list[CircuitInfo]:
        """Give every circuit that is declared here or known to the store, by name."""
        found = {row.name: CircuitInfo.of(row) for row in agreed.rows(self.engine)}
        for name in self.circuits.names:
            found.setdefault(name, CircuitInfo.of(CircuitRow(name)))
        return [found[name] for name in sorted(found)]

    async def acircuit_states(self) -> list[CircuitInfo]:
        """Give every circuit; see ``circuit_states``."""
        return await hop(self.circuit_states)

    def locks(self) -> list[LockInfo]:
        """Give every lock that is held, by key."""
        from windlass.guards.limits import LockInfo

        return [LockInfo.of(row) for row in self.engine.holds(LOCKS)]

    async def alocks(self) -> list[LockInfo]:
        """Give every lock that is held; see ``locks``."""
        return await hop(self.locks)

    def release_lock(self, key: str) -> bool:
        """Take a lock away from whoever holds it, who learns of it at the next renewal; false when nobody does."""
        return self.engine.release(LOCKS + check_key(key, "release_lock"), None)

    async def arelease_lock(self, key: str) -> bool:
        """Take a lock away; see ``release_lock``."""
        return await hop(lambda: self.release_lock(key))

    def limits(self) -> list[LimitInfo]:
        """Give every Concurrency and Rate key that is in use or waited for, by key."""
        from windlass.guards.limits import LimitInfo

        return [LimitInfo.of(row) for row in self.engine.limits()]

    async def alimits(self) -> list[LimitInfo]:
        """Give every limit; see ``limits``."""
        return await hop(self.limits)

    # -- looking ---------------------------------------------------------------------------------------

    def get(self, job_id: str, *, reveal: bool = False) -> JobInfo | None:
        """Give a job, or None when no record of the id is kept. ``reveal`` shows redacted arguments."""
        return self.client.reader.info(job_id, reveal)

    async def aget(self, job_id: str, *, reveal: bool = False) -> JobInfo | None:
        """Give a job; see ``get``."""
        return await hop(lambda: self.get(job_id, reveal=reveal))

    def jobs(
        self,
        state: State | str | None = None,
        name: str | None = None,
        queue: str | None = None,
        tag: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[JobInfo]:
        """Give a page of jobs, newest first. ``cursor`` is the ``next`` of the page before. Raises ConfigError."""
        limit = _page_size(limit, "jobs")
        where = JobFilter(state=None if state is None else _state(state), name=name, queue=queue, tag=tag)
        client = self.client
        rows, following = client.engine.jobs(where, cursor, limit)
        return Page(tuple(client.reader.describe(row) for row in rows), following)

    async def ajobs(
        self,
        state: State | str | None = None,
        name: str | None = None,
        queue: str | None = None,
        tag: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page[JobInfo]:
        """Give a page of jobs; see ``jobs``."""
        return await hop(lambda: self.jobs(state, name, queue, tag, limit, cursor))

    def queue(self, name: str) -> Queue:
        """Give a queue to look at, pause, resume, limit or clear.

        Raises ConfigError for a bad name, and with ``strict_queues`` for one that is not in the settings.
        """
        if self.settings.strict_queues and name not in self.settings.queues:
            raise ConfigError(
                f"queue {name!r} is not in the settings{nearest(name, self.settings.queues)}; strict_queues allows "
                f"{', '.join(sorted(self.settings.queues)) or 'none'}"
            )
        return Queue(name, lambda: self.engine, self.clock, bounds_of(self.settings))

    def queues(self) -> list[QueueInfo]:
        """Give every queue the store knows, by name."""
        return read_queues(self.engine, bounds_of(self.settings))

    async def aqueues(self) -> list[QueueInfo]:
        """Give every queue the store knows, by name."""
        return await hop(self.queues)

    def workers(self) -> list[WorkerStatus]:
        """Give every registered worker, oldest first."""
        return [WorkerStatus.of(row) for row in self.engine.workers()]

    async def aworkers(self) -> list[WorkerStatus]:
        """Give every registered worker, oldest first."""
        return await hop(self.workers)

    def control(self, target: str, word: str) -> int:
        """Ask a worker, or all workers of a group, for ``quiet`` or ``stop``; give how many were asked.

        They obey with their next beat (``renew``), and a ``windlass worker`` obeys as a whole. Raises ConfigError.
        """
        if word not in CONTROL_WORDS:
            raise ConfigError(
                f"control({word!r}): a worker knows {', '.join(CONTROL_WORDS)}{nearest(word, CONTROL_WORDS)}"
            )
        return self.engine.control(target, word)

    async def acontrol(self, target: str, word: str) -> int:
        """Ask workers for ``quiet`` or ``stop``; see ``control``."""
        return await hop(lambda: self.control(target, word))

    def stats(self) -> Stats:
        """Give the number of jobs in each state, and totals since the store was made under ``total_*``.

        ``stats().queues`` has every queue in figures: depth, latency, arrival and drain rate, and how many workers keep
        its ``max_wait``.
        """
        from windlass.insight.stats import measure

        return measure(self.engine, self.settings)

    async def astats(self) -> Stats:
        """Give the number of jobs in each state, and every queue in figures; see ``stats``."""
        return await hop(self.stats)

    def explain(self, job_id: str) -> str:
        """Say in words where a job stands and why it is not running."""
        from windlass.insight.explain import explain

        client = self.client
        return explain(job_id, client.engine, client.reader, self.registry, self.clock, self.settings)

    async def aexplain(self, job_id: str) -> str:
        """Say in words why a job is not running."""
        return await hop(lambda: self.explain(job_id))

    # -- moving ----------------------------------------------------------------------------------------

    def cancel(self, ids: Sequence[str]) -> list[Moved]:
        """Cancel jobs: waiting ones end at once, running ones are asked to stop. Says per job whether it applied."""
        return self._move(Action.CANCEL, ids)

    async def acancel(self, ids: Sequence[str]) -> list[Moved]:
        """Cancel jobs; see ``cancel``."""
        return await hop(lambda: self.cancel(ids))

    def retry(self, ids: Sequence[str]) -> list[Moved]:
        """Run dead, cancelled or scheduled jobs now, with a fresh budget. Says per job whether it applied."""
        return self._move(Action.RETRY, ids)

    async def aretry(self, ids: Sequence[str]) -> list[Moved]:
        """Run jobs now; see ``retry``."""
        return await hop(lambda: self.retry(ids))

    def delete(self, ids: Sequence[str]) -> list[Moved]:
        """Delete the records of jobs that are not running. Says per job whether it applied."""
        return self._move(Action.DELETE, ids)

    async def adelete(self, ids: Sequence[str]) -> list[Moved]:
        """Delete the records of jobs; see ``delete``."""
        return await hop(lambda: self.delete(ids))

    def _move(self, action: Action, ids: Sequence[str]) -> list[Moved]:
        if isinstance(ids, str):
            raise ConfigError(f"{action}({ids!r}): give a list of ids, [{ids!r}]")
        return self.engine.transition(action, list(ids))

    # -- hooks -----------------------------------------------------------------------------------------

    def middleware(self, kind: str) -> Callable[[F], F]:
        """Register a generator function around ``"enqueue"`` or ``"execute"``; see ``windlass.jobs.middleware``."""
        check_chain(kind)

        def register(fn: F) -> F:
            self.middlewares.add(kind, fn)
            return fn

        return register

    def on(self, kind: type[E]) -> Callable[[Callable[[E], None]], Callable[[E], None]]:
        """Register a handler of an event type, such as ``@app.on(JobDead)``. Raises ConfigError."""
        check_event(kind)

        def register(fn: Callable[[E], None]) -> Callable[[E], None]:
            self.events.subscribe(kind, fn)
            return fn

        return register

    def on_dead(self, fn: Hook) -> Hook:
        """Call ``fn`` with the JobInfo of every job that died: ``@app.on_dead``; see ``windlass.jobs.hooks``."""
        return self.hooks.add(Moment.DEAD, fn)

    def on_retry(self, fn: Hook) -> Hook:
        """Call ``fn`` with the JobInfo of every job that failed and will run again; see ``windlass.jobs.hooks``."""
        return self.hooks.add(Moment.RETRY, fn)

    # -- the engine ------------------------------------------------------------------------------------

    @property
    def has_url(self) -> bool:
        """Whether ``settings.url`` names the store, so that another process can open it; false with ``client=``."""
        return self._store_client is None

    @property
    def engine(self) -> Store:
        """The engine, made at first use."""
        return self.client.engine

    @property
    def client(self) -> Client:
        """The client, made at first use."""
        return self._client or self._open()

    async def _aclient(self) -> Client:
        # Making an engine imports its driver, which is too long for an event loop.
        return self._client if self._client is not None else await hop(self._open)

    def _open(self) -> Client:
        with self._lock:
            if self._client is None:
                engine = connect(self.settings, self.clock, self._store_client)
                self._client = Client(engine, self.registry, self.settings, self.events, self.middlewares)
            return self._client

    def close(self) -> None:
        """Close the engine; calls under way end first. *Idempotent.*"""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            self.circuits.flush(client.engine)
            client.close()
            client.engine.close()

    async def aclose(self) -> None:
        """Close the engine; see ``close``."""
        await hop(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _page_size(limit: object, what: str) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_MAX:
        raise ConfigError(f"{what}(limit={shown(limit)}): a page has 1 to {PAGE_MAX} {what}")
    return limit


def _state(state: State | str) -> State:
    try:
        return State(state)
    except ValueError:
        names = [each.value for each in State]
        raise ConfigError(
            f"there is no state {state!r}{nearest(str(state), names)}; states are {', '.join(names)}"
        ) from None
