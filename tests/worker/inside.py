"""A real worker in the process of the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kit.waiting import until
from windlass import JobHandle, JobInfo, Windlass
from windlass.worker.worker import Worker


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


def end_of(handle: JobHandle[object]) -> JobInfo:
    """Wait for the end of a job."""
    until(lambda: handle.info().finished_at is not None, f"the end of {handle.info()}")
    return handle.info()
