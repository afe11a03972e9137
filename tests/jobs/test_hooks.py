"""Hooks of death and retry: when they are called, what they see, and that they change nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Queue

import pytest
from msgspec import structs

from kit.waiting import PATIENCE
from windlass import Constant, Discard, JobInfo, Retry, State, Windlass
from windlass.core.clock import ManualClock
from windlass.core.model import NewJob
from windlass.core.work import Want, WorkerInfo
from windlass.errors import ConfigError
from windlass.events import JobDead
from windlass.jobs.hooks import Hooks, Moment
from windlass.testing.conformance.harness import place
from windlass.worker.worker import Worker, WorkerOptions


@pytest.fixture
def app() -> Iterator[Windlass]:
    with Windlass("memory://", lease=5, renew=1, reap="50ms") as made:
        yield made


def burst(app: Windlass) -> None:
    """Run what is ready or becomes ready meanwhile, in this process."""
    worker = Worker(
        app.engine, app.registry, app.settings, app.events, app.middlewares, WorkerOptions(burst=True), hooks=app.hooks
    )
    worker.run()


def test_a_death_calls_the_hooks_of_the_job_then_those_of_the_app(app: Windlass) -> None:
    seen: list[tuple[str, State, str | None, int]] = []

    @app.job(name="charge", retry=0)
    def charge(n: int) -> None:
        raise ValueError(n)

    @app.job(name="other", retry=0)
    def other() -> None:
        raise KeyError

    @app.on_dead
    def everybody(info: JobInfo) -> None:
        seen.append(("app", info.state, info.name, len(info.errors)))

    @charge.on_dead
    def mine(info: JobInfo) -> None:
        seen.append(("job", info.state, info.name, len(info.errors)))

    charge.enqueue(1)
    burst(app)
    assert seen == [("job", State.DEAD, "charge", 1), ("app", State.DEAD, "charge", 1)]
    other.enqueue()
    burst(app)
    assert seen[2:] == [("app", State.DEAD, "other", 1)]


def test_a_job_called_by_an_alias_has_the_hooks_of_its_job(app: Windlass) -> None:
    names: list[str] = []

    @app.job(name="charge", aliases=["pay"], retry=0)
    def charge() -> None:
        raise ValueError

    charge.on_dead(lambda info: names.append(info.name))
    place(app.engine, [structs.replace(charge.bind().new, name="pay")])
    burst(app)
    assert names == ["pay"]


def test_a_retry_calls_on_retry_and_not_on_dead(app: Windlass) -> None:
    seen: list[tuple[str, int]] = []

    @app.job(name="charge", retry=Retry(attempts=3, backoff=Constant("1h")))
    def charge() -> None:
        raise ValueError

    app.on_retry(lambda info: seen.append(("app retry", info.attempt)))
    charge.on_retry(lambda info: seen.append((f"job retry {info.state}", info.attempt)))
    app.on_dead(lambda info: seen.append(("dead", info.attempt)))
    charge.enqueue()
    burst(app)
    assert seen == [("job retry scheduled", 1), ("app retry", 1)]


def test_neither_success_nor_discard_calls_a_hook(app: Windlass) -> None:
    seen: list[JobInfo] = []

    @app.job(name="fine")
    def fine() -> None: ...

    @app.job(name="drop")
    def drop() -> None:
        raise Discard("why")

    app.on_dead(seen.append)
    app.on_retry(seen.append)
    fine.enqueue()
    drop.enqueue()
    burst(app)
    assert seen == []


@pytest.mark.parametrize("error", [RuntimeError("pager is down"), SystemExit(1)])
def test_an_error_in_a_hook_is_reported_and_changes_nothing(
    app: Windlass, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    seen: list[str] = []

    @app.job(name="charge", retry=0)
    def charge() -> None:
        raise ValueError

    @charge.on_dead
    def page(info: JobInfo) -> None:
        raise error

    app.on_dead(lambda info: seen.append(info.id))
    handles = [charge.enqueue(), charge.enqueue()]
    burst(app)
    assert [handle.state for handle in handles] == [State.DEAD, State.DEAD]
    assert sorted(seen) == sorted(handle.id for handle in handles)
    assert "page of on_dead failed on job" in caplog.text


def test_a_slow_hook_does_not_hold_up_jobs(app: Windlass) -> None:
    jobs_done, let_go = threading.Event(), threading.Event()

    @app.job(name="charge", retry=0)
    def charge() -> None:
        raise ValueError

    @app.job(name="after")
    def after() -> None:
        jobs_done.set()

    app.on_dead(lambda info: let_go.wait(PATIENCE))
    charge.enqueue()
    worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, hooks=app.hooks)
    worker.start()
    after.enqueue()
    assert jobs_done.wait(PATIENCE)
    let_go.set()
    worker.stop()
    assert worker.shut_down()


def test_a_job_that_the_engine_buried_calls_its_hooks() -> None:
    seen: Queue[JobInfo] = Queue()
    clock = ManualClock()
    with Windlass("memory://", clock=clock, reap="50ms", max_interruptions=0) as app:

        @app.job(name="charge", retry=0)
        def charge() -> None: ...

        charge.on_dead(seen.put)
        handle = charge.enqueue()
        app.engine.open()
        gone = WorkerInfo("gone", "g", "box", 1, "*", 1, "1", 0)
        app.engine.extend(gone, (), 1_000)
        (lease,) = app.engine.claim(Want("gone", 1)).leases
        assert lease.id == handle.id
        clock.advance(2_000)
        worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, hooks=app.hooks)
        worker.start()
        info = seen.get(timeout=PATIENCE)
        worker.stop()
        worker.shut_down()
    assert (info.id, info.state, info.reason) == (handle.id, State.DEAD, "interrupted")


async def coroutine_hook(info: JobInfo) -> None: ...


def no_argument() -> None: ...


@pytest.mark.parametrize(
    ("hook", "says"),
    [(coroutine_hook, "is async"), (no_argument, "must take one argument"), ("page", "is not a function")],
)
def test_a_hook_that_could_not_be_called_is_refused(app: Windlass, hook: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        app.on_dead(hook)  # type: ignore[type-var]


def test_registering_a_hook_gives_the_function_back() -> None:
    hooks = Hooks()

    def page(info: JobInfo) -> None: ...

    assert hooks.add(Moment.DEAD, page) is page
    assert (hooks.wants(Moment.DEAD), hooks.wants(Moment.RETRY)) == (True, False)


def test_a_job_that_cannot_begin_is_reported_dead() -> None:
    deaths: list[tuple[str, str, int, str | None]] = []
    with Windlass("memory://", unknown_grace=0) as app:
        app.job(name="known")(lambda: None)
        app.on(JobDead)(lambda event: deaths.append((event.id, event.name, event.attempt, event.reason)))
        place(
            app.engine,
            [
                NewJob("a", "nobody", "default", "[1,[],{}]"),
                NewJob("b", "known", "default", "[1,[],{}]", meta="no JSON"),
                NewJob("c", "known", "default", "no JSON"),
            ],
        )
        burst(app)
    assert sorted(deaths) == [
        ("a", "nobody", 1, "unknown job"),
        ("b", "known", 1, "undecodable payload"),
        ("c", "known", 1, "undecodable payload"),
    ]
