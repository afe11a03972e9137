"""A real worker in the process of the test, and waits for what it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from windlass import JobHandle, JobInfo, Windlass
from windlass.worker.worker import Worker

DEADLINE = 30.0


@contextmanager
def worker_of(app: Windlass) -> Iterator[Worker]:
    """Run a worker of the application until the block ends; it must end in order."""
    worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, hooks=app.hooks)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()
        clean = worker.shut_down()
        worker.finish_hooks()
    assert clean


def until(look: Callable[[], bool], what: str = "it") -> None:
    """Look again and again until it is true."""
    deadline = time.monotonic() + DEADLINE
    while not look():
        assert time.monotonic() < deadline, f"{what} has not happened"
        time.sleep(0.005)


def end_of(handle: JobHandle[object]) -> JobInfo:
    """Wait for the end of a job."""
    until(lambda: handle.info().finished_at is not None, f"the end of {handle.info()}")
    return handle.info()
