"""What people see and do: rows, pages, queues, workers, counts, transitions, pauses."""

from __future__ import annotations

import pytest

from windlass.core.model import TRANSITIONS, State, can_move
from windlass.core.rows import Action, JobFilter, Moved, Waiting
from windlass.core.work import Kind, QueueShare, Settled
from windlass.testing.conformance.harness import (
    LEASE_MS,
    NOTHING,
    Harness,
    add,
    all_jobs,
    clear,
    ended,
    error,
    finish,
    history,
    info,
    job,
    join,
    pause,
    place,
    resume,
    row_of,
    state_of,
    take,
    take_one,
    upkeep,
)

TOTALS = (
    "total_enqueued",
    "total_done",
    "total_retried",
    "total_dead",
    "total_cancelled",
    "total_stale",
    "total_recovered",
    "total_crashed",
    "total_trimmed",
)

# Nothing in the protocols stores a blocked job yet, so no person can meet one.
REACHABLE = [state for state in State if state is not State.BLOCKED]

ALLOWED = {
    Action.CANCEL: {State.READY, State.SCHEDULED, State.RUNNING},
    Action.SKIP: {State.READY, State.SCHEDULED},
    Action.RETRY: {State.DEAD, State.CANCELLED, State.SCHEDULED},
    **dict.fromkeys((Action.DELETE, Action.DISCARD, Action.TRIM), set(State) - {State.RUNNING}),
}


def bring(harness: Harness, state: State, job_id: str = "a") -> None:
    """Bring a new job into a state."""
    store = harness.engine
    join(store)
    match state:
        case State.READY:
            add(store, job_id)
        case State.SCHEDULED:
            place(store, [job(job_id, delay_ms=60_000)])
        case State.RUNNING:
            add(store, job_id)
            take_one(store)
        case State.DONE | State.DEAD | State.CANCELLED:
            finish(store, job_id, kind=Kind(state.value))
        case _:
            raise AssertionError(f"no way into {state}")
    assert state_of(store, job_id) is state


