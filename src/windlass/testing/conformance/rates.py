"""Rates at the claim: how many of a key are let through in any window, and when the next one may."""

from __future__ import annotations

import pytest

from windlass.core.work import Kind, Want
from windlass.testing.conformance.guards import end, got, put, rate
from windlass.testing.conformance.harness import (
    Harness,
    ended,
    join,
    row_of,
    take,
    upkeep,
)


class RateSuite:
    """Jobs with a Rate."""

    def test_a_rate_lets_no_more_through_in_any_window(self, harness: Harness) -> None:
        store, clock = harness.engine, harness.clock
        join(store)
        put(store, *[f"j{n}" for n in range(40)], guards=(rate(5, 1_000),))
        starts: list[int] = []
        for _ in range(60):
            leases = take(store, limit=3)
            starts += [clock.wall_ms()] * len(leases)
            end(store, leases)
            clock.advance(130)
            join(store)
        assert len(starts) == 40
        assert max(sum(at <= x < at + 1_000 for x in starts) for at in starts) <= 5
        assert starts[-1] - starts[0] <= 40 / 5 * 1_000 + 1_000

    def test_a_rate_says_when_it_opens(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", "c", guards=(rate(2, 10_000),))
        claimed = store.claim(Want("w1", 10))
        assert got(claimed.leases) == ["a", "b"]
        assert row_of(store, "c").blocked_by == "rate:api"
        assert claimed.due_in_ms is not None
        assert 10_000 <= claimed.due_in_ms <= 10_100
        harness.clock.advance(9_999)
        assert take(store) == []
        harness.clock.advance(1)
        assert got(take(store)) == ["c"]

    def test_the_window_of_a_rate_grows_by_how_late_a_claimed_job_may_start(self, harness: Harness) -> None:
        store, late = harness.engine, Want("w1", 10, late_ms=25)
        join(store)
        put(store, *"abcde", guards=(rate(2, 10_000),))
        claimed = store.claim(late)
        assert got(claimed.leases) == ["a", "b"]
        assert claimed.due_in_ms is not None
        assert 10_025 <= claimed.due_in_ms <= 10_125
        harness.clock.advance(10_024)
        join(store)
        assert store.claim(late).leases == []
        harness.clock.advance(1)
        assert got(store.claim(late).leases) == ["c", "d"]
        # A gate is looked at when it opens, which those who are in less of a hurry have said.
        harness.clock.advance(10_024)
        join(store)
        assert store.claim(late).leases == []
        harness.clock.advance(1)
        assert got(store.claim(late).leases) == ["e"]

    def test_a_rate_counts_claims_however_they_end(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", guards=(rate(2, 10_000),))
        for _ in range(2):
            end(store, take(store), Kind.RELEASE)
        assert take(store) == []

    @pytest.mark.parametrize("burst", [None, 3])
    def test_a_rate_whose_claims_are_all_out_of_its_window_is_forgotten(
        self, harness: Harness, burst: int | None
    ) -> None:
        store = harness.engine
        join(store)
        for n in range(5):
            put(store, f"j{n}", guards=(rate(2, 10_000, key=f"tenant:{n}", burst=burst),))
        put(store, "k", guards=(rate(1, 60_000, key="slow", burst=burst),))
        for lease in take(store):
            store.settle([ended(lease)])
        assert len(store.limits()) == 6
        harness.clock.advance(12_000)
        upkeep(store)
        assert [row.key for row in store.limits()] == ["slow"]
        # What is forgotten is begun anew, with all of its window.
        join(store)
        put(store, "n1", "n2", "n3", guards=(rate(2, 10_000, key="tenant:0", burst=burst),))
        assert len(take(store)) == (burst or 2)

    def test_a_rate_that_is_used_all_the_time_is_not_forgotten(self, harness: Harness) -> None:
        store = harness.engine
        put(store, *(f"j{n}" for n in range(60)), guards=(rate(3, 10_000),))
        claims: list[int] = []
        for _ in range(120):
            harness.clock.advance(900)
            join(store)
            upkeep(store)
            claims += [harness.clock.wall_ms()] * len(take(store, limit=2))
        assert len(claims) > 25
        for at in claims:
            assert sum(at <= other < at + 10_000 for other in claims) <= 3

    def test_no_step_of_the_wall_clock_lets_a_rate_through(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", "c", guards=(rate(1, 60_000),))
        assert got(take(store)) == ["a"]
        for step in (3_600_000, -7_200_000, 120_000):
            harness.clock.step_wall(step)
            assert take(store) == []
        harness.clock.advance(60_000)
        join(store)
        assert got(take(store)) == ["b"]

    def test_a_burst_comes_at_once_and_then_evenly(self, harness: Harness) -> None:
        store, clock = harness.engine, harness.clock
        join(store)
        put(store, *[f"j{n}" for n in range(30)], guards=(rate(10, 1_000, burst=4),))
        counts = []
        for _ in range(12):
            leases = take(store)
            counts.append(len(leases))
            end(store, leases)
            clock.advance(100)
            join(store)
        assert counts == [4] + [1] * 11

    def test_a_rate_that_is_nearly_spent_is_given_only_where_it_starts_at_once(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, *"abcdef", guards=(rate(3, 10_000),))
        first = store.claim(Want("w1", 2, room=0)).leases
        assert len(first) == 2  # the window has room even if these start late
        harness.clock.advance(9_800)
        join(store)
        assert len(store.claim(Want("w1", 5, room=0)).leases) == 1
        harness.clock.advance(300)
        assert store.claim(Want("w1", 5, room=0)).leases == []
        assert len(store.claim(Want("w1", 5, room=1)).leases) == 1
