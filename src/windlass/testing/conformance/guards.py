"""Guards at the claim: who may run, who waits where, what is held and what releases it."""

from __future__ import annotations

import pytest
from msgspec import structs

from windlass.core.circuit import CircuitPolicy, Tally
from windlass.core.clock import ManualClock
from windlass.core.model import Guard, GuardKind, NewJob, State
from windlass.core.rows import Action
from windlass.core.work import Kind, Lease, LeaseRef, QueueShare, RateBound, Rules, Want
from windlass.engines.base import Store
from windlass.testing.conformance.circuits import probe, switch, tally
from windlass.testing.conformance.harness import (
    LEASE_MS,
    Harness,
    clear,
    ended,
    error,
    job,
    join,
    pause,
    place,
    resume,
    row_of,
    set_limit,
    set_rate,
    state_of,
    take,
    together,
    upkeep,
)

DAY = 86_400_000


def slots(n: int, key: str = "k") -> Guard:
    return Guard(GuardKind.CONCURRENCY, key, n)


def rate(n: int, per_ms: int, key: str = "api", burst: int | None = None) -> Guard:
    return Guard(GuardKind.RATE, key, n, per_ms, burst)


def once(key: str = "pay", keep_ms: int = DAY) -> Guard:
    return Guard(GuardKind.ONCE, key, keep_ms=keep_ms)


def circuit(name: str = "stripe") -> Guard:
    return Guard(GuardKind.CIRCUIT, name)


def put(store: Store, *ids: str, guards: tuple[Guard, ...], queue: str = "default", priority: int = 0) -> None:
    """Enqueue jobs with guards, one call each, so that their arrival is their order."""
    for job_id in ids:
        place(store, [guarded(job_id, guards, queue=queue, priority=priority)])


def guarded(job_id: str, guards: tuple[Guard, ...], queue: str = "default", priority: int = 0) -> NewJob:
    """A job with guards."""
    return NewJob(job_id, "shop.jobs.add", queue, "[]", priority, guards=guards)


def got(leases: list[Lease]) -> list[str]:
    return [lease.id for lease in leases]


def end(store: Store, leases: list[Lease], kind: Kind = Kind.DONE, result: str | None = "1") -> None:
    store.settle([ended(lease, kind, result=result if kind is Kind.DONE else None) for lease in leases])


