"""The execute chain around a body; the enqueue chain is tested with the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

import pytest

from windlass.core.work import Lease
from windlass.errors import ConfigError
from windlass.jobs.context import JobContext
from windlass.jobs.middleware import Middleware


def context() -> JobContext:
    lease = Lease("1", "shop.charge", "default", b"[1,[],{}]", 1, 1, 3, 0, 0, 0)
    return JobContext(lease, None)  # type: ignore[arg-type]  # the chain does not touch the run


def body(ctx: JobContext, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    return [*args]


def failing(ctx: JobContext, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    raise ValueError("job error")


async def async_body(ctx: JobContext, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
    await asyncio.sleep(0)
    return [*args]


def test_no_middleware_gives_the_body_itself() -> None:
    assert Middleware().wrap(body) is body
    assert Middleware().wrap_async(async_body) is async_body


def test_the_first_registered_is_the_outermost() -> None:
    chain, seen = Middleware(), list[str]()

    def outer(ctx: JobContext) -> Iterator[None]:
        seen.append("outer in")
        yield
        seen.append("outer out")

    def inner(ctx: JobContext) -> Iterator[None]:
        seen.append("inner in")
        yield
        seen.append("inner out")

    chain.add("execute", outer)
    chain.add("execute", inner)
    assert chain.wrap(body)(context(), [1], {}) == [1]
    assert seen == ["outer in", "inner in", "inner out", "outer out"]


def test_the_error_of_a_job_arrives_at_the_yield_and_goes_on() -> None:
    chain, seen = Middleware(), list[str]()

    def watching(ctx: JobContext) -> Iterator[None]:
        try:
            yield
        except ValueError as error:
            seen.append(str(error))
            raise

    chain.add("execute", watching)
    with pytest.raises(ValueError, match="job error"):
        chain.wrap(failing)(context(), [], {})
    assert seen == ["job error"]


def test_a_swallowed_error_makes_the_run_succeed_with_the_result_of_the_context() -> None:
    chain = Middleware()

    def forgiving(ctx: JobContext) -> Iterator[None]:
        try:
            yield
        except ValueError:
            ctx.result = "instead"

    chain.add("execute", forgiving)
    assert chain.wrap(failing)(context(), [], {}) == "instead"


def test_a_middleware_may_replace_the_result() -> None:
    chain = Middleware()

    def doubling(ctx: JobContext) -> Iterator[None]:
        yield
        assert isinstance(ctx.result, list)
        ctx.result = ctx.result * 2

    chain.add("execute", doubling)
    assert chain.wrap(body)(context(), [1], {}) == [1, 1]


def test_an_error_before_the_yield_keeps_the_body_from_running() -> None:
    chain, ran = Middleware(), list[str]()

    def refusing(ctx: JobContext) -> Iterator[None]:
        if ctx.attempt == 1:
            raise PermissionError("no")
        yield

    def recorded(ctx: JobContext, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        ran.append("ran")
        return None

    chain.add("execute", refusing)
    with pytest.raises(PermissionError):
        chain.wrap(recorded)(context(), [], {})
    assert not ran


def test_a_second_yield_fails_and_never_runs_the_body_again() -> None:
    chain, runs = Middleware(), list[int]()

    def twice(ctx: JobContext) -> Iterator[None]:
        yield
        yield

    def counted(ctx: JobContext, args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        runs.append(1)
        return None

    chain.add("execute", twice)
    with pytest.raises(RuntimeError):
        chain.wrap(counted)(context(), [], {})
    assert runs == [1]


def test_an_async_job_takes_sync_and_async_middleware_together() -> None:
    chain, seen = Middleware(), list[str]()

    def plain(ctx: JobContext) -> Iterator[None]:
        seen.append("plain in")
        yield
        seen.append("plain out")

    async def later(ctx: JobContext) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        seen.append("async in")
        yield
        seen.append("async out")

    chain.add("execute", plain)
    chain.add("execute", later)
    assert asyncio.run(chain.wrap_async(async_body)(context(), [7], {})) == [7]
    assert seen == ["plain in", "async in", "async out", "plain out"]


def test_async_middleware_around_a_sync_job_is_refused_by_name() -> None:
    chain = Middleware()

    async def later(ctx: JobContext) -> AsyncIterator[None]:
        yield

    chain.add("execute", later)
    with pytest.raises(ConfigError, match="later is async"):
        chain.wrap(body)


def test_wrong_kinds_and_functions_are_refused() -> None:
    chain = Middleware()

    def gen(ctx: object) -> Iterator[None]:
        yield

    async def later(ctx: object) -> AsyncIterator[None]:
        yield

    with pytest.raises(ConfigError, match="did you mean 'execute'"):
        chain.add("exceute", gen)
    with pytest.raises(ConfigError, match="not a generator function"):
        chain.add("execute", print)
    with pytest.raises(ConfigError, match="later is async"):
        chain.add("enqueue", later)
