"""From Calls to stored jobs: one by one, in chunks, as a stream, and from an event loop.

Takes its engine, registry, settings, events and middleware by argument and must not know the application. Invariants: a
chunk is stored whole or not at all; a Call is stored once however often it is sent; with no middleware and no
subscriber an enqueue is one engine call and nothing else; once jobs are stored nothing makes the call raise.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from windlass.core.aio import hop
from windlass.core.errors import ConfigError, Duplicate, EngineError, EngineUnavailable
from windlass.core.foreign import Shield
from windlass.core.model import NewJoin, Placed, Write, Written
from windlass.engines.base import Store, TransactionalCommit
from windlass.engines.holding import HOLDERS
from windlass.events import Events, JobEnqueued
from windlass.jobs.call import Call, check_call
from windlass.jobs.handle import JobHandle
from windlass.jobs.middleware import Middleware
from windlass.jobs.reader import Reader
from windlass.jobs.registry import Registry
from windlass.jobs.transactions import AsyncTx
from windlass.logs import Log
from windlass.settings import Settings

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["CHUNK", "Client"]

R = TypeVar("R")
T = TypeVar("T")

CHUNK: Final = 1_000
"""Jobs per atomic batch: long enough to share a commit, short enough to hold the engine's writer for a few ms only."""

HOP_THREADS: Final = 2  # one batch may be committing while the next is on its way
DUPLICATES_CHECKED: Final = 10  # per call: the check costs a read each and only feeds a warning
IDS_SHOWN: Final = 5

logger = Log("windlass.client")


