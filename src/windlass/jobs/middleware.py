"""Code around an enqueue or around a run: two chains of generator functions with one ``yield`` each.

What stands before the ``yield`` runs before, what stands behind it runs after, and an error is thrown in at it; the
first one registered is the outermost. Must not re-run a body. Invariants: a chain is composed once, not per job; an
empty chain is the body itself and costs nothing; an error in a middleware is an error of what it wraps, but for one
that comes when jobs are stored already: it is logged, since a caller that is told of an error enqueues once more.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
    contextmanager,
)
from types import TracebackType
from typing import Final, TypeAlias, cast

from windlass.core.errors import ConfigError
from windlass.core.foreign import Shield, name_of
from windlass.core.units import nearest
from windlass.jobs.call import Call
from windlass.jobs.context import JobContext
from windlass.logs import Log

__all__ = ["AsyncBody", "Body", "EnqueueMiddleware", "ExecuteMiddleware", "Middleware"]

Body: TypeAlias = Callable[[JobContext, Sequence[object], Mapping[str, object]], object]
AsyncBody: TypeAlias = Callable[[JobContext, Sequence[object], Mapping[str, object]], Coroutine[object, object, object]]
EnqueueMiddleware: TypeAlias = "Callable[[Call[object]], Iterator[None]]"
ExecuteMiddleware: TypeAlias = Callable[[JobContext], Iterator[None] | AsyncIterator[None]]

KINDS = ("enqueue", "execute")
STORED: Final = "enqueue middleware %s failed behind its yield; the job is stored, and the enqueue goes on"

logger = Log("windlass.client")


def check_kind(kind: object) -> None:
    """Raise ConfigError for what is no chain, such as the function of a bare ``@app.middleware``."""
    if kind not in KINDS:
        raise ConfigError(
            f"middleware kind {kind!r} does not exist{nearest(str(kind), KINDS)}; write @app.middleware('execute') or "
            "@app.middleware('enqueue')"
        )


class Middleware:
    """The two chains of an application."""

    def __init__(self) -> None:
        self._enqueue: list[tuple[str, Callable[[Call[object]], AbstractContextManager[None]]]] = []
        self._execute: list[ExecuteMiddleware] = []

    def add(self, kind: str, fn: Callable[..., object]) -> None:
        """Append a generator function to the ``"enqueue"`` or the ``"execute"`` chain.

        An enqueue middleware gets the Call and may raise to refuse it. An execute middleware gets the JobContext; it
        may replace ``ctx.result``, and one that swallows the job's error makes the run succeed with ``ctx.result``.
        Raises ConfigError for another kind, for what is no generator function, and for an async one around enqueue.
        """
        name = getattr(fn, "__qualname__", repr(fn))
        check_kind(kind)
        if not (inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)):
            raise ConfigError(f"middleware {name} is not a generator function; write one with a single `yield` in it")
        if kind == "execute":
            self._execute.append(cast(ExecuteMiddleware, fn))
        elif inspect.isasyncgenfunction(fn):
            raise ConfigError(f"middleware {name} is async; an enqueue middleware is a plain generator function")
        else:
            self._enqueue.append((name_of(fn), contextmanager(cast("EnqueueMiddleware", fn))))

    @property
    def enqueue_is_empty(self) -> bool:
        """Whether no middleware stands around enqueue."""
        return not self._enqueue

    def around_enqueue(self, calls: Sequence[Call[object]]) -> ExitStack:
        """Enter the enqueue chain of every call; the block that follows stores them.

        When it has, no middleware makes the enqueue fail, except inside a transaction of the caller, who can undo it.
        """
        with ExitStack() as stack:
            for call in calls:
                for name, manager in self._enqueue:
                    entered = manager(call)
                    entered.__enter__()
                    stack.push(entered.__exit__ if call.connection is not None else _Behind(name, entered))
            return stack.pop_all()

    def wrap(self, body: Body) -> Body:
        """Compose the execute chain around a sync job's body. Raises ConfigError when one of the chain is async."""
        for fn in reversed(self._execute):
            if inspect.isasyncgenfunction(fn):
                raise ConfigError(
                    f"execute middleware {fn.__qualname__} is async and cannot wrap a sync job; "
                    "write it as a plain generator function, which serves both"
                )
            body = _wrap(contextmanager(cast("Callable[[JobContext], Iterator[None]]", fn)), body)
        return body

    def wrap_async(self, body: AsyncBody) -> AsyncBody:
        """Compose the execute chain around an async job's body; sync and async middleware may be mixed."""
        for fn in reversed(self._execute):
            if inspect.isasyncgenfunction(fn):
                body = _wrap_async(asynccontextmanager(cast("Callable[[JobContext], AsyncIterator[None]]", fn)), body)
            else:
                body = _wrap_mixed(contextmanager(cast("Callable[[JobContext], Iterator[None]]", fn)), body)
        return body


class _Behind:
    """The way out of a middleware: an error of its own ends here when what it wraps has gone well."""

    def __init__(self, name: str, entered: AbstractContextManager[None]) -> None:
        self._name = name
        self._entered = entered

    def __call__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is not None:
            return self._entered.__exit__(kind, error, trace)
        with Shield(logger, STORED, self._name):
            self._entered.__exit__(None, None, None)
        return None


def _wrap(manager: Callable[[JobContext], AbstractContextManager[None]], body: Body) -> Body:
    def wrapped(ctx: JobContext, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        with manager(ctx):
            ctx.result = body(ctx, args, kwargs)
        return ctx.result

    return wrapped


def _wrap_mixed(manager: Callable[[JobContext], AbstractContextManager[None]], body: AsyncBody) -> AsyncBody:
    async def wrapped(ctx: JobContext, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        with manager(ctx):
            ctx.result = await body(ctx, args, kwargs)
        return ctx.result

    return wrapped


def _wrap_async(manager: Callable[[JobContext], AbstractAsyncContextManager[None]], body: AsyncBody) -> AsyncBody:
    async def wrapped(ctx: JobContext, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        async with manager(ctx):
            ctx.result = await body(ctx, args, kwargs)
        return ctx.result

    return wrapped
