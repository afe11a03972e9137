"""Queue names on SQLite: what a damaged one keeps from running, and what the upkeep writes down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from windlass.core.clock import ManualClock
from windlass.core.rows import Action
from windlass.core.work import Kind, QueueShare, Want
from windlass.engines.sqlite import SqliteEngine, upkeep
from windlass.testing.conformance.harness import add, all_jobs, ended, error, job, join, place, take
from windlass.testing.conformance.harness import upkeep as maintain

DAMAGED = ("CAST(x'ff41' AS TEXT)", "x'ff41'", "CAST(x'' AS TEXT)", "42")


@pytest.fixture
def store() -> Iterator[SqliteEngine]:
    with closing(SqliteEngine(None, clock=ManualClock())) as engine:
        engine.open()
        join(engine)
        yield engine


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("limit", [1, 100])
def test_a_damaged_queue_name_keeps_no_other_queue_from_running(store: SqliteEngine, name: str, limit: int) -> None:
    add(store, "damaged", queue="qa")
    with store.transaction() as tx:
        tx.execute(f"UPDATE windlass_jobs SET queue = {name}")
    for queue in ("A", "m", "zz"):
        add(store, f"{queue}-1", f"{queue}-2", queue=queue)
    got = [lease.id for _ in range(12) for lease in take(store, limit=limit)]
    assert {"A-1", "A-2", "m-1", "m-2", "zz-1", "zz-2"} <= set(got)
    maintain(store)


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("state", [Kind.DONE, Kind.DEAD])
def test_a_damaged_queue_name_stops_no_pruning_of_others(store: SqliteEngine, name: str, state: Kind) -> None:
    add(store, "damaged", queue="qa")
    add(store, "b", queue="qb")
    told = error() if state is Kind.DEAD else None
    store.settle([ended(lease, state, error=told, keep_ms=1_000) for lease in take(store)])
    with store.transaction() as tx:
        tx.execute(f"UPDATE windlass_jobs SET queue = {name} WHERE id = 'damaged'")
    assert isinstance(store._clock, ManualClock)
    store._clock.advance(2_000)
    maintain(store)
    assert store.job("b") is None


def test_ended_jobs_of_more_queues_than_one_step_looks_at_go_in_the_steps_that_follow(
    store: SqliteEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "QUEUES_MAX", 7)
    names = [f"q{n:02}" for n in range(20)]
    place(store, [job(name, queue=name) for name in names])
    store.settle([ended(lease, keep_ms=1_000) for lease in take(store)])
    place(store, [job(f"c-{name}", queue=name) for name in names])
    store.transition(Action.CANCEL, [f"c-{name}" for name in names])
    assert isinstance(store._clock, ManualClock)
    store._clock.advance(3_600_000)
    for _ in range(8):
        maintain(store)
    assert all_jobs(store) == []


def test_many_shares_of_which_many_are_busy_are_served_in_their_order(store: SqliteEngine) -> None:
    names = [f"q{n:03}" for n in range(400)]
    place(store, [job(name, queue=name) for name in names])
    shares = [QueueShare(name, 1) for name in reversed(names)]
    assert [lease.id for lease in take(store, queues=shares, limit=300)] == names[:-301:-1]
    assert [lease.id for lease in take(store, queues=shares, limit=300)] == names[99::-1]


def test_no_claim_reads_the_names_of_all_queues(store: SqliteEngine) -> None:
    names = [f"q{n:03}" for n in range(100)]
    place(store, [job(name, queue=name) for name in names])
    db = store._open_writer().db
    asked: list[tuple[str, object]] = []
    db.exec_trace = lambda _, sql, bindings: asked.append((sql, bindings)) is None
    shares = [QueueShare(name, 1) for name in names]
    leases = [*take(store, limit=1), *take(store, limit=50), *take(store, limit=9, queues=shares)]
    store.exchange([ended(lease) for lease in leases], Want("w1", 10))
    db.exec_trace = None
    plans = {
        (step[3], sql)
        for sql, bindings in asked
        if sql.split()[0] in {"SELECT", "WITH", "UPDATE", "INSERT", "DELETE"}
        for step in db.execute(f"EXPLAIN QUERY PLAN {sql}", bindings)  # type: ignore[arg-type]
    }
    read = {step for step, _ in plans if "windlass_queues" in str(step)}
    assert read
    assert {step for step in read if "SCAN" in str(step) and "windlass_queues_set" not in str(step)} == set()
