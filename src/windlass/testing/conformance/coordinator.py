"""Locks: owners, lines, fences."""

from __future__ import annotations

import threading

from windlass.core.coordination import Grip
from windlass.engines.base import Store
from windlass.testing.conformance.harness import DEADLINE_S, Harness, job, join, place, take_one, together, upkeep

TEN = 10_000


def grab(store: Store, token: str, key: str = "k", wait_ms: int = 0) -> Grip:
    return store.lock(key, token, TEN, f"owner {token}", wait_ms)


class CoordinatorSuite:
    """``Coordinator``."""

    # -- locks --

    def test_a_lock_has_one_holder(self, harness: Harness) -> None:
        store = harness.engine
        assert grab(store, "t1").fence is not None
        busy = grab(store, "t2")
        assert (busy.fence, busy.left_ms, busy.owner) == (None, TEN, "owner t1")
        assert grab(store, "t2", key="other").fence is not None

    def test_taking_a_lock_again_with_its_token_renews_it(self, harness: Harness) -> None:
        store = harness.engine
        first = grab(store, "t1")
        harness.clock.advance(9_000)
        assert grab(store, "t1").fence == first.fence
        assert grab(store, "t2").left_ms == TEN

    def test_only_its_token_releases_a_lock_or_nobody_in_particular(self, harness: Harness) -> None:
        store = harness.engine
        grab(store, "t1")
        assert not store.unlock("k", "t2")
        assert grab(store, "t2").fence is None
        assert store.unlock("k", "t1")
        assert grab(store, "t2").fence is not None
        assert store.unlock("k", None)
        assert not store.unlock("k", None)

    def test_fences_of_locks_and_jobs_grow_whatever_becomes_of_the_lock(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        fences = []
        for n, step in enumerate((0, -3_600_000, 5, -1, 0)):
            harness.clock.step_wall(step)
            fence = grab(store, f"t{n}").fence
            assert fence is not None
            fences.append(fence)
            store.unlock("k", f"t{n}")
            place(store, [job(f"j{n}")])
            fences.append(take_one(store).fence)
        assert fences == sorted(set(fences))

    def test_a_holder_whose_lease_ran_out_is_succeeded_and_told_so(self, harness: Harness) -> None:
        store = harness.engine
        first = grab(store, "t1")
        harness.clock.advance(TEN)
        second = grab(store, "t2")
        assert first.fence is not None
        assert second.fence is not None
        assert second.fence > first.fence
        assert store.renew([("k", "t1"), ("k", "t2")], TEN) == [False, True]
        assert not store.unlock("k", "t1")

    def test_a_late_holder_that_nobody_succeeded_goes_on(self, harness: Harness) -> None:
        store = harness.engine
        grab(store, "t1")
        harness.clock.advance(TEN + 5_000)
        assert store.renew([("k", "t1")], TEN) == [True]
        assert grab(store, "t2").fence is None

    def test_no_step_of_the_wall_clock_ends_a_lease(self, harness: Harness) -> None:
        store = harness.engine
        grab(store, "t1")
        harness.clock.step_wall(10 * TEN)
        assert grab(store, "t2").fence is None

    def test_who_waits_is_served_in_order(self, harness: Harness) -> None:
        store = harness.engine
        grab(store, "t1")
        for token in ("t2", "t3"):
            assert grab(store, token, wait_ms=3_000).fence is None
        store.unlock("k", "t1")
        assert grab(store, "t4").fence is None  # others were first
        assert grab(store, "t3", wait_ms=3_000).fence is None
        assert grab(store, "t2", wait_ms=3_000).fence is not None
        store.unlock("k", "t2")
        assert grab(store, "t3", wait_ms=3_000).fence is not None

    def test_a_waiter_that_does_not_ask_again_loses_its_place(self, harness: Harness) -> None:
        store = harness.engine
        grab(store, "t1")
        grab(store, "gone", wait_ms=3_000)
        grab(store, "t2", wait_ms=60_000)
        harness.clock.advance(3_000)
        store.unlock("k", "t1")
        assert grab(store, "t2", wait_ms=3_000).fence is not None

    def test_a_waiter_can_leave_the_line(self, harness: Harness) -> None:
        store = harness.engine
        grab(store, "t1")
        grab(store, "t2", wait_ms=60_000)
        store.unlock("k", "t2")
        store.unlock("k", "t1")
        assert grab(store, "t3").fence is not None

    def test_locks_are_listed_with_owner_and_line(self, harness: Harness) -> None:
        store = harness.engine
        fence = grab(store, "t1", key="b").fence
        grab(store, "t2", key="b", wait_ms=5_000)
        grab(store, "t3", key="a")
        first, second = store.locks()
        assert (first.key, first.waiting) == ("a", 0)
        assert (second.key, second.owner, second.fence, second.left_ms, second.waiting) == (
            "b", "owner t1", fence, TEN, 1,
        )  # fmt: skip
        store.unlock("b", "t1")
        assert [row.key for row in store.locks()] == ["a"]

    def test_a_release_wakes_a_waiter_of_another_engine(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        grab(store, "t1")
        waiting = threading.Event()

        def wait() -> bool:
            seen = grab(other, "t2", wait_ms=60_000).seen
            waiting.set()
            while grab(other, "t2", wait_ms=60_000).fence is None:
                other.wait_unlocked(seen, DEADLINE_S)
            return True

        def release() -> bool:
            return waiting.wait(DEADLINE_S) and store.unlock("k", "t1")

        assert together(wait, release) == [True, True]

    def test_a_lock_that_nobody_wanted_for_an_hour_after_its_lease_is_forgotten(self, harness: Harness) -> None:
        store = harness.engine
        gone = store.lock("gone", "t1", 1_000, "box", 0)
        store.lock("held", "t2", 7_200_000, "box", 0)
        store.lock("held", "t3", 1_000, "box", 60_000)  # waits, and dies
        harness.clock.advance(3_600_000)
        upkeep(store)
        assert [row.key for row in store.locks()] == ["gone", "held"]
        harness.clock.advance(2_000)
        upkeep(store)
        assert [row.key for row in store.locks()] == ["held"]
        assert store.renew([("gone", "t1")], 1_000) == [False]
        again = store.lock("gone", "t4", 1_000, "box", 0)
        assert (again.fence or 0) > (gone.fence or 0) > 0

    def test_many_takers_never_hold_a_lock_together(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        inside: list[int] = []
        fences: list[int] = []

        def work(n: int) -> int:
            engine, turns = (store, other)[n % 2], 0
            for turn in range(400):
                fence = engine.lock("k", f"{n}-{turn}", TEN, "", 0).fence
                if fence is None:
                    continue
                inside.append(n)
                assert inside == [n]
                fences.append(fence)
                inside.remove(n)
                engine.unlock("k", f"{n}-{turn}")
                turns += 1
            return turns

        assert sum(together(*[lambda n=n: work(n) for n in range(4)])) == len(fences) > 0
        assert fences == sorted(set(fences))
