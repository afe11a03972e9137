"""Transactions as user code opens them: ``with`` on this thread, ``async with`` without blocking the event loop.

In a coroutine a transaction lives on a thread of its own: there it waits for the writer, there its statements run, and
there it commits. So the loop is never blocked, a lock that belongs to a thread is released by the thread that took it,
and two transactions of one loop wait for each other without holding it up. Must not know a job or an engine.

Invariants: whatever ends the block ends the transaction, a cancel too; ``async with`` does not return before the
transaction is over; nothing is run for one that has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import Token, copy_context
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from windlass.core.errors import ConfigError
from windlass.core.spelling import spelled
from windlass.engines.base import Tx
from windlass.engines.holding import HOLDERS, Holder

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

__all__ = ["AsyncTx", "Transaction"]

T = TypeVar("T")


@spelled
class AsyncTx:
    """An open transaction of a coroutine: a ``Tx`` whose ``aexecute`` leaves the event loop free. *Thread-safe.*"""

    def __init__(self, tx: Tx, thread: TxThread) -> None:
        self.tx = tx
        self._thread = thread

    @property
    def result(self) -> Any:
        """What the job returns; see ``Tx.result``."""
        return self.tx.result

    @result.setter
    def result(self, value: Any) -> None:
        self.tx.result = value

    def execute(self, sql: str, bindings: Any = ()) -> Any:
        """Run one short statement; the event loop waits for it. Gives the driver's cursor."""
        return self.run(lambda: self.tx.execute(sql, bindings))

    async def aexecute(self, sql: str, bindings: Any = ()) -> Any:
        """Run one statement without blocking the event loop; see ``execute``."""
        return await self.arun(lambda: self.tx.execute(sql, bindings))

    @property
    def connection(self) -> Any:
        """The driver's connection. It is at home on the transaction's thread; ``arun`` runs code there."""
        return self.tx.connection

    def run(self, work: Callable[[], T]) -> T:
        """Run code on the thread of the transaction. *Blocking.* Raises ConfigError when the transaction has ended."""
        if self._thread.holder.thread == threading.get_ident():
            return work()
        return self._thread.submit(work).result()

    async def arun(self, work: Callable[[], T]) -> T:
        """Run code on the thread of the transaction without blocking the event loop; see ``run``."""
        import asyncio

        return await asyncio.wrap_future(self._thread.submit(work))


class TxThread:
    """The thread on which the transaction of one coroutine lives."""

    def __init__(self, begin: Callable[[], AbstractContextManager[Tx]], loop: asyncio.AbstractEventLoop) -> None:
        self.holder = Holder()
        self.opened: asyncio.Future[Tx] = loop.create_future()
        self.ended: asyncio.Future[BaseException | None] = loop.create_future()
        self._begin = begin
        self._loop = loop
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._error: BaseException | None = None
        self._ending = False
        self._lock = threading.Lock()
        context = copy_context()  # what runs inside another transaction must not wait for that
        threading.Thread(target=lambda: context.run(self._serve), name="windlass-transaction", daemon=True).start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have work done inside the transaction, in the caller's context. Raises ConfigError when it has ended."""
        from concurrent.futures import Future

        future: Future[T] = Future()
        context = copy_context()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(context.run(work))
                except BaseException as error:  # noqa: BLE001  it belongs to whoever asked
                    future.set_exception(error)

        with self._lock:
            if self._ending:
                raise ConfigError("the transaction of this tx has ended: use it inside the `async with` block")
            self._work.put(run)
        return future

    def end(self, error: BaseException | None) -> None:
        """Commit, or roll back for an error, once what was submitted is done."""
        with self._lock:
            self._error, self._ending = error, True
            self._work.put(None)

    def _serve(self) -> None:
        trouble: BaseException | None = None
        try:
            with self._begin() as tx:
                self.holder.thread = threading.get_ident()
                self._tell(self.opened, tx)
                while (work := self._work.get()) is not None:
                    work()
                if self._error is not None:
                    raise self._error
        except BaseException as error:  # noqa: BLE001  it belongs to the coroutine
            trouble = error
        finally:
            self.holder.thread = None
        self._tell(self.ended, trouble)

    def _tell(self, future: asyncio.Future[T], value: T) -> None:
        def settle() -> None:
            if not future.done():
                future.set_result(value)

        try:
            self._loop.call_soon_threadsafe(settle)
        except RuntimeError:  # the loop is closed, so nobody waits, and nobody will end this transaction
            self.end(RuntimeError("the event loop is closed"))


class Transaction:
    """A transaction that begins with the block and commits at its end: ``with`` gives a Tx, ``async with`` an AsyncTx.

    An error in the block, or a cancel, rolls it back.
    """

    def __init__(self, begin: Callable[[], AbstractContextManager[Tx]]) -> None:
        """``begin`` makes the context manager of the transaction; in a coroutine it is called on another thread."""
        self._begin = begin
        self._open: AbstractContextManager[Tx] | None = None
        self._thread: TxThread | None = None
        self._holder = Holder()
        self._token: Token[tuple[Holder, ...]] | None = None

    def __enter__(self) -> Tx:
        """Begin. *Blocking.*"""
        manager = self._begin()
        tx = manager.__enter__()
        self._open = manager
        self._holder.thread = threading.get_ident()
        self._enter(self._holder)
        return tx

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, or roll back. *Blocking.*"""
        manager, self._open = self._open, None
        assert manager is not None
        try:
            manager.__exit__(kind, error, trace)
        finally:
            self._leave(self._holder)

    async def __aenter__(self) -> AsyncTx:
        """Begin without blocking the event loop."""
        import asyncio  # late: sync programs need not load it

        thread = TxThread(self._begin, asyncio.get_running_loop())
        try:
            await asyncio.wait((thread.opened, thread.ended), return_when=asyncio.FIRST_COMPLETED)
        except BaseException as error:
            thread.end(error)  # it lets go by itself, as soon as it has the writer
            raise
        if not thread.opened.done():
            raise thread.ended.result() or ConfigError("the transaction ended before it began")
        self._thread = thread
        self._enter(thread.holder)
        return AsyncTx(thread.opened.result(), thread)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, or roll back, without blocking the event loop. A cancel meanwhile waits until that is over."""
        import asyncio

        thread, self._thread = self._thread, None
        assert thread is not None
        thread.end(error)
        cancel: asyncio.CancelledError | None = None
        try:
            while not thread.ended.done():
                try:
                    await asyncio.wait((thread.ended,))
                except asyncio.CancelledError as one:
                    cancel = one
        finally:
            self._leave(thread.holder)
        trouble = thread.ended.result()
        if error is not None:
            error.__traceback__ = trace  # without the frames of the other thread
        if trouble is not None and trouble is not error:
            raise trouble
        if cancel is not None:
            raise cancel

    def _enter(self, holder: Holder) -> None:
        self._token = HOLDERS.set((*HOLDERS.get(), holder))

    def _leave(self, holder: Holder) -> None:
        holder.thread = None
        token, self._token = self._token, None
        try:
            if token is not None:
                HOLDERS.reset(token)
        except ValueError:  # left in another context than it was entered in, where it says nothing any more
            pass
