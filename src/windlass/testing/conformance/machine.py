"""Random histories of one store, checked step by step against ``oracle``.

It must not decide what an engine should do: the oracle does. Invariants checked after every step: the state, counters,
owner and fence of every job equal the oracle's; every observed change of state is a path through TRANSITIONS.

Delays and leases end in 5 and time moves in tens, so "now" does not meet a deadline and no history depends on whether
a bound is inclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from windlass.core.fingerprint import INTERRUPTED, POISON
from windlass.core.model import TRANSITIONS, Cause, Count, NewJob, Slot, State, Swap, Write
from windlass.core.rows import Action, Recovery, Waiting
from windlass.core.work import (
    PROGRESS,
    Claimed,
    Kind,
    LeaseRef,
    Note,
    Outcome,
    QueueShare,
    Room,
    Rules,
    Settled,
    Want,
)
from windlass.testing.conformance.harness import Harness, error, history, info, job, pause, resume, set_limit, upkeep
from windlass.testing.conformance.oracle import WAITING, Oracle

IDS = [f"j{n}" for n in range(4)]
QUEUES = ["qa", "qb"]
WORKERS = ["w1", "w2"]
KEYS = ["x", "y"]  # of documents
NOTES = [PROGRESS, "step:x", "step:y"]
TOTALS = ["enqueued", "done", "retried", "dead", "cancelled", "stale", "recovered", "crashed", "trimmed"]
LEASE_MS = 10_005
RULES = Rules(max_crashes=3, max_interruptions=1, crash_delay_ms=1_005, keep_done_max=None)  # ages: as the engine's
ENDS = {Kind.DONE, Kind.DEAD, Kind.CANCELLED}
ADVANCES = [10, 1_010, 6_000, 20_000, 700_000]

LOST = Cause("shop.errors.Lost", "aaaaaaaaaaaa", "shop.jobs.ship")

ids = st.sampled_from(IDS)
queues = st.sampled_from(QUEUES)
workers = st.sampled_from(WORKERS)
delays = st.sampled_from([0, 0, 505, 5_005])
kinds = st.sampled_from(Kind)
slots = st.sampled_from([None, *Slot])
texts = st.sampled_from([None, "", "1", '"é"'])
note_sets: st.SearchStrategy[list[tuple[str, str | None]]] = st.one_of(
    st.just([]), st.lists(st.tuples(st.sampled_from(NOTES), texts), min_size=1, max_size=3)
)
room_sets = st.sampled_from(
    [
        (),
        (),
        (Room(Slot.THREAD, 1),),
        (Room(Slot.LOOP, 0, 1),),
        (Room(Slot.THREAD, 1, 1), Room(Slot.LOOP, 2)),
        (Room(Slot.LOOP, 0), Room(Slot.THREAD, 2, 9)),
    ]
)
figures = st.lists(st.builds(Count, st.sampled_from(["run:a", "run:b"]), st.integers(1, 5)), max_size=3).map(tuple)
batches = st.lists(
    st.builds(
        job,
        ids,
        queue=queues,
        priority=st.integers(-1, 1),
        delay_ms=delays,
        max_attempts=st.integers(1, 3),
        slot=slots,
    ),
    min_size=1,
    max_size=4,
)


def reachable(before: State, after: State) -> bool:
    """Whether one call may move a job so: a call makes two moves at most, such as promote and claim."""
    one = TRANSITIONS[before] | {before}
    return after in one or any(after in TRANSITIONS[state] for state in one)


class EngineMachine(RuleBasedStateMachine):
    """The rules. ``build_machine`` adds the harness."""

    harness_factory: ClassVar[Callable[[], Harness]]

    def __init__(self) -> None:
        super().__init__()
        self.harness = type(self).harness_factory()
        self.store = self.harness.engine
        self.oracle = self.made_oracle()
        self.seen: dict[str, State] = {}
        self.issued: list[LeaseRef] = []
        for worker in WORKERS:
            self.extend(worker)

    def made_oracle(self) -> Oracle:
        return Oracle(RULES)

    def teardown(self) -> None:
        self.harness.close()

    @property
    def now(self) -> int:
        return self.harness.clock.wall_ms()

    @initialize(batch=batches)
    def begin(self, batch: list[NewJob]) -> None:
        self.enqueue(batch)

    @rule(batch=batches)
    def enqueue(self, batch: list[NewJob]) -> None:
        self.commit(batch, ())

    @rule(batch=st.one_of(st.just([]), batches), data=st.data(), count=st.integers(0, 3), counts=figures)
    def commit_with_documents(
        self, batch: list[NewJob], data: st.DataObject, count: int, counts: tuple[Count, ...]
    ) -> None:
        self.commit(batch, tuple(data.draw(self.swaps()) for _ in range(count)), counts)

    @rule(counts=figures)
    def count(self, counts: tuple[Count, ...]) -> None:
        assert self.store.exchange([], None, counts) == ([], Claimed([]))
        self.remember(counts)

    def remember(self, counts: tuple[Count, ...]) -> None:
        for one in counts:
            self.oracle.count(one.series, self.now, one.n)

    def swaps(self) -> st.SearchStrategy[Swap]:
        """Swaps of which about every other one names the version that stands."""
        some = sorted(self.oracle.versions)[-3:]
        stands = {key: self.oracle.document(key, self.now).version for key in KEYS}
        return st.sampled_from(KEYS).flatmap(
            lambda key: st.builds(
                Swap,
                st.just(key),
                st.sampled_from([*[stands[key]] * (2 + len(some)), 0, *some]),
                st.sampled_from([None, "1", "2"]),
                st.sampled_from([None, 5_005]),
            )
        )

    def commit(self, batch: list[NewJob], swaps: tuple[Swap, ...], counts: tuple[Count, ...] = ()) -> None:
        written = self.store.commit(Write(tuple(batch), swaps, counts=counts))
        assert written.lost is not self.oracle.wins(swaps, self.now)
        if written.lost:
            stands = tuple(self.oracle.document(one.key, self.now) for one in swaps)
            assert (written.placed, written.documents) == ([], stands)
            return
        self.remember(counts)
        for one, made in zip(swaps, written.documents, strict=True):
            assert self.oracle.swapped(one, made, self.now)
        for new, answer in zip(batch, written.placed, strict=True):
            assert (answer.id, answer.duplicate) == (new.id, not self.oracle.enqueue(new, self.now))
            if not answer.duplicate:
                self.seen.pop(new.id, None)  # a record past its time has made way

    @rule(
        worker=workers,
        limit=st.integers(1, 4),
        only=st.sampled_from([None, None, ("qa",), ("qb", "qa")]),
        alone=st.sampled_from([False, False, False, True]),
        beat=st.sampled_from([True, True, True, False]),
        rooms=room_sets,
    )
    def claim(
        self,
        worker: str,
        limit: int,
        only: tuple[str, ...] | None,
        alone: bool,
        beat: bool,
        rooms: tuple[Room, ...] = (),
    ) -> None:
        if beat:  # else nearly every history would end with expelled workers
            self.extend(worker)
        shares = None if only is None else tuple(QueueShare(name, 1) for name in only)
        rooms = () if alone else rooms
        claimed = self.store.claim(Want(worker=worker, limit=limit, queues=shares, alone=alone, rooms=rooms))
        oracle = self.oracle
        assert oracle.expire(claimed.ended, self.now)
        live = oracle.live(worker, self.now)
        assert claimed.expelled is not live
        open_to = oracle.claimable(self.now, only, alone) if live else set()
        got = [lease.id for lease in claimed.leases]
        assert len(set(got)) == len(got)
        if not rooms:
            assert len(got) == min(1 if alone else limit, oracle.gives(open_to))
        else:
            assert len(got) <= min(limit, oracle.gives(open_to))
            assert oracle.fits(got, rooms)
            if not oracle.limits and all(oracle.jobs[job_id].slot for job_id in open_to):
                assert len(got) == min(limit, oracle.owed(open_to, rooms))
        assert set(got) <= open_to
        assert len({lease.fence for lease in claimed.leases}) == len(got)
        for lease in claimed.leases:
            mine = oracle.jobs[lease.id]
            left = [
                oracle.jobs[i].priority
                for i in open_to - set(got)
                if oracle.jobs[i].queue == mine.queue and (not rooms or oracle.jobs[i].slot is mine.slot)
            ]
            # The lone lane gives one job that had to wait; which one is not promised.
            assert alone or mine.priority <= min(left, default=mine.priority)
            assert lease.attempt == mine.attempt + 1
            assert oracle.fences.get(lease.id, 0) < lease.fence < 2**53
            assert lease.slot is mine.slot
            assert lease.notes == tuple(sorted(mine.notes.items()))
            assert rooms or not lease.held
        for lease in claimed.leases:
            oracle.claimed(lease.id, worker, lease.fence, lease.held, self.now)
            self.issued.append(LeaseRef(lease.id, lease.fence))
        if live:
            asked = {(held.id, held.fence) for held in oracle.held(worker) if held.cancel}
            assert {(ref.id, ref.fence) for ref in claimed.cancels} == asked
        self.the_store_equals_the_oracle()

    def end(
        self,
        ref: LeaseRef,
        kind: Kind,
        delay_ms: int = 0,
        interrupted: bool = False,
        slot: Slot | None = None,
        notes: Sequence[tuple[str, str | None]] = (),
    ) -> None:
        before = self.store.job(ref.id)
        outcome = Outcome(
            ref.id,
            ref.fence,
            kind,
            error=error() if kind in {Kind.RETRY, Kind.DEAD} else None,
            cause=LOST if kind is Kind.DEAD else None,
            delay_ms=delay_ms,
            keep_ms=15_005 if delay_ms and kind in ENDS else None,
            interrupted=interrupted and kind is Kind.RELEASE,
            slot=slot,
            notes=tuple(notes),
        )
        (settled,) = self.store.settle([outcome])
        applied = self.oracle.settle(outcome, self.now)
        assert settled is (Settled.APPLIED if applied else Settled.STALE)
        if not applied:
            assert self.store.job(ref.id) == before
        self.the_store_equals_the_oracle()

    @precondition(lambda self: self.issued)
    @rule(data=st.data(), kind=kinds, off_by=st.sampled_from([0, 0, 0, -1, 1, 10**9]), notes=note_sets)
    def settle_any_fence(
        self, data: st.DataObject, kind: Kind, off_by: int, notes: Sequence[tuple[str, str | None]]
    ) -> None:
        ref = data.draw(st.sampled_from(self.issued[::-1]))
        self.end(LeaseRef(ref.id, ref.fence + off_by), kind, notes=notes)

    @precondition(lambda self: self.running())
    @rule(data=st.data(), kind=kinds, delay_ms=delays, interrupted=st.booleans(), slot=slots, notes=note_sets)
    def settle_a_running_job(
        self,
        data: st.DataObject,
        kind: Kind,
        delay_ms: int,
        interrupted: bool,
        slot: Slot | None,
        notes: Sequence[tuple[str, str | None]],
    ) -> None:
        self.end(data.draw(st.sampled_from(self.running())), kind, delay_ms, interrupted, slot, notes)

    @precondition(lambda self: self.issued)
    @rule(data=st.data(), count=st.integers(1, 3))
    def note(self, data: st.DataObject, count: int) -> None:
        """Notes of one call, of jobs that run and others, some with a key."""
        notes, expected = [], []
        for _ in range(count):
            ref = data.draw(st.sampled_from(self.running() or self.issued[::-1]))
            ref = data.draw(st.sampled_from([ref, ref, self.issued[-1], LeaseRef(ref.id, ref.fence + 1)]))
            key, durable = data.draw(st.sampled_from(["", *NOTES])), data.draw(st.booleans())
            note = Note(ref.id, ref.fence, key, data.draw(texts), durable)
            notes.append(note)
            mine = self.oracle.owned(ref.id, ref.fence)
            expected.append(Settled.STALE if mine is None else Settled.APPLIED)
            if mine is not None:
                mine.note(note.key, note.value)
                mine.held = False
                mine.crashes = 0 if note.durable else mine.crashes
        assert self.store.note(notes) == expected

    def running(self) -> list[LeaseRef]:
        """What is owned now."""
        return [LeaseRef(x.id, x.fence) for worker in WORKERS for x in self.oracle.held(worker)]

    @rule(worker=workers)
    def extend(self, worker: str) -> None:
        refs = list(dict.fromkeys(self.issued))
        beat = self.store.extend(info(worker), refs, LEASE_MS)
        held = {LeaseRef(held.id, held.fence) for held in self.oracle.held(worker)}
        assert set(beat.lost) == set(refs) - held
        asked = {LeaseRef(x.id, x.fence) for x in self.oracle.held(worker) if x.cancel}
        assert set(beat.cancels) == asked
        self.oracle.workers[worker] = self.now + LEASE_MS

    @rule(ms=st.sampled_from(ADVANCES))
    def advance(self, ms: int) -> None:
        self.harness.clock.advance(ms)

    @rule(budget=st.sampled_from([1, 3, 100]))
    def maintain(self, budget: int) -> None:
        steps = upkeep(self.store, RULES, budget)
        recovered, died = self.oracle.maintain(self.now)
        assert sorted(i for step in steps for i in step.released) == sorted(recovered)
        assert sorted(i for step in steps for i in step.died) == sorted(died)

    @rule(worker=workers, data=st.data(), limit=st.integers(1, 3), alone=st.booleans(), interrupted=st.booleans())
    def claim_and_settle(self, worker: str, data: st.DataObject, limit: int, alone: bool, interrupted: bool) -> None:
        self.claim(worker, limit, None, alone, True)
        for held in self.oracle.held(worker):
            self.end(LeaseRef(held.id, held.fence), data.draw(kinds), data.draw(delays), interrupted)

    @rule(worker=workers, alone=st.booleans())
    def claim_and_fall_silent(self, worker: str, alone: bool) -> None:
        self.claim(worker, 4, None, alone, True)
        self.advance(20_000)
        self.maintain(100)

    @rule(worker=workers, data=st.data(), alone=st.booleans())
    def claim_and_crash(self, worker: str, data: st.DataObject, alone: bool) -> None:
        self.advance(2_010)  # beyond the delay of the last crash
        self.claim(worker, 2, None, alone, True)
        self.bury(worker, data)

    @rule(worker=workers, data=st.data())
    def bury(self, worker: str, data: st.DataObject) -> None:
        fences = [held.fence for held in self.oracle.held(worker)]
        started = data.draw(st.lists(st.sampled_from(fences), unique=True)) if fences else []
        buried = self.store.bury(worker, started, error("WorkerCrashed"), RULES)
        released, charged, dead = self.oracle.bury(worker, set(started), self.now)
        gone = {i for i in released | charged if self.oracle.jobs[i].state is State.CANCELLED}
        # Under which head a job is told whose cancel was asked for is left open; that it is not told twice is not.
        assert set(buried.released) - gone == released - gone
        assert set(buried.charged) - gone == charged - gone
        assert set(buried.dead) - gone == dead

    @rule(worker=workers)
    def depart(self, worker: str) -> None:
        told = self.store.depart(worker)
        released = self.oracle.depart(worker, self.now)
        gone = {i for i in released if self.oracle.jobs[i].state is State.CANCELLED}
        assert set(told.released) - gone == released - gone
        assert (told.charged, told.dead) == ((), ())

    @rule(action=st.sampled_from(Action), job_id=ids)
    def act(self, action: Action, job_id: str) -> None:
        self.ask(action, job_id)

    @precondition(lambda self: self.issued)
    @rule(data=st.data(), action=st.sampled_from(Action), off_by=st.sampled_from([0, 0, 0, 1]))
    def act_on_a_death(self, data: st.DataObject, action: Action, off_by: int) -> None:
        ref = data.draw(st.sampled_from(self.deaths() or self.issued[::-1]))
        self.ask(action, LeaseRef(ref.id, ref.fence + off_by))

    def deaths(self) -> list[LeaseRef]:
        return [LeaseRef(x.id, x.fence) for x in self.oracle.jobs.values() if x.state is State.DEAD]

    def ask(self, action: Action, which: str | LeaseRef) -> None:
        job_id, death = (which, None) if isinstance(which, str) else (which.id, which.fence)
        row = self.store.job(job_id)
        before = None if row is None else row.state
        (moved,) = self.store.transition(action, [which])
        applied = self.oracle.act(action, job_id, before, self.now, death)
        assert (moved.id, moved.before, moved.applied) == (job_id, before, applied)
        self.forget_those_that_went()

    @rule(
        action=st.sampled_from([Action.RETRY, Action.RETRY, Action.DISCARD]),
        after_ms=st.sampled_from([0, 0, 5_005]),
        attempts=st.integers(1, 2),
        limit=st.integers(1, 4),
    )
    def act_by_a_rule(self, action: Action, after_ms: int, attempts: int, limit: int) -> None:
        rule = Recovery((LOST.error_type, POISON.error_type, INTERRUPTED.error_type), after_ms, attempts, limit)
        fit = self.oracle.recoverable(rule, self.now)
        moved = self.store.transition(action, rule)
        assert all((one.before, one.applied) == (State.DEAD, True) for one in moved)
        got = {one.id for one in moved}
        assert got <= fit
        assert len(got) == len(moved) == min(limit, len(fit))
        died_at = {job_id: self.oracle.jobs[job_id].died_at for job_id in fit}
        assert max((died_at[i] for i in got), default=0) <= min((died_at[i] for i in fit - got), default=self.now)
        for job_id in got:
            assert self.oracle.act(action, job_id, State.DEAD, self.now, by_rule=True)
        self.forget_those_that_went()

    @rule(action=st.sampled_from([Action.DELETE, Action.CANCEL]), queue=queues, limit=st.integers(1, 4))
    def act_on_what_waits(self, action: Action, queue: str, limit: int) -> None:
        fit = self.oracle.that_wait(queue)
        states = {job_id: row.state for job_id in fit if (row := self.store.job(job_id)) is not None}
        moved = self.store.transition(action, Waiting(queue, limit))
        assert len({one.id for one in moved}) == len(moved) == min(limit, len(fit))
        for one in moved:
            assert (one.before, one.applied) == (states[one.id], True)
            assert self.oracle.act(action, one.id, one.before, self.now)
        self.forget_those_that_went()

    def forget_those_that_went(self) -> None:
        """What follows under the id of a deleted job is another record."""
        self.seen = {job_id: state for job_id, state in self.seen.items() if job_id in self.oracle.jobs}

    @rule(queue=queues)
    def pause(self, queue: str) -> None:
        pause(self.store, queue, None, None)
        self.oracle.paused.add(queue)

    @rule(queue=queues)
    def resume(self, queue: str) -> None:
        resume(self.store, queue)
        self.oracle.paused.discard(queue)

    @rule(queue=queues, limit=st.sampled_from([None, 1, 2]))
    def limit(self, queue: str, limit: int | None) -> None:
        set_limit(self.store, queue, limit)
        if limit is None:
            self.oracle.limits.pop(queue, None)
        else:
            self.oracle.limits[queue] = limit

    @invariant()
    def the_store_equals_the_oracle(self) -> None:
        for job_id in IDS:
            row, mine = self.store.job(job_id), self.oracle.jobs.get(job_id)
            assert (row is None) == (mine is None), job_id
            if row is None or mine is None:
                self.seen.pop(job_id, None)
                continue
            assert reachable(self.seen.get(job_id, row.state), row.state), (job_id, self.seen[job_id], row.state)
            self.seen[job_id] = row.state
            if mine.state is not WAITING:
                assert row.state is mine.state, job_id
            elif mine.run_at > self.now:
                assert row.state is State.SCHEDULED, job_id
            else:
                assert row.state in {State.READY, State.SCHEDULED}, job_id
            counted = (row.attempt, row.crashes, row.interruptions, row.snoozes)
            expected = (mine.attempt, mine.crashes, mine.interruptions, mine.snoozes)
            assert counted == expected, f"{job_id} {row.state}: {counted} is not {expected}"
            assert (len(history(row)), row.recoveries) == (mine.errors, mine.recoveries), job_id
            if mine.state is State.RUNNING:
                assert (row.worker, row.fence, row.cancel_requested) == (mine.worker, mine.fence, mine.cancel), job_id
            assert row.held == (mine.state is State.RUNNING and mine.held), job_id
            progress = {} if row.progress is None else {PROGRESS: row.progress.decode()}
            assert dict(row.notes) | progress == mine.notes, job_id

    @invariant()
    def documents_equal_the_oracle(self) -> None:
        stand = [self.oracle.document(key, self.now) for key in KEYS]
        assert self.store.read(KEYS) == stand
        assert self.store.keys("") == [one.key for one in stand if one.version]

    @invariant()
    def counts_equal_the_oracle(self) -> None:
        counts = self.store.counts()
        totals = {name: counts[f"total_{name}"] for name in TOTALS}
        assert totals == {n: self.oracle.totals[n] for n in TOTALS}, f"{totals} are not {self.oracle.totals}"
        found = self.store.metrics(("arrived:", "claimed:", "run:"), 2)
        assert (found.now, found.counts) == (self.now, self.oracle.counted(self.now, 2))

    @invariant()
    def held_jobs_are_told_apart(self) -> None:
        held = sum(mine.held for worker in WORKERS for mine in self.oracle.held(worker))
        running = sum(len(self.oracle.held(worker)) for worker in WORKERS)
        counts = self.store.counts()
        assert (counts["running"], counts["held"]) == (running, held)
        rows = self.store.queues()
        assert (sum(row.running for row in rows), sum(row.held for row in rows)) == (running - held, held)

    @invariant()
    def workers_equal_the_oracle(self) -> None:
        rows = {row.info.id: row for row in self.store.workers()}
        assert set(rows) == set(self.oracle.workers)
        for worker, row in rows.items():
            assert row.lease_left_ms == self.oracle.workers[worker] - self.now
            assert row.running == len(self.oracle.held(worker))


def build_machine(
    harness_factory: Callable[[], Harness],
    *,
    base: type[RuleBasedStateMachine] = EngineMachine,
    max_examples: int = 150,
    steps: int = 50,
) -> type[RuleBasedStateMachine]:
    """Build a state machine of an engine; its ``TestCase`` is what a test module collects.

    The factory is called for every history and gives a harness on an empty store.
    """
    machine: type[RuleBasedStateMachine] = type("Machine", (base,), {"harness_factory": staticmethod(harness_factory)})
    machine.TestCase.settings = settings(
        max_examples=max_examples,
        stateful_step_count=steps,
        deadline=None,
        print_blob=True,
        # No explain phase: it doubles the time of a failure, and the steps of a history explain themselves.
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow],
    )
    return machine
