"""Notes where they are stored: nothing stays behind, stores of the version before keep their progress, and what is
spoiled harms nobody else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from test_spoiled_sqlite import connection, spoil

from servers import RedisServer
from windlass.core.clock import ManualClock
from windlass.core.model import State, UniqueKey
from windlass.core.rows import Action
from windlass.core.work import PROGRESS, Kind, Note, Rules
from windlass.engines.base import Store
from windlass.engines.redis import RedisEngine
from windlass.engines.sqlite import SqliteEngine
from windlass.engines.sqlite.schema import MIGRATIONS
from windlass.testing.conformance.harness import (
    Harness,
    add,
    applied,
    ended,
    info,
    join,
    note,
    row_of,
    state_of,
    take,
    take_one,
)
from windlass.testing.conformance.notes import KEPT, WAYS_TO_GO, WHOLE, noted

NOTES, PROGRESSES = "{windlass}:notes", "{windlass}:progress"
RULES = Rules()


class Made:
    """A store on a clock of its own. Fulfils ``Harness``."""

    def __init__(self, engine: Store, clock: ManualClock) -> None:
        self.engine, self.clock = engine, clock

    def second(self) -> Store:
        return self.engine

    def corrupt(self, job_id: str, payload: bytes) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.engine.close()


@pytest.fixture
def sqlite() -> Iterator[Harness]:
    clock = ManualClock()
    with closing(Made(SqliteEngine(None, clock=clock), clock)) as made:
        made.engine.open()
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Harness]:
    with server.client() as client:
        client.flushall()
    clock = ManualClock()
    with closing(Made(RedisEngine(server.url, clock=clock), clock)) as made:
        yield made


def uniquely(way: str) -> dict[str, object]:
    return {"unique": UniqueKey("key", "done", None, "replace")} if way == "written over" else {}


def in_table(harness: Harness) -> list[tuple[object, ...]]:
    assert isinstance(harness.engine, SqliteEngine)
    return connection(harness.engine).execute("SELECT seq, key, value FROM windlass_notes").fetchall()


@pytest.mark.parametrize("way", WAYS_TO_GO)
def test_no_note_stays_behind_in_the_table(sqlite: Harness, way: str) -> None:
    lease = noted(sqlite, expires_ms=1_000_000, **uniquely(way))
    assert len(in_table(sqlite)) == 3
    WAYS_TO_GO[way](sqlite, lease)
    assert in_table(sqlite) == []


@pytest.mark.parametrize("way", WAYS_TO_GO)
def test_no_note_stays_behind_in_a_key(redis: Harness, server: RedisServer, way: str) -> None:
    lease = noted(redis, expires_ms=1_000_000, **uniquely(way))
    with server.client() as client:
        assert (client.hlen(NOTES), client.hlen(PROGRESSES)) == (3, 1)
        WAYS_TO_GO[way](redis, lease)
        assert (client.exists(NOTES), client.exists(PROGRESSES)) == (0, 0)


def test_a_note_of_many_is_written_by_itself(redis: Harness, server: RedisServer) -> None:
    lease = noted(redis)
    store, text = redis.engine, "x" * 1_000
    store.note([Note("a", lease.fence, f"step:{n}", text) for n in range(1_000)])
    with server.client() as client:
        before = client.info("stats")["total_net_input_bytes"]
        note(store, lease, "step:500", "y")
        note(store, lease, "one more", "z")
        assert client.info("stats")["total_net_input_bytes"] - before < 10_000
        assert client.hget(NOTES, "a\0step:500") == b"y"
    found = dict(row_of(store, "a").notes)
    assert [found[key] for key in ("step:499", "step:500", "one more")] == [text, "y", "z"]


# -- the version before ------------------------------------------------------------------------------------------------


OLD_JOBS = """
INSERT INTO windlass_jobs (id, name, queue, state, payload, priority, place, run_at, enqueued_at, max_attempts, attempt,
                           fence, progress, worker, finished_at, purge_at)
