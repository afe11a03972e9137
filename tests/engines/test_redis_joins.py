"""Joins on Redis: what its scripts decide, and what becomes of joins that are damaged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files
from itertools import product

import msgspec
import pytest
import redis

from servers import RedisServer
from windlass.core.clock import ManualClock
from windlass.core.join import Tally, decide
from windlass.core.model import NewJoin, State, Wait, Write
from windlass.core.work import Kind
from windlass.engines.redis import RedisEngine
from windlass.testing.conformance.harness import join as beat
from windlass.testing.conformance.harness import state_of, take
from windlass.testing.conformance.joins import end, member, read, store_all


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
def engine(server: RedisServer, client: redis.Redis) -> Iterator[RedisEngine]:
    with closing(RedisEngine(server.url, clock=ManualClock())) as made:
        yield made


def test_the_script_decides_as_the_core_does(client: redis.Redis) -> None:
    numbers = range(4)
    cases = [
        (Tally(sealed, ok + bad + void + left, ok, bad, void), of, count)
        for sealed, ok, bad, void, left, of, count in product(
            (False, True), numbers, numbers, numbers, numbers, ("ok", "bad", "end"), range(6)
        )
    ]
    text = (files("windlass.engines.redis") / "scripts" / "lib" / "deciding.lua").read_text("utf-8")
    loop = """
    local found = {}
    for i = 1, #ARGV, 7 do
      local n = {}
      for j = 1, 6 do n[j] = tonumber(ARGV[i + j - 1]) end
      found[#found + 1] = G.decision(n[1] == 1, n[2], n[3], n[4], n[5], ARGV[i + 6], n[6])
    end
    return found
    """
    run = client.register_script(f"local G = {{}}\n{text}\n{loop}")
    for start in range(0, len(cases), 500):
        part = cases[start : start + 500]
        args: list[str | int] = []
        for tally, of, count in part:
            args += int(tally.sealed), tally.total, tally.ok, tally.bad, tally.void, count, of
        assert [word.decode() for word in run(args=args)] == [decide(*case) for case in part]  # type: ignore[arg-type]


def filled(engine: RedisEngine) -> None:
    beat(engine, lease_ms=10 * 86_400_000)
    jobs = [member("a", "J"), member("b", "J"), member("c", waits=Wait("J", "end")), member("free")]
    store_all(engine, jobs, NewJoin("J", keep_ms=1_000_000, meta="{}"), NewJoin("K", home="J"))
    end(engine, Kind.DONE, "a")


@pytest.mark.parametrize("key", ["tied", "join-ends", "blocked", "blocked-by", "arrivals"])
def test_an_index_of_joins_that_is_lost_is_made_again(engine: RedisEngine, client: redis.Redis, key: str) -> None:
    filled(engine)
    client.delete(engine._key(key))
    engine.doctor(repair=True)
    assert (read(engine, "J").tally, len(engine.list_joins("", None, 10)[0])) == (Tally(True, 2, ok=1), 2)
    assert [one.id for one in engine.members("J", None, 10)[0]] == ["a", "b"]
    end(engine, Kind.DEAD, "b")
    assert [lease.id for lease in take(engine) if lease.id != "free"] == ["c"]


def test_counters_are_derived_anew_from_the_members(engine: RedisEngine, client: redis.Redis) -> None:
    filled(engine)
    stored = msgspec.msgpack.decode(client.hget(engine._key("joins"), "J"))
    client.hset(engine._key("joins"), "J", msgspec.msgpack.encode([1, 5, 2, 2, 1, *stored[5:]]))
    engine.doctor(repair=True)
    assert read(engine, "J").tally == Tally(True, 2, ok=1)
    end(engine, Kind.DONE, "b")
    assert state_of(engine, "c") is State.READY


@pytest.mark.parametrize("key", ["guards", "joins"])
def test_a_job_whose_wait_is_lost_dies_and_does_not_run(engine: RedisEngine, client: redis.Redis, key: str) -> None:
    filled(engine)
    client.delete(engine._key(key))
    engine.doctor(repair=True)
    assert state_of(engine, "c") is State.DEAD
    assert {lease.id for lease in take(engine)} == {"b", "free"}


def test_a_wait_that_nobody_can_read_harms_only_its_job(engine: RedisEngine, client: redis.Redis) -> None:
    filled(engine)
    client.hset(engine._key("guards"), "c", b"\xff\xfe")
    end(engine, Kind.DONE, "b")
    engine.doctor(repair=True)
    assert state_of(engine, "c") is State.DEAD
    assert read(engine, "J").tally == Tally(True, 2, ok=2)
    assert [lease.id for lease in take(engine)] == ["free"]


def test_a_member_whose_record_was_lost_enters_again_as_an_end(engine: RedisEngine, client: redis.Redis) -> None:
    filled(engine)
    for name in ("body", "rec", "guards"):
        client.hdel(engine._key(name), "b")
    assert read(engine, "J").tally == Tally(True, 2, ok=1)
    engine.commit(Write(enters=(("J", "a"), ("J", "b"))))
    assert read(engine, "J").tally == Tally(True, 2, ok=1, void=1)
    assert state_of(engine, "c") is State.READY


def test_a_member_whose_ties_were_lost_has_them_again_when_it_enters(engine: RedisEngine, client: redis.Redis) -> None:
    filled(engine)
    client.hdel(engine._key("guards"), "b")
    engine.commit(Write(enters=(("J", "b"),)))
    end(engine, Kind.DONE, "b")
    assert read(engine, "J").tally == Tally(True, 2, ok=2)


def test_a_job_whose_guards_nobody_can_read_is_not_given_new_ones_when_it_enters(
    engine: RedisEngine, client: redis.Redis
) -> None:
    filled(engine)
    client.hset(engine._key("guards"), "c", b"\xff\xfe")
    engine.commit(Write(enters=(("J", "c"),)))
    assert client.hget(engine._key("guards"), "c") == b"\xff\xfe"
    engine.doctor(repair=True)
    assert state_of(engine, "c") is State.DEAD
    assert read(engine, "J").tally == Tally(True, 3, ok=1, bad=1)
