"""The application: composition, looking, moving, explaining."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from windlass import Job, Windlass
from windlass.core.clock import ManualClock
from windlass.core.history import encode_error
from windlass.core.model import NewJob, State
from windlass.core.work import Kind, Lease, Outcome, QueueShare, Want, WorkerInfo
from windlass.engines.url import rules_of
from windlass.errors import ConfigError
from windlass.insight.queues import QueueInfo
from windlass.testing.conformance.harness import place


def charge(n: int) -> int:
    return n


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def app(clock: ManualClock) -> Iterator[Windlass]:
    with Windlass("memory://", clock=clock) as app:
        yield app


@pytest.fixture
def job(app: Windlass) -> Job[[int], int]:
    return app.job(name="charge")(charge)


def beat(app: Windlass, queues: str = "*") -> None:
    app.engine.extend(WorkerInfo("w1", "g", "host", 7, queues, 10, "0", 0), [], 60_000)


def claim(app: Windlass, queue: str = "default") -> Lease:
    beat(app)
    return app.engine.claim(Want("w1", 1, (QueueShare(queue, 1),))).leases[0]


def dead(app: Windlass, lease: Lease) -> None:
    error = encode_error(ValueError("no money"), attempt=1, at=0, limit=4096)
    app.engine.settle([Outcome(lease.id, lease.fence, Kind.DEAD, error=error, reason="out of attempts")])


# -- composition -------------------------------------------------------------------------------------------


def test_making_an_application_touches_no_store(tmp_path: Path) -> None:
    app = Windlass(f"sqlite:///{tmp_path}/jobs.db")
    app.job(name="charge")(charge).bind(1)
    app.close()
    assert list(tmp_path.iterdir()) == []


def test_unknown_settings_are_refused_with_the_nearest_spelling() -> None:
    with pytest.raises(ConfigError, match="did you mean 'keep_done'"):
        Windlass("memory://", keep_doen="10m")


def test_settings_are_typed_and_known() -> None:
    assert Windlass("memory://", keep_done="10m").settings.keep_done == 600_000


def test_warnings_about_settings_are_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("WINDLASS_KEEP_DOEN", "10m")
    Windlass("memory://")
    assert "WINDLASS_KEEP_DOEN" in caplog.text


def test_close_is_idempotent_and_a_later_use_opens_again(tmp_path: Path) -> None:
    app = Windlass(f"sqlite:///{tmp_path}/jobs.db")
    handle = app.job(name="charge")(charge).enqueue(1)
    app.close()
    app.close()
    assert app.get(handle.id) is not None
    app.close()


# -- looking -----------------------------------------------------------------------------------------------


def test_an_id_that_never_existed_is_none(app: Windlass) -> None:
    assert app.get("nothing") is None
    assert asyncio.run(app.aget("nothing")) is None


def test_jobs_are_listed_in_pages_by_filter(app: Windlass, job: Job[[int], int]) -> None:
    app.enqueue_many(job.bind(n) for n in range(5))
    job.options(queue="slow", tags=["x"]).enqueue(9)
    first = app.jobs(queue="default", limit=3)
    second = app.jobs(queue="default", limit=3, cursor=first.next)
    assert [info.args for info in [*first, *second]] == [(n,) for n in (4, 3, 2, 1, 0)]
    assert second.next is None
    assert [info.queue for info in app.jobs(tag="x")] == ["slow"]
    assert len(app.jobs(state="ready")) == 6
    assert len(app.jobs(state=State.DEAD)) == 0
    assert len(app.jobs(name="charge", limit=2)) == 2


def test_wrong_filters_are_refused(app: Windlass) -> None:
    with pytest.raises(ConfigError, match="did you mean 'ready'"):
        app.jobs(state="redy")
    for limit in (0, 100_000):
        with pytest.raises(ConfigError, match="limit"):
            app.jobs(limit=limit)
    with pytest.raises(ConfigError, match="queue name"):
        app.queue("a b")


def test_a_queue_is_measured_paused_resumed_and_cleared(
    app: Windlass, job: Job[[int], int], clock: ManualClock
) -> None:
    queue = app.queue("default")
    assert (queue.size, queue.latency) == (0, 0.0)
    app.enqueue_many(job.bind(n) for n in range(3))
    clock.advance(2_500)
    assert (queue.size, queue.latency) == (3, 2.5)
    queue.pause("maintenance", until="10m")
    info = queue.info()
    assert (info.paused, info.paused_reason) == (True, "maintenance")
    assert info.paused_until == datetime.fromtimestamp(clock.wall_ms() / 1000, UTC) + timedelta(minutes=10)
    queue.resume()
    assert not queue.info().paused
    lease = claim(app)
    assert queue.clear() == 2
    assert app.engine.settle([Outcome(lease.id, lease.fence, Kind.DONE)]) == ["applied"]


def test_with_strict_queues_only_those_of_the_settings_exist() -> None:
    with Windlass("memory://", strict_queues=True, queues={"mail": {}}) as app:
        assert app.queue("mail").size == 0
        with pytest.raises(ConfigError, match=r"queue 'mial' is not in the settings .did you mean 'mail'"):
            app.queue("mial")


def test_a_queue_is_limited_and_paced_and_the_settings_count_where_the_store_has_nothing(clock: ManualClock) -> None:
    settings = {"mail": {"limit": 6, "rate": "100/m"}}
    with Windlass("memory://", clock=clock, queues=settings) as app:
        queue = app.queue("mail")
        assert (queue.info().limit, queue.info().rate, queue.info().started) == (6, "100/m", 0)
        queue.limit(4)
        queue.rate("9/10s")
        assert (queue.info().limit, queue.info().rate) == (4, "9/10s")
        assert [(info.limit, info.rate) for info in app.queues()] == [(4, "9/10s")]
        queue.limit(None)
        queue.rate(None)
        assert (queue.info().limit, queue.info().rate) == (6, "100/m")


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "4", 10**9])
def test_a_wrong_limit_is_refused_and_says_how_to_stop_a_queue(app: Windlass, wrong: int) -> None:
    with pytest.raises(ConfigError, match=r"limit of queue 'mail' is .* pause the queue"):
        app.queue("mail").limit(wrong)
    assert app.queues() == []


def test_a_wrong_rate_is_refused(app: Windlass) -> None:
    with pytest.raises(ConfigError, match="rate of queue 'mail' is '5': write a number per time"):
        app.queue("mail").rate("5")


def test_limits_have_async_twins(app: Windlass) -> None:
    async def body() -> QueueInfo:
        await app.queue("mail").alimit(3)
        await app.queue("mail").arate("5/s")
        return await app.queue("mail").ainfo()

    info = asyncio.run(body())
    assert (info.limit, info.rate) == (3, "5/s")


def test_a_pause_takes_aware_datetimes_only(app: Windlass) -> None:
    with pytest.raises(ConfigError, match="time zone"):
        app.queue("default").pause(until=datetime(2030, 1, 1))  # noqa: DTZ001
    when = datetime(2030, 1, 1, tzinfo=UTC)
    app.queue("default").pause(until=when)
    assert app.queue("default").info().paused_until == when


@pytest.mark.parametrize("until", [0, datetime(2020, 1, 1, tzinfo=UTC)])
def test_a_pause_that_would_be_over_is_refused_and_changes_nothing(app: Windlass, until: float | datetime) -> None:
    app.queue("default").pause("maintenance")
    with pytest.raises(ConfigError, match="which has passed"):
        app.queue("default").pause(until=until)
    assert app.queue("default").info().paused


def test_workers_are_listed_with_their_lease(app: Windlass, clock: ManualClock) -> None:
    beat(app, "a=2,b")
    (worker,) = app.workers()
    assert (worker.id, worker.pid, worker.lease_left, worker.alive) == ("w1", 7, 60.0, True)
    assert [worker.serves(name) for name in ("a", "b", "c")] == [True, True, False]
    clock.advance(60_000)
    assert not app.workers()[0].alive


def test_stats_count_states_and_totals(app: Windlass, job: Job[[int], int]) -> None:
    job.enqueue(1)
    stats = app.stats()
    assert (stats["ready"], stats["dead"], stats["total_enqueued"]) == (1, 0, 1)


# -- moving ------------------------------------------------------------------------------------------------


def test_jobs_are_moved_by_id_and_each_says_whether_it_applied(app: Windlass, job: Job[[int], int]) -> None:
    handle = job.enqueue(1)
    assert [moved.applied for moved in app.cancel([handle.id, "nothing"])] == [True, False]
    assert [moved.applied for moved in app.retry([handle.id])] == [True]
    assert [moved.applied for moved in app.delete([handle.id])] == [True]
    assert app.get(handle.id) is None


def test_a_bare_id_is_refused_where_a_list_is_meant(app: Windlass) -> None:
    with pytest.raises(ConfigError, match="list of ids"):
        app.cancel("abc")


def test_async_twins_answer_the_same(app: Windlass, job: Job[[int], int]) -> None:
    handle = job.enqueue(1)

    async def main() -> None:
        assert await app.aget(handle.id) == app.get(handle.id)
        assert list(await app.ajobs()) == list(app.jobs())
        assert await app.aqueues() == app.queues()
        assert await app.aworkers() == app.workers()
        assert await app.astats() == app.stats()
        assert await app.aexplain(handle.id) == app.explain(handle.id)
        queue = app.queue("default")
        await queue.apause("why")
        assert (await queue.ainfo()).paused_reason == "why"
        await queue.aresume()
        assert [moved.applied for moved in await app.acancel([handle.id])] == [True]
        assert [moved.applied for moved in await app.aretry([handle.id])] == [True]
        assert await queue.aclear() == 1
        assert [moved.applied for moved in await app.adelete([handle.id])] == [False]

    asyncio.run(main())


# -- explaining --------------------------------------------------------------------------------------------


def test_explain_of_an_unknown_id(app: Windlass) -> None:
    assert "no job nothing" in app.explain("nothing")


def test_explain_of_a_ready_job_names_what_is_in_its_way(
    app: Windlass, job: Job[[int], int], clock: ManualClock
) -> None:
    handle = job.enqueue(1)
    job.enqueue(2)
    clock.advance(90_000)
    said = app.explain(handle.id)
    assert "ready for 1 min 30 s" in said
    assert "No worker is alive" in said
    assert "1 other ready job is in queue default" in said
    app.queue("default").pause("maintenance")
    beat(app, "mail")
    said = app.explain(handle.id)
    assert "paused (maintenance)" in said
    assert "No live worker serves queue default: 1 alive, serving mail" in said


def test_explain_of_a_ready_job_says_that_its_queue_is_full_or_its_rate_spent(
    app: Windlass, job: Job[[int], int]
) -> None:
    job.enqueue(1)
    handle = job.enqueue(2)
    queue = app.queue("default")
    queue.limit(1)
    assert "at once" not in app.explain(handle.id)
    claim(app)
    said = app.explain(handle.id)
    assert "Queue default is full: 1 of 1 are running; change that with `windlass queues limit default N`" in said
    queue.limit(None)
    queue.rate("1/m")
    job.enqueue(3)
    assert "lets 1/m start" not in app.explain(handle.id)
    claim(app)
    assert "Queue default has used up its rate of 1/m;" in app.explain(job.enqueue(4).id)


def test_explain_of_a_scheduled_job_says_when(app: Windlass, job: Job[[int], int]) -> None:
    said = app.explain(job.enqueue_in("1h", 1).id)
    assert "scheduled for 2023-11-14" in said
    assert "in 1 h" in said


def test_explain_of_a_job_that_was_put_off_says_why(app: Windlass, job: Job[[int], int]) -> None:
    handle = job.enqueue(1)
    lease = claim(app)
    app.engine.settle([Outcome(lease.id, lease.fence, Kind.SNOOZE, reason="lock 'a' is busy", delay_ms=60_000)])
    assert "(in 1 min). Reason: lock 'a' is busy." in app.explain(handle.id)


def test_explain_says_when_all_who_serve_a_queue_were_asked_to_stop(app: Windlass, job: Job[[int], int]) -> None:
    handle = job.enqueue(1)
    beat(app)
    said = "Every worker that serves queue default was asked to claim no more"
    assert said not in app.explain(handle.id)
    app.control("w1", "quiet")
    assert said in app.explain(handle.id)


def test_explain_of_a_retry_says_why_and_when(app: Windlass, job: Job[[int], int]) -> None:
    handle = job.enqueue(1)
    lease = claim(app)
    error = encode_error(ValueError("no money"), attempt=1, at=0, limit=4096)
    app.engine.settle([Outcome(lease.id, lease.fence, Kind.RETRY, error=error, delay_ms=60_000)])
    said = app.explain(handle.id)
    assert "failed in attempt 1 of 10" in said
    assert "ValueError: no money" in said
    assert "in 1 min" in said


def test_explain_of_a_running_job_names_its_worker(app: Windlass, job: Job[[int], int]) -> None:
    handle = job.enqueue(1)
    claim(app)
    assert "running on worker w1" in app.explain(handle.id)
    handle.cancel()
    assert "cancel was requested" in app.explain(handle.id)


def test_explain_of_a_job_that_killed_its_process_twice(
    app: Windlass, job: Job[[int], int], clock: ManualClock
) -> None:
    handle = job.enqueue(1)
    error = encode_error(RuntimeError("signal 11"), attempt=1, at=0, limit=4096)
    for _ in range(2):
        app.engine.bury("w1", [claim(app).fence], error, rules_of(app.settings))
        clock.advance(100)
    assert "runs alone" in app.explain(handle.id)


def test_explain_of_a_finished_job_gives_the_reason(app: Windlass, job: Job[[int], int]) -> None:
    handle = job.enqueue(1)
    dead(app, claim(app))
    said = app.explain(handle.id)
    assert "is dead" in said
    assert "out of attempts" in said
    assert "no money" in said


def test_explain_of_a_job_this_application_does_not_have(app: Windlass, job: Job[[int], int]) -> None:
    place(app.engine, [NewJob("j1", "chrage", "default", "[1,[],{}]")])
    assert "no job named chrage (did you mean 'charge'" in app.explain("j1")


def test_a_decorator_without_its_argument_is_refused_and_takes_no_function_with_it() -> None:
    app = Windlass("memory://")

    def listen(event: object) -> None: ...

    with pytest.raises(ConfigError, match=r"write @app\.on\(JobDead\)"):
        app.on(listen)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"write @app\.middleware\('execute'\)"):
        app.middleware(listen)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'execute'"):
        app.middleware("exceute")
