"""Holds: who has a place at a gate, a run or a token; leases, lines and fences; and random histories of both.

The machine's model is a few lines of Python: places are counted, leases compared and a line is a list. Times of leases
end in 5 and time moves in tens, so "now" never meets a bound that is inclusive.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from windlass.core.coordination import Grip, HoldRow
from windlass.core.model import Guard, GuardKind, NewJob, State
from windlass.core.work import Kind, Lease, LeaseRef, Want
from windlass.engines.base import Store
from windlass.testing.conformance.harness import (
    DEADLINE_S,
    Harness,
    ended,
    job,
    join,
    place,
    state_of,
    take,
    take_one,
    together,
    upkeep,
)

TEN = 10_000
HOUR = 3_600_000
GATE = "lock:k"
SLACK_MS = 10  # that an engine may look at a gate behind its time, so that what is due together is looked at once
SHARED = "concurrency:c"
SLOTS = Guard(GuardKind.CONCURRENCY, "c", 2)


def grab(store: Store, token: str, gate: str = GATE, wait_ms: int = 0) -> Grip:
    return store.hold(gate, token, 1, TEN, f"owner {token}", wait_ms)


def guarded(*ids: str) -> list[NewJob]:
    """Jobs that take a place at the shared gate."""
    return [NewJob(job_id, "shop.jobs.add", "default", "[]", guards=(SLOTS,)) for job_id in ids]


def ref(lease: Lease) -> LeaseRef:
    return LeaseRef(lease.id, lease.fence)


class HoldSuite:
    """``Coordinator``, of holds."""

    # -- one place: locks --

    def test_a_lock_has_one_holder(self, harness: Harness) -> None:
        store = harness.engine
        assert grab(store, "t1").fence is not None
        busy = grab(store, "t2")
        assert (busy.fence, busy.left_ms, busy.owner) == (None, TEN, "owner t1")
        assert grab(store, "t2", gate="lock:other").fence is not None

    def test_taking_a_lock_again_with_its_token_renews_it(self, harness: Harness) -> None:
        store = harness.engine
        first = grab(store, "t1")
        harness.clock.advance(9_000)
        assert grab(store, "t1").fence == first.fence
        assert grab(store, "t2").left_ms == TEN

    def test_only_its_token_releases_a_lock_or_nobody_in_particular(self, harness: Harness) -> None:
        store = harness.engine
        grab(store, "t1")
        assert not store.release(GATE, "t2")
        assert grab(store, "t2").fence is None
        assert store.release(GATE, "t1")
        assert grab(store, "t2").fence is not None
        assert store.release(GATE, None)
        assert not store.release(GATE, None)

    def test_fences_of_locks_and_jobs_grow_whatever_becomes_of_the_lock(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        fences = []
        for n, step in enumerate((0, -3_600_000, 5, -1, 0)):
            harness.clock.step_wall(step)
            fence = grab(store, f"t{n}").fence
            assert fence is not None
            fences.append(fence)
            store.release(GATE, f"t{n}")
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
        assert store.renew([(GATE, "t1"), (GATE, "t2")], TEN) == [False, True]
        assert not store.release(GATE, "t1")

    def test_a_late_holder_that_nobody_succeeded_goes_on(self, harness: Harness) -> None:
        store = harness.engine
        grab(store, "t1")
        harness.clock.advance(TEN + 5_000)
        assert store.renew([(GATE, "t1")], TEN) == [True]
        assert grab(store, "t2").fence is None

    def test_leases_of_holds_follow_the_clock_of_leases_and_no_other(self, harness: Harness) -> None:
        """Choice: where the engine has one clock only, its tests say what a step of that one does."""
        store = harness.engine
        grab(store, "t1")
        harness.clock.step_wall(10 * TEN)
        assert grab(store, "t2").fence is None

    def test_who_waits_is_served_in_order(self, harness: Harness) -> None:
        store = harness.engine
        grab(store, "t1")
        for token in ("t2", "t3"):
            assert grab(store, token, wait_ms=3_000).fence is None
        store.release(GATE, "t1")
        assert grab(store, "t4").fence is None  # others were first
        assert grab(store, "t3", wait_ms=3_000).fence is None
        assert grab(store, "t2", wait_ms=3_000).fence is not None
        store.release(GATE, "t2")
        assert grab(store, "t3", wait_ms=3_000).fence is not None

    def test_a_waiter_that_does_not_ask_again_loses_its_place(self, harness: Harness) -> None:
        store = harness.engine
        grab(store, "t1")
        grab(store, "gone", wait_ms=3_000)
        grab(store, "t2", wait_ms=60_000)
        harness.clock.advance(3_000)
        store.release(GATE, "t1")
        assert grab(store, "t2", wait_ms=3_000).fence is not None

    def test_a_waiter_can_leave_the_line(self, harness: Harness) -> None:
        store = harness.engine
        grab(store, "t1")
        grab(store, "t2", wait_ms=60_000)
        store.release(GATE, "t2")
        store.release(GATE, "t1")
        assert grab(store, "t3").fence is not None

    def test_locks_are_listed_with_owner_and_line(self, harness: Harness) -> None:
        store = harness.engine
        fence = grab(store, "t1", gate="lock:b").fence
        grab(store, "t2", gate="lock:b", wait_ms=5_000)
        grab(store, "t3", gate="lock:a")
        first, second = store.holds("lock:")
        assert (first.gate, first.waiting) == ("lock:a", 0)
        assert (second.gate, second.owner, second.fence, second.left_ms, second.waiting) == (
            "lock:b", "owner t1", fence, TEN, 1,
        )  # fmt: skip
        store.release("lock:b", "t1")
        assert [row.gate for row in store.holds("lock:")] == ["lock:a"]

    def test_a_release_wakes_a_waiter_of_another_engine(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        grab(store, "t1")
        waiting = threading.Event()

        def wait() -> bool:
            seen = grab(other, "t2", wait_ms=60_000).seen
            waiting.set()
            while grab(other, "t2", wait_ms=60_000).fence is None:
                other.wait_released(seen, DEADLINE_S)
            return True

        def release() -> bool:
            return waiting.wait(DEADLINE_S) and store.release(GATE, "t1")

        assert together(wait, release) == [True, True]

    def test_a_lock_that_nobody_wanted_for_an_hour_after_its_lease_is_forgotten(self, harness: Harness) -> None:
        store = harness.engine
        gone = store.hold("lock:gone", "t1", 1, 1_000, "box")
        store.hold("lock:held", "t2", 1, 7_200_000, "box")
        store.hold("lock:held", "t3", 1, 1_000, "box", 60_000)  # waits, and dies
        harness.clock.advance(3_600_000)
        upkeep(store)
        assert [row.gate for row in store.holds("lock:")] == ["lock:gone", "lock:held"]
        harness.clock.advance(2_000)
        upkeep(store)
        assert [row.gate for row in store.holds("lock:")] == ["lock:held"]
        assert store.renew([("lock:gone", "t1")], 1_000) == [False]
        again = store.hold("lock:gone", "t4", 1, 1_000, "box")
        assert (again.fence or 0) > (gone.fence or 0) > 0

    def test_many_takers_never_hold_a_lock_together(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        inside: list[int] = []
        fences: list[int] = []

        def work(n: int) -> int:
            engine, turns = (store, other)[n % 2], 0
            for turn in range(400):
                fence = engine.hold(GATE, f"{n}-{turn}", 1, TEN).fence
                if fence is None:
                    continue
                inside.append(n)
                assert inside == [n]
                fences.append(fence)
                inside.remove(n)
                engine.release(GATE, f"{n}-{turn}")
                turns += 1
            return turns

        assert sum(together(*[lambda n=n: work(n) for n in range(4)])) == len(fences) > 0
        assert fences == sorted(set(fences))

    # -- several places, runs and tokens --

    def test_a_gate_has_as_many_holders_as_places(self, harness: Harness) -> None:
        store = harness.engine
        grips = [store.hold(SHARED, f"t{n}", 2, TEN - n, f"owner {n}") for n in range(3)]
        assert [grip.fence is not None for grip in grips] == [True, True, False]
        assert (grips[2].left_ms, grips[2].owner) == (TEN - 1, "owner 1")  # whose lease ends first
        assert store.hold(SHARED, "t0", 2, TEN).fence == grips[0].fence
        assert store.release(SHARED, "t0")
        assert store.hold(SHARED, "t2", 2, TEN).fence is not None

    def test_where_there_are_no_places_nobody_holds_one(self, harness: Harness) -> None:
        assert harness.engine.hold(SHARED, "t1", 0, TEN).fence is None
        assert harness.engine.holds() == []

    def test_runs_and_tokens_count_alike(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, guarded("a", "b"))
        assert store.hold(SHARED, "t1", 2, TEN).fence is not None
        (run,) = take(store)
        assert store.hold(SHARED, "t2", 2, TEN).fence is None
        store.settle([ended(run)])
        assert store.hold(SHARED, "t2", 2, TEN).fence is not None
        assert take(store) == []

    def test_a_release_lets_a_job_on_that_waits(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, guarded("a"))
        for token in ("t1", "t2"):
            store.hold(SHARED, token, 2, TEN)
        assert take(store) == []
        assert state_of(store, "a") is State.BLOCKED
        store.release(SHARED, "t1")
        assert take_one(store).id == "a"

    def test_the_end_of_a_lease_lets_a_job_on_that_waits_and_the_claim_says_when(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=HOUR)
        place(store, guarded("a"))
        for token in ("t1", "t2"):
            store.hold(SHARED, token, 2, TEN)
        claimed = store.claim(Want("w1", 5))
        assert claimed.leases == []
        assert claimed.due_in_ms is not None
        harness.clock.advance(claimed.due_in_ms)
        assert take_one(store).id == "a"

    def test_a_lease_that_was_renewed_keeps_a_job_waiting(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=HOUR)
        place(store, guarded("a"))
        held = [(SHARED, token) for token in ("t1", "t2")]
        for gate, token in held:
            store.hold(gate, token, 2, TEN)
        assert take(store) == []
        harness.clock.advance(9_000)
        assert store.renew(held, TEN) == [True, True]
        harness.clock.advance(9_000)
        claimed = store.claim(Want("w1", 5))
        assert claimed.leases == []
        assert claimed.due_in_ms is not None
        harness.clock.advance(claimed.due_in_ms)
        assert take_one(store).id == "a"

    @pytest.mark.parametrize("by", ["renew", "hold"])
    def test_a_lease_that_is_made_shorter_lets_a_job_on_when_it_ends(self, harness: Harness, by: str) -> None:
        store = harness.engine
        join(store, lease_ms=HOUR)
        place(store, guarded("a"))
        for token in ("t1", "t2"):
            store.hold(SHARED, token, 2, TEN)
        assert take(store) == []
        _ = store.renew([(SHARED, "t1")], 1_000) if by == "renew" else store.hold(SHARED, "t1", 2, 1_000)
        claimed = store.claim(Want("w1", 5))
        assert claimed.leases == []
        assert claimed.due_in_ms is not None
        assert 1_000 <= claimed.due_in_ms <= 1_050
        harness.clock.advance(claimed.due_in_ms)
        assert take_one(store).id == "a"

    def test_who_is_late_has_lost_a_place_that_a_run_took(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=HOUR)
        for token in ("t1", "t2"):
            store.hold(SHARED, token, 2, TEN)
        harness.clock.advance(TEN)
        place(store, guarded("a", "b"))
        assert len(take(store)) == 2
        assert store.renew([(SHARED, "t1"), (SHARED, "t2")], TEN) == [False, False]
        assert store.hold(SHARED, "t1", 2, TEN).fence is None

    def test_a_run_holds_by_itself_until_it_stops(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=HOUR)
        place(store, [NewJob("a", "shop.jobs.add", "default", "[]", guards=(Guard(GuardKind.CIRCUIT, "c"),))])
        lease = take_one(store)
        for token in ("t1", "t2"):
            assert store.hold("circuit:c", token, 1, TEN, job=ref(lease)).fence == lease.fence
        (row,) = store.holds()
        assert (row.job, row.fence, row.left_ms, row.since) == ("a", lease.fence, None, harness.clock.wall_ms())
        assert not store.release("circuit:c", "t1")
        harness.clock.advance(2 * TEN)
        assert store.hold("circuit:c", "t3", 1, TEN).fence is None
        store.settle([ended(lease, Kind.RELEASE)])
        assert store.holds() == []

    def test_a_run_that_is_over_or_has_no_such_guard_holds_by_its_token(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=HOUR)
        place(store, [*guarded("a"), job("b")])
        over, plain = take(store)
        store.settle([ended(over)])
        for token, lease in (("t1", over), ("t2", plain)):
            assert store.hold(SHARED, token, 2, TEN, job=ref(lease)).fence not in (None, lease.fence)
        assert [row.job for row in store.holds(SHARED)] == [None, None]
        store.settle([ended(plain)])
        assert len(store.holds(SHARED)) == 2
        harness.clock.advance(TEN)
        assert store.hold(SHARED, "t3", 1, TEN).fence is not None

    def test_released_by_hand_all_tokens_lose_their_places_and_runs_do_not(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, guarded("a", "b"))
        store.hold(SHARED, "t1", 2, TEN)
        (lease,) = take(store)
        assert store.release(SHARED, None)
        assert not store.release(SHARED, None)
        assert store.renew([(SHARED, "t1")], TEN) == [False]
        assert [row.job for row in store.holds(SHARED)] == [lease.id]
        assert take_one(store).id == "b"

    def test_released_by_hand_probes_of_runs_make_room_for_others(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [NewJob("a", "shop.jobs.add", "default", "[]", guards=(Guard(GuardKind.CIRCUIT, "c"),))])
        lease = take_one(store)
        assert store.hold("circuit:c", "t0", 2, TEN, job=ref(lease)).fence == lease.fence
        assert store.hold("circuit:c", "t1", 2, TEN).fence is not None
        assert store.hold("circuit:c", "t2", 2, TEN).fence is None
        assert store.release("circuit:c", None)
        assert store.holds() == []
        assert store.hold("circuit:c", "t2", 1, TEN).fence is not None

    def test_a_line_of_tokens_is_served_before_a_newcomer_also_where_runs_hold(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, guarded("a", "b"))
        runs = take(store)
        assert store.hold(SHARED, "first", 2, TEN, wait_ms=TEN).fence is None
        store.settle([ended(runs[0])])
        assert store.hold(SHARED, "late", 2, TEN).fence is None
        assert store.hold(SHARED, "first", 2, TEN, wait_ms=TEN).fence is not None

    def test_holds_are_listed_by_what_their_gates_begin_with(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, guarded("a"))
        run = take_one(store)
        gates = ("lock:c", "lock:%", "lock:", SHARED, "circuit:c")
        fences = {gate: store.hold(gate, "t", 2, TEN).fence for gate in gates}
        assert [row.gate for row in store.holds()] == ["circuit:c", SHARED, SHARED, "lock:", "lock:%", "lock:c"]
        assert [row.gate for row in store.holds("lock:")] == ["lock:", "lock:%", "lock:c"]
        assert [row.gate for row in store.holds("lock:%")] == ["lock:%"]
        assert {(row.job, row.fence) for row in store.holds(SHARED)} == {("a", run.fence), (None, fences[SHARED])}
        assert store.holds("circuit:d") == []

    def test_names_of_gates_and_tokens_are_told_apart_whatever_is_in_them(self, harness: Harness) -> None:
        store = harness.engine
        gates = ["lock:circuit:c", "circuit:c", "lock:lock:c", "lock:c", "lock:é\U0001f512", "lock:a b", "lock:A B"]
        assert all(store.hold(gate, "1", 1, TEN).fence is not None for gate in gates)
        assert sorted(row.gate for row in store.holds()) == sorted(gates)
        assert all(store.release(gate, "1") for gate in gates)
        assert store.holds() == []

    def test_many_takers_of_both_kinds_never_hold_more_than_the_places(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        join(store)
        place(store, guarded(*[f"j{n:03}" for n in range(60)]))
        inside: list[str] = []

        def token(n: int) -> int:
            engine, turns = (store, other)[n % 2], 0
            for turn in range(150):
                if engine.hold(SHARED, f"{n}-{turn}", 2, TEN).fence is not None:
                    inside.append(f"t{n}")
                    assert len(inside) <= 2
                    inside.remove(f"t{n}")
                    engine.release(SHARED, f"{n}-{turn}")
                    turns += 1
            return turns

        def runs() -> int:
            done = 0
            for _ in range(150):
                for lease in take(store, limit=1):
                    inside.append(lease.id)
                    assert len(inside) <= 2
                    inside.remove(lease.id)
                    store.settle([ended(lease)])
                    done += 1
            return done

        answers = together(lambda: token(0), lambda: token(1), runs)
        while lease := next(iter(take(store, limit=1)), None):
            store.settle([ended(lease)])
        assert all(state_of(store, f"j{n:03}") is State.DONE for n in range(60))
        assert all(answers)
        assert store.holds() == []


@dataclass
class Held:
    """A token's hold, as the model has it."""

    fence: int
    until: int


