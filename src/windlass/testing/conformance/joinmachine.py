"""Random histories of joins, checked step by step against ``joinoracle``.

It is the machine of jobs, with jobs that are members of joins and wait for them: whatever ends a job there, or lets it
run again, is a member's end here. Invariants beside those of that machine: who waits, goes on and is skipped, and what
each join counts, as the oracle has it after every write, with nothing left for a later one.

A join with a home is made with that and sealed, and its members are members of that as well, as in compositions: else
the home might be over before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from msgspec.structs import replace

from windlass.core.model import Count, NewJob, NewJoin, Placed, State, Swap, Wait, Write
from windlass.core.rows import Action, Member
from windlass.core.work import Kind, Outcome
from windlass.testing.conformance.harness import row_of, upkeep
from windlass.testing.conformance.joinoracle import JoinOracle, TiedJob
from windlass.testing.conformance.machine import (
    IDS,
    LOST,
    RULES,
    EngineMachine,
    delays,
    ids,
    queues,
    workers,
)
from windlass.testing.conformance.oracle import Oracle

JOINS = ["A", "B", "C"]
HOMES = {"C": "A"}
KEEP_MS = 5_005
WATCH_MS = 3_005

joins = st.sampled_from(JOINS)
waits = st.builds(Wait, joins, st.sampled_from(["ok", "ok", "bad", "end"]), st.sampled_from([0, 0, 1, 2]))
members = (
    st.lists(joins, max_size=2, unique=True)
    .map(lambda some: [*some, *(HOMES[one] for one in some if one in HOMES)])
    .map(lambda some: tuple(dict.fromkeys(some)))
)
ties = st.builds(
    NewJob,
    ids,
    st.just("shop.jobs.add"),
    queues,
    st.just("[]"),
    delay_ms=delays,
    expires_ms=st.sampled_from([None, None, 5_505]),
    max_attempts=st.integers(1, 2),
    joins=members,
    waits=st.one_of(st.none(), waits),
)
tied_jobs = st.lists(ties, max_size=len(IDS), unique_by=lambda new: new.id)


def made_of(join: str, there: Sequence[str], sealed: bool) -> NewJoin:
    """A join with these members to begin with."""
    if join in HOMES:
        return NewJoin(join, keep_ms=KEEP_MS, home=HOMES[join], watch_ms=WATCH_MS)
    return NewJoin(join, tuple(there), sealed, KEEP_MS, watch_ms=WATCH_MS)


class JoinMachine(EngineMachine):
    """The rules. ``build_machine`` adds the harness."""

    oracle: JoinOracle

    def made_oracle(self) -> Oracle:
        return JoinOracle(RULES)

    # -- writes --

    @initialize(new=tied_jobs, sealed=st.booleans())
    def begin_with_joins(self, new: list[NewJob], sealed: bool) -> None:
        self.store_all(new, tuple(made_of(one, (), sealed) for one in JOINS), ())

    @rule(
        new=tied_jobs,
        made=st.sampled_from([[], ["A"], ["B"], ["A", "C"]]),
        there=st.lists(ids, max_size=2, unique=True),
        sealed=st.booleans(),
        seals=st.lists(joins, max_size=1),
    )
    def compose(self, new: list[NewJob], made: list[str], there: list[str], sealed: bool, seals: list[str]) -> None:
        """Jobs and joins in one write; jobs that are there enter one without a home."""
        self.store_all(new, tuple(made_of(one, there, sealed) for one in made), tuple(seals))

    @rule(new=tied_jobs)
    def add_to_joins(self, new: list[NewJob]) -> None:
        self.store_all(new, (), ())

    @rule(seals=st.lists(joins, min_size=1, max_size=3, unique=True))
    def seal(self, seals: list[str]) -> None:
        self.store_all([], (), tuple(seals))

    @rule(pairs=st.lists(st.tuples(joins, ids), min_size=1, max_size=3))
    def enter(self, pairs: list[tuple[str, str]]) -> None:
        """Jobs that are there, or are not, enter joins; those with a home enter that as well."""
        pairs += [(HOMES[join], id) for join, id in pairs if join in HOMES]
        self.store_all([], (), (), tuple(pairs))

    def store_all(
        self,
        new: list[NewJob],
        made: tuple[NewJoin, ...],
        seals: tuple[str, ...],
        enters: tuple[tuple[str, str], ...] = (),
    ) -> None:
        write = Write(tuple(self.as_members(new)), joins=made, seals=seals, enters=enters)
        written = self.store.commit(write)
        self.ended_by_a_write(new)
        answers = self.stored(write)
        assert written.lost is (answers is None)
        assert written.placed == [
            Placed(job.id, not fresh) for job, fresh in zip(write.jobs, answers or (), strict=False)
        ]
        self.oracle.look(self.now)

    def stored(self, write: Write) -> list[bool] | None:
        """Have the oracle store what the engine has stored; whether each job is new, None when the write has lost."""
        oracle = self.oracle
        if any(one.id in oracle.joins for one in write.joins):
            return None
        for one in write.joins:
            oracle.make(one, self.now)
        answers = [oracle.enqueue(job, self.now) for job in write.jobs]
        for job, fresh in zip(write.jobs, answers, strict=True):
            if fresh:
                self.seen.pop(job.id, None)
        for one in write.joins:
            for id in one.members:
                oracle.enter(id, (one.id,))
        for join, id in write.enters:
            oracle.enter(id, (join,))
        for id in write.seals:
            if id in oracle.joins:
                oracle.joins[id].sealed = True
        return answers

    def commit(self, batch: list[NewJob], swaps: tuple[Swap, ...], counts: tuple[Count, ...] = ()) -> None:
        super().commit(self.as_members(batch), swaps, counts)
        if self.ended_by_a_write(batch):
            # A write without joins decides none; any other one does.
            self.store.transition(Action.CANCEL, ["nobody"])
        self.oracle.look(self.now)

    def ended_by_a_write(self, new: list[NewJob]) -> list[str]:
        """A write may end an expired job that has the id of one of its own, as a sweep would; give those."""
        wanted = {job.id for job in new}
        late = [job.id for job in self.oracle.expired(self.now) if job.id in wanted]
        cancelled = [id for id in late if row_of(self.store, id).state is State.CANCELLED]
        assert self.oracle.expire(tuple(cancelled), self.now)
        return cancelled

    def as_members(self, new: list[NewJob]) -> list[NewJob]:
        """These jobs; one that has the id of a member whose record is gone takes its place, which is for callers to see
        to: what becomes of the member otherwise is left open.
        """
        return [replace(job, joins=tuple(dict.fromkeys((*job.joins, *self.oracle.left(job.id))))) for job in new]

    # -- runs --

    @precondition(lambda self: self.running())
    @rule(data=st.data(), wait=waits)
    def await_a_join(self, data: st.DataObject, wait: Wait) -> None:
        ref = data.draw(st.sampled_from(self.running()))
        outcome = Outcome(ref.id, ref.fence, Kind.AWAIT, waits=wait)
        self.store.settle([outcome])
        assert self.oracle.settle(outcome, self.now)
        self.the_store_equals_the_oracle()

    @precondition(lambda self: self.running())
    @rule(
        data=st.data(),
        kind=st.sampled_from([Kind.DONE, Kind.DEAD, Kind.RETRY, Kind.AWAIT]),
        wait=waits,
        writes=st.lists(
            st.tuples(
                tied_jobs,
                st.sampled_from([[], [], ["A"], ["B"], ["A", "C"]]),
                st.lists(ids, max_size=2, unique=True),
                st.booleans(),
                st.lists(joins, max_size=1),
            ),
            min_size=1,
            max_size=2,
        ),
    )
    def end_with_compositions(
        self,
        data: st.DataObject,
        kind: Kind,
        wait: Wait,
        writes: list[tuple[list[NewJob], list[str], list[str], bool, list[str]]],
    ) -> None:
        """A run ends, or waits, and leaves compositions: each is stored whole or not at all."""
        ref = data.draw(st.sampled_from(self.running()))
        gone = {job.id for job in self.oracle.jobs.values() if self.oracle.is_late(job, self.now)}
        then = []
        for new, made, there, sealed, seals in writes:
            if all(seal not in made for _, made, *_ in writes for seal in seals):  # of one write they come last
                jobs = self.as_members([job for job in new if job.id not in gone])
                then.append(
                    Write(tuple(jobs), joins=tuple(made_of(one, there, sealed) for one in made), seals=tuple(seals))
                )
        outcome = Outcome(
            ref.id, ref.fence, kind, cause=LOST, then=tuple(then), waits=wait if kind is Kind.AWAIT else None
        )
        self.store.settle([outcome])
        assert self.oracle.settle(outcome, self.now)
        for write in then:
            self.stored(write)
        self.the_store_equals_the_oracle()

    @rule(worker=workers, data=st.data())
    def run_several(self, worker: str, data: st.DataObject) -> None:
        """Several ends in one write."""
        self.claim(worker, 4, None, False, True)
        ends = st.sampled_from([Kind.DONE, Kind.DONE, Kind.DEAD, Kind.CANCELLED, Kind.RETRY])
        kinds = {x.id: data.draw(ends) for x in self.oracle.held(worker)}
        outcomes = [
            Outcome(x.id, x.fence, kinds[x.id], cause=LOST if kinds[x.id] is Kind.DEAD else None)
            for x in self.oracle.held(worker)
        ]
        self.store.settle(outcomes)
        for outcome in outcomes:
            assert self.oracle.settle(outcome, self.now)
        self.the_store_equals_the_oracle()

    @rule(budget=st.sampled_from([1, 3, 100]))
    def maintain(self, budget: int) -> None:
        steps = [step for _ in range(4) for step in upkeep(self.store, RULES, budget)]
        assert sorted(i for step in steps for i in step.watched) == self.oracle.watched(self.now)
        recovered, died = self.oracle.maintain(self.now)
        assert sorted(i for step in steps for i in step.released) == sorted(recovered)
        assert sorted(i for step in steps for i in step.died) == sorted(died)
        self.forget_those_that_went()

    # -- what always holds --

    @invariant()
    def the_store_equals_the_oracle(self) -> None:
        self.oracle.look(self.now)
        super().the_store_equals_the_oracle()
        for job_id in IDS:
            row, mine = self.store.job(job_id), self.oracle.jobs.get(job_id)
            if row is None or not isinstance(mine, TiedJob):
                continue
            gate = None if mine.wait is None or mine.state is not State.BLOCKED else mine.wait.gate
            assert (row.blocked_by, row.reason == "skipped") == (gate, mine.is_skipped), (row, mine)
            if mine.state in {State.BLOCKED, State.SCHEDULED}:
                assert row.expires_at == mine.expires_at, (row, mine)
                assert mine.state is State.BLOCKED or row.run_at == mine.run_at, (row, mine)

    @invariant()
    def counts_equal_the_oracle(self) -> None:
        self.oracle.look(self.now)
        super().counts_equal_the_oracle()

    @invariant()
    def joins_equal_the_oracle(self) -> None:
        self.oracle.look(self.now)
        for id, row in zip(JOINS, self.store.joins(JOINS), strict=True):
            mine = self.oracle.joins.get(id)
            assert (row is None) == (mine is None), (id, row, mine)
            if row is None or mine is None:
                continue
            found, _ = self.store.members(id, None, 100)
            assert found == [Member(one, mine.members[one].verdict) for one in sorted(mine.members)], (id, found, mine)
            assert (row.tally, row.home) == (mine.tally, mine.new.home), id
            # One that ended, took more and had ended again when the write was done may say either.
            assert row.ended_at in {mine.ended_at, self.now if mine.tally.has_ended else None}, (id, row, mine)
            mine.ended_at = row.ended_at
