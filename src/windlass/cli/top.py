"""``windlass top``: queues, running jobs and workers, drawn again and again; one snapshot where there is no terminal.

Must not change anything. Rates are those of the last minute, or, from the second look on, of the time between two. On a
terminal every line fits the window.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from windlass.cli.common import Session, pass_session
from windlass.cli.live import first_of, live
from windlass.cli.output import Column, count, emit_json, fit, length, lines
from windlass.cli.stats import by_state, queue_table
from windlass.core.model import State
from windlass.core.units import duration_ms

if TYPE_CHECKING:
    from windlass.app import Windlass
    from windlass.insight.queues import WorkerStatus
    from windlass.insight.stats import Stats
    from windlass.jobs.info import JobInfo

__all__ = ["top"]

RUNNING_MOST: Final = 10  # running jobs that are shown
STATES: Final = (
    State.READY, State.SCHEDULED, State.RUNNING, "held", State.BLOCKED, State.DONE, State.DEAD, State.CANCELLED,
)  # fmt: skip
RUNNING_COLUMNS: Final = (
    Column("Running"),
    Column("Job", least=8),
    Column("Queue", least=8),
    Column("For", right=True),
    Column("Worker", extra=True),
)


@dataclass(frozen=True, slots=True)
class Look:
    """The store at one moment. ``done`` is jobs a second since the look before."""

    at: float
    stats: Stats
    workers: Sequence[WorkerStatus]
    running: Sequence[JobInfo]
    wall_ms: int
    done: float | None


@click.command()
@click.option("--once", is_flag=True, help="Print one snapshot and exit, as without a terminal.")
@click.option("--every", default="1s", show_default=True, metavar="DURATION", help="How often to look.")
@pass_session
def top(session: Session, once: bool, every: str) -> None:
    """Watch queues, running jobs, workers and rates, live. q or Ctrl-C quits."""
    app = session.store()
    pause = max(0.1, duration_ms(every, "--every") / 1_000)
    if session.json:
        emit_json(app.stats().as_json())
    elif once or not sys.stdout.isatty():
        for line in picture(app, look(app, None)):
            click.echo(line)
    else:
        try:
            live(
                lambda before: look(app, before),
                lambda seen, columns, rows, trouble: picture(app, seen, columns, rows, trouble),
                pause,
            )
        except KeyboardInterrupt:
            pass


def look(app: Windlass, before: Look | None) -> Look:
    """Ask the store."""
    now, stats = time.monotonic(), app.stats()
    alive = [worker for worker in app.workers() if worker.alive]
    leased = app.jobs(State.RUNNING, limit=RUNNING_MOST + stats["held"])
    running = [job for job in leased if not job.held][:RUNNING_MOST]
    done = None if before is None else (stats["total_done"] - before.stats["total_done"]) / max(now - before.at, 1e-3)
    return Look(now, stats, alive, running, app.clock.wall_ms(), done)


def picture(
    app: Windlass, seen: Look, columns: int | None = None, rows: int | None = None, trouble: str = ""
) -> list[str]:
    """Give the lines of one picture. With ``columns`` and ``rows`` it fits that window."""
    where = app.engine.info
    counts = by_state(seen.stats)
    speed = "" if seen.done is None else f", {seen.done:,.1f} done/s"
    workers = count(len(seen.workers), "worker process", "worker processes")
    head = [
        trouble or f"{where.name} {where.target}: {workers}{speed}",
        ", ".join(f"{counts[state]:,} {state}" for state in STATES),
    ]
    if columns is not None:
        head = [fit(line, columns) for line in head]
    queues = list(seen.stats.queues.values())
    if rows is not None and len(queues) > rows // 2:  # some may be left out, so the busy ones come first
        queues.sort(key=lambda queue: queue.ready + queue.blocked + queue.running, reverse=True)
    running = [_running(job, seen) for job in seen.running]
    of_queues = lines(*queue_table(queues), columns) if queues else []
    of_running = lines(RUNNING_COLUMNS, running, columns) if running else []
    if rows is not None:
        # Running jobs have half of the window at most, or what the queues leave.
        room = rows - len(head) - 2
        of_queues = first_of(of_queues, max(room - len(of_running), (room + 1) // 2), "queue")
        of_running = first_of(of_running, room - len(of_queues), "running job")
    made = head
    for part in (of_queues, of_running):
        if part:
            made = [*made, "", *part]
    return made


def _running(job: JobInfo, seen: Look) -> list[str]:
    since = job.started_at
    worker = next((f"{one.host}:{one.pid}" for one in seen.workers if one.id == job.worker), job.worker or "")
    ran = "" if since is None else length(seen.wall_ms - since.timestamp() * 1_000)
    return [job.id, job.name, job.queue, ran, worker]
