"""How workers stay alive and how they go: extend, depart, bury."""

from __future__ import annotations

import pytest

from windlass.core.model import State
from windlass.core.rows import Action
from windlass.core.work import Buried, Kind, Lease, LeaseRef, Rules, Settled, Want
from windlass.testing.conformance.harness import (
    LEASE_MS,
    Harness,
    add,
    ended,
    error,
    history,
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


def ref(lease: Lease) -> LeaseRef:
    """The proof of ownership of a lease."""
    return LeaseRef(lease.id, lease.fence)


class LeaseSuite:
    """``Engine.extend``, ``depart`` and ``bury``."""

    def test_extend_registers_a_worker(self, harness: Harness) -> None:
        store = harness.engine
        beat = store.extend(info("w1"), (), 20_000)
        assert (beat.lost, beat.cancels, beat.control) == ((), (), ())
        (row,) = store.workers()
        assert (row.info, row.running, row.lease_left_ms) == (info("w1"), 0, 20_000)
        assert row.beat_at == harness.clock.wall_ms()

    def test_extend_renews_the_lease_from_now(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        lease = take_one(store)
        for _ in range(5):
            harness.clock.advance(LEASE_MS - 10_000)
            assert store.extend(info("w1"), [ref(lease)], LEASE_MS).lost == ()
            upkeep(store)
        assert state_of(store, "a") is State.RUNNING
        assert [row.lease_left_ms for row in store.workers()] == [LEASE_MS]
        assert [row.beat_at for row in store.workers()] == [harness.clock.wall_ms()]

    def test_the_lease_left_falls_and_turns_negative(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        harness.clock.advance(LEASE_MS - 1_000)
        assert store.workers()[0].lease_left_ms == 1_000
        harness.clock.advance(3_000)
        assert store.workers()[0].lease_left_ms == -2_000

    def test_a_beat_after_the_lease_ran_out_but_before_the_reaper_keeps_the_jobs(self, harness: Harness) -> None:
        """Choice: reaping is what takes a job away; a late beat that comes first renews."""
        store = harness.engine
        join(store)
        add(store, "a")
        lease = take_one(store)
        harness.clock.advance(LEASE_MS + 5_000)
        assert store.extend(info("w1"), [ref(lease)], LEASE_MS).lost == ()
        assert [step.released for step in upkeep(store)] == [()]
        assert not store.claim(Want(worker="w1", limit=1)).expelled

    def test_a_reaped_worker_that_beats_again_is_registered_anew_and_lost_its_leases(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b")
        leases = take(store)
        harness.clock.advance(LEASE_MS + 5_000)
        upkeep(store)
        beat = store.extend(info("w1"), [ref(lease) for lease in leases], LEASE_MS)
        assert sorted(lost.id for lost in beat.lost) == ["a", "b"]
        assert set(beat.lost) == {ref(lease) for lease in leases}
        assert [row.info.id for row in store.workers()] == ["w1"]
        again = take(store)
        assert [lease.id for lease in again] == ["a", "b"]
        assert min(lease.fence for lease in again) > max(lease.fence for lease in leases)

    def test_leases_that_are_not_held_come_back_as_lost(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        join(store, "w2")
        add(store, "held", "done", "moved")
        leases = {lease.id: lease for lease in take(store)}
        store.settle([ended(leases["done"]), ended(leases["moved"], Kind.RELEASE)])
        take(store, "w2")
        unknown, stale = LeaseRef("nobody", 5), LeaseRef("held", leases["held"].fence - 1)
        refs = [ref(lease) for lease in leases.values()]
        beat = store.extend(info("w1"), [*refs, unknown, stale], LEASE_MS)
        assert set(beat.lost) == {ref(leases["done"]), ref(leases["moved"]), unknown, stale}

    def test_a_beat_tells_of_cancels_asked_for(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b")
        leases = {lease.id: lease for lease in take(store)}
        store.transition(Action.CANCEL, ["b"])
        beat = store.extend(info("w1"), [ref(lease) for lease in leases.values()], LEASE_MS)
        assert (beat.lost, beat.cancels) == ((), (ref(leases["b"]),))

    def test_depart_releases_what_is_held_as_interrupted_and_deregisters(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b", "c")
        leases = take(store, limit=2)
        departed = store.depart("w1")
        assert (sorted(departed.released), departed.charged, departed.dead) == (["a", "b"], (), ())
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.interruptions, row.worker) == (State.READY, 0, 1, None)
        assert store.workers() == []
        assert store.claim(Want(worker="w1", limit=1)).expelled
        assert store.settle([ended(leases[0])]) == [Settled.STALE]
        join(store, "w2")
        assert [lease.id for lease in take(store, "w2")] == ["a", "b", "c"]

    def test_depart_twice_or_of_a_stranger_does_nothing(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        assert [store.depart("w1"), store.depart("w1"), store.depart("ghost")] == [Buried()] * 3

    def test_depart_says_which_jobs_died_of_too_many_interruptions(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "a", max_attempts=1)
        for _ in range(Rules().max_interruptions):
            join(store)
            take_one(store)
            assert store.depart("w1").released == ("a",)
        join(store)
        take_one(store)
        assert store.depart("w1") == Buried(dead=("a",))
        assert (state_of(store, "a"), row_of(store, "a").reason) == (State.DEAD, "interrupted")

    def test_bury_releases_what_had_not_started_and_charges_nothing(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b", "c")
        leases = take(store, limit=2)
        assert store.bury("w1", [], error("WorkerCrashed"), Rules()) == Buried(released=("a", "b"))
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.crashes, row.interruptions) == (State.READY, 0, 0, 0)
        assert history(row) == []
        assert store.workers() == []
        assert store.settle([ended(leases[0])]) == [Settled.STALE]
        join(store, "w2")
        assert [lease.id for lease in take(store, "w2")] == ["a", "b", "c"]

    def test_the_first_charge_leaves_a_job_claimable_at_once(self, harness: Harness) -> None:
        """Choice: a charge below the cap puts the error in the history too, so a user sees why it ran again."""
        store = harness.engine
        join(store)
        add(store, "guilty", "bystander")
        leases = {lease.id: lease for lease in take(store)}
        buried = store.bury("w1", [leases["guilty"].fence], error("WorkerCrashed", "signal 11", attempt=99), Rules())
        assert buried == Buried(released=("bystander",), charged=("guilty",))
        row = row_of(store, "guilty")
        assert (row.state, row.attempt, row.crashes, row.interruptions) == (State.READY, 0, 1, 0)
        assert [(e.type, e.message, e.attempt) for e in history(row)] == [("WorkerCrashed", "signal 11", 1)]
        assert row_of(store, "bystander").crashes == 0
        join(store, "w2")
        assert sorted(lease.id for lease in take(store, "w2")) == ["bystander", "guilty"]

    def test_from_the_second_charge_a_job_waits_and_the_wait_doubles_up_to_a_bound(self, harness: Harness) -> None:
        """Choice: the second charge waits ``crash_delay_ms``, the third twice as long, up to ``crash_delay_max_ms``."""
        store, rules = harness.engine, Rules(max_crashes=9, crash_delay_ms=1_000, crash_delay_max_ms=3_500)
        add(store, "a")
        delays = []
        for n in range(5):
            join(store, f"w{n}")
            (lease,) = take(store, f"w{n}", alone=n >= 2)
            store.bury(f"w{n}", [lease.fence], error("WorkerCrashed"), rules)
            row = row_of(store, "a")
            delays.append(row.run_at - harness.clock.wall_ms() if row.state is State.SCHEDULED else 0)
            harness.clock.advance(60_000)
        assert delays == [0, 1_000, 2_000, 3_500, 3_500]

    def test_a_quarantined_job_is_not_claimed_before_its_delay(self, harness: Harness) -> None:
        store, rules = harness.engine, Rules(crash_delay_ms=5_000)
        add(store, "a")
        for n in range(2):
            join(store, f"w{n}")
            store.bury(f"w{n}", [take_one(store, f"w{n}").fence], error(), rules)
        join(store)
        assert take(store, alone=True) == []
        harness.clock.advance(5_000)
        assert take(store) == []
        assert [lease.id for lease in take(store, alone=True)] == ["a"]

    def test_at_max_crashes_a_job_is_dead_as_poison_with_its_history(self, harness: Harness) -> None:
        store, rules = harness.engine, Rules(max_crashes=3, crash_delay_ms=0)
        place(store, [job("a", payload="[13]")])
        for n in range(3):
            join(store, f"w{n}")
            (lease,) = take(store, f"w{n}", alone=n >= 2)
            buried = store.bury(f"w{n}", [lease.fence], error("WorkerCrashed", f"signal {n}"), rules)
        assert buried == Buried(dead=("a",))
        row = row_of(store, "a")
        assert (row.state, row.reason, row.crashes, row.payload) == (State.DEAD, "poison", 3, b"[13]")
        assert row.finished_at == harness.clock.wall_ms()
        assert [(e.type, e.message) for e in history(row)] == [("WorkerCrashed", f"signal {n}") for n in range(3)]
        counts = store.counts()
        assert (counts["dead"], counts["total_dead"], counts["total_crashed"]) == (1, 1, 3)

    def test_bury_is_idempotent(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b")
        fences = [lease.fence for lease in take(store, limit=1)]
        assert store.bury("w1", fences, error(), Rules()) == Buried(charged=("a",))
        before = store.job("a")
        assert store.bury("w1", fences, error(), Rules()) == Buried()
        assert store.job("a") == before
        assert store.counts()["total_crashed"] == 1

    def test_bury_of_a_stranger_does_nothing(self, harness: Harness) -> None:
        assert harness.engine.bury("ghost", [1, 2], error(), Rules()) == Buried()

    def test_bury_touches_no_job_of_another_worker(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        join(store, "w2")
        add(store, "a", "b")
        mine, theirs = take(store, limit=1), take(store, "w2", limit=1)
        buried = store.bury("w1", [x.fence for x in mine + theirs], error(), Rules())
        assert buried == Buried(charged=("a",))
        assert row_of(store, "b").crashes == 0
        assert store.settle([ended(theirs[0])]) == [Settled.APPLIED]

    def test_bury_leaves_alone_what_was_settled_before(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        lease = take_one(store)
        store.settle([ended(lease)])
        assert store.bury("w1", [lease.fence], error(), Rules()) == Buried()
        assert (state_of(store, "a"), row_of(store, "a").crashes) == (State.DONE, 0)

    def test_one_death_witnessed_by_four_is_charged_once(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        join(store)
        add(store, *[f"j{n}" for n in range(20)])
        fences = [lease.fence for lease in take(store)]
        answers = together(*[lambda s=s: s.bury("w1", fences, error(), Rules()) for s in [store, other] * 2])
        assert sorted(i for buried in answers for i in buried.charged) == sorted(f"j{n}" for n in range(20))
        assert store.counts()["total_crashed"] == 20

    @pytest.mark.parametrize("how", ["retry", "snooze", "release", "crash", "depart", "bury", "reap"])
    def test_a_job_whose_cancel_was_asked_for_never_runs_again(self, harness: Harness, how: str) -> None:
        """Choice: whatever would put it back ends it cancelled, at once or at the latest when it is due to be given."""
        store = harness.engine
        join(store)
        add(store, "a")
        lease = take_one(store)
        store.transition(Action.CANCEL, ["a"])
        match how:
            case "depart":
                store.depart("w1")
            case "bury":
                store.bury("w1", [lease.fence], error(), Rules())
            case "reap":
                harness.clock.advance(LEASE_MS + 1)
                upkeep(store)
            case _:
                assert store.settle([ended(lease, Kind(how))]) == [Settled.APPLIED]
        join(store, "w2")
        assert take(store, "w2") == []
        assert state_of(store, "a") is State.CANCELLED
