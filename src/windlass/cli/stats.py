"""``windlass stats``: jobs by state, what happened since the store was made, and how each queue does."""

from __future__ import annotations

from typing import Final

import click

from windlass.cli.common import Session, pass_session
from windlass.cli.output import Column, emit_json, length, table
from windlass.model import State
from windlass.queues import QueueInfo
from windlass.stats import QueueStats, Stats

__all__ = ["QUEUE_COLUMNS", "by_state", "queue_row", "stats"]

TOTAL: Final = "total_"
QUEUE_COLUMNS: Final = (
    Column("Queue", least=8),
    *(Column(each, right=True) for each in ("Ready", "Running", "Held", "Latency", "In/s", "Out/s", "Workers")),
    Column("Max wait", right=True, extra=True),
    Column("Needed", right=True, extra=True),
)


@click.command()
@pass_session
def stats(session: Session) -> None:
    """Show jobs by state, totals, and for each queue its rates and how many workers it needs."""
    counts = session.store().stats()
    if session.json:
        emit_json(counts.as_json())
        return
    now = [[name, f"{number:,}"] for name, number in by_state(counts).items()]
    ever = [[name.removeprefix(TOTAL), f"{number:,}"] for name, number in counts.items() if name.startswith(TOTAL)]
    table([Column("State"), Column("Jobs", right=True)], now)
    click.echo()
    table([Column("Since the store was made"), Column("Times", right=True)], ever)
    if counts.queues:
        click.echo()
        table(QUEUE_COLUMNS, [queue_row(queue) for queue in counts.queues.values()])


def by_state(stats: Stats) -> dict[str, int]:
    """How many jobs there are of each state, those that are only held apart from the running ones."""
    found = {name: number for name, number in stats.items() if not name.startswith(TOTAL)}
    return found | {State.RUNNING.value: found[State.RUNNING] - found["held"]}


def queue_row(queue: QueueStats) -> list[str]:
    """One line of a table with QUEUE_COLUMNS."""
    return [
        queue.name,
        f"{queue.ready:,}",
        running(queue),
        f"{queue.held:,}",
        length(queue.latency * 1_000) + ("!" if queue.late else ""),
        f"{queue.arrival:,.1f}",
        f"{queue.drain:,.1f}",
        str(queue.workers),
        "" if queue.max_wait is None else length(queue.max_wait * 1_000),
        "" if queue.workers_needed is None else str(queue.workers_needed),
    ]


def running(queue: QueueInfo | QueueStats) -> str:
    """How many run, and of how many at most where there is a limit."""
    return f"{queue.running:,}" if queue.limit is None else f"{queue.running:,} of {queue.limit:,}"
