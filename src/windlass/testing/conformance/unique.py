"""Unique keys: one stored job per key, what becomes of the others, and what frees the key."""

from __future__ import annotations

import pytest
from msgspec import structs

from windlass.core.errors import Duplicate
from windlass.core.model import Cause, NewJob, OnConflict, State, UniqueKey, Until, Write
from windlass.core.rows import Action, Recovery
from windlass.core.work import Kind, LeaseRef, Settled
from windlass.engines.base import Store, TransactionalCommit
from windlass.testing.conformance.harness import (
    Harness,
    add,
    clear,
    ended,
    error,
    job,
    join,
    place,
    recover,
    redrive,
    row_of,
    state_of,
    take,
    together,
    upkeep,
)


def unique(
    job_id: str,
    rule: OnConflict = "return",
    until: Until = "done",
    ttl_ms: int | None = None,
    payload: str = "[]",
    delay_ms: int = 0,
    key: str = "k",
) -> NewJob:
    """A job with a unique key."""
    return NewJob(
        job_id, "n", "default", payload, delay_ms=delay_ms, unique=UniqueKey(key, until, ttl_ms, rule), max_attempts=3
    )


def put(store: Store, new: NewJob) -> tuple[str, bool]:
    (placed,) = place(store, [new])
    return placed.id, placed.duplicate


