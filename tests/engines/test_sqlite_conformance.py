"""The conformance suite and the state machine on SQLite, on a file and in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from windlass.core.clock import ManualClock
from windlass.engines.sqlite import SqliteEngine
from windlass.testing.conformance import (
    EngineConformance,
    GuardMachine,
    Harness,
    HoldMachine,
    JoinMachine,
    build_machine,
)

CORRUPT = "UPDATE windlass_jobs SET payload = ? WHERE id = ?"


class FileHarness:
    """A database file in a folder of its own, which goes with it."""

    def __init__(self, durability: str = "fsync") -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._durability = durability
        self._engines: list[SqliteEngine] = []
        self.path = str(Path(self._folder.name) / "jobs.db")
        self.clock = ManualClock()
        self.engine = self.second()

    def second(self) -> SqliteEngine:
        engine = SqliteEngine(self.path, clock=self.clock, durability=self._durability)
        engine.open()
        self._engines.append(engine)
        return engine

    def corrupt(self, job_id: str, payload: bytes) -> None:
        with closing(apsw.Connection(self.path)) as db:
            db.execute(CORRUPT, (payload, job_id))

    def close(self) -> None:
        for engine in self._engines:
            engine.close()
        self._folder.cleanup()


class MemoryHarness:
    """A database in memory: one engine object is all there is."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.engine = SqliteEngine(None, clock=self.clock)
        self.engine.open()

    def second(self) -> SqliteEngine:
        return self.engine

    def corrupt(self, job_id: str, payload: bytes) -> None:
        with self.engine.transaction() as tx:
            tx.execute(CORRUPT, (payload, job_id))

    def close(self) -> None:
        self.engine.close()


class TestSqliteFile(EngineConformance):
    @pytest.fixture
    def harness(self) -> Iterator[Harness]:
        with closing(FileHarness()) as made:
            yield made

    def test_no_step_of_the_wall_clock_moves_a_lease_of_a_hold(self, harness: Harness) -> None:
        store = harness.engine
        store.hold("lock:k", "t", 1, 60_000)
        for step in (3_600_000, -7_200_000):
            harness.clock.step_wall(step)
            (row,) = harness.second().holds()
            assert row.left_ms == 60_000
        harness.clock.advance(60_000)
        assert store.hold("lock:k", "other", 1, 60_000).fence is not None


class TestSqliteMemory(EngineConformance):
    @pytest.fixture
    def harness(self) -> Iterator[Harness]:
        with closing(MemoryHarness()) as made:
            yield made


TestSqliteMemoryMachine = build_machine(MemoryHarness).TestCase
TestSqliteGuardMachine = build_machine(MemoryHarness, base=GuardMachine, max_examples=20, steps=30).TestCase
TestSqliteHoldMachine = build_machine(MemoryHarness, base=HoldMachine, max_examples=40, steps=40).TestCase
TestSqliteJoinMachine = build_machine(MemoryHarness, base=JoinMachine, max_examples=15, steps=30).TestCase
TestSqliteFileMachine = build_machine(lambda: FileHarness("normal"), max_examples=20).TestCase


def test_no_suite_hides_a_test_of_another() -> None:
    names = [name for suite in EngineConformance.__mro__ for name in vars(suite) if name.startswith("test_")]
    assert sorted(names) == sorted(set(names))
