"""What the supervisor tells the store: every report in its order, again and again until the store has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kit.waiting import until
from windlass import Windlass
from windlass.core.clock import SystemClock
from windlass.core.model import State
from windlass.core.work import Kind, Outcome, Want
from windlass.errors import EngineUnavailable
from windlass.testing.conformance.harness import add, info, join, state_of, take_one
from windlass.worker.process.generation import Process
from windlass.worker.process.messages import Alone, Bye, Ended
from windlass.worker.process.reports import Reports
from windlass.worker.slots import SlotTable


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reports]:
    monkeypatch.setattr("windlass.worker.process.reports.STORE_RETRY", 0.01)
    with Windlass(f"sqlite:///{tmp_path}/jobs.db") as app:
        made = Reports(app.settings, SystemClock())
        try:
            yield made
        finally:
            made.abandon()
            made.close()


@pytest.fixture
def process() -> Iterator[Process]:
    """A process that was ready to run jobs, as the supervisor knows it."""
    with closing(SlotTable.create(1)) as table:
        made = Process(1, None, table, None, 0)  # type: ignore[arg-type]
        made.info, made.pid, made.ready = info("w1"), 4242, True
        yield made


def away(call: Callable[..., object], times: int) -> Callable[..., object]:
    """A call of a store that is away for so many tries."""
    left = [EngineUnavailable("the store is away")] * times

    def called(*args: object, **more: object) -> object:
        if left:
            raise left.pop()
        return call(*args, **more)

    return called


def heard(reports: Reports) -> list[Ended | Alone]:
    """What the store has answered, once it has answered everything."""
    found: list[Ended | Alone] = []

    def all_of_it() -> bool:
        found.extend(reports.news())
        return not reports.pending

    until(all_of_it, "the store is not told")
    return found


def test_a_report_is_made_until_the_store_takes_it_and_those_behind_it_wait(
    reports: Reports, process: Process, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = reports.store
    join(store)
    add(store, "a")
    lease = take_one(store)
    monkeypatch.setattr(store, "bury", away(store.bury, 3))
    reports.died(process, [lease.fence], "was killed")
    reports.look_for_lonely()
    assert reports.urgent
    heard(reports)
    assert caplog.text.count("cannot tell the store, next try in") == 3
    row = store.job("a")
    assert row is not None
    assert (row.state, row.crashes, store.workers()) == (State.READY, 1, [])


def test_what_had_not_started_goes_back_and_nothing_is_charged(reports: Reports, process: Process) -> None:
    store = reports.store
    join(store)
    add(store, "a")
    take_one(store)
    reports.died(process, [], "was killed")
    heard(reports)
    row = store.job("a")
    assert row is not None
    assert (row.state, row.crashes) == (State.READY, 0)


def test_a_job_past_its_timeout_is_settled_before_its_process_departs(
    reports: Reports, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = reports.store
    join(store)
    add(store, "late", "other")
    late, _ = store.claim(Want("w1", 2)).leases
    failed = Outcome(late.id, late.fence, Kind.DEAD, reason="timeout")
    monkeypatch.setattr(store, "settle", away(store.settle, 2))
    process.bye = Bye(overdue=(failed,), held=True)
    reports.departed(process)
    assert heard(reports) == [Ended(dead=("late",))]
    assert (state_of(store, "late"), state_of(store, "other"), store.workers()) == (State.DEAD, State.READY, [])


def test_a_report_that_fails_for_another_reason_is_told_and_does_not_hold_up_the_next(
    reports: Reports, process: Process, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = reports.store
    join(store)

    def broken(*_: object) -> object:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(store, "bury", broken)
    reports.died(process, [], "was killed")
    reports.departed(process)
    heard(reports)
    assert "a report to the store failed; it is dropped" in caplog.text
    assert store.workers() == []


def test_what_is_given_up_is_named(
    reports: Reports, process: Process, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reports.store, "bury", away(reports.store.bury, 10**6))
    reports.died(process, [], "was killed")
    until(lambda: "cannot tell the store" in caplog.text, "it does not try")
    reports.abandon()
    assert (reports.pending, reports.urgent) == (False, False)
    assert "the store was not told how worker processes 4242 ended" in caplog.text
