"""Joins on SQLite: a member whose record was lost behind the back of the triggers."""

from __future__ import annotations

from contextlib import closing

from windlass.core.clock import ManualClock
from windlass.core.join import Tally
from windlass.core.model import NewJoin, State, Write
from windlass.core.work import Kind
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
