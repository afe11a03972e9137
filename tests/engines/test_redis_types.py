"""A key of another type: a script that fails has changed nothing, and what only tells or counts makes none fail."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import msgspec
import pytest
import redis

from servers import RedisServer
from windlass.core.model import Guard, GuardKind, Swap, UniqueKey, Write
from windlass.core.rows import Action
from windlass.core.work import Kind, Outcome, QueueShare, Rules, Want
from windlass.engines.redis import RedisEngine
from windlass.engines.redis.scripts import FIXED_KEYS
from windlass.errors import EngineError
from windlass.testing.conformance.harness import add, clear, info, job, pause, place, resume, set_limit, swap

HINTS = ("awaited", "counts", "flow", "totals", "wake", "wake-loop")
QUEUE_KEYS = ("ready", "due", "alone", "done", "cancelled")
HINT_KEYS = (*HINTS, "wake:default", "wake-loop:default")
DECIDING = (*(key for key in FIXED_KEYS if key not in HINTS), *(f"{key}:default" for key in QUEUE_KEYS))


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
    with closing(RedisEngine(server.url)) as made:
        yield made


def stored(client: redis.Redis) -> dict[bytes, object]:
    """All there is, but for what says how many scripts have run and where upkeep goes on."""
    found: dict[bytes, object] = {}
    for key in client.keys("*"):
        found[key] = client.hgetall(key) if client.type(key) == b"hash" else client.dump(key)
        if isinstance(found[key], dict):
            for name in (b"mark", b"queues-cursor"):
                found[key].pop(name, None)  # type: ignore[attr-defined]
    return found


WANT = Want("w1", 1, (QueueShare("default", 1),))
LIMITED = (
    Guard(GuardKind.CONCURRENCY, "c", 1),
    Guard(GuardKind.RATE, "r", 5, 60_000),
    Guard(GuardKind.ONCE, "o", keep_ms=1_000),
)


def fill(engine: RedisEngine, delay_ms: int) -> Outcome:
    """Put a job of every kind into the store; gives the outcome of one that runs."""
    add(engine, "dead", "running", "one", "two", "three")
    engine.extend(info("w1"), [], 60_000)
    dead, running = engine.claim(Want("w1", 2, (QueueShare("default", 2),))).leases
    engine.settle([Outcome(dead.id, dead.fence, Kind.DEAD, error='{"type":"X","message":"","traceback":"","at":')])
    place(engine, [job("later", delay_ms=delay_ms), job("expiring", expires_ms=1, priority=9)])
    engine.hold("lock:k", "t", 1, 60_000, "me")
    swap(engine, "document", 0, "{}")
    return Outcome(running.id, running.fence, Kind.DONE, result="1", then=(Write((job("then"),)),))


def verbs(engine: RedisEngine, outcome: Outcome) -> dict[str, Callable[[], object]]:
    dead = engine.job("dead")
    assert dead is not None
    guarded = msgspec.structs.replace(job("guarded"), guards=LIMITED)
    unique = msgspec.structs.replace(job("unique"), unique=UniqueKey("key", "done", None, "replace"))
    another = msgspec.structs.replace(unique, id="another")
    return {
        "enqueue": lambda: add(engine, "new"),
        "enqueue later": lambda: place(engine, [job("new later", delay_ms=60_000, expires_ms=60_000, caller_id=True)]),
        "claim": lambda: engine.claim(WANT),
        "settle": lambda: engine.settle([outcome]),
        "exchange": lambda: engine.exchange([outcome], None),
        "extend": lambda: engine.extend(info("w1"), [], 60_000),
        "maintain": lambda: engine.maintain(Rules(), 100),
        "enqueue guarded": lambda: place(engine, [guarded]),
        "enqueue unique": lambda: place(engine, [unique]),
        "claim guarded": lambda: engine.claim(WANT),
        "replace unique": lambda: place(engine, [another]),
        "cancel": lambda: engine.transition(Action.CANCEL, ["one"]),
        "retry": lambda: engine.transition(Action.RETRY, ["dead"]),
        "delete": lambda: engine.transition(Action.DELETE, ["two"]),
        "hold": lambda: engine.hold("lock:k2", "t2", 1, 60_000, "me"),
        "release": lambda: engine.release("lock:k", "t"),
        "swap": lambda: swap(engine, "other", 0, "{}"),
        "commit": lambda: engine.commit(Write((job("beside"), another), (Swap("a", 0, "{}", 60_000),))),
        "commit a removal": lambda: engine.commit(
            Write((job("behind"),), tuple(Swap(one.key, one.version, None) for one in engine.read(["document", "a"])))
        ),
        "discard": lambda: engine.transition(Action.DISCARD, ["dead"]),
        "put dead": lambda: engine.put_dead([dead]),
        "write over dead": lambda: engine.put_dead([dead], over=True),
        "pause": lambda: pause(engine, "default", None, None),
        "resume": lambda: resume(engine, "default"),
        "limit": lambda: set_limit(engine, "default", 3),
        "clear": lambda: clear(engine, "default", 2),
        "depart": lambda: engine.depart("w1"),
    }  # fmt: skip


@pytest.mark.parametrize("key", DECIDING)
def test_a_call_that_meets_a_key_of_another_type_changes_nothing_or_is_done(
    engine: RedisEngine, client: redis.Redis, key: str
) -> None:
    # A claim that makes due jobs ready has done that, whole, when it meets another key of the queue.
    calls = verbs(engine, fill(engine, 1 if key == "ready:default" else 60_000))
    client.delete(f"{{windlass}}:{key}")
    client.set(f"{{windlass}}:{key}", "of somebody else")
    before = stored(client)
    for name, call in calls.items():
        try:
            call()
        except EngineError:
            assert (name, stored(client)) == (name, before)
        else:
            before = stored(client)


@pytest.mark.parametrize("key", HINT_KEYS)
def test_a_key_that_only_tells_or_counts_makes_no_call_fail(engine: RedisEngine, client: redis.Redis, key: str) -> None:
    calls = verbs(engine, fill(engine, 1))
    client.delete(f"{{windlass}}:{key}")
    client.set(f"{{windlass}}:{key}", "of somebody else")
    for name, call in calls.items():
        call()
        assert name != "enqueue" or engine.job("new") is not None
    engine.wait(None, 0.01)
    engine.listen(None, 0.01, Want("w1", 1))
    engine.wait_finished(["new"], 0.01)
    named = [finding.message for finding in engine.doctor() if finding.check == "records"]
    assert client.exists(f"{{windlass}}:damaged:{key}") or any(key in message for message in named)
    with closing(RedisEngine(engine._url)) as late:
        late.open()
