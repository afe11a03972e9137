"""How SQLite goes about our statements: none is compiled anew for other values, and none passes an index by."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from windlass.core.work import Kind, Outcome, Want
from windlass.engines.sqlite import SqliteEngine
from windlass.engines.sqlite.moves import BY_QUEUE
from windlass.testing.conformance.harness import add, info


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqliteEngine]:
    with closing(SqliteEngine(str(tmp_path / "jobs.db"))) as made:
        yield made


def stroke(engine: SqliteEngine, queue: str, priority: int) -> None:
    """Store some jobs, claim them, settle them, and look for more."""
    add(engine, *(f"{queue} {priority} {number}" for number in range(3)), queue=queue, priority=priority)
    add(engine, f"{queue} {priority} alone", queue=queue, priority=priority)
    claimed = engine.claim(Want("w1", 3 + priority))
    assert claimed.leases
    outcomes = [Outcome(lease.id, lease.fence, Kind.DONE, result="1") for lease in claimed.leases]
    engine.exchange(outcomes, Want("w1", 3))


def test_no_statement_of_the_hot_path_is_compiled_anew_for_other_values(engine: SqliteEngine) -> None:
    engine.extend(info("w1"), [], 60_000)
    with engine.transaction() as tx:
        db = tx.connection
    compiled: list[object] = []

    def note(*what: object) -> int:  # SQLite asks for leave when it compiles
        if what[0] != apsw.SQLITE_PRAGMA:  # whether a commit is to be synced, which is done at each of these
            compiled.append(what)
        return apsw.SQLITE_OK

    db.authorizer = note
    for priority in (1, 2):
        stroke(engine, "first", priority)  # each statement once, and what the first use of a store needs
    assert compiled
    compiled.clear()
    for priority, queue in enumerate(("second", "third", "first"), 3):
        stroke(engine, queue, priority)
    assert not compiled


def test_clearing_a_queue_finds_waiting_jobs_by_their_index(engine: SqliteEngine) -> None:
    with engine.transaction() as tx:
        plans = [
            str(tx.execute("EXPLAIN QUERY PLAN " + sql, ("default", 10)).fetchall())
            for sql in BY_QUEUE
        ]  # fmt: skip
    assert "windlass_jobs_blocked" in plans[0]
    assert "windlass_jobs_due" in plans[2]
