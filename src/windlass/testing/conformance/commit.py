"""``Engine.commit`` of jobs and documents together: all of it, or nothing when a swap has lost."""

from __future__ import annotations

from threading import Event

import pytest
from msgspec.structs import replace

from windlass.core.model import (
    CLOCK_SLACK_MS,
    Guard,
    GuardKind,
    NewJob,
    Opening,
    Placed,
    State,
    Swap,
    UniqueKey,
    Versioned,
    Write,
    Written,
)
from windlass.core.work import Kind, Want
from windlass.engines.base import TransactionalCommit
from windlass.errors import ConfigError, Duplicate
from windlass.testing.conformance.harness import (
    Harness,
    add,
    finish,
    job,
    join,
    place,
    row_of,
    state_of,
    swap,
    take,
    together,
)

GATE = "circuit:c"


def keyed(job_id: str, key: str, rule: str = "return") -> NewJob:
    """A job with a unique key until it is done."""
    return replace(job(job_id), unique=UniqueKey(key, "done", None, rule))  # type: ignore[arg-type]


class CommitSuite:
    """Jobs beside swaps."""

    def test_jobs_and_documents_are_stored_together(self, harness: Harness) -> None:
        store = harness.engine
        written = store.commit(Write((job("a"), job("b", delay_ms=5_000)), (Swap("x", 0, "1"), Swap("y", 0, "2"))))
        assert (written.placed, written.lost) == ([Placed("a"), Placed("b")], False)
        assert [(one.key, one.value) for one in written.documents] == [("x", "1"), ("y", "2")]
        assert store.read(["x", "y"]) == list(written.documents)
        assert (state_of(store, "a"), state_of(store, "b")) == (State.READY, State.SCHEDULED)
        assert harness.second().counts()["total_enqueued"] == 2

    def test_an_empty_write_stores_nothing(self, harness: Harness) -> None:
        assert harness.engine.commit(Write()) == Written([])
        assert (harness.engine.counts()["total_enqueued"], harness.engine.keys("")) == (0, [])

    def test_when_a_swap_has_lost_nothing_is_stored_and_the_answer_says_what_stands(self, harness: Harness) -> None:
        store = harness.engine
        there = swap(store, "x", 0, "mine")
        assert there is not None
        lost = store.commit(
            Write((job("a"), job("b")), (Swap("y", 0, "new"), Swap("x", 0, "other"), Swap("z", 5, "?")))
        )
        assert lost == Written([], (Versioned("y", 0, None), there, Versioned("z", 0, None)), lost=True)
        assert (state_of(store, "a"), state_of(store, "b")) == (None, None)
        assert store.keys("") == ["x"]
        assert store.read(["x"]) == [there]
        assert (store.counts()["total_enqueued"], store.names()) == (0, [])

    def test_what_a_lost_write_would_have_stored_is_stored_by_the_next_that_wins(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        swap(store, "cursor", 0, "1")
        lost = store.commit(Write((job("a"),), (Swap("cursor", 0, "2"),)))
        (stands,) = lost.documents
        won = store.commit(Write((job("a"),), (Swap("cursor", stands.version, "2"),)))
        assert (won.placed, won.lost, won.documents[0].value) == ([Placed("a")], False, "2")
        assert [lease.id for lease in take(store)] == ["a"]

    def test_a_document_of_a_lost_write_gets_no_time_and_keeps_its_own(self, harness: Harness) -> None:
        store = harness.engine
        there = swap(store, "x", 0, "mine", 5_000)
        assert there is not None
        assert store.commit(Write((job("a"),), (Swap("x", there.version, "new"), Swap("y", 1, "2")))).lost
        harness.clock.advance(5_000)
        assert store.read(["x"]) == [Versioned("x", 0, None)]

    def test_duplicate_jobs_are_no_reason_to_lose(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "a")
        written = store.commit(Write((job("a"), job("b"), keyed("c", "k"), keyed("d", "k")), (Swap("x", 0, "1"),)))
        assert written.placed == [Placed("a", True), Placed("b"), Placed("c"), Placed("c", True)]
        assert store.read(["x"])[0].value == "1"

    def test_a_unique_key_that_raises_stores_no_document(self, harness: Harness) -> None:
        store = harness.engine
        place(store, [keyed("holder", "k")])
        there = swap(store, "x", 0, "1")
        assert there is not None
        for others in ((), (job("a"),)):
            with pytest.raises(Duplicate) as caught:
                store.commit(Write((*others, keyed("b", "k", "raise")), (Swap("x", there.version, "2"),)))
            assert caught.value.job_id == "holder"
            assert store.read(["x"]) == [there]
            assert (state_of(store, "a"), state_of(store, "b")) == (None, None)

    def test_a_lost_swap_is_told_before_a_key_that_raises(self, harness: Harness) -> None:
        store = harness.engine
        place(store, [keyed("holder", "k")])
        assert store.commit(Write((keyed("b", "k", "raise"),), (Swap("x", 1, "2"),))).lost

    def test_swaps_of_one_key_go_in_order(self, harness: Harness) -> None:
        store = harness.engine
        there = swap(store, "x", 0, "1")
        assert there is not None
        won = store.commit(Write((job("a"),), (Swap("x", there.version, None), Swap("x", 0, "2"))))
        assert not won.lost
        assert won.documents[0] == Versioned("x", 0, None)
        assert store.read(["x"]) == [won.documents[1]]
        now = won.documents[1].version
        for second in (Swap("x", now, "4"), Swap("x", 0, "4"), Swap("x", now, None)):
            assert store.commit(Write((), (Swap("x", now, "3"), second))).lost
        assert store.read(["x"]) == [won.documents[1]]

    def test_a_removal_goes_with_its_jobs(self, harness: Harness) -> None:
        store = harness.engine
        there = swap(store, "x", 0, "1")
        assert there is not None
        gone = store.commit(Write((job("a"),), (Swap("x", there.version, None),)))
        assert gone == Written([Placed("a")], (Versioned("x", 0, None),))
        again = store.commit(Write((job("b"),), (Swap("x", there.version, None),)))
        assert again == Written([], (Versioned("x", 0, None),), lost=True)
        assert (state_of(store, "a"), state_of(store, "b")) == (State.READY, None)

    def test_a_document_that_is_over_is_none(self, harness: Harness) -> None:
        store = harness.engine
        there = swap(store, "x", 0, "1", 1_000)
        assert there is not None
        harness.clock.advance(1_000)
        assert store.commit(Write((job("a"),), (Swap("x", there.version, "2"),))) == Written(
            [], (Versioned("x", 0, None),), lost=True
        )
        won = store.commit(Write((job("a"),), (Swap("x", 0, "2", 1_000),)))
        assert won.placed == [Placed("a")]
        assert won.documents[0].version != there.version
        harness.clock.advance(999)
        assert store.read(["x"]) == list(won.documents)

    def test_guards_and_records_past_their_time_are_as_in_any_enqueue(self, harness: Harness) -> None:
        store = harness.engine
        join(store, lease_ms=10 * 86_400_000)
        finish(store, "old", keep_ms=1_000)
        finish(store, "young", kind=Kind.CANCELLED, keep_ms=90_000_000)
        place(store, [replace(keyed("holder", "k"), expires_ms=1_000)])
        harness.clock.advance(2_000)
        limited = replace(job("limited"), guards=(Guard(GuardKind.CONCURRENCY, "c", 1),))
        more = replace(limited, id="more")
        written = store.commit(
            Write((job("old"), job("young"), keyed("next", "k"), limited, more), (Swap("x", 0, "1"),))
        )
        assert [one.duplicate for one in written.placed] == [False, True, False, False, False]
        assert {lease.id for lease in take(store)} == {"old", "next", "limited"}
        assert row_of(store, "more").blocked_by == "concurrency:c"

    def test_of_many_at_once_one_wins_and_its_jobs_alone_are_there(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        made = swap(store, "slot", 0, "")
        assert made is not None
        version = made.version

        def write(n: int) -> Written:
            return (store, other)[n % 2].commit(Write((job(f"j{n}"),), (Swap("slot", version, f"j{n}"),)))

        answers = together(*[lambda n=n: write(n) for n in range(8)])
        (winner,) = [answer for answer in answers if not answer.lost]
        assert store.read(["slot"]) == list(winner.documents)
        stored = [f"j{n}" for n in range(8) if store.job(f"j{n}") is not None]
        assert stored == [winner.documents[0].value]
        assert {answer.documents for answer in answers if answer.lost} == {winner.documents}

    def test_nobody_sees_the_document_without_the_jobs(self, harness: Harness) -> None:
        store, reader, over = harness.engine, harness.second(), Event()

        def write() -> bool:
            try:
                version = 0
                for n in range(60):
                    written = store.commit(Write((job(f"{n}-a"), job(f"{n}-b")), (Swap("last", version, str(n)),)))
                    version = written.documents[0].version
            finally:
                over.set()
            return True

        def read() -> bool:
            whole = True
            while not over.is_set():
                (last,) = reader.read(["last"])
                whole = whole and (last.value is None or reader.job(f"{last.value}-b") is not None)
            return whole

        assert together(write, read) == [True, True]
        assert store.counts()["ready"] == 120

    def test_a_worker_is_woken_by_a_write_with_documents(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        store.wait(None, 0.0)  # from now on it listens
        store.commit(Write((job("a"),), (Swap("x", 0, "1"),)))
        assert store.wait(None, 30.0)
        assert [lease.id for lease in take(store)] == ["a"]

    # -- gates --

    def shut(self, harness: Harness, *job_ids: str) -> int:
        """Let jobs wait at a circuit whose document says that it is open, and give its version."""
        store = harness.engine
        join(store)
        shut = swap(store, GATE, 0, '{"state":"open"}')
        place(store, [replace(job(job_id), guards=(Guard(GuardKind.CIRCUIT, "c"),)) for job_id in job_ids])
        assert shut is not None
        assert take(store) == []
        return shut.version

    def test_a_write_opens_a_gate_in_the_same_step(self, harness: Harness) -> None:
        store = harness.engine
        version = self.shut(harness, "a")
        assert store.commit(Write((job("b"),), (Swap(GATE, 9, None),), (Opening(GATE),))).lost
        assert store.claim(Want("w1", 10)).due_in_ms is None
        assert store.commit(Write((), (Swap(GATE, version, None),), (Opening(GATE),))) == Written(
            [], (Versioned(GATE, 0, None),)
        )
        assert [lease.id for lease in take(store)] == ["a"]

    def test_waiters_are_judged_anew_and_go_on_only_if_they_may(self, harness: Harness) -> None:
        store = harness.engine
        self.shut(harness, "a")
        store.commit(Write(opens=(Opening(GATE), Opening("circuit:nobody-waits-here"))))
        assert take(store) == []
        assert row_of(store, "a").blocked_by == GATE

    def test_a_gate_opens_later_or_not_by_itself(self, harness: Harness) -> None:
        store = harness.engine
        version = self.shut(harness, "a")
        shut = store.commit(Write((), (Swap(GATE, version, "{}"),), (Opening(GATE, 5_000),)))
        claimed = store.claim(Want("w1", 10))
        assert claimed.leases == []
        assert claimed.due_in_ms is not None
        assert 5_000 <= claimed.due_in_ms <= 5_050
        store.commit(Write((), (Swap(GATE, shut.documents[0].version, "{}"),), (Opening(GATE, None),)))
        harness.clock.advance(10_000)
        claimed = store.claim(Want("w1", 10))
        assert (claimed.leases, claimed.due_in_ms) == ([], None)
        store.commit(Write((job("b"),), opens=(Opening(GATE, 1_000),)))
        assert [lease.id for lease in take(store)] == ["b"]
        harness.clock.advance(1_000)
        assert [lease.id for lease in take(store)] == ["a"]

    def test_a_worker_is_woken_by_a_gate_that_opens(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        version = self.shut(harness, "a")
        while store.wait(None, 0.0):  # from now on it listens
            pass
        other.commit(Write((), (Swap(GATE, version, None),), (Opening(GATE),)))
        assert store.wait(None, 30.0)
        assert [lease.id for lease in take(store)] == ["a"]

    # -- time --

    def test_a_write_that_was_decided_for_another_time_has_lost(self, harness: Harness) -> None:
        store = harness.engine
        now = store.times().leases
        for off in (-CLOCK_SLACK_MS - 1, CLOCK_SLACK_MS + 1, 86_400_000):
            lost = store.commit(Write((), (Swap("x", 0, "1"),), clock=now + off))
            assert lost == Written([], (Versioned("x", 0, None),), lost=True)
            assert store.commit(Write((job("a"),), (Swap("x", 0, "1"),), clock=now + off)).lost
        assert store.keys("") == []
        there = store.commit(Write((), (Swap("x", 0, "1"),), clock=now + CLOCK_SLACK_MS)).documents[0]
        harness.clock.advance(60_000)
        assert store.times().leases == now + 60_000
        assert store.commit(Write((), (Swap("x", there.version, "2"),), clock=now)).lost
        assert not store.commit(Write((), (Swap("x", there.version, "2"),), clock=store.times().leases)).lost

    def test_the_wall_clock_may_step_by_itself(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        assert take(store) == []
        before = store.times()
        harness.clock.advance(5_000)
        harness.clock.step_wall(3_600_000)
        after = store.times()
        assert (after.leases - before.leases, after.wall - before.wall) == (5_000, 3_605_000)

    def test_a_key_that_is_no_text_is_refused_and_nothing_is_stored(self, harness: Harness) -> None:
        store = harness.engine
        for bad in (Swap("\ud800", 0, "x"), Swap("x", 0, "\ud800")):
            for jobs in ((), (job("a"),)):
                with pytest.raises(ConfigError):
                    store.commit(Write(jobs, (bad,)))
        assert (store.keys(""), state_of(store, "a")) == ([], None)

    def test_a_write_is_part_of_the_callers_transaction(self, harness: Harness) -> None:
        store = harness.engine
        if not isinstance(store, TransactionalCommit):
            return  # engines without transactions promise nothing here
        place(store, [keyed("holder", "k")])
        with pytest.raises(Duplicate), store.transaction() as tx:
            store.commit_within(tx, Write((job("a"), keyed("b", "k", "raise")), (Swap("x", 0, "1"),)))
        assert (state_of(store, "a"), store.keys("")) == (None, [])
        with store.transaction() as tx:
            won = store.commit_within(tx, Write((job("a"),), (Swap("x", 0, "1"),)))
            lost = store.commit_within(tx, Write((job("b"),), (Swap("x", 0, "2"),)))
        assert (won.placed, lost.placed, lost.lost) == ([Placed("a")], [], True)
        assert lost.documents == won.documents
        assert store.read(["x"]) == list(won.documents)
        assert (state_of(store, "a"), state_of(store, "b")) == (State.READY, None)