class InspectorSuite:
    """``Inspector``, but ``wait_finished``."""

    def test_a_job_that_has_come_due_is_ready_before_any_sweep(self, harness: Harness) -> None:
        """With no worker alive nobody sweeps, and just then people look at sizes and latencies."""
        store = harness.engine
        place(store, [job("due", delay_ms=1_000), job("later", delay_ms=60_000), job("now")])
        harness.clock.advance(5_000)
        (queue,) = store.queues()
        assert (queue.ready, queue.scheduled, queue.latency_ms) == (2, 1, 5_000)
        counts = store.counts()
        assert (counts["ready"], counts["scheduled"]) == (2, 1)
        assert [state_of(store, i) for i in ("due", "later")] == [State.READY, State.SCHEDULED]
        assert [row.id for row in all_jobs(store, JobFilter(state=State.READY))] == ["now", "due"]
        assert [row.id for row in all_jobs(store, JobFilter(state=State.SCHEDULED))] == ["later"]
        assert [store.count(JobFilter(state=state)) for state in (State.READY, State.SCHEDULED)] == [2, 1]
        assert [row.state for row in all_jobs(store)] == [State.READY, State.SCHEDULED, State.READY]
        (moved,) = store.transition(Action.RETRY, ["due"])
        assert (moved.before, moved.applied) == (State.READY, False)
        (moved,) = store.transition(Action.CANCEL, ["due"])
        assert (moved.before, moved.applied) == (State.READY, True)

    def test_an_unknown_id_has_no_row(self, harness: Harness) -> None:
        assert harness.engine.job("never") is None

    def test_info_names_the_engine_and_its_durability(self, harness: Harness) -> None:
        facts = harness.engine.info
        assert all((facts.name, facts.target, facts.version, facts.durability))

    def test_open_and_migrate_again_change_nothing(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "a")
        before = store.job("a")
        store.open()
        assert store.migrate() == store.migrate()
        assert store.job("a") == before

    def test_doctor_finds_no_error_in_a_healthy_store(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "a")
        findings = store.doctor()
        assert {finding.level for finding in findings} <= {"ok", "warning"}
        assert all(finding.check and finding.message for finding in findings)

    def test_jobs_come_newest_first(self, harness: Harness) -> None:
        store = harness.engine
        for job_id in ("a", "b", "c"):
            add(store, job_id)
            harness.clock.advance(1)
        rows, cursor = store.jobs(NOTHING, None, 10)
        assert ([row.id for row in rows], cursor) == (["c", "b", "a"], None)
        assert rows[0] == store.job("c")

    def test_pages_give_every_job_once(self, harness: Harness) -> None:
        store = harness.engine
        add(store, *[f"j{n}" for n in range(25)])  # one millisecond holds them all: the cursor must break the tie
        pages, cursor = [], None
        while True:
            rows, cursor = store.jobs(NOTHING, cursor, 7)
            pages.append([row.id for row in rows])
            if cursor is None:
                break
        assert max(len(page) for page in pages) == 7
        assert sorted(i for page in pages for i in page) == sorted(f"j{n}" for n in range(25))

    def test_pages_stay_in_place_while_new_jobs_arrive(self, harness: Harness) -> None:
        store = harness.engine
        for n in range(9):
            add(store, f"old{n}")
            harness.clock.advance(1)
        rows, cursor = store.jobs(NOTHING, None, 4)
        seen = [row.id for row in rows]
        while cursor is not None:
            harness.clock.advance(1)
            add(store, f"new{len(seen)}")
            rows, cursor = store.jobs(NOTHING, cursor, 4)
            seen += [row.id for row in rows]
        assert seen == [f"old{n}" for n in reversed(range(9))]

    def test_a_deleted_job_does_not_shift_the_next_page(self, harness: Harness) -> None:
        store = harness.engine
        for n in range(6):
            add(store, f"j{n}")
            harness.clock.advance(1)
        rows, cursor = store.jobs(NOTHING, None, 3)
        store.transition(Action.DELETE, [row.id for row in rows])
        rest, _ = store.jobs(NOTHING, cursor, 10)
        assert [row.id for row in rest] == ["j2", "j1", "j0"]

    def test_a_full_last_page_ends_the_listing(self, harness: Harness) -> None:
        store = harness.engine
        add(store, *[f"j{n}" for n in range(6)])
        assert len(all_jobs(store, limit=3)) == 6

    def test_an_empty_store_has_one_empty_page(self, harness: Harness) -> None:
        assert harness.engine.jobs(NOTHING, None, 10) == ([], None)

    def test_filters_select_and_combine(self, harness: Harness) -> None:
        store, start = harness.engine, harness.clock.wall_ms()
        join(store)
        place(store, [job("a", name="n1", queue="qa", tags=("x", "y"))])
        harness.clock.advance(100)
        place(store, [job("b", name="n2", queue="qa", tags=("y",)), job("c", name="n1", queue="qb")])
        harness.clock.advance(100)
        place(store, [job("d", name="n1", queue="qa", delay_ms=1_000, tags=("xy",))])
        take(store, queues=[QueueShare("qb", 1)])

        def ids(where: JobFilter) -> list[str]:
            return sorted(row.id for row in all_jobs(store, where, limit=2))

        assert ids(NOTHING) == ["a", "b", "c", "d"]
        assert ids(JobFilter(state=State.READY)) == ["a", "b"]
        assert ids(JobFilter(state=State.RUNNING)) == ["c"]
        assert ids(JobFilter(state=State.SCHEDULED)) == ["d"]
        assert ids(JobFilter(state=State.DEAD)) == []
        assert ids(JobFilter(name="n1")) == ["a", "c", "d"]
        assert ids(JobFilter(queue="qa")) == ["a", "b", "d"]
        assert ids(JobFilter(tag="y")) == ["a", "b"]
        assert ids(JobFilter(tag="x")) == ["a"]
        assert ids(JobFilter(after=start + 100)) == ["b", "c", "d"]
        assert ids(JobFilter(before=start + 100)) == ["a"]
        assert ids(JobFilter(after=start, before=start + 200)) == ["a", "b", "c"]
        assert ids(JobFilter(name="n1", queue="qa", state=State.READY)) == ["a"]
        assert ids(JobFilter(queue="qa", tag="y", after=start + 1)) == ["b"]

    def test_a_filter_selects_finished_jobs(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        for state, kind in ((State.DONE, Kind.DONE), (State.DEAD, Kind.DEAD), (State.CANCELLED, Kind.CANCELLED)):
            finish(store, state.value, kind=kind)
            assert [row.id for row in all_jobs(store, JobFilter(state=state))] == [state.value]

    def test_queues_are_listed_by_name_with_what_they_hold(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("b1", queue="qb"), job("b2", queue="qb"), job("b3", queue="qb", delay_ms=90_000)])
        take(store, limit=1)
        harness.clock.advance(250)
        place(store, [job("a1", queue="qa")])
        rows = store.queues()
        assert [row.name for row in rows] == ["qa", "qb"]
        qa, qb = rows
        assert (qa.ready, qa.scheduled, qa.running, qa.latency_ms, qa.paused) == (1, 0, 0, 0, False)
        assert (qb.ready, qb.scheduled, qb.running, qb.latency_ms, qb.paused) == (1, 1, 1, 250, False)

    def test_latency_counts_from_the_due_time(self, harness: Harness) -> None:
        store = harness.engine
        place(store, [job("a", delay_ms=1_000)])
        harness.clock.advance(1_000)
        upkeep(store)
        harness.clock.advance(300)
        assert [row.latency_ms for row in store.queues()] == [300]

    def test_a_pause_is_shown_with_reason_and_end(self, harness: Harness) -> None:
        store, until = harness.engine, harness.clock.wall_ms() + 5_000
        add(store, "a")
        pause(store, "default", "deploy", until)
        (row,) = store.queues()
        assert (row.paused, row.paused_reason, row.paused_until) == (True, "deploy", until)
        harness.clock.advance(5_001)
        assert not store.queues()[0].paused

    def test_a_pause_says_who_asked_for_it_until_it_is_lifted(self, harness: Harness) -> None:
        store = harness.engine
        pause(store, "default", "deploy", None, "ada@box")
        assert [row.paused_by for row in store.queues()] == ["ada@box"]
        pause(store, "default", "still", None)
        assert [row.paused_by for row in store.queues()] == [None]
        pause(store, "default", "deploy", None, "ada@box")
        resume(store, "default")
        assert [row.paused_by for row in store.queues()] == [None]

    def test_names_lists_every_queue_sorted(self, harness: Harness) -> None:
        store = harness.engine
        assert store.names() == []
        place(store, [job("a", queue="qb"), job("b", queue="qa", delay_ms=9_000), job("c", queue="qb")])
        assert store.names() == ["qa", "qb"]
        pause(store, "qc", None, None)
        assert set(store.names()) == {"qa", "qb", "qc"}

    def test_a_control_word_reaches_one_worker_or_its_whole_group_with_every_beat(self, harness: Harness) -> None:
        store = harness.engine
        for worker, group in (("w1", "ga"), ("w2", "ga"), ("w3", "gb")):
            store.extend(info(worker, group), (), LEASE_MS)
        assert store.control("ga", "quiet") == 2
        assert store.control("w2", "stop") == 1
        assert store.control("nobody", "stop") == 0
        words = {
            w: store.extend(info(w, g), (), LEASE_MS).control for w, g in (("w1", "ga"), ("w2", "ga"), ("w3", "gb"))
        }
        assert words == {"w1": ("quiet",), "w2": ("quiet", "stop"), "w3": ()}
        assert store.extend(info("w1", "ga"), (), LEASE_MS).control == ("quiet",)
        assert {row.info.id: row.control for row in store.workers()} == words

    def test_asking_twice_asks_once_and_a_worker_that_left_is_forgotten(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        assert [store.control("w1", "quiet"), store.control("w1", "quiet")] == [1, 1]
        assert store.extend(info("w1"), (), LEASE_MS).control == ("quiet",)
        store.depart("w1")
        join(store)
        assert store.extend(info("w1"), (), LEASE_MS).control == ()

    def test_pause_and_resume_are_idempotent_and_the_last_pause_counts(self, harness: Harness) -> None:
        store = harness.engine
        add(store, "a")
        pause(store, "default", "one", harness.clock.wall_ms() + 5_000)
        pause(store, "default", "two", None)
        (row,) = store.queues()
        assert (row.paused, row.paused_reason, row.paused_until) == (True, "two", None)
        resume(store, "default")
        resume(store, "default")
        resume(store, "unheard-of")
        (row, *_) = store.queues()
        assert (row.paused, row.paused_reason, row.paused_until) == (False, None, None)

    def test_workers_are_listed_oldest_first_with_what_they_run(self, harness: Harness) -> None:
        store = harness.engine
        for worker in ("wb", "wa", "wc"):
            join(store, worker)
            harness.clock.advance(10)
        join(store, "wb")
        add(store, "a", "b")
        take(store, "wa")
        rows = store.workers()
        assert sorted(row.info.id for row in rows) == ["wa", "wb", "wc"]
        assert {row.info.id: row.running for row in rows} == {"wa": 2, "wb": 0, "wc": 0}
        assert next(row.info for row in rows if row.info.id == "wa") == info("wa")

    def test_counts_have_every_state_and_total_of_an_empty_store(self, harness: Harness) -> None:
        counts = harness.engine.counts()
        assert set(counts) >= {state.value for state in State} | set(TOTALS)
        assert set(counts.values()) == {0}

    def test_counts_follow_the_jobs(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "done")
        finish(store, "dead", kind=Kind.DEAD)
        finish(store, "cancelled", kind=Kind.CANCELLED)
        add(store, "retry")
        retry = take_one(store)
        store.settle([ended(retry, Kind.RETRY, delay_ms=60_000), ended(retry)])
        add(store, "run")
        take(store)
        add(store, "ready1", "ready2")
        counts = store.counts()
        assert {state: counts[state] for state in REACHABLE} == {
            State.READY: 2,
            State.SCHEDULED: 1,
            State.RUNNING: 1,
            State.DONE: 1,
            State.DEAD: 1,
            State.CANCELLED: 1,
        }
        assert [counts[total] for total in TOTALS] == [7, 1, 1, 1, 1, 1, 0, 0, 0]

    def test_totals_never_fall_when_records_go(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "a", "b")
        store.transition(Action.DELETE, ["a", "b"])
        counts = store.counts()
        assert (counts["done"], counts["total_done"], counts["total_enqueued"]) == (0, 2, 2)

    @pytest.mark.parametrize("action", list(Action))
    @pytest.mark.parametrize("state", REACHABLE)
    def test_an_action_does_what_the_state_allows_and_nothing_else(
        self, harness: Harness, state: State, action: Action
    ) -> None:
        store = harness.engine
        bring(harness, state)
        before, allowed = store.job("a"), state in ALLOWED[action]
        assert store.transition(action, ["a"]) == [Moved("a", state, allowed)]
        after = state_of(store, "a")
        if not allowed:
            assert store.job("a") == before
        elif action in {Action.DELETE, Action.DISCARD, Action.TRIM}:
            assert after is None
        elif state is State.RUNNING:
            assert (after, row_of(store, "a").cancel_requested) == (State.RUNNING, True)
        else:
            assert after is (State.READY if action is Action.RETRY else State.CANCELLED)
            assert after is not None
            assert can_move(state, after)
            assert after in TRANSITIONS[state]

    def test_a_done_job_is_not_refused_for_the_reason_that_it_ended_with(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        store.settle([ended(take_one(store), reason="nothing to do")])
        assert store.transition(Action.RETRY, ["a"]) == [Moved("a", State.DONE, applied=False)]

    def test_what_waits_in_a_queue_can_be_cancelled_too(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "run", queue="qa")
        take_one(store)
        place(store, [job("a", queue="qa"), job("b", queue="qa", delay_ms=1_000), job("c", queue="qb")])
        (first,) = store.transition(Action.CANCEL, Waiting("qa", 1))
        (second,) = store.transition(Action.CANCEL, Waiting("qa", 10))
        assert {first.id: first.before, second.id: second.before} == {"a": State.READY, "b": State.SCHEDULED}
        assert first.applied
        assert second.applied
        assert store.transition(Action.CANCEL, Waiting("qa", 10)) == []
        assert {row.id: row.state for row in all_jobs(store)} == {
            "run": State.RUNNING,
            "a": State.CANCELLED,
            "b": State.CANCELLED,
            "c": State.READY,
        }

    def test_an_action_on_many_answers_each_in_order(self, harness: Harness) -> None:
        store = harness.engine
        bring(harness, State.DONE, "done")
        bring(harness, State.RUNNING, "run")
        bring(harness, State.READY, "ready")
        assert store.transition(Action.CANCEL, ["ready", "never", "done", "run"]) == [
            Moved("ready", State.READY, True),
            Moved("never", None, False),
            Moved("done", State.DONE, False),
            Moved("run", State.RUNNING, True),
        ]
        assert store.transition(Action.RETRY, []) == []

    def test_a_cancelled_job_is_not_claimed(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a"), job("b", delay_ms=1_000)])
        store.transition(Action.CANCEL, ["a", "b"])
        harness.clock.advance(2_000)
        assert take(store) == []
        row = row_of(store, "a")
        assert row.finished_at is not None
        assert store.counts()["total_cancelled"] == 2

    def test_a_running_job_whose_cancel_was_asked_for_may_still_end_as_it_does(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a", "b")
        a, b = take(store)
        store.transition(Action.CANCEL, ["a", "b"])
        assert store.settle([ended(a), ended(b, Kind.CANCELLED)]) == [Settled.APPLIED] * 2
        assert [state_of(store, "a"), state_of(store, "b")] == [State.DONE, State.CANCELLED]

    def test_retry_gives_a_fresh_budget_and_keeps_the_history(self, harness: Harness) -> None:
        """Choice: snoozes have a cap of their own, so a fresh budget is fresh in them as well."""
        store = harness.engine
        join(store)
        add(store, "a")
        store.settle([ended(take_one(store), Kind.SNOOZE)])
        store.settle([ended(take_one(store), Kind.CRASH, error=error("WorkerCrashed"))])
        store.settle([ended(take_one(store), Kind.RELEASE, interrupted=True)])
        dead = take_one(store)
        store.settle([ended(dead, Kind.DEAD, error=error(message="boom"), reason="gave up")])
        harness.clock.advance(1_000)
        store.transition(Action.RETRY, ["a"])
        row = row_of(store, "a")
        assert (row.state, row.attempt) == (State.READY, 0)
        assert (row.crashes, row.interruptions, row.snoozes) == (0, 0, 0)
        assert (row.finished_at, row.reason) == (None, None)
        assert [e.type for e in history(row)] == ["WorkerCrashed", "ValueError"]
        again = take_one(store)
        assert again.attempt == 1
        assert again.fence > dead.fence

    def test_retry_brings_a_scheduled_job_forward(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "a")
        store.settle([ended(take_one(store), Kind.RETRY, delay_ms=3_600_000)])
        store.transition(Action.RETRY, ["a"])
        assert row_of(store, "a").run_at <= harness.clock.wall_ms()
        assert take_one(store).attempt == 1

    def test_a_retried_job_is_not_pruned_as_the_finished_one_it_was(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "a", kind=Kind.CANCELLED)
        store.transition(Action.RETRY, ["a"])
        harness.clock.advance(10**11)
        upkeep(store)
        assert state_of(store, "a") is State.READY

    def test_clear_deletes_waiting_jobs_of_one_queue_and_no_running_one(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        add(store, "run", queue="qa")
        take(store)
        place(store, [job("r", queue="qa"), job("s", queue="qa", delay_ms=9_000), job("other", queue="qb")])
        assert clear(store, "qa", 100) == 2
        assert [state_of(store, i) for i in ("run", "r", "s")] == [State.RUNNING, None, None]
        assert state_of(store, "other") is State.READY
        assert clear(store, "qa", 100) == 0
        assert clear(store, "unheard-of", 100) == 0

    def test_clear_deletes_no_more_than_its_limit(self, harness: Harness) -> None:
        store = harness.engine
        add(store, *[f"j{n}" for n in range(10)])
        assert [clear(store, "default", 4) for _ in range(4)] == [4, 4, 2, 0]
        assert store.counts()["ready"] == 0
        assert store.jobs(NOTHING, None, 10) == ([], None)

    def test_clear_leaves_finished_records(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        finish(store, "done")
        finish(store, "dead", kind=Kind.DEAD)
        assert clear(store, "default", 10) == 0
        assert [state_of(store, "done"), state_of(store, "dead")] == [State.DONE, State.DEAD]