@dataclass
class Gate:
    """A gate, as the model has it."""

    places: int
    held: dict[str, Held] = field(default_factory=dict)
    line: dict[str, int] = field(default_factory=dict)  # in the order of their coming
    runs: dict[str, Lease] = field(default_factory=dict)

    def live(self, now: int) -> list[Held]:
        """Holds of tokens whose lease is not over."""
        return [one for one in self.held.values() if one.until > now]

    def taken(self, now: int) -> int:
        """Places that are taken."""
        return len(self.live(now)) + len(self.runs)


class HoldMachine(RuleBasedStateMachine):
    """Random histories of holds by tokens and by runs. ``build_machine`` adds the harness."""

    harness_factory: ClassVar[Callable[[], Harness]]

    names = st.sampled_from([GATE, SHARED, SHARED])
    tokens = st.sampled_from(["t0", "t1", "t2", "t3"])
    leases = st.sampled_from([1_005, 10_005, 2 * HOUR + 5])

    def __init__(self) -> None:
        super().__init__()
        self.harness = type(self).harness_factory()
        self.store = self.harness.engine
        self.gates = {GATE: Gate(1), SHARED: Gate(SLOTS.limit)}
        self.waiting = 0
        self.numbers = count()
        self.last_fence = 0
        join(self.store, lease_ms=500 * HOUR)

    def teardown(self) -> None:
        self.harness.close()

    @property
    def now(self) -> int:
        return self.harness.clock.boot_ms()

    @rule(name=names, token=tokens, lease_ms=leases, wait_ms=st.sampled_from([0, 0, 3_005, 20_005]))
    def hold(self, name: str, token: str, lease_ms: int, wait_ms: int) -> None:
        gate, now = self.gates[name], self.now
        ends = min((one.until - now for one in gate.live(now)), default=0)
        grip = self.store.hold(name, token, gate.places, lease_ms, token, wait_ms)
        mine = gate.held.get(token)
        if mine is not None and (mine.until > now or not gate.taken(now)):
            assert grip.fence == mine.fence
            mine.until = now + lease_ms
            return
        gate.line = {one: until for one, until in gate.line.items() if until > now}
        if gate.taken(now) < gate.places and token in [*gate.line, token][:1]:
            assert grip.fence is not None
            assert grip.fence > self.last_fence
            self.last_fence = grip.fence
            gate.held = {one: held for one, held in gate.held.items() if held.until > now}
            gate.held[token] = Held(grip.fence, now + lease_ms)
            gate.line.pop(token, None)
            return
        assert (grip.fence, grip.left_ms) == (None, ends)
        if wait_ms:
            gate.line[token] = now + wait_ms

    @rule(asked=st.lists(st.tuples(names, tokens), min_size=1, max_size=3, unique=True), lease_ms=leases)
    def renew(self, asked: list[tuple[str, str]], lease_ms: int) -> None:
        answers = self.store.renew(asked, lease_ms)
        for (name, token), kept in zip(asked, answers, strict=True):
            gate = self.gates[name]
            mine = gate.held.get(token)
            good = mine is not None and (mine.until > self.now or not gate.taken(self.now))
            assert kept == good
            if mine is not None and good:
                mine.until = self.now + lease_ms

    @rule(name=names, token=st.one_of(tokens, tokens, st.none()))
    def release(self, name: str, token: str | None) -> None:
        gate = self.gates[name]
        had = bool(gate.held) if token is None else token in gate.held
        assert self.store.release(name, token) == had
        if token is None:
            gate.held = {}
        else:
            gate.held.pop(token, None)
            gate.line.pop(token, None)

    @rule(number=st.integers(1, 3))
    def enqueue(self, number: int) -> None:
        place(self.store, guarded(*[f"j{next(self.numbers)}" for _ in range(number)]))
        self.waiting += number

    @rule()
    def claim(self) -> None:
        """Whoever waits gets each free place, also one that a lease which ended left behind."""
        gate = self.gates[SHARED]
        free = max(0, gate.places - gate.taken(self.now))
        want = Want("w1", 100)
        claimed = self.store.claim(want)
        found = claimed.leases
        while claimed.due_in_ms == 0:
            claimed = self.store.claim(want)
            found += claimed.leases
        assert len(found) == min(free, self.waiting)
        self.waiting -= len(found)
        gate.runs.update({lease.id: lease for lease in found})
        self.last_fence = max([self.last_fence, *(lease.fence for lease in found)])
        ends = [one.until - self.now for one in gate.live(self.now)]
        if self.waiting and ends:
            # No later than a place may be free; sooner where a lease was renewed since the gate was looked at.
            assert claimed.due_in_ms is not None
            assert claimed.due_in_ms <= min(ends) + SLACK_MS

    @rule(data=st.data(), kind=st.sampled_from([Kind.DONE, Kind.RELEASE]))
    def settle(self, data: st.DataObject, kind: Kind) -> None:
        gate = self.gates[SHARED]
        if gate.runs:
            lease = gate.runs.pop(data.draw(st.sampled_from(sorted(gate.runs))))
            self.store.settle([ended(lease, kind)])
            self.waiting += kind is Kind.RELEASE

    @rule(data=st.data(), token=tokens)
    def hold_by_a_run(self, data: st.DataObject, token: str) -> None:
        gate = self.gates[SHARED]
        if gate.runs:
            lease = gate.runs[data.draw(st.sampled_from(sorted(gate.runs)))]
            assert self.store.hold(SHARED, token, gate.places, 1_005, job=ref(lease)).fence == lease.fence

    @rule(ms=st.sampled_from([10, 1_010, 6_000, 20_000, HOUR]))
    def advance(self, ms: int) -> None:
        self.harness.clock.advance(ms)

    @rule()
    def maintain(self) -> None:
        upkeep(self.store)
        for gate in self.gates.values():
            gate.held = {one: held for one, held in gate.held.items() if held.until > self.now - HOUR}

    @invariant()
    def holds_equal_the_model(self) -> None:
        expected = []
        for name, gate in sorted(self.gates.items()):
            assert gate.taken(self.now) <= gate.places
            waiting = sum(until > self.now for until in gate.line.values())
            rows = [(held.fence, held.until - self.now, None) for held in gate.held.values()]
            rows += [(lease.fence, None, job_id) for job_id, lease in gate.runs.items()]  # type: ignore[misc]
            expected += [(name, fence, left, waiting, job_id) for fence, left, job_id in sorted(rows)]
        assert [told(row) for row in self.store.holds()] == expected
        assert all(row.used == self.gates[SHARED].taken(self.now) for row in self.store.limits())


def told(row: HoldRow) -> tuple[str, int, int | None, int, str | None]:
    """What the model knows of a hold."""
    return row.gate, row.fence, row.left_ms, row.waiting, row.job
