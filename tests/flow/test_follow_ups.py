"""What a run enqueues with its success: compositions as well as calls, past the middleware, told of as any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from windlass import Call, ConfigError, JobContext, Windlass, Workflow, chain, group
from windlass.events import JobEnqueued

Burst = Callable[[], None]


@pytest.fixture
def ran(app: Windlass) -> list[Any]:
    return []


@pytest.fixture
def work(app: Windlass, ran: list[Any]) -> Any:
    @app.job(name="work")
    def work(n: int) -> int:
        ran.append(n)
        return n + 1

    return work


@pytest.mark.parametrize("kind", ["call", "chain", "group", "workflow"])
def test_a_composition_follows_the_success_of_a_run(
    app: Windlass, work: Any, ran: list[Any], burst: Burst, kind: str
) -> None:
    def follow_up() -> Any:
        flow = Workflow("w", id="w")
        first = flow.add(work.bind(1))
        flow.add(work.bind(first.result))
        kinds = {"call": work.bind(1), "chain": chain(work.bind(1), work.bind())}
        return (kinds | {"group": group(work.bind(1), work.bind(2)), "workflow": flow})[kind]

    told = []
    app.on(JobEnqueued)(lambda event: told.append(event.name))

    @app.job(name="begin", retry=0)
    def begin(ctx: JobContext, fails: bool) -> None:
        ctx.then(follow_up())
        if fails:
            raise ValueError

    begin.enqueue(True)
    burst()
    assert (ran, told) == ([], ["begin"])
    begin.enqueue(False)
    burst()
    assert sorted(ran) == ([1] if kind == "call" else [1, 2])
    assert told == ["begin", "begin", *["work"] * len(ran)]


def test_a_workflow_that_is_there_goes_on_as_it_is(app: Windlass, work: Any, ran: list[Any], burst: Burst) -> None:
    @app.job(name="begin")
    def begin(ctx: JobContext) -> None:
        flow = Workflow("w", id="w")
        flow.add(work.bind(1))
        ctx.then(flow)
        ctx.then(work.bind(7))

    for _ in range(2):
        begin.enqueue()
        burst()
    assert ran == [1, 7, 7]


def test_follow_ups_pass_the_enqueue_middleware(app: Windlass, work: Any, ran: list[Any], burst: Burst) -> None:
    seen = []

    @app.middleware("enqueue")
    def look(call: Call[object]) -> Iterator[None]:
        if call.args == (13,):
            raise ConfigError("no luck")
        seen.append(call.name)
        yield

    @app.job(name="begin", retry=0)
    def begin(ctx: JobContext) -> None:
        ctx.then(work.bind(1))
        with pytest.raises(ConfigError, match="no luck"):
            ctx.then(work.bind(13))
        with pytest.raises(ConfigError, match="connection="):
            ctx.then(work.options(connection=object()).bind(1))

    begin.enqueue()
    burst()
    assert (seen, ran) == (["begin", "work"], [1])