class UniqueSuite:
    """``NewJob.unique``."""

    def test_a_taken_key_gives_the_job_that_has_it(self, harness: Harness) -> None:
        store = harness.engine
        assert put(store, unique("a")) == ("a", False)
        assert put(store, unique("b")) == ("a", True)
        assert put(store, unique("c", key="other")) == ("c", False)
        assert state_of(store, "b") is None
        assert store.counts()["total_enqueued"] == 2

    def test_conflicts_within_a_batch_are_settled_row_by_row(self, harness: Harness) -> None:
        store = harness.engine
        batch = [unique("a"), job("x"), unique("b"), unique("c", key="o"), unique("d", key="o")]
        assert [(p.id, p.duplicate) for p in place(store, batch)] == [
            ("a", False), ("x", False), ("a", True), ("c", False), ("c", True),
        ]  # fmt: skip

    def test_raise_refuses_the_whole_batch(self, harness: Harness) -> None:
        store = harness.engine
        put(store, unique("a"))
        with pytest.raises(Duplicate) as caught:
            place(store, [job("x"), unique("b", "raise"), job("y")])
        assert caught.value.job_id == "a"
        assert [state_of(store, i) for i in ("x", "b", "y")] == [None, None, None]

    @pytest.mark.parametrize("kind", [Kind.DONE, Kind.DEAD, Kind.CANCELLED])
    def test_the_end_of_a_job_frees_its_key(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a"))
        (lease,) = take(store)
        assert put(store, unique("b")) == ("a", True)
        store.settle([ended(lease, kind)])
        assert put(store, unique("c")) == ("c", False)

    @pytest.mark.parametrize("rule", ["return", "raise", "replace", "keep_latest"])
    def test_a_key_that_an_expired_job_holds_is_free_before_any_sweep(self, harness: Harness, rule: OnConflict) -> None:
        """Else the new job would be a duplicate of one that never runs, and nobody would do the work."""
        store = harness.engine
        put(store, structs.replace(unique("a", rule), expires_ms=1_000))
        harness.clock.advance(999)
        assert rule == "raise" or put(store, unique("b")) == ("a", True)
        harness.clock.advance(1)
        assert put(store, unique("c", rule)) == ("c", False)
        row = row_of(store, "a")
        assert (row.state, row.reason, row.finished_at) == (State.CANCELLED, "expired", harness.clock.wall_ms())
        assert store.counts()["total_cancelled"] == 1
        assert put(store, unique("d")) == ("c", True)
        join(store)
        assert [lease.id for lease in take(store)] == ["c"]

    def test_what_waits_behind_a_job_that_expires_has_the_key(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, structs.replace(unique("a", "keep_latest"), expires_ms=1_000))
        (lease,) = take(store)
        put(store, structs.replace(unique("b", "keep_latest"), expires_ms=5_000))
        store.settle([ended(lease, Kind.RETRY, error=error(), delay_ms=60_000)])
        harness.clock.advance(2_000)
        assert put(store, unique("c")) == ("b", True)
        assert [state_of(store, i) for i in ("a", "b", "c")] == [State.CANCELLED, State.READY, None]
        harness.clock.advance(10_000)
        assert put(store, unique("c")) == ("c", False)
        assert [state_of(store, i) for i in ("a", "b", "c")] == [State.CANCELLED, State.CANCELLED, State.READY]

    def test_a_cancelled_a_deleted_and_a_cleared_waiter_free_their_key(self, harness: Harness) -> None:
        store = harness.engine
        put(store, unique("a"))
        store.transition(Action.CANCEL, ["a"])
        assert put(store, unique("b")) == ("b", False)
        store.transition(Action.DELETE, ["b"])
        assert put(store, unique("c")) == ("c", False)
        clear(store, "default", 10)
        assert put(store, unique("d")) == ("d", False)

    def test_a_retry_keeps_the_key(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a"))
        for kind in (Kind.RETRY, Kind.SNOOZE, Kind.RELEASE):
            (lease,) = take(store)
            store.settle([ended(lease, kind)])
            assert put(store, unique("b")) == ("a", True)

    def test_until_start_frees_the_key_when_the_job_is_claimed(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a", until="start"))
        assert put(store, unique("b", until="start")) == ("a", True)
        (lease,) = take(store)
        assert put(store, unique("c", until="start")) == ("c", False)
        store.settle([ended(lease)])
        assert put(store, unique("d", until="start")) == ("c", True)

    def test_until_expiry_keeps_the_key_for_its_time_and_no_longer(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a", until="expiry", ttl_ms=10_000))
        (lease,) = take(store)
        store.settle([ended(lease)])
        store.transition(Action.DELETE, ["a"])
        harness.clock.advance(9_999)
        assert put(store, unique("b", until="expiry", ttl_ms=10_000)) == ("a", True)
        harness.clock.advance(1)
        upkeep(store)
        assert put(store, unique("c", until="expiry", ttl_ms=10_000)) == ("c", False)

    def test_a_key_that_outlives_its_job_is_taken_for_a_new_one_of_the_same_id_too(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a", until="expiry", ttl_ms=10_000))
        store.transition(Action.DELETE, ["a"])
        assert put(store, unique("a", until="expiry", ttl_ms=10_000)) == ("a", True)
        assert state_of(store, "a") is None
        harness.clock.advance(10_000)
        assert put(store, unique("a", until="expiry", ttl_ms=10_000)) == ("a", False)
        assert [lease.id for lease in take(store)] == ["a"]

    def test_a_ttl_counts_from_the_due_time(self, harness: Harness) -> None:
        store = harness.engine
        put(store, unique("a", ttl_ms=1_000, delay_ms=5_000))
        harness.clock.advance(5_999)
        assert put(store, unique("b")) == ("a", True)
        harness.clock.advance(1)
        assert put(store, unique("c")) == ("c", False)

    def test_replace_gives_a_waiting_job_the_new_arguments_and_time(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a", delay_ms=9_000, payload="[1]"))
        assert put(store, unique("b", "replace", payload="[2]", delay_ms=20_000)) == ("a", True)
        row = row_of(store, "a")
        assert (row.payload, row.state, row.run_at) == (b"[2]", State.SCHEDULED, harness.clock.wall_ms() + 20_000)
        put(store, unique("c", "replace", payload="[3]"))
        (lease,) = take(store)
        assert (lease.id, lease.payload) == ("a", b"[3]")
        assert put(store, unique("d", "replace", payload="[4]")) == ("a", True)
        assert row_of(store, "a").payload == b"[3]"

    def test_keep_latest_runs_one_and_lets_one_wait_with_the_latest_arguments(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a", "keep_latest", payload="[1]"))
        (running,) = take(store)
        assert put(store, unique("b", "keep_latest", payload="[2]")) == ("b", False)
        assert (state_of(store, "b"), row_of(store, "b").blocked_by) == (State.BLOCKED, "unique:k")
        assert put(store, unique("c", "keep_latest", payload="[3]")) == ("b", True)
        assert take(store) == []
        store.settle([ended(running)])
        (lease,) = take(store)
        assert (lease.id, lease.payload) == ("b", b"[3]")
        assert put(store, unique("d", "keep_latest")) == ("d", False)
        assert take(store) == []

    def test_a_key_that_passes_on_within_a_batch_of_outcomes_leaves_the_others_whole(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("x"), unique("a"), job("y")])
        leases = take(store)
        put(store, unique("b", "keep_latest"))
        store.settle([ended(lease, keep_ms=1_000) for lease in leases])
        assert [lease.id for lease in take(store)] == ["b"]
        harness.clock.advance(1_001)
        upkeep(store)
        assert [state_of(store, one) for one in "xay"] == [None, None, None]

    @pytest.mark.parametrize("ends", [False, True])
    def test_a_key_that_passes_on_within_a_claim_leaves_the_others_whole(self, harness: Harness, ends: bool) -> None:
        """The holder waits for its next run with another behind it, and lets go of its key as it starts or expires."""
        store = harness.engine
        join(store)
        put(store, structs.replace(unique("a"), expires_ms=1_000))
        (lease,) = take(store)
        put(store, unique("b", "keep_latest"))
        store.settle([ended(lease, Kind.RETRY)])
        put(store, structs.replace(unique("c", "replace", "start"), expires_ms=1_000))
        add(store, "x")
        place(store, [job("first", priority=-1), job("last", priority=1)])
        harness.clock.advance(1_000 if ends else 0)
        claimed = take(store)
        assert {lease.id for lease in claimed} >= {"first", "x", "last"} | ({"a"} if not ends else set())
        assert {state_of(store, lease.id) for lease in claimed} == {State.RUNNING}
        assert set(store.settle([ended(lease) for lease in claimed])) == {Settled.APPLIED}
        assert state_of(store, "b") in (State.READY, State.DONE)

    def test_what_waits_behind_a_holder_follows_it_also_when_its_ttl_is_over(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a", "keep_latest", ttl_ms=5_000))
        (running,) = take(store)
        assert put(store, unique("b", "keep_latest", ttl_ms=5_000)) == ("b", False)
        harness.clock.advance(6_000)
        upkeep(store)
        join(store)
        assert take(store) == []
        assert put(store, unique("c", "keep_latest", payload="[3]")) == ("b", True)
        store.settle([ended(running)])
        upkeep(store)
        assert [(lease.id, lease.payload) for lease in take(store)] == [("b", b"[3]")]

    @pytest.mark.parametrize("ttl_ms", [5_000, 50_000])
    def test_what_waits_behind_a_key_until_expiry_runs_and_the_key_is_free_in_its_time(
        self, harness: Harness, ttl_ms: int
    ) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a", "keep_latest", "expiry", ttl_ms))
        (first,) = take(store)
        harness.clock.advance(3_000)
        assert put(store, unique("b", "keep_latest", "expiry", ttl_ms)) == ("b", False)
        harness.clock.advance(4_000)
        store.settle([ended(first)])
        (second,) = take(store)
        assert second.id == "b"
        store.settle([ended(second)])
        harness.clock.advance(ttl_ms - 4_001)
        assert put(store, unique("c", "keep_latest", "expiry", ttl_ms)) == ("b", True)
        harness.clock.advance(1)
        assert put(store, unique("c", "keep_latest", "expiry", ttl_ms)) == ("c", False)

    def test_a_key_until_expiry_is_free_in_its_time_when_what_waited_behind_it_went(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a", "keep_latest", "expiry", 10_000))
        (lease,) = take(store)
        put(store, unique("b", "keep_latest", "expiry", 10_000))
        store.transition(Action.CANCEL, ["b"])
        store.settle([ended(lease)])
        harness.clock.advance(9_999)
        assert put(store, unique("c", "keep_latest", "expiry", 10_000)) == ("a", True)
        harness.clock.advance(1)
        assert put(store, unique("c", "keep_latest", "expiry", 10_000)) == ("c", False)

    def test_a_key_is_held_as_the_job_that_has_it_says(self, harness: Harness) -> None:
        """What waited behind a holder with other options holds the key by its own."""
        store = harness.engine
        join(store)
        put(store, unique("a", until="expiry", ttl_ms=60_000))
        (first,) = take(store)
        put(store, unique("b", "keep_latest", "done"))
        store.settle([ended(first)])
        (second,) = take(store)
        store.settle([ended(second)])
        assert put(store, unique("c", "keep_latest", "done")) == ("c", False)

    @pytest.mark.parametrize("rule", ["replace", "keep_latest"])
    def test_a_key_that_outlives_its_job_replaces_no_other_job_of_its_id(
        self, harness: Harness, rule: OnConflict
    ) -> None:
        store = harness.engine
        put(store, unique("a", until="expiry", ttl_ms=60_000))
        store.transition(Action.DELETE, ["a"])
        place(store, [job("a", payload="[1]")])
        assert put(store, unique("b", rule, "expiry", 60_000, payload="[2]")) == ("a", True)
        assert row_of(store, "a").payload == b"[1]"

    @pytest.mark.parametrize("action", [Action.CANCEL, Action.DELETE])
    def test_a_holder_and_what_waits_behind_it_go_in_one_call_and_leave_no_trace(
        self, harness: Harness, action: Action
    ) -> None:
        store = harness.engine
        join(store)
        put(store, structs.replace(unique("a", "keep_latest"), expires_ms=5_000))
        (lease,) = take(store)
        put(store, structs.replace(unique("b", "keep_latest"), expires_ms=5_000))
        store.settle([ended(lease, Kind.RETRY, error=error(), delay_ms=1_000)])
        assert [moved.applied for moved in store.transition(action, ["a", "b"])] == [True, True]
        assert all(finding.level != "error" for finding in store.doctor() if finding.check in ("orphans", "records"))
        store.transition(Action.DELETE, ["a", "b"])
        place(store, [job("b", delay_ms=60_000)])
        harness.clock.advance(6_000)
        upkeep(store)
        assert state_of(store, "b") is State.SCHEDULED

    def test_clearing_a_queue_takes_what_waits_behind_a_retry_too(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a", "keep_latest"))
        (lease,) = take(store)
        put(store, unique("b", "keep_latest"))
        store.settle([ended(lease, Kind.RETRY, error=error(), delay_ms=1_000)])
        assert clear(store, "default", 100) == 2
        assert [state_of(store, "a"), state_of(store, "b")] == [None, None]

    def test_two_that_replace_in_one_batch_leave_one_job_that_runs_once(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a", payload="[1]"))
        later = structs.replace(unique("c", "replace", payload="[3]"), queue="other")
        placed = place(store, [unique("b", "replace", payload="[2]"), later])
        assert [(one.id, one.duplicate) for one in placed] == [("a", True), ("a", True)]
        assert store.counts()["ready"] == 1
        leases = take(store) + take(store)
        assert [(lease.id, lease.queue, lease.payload) for lease in leases] == [("a", "other", b"[3]")]

    def test_what_replaces_a_retry_has_a_time_budget_of_its_own(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a"))
        store.settle([ended(take(store)[0], Kind.RETRY, delay_ms=1_000)])
        harness.clock.advance(500)
        assert put(store, unique("b", "replace", payload="[2]")) == ("a", True)
        (lease,) = take(store)
        assert (lease.attempt, lease.payload, lease.retrying_ms) == (1, b"[2]", 0)

    def test_keep_latest_replaces_a_holder_that_waits(self, harness: Harness) -> None:
        store = harness.engine
        put(store, unique("a", "keep_latest", payload="[1]"))
        assert put(store, unique("b", "keep_latest", payload="[2]")) == ("a", True)
        assert row_of(store, "a").payload == b"[2]"

    def test_a_waiter_behind_a_running_job_can_go_and_leaves_no_trace(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a", "keep_latest"))
        (running,) = take(store)
        put(store, unique("b", "keep_latest"))
        store.transition(Action.CANCEL, ["b"])
        assert put(store, unique("c", "keep_latest")) == ("c", False)
        store.settle([ended(running)])
        assert [lease.id for lease in take(store)] == ["c"]

    def test_a_dead_job_whose_key_is_taken_stays_dead_and_says_why(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a"))
        (lease,) = take(store)
        store.settle([ended(lease, Kind.DEAD)])
        put(store, unique("b"))
        (moved,) = store.transition(Action.RETRY, ["a"])
        assert (moved.applied, moved.before) == (False, State.DEAD)
        assert moved.reason == row_of(store, "a").reason == "unique key k is taken by b"
        store.transition(Action.CANCEL, ["b"])
        assert store.transition(Action.RETRY, ["a"])[0].applied
        assert put(store, unique("c")) == ("a", True)

    def test_a_dead_job_whose_key_is_taken_is_neither_redriven_nor_recovered(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a"))
        (lease,) = take(store)
        store.settle([ended(lease, Kind.DEAD, error=error(), cause=Cause("TimeoutError", "f", "pay"))])
        put(store, unique("b"))
        rule = Recovery(("TimeoutError",), 0, 1, 10)
        assert redrive(store, [LeaseRef("a", lease.fence)]) == [False]
        assert recover(store, rule) == []
        row = row_of(store, "a")
        assert (row.state, row.reason, row.error_type) == (State.DEAD, "unique key k is taken by b", "TimeoutError")
        store.transition(Action.CANCEL, ["b"])
        assert recover(store, rule) == ["a"]
        assert put(store, unique("c")) == ("a", True)
        (lease,) = take(store)
        store.settle([ended(lease, Kind.DEAD)])
        assert redrive(store, [LeaseRef("a", lease.fence)]) == [True]
        assert put(store, unique("d")) == ("a", True)

    def test_an_id_that_is_stored_is_a_duplicate_of_itself(self, harness: Harness) -> None:
        store = harness.engine
        put(store, unique("a"))
        assert put(store, unique("a", "raise")) == ("a", True)

    def test_a_follow_up_whose_key_is_taken_gives_way(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, unique("a"))
        place(store, [job("p", priority=-1)])
        (lease,) = take(store, limit=1)
        assert lease.id == "p"
        store.settle([ended(lease, then=(unique("b", "raise"), job("c")))])
        assert [state_of(store, i) for i in ("p", "b", "c")] == [State.DONE, None, State.READY]

    def test_threads_that_enqueue_one_key_store_one_job(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()

        def send(n: int) -> str:
            return put((store, other)[n % 2], unique(f"j{n}"))[0]

        ids = together(*[lambda n=n: send(n) for n in range(12)])
        assert len(set(ids)) == 1
        assert store.counts()["ready"] == 1

    def test_a_key_is_part_of_the_callers_transaction(self, harness: Harness) -> None:
        store = harness.engine
        if not isinstance(store, TransactionalCommit):
            return  # engines without transactions promise nothing here
        with pytest.raises(Duplicate), store.transaction() as tx:
            store.commit_within(tx, Write((unique("a"), unique("x", "raise"))))
        with store.transaction() as tx:
            placed = store.commit_within(tx, Write((unique("b"), unique("c")))).placed
        assert [(p.id, p.duplicate) for p in placed] == [("b", False), ("b", True)]
        assert put(store, unique("d")) == ("b", True)
