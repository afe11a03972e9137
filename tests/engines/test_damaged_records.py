"""Damaged records, one by one: what becomes of the job, of its neighbours, and what the doctor says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest
from test_spoiled_sqlite import connection, spoil

from servers import RedisServer
from spoiled import guarded
from windlass.core.clock import ManualClock
from windlass.core.model import Cause, Guard, GuardKind, State, UniqueKey
from windlass.core.rows import Action, JobFilter, Moved, Recovery
from windlass.core.work import Kind, Rules
from windlass.engines.redis import RedisEngine
from windlass.engines.redis.records import HASHES
from windlass.engines.redis.scripts import FIXED_KEYS, TYPES
from windlass.engines.sqlite import SqliteEngine
from windlass.engines.sqlite.records import HARMLESS, TABLES
from windlass.engines.sqlite.schema import MIGRATIONS, NEWEST, VERSION
from windlass.errors import EngineDamaged
from windlass.testing.conformance.harness import (
    add,
    clear,
    ended,
    error,
    history,
    job,
    join,
    pause,
    place,
    recover,
    row_of,
    set_limit,
    state_of,
    take,
)

RULES = Rules()


@pytest.fixture
def sqlite() -> Iterator[SqliteEngine]:
    with closing(SqliteEngine(None, clock=ManualClock())) as made:
        made.open()
        yield made


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


@pytest.fixture
def redis(server: RedisServer) -> Iterator[RedisEngine]:
    with server.client() as client:
        client.flushall()
    with closing(RedisEngine(server.url, clock=ManualClock())) as made:
        yield made


def change(engine: SqliteEngine, column: str, value: object, id: str = "bad", table: str = "jobs") -> None:
    key = {"jobs": "id", "queues": "name"}.get(table, "key")
    assert spoil(connection(engine), f"windlass_{table}", column, f"{key} = '{id}'", value)


# -- SQLite ------------------------------------------------------------------------------------------------------------


def test_every_column_of_every_table_has_a_rule(sqlite: SqliteEngine) -> None:
    db = connection(sqlite)
    stored = {
        str(name).removeprefix("windlass_"): [str(row[1]) for row in db.execute(f'PRAGMA table_info("{name}")')]
        for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    }
    assert {table.name: sorted(column.name for column in table.columns) for table in TABLES} == {
        name: sorted(columns) for name, columns in stored.items()
    }


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("attempt", "no number"),
        ("fence", 2**63 - 1),
        ("expires_at", "soon"),
        ("retrying_since", "once"),
        ("guards", '{"a":1}'),
        ("guards", '[["rate","rate:x",0,0,5,0]]'),
        ("name", (b"\xc3\x28",)),
        ("queue", (b"\xff",)),
        ("state", "redy"),
        ("run_at", 2**62),
        ("max_attempts", -3),
    ],
)
def test_a_job_that_cannot_be_told_is_dead_with_its_payload_and_the_reason(
    sqlite: SqliteEngine, column: str, value: object
) -> None:
    join(sqlite)
    add(sqlite, "a", "bad", "b")
    change(sqlite, column, value)
    assert [lease.id for lease in take(sqlite)] == ["a", "b"]
    sqlite.maintain(RULES, 1_000)
    row = row_of(sqlite, "bad")
    assert (row.state, row.payload, row.error_type) == (State.DEAD, b"[]", "windlass.errors.RecordDamaged")
    assert column in (row.reason or "")
    assert history(row)[-1].message == row.reason
    assert [group.sample for group in sqlite.groups(JobFilter(), 10)] == ["bad"]


# What a run writes anew is sound again by itself, before anybody looks.
WRITTEN_ANEW = {"cancel", "held", "result", "reason", "worker", "started_at", "finished_at", "purge_at"}


@pytest.mark.parametrize("column", sorted(HARMLESS - WRITTEN_ANEW))
def test_a_job_runs_without_what_only_people_read_and_its_history_says_so(sqlite: SqliteEngine, column: str) -> None:
    join(sqlite)
    add(sqlite, "bad", "b")
    change(sqlite, column, b"\xff\xfe")
    sqlite.maintain(RULES, 1_000)  # no claim finds a job of an unknown kind of slot
    leases = take(sqlite)
    assert [lease.id for lease in leases] == ["bad", "b"]
    sqlite.settle([ended(lease) for lease in leases])
    sqlite.maintain(RULES, 1_000)
    row = row_of(sqlite, "bad")
    assert row.state is State.DONE
    assert column in history(row)[-1].message


def test_an_outcome_is_stored_although_the_history_of_the_run_is_no_json(sqlite: SqliteEngine) -> None:
    join(sqlite)
    add(sqlite, "bad", "b")
    leases = take(sqlite)
    change(sqlite, "errors", "[{")
    sqlite.settle([ended(lease, Kind.RETRY, error=error(), delay_ms=5) for lease in leases])
    assert [state_of(sqlite, id) for id in ("bad", "b")] == [State.SCHEDULED, State.SCHEDULED]
    assert [one.type for one in history(row_of(sqlite, "bad"))] == ["windlass.errors.RecordDamaged", "ValueError"]


def test_a_job_that_dies_of_its_record_frees_its_slot_and_its_key(sqlite: SqliteEngine) -> None:
    join(sqlite)
    slot = Guard(GuardKind.CONCURRENCY, "one", 1)
    key = UniqueKey("report", "done", None, "keep_latest")
    place(sqlite, [guarded("bad", slot, unique=key)])
    take(sqlite)
    place(sqlite, [guarded("slot", slot), guarded("key", unique=key)])
    assert take(sqlite) == []
    change(sqlite, "uniq", "[")
    sqlite.maintain(RULES, 1_000)
    assert state_of(sqlite, "bad") is State.DEAD
    assert sorted(lease.id for lease in take(sqlite)) == ["key", "slot"]


@pytest.mark.parametrize("value", [None, b"\xff\xfe", "[1", 7])
def test_a_key_goes_on_to_a_waiter_that_does_not_say_any_more_how_long_it_holds_it(
    sqlite: SqliteEngine, value: object
) -> None:
    join(sqlite)
    key = UniqueKey("k", "done", None, "keep_latest")
    place(sqlite, [guarded("holder", unique=key)])
    (holder,) = take(sqlite)
    place(sqlite, [guarded("bad", unique=key)])
    change(sqlite, "uniq", value)
    sqlite.settle([ended(holder)])
    assert state_of(sqlite, "holder") is State.DONE
    sqlite.maintain(RULES, 1_000)
    assert state_of(sqlite, "bad") in (State.READY, State.DEAD)


def test_a_record_whose_time_to_go_lies_before_its_end_stays_its_time(sqlite: SqliteEngine) -> None:
    join(sqlite)
    add(sqlite, "bad")
    sqlite.settle([ended(lease, Kind.DEAD, error=error()) for lease in take(sqlite)])
    change(sqlite, "purge_at", 1_700_000_600)
    sqlite.maintain(RULES, 1_000)
    sqlite.maintain(RULES, 1_000)
    assert state_of(sqlite, "bad") is State.DEAD


def test_the_doctor_names_what_is_damaged_and_repairs_it_when_asked(sqlite: SqliteEngine) -> None:
    add(sqlite, "bad", "b")
    change(sqlite, "priority", "high")
    (finding,) = (one for one in sqlite.doctor() if one.check == "records")
    assert (finding.level, "priority" in finding.message) == ("error", True)
    assert state_of(sqlite, "b") is State.READY
    (finding,) = (one for one in sqlite.doctor(repair=True) if one.check == "records")
    assert finding.level == "warning"
    assert all(one.level == "ok" for one in sqlite.doctor() if one.check == "records")
    assert state_of(sqlite, "bad") is State.DEAD


def test_a_pause_and_its_neighbours_outlive_a_spoiled_limit(sqlite: SqliteEngine) -> None:
    join(sqlite)
    pause(sqlite, "slow", "because", None)
    set_limit(sqlite, "slow", 3)
    add(sqlite, "a")
    change(sqlite, "most", "many", "slow", "queues")
    assert [lease.id for lease in take(sqlite)] == ["a"]
    (row,) = (one for one in sqlite.queues() if one.name == "slow")
    assert (row.paused, row.paused_reason, row.limit) == (True, "because", None)


def test_the_newest_column_is_that_of_the_last_migration() -> None:
    table, column = NEWEST
    columns = []
    for count in (VERSION - 1, VERSION):
        with closing(apsw.Connection(":memory:")) as db:
            db.execute("CREATE TABLE windlass_meta (key TEXT PRIMARY KEY, value NOT NULL)")
            for text in MIGRATIONS[:count]:
                db.execute(text)
            columns.append([row[1] for row in db.execute(f'PRAGMA table_info("windlass_{table}")')])
    assert column not in columns[0]
    assert column in columns[1]


def test_a_store_whose_schema_number_is_no_number_opens_again(tmp_path: Path) -> None:
    path = str(tmp_path / "jobs.db")
    for value in ("seven", 2**63 - 1, -1, VERSION - 1, b"\xff"):
        with closing(SqliteEngine(path)) as engine:
            add(engine, f"job {value!r}")
        with closing(apsw.Connection(path)) as db:
            db.execute("UPDATE windlass_meta SET value = ? WHERE key = 'schema'", (value,))
        with closing(SqliteEngine(path)) as engine:
            assert state_of(engine, f"job {value!r}") is State.READY


def test_what_cannot_be_repaired_is_no_outage(sqlite: SqliteEngine) -> None:
    add(sqlite, "a")
    connection(sqlite).execute(
        "CREATE TRIGGER theirs BEFORE UPDATE ON windlass_jobs BEGIN SELECT RAISE(ABORT, 'not here'); END"
    )
    with pytest.raises(EngineDamaged, match="not here"):
        sqlite.transition(Action.CANCEL, ["a"])


# -- Redis -------------------------------------------------------------------------------------------------------------


def test_every_fixed_key_has_a_rule_or_is_an_index() -> None:
    assert set(FIXED_KEYS) == set(HASHES) | set(TYPES)


def test_a_flipped_bit_in_the_head_of_a_body_leaves_name_and_payload(redis: RedisEngine, server: RedisServer) -> None:
    join(redis)
    add(redis, "a", "bad", "b")
    with server.client() as client:
        body = client.hget("{windlass}:body", "bad")
        assert body is not None
        client.hset("{windlass}:body", "bad", body[:16] + bytes([body[16] ^ 0x80]) + body[17:])
    assert [lease.id for lease in take(redis)] == ["a", "b"]
    redis.maintain(RULES, 1_000)
    row = row_of(redis, "bad")
    assert (row.state, row.name, row.payload, row.queue) == (State.DEAD, "shop.jobs.add", b"[]", "damaged")


@pytest.mark.parametrize("garbage", [b"", b"junk", b"\xff" * 40, None])
def test_a_claim_over_bad_guards_takes_the_others_and_leaves_nothing_half_done(
    redis: RedisEngine, server: RedisServer, garbage: bytes | None
) -> None:
    join(redis)
    key = UniqueKey("report", "start", None, "return")
    place(redis, [guarded("a", Guard(GuardKind.CONCURRENCY, "one", 5)), guarded("bad", unique=key), guarded("b")])
    with server.client() as client:
        if garbage is None:
            client.hset("{windlass}:unique", "report", b"junk")
        else:
            client.hset("{windlass}:guards", "bad", garbage)
    leases = {lease.id for lease in take(redis)}
    assert leases == ({"a", "b", "bad"} if garbage is None else {"a", "b"})
    redis.maintain(RULES, 1_000)
    assert state_of(redis, "bad") is (State.RUNNING if garbage is None else State.DEAD)
    assert redis.counts()["running"] == len(leases)


def test_a_listing_makes_a_job_dead_whose_body_is_gone(redis: RedisEngine, server: RedisServer) -> None:
    add(redis, "a", "bad")
    with server.client() as client:
        client.hdel("{windlass}:body", "bad")
    rows = {row.id: (row.state, row.reason) for row in redis.jobs(JobFilter(), None, 10)[0]}
    assert rows == {"a": (State.READY, None), "bad": (State.DEAD, "its record was damaged: its body is gone")}


def test_an_id_that_is_no_text_is_kept_under_one_that_is(redis: RedisEngine, server: RedisServer) -> None:
    add(redis, "a")
    with server.client() as client:
        body = client.hget("{windlass}:body", "a")
        assert body is not None
        client.hset("{windlass}:body", b"\xff\xfe", body)
    redis.doctor(repair=True)
    row = row_of(redis, "damaged-fffe")
    assert (row.state, row.name) == (State.DEAD, "shop.jobs.add")


@pytest.mark.parametrize("key", ["meta", "expiring", "body", "due:default"])
def test_the_doctor_names_a_key_of_another_type_and_changes_nothing(
    redis: RedisEngine, server: RedisServer, key: str
) -> None:
    redis.open()
    place(redis, [job("a", delay_ms=60_000, expires_ms=5_000)])
    with server.client() as client:
        client.set(f"{{windlass}}:{key}", "junk")
        (finding,) = (one for one in redis.doctor() if one.check == "records")
        assert (finding.level, f"{{windlass}}:{key} is a string" in finding.message) == ("error", True)
        assert client.get(f"{{windlass}}:{key}") == b"junk"


def test_a_fence_counter_beyond_all_numbers_gives_sound_fences(redis: RedisEngine, server: RedisServer) -> None:
    join(redis)
    add(redis, "a", "b")
    with server.client() as client:
        client.hset("{windlass}:meta", "fence", 2**63 - 1)
    leases = take(redis)
    assert len({lease.fence for lease in leases}) == 2
    assert all(lease.fence < 2**53 for lease in leases)


def test_a_job_with_a_damaged_record_can_be_deleted(redis: RedisEngine, server: RedisServer) -> None:
    join(redis)
    add(redis, "bad")
    take(redis)
    with server.client() as client:
        client.hset("{windlass}:rec", "bad", b"junk")
    add(redis, "good")
    assert redis.transition(Action.DELETE, ["good", "bad"]) == [
        Moved("good", State.READY, applied=True),
        Moved("bad", State.DEAD, applied=True),
    ]
    assert (redis.job("good"), redis.job("bad")) == (None, None)


# -- Redis: what a key of its own tells, and nothing else --------------------------------------------------------------


ONCE = Guard(GuardKind.ONCE, "once", keep_ms=1_000)
LIMITED = Guard(GuardKind.CONCURRENCY, "limited", 1)


def lose(redis: RedisEngine, *keys: str) -> None:
    """Have a key as another type has it, which sets it aside, and look through the store."""
    for key in keys:
        redis._ask_plainly("DEL", redis._key(key))
        redis._ask_plainly("SET", redis._key(key), "x")
    redis._repair_now()


@pytest.mark.parametrize("key", ["holds", "carriers"])
def test_what_a_running_job_holds_is_held_again_when_its_key_was_lost(redis: RedisEngine, key: str) -> None:
    join(redis)
    place(redis, [guarded("a", ONCE), guarded("b", LIMITED)])
    leases = take(redis)
    lose(redis, key)
    place(redis, [guarded("c", ONCE), guarded("d", LIMITED)])
    assert take(redis) == []
    redis.settle([ended(lease) for lease in leases])
    assert [lease.id for lease in take(redis)] == ["d"]
    assert row_of(redis, "c").reason == "duplicate of a"


def test_a_marker_stays_for_a_dead_job_whose_carrier_was_lost(redis: RedisEngine) -> None:
    join(redis)
    place(redis, [guarded("a", ONCE), guarded("b", ONCE)])
    (lease,) = take(redis)
    redis.settle([ended(lease)])
    lose(redis, "carriers")
    redis._clock.advance(60_000)  # type: ignore[attr-defined]
    place(redis, [guarded("c", ONCE)])  # forgets a marker that nobody needs
    join(redis)
    assert take(redis) == []
    assert row_of(redis, "b").reason == "duplicate of a"


def test_dead_jobs_are_recovered_and_waiting_ones_expire_when_these_keys_were_lost(redis: RedisEngine) -> None:
    join(redis)
    add(redis, "a")
    redis.settle([ended(lease, Kind.DEAD, error=error("X"), cause=Cause("X", "p", "f")) for lease in take(redis)])
    place(redis, [job("b", delay_ms=1_000, expires_ms=1_000)])
    lose(redis, "died", "expiring")
    redis._clock.advance(3_000)  # type: ignore[attr-defined]
    redis.maintain(RULES, 1_000)
    assert state_of(redis, "b") is State.CANCELLED
    assert recover(redis, Recovery(("X",), 0, 1, 10)) == ["a"]


def test_a_lost_count_of_recoveries_brings_no_job_back_for_ever(redis: RedisEngine) -> None:
    join(redis)
    add(redis, "a")
    back = []
    for _ in range(6):
        join(redis)
        redis.settle([ended(lease, Kind.DEAD, error=error("X"), cause=Cause("X", "p", "f")) for lease in take(redis)])
        if len(back) == 1:
            redis._ask_plainly("DEL", redis._key("recoveries"))
        redis._clock.advance(1_000)  # type: ignore[attr-defined]
        back += recover(redis, Recovery(("X",), 0, 2, 10))
    assert len(back) <= 3


@pytest.mark.parametrize(("index", "score"), [("done:default", 1), ("dead-purge", 1), ("expiring", 1)])
def test_an_entry_in_an_index_ends_no_job_that_is_not_in_that_state(redis: RedisEngine, index: str, score: int) -> None:
    add(redis, "a")
    redis._ask_plainly("ZADD", b"{windlass}:" + index.encode(), score, "a")
    redis.maintain(RULES, 1_000)
    assert state_of(redis, "a") is State.READY


def test_clearing_a_queue_leaves_alone_what_only_an_entry_says_is_waiting(redis: RedisEngine) -> None:
    join(redis)
    add(redis, "a")
    ready = redis._ask_plainly("ZRANGE", b"{windlass}:ready:default", 0, -1)
    (lease,) = take(redis)
    redis._ask_plainly("ZADD", b"{windlass}:ready:default", 0, *ready)  # type: ignore[misc]
    assert clear(redis, "default", 100) == 0
    assert [str(one) for one in redis.settle([ended(lease)])] == ["applied"]
