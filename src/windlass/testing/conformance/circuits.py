"""Circuits, as a fleet agrees on them through a store: how one opens, is probed and closes."""

from __future__ import annotations

from random import Random

from msgspec.json import encode
from msgspec.structs import replace

from windlass.core.circuit import CircuitPolicy, CircuitRow, CircuitState, Tally, decode, places, standing
from windlass.core.model import Guard, GuardKind
from windlass.core.work import LeaseRef, Want
from windlass.engines.base import Store
from windlass.guards import agreed
from windlass.testing.conformance.harness import Harness, clear, ended, job, join, place, swap, take, together

TEN = 10_000
POLICY = CircuitPolicy(failures=3, window_ms=TEN, open_for_ms=5_000, half_open=2)


def document(rng: Random, now: int) -> dict[str, object]:
    """A circuit, mostly sound, and mostly open or half-open."""
    fields: dict[str, list[object]] = {
        "state": ["open", "half_open", "half_open", "closed", "ajar"],
        "epoch": [0, 3, -1, "x"],
        "since": [now - 5_000, now, None, 1e300],
        "open_until": [now - 1, now, now + 1, now + 60_000, None, "soon", 1.5],
        "half_open": [1, 2, 5, 0, True],
        "successes": [0, 1, 2, -1],
        "reason": ["down", None, 5],
        "by_hand": [False, True, 1],
        "slices": [[], [[now // 500, 1, 2]], [[now // 500, 1]], 5],
        "slice_ms": [500, 0],
    }
    made = {"state": rng.choice(fields["state"][:3])}
    for name, values in fields.items():
        if rng.random() < 0.4:
            made[name] = values[0] if rng.random() < 0.5 else rng.choice(values)
    return made


class Seen(CircuitRow, frozen=True):
    """A circuit after one call: which state it has entered by that, and whether the call may go on."""

    entered: CircuitState | None = None
    admitted: bool = False


def seen(store: Store, name: str, change: agreed.Change, admitted: bool = False) -> Seen:
    row = agreed.see(store, name)
    fields = {field: getattr(row, field) for field in row.__struct_fields__}
    return Seen(**fields, entered=change.entered, admitted=admitted)


def tally(store: Store, name: str, policy: CircuitPolicy, report: Tally) -> Seen:
    """Report calls, and give back the place of a probe."""
    change = agreed.tally(store, name, policy, report)
    if report.probe is not None:
        agreed.give_back(store, name, report.probe)
    return seen(store, name, change)


def probe(store: Store, name: str, token: str, job: LeaseRef | None = None) -> Seen:
    """Ask to go through."""
    answer = agreed.admit(store, name, token, job)
    return seen(store, name, answer.change, answer.is_admitted)


def switch(store: Store, name: str, open_ms: int | None, opened: bool, half_open: int = 1) -> Seen:
    """Open or close by hand."""
    return seen(store, name, agreed.switch(store, name, open_ms, opened, "maintenance", half_open))


def opened(store: Store) -> Seen:
    """Open circuit c by failures."""
    row = tally(store, "c", POLICY, Tally(failed=3, epoch=agreed.see(store, "c").epoch, reason="down"))
    assert row.state == "open"
    return row


class CircuitSuite:
    """``guards.agreed`` on a store."""

    def test_a_circuit_that_nobody_reported_of_is_closed(self, harness: Harness) -> None:
        row = agreed.see(harness.engine, "c")
        assert (row.state, row.epoch) == ("closed", 0)
        assert probe(harness.engine, "c", "t").admitted
        assert agreed.rows(harness.engine) == []

    def test_so_many_failures_in_the_window_open_a_circuit(self, harness: Harness) -> None:
        store = harness.engine
        assert tally(store, "c", POLICY, Tally(failed=2)).state == "closed"
        row = tally(store, "c", POLICY, Tally(ok=5, failed=1, reason="down"))
        assert (row.state, row.entered, row.left_ms, row.reason) == ("open", "open", 5_000, "down")
        assert [found.name for found in agreed.rows(store)] == ["c"]

    def test_failures_that_left_the_window_do_not_count(self, harness: Harness) -> None:
        store = harness.engine
        tally(store, "c", POLICY, Tally(failed=2))
        harness.clock.advance(TEN + TEN // 10)
        row = tally(store, "c", POLICY, Tally(failed=2))
        assert (row.state, row.failures) == ("closed", 2)

    def test_a_rate_of_failures_opens_a_circuit_once_there_were_enough_calls(self, harness: Harness) -> None:
        store = harness.engine
        policy = CircuitPolicy(failures=None, failure_rate=0.5, min_calls=10, window_ms=TEN)
        assert tally(store, "c", policy, Tally(failed=4, ok=1)).state == "closed"
        assert tally(store, "c", policy, Tally(ok=4)).state == "closed"
        assert tally(store, "c", policy, Tally(failed=1)).state == "open"

    def test_retry_after_keeps_a_circuit_open_for_longer(self, harness: Harness) -> None:
        row = tally(harness.engine, "c", POLICY, Tally(failed=3, retry_after_ms=60_000))
        assert row.left_ms == 60_000

    def test_an_open_circuit_admits_nobody_until_its_time(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        assert not probe(store, "c", "t").admitted
        harness.clock.advance(4_999)
        assert not probe(store, "c", "t").admitted
        harness.clock.advance(1)
        assert agreed.see(store, "c").state == "half_open"
        row = probe(store, "c", "t")
        assert (row.admitted, row.entered) == (True, "half_open")

    def test_half_open_admits_exactly_as_many_probes_as_close_it(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        opened(store)
        harness.clock.advance(5_000)
        rows = together(*[lambda n=n: probe((store, other)[n % 2], "c", f"t{n}") for n in range(8)])
        assert sum(row.admitted for row in rows) == 2
        assert sum(row.entered is not None for row in rows) == 1

    def test_a_probe_asks_twice_and_is_one(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        harness.clock.advance(5_000)
        assert probe(store, "c", "t1").admitted
        assert probe(store, "c", "t1").admitted
        assert agreed.see(store, "c").probes == 1

    def test_successes_of_all_probes_close_a_circuit(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        harness.clock.advance(5_000)
        epoch = probe(store, "c", "t1").epoch
        row = tally(store, "c", POLICY, Tally(ok=1, epoch=epoch, probe="t1"))
        assert (row.state, row.successes) == ("half_open", 1)
        assert probe(store, "c", "t2").admitted
        assert not probe(store, "c", "t3").admitted
        row = tally(store, "c", POLICY, Tally(ok=1, epoch=epoch, probe="t2"))
        assert (row.state, row.entered) == ("closed", "closed")
        assert agreed.see(store, "c").failures == 0

    def test_the_failure_of_a_probe_opens_the_circuit_again(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        harness.clock.advance(5_000)
        epoch = probe(store, "c", "t1").epoch
        row = tally(store, "c", POLICY, Tally(failed=1, epoch=epoch, probe="t1"))
        assert (row.state, row.entered, row.left_ms) == ("open", "open", 5_000)

    def test_a_probe_that_vanished_makes_room_for_another(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        harness.clock.advance(5_000)
        for token in ("t1", "t2"):
            assert probe(store, "c", token).admitted
        harness.clock.advance(agreed.PROBE_LEASE_MS - 1)
        assert not probe(store, "c", "t3").admitted
        harness.clock.advance(1)
        assert probe(store, "c", "t3").admitted

    def test_a_probe_that_proved_nothing_makes_room_for_another(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        harness.clock.advance(5_000)
        epoch = probe(store, "c", "t1").epoch
        probe(store, "c", "t2")
        tally(store, "c", POLICY, Tally(epoch=epoch, probe="t1"))
        assert agreed.see(store, "c").state == "half_open"
        assert probe(store, "c", "t3").admitted

    def test_calls_of_an_earlier_state_say_nothing(self, harness: Harness) -> None:
        store = harness.engine
        before = agreed.see(store, "c").epoch
        opened(store)
        harness.clock.advance(5_000)
        now = probe(store, "c", "t1").epoch
        tally(store, "c", POLICY, Tally(failed=9, ok=9, epoch=before))
        row = agreed.see(store, "c")
        assert (row.state, row.epoch, row.successes) == ("half_open", now, 0)

    def test_what_a_fleet_reports_at_once_is_all_counted(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        policy, known = CircuitPolicy(failures=10_000), agreed.look(store, "c")

        def report(n: int) -> bool:
            for _ in range(25):
                agreed.tally((store, other)[n % 2], "c", policy, Tally(ok=1, failed=1), known)
            return True

        assert all(together(*[lambda n=n: report(n) for n in range(8)]))
        row = agreed.see(store, "c")
        assert (row.calls, row.failures) == (400, 200)

    def test_one_of_all_that_report_at_once_opens_it(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        report = Tally(failed=1, reason="down")
        changes = together(*[lambda n=n: agreed.tally((store, other)[n % 2], "c", POLICY, report) for n in range(8)])
        assert [change.entered for change in changes if change.entered] == ["open"]
        assert agreed.see(store, "c").epoch == 1

    def test_exactly_as_many_probes_as_close_it_are_admitted_while_others_succeed(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        policy = replace(POLICY, half_open=4)
        tally(store, "c", policy, Tally(failed=3))
        harness.clock.advance(5_000)
        known = agreed.look(store, "c")

        def call(n: int) -> list[CircuitState | None]:
            engine, entered = (store, other)[n % 2], list[CircuitState | None]()
            for turn in range(200):
                answer = agreed.admit(engine, "c", f"{n}-{turn}", None, known if turn == 0 else None)
                it = answer.change.known.document
                if it.state == "closed":
                    break
                if answer.is_admitted:
                    report = Tally(ok=1, epoch=it.epoch, probe=f"{n}-{turn}")
                    entered += answer.change.entered, agreed.tally(engine, "c", policy, report).entered
                    agreed.give_back(engine, "c", f"{n}-{turn}")
            return entered

        entered = [one for each in together(*[lambda n=n: call(n) for n in range(8)]) for one in each]
        assert agreed.see(store, "c").state == "closed"
        assert (len(entered), entered.count("half_open"), entered.count("closed")) == (2 * 4, 1, 1)

    def test_a_job_that_was_a_probe_before_the_circuit_closed_takes_no_place_of_a_later_probe(
        self, harness: Harness
    ) -> None:
        store = harness.engine
        join(store, lease_ms=100 * TEN)
        opened(store)
        harness.clock.advance(5_000)
        place(store, [replace(job("a"), guards=(Guard(GuardKind.CIRCUIT, "c"),))])
        assert [lease.id for lease in take(store)] == ["a"]
        assert agreed.see(store, "c").probes == 1
        epoch = probe(store, "c", "t0").epoch
        tally(store, "c", POLICY, Tally(ok=2, epoch=epoch, probe="t0"))
        assert agreed.see(store, "c").state == "closed"
        opened(store)
        harness.clock.advance(5_000)
        assert agreed.see(store, "c").probes == 0
        assert [probe(store, "c", token).admitted for token in ("t1", "t2", "t3")] == [True, True, False]

    def test_by_hand_a_probe_that_hangs_gives_its_place_back(self, harness: Harness) -> None:
        store = harness.engine
        opened(store)
        harness.clock.advance(5_000)
        assert all(probe(store, "c", token).admitted for token in ("t1", "t2"))
        switch(store, "c", None, False)
        switch(store, "c", 1_000, True)
        harness.clock.advance(1_000)
        assert probe(store, "c", "t3").admitted

    def test_what_is_known_may_be_old(self, harness: Harness) -> None:
        store = harness.engine
        known = agreed.look(store, "c")
        opened(store)
        assert agreed.tally(store, "c", POLICY, Tally(failed=3), known).entered is None
        assert agreed.see(store, "c").epoch == 1
        harness.clock.advance(5_000)
        answer = agreed.admit(store, "c", "t", None, known)
        assert answer.is_admitted  # for as long as a process may believe in an old state: guards.circuit
        assert agreed.admit(store, "c", "t", None).change.entered == "half_open"

    def test_a_report_is_counted_when_it_is_written_and_not_when_it_was_known(self, harness: Harness) -> None:
        store = harness.engine
        known = agreed.tally(store, "c", POLICY, Tally(failed=2)).known
        harness.clock.advance(TEN + TEN // 10)
        assert agreed.tally(store, "c", POLICY, Tally(failed=2), known).entered is None
        assert agreed.see(store, "c").failures == 2

    def test_a_claim_judges_a_document_as_it_is_judged_above_the_store(self, harness: Harness) -> None:
        store, rng = harness.engine, Random(7)
        join(store)
        for n in range(120):
            name, now = f"c{n}", store.times().leases
            text = encode(document(rng, now)).decode()
            swap(store, f"circuit:{name}", 0, text)
            guards = (Guard(GuardKind.CIRCUIT, name),)
            place(store, [replace(job(f"{n}-{each}"), guards=guards) for each in range(4)])
            it = standing(decode(text), now)
            claimed = store.claim(Want("w1", 10))
            assert len(claimed.leases) == (4 if it.state == "closed" else min(4, max(0, places(it)))), text
            clear(store, "default", 10)
            store.settle([ended(lease) for lease in claimed.leases])

    def test_a_document_that_cannot_be_read_is_as_none(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        for n, text in enumerate(("no JSON", '{"state":"ajar"}', '{"state":"open","open_until":"soon"}', "[]", "null")):
            document = store.read(["circuit:c"])[0]
            swap(store, "circuit:c", document.version, text)
            assert agreed.see(store, "c") == CircuitRow("c")
            place(store, [replace(job(f"j{n}"), guards=(Guard(GuardKind.CIRCUIT, "c"),))])
            assert [lease.id for lease in take(store)] == [f"j{n}"]
        opened(store)

    def test_open_by_hand_lasts_until_it_is_closed_or_for_its_time(self, harness: Harness) -> None:
        store = harness.engine
        row = switch(store, "c", None, True)
        assert (row.state, row.by_hand, row.left_ms, row.entered) == ("open", True, None, "open")
        harness.clock.advance(100 * TEN)
        assert agreed.see(store, "c").state == "open"
        assert switch(store, "c", None, False).entered == "closed"
        assert switch(store, "c", None, False).entered is None
        switch(store, "c", TEN, True)
        harness.clock.advance(TEN)
        assert agreed.see(store, "c").state == "half_open"
