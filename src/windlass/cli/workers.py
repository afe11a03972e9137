"""``windlass workers``: who is there, what each serves and how busy it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby

import click

from windlass.cli.common import Commands, Session, pass_session
from windlass.cli.output import Column, ago, emit_json, length, note, table
from windlass.queues import WorkerStatus

__all__ = ["workers"]


@click.group(cls=Commands)
def workers() -> None:
    """List the workers that are registered."""


@workers.command("ls")
@pass_session
def ls(session: Session) -> None:
    """List each `windlass worker` with its processes, oldest first."""
    app = session.store()
    found = app.workers()
    if session.json:
        emit_json([asdict(worker) | {"alive": worker.alive} for worker in found])
        return
    if not found:
        note("No workers are registered; start one with `windlass worker`.")
        return
    columns = [
        Column("Worker"),
        Column("Host"),
        Column("Pid", right=True),
        Column("Queues"),
        Column("Busy", right=True),
    ]
    columns += [Column("Started"), Column("Beat"), Column("State")]
    table(columns, list(_rows(found, app.clock.wall_ms())))


def _rows(found: Iterable[WorkerStatus], now: int) -> Iterator[list[str]]:
    # Ids are ordered by time, so groups come oldest first.
    ordered = sorted(found, key=lambda worker: (worker.group, worker.started_at, worker.id))
    for group, members in groupby(ordered, key=lambda worker: worker.group):
        processes = list(members)
        first = processes[0]
        busy = f"{sum(one.running for one in processes):,}/{sum(one.slots for one in processes):,}"
        size = f"{len(processes)} {'process' if len(processes) == 1 else 'processes'}"
        yield [group, first.host, "", first.queues, busy, ago(first.started_at, now), "", size]
        for one in processes:
            state = "alive" if one.alive else f"gone since {length(-one.lease_left * 1_000)}"
            beat = ago(one.beat_at, now)
            yield [
                f"  {one.id}",
                "",
                str(one.pid),
                "",
                f"{one.running}/{one.slots}",
                ago(one.started_at, now),
                beat,
                state,
            ]
