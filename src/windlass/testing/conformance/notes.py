"""Notes: who may write them, what keeps them and what takes them away, and what they say of the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from windlass.core.fingerprint import POISON
from windlass.core.model import Cause, Placed, Slot, State, UniqueKey, Write
from windlass.core.rows import Action, JobFilter, Recovery
from windlass.core.work import PROGRESS, Kind, Lease, LeaseRef, Note, Room, Rules, Settled, Want
from windlass.engines.base import TransactionalCommit, TransactionalSettle
from windlass.testing.conformance.harness import (
    Harness,
    add,
    all_jobs,
    applied,
    clear,
    discard,
    edit,
    ended,
    error,
    info,
    job,
    join,
    note,
    place,
    recover,
    redrive,
    row_of,
    take,
    take_one,
    upkeep,
)

__all__ = ["WAYS_TO_GO", "NoteSuite", "noted"]

APPLIED, STALE = Settled.APPLIED, Settled.STALE
CAUSE = Cause("shop.errors.Lost", "aaaaaaaaaaaa", "shop.jobs.ship")
CURSOR = ("cursor:main", '{"at":7}')
STEP = ("step:charge", '"receipt é"')
KEPT = (CURSOR, STEP)  # by key
PERCENT = '{"done":1,"total":4,"message":null}'
WHOLE = (CURSOR, (PROGRESS, PERCENT), STEP)


def noted(harness: Harness, **asked: object) -> Lease:
    """A leased run of job ``a`` that has noted how far it is, a cursor and a step."""
    store = harness.engine
    join(store)
    unique = asked.pop("unique", None)
    new = job("a", **asked)  # type: ignore[arg-type]
    place(store, [replace(new, unique=unique)])
    lease = take_one(store)
    notes = [Note("a", lease.fence, key, text) for key, text in WHOLE[::-1]]
    assert store.note(notes) == [APPLIED] * 3
    return lease


Way = Callable[[Harness, Lease], object]


def past(harness: Harness, lease: Lease, kind: Kind) -> None:
    harness.engine.settle([ended(lease, kind, keep_ms=1_000)])
    harness.clock.advance(2_000)


def died(harness: Harness, lease: Lease) -> LeaseRef:
    harness.engine.settle([ended(lease, Kind.DEAD, error=error(), cause=CAUSE)])
    return LeaseRef(lease.id, lease.fence)


def waits(harness: Harness, lease: Lease) -> None:
    harness.engine.settle([ended(lease, Kind.RETRY, error=error())])


def pruned(kind: Kind) -> Way:
    def go(harness: Harness, lease: Lease) -> None:
        past(harness, lease, kind)
        upkeep(harness.engine)

    return go


def over_count(harness: Harness, lease: Lease) -> None:
    harness.engine.settle([ended(lease)])
    upkeep(harness.engine, Rules(keep_done_max=0))


def dead_over_count(harness: Harness, lease: Lease) -> None:
    died(harness, lease)
    upkeep(harness.engine, Rules(dead_max=0))


def past_its_time_when_its_id_comes_again(harness: Harness, lease: Lease) -> None:
    past(harness, lease, Kind.DONE)
    place(harness.engine, [job("a")])


def trimmed(harness: Harness, lease: Lease) -> None:
    assert applied(harness.engine, Action.TRIM, [died(harness, lease)]) == [True]


def discarded(harness: Harness, lease: Lease) -> None:
    assert discard(harness.engine, [died(harness, lease)]) == [True]


def deleted(harness: Harness, lease: Lease) -> None:
    waits(harness, lease)
    assert applied(harness.engine, Action.DELETE, ["a"]) == [True]


def cleared(harness: Harness, lease: Lease) -> None:
    waits(harness, lease)
    assert clear(harness.engine, "default", 10) == 1


def expired(harness: Harness, lease: Lease) -> None:
    waits(harness, lease)
    harness.clock.advance(2_000_000)
    upkeep(harness.engine)
    harness.clock.advance(2_000_000)
    upkeep(harness.engine)


def written_over(harness: Harness, lease: Lease) -> None:
    waits(harness, lease)
    unique = UniqueKey("key", "done", None, "replace")
    assert place(harness.engine, [replace(job("b", payload="[2]"), unique=unique)])[0].id == "a"


# Every way in which the record goes, or is no longer that of the job which made the notes.
WAYS_TO_GO: dict[str, Way] = {
    "done and pruned": pruned(Kind.DONE),
    "cancelled and pruned": pruned(Kind.CANCELLED),
    "dead and trimmed by age": pruned(Kind.DEAD),
    "pruned by count": over_count,
    "trimmed by count": dead_over_count,
    "trimmed by hand": trimmed,
    "discarded": discarded,
    "deleted": deleted,
    "cleared": cleared,
    "expired and pruned": expired,
    "past its time when its id comes again": past_its_time_when_its_id_comes_again,
    "written over": written_over,
}


def buried(harness: Harness, lease: Lease) -> None:
    harness.engine.bury("w1", [lease.fence], error("WorkerCrashed"), Rules())


def reaped(harness: Harness, lease: Lease) -> None:
    harness.clock.advance(10_000_000)
    upkeep(harness.engine)


def redriven(harness: Harness, lease: Lease) -> None:
    assert redrive(harness.engine, [died(harness, lease)]) == [True]


def recovered(harness: Harness, lease: Lease) -> None:
    died(harness, lease)
    assert recover(harness.engine, Recovery((CAUSE.error_type,), 0, 1, 10)) == ["a"]


def edited(harness: Harness, lease: Lease) -> None:
    death = died(harness, lease)
    assert edit(harness.engine, death, "[2]", (), None)
    redrive(harness.engine, [death])


def cancelled_and_run_again(harness: Harness, lease: Lease) -> None:
    waits(harness, lease)
    harness.engine.transition(Action.CANCEL, ["a"])
    harness.engine.transition(Action.RETRY, ["a"])


def settled(kind: Kind) -> Way:
    return lambda harness, lease: harness.engine.settle([ended(lease, kind, error=error(), reason="because")])


# Every way in which a job runs again.
WAYS_TO_RUN_AGAIN: dict[str, Way] = {
    "retried": settled(Kind.RETRY),
    "snoozed": settled(Kind.SNOOZE),
    "released": settled(Kind.RELEASE),
    "crashed": settled(Kind.CRASH),
    "buried": buried,
    "departed": lambda harness, _: harness.engine.depart("w1"),
    "reaped": reaped,
    "redriven": redriven,
    "recovered": recovered,
    "edited and redriven": edited,
    "cancelled and run again": cancelled_and_run_again,
}


class NoteSuite:
    """``Engine.note``, ``Outcome.notes``, ``Lease.notes`` and the notes of a JobRow."""

    def test_notes_are_stored_and_seen(self, harness: Harness) -> None:
        store = harness.engine
        noted(harness)
        row = row_of(store, "a")
        assert (row.progress, row.notes) == (PERCENT.encode(), KEPT)
        assert [(one.progress, one.notes) for one in all_jobs(store, JobFilter(state=State.RUNNING))] == [
            (PERCENT.encode(), KEPT)
        ]

    def test_a_first_claim_brings_none(self, harness: Harness) -> None:
        noted(harness)
        add(harness.engine, "b")
        assert take_one(harness.engine).notes == ()
        assert (row_of(harness.engine, "b").progress, row_of(harness.engine, "b").notes) == (None, ())

    @pytest.mark.parametrize("way", WAYS_TO_RUN_AGAIN)
    def test_notes_and_progress_are_kept_by_whatever_lets_a_job_run_again(self, harness: Harness, way: str) -> None:
        store = harness.engine
        lease = noted(harness)
        WAYS_TO_RUN_AGAIN[way](harness, lease)
        harness.clock.advance(10)
        row = row_of(store, "a")
        assert (row.progress, row.notes) == (PERCENT.encode(), KEPT)
        join(store, "w2")
        again = take_one(store, "w2")
        assert again.notes == WHOLE
        assert note(store, lease, "late", "1") is STALE
        assert note(store, again, "cursor:main", "8") is APPLIED
        assert row_of(store, "a").notes == (("cursor:main", "8"), STEP)

    @pytest.mark.parametrize("kind", [Kind.DONE, Kind.DEAD, Kind.CANCELLED])
    def test_notes_stay_with_the_record_of_a_job_that_has_ended(self, harness: Harness, kind: Kind) -> None:
        lease = noted(harness)
        harness.engine.settle([ended(lease, kind)])
        row = row_of(harness.engine, "a")
        assert (row.progress, row.notes) == (PERCENT.encode(), KEPT)
        assert note(harness.engine, lease, "late", "1") is STALE
        assert row_of(harness.engine, "a") == row

    @pytest.mark.parametrize("way", WAYS_TO_GO)
    def test_notes_go_with_the_record(self, harness: Harness, way: str) -> None:
        store = harness.engine
        unique = UniqueKey("key", "done", None, "replace") if way == "written over" else None
        lease = noted(harness, expires_ms=1_000_000, unique=unique)
        WAYS_TO_GO[way](harness, lease)
        join(store)
        if store.job("a") is None:
            place(store, [job("a")])
        row = row_of(store, "a")
        assert (row.progress, row.notes) == (None, ())
        assert take_one(store).notes == ()

    def test_a_job_that_waits_behind_a_gate_keeps_its_notes(self, harness: Harness) -> None:
        store = harness.engine
        lease = noted(harness)
        waits(harness, lease)
        harness.clock.advance(10)
        store.transition(Action.CANCEL, ["a"])
        assert row_of(store, "a").notes == KEPT

    def test_the_last_text_of_a_key_counts_and_none_removes_it(self, harness: Harness) -> None:
        store = harness.engine
        lease = noted(harness)
        ref = ("a", lease.fence)
        notes = [
            Note(*ref, "x", "1"),
            Note(*ref, "x", "2"),
            Note(*ref, "y", "1"),
            Note(*ref, "y"),
            Note(*ref, "z"),
            Note(*ref, "z", ""),
            Note(*ref, *CURSOR),
            Note(*ref, STEP[0]),
        ]
        assert store.note(notes) == [APPLIED] * 8
        assert row_of(store, "a").notes == (CURSOR, ("x", "2"), ("z", ""))
        assert note(store, lease, PROGRESS) is APPLIED
        assert (row_of(store, "a").progress, row_of(store, "a").notes) == (None, (CURSOR, ("x", "2"), ("z", "")))
        store.note([Note(*ref, key) for key in (CURSOR[0], "x", "z")])
        assert row_of(store, "a").notes == ()
        waits(harness, lease)
        harness.clock.advance(10)
        assert take_one(store).notes == ()

    def test_a_stale_note_changes_nothing(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b", "ready")
        a, b = take(store, limit=2)
        store.settle([ended(b)])
        notes = [
            Note("a", a.fence + 1, PROGRESS, "1"),
            Note("b", b.fence, "x", "2"),
            Note("no such", 1, "x", "3"),
            Note("ready", 0, "x", "4"),
            Note("a", a.fence, PROGRESS, "5"),
        ]
        assert store.note(notes) == [STALE] * 4 + [APPLIED]
        assert [row_of(store, each).progress for each in ("a", "b", "ready")] == [b"5", None, None]
        assert [row_of(store, each).notes for each in ("a", "b", "ready")] == [()] * 3

    def test_no_notes_are_free(self, harness: Harness) -> None:
        assert harness.engine.note([]) == []

    @pytest.mark.parametrize("text", ["", "null", 'é "\\ \x00\x01 \U0001f680', "x" * 300_000, "1|2\n"])
    def test_any_text_under_any_key_comes_back_as_it_was(self, harness: Harness, text: str) -> None:
        store = harness.engine
        lease = noted(harness)
        keys = ("a", "é:\U0001f680|'\"%", "k" * 200)
        for key in keys:
            assert note(store, lease, key, text) is APPLIED
        assert dict(row_of(store, "a").notes) == {**dict(KEPT), **dict.fromkeys(keys, text)}
        waits(harness, lease)
        harness.clock.advance(10)
        again = take_one(store)
        assert dict(again.notes) == {**dict(WHOLE), **dict.fromkeys(keys, text)}
        assert [key for key, _ in again.notes] == sorted(key for key, _ in again.notes)

    def test_notes_of_jobs_whose_ids_and_keys_look_alike_are_kept_apart(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        ids = ("a", "a:b", "ab", "a:b:c", "A")
        add(store, *ids)
        leases = take(store)
        for lease in leases:
            for key in ("b", "b:c", "c", ":", "B"):
                note(store, lease, key, f"{lease.id} {key}")
        applied(store, Action.CANCEL, ["a:b"])
        store.settle([ended(lease, Kind.RETRY, delay_ms=0) for lease in leases])
        applied(store, Action.DELETE, ["a:b", "A"])
        harness.clock.advance(10)
        for lease in take(store):
            assert lease.notes == tuple((key, f"{lease.id} {key}") for key in (":", "B", "b", "b:c", "c"))

    def test_a_thousand_steps_come_along_and_go_with_the_record(self, harness: Harness) -> None:
        store = harness.engine
        lease = noted(harness)
        for first in range(0, 1_000, 100):
            some = range(first, first + 100)
            store.note([Note("a", lease.fence, f"step:{n:04}", str(n), durable=n % 50 == 0) for n in some])
        waits(harness, lease)
        harness.clock.advance(10)
        (again,) = take(store)
        steps = [(key, text) for key, text in again.notes if key.startswith("step:0")]
        assert steps == [(f"step:{n:04}", str(n)) for n in range(1_000)]
        store.settle([ended(again, Kind.CANCELLED)])
        applied(store, Action.DELETE, ["a"])
        place(store, [job("a")])
        assert row_of(store, "a").notes == ()

    def test_a_durable_note_ends_the_crash_charges_and_no_other_does(self, harness: Harness) -> None:
        store = harness.engine

        def crash(lease: Lease) -> None:
            store.bury("w1", [lease.fence], error("WorkerCrashed"), Rules())
            harness.clock.advance(10_000_000)
            join(store)

        join(store)
        add(store, "a")
        lease = take_one(store)
        crash(lease)
        assert note(store, lease, "x", "1", durable=True) is STALE
        lease = take_one(store)
        assert (lease.crashes, row_of(store, "a").crashes) == (1, 1)
        note(store, lease, "x", "1")
        note(store, lease)
        assert row_of(store, "a").crashes == 1
        crash(lease)
        (lease,) = take(store, alone=True)
        assert store.note([Note("a", lease.fence, "x", "2", durable=True), Note("a", lease.fence)]) == [APPLIED] * 2
        row = row_of(store, "a")
        assert (row.crashes, row.interruptions, row.attempt, row.state) == (0, 0, 1, State.RUNNING)
        crash(lease)
        assert row_of(store, "a").crashes == 1
        assert take_one(store).crashes == 1  # beside its neighbours

    def test_a_job_that_gets_on_each_time_is_no_poison(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        for n in range(6):
            lease = take_one(store)
            note(store, lease, "cursor:main", str(n), durable=True)
            store.bury("w1", [lease.fence], error("WorkerCrashed"), Rules())
            join(store)
        assert (row_of(store, "a").state, row_of(store, "a").crashes) == (State.READY, 1)
        for _ in range(2):
            (lease,) = take(store) or take(store, alone=True)
            store.bury("w1", [lease.fence], error("WorkerCrashed"), Rules())
            harness.clock.advance(10_000_000)
            join(store)
        row = row_of(store, "a")
        assert (row.state, row.error_type, row.notes) == (State.DEAD, POISON.error_type, (("cursor:main", "5"),))

    def test_any_note_says_that_a_held_job_has_started(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job(each, slot=Slot.THREAD) for each in "abcd"])
        a, b, c, d = store.claim(Want("w1", 5, rooms=(Room(Slot.THREAD, 0, 9),))).leases
        assert all(one.held for one in (a, b, c, d))
        notes = [Note("a", a.fence), Note("b", b.fence, "x", "1"), Note("c", c.fence + 1), Note("d", d.fence, "x")]
        assert store.note(notes) == [APPLIED, APPLIED, STALE, APPLIED]
        assert [row_of(store, each).held for each in "abcd"] == [False, False, True, False]
        assert [row_of(store, each).notes for each in "abcd"] == [(), (("x", "1"),), (), ()]
        counts = store.counts()
        assert (counts["running"], counts["held"]) == (4, 1)

    @pytest.mark.parametrize("kind", list(Kind))
    def test_notes_of_an_outcome_are_written_with_it(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        lease = noted(harness)
        notes = (("cursor:main", "9"), (STEP[0], None), ("new", "1"), (PROGRESS, '{"done":4}'), ("new", "2"))
        assert store.settle([ended(lease, kind, error=error(), reason="because", notes=notes)]) == [APPLIED]
        row = row_of(store, "a")
        assert (row.progress, row.notes, row.reason) == (
            b'{"done":4}',
            (("cursor:main", "9"), ("new", "2")),
            "because",
        )
        assert row.crashes == (kind is Kind.CRASH)

    def test_notes_of_outcomes_that_are_done_as_most_are(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b", "c", "d")
        a, b, c, d = take(store)
        outcomes = [
            ended(a, result="1", notes=(("x", "1"),)),
            ended(b, result="2"),
            ended(c, result="null", notes=((PROGRESS, "3"), ("y", "3"))),
            ended(replace(d, fence=d.fence + 1), result="4", notes=(("x", "4"),)),
        ]
        settled, claimed = store.exchange(outcomes, Want("w1", 1))
        assert (settled, claimed.leases) == ([APPLIED] * 3 + [STALE], [])
        rows = [row_of(store, each) for each in "abcd"]
        assert [row.result for row in rows] == [b"1", b"2", b"null", None]
        assert [row.notes for row in rows] == [(("x", "1"),), (), (("y", "3"),), ()]
        assert [row.progress for row in rows] == [None, None, b"3", None]

    def test_notes_of_an_outcome_are_there_for_the_next_run(self, harness: Harness) -> None:
        store = harness.engine
        lease = noted(harness)
        store.settle([ended(lease, Kind.RELEASE, interrupted=True, notes=(("cursor:main", "9"),))])
        assert dict(take_one(store).notes)["cursor:main"] == "9"

    def test_notes_of_a_stale_outcome_are_not_written(self, harness: Harness) -> None:
        store = harness.engine
        lease = noted(harness)
        late = replace(lease, fence=lease.fence - 1)
        assert store.settle([ended(late, notes=(("x", "1"),))]) == [STALE]
        assert store.settle([ended(lease), ended(lease, notes=(("x", "1"),))]) == [APPLIED, STALE]
        assert row_of(store, "a").notes == KEPT

    def test_a_dead_job_is_put_back_with_its_notes(self, harness: Harness) -> None:
        store = harness.engine
        death = died(harness, noted(harness))
        row = row_of(store, "a")
        discard(store, [death])
        join(store)
        add(store, "other")  # it may come to stand where the other record stood
        assert row_of(store, "other").notes == ()
        assert store.put_dead([row]) == [True]
        found = row_of(store, "a")
        assert (found.progress, found.notes) == (row.progress, row.notes) == (PERCENT.encode(), KEPT)
        applied(store, Action.DELETE, ["other"])
        redrive(store, [death])
        assert take_one(store).notes == WHOLE

    def test_what_is_put_back_where_a_job_is_changes_no_notes(self, harness: Harness) -> None:
        store = harness.engine
        died(harness, noted(harness))
        row = row_of(store, "a")
        other = replace(row, notes=(("x", "1"),), progress=b"2")
        assert store.put_dead([other]) == [False]
        assert row_of(store, "a") == row
        assert store.put_dead([other], over=True) == [True]
        assert (row_of(store, "a").progress, row_of(store, "a").notes) == (row.progress, row.notes)

    def test_notes_are_part_of_the_callers_transaction(self, harness: Harness) -> None:
        store = harness.engine
        if not (isinstance(store, TransactionalCommit) and isinstance(store, TransactionalSettle)):
            return  # engines without transactions promise nothing here
        lease = noted(harness)
        mine, late = Note("a", lease.fence, "x", "1", durable=True), Note("a", lease.fence + 1, "x", "2")
        with pytest.raises(ZeroDivisionError), store.transaction() as tx:
            tx.result = 1 // store.note_within(tx, [mine]).count(STALE)
        assert row_of(store, "a").notes == KEPT
        with store.transaction() as tx:
            assert store.note_within(tx, []) == []
            assert store.note_within(tx, [Note("a", lease.fence), late, mine]) == [APPLIED, STALE, APPLIED]
            assert store.commit_within(tx, Write((job("b"),))).placed == [Placed("b")]
        assert row_of(store, "a").notes == (*KEPT, ("x", "1"))
        with store.transaction() as tx:
            assert store.note_within(tx, [Note("a", lease.fence, "x")]) == [APPLIED]
            assert store.settle_within(tx, ended(lease)) is APPLIED
            assert store.note_within(tx, [mine]) == [STALE]
        assert (row_of(store, "a").state, row_of(store, "a").notes) == (State.DONE, KEPT)

    def test_a_durable_note_in_a_transaction_ends_the_crash_charges_with_its_commit(self, harness: Harness) -> None:
        store = harness.engine
        if not (isinstance(store, TransactionalCommit) and isinstance(store, TransactionalSettle)):
            return
        join(store)
        add(store, "a")
        store.bury("w1", [take_one(store).fence], error("WorkerCrashed"), Rules())
        join(store)
        note_it = Note("a", take_one(store).fence, "x", "1", durable=True)
        with pytest.raises(ZeroDivisionError), store.transaction() as tx:
            tx.result = 1 // store.note_within(tx, [note_it]).count(STALE)
        assert row_of(store, "a").crashes == 1
        with store.transaction() as tx:
            store.note_within(tx, [note_it])
        assert row_of(store, "a").crashes == 0

    def test_another_engine_object_may_write_notes(self, harness: Harness) -> None:
        lease = noted(harness)
        assert note(harness.second(), lease, "x", "1", durable=True) is APPLIED
        assert row_of(harness.engine, "a").notes == (*KEPT, ("x", "1"))

    def test_a_worker_that_was_reaped_notes_nothing_more(self, harness: Harness) -> None:
        store = harness.engine
        lease = noted(harness)
        reaped(harness, lease)
        store.extend(info("w1"), (), 30_000)
        assert store.note([Note("a", lease.fence, "x", "1", durable=True)]) == [STALE]
        assert row_of(store, "a").notes == KEPT
