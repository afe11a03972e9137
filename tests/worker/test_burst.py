"""When a burst is over: nothing that it could run is left. What it may not run it does not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from kit.waiting import PATIENCE
from windlass import State, Windlass
from windlass.worker.layout import PoolPlan
from windlass.worker.worker import Worker, WorkerOptions


def burst(app: Windlass, **options: object) -> None:
    """Run a burst in this process; it must end by itself."""
    made = WorkerOptions(burst=True, **options)  # type: ignore[arg-type]
    worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, made)
    thread = threading.Thread(target=worker.run)
    thread.start()
    thread.join(PATIENCE)
    waits = thread.is_alive()
    worker.abort()
    thread.join(PATIENCE)
    assert not waits, "the burst waits for something that it cannot run"


def nothing() -> None:
    """Do nothing."""


def pause(app: Windlass) -> None:
    app.queue("held-up").pause("deploy")


def leave_alone(app: Windlass) -> None:
    """The queue goes on, but this burst serves others."""


@pytest.mark.parametrize(("prepare", "queues"), [(pause, ()), (leave_alone, ("default",))])
def test_a_burst_does_not_wait_for_a_queue_that_gives_it_nothing(
    prepare: Callable[[Windlass], None], queues: tuple[str, ...]
) -> None:
    with Windlass("memory://") as app:
        brief = app.job(name="brief")(nothing)
        prepare(app)
        waiting = brief.options(queue="held-up").enqueue()
        done = brief.enqueue()
        burst(app, pools=(PoolPlan("common", queues, 2, 0),))
        assert (done.state, waiting.state) == (State.DONE, State.READY)


def test_a_burst_runs_what_its_jobs_bring_about_and_leaves_what_is_due_later() -> None:
    with Windlass("memory://") as app:
        brief = app.job(name="brief")(nothing)
        first = app.job(name="first")(lambda: brief.options(id="second").enqueue() and None)
        first.enqueue()
        later = brief.options(delay="1h").enqueue()
        burst(app)
        second = app.get("second")
        assert second is not None
        assert (second.state, later.state) == (State.DONE, State.SCHEDULED)
