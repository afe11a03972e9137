"""Tombstones of ids that users chose: they end, and take no room for longer than they are good for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from servers import RedisServer
from windlass.core.clock import ManualClock
from windlass.core.model import Placed
from windlass.core.rows import Action
from windlass.core.work import Rules
from windlass.engines.base import Store
from windlass.engines.redis import RedisEngine
from windlass.engines.sqlite import SqliteEngine
from windlass.testing.conformance.harness import finish, job, join, place, upkeep

KEEP_MS = 60_000
RULES = Rules(keep_done_ms=1_000, id_keep_ms=KEEP_MS)


class Yard:
    """A store on a clock that the test moves, and how many tombstones it has."""

    def __init__(self, store: Store, clock: ManualClock, count: Callable[[], int]) -> None:
        self.store = store
        self.clock = clock
        self.count = count

    def bury(self, *ids: str) -> None:
        """Let jobs end whose ids users chose, and their records go."""
        join(self.store)
        finish(self.store, *ids, caller_id=True, keep_ms=1_000)
        self.clock.advance(1_000)
        upkeep(self.store, RULES)
        assert [self.store.job(one) for one in ids] == [None] * len(ids)


@pytest.fixture(params=["sqlite", "redis"])
def yard(request: pytest.FixtureRequest) -> Iterator[Yard]:
    clock = ManualClock()
    with ExitStack() as stack:
        if request.param == "sqlite":
            sqlite = stack.enter_context(closing(SqliteEngine(None, clock=clock, rules=RULES)))

            def rows() -> int:
                with sqlite.transaction() as tx:
                    return int(tx.execute("SELECT count(*) FROM windlass_tombstones").fetchall()[0][0])

            yield Yard(sqlite, clock, rows)
            return
        server = stack.enter_context(closing(RedisServer()))
        client = stack.enter_context(server.client())
        redis = stack.enter_context(closing(RedisEngine(server.url, clock=clock, rules=RULES)))
        yield Yard(redis, clock, lambda: int(client.zcard("{windlass}:tombs")))


def test_a_tombstone_is_removed_when_its_time_is_over(yard: Yard) -> None:
    yard.bury("a", "b")
    assert yard.count() == 2
    yard.clock.advance(KEEP_MS - 1_001)
    upkeep(yard.store, RULES)
    assert yard.count() == 2
    yard.clock.advance(1)
    upkeep(yard.store, RULES)
    assert yard.count() == 0


def test_a_step_removes_no_more_than_its_budget_and_says_that_there_is_more(yard: Yard) -> None:
    yard.bury(*(f"j{n}" for n in range(5)))
    yard.clock.advance(KEEP_MS)
    left = []
    more = True
    while more:
        more = yard.store.maintain(RULES, 2).more
        left.append(yard.count())
    assert left == [3, 1, 0]


def test_an_id_is_free_when_its_tombstone_is_over_though_nobody_has_removed_it(yard: Yard) -> None:
    yard.bury("a", "b")
    yard.clock.advance(KEEP_MS - 1_001)
    assert place(yard.store, [job("a", caller_id=True)]) == [Placed("a", duplicate=True)]
    yard.clock.advance(1)
    assert place(yard.store, [job("a", caller_id=True)]) == [Placed("a")]
    assert place(yard.store, [job("c"), job("b", caller_id=True)]) == [Placed("c"), Placed("b")]


def test_a_tombstone_counts_from_the_end_of_its_job_and_not_from_when_its_record_went(yard: Yard) -> None:
    join(yard.store)
    finish(yard.store, "a", caller_id=True, keep_ms=KEEP_MS + 1_000)
    yard.clock.advance(KEEP_MS + 1_000)
    upkeep(yard.store, RULES)
    assert (yard.store.job("a"), yard.count()) == (None, 0)


def test_a_job_that_a_person_deletes_leaves_none(yard: Yard) -> None:
    join(yard.store)
    finish(yard.store, "a", caller_id=True)
    yard.store.transition(Action.DELETE, ["a"])
    assert yard.count() == 0