class GuardSuite:
    """Concurrency and circuits as ``Engine.claim`` judges them, and what holds for guards of every kind."""

    # -- Concurrency --

    def test_no_more_run_at_once_than_there_are_slots_also_within_one_claim(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", "c", "d", guards=(slots(2),))
        first = take(store)
        assert got(first) == ["a", "b"]
        assert take(store) == []
        end(store, first[:1])
        assert got(take(store)) == ["c"]

    def test_a_job_that_waits_for_a_slot_is_blocked_and_says_where(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", guards=(slots(1, "tenant:7"),))
        take(store)
        row = row_of(store, "b")
        assert (row.state, row.blocked_by) == (State.BLOCKED, "concurrency:tenant:7")
        assert row_of(store, "a").blocked_by is None
        assert store.counts()["blocked"] == 1

    def test_a_limited_job_does_not_hold_up_those_behind_it(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, *[f"l{n}" for n in range(200)], guards=(slots(1),))
        place(store, [job("free")])
        leases = take(store, limit=2)
        assert got(leases) == ["l0", "free"]

    def test_freed_waiters_come_in_their_place_before_later_arrivals(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", "c", guards=(slots(1),))
        put(store, "urgent", guards=(slots(1),), priority=-5)
        (running,) = take(store)
        assert running.id == "urgent"
        order: list[str] = []
        for _ in range(3):
            end(store, [running])
            put(store, f"late-{len(order)}", guards=(slots(1),), priority=3)
            (running,) = take(store, limit=1)
            order.append(running.id)
        assert order == ["a", "b", "c"]

    def test_a_waiter_that_might_go_on_and_finds_no_room_waits_on_and_is_next(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "holder", "waiter", guards=(slots(1),))
        (lease,) = take(store)
        place(store, [job("urgent", priority=-1)])
        end(store, [lease])
        assert got(take(store, limit=1)) == ["urgent"]
        row = row_of(store, "waiter")
        assert (row.state, row.blocked_by) == (State.BLOCKED, "concurrency:k")
        assert [(one.gate, one.jobs) for one in store.blocked()] == [("concurrency:k", 1)]
        assert got(take(store, limit=1)) == ["waiter"]

    def test_freed_waiters_that_age_come_in_their_rank(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "holder", guards=(slots(1),))
        held = take(store)
        aging = [("low", 5), ("mid", 2), ("new", 0)]
        for job_id, priority in aging:
            new = guarded(job_id, (slots(1),), priority=priority)
            place(store, [structs.replace(new, aging_ms=1_000)])
            harness.clock.advance(2_500)
        assert take(store) == []
        came = []
        for _ in aging:
            end(store, held)
            held = take(store)
            came += [lease.id for lease in held]
        assert came == ["mid", "low", "new"]

    def test_keys_are_counted_apart_and_a_job_may_have_several(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a1", "a2", guards=(slots(1, "a"), slots(3, "all")))
        put(store, "b1", "b2", guards=(slots(1, "b"), slots(3, "all")))
        put(store, "c1", "d1", guards=(slots(2, "c"), slots(3, "all")))
        leases = take(store)
        assert got(leases) == ["a1", "b1", "c1"]
        assert row_of(store, "d1").blocked_by == "concurrency:all"
        end(store, leases[:1])
        assert got(take(store)) == ["a2"] or state_of(store, "d1") is State.RUNNING

    @pytest.mark.parametrize("kind", [Kind.DONE, Kind.RETRY, Kind.DEAD, Kind.CANCELLED, Kind.SNOOZE, Kind.CRASH])
    def test_every_end_of_a_run_frees_its_slot(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", guards=(slots(1),))
        (lease,) = take(store)
        store.settle([ended(lease, kind, delay_ms=60_000)])
        assert got(take(store)) == ["b"]

    def test_a_released_job_gets_its_slot_back_in_its_place(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", guards=(slots(1),))
        end(store, take(store), Kind.RELEASE)
        assert got(take(store)) == ["a"]

    def test_a_dead_worker_frees_its_slots(self, harness: Harness) -> None:
        store = harness.engine
        for worker in ("w1", "w2", "w3"):
            join(store, worker)
        put(store, *"abcdef", guards=(slots(1),))
        (lease,) = take(store, "w1")
        store.bury("w1", [lease.fence], error("WorkerCrashed"), Rules(max_crashes=1))
        assert state_of(store, "a") is State.DEAD
        assert got(take(store, "w2")) == ["b"]
        store.depart("w2")
        assert got(take(store, "w3")) == ["b"]
        harness.clock.advance(LEASE_MS + 1)
        join(store, "w4")
        upkeep(store)
        assert got(take(store, "w4")) == ["b"]

    def test_a_slot_is_freed_by_a_cancel_that_a_running_job_obeys(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", guards=(slots(1),))
        (lease,) = take(store)
        store.transition(Action.CANCEL, ["a"])
        store.settle([ended(lease, Kind.CANCELLED)])
        assert got(take(store)) == ["b"]

    def test_a_stale_settle_frees_nothing(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", guards=(slots(1),))
        (lease,) = take(store)
        store.settle([ended(lease, Kind.RELEASE)])
        take(store)
        store.settle([ended(lease)])
        assert take(store) == []

    def test_waiters_can_be_cancelled_deleted_cleared_and_expire(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", "b", "c", "e", guards=(slots(1),))
        place(store, [NewJob("d", "n", "default", "[]", expires_ms=1_000, guards=(slots(1),))])
        (lease,) = take(store)
        assert [m.applied for m in store.transition(Action.CANCEL, ["b"])] == [True]
        assert [m.applied for m in store.transition(Action.DELETE, ["c"])] == [True]
        harness.clock.advance(2_000)
        upkeep(store)
        assert (state_of(store, "d"), row_of(store, "d").reason) == (State.CANCELLED, "expired")
        assert clear(store, "default", 10) == 1
        end(store, [lease])
        assert take(store) == []

    def test_a_waiter_of_a_paused_queue_does_not_keep_a_slot_from_others(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", guards=(slots(1),), queue="qa")
        (lease,) = take(store)
        put(store, "p", guards=(slots(1),), queue="qp", priority=-1)
        put(store, "b", guards=(slots(1),), queue="qa")
        assert take(store) == []
        pause(store, "qp", None, None)
        end(store, [lease])
        (lease,) = take(store)
        assert lease.id == "b"
        resume(store, "qp")
        end(store, [lease])
        assert got(take(store)) == ["p"]

    @pytest.mark.parametrize("bound", ["limit", "rate"])
    def test_a_waiter_of_a_full_queue_does_not_keep_a_slot_from_others(self, harness: Harness, bound: str) -> None:
        store = harness.engine
        join(store)
        put(store, "a", guards=(slots(1),), queue="qb")
        place(store, [job("filler", queue="qa")])
        running = {lease.id: lease for lease in take(store)}
        put(store, "b", guards=(slots(1),), queue="qa", priority=-1)
        put(store, "p", guards=(slots(1),), queue="qb")
        assert take(store) == []
        if bound == "limit":
            set_limit(store, "qa", 1)
        else:
            set_rate(store, "qa", RateBound(1, 60_000))
            place(store, [job("spender", queue="qa")])
            assert got(take(store)) == ["spender"]
        end(store, [running["a"]])
        (lease,) = take(store)
        assert lease.id == "p"
        end(store, [lease])
        claimed = store.claim(Want("w1", 5))
        assert claimed.leases == []
        if bound == "limit":
            end(store, [running["filler"]])
        else:
            assert claimed.due_in_ms is not None
            harness.clock.advance(claimed.due_in_ms)
            join(store)
        assert got(take(store)) == ["b"]

    def test_a_waiter_is_only_given_to_a_worker_that_serves_its_queue(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, "a", guards=(slots(1),), queue="qa")
        (lease,) = take(store)
        put(store, "b", guards=(slots(1),), queue="qb")
        assert take(store) == []
        end(store, [lease])
        assert take(store, queues=[QueueShare("qa", 5)]) == []
        assert got(take(store, queues=[QueueShare("qb", 5)])) == ["b"]

    def test_many_workers_never_hold_more_slots_than_there_are_and_none_leaks(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        put(store, *[f"j{n}" for n in range(60)], guards=(slots(3),))
        for n in range(6):
            join(store, f"w{n}")
        running: list[str] = []
        most: list[int] = []

        def work(n: int) -> int:
            engine, done = (store, other)[n % 2], 0
            for _ in range(200):
                leases = take(engine, f"w{n}", limit=2)
                running.extend(x.id for x in leases)
                most.append(len(running))
                for x in leases:
                    running.remove(x.id)
                end(engine, leases)
                done += len(leases)
            return done

        assert sum(together(*[lambda n=n: work(n) for n in range(6)])) == 60
        assert max(most) <= 3
        assert [row.used for row in store.limits()] in ([], [0])

    def test_limits_say_what_is_used_and_who_waits(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, *"abcde", guards=(slots(2, "t"),))
        take(store)
        (row,) = store.limits()
        assert (row.kind, row.key, row.used, row.limit, row.waiting) == (GuardKind.CONCURRENCY, "t", 2, 2, 3)

    # -- Circuits --

    def test_jobs_of_an_open_circuit_wait_and_one_probe_goes_through(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, *"abcd", guards=(circuit(),))
        tally(store, "stripe", CircuitPolicy(failures=2, open_for_ms=5_000), Tally(failed=2, reason="down"))
        place(store, [job("free")])
        assert got(take(store)) == ["free"]
        assert row_of(store, "a").blocked_by == "circuit:stripe"
        harness.clock.advance(5_000)
        leases = take(store)
        assert got(leases) == ["a"]
        assert take(store) == []
        end(store, leases, Kind.RELEASE)
        assert got(take(store)) == ["a"]

    def test_blocked_jobs_are_counted_by_queue_and_gate(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        put(store, *"abc", guards=(circuit(),), queue="pay")
        put(store, "d", guards=(circuit(),), queue="mail")
        put(store, "e", "f", "g", guards=(slots(1),), queue="pay")
        put(store, *[f"t{n}" for n in range(30)], guards=(slots(1, "x:y"),), queue="a.b:c")
        tally(store, "stripe", CircuitPolicy(failures=1, open_for_ms=60_000), Tally(failed=1, reason="down"))
        assert store.blocked() == []
        assert sorted(got(take(store)) + got(take(store))) == ["e", "t0"]
        harness.clock.advance(4_000)
        found = [(row.queue, row.gate, row.jobs, row.due_ms >= 4_000) for row in store.blocked()]
        assert found == [
            ("a.b:c", "concurrency:x:y", 29, True),
            ("mail", "circuit:stripe", 1, True),
            ("pay", "circuit:stripe", 3, True),
            ("pay", "concurrency:k", 2, True),
        ]
        assert store.counts()["blocked"] == sum(row.jobs for row in store.blocked())

    def test_jobs_blocked_at_very_many_gates_are_all_counted(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        gates = [f"tenant:{n:03}" for n in range(600)]
        for way in ("run", "wait"):
            place(store, [guarded(f"{way}-{gate}", (slots(1, gate),)) for gate in gates])
        while take(store, limit=1_000):
            pass
        assert [(row.gate, row.jobs) for row in store.blocked()] == [(f"concurrency:{gate}", 1) for gate in gates]

    def test_jobs_flow_again_when_the_probe_has_closed_the_circuit(self, harness: Harness) -> None:
        store, policy = harness.engine, CircuitPolicy(failures=1, open_for_ms=5_000)
        join(store)
        put(store, *[f"j{n:02}" for n in range(30)], guards=(circuit(),))
        tally(store, "stripe", policy, Tally(failed=1))
        assert take(store) == []
        harness.clock.advance(5_000)
        (first,) = take(store)
        row = probe(store, "stripe", "t", LeaseRef(first.id, first.fence))
        assert (row.admitted, row.state, row.entered) == (True, "half_open", "half_open")
        assert tally(store, "stripe", policy, Tally(ok=1, epoch=row.epoch, probe="t")).state == "closed"
        end(store, [first])
        done: list[str] = []
        steps = []
        for _ in range(20):
            leases = take(store)
            steps.append(len(leases))
            done += got(leases)
            end(store, leases)
            harness.clock.advance(100)
            join(store)
        assert sorted(done) == [f"j{n:02}" for n in range(1, 30)]
        assert steps[0] < 29  # staggered

    def test_a_circuit_opened_by_hand_holds_jobs_until_it_is_closed(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        switch(store, "stripe", None, True)
        put(store, "a", guards=(circuit(),))
        harness.clock.advance(20_000)
        assert take(store) == []
        switch(store, "stripe", None, False)
        assert got(take(store)) == ["a"]

    def test_a_probe_that_one_claim_does_not_take_is_left_for_the_next(self, harness: Harness) -> None:
        store, policy = harness.engine, CircuitPolicy(failures=1, open_for_ms=5_000)
        join(store)
        tally(store, "stripe", policy, Tally(failed=1))
        put(store, "a", guards=(circuit(),))
        assert take(store) == []
        place(store, [job("urgent", priority=-5), job("other", queue="q2")])
        harness.clock.advance(5_000)
        assert got(take(store, queues=[QueueShare("q2", 5)])) == ["other"]  # a worker that does not serve its queue,
        assert got(take(store, limit=1)) == ["urgent"]  # one that is full before it,
        assert store.claim(Want("w1", 5, room=0)).leases == []  # and one that could not start it at once
        assert got(take(store)) == ["a"]

    def test_jobs_that_come_while_a_call_probes_go_on_when_that_call_vanishes(self, harness: Harness) -> None:
        store, policy = harness.engine, CircuitPolicy(failures=1, open_for_ms=5_000)
        join(store, lease_ms=600_000)
        tally(store, "stripe", policy, Tally(failed=1))
        harness.clock.advance(5_000)
        assert probe(store, "stripe", "t").admitted
        put(store, "a", guards=(circuit(),))
        leases: list[Lease] = []
        for _ in range(4):
            claimed = store.claim(Want("w1", 5))
            leases += claimed.leases
            if leases:
                break
            assert claimed.due_in_ms is not None
            harness.clock.advance(claimed.due_in_ms)
        assert got(leases) == ["a"]

    # -- order of guards, lanes --

    def test_a_job_that_is_blocked_takes_nothing_of_its_other_guards(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        switch(store, "stripe", None, True)
        put(store, "a", guards=(once("x"), circuit(), slots(1), rate(1, 60_000)))
        assert take(store) == []
        put(store, "b", guards=(once("x"), slots(1), rate(1, 60_000)))
        assert got(take(store)) == ["b"]

    def test_a_large_backlog_at_closed_guards_does_not_keep_others_from_running(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [guarded(f"l{n}", (slots(1),)) for n in range(2_500)])
        place(store, [job(f"free{n}", priority=1) for n in range(5)])
        found: list[str] = []
        for _ in range(20):
            found += got(take(store, limit=4))
        assert found[0] == "l0"
        assert sorted(found[1:]) == [f"free{n}" for n in range(5)]

    def test_a_job_that_must_run_alone_waits_for_its_guards_too(self, harness: Harness) -> None:
        store = harness.engine
        put(store, "bad", guards=(slots(1),))
        for n in range(2):
            join(store, f"v{n}")
            (lease,) = take(store, f"v{n}")
            store.bury(f"v{n}", [lease.fence], error("WorkerCrashed"), Rules(max_crashes=9, crash_delay_ms=0))
        join(store)
        put(store, "good", guards=(slots(1),))
        (good,) = take(store)
        assert good.id == "good"
        assert take(store, alone=True) == []
        end(store, [good])
        assert got(take(store, alone=True)) == ["bad"]

    def test_the_first_guard_of_a_store_is_seen_by_a_process_that_knew_of_none(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        join(store)
        place(store, [job("plain")])
        end(store, take(store))
        put(other, "a", "b", guards=(slots(1),))
        held = take(store)
        assert [lease.id for lease in held] == ["a"]
        end(other, held)
        assert [lease.id for lease in take(store)] == ["b"]

    def test_guards_ride_with_the_lease(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        guards = (once("k"), circuit(), slots(2), rate(5, 1_000, burst=2))
        put(store, "a", guards=guards)
        (lease,) = take(store)
        assert lease.guards == guards

    def test_a_burst_of_blocked_jobs_survives_a_clock_that_only_tests_move(self, harness: Harness) -> None:
        clock: ManualClock = harness.clock
        store = harness.engine
        join(store)
        put(store, *"abc", guards=(rate(1, 1_000),))
        seen = []
        for _ in range(3):
            seen += got(take(store))
            clock.advance(1_000)
            join(store)
        assert seen == ["a", "b", "c"]
