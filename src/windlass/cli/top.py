"""``windlass top``: queues, running jobs and workers, drawn again and again; with ``--once`` one time, for scripts.

Must not change anything. Rates are those of the last minute, or, from the second drawing on, of the time between two.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

import click

from windlass.cli.common import Session, pass_session
from windlass.cli.output import Column, count, emit_json, length, table
from windlass.cli.stats import queue_table
from windlass.model import State
from windlass.units import duration_ms

if TYPE_CHECKING:
    from windlass.app import Windlass
    from windlass.stats import Stats

__all__ = ["top"]

RUNNING_MOST: Final = 10  # running jobs that are shown
CLEAR: Final = "\x1b[H\x1b[2J"


@click.command()
@click.option("--once", is_flag=True, help="Draw once and end.")
@click.option("--every", default="1s", show_default=True, metavar="DURATION", help="How often to draw.")
@pass_session
def top(session: Session, once: bool, every: str) -> None:
    """Watch queues, running jobs, workers and rates, live. Ctrl-C ends it."""
    app = session.store()
    pause = max(0.1, duration_ms(every, "--every") / 1_000)
    before: tuple[float, Stats] | None = None
    while True:
        now, stats = time.monotonic(), app.stats()
        done = rate(before, now, stats)
        if session.json:
            emit_json(stats.as_json() | {"done_per_second": done})
        else:
            if not once and sys.stdout.isatty():
                click.echo(CLEAR, nl=False)
            draw(app, stats, done)
        if once:
            return
        before = (now, stats)
        try:
            time.sleep(pause)
        except KeyboardInterrupt:
            return


def rate(before: tuple[float, Stats] | None, now: float, stats: Stats) -> float | None:
    """Jobs done a second since the drawing before; None for the first."""
    if before is None:
        return None
    return round((stats["total_done"] - before[1]["total_done"]) / max(now - before[0], 1e-3), 1)


def draw(app: Windlass, stats: Stats, done: float | None) -> None:
    """One picture."""
    where = app.engine.info
    alive = [worker for worker in app.workers() if worker.alive]
    speed = "" if done is None else f", {done:,.1f} done/s"
    click.echo(f"{where.name} {where.target}: {count(len(alive), 'worker process', 'worker processes')}{speed}")
    states = (State.READY, State.SCHEDULED, State.RUNNING, State.DONE, State.DEAD, State.CANCELLED)
    click.echo(", ".join(f"{stats[state]:,} {state}" for state in states))
    if stats.queues:
        click.echo()
        queue_table(list(stats.queues.values()))
    running = list(app.jobs(State.RUNNING, limit=RUNNING_MOST))
    if running:
        click.echo()
        now = app.clock.wall_ms()
        rows = [
            [
                job.id,
                job.name,
                job.queue,
                "" if job.started_at is None else length(now - job.started_at.timestamp() * 1_000),
                job.worker or "",
            ]
            for job in running
        ]
        table([Column("Running"), Column("Job"), Column("Queue"), Column("For", right=True), Column("Worker")], rows)