VALUES ('waits', 'n', 'default', 'ready', '[]', 0, 1, 1, 1, 3, 1, 7, '{"done":1}', NULL, NULL, NULL),
       ('runs', 'n', 'default', 'running', '[]', 0, 2, 1, 1, 3, 0, 8, '{"done":2}', 'w0', NULL, NULL),
       ('none', 'n', 'default', 'ready', '[]', 0, 3, 1, 1, 3, 0, 0, NULL, NULL, NULL, NULL),
       ('spoiled', 'n', 'default', 'ready', '[]', 0, 4, 1, 1, 3, 0, 0, x'ff', NULL, NULL, NULL),
       ('ended', 'n', 'default', 'dead', '[]', 0, 5, 1, 1, 3, 1, 9, '{"done":3}', NULL, 1, 9000000000000000)
"""


@pytest.fixture
def old(tmp_path: Path) -> Iterator[SqliteEngine]:
    """A store that a file of the schema before was brought up to."""
    path = str(tmp_path / "jobs.db")
    with closing(apsw.Connection(path)) as db:
        db.execute("CREATE TABLE windlass_meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID")
        for text in MIGRATIONS[:8]:
            db.execute(text)
        db.execute("INSERT INTO windlass_meta VALUES ('schema', 8)")
        db.execute("INSERT INTO windlass_queues (name) VALUES ('default')")
        db.execute(OLD_JOBS)
    with closing(SqliteEngine(path)) as engine:
        engine.extend(info("w0"), (), 30_000)
        engine.extend(info("w1"), (), 30_000)
        yield engine


def test_progress_of_the_schema_before_is_a_note(old: SqliteEngine) -> None:
    found = {id: row_of(old, id).progress for id in ("waits", "runs", "none", "spoiled", "ended")}
    assert found == {
        "waits": b'{"done":1}',
        "runs": b'{"done":2}',
        "none": None,
        "spoiled": None,
        "ended": b'{"done":3}',
    }
    leases = {lease.id: lease for lease in take(old)}
    assert {id: lease.notes for id, lease in leases.items()} == {
        "waits": ((PROGRESS, '{"done":1}'),),
        "none": (),
        "spoiled": (),
    }
    old.settle([ended(lease) for lease in leases.values()])
    assert applied(old, Action.DELETE, ["waits", "none", "spoiled", "ended"]) == [True] * 4
    assert connection(old).execute("SELECT value FROM windlass_notes").fetchall() == [('{"done":2}',)]


def test_what_a_worker_of_the_version_before_still_writes_is_seen(old: SqliteEngine) -> None:
    report = """
    UPDATE windlass_jobs SET progress = coalesce(?, progress), held = NULL
    WHERE id = ? AND fence = ? AND state = 'running'
    """
    for text in ('{"done":4}', None):
        connection(old).execute(report, (text, "runs", 8))
        assert row_of(old, "runs").progress == b'{"done":4}'


def test_progress_that_the_version_before_stored_in_redis_is_kept_and_given_and_goes(
    redis: Harness, server: RedisServer
) -> None:
    store = redis.engine
    join(store)
    add(store, "a", "b")
    leases = take(store)
    with server.client() as client:
        for lease in leases:
            client.hset(PROGRESSES, lease.id, '{"done":1}')
        assert client.exists(NOTES) == 0
        assert row_of(store, "a").progress == b'{"done":1}'
        store.settle([ended(lease, Kind.RELEASE) for lease in leases])
        leases = take(store)
        assert [lease.notes for lease in leases] == [((PROGRESS, '{"done":1}'),)] * 2
        note(store, leases[0], "cursor:main", "1")
        assert row_of(store, "a").progress == b'{"done":1}'
        store.settle([ended(lease) for lease in leases])
        applied(store, Action.DELETE, ["a", "b"])
        assert (client.exists(NOTES), client.exists(PROGRESSES)) == (0, 0)


# -- what is spoiled ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, b"\xff\xfe", (b"\xff\xfe",)])
def test_a_spoiled_note_in_the_table_is_left_out_and_the_others_are_given(sqlite: Harness, value: object) -> None:
    store = sqlite.engine
    assert isinstance(store, SqliteEngine)
    lease = noted(sqlite)
    connection(store).execute("DELETE FROM windlass_notes WHERE key = 'cursor:main'")
    if value is not None:
        note(store, lease, "cursor:main", "1")
        assert spoil(connection(store), "windlass_notes", "value", "key = 'cursor:main'", value)
    rest = WHOLE[1:]
    assert row_of(store, "a").notes == rest[1:]
    store.maintain(RULES, 1_000)
    store.settle([ended(lease, Kind.RELEASE)])
    assert take_one(store).notes == rest
    assert {one.level for one in store.doctor() if one.check == "records"} == {"ok"}


def test_notes_of_jobs_that_are_gone_go_and_those_that_a_job_does_not_know_of_are_known_again(sqlite: Harness) -> None:
    store = sqlite.engine
    assert isinstance(store, SqliteEngine)
    lease = noted(sqlite)
    db = connection(store)
    db.execute("INSERT INTO windlass_notes VALUES (99, 'x', '1')")
    assert spoil(db, "windlass_jobs", "noted", "id = 'a'", None)
    store.maintain(RULES, 1_000)
    assert len(in_table(sqlite)) == 3
    assert row_of(store, "a").notes == KEPT
    store.settle([ended(lease, Kind.DEAD)])
    applied(store, Action.DELETE, ["a"])
    assert in_table(sqlite) == []


@pytest.mark.parametrize("garbage", [b"", b"junk", b"\0\0", b"cursor:main\0", b"\xff\xfe\0", None])
def test_a_list_of_notes_that_was_spoiled_is_made_anew(
    redis: Harness, server: RedisServer, garbage: bytes | None
) -> None:
    store = redis.engine
    assert isinstance(store, RedisEngine)
    lease = noted(redis)
    with server.client() as client:
        if garbage is None:
            client.hdel(NOTES, "a")
        else:
            client.hset(NOTES, "a", garbage)
        note(store, lease, "new", "1")
        assert ("new", "1") in row_of(store, "a").notes
        store._repair_now()
        assert row_of(store, "a").notes == (KEPT[0], ("new", "1"), KEPT[1])
        store._repairer.repaired = 0
        store._repair_now()
        assert store._repairer.repaired == 0
        store.settle([ended(lease, Kind.DEAD)])
        applied(store, Action.DELETE, ["a"])
        assert client.exists(NOTES) == 0


def test_fields_that_are_no_notes_of_any_job_go(redis: Harness, server: RedisServer) -> None:
    store = redis.engine
    assert isinstance(store, RedisEngine)
    lease = noted(redis)
    with server.client() as client:
        for field in ("gone", "gone\0x", "a\0", "a\0x\0y", "\0", "", b"\xff\xfe", b"a\0\xff"):
            client.hset(NOTES, field, "1")
        client.hset(NOTES, "a\0cursor:main", b"\xff\xfe")
        client.hset(PROGRESSES, "a", b"\xff")
        assert (row_of(store, "a").progress, row_of(store, "a").notes) == (None, KEPT[1:])
        store._repair_now()
        assert sorted(client.hkeys(NOTES)) == [b"a", b"a\0step:charge"]
    store.settle([ended(lease, Kind.RELEASE)])
    assert take_one(store).notes == KEPT[1:]


def test_a_store_without_the_key_of_bodies_keeps_the_notes_of_the_jobs_that_it_makes_dead(
    redis: Harness, server: RedisServer
) -> None:
    store = redis.engine
    assert isinstance(store, RedisEngine)
    noted(redis)
    with server.client() as client:
        client.delete("{windlass}:body")
    store._repair_now()
    assert (state_of(store, "a"), row_of(store, "a").notes) == (State.DEAD, KEPT)
