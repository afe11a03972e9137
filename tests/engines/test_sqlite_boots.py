"""A lease is measured by a clock that begins anew with the machine, so none outlives a boot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from windlass.core.clock import ManualClock
from windlass.core.model import State
from windlass.core.work import RateBound, Rules, Want
from windlass.engines.sqlite import SqliteEngine
from windlass.testing.conformance.harness import LEASE_MS, add, ended, join, set_rate, state_of, take, take_one

Booted = Callable[[str, int], SqliteEngine]


@pytest.fixture
def booted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Booted]:
    """Engines on one file, each on a boot of the machine that has lasted for so many ms."""
    with ExitStack() as stack:

        def make(boot: str, up_ms: int) -> SqliteEngine:
            monkeypatch.setattr("windlass.engines.sqlite.core.boot_id", lambda: boot)
            clock = ManualClock()
            clock._boot = up_ms
            engine = SqliteEngine(str(tmp_path / "jobs.db"), clock=clock)
            engine.open()
            return stack.enter_context(closing(engine))

        yield make


@pytest.mark.parametrize("up_ms", [5_000, 10**9])
def test_jobs_of_a_worker_that_went_with_its_machine_are_free_at_the_first_upkeep(booted: Booted, up_ms: int) -> None:
    before = booted("first", 10**8)
    join(before, "old")
    add(before, "a")
    take(before, "old")
    after = booted("second", up_ms)
    assert [row.lease_left_ms < 0 for row in after.workers()] == [True]
    assert after.claim(Want("old", 1)).expelled
    done = after.maintain(Rules(), 100)
    assert (done.expired_workers, done.released, state_of(after, "a")) == (("old",), ("a",), State.READY)


def test_a_worker_of_this_boot_keeps_its_lease_beside_those_of_the_last(booted: Booted) -> None:
    before = booted("first", 10**8)
    join(before, "old")
    after = booted("second", 5_000)
    join(after, "new", LEASE_MS)
    add(after, "a")
    lease = take_one(after, "new")
    assert after.maintain(Rules(), 100).expired_workers == ("old",)
    assert after.settle([ended(lease)]) == ["applied"]


def test_a_rate_goes_on_over_a_boot(booted: Booted) -> None:
    before = booted("first", 10**8)
    join(before)
    set_rate(before, "default", RateBound(2, 60_000))
    add(before, *"abcd")
    assert len(take(before)) == 2
    after = booted("second", 5_000)
    join(after)
    assert take(after) == []
    after._clock.advance(60_001)  # type: ignore[attr-defined]
    join(after)
    assert len(take(after)) == 2
