"""The retry budget of a queue: what is let through, and what waits."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet

from windlass import Constant, Retry, Windlass
from windlass.core.clock import ManualClock
from windlass.core.work import LeaseRef, Want, WorkerInfo
from windlass.events import JobRetrying
from windlass.worker.attempt.budget import BURST, RetryBudget
from windlass.worker.worker import Worker, WorkerOptions


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_retries_beyond_the_budget_of_their_queue_wait_and_none_is_lost() -> None:
    with Windlass("memory://", queues={"payments": {"retry_budget": 0.2}}) as app:

        @app.job(name="charge", retry=Retry(attempts=2, backoff=Constant(0)))
        def charge() -> None:
            raise ValueError

        for queue in ("payments", "other"):
            app.enqueue_many([charge.options(queue=queue).bind() for _ in range(60)])
        Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, WorkerOptions(burst=True)).run()
        waiting = app.jobs(state="scheduled").items
        dead = app.jobs(state="dead", limit=200).items
    assert {job.queue for job in waiting} == {"payments"}
    assert {job.attempt for job in waiting} == {1}
    assert len(waiting) + len(dead) == 120


def test_event_log_and_store_tell_the_same_wait_of_a_retry_beyond_the_budget(caplog: pytest.LogCaptureFixture) -> None:
    clock, told = ManualClock(), {}
    with Windlass("memory://", clock=clock, queues={"payments": {"retry_budget": 0.01}}) as app:

        @app.job(name="charge", queue="payments", retry=Retry(attempts=2, backoff=Constant(60)))
        def charge() -> None:
            raise ValueError

        @app.on(JobRetrying)
        def note(event: JobRetrying) -> None:
            told[event.id] = event.delay

        app.enqueue_many(charge.bind() for _ in range(100))
        options = WorkerOptions(burst=True)
        with caplog.at_level(logging.INFO):
            Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, options, clock=clock).run()
        stored = {
            job.id: (round(job.run_at.timestamp() * 1_000) - clock.wall_ms()) / 1_000
            for job in app.jobs(state="scheduled", limit=200).items
        }
    logged = {one.job_id: one.retry_in for one in caplog.records if getattr(one, "event", "") == "job_ended"}
    assert told == stored == logged
    assert len(told) == 100
    assert max(told.values()) > 60  # the budget was used up


def test_jobs_whose_process_had_to_be_killed_keep_to_the_budget() -> None:
    told = {}
    with Windlass("memory://", queues={"payments": {"retry_budget": 0.01}}) as app:

        @app.job(name="charge", queue="payments", timeout=1, retry=Retry(attempts=2, backoff=Constant(0)))
        def charge() -> None: ...

        @app.on(JobRetrying)
        def note(event: JobRetrying) -> None:
            told[event.id] = event.delay

        app.enqueue_many(charge.bind() for _ in range(20))
        app.engine.extend(WorkerInfo("w", "g", "h", 1, "*", 20, "", 0), (), 60_000)
        leases = app.engine.claim(Want("w", 20)).leases
        other = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)
        outcomes = [other.judge(LeaseRef(lease.id, lease.fence)) for lease in leases]
    waits = {outcome.id: outcome.delay_ms / 1_000 for outcome in outcomes if outcome is not None}
    assert told == waits
    assert len(waits) == 20
    assert max(waits.values()) > 0  # the budget was used up


MODULE = """
import json
from windlass import Constant, Retry, Windlass
from windlass.events import JobRetrying

app = Windlass({url!r}, threads=2, log_format="json", queues={{"payments": {{"retry_budget": 0.01}}}})


@app.job(name="charge", queue="payments", executor="process", retry=Retry(attempts=2, backoff=Constant(60)))
def charge() -> None:
    raise ValueError


@app.on(JobRetrying)
def note(event: JobRetrying) -> None:
    with open("told", "a") as file:
        file.write(json.dumps([event.id, event.delay]) + "\\n")
"""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as made:
        (tmp_path / "fleet_jobs.py").write_text(MODULE.format(url=made.url))
        yield made


def test_the_event_of_a_job_in_a_process_tells_the_wait_that_the_budget_gives_it(fleet: Fleet) -> None:
    fleet.enqueue("charge", "payments", 80)
    log = fleet.run("--burst")
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    logged = {one["job_id"]: one["retry_in"] for one in lines if one.get("event") == "job_ended"}
    told = dict(json.loads(line) for line in (fleet.folder / "told").read_text().splitlines())
    assert told == logged
    assert len(told) == 80
    assert max(told.values()) > 60  # the budget was used up


def traffic(budget: RetryBudget, clock: Hand, seconds: int, rate: int) -> None:
    for _ in range(seconds):
        for _ in range(rate):
            budget.count()
        clock.now += 1


def test_a_few_retries_wait_no_longer_than_their_backoff() -> None:
    budget = RetryBudget(0.2, Hand())
    assert [budget.defer(250) for _ in range(int(BURST))] == [250] * int(BURST)


def test_a_storm_is_spread_to_the_share_of_the_traffic() -> None:
    clock = Hand()
    budget = RetryBudget(0.2, clock)
    traffic(budget, clock, 60, 50)
    waits = [budget.defer(0) for _ in range(600)]
    # 0.2 of 50 a second: ten retries fall due in each second behind the burst.
    assert sum(wait == 0 for wait in waits) == 101
    for second in range(1, 40):
        assert sum(second * 1000 < wait <= (second + 1) * 1000 for wait in waits) == 10


def test_waits_never_shrink_below_the_backoff_and_grow_in_order() -> None:
    budget = RetryBudget(0.2, Hand())
    waits = [budget.defer(3_000) for _ in range(50)]
    assert waits == sorted(waits)
    assert min(waits) == 3_000


def test_a_quiet_queue_still_has_one_retry_a_second() -> None:
    clock = Hand()
    budget = RetryBudget(0.01, clock)
    for _ in range(int(BURST) + 1):
        budget.defer(0)
    assert [budget.defer(0) for _ in range(3)] == [1_000, 2_000, 3_000]


def test_a_storm_that_is_over_leaves_nothing_behind() -> None:
    clock = Hand()
    budget = RetryBudget(0.2, clock)
    for _ in range(100):
        budget.defer(0)
    clock.now += 1_000
    assert budget.defer(500) == 500
