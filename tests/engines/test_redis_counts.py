"""Counts on Redis: those of the version before, and those that something has spoiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from servers import RedisServer
from windlass.core.clock import ManualClock
from windlass.core.model import Count, Write
from windlass.engines.redis import RedisEngine
from windlass.testing.conformance.harness import add, finish, join, upkeep

PREFIX = "{windlass}:"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with server.client() as client:
        client.flushall()
        yield client


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine(server: RedisServer, client: redis.Redis, clock: ManualClock) -> Iterator[RedisEngine]:
    with closing(RedisEngine(server.url, clock=clock)) as made:
        made.open()
        yield made


def rates(engine: RedisEngine) -> dict[str, int]:
    return {one.series: one.n for one in engine.metrics(("arrived:", "claimed:"), 1).counts}


def test_what_processes_of_the_version_before_count_is_taken_over_again_and_again(
    engine: RedisEngine, client: redis.Redis, clock: ManualClock
) -> None:
    def old(count: int) -> None:
        """What such a process does when jobs are stored, claimed and done."""
        step = clock.wall_ms() // 10_000
        client.hincrby(f"{PREFIX}meta", "seq", count)
        for key, field in (("flow", f"a{step}:qa:x"), ("flow", f"c{step - 1}:qa:x"), ("totals", "done")):
            client.hincrby(PREFIX + key, field, count)

    for key, field, value in (
        ("totals", "dead", "many"),
        ("flow", "a1", "1"),
        ("flow", "x1:q", "1"),
        ("flow", b"\xff", 1),
    ):
        client.hset(PREFIX + key, field, value)
    for n in range(1, 4):
        old(2)
        add(engine, f"j{n}", queue="qa:x")
        for _ in range(2):
            counts = engine.counts()
            assert [counts[f"total_{name}"] for name in ("enqueued", "done", "dead")] == [3 * n, 2 * n, 0]
            upkeep(engine)
            assert client.exists(f"{PREFIX}totals", f"{PREFIX}flow") == 0
        assert rates(engine) == {"arrived:qa:x": 3, "claimed:qa:x": 2}
        clock.advance(600_000)


@pytest.mark.parametrize("value", ["many", "-7", "1.5", "", "9" * 30, b"\xff"])
@pytest.mark.parametrize("field", ["total:done", "arrived:default"])
def test_a_spoiled_count_harms_nobody(
    engine: RedisEngine, client: redis.Redis, clock: ManualClock, field: str, value: str | bytes
) -> None:
    join(engine)
    minute = clock.wall_ms() // 60_000
    for at in (0, minute - 9, minute):
        client.hset(f"{PREFIX}counts", f"{at}:{field}", value)
    finish(engine, "a")
    engine.commit(Write(counts=(Count(field, 2),)))
    assert engine.counts()["total_enqueued"] == 1
    upkeep(engine)
    assert {one.series for one in engine.metrics(("",), 100).counts} == {
        "arrived:default", "claimed:default", "total:done",
    }  # fmt: skip
    clock.advance(600_000)
    upkeep(engine)
    assert engine.counts()["total_done"] >= 1
