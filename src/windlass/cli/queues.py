"""``windlass queues``: how long the queues are and who serves them; pause, resume and clear."""

from __future__ import annotations

from datetime import datetime

import click

from windlass.cli.common import Commands, Session, pass_session
from windlass.cli.instants import instant
from windlass.cli.output import Column, confirm, count, emit_json, length, moment, note, table
from windlass.queues import Queue, QueueInfo, WorkerStatus
from windlass.units import nearest

__all__ = ["queues"]


@click.group(cls=Commands)
def queues() -> None:
    """List, pause, resume and clear queues."""


@queues.command("ls")
@pass_session
def ls(session: Session) -> None:
    """List the queues. Latency is how long the job at the head has been due."""
    app = session.store()
    found = app.queues()
    if session.json:
        emit_json(found)
        return
    if not found:
        note(f"No queues yet in {app.engine.info.name} {app.engine.info.target}.")
        return
    now = app.clock.wall_ms()
    workers = [worker for worker in app.workers() if worker.alive]
    columns = [Column("Queue"), *(Column(each, right=True) for each in ("Ready", "Scheduled", "Running", "Latency"))]
    columns += [Column("Workers", right=True), Column("State"), Column("Note")]
    table(columns, [_row(queue, workers, now) for queue in found])


def _row(queue: QueueInfo, workers: list[WorkerStatus], now: int) -> list[str]:
    numbers = [f"{number:,}" for number in (queue.ready, queue.scheduled, queue.running)]
    serving = sum(worker.serves(queue.name) for worker in workers)
    until = [f"until {moment(queue.paused_until, now)}"] if queue.paused_until else []
    by = [f"by {queue.paused_by}"] if queue.paused_by else []
    remark = ", ".join([*([queue.paused_reason] if queue.paused_reason else []), *until, *by])
    if not queue.paused and not serving and queue.ready:
        remark = "no live worker serves it"
    state = "paused" if queue.paused else "open"
    return [queue.name, *numbers, length(queue.latency * 1_000), str(serving), state, remark]


@queues.command()
@click.argument("name")
@click.option("--reason", metavar="TEXT", help="Why; shown to others.")
@click.option("--until", metavar="WHEN", help="A duration such as 30m, or an instant, ISO 8601 with a time zone.")
@pass_session
def pause(session: Session, name: str, reason: str | None, until: str | None) -> None:
    """Let no job of a queue start until it is resumed; running ones go on."""
    app = session.store()
    known = [queue.name for queue in app.queues()]
    queue = app.queue(name)
    queue.pause(reason, _until(until))
    if name not in known:
        note(f"Nothing was ever put into queue {name}{nearest(name, known)}")
    _report(session, queue, f"Queue {name} is paused.")


def _until(text: str | None) -> str | datetime | None:
    # A date has dashes or colons, a duration never.
    return instant(text, "--until") if text is not None and any(mark in text for mark in "-:") else text


@queues.command()
@click.argument("name")
@pass_session
def resume(session: Session, name: str) -> None:
    """Lift the pause of a queue."""
    app = session.store()
    known = [queue.name for queue in app.queues()]
    queue = app.queue(name)
    queue.resume()
    if name not in known:
        note(f"Nothing was ever put into queue {name}{nearest(name, known)}")
    _report(session, queue, f"Queue {name} is open.")


@queues.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def clear(session: Session, name: str, yes: bool) -> None:
    """Delete the waiting jobs of a queue; running ones stay."""
    app = session.store()
    queue = app.queue(name)
    info = queue.info()
    where = app.engine.info
    waiting = count(info.ready + info.scheduled, "waiting job")
    confirm(f"Delete {waiting} of queue {name} in {where.name} {where.target}?", yes)
    gone = queue.clear()
    if session.json:
        emit_json({"name": name, "deleted": gone})
    else:
        click.echo(f"{count(gone, 'job')} deleted.")


def _report(session: Session, queue: Queue, text: str) -> None:
    if session.json:
        emit_json(queue.info())
    else:
        click.echo(text)
