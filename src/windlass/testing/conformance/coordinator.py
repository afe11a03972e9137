"""Circuits: how one opens, is probed and closes."""

from __future__ import annotations

from windlass.core.coordination import CircuitPolicy, CircuitRow, Tally
from windlass.core.model import Guard, GuardKind, NewJob
from windlass.engines.base import Store
from windlass.testing.conformance.harness import Harness, join, place, take_one, together

TEN = 10_000
POLICY = CircuitPolicy(failures=3, window_ms=TEN, open_for_ms=5_000, half_open=2)


def opened(store: Store) -> CircuitRow:
    """Open circuit c by failures."""
    row = store.tally("c", POLICY, Tally(failed=3, epoch=store.circuit("c").epoch, reason="down"))
    assert row.state == "open"
    return row


class CoordinatorSuite:
    """``Coordinator``, of circuits."""

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

    def test_a_job_that_was_a_probe_before_the_circuit_closed_takes_no_place_of_a_later_probe(
        self, harness: Harness
    ) -> None:
        store = harness.engine
        join(store, lease_ms=100 * TEN)
        opened(store)
        harness.clock.advance(5_000)
        place(store, [NewJob("a", "shop.jobs.add", "default", "[]", guards=(Guard(GuardKind.CIRCUIT, "c"),))])
        assert take_one(store).id == "a"
        assert store.circuit("c").probes == 1
        store.switch("c", None, False, None, 2)
        opened(store)
        harness.clock.advance(5_000)
        assert store.circuit("c").probes == 0
        assert [store.probe("c", token, TEN, None).admitted for token in ("t1", "t2", "t3")] == [True, True, False]
