"""What becomes of a circuit, against a model that keeps every call."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.core import circuit
from windlass.core.circuit import CircuitDocument, CircuitPolicy, Tally
from windlass.core.model import Times

POLICY = CircuitPolicy(failures=3, window_ms=10_000, open_for_ms=5_000, half_open=2)
AT = 1_700_000_000_000


@dataclass
class Model:
    """A circuit that remembers every call with its time. Nothing in it is counted in slices."""

    policy: CircuitPolicy
    state: str = "closed"
    epoch: int = 0
    until: int | None = None
    successes: int = 0
    calls: list[tuple[int, bool]] = field(default_factory=list)

    def pass_to(self, now: int) -> None:
        if self.state == "open" and self.until is not None and now >= self.until:
            self.turn("half_open")

    def turn(self, state: str, until: int | None = None) -> None:
        self.state, self.until, self.successes, self.calls = state, until, 0, []
        self.epoch += 1

    def report(self, tally: Tally, now: int) -> None:
        if tally.epoch != self.epoch:
            return
        if self.state == "closed":
            self.calls += [(now, True)] * tally.ok + [(now, False)] * tally.failed
            if tally.failed and self.trips(now):
                self.turn("open", now + max(self.policy.open_for_ms, tally.retry_after_ms))
        elif self.state == "half_open" and tally.probe is not None:
            self.successes += tally.ok
            if tally.failed:
                self.turn("open", now + max(self.policy.open_for_ms, tally.retry_after_ms))
            elif self.successes >= self.policy.half_open:
                self.turn("closed")

    def trips(self, now: int) -> bool:
        # A call counts to the end of the slice of the window that it was made in.
        slice_ms = self.policy.window_ms // 20
        oks = [ok for at, ok in self.calls if now // slice_ms - at // slice_ms < 20]
        failed, rate = oks.count(False), self.policy.failure_rate
        by_count = self.policy.failures is not None and failed >= self.policy.failures
        return by_count or (rate is not None and len(oks) >= self.policy.min_calls and failed >= rate * len(oks))


policies = st.sampled_from([POLICY, CircuitPolicy(None, 10_000, 3_000, 1, min_calls=4, failure_rate=0.5)])
tallies = st.builds(
    Tally,
    ok=st.integers(0, 2),
    failed=st.integers(0, 2),
    epoch=st.sampled_from([0, 0, 0, 0, 1]),  # how far behind
    probe=st.sampled_from([None, "t"]),
    retry_after_ms=st.sampled_from([0, 0, 9_000]),
)
switches = st.tuples(st.booleans(), st.sampled_from([None, 2_000]))


@given(policy=policies, steps=st.lists(st.tuples(st.integers(0, 6_000), tallies | switches), max_size=40))
def test_a_circuit_is_as_one_that_keeps_every_call(
    policy: CircuitPolicy, steps: list[tuple[int, Tally | tuple[bool, int | None]]]
) -> None:
    model, text, now = Model(policy), None, AT
    for wait, step in steps:
        now += wait
        model.pass_to(now)
        it = circuit.standing(circuit.decode(text), now)
        assert (it.state, it.epoch, it.successes) == (model.state, model.epoch, model.successes)
        if isinstance(step, Tally):
            report = Tally(step.ok, step.failed, it.epoch - step.epoch, step.probe, step.retry_after_ms)
            after = circuit.tallied(it, policy, report, now)
            model.report(report, now)
        else:
            opened, open_ms = step
            after = circuit.switched(it, open_ms, opened, "why", policy.half_open, now)
            if opened:
                model.turn("open", None if open_ms is None else now + open_ms)
            elif model.state != "closed":
                model.turn("closed")
        text = text if after is None else circuit.encode(after)
        it = circuit.standing(circuit.decode(text), now)
        assert (it.state, it.epoch, it.successes) == (model.state, model.epoch, model.successes)
        assert circuit.opens_in(it, now) == (0 if it.state != "open" else model.until and model.until - now)
        assert len(it.slices) <= 20


def open_one(now: int = AT) -> CircuitDocument:
    after = circuit.tallied(CircuitDocument(), POLICY, Tally(failed=3, reason="down"), now)
    assert after is not None
    return after


def test_an_open_circuit_is_half_open_from_its_time_on_in_an_epoch_of_its_own() -> None:
    it = open_one()
    assert circuit.standing(it, AT + 4_999) is it
    half = circuit.standing(it, AT + 5_000)
    assert (half.state, half.epoch, half.since, half.reason) == ("half_open", it.epoch + 1, AT + 5_000, "down")
    assert circuit.standing(it, AT + 60_000) == half  # whoever writes it, and whenever, writes the same
    assert circuit.standing(half, AT + 60_000) is half


def test_what_says_nothing_changes_nothing() -> None:
    it = open_one()
    assert circuit.tallied(it, POLICY, Tally(failed=9, epoch=it.epoch), AT) is None
    assert circuit.tallied(it, POLICY, Tally(ok=9, epoch=it.epoch - 1), AT) is None
    assert circuit.switched(CircuitDocument(), None, False, None, 1, AT) is None
    half = circuit.standing(it, AT + 5_000)
    for report in (Tally(ok=1), Tally(failed=1), Tally(probe="t"), Tally(ok=1, epoch=half.epoch)):
        assert circuit.tallied(half, POLICY, report, AT + 5_000) is None


def test_places_are_for_as_many_probes_as_are_still_needed() -> None:
    half = circuit.standing(open_one(), AT + 5_000)
    assert (circuit.places(CircuitDocument()), circuit.places(open_one()), circuit.places(half)) == (0, 0, 2)
    after = circuit.tallied(half, POLICY, Tally(ok=1, epoch=half.epoch, probe="t"), AT + 5_000)
    assert after is not None
    assert circuit.places(after) == 1


def test_a_closed_circuit_lets_its_waiters_on_in_steps_that_double() -> None:
    it = CircuitDocument(since=AT, half_open=2)
    assert [circuit.lets_on(it, AT + ms) for ms in (-5_000, 0, 99, 100, 250, 10_000_000)] == [2, 2, 2, 4, 8, 2 << 16]


def test_waiters_of_a_circuit_look_again_when_it_opens_or_when_a_lease_runs_out() -> None:
    it, half = open_one(), circuit.standing(open_one(), AT + 5_000)
    assert circuit.looks_again_at(it, AT + 9_000) == AT + 5_000
    assert circuit.looks_again_at(half, AT + 9_000) == AT + 9_000
    assert circuit.looks_again_at(half, None) is None


def test_another_window_begins_anew_and_a_clock_that_was_set_back_leaves_nothing_for_ever() -> None:
    it = circuit.tallied(CircuitDocument(), POLICY, Tally(failed=2), AT)
    assert it is not None
    assert circuit.window(it, AT) == (2, 2)
    assert circuit.window(it, AT - 60_000) == (0, 0)
    longer = CircuitPolicy(failures=3, window_ms=20_000)
    after = circuit.tallied(it, longer, Tally(failed=2), AT)
    assert after is not None
    assert circuit.window(after, AT) == (2, 2)
    after = circuit.tallied(it, POLICY, Tally(ok=1), AT - 60_000)
    assert after is not None
    assert (len(after.slices), circuit.window(after, AT - 60_000)) == (1, (1, 0))


@pytest.mark.parametrize(
    "text",
    [None, "", "null", "[]", "5", '{"state":"ajar"}', '{"epoch":-1}', '{"half_open":0}', '{"since":1e300}', "[" * 9_999,
     '{"slices":[[1,2]]}', '{"slice_ms":0}', '{"state":"open","open_until":"soon"}'],
)  # fmt: skip
def test_what_is_no_document_is_as_none(text: str | None) -> None:
    assert circuit.decode(text) == CircuitDocument()


def test_people_see_when_by_their_own_clock_and_nothing_of_what_is_over() -> None:
    times = Times(AT + 1_000, 5_000_000)
    row = circuit.row_of("c", open_one(), times, probes=0, waiting=4)
    assert (row.state, row.since, row.left_ms, row.reason, row.waiting) == ("open", 4_999_000, 4_000, "down", 4)
    row = circuit.row_of("c", open_one(), Times(AT + 7_000, 0), probes=1, waiting=4)
    assert (row.state, row.since, row.left_ms, row.probes) == ("half_open", -2_000, None, 1)
    closed = circuit.switched(open_one(), None, False, None, 1, AT)
    assert closed is not None
    row = circuit.row_of("c", closed, times, probes=1, waiting=0)
    assert (row.state, row.reason, row.probes, row.calls) == ("closed", None, 0, 0)
