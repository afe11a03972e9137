"""Locks and circuits: owners, lines, fences, and how a circuit opens, is probed and closes."""

from __future__ import annotations

import threading

from windlass.core.coordination import CircuitPolicy, CircuitRow, Grip, Tally
from windlass.engines.base import Store
from windlass.testing.conformance.harness import DEADLINE_S, Harness, job, join, place, take_one, together, upkeep

TEN = 10_000
POLICY = CircuitPolicy(failures=3, window_ms=TEN, open_for_ms=5_000, half_open=2)


def grab(store: Store, token: str, key: str = "k", wait_ms: int = 0) -> Grip:
    return store.lock(key, token, TEN, f"owner {token}", wait_ms)


def opened(store: Store) -> CircuitRow:
    """Open circuit c by failures."""
    row = store.tally("c", POLICY, Tally(failed=3, epoch=store.circuit("c").epoch, reason="down"))
    assert row.state == "open"
    return row


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

    # -- circuits --

    def test_a_circuit_that_nobody_reported_of_is_closed(self, harness: Harness) -> None:
        row = harness.engine.circuit("c")
        assert (row.state, row.epoch, row.admitted) == ("closed", 0, True)
        assert harness.engine.circuits() == []

    def test_so_many_failures_in_the_window_open_a_circuit(self, harness: Harness) -> None:
        store = harness.engine
        assert store.tally("c", POLICY, Tally(failed=2)).state == "closed"
        row = store.tally("c", POLICY, Tally(ok=5, failed=1, reason="down"))
        assert (row.state, row.changed, row.left_ms, row.reason) == ("open", "closed", 5_000, "down")
        assert [found.name for found in store.circuits()] == ["c"]

    def test_failures_that_left_the_window_do_not_count(self, harness: Harness) -> None:
        store = harness.engine
        store.tally("c", POLICY, Tally(failed=2))
        harness.clock.advance(TEN + TEN // 10)
        row = store.tally("c", POLICY, Tally(failed=2))
        assert (row.state, row.failures) == ("closed", 2)

    def test_a_rate_of_failures_opens_a_circuit_once_there_were_enough_calls(self, harness: Harness) -> None:
        store = harness.engine
        policy = CircuitPolicy(failures=None, failure_rate=0.5, min_calls=10, window_ms=TEN)
        assert store.tally("c", policy, Tally(failed=4, ok=1)).state == "closed"
        assert store.tally("c", policy, Tally(ok=4)).state == "closed"
        assert store.tally("c", policy, Tally(failed=1)).state == "open"

    def test_retry_after_keeps_a_circuit_open_for_longer(self, harness: Harness) -> None:
        row = harness.engine.tally("c", POLICY, Tally(failed=3, retry_after_ms=60_000))
        assert row.left_ms == 60_000

    def test_an_open_circuit_admits_nobody_until_its_time(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        assert not store.probe("c", "t", TEN, None).admitted
        harness.clock.advance(4_999)
        assert not store.probe("c", "t", TEN, None).admitted
        harness.clock.advance(1)
        assert store.circuit("c").state == "half_open"
        row = store.probe("c", "t", TEN, None)
        assert (row.admitted, row.changed) == (True, "open")

    def test_half_open_admits_exactly_as_many_probes_as_close_it(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        opened(store)
        harness.clock.advance(5_000)
        rows = together(*[lambda n=n: (store, other)[n % 2].probe("c", f"t{n}", TEN, None) for n in range(8)])
        assert sum(row.admitted for row in rows) == 2
        assert sum(row.changed is not None for row in rows) == 1

    def test_a_probe_asks_twice_and_is_one(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        harness.clock.advance(5_000)
        assert store.probe("c", "t1", TEN, None).admitted
        assert store.probe("c", "t1", TEN, None).admitted
        assert store.circuit("c").probes == 1

    def test_successes_of_all_probes_close_a_circuit(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        harness.clock.advance(5_000)
        epoch = store.probe("c", "t1", TEN, None).epoch
        row = store.tally("c", POLICY, Tally(ok=1, epoch=epoch, probe="t1"))
        assert (row.state, row.successes) == ("half_open", 1)
        assert store.probe("c", "t2", TEN, None).admitted
        assert not store.probe("c", "t3", TEN, None).admitted
        row = store.tally("c", POLICY, Tally(ok=1, epoch=epoch, probe="t2"))
        assert (row.state, row.changed) == ("closed", "half_open")
        assert store.circuit("c").failures == 0

    def test_the_failure_of_a_probe_opens_the_circuit_again(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        harness.clock.advance(5_000)
        epoch = store.probe("c", "t1", TEN, None).epoch
        row = store.tally("c", POLICY, Tally(failed=1, epoch=epoch, probe="t1"))
        assert (row.state, row.changed, row.left_ms) == ("open", "half_open", 5_000)

    def test_a_probe_that_vanished_makes_room_for_another(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        harness.clock.advance(5_000)
        for token in ("t1", "t2"):
            assert store.probe("c", token, TEN, None).admitted
        assert not store.probe("c", "t3", TEN, None).admitted
        harness.clock.advance(TEN)
        assert store.probe("c", "t3", TEN, None).admitted

    def test_a_probe_that_proved_nothing_makes_room_for_another(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        harness.clock.advance(5_000)
        epoch = store.probe("c", "t1", TEN, None).epoch
        store.probe("c", "t2", TEN, None)
        store.tally("c", POLICY, Tally(epoch=epoch, probe="t1"))
        assert store.circuit("c").state == "half_open"
        assert store.probe("c", "t3", TEN, None).admitted

    def test_calls_of_an_earlier_state_say_nothing(self, harness: Harness) -> None:
        store = harness.engine
        before = store.circuit("c").epoch
        opened(store)
        harness.clock.advance(5_000)
        now = store.probe("c", "t1", TEN, None).epoch
        store.tally("c", POLICY, Tally(failed=9, ok=9, epoch=before))
        row = store.circuit("c")
        assert (row.state, row.epoch, row.successes) == ("half_open", now, 0)

    def test_open_by_hand_lasts_until_it_is_closed_or_for_its_time(self, harness: Harness) -> None:
        store = harness.engine
        row = store.switch("c", None, True, "maintenance", 1)
        assert (row.state, row.by_hand, row.left_ms, row.changed) == ("open", True, None, "closed")
        harness.clock.advance(100 * TEN)
        assert store.circuit("c").state == "open"
        assert store.switch("c", None, False, None, 1).changed == "open"
        assert store.switch("c", None, False, None, 1).changed is None
        store.switch("c", TEN, True, None, 1)
        harness.clock.advance(TEN)
        assert store.circuit("c").state == "half_open"