class Client:
    """Stores calls in one engine. *Thread-safe.*"""

    def __init__(
        self, engine: Store, registry: Registry, settings: Settings, events: Events, middleware: Middleware
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.reader = Reader(engine, registry)
        self._events = events
        self._middleware = middleware
        self._ticks: dict[asyncio.AbstractEventLoop, list[tuple[Call[object], asyncio.Future[Placed]]]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._pool_pid = 0
        self._pool_lock = threading.Lock()
        self._opened = False  # the engine, by a coroutine that has a connection of its own

    def enqueue(self, call: Call[R]) -> JobHandle[R]:
        """Store one call. *Atomic, idempotent by id, blocking.* Raises EngineUnavailable, EngineFull."""
        placed = self._store((call,)).placed[0]
        return JobHandle(placed.id, placed.duplicate, self.reader)

    def enqueue_many(self, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
        """Store calls, each chunk of 1,000 atomic, and give their handles in order.

        A failure at a later chunk raises with the ids that are stored, also as ``error.stored``; calling again with the
        same calls is safe. An error of the iterable itself is raised as it is, with a note of what is stored.
        """
        handles: list[JobHandle[R]] = []
        reader = self.reader
        with _told(handles):
            for chunk in _chunks(calls):
                handles += [JobHandle(placed.id, placed.duplicate, reader) for placed in self._store(chunk).placed]
        return handles

    def enqueue_stream(self, calls: Iterable[Call[object]]) -> int:
        """Store calls as they come, in constant memory, and give how many were stored (duplicates are not counted)."""
        stored = 0
        try:
            for chunk in _chunks(calls):
                stored += _fresh(self._store(chunk).placed)
        except (EngineError, Duplicate) as error:
            _tell_counted(error, stored)
            raise
        return stored

    async def aenqueue(self, call: Call[R]) -> JobHandle[R]:
        """Store one call without blocking the event loop. Calls of one tick share one engine call."""
        import asyncio  # late: sync programs need not load it

        check_call(call, "enqueue")
        if call.connection is not None or HOLDERS.get() or not self._middleware.enqueue_is_empty:
            # What the caller wraps around this call must see its own outcome, so it goes alone.
            return await self._where_it_lives(call.connection, lambda: self.enqueue(call))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Placed] = loop.create_future()
        waiting = self._ticks.get(loop)
        if waiting is None:
            self._ticks[loop] = waiting = []
            loop.call_soon(self._end_tick, loop)
        waiting.append((call, future))
        placed = await future
        return JobHandle(placed.id, placed.duplicate, self.reader)

    async def aenqueue_many(self, calls: Iterable[Call[R]]) -> list[JobHandle[R]]:
        """Store calls without blocking the event loop; see ``enqueue_many``. The iterable is read on another thread."""
        handles: list[JobHandle[R]] = []
        with _told(handles):
            async for chunk in _hopped(_chunks(calls)):
                handles += [JobHandle(one.id, one.duplicate, self.reader) for one in (await self._astore(chunk)).placed]
        return handles

    async def aenqueue_stream(self, calls: Iterable[Call[object]] | AsyncIterable[Call[object]]) -> int:
        """Store calls as they come without blocking the event loop; takes async iterables too.

        A plain iterable is read on another thread.
        """
        stored = 0
        try:
            async for chunk in _achunks(calls) if isinstance(calls, AsyncIterable) else _hopped(_chunks(calls)):
                stored += _fresh((await self._astore(chunk)).placed)
            return stored
        except (EngineError, Duplicate) as error:
            _tell_counted(error, stored)
            raise

    def close(self) -> None:
        """End the threads of async enqueues; those under way end first. *Idempotent.*"""
        with self._pool_lock:
            pool, self._pool = self._pool, None
        if pool is not None and self._pool_pid == os.getpid():
            pool.shutdown()

    def compose(
        self, calls: Sequence[Call[object]], joins: Sequence[NewJoin] = (), seals: Sequence[str] = ()
    ) -> Written:
        """Store calls and joins in one write, and seal joins; see ``jobs.call.Storer``."""
        return self._store(calls, tuple(joins), tuple(seals))

    async def acompose(
        self, calls: Sequence[Call[object]], joins: Sequence[NewJoin] = (), seals: Sequence[str] = ()
    ) -> Written:
        """Store calls and joins without blocking the event loop; see ``compose``."""
        connection = calls[0].connection if calls else None
        return await self._where_it_lives(connection, lambda: self.compose(calls, joins, seals))

    # -- storing ---------------------------------------------------------------------------------------

    def _store(
        self, calls: Sequence[Call[object]], joins: tuple[NewJoin, ...] = (), seals: tuple[str, ...] = ()
    ) -> Written:
        for call in calls:
            check_call(call, "enqueue")
        if self._middleware.enqueue_is_empty:
            written = self._place(calls, joins, seals)
        else:
            written = self._place_wrapped(calls, joins, seals)
        if written.lost:
            return written
        placed = written.placed
        if self._events.wants(JobEnqueued):
            for call, one in zip(calls, placed, strict=True):
                if not one.duplicate:
                    self._events.emit(JobEnqueued(one.id, call.new.name, call.new.queue))
        known = [call for call, one in zip(calls, placed, strict=True) if one.duplicate]
        if known:
            with Shield(logger, "jobs are stored, and some were there before; their arguments could not be compared"):
                self._warn_of_other_arguments(known)
        return written

    async def _astore(self, calls: Sequence[Call[object]]) -> Written:
        check_call(calls[0], "enqueue")
        return await self._where_it_lives(calls[0].connection, lambda: self._store(calls))

    async def _where_it_lives(self, connection: object, store: Callable[[], T]) -> T:
        """Run ``store`` where a connection may be used: the caller's own on this thread, where its locks are."""
        if connection is None:
            return await hop(store)
        if isinstance(connection, AsyncTx):
            return await connection.arun(store)
        if not self._opened:
            await hop(self.engine.open)  # files and migrations, which are too long for an event loop
            self._opened = True
        return store()

    def _place_wrapped(
        self, calls: Sequence[Call[object]], joins: tuple[NewJoin, ...], seals: tuple[str, ...]
    ) -> Written:
        written: Written | None = None
        trouble: Exception | None = None
        with self._middleware.around_enqueue(calls):
            try:
                written = self._place(calls, joins, seals)
            except Exception as error:
                trouble = error
                raise
        if written is None:  # a middleware swallowed the error, but there is no job to give a handle of
            raise trouble or ConfigError("an enqueue middleware swallowed the error of an enqueue; nothing was stored")
        return written

    def _place(self, calls: Sequence[Call[object]], joins: tuple[NewJoin, ...], seals: tuple[str, ...]) -> Written:
        if not (calls or joins or seals):
            return Written([])
        connection = calls[0].connection if calls else None
        jobs = tuple([call.new for call in calls if call.connection is connection])
        if len(jobs) < len(calls):
            raise ConfigError(
                "calls that are stored together have different connection= options; give them all the same, or enqueue "
                "them apart"
            )
        write = Write(jobs, joins=joins, seals=seals)
        if connection is None:
            return self.engine.commit(write)
        engine = self.engine
        if not isinstance(engine, TransactionalCommit):
            raise ConfigError(
                f"connection= of job {calls[0].new.name!r}: the engine {engine.info.name!r} has no transactions; "
                "leave it out and enqueue after your own commit, or use a SQL engine"
            )
        if isinstance(connection, AsyncTx):
            tx = connection.tx
            return connection.run(lambda: engine.commit_within(tx, write))
        return engine.commit_within(connection, write)

    def _warn_of_other_arguments(self, known: Sequence[Call[object]]) -> None:
        for new in itertools.islice((call.new for call in known if call.connection is None), DUPLICATES_CHECKED):
            row = self.engine.job(new.id)
            if row is not None and (row.name != new.name or row.payload != new.payload.encode()):
                logger.warning(
                    "job %s exists as %s with other arguments; it keeps them, and this enqueue of %s is ignored",
                    new.id,
                    row.name,
                    new.name,
                )

    # -- coalescing ------------------------------------------------------------------------------------

    def _end_tick(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = [(call, future) for call, future in self._ticks.pop(loop) if not future.done()]
        for start in range(0, len(waiting), CHUNK):
            part = waiting[start : start + CHUNK]
            try:
                self._hop_pool().submit(self._store_tick, loop, part)
            except RuntimeError as error:  # closed in this very moment, or the interpreter ends
                for _, future in part:
                    future.set_exception(EngineUnavailable(f"the application is closing, nothing was stored: {error}"))

    def _store_tick(
        self, loop: asyncio.AbstractEventLoop, part: list[tuple[Call[object], asyncio.Future[Placed]]]
    ) -> None:
        try:
            answers: list[Placed | BaseException] = [*self._store([call for call, _ in part]).placed]
        except Duplicate as error:
            # One unique key refuses a whole batch, and only its own call is to hear of that: each goes alone.
            if len(part) > 1:
                for one in part:
                    self._store_tick(loop, [one])
                return
            answers = [error]
        except BaseException as error:  # noqa: BLE001  it belongs to those who wait
            answers = [error] * len(part)

        def answer() -> None:
            for (_, future), one in zip(part, answers, strict=True):
                if future.done():
                    continue
                if isinstance(one, BaseException):
                    future.set_exception(one)
                else:
                    future.set_result(one)

        try:
            loop.call_soon_threadsafe(answer)
        except RuntimeError:  # the loop is closed, so nobody waits
            pass

    def _hop_pool(self) -> ThreadPoolExecutor:
        with self._pool_lock:
            # Threads do not survive a fork; the child needs its own.
            if self._pool is None or self._pool_pid != os.getpid():
                from concurrent.futures import ThreadPoolExecutor

                self._pool = ThreadPoolExecutor(HOP_THREADS, thread_name_prefix="windlass-enqueue")
                self._pool_pid = os.getpid()
            return self._pool


def _chunks(calls: Iterable[T]) -> Iterator[list[T]]:
    source = iter(calls)
    while chunk := list(itertools.islice(source, CHUNK)):
        yield chunk


async def _hopped(chunks: Iterator[list[T]]) -> AsyncIterator[list[T]]:
    """Read an iterable on other threads: nobody knows how long it takes."""
    while chunk := await hop(lambda: next(chunks, None)):
        yield chunk


async def _achunks(calls: AsyncIterable[T]) -> AsyncIterator[list[T]]:
    chunk: list[T] = []
    async for call in calls:
        chunk.append(call)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _fresh(placed: Sequence[Placed]) -> int:
    return sum(not one.duplicate for one in placed)


@contextmanager
def _told(handles: list[JobHandle[R]]) -> Iterator[None]:
    """Write into an error of the block what is stored already."""
    try:
        yield
    except Exception as error:
        stored = [handle.id for handle in handles]
        if stored and isinstance(error, EngineError | Duplicate):
            error.args = (f"{error}; {_so_far(stored)}. Calling enqueue_many again with the same calls is safe",)
            vars(error)["stored"] = stored
        elif stored:
            error.add_note(_so_far(stored))
        raise


def _so_far(stored: list[str]) -> str:
    shown = ", ".join(stored[:IDS_SHOWN]) + (f", ... {stored[-1]}" if len(stored) > IDS_SHOWN else "")
    return f"the first {len(stored)} jobs are stored ({shown}), the rest is not"


def _tell_counted(error: EngineError | Duplicate, stored: int) -> None:
    if stored:
        error.args = (f"{error}; {stored} jobs of the stream are stored, the chunk after them is not",)
