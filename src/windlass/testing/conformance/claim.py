"""How jobs are leased: order, shares, pauses, expiry, the lone lane, fences, and never one job twice."""

from __future__ import annotations

from collections import Counter

from windlass.core.model import State
from windlass.core.rows import Action
from windlass.core.work import Kind, Lease, QueueShare, Rules, Want
from windlass.engines.base import Store
from windlass.testing.conformance.harness import (
    LEASE_MS,
    Harness,
    add,
    ended,
    error,
    job,
    join,
    pause,
    place,
    resume,
    row_of,
    state_of,
    take,
    take_one,
    together,
    upkeep,
)

FENCE_END = 2**53


def crash(store: Store, job_id: str, times: int) -> None:
    """Let a job kill its process so often, under a worker of its own, with no delay in between."""
    for n in range(times):
        worker = f"victim-{job_id}-{n}"
        join(store, worker)
        # Claim without limit of lane: the first two runs are ordinary, the later ones alone.
        leases = [x for x in take(store, worker) + take(store, worker, alone=True) if x.id == job_id]
        store.bury(worker, [x.fence for x in leases], error("WorkerCrashed"), Rules(max_crashes=99, crash_delay_ms=0))


class ClaimSuite:
    """``Engine.claim``."""

    def test_a_lease_carries_what_was_enqueued(self, harness: Harness) -> None:
        store, now = harness.engine, harness.clock.wall_ms()
        join(store)
        place(store, [job("a", name="n", queue="q", payload="[1]", priority=3, max_attempts=4, tags=("x", "y"))])
        place(store, [job("b", meta='{"timeout":1}')])
        by_id = {lease.id: lease for lease in take(store)}
        a = by_id["a"]
        assert (a.name, a.queue, a.payload, a.priority) == ("n", "q", b"[1]", 3)
        assert (a.attempt, a.max_attempts, a.enqueued_at, a.run_at) == (1, 4, now, now)
        assert (a.crashes, a.interruptions, a.snoozes, a.tags, a.meta) == (0, 0, 0, ("x", "y"), None)
        assert by_id["b"].meta == b'{"timeout":1}'

    def test_a_claimed_job_is_running_under_its_worker(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        harness.clock.advance(10)
        lease = take_one(store)
        row = row_of(store, "a")
        assert (row.state, row.worker, row.fence, row.attempt) == (State.RUNNING, "w1", lease.fence, 1)
        assert row.started_at == harness.clock.wall_ms()

    def test_lower_priority_numbers_go_first_then_arrival(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("c", priority=5), job("a1"), job("b", priority=1), job("a2"), job("z", priority=-3)])
        assert [lease.id for lease in take(store)] == ["z", "a1", "a2", "b", "c"]

    def test_priority_counts_across_claims_of_one(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a", priority=1), job("b", priority=1)])
        place(store, [job("c", priority=0)])
        assert [take(store, limit=1)[0].id for _ in range(3)] == ["c", "a", "b"]

    def test_an_aging_job_overtakes_one_of_higher_priority_that_came_long_after_it(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("low", priority=5, aging_ms=1_000), job("mid", priority=2, aging_ms=1_000)])
        harness.clock.advance(2_500)
        place(store, [job("new", aging_ms=1_000), job("first", priority=-1, aging_ms=1_000)])
        harness.clock.advance(2_501)
        place(store, [job("late", aging_ms=1_000)])
        assert [lease.id for lease in take(store)] == ["first", "mid", "new", "low", "late"]

    def test_an_aging_job_keeps_its_priority_and_its_rank_through_a_retry(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("low", priority=5, aging_ms=1_000)])
        lease = take_one(store)
        assert lease.priority == 5
        store.settle([ended(lease, Kind.RETRY)])
        harness.clock.advance(4_000)
        place(store, [job("soon", aging_ms=1_000)])
        harness.clock.advance(2_000)
        place(store, [job("late", aging_ms=1_000)])
        assert [lease.id for lease in take(store)] == ["soon", "low", "late"]
        assert row_of(store, "low").priority == 5

    def test_a_job_at_the_front_goes_before_aging_ones(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("old", priority=-9, aging_ms=60_000)])
        place(store, [job("front", at_front=True, aging_ms=60_000)])
        assert [lease.id for lease in take(store)] == ["front", "old"]

    def test_a_claim_gives_at_most_its_limit(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b", "c")
        assert [lease.id for lease in take(store, limit=2)] == ["a", "b"]
        assert [lease.id for lease in take(store, limit=2)] == ["c"]

    def test_a_limit_of_nothing_gives_nothing(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        assert take(store, limit=0) == []
        assert state_of(store, "a") is State.READY

    def test_only_the_queues_asked_for_are_claimed(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", queue="qa")
        add(store, "b", queue="qb")
        assert [lease.id for lease in take(store, queues=[QueueShare("qb", 10), QueueShare("none", 10)])] == ["b"]
        assert take(store, queues=[]) == []

    def test_shares_first_then_the_rest_in_the_order_given(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, *[f"a{n}" for n in range(9)], queue="qa")
        add(store, *[f"b{n}" for n in range(9)], queue="qb")
        shares = [QueueShare("qb", 2), QueueShare("qa", 1)]
        first = take(store, queues=shares, limit=3)
        assert sorted(lease.id for lease in first) == ["a0", "b0", "b1"]
        second = take(store, queues=shares, limit=6)
        assert sorted(lease.id for lease in second) == ["a1", "b2", "b3", "b4", "b5", "b6"]
        assert [x.id for x in second if x.queue == "qb"] == ["b2", "b3", "b4", "b5", "b6"]

    def test_the_second_pass_gives_a_share_that_is_not_used_to_the_others(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a0", queue="qa")
        add(store, *[f"b{n}" for n in range(9)], queue="qb")
        leases = take(store, queues=[QueueShare("qa", 4), QueueShare("qb", 1)], limit=5)
        assert sorted(lease.id for lease in leases) == ["a0", "b0", "b1", "b2", "b3"]

    def test_the_order_of_shares_decides_when_the_limit_is_short(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", queue="qa")
        add(store, "b", queue="qb")
        assert [x.id for x in take(store, queues=[QueueShare("qb", 1), QueueShare("qa", 1)], limit=1)] == ["b"]

    def test_a_queue_without_a_share_is_served_by_the_second_pass_only(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, *[f"a{n}" for n in range(3)], queue="qa")
        add(store, *[f"b{n}" for n in range(3)], queue="qb")
        shares = [QueueShare("qa", 0), QueueShare("qb", 2)]
        assert [lease.id for lease in take(store, queues=shares, limit=2)] == ["b0", "b1"]
        assert sorted(lease.id for lease in take(store, queues=shares, limit=3)) == ["a0", "a1", "b2"]

    def test_without_queues_every_queue_gets_an_equal_share(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        for queue in ("qa", "qb", "qc"):
            add(store, *[f"{queue}{n}" for n in range(9)], queue=queue)
        assert Counter(x.queue for x in take(store, limit=6)) == {"qa": 2, "qb": 2, "qc": 2}

    def test_without_queues_what_one_cannot_fill_goes_to_the_others(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a0", queue="qa")
        add(store, *[f"b{n}" for n in range(9)], queue="qb")
        assert Counter(x.queue for x in take(store, limit=6)) == {"qa": 1, "qb": 5}

    def test_without_queues_claims_of_one_starve_no_queue(self, harness: Harness) -> None:
        """Choice: equal shares hold over time, so a worker with one free slot reaches every queue of the store."""
        store = harness.engine
        join(store)
        for queue in ("qa", "qb", "qc"):
            add(store, *[f"{queue}{n}" for n in range(40)], queue=queue)
        assert {take(store, limit=1)[0].queue for _ in range(36)} == {"qa", "qb", "qc"}

    def test_a_paused_queue_gives_nothing_until_it_is_resumed(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", queue="qa")
        add(store, "b", queue="qb")
        pause(store, "qa", "deploy", None)
        assert [lease.id for lease in take(store)] == ["b"]
        assert take(store, queues=[QueueShare("qa", 5)]) == []
        resume(store, "qa")
        assert [lease.id for lease in take(store)] == ["a"]

    def test_a_pause_ends_at_its_time(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", queue="qa")
        pause(store, "qa", None, harness.clock.wall_ms() + 10_000)
        harness.clock.advance(9_000)
        assert take(store) == []
        harness.clock.advance(1_001)
        assert [lease.id for lease in take(store)] == ["a"]

    def test_a_queue_can_be_paused_before_its_first_job(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        pause(store, "later", None, None)
        add(store, "a", queue="later")
        assert take(store) == []
        assert take(store, queues=[QueueShare("later", 1)]) == []

    def test_a_due_job_of_a_paused_queue_waits_too(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a", queue="qa", delay_ms=1_000)])
        pause(store, "qa", None, None)
        harness.clock.advance(2_000)
        assert take(store) == []

    def test_a_job_past_its_expiry_ends_cancelled_and_its_neighbour_runs(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("late", expires_ms=1_000), job("ok", expires_ms=9_000), job("never")])
        harness.clock.advance(1_500)
        assert [lease.id for lease in take(store)] == ["ok", "never"]
        row = row_of(store, "late")
        assert (row.state, row.reason, row.finished_at) == (State.CANCELLED, "expired", harness.clock.wall_ms())
        assert row.attempt == 0
        assert store.counts()["total_cancelled"] == 1

    def test_a_scheduled_job_expires_from_its_due_time(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a", delay_ms=5_000, expires_ms=1_000), job("b", delay_ms=5_000, expires_ms=90_000)])
        harness.clock.advance(5_500)
        join(store)
        assert [lease.id for lease in take(store, limit=1)] == ["a"]
        harness.clock.advance(1_000)
        assert [lease.id for lease in take(store)] == ["b"]

    def test_a_job_that_crashed_once_runs_among_the_others(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "a")
        crash(store, "a", 1)
        join(store)
        (lease,) = take(store)
        assert (lease.id, lease.crashes, lease.attempt) == ("a", 1, 1)

    def test_a_job_that_crashed_twice_is_given_only_alone(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "bad")
        crash(store, "bad", 2)
        join(store)
        add(store, "good")
        assert [lease.id for lease in take(store)] == ["good"]
        (lease,) = take(store, limit=10, alone=True)
        assert (lease.id, lease.crashes) == ("bad", 2)

    def test_an_alone_claim_gives_one_job_and_no_ordinary_one(self, harness: Harness) -> None:
        store = harness.engine
        for bad in ("bad1", "bad2"):
            add(store, bad)
            crash(store, bad, 2)
        join(store)
        add(store, "good")
        assert [len(take(store, limit=10, alone=True)) for _ in range(3)] == [1, 1, 0]
        assert [lease.id for lease in take(store)] == ["good"]

    def test_an_alone_claim_respects_pauses_and_queues(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "bad", queue="qa")
        crash(store, "bad", 2)
        join(store)
        assert take(store, queues=[QueueShare("qb", 1)], alone=True) == []
        pause(store, "qa", None, None)
        assert take(store, alone=True) == []
        resume(store, "qa")
        assert [lease.id for lease in take(store, queues=[QueueShare("qa", 1)], alone=True)] == ["bad"]

    def test_a_worker_that_never_registered_is_expelled(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "a")
        claimed = store.claim(Want(worker="ghost", limit=10))
        assert (claimed.leases, claimed.expelled) == ([], True)
        assert state_of(store, "a") is State.READY

    def test_a_worker_whose_lease_ran_out_is_expelled_before_and_after_it_is_reaped(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        harness.clock.advance(LEASE_MS + 1)
        before = store.claim(Want(worker="w1", limit=10))
        upkeep(store)
        after = store.claim(Want(worker="w1", limit=10))
        assert (before.leases, before.expelled) == ([], True)
        assert (after.leases, after.expelled) == ([], True)

    def test_a_live_worker_is_not_expelled(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        assert not store.claim(Want(worker="w1", limit=1)).expelled

    def test_a_lease_follows_the_boot_clock_and_no_step_of_the_wall_clock(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        lease = take_one(store)
        harness.clock.step_wall(10 * LEASE_MS)
        assert [step.released for step in upkeep(store)] == [()]
        assert not store.claim(Want(worker="w1", limit=1)).expelled
        assert row_of(store, "a").fence == lease.fence

    def test_due_in_says_when_the_next_scheduled_job_is_due(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        assert store.claim(Want(worker="w1", limit=1)).due_in_ms is None
        place(store, [job("a", delay_ms=9_000), job("b", delay_ms=5_000)])
        assert store.claim(Want(worker="w1", limit=1)).due_in_ms == 5_000
        harness.clock.advance(2_000)
        assert store.claim(Want(worker="w1", limit=1)).due_in_ms == 3_000

    def test_a_claim_promotes_due_jobs_and_tells_of_the_next_one(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a", delay_ms=1_000), job("b", delay_ms=4_000)])
        harness.clock.advance(1_500)
        claimed = store.claim(Want(worker="w1", limit=5))
        assert [lease.id for lease in claimed.leases] == ["a"]
        assert claimed.due_in_ms == 2_500

    def test_every_due_job_of_a_burst_is_claimed_in_the_end(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job(f"j{n}", delay_ms=1_000) for n in range(700)])
        harness.clock.advance(1_000)
        got: list[str] = []
        for _ in range(100):
            got += [lease.id for lease in take(store, limit=100)]
        assert sorted(got) == sorted(f"j{n}" for n in range(700))

    def test_a_batch_of_leases_has_distinct_fences(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, *[f"j{n}" for n in range(200)])
        fences = [lease.fence for lease in take(store, limit=200)]
        assert len(set(fences)) == 200
        assert all(0 < fence < FENCE_END for fence in fences)

    def test_two_claims_of_one_worker_share_no_fence(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, *[f"j{n}" for n in range(30)])
        fences = [lease.fence for _ in range(10) for lease in take(store, limit=3)]
        assert len(set(fences)) == 30

    def test_a_batch_of_old_and_new_jobs_has_distinct_fences(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b")
        store.settle([ended(lease, Kind.RELEASE) for lease in take(store)])
        add(store, "c", "d")
        assert len({lease.fence for lease in take(store)}) == 4

    def test_the_fence_of_a_job_grows_with_every_claim_also_when_the_clock_steps_back(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        fences = []
        for step in (0, 0, 1_000, -3_600_000, 0, -86_400_000, 5, 90_000_000):
            harness.clock.step_wall(step)
            lease = take_one(store)
            fences.append(lease.fence)
            store.settle([ended(lease, Kind.RELEASE)])
        assert fences == sorted(set(fences))
        assert fences[-1] < FENCE_END

    def test_a_fence_is_above_the_clock_so_a_store_that_lost_its_tail_repeats_none(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b")
        for _ in range(2):
            harness.clock.advance(1_000)
            (lease,) = take(store, limit=1)
            assert lease.fence >= harness.clock.wall_ms() * 1_000

    def test_a_record_made_anew_under_an_old_id_gets_a_higher_fence(self, harness: Harness) -> None:
        """Choice: the fence outlives the record, or a repeated settle would end the new job."""
        store = harness.engine
        join(store)
        add(store, "a")
        old = take_one(store)
        store.settle([ended(old)])
        store.transition(Action.DELETE, ["a"])
        add(store, "a")
        assert take_one(store).fence > old.fence

    def test_two_engines_and_eight_threads_never_claim_a_job_twice(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        add(store, *[f"j{n}" for n in range(300)])
        for n in range(8):
            join(store, f"w{n}")

        def drain(n: int) -> list[Lease]:
            got: list[Lease] = []
            engine = (store, other)[n % 2]
            while leases := take(engine, f"w{n}", limit=7):
                got += leases
            return got

        leases = [x for got in together(*[lambda n=n: drain(n) for n in range(8)]) for x in got]
        assert sorted(x.id for x in leases) == sorted(f"j{n}" for n in range(300))
        assert store.counts()["running"] == 300

    def test_a_claim_tells_of_cancels_asked_for(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b")
        leases = {lease.id: lease for lease in take(store)}
        store.transition(Action.CANCEL, ["a"])
        claimed = store.claim(Want(worker="w1", limit=1))
        assert [(ref.id, ref.fence) for ref in claimed.cancels] == [("a", leases["a"].fence)]

    def test_the_cancels_of_another_worker_are_not_told(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        join(store, "w2")
        add(store, "a")
        take(store)
        store.transition(Action.CANCEL, ["a"])
        assert store.claim(Want(worker="w2", limit=1)).cancels == ()
