"""What is stored by the end of a run: whole compositions, jobs that start and wait for their children."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from windlass.core.join import Tally
from windlass.core.model import NewJoin, Placed, State, UniqueKey, Wait, Write
from windlass.core.rows import Action
from windlass.core.work import Kind, Lease, Outcome, Rules, Settled, Want
from windlass.engines.base import Store, TransactionalCommit, TransactionalSettle
from windlass.testing.conformance.harness import (
    Harness,
    ended,
    job,
    join,
    place,
    row_of,
    state_of,
    take,
    take_one,
)
from windlass.testing.conformance.joins import end, member, read, store_all, sweep, waiting


def then(lease: Lease, *writes: Write, kind: Kind = Kind.DONE, waits: Wait | None = None) -> Outcome:
    """The outcome of a leased run that stores something more."""
    return replace(ended(lease, kind), then=writes, waits=waits)


def composed(join_id: str, *ids: str) -> Write:
    """Jobs that are members of a new join, and one that waits for them."""
    last = member(f"{join_id}-end", waits=Wait(join_id, "end"))
    return Write((*(member(id, join_id) for id in ids), last), joins=(NewJoin(join_id),))


def states(store: Store, *ids: str) -> list[State | None]:
    """The states of jobs, None where there is no record."""
    return [state_of(store, id) for id in ids]


def enter(store: Store, join_id: str, *ids: str) -> None:
    """Have jobs enter a join."""
    assert not store.commit(Write(enters=tuple((join_id, id) for id in ids))).lost


class CompositionSuite:
    @pytest.mark.parametrize("kind", [Kind.DONE, Kind.DEAD, Kind.CANCELLED, Kind.RETRY])
    def test_a_composition_is_stored_with_the_outcome(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a", max_attempts=2)])
        write = composed("J", "b", "c")
        assert store.settle([replace(then(take_one(store), write, kind=kind), delay_ms=90_000)]) == [Settled.APPLIED]
        assert states(store, "b", "c", "J-end") == [State.READY, State.READY, State.BLOCKED]
        end(store, Kind.DONE, "b", "c")
        assert [lease.id for lease in take(store)] == ["J-end"]

    def test_a_composition_that_is_there_already_is_not_stored_and_the_run_ends(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job(id) for id in ("a", "b", "c")])
        first, second, third = take(store)
        assert store.settle([then(first, composed("J", "x"))]) == [Settled.APPLIED]
        again = composed("J", "y"), Write((job("z"),)), composed("K", "k")
        assert store.settle([then(second, *again)]) == [Settled.APPLIED]
        assert states(store, "b", "y", "z", "k") == [State.DONE, None, State.READY, State.READY]
        assert read(store, "J").tally == Tally(True, 1)
        assert store.settle([then(third, Write((job("w"),), joins=(NewJoin("L"), NewJoin("K"))))]) == [Settled.APPLIED]
        assert (states(store, "c", "w"), store.joins(["L"])) == ([State.DONE, None], [None])

    def test_of_two_runs_that_store_one_composition_in_one_batch_the_first_does(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a"), job("b")])
        first, second = take(store)
        outcomes = [then(first, composed("J", "x")), then(second, composed("J", "y"), Write((job("z"),)))]
        settled, claimed = store.exchange(outcomes, Want("w1", 10))
        assert settled == [Settled.APPLIED, Settled.APPLIED]
        assert [lease.id for lease in claimed.leases] == ["x", "z"]
        assert (states(store, "y"), read(store, "J").tally) == ([None], Tally(True, 1))

    def test_a_composition_of_a_stale_outcome_is_not_stored(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a"), job("b")])
        stale, good = take(store)
        stale = replace(stale, fence=stale.fence - 1_000)
        outcomes = [then(stale, composed("J", "x")), then(good, composed("J", "y"))]
        assert store.settle(outcomes) == [Settled.STALE, Settled.APPLIED]
        assert states(store, "x", "y") == [None, State.READY]
        assert store.settle([then(good, composed("K", "z"))]) == [Settled.STALE]
        assert (states(store, "z"), store.joins(["K"])) == ([None], [None])

    def test_a_body_starts_its_children_and_waits_for_them_in_one_step(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("parent", "P")], NewJoin("P"))
        children = Write((member("c1", "J"), member("c2", "J")), joins=(NewJoin("J"),))
        outcome = then(take_one(store), children, kind=Kind.AWAIT, waits=Wait("J"))
        assert store.settle([outcome]) == [Settled.APPLIED]
        assert (states(store, "parent", "c1", "c2"), row_of(store, "parent").blocked_by) == (
            [State.BLOCKED, State.READY, State.READY],
            "join:J",
        )
        end(store, Kind.DONE, "c1")
        assert take_one(store).id == "c2"
        store.settle([Outcome("c2", row_of(store, "c2").fence, Kind.DONE)])
        again = take_one(store)
        assert (again.id, again.attempt) == ("parent", 1)
        # As after a crash: it starts its children once more, and they are there and have ended.
        assert store.settle([then(again, children, kind=Kind.AWAIT, waits=Wait("J"))]) == [Settled.APPLIED]
        assert take_one(store).id == "parent"
        assert read(store, "P").tally == Tally(True, 1)

    def test_a_body_whose_children_end_at_once_goes_on(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("done"), job("parent")])
        end(store, Kind.DONE, "done")
        write = Write(joins=(NewJoin("J", members=("done",)), NewJoin("K")))
        for wait in (Wait("J"), Wait("K"), Wait("J", "bad", 1)):
            store.settle([then(take_one(store), write, kind=Kind.AWAIT, waits=wait)])
        assert take_one(store).id == "parent"

    def test_a_body_that_is_cancelled_does_not_wait_for_its_children(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("parent", "P")], NewJoin("P"))
        lease = take_one(store)
        store.transition(Action.CANCEL, ["parent"])
        write = Write((member("c", "J"),), joins=(NewJoin("J"),))
        store.settle([then(lease, write, kind=Kind.AWAIT, waits=Wait("J"))])
        end(store, Kind.DONE, "c")
        assert (take(store), state_of(store, "parent")) == ([], State.CANCELLED)
        assert read(store, "P").tally == Tally(True, 1, void=1)

    def test_what_is_stored_enters_joins_and_seals_them(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("a", "J"), *waiting(("all", "ok", 0))], NewJoin("J", sealed=False))
        store.settle([then(take_one(store), Write((member("b", "J"),), seals=("J", "unknown")))])
        assert (read(store, "J").tally, state_of(store, "all")) == (Tally(True, 2, ok=1), State.BLOCKED)
        store.settle([then(take_one(store), Write(seals=("J",)))])
        assert [lease.id for lease in take(store)] == ["all"]

    def test_a_unique_key_that_is_taken_gives_way_in_a_composition(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        key = UniqueKey("k", "done", None, "raise")
        place(store, [job("first"), replace(job("holder"), unique=key)])
        first = take(store, limit=1)[0]
        write = Write((replace(member("x", "J"), unique=key), member("y", "J")), joins=(NewJoin("J"),))
        store.settle([then(first, write)])
        assert states(store, "x", "y") == [None, State.READY]
        assert [one.id for one in store.members("J", None, 10)[0]] == ["holder", "y"]

    @pytest.mark.parametrize("kind", [Kind.DONE, Kind.DEAD, Kind.RETRY])
    def test_a_run_that_enters_a_join_of_its_own_counts_as_it_ends(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        join(store, lease_ms=10 * 86_400_000)
        place(store, [job("a"), job("b")])
        first, second = take(store)
        mine = Write((member("a", "J"),), joins=(NewJoin("J"), NewJoin("K", members=("a", "b"), keep_ms=9)))
        store.settle([then(first, mine, kind=kind), replace(ended(second), keep_ms=1)])
        tally = Tally(True, 1, ok=kind is Kind.DONE, bad=kind is Kind.DEAD)
        assert read(store, "J").tally == tally
        assert read(store, "K").tally == replace(tally, total=2, ok=tally.ok + 1)
        harness.clock.advance(5)
        sweep(store)
        assert store.job("b") is not None  # a member's record stays

    def test_chains_grow_step_by_step(self, harness: Harness) -> None:
        """Every run stores the composition that the next one is a member of, in batches of many."""
        store = harness.engine
        join(store)
        place(store, [job(f"j{n}.0") for n in range(20)])
        for step in range(1, 4):
            leases = [lease for lease in take(store) if not lease.id.endswith("end")]
            writes = [composed(f"{lease.id}+", f"{lease.id.split('.')[0]}.{step}") for lease in leases]
            store.settle([then(lease, write) for lease, write in zip(leases, writes, strict=True)])
        assert store.counts()["total_done"] == 60
        assert [one.tally for one in store.joins([f"j{n}.0+" for n in range(20)]) if one] == [Tally(True, 1, ok=1)] * 20

    def test_a_composition_is_part_of_the_transaction_that_settles(self, harness: Harness) -> None:
        store = harness.engine
        if not (isinstance(store, TransactionalSettle) and isinstance(store, TransactionalCommit)):
            return  # engines without transactions promise nothing here
        join(store)
        place(store, [job("a")])
        outcome = then(take_one(store), composed("J", "b"))
        with store.transaction() as tx:
            tx.execute("SAVEPOINT mine")
            assert store.settle_within(tx, outcome) is Settled.APPLIED
            tx.execute("ROLLBACK TO mine")
        assert (states(store, "a", "b"), store.joins(["J"])) == ([State.RUNNING, None], [None])
        with store.transaction() as tx:
            assert store.settle_within(tx, outcome) is Settled.APPLIED
        end(store, Kind.DONE, "b")
        assert [lease.id for lease in take(store)] == ["J-end"]

    # -- entering what is there --

    def test_jobs_enter_a_join_that_is_there_as_they_stand(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=10 * 86_400_000)
        place(store, [job(id) for id in ("done", "dead", "void", "gone", "runs", "waits")])
        for id, kind in (("done", Kind.DONE), ("dead", Kind.DEAD), ("void", Kind.CANCELLED)):
            end(store, kind, id)
        store.transition(Action.DELETE, ["gone"])
        (runs,) = take(store, limit=1)
        store_all(store, waiting(("all", "end", 0), ("ok", "ok", 2)), NewJoin("J", sealed=False, keep_ms=60_000))
        ids = ("done", "dead", "void", "gone", "runs", "waits")
        enter(store, "J", *ids)
        assert read(store, "J").tally == Tally(False, 6, ok=1, bad=1, void=2)
        assert [one.id for one in store.members("J", None, 10)[0]] == sorted(ids)
        store.settle([ended(runs)])
        assert states(store, "all", "ok") == [State.BLOCKED, State.READY]
        harness.clock.advance(30_000_000)  # longer than records are kept
        sweep(store)
        assert states(store, "done", "void") == [State.DONE, State.CANCELLED]
        store_all(store, [], seals=("J",))
        end(store, Kind.DONE, "waits")
        assert state_of(store, "all") is State.READY
        store.transition(Action.DELETE, ["dead"])  # it might run again
        harness.clock.advance(30_000_000)
        sweep(store)
        assert (store.joins(["J"]), states(store, "done", "void", "runs")) == ([None], [None, None, None])

    def test_what_enters_a_join_that_has_ended_opens_it_again(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("a", "J"), *waiting(("b", "ok", 2))], NewJoin("J", keep_ms=60_000))
        end(store, Kind.DONE, "a")
        assert row_of(store, "b").reason == "skipped"
        place(store, [job("c")])
        enter(store, "J", "c")
        assert (read(store, "J").tally, read(store, "J").ended_at) == (Tally(True, 2, ok=1), None)
        assert state_of(store, "b") is State.BLOCKED
        end(store, Kind.DONE, "c")
        assert [lease.id for lease in take(store)] == ["b"]

    def test_who_is_skipped_and_waits_again_in_one_write_waits_and_nothing_else(self, harness: Harness) -> None:
        """``x`` enters as void, so ``y`` is skipped; then ``x`` waits again, and so does ``y``."""
        store = harness.engine
        join(store)
        store_all(store, [member("x", waits=Wait("J", "end", 2))], NewJoin("J", keep_ms=60_000))
        assert row_of(store, "x").reason == "skipped"
        store_all(store, [member("x", "J"), member("y", waits=Wait("J")), member("z", "J")])
        for id in "xy":
            row = row_of(store, id)
            assert (row.state, row.reason, row.blocked_by) == (State.BLOCKED, None, "join:J")
        assert store.counts()["cancelled"] == 0
        assert read(store, "J").tally == Tally(True, 2)

    def test_a_member_that_enters_again_changes_nothing_that_is_known(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member(id, "J") for id in "abc"], NewJoin("J"))
        end(store, Kind.DONE, "a")
        end(store, Kind.DEAD, "b")
        store.transition(Action.DELETE, ["a"])
        before = read(store, "J")
        harness.clock.advance(5)
        enter(store, "J", "a", "b", "c")
        assert read(store, "J") == before == replace(before, tally=Tally(True, 3, ok=1, bad=1))
        place(store, [job("a")])  # another job of that id
        enter(store, "J", "a")
        assert read(store, "J").tally == Tally(True, 3, bad=1)

    def test_a_join_moves_when_its_members_or_their_ends_change_and_not_when_it_is_looked_at(
        self, harness: Harness
    ) -> None:
        store = harness.engine
        join(store, lease_ms=10 * 86_400_000)
        store_all(store, [member("a", "J"), member("b", "J"), job("c")], NewJoin("J", sealed=False, keep_ms=10**9))
        steps: tuple[Callable[[], object], ...] = (
            lambda: store_all(store, waiting(("w", "end", 0))),
            lambda: store.doctor(repair=True),
            lambda: store.maintain(Rules(), 1_000),
            lambda: enter(store, "J", "a", "b"),
            lambda: end(store, Kind.RETRY, "a"),
            lambda: end(store, Kind.DEAD, "b"),
            lambda: store.transition(Action.RETRY, ["b"]),
            lambda: enter(store, "J", "c"),
            lambda: store_all(store, [], seals=("J",)),
            lambda: store_all(store, [], seals=("J",)),
            lambda: end(store, Kind.DONE, "a", "b", "c"),
            lambda: store.maintain(Rules(), 1_000),
        )
        moved = []
        for step in steps:
            harness.clock.advance(1_000)
            step()
            moved.append(read(store, "J").moved_at == store.times().wall)
        assert moved == [False, False, False, False, False, True, True, True, True, False, True, False]

    def test_to_enter_a_join_that_is_not_there_does_nothing(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [job("a"), member("b", "J")])
        enter(store, "J", "a", "unknown")
        assert (store.joins(["J"]), store.list_joins("", None, 10)) == ([None], ([], None))
        store_all(store, [member("c", "J")], NewJoin("J"))
        end(store, Kind.DONE, "a", "b")
        assert read(store, "J").tally == Tally(True, 1)
        store.transition(Action.DELETE, ["a", "b"])
        assert read(store, "J").tally == Tally(True, 1)
        assert [one.id for one in store.members("J", None, 10)[0]] == ["c"]

    def test_the_record_of_a_job_that_is_no_member_is_kept_for_no_join(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=10 * 86_400_000)
        store_all(store, [member("a", "J")])
        store_all(store, [], NewJoin("J", sealed=False))
        end(store, Kind.DONE, "a")
        harness.clock.advance(30_000_000)
        sweep(store)
        assert state_of(store, "a") is None

    def test_a_write_enters_what_it_makes_and_nothing_when_it_is_lost(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [job("a"), job("b")], NewJoin("J", sealed=False), NewJoin("K", sealed=False))
        write = Write(
            (job("c"),),
            joins=(NewJoin("L"),),
            seals=("J",),
            enters=(("L", "c"), ("L", "a"), ("J", "b"), ("J", "a"), ("K", "c")),
        )
        assert store.commit(write).placed == [Placed("c")]
        assert store.commit(replace(write, enters=(("K", "a"),))).lost
        assert [read(store, id).tally for id in "JKL"] == [Tally(True, 2), Tally(False, 1), Tally(True, 2)]
        end(store, Kind.DONE, "a", "c")
        assert [read(store, id).tally.ok for id in "JKL"] == [1, 1, 2]

    def test_entering_is_part_of_the_callers_transaction(self, harness: Harness) -> None:
        store = harness.engine
        if not isinstance(store, TransactionalCommit):
            return  # engines without transactions promise nothing here
        join(store)
        store_all(store, [job("a"), *waiting(("b", "ok", 1))], NewJoin("J", sealed=False))
        end(store, Kind.DONE, "a")
        with store.transaction() as tx:
            tx.execute("SAVEPOINT mine")
            store.commit_within(tx, Write(enters=(("J", "a"),)))
            tx.execute("ROLLBACK TO mine")
        assert read(store, "J").tally == Tally(False, 0)
        with store.transaction() as tx:
            store.commit_within(tx, Write(enters=(("J", "a"),)))
        assert [lease.id for lease in take(store)] == ["b"]

    def test_a_worker_is_woken_by_what_an_entry_lets_go(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        join(store)
        store_all(store, [job("a"), *waiting(("b", "ok", 1))], NewJoin("J", sealed=False))
        end(store, Kind.DONE, "a")
        while store.wait(None, 0.0):
            pass
        enter(other, "J", "a")
        assert store.wait(None, 30.0)
