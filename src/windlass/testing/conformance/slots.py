"""What a claim has room for: kinds of slots, what is held ahead of them, and jobs whose kind is not known."""

from __future__ import annotations

from collections import Counter
from threading import Thread

import pytest

from windlass.core.model import Guard, GuardKind, NewJob, Slot, State, UniqueKey
from windlass.core.rows import Action, QueueRow
from windlass.core.work import Kind, Lease, QueueBound, QueueShare, RateBound, Room, Rules, Want, Watch
from windlass.engines.base import Store
from windlass.testing.conformance.harness import (
    LEASE_MS,
    Harness,
    clear,
    ended,
    error,
    job,
    join,
    place,
    row_of,
    set_limit,
    take,
    take_one,
    upkeep,
)
from windlass.testing.conformance.waiting import LONG_S, ended_by

THREAD, LOOP = Slot.THREAD, Slot.LOOP
THREADS, LOOPS = Room(THREAD, 100), Room(LOOP, 100)


def store_kinds(store: Store, slot: Slot | None, *ids: str, queue: str = "default") -> None:
    """Enqueue jobs of one kind."""
    place(store, [job(each, slot=slot, queue=queue) for each in ids])


def taken(store: Store, *rooms: Room, limit: int = 1_000, worker: str = "w1") -> list[str]:
    """Claim for these rooms and give the ids, in order."""
    return [lease.id for lease in take(store, worker, limit, rooms=rooms)]


def queue_of(store: Store, name: str = "default") -> QueueRow:
    """One queue as it stands."""
    return next(row for row in store.queues() if row.name == name)


def is_of(store: Store, slot: Slot, job_id: str) -> bool:
    """Whether a ready job is claimed as one of a kind, and by nobody who has room for the other one only."""
    (other,) = set(Slot) - {slot}
    return taken(store, Room(other, 0, 100)) == [] and taken(store, Room(slot, 0, 100)) == [job_id]


