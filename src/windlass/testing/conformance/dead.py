"""Dead jobs: their cause, groups, redrive, recovery, editing, discarding and putting back."""

from __future__ import annotations

import msgspec

from windlass.core.fingerprint import INTERRUPTED, POISON
from windlass.core.model import UNKNOWN_GROUP, Cause, Guard, GuardKind, State, UniqueKey
from windlass.core.rows import Action, JobFilter, Moved, Recovery
from windlass.core.work import Kind, LeaseRef, Rules
from windlass.testing.conformance.harness import (
    LEASE_MS,
    NOTHING,
    Harness,
    add,
    all_jobs,
    applied,
    discard,
    edit,
    ended,
    error,
    finish,
    job,
    join,
    place,
    recover,
    redrive,
    row_of,
    state_of,
    take,
    take_one,
    together,
    upkeep,
)

LOST = Cause("shop.errors.Lost", "aaaaaaaaaaaa", "shop.jobs.ship")
LATE = Cause("TimeoutError", "bbbbbbbbbbbb", "shop.jobs.pay")
DEAD = JobFilter(state=State.DEAD)


def die(harness: Harness, *ids: str, cause: Cause | None = LOST, name: str = "shop.jobs.add") -> list[LeaseRef]:
    """Store jobs and let them die of a cause; give their deaths in order."""
    store = harness.engine
    join(store)
    place(store, [job(i, name=name) for i in ids])
    leases = {lease.id: lease for lease in take(store)}
    store.settle([ended(leases[i], Kind.DEAD, error=error(), cause=cause) for i in ids])
    return [LeaseRef(i, leases[i].fence) for i in ids]


