"""Writes of several threads that share a commit: each has its own end, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from kit.waiting import PATIENCE, stretched, until
from windlass.core.model import NewJob, Placed, State, UniqueKey
from windlass.engines.sqlite import SqliteEngine
from windlass.errors import Duplicate
from windlass.testing.conformance.harness import NOTHING, job, place, state_of


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SqliteEngine]:
    with closing(SqliteEngine(str(tmp_path / "jobs.db"))) as made:
        made.open()
        yield made


def sharing(engine: SqliteEngine, calls: Sequence[Callable[[], object]]) -> list[Future[object]]:
    """Make calls from a thread each, so that they wait for the writer together, in this order."""
    writer = engine._open_writer()
    with ThreadPoolExecutor(len(calls)) as pool:
        with writer.lock:
            ends = []
            for number, call in enumerate(calls, 1):
                ends.append(pool.submit(call))
                until(lambda n=number: len(writer._waiting) == n, "a write does not wait for its turn")
        return ends


def only(job_id: str) -> NewJob:
    """One of the jobs of a key of which there may be one."""
    return structs.replace(job(job_id), unique=UniqueKey("key", "done", None, "raise"))


def test_a_write_that_fails_is_told_to_its_own_caller_and_takes_no_other_along(engine: SqliteEngine) -> None:
    place(engine, [only("first")])
    before = engine._open_writer().commits
    good, bad, other, last = sharing(
        engine,
        [
            lambda: place(engine, [job("a")]),
            lambda: place(engine, [only("second")]),
            lambda: place(engine, [job("a")]),
            lambda: place(engine, [job("b"), job("c")]),
        ],
    )
    assert isinstance(bad.exception(30), Duplicate)
    assert [good.result(stretched(PATIENCE)), other.result(stretched(PATIENCE))] == [
        [Placed("a")],
        [Placed("a", duplicate=True)],
    ]
    assert last.result(stretched(PATIENCE)) == [Placed("b"), Placed("c")]
    assert [state_of(engine, one) for one in ("a", "second", "b", "c")] == [State.READY, None, State.READY, State.READY]
    assert engine._open_writer().commits == before + 3


def test_writes_that_wait_together_are_one_commit_and_are_done_in_order(engine: SqliteEngine) -> None:
    before = engine._open_writer().commits
    ends = sharing(engine, [lambda n=n: place(engine, [job("same"), job(f"j{n}")]) for n in range(5)])
    assert [end.result(stretched(PATIENCE))[0].duplicate for end in ends] == [False, True, True, True, True]  # type: ignore[index]
    assert engine._open_writer().commits == before + 1
    assert [row.id for row in engine.jobs(NOTHING, None, 10)[0]] == ["j4", "j3", "j2", "j1", "j0", "same"]


def test_what_writes_count_that_share_a_commit_is_one_statement_and_exact(engine: SqliteEngine) -> None:
    place(engine, [only("first")])
    said: list[str] = []
    engine._open_writer().db.exec_trace = lambda _db, sql, _bindings: said.append(sql) is None
    ends = sharing(engine, [*(lambda n=n: place(engine, [job(f"j{n}", queue=f"q{n}")]) for n in range(12))] * 2)  # type: ignore[misc]
    assert sum(end.result(stretched(PATIENCE))[0].duplicate for end in ends) == 12  # type: ignore[index]
    assert len([sql for sql in said if "windlass_counts" in sql]) == 1
    assert [one.n for one in engine.metrics(("arrived:q",), 1).counts] == [1] * 12
    said.clear()
    refused = sharing(engine, [lambda: place(engine, [job("a")]), lambda: place(engine, [only("b")])])
    assert isinstance(refused[1].exception(30), Duplicate)
    assert len([sql for sql in said if "windlass_counts" in sql]) == 1  # of a group that failed nothing is counted
    assert engine.counts()["total_enqueued"] == 14
