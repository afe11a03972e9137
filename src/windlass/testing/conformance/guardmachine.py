"""Random histories of guards: who is let through, who waits where, and whether everybody comes through in the end.

It must not decide what a gate lets through: ``gatekeeper`` does. Invariants: a claim gives no job that meets a closed
gate or bound, and, when it has looked at all queues and was not filled, leaves none behind that could run; whoever is
blocked says at which of its gates; a Once key is done once. Every history ends with a drain: queues are resumed and
their bounds lifted, every run ends well, and time moves on as the answers to claims and upkeep say. Then no job may be
left that has not ended, and no guard may remember anything.

Times of guards end in 5 and time moves in tens, so "now" never meets a bound that is inclusive.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from windlass.core.circuit import CircuitPolicy, Tally
from windlass.core.model import FINISHED, Guard, GuardKind, NewJob, State, Swap, UniqueKey, Write, Written
from windlass.core.rows import Action, JobRow, Waiting
from windlass.core.work import Claimed, Kind, LeaseRef, Outcome, QueueShare, RateBound, Room, Rules, Upkeep, Want
from windlass.guards import agreed
from windlass.testing.conformance.circuits import probe, switch, tally
from windlass.testing.conformance.gatekeeper import DUPLICATE, Gatekeeper, gates
from windlass.testing.conformance.harness import (
    Harness,
    all_jobs,
    clear,
    discard,
    edit,
    error,
    info,
    pause,
    place,
    redrive,
    resume,
    set_limit,
    set_rate,
    upkeep,
)
from windlass.testing.conformance.machine import room_sets, slots

IDS = [f"j{n}" for n in range(7)]
QUEUES = ["qa", "qb"]
WORKERS = ["w1", "w2"]
DOCUMENT = "d"  # what jobs are stored beside
LAST = "drain"  # the worker that lets everything end
LEASE_MS = 30_005
RULES = Rules(max_crashes=4, max_interruptions=1, crash_delay_ms=1_005, keep_done_max=None)
HALF_OPEN = 2
POLICY = CircuitPolicy(failures=1, open_for_ms=5_005, half_open=HALF_OPEN)
SOON_MS = 1_004  # at a circuit a waiter may be looked at this much later than it could go on
ADVANCES = [10, 110, 1_010, 6_000, 20_000, 70_000]
ROUNDS = 400  # of a drain; each ends a job, a wait or both
DAY_MS = 86_400_000

CIRCUITS = ["x", "y"]
GUARDS = [
    Guard(GuardKind.ONCE, "o", keep_ms=5_005),
    Guard(GuardKind.ONCE, "p", keep_ms=90_005),
    *(Guard(GuardKind.CIRCUIT, name) for name in CIRCUITS),
    Guard(GuardKind.CONCURRENCY, "c", 1),
    Guard(GuardKind.CONCURRENCY, "d", 2),
    Guard(GuardKind.CONCURRENCY, "d", 1),  # an older definition of the same key
    Guard(GuardKind.RATE, "r", 1, 5_005),
    Guard(GuardKind.RATE, "s", 2, 20_005),
    Guard(GuardKind.RATE, "b", 1, 5_005, 2),
]
UNIQUES = [
    *(UniqueKey("done", "done", None, rule) for rule in ("return", "replace", "keep_latest")),
    *(UniqueKey("ttl", "done", 5_005, rule) for rule in ("return", "replace", "keep_latest")),
    *(UniqueKey("start", "start", None, rule) for rule in ("return", "replace")),
    *(UniqueKey("expiry", "expiry", 15_005, rule) for rule in ("return", "replace")),
]

ids = st.sampled_from(IDS)
queues = st.sampled_from(QUEUES)
workers = st.sampled_from(WORKERS)
delays = st.sampled_from([0, 0, 0, 505, 5_005])


def mixed(picked: list[Guard]) -> tuple[Guard, ...]:
    """Guards as one job may have them: one for each gate, and one Once key."""
    return tuple({guard.kind if guard.kind is GuardKind.ONCE else guard.gate: guard for guard in picked}.values())


class GuardMachine(RuleBasedStateMachine):
    """The rules. ``build_machine`` adds the harness."""

    harness_factory: ClassVar[Callable[[], Harness]]

    def __init__(self) -> None:
        super().__init__()
        self.harness = type(self).harness_factory()
        self.store = self.harness.engine
        self.keeper = Gatekeeper(HALF_OPEN)
        self.numbers = count(1)
        self.tokens: list[tuple[str, str, int]] = []  # of probes that are no jobs: circuit, token, epoch
        self.paused: set[str] = set()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.drain()
        finally:
            self.harness.close()

    @property
    def now(self) -> int:
        return self.harness.clock.wall_ms()

    def rows(self) -> dict[str, JobRow]:
        return {row.id: row for row in all_jobs(self.store)}

    def in_state(self, *states: State) -> list[JobRow]:
        return sorted((row for row in self.rows().values() if row.state in states), key=lambda row: row.id)

    def beat(self, worker: str) -> None:
        self.store.extend(info(worker), (), LEASE_MS)

    # -- jobs --

    @initialize(
        data=st.data(),
        some=st.lists(st.sampled_from(GUARDS), min_size=1, max_size=3, unique=True),
        keys=st.lists(st.sampled_from(UNIQUES), max_size=2, unique=True),
    )
    def begin(self, data: st.DataObject, some: list[Guard], keys: list[UniqueKey]) -> None:
        """A history is about few guards, so that its jobs meet."""
        self.guards = st.lists(st.sampled_from(some), min_size=1, max_size=2).map(mixed)
        self.uniques = st.sampled_from([None, None, *keys])
        self.enqueue(data)

    @rule(data=st.data())
    def enqueue(self, data: st.DataObject) -> None:
        new = data.draw(st.lists(self.new_jobs(), min_size=1, max_size=5))
        (stands,) = self.store.read([DOCUMENT])
        off = data.draw(st.sampled_from([None, None, 0, 1]))  # by how much a swap beside the jobs misses its version
        swaps = () if off is None else (Swap(DOCUMENT, stands.version + off, ""),)
        rows = self.rows()
        written = self.store.commit(Write(tuple(new), swaps))
        if off:
            assert written == Written([], (stands,), lost=True)
            assert self.rows() == rows
            return
        placed, rows = written.placed, self.rows()
        for job, answer in zip(new, placed, strict=True):
            assert answer.id in rows or job.unique is not None, f"{job.id} was not stored"
            assert answer.duplicate or answer.id == job.id

    def new_jobs(self) -> st.SearchStrategy[NewJob]:
        return st.builds(
            lambda job_id, **options: NewJob(job_id, "shop.jobs.add", payload=f"[{next(self.numbers)}]", **options),
            ids,
            queue=queues,
            priority=st.integers(-1, 1),
            delay_ms=delays,
            expires_ms=st.sampled_from([None, None, None, 30_005]),
            max_attempts=st.just(3),
            guards=self.guards,
            unique=self.uniques,
            slot=slots,
        )

    # -- claims --

    @rule(
        worker=workers,
        limit=st.integers(1, 3),
        only=st.sampled_from([None, ("qa",), ("qb",), ("qb", "qa")]),
        room=st.sampled_from([None, None, 0, 1]),
        alone=st.sampled_from([False, False, False, True]),
        rooms=room_sets,
    )
    def claim_some(
        self,
        worker: str,
        limit: int,
        only: tuple[str, ...] | None,
        room: int | None,
        alone: bool,
        rooms: tuple[Room, ...],
    ) -> None:
        shares = None if only is None else tuple(QueueShare(name, 1) for name in only)
        self.claim(Want(worker, limit, shares, alone, room, late_ms=25, rooms=() if alone else rooms))

    @rule(worker=workers, late_ms=st.sampled_from([0, 25]))
    def claim_all(self, worker: str, late_ms: int) -> None:
        want = Want(worker, 100, late_ms=late_ms)
        claimed = self.claim(want)
        while claimed.due_in_ms == 0:
            claimed = self.claim(want)
        self.none_is_left_that_could_run(claimed.due_in_ms, late_ms)

    def claim(self, want: Want) -> Claimed:
        self.beat(want.worker)
        self.look()
        claimed = self.store.claim(want)
        assert not claimed.expelled
        self.keeper.lose(claimed.ended)
        for lease in claimed.leases:
            shut = self.keeper.shut(lease.id, lease.queue, lease.guards, self.now)
            assert shut is None, f"{lease.id} was leased, but {shut} is shut"
            assert lease.queue not in self.paused
            for guard in lease.guards:
                assert guard.kind is not GuardKind.ONCE or guard.key not in self.keeper.markers, (
                    f"{guard.gate} ran twice"
                )
            self.keeper.let_through(lease, self.now)
        return claimed

    def look(self) -> None:
        """Show the gatekeeper what is there."""
        self.keeper.learn(self.rows().values(), agreed.rows(self.store), self.now)

    def none_is_left_that_could_run(self, due_in_ms: int | None, late_ms: int) -> None:
        """After a claim that had room for all: whoever waits, waits for something."""
        self.look()
        rows = self.rows()
        for row in rows.values():
            is_due = row.state is State.SCHEDULED and row.run_at <= self.now
            waits = is_due or row.state in {State.READY, State.BLOCKED}
            expired = row.expires_at is not None and row.expires_at <= self.now
            if not waits or expired or row.queue in self.paused or row.crashes >= 2:
                continue
            if self.keeper.shut(row.id, row.queue, row.guards, self.now, late_ms):
                continue
            gate = row.blocked_by or ""
            if gate.startswith("circuit:") and due_in_ms is not None and due_in_ms <= SOON_MS:
                continue
            if gate.startswith("unique:") and any(holds(one, gate) for one in rows.values()):
                continue
            raise AssertionError(f"{row.id} is {row.state} at {row.blocked_by} and could run; due in {due_in_ms}")

    # -- ends --

    @precondition(lambda self: self.in_state(State.RUNNING))
    @rule(data=st.data(), kind=st.sampled_from(Kind), delay_ms=delays, told=st.sampled_from([None, True, True, False]))
    def settle(self, data: st.DataObject, kind: Kind, delay_ms: int, told: bool | None) -> None:
        row = data.draw(st.sampled_from(self.in_state(State.RUNNING)))
        then = tuple(data.draw(st.lists(self.new_jobs(), max_size=1)))
        self.end(row, kind, delay_ms, told, then)

    def end(
        self, row: JobRow, kind: Kind, delay_ms: int = 0, told: bool | None = None, then: tuple[NewJob, ...] = ()
    ) -> None:
        """End a run, and tell its circuits how it went."""
        for guard in row.guards:
            if guard.kind is GuardKind.CIRCUIT and told is not None:
                self.tell(guard.key, told, LeaseRef(row.id, row.fence))
        outcome = Outcome(
            row.id,
            row.fence,
            kind,
            result=f'"{row.fence}"' if kind is Kind.DONE else None,
            error=error() if kind in {Kind.RETRY, Kind.DEAD} else None,
            delay_ms=delay_ms,
            then=(Write(then),) if then else (),
        )
        self.store.settle([outcome])

    def tell(self, circuit: str, ok: bool, job: LeaseRef) -> None:
        token = f"t{next(self.numbers)}"
        row = probe(self.store, circuit, token, job)
        as_probe = token if row.admitted and row.state != "closed" else None
        tally(self.store, circuit, POLICY, Tally(int(ok), int(not ok), row.epoch, as_probe))

    @rule(worker=workers, data=st.data())
    def bury(self, worker: str, data: st.DataObject) -> None:
        fences = [row.fence for row in self.in_state(State.RUNNING) if row.worker == worker]
        started = data.draw(st.lists(st.sampled_from(fences), unique=True)) if fences else []
        self.store.bury(worker, started, error("WorkerCrashed"), RULES)

    @rule(worker=workers)
    def depart(self, worker: str) -> None:
        self.store.depart(worker)

    @rule(ms=st.sampled_from(ADVANCES))
    def advance(self, ms: int) -> None:
        self.harness.clock.advance(ms)

    @rule()
    def maintain(self) -> None:
        upkeep(self.store, RULES)

    # -- people --

    @rule(action=st.sampled_from(Action), job_id=ids)
    def act(self, action: Action, job_id: str) -> None:
        self.store.transition(action, [job_id])

    @rule(action=st.sampled_from(Action), queue=queues, limit=st.integers(1, 4))
    def act_on_what_waits(self, action: Action, queue: str, limit: int) -> None:
        self.store.transition(action, Waiting(queue, limit))

    @rule(queue=queues)
    def pause(self, queue: str) -> None:
        pause(self.store, queue, None, None)
        self.paused.add(queue)

    @rule(queue=queues)
    def resume(self, queue: str) -> None:
        resume(self.store, queue)
        self.paused.discard(queue)

    @rule(queue=queues, limit=st.sampled_from([1, 2]))
    def clear(self, queue: str, limit: int) -> None:
        clear(self.store, queue, limit)

    @rule(queue=queues, limit=st.sampled_from([None, 1, 2]))
    def limit(self, queue: str, limit: int | None) -> None:
        set_limit(self.store, queue, limit)
        self.keeper.limits.pop(queue, None)
        if limit is not None:
            self.keeper.limits[queue] = limit

    @rule(queue=queues, rate=st.sampled_from([None, RateBound(1, 2_005), RateBound(3, 20_005)]))
    def rate(self, queue: str, rate: RateBound | None) -> None:
        set_rate(self.store, queue, rate)
        self.keeper.set_rate(queue, rate)

    # -- circuits --

    @rule(name=st.sampled_from(CIRCUITS), open_ms=st.sampled_from([None, 4_005]), opened=st.booleans())
    def switch(self, name: str, open_ms: int | None, opened: bool) -> None:
        switch(self.store, name, open_ms, opened, HALF_OPEN)

    @rule(name=st.sampled_from(CIRCUITS))
    def call_through(self, name: str) -> None:
        token = f"t{next(self.numbers)}"
        row = probe(self.store, name, token)
        if row.admitted:
            self.tokens.append((name, token, row.epoch))

    @precondition(lambda self: self.tokens)
    @rule(ok=st.booleans())
    def call_ends(self, ok: bool) -> None:
        name, token, epoch = self.tokens.pop(0)
        tally(self.store, name, POLICY, Tally(int(ok), int(not ok), epoch, token))

    # -- the dead --

    @precondition(lambda self: self.in_state(State.DEAD))
    @rule(data=st.data(), what=st.sampled_from(["redrive", "discard", "edit", "restore"]))
    def attend_to_a_dead_job(self, data: st.DataObject, what: str) -> None:
        row = data.draw(st.sampled_from(self.in_state(State.DEAD)))
        death = LeaseRef(row.id, row.fence)
        match what:
            case "redrive":
                redrive(self.store, [death])
            case "discard":
                discard(self.store, [death])
            case "edit":
                edit(self.store, death, f"[{next(self.numbers)}]", data.draw(self.guards), data.draw(self.uniques))
            case "restore":
                discard(self.store, [death])
                assert self.store.put_dead([row]) == [True]

    # -- what always holds --

    @invariant()
    def rows_are_sound(self) -> None:
        rows = self.rows()
        self.look()
        holders: dict[str, list[str]] = {}
        for row in rows.values():
            assert (row.blocked_by is not None) == (row.state is State.BLOCKED), row
            key = None if row.unique is None else f"unique:{row.unique.key}"
            assert row.blocked_by is None or row.blocked_by in gates(row.guards) | {key}, row
            if row.unique is not None and row.unique.key == "done" and row.state not in FINISHED:
                holders.setdefault(str(row.blocked_by == key), []).append(row.id)
            if (row.reason or "").startswith(DUPLICATE) and row.state is State.DONE:
                for guard in row.guards:
                    marker = self.keeper.markers.get(guard.key) if guard.kind is GuardKind.ONCE else None
                    if marker is not None and row.finished_at == self.now:
                        assert (row.reason, row.result) == (DUPLICATE + marker.id, marker.result)
        assert all(len(held) <= 1 for held in holders.values()), holders
        counts = self.store.counts()
        for state in State:
            assert counts[state] == sum(row.state is state for row in rows.values()), state
        assert counts["held"] == sum(row.held for row in rows.values())
        for limit in self.store.limits():
            if limit.kind is GuardKind.CONCURRENCY:
                gate = f"{limit.kind}:{limit.key}"
                assert limit.used == sum(gate in gates(held) for held in self.keeper.running.values()), limit
                assert limit.waiting == sum(row.blocked_by == gate for row in rows.values()), limit

    # -- the end --

    def drain(self) -> None:
        """Let everything come to its end, and see that nothing stays behind."""
        for queue in QUEUES:
            self.resume(queue)
            self.limit(queue, None)
            self.rate(queue, None)
        for circuit in agreed.rows(self.store):
            if circuit.by_hand and circuit.left_ms is None:
                self.switch(circuit.name, None, False)
        for _ in range(ROUNDS):
            for row in self.in_state(State.RUNNING):
                self.end(row, Kind.DONE, told=True)
            claimed = self.claim(Want(LAST, 100))
            lone = self.claim(Want(LAST, 1, alone=True))
            if claimed.leases or lone.leases or claimed.due_in_ms == 0:
                continue
            left = self.in_state(*set(State) - FINISHED)
            if not left:
                break
            steps = upkeep(self.store, RULES)
            # A lone job that meets a closed guard is due now, and stays so until somebody asks again.
            told = (claimed.due_in_ms, steps[-1].alone_in_ms, steps[-1].due_in_ms)
            waits = [ms or SOON_MS for ms in told if ms is not None]
            assert waits or any(changed(step) for step in steps), f"{left} wait, and nothing will look at them"
            self.harness.clock.advance(max(min(waits, default=0), 1))
        else:
            raise AssertionError(f"still waiting after {ROUNDS} rounds: {self.in_state(*set(State) - FINISHED)}")
        self.nothing_is_remembered()

    def nothing_is_remembered(self) -> None:
        """Without records and after their time, guards are as new."""
        for circuit in agreed.rows(self.store):
            self.switch(circuit.name, None, False)
        self.store.transition(Action.DELETE, list(self.rows()))
        self.harness.clock.advance(DAY_MS)
        upkeep(self.store, RULES)
        self.look()
        assert (self.rows(), self.store.limits(), self.store.holds()) == ({}, [], [])
        new = [
            NewJob(f"{guard.gate}-{n}", "shop.jobs.add", QUEUES[0], "[]", guards=(guard,))
            for guard in GUARDS
            for n in range(1 if guard.kind in {GuardKind.ONCE, GuardKind.CIRCUIT} else (guard.burst or guard.limit))
            if guard != Guard(GuardKind.CONCURRENCY, "d", 1)
        ]
        new += [
            NewJob(f"{key.key}-{key.rule}", "shop.jobs.add", QUEUES[0], "[]", unique=key)
            for key in UNIQUES
            if key.rule == "return"
        ]
        assert not any(placed.duplicate for placed in place(self.store, new))
        claimed = self.claim(Want(LAST, 100))
        assert {lease.id for lease in claimed.leases} == {job.id for job in new}


def changed(step: Upkeep) -> bool:
    """Whether a step of upkeep moved a job."""
    return bool(step.promoted or step.released or step.died or step.pruned or step.expired_workers)


def holds(row: JobRow, gate: str) -> bool:
    """Whether a job has the unique key for which others wait at a gate."""
    mine = row.unique is not None and f"unique:{row.unique.key}" == gate
    return mine and row.state not in FINISHED and row.blocked_by != gate
