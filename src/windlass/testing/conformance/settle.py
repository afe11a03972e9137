"""How attempts end: every kind, what it counts and keeps, fences, follow-ups, and exchange."""

from __future__ import annotations

import pytest

from windlass.core.model import State, Write
from windlass.core.rows import Action
from windlass.core.work import Claimed, Kind, Lease, Outcome, Rules, Settled, Want
from windlass.testing.conformance.harness import (
    Harness,
    add,
    ended,
    error,
    history,
    job,
    join,
    place,
    row_of,
    state_of,
    take,
    take_one,
    upkeep,
)

APPLIED, STALE = Settled.APPLIED, Settled.STALE


def leased(harness: Harness, *ids: str) -> list[Lease]:
    """Enqueue jobs and claim them for w1."""
    join(harness.engine)
    add(harness.engine, *ids)
    return take(harness.engine)


class SettleSuite:
    """``Engine.settle`` and ``exchange``."""

    def test_the_history_of_a_job_that_fails_for_long_does_not_grow_without_end(self, harness: Harness) -> None:
        """The first error and the last ones stay: where it began, and where it stands."""
        store = harness.engine
        join(store, lease_ms=10_000_000)
        add(store, "a", max_attempts=1_000)
        odd = '}{"\\\\" [,] \\" ' * 900
        for n in range(1, 121):
            outcome = ended(take_one(store), Kind.RETRY, error=error(message=f"{n} {odd}", attempt=n))
            assert store.settle([outcome]) == [Settled.APPLIED]
        found = history(row_of(store, "a"))
        assert len(row_of(store, "a").errors or b"") < 1_100_000
        assert [int(one.message.split()[0]) for one in found] == [1, *range(122 - len(found), 121)]
        assert len(found) > 20
        assert {one.message.partition(" ")[2] for one in found} == {odd}

    def test_an_empty_settle_is_free(self, harness: Harness) -> None:
        assert harness.engine.settle([]) == []

    def test_done_keeps_the_result_and_the_attempt(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        harness.clock.advance(20)
        assert store.settle([ended(lease, result='{"ok":1}', reason="duplicate of b")]) == [APPLIED]
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.result) == (State.DONE, 1, b'{"ok":1}')
        assert (row.reason, row.finished_at) == ("duplicate of b", harness.clock.wall_ms())
        assert take(store) == []

    def test_done_without_a_result_has_none(self, harness: Harness) -> None:
        (lease,) = leased(harness, "a")
        harness.engine.settle([ended(lease)])
        assert row_of(harness.engine, "a").result is None

    def test_retry_uses_an_attempt_and_waits_for_its_delay(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        assert store.settle([ended(lease, Kind.RETRY, error=error(), delay_ms=5_000)]) == [APPLIED]
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.run_at) == (State.SCHEDULED, 1, harness.clock.wall_ms() + 5_000)
        assert (row.worker, row.finished_at) == (None, None)
        assert take(store) == []
        harness.clock.advance(5_000)
        assert take_one(store).attempt == 2

    def test_snooze_uses_no_attempt_and_is_counted(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        assert store.settle([ended(lease, Kind.SNOOZE, delay_ms=5_000)]) == [APPLIED]
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.snoozes) == (State.SCHEDULED, 0, 1)
        assert row.run_at == harness.clock.wall_ms() + 5_000
        harness.clock.advance(5_000)
        again = take_one(store)
        assert (again.attempt, again.snoozes) == (1, 1)

    @pytest.mark.parametrize("kind", [Kind.RETRY, Kind.SNOOZE, Kind.RELEASE])
    @pytest.mark.parametrize("result", [None, "1"])
    def test_a_done_job_no_longer_has_the_reason_it_waited_for(
        self, harness: Harness, kind: Kind, result: str | None
    ) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        assert store.settle([ended(lease, kind, reason="the bank is closed")]) == [APPLIED]
        assert row_of(store, "a").reason == "the bank is closed"
        assert store.settle([ended(take_one(store), Kind.DONE, result=result)]) == [APPLIED]
        assert row_of(store, "a").reason is None

    @pytest.mark.parametrize("kind", [Kind.RETRY, Kind.SNOOZE, Kind.CRASH])
    def test_without_a_delay_a_job_can_be_claimed_at_once(self, harness: Harness, kind: Kind) -> None:
        """Choice: whether it waits as ready or as due meanwhile is the engine's own business."""
        store = harness.engine
        (lease,) = leased(harness, "a")
        store.settle([ended(lease, kind)])
        assert state_of(store, "a") in {State.READY, State.SCHEDULED}
        assert take_one(store).id == "a"

    def test_release_gives_the_job_its_place_back_and_charges_nothing(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b", "c")
        leases = take(store, limit=2)
        store.settle([ended(lease, Kind.RELEASE) for lease in reversed(leases)])
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.interruptions, row.worker) == (State.READY, 0, 0, None)
        again = take(store)
        assert [lease.id for lease in again] == ["a", "b", "c"]
        assert [lease.attempt for lease in again] == [1, 1, 1]

    def test_release_keeps_a_place_at_the_front(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        place(store, [job("front", at_front=True)])
        store.settle([ended(take(store, limit=1)[0], Kind.RELEASE)])
        assert [lease.id for lease in take(store)] == ["front", "a"]

    def test_release_of_a_started_job_counts_an_interruption(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        store.settle([ended(lease, Kind.RELEASE, interrupted=True)])
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.interruptions) == (State.READY, 0, 1)

    def test_the_next_lease_tells_the_reason_of_the_last_outcome(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        assert lease.reason is None
        store.settle([ended(lease, Kind.SNOOZE, reason="circuit stripe is open")])
        assert row_of(store, "a").reason == "circuit stripe is open"
        assert take_one(store).reason == "circuit stripe is open"

    def test_crash_charges_a_crash_and_no_attempt(self, harness: Harness) -> None:
        """Choice: settle knows no Rules, so the caller decides the delay and, at the cap, sends DEAD instead."""
        store = harness.engine
        (lease,) = leased(harness, "a")
        store.settle([ended(lease, Kind.CRASH, error=error("WorkerCrashed"), delay_ms=2_000)])
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.crashes) == (State.SCHEDULED, 0, 1)
        assert row.run_at == harness.clock.wall_ms() + 2_000
        assert [e.type for e in history(row)] == ["WorkerCrashed"]
        assert store.counts()["total_crashed"] == 1

    def test_a_time_budget_counts_from_the_start_of_the_first_failed_run(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        assert lease.retrying_ms == 0
        harness.clock.advance(500)
        store.settle([ended(lease, Kind.RETRY, delay_ms=1_000)])
        harness.clock.advance(1_000)
        second = take_one(store)
        assert second.retrying_ms == 1_500
        harness.clock.advance(300)
        store.settle([ended(second, Kind.RETRY)])
        assert take_one(store).retrying_ms == 1_800

    @pytest.mark.parametrize("kind", [Kind.SNOOZE, Kind.RELEASE, Kind.CRASH])
    def test_what_uses_no_attempt_neither_starts_nor_restarts_a_time_budget(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        harness.clock.advance(400)
        store.settle([ended(lease, kind)])
        second = take_one(store)
        assert second.retrying_ms == 0
        store.settle([ended(second, Kind.RETRY)])
        harness.clock.advance(200)
        third = take_one(store)
        assert third.retrying_ms == 200
        store.settle([ended(third, Kind.SNOOZE)])
        harness.clock.advance(50)
        assert take_one(store).retrying_ms == 250

    def test_a_retry_by_hand_begins_a_new_time_budget(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        store.settle([ended(lease, Kind.RETRY)])
        harness.clock.advance(700)
        store.settle([ended(take_one(store), Kind.DEAD)])
        store.transition(Action.RETRY, ["a"])
        harness.clock.advance(100)
        assert take_one(store).retrying_ms == 0

    def test_dead_keeps_reason_error_and_payload(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a", payload='["keep me"]')])
        store.settle([ended(take_one(store), Kind.DEAD, error=error(message="boom"), reason="gave up")])
        row = row_of(store, "a")
        assert (row.state, row.attempt, row.reason, row.payload) == (State.DEAD, 1, "gave up", b'["keep me"]')
        assert row.finished_at == harness.clock.wall_ms()
        assert [e.message for e in history(row)] == ["boom"]

    def test_cancelled_keeps_its_reason(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        store.settle([ended(lease, Kind.CANCELLED, reason="not wanted")])
        row = row_of(store, "a")
        assert (row.state, row.reason, row.finished_at) == (State.CANCELLED, "not wanted", harness.clock.wall_ms())

    def test_errors_are_appended_oldest_first(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        for n in (1, 2, 3):
            store.settle([ended(take_one(store), Kind.RETRY, error=error(message=f"m{n}", attempt=n))])
        assert [(e.message, e.attempt) for e in history(row_of(store, "a"))] == [("m1", 1), ("m2", 2), ("m3", 3)]
        store.settle([ended(take_one(store))])
        assert len(history(row_of(store, "a"))) == 3

    def test_an_error_text_is_kept_to_the_letter(self, harness: Harness) -> None:
        store, message = harness.engine, 'q" b\\ n\n u\u2028 é 漢 \U0001f40c nul\x00 end'
        (lease,) = leased(harness, "a")
        store.settle([ended(lease, Kind.DEAD, error=error(message=message))])
        assert [e.message for e in history(row_of(store, "a"))] == [message]

    def test_attempt_counts_runs_but_not_snoozes_releases_and_crashes(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        seen = []
        for kind in (Kind.SNOOZE, Kind.RETRY, Kind.RELEASE, Kind.CRASH, Kind.RETRY, Kind.SNOOZE, Kind.DONE):
            lease = take_one(store)
            seen.append(lease.attempt)
            store.settle([ended(lease, kind)])
        assert seen == [1, 1, 2, 2, 2, 3, 3]
        row = row_of(store, "a")
        assert (row.attempt, row.snoozes, row.crashes) == (3, 2, 1)

    def test_keep_ms_overrides_how_long_the_record_stays(self, harness: Harness) -> None:
        store, usual_ms = harness.engine, Rules().keep_done_ms
        long, short, usual = leased(harness, "long", "short", "usual")
        store.settle([ended(long, keep_ms=2 * usual_ms), ended(short, keep_ms=1_000), ended(usual)])
        harness.clock.advance(2_000)
        upkeep(store)
        assert [state_of(store, i) for i in ("long", "short", "usual")] == [State.DONE, None, State.DONE]
        harness.clock.advance(usual_ms)
        upkeep(store)
        assert [state_of(store, i) for i in ("long", "usual")] == [State.DONE, None]
        harness.clock.advance(usual_ms)
        upkeep(store)
        assert state_of(store, "long") is None

    @pytest.mark.parametrize("kind", list(Kind))
    def test_a_repeated_settle_is_stale_and_changes_nothing(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        outcome = ended(lease, kind, error=error(), delay_ms=1_000)
        assert store.settle([outcome]) == [APPLIED]
        before = store.job("a")
        assert store.settle([outcome]) == [STALE]
        assert store.job("a") == before
        assert store.counts()["total_stale"] == 1

    @pytest.mark.parametrize("kind", list(Kind))
    def test_a_wrong_fence_is_stale_and_changes_nothing(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        before = store.job("a")
        for fence in (lease.fence - 1, lease.fence + 1, 0, 2**53 - 1):
            assert store.settle([Outcome("a", fence, kind, result="1", error=error(), reason="r")]) == [STALE]
        assert store.job("a") == before

    def test_a_fence_of_an_earlier_claim_is_stale(self, harness: Harness) -> None:
        store = harness.engine
        (old,) = leased(harness, "a")
        store.settle([ended(old, Kind.RELEASE)])
        join(store, "w2")
        new = take_one(store, "w2")
        before = store.job("a")
        assert store.settle([ended(old, result="1")]) == [STALE]
        assert store.job("a") == before
        assert store.settle([ended(new)]) == [APPLIED]

    def test_an_unknown_id_is_stale(self, harness: Harness) -> None:
        assert harness.engine.settle([Outcome("nobody", 1, Kind.DONE)]) == [STALE]

    def test_a_job_twice_in_one_batch_is_settled_once(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        assert store.settle([ended(lease, result="1"), ended(lease, Kind.DEAD)]) == [APPLIED, STALE]
        assert (state_of(store, "a"), row_of(store, "a").result) == (State.DONE, b"1")

    def test_answers_of_a_mixed_batch_come_in_its_order(self, harness: Harness) -> None:
        store = harness.engine
        a, b, c, d = leased(harness, "a", "b", "c", "d")
        batch = [
            ended(c, Kind.RETRY, delay_ms=1_000),
            Outcome("nobody", 7, Kind.DONE),
            ended(a),
            Outcome("b", b.fence + 1, Kind.DONE),
            ended(d, Kind.DEAD),
            ended(b, Kind.SNOOZE, delay_ms=1_000),
            ended(a),
        ]
        assert store.settle(batch) == [APPLIED, STALE, APPLIED, STALE, APPLIED, APPLIED, STALE]
        states = [state_of(store, i) for i in ("a", "b", "c", "d")]
        assert states == [State.DONE, State.SCHEDULED, State.SCHEDULED, State.DEAD]

    def test_a_batch_of_a_thousand_is_settled_in_order(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, *[f"j{n}" for n in range(1_000)])
        leases = take(store, limit=1_000)
        batch = [ended(lease, result=str(n)) for n, lease in enumerate(leases)]
        batch[::10] = [Outcome(lease.id, lease.fence + 1_000_000, Kind.DONE) for lease in leases[::10]]
        assert store.settle(batch) == [STALE if n % 10 == 0 else APPLIED for n in range(1_000)]
        counts = store.counts()
        assert (counts["done"], counts["running"], counts["total_stale"]) == (900, 100, 100)
        assert row_of(store, leases[777].id).result == b"777"

    @pytest.mark.parametrize("kind", [Kind.DONE, Kind.DEAD, Kind.CANCELLED, Kind.RETRY])
    def test_follow_ups_are_stored_with_the_outcome(self, harness: Harness, kind: Kind) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        then = (job("next", queue="q2", payload="[7]"), job("later", delay_ms=9_000))
        assert store.settle([ended(lease, kind, then=then, delay_ms=90_000)]) == [APPLIED]
        row = row_of(store, "next")
        assert (row.state, row.queue, row.payload) == (State.READY, "q2", b"[7]")
        assert state_of(store, "later") is State.SCHEDULED
        assert [x.id for x in take(store)] == ["next"]
        assert store.counts()["total_enqueued"] == 3

    def test_follow_ups_of_a_stale_outcome_are_not_stored(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        stale = Outcome("a", lease.fence + 1, Kind.DONE, then=(Write((job("next"),)),))
        assert store.settle([stale]) == [STALE]
        assert store.job("next") is None
        store.settle([ended(lease, then=(job("one"),))])
        assert store.settle([ended(lease, then=(job("two"),))]) == [STALE]
        assert store.job("two") is None

    def test_a_follow_up_whose_id_is_taken_changes_nothing(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        place(store, [job("taken", payload="[1]")])
        assert store.settle([ended(lease, then=(job("taken", payload="[2]"), job("free")))]) == [APPLIED]
        assert row_of(store, "taken").payload == b"[1]"
        assert state_of(store, "free") is State.READY

    def test_an_outcome_is_applied_while_the_fence_holds_even_if_the_lease_ran_out(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        harness.clock.advance(10_000_000)
        assert store.settle([ended(lease, result="1")]) == [APPLIED]
        assert state_of(store, "a") is State.DONE

    def test_another_engine_object_may_settle(self, harness: Harness) -> None:
        (lease,) = leased(harness, "a")
        assert harness.second().settle([ended(lease)]) == [APPLIED]
        assert state_of(harness.engine, "a") is State.DONE

    def test_exchange_settles_and_claims(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        add(store, "b")
        settled, claimed = store.exchange([ended(lease, then=(job("c"),))], Want(worker="w1", limit=10))
        assert settled == [APPLIED]
        assert [x.id for x in claimed.leases] == ["b", "c"]
        assert state_of(store, "a") is State.DONE

    def test_exchange_claims_also_when_an_outcome_is_stale(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        add(store, "b")
        bad = Outcome("a", lease.fence - 1, Kind.DONE)
        settled, claimed = store.exchange([bad, ended(lease, Kind.DEAD)], Want(worker="w1", limit=10))
        assert settled == [STALE, APPLIED]
        assert [x.id for x in claimed.leases] == ["b"]

    def test_exchange_without_a_want_only_settles(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        add(store, "b")
        settled, claimed = store.exchange([ended(lease)], None)
        assert (settled, claimed) == ([APPLIED], Claimed(leases=[]))
        assert state_of(store, "b") is State.READY

    def test_exchange_without_outcomes_only_claims(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        settled, claimed = store.exchange([], Want(worker="w1", limit=10))
        assert (settled, [x.id for x in claimed.leases]) == ([], ["a"])

    def test_exchange_of_an_expelled_worker_still_settles_what_its_fence_allows(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        add(store, "b")
        harness.clock.advance(10_000_000)
        settled, claimed = store.exchange([ended(lease)], Want(worker="w1", limit=10))
        assert (settled, claimed.leases, claimed.expelled) == ([APPLIED], [], True)

    def test_a_job_reaped_from_its_worker_cannot_be_settled_by_it(self, harness: Harness) -> None:
        store = harness.engine
        (lease,) = leased(harness, "a")
        harness.clock.advance(10_000_000)
        upkeep(store, Rules())
        before = store.job("a")
        assert store.settle([ended(lease, result="1", then=(job("next"),))]) == [STALE]
        assert (store.job("a"), store.job("next")) == (before, None)
