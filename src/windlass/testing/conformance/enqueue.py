"""How jobs are stored: atomic, in order, idempotent by id, due when asked."""

from __future__ import annotations

from threading import Event

import pytest

from windlass.core.model import Placed, State
from windlass.core.rows import Action
from windlass.core.work import Kind, Rules
from windlass.testing.conformance.harness import (
    Harness,
    add,
    ended,
    finish,
    job,
    join,
    place,
    row_of,
    state_of,
    take,
    together,
    upkeep,
)

DAY_MS = 86_400_000


class EnqueueSuite:
    """``Engine.commit`` of jobs alone."""

    def test_an_id_is_free_when_the_time_of_its_record_is_over(self, harness: Harness) -> None:
        """Whether a sweep has come by decides nothing: an application may have no worker that lives on."""
        store = harness.engine
        join(store, lease_ms=10 * DAY_MS)
        finish(store, "a")
        finish(store, "b", kind=Kind.CANCELLED)
        finish(store, "dead", kind=Kind.DEAD)
        finish(store, "mine", caller_id=True)
        ids = ("a", "b", "dead", "mine", "new")

        def fresh() -> list[bool]:
            placed = place(store, [job(i, payload="[2]", caller_id=i == "mine") for i in ids])
            return [not one.duplicate for one in placed]

        harness.clock.advance(Rules().keep_done_ms - 1)
        assert fresh() == [False, False, False, False, True]
        harness.clock.advance(1)
        assert fresh() == [True, True, False, False, False]
        assert [row_of(store, i).state for i in ("a", "b", "dead")] == [State.READY, State.READY, State.DEAD]
        assert (row_of(store, "a").payload, row_of(store, "a").result) == (b"[2]", None)
        harness.clock.advance(DAY_MS)
        assert fresh() == [False, False, False, True, False]
        assert sorted(lease.id for lease in take(store)) == ["a", "b", "mine", "new"]
        assert store.counts()["done"] == 0

    def test_an_enqueued_job_is_stored_as_given(self, harness: Harness) -> None:
        store, now = harness.engine, harness.clock.wall_ms()
        new = job(
            "a",
            name="shop.jobs.charge",
            queue="payments",
            payload="[42]",
            priority=-10,
            max_attempts=6,
            expires_ms=5_000,
            tags=("money", "eu"),
            meta='{"timeout":30}',
        )
        assert place(store, [new]) == [Placed("a")]
        row = row_of(store, "a")
        assert (row.id, row.name, row.queue, row.state) == ("a", "shop.jobs.charge", "payments", State.READY)
        assert (row.payload, row.priority, row.attempt, row.max_attempts) == (b"[42]", -10, 0, 6)
        assert (row.enqueued_at, row.run_at, row.expires_at) == (now, now, now + 5_000)
        assert (row.started_at, row.finished_at, row.worker, row.result) == (None, None, None, None)
        assert (row.errors or b"[]", row.reason, row.progress) == (b"[]", None, None)
        assert (row.tags, row.meta) == (("money", "eu"), b'{"timeout":30}')
        assert (row.crashes, row.interruptions, row.snoozes, row.cancel_requested) == (0, 0, 0, False)

    def test_an_empty_enqueue_stores_nothing(self, harness: Harness) -> None:
        assert place(harness.engine, []) == []
        assert harness.engine.counts()["total_enqueued"] == 0

    def test_placed_comes_back_in_the_order_given(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "b")
        placed = place(store, [job("c"), job("b"), job("a")])
        assert placed == [Placed("c"), Placed("b", duplicate=True), Placed("a")]

    def test_an_id_stored_before_is_a_duplicate_and_nothing_changes(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "a")
        before = store.job("a")
        assert place(store, [job("a", queue="other", payload="[1]", priority=5)]) == [Placed("a", duplicate=True)]
        assert store.job("a") == before
        assert store.counts()["total_enqueued"] == 1

    def test_an_id_twice_in_one_batch_is_stored_once_as_first_given(self, harness: Harness) -> None:
        store = harness.engine
        placed = place(store, [job("a", payload="[1]"), job("a", payload="[2]")])
        assert placed == [Placed("a"), Placed("a", duplicate=True)]
        assert row_of(store, "a").payload == b"[1]"
        assert store.counts()["ready"] == 1

    def test_another_engine_object_sees_the_duplicate(self, harness: Harness) -> None:
        add(harness.engine, "a")
        assert place(harness.second(), [job("a")]) == [Placed("a", duplicate=True)]

    def test_one_id_from_eight_threads_is_stored_once(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        answers = together(*[lambda s=s: place(s, [job("a")]) for s in [store, other] * 4])
        assert sorted(placed.duplicate for (placed,) in answers) == [False] + [True] * 7
        assert store.counts()["ready"] == 1

    @pytest.mark.parametrize("kind", [Kind.DONE, Kind.DEAD, Kind.CANCELLED])
    def test_a_finished_record_still_makes_its_id_a_duplicate(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        join(store)
        finish(store, "a", kind=kind)
        assert place(store, [job("a")]) == [Placed("a", duplicate=True)]
        assert take(store) == []

    def test_a_running_job_makes_its_id_a_duplicate(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        take(store)
        assert place(store, [job("a")]) == [Placed("a", duplicate=True)]

    def test_a_caller_id_outlives_its_record_for_id_keep(self, harness: Harness) -> None:
        store, rules = harness.engine, Rules(id_keep_ms=60_000)
        join(store)
        finish(store, "pay-42", caller_id=True, keep_ms=1_000)
        harness.clock.advance(1_500)
        upkeep(store, rules)
        assert store.job("pay-42") is None
        assert place(store, [job("pay-42", caller_id=True)]) == [Placed("pay-42", duplicate=True)]
        assert store.job("pay-42") is None

    def test_a_caller_id_is_free_again_after_id_keep(self, harness: Harness) -> None:
        store, rules = harness.engine, Rules(id_keep_ms=60_000)
        join(store)
        finish(store, "pay-42", caller_id=True, keep_ms=1_000)
        harness.clock.advance(1_500)
        upkeep(store, rules)
        harness.clock.advance(61_500)
        upkeep(store, rules)
        assert place(store, [job("pay-42", caller_id=True)]) == [Placed("pay-42")]

    def test_no_count_bound_removes_the_tombstone_of_a_caller_id(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "pay-1", "pay-2", caller_id=True)
        upkeep(store, Rules(keep_done_max=0))
        assert [store.job("pay-1"), store.job("pay-2")] == [None, None]
        again = place(store, [job("pay-1", caller_id=True), job("pay-2", caller_id=True)])
        assert [placed.duplicate for placed in again] == [True, True]

    def test_a_generated_id_leaves_no_tombstone(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "gen", keep_ms=1_000)
        harness.clock.advance(1_500)
        upkeep(store)
        assert place(store, [job("gen")]) == [Placed("gen")]

    def test_a_deleted_generated_id_can_be_stored_again(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "a")
        store.transition(Action.DELETE, ["a"])
        assert place(store, [job("a")]) == [Placed("a")]
        assert state_of(store, "a") is State.READY

    def test_a_batch_appears_as_a_whole_or_not_at_all(self, harness: Harness) -> None:
        store, reader, over = harness.engine, harness.second(), Event()

        def write() -> set[int]:
            try:
                for batch in range(6):
                    place(store, [job(f"{batch}-{n}") for n in range(100)])
            finally:
                over.set()
            return set()

        def read() -> set[int]:
            seen = set()
            while not over.is_set():
                seen.add(reader.counts()["ready"])
            return seen

        _, seen = together(write, read)
        assert {count % 100 for count in seen} <= {0}
        assert store.counts()["ready"] == 600

    def test_a_delay_makes_a_job_scheduled_until_it_is_due(self, harness: Harness) -> None:
        store, now = harness.engine, harness.clock.wall_ms()
        join(store)
        place(store, [job("a", delay_ms=5_000)])
        row = row_of(store, "a")
        assert (row.state, row.run_at) == (State.SCHEDULED, now + 5_000)
        harness.clock.advance(4_999)
        assert take(store) == []
        harness.clock.advance(1)
        assert [lease.id for lease in take(store)] == ["a"]

    def test_run_at_sets_the_due_time(self, harness: Harness) -> None:
        store, due = harness.engine, harness.clock.wall_ms() + 2_000
        join(store)
        place(store, [job("a", run_at=due)])
        assert (row_of(store, "a").state, row_of(store, "a").run_at) == (State.SCHEDULED, due)
        harness.clock.advance(2_000)
        assert [lease.id for lease in take(store)] == ["a"]

    def test_a_due_time_in_the_past_is_ready_at_once(self, harness: Harness) -> None:
        store = harness.engine
        place(store, [job("a", run_at=harness.clock.wall_ms() - 60_000)])
        assert state_of(store, "a") is State.READY

    def test_expiry_counts_from_the_due_time(self, harness: Harness) -> None:
        store, now = harness.engine, harness.clock.wall_ms()
        place(store, [job("a", delay_ms=5_000, expires_ms=1_000)])
        assert row_of(store, "a").expires_at == now + 6_000

    def test_at_front_goes_before_its_priority_but_not_before_a_sooner_one(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a"), job("b"), job("urgent", priority=-1)])
        place(store, [job("front", at_front=True)])
        assert [lease.id for lease in take(store)] == ["urgent", "front", "a", "b"]

    def test_a_thousand_jobs_in_one_batch_keep_their_order(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        ids = [f"j{n}" for n in range(1_000)]
        assert [p.id for p in place(store, [job(i) for i in ids])] == ids
        leases = take(store, limit=1_000)
        assert [lease.id for lease in leases] == ids
        store.settle([ended(lease) for lease in leases])
        assert store.counts()["total_done"] == 1_000
