"""Joins that are watched: upkeep names those that have not ended, each of them once in a while."""

from __future__ import annotations

from msgspec.structs import replace

from windlass.core.model import NewJoin, State, Wait, Write
from windlass.core.rows import Action
from windlass.core.work import Kind, Rules
from windlass.engines.base import Store
from windlass.testing.conformance.harness import Harness, ended, job, join, place, state_of, take_one
from windlass.testing.conformance.joins import end, member, read, store_all

LONG_MS = 10 * 86_400_000


def watched(store: Store, budget: int = 1_000) -> list[str]:
    """The joins that one whole upkeep names, in the order of their ids."""
    found: list[str] = []
    while True:
        step = store.maintain(Rules(), budget)
        assert len(step.watched) <= budget
        found += step.watched
        if not step.more:
            return sorted(found)


class WatchSuite:
    def test_a_join_that_has_not_ended_is_named_once_in_a_while(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        join(store, lease_ms=LONG_MS)
        joins = (
            NewJoin("J", watch_ms=10_000),
            NewJoin("slow", sealed=False, watch_ms=25_000),
            NewJoin("never", sealed=False),
            NewJoin("inner", home="J", watch_ms=10_000),
        )
        store_all(store, [member("a", "J", "inner"), member("b", waits=Wait("J"))], *joins)
        named = []
        for step in range(7):
            harness.clock.advance(9_999 if step == 0 else 1 if step == 1 else 10_000)
            named.append(watched(store) + watched(other) + watched(store))
        both = ["J", "inner"]
        assert named == [[], both, both, [*both, "slow"], both, both, [*both, "slow"]]
        end(store, Kind.DONE, "a")
        harness.clock.advance(1_000_000)
        assert watched(store) == ["slow"]

    def test_to_watch_a_join_changes_nothing_of_it(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=LONG_MS)
        store_all(store, [member("a", "J")], NewJoin("J", keep_ms=50_000, watch_ms=10_000))
        before = read(store, "J")
        assert before.watch_ms == 10_000
        harness.clock.advance(100_000)
        assert watched(store) == ["J"]
        assert read(store, "J") == before
        end(store, Kind.DONE, "a")
        harness.clock.advance(49_999)
        assert (watched(store), store.joins(["J"]) == [None]) == ([], False)
        harness.clock.advance(1)
        assert (watched(store), store.joins(["J"])) == ([], [None])

    def test_a_join_that_is_open_again_is_watched_again(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=LONG_MS)
        joins = NewJoin("J", watch_ms=10_000), NewJoin("inner", home="J", watch_ms=10_000)
        store_all(store, [member("a", "J", "inner")], *joins)
        end(store, Kind.DEAD, "a")
        harness.clock.advance(86_400_000)
        assert watched(store) == []
        store.transition(Action.RETRY, ["a"])
        assert watched(store) == []
        harness.clock.advance(9_999)
        assert watched(store) == []
        harness.clock.advance(1)
        assert watched(store) == ["J", "inner"]
        end(store, Kind.DONE, "a")
        harness.clock.advance(86_400_000)
        assert (watched(store), store.joins(["J", "inner"])) == ([], [None, None])

    def test_a_join_that_nothing_ever_enters_or_seals_is_watched(self, harness: Harness) -> None:
        store = harness.engine
        store_all(store, [], NewJoin("J", sealed=False, watch_ms=1))
        for _ in range(3):
            harness.clock.advance(1)
            assert watched(store) == ["J"]
        store_all(store, [], seals=("J",))
        harness.clock.advance(1)
        assert (watched(store), store.joins(["J"])) == ([], [None])

    def test_a_composition_that_a_run_stores_is_watched(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=LONG_MS)
        place(store, [job("a")])
        write = Write((member("b", "J"),), joins=(NewJoin("J", watch_ms=10_000),))
        store.settle([replace(ended(take_one(store)), then=(write,))])
        harness.clock.advance(10_000)
        assert watched(store) == ["J"]

    def test_a_step_of_upkeep_names_no_more_than_its_budget_and_asks_for_another(self, harness: Harness) -> None:
        store = harness.engine
        ids = [f"J{n:02}" for n in range(25)]
        store_all(store, [], *(NewJoin(id, sealed=False, watch_ms=10_000) for id in ids))
        for _ in range(2):
            harness.clock.advance(10_000)
            first = store.maintain(Rules(), 10)
            assert (len(first.watched), first.more) == (10, True)
            assert sorted([*first.watched, *watched(store, 10)]) == ids

    def test_joins_that_go_are_watched_no_more(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=LONG_MS)
        joins = NewJoin("J"), NewJoin("inner", home="J", sealed=False, watch_ms=10_000)
        store_all(store, [member("a", "J")], *joins)
        end(store, Kind.DONE, "a")
        assert watched(store) == []
        assert store.joins(["J", "inner"]) == [None, None]
        harness.clock.advance(10_000)
        assert watched(store) == []
        store_all(store, [], NewJoin("inner", sealed=False))
        harness.clock.advance(10_000)
        assert watched(store) == []

    def test_joins_that_are_watched_do_not_keep_those_from_being_forgotten_that_are_over(
        self, harness: Harness
    ) -> None:
        store = harness.engine
        join(store, lease_ms=LONG_MS)
        store_all(store, [], *(NewJoin(f"open{n}", sealed=False, watch_ms=1) for n in range(30)))
        store_all(store, [member("a", "J")], NewJoin("J", keep_ms=5))
        end(store, Kind.DONE, "a")
        for _ in range(20):  # each in its turn
            harness.clock.advance(1)
            store.maintain(Rules(), 4)
        assert (store.joins(["J"]), state_of(store, "a") is State.DONE) == ([None], True)
