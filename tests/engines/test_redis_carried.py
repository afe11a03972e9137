"""Circuits that the version before has left in a Redis store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest

from servers import RedisServer
from windlass.core.circuit import CircuitRow
from windlass.core.model import Guard, GuardKind
from windlass.core.work import WorkerInfo
from windlass.engines.redis import RedisEngine
from windlass.guards import agreed
from windlass.testing.conformance.guards import guarded
from windlass.testing.conformance.harness import place, take

KEY = "{windlass}:circuits"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


def old(state: str, **fields: object) -> bytes:
    """A circuit as the scripts of the version before packed it."""
    empty: dict[str, object] = {
        "epoch": 1, "since": 1_700_000_000_000, "wall": 1_700_000_000_000, "open_until": -1, "half_open": 1,
        "successes": 0, "reason": "", "by_hand": 0, "slices": [], "slice_ms": 3_000,
    }  # fmt: skip
    return msgspec.msgpack.encode({"state": state, **empty, **fields})


def test_circuits_of_the_version_before_are_documents_and_open_ones_stay_open(server: RedisServer) -> None:
    client = server.client()
    client.flushall()
    seconds, _ = client.time()
    now = seconds * 1_000
    left = {
        "by-hand": old("open", reason="maintenance", by_hand=1, epoch=3),
        "calm": old("closed", epoch=0, since=-1, wall=-1, slices=[[now // 3_000, 4, 2]]),
        "half": old("half_open", successes=1, half_open=3),
        "tripped": old("open", open_until=now + 900_000),
        "spoiled": b"\x00",
        "strange": old("ajar"),
    }
    client.hset(KEY, mapping=left)
    with closing(RedisEngine(server.url)) as engine:
        rows = {row.name: row for row in agreed.rows(engine)}
        assert {name: (row.state, row.epoch) for name, row in rows.items()} == {
            "by-hand": ("open", 3), "calm": ("closed", 0), "half": ("half_open", 1), "tripped": ("open", 1),
        }  # fmt: skip
        assert (rows["by-hand"].by_hand, rows["by-hand"].reason) == (True, "maintenance")
        assert (rows["calm"].calls, rows["calm"].failures, rows["half"].successes) == (6, 2, 1)
        assert 0 < (rows["tripped"].left_ms or 0) <= 900_000
        engine.extend(WorkerInfo("w1", "g", "h", 1, "*", 1, "1", 0), (), 60_000)
        place(engine, [guarded("a", (Guard(GuardKind.CIRCUIT, "by-hand"),))])
        assert take(engine) == []
        agreed.switch(engine, "by-hand", None, False, None, 1)
        assert [lease.id for lease in take(engine)] == ["a"]
    # A worker of the version before goes on by what it knows; what has become of a circuit since is not undone.
    assert client.hgetall(KEY) == {name.encode(): value for name, value in left.items()}
    with closing(RedisEngine(server.url)) as engine:
        assert agreed.see(engine, "by-hand").state == "closed"
        assert agreed.see(engine, "spoiled") == CircuitRow("spoiled")
    client.set(KEY, "something else has written here")
    with closing(RedisEngine(server.url)) as engine:
        assert agreed.see(engine, "tripped").state == "open"
