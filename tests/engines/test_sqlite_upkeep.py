"""Steps of upkeep on SQLite that look at a part of what there is: they come to all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from windlass.core.clock import ManualClock
from windlass.core.work import Rules
from windlass.engines.sqlite import SqliteEngine
from windlass.testing.conformance.harness import finish, join

LONG_MS = 10**9


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def engine(clock: ManualClock) -> Iterator[SqliteEngine]:
    with closing(SqliteEngine(None, clock=clock)) as made:
        made.open()
        join(made)
        yield made


def test_queues_whose_records_stay_do_not_keep_those_behind_them_from_being_pruned(
    engine: SqliteEngine, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass.engines.sqlite.upkeep.QUEUES_MAX", 3)
    for number in range(8):
        finish(engine, f"j{number}", queue=f"q{number}", keep_ms=1_000 if number in (4, 7) else LONG_MS)
    clock.advance(1_000)
    pruned = [engine.maintain(Rules(), 100).pruned for _ in range(6)]  # two rounds
    assert sum(pruned) == 2
    assert pruned[0] == 0
    assert [engine.job(f"j{number}") is None for number in range(8)] == [number in (4, 7) for number in range(8)]
