"""The conformance suite and the state machine on Redis: one server, a cluster, and a master behind Sentinel.

They run as the user of the guide, so that its rights are enough for all there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest

from kit.waiting import PATIENCE
from servers import Cluster, RedisServer, Replicated, of_the_guide
from windlass.core.clock import ManualClock
from windlass.engines.redis import RedisEngine
from windlass.engines.redis.reading import decode_rest
from windlass.engines.redis.wire import PREFIX, SUFFIX, pack
from windlass.testing.conformance import (
    EngineConformance,
    GuardMachine,
    Harness,
    HoldMachine,
    JoinMachine,
    build_machine,
)
from windlass.testing.conformance.harness import upkeep


class RedisHarness:
    """An emptied server that other tests use as well."""

    def __init__(self, server: RedisServer | Cluster | Replicated) -> None:
        self._server = server
        self._url = of_the_guide(server)
        self._engines: list[RedisEngine] = []
        self.flush()
        self.clock = ManualClock()
        self.engine = self.second()

    def flush(self) -> None:
        if isinstance(self._server, Cluster):
            self._server.flush()
            return
        server = self._server.master if isinstance(self._server, Replicated) else self._server
        with server.client() as client:
            client.flushall()

    def second(self) -> RedisEngine:
        engine = RedisEngine(self._url, clock=self.clock, network_timeout_ms=round(PATIENCE * 1_000))
        engine.open()
        self._engines.append(engine)
        return engine

    def corrupt(self, job_id: str, payload: bytes) -> None:
        client, key = self.engine._client(), self.engine._key("body")
        body = client.execute_command("HGET", key, job_id)
        rest = PREFIX + int.from_bytes(body[PREFIX - 2 : PREFIX], "big")
        changed = pack(msgspec.structs.replace(decode_rest(body[rest:-SUFFIX]), payload=payload))
        client.execute_command("HSET", key, job_id, body[:rest] + changed + body[-SUFFIX:])

    def close(self) -> None:
        for engine in self._engines:
            engine.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with closing(Cluster()) as made:
        yield made


@pytest.fixture(scope="module")
def replicated() -> Iterator[Replicated]:
    with closing(Replicated()) as made:
        yield made


class TestRedis(EngineConformance):
    @pytest.fixture
    def harness(self, server: RedisServer) -> Iterator[Harness]:
        with closing(RedisHarness(server)) as made:
            yield made

    def test_a_step_of_the_servers_clock_moves_the_leases_of_holds(self, server: RedisServer) -> None:
        """The end of a lease is an instant of the server's TIME, as its start is: so they part when that steps."""
        with closing(RedisEngine(of_the_guide(server))) as engine, server.client() as client:
            client.flushall()
            engine.open()
            seconds, micros = client.time()
            assert engine.hold("lock:k", "t", 1, 60_000, "me").fence is not None
            _, _, until, since, _ = msgspec.msgpack.decode(client.hget(engine._key("locks"), "k"))
            assert until == since + 60_000
            assert since >= seconds * 1_000 + micros // 1_000
            # What the clock of the server would show after a step of a minute.
            client.hset(
                engine._key("locks"), "k", msgspec.msgpack.encode(["t", 1, until - 60_000, since - 60_000, "me"])
            )
            assert engine.hold("lock:k", "other", 1, 60_000).fence is not None

    def test_a_line_in_which_everybody_died_is_forgotten(self, harness: RedisHarness) -> None:
        engine = harness.engine
        for token in ("t1", "dies"):
            engine.hold("lock:k", token, 1, 60_000, wait_ms=3_000)
        assert engine.release("lock:k", "t1")
        harness.clock.advance(2_000)
        upkeep(engine)
        assert engine._client().execute_command("HLEN", engine._key("lines")) == 1
        harness.clock.advance(1_000)
        upkeep(engine)
        assert engine._client().execute_command("HLEN", engine._key("lines")) == 0

    def test_a_lock_that_the_version_before_took_stays_held(self, harness: RedisHarness) -> None:
        now = harness.clock.wall_ms()
        client, engine = harness.engine._client(), harness.engine
        before = msgspec.msgpack.encode(["token", 77, now + 60_000, now, "me"])
        client.execute_command("HSET", engine._key("locks"), "k", before)
        client.execute_command("HSET", engine._key("lines"), "k", msgspec.msgpack.encode(["first", now + 3_000]))
        busy = engine.hold("lock:k", "other", 1, 60_000)
        assert (busy.fence, busy.left_ms, busy.owner) == (None, 60_000, "me")
        (lock,) = engine.holds("lock:")
        assert (lock.gate, lock.fence, lock.left_ms, lock.since, lock.waiting) == ("lock:k", 77, 60_000, now, 1)
        assert engine.renew([("lock:k", "token")], 60_000) == [True]
        assert client.execute_command("HGET", engine._key("locks"), "k") == before  # which that version can read
        assert engine.release("lock:k", "token")
        assert engine.hold("lock:k", "other", 1, 60_000).fence is None
        assert (engine.hold("lock:k", "first", 1, 60_000).fence or 0) > 77


class TestRedisCluster(EngineConformance):
    @pytest.fixture
    def harness(self, cluster: Cluster) -> Iterator[Harness]:
        with closing(RedisHarness(cluster)) as made:
            yield made


@pytest.mark.soak  # it differs from the plain server by how a connection is found; the failover tests are in every run
class TestRedisSentinel(EngineConformance):
    @pytest.fixture
    def harness(self, replicated: Replicated) -> Iterator[Harness]:
        with closing(RedisHarness(replicated)) as made:
            yield made


@pytest.fixture(scope="module", autouse=True)
def machine_servers(server: RedisServer, cluster: Cluster, replicated: Replicated) -> Iterator[None]:
    """What the state machines run on, since they take no fixtures."""
    SERVERS.update(server=server, cluster=cluster, sentinel=replicated)
    yield
    SERVERS.clear()


SERVERS: dict[str, RedisServer | Cluster | Replicated] = {}

TestRedisMachine = build_machine(lambda: RedisHarness(SERVERS["server"]), max_examples=30).TestCase
TestRedisGuardMachine = build_machine(
    lambda: RedisHarness(SERVERS["server"]), base=GuardMachine, max_examples=20, steps=30
).TestCase
TestRedisHoldMachine = build_machine(
    lambda: RedisHarness(SERVERS["server"]), base=HoldMachine, max_examples=30, steps=40
).TestCase
TestRedisJoinMachine = build_machine(
    lambda: RedisHarness(SERVERS["server"]), base=JoinMachine, max_examples=8, steps=30
).TestCase
TestRedisClusterMachine = build_machine(lambda: RedisHarness(SERVERS["cluster"]), max_examples=10).TestCase
TestRedisSentinelMachine = build_machine(lambda: RedisHarness(SERVERS["sentinel"]), max_examples=10).TestCase
TestRedisClusterJoinMachine = build_machine(
    lambda: RedisHarness(SERVERS["cluster"]), base=JoinMachine, max_examples=3, steps=20
).TestCase
TestRedisSentinelJoinMachine = build_machine(
    lambda: RedisHarness(SERVERS["sentinel"]), base=JoinMachine, max_examples=3, steps=20
).TestCase
