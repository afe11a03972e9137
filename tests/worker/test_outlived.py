"""A job that outlives its timeout has failed, whatever it comes to in the end, and nothing says anything else of it."""

from __future__ import annotations

import threading

import pytest

from kit.waiting import PATIENCE, until
from windlass import Constant, Retry, State, Windlass
from windlass.events import JobEvent, JobFailed, JobRetrying, JobSucceeded
from windlass.worker.worker import Worker


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_a_job_that_ends_after_it_was_said_to_have_failed_is_told_of_as_failed_once(
    monkeypatch: pytest.MonkeyPatch, kind: str, raises: bool
) -> None:
    monkeypatch.setattr("windlass.worker.timeouts.GRACE", 0.05)
    go_on, told = threading.Event(), []

    def body() -> None:
        assert go_on.wait(PATIENCE)
        if raises:
            raise LookupError

    async def abody() -> None:
        body()

    with Windlass("memory://", queues={"default": {"retry_budget": 0.2}}) as app:
        job = app.job(name="deaf", timeout=0.05, retry=Retry(attempts=3, backoff=Constant("1h")))(
            body if kind == "thread" else abody
        )

        @app.on(JobSucceeded)
        @app.on(JobFailed)
        @app.on(JobRetrying)
        def note(event: JobEvent) -> None:
            told.append((type(event), type(getattr(event, "error", None)).__name__))

        handle = job.enqueue()
        worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)
        worker.start()
        until(lambda: worker.stopping, "the job does not outlive its timeout")
        go_on.set()
        until(lambda: not worker.held, "the job does not end")
        assert worker.shut_down()
        info = handle.info()
    assert (info.state, [one.type for one in info.errors]) == (State.SCHEDULED, ["windlass.errors.JobTimeout"])
    assert told == [(JobFailed, "JobTimeout"), (JobRetrying, "NoneType")]
