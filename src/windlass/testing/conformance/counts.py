"""What is counted: by the engine itself, exactly and with the write, and by callers; how it is read, and what stays."""

from __future__ import annotations

from collections import Counter

import pytest
from msgspec.structs import replace

from windlass.core.errors import ConfigError, Duplicate
from windlass.core.model import MINUTE_MS, Count, NewJob, Swap, UniqueKey, Write
from windlass.core.rows import Action
from windlass.core.work import Keep, Kind, Rules, Settled, Want
from windlass.engines.base import Store, TransactionalCommit
from windlass.testing.conformance.harness import (
    LEASE_MS,
    Harness,
    add,
    ended,
    error,
    finish,
    info,
    job,
    join,
    place,
    row_of,
    state_of,
    take,
    take_one,
    together,
    upkeep,
)

OF_ENGINE = ("arrived:", "claimed:", "total:")
KEEPS = Rules(counts=(*Rules().counts, Keep("hours", 120, "hours"), Keep("gone", 5)))


def counted(store: Store, *prefixes: str, minutes: int = 10_000) -> dict[str, int]:
    """What was counted in these minutes, by series."""
    found: Counter[str] = Counter()
    for one in store.metrics(prefixes or OF_ENGINE, minutes).counts:
        found[one.series] += one.n
    return dict(found)


def begin(harness: Harness) -> None:
    """Move the clock to where a minute begins."""
    harness.clock.advance(MINUTE_MS - harness.clock.wall_ms() % MINUTE_MS)


def keyed(job_id: str) -> NewJob:
    """A job of a key of which there may be one."""
    return replace(job(job_id), unique=UniqueKey("k", "done", None, "raise"))


def count(store: Store, *counts: Count) -> None:
    """Count, and nothing else."""
    store.commit(Write(counts=counts))


