"""The conformance suite and the state machine on Redis: one server, a cluster, and a master behind Sentinel.

They run as the user of the guide, so that its rights are enough for all there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest

from servers import Cluster, RedisServer, Replicated, of_the_guide
from windlass.core.clock import ManualClock
from windlass.engines.redis import RedisEngine
from windlass.engines.redis.wire import PREFIX, SUFFIX, decode_rest, pack
from windlass.testing.conformance import EngineConformance, GuardMachine, Harness, HoldMachine, build_machine


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
        engine = RedisEngine(self._url, clock=self.clock)
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
TestRedisClusterMachine = build_machine(lambda: RedisHarness(SERVERS["cluster"]), max_examples=10).TestCase
TestRedisSentinelMachine = build_machine(lambda: RedisHarness(SERVERS["sentinel"]), max_examples=10).TestCase
