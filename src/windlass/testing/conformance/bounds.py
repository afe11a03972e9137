"""What a queue is held to: how many of its jobs run at once, how many are claimed in a window, over all workers."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from msgspec import structs

from windlass.core.model import Guard, GuardKind, NewJob, State
from windlass.core.rows import Pause, QueueChange, QueueRow
from windlass.core.work import Claimed, Kind, QueueBound, QueueShare, RateBound, Rules, Want
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
    set_limit,
    set_rate,
    state_of,
    take,
    upkeep,
)
from windlass.testing.conformance.waiting import LONG_S, ended_by

MINUTE = 60_000


def ask(store: Store, limit: int = 100, worker: str = "w1", bounds: tuple[QueueBound, ...] = ()) -> Claimed:
    return store.claim(Want(worker, limit, bounds=bounds))


def ids(claimed: Claimed) -> list[str]:
    return [lease.id for lease in claimed.leases]


def queue_row(store: Store, name: str = "default", bounds: tuple[QueueBound, ...] = ()) -> QueueRow:
    return next(row for row in store.queues(bounds) if row.name == name)


def guarded(job_id: str, guard: Guard) -> NewJob:
    return structs.replace(job(job_id), guards=(guard,))


class BoundSuite:
    """``Inspector.set_queue``, but what a pause alone does, and ``Want.bounds``."""

    # -- limits --

    def test_a_limited_queue_gives_no_more_than_may_run_at_once_and_the_others_stay_ready(
        self, harness: Harness
    ) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b", "c", "d")
        set_limit(store, "default", 2)
        assert ids(ask(store)) == ["a", "b"]
        assert ids(ask(store)) == []
        assert [state_of(store, one) for one in "abcd"] == [State.RUNNING] * 2 + [State.READY] * 2

    def test_the_end_of_one_makes_room_for_one_whatever_the_end(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        for kind in Kind:
            set_limit(store, f"q-{kind}", 1)
            add(store, f"{kind}-1", f"{kind}-2", queue=f"q-{kind}")
        for lease in ask(store).leases:
            kind = Kind(lease.id.removesuffix("-1"))
            told = error() if kind in (Kind.RETRY, Kind.DEAD) else None
            store.settle([ended(lease, kind, delay_ms=MINUTE, error=told)])
        # One of each: the second, or the first again where it was released.
        assert sorted(one.rpartition("-")[0] for one in ids(ask(store))) == sorted(Kind)

    def test_settle_and_claim_in_one_exchange_use_the_room_at_once(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        set_limit(store, "default", 2)
        add(store, *"abcde")
        first = ask(store).leases
        _, claimed = store.exchange([ended(first[0])], Want("w1", 100))
        assert ids(claimed) == ["c"]

    def test_the_limit_counts_over_all_workers(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        join(store)
        join(other, "w2")
        set_limit(store, "default", 3)
        add(store, *"abcde")
        assert ids(ask(store, 2)) == ["a", "b"]
        assert ids(ask(other, worker="w2")) == ["c"]

    def test_a_limit_counts_the_jobs_that_run_already_when_it_is_set(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, *"abcdef")
        first = ask(store, 3).leases
        set_limit(store, "default", 2)
        assert ids(ask(store)) == []
        store.settle([ended(first[0])])
        assert ids(ask(store)) == []
        store.settle([ended(first[1])])
        assert ids(ask(store)) == ["d"]

    def test_a_limit_can_be_raised_and_lifted_while_jobs_wait(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        set_limit(store, "default", 1)
        add(store, *"abcdef")
        assert ids(ask(store)) == ["a"]
        set_limit(store, "default", 3)
        assert ids(ask(store)) == ["b", "c"]
        set_limit(store, "default", None)
        assert ids(ask(store)) == ["d", "e", "f"]

    def test_a_limit_can_be_set_before_the_first_job(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        set_limit(store, "later", 1)
        add(store, "a", "b", queue="later")
        assert ids(ask(store)) == ["a"]

    def test_a_limit_and_a_pause_leave_each_other_alone(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        set_limit(store, "default", 1)
        pause(store, "default", "deploy", None)
        add(store, "a", "b")
        assert ids(ask(store)) == []
        resume(store, "default")
        assert ids(ask(store)) == ["a"]

    def test_all_that_holds_for_a_queue_can_be_set_and_lifted_at_once_and_what_is_not_given_stays(
        self, harness: Harness
    ) -> None:
        store, rate = harness.engine, RateBound(5, MINUTE)

        def holds() -> tuple[object, ...]:
            row = queue_row(store)
            return row.paused, row.paused_reason, row.paused_by, row.limit, row.rate

        store.set_queue("default", QueueChange(Pause("deploy", None, "ada"), 2, rate))
        assert holds() == (True, "deploy", "ada", 2, rate)
        store.set_queue("default", QueueChange())
        assert holds() == (True, "deploy", "ada", 2, rate)
        store.set_queue("default", QueueChange(limit=3))
        store.set_queue("default", QueueChange(pause=None))
        assert holds() == (False, None, None, 3, rate)
        store.set_queue("default", QueueChange(pause=Pause(), rate=None))
        assert holds() == (True, None, None, 3, None)
        store.set_queue("default", QueueChange(None, None, None))
        assert holds() == (False, None, None, None, None)

    def test_lifting_what_does_not_hold_makes_no_name(self, harness: Harness) -> None:
        store = harness.engine
        store.set_queue("unheard-of", QueueChange(None, None, None))
        store.set_queue("unheard-of", QueueChange())
        assert store.names() == []

    @pytest.mark.parametrize("queues", [None, ("narrow", "wide")])
    def test_what_a_full_queue_may_not_give_comes_from_the_others(
        self, harness: Harness, queues: tuple[str, ...] | None
    ) -> None:
        store = harness.engine
        join(store)
        set_limit(store, "narrow", 1)
        for queue in ("narrow", "wide"):
            add(store, *(f"{queue}{n}" for n in range(20)), queue=queue)
        shares = None if queues is None else [QueueShare(name, 5) for name in queues]
        assert Counter(lease.queue for lease in take(store, limit=10, queues=shares)) == {"narrow": 1, "wide": 9}
        assert Counter(lease.queue for lease in take(store, limit=10, queues=shares)) == {"wide": 10}

    def test_a_limit_holds_in_the_lone_lane(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "a", "b")
        for n in range(2):
            join(store, f"victim{n}")
            leases = take(store, f"victim{n}")
            rules = Rules(max_crashes=9, crash_delay_ms=0)
            store.bury(f"victim{n}", [lease.fence for lease in leases], error("WorkerCrashed"), rules)
        join(store)
        set_limit(store, "default", 1)
        (lease,) = take(store, alone=True)
        assert take(store, alone=True) == []
        store.settle([ended(lease)])
        assert len(take(store, alone=True)) == 1

    def test_a_worker_that_is_gone_takes_no_room(self, harness: Harness) -> None:
        store = harness.engine
        set_limit(store, "default", 1)
        add(store, "a", "b", "c", "d")
        join(store, "w1")
        (lease,) = take(store, "w1")
        store.bury("w1", [lease.fence], error("WorkerCrashed"), Rules(max_crashes=1))
        join(store, "w2", LEASE_MS)
        assert [one.id for one in take(store, "w2")] == ["b"]
        harness.clock.advance(LEASE_MS + 1_000)
        upkeep(store)
        join(store, "w3")
        assert [one.id for one in take(store, "w3")] == ["b"]
        store.depart("w3")
        join(store, "w4")
        assert [one.id for one in take(store, "w4")] == ["b"]

    def test_jobs_at_a_closed_guard_do_not_stand_in_the_way_of_a_limited_queue(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        taken = Guard(GuardKind.CONCURRENCY, "k", 1)
        place(store, [job("holder", queue="other")])
        place(store, [guarded("first", taken)])
        assert sorted(lease.id for lease in take(store)) == ["first", "holder"]
        set_limit(store, "default", 2)
        place(store, [guarded(f"w{n}", taken) for n in range(300)])
        add(store, "free1", "free2")
        assert ids(ask(store, 10)) == ["free1"]

    def test_a_job_that_has_expired_ends_and_takes_no_room(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        set_limit(store, "default", 1)
        place(store, [job("old", expires_ms=1_000), job("new")])
        harness.clock.advance(2_000)
        assert ids(ask(store)) == ["new"]
        assert state_of(store, "old") is State.CANCELLED

    def test_a_worker_that_was_held_back_is_woken_when_there_is_room(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        join(store)
        join(other, "w2")
        set_limit(store, "default", 1)
        add(store, *(f"a{n}" for n in range(500)))
        while other.wait(["default"], 0.01):  # what was said before
            pass

        def nudge() -> None:
            (lease,) = ask(store).leases
            assert ask(other, worker="w2").leases == []  # held back
            store.settle([ended(lease)])

        assert ended_by(lambda: other.wait(["default"], LONG_S), nudge)

    def test_a_limit_that_is_lifted_wakes_those_who_wait(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        set_limit(store, "default", 1)
        add(store, "a")
        while other.wait(["default"], 0.01):  # what was said before
            pass
        assert ended_by(lambda: other.wait(["default"], LONG_S), lambda: set_limit(store, "default", None))

    # -- bounds of the worker that asks --

    def test_a_bound_of_the_asker_holds_where_the_store_has_none(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, *"abcdef")
        mine = (QueueBound("default", limit=2),)
        assert ids(ask(store, bounds=mine)) == ["a", "b"]
        assert ids(ask(store, bounds=mine)) == []
        set_limit(store, "default", 3)
        assert ids(ask(store, bounds=mine)) == ["c"]
        set_limit(store, "default", None)
        assert ids(ask(store, bounds=mine)) == []
        assert ids(ask(store)) == ["d", "e", "f"]

    def test_limit_and_rate_are_overruled_each_by_itself(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, *"abcdef")
        set_rate(store, "default", RateBound(4, MINUTE))
        leases = ask(store, bounds=(QueueBound("default", 3, RateBound(1, MINUTE)),)).leases
        assert len(leases) == 3
        store.settle([ended(lease) for lease in leases])
        assert len(ask(store, bounds=(QueueBound("default", 3, RateBound(1, MINUTE)),)).leases) == 1

    # -- rates --

    def test_a_rate_lets_so_many_start_in_a_window_and_says_when_the_next_may(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        set_rate(store, "default", RateBound(2, 10_000))
        add(store, *"abcde")
        claimed = ask(store)
        assert ids(claimed) == ["a", "b"]
        store.settle([ended(lease) for lease in claimed.leases])
        claimed = ask(store)
        assert ids(claimed) == []
        assert claimed.due_in_ms is not None
        assert 10_000 <= claimed.due_in_ms <= 10_100
        harness.clock.advance(claimed.due_in_ms)
        join(store)
        assert ids(ask(store)) == ["c", "d"]

    def test_no_window_has_more_claims_than_the_rate_says(self, harness: Harness) -> None:
        store, rng = harness.engine, Random(20)
        set_rate(store, "default", RateBound(7, 10_000))
        add(store, *(f"j{n}" for n in range(200)))
        claims: list[int] = []
        for _ in range(60):
            harness.clock.advance(rng.choice([1, 40, 700, 2_500, 9_999]))
            join(store)
            got = len(ask(store, rng.randint(1, 9)).leases)
            claims += [harness.clock.wall_ms()] * got
        assert len(claims) > 60
        for at in claims:
            assert sum(at <= other < at + 10_000 for other in claims) <= 7

    def test_the_window_of_a_queue_s_rate_grows_by_how_late_a_claimed_job_may_start(self, harness: Harness) -> None:
        # One claimed at the end of a window and started late would meet those that start with the next window.
        store = harness.engine
        join(store)
        set_rate(store, "default", RateBound(2, 10_000))
        add(store, *"abcde")
        late = Want("w1", 100, late_ms=25)
        claimed = store.claim(late)
        assert ids(claimed) == ["a", "b"]
        assert claimed.due_in_ms is not None
        assert 10_025 <= claimed.due_in_ms <= 10_125
        harness.clock.advance(10_024)
        join(store)
        claimed = store.claim(late)
        assert (ids(claimed), claimed.due_in_ms is not None and claimed.due_in_ms <= 100) == ([], True)
        harness.clock.advance(1)
        assert ids(store.claim(late)) == ["c", "d"]
        harness.clock.advance(10_000)
        join(store)
        assert ids(store.claim(late)) == []
        assert ids(store.claim(Want("w1", 100))) == ["e"]  # for one that starts at once the window is no longer

    def test_a_job_that_could_not_start_at_once_is_not_given_when_the_rate_is_nearly_spent(
        self, harness: Harness
    ) -> None:
        store = harness.engine
        join(store)
        set_rate(store, "default", RateBound(5, 10_000))
        add(store, *(f"j{n}" for n in range(20)))
        assert len(store.claim(Want("w1", 4)).leases) == 4
        # Two that were claimed now and started a second later would meet those of the next window.
        harness.clock.advance(9_500)
        join(store)
        assert len(store.claim(Want("w1", 20, room=0)).leases) <= 1
        assert len(store.claim(Want("w1", 20, room=20)).leases) <= 1

    def test_setting_the_rate_that_is_set_leaves_the_window_and_another_one_begins_anew(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        set_rate(store, "default", RateBound(2, MINUTE))
        add(store, *(f"j{n}" for n in range(20)))
        assert len(ask(store).leases) == 2
        set_rate(store, "default", RateBound(2, MINUTE))
        assert len(ask(store).leases) == 0
        set_rate(store, "default", RateBound(3, MINUTE))
        assert len(ask(store).leases) == 3
        set_rate(store, "default", None)
        assert len(ask(store).leases) == 15

    def test_a_queue_may_have_both_and_the_tighter_one_counts(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        set_limit(store, "default", 3)
        set_rate(store, "default", RateBound(5, MINUTE))
        add(store, *(f"j{n}" for n in range(20)))
        leases = ask(store).leases
        assert len(leases) == 3
        store.settle([ended(lease) for lease in leases])
        assert len(ask(store).leases) == 2

    def test_a_rate_of_a_queue_is_no_limit_that_jobs_were_defined_with(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        set_rate(store, "default", RateBound(1, MINUTE))
        add(store, "a", "b")
        ask(store)
        assert store.limits() == []

    # -- what people see --

    def test_the_rows_show_what_holds_and_how_much_of_it_is_used(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, *"abcdef")
        row = queue_row(store)
        assert (row.limit, row.rate, row.started) == (None, None, 0)
        set_limit(store, "default", 4)
        set_rate(store, "default", RateBound(9, MINUTE))
        ask(store, 3)
        row = queue_row(store)
        assert (row.limit, row.rate, row.started, row.running) == (4, RateBound(9, MINUTE), 3, 3)
        harness.clock.advance(MINUTE + 1_000)
        assert queue_row(store).started == 0
        set_limit(store, "default", None)
        mine = (QueueBound("default", 5, RateBound(1, 1_000)),)
        row = queue_row(store, bounds=mine)
        assert (row.limit, row.rate) == (5, RateBound(9, MINUTE))
        set_rate(store, "default", None)
        row = queue_row(store, bounds=mine)
        assert (row.limit, row.rate) == (5, RateBound(1, 1_000))

    def test_a_queue_that_has_only_a_bound_is_shown(self, harness: Harness) -> None:
        store = harness.engine
        set_limit(store, "later", 2)
        row = queue_row(store, "later")
        assert (row.limit, row.ready, row.paused) == (2, 0, False)
