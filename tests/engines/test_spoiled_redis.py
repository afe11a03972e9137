"""Garbage in every key, field, member and score of Redis: neighbours run, questions are answered, no job vanishes.

The keys are those that the server has. A sample of the cases runs under ``make test``, all of them under ``make soak``;
``WINDLASS_SEED`` chooses another sample and another order of what is done with the store, and ``WINDLASS_CASE`` runs
the cases whose names have that text in them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from random import Random
from typing import TypeAlias

import pytest
from redis import Redis

from servers import RedisServer
from spoiled import GARBAGE, Scene, Verdict, build, flipped, judge
from windlass.core.clock import ManualClock
from windlass.engines.redis import RedisEngine

SEED = int(os.environ.get("WINDLASS_SEED", "11"))
SAMPLE = 20
SCORES = (float("inf"), float("-inf"), -7.0, 0.0, float(2**63), 1.5e300)
BODIES = 4  # times as many cases for what a job is made of

Case: TypeAlias = "tuple[str, Callable[[Redis], object], bytes | None]"  # name, what to do, what names the job


class Built:
    """A store that something of everything is in, to be put back."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.client = server.client()
        self.client.flushall()
        clock = ManualClock()
        with closing(RedisEngine(server.url, clock=clock)) as engine:
            self.scene: Scene = build(engine, clock)
        self.now = clock.wall_ms()
        self.dumps = {key: self.client.dump(key) for key in self.client.scan_iter() if b"inbox" not in key}

    def put_back(self) -> None:
        pipeline = self.client.pipeline()
        pipeline.flushall()
        for key, dump in self.dumps.items():
            pipeline.restore(key, 0, dump)
        pipeline.execute()


def cases(client: Redis, keys: list[bytes], rng: Random) -> Iterator[Case]:
    for key in keys:
        name = key.decode()
        yield f"{name} deleted", lambda client, key=key: client.delete(key), None  # type: ignore[misc]
        yield f"{name} a string", lambda client, key=key: client.set(key, "no JSON"), None  # type: ignore[misc]
        match client.type(key):
            case b"hash":
                for _ in range(BODIES if name.endswith((":body", ":rec", ":guards")) else 1):
                    yield from of_hash(client, key, rng)
            case b"zset":
                yield from of_zset(client, key, rng)
            case b"list":
                yield f"{name} with junk", lambda client, key=key: client.rpush(key, b"\xff\xfe"), None  # type: ignore[misc]
            case kind:
                raise AssertionError(f"{name} is a {kind!r}, and no garbage is known for it")


def of_hash(client: Redis, key: bytes, rng: Random) -> Iterator[Case]:
    fields = client.hgetall(key)
    for n in range(len(GARBAGE) + 2):
        field = rng.choice(sorted(fields))
        old = fields[field]
        name = f"{key.decode()} {field!r}"
        if n < len(GARBAGE) and GARBAGE[n] is None:
            yield f"{name} missing", lambda client, field=field: client.hdel(key, field), field  # type: ignore[misc]
            continue
        value = raw(spoiled_value(n, old, rng))
        yield (
            f"{name} := {value!r:.70}",
            lambda client, field=field, value=value: client.hset(key, field, value),  # type: ignore[misc]
            field,
        )


def of_zset(client: Redis, key: bytes, rng: Random) -> Iterator[Case]:
    entries = client.zrange(key, 0, -1, withscores=True)
    for score in SCORES:
        member, _ = rng.choice(entries)
        yield (
            f"{key.decode()} {member!r:.70} at {score}",
            lambda client, member=member, score=score: client.zadd(key, {member: score}),  # type: ignore[misc]
            member,
        )
    for n in range(len(GARBAGE) + 2):
        member, score = rng.choice(entries)
        garbage = spoiled_value(n, member, rng)

        def replace(client: Redis, member: bytes = member, score: float = score, garbage: object = garbage) -> None:
            client.zrem(key, member)
            if garbage is not None:
                client.zadd(key, {raw(garbage): score})

        yield f"{key.decode()} {member!r:.70} replaced by {garbage!r:.50}", replace, member


def spoiled_value(n: int, old: bytes, rng: Random) -> object:
    """The garbage numbered n in place of a value."""
    if n < len(GARBAGE):
        return GARBAGE[n]
    return flipped(old, rng) if n == len(GARBAGE) else old[: len(old) // 2]


def raw(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def victims(built: Built, touched: bytes | None, name: str) -> list[str]:
    """The jobs whose own record a case has spoiled, or what they wait for."""
    if name.split()[0].endswith(":joins"):
        return [id for id in built.scene.waiting if id.startswith("step-")]
    everybody = (*built.scene.waiting, *built.scene.finished)
    if touched is None:
        return list(everybody) if name.split()[0].endswith((":body", ":rec", ":guards")) else []
    return [id for id in everybody if touched == id.encode()]


def run(server: RedisServer, count: int | None) -> None:
    rng = Random(SEED)
    built = Built(server)
    every = list(cases(built.client, sorted(built.dumps), rng))
    only = os.environ.get("WINDLASS_CASE")
    chosen = [one for one in every if only in one[0]] if only else every if count is None else rng.sample(every, count)
    total, bad = Verdict(), 0
    for name, spoil, touched in chosen:
        luck = Random(f"{SEED} {name}")
        built.put_back()
        clock = ManualClock(built.now)
        with closing(RedisEngine(server.url, clock=clock)) as engine:
            if luck.random() < 0.5:
                engine.open()
            spoil(built.client)
            try:
                verdict = judge(engine, clock, built.scene, victims(built, touched, name), luck, name)
            except BaseException as error:
                error.add_note(name)
                raise
            bad += not verdict.is_good
            total.add(verdict)
    print(f"\nRedis, seed {SEED}: {len(built.dumps)} keys, {len(chosen)} of {len(every)} cases, {bad} bad: "
          f"{total.figures()}")  # fmt: skip
    built.client.close()
    assert total.is_good, total.told()


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


def test_a_sample_of_garbage_in_keys_harms_only_itself(server: RedisServer) -> None:
    run(server, SAMPLE)


@pytest.mark.soak
def test_garbage_in_every_key_and_field_harms_only_itself(server: RedisServer) -> None:
    run(server, None)
