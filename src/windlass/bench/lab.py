"""A store and a worker for one measurement, and the clock readings that go with them.

Every measurement has a store of its own: a new SQLite file, or with a URL a new namespace, which is emptied again. The
worker is ``windlass worker`` as a user starts it. Invariants: whatever was started has ended, and whatever was stored
is gone, when the block that asked for it ends.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from windlass.app import Windlass
from windlass.bench.jobs import QUEUE
from windlass.core.errors import WindlassError
from windlass.core.model import FINISHED
from windlass.core.rows import JobFilter
from windlass.engines.base import TransactionalCommit
from windlass.insight.queues import WorkerStatus

__all__ = ["Lab"]

START_WITHIN: Final = 30.0  # seconds
DONE_WITHIN: Final = 300.0  # seconds
LOOK_EVERY: Final = 0.02  # seconds
PAGE: Final = 1_000  # jobs

# What a measurement needs whatever the settings file here says; the worker is told through its environment.
WORKER_SETTINGS: Final = {
    "WINDLASS_STRICT_QUEUES": "false",
    "WINDLASS_KEEP_DONE": "10m",
    "WINDLASS_KEEP_DONE_MAX": "10000",
}


class Lab:
    """Where measurements are made. ``url`` None: new SQLite files in ``folder``."""

    def __init__(self, url: str | None, folder: Path, *, jobs: int, quick: bool) -> None:
        self.jobs = jobs
        self.quick = quick
        self._url = url
        self._folder = folder

    @contextmanager
    def store(self) -> Iterator[Windlass]:
        """Give an application on a new, empty store."""
        name = f"bench-{secrets.token_hex(4)}"
        url = self._url or f"sqlite:///{self._folder.absolute()}/{name}.db"
        app = Windlass(url, namespace=name, strict_queues=False, keep_done="10m", keep_done_max=10_000)
        try:
            app.engine.open()
            yield app
        finally:
            try:
                if self._url is not None:
                    clean(app)
            finally:
                app.close()

    @contextmanager
    def worker(
        self, app: Windlass, kind: str, *, processes: int = 1, threads: int = 10, async_slots: int = 100
    ) -> Iterator[list[WorkerStatus]]:
        """Run ``windlass worker`` for the application ``kind`` (``sync_app`` or ``async_app``); give its processes.

        They are registered and idle when the block begins. Raises WindlassError when they do not start.
        """
        log = self._folder / f"{app.settings.namespace}.log"
        store = {"WINDLASS_URL": app.settings.url, "WINDLASS_NAMESPACE": app.settings.namespace}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "windlass", "-A", f"windlass.bench.apps:{kind}", "worker"),
                    *("-p", str(processes), "-c", str(threads), "--async-slots", str(async_slots)),
                    "--quiet-jobs",
                ],
                env={**os.environ, **WORKER_SETTINGS, **store},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

        def is_ready() -> bool:
            if process.poll() is not None:
                raise WindlassError(f"the measured worker ended with code {process.returncode}: {log.read_text()}")
            return len(app.workers()) >= processes

        try:
            wait_until(is_ready, START_WITHIN, "the measured worker did not start")
            yield app.workers()
        finally:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def open_and_drain(self, app: Windlass, last: str) -> float:
        """Resume the paused queue and wait until all is done; give the seconds from the one to the last settle.

        Both ends are read from the engine's wall clock, so it does not matter how often we look. ``last`` is the id of
        the job that was enqueued last.
        """
        opened = app.clock.wall_ms()
        app.queue(QUEUE).resume()
        self.wait_done(app, last)
        return (last_settle(app, PAGE) - opened) / 1_000

    def wait_done(self, app: Windlass, last: str) -> None:
        """Wait until no job is left."""

        def has_ended() -> bool:
            row = app.engine.job(last)  # one row by its key: cheap enough not to disturb
            return row is None or row.state in FINISHED

        def is_empty() -> bool:
            counts = app.stats()
            return not (counts["ready"] or counts["scheduled"] or counts["running"])

        wait_until(has_ended, DONE_WITHIN, "the measured jobs did not end")
        wait_until(is_empty, DONE_WITHIN, "the measured jobs did not end")


def wait_until(condition: Callable[[], bool], seconds: float, trouble: str) -> None:
    """Look until something is so. Raises WindlassError when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise WindlassError(f"{trouble} within {seconds:g} s")
        time.sleep(LOOK_EVERY)


def last_settle(app: Windlass, newest: int) -> int:
    """When the last of the ``newest`` jobs was settled, in ms of the engine's wall clock."""
    found: list[int] = []
    cursor: str | None = None
    while True:
        rows, cursor = app.engine.jobs(JobFilter(), cursor, min(PAGE, newest))
        found += [row.finished_at for row in rows if row.finished_at is not None]
        newest -= len(rows)
        if cursor is None or newest <= 0:
            return max(found)


def clean(app: Windlass) -> None:
    """Take everything of the application's namespace out of a store that is not ours."""
    if isinstance(app.engine, TransactionalCommit):
        with app.transaction() as tx:
            tables = tx.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND name GLOB ?", (f"{app.settings.namespace}_*",)
            ).fetchall()
            for (table,) in tables:
                tx.execute(f'DROP TABLE "{table}"')
        return
    while page := app.jobs(limit=PAGE):
        if not any(moved.applied for moved in app.delete([job.id for job in page])):
            return  # what is left is held by a worker that did not end
