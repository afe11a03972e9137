"""A group runs side by side; its progress is counted and its results come in the order of the calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from dead_shop import worker_of
from windlass import (
    Call,
    ConfigError,
    Discard,
    JobCancelled,
    JobFailed,
    PayloadError,
    ResultTimeout,
    Unique,
    Windlass,
    group,
)
from windlass.engines.url import rules_of
from windlass.events import JobEnqueued
from windlass.flow.members import MEMBERS_MAX, FlowProgress

Burst = Callable[[], None]


class Shop:
    """A job that does as it is told."""

    def __init__(self, app: Windlass) -> None:
        @app.job(name="size")
        def size(number: int, how: str = "done") -> tuple[int, int]:
            match how:
                case "dead":
                    raise ValueError(f"{number} is bad")
                case "cancelled":
                    raise Discard(f"{number} is not wanted")
            return number, number * number

        self.size = size


@pytest.fixture
def shop(app: Windlass) -> Shop:
    return Shop(app)


def test_results_come_in_the_order_of_the_calls_and_typed(app: Windlass, burst: Burst, shop: Shop) -> None:
    calls = [shop.size.options(priority=-number).bind(number) for number in range(5)]
    handle = group(*calls).enqueue()
    assert handle.ids == tuple(call.id for call in calls)
    assert handle.progress() == FlowProgress(5, 0, 0, 0)
    burst()
    assert handle.results(timeout=5) == [(number, number * number) for number in range(5)]
    assert handle.progress() == FlowProgress(5, 5, 0, 0)


def test_progress_is_counted_by_state(app: Windlass, burst: Burst, shop: Shop) -> None:
    later = shop.size.options(delay="1h").bind(4)
    handle = group(shop.size.bind(1), shop.size.bind(2, "dead"), shop.size.bind(3, "cancelled"), later).enqueue()
    burst()
    progress = handle.progress()
    assert progress == FlowProgress(total=4, done=1, dead=1, cancelled=1)
    assert (progress.ended, progress.open, progress.percent) == (3, 1, 75.0)
    app.dead.retry([handle.ids[1]])
    assert handle.progress().dead == 0


def test_the_first_failure_is_raised_or_stands_in_its_place(burst: Burst, shop: Shop) -> None:
    handle = group(shop.size.bind(1), shop.size.bind(2, "cancelled"), shop.size.bind(3, "dead")).enqueue()
    burst()
    with pytest.raises(JobCancelled, match="2 is not wanted"):
        handle.results(timeout=5)
    one, two, three = handle.results(timeout=5, return_exceptions=True)
    assert one == (1, 1)
    assert isinstance(two, JobCancelled)
    assert isinstance(three, JobFailed)


def test_the_timeout_is_for_all_of_them(burst: Burst, shop: Shop) -> None:
    handle = group(shop.size.bind(1), shop.size.options(delay="1h").bind(2)).enqueue()
    burst()
    with pytest.raises(ResultTimeout, match=rf"group {handle.id}: job {handle.ids[1]} did not finish within 20ms"):
        handle.results(timeout="20ms", return_exceptions=True)


def test_a_group_from_a_coroutine(burst: Burst, shop: Shop) -> None:
    async def store() -> Any:
        return await group(shop.size.bind(1), shop.size.bind(2, "dead")).aenqueue()

    handle = asyncio.run(store())
    burst()

    async def look() -> None:
        assert (await handle.aprogress()).ended == 2
        assert len(await handle.aresults(timeout=5, return_exceptions=True)) == 2
        with pytest.raises(JobFailed):
            await handle.aresults(timeout=5)

    asyncio.run(look())


def test_an_empty_group_is_complete_at_once() -> None:
    handle: Any = group().enqueue()
    assert handle.results(timeout=0) == []
    assert handle.progress() == FlowProgress(0, 0, 0, 0)
    assert handle.progress().percent is None

    async def look() -> None:
        handle: Any = await group().aenqueue()
        assert await handle.aresults() == []

    asyncio.run(look())


def test_a_group_is_stored_whole_and_once(app: Windlass, shop: Shop) -> None:
    told: list[str] = []
    app.on(JobEnqueued)(lambda event: told.append(event.id))
    made = group(shop.size.bind(1), shop.size.bind(2))
    first, second = made.enqueue(), made.enqueue()
    assert (first.id, first.ids) == (second.id, second.ids)
    assert told == list(first.ids)

    @app.middleware("enqueue")
    def refuse(call: Call[object]) -> Any:
        if call.args == (4,):
            raise ValueError("not this one")
        yield

    with pytest.raises(ValueError, match="not this one"):
        group(shop.size.bind(3), shop.size.bind(4)).enqueue()
    assert len(app.jobs()) == 2


def test_a_duplicate_stands_for_the_job_that_is_there(burst: Burst, shop: Shop) -> None:
    unique = shop.size.options(unique=Unique("{number}"))
    there = unique.enqueue(1)
    handle = group(unique.bind(1), shop.size.bind(2), unique.bind(1)).enqueue()
    assert handle.ids[0] == handle.ids[2] == there.id
    burst()
    assert handle.results(timeout=5) == [(1, 1), (2, 4), (1, 1)]


def test_results_outlive_keep_and_the_bound_of_their_queue(url: str) -> None:
    with Windlass(url, keep_done_max=1) as app:
        shop = Shop(app)
        handle = group(*(shop.size.options(keep=0).bind(number) for number in range(5))).enqueue()
        worker_of(app, burst=True).run()
        while app.engine.maintain(rules_of(app.settings), 1_000).more:
            pass
        assert len(handle.results(timeout=5)) == 5


@pytest.mark.parametrize("url", ["memory", "sqlite"], indirect=True)  # those with transactions
def test_a_group_inside_a_transaction_appears_with_its_commit(app: Windlass, burst: Burst, shop: Shop) -> None:
    made = group(shop.size.bind(1), shop.size.bind(2))
    with pytest.raises(ZeroDivisionError), app.transaction() as tx:
        made.options(connection=tx).enqueue()
        raise ZeroDivisionError
    with app.transaction() as tx:
        handle = made.options(connection=tx).enqueue()
    burst()
    assert handle.results(timeout=5) == [(1, 1), (2, 4)]


def test_what_is_no_group_is_refused(app: Windlass, shop: Shop) -> None:
    call = shop.size.bind(1)
    with pytest.raises(ConfigError, match="is in it already"):
        group(call, call)
    job: Any = shop.size
    with pytest.raises(ConfigError, match=r"write size\.bind"):
        group(job)
    with Windlass("memory://") as other, pytest.raises(ConfigError, match="one application"):
        group(call, other.job(name="else")(lambda: None).bind())
    bare: Any = shop.size.bind
    with pytest.raises(PayloadError, match="missing a required argument"):
        group(bare())
    with pytest.raises(ConfigError, match=r"at most 10,000; app\.batch"):
        group(*[call] * (MEMBERS_MAX + 1))
