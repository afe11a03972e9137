"""How the store keeps itself: promotion, reaping, pruning, trimming; bounded, and by many at once."""

from __future__ import annotations

from collections import Counter

import pytest

from windlass.core.model import State
from windlass.core.rows import Action, JobFilter
from windlass.core.work import Kind, QueueShare, Rules, Upkeep
from windlass.testing.conformance.harness import (
    LEASE_MS,
    Harness,
    add,
    ended,
    error,
    finish,
    history,
    job,
    join,
    place,
    row_of,
    state_of,
    take,
    take_one,
    together,
    upkeep,
)


def expire(harness: Harness, *ids: str, rules: Rules, max_attempts: int = 11) -> list[Upkeep]:
    """Let a worker of its own claim everything, lose its lease, and be reaped."""
    store = harness.engine
    if ids:
        add(store, *ids, max_attempts=max_attempts)
    join(store)
    take(store, limit=1_000)
    harness.clock.advance(LEASE_MS + 1)
    return upkeep(store, rules)


class MaintenanceSuite:
    """``Engine.maintain``."""

    @pytest.mark.parametrize("kind", [Kind.DONE, Kind.CANCELLED])
    def test_what_is_promised_longer_is_not_trimmed_by_count(self, harness: Harness, kind: Kind) -> None:
        """The count bounds the records that are kept as long as all are, or shorter; it does not count the others."""
        store, rules = harness.engine, Rules(keep_done_max=3)
        hour = 3_600_000
        join(store, lease_ms=10 * hour)
        finish(store, "p1", "p2", "p3", "p4", "p5", kind=kind, keep_ms=hour)
        harness.clock.advance(hour - 60_000)  # so that they would be the first to go
        for job_id, keep_ms in {"d1": None, "d2": None, "s1": 30_000, "d3": None, "d4": None, "d5": None}.items():
            finish(store, job_id, kind=kind, keep_ms=keep_ms)
            harness.clock.advance(1)
        upkeep(store, rules)
        assert [state_of(store, i) is not None for i in ("p1", "p2", "p3", "p4", "p5")] == [True] * 5
        kept = [i for i in ("d1", "d2", "s1", "d3", "d4", "d5") if state_of(store, i) is not None]
        assert kept == ["d3", "d4", "d5"]
        assert store.counts()[kind.value] == 8
        assert len(store.jobs(JobFilter(state=State(kind.value)), None, 100)[0]) == 8
        harness.clock.advance(60_001)
        upkeep(store, rules)
        assert [state_of(store, i) for i in ("p1", "p5")] == [None, None]
        assert store.counts()[kind.value] == 3

    def test_a_record_that_is_promised_longer_is_deleted_and_run_again_as_any_other(self, harness: Harness) -> None:
        store, rules = harness.engine, Rules(keep_done_max=0)
        join(store, lease_ms=10_000_000)
        finish(store, "a", "b", keep_ms=3_600_000)
        finish(store, "c", "d", kind=Kind.CANCELLED, keep_ms=3_600_000)
        moved = store.transition(Action.DELETE, ["a", "c"]) + store.transition(Action.RETRY, ["d"])
        assert [one.applied for one in moved] == [True, True, True]
        upkeep(store, rules)
        assert [state_of(store, i) for i in ("a", "b", "c", "d")] == [None, State.DONE, None, State.READY]
        store.settle([ended(take_one(store))])
        upkeep(store, rules)
        assert [state_of(store, i) for i in ("b", "d")] == [State.DONE, None]
        assert [store.counts()[state] for state in ("done", "cancelled")] == [1, 0]

    def test_nothing_to_do_is_an_empty_answer(self, harness: Harness) -> None:
        assert harness.engine.maintain(Rules(), 100) == Upkeep()

    def test_due_jobs_are_promoted(self, harness: Harness) -> None:
        store = harness.engine
        place(store, [job("a", delay_ms=1_000), job("b", delay_ms=9_000)])
        harness.clock.advance(1_500)
        step = store.maintain(Rules(), 100)
        assert (step.promoted, step.due_in_ms, step.more) == (1, 7_500, False)
        assert [state_of(store, i) for i in ("a", "b")] == [State.READY, State.SCHEDULED]

    def test_a_worker_whose_lease_ran_out_is_reaped_and_its_jobs_come_back(self, harness: Harness) -> None:
        store = harness.engine
        steps = expire(harness, "a", "b", rules=Rules())
        assert [w for step in steps for w in step.expired_workers] == ["w1"]
        assert sorted(i for step in steps for i in step.released) == ["a", "b"]
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.interruptions, row.crashes) == (State.READY, 0, 1, 0)
        assert row.worker is None
        assert store.workers() == []
        assert store.counts()["total_recovered"] == 2
        join(store, "w2")
        assert [(x.id, x.attempt, x.interruptions) for x in take(store, "w2")] == [("a", 1, 1), ("b", 1, 1)]

    def test_a_job_comes_back_to_its_place(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        take(store)
        add(store, "b")
        harness.clock.advance(LEASE_MS + 1)
        upkeep(store)
        join(store, "w2")
        assert [lease.id for lease in take(store, "w2")] == ["a", "b"]

    def test_a_live_worker_is_left_alone(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        join(store, "w2", lease_ms=1_000_000)
        add(store, "a")
        take(store, "w2")
        harness.clock.advance(LEASE_MS + 1)
        (step,) = upkeep(store)
        assert (step.expired_workers, step.released) == (("w1",), ())
        assert state_of(store, "a") is State.RUNNING

    def test_a_long_job_is_never_rescued_while_its_worker_renews(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        lease = take_one(store)
        for _ in range(50):
            harness.clock.advance(LEASE_MS - 1)
            join(store)
            upkeep(store)
        assert (row_of(store, "a").state, row_of(store, "a").fence) == (State.RUNNING, lease.fence)

    def test_beyond_max_interruptions_each_one_costs_an_attempt(self, harness: Harness) -> None:
        """Choice: the history has one error per attempt used, so it has one for such an interruption too."""
        store, rules = harness.engine, Rules(max_interruptions=2)
        add(store, "a")
        attempts = []
        for _ in range(4):
            expire(harness, rules=rules)
            attempts.append(row_of(store, "a").attempt)
        assert attempts == [0, 0, 1, 2]
        row = row_of(store, "a")
        assert (row.interruptions, [e.attempt for e in history(row)]) == (4, [1, 2])
        join(store)
        assert take_one(store).attempt == 3

    def test_a_job_out_of_attempts_by_interruptions_is_dead(self, harness: Harness) -> None:
        store, rules = harness.engine, Rules(max_interruptions=0)
        steps = expire(harness, "a", rules=rules, max_attempts=2)
        assert [i for step in steps for i in step.released] == ["a"]
        steps = expire(harness, rules=rules)
        assert [i for step in steps for i in step.died] == ["a"]
        assert [i for step in steps for i in step.released] == []
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.finished_at) == (State.DEAD, 2, harness.clock.wall_ms())
        counts = store.counts()
        assert (counts["dead"], counts["total_dead"]) == (1, 1)

    def test_done_records_are_pruned_by_age(self, harness: Harness) -> None:
        """Choice: the suite leaves ``keep_done`` and ``dead_keep`` at their defaults, or uses ``Outcome.keep_ms``.

        So an engine may fix the end of a record when the job ends, or work it out when it prunes.
        """
        store, keep_ms = harness.engine, Rules().keep_done_ms
        join(store, lease_ms=2 * keep_ms)
        finish(store, "old")
        harness.clock.advance(keep_ms - 1_000)
        finish(store, "young")
        assert [step.pruned for step in upkeep(store)] == [0]
        harness.clock.advance(2_000)
        assert sum(step.pruned for step in upkeep(store)) == 1
        assert [state_of(store, i) for i in ("old", "young")] == [None, State.DONE]

    def test_cancelled_records_are_pruned_like_done_ones(self, harness: Harness) -> None:
        """Choice: ``keep_done`` is the setting of every finished state but dead."""
        store = harness.engine
        join(store)
        finish(store, "settled", kind=Kind.CANCELLED)
        add(store, "by hand")
        store.transition(Action.CANCEL, ["by hand"])
        harness.clock.advance(Rules().keep_done_ms + 1_000)
        assert sum(step.pruned for step in upkeep(store)) == 2
        assert [store.job("settled"), store.job("by hand")] == [None, None]

    def test_done_records_are_bounded_per_queue_and_the_newest_stay(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        for n in range(5):
            harness.clock.advance(10)
            finish(store, f"a{n}", queue="qa")
        finish(store, "b0", "b1", queue="qb")
        steps = upkeep(store, Rules(keep_done_max=3))
        assert sum(step.pruned for step in steps) == 2
        kept = [i for i in ("a0", "a1", "a2", "a3", "a4", "b0", "b1") if store.job(i)]
        assert kept == ["a2", "a3", "a4", "b0", "b1"]

    def test_without_a_bound_no_done_record_is_pruned_by_count(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "a", "b", "c")
        upkeep(store, Rules(keep_done_max=None))
        assert store.counts()["done"] == 3

    def test_dead_jobs_are_trimmed_by_age_and_named(self, harness: Harness) -> None:
        store, keep_ms, rules = harness.engine, Rules().dead_keep_ms, Rules(keep_done_max=0)
        assert keep_ms is not None
        join(store, lease_ms=2 * keep_ms)
        finish(store, "old", kind=Kind.DEAD)
        harness.clock.advance(keep_ms - 1_000)
        finish(store, "young", kind=Kind.DEAD)
        assert [step.trimmed for step in upkeep(store, rules)] == [()]
        harness.clock.advance(2_000)
        assert [i for step in upkeep(store, rules) for i in step.trimmed] == ["old"]
        assert [state_of(store, i) for i in ("old", "young")] == [None, State.DEAD]
        assert store.counts()["total_trimmed"] == 1

    def test_without_dead_max_no_dead_job_is_trimmed_by_count(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, *[f"d{n}" for n in range(5)], kind=Kind.DEAD)
        upkeep(store, Rules(dead_max=None, keep_done_max=0))
        assert store.counts()["dead"] == 5

    def test_dead_jobs_are_trimmed_by_count_oldest_first(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        for n in range(5):
            harness.clock.advance(10)
            finish(store, f"d{n}", kind=Kind.DEAD)
        steps = upkeep(store, Rules(dead_max=2))
        assert [i for step in steps for i in step.trimmed] == ["d0", "d1", "d2"]
        assert [i for i in ("d0", "d1", "d2", "d3", "d4") if store.job(i)] == ["d3", "d4"]
        assert store.counts()["total_trimmed"] == 3

    def test_waiting_and_running_jobs_are_never_pruned(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=10**12)
        place(store, [job("run"), job("wait"), job("later", delay_ms=10**12)])
        take(store, limit=1)
        harness.clock.advance(10**11)
        upkeep(store, Rules(keep_done_ms=0, keep_done_max=0, dead_keep_ms=0, dead_max=0, id_keep_ms=0))
        states = [state_of(store, i) for i in ("run", "wait", "later")]
        assert states == [State.RUNNING, State.READY, State.SCHEDULED]

    def test_a_step_promotes_no_more_than_its_budget_and_asks_for_more(self, harness: Harness) -> None:
        store = harness.engine
        place(store, [job(f"j{n}", delay_ms=1_000) for n in range(50)])
        harness.clock.advance(1_000)
        steps = upkeep(store, budget=10)
        assert max(step.promoted for step in steps) <= 10
        assert [steps[0].more, steps[-1].more] == [True, False]
        assert sum(step.promoted for step in steps) == 50

    def test_a_step_prunes_no_more_than_its_budget_and_asks_for_more(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, *[f"j{n}" for n in range(50)])
        store.settle([ended(lease, keep_ms=1) for lease in take(store)])
        harness.clock.advance(1_000)
        steps = upkeep(store, budget=10)
        assert max(step.pruned for step in steps) <= 10
        assert [steps[0].more, steps[-1].more] == [True, False]
        assert sum(step.pruned for step in steps) == 50
        assert store.counts()["done"] == 0

    def test_a_step_trims_no_more_than_its_budget_and_asks_for_more(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, *[f"j{n}" for n in range(50)])
        store.settle([ended(lease, Kind.DEAD) for lease in take(store)])
        steps = upkeep(store, Rules(dead_max=5), budget=10)
        assert max(len(step.trimmed) for step in steps) <= 10
        assert sorted(Counter(i for step in steps for i in step.trimmed).values()) == [1] * 45
        assert store.counts()["dead"] == 5

    def test_a_small_budget_recovers_every_job_once(self, harness: Harness) -> None:
        store = harness.engine
        add(store, *[f"j{n}" for n in range(50)])
        join(store)
        join(store, "w2")
        take(store, limit=25)
        take(store, "w2", limit=25)
        harness.clock.advance(LEASE_MS + 1)
        steps = upkeep(store, budget=10)
        assert Counter(i for step in steps for i in step.released) == {f"j{n}": 1 for n in range(50)}
        assert sorted(w for step in steps for w in step.expired_workers) == ["w1", "w2"]
        assert store.counts()["total_recovered"] == 50

    def test_four_at_once_count_nothing_twice(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        join(store, lease_ms=10 * LEASE_MS)
        add(store, *[f"done{n}" for n in range(30)])
        store.settle([ended(lease, keep_ms=1) for lease in take(store)])
        add(store, *[f"dead{n}" for n in range(30)])
        store.settle([ended(lease, Kind.DEAD, keep_ms=1) for lease in take(store)])
        join(store, "w2")
        add(store, *[f"run{n}" for n in range(30)])
        take(store, "w2")
        place(store, [job(f"due{n}", delay_ms=1_000) for n in range(30)])
        harness.clock.advance(LEASE_MS + 1)
        answers = together(*[lambda s=s: upkeep(s, budget=7) for s in [store, other] * 2])
        steps = [step for answer in answers for step in answer]
        assert sum(step.promoted for step in steps) == 30
        assert sum(step.pruned for step in steps) == 30
        assert Counter(i for step in steps for i in step.trimmed) == {f"dead{n}": 1 for n in range(30)}
        assert Counter(i for step in steps for i in step.released) == {f"run{n}": 1 for n in range(30)}
        assert Counter(w for step in steps for w in step.expired_workers) == {"w2": 1}
        assert {row_of(store, f"run{n}").interruptions for n in range(30)} == {1}
        counts = store.counts()
        assert (counts["total_recovered"], counts["total_trimmed"], counts["ready"]) == (30, 30, 60)

    def test_upkeep_tells_when_the_next_lone_job_is_due(self, harness: Harness) -> None:
        store, rules = harness.engine, Rules(crash_delay_ms=5_000)
        add(store, "bad")
        for n in range(2):
            join(store, f"w{n}")
            store.bury(f"w{n}", [take_one(store, f"w{n}").fence], error(), rules)
        assert store.maintain(rules, 100).alone_in_ms == 5_000
        harness.clock.advance(3_000)
        assert store.maintain(rules, 100).alone_in_ms == 2_000
        harness.clock.advance(2_000)
        assert store.maintain(rules, 100).alone_in_ms == 0

    def test_upkeep_tells_nothing_of_lone_jobs_when_there_are_none(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "a")
        join(store)
        store.bury("w1", [take_one(store).fence], error(), Rules())
        assert store.maintain(Rules(), 100).alone_in_ms is None

    def test_a_scheduled_retry_is_promoted_with_its_attempts(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", queue="qa")
        (lease,) = take(store, queues=[QueueShare("qa", 1)])
        store.settle([ended(lease, Kind.RETRY, delay_ms=1_000)])
        harness.clock.advance(1_000)
        assert sum(step.promoted for step in upkeep(store)) == 1
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.queue) == (State.READY, 1, "qa")
