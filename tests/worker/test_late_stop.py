"""A stop that goes to every process may reach a job's program before the worker: the job is no less interrupted."""

from __future__ import annotations

import signal
import subprocess
import threading

import pytest
from inside import end_of

from kit.waiting import until
from windlass import State, Windlass
from windlass.worker.attempt import judge
from windlass.worker.worker import Worker

ENDED = subprocess.CalledProcessError(-signal.SIGTERM, "convert")


@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_a_job_whose_program_was_told_to_stop_first_is_given_back(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(judge, "STOP_LATE", 10_000)

    def convert() -> None:
        threading.Timer(0.05, worker.stop).start()
        raise ENDED

    async def aconvert() -> None:
        convert()

    with Windlass("memory://") as app:
        job = app.job(name="convert", retry=0)(convert if kind == "thread" else aconvert)
        worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)
        handle = job.enqueue()
        worker.start()
        until(lambda: worker.stopping, "the job does not run")
        assert worker.shut_down()
        info = handle.info()
    assert (info.state, info.attempt, info.errors) == (State.READY, 0, ())


def test_a_job_whose_program_somebody_else_ended_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "STOP_LATE", 2)

    def convert() -> None:
        raise ENDED

    with Windlass("memory://") as app:
        job = app.job(name="convert", retry=0)(convert)
        worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)
        worker.start()
        assert end_of(job.enqueue()).state is State.DEAD
        worker.stop()
        assert worker.shut_down()