class DeadSuite:
    """What ``Inspector`` says of dead jobs, and what it does with those that are named by their death or by a rule."""

    def test_a_death_has_its_cause(self, harness: Harness) -> None:
        die(harness, "a")
        row = row_of(harness.engine, "a")
        assert (row.error_type, row.fingerprint, row.frame) == ("shop.errors.Lost", "aaaaaaaaaaaa", "shop.jobs.ship")
        assert row.recoveries == 0

    def test_a_poison_death_has_the_cause_of_poison(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "a")
        join(store)
        store.bury("w1", [take_one(store).fence], error(), Rules(max_crashes=1))
        row = row_of(store, "a")
        assert (row.state, row.error_type, row.fingerprint) == (State.DEAD, POISON.error_type, POISON.fingerprint)

    def test_a_job_interrupted_to_death_has_the_cause_of_that(self, harness: Harness) -> None:
        store, rules = harness.engine, Rules(max_interruptions=0)
        add(store, "a", max_attempts=1)
        join(store)
        take_one(store)
        harness.clock.advance(LEASE_MS + 1)
        upkeep(store, rules)
        row = row_of(store, "a")
        assert (row.state, row.fingerprint) == (State.DEAD, INTERRUPTED.fingerprint)
        assert row.error_type == INTERRUPTED.error_type

    def test_a_retry_leaves_no_cause(self, harness: Harness) -> None:
        store = harness.engine
        die(harness, "a")
        store.transition(Action.RETRY, ["a"])
        row = row_of(store, "a")
        assert (row.state, row.error_type, row.fingerprint, row.frame) == (State.READY, None, None, None)

    def test_dead_jobs_are_found_by_group_error_id_and_time(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "alive", queue="other")
        die(harness, "a", "b")
        harness.clock.advance(1_000)
        late = harness.clock.wall_ms()
        die(harness, "c", cause=LATE)
        die(harness, "d", cause=None)

        def ids(where: JobFilter) -> list[str]:
            rows = sorted(row.id for row in all_jobs(store, where, limit=2))
            assert store.count(where) == len(rows)
            return rows

        assert ids(JobFilter(group="aaaaaaaaaaaa")) == ["a", "b"]
        assert ids(JobFilter(group=UNKNOWN_GROUP)) == ["d"]
        assert ids(JobFilter(error="shop.errors.Lost")) == ["a", "b"]
        assert ids(JobFilter(error="Lost")) == ["a", "b"]
        assert ids(JobFilter(error="errors.Lost")) == []
        assert ids(JobFilter(error="ost")) == []
        assert ids(JobFilter(error="TimeoutError")) == ["c"]
        assert ids(JobFilter(ids=("c", "a", "never"))) == ["a", "c"]
        assert ids(JobFilter(ids=())) == []
        assert ids(JobFilter(state=State.DEAD, ended_after=late)) == ["c", "d"]
        assert ids(JobFilter(state=State.DEAD, ended_before=late)) == ["a", "b"]
        assert ids(DEAD) == ["a", "b", "c", "d"]
        assert len(ids(NOTHING)) == 5

    def test_groups_count_what_is_there(self, harness: Harness) -> None:
        store, start = harness.engine, harness.clock.wall_ms()
        die(harness, "c", cause=LATE)
        harness.clock.advance(10)
        die(harness, "a", name="shop.jobs.ship")
        harness.clock.advance(10)
        die(harness, "b", name="shop.jobs.add")
        harness.clock.advance(10)
        die(harness, "d", cause=None)
        groups = {group.fingerprint: group for group in store.groups(NOTHING, 10)}
        assert store.groups(NOTHING, 10)[0].fingerprint == "aaaaaaaaaaaa"  # the largest
        lost = groups["aaaaaaaaaaaa"]
        assert (lost.error_type, lost.frame, lost.count) == ("shop.errors.Lost", "shop.jobs.ship", 2)
        assert (lost.names, lost.sample) == (("shop.jobs.add", "shop.jobs.ship"), "b")
        assert (lost.first_seen, lost.last_seen) == (start + 10, start + 20)
        assert (groups["bbbbbbbbbbbb"].count, groups["bbbbbbbbbbbb"].sample) == (1, "c")
        assert (groups[UNKNOWN_GROUP].error_type, groups[UNKNOWN_GROUP].count) == (None, 1)

    def test_groups_forget_what_was_revived_or_deleted(self, harness: Harness) -> None:
        store = harness.engine
        die(harness, "a", "b", "c")
        store.transition(Action.RETRY, ["a"])
        store.transition(Action.DELETE, ["b"])
        assert [group.count for group in store.groups(NOTHING, 10)] == [1]
        store.transition(Action.RETRY, ["c"])
        assert store.groups(NOTHING, 10) == []

    def test_groups_are_bounded_and_filtered(self, harness: Harness) -> None:
        store = harness.engine
        die(harness, "a", "b")
        die(harness, "c", cause=LATE, name="other")
        assert [group.count for group in store.groups(NOTHING, 1)] == [2]
        assert [group.fingerprint for group in store.groups(JobFilter(name="other"), 10)] == ["bbbbbbbbbbbb"]

    def test_a_redriven_job_has_a_fresh_budget_and_its_history(self, harness: Harness) -> None:
        store = harness.engine
        (death,) = die(harness, "a")
        harness.clock.advance(5_000)
        assert redrive(store, [death]) == [True]
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.finished_at, row.reason) == (State.READY, 0, None, None)
        assert (row.run_at, row.error_type, row.fingerprint) == (harness.clock.wall_ms(), None, None)
        assert row.errors is not None
        lease = take_one(store)
        assert (lease.id, lease.attempt) == ("a", 1)
        assert lease.fence > death.fence

    def test_a_death_is_redriven_once(self, harness: Harness) -> None:
        store = harness.engine
        (death,) = die(harness, "a")
        assert redrive(store, [death, death]) == [True, False]
        store.settle([ended(take_one(store), Kind.DEAD)])
        assert redrive(store, [death, LeaseRef("never", 1)]) == [False, False]  # it died again: another death
        assert state_of(store, "a") is State.DEAD

    def test_two_redrives_at_once_move_each_job_once(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        deaths = die(harness, *[f"j{n}" for n in range(40)])
        answers = together(*[lambda s=s: redrive(s, deaths) for s in [store, other] * 2])
        assert [sum(each) for each in zip(*answers, strict=True)] == [1] * 40
        assert len(take(store)) == 40

    def test_only_dead_jobs_are_redriven(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        lease = take_one(store)
        store.settle([ended(lease)])
        assert redrive(store, [LeaseRef("a", lease.fence)]) == [False]
        assert state_of(store, "a") is State.DONE

    def test_a_recovery_waits_its_time_and_takes_its_errors_only(self, harness: Harness) -> None:
        store = harness.engine
        die(harness, "a", cause=LATE)
        die(harness, "b", cause=LOST)
        die(harness, "c", cause=None)
        rule = Recovery(("TimeoutError", "ConnectionError"), 1_000, 3, 10)
        harness.clock.advance(999)
        assert recover(store, rule) == []
        harness.clock.advance(1)
        assert recover(store, rule) == ["a"]
        assert recover(store, rule) == []
        row = row_of(store, "a")
        assert (row.state, row.recoveries, row.attempt) == (State.READY, 1, 0)
        assert (state_of(store, "b"), state_of(store, "c")) == (State.DEAD, State.DEAD)

    def test_a_recovery_stops_at_its_cap(self, harness: Harness) -> None:
        store, rule = harness.engine, Recovery(("TimeoutError",), 0, 2, 10)
        die(harness, "a", cause=LATE)
        rounds = 0
        while recover(store, rule):
            rounds += 1
            store.settle([ended(take_one(store), Kind.DEAD, cause=LATE)])
        assert (rounds, row_of(store, "a").recoveries, state_of(store, "a")) == (2, 2, State.DEAD)

    def test_a_person_gives_new_recoveries(self, harness: Harness) -> None:
        store, rule = harness.engine, Recovery(("TimeoutError",), 0, 1, 10)
        die(harness, "a", cause=LATE)
        assert recover(store, rule) == ["a"]
        lease = take_one(store)
        store.settle([ended(lease, Kind.DEAD, cause=LATE)])
        assert recover(store, rule) == []
        assert redrive(store, [LeaseRef("a", lease.fence)]) == [True]
        assert row_of(store, "a").recoveries == 0
        store.settle([ended(take_one(store), Kind.DEAD, cause=LATE)])
        assert recover(store, rule) == ["a"]
        store.settle([ended(take_one(store), Kind.DEAD, cause=LATE)])
        store.transition(Action.RETRY, ["a"])
        assert row_of(store, "a").recoveries == 0

    def test_a_recovery_is_bounded_and_begins_with_the_longest_dead(self, harness: Harness) -> None:
        store = harness.engine
        for n in range(5):
            die(harness, f"j{n}", cause=LATE)
            harness.clock.advance(10)
        rule = Recovery(("TimeoutError",), 0, 1, 2)
        assert sorted(recover(store, rule)) == ["j0", "j1"]
        assert sorted(recover(store, msgspec.structs.replace(rule, limit=10))) == ["j2", "j3", "j4"]

    def test_many_recover_each_job_once(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        die(harness, *[f"j{n}" for n in range(40)], cause=LATE)
        rule = Recovery(("TimeoutError",), 0, 5, 15)
        answers = together(*[lambda s=s: recover(s, rule) for s in [store, other] * 2])
        ids = [i for answer in answers for i in answer]
        assert len(ids) == len(set(ids)) == 40
        assert {row.recoveries for row in all_jobs(store)} == {1}

    def test_what_is_named_by_a_death_is_left_alone_unless_it_is_dead_of_it(self, harness: Harness) -> None:
        store = harness.engine
        deaths = die(harness, *"abcdef")
        redrive(store, deaths)
        left = {lease.id: lease for lease in take(store, limit=2)}
        store.settle([ended(left["a"]), ended(left["b"], Kind.DEAD)])
        store.transition(Action.CANCEL, ["c"])
        states = [state_of(store, one) for one in "abcd"]
        assert states == [State.DONE, State.DEAD, State.CANCELLED, State.READY]
        for action in Action:
            assert store.transition(action, deaths[:4]) == [
                Moved(one, state, applied=False) for one, state in zip("abcd", states, strict=True)
            ]
        assert [state_of(store, one) for one in "abcd"] == states

    def test_jobs_named_by_id_and_by_death_are_told_in_one_order(self, harness: Harness) -> None:
        store = harness.engine
        deaths = die(harness, "a", "b", "c")
        assert store.transition(Action.DELETE, [deaths[2], "never", "a", deaths[2], deaths[0], "b"]) == [
            Moved("c", State.DEAD, applied=True),
            Moved("never", None, applied=False),
            Moved("a", State.DEAD, applied=True),
            Moved("c", None, applied=False),
            Moved("a", None, applied=False),
            Moved("b", State.DEAD, applied=True),
        ]
        assert all_jobs(store) == []

    def test_dead_jobs_that_a_rule_finds_can_be_deleted_too(self, harness: Harness) -> None:
        store = harness.engine
        die(harness, "a", "b", "c", cause=LATE)
        die(harness, "d", cause=LOST)
        rule = Recovery(("TimeoutError",), 0, 1, 2)
        assert store.transition(Action.DELETE, rule) == [Moved(one, State.DEAD, applied=True) for one in "ab"]
        assert [row.id for row in all_jobs(store)] == ["d", "c"]

    def test_an_edited_job_is_still_dead(self, harness: Harness) -> None:
        store = harness.engine
        (death,) = die(harness, "a")
        assert edit(store, death, "[1,[2],{}]", (), None)
        row = row_of(store, "a")
        assert (row.state, row.payload) == (State.DEAD, b"[1,[2],{}]")
        redrive(store, [death])
        assert not edit(store, death, "[1,[3],{}]", (), None)
        assert take_one(store).payload == b"[1,[2],{}]"

    def test_an_edited_job_has_the_guards_that_it_is_given(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        before = (Guard(GuardKind.ONCE, "pay:1", keep_ms=1_000), Guard(GuardKind.CONCURRENCY, "one", 1))
        key = UniqueKey("u1", "done", None, "return")
        place(store, [msgspec.structs.replace(job("a"), guards=before, unique=key)])
        lease = take_one(store)
        store.settle([ended(lease, Kind.DEAD, error=error(), cause=LATE)])
        after = (Guard(GuardKind.ONCE, "pay:2", keep_ms=1_000), Guard(GuardKind.CONCURRENCY, "two", 1))
        assert edit(store, LeaseRef("a", lease.fence), "[1,[2],{}]", after, msgspec.structs.replace(key, key="u2"))
        assert (row_of(store, "a").guards, row_of(store, "a").unique) == (after, msgspec.structs.replace(key, key="u2"))
        redrive(store, [LeaseRef("a", lease.fence)])
        again = take_one(store)
        assert again.guards == after
        # Held now: the keys of the new arguments, and not those of the old.
        placed = place(store, [msgspec.structs.replace(job("b"), unique=msgspec.structs.replace(key, key="u2"))])
        assert placed[0].id == "a"
        place(store, [msgspec.structs.replace(job("c"), guards=before, unique=key)])
        place(store, [msgspec.structs.replace(job("d"), guards=after)])
        assert [one.id for one in take(store)] == ["c"]
        assert state_of(store, "d") is State.BLOCKED
        store.settle([ended(again)])
        assert take(store) == []
        assert row_of(store, "d").reason == "duplicate of a"

    def test_what_is_written_over_a_dead_job_changes_what_it_was_asked_and_nothing_else(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a", queue="qa", priority=3, expires_ms=5_000, tags=("x",), caller_id=True, aging_ms=10)])
        add(store, "b")
        for lease in take(store):
            store.settle([ended(lease, Kind.DEAD, error=error(), reason="why", cause=LATE)])
        before = row_of(store, "a")
        harness.clock.advance(1_000)
        asked = {"name": "other", "payload": b"[1]", "tags": ("y", "z"), "meta": b'{"version":"2"}'}
        told = {"queue": "qb", "priority": 9, "attempt": 7, "crashes": 5, "recoveries": 8, "run_at": 1, "reason": "no"}
        assert store.put_dead([msgspec.structs.replace(before, **asked, **told)], over=True) == [True]
        assert row_of(store, "a") == msgspec.structs.replace(before, **asked)
        assert [row.id for row in all_jobs(store)] == ["b", "a"]

    def test_only_the_same_death_is_written_over(self, harness: Harness) -> None:
        store = harness.engine
        deaths = die(harness, "gone", "ready", "again", "same")
        rows = [row_of(store, death.id) for death in deaths]
        discard(store, deaths[:1])
        redrive(store, deaths[1:3])
        (again,) = [lease for lease in take(store) if lease.id == "again"]
        store.settle([ended(again, Kind.DEAD)])
        changed = [msgspec.structs.replace(row, payload=b"[9]") for row in rows]
        assert store.put_dead(changed, over=True) == [False, False, False, True]
        assert {row.id: row.payload for row in all_jobs(store)} == {"ready": b"[]", "again": b"[]", "same": b"[9]"}

    def test_a_discarded_job_is_gone_and_its_own_id_is_remembered(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "mine", kind=Kind.DEAD, caller_id=True)
        (death,) = die(harness, "a")
        mine = LeaseRef("mine", row_of(store, "mine").fence)
        assert discard(store, [mine, death, LeaseRef("never", 1)]) == [True, True, False]
        assert discard(store, [mine]) == [False]
        assert all_jobs(store) == []
        assert [one.duplicate for one in place(store, [job("mine", caller_id=True)])] == [True]
        assert store.counts()["total_trimmed"] == 0

    def test_an_id_is_remembered_only_of_a_discarded_job_that_had_ended(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "done", caller_id=True)
        place(store, [job("ready", caller_id=True)])
        assert applied(store, Action.DISCARD, ["done", "ready"]) == [True, True]
        again = place(store, [job("done", caller_id=True), job("ready", caller_id=True)])
        assert [one.duplicate for one in again] == [True, False]

    def test_a_job_that_lives_again_is_not_discarded(self, harness: Harness) -> None:
        store = harness.engine
        deaths = die(harness, "a", "b")
        redrive(store, deaths[:1])
        assert discard(store, deaths) == [False, True]
        assert state_of(store, "a") is State.READY

    def test_a_job_that_died_again_is_not_edited_by_its_earlier_death(self, harness: Harness) -> None:
        store = harness.engine
        (first,) = die(harness, "a")
        redrive(store, [first])
        again = take_one(store)
        store.settle([ended(again, Kind.DEAD, error=error())])
        assert not edit(store, first, "[9]", (), None)
        assert row_of(store, "a").payload == b"[]"
        assert edit(store, LeaseRef("a", again.fence), "[9]", (), None)
        assert row_of(store, "a").payload == b"[9]"

    def test_a_death_that_is_named_twice_is_moved_or_discarded_once(self, harness: Harness) -> None:
        store = harness.engine
        first, second = die(harness, "a", "b")
        assert redrive(store, [first, first]) == [True, False]
        assert applied(store, Action.TRIM, [second, second, first, second]) == [True, False, False, False]
        assert store.counts()["total_trimmed"] == 1

    def test_what_is_discarded_by_a_bound_counts_as_trimmed(self, harness: Harness) -> None:
        store = harness.engine
        store.transition(Action.TRIM, die(harness, "a", "b"))
        assert store.counts()["total_trimmed"] == 2

    def test_held_dead_jobs_are_handed_up_and_not_removed(self, harness: Harness) -> None:
        store, rules = harness.engine, Rules(dead_held=True)
        join(store, lease_ms=10 * LEASE_MS)
        add(store, "old")
        lease = take_one(store)
        store.settle([ended(lease, Kind.DEAD, keep_ms=1_000)])
        die(harness, "young")
        assert store.maintain(rules, 10).overdue == ()
        harness.clock.advance(1_000)
        for _ in range(2):
            step = store.maintain(rules, 10)
            assert (step.overdue, step.trimmed, step.more) == ((LeaseRef("old", lease.fence),), (), False)
        assert state_of(store, "old") is State.DEAD
        store.transition(Action.TRIM, step.overdue)
        assert store.maintain(rules, 10).overdue == ()
        assert store.counts()["dead"] == 1

    def test_held_dead_jobs_over_the_count_are_handed_up_oldest_first(self, harness: Harness) -> None:
        store = harness.engine
        for n in range(5):
            die(harness, f"j{n}")
            harness.clock.advance(1)
        step = store.maintain(Rules(dead_held=True, dead_max=2), 10)
        assert [ref.id for ref in step.overdue] == ["j0", "j1", "j2"]
        assert store.counts()["dead"] == 5

    def test_a_restored_job_is_as_it_was(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(
            store,
            [job("a", queue="qa", priority=3, tags=("x",), meta='{"version":"2"}', expires_ms=5_000, caller_id=True)],
        )
        lease = take_one(store)
        store.settle([ended(lease, Kind.DEAD, error=error(), reason="why", cause=LATE)])
        before = row_of(store, "a")
        discard(store, [LeaseRef("a", lease.fence)])
        harness.clock.advance(1_000)
        assert store.put_dead([before]) == [True]
        after = row_of(store, "a")
        assert msgspec.structs.replace(after, expires_at=before.expires_at) == before
        assert [group.fingerprint for group in store.groups(NOTHING, 10)] == [LATE.fingerprint]
        assert redrive(store, [LeaseRef("a", lease.fence)]) == [True]
        again = take_one(store)
        assert (again.payload, again.tags, again.meta) == (before.payload, ("x",), b'{"version":"2"}')
        assert again.fence > lease.fence

    def test_a_restored_job_that_does_not_say_when_it_died_is_sound(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        lease = take_one(store)
        store.settle([ended(lease, Kind.DEAD, error=error())])
        before = msgspec.structs.replace(row_of(store, "a"), run_at=0, finished_at=0)
        discard(store, [LeaseRef("a", lease.fence)])
        assert store.put_dead([before]) == [True]
        assert row_of(store, "a").state is State.DEAD
        assert redrive(store, [LeaseRef("a", lease.fence)]) == [True]
        assert take_one(store).id == "a"

    def test_a_restored_job_has_its_guards_and_its_unique_key_again(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        guards = (Guard(GuardKind.ONCE, "pay:1", keep_ms=1_000), Guard(GuardKind.RATE, "api", 5, 60_000, burst=2))
        unique = UniqueKey("u", "done", 7_000, "return")
        guarded = msgspec.structs.replace(job("a"), guards=guards, unique=unique)
        place(store, [guarded])
        lease = take_one(store)
        store.settle([ended(lease, Kind.DEAD, error=error(), cause=LATE)])
        before = row_of(store, "a")
        assert (before.guards, before.unique) == (guards, unique)
        discard(store, [LeaseRef("a", lease.fence)])
        assert store.put_dead([before]) == [True]
        assert (row_of(store, "a").guards, row_of(store, "a").unique) == (guards, unique)
        # Another with both keys runs to its end; the marker stays as long as the dead job carries the key.
        place(store, [msgspec.structs.replace(guarded, id="b")])
        store.settle([ended(take_one(store), result='"paid"')])
        harness.clock.advance(3_600_000 * 2)
        join(store)
        upkeep(store)
        assert redrive(store, [LeaseRef("a", lease.fence)]) == [True]
        assert place(store, [msgspec.structs.replace(guarded, id="c")])[0].id == "a"
        assert take(store) == []
        assert (row_of(store, "a").state, row_of(store, "a").reason) == (State.DONE, "duplicate of b")

    def test_a_once_marker_whose_time_is_over_does_not_end_a_job_that_is_put_back(self, harness: Harness) -> None:
        store, pay = harness.engine, Guard(GuardKind.ONCE, "k", keep_ms=1_000)
        join(store, lease_ms=10_000_000)
        keys = {"done": "k", "changed": "x", "back": "y"}
        place(
            store,
            [
                msgspec.structs.replace(job(i), guards=(msgspec.structs.replace(pay, key=key),))
                for i, key in keys.items()
            ],
        )
        done, changed, back = take(store)
        store.settle([ended(done), ended(changed, Kind.DEAD), ended(back, Kind.DEAD)])
        row = msgspec.structs.replace(row_of(store, "back"), guards=(pay,))
        store.transition(Action.DELETE, ["back"])
        harness.clock.advance(2_000)  # and no sweep comes by
        assert store.put_dead([row]) == [True]
        store.transition(Action.RETRY, ["back"])
        assert [lease.id for lease in take(store)] == ["back"]
        store.transition(Action.DELETE, ["done"])
        death = LeaseRef("changed", changed.fence)
        assert edit(store, death, "[1,[2],{}]", (pay,), None)
        assert redrive(store, [death]) == [True]
        assert take(store) == []  # it waits for the one that runs with its key
        assert state_of(store, "changed") is State.BLOCKED

    def test_a_once_marker_stays_while_a_dead_job_carries_its_key_also_when_that_is_edited(
        self, harness: Harness
    ) -> None:
        store, pay = harness.engine, Guard(GuardKind.ONCE, "k", keep_ms=1_000)
        join(store, lease_ms=10_000_000)
        for job_id, kind in (("dead", Kind.DEAD), ("done", Kind.DONE)):
            place(store, [msgspec.structs.replace(job(job_id), guards=(pay,))])
            (lease,) = take(store)
            store.settle([ended(lease, kind, result="1" if kind is Kind.DONE else None)])
        harness.clock.advance(2_000)
        upkeep(store)
        death = LeaseRef("dead", row_of(store, "dead").fence)
        assert edit(store, death, "[1,[2],{}]", (pay,), None)
        assert redrive(store, [death]) == [True]
        assert take(store) == []
        row = row_of(store, "dead")
        assert (row.state, row.reason) == (State.DONE, "duplicate of done")

    def test_what_has_a_record_is_not_restored(self, harness: Harness) -> None:
        store = harness.engine
        (death,) = die(harness, "a")
        row = row_of(store, "a")
        assert store.put_dead([row]) == [False]
        redrive(store, [death])
        assert store.put_dead([row, msgspec.structs.replace(row, id="b")]) == [False, True]
        assert (state_of(store, "a"), state_of(store, "b")) == (State.READY, State.DEAD)

    def test_a_restored_job_is_kept_as_if_it_had_died_now(self, harness: Harness) -> None:
        store = harness.engine
        (death,) = die(harness, "a")
        row = row_of(store, "a")
        discard(store, [death])
        keep = Rules().dead_keep_ms or 0
        harness.clock.advance(keep + 1)
        store.put_dead([row])
        upkeep(store)
        assert state_of(store, "a") is State.DEAD
        harness.clock.advance(keep + 1)
        upkeep(store)
        assert state_of(store, "a") is None

    def test_a_restored_payload_is_kept_byte_for_byte(self, harness: Harness) -> None:
        store = harness.engine
        (death,) = die(harness, "a")
        row = msgspec.structs.replace(row_of(store, "a"), payload=b"\xff\x00not json")
        discard(store, [death])
        assert store.put_dead([row]) == [True]
        assert row_of(store, "a").payload == b"\xff\x00not json"
