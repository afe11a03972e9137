"""What the Redis engine's calls cost in connections and round trips: no more than they must."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from threading import Barrier, Thread
from typing import Any

import pytest
from msgspec import structs
from redis import Redis

from kit.waiting import PATIENCE, stretched, until
from servers import RedisServer
from windlass.core.clock import ManualClock
from windlass.core.model import Slot, State
from windlass.core.work import Kind, Settled
from windlass.engines.redis import RedisEngine
from windlass.engines.redis.connection import CONNECTIONS_MAX
from windlass.testing.conformance.harness import add, ended, job, join, place, row_of, take


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


@pytest.fixture
def client(server: RedisServer) -> Iterator[Redis]:
    with server.client() as made:
        made.flushall()
        yield made


@pytest.fixture
def engine(server: RedisServer, client: Redis) -> Iterator[RedisEngine]:
    with closing(RedisEngine(server.url)) as made:
        made.open()
        yield made


def test_many_wakes_of_one_wait_send_one_token(engine: RedisEngine, client: Redis) -> None:
    woken: list[bool] = []
    waiter = Thread(target=lambda: woken.append(engine.wait([], 30)))
    waiter.start()
    until(lambda: client.info("clients")["blocked_clients"] == 1, "the engine does not block")
    engine.wake()
    waiter.join(stretched(PATIENCE))
    client.config_resetstat()
    waiter = Thread(target=lambda: woken.append(engine.wait([], 30)))
    waiter.start()
    until(lambda: client.info("clients")["blocked_clients"] == 1, "the engine does not block")
    barrier = Barrier(20)

    def wake() -> None:
        barrier.wait()
        engine.wake()

    wakers = [Thread(target=wake) for _ in range(20)]
    for one in wakers:
        one.start()
    for one in [*wakers, waiter]:
        one.join(stretched(PATIENCE))
    assert woken == [True, True]
    assert client.info("commandstats")["cmdstat_rpush"]["calls"] == 1


def test_a_null_result_is_not_stored_and_reads_as_null(engine: RedisEngine, client: Redis) -> None:
    join(engine)
    add(engine, "null", "none", "value")
    by_id = {lease.id: lease for lease in take(engine, limit=3)}
    results = {"null": "null", "none": None, "value": "[1]"}
    outcomes = [ended(by_id[id], Kind.DONE, result=result) for id, result in results.items()]
    assert engine.settle(outcomes) == [Settled.APPLIED] * 3
    assert [row_of(engine, id).result for id in results] == [b"null", None, b"[1]"]
    assert not any(row_of(engine, id).cancel_requested for id in results)
    assert client.hkeys(engine._key("result")) == [b"value"]


def test_a_null_result_of_a_job_that_failed_before_reads_as_null(engine: RedisEngine) -> None:
    join(engine)
    add(engine, "j")
    (lease,) = take(engine)
    engine.settle([ended(lease, Kind.RETRY)])
    (lease,) = take(engine)
    engine.settle([ended(lease, Kind.DONE, result="null")])
    row = row_of(engine, "j")
    assert (row.state, row.result, row.attempt) == (State.DONE, b"null", 2)


@pytest.mark.parametrize("slot", [None, Slot.THREAD, Slot.LOOP])
@pytest.mark.parametrize("changes", [{}, {"priority": 3, "aging_ms": 1_000, "at_front": True}, {"tags": ("a",)}])
def test_a_job_that_is_stored_alone_looks_like_one_of_a_batch(
    server: RedisServer, client: Redis, slot: Slot | None, changes: dict[str, Any]
) -> None:
    """Alone it goes by a script of its own; given twice, it is a batch with a duplicate."""
    new = structs.replace(job("j"), slot=slot, **changes)
    found = []
    for batch in ([new], [new, new]):
        client.flushall()
        with closing(RedisEngine(server.url, clock=ManualClock())) as engine:
            for count in (1, 2):  # in an empty store, and in one that knows the queue
                placed = place(engine, [structs.replace(one, id=f"{one.id}{count}") for one in batch])
                assert [one.duplicate for one in placed] == [False, True][: len(batch)]
        found.append({key: read(client, key) for key in client.scan_iter()})
    assert found[0] == found[1]


def read(client: Redis, key: bytes | str) -> object:
    """What a key holds."""
    match client.type(key):
        case b"hash":
            return client.hgetall(key)
        case b"list":
            return client.lrange(key, 0, -1)
        case _:
            return client.zrange(key, 0, -1, withscores=True)


def test_calls_in_a_row_use_one_connection(engine: RedisEngine, client: Redis) -> None:
    place(engine, [job("first")])
    before = client.info("stats")["total_connections_received"]
    for number in range(50):
        place(engine, [job(f"j{number}")])
    assert client.info("stats")["total_connections_received"] == before


def test_more_callers_than_connections_are_all_served(engine: RedisEngine) -> None:
    count, each = CONNECTIONS_MAX + 20, 10
    barrier = Barrier(count)

    def call(caller: int) -> None:
        barrier.wait()
        for number in range(each):
            place(engine, [job(f"{caller}-{number}")])

    callers = [Thread(target=call, args=(caller,)) for caller in range(count)]
    for one in callers:
        one.start()
    for one in callers:
        one.join(stretched(PATIENCE))
    assert engine.counts()["ready"] == count * each


def test_a_closed_engine_that_opens_again_uses_connections_of_its_own(engine: RedisEngine) -> None:
    place(engine, [job("before")])
    engine.close()
    engine.open()
    place(engine, [job("after")])
    assert engine.counts()["ready"] == 2
