"""``windlass stats``: jobs by state, what happened since the store was made, and how each queue does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from windlass.cli.common import Session, pass_session
from windlass.cli.output import Column, emit_json, length, table
from windlass.core.model import State
from windlass.insight.queues import BLOCKED_SHOWN, OTHER_JOBS, QueueInfo
from windlass.insight.stats import QueueStats, Stats

__all__ = ["BLOCKED", "blocked_at", "by_state", "queue_table", "running", "stats", "without_blocked"]

TOTAL: Final = "total_"
BLOCKED: Final = "Blocked"  # this column and the last are shown where jobs are blocked
BLOCKED_AT: Final = "Blocked at"
QUEUE_COLUMNS: Final = (
    Column("Queue", least=8),
    *(
        Column(each, right=True)
        for each in ("Ready", BLOCKED, "Running", "Held", "Latency", "In/s", "Out/s", "Workers")
    ),
    Column("Max wait", right=True, extra=True),
    Column("Needed", right=True, extra=True),
    Column(BLOCKED_AT, extra=True),
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
        table(*queue_table(list(counts.queues.values())))


def by_state(stats: Stats) -> dict[str, int]:
    """How many jobs there are of each state, those that are only held apart from the running ones."""
    found = {name: number for name, number in stats.items() if not name.startswith(TOTAL)}
    return found | {State.RUNNING.value: found[State.RUNNING] - found["held"]}


def queue_table(queues: Sequence[QueueStats]) -> tuple[list[Column], list[list[str]]]:
    """Columns and rows of the table of queues."""
    return without_blocked(QUEUE_COLUMNS, [_row(queue) for queue in queues], queues)


def without_blocked(
    columns: Sequence[Column], rows: list[list[str]], queues: Sequence[QueueInfo | QueueStats]
) -> tuple[list[Column], list[list[str]]]:
    """A table without the columns about blocked jobs where there are none."""
    any_blocked = any(queue.blocked for queue in queues)
    kept = [at for at, column in enumerate(columns) if any_blocked or column.name not in (BLOCKED, BLOCKED_AT)]
    return [columns[at] for at in kept], [[row[at] for at in kept] for row in rows]


def _row(queue: QueueStats) -> list[str]:
    return [
        queue.name,
        f"{queue.ready:,}",
        f"{queue.blocked:,}",
        running(queue),
        f"{queue.held:,}",
        length(queue.latency * 1_000) + ("!" if queue.late else ""),
        f"{queue.arrival:,.1f}",
        f"{queue.drain:,.1f}",
        str(queue.workers),
        "" if queue.max_wait is None else length(queue.max_wait * 1_000),
        "" if queue.workers_needed is None else str(queue.workers_needed),
        blocked_at(queue),
    ]


def blocked_at(queue: QueueInfo | QueueStats) -> str:
    """Where jobs of the queue are blocked: the gate at which most wait, and at how many others."""
    gates = list(queue.blocked_by.items())
    if not gates:
        return ""
    others = f" and {len(gates) - 1:,}{'+' if len(gates) == BLOCKED_SHOWN else ''} more" if gates[1:] else ""
    where = f"wait for {OTHER_JOBS}" if gates[0][0] == OTHER_JOBS else f"at {gates[0][0]}"
    return f"{gates[0][1]:,} {where}{others}"


def running(queue: QueueInfo | QueueStats) -> str:
    """How many run, and of how many at most where there is a limit."""
    return f"{queue.running:,}" if queue.limit is None else f"{queue.running:,} of {queue.limit:,}"
