"""Joins on SQLite: what becomes of joins that were damaged behind the back of the triggers."""

from __future__ import annotations

from contextlib import closing

import pytest

from windlass.core.clock import ManualClock
from windlass.core.join import Tally
from windlass.core.model import NewJoin, State, Write
from windlass.core.work import Kind, Rules
from windlass.engines.sqlite import SqliteEngine
from windlass.testing.conformance.harness import join, state_of
from windlass.testing.conformance.joins import end, member, read, store_all, waiting


def test_a_member_whose_record_was_lost_enters_again_as_an_end() -> None:
    with closing(SqliteEngine(None, clock=ManualClock())) as engine:
        join(engine)
        store_all(engine, [member("a", "J"), member("b", "J"), *waiting(("end", "end", 0))], NewJoin("J"))
        with engine.transaction() as tx:
            tx.execute("UPDATE windlass_jobs SET tied = NULL WHERE id IN ('a', 'b')")
            tx.execute("DELETE FROM windlass_jobs WHERE id = 'a'")
        end(engine, Kind.DONE, "b")
        assert read(engine, "J").tally == Tally(True, 2)
        engine.commit(Write(enters=(("J", "a"), ("J", "b"))))
        assert read(engine, "J").tally == Tally(True, 2, ok=1, void=1)
        assert state_of(engine, "end") is State.READY


@pytest.mark.parametrize(
    "spoiled",
    [
        "watch_at = NULL",
        "watch_at = 2000000000000",
        "ended_at = 1",
        "purge_at = 1",
        "dirty = 2, ended_at = 1, purge_at = 2, watch_at = NULL",
    ],
)
def test_an_open_join_stays_and_is_named_although_its_times_were_spoiled(spoiled: str) -> None:
    clock = ManualClock()
    with closing(SqliteEngine(None, clock=clock)) as engine:
        join(engine, lease_ms=10**9)
        store_all(engine, [member("a", "J")], NewJoin("J", watch_ms=10_000))
        with engine.transaction() as tx:
            tx.execute(f"UPDATE windlass_joins SET {spoiled}")
        engine.maintain(Rules(), 1_000)
        clock.advance(10_000)
        named = [engine.maintain(Rules(), 1_000).watched for _ in range(3)]
        assert sum(named, ()) == ("J",)
        end(engine, Kind.DONE, "a")
        engine.maintain(Rules(), 1_000)
        assert engine.joins(["J"]) == [None]


@pytest.mark.parametrize("spoiled", ["ended_at = NULL", "purge_at = NULL", "purge_at = 9000000000000", "watch_at = 1"])
def test_a_join_that_has_ended_goes_in_its_time_although_its_times_were_spoiled(spoiled: str) -> None:
    clock = ManualClock()
    with closing(SqliteEngine(None, clock=clock)) as engine:
        join(engine, lease_ms=10**9)
        store_all(engine, [member("a", "J")], NewJoin("J", keep_ms=60_000))
        end(engine, Kind.DONE, "a")
        with engine.transaction() as tx:
            tx.execute(f"UPDATE windlass_joins SET {spoiled}")
        for _ in range(3):
            assert engine.maintain(Rules(), 1_000).watched == ()
        assert read(engine, "J").ended_at is not None
        clock.advance(60_000)
        engine.maintain(Rules(), 1_000)
        assert engine.joins(["J"]) == [None]
