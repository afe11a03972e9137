"""Queue names: a claim finds what there is to claim among any number of them, and those of no more use are forgotten.

How long a claim takes is not asserted here.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec import structs

from windlass.core.model import Cause, Guard, GuardKind, Slot, State
from windlass.core.rows import Action, Recovery
from windlass.core.work import Kind, Lease, LeaseRef, QueueBound, QueueShare, RateBound, Room, Rules, Want
from windlass.engines.base import Store
from windlass.testing.conformance.harness import (
    Harness,
    add,
    all_jobs,
    discard,
    ended,
    error,
    finish,
    job,
    join,
    pause,
    place,
    recover,
    redrive,
    resume,
    row_of,
    set_limit,
    set_rate,
    state_of,
    take,
    upkeep,
)

KEPT_MS = 3_600_000  # how long a name is kept at least that nothing needs
MINUTE = 60_000
LATE_MS = 15 * MINUTE  # how much later it must be gone
OLD = [f"old-{n:03}" for n in range(300)]
LOST = Cause("shop.errors.Lost", "aaaaaaaaaaaa", "shop.jobs.ship")
ONE = Guard(GuardKind.CONCURRENCY, "one", 1)


def use_once(store: Store, names: Sequence[str]) -> None:
    """Leave queues behind that had a job once."""
    place(store, [job(f"once-{name}", queue=name) for name in names])
    store.transition(Action.DELETE, [f"once-{name}" for name in names])


def pass_an_hour(harness: Harness) -> None:
    """Do the upkeep now, an hour later, and once more. What runs goes on."""
    join(harness.engine, lease_ms=2 * KEPT_MS)
    upkeep(harness.engine)
    harness.clock.advance(KEPT_MS + LATE_MS)
    upkeep(harness.engine)
    upkeep(harness.engine)
    join(harness.engine)


def known(store: Store) -> set[str]:
    """The names that the store knows; every listing says the same."""
    names = set(store.names())
    assert {row.name for row in store.queues()} == names
    return names


def claim_on(store: Store, want: Want) -> list[Lease]:
    """Claim for as long as something is given, or the store says that there is more to look at."""
    got: list[Lease] = []
    for _ in range(2_000):
        claimed = store.claim(want)
        got += claimed.leases
        if not claimed.leases and claimed.due_in_ms != 0:
            return got
    raise AssertionError("the store asks for another claim for ever")


def ids(leases: Sequence[Lease]) -> list[str]:
    return sorted(lease.id for lease in leases)


class QueueNameSuite:
    """What a store does about many queues, and about names that were used once."""

    # -- claims among many names --

    def test_jobs_of_one_queue_among_many_old_names_are_claimed(self, harness: Harness) -> None:
        store = harness.engine
        use_once(store, OLD)
        join(store)
        add(store, *"abc", queue="old-150")
        assert ids(take(store)) == ["a", "b", "c"]

    @pytest.mark.parametrize("limit", [1, 3, 7, 100])
    def test_every_busy_queue_among_old_names_gets_its_turn(self, harness: Harness, limit: int) -> None:
        store = harness.engine
        use_once(store, OLD)
        busy = OLD[20:300:40]
        place(store, [job(f"{name}-{n}", queue=name) for n in range(30) for name in busy])
        join(store)
        seen = {lease.queue for _ in range(-(-28 // limit)) for lease in take(store, limit=limit)}
        assert seen == set(busy)

    @pytest.mark.parametrize("limit", [1, 7, 64])
    def test_more_busy_queues_than_a_claim_can_serve_take_turns(self, harness: Harness, limit: int) -> None:
        """Choice: a claim takes from sixteen queues, or as many as its limit, before any gives more than its share."""
        store = harness.engine
        place(store, [job(f"{name}-{n}", queue=name) for n in range(16) for name in OLD])
        join(store)
        seen = {lease.queue for _ in range(-(-len(OLD) // min(limit, 16))) for lease in take(store, limit=limit)}
        assert seen == set(OLD)

    def test_a_claim_is_filled_where_enough_is_ready(self, harness: Harness) -> None:
        store = harness.engine
        place(store, [job(f"{name}-{n}", queue=name) for name in OLD[:40] for n in range(3)])
        join(store)
        assert [len(take(store, limit=50)) for _ in range(4)] == [50, 50, 20, 0]

    def test_what_many_queues_cannot_fill_goes_to_the_others(self, harness: Harness) -> None:
        store = harness.engine
        add(store, *OLD[:40], queue="rich")
        place(store, [job(f"poor-{name}", queue=name) for name in OLD[:9]])
        join(store)
        got = take(store, limit=40)
        assert len(got) == 40
        assert sum(lease.queue != "rich" for lease in got) == 9

    def test_each_of_many_queues_gives_its_head_first(self, harness: Harness) -> None:
        store = harness.engine
        names = OLD[:16]
        place(store, [job(f"{name}-late", queue=name, priority=5) for name in names])
        place(store, [job(f"{name}-soon", queue=name, priority=-5) for name in names])
        join(store)
        assert ids(take(store, limit=16)) == [f"{name}-soon" for name in names]
        assert ids(take(store, limit=16)) == [f"{name}-late" for name in names]

    def test_many_queues_give_of_each_kind_of_slot_what_there_is_room_for(self, harness: Harness) -> None:
        store = harness.engine
        names = OLD[:30]
        kinds = [(Slot.THREAD, "t"), (Slot.LOOP, "l"), (None, "u")]
        place(store, [job(f"{name}-{mark}", queue=name, slot=slot) for name in names for slot, mark in kinds])
        join(store)
        rooms = (Room(Slot.THREAD, 4, 2), Room(Slot.LOOP, 0, 3))
        got = take(store, limit=9, rooms=rooms)
        marks = [lease.id[-1] for lease in got]
        assert marks.count("t") + marks.count("u") <= 6
        assert marks.count("l") <= 3
        assert len(got) == 9
        assert [lease.id[-1] for lease in take(store, limit=2, rooms=(Room(Slot.LOOP, 2),)) if lease.slot] == ["l"] * 2

    def test_queues_whose_jobs_need_another_kind_of_slot_hide_no_other_queue(self, harness: Harness) -> None:
        store = harness.engine
        place(store, [job(f"{name}-loop", queue=name, slot=Slot.LOOP) for name in OLD])
        place(store, [job("thread", queue="zz", slot=Slot.THREAD)])
        join(store)
        assert ids(take(store, limit=1, rooms=(Room(Slot.THREAD, 1),))) == ["thread"]

    def test_paused_and_full_queues_hide_no_other_queue(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        names = OLD[:60]
        place(store, [job(f"{name}-{n}", queue=name) for name in [*names, "zz"] for n in range(2)])
        for name in names[:20]:
            pause(store, name, None, None)
        for name in names[20:40]:
            set_limit(store, name, 0 if name < names[30] else 1)
        for name in names[40:]:
            set_rate(store, name, RateBound(1, MINUTE))
        first = claim_on(store, Want("w1", 1))
        assert {lease.queue for lease in first} == {*names[30:], "zz"}
        assert len(first) == 32
        assert claim_on(store, Want("w1", 1)) == []

    def test_bounds_that_a_worker_brings_hold_among_many_queues(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        names = OLD[:40]
        place(store, [job(f"{name}-{n}", queue=name) for name in names for n in range(3)])
        bounds = tuple(QueueBound(name, 1) for name in names[:39])
        got = claim_on(store, Want("w1", 10, bounds=bounds))
        assert ids(got) == sorted([f"{name}-0" for name in names[:39]] + [f"{names[39]}-{n}" for n in range(3)])

    def test_a_job_behind_many_queues_whose_heads_may_not_run_is_reached(self, harness: Harness) -> None:
        """With one slot, without time passing: the store gives it, or asks for the next claim at once."""
        store = harness.engine
        join(store)
        place(store, [structs.replace(job(f"{name}-g", queue=name), guards=(ONE,)) for name in OLD])
        place(store, [job("free", queue="zz")])
        got = claim_on(store, Want("w1", 1))
        assert len(got) == 2
        assert "free" in ids(got)
        assert store.counts()["blocked"] == len(OLD) - 1

    def test_a_job_behind_many_queues_whose_heads_have_expired_is_reached(self, harness: Harness) -> None:
        store = harness.engine
        place(store, [job(f"{name}-x", queue=name, expires_ms=MINUTE) for name in OLD])
        place(store, [job("free", queue="zz")])
        harness.clock.advance(2 * MINUTE)
        join(store)
        assert ids(claim_on(store, Want("w1", 1))) == ["free"]

    def test_queues_that_have_only_blocked_jobs_go_on(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        use_once(store, OLD)
        place(store, [structs.replace(job(f"g{n}", queue=OLD[n]), guards=(ONE,)) for n in range(9)])
        order: list[str] = []
        for _ in range(9):
            (lease,) = take(store, limit=1)
            order.append(lease.id)
            assert take(store, limit=1) == []
            store.settle([ended(lease)])
        assert sorted(order) == [f"g{n}" for n in range(9)]

    def test_blocked_jobs_of_a_paused_or_a_full_queue_keep_nothing_from_the_others(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [structs.replace(job("holder", queue="qz"), guards=(ONE,))])
        (holder,) = take(store)
        for name in ("qa", "qb", "qc"):
            place(store, [structs.replace(job(f"{name}-g", queue=name), guards=(ONE,))])
        assert take(store) == []
        pause(store, "qa", None, None)
        set_limit(store, "qb", 0)
        store.settle([ended(holder)])
        assert ids(take(store)) == ["qc-g"]

    def test_of_many_shares_those_that_are_busy_are_served_in_their_order(self, harness: Harness) -> None:
        store = harness.engine
        use_once(store, OLD)
        join(store)
        for name in ("old-250", "old-003", "old-111"):
            add(store, f"{name}-a", f"{name}-b", queue=name)
        add(store, "other", queue="not-asked-for")
        shares = [QueueShare(name, 1) for name in reversed(OLD)]
        assert [lease.id for lease in take(store, queues=shares, limit=2)] == ["old-250-a", "old-111-a"]
        assert ids(take(store, queues=shares, limit=9)) == ["old-003-a", "old-003-b", "old-111-b", "old-250-b"]
        assert state_of(store, "other") is State.READY

    def test_a_pause_holds_among_many_shares(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job(f"{name}-j", queue=name) for name in OLD[:100]])
        for name in OLD[:98]:
            pause(store, name, None, None)
        shares = [QueueShare(name, 1) for name in OLD]
        assert ids(take(store, queues=shares, limit=9)) == ["old-098-j", "old-099-j"]

    def test_jobs_that_run_alone_are_found_among_many_names(self, harness: Harness) -> None:
        store = harness.engine
        use_once(store, OLD)
        rules = Rules(crash_delay_ms=0)
        add(store, "bad", queue="old-200")
        for _ in range(2):
            join(store)
            (lease,) = take(store)
            store.bury("w1", [lease.fence], error("WorkerCrashed"), rules)
        join(store)
        assert take(store) == []
        assert ids(take(store, alone=True)) == ["bad"]

    # -- names that are of no more use --

    def test_a_name_without_jobs_is_forgotten_in_time(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        use_once(store, OLD[:5])
        add(store, "a", queue="kept")
        upkeep(store)
        harness.clock.advance(KEPT_MS - MINUTE)
        join(store)
        upkeep(store)
        assert known(store) == {"kept", *OLD[:5]}
        harness.clock.advance(LATE_MS)
        upkeep(store)
        upkeep(store)
        assert known(store) == {"kept"}

    def test_many_names_are_forgotten(self, harness: Harness) -> None:
        store = harness.engine
        use_once(store, [f"tenant-{n:04}" for n in range(1_200)])
        add(store, "a", queue="kept")
        for _ in range(12):
            upkeep(store)
        harness.clock.advance(KEPT_MS + LATE_MS)
        for _ in range(12):
            upkeep(store)
        assert known(store) == {"kept"}

    def test_a_name_with_a_job_that_waits_or_runs_or_is_kept_is_not_forgotten(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        day = 24 * KEPT_MS
        add(store, "runs", queue="runs")
        place(store, [structs.replace(job("holds", queue="holds"), guards=(ONE,))])
        take(store)
        place(store, [structs.replace(job("waits", queue="blocked"), guards=(ONE,))])
        take(store)
        finish(store, "d", queue="done", keep_ms=day)
        finish(store, "c", kind=Kind.CANCELLED, queue="cancelled", keep_ms=day)
        place(store, [job("s", queue="scheduled", delay_ms=day)])
        add(store, "r", queue="ready")
        use_once(store, ["gone"])
        for _ in range(3):
            pass_an_hour(harness)
        assert known(store) == {"runs", "holds", "blocked", "done", "cancelled", "scheduled", "ready"}

    def test_a_name_that_has_only_dead_jobs_is_forgotten_and_they_are_not(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "d", kind=Kind.DEAD, queue="grave")
        pass_an_hour(harness)
        assert known(store) == set()
        assert [(row.id, row.queue) for row in all_jobs(store)] == [("d", "grave")]

    def test_a_name_with_a_pause_or_a_bound_is_kept_until_they_are_taken_away(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        pause(store, "paused", None, None)
        set_limit(store, "limited", 3)
        set_rate(store, "rated", RateBound(5, MINUTE))
        use_once(store, ["used", "paused"])
        pass_an_hour(harness)
        assert known(store) == {"paused", "limited", "rated"}
        assert {row.name: (row.paused, row.limit, row.rate) for row in store.queues()} == {
            "paused": (True, None, None),
            "limited": (False, 3, None),
            "rated": (False, None, RateBound(5, MINUTE)),
        }
        resume(store, "paused")
        set_limit(store, "limited", None)
        set_rate(store, "rated", None)
        pass_an_hour(harness)
        assert known(store) == set()

    def test_a_pause_that_is_over_keeps_no_name(self, harness: Harness) -> None:
        store = harness.engine
        pause(store, "paused", None, harness.clock.wall_ms() + MINUTE)
        harness.clock.advance(2 * MINUTE)
        pass_an_hour(harness)
        assert known(store) == set()

    def test_a_forgotten_name_comes_back_with_its_next_job(self, harness: Harness) -> None:
        store = harness.engine
        use_once(store, ["again"])
        pass_an_hour(harness)
        assert known(store) == set()
        add(store, "a", queue="again")
        assert known(store) == {"again"}
        assert ids(take(store)) == ["a"]

    def test_a_forgotten_name_comes_back_with_a_setting(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        names = ["paused", "limited", "rated"]
        use_once(store, names)
        pass_an_hour(harness)
        pause(store, "paused", None, None)
        set_limit(store, "limited", 0)
        set_rate(store, "rated", RateBound(1, MINUTE))
        assert known(store) == set(names)
        place(store, [job(f"{name}-{n}", queue=name) for name in names for n in range(2)])
        assert ids(take(store)) == ["rated-0"]

    @pytest.mark.parametrize("how", ["retry", "redrive", "recover", "restore"])
    def test_a_forgotten_name_comes_back_with_a_dead_job_that_lives_again(self, harness: Harness, how: str) -> None:
        store = harness.engine
        join(store)
        add(store, "d", queue="grave")
        store.settle([ended(lease, Kind.DEAD, error=error(), cause=LOST) for lease in take(store)])
        row = row_of(store, "d")
        pass_an_hour(harness)
        assert known(store) == set()
        match how:
            case "retry":
                assert store.transition(Action.RETRY, ["d"])[0].applied
            case "redrive":
                assert redrive(store, [LeaseRef("d", row.fence)]) == [True]
            case "recover":
                assert recover(store, Recovery((LOST.error_type,), 0, 1, 10)) == ["d"]
            case _:
                assert discard(store, [LeaseRef("d", row.fence)]) == [True]
                assert store.put_dead([row]) == [True]
                assert redrive(store, [LeaseRef("d", row.fence)]) == [True]
        assert known(store) == {"grave"}
        assert ids(take(store)) == ["d"]

    def test_a_name_in_use_again_begins_its_hour_anew(self, harness: Harness) -> None:
        store = harness.engine
        use_once(store, ["again"])
        upkeep(store)
        harness.clock.advance(50 * MINUTE)
        add(store, "b", queue="again")
        store.transition(Action.DELETE, ["b"])
        upkeep(store)
        harness.clock.advance(20 * MINUTE)
        upkeep(store)
        assert known(store) == {"again"}
        harness.clock.advance(KEPT_MS - 20 * MINUTE + LATE_MS)
        upkeep(store)
        upkeep(store)
        assert known(store) == set()

    def test_a_name_that_gets_a_scheduled_job_within_its_hour_is_not_forgotten(self, harness: Harness) -> None:
        store = harness.engine
        use_once(store, ["again"])
        upkeep(store)
        harness.clock.advance(30 * MINUTE)
        place(store, [job("later", queue="again", delay_ms=10 * KEPT_MS)])
        pass_an_hour(harness)
        pass_an_hour(harness)
        assert known(store) == {"again"}

    # -- finished records of many queues --

    def test_finished_records_of_many_queues_are_pruned_by_age(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        names = OLD[:120]
        place(store, [job(f"{name}-j", queue=name) for name in names])
        store.settle([ended(lease) for lease in take(store, limit=200)])
        place(store, [job(f"{name}-c", queue=name) for name in names])
        store.transition(Action.CANCEL, [f"{name}-c" for name in names])
        upkeep(store)
        assert len(all_jobs(store)) == 240
        harness.clock.advance(11 * MINUTE)
        upkeep(store)
        assert all_jobs(store) == []

    def test_finished_records_of_many_queues_are_pruned_by_count(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        names = OLD[:60]
        place(store, [job(f"{name}-{n}", queue=name) for name in names for n in range(3)])
        while leases := take(store, limit=50):
            store.settle([ended(lease) for lease in leases])
        upkeep(store, Rules(keep_done_max=1))
        assert sorted(row.queue for row in all_jobs(store)) == names

    def test_dead_records_of_many_queues_are_pruned_by_age(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        names = OLD[:60]
        place(store, [job(f"{name}-j", queue=name) for name in names])
        store.settle([ended(lease, Kind.DEAD, error=error()) for lease in take(store)])
        upkeep(store)
        assert len(all_jobs(store)) == 60
        harness.clock.advance(91 * 24 * KEPT_MS)
        trimmed = [job_id for step in upkeep(store) for job_id in step.trimmed]
        assert sorted(trimmed) == [f"{name}-j" for name in names]
        assert all_jobs(store) == []