class SlotSuite:
    """``Want.rooms``, ``Outcome.slot`` and ``Lease.held``."""

    def test_a_claim_takes_only_the_kinds_that_it_has_room_for(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_kinds(store, THREAD, "t1", "t2", "t3")
        store_kinds(store, LOOP, "l1", "l2", "l3")
        assert taken(store, Room(LOOP, 2)) == ["l1", "l2"]
        assert taken(store, Room(LOOP, 0), Room(THREAD, 1)) == ["t1"]
        assert taken(store, Room(LOOP, 0), Room(THREAD, 0)) == []
        assert taken(store, Room(THREAD, 0, 1)) == ["t2"]
        assert taken(store) == ["t3", "l3"]  # without rooms: every kind

    def test_jobs_of_another_kind_are_no_obstacle_however_many(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_kinds(store, THREAD, *(f"t{n}" for n in range(3_000)))
        store_kinds(store, LOOP, "l")
        assert taken(store, Room(LOOP, 5), limit=5) == ["l"]
        assert taken(store, Room(LOOP, 5), Room(THREAD, 1), limit=6) == ["t0"]

    def test_with_room_for_all_kinds_jobs_come_in_the_order_of_all(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        for name, slot, priority in (
            ("c", THREAD, 0), ("d", LOOP, 0), ("e", None, 0), ("a", LOOP, -5), ("b", THREAD, -3), ("g", THREAD, 9),
            ("f", LOOP, 2),
        ):  # fmt: skip
            place(store, [job(name, slot=slot, priority=priority)])
            harness.clock.advance(10)
        assert taken(store, THREADS, LOOPS, limit=3) == ["a", "b", "c"]
        assert taken(store, limit=3) == ["d", "e", "f"]
        assert taken(store, THREADS, LOOPS) == ["g"]

    def test_priorities_and_aging_hold_within_a_kind(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("low", slot=LOOP, priority=5, aging_ms=1_000), job("t", slot=THREAD)])
        harness.clock.advance(4_990)
        place(store, [job("late", slot=LOOP, priority=0, aging_ms=1_000)])
        harness.clock.advance(20)
        place(store, [job("later", slot=LOOP, priority=0, aging_ms=1_000)])
        assert taken(store, LOOPS) == ["late", "low", "later"]

    def test_rooms_count_over_all_queues_and_shares_hold(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        for queue in ("a", "b"):
            store_kinds(store, THREAD, f"{queue}t1", f"{queue}t2", queue=queue)
            store_kinds(store, LOOP, f"{queue}l1", f"{queue}l2", queue=queue)
        shares = (QueueShare("a", 1), QueueShare("b", 3))
        leases = store.claim(Want("w1", 4, shares, rooms=(Room(THREAD, 2), Room(LOOP, 9)))).leases
        assert sorted(lease.id for lease in leases) == ["at1", "bl1", "bl2", "bt1"]
        assert sorted(taken(store, Room(THREAD, 3))) == ["at2", "bt2"]

    def test_shares_of_queues_hold_within_each_kind(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        for queue in ("a", "b"):
            store_kinds(store, THREAD, *(f"{queue}t{n}" for n in range(20)), queue=queue)
            store_kinds(store, LOOP, *(f"{queue}l{n}" for n in range(20)), queue=queue)
        shares = (QueueShare("a", 18), QueueShare("b", 6))
        leases = store.claim(Want("w1", 24, shares, rooms=(Room(THREAD, 4), Room(LOOP, 20)))).leases
        got = Counter(lease.id[:2] for lease in leases)
        assert got == {"at": 3, "bt": 1, "al": 15, "bl": 5}
        add = Want("w1", 8, (QueueShare("a", 4), QueueShare("b", 4)), rooms=(Room(THREAD, 4), Room(LOOP, 4)))
        clear(store, "b", 100)
        assert Counter(lease.id[:2] for lease in store.claim(add).leases) == {"at": 4, "al": 4}

    def test_a_job_of_an_unknown_kind_goes_where_any_kind_has_a_free_slot(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_kinds(store, None, *(f"j{n}" for n in range(9)))
        assert taken(store, Room(THREAD, 0, 100), Room(LOOP, 0, 100)) == []
        assert taken(store, Room(THREAD, 0, 100), Room(LOOP, 1)) == ["j0"]
        assert taken(store, Room(THREAD, 2), Room(LOOP, 3, 9)) == ["j1", "j2", "j3", "j4", "j5"]
        (lease,) = take(store, limit=1)
        assert lease.slot is None

    def test_a_claim_asks_for_another_only_when_unknown_jobs_took_the_room_of_a_kind(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        for free, due_in in ((1, 0), (2, 0), (3, None)):
            store_kinds(store, None, f"a{free}", f"b{free}")
            want = Want("w1", 100, rooms=(Room(THREAD, free), Room(LOOP, 1)))
            assert store.claim(want).due_in_ms == due_in
            clear(store, "default", 100)

    def test_unknown_and_known_jobs_share_the_room_of_their_kind(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_kinds(store, None, "u1", "u2")
        store_kinds(store, THREAD, "t1", "t2", "t3")
        got = taken(store, Room(THREAD, 3))
        assert len(got) == 3
        assert set(got) >= {"u1", "u2"}

    @pytest.mark.parametrize("kind", [Kind.RELEASE, Kind.RETRY, Kind.SNOOZE, Kind.CRASH])
    def test_a_job_waits_again_as_the_kind_that_its_worker_found_it_to_be(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        join(store)
        for before in (None, THREAD):
            store_kinds(store, before, "a")
            lease = take_one(store)
            assert lease.slot is before
            store.settle([ended(lease, kind, slot=LOOP)])
            assert is_of(store, LOOP, "a")
            lease = Lease("a", "", "", b"", row_of(store, "a").fence, 1, 1, 0, 0, 0)
            store.settle([ended(lease, kind, delay_ms=500, slot=None)])
            harness.clock.advance(1_000)
            assert is_of(store, LOOP, "a") or kind is Kind.CRASH  # which is the second one: it runs alone
            store.settle([ended(Lease("a", "", "", b"", row_of(store, "a").fence, 1, 1, 0, 0, 0))])
            store.transition(Action.DELETE, ["a"])

    def test_an_outcome_that_ends_a_job_may_name_a_kind_too(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_kinds(store, None, "a")
        store.settle([ended(take_one(store), Kind.DEAD, slot=LOOP)])
        store.transition(Action.RETRY, ["a"])
        assert take_one(store).slot is None  # it says how jobs wait again, and this one has ended

    @pytest.mark.parametrize("slot", list(Slot))
    def test_a_job_keeps_its_kind_wherever_it_goes(self, harness: Harness, slot: Slot) -> None:
        store, clock = harness.engine, harness.clock
        join(store)

        def running() -> Lease:
            (lease,) = take(store, "w2", rooms=(Room(slot, 1),))
            return lease

        place(store, [job("a", slot=slot, delay_ms=1_000)])
        clock.advance(1_010)
        join(store, "w2")
        running()
        store.bury("w2", [], error(), Rules())
        join(store, "w2")
        lease = running()
        store.bury("w2", [lease.fence], error(), Rules())
        join(store, "w2")
        running()
        store.depart("w2")
        join(store, "w2")
        running()
        clock.advance(LEASE_MS + 10)
        upkeep(store)
        join(store)
        join(store, "w2")
        store.settle([ended(running(), Kind.DEAD)])
        store.transition(Action.RETRY, ["a"])
        store.settle([ended(running(), Kind.RETRY, error=error(), delay_ms=60_000)])
        store.transition(Action.RETRY, ["a"])
        assert is_of(store, slot, "a")

    def test_a_job_that_replaces_another_brings_its_kind(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        key = UniqueKey("k", "done", None, "replace")
        for job_id, slot in (("a", THREAD), ("b", LOOP)):
            place(store, [NewJob(job_id, "n", "default", "[]", unique=key, slot=slot)])
        assert is_of(store, LOOP, "a")

    def test_a_job_that_waited_for_its_unique_key_keeps_its_kind(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        key = UniqueKey("k", "done", None, "keep_latest")
        place(store, [NewJob("a", "n", "default", "[]", unique=key, slot=THREAD)])
        lease = take_one(store)
        place(store, [NewJob("b", "n", "default", "[]", unique=key, slot=LOOP)])
        store.settle([ended(lease)])
        upkeep(store)
        assert is_of(store, LOOP, "b")

    def test_a_gate_lets_on_whom_the_claim_has_room_for(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        one = (Guard(GuardKind.CONCURRENCY, "k", 1),)
        place(store, [NewJob("first", "n", "default", "[]", guards=one, slot=THREAD)])
        lease = take_one(store)
        place(store, [NewJob(f"t{n}", "n", "default", "[]", guards=one, slot=THREAD) for n in range(3)])
        place(store, [NewJob(f"l{n}", "n", "default", "[]", guards=one, slot=LOOP) for n in range(2)])
        assert take(store) == []
        assert row_of(store, "t0").state is State.BLOCKED
        store.settle([ended(lease)])
        assert taken(store, Room(LOOP, 5)) == ["l0"]
        assert taken(store, THREADS, LOOPS) == []
        lease = Lease("l0", "", "", b"", row_of(store, "l0").fence, 1, 1, 0, 0, 0)
        store.settle([ended(lease)])
        assert taken(store, THREADS, LOOPS) == ["t0"]

    def test_what_may_start_only_at_once_needs_a_free_slot_of_its_kind(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        rate = (Guard(GuardKind.RATE, "r", 1, 60_000),)
        place(store, [NewJob("a", "n", "default", "[]", guards=rate, slot=LOOP)])
        assert taken(store, Room(THREAD, 5), Room(LOOP, 0, 5)) == ["a"]
        harness.clock.advance(60_500)  # the window is over, but not for a job that starts some time later
        join(store)
        place(store, [NewJob("b", "n", "default", "[]", guards=rate, slot=LOOP)])
        assert taken(store, Room(THREAD, 5), Room(LOOP, 0, 5)) == []
        assert taken(store, Room(THREAD, 5), Room(LOOP, 1)) == ["b"]

    def test_a_queue_at_its_rate_gives_only_to_free_slots(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        bounds = (QueueBound("default", None, RateBound(1, 60_000)),)
        store_kinds(store, LOOP, "a", "b")
        assert len(store.claim(Want("w1", 5, rooms=(Room(LOOP, 1),), bounds=bounds)).leases) == 1
        harness.clock.advance(60_500)
        join(store)
        assert store.claim(Want("w1", 5, rooms=(THREADS, Room(LOOP, 0, 5)), bounds=bounds)).leases == []
        assert len(store.claim(Want("w1", 5, rooms=(THREADS, Room(LOOP, 1)), bounds=bounds)).leases) == 1

    # -- held ahead --

    def test_what_is_claimed_beyond_the_free_slots_is_held(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_kinds(store, THREAD, "t1", "t2", "t3")
        store_kinds(store, LOOP, "l1", "l2")
        leases = take(store, limit=9, rooms=(Room(THREAD, 1, 2), Room(LOOP, 2)))
        assert {lease.id: lease.held for lease in leases} == {
            "t1": False, "t2": True, "t3": True, "l1": False, "l2": False,
        }  # fmt: skip
        assert [row_of(store, each).held for each in ("t1", "t2", "l1")] == [False, True, False]
        assert row_of(store, "t2").state is State.RUNNING
        assert (queue_of(store).running, queue_of(store).held) == (3, 2)
        counts = store.counts()
        assert (counts["running"], counts["held"], counts["ready"]) == (5, 2, 0)  # running is a state

    def test_without_rooms_what_exceeds_the_room_is_held(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_kinds(store, None, "u")
        store_kinds(store, THREAD, "t")
        leases = store.claim(Want("w1", 5, room=1)).leases
        assert [lease.held for lease in leases] == [False, True]
        assert [lease.held for lease in store.claim(Want("w1", 5)).leases] == []

    @pytest.mark.parametrize("kind", list(Kind))
    def test_a_held_job_may_end_in_every_way(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        join(store)
        store_kinds(store, THREAD, "a")
        (lease,) = store.claim(Want("w1", 5, room=0)).leases
        store.settle([ended(lease, kind, result="null" if kind is Kind.DONE else None)])
        row = row_of(store, "a")
        assert (row.held, row.cancel_requested) == (False, False)
        assert (queue_of(store).held, store.counts()["held"]) == (0, 0)
        if kind not in (Kind.DONE, Kind.DEAD, Kind.CANCELLED):
            (again,) = take(store)
            assert (again.held, row_of(store, "a").held) == (False, False)

    def test_a_held_job_that_is_cancelled_goes_back_cancelled(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_kinds(store, THREAD, "a")
        (lease,) = store.claim(Want("w1", 5, room=0)).leases
        store.transition(Action.CANCEL, ["a"])
        row = row_of(store, "a")
        assert (row.held, row.cancel_requested) == (True, True)
        assert [ref.id for ref in store.claim(Want("w1", 5)).cancels] == ["a"]
        store.settle([ended(lease, Kind.RELEASE)])
        assert row_of(store, "a").state is State.CANCELLED

    def test_held_jobs_count_for_the_limit_of_their_queue(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        set_limit(store, "default", 2)
        store_kinds(store, THREAD, "a", "b", "c")
        assert len(store.claim(Want("w1", 5, room=1)).leases) == 2
        assert take(store) == []

    # -- wake-ups --

    def test_a_worker_that_watches_for_another_kind_keeps_no_wake_up_from_one_that_can_start_the_job(
        self, harness: Harness
    ) -> None:
        store, other = harness.engine, harness.second()
        if store is other:
            pytest.skip("one engine object has one listener")
        join(store)
        busy = Thread(target=lambda: store.wait([Watch("default", (LOOP,))], LONG_S), daemon=True)
        busy.start()
        try:
            numbers = iter(range(10_000))
            for slot in (THREAD, LOOP):
                ids = [f"{slot}{next(numbers)}" for _ in range(3)]
                if slot is LOOP:
                    store.wake()
                    busy.join()
                    busy = Thread(target=lambda: store.wait([Watch("default", (THREAD,))], LONG_S), daemon=True)
                    busy.start()
                assert ended_by(
                    lambda slot=slot: other.wait([Watch("default", (slot,))], LONG_S),  # type: ignore[misc]
                    lambda ids=ids, slot=slot: store_kinds(store, slot, *ids),  # type: ignore[misc]
                    once=True,
                )
        finally:
            store.wake()
            busy.join()
