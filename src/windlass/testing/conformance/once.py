"""Once keys at the claim: who holds one, who waits for it, and what a marker keeps."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from windlass.core.model import State
from windlass.core.rows import Action
from windlass.core.work import Kind, Rules, Want
from windlass.engines.base import Store
from windlass.testing.conformance.guards import DAY, end, got, guarded, once, put
from windlass.testing.conformance.harness import (
    Harness,
    ended,
    error,
    join,
    place,
    row_of,
    state_of,
    take,
    together,
    upkeep,
)


class OnceSuite:
    """Jobs with a Once key."""

    def test_a_second_job_of_a_running_key_waits_without_an_attempt(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", guards=(once(),))
        assert got(take(store)) == ["a"]
        row = row_of(store, "b")
        assert (row.state, row.blocked_by, row.attempt) == (State.BLOCKED, "once:pay", 0)

    def test_a_job_of_a_done_key_ends_done_with_the_stored_result(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", guards=(once(),))
        end(store, take(store), result='{"paid":1}')
        claimed = store.claim(Want("w1", 10))
        assert (claimed.leases, claimed.ended) == ([], ("b",))
        row = row_of(store, "b")
        assert (row.state, row.reason, row.result) == (State.DONE, "duplicate of a", b'{"paid":1}')
        assert row.attempt == 0
        put(store, "c", guards=(once(),))
        assert store.claim(Want("w1", 10)).ended == ("c",)
        assert row_of(store, "c").reason == "duplicate of a"

    @pytest.mark.parametrize("result", ["null", None])
    def test_a_job_of_a_done_key_has_the_result_of_the_first_also_when_that_is_nothing(
        self, harness: Harness, result: str | None
    ) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", guards=(once(),))
        end(store, take(store), result=result)
        assert take(store) == []
        first, second = row_of(store, "a"), row_of(store, "b")
        assert (second.state, second.result) == (State.DONE, first.result)

    def test_a_once_key_is_held_through_retries_and_crashes(self, harness: Harness) -> None:
        store = harness.engine
        for worker in ("w1", "w2", "w3"):
            join(store, worker)
        put(store, "a", "b", guards=(once(),))
        (lease,) = take(store)
        store.settle([ended(lease, Kind.RETRY, delay_ms=5_000)])
        assert take(store) == []
        harness.clock.advance(5_000)
        (lease,) = take(store, "w2")
        assert lease.id == "a"
        store.bury("w2", [lease.fence], error("WorkerCrashed"), Rules())
        assert got(take(store, "w3")) == ["a"]

    @pytest.mark.parametrize("kind", [Kind.DEAD, Kind.CANCELLED])
    def test_a_job_that_failed_for_good_frees_its_once_key(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", guards=(once(),))
        end(store, take(store), kind)
        assert got(take(store)) == ["b"]

    def test_whoever_waits_for_a_key_is_given_at_once_when_its_holder_has_expired(self, harness: Harness) -> None:
        """It was given back after its time, so the claim that ends it is the one that passes by who waits."""
        store = harness.engine
        join(store, lease_ms=DAY)
        place(store, [replace(guarded("a", (once(),)), expires_ms=30_000)])
        put(store, "b", guards=(once(),))
        (lease,) = take(store, limit=1)
        harness.clock.advance(30_000)
        store.settle([ended(lease, Kind.RELEASE)])
        claimed = store.claim(Want("w1", 10))
        assert claimed.ended == ("a",)
        if not claimed.leases:
            assert claimed.due_in_ms == 0
            claimed = store.claim(Want("w1", 10))
        assert [one.id for one in claimed.leases] == ["b"]

    def test_a_retry_by_hand_of_a_dead_job_does_not_run_what_another_did(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", guards=(once(keep_ms=1_000),))
        end(store, take(store), Kind.DEAD)
        end(store, take(store))
        harness.clock.advance(30 * DAY)
        join(store)
        upkeep(store)
        store.transition(Action.RETRY, ["a"])
        assert store.claim(Want("w1", 10)).ended == ("a",)
        assert row_of(store, "a").reason == "duplicate of b"

    def test_a_marker_goes_after_its_time_when_no_record_carries_its_key(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", guards=(once(keep_ms=1_000),))
        end(store, take(store))
        harness.clock.advance(1_000)
        put(store, "b", guards=(once(keep_ms=1_000),))
        assert got(take(store)) == ["b"]

    def test_a_marker_outlives_its_job(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", guards=(once(),))
        end(store, take(store))
        harness.clock.advance(DAY // 2)
        join(store)
        upkeep(store)
        assert state_of(store, "a") is None
        put(store, "b", guards=(once(),))
        assert take(store) == []
        assert row_of(store, "b").reason == "duplicate of a"

    def test_two_deliveries_at_once_run_once(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        join(store, "w1")
        join(store, "w2")
        put(store, *[f"p{n}" for n in range(40)], guards=(once(),))

        def work(engine: Store, worker: str) -> int:
            ran = 0
            for _ in range(40):
                leases = take(engine, worker, limit=4)
                ran += len(leases)
                end(engine, leases)
            return ran

        assert sum(together(lambda: work(store, "w1"), lambda: work(other, "w2"))) == 1