class CountSuite:
    """``Inspector.metrics``, and whatever counts."""

    def test_a_new_store_has_counted_nothing(self, harness: Harness) -> None:
        found = harness.engine.metrics(("",), 1_000)
        assert (found.now, found.counts) == (harness.clock.wall_ms(), [])

    def test_what_comes_and_what_is_claimed_is_counted_by_queue(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a", queue="qa"), job("b", queue="qa"), job("c", queue="qb", delay_ms=9_000)])
        place(store, [job("a", queue="qa")])  # a duplicate did not arrive
        add(store, "d", queue="qc")
        take(store, limit=1)
        claimed = {f"claimed:{row_of(store, i).queue}" for i in "abd" if state_of(store, i) == "running"}
        assert counted(store, "arrived:") == {"arrived:qa": 2, "arrived:qb": 1, "arrived:qc": 1}
        assert counted(store, "claimed:") == dict.fromkeys(claimed, 1)

    def test_each_end_is_counted_in_its_minute(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        for number, kind in enumerate(Kind):
            begin(harness)
            join(store)
            add(store, kind.value, queue=f"q{number}")
            store.settle([ended(take_one(store), kind, delay_ms=10**9, error=error() if kind is Kind.DEAD else None)])
            names = {Kind.RETRY: "retried", Kind.CRASH: "crashed"}
            wanted = {f"arrived:q{number}": 1, f"claimed:q{number}": 1}
            if kind not in (Kind.SNOOZE, Kind.RELEASE, Kind.AWAIT):
                wanted[f"total:{names.get(kind, kind.value)}"] = 1
            else:
                store.transition(Action.DELETE, [kind.value])
            assert counted(store, minutes=0) == wanted

    def test_what_a_batch_counts_is_the_sum_of_its_jobs(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job(f"{queue}{n}", queue=f"q{queue}") for queue in range(20) for n in range(3)])
        leases = take(store, limit=60)
        store.settle([ended(lease, then=(job(f"then-{lease.id}", queue="next"),)) for lease in leases[:40]])
        wanted = {f"{kind}:q{queue}": 3 for kind in ("arrived", "claimed") for queue in range(20)}
        assert counted(store) == wanted | {"total:done": 40, "arrived:next": 40}
        assert store.counts()["total_enqueued"] == 100

    def test_nothing_is_counted_of_a_write_that_was_refused(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [keyed("a")])
        before = counted(store)
        with pytest.raises(Duplicate):
            store.commit(Write((job("b"), keyed("c")), counts=(Count("x:y", 1),)))
        assert store.commit(Write((job("b"),), (Swap("d", 7, "1"),), counts=(Count("x:y", 1),))).lost
        assert (counted(store), counted(store, "x:")) == (before, {})

    def test_a_stale_outcome_is_counted_as_that_alone(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        lease = take_one(store)
        begin(harness)
        join(store)
        assert store.settle([ended(lease), ended(lease, Kind.DEAD)]) == [Settled.APPLIED, Settled.STALE]
        assert counted(store, minutes=0) == {"total:done": 1, "total:stale": 1}

    def test_a_crash_is_counted_also_of_a_job_that_ends_by_it(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "again", "cancelled", "held")
        leases = take(store)
        store.transition(Action.CANCEL, ["cancelled"])
        fences = [lease.fence for lease in leases if lease.id != "held"]
        store.bury("w1", fences, error("WorkerCrashed"), Rules())
        assert counted(store, "total:") == {"total:crashed": 2, "total:recovered": 2}

    def test_what_is_put_back_was_not_enqueued(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "a", kind=Kind.DEAD)
        row = row_of(store, "a")
        store.transition(Action.DELETE, ["a"])
        assert store.put_dead([row]) == [True]
        assert store.counts()["total_enqueued"] == 1
        assert counted(store, "arrived:") == {"arrived:default": 1}

    # -- counts of callers --

    def test_counts_ride_with_an_exchange_whatever_there_is_to_settle_and_claim(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b")
        want, figures = Want("w1", 1), (Count("run:shop.add", 2), Count("run:größe \0:\n", 5))
        (lease,) = store.exchange([], want, figures)[1].leases
        assert store.exchange([], None, figures)[0] == []
        assert store.exchange([ended(lease)], want, figures)[0] == [Settled.APPLIED]
        assert store.exchange([ended(lease)], None, figures)[0] == [Settled.STALE]
        assert counted(store, "run:") == {"run:shop.add": 8, "run:größe \0:\n": 20}
        assert counted(store, "run:shop") == {"run:shop.add": 8}

    def test_counts_ride_with_a_write(self, harness: Harness) -> None:
        store = harness.engine
        count(store, Count("x:a", 1))
        assert store.commit(Write((job("a"),), counts=(Count("x:a", 2), Count("x:b", 3)))).placed[0].id == "a"
        store.commit(Write(swaps=(Swap("d", 0, "1"),), counts=(Count("x:a", 4),)))
        store.commit(Write((job("b"),), (Swap("e", 0, "1"),), counts=(Count("x:a", 8),)))
        assert (counted(store, "x:"), store.keys("")) == ({"x:a": 15, "x:b": 3}, ["d", "e"])
        assert counted(store, "arrived:") == {"arrived:default": 2}

    def test_a_caller_may_say_when_within_a_day(self, harness: Harness) -> None:
        store = harness.engine
        begin(harness)
        now = harness.clock.wall_ms()
        count(store, *(Count(f"x:{at}", 1, now + at) for at in (0, 59_999, 10**9, -1, -MINUTE_MS, -(10**9), -now)))
        times = {one.series: (one.at or 0) - now for one in store.metrics(("x:",), 10_000).counts}
        day = 1_440 * MINUTE_MS
        assert times == {
            "x:0": 0,
            "x:59999": 0,
            "x:1000000000": 0,
            "x:-1": -MINUTE_MS,
            f"x:{-MINUTE_MS}": -MINUTE_MS,
            "x:-1000000000": -day,
            f"x:{-now}": -day,
        }

    def test_a_series_that_is_no_text_is_refused(self, harness: Harness) -> None:
        store = harness.engine
        for jobs in ((), (job("a"),)):
            with pytest.raises(ConfigError):
                store.commit(Write(jobs, counts=(Count("x:\ud800", 1),)))
        assert (state_of(store, "a"), counted(store)) == (None, {})

    def test_counts_are_part_of_the_callers_transaction(self, harness: Harness) -> None:
        store = harness.engine
        if not isinstance(store, TransactionalCommit):
            return  # engines without transactions promise nothing here
        with pytest.raises(ZeroDivisionError), store.transaction() as tx:
            tx.result = 1 // (len(store.commit_within(tx, Write((job("a"),), counts=(Count("x:a", 1),))).placed) - 1)
        with store.transaction() as tx:
            store.commit_within(tx, Write((job("b"),), counts=(Count("x:a", 2),)))
            tx.execute("SAVEPOINT mine")
            store.commit_within(tx, Write((job("c"),), counts=(Count("x:a", 4),)))
            tx.execute("ROLLBACK TO mine")
        assert (counted(store), counted(store, "x:")) == ({"arrived:default": 1}, {"x:a": 2})

    # -- reading --

    def test_counts_are_told_by_minute_and_series_in_order(self, harness: Harness) -> None:
        store = harness.engine
        begin(harness)
        start = harness.clock.wall_ms()
        for n in range(3):
            count(store, Count("x:b", n + 1), Count("x:a", 10), Count("y:a", 1), Count("xx:a", 1))
            harness.clock.advance(MINUTE_MS - 1)
            count(store, Count("x:b", 100))
            harness.clock.advance(1)
        wanted = [
            one
            for n in range(3)
            for one in (Count("x:a", 10, start + n * MINUTE_MS), Count("x:b", 101 + n, start + n * MINUTE_MS))
        ]
        assert store.metrics(("x:",), 3).counts == wanted
        assert store.metrics(("x:",), 2).counts == wanted[2:]
        assert store.metrics(("x:",), 0).counts == []
        assert counted(store, "y:", "xx:") == {"y:a": 3, "xx:a": 3}

    # -- what stays --

    def test_totals_are_of_all_time_and_upkeep_loses_none(self, harness: Harness) -> None:
        store = harness.engine
        for n in range(8):
            join(store)
            finish(store, f"done{n}", queue=f"q{n}")
            finish(store, f"dead{n}", kind=Kind.DEAD)
            if n % 3 == 2:
                upkeep(store, budget=2)
            found = store.counts()
            assert [found[f"total_{name}"] for name in ("enqueued", "done", "dead")] == [2 * n + 2, n + 1, n + 1]
            harness.clock.advance(MINUTE_MS)
        harness.clock.advance(10 * MINUTE_MS)
        upkeep(store, budget=3)
        found = store.counts()
        assert [found[f"total_{name}"] for name in ("enqueued", "done", "dead")] == [16, 8, 8]
        assert counted(store, minutes=10_000) == {}

    def test_minutes_stay_apart_as_long_as_the_rules_say(self, harness: Harness) -> None:
        store = harness.engine
        begin(harness)
        for _ in range(4):
            count(store, Count("arrived:q", 1), Count("hours:h", 1), Count("gone:g", 1), Count("unknown:u", 1))
            harness.clock.advance(MINUTE_MS)
        upkeep(store, KEEPS)
        ages = Counter(one.series for one in store.metrics(("",), 10_000).counts)
        assert ages == {"arrived:q": 2, "hours:h": 4, "gone:g": 4, "unknown:u": 4}
        harness.clock.advance(3 * MINUTE_MS)
        upkeep(store, KEEPS)
        ages = Counter(one.series for one in store.metrics(("",), 10_000).counts)
        assert ages == {"hours:h": 4, "gone:g": 2, "unknown:u": 4}

    def test_minutes_to_come_are_left_by_a_clock_that_stepped_back_and_go(self, harness: Harness) -> None:
        store = harness.engine
        harness.clock.step_wall(365 * 86_400_000)
        add(store, "a", queue="far")
        harness.clock.step_wall(-365 * 86_400_000)
        add(store, "b", queue="near")
        assert counted(store) == {"arrived:near": 1}
        assert store.counts()["total_enqueued"] == 2
        upkeep(store)
        assert store.counts()["total_enqueued"] == 2
        harness.clock.step_wall(365 * 86_400_000)
        assert counted(store) == {}

    def test_keepers_beside_each_other_and_a_writer_lose_nothing(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        now = harness.clock.wall_ms()
        old = tuple(Count("total:stale", 1, now - n * MINUTE_MS) for n in range(60))

        def keep(engine: Store) -> bool:
            return all(upkeep(engine, budget=7) for _ in range(10))

        def write() -> bool:
            return all(store.commit(Write(counts=old)).placed == [] for _ in range(10))

        assert together(lambda: keep(store), lambda: keep(other), write) == [True] * 3
        upkeep(store, budget=7)
        harness.clock.advance(10 * MINUTE_MS)
        upkeep(other, budget=7)
        assert store.counts()["total_stale"] == 600

    def test_ten_thousand_names_used_once_leave_no_counts(self, harness: Harness) -> None:
        store = harness.engine
        store.extend(info("w1"), (), 10**9)
        for first in range(0, 10_000, 1_000):  # as many in a call as a client sends
            place(store, [job(f"j{n}", queue=f"q{n}") for n in range(first, first + 1_000)])
        assert len(store.metrics(("arrived:",), 1).counts) == 10_000
        harness.clock.advance(5 * MINUTE_MS)
        upkeep(store)
        assert store.metrics(("",), 10_000).counts == []
        assert store.counts()["total_enqueued"] == 10_000

    def test_what_upkeep_ends_and_removes_is_counted(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "dead", kind=Kind.DEAD, keep_ms=1_000)
        add(store, "runs")
        take_one(store)
        place(store, [job("expires", expires_ms=1_000), job("waits", delay_ms=10**9)])
        begin(harness)
        store.transition(Action.CANCEL, ["waits"])
        harness.clock.advance(LEASE_MS + 1)
        upkeep(store)
        assert counted(store, "total:", minutes=0) == {"total:cancelled": 2, "total:trimmed": 1, "total:recovered": 1}
