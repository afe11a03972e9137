"""Joins: members are counted by how they end, and whoever waits for that goes on or is skipped in the same write."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from msgspec.structs import replace

from windlass.core.join import Tally, decide
from windlass.core.model import FINISHED, Ends, NewJob, NewJoin, State, Swap, UniqueKey, Wait, Write
from windlass.core.rows import Action, JoinRow, Member
from windlass.core.work import Kind, Outcome, Rules, Settled, Want
from windlass.engines.base import Store, TransactionalCommit
from windlass.testing.conformance.harness import (
    Harness,
    ended,
    error,
    info,
    job,
    join,
    row_of,
    state_of,
    take,
    take_one,
)

DEATH = Rules(max_crashes=1, max_interruptions=0)


def member(job_id: str, *joins: str, waits: Wait | None = None, **options: object) -> NewJob:
    """A job that is a member of joins, and waits for one."""
    return replace(job(job_id, **options), joins=joins, waits=waits)  # type: ignore[arg-type]


def store_all(store: Store, jobs: Iterable[NewJob], *joins: NewJoin, seals: tuple[str, ...] = ()) -> None:
    """Store jobs and joins in one write, which wins."""
    assert not store.commit(Write(tuple(jobs), joins=joins, seals=seals)).lost


def read(store: Store, join_id: str) -> JoinRow:
    """A join that is there."""
    (row,) = store.joins([join_id])
    assert row is not None
    return row


def end(store: Store, kind: Kind, *ids: str) -> None:
    """Run jobs that are ready, and end them so; what else is ready goes back."""
    leases = {lease.id: lease for lease in take(store)}
    store.settle([ended(lease, kind if id in ids else Kind.RELEASE) for id, lease in leases.items()])
    assert set(ids) <= set(leases)


def waiting(*waits: tuple[str, Ends, int]) -> list[NewJob]:
    """Jobs that wait for ``J``."""
    return [member(id, waits=Wait("J", of, count)) for id, of, count in waits]


class JoinSuite:
    def test_a_member_counts_as_it_ended(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member(id, "J") for id in "abcd"], NewJoin("J"))
        assert read(store, "J").tally == Tally(True, 4)
        end(store, Kind.DONE, "a")
        end(store, Kind.DEAD, "b")
        end(store, Kind.CANCELLED, "c")
        assert read(store, "J").tally == Tally(True, 4, ok=1, bad=1, void=1)
        assert store.members("J", None, 10) == (
            [Member("a", State.DONE), Member("b", State.DEAD), Member("c", State.CANCELLED), Member("d", None)],
            None,
        )
        assert read(store, "J").ended_at is None
        end(store, Kind.RETRY, "d")
        assert read(store, "J").tally.open == 1
        harness.clock.advance(1)
        end(store, Kind.DONE, "d")
        assert read(store, "J").ended_at == read(store, "J").moved_at == store.times().wall

    def test_whoever_waits_is_blocked_and_goes_on_when_enough_have_ended(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(
            store,
            [
                *(member(id, "J") for id in "abc"),
                *waiting(("ok-all", "ok", 0), ("bad-1", "bad", 1), ("end-all", "end", 0), ("ok-2", "ok", 2)),
            ],
            NewJoin("J"),
        )
        row = row_of(store, "ok-all")
        assert (row.state, row.blocked_by) == (State.BLOCKED, "join:J")
        assert {one.gate for one in store.blocked()} == {"join:J"}
        end(store, Kind.DONE, "a")
        assert {state_of(store, id) for id in ("ok-all", "bad-1", "end-all", "ok-2")} == {State.BLOCKED}
        end(store, Kind.DEAD, "b")
        assert [state_of(store, id) for id in ("ok-all", "bad-1", "end-all", "ok-2")] == [
            State.CANCELLED, State.READY, State.BLOCKED, State.BLOCKED,
        ]  # fmt: skip
        row = row_of(store, "ok-all")
        assert (row.reason, row.finished_at) == ("skipped", store.times().wall)
        end(store, Kind.DONE, "c")
        assert {lease.id for lease in take(store)} == {"bad-1", "end-all", "ok-2"}

    def test_a_chain_goes_step_by_step_and_what_stands_behind_a_failure_is_skipped(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        steps = [member("s0", "J1")]
        steps += [member(f"s{n}", f"J{n + 1}", waits=Wait(f"J{n}")) for n in range(1, 6)]
        store_all(store, steps, *(NewJoin(f"J{n}") for n in range(1, 7)))
        assert [lease.id for lease in take(store)] == ["s0"]
        store.settle([outcome(store, "s0")])
        assert [lease.id for lease in take(store)] == ["s1"]
        store.settle([outcome(store, "s1", Kind.DEAD)])
        assert take(store) == []
        assert [row_of(store, f"s{n}").reason for n in range(2, 6)] == ["skipped"] * 4
        assert read(store, "J6").tally == Tally(True, 1, void=1)

    def test_a_member_of_the_join_that_it_waits_for_ends_it(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("a", "J", waits=Wait("J", "ok", 2)), *waiting(("b", "end", 0))], NewJoin("J"))
        assert row_of(store, "a").reason == "skipped"
        assert read(store, "J").ended_at is not None
        assert [lease.id for lease in take(store)] == ["b"]

    @pytest.mark.parametrize("order", ["AB", "BA"])
    def test_a_join_that_two_levels_of_one_write_move_is_decided_by_both(self, harness: Harness, order: str) -> None:
        """``a`` ends and moves both joins; the skip of ``b``, which waits for the first, moves the second again."""
        store = harness.engine
        join(store)
        first, second = order[0], order[1]
        one, two = member("a", first, second), member("b", second, waits=Wait(first, "bad"))
        store_all(store, [one, two, member("c", waits=Wait(second))], NewJoin(first), NewJoin(second))
        end(store, Kind.DONE, "a")
        assert read(store, second).tally == Tally(True, 2, ok=1, void=1)
        assert row_of(store, "c").reason == "skipped"

    def test_an_empty_join_has_ended_once_it_is_sealed(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, waiting(("ok", "ok", 0), ("end", "end", 0), ("bad", "bad", 1)), NewJoin("J", sealed=False))
        assert take(store) == []
        store_all(store, [], seals=("J",))
        assert {lease.id for lease in take(store)} == {"ok", "end"}
        assert row_of(store, "bad").reason == "skipped"
        assert read(store, "J").ended_at is not None

    def test_an_open_join_takes_members_and_decides_nothing_that_more_could_change(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(
            store,
            [member("a", "J"), *waiting(("all", "end", 0), ("two", "ok", 2), ("dead", "bad", 1))],
            NewJoin("J", sealed=False),
        )
        end(store, Kind.DONE, "a")
        assert take(store) == []
        store_all(store, [member("b", "J")])
        end(store, Kind.DONE, "b")
        assert [state_of(store, id) for id in ("all", "two", "dead")] == [State.BLOCKED, State.READY, State.BLOCKED]
        store_all(store, [], seals=("J", "unknown"))
        assert [state_of(store, id) for id in ("all", "dead")] == [State.READY, State.CANCELLED]
        assert read(store, "J").tally == Tally(True, 2, ok=2)

    def test_a_dead_member_that_runs_again_takes_its_verdict_back(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(
            store,
            [
                member("a", "J"),
                member("next", "K", waits=Wait("J")),
                member("last", waits=Wait("K")),
                member("alarm", waits=Wait("J", "bad", 1)),
            ],
            NewJoin("J"),
            NewJoin("K"),
        )
        end(store, Kind.DEAD, "a")
        assert [state_of(store, id) for id in ("next", "last", "alarm")] == [
            State.CANCELLED, State.CANCELLED, State.READY,
        ]  # fmt: skip
        (moved,) = store.transition(Action.RETRY, ["a"])
        assert moved.applied
        assert [state_of(store, id) for id in ("next", "last")] == [State.BLOCKED, State.BLOCKED]
        assert (read(store, "J").tally, read(store, "J").ended_at) == (Tally(True, 1), None)
        assert read(store, "K").tally == Tally(True, 1)
        assert state_of(store, "alarm") is State.READY  # it has gone on
        end(store, Kind.DONE, "a")
        end(store, Kind.DONE, "next")
        assert {lease.id for lease in take(store)} == {"last", "alarm"}

    def test_a_job_that_was_skipped_and_is_retried_by_hand_runs(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("a", "J"), member("b", waits=Wait("J"))], NewJoin("J"))
        end(store, Kind.DEAD, "a")
        store.transition(Action.RETRY, ["b"])
        assert [lease.id for lease in take(store)] == ["b"]
        store.settle([outcome(store, "b", Kind.CANCELLED, reason="skipped")])
        store.transition(Action.RETRY, ["a"])
        assert state_of(store, "b") is State.CANCELLED  # by itself, whatever it calls that

    def test_a_job_that_was_cancelled_while_it_waited_stays_so(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("a", "J"), member("b", "K", waits=Wait("J"))], NewJoin("J"), NewJoin("K"))
        store.transition(Action.CANCEL, ["b"])
        assert read(store, "K").tally == Tally(True, 1, void=1)
        end(store, Kind.DONE, "a")
        assert take(store) == []
        assert row_of(store, "b").reason == "cancelled"

    @pytest.mark.parametrize("how", ["bury", "lapse", "expire", "delete", "cancel", "depart"])
    def test_whatever_ends_a_member_counts(self, harness: Harness, how: str) -> None:
        store = harness.engine
        join(store, lease_ms=10_000)
        store_all(
            store,
            [
                member("a", "J", expires_ms=1_000 if how == "expire" else None, max_attempts=1),
                *waiting(("b", "end", 0)),
            ],
            NewJoin("J"),
        )
        match how:
            case "bury":
                store.bury("w1", [take_one(store).fence], error("WorkerCrashed"), DEATH)
            case "lapse":
                take_one(store)
                harness.clock.advance(10_001)
                store.maintain(DEATH, 100)
            case "depart":
                take_one(store)
                for n in range(12):  # until an interruption costs the only attempt
                    store.depart(f"w{n}" if n else "w1")
                    if state_of(store, "a") in FINISHED:
                        break
                    store.extend(info(f"w{n + 1}"), (), 10_000)
                    store.claim(Want(f"w{n + 1}", 1))
            case "expire":
                harness.clock.advance(1_000)
                store.maintain(Rules(), 100)
            case "delete":
                store.transition(Action.DELETE, ["a"])
            case "cancel":
                store.transition(Action.CANCEL, ["a"])
        tally = read(store, "J").tally
        assert (tally.open, tally.bad) == (0, 1 if how in ("bury", "lapse", "depart") else 0)
        assert state_of(store, "b") is State.READY

    def test_a_waiter_that_is_deleted_is_forgotten(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("a", "J"), member("b", "K", waits=Wait("J"))], NewJoin("J"), NewJoin("K"))
        store.transition(Action.DELETE, ["b"])
        assert read(store, "K").tally == Tally(True, 1, void=1)
        store_all(store, [job("b")])
        end(store, Kind.DEAD, "a")
        assert state_of(store, "b") is State.READY  # another job of that id

    def test_jobs_that_are_there_already_enter_a_join_as_they_stand(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [job(id) for id in ("waits", "done", "dead", "gone")])
        end(store, Kind.DONE, "done")
        end(store, Kind.DEAD, "dead")
        store.transition(Action.DELETE, ["gone"])
        store_all(
            store,
            waiting(("all", "end", 0), ("alarm", "bad", 1)),
            NewJoin("J", members=("waits", "done", "dead", "gone")),
        )
        assert read(store, "J").tally == Tally(True, 4, ok=1, bad=1, void=1)
        assert [state_of(store, id) for id in ("all", "alarm")] == [State.BLOCKED, State.READY]
        end(store, Kind.DONE, "waits")
        assert state_of(store, "all") is State.READY

    def test_a_duplicate_stands_for_the_job_that_was_asked_for(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [job("a")])
        end(store, Kind.DONE, "a")
        store_all(store, [member("a", "J"), member("b", "J"), *waiting(("c", "ok", 0))], NewJoin("J"))
        assert read(store, "J").tally == Tally(True, 2, ok=1)
        store_all(store, [member("b", "J", waits=Wait("unknown"))])  # sent twice
        end(store, Kind.DONE, "b")
        assert [lease.id for lease in take(store)] == ["c"]

    def test_a_waiter_that_is_written_over_goes_on_waiting(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        key = UniqueKey("k", "done", None, "replace")
        waiter = replace(member("b", "K", waits=Wait("J")), unique=key)
        store_all(store, [member("a", "J"), waiter], NewJoin("J"), NewJoin("K"))
        (placed,) = store.commit(Write((replace(job("new", payload="[2]", expires_ms=1), unique=key),))).placed
        assert (placed.id, placed.duplicate) == ("b", True)
        harness.clock.advance(10)
        store.maintain(Rules(), 100)
        assert [lease.id for lease in take(store)] == ["a"]
        store.settle([outcome(store, "a")])
        (lease,) = take(store)
        assert (lease.id, lease.payload) == ("b", b"[2]")
        store.settle([ended(lease)])
        assert read(store, "K").tally == Tally(True, 1, ok=1)

    def test_a_write_whose_join_is_there_already_is_lost(self, harness: Harness) -> None:
        store = harness.engine
        write = Write((member("a", "J"),), joins=(NewJoin("J"), NewJoin("K")))
        assert not store.commit(write).lost
        other = Write((job("x"),), (Swap("doc", 0, "1"),), joins=(NewJoin("L"), NewJoin("K")))
        for one in (write, other):
            assert store.commit(one).lost
        assert (state_of(store, "x"), store.keys(""), store.joins(["L"])) == (None, [], [None])

    def test_a_job_that_waits_for_a_join_that_is_not_there_is_skipped(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("a", "J", waits=Wait("nothing")), *waiting(("b", "end", 0))], NewJoin("J"))
        assert (row_of(store, "a").reason, state_of(store, "b")) == ("skipped", State.READY)

    def test_a_member_of_a_join_that_is_not_there_is_a_job_as_any(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("a", "nothing")])
        end(store, Kind.DONE, "a")
        assert store.joins(["nothing"]) == [None]

    def test_a_delay_counts_from_when_a_job_goes_on_and_so_does_its_time_to_expire(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=10 * 86_400_000)
        at = store.times().wall + 20_000
        store_all(
            store,
            [
                member("a", "J"),
                member("b", waits=Wait("J"), delay_ms=5_000, expires_ms=1_000),
                member("c", waits=Wait("J"), run_at=at),
                member("d", waits=Wait("J"), run_at=at + 1, expires_ms=1),
            ],
            NewJoin("J"),
        )
        harness.clock.advance(10_000)
        store.maintain(Rules(), 100)
        assert [state_of(store, id) for id in "bcd"] == [State.BLOCKED] * 3
        end(store, Kind.DONE, "a")
        now = store.times().wall
        assert [state_of(store, id) for id in "bcd"] == [State.SCHEDULED] * 3
        assert [row_of(store, id).run_at for id in "bcd"] == [now + 5_000, at, at + 1]
        assert [row_of(store, id).expires_at for id in "bcd"] == [now + 6_000, None, at + 2]
        harness.clock.advance(5_000)
        assert [lease.id for lease in take(store)] == ["b"]

    def test_a_body_may_wait_for_its_children(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("parent", "P")], NewJoin("P"))
        lease = take_one(store)
        store_all(store, [member("c1", "J"), member("c2", "J")], NewJoin("J"))
        assert store.settle([replace(ended(lease, Kind.AWAIT), waits=Wait("J", "end"))]) == [Settled.APPLIED]
        row = row_of(store, "parent")
        assert (row.state, row.blocked_by, row.attempt, row.worker) == (State.BLOCKED, "join:J", 0, None)
        end(store, Kind.DONE, "c1")
        end(store, Kind.DEAD, "c2")
        again = take_one(store)
        assert (again.id, again.attempt) == ("parent", 1)
        assert store.settle([ended(lease)]) == [Settled.STALE]
        # What cannot come true any more is told by going on: the body decides.
        assert store.settle([replace(ended(again, Kind.AWAIT), waits=Wait("J", "ok"))]) == [Settled.APPLIED]
        assert [one.id for one in take(store)] == ["parent"]

    def test_a_body_that_waits_for_a_join_that_is_not_there_goes_on(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [job("a")])
        store.settle([replace(ended(take_one(store), Kind.AWAIT), waits=Wait("nothing"))])
        assert [one.id for one in take(store)] == ["a"]

    def test_a_follow_up_enters_a_join_that_its_maker_keeps_open(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("a", "J"), *waiting(("b", "ok", 0))], NewJoin("J"))
        store.settle([ended(take_one(store), then=(member("a1", "J"), member("a2", "J", waits=Wait("J", "ok", 2))))])
        assert [state_of(store, id) for id in ("b", "a1", "a2")] == [State.BLOCKED, State.READY, State.BLOCKED]
        end(store, Kind.DONE, "a1")
        end(store, Kind.DONE, "a2")
        assert [lease.id for lease in take(store)] == ["b"]

    def test_records_of_members_are_kept_as_long_as_the_join(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=10 * 86_400_000)
        store_all(store, [member("a", "J", "K"), member("b", "J")], NewJoin("J", keep_ms=5_000), NewJoin("K", home="J"))
        (lease,) = [one for one in take(store) if one.id == "a"]
        store.settle([ended(lease, keep_ms=1)])
        harness.clock.advance(1_000)
        sweep(store)
        assert state_of(store, "a") is State.DONE
        store.settle([outcome(store, "b", keep_ms=0)])
        harness.clock.advance(4_999)
        sweep(store)
        assert [state_of(store, id) for id in "ab"] == [State.DONE, State.DONE]
        harness.clock.advance(1)
        sweep(store)
        assert (store.joins(["J", "K"]), store.members("J", None, 10)) == ([None, None], ([], None))
        assert [state_of(store, id) for id in "ab"] == [None, None]

    def test_a_join_is_kept_as_long_as_a_dead_member_may_run_again(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=10 * 86_400_000)
        joins = NewJoin("J", keep_ms=1_000), NewJoin("K", home="J")
        store_all(store, [member("a", "J", "K"), member("b", "J", waits=Wait("K"))], *joins)
        end(store, Kind.DEAD, "a")
        harness.clock.advance(86_400_000)
        sweep(store)
        assert row_of(store, "b").reason == "skipped"
        store.transition(Action.RETRY, ["a"])
        end(store, Kind.DONE, "a")
        end(store, Kind.DONE, "b")
        assert read(store, "J").tally == Tally(True, 2, ok=2)
        harness.clock.advance(86_400_000)
        sweep(store)
        assert store.joins(["J", "K"]) == [None, None]

    def test_pages(self, harness: Harness) -> None:
        store = harness.engine
        ids = [f"m{n:02}" for n in range(25)]
        store_all(store, [member(id, "b:1") for id in ids], *(NewJoin(id) for id in ("a:1", "b:1", "b:2", "b:3", "c")))
        found: list[str] = []
        cursor: str | None = None
        while True:
            page, cursor = store.members("b:1", cursor, 10)
            found += [one.id for one in page]
            if cursor is None:
                break
        assert found == ids
        first, cursor = store.list_joins("b:", None, 2)
        second, none = store.list_joins("b:", cursor, 2)
        assert ([one.id for one in first], [one.id for one in second], none) == (["b:1", "b:2"], ["b:3"], None)
        assert store.joins([]) == []

    def test_a_join_says_what_it_was_made_with(self, harness: Harness) -> None:
        store = harness.engine
        store_all(store, [], NewJoin("J", sealed=False, keep_ms=7_000, meta='{"a":1}'), NewJoin("K", home="J"))
        row = read(store, "J")
        now = store.times().wall
        assert row == JoinRow("J", Tally(False, 0), now, now, None, 7_000, None, b'{"a":1}')
        assert read(store, "K").home == "J"

    def test_thousands_of_waiters_and_a_deep_cascade_are_decided_in_bounded_steps(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        many, deep = 2_500, 150
        steps = [member(f"s{n:03}", f"D{n + 1}", waits=Wait(f"D{n}") if n else Wait("J")) for n in range(deep)]
        store_all(
            store,
            [member("a", "J"), *(member(f"w{n:04}", waits=Wait("J", "bad")) for n in range(many)), *steps],
            NewJoin("J"),
            *(NewJoin(f"D{n}") for n in range(1, deep + 1)),
        )
        end(store, Kind.DEAD, "a")
        for _ in range(10):  # what one write leaves is done by the next ones
            sweep(store)
        counts = store.counts()
        assert (counts["blocked"], counts["ready"], counts["cancelled"]) == (0, many, deep)

    def test_a_join_that_is_over_is_kept_until_all_who_waited_for_it_have_gone_on(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        many = 1_200
        waiters = [member(f"w{n:04}", waits=Wait("K")) for n in range(many)]
        store_all(store, [member("a", "J", "K"), *waiters], NewJoin("J"), NewJoin("K", home="J"))
        end(store, Kind.DONE, "a")
        for _ in range(10):
            store.maintain(Rules(), 100)
        assert store.counts()["ready"] == many
        sweep(store)
        assert store.joins(["J", "K"]) == [None, None]

    def test_a_worker_is_woken_by_what_goes_on(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        join(store)
        store_all(store, [member("a", "J"), *waiting(("b", "ok", 0))], NewJoin("J"))
        lease = take_one(store)
        while store.wait(None, 0.0):
            pass
        other.settle([ended(lease)])
        assert store.wait(None, 30.0)
        assert [one.id for one in take(store)] == ["b"]

    def test_who_waits_for_the_end_of_a_job_hears_that_it_was_skipped(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store_all(store, [member("a", "J"), *waiting(("b", "ok", 0))], NewJoin("J"))
        end(store, Kind.DEAD, "a")
        assert store.wait_finished(["a", "b"], 30.0)

    def test_joins_are_part_of_the_callers_transaction(self, harness: Harness) -> None:
        store = harness.engine
        if not isinstance(store, TransactionalCommit):
            return  # engines without transactions promise nothing here
        join(store)
        write = Write((member("a", "J"), *waiting(("b", "ok", 0))), joins=(NewJoin("J"),))
        with store.transaction() as tx:
            tx.execute("SAVEPOINT mine")
            assert not store.commit_within(tx, write).lost
            tx.execute("ROLLBACK TO mine")
        assert (store.joins(["J"]), state_of(store, "a")) == ([None], None)
        with store.transaction() as tx:
            assert not store.commit_within(tx, write).lost
            assert store.commit_within(tx, write).lost
        end(store, Kind.DONE, "a")
        assert [one.id for one in take(store)] == ["b"]

    @pytest.mark.parametrize("seed", range(8))
    def test_random_graphs_end_as_the_rule_says(self, harness: Harness, seed: int) -> None:
        """Random graphs, ended in random ways: every waiter that ran was allowed to, every skipped one was not."""
        rng = random.Random(seed)
        store = harness.engine
        count = rng.randint(3, 14)
        parents = {n: rng.sample(range(n), min(n, rng.randint(0, 3))) for n in range(count)}
        waits = {
            n: Wait(f"J{n}", rng.choice(["ok", "bad", "end"]), rng.choice([0, 0, 1, len(parents[n])]))
            for n in range(count)
            if parents[n]
        }
        jobs = [
            member(
                f"j{n}",
                *(f"J{after}" for after in range(count) if n in parents[after]),
                waits=waits.get(n),
                max_attempts=1,
            )
            for n in range(count)
        ]
        store_all(store, jobs, *(NewJoin(f"J{n}", keep_ms=86_400_000) for n in waits))
        ran: set[str] = set()
        for step in range(400):
            worker = f"w{step}"
            store.extend(info(worker), (), 1_000)
            leases = store.claim(Want(worker, rng.randint(1, 3))).leases
            if not leases:
                break
            ran.update(lease.id for lease in leases)
            match rng.random():
                case lot if lot < 0.7:
                    kinds = [rng.choice([Kind.DONE, Kind.DONE, Kind.DEAD, Kind.CANCELLED]) for _ in leases]
                    store.settle([ended(lease, kind) for lease, kind in zip(leases, kinds, strict=True)])
                    store.depart(worker)
                case lot if lot < 0.85:
                    store.bury(worker, [lease.fence for lease in leases], error("WorkerCrashed"), DEATH)
                case _:
                    harness.clock.advance(1_001)
                    store.maintain(DEATH, 100)
            if rng.random() < 0.1:
                store.transition(Action.CANCEL, [f"j{rng.randrange(count)}"])
            if rng.random() < 0.1:
                again = f"j{rng.randrange(count)}"
                if state_of(store, again) is State.DEAD:
                    store.transition(Action.RETRY, [again])
        rows = [row_of(store, f"j{n}") for n in range(count)]
        assert {row.state for row in rows} <= FINISHED, [(row.id, row.state, row.blocked_by) for row in rows]
        for n, wait in waits.items():
            tally = tally_of([rows[parent].state for parent in parents[n]])
            assert read(store, f"J{n}").tally == tally
            if rows[n].reason == "skipped":
                assert decide(tally, wait.of, wait.count) == "skip"
            elif f"j{n}" not in ran:
                assert rows[n].reason == "cancelled"


def tally_of(states: Sequence[State]) -> Tally:
    """The counters of a sealed join, counted."""
    return Tally(
        True,
        len(states),
        states.count(State.DONE),
        states.count(State.DEAD),
        states.count(State.CANCELLED),
    )


def outcome(
    store: Store, job_id: str, kind: Kind = Kind.DONE, *, reason: str | None = None, keep_ms: int | None = None
) -> Outcome:
    """The outcome of a job that runs."""
    return Outcome(job_id, row_of(store, job_id).fence, kind, reason=reason, keep_ms=keep_ms)


def sweep(store: Store) -> None:
    """Do upkeep until there is no more."""
    for _ in range(100):
        if not store.maintain(Rules(), 1_000).more:
            break
    store.maintain(Rules(), 1_000)
