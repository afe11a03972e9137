"""``windlass workers``: who is there, what each serves and how busy it is; let one claim no more, or stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import groupby

import click

from windlass.cli.common import Commands, Session, pass_session
from windlass.cli.output import Column, ago, count, emit_json, length, note, say, table
from windlass.core.errors import ConfigError
from windlass.core.units import nearest, show_duration
from windlass.insight.queues import WorkerStatus

__all__ = ["workers"]


@click.group(cls=Commands)
def workers() -> None:
    """List workers, stop them, or stop them from claiming jobs."""


@workers.command("ls")
@pass_session
def ls(session: Session) -> None:
    """List each `windlass worker` with its processes, the oldest first.

    The pid beside the host is that of the `windlass worker` itself: the one to send signals to.
    """
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
        size = count(len(processes), "process", "processes")
        alike = all(one.queues == first.queues for one in processes)
        pid = "" if first.supervisor_pid is None else str(first.supervisor_pid)
        yield [group, first.host, pid, first.queues if alike else "", busy, ago(first.started_at, now), "", size]
        for one in processes:
            state = (one.trouble or "alive") if one.alive else f"gone since {length(-one.lease_left * 1_000)}"
            if one.alive and one.asked:
                state = f"asked to {'stop' if 'stop' in one.asked else 'be quiet'}"
            beat = ago(one.beat_at, now)
            yield [
                f"  {one.id}",
                "",
                str(one.pid),
                "" if alike else one.queues,
                f"{one.running}/{one.slots}",
                ago(one.started_at, now),
                beat,
                state,
            ]


@workers.command()
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--all", "everyone", is_flag=True, help="Every worker.")
@pass_session
def quiet(session: Session, ids: tuple[str, ...], everyone: bool) -> None:
    """Stop a `windlass worker` from claiming jobs; running jobs finish.

    ID is its own id or that of one of its processes, or the beginning of either.
    """
    _ask(session, ids, everyone, "quiet")


@workers.command()
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--all", "everyone", is_flag=True, help="Every worker.")
@pass_session
def stop(session: Session, ids: tuple[str, ...], everyone: bool) -> None:
    """Stop a `windlass worker` gracefully, with all its processes.

    ID is its own id or that of one of its processes, or the beginning of either.
    """
    _ask(session, ids, everyone, "stop")


def _ask(session: Session, ids: tuple[str, ...], everyone: bool, word: str) -> None:
    if bool(ids) == everyone:
        raise click.UsageError("give the id of a worker (see `windlass workers ls`), or --all")
    app = session.store()
    found = app.workers()
    groups = [worker.group for worker in found] if everyone else [_group(each, found) for each in ids]
    asked = {group: app.control(group, word) for group in dict.fromkeys(groups)}
    if session.json:
        emit_json([{"group": group, "asked": number} for group, number in asked.items()])
        return
    if not asked:
        note("No workers are registered.")
    what = "claim no more" if word == "quiet" else "stop"
    for group, number in asked.items():
        size = count(number, "process", "processes")
        say(f"Worker {group} ({size}) was asked to {what}; it obeys within {show_duration(app.settings.renew)}.")


def _group(text: str, found: list[WorkerStatus]) -> str:
    """The worker that an id, or the beginning of one, stands for."""
    groups = {worker.group for worker in found if worker.group == text or worker.id == text}
    groups = groups or {worker.group for worker in found if worker.group.startswith(text) or worker.id.startswith(text)}
    if len(groups) == 1:
        return groups.pop()
    known = sorted({worker.group for worker in found})
    if groups:
        both = ", ".join(sorted(groups))
        raise ConfigError(f"worker {text!r} could be any of {count(len(groups), 'worker')}: {both}")
    raise ConfigError(f"no worker {text!r} is registered{nearest(text, known)}; see `windlass workers ls`")
