"""``windlass queues``: how long the queues are and who serves them; pause, resume, limit and clear."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from windlass.cli.common import Commands, Session, pass_session
from windlass.cli.instants import instant
from windlass.cli.output import Column, confirm, count, emit_json, length, moment, note, say, table
from windlass.cli.stats import BLOCKED, blocked_at, running, without_blocked
from windlass.core import caps
from windlass.core.units import nearest, shown, whole_number
from windlass.insight.queues import Queue, QueueInfo, WorkerStatus

if TYPE_CHECKING:
    from windlass.app import Windlass

__all__ = ["queues"]


@click.group(cls=Commands)
def queues() -> None:
    """List, pause, resume, limit and clear queues."""


@queues.command("ls")
@pass_session
def ls(session: Session) -> None:
    """List the queues. Held jobs are about to start, blocked ones wait at a gate such as an open circuit.

    Latency is how long the next job has been waiting.
    """
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
    columns = [
        Column("Queue"),
        *(Column(each, right=True) for each in ("Ready", BLOCKED, "Scheduled", "Running", "Held", "Latency")),
    ]
    columns += [Column("Workers", right=True), Column("State"), Column("Note")]
    table(*without_blocked(columns, [_row(queue, workers, now) for queue in found], found))


def _row(queue: QueueInfo, workers: list[WorkerStatus], now: int) -> list[str]:
    numbers = [f"{queue.ready:,}", f"{queue.blocked:,}", f"{queue.scheduled:,}", running(queue), f"{queue.held:,}"]
    serving = sum(worker.serves(queue.name) for worker in workers)
    until = [f"until {moment(queue.paused_until, now)}"] if queue.paused_until else []
    by = [f"by {queue.paused_by}"] if queue.paused_by else []
    rate = [f"{queue.started:,} of {queue.rate} started"] if queue.rate else []
    at = [blocked_at(queue)] if queue.blocked_by else []
    remark = ", ".join([*([queue.paused_reason] if queue.paused_reason else []), *until, *by, *rate, *at])
    if not queue.paused and not serving and queue.ready:
        remark = "no live worker serves it"
    state = "paused" if queue.paused else "open"
    return [queue.name, *numbers, length(queue.latency * 1_000), str(serving), state, remark]


@queues.command()
@click.argument("name")
@click.option("--reason", metavar="TEXT", help="Why; shown to others.")
@click.option("--until", metavar="WHEN", help="A duration such as 30m, or a time in ISO 8601 with a time zone.")
@pass_session
def pause(session: Session, name: str, reason: str | None, until: str | None) -> None:
    """Pause a queue: no job of it starts until it is resumed. Running jobs finish."""
    app = session.store(create=True)
    queue = _queue(app, name)
    queue.pause(reason, _until(until))
    _report(session, queue, f"Queue {name} is paused.")


def _until(text: str | None) -> str | datetime | None:
    # A date has dashes or colons, a duration never.
    return instant(text, "--until") if text is not None and any(mark in text for mark in "-:") else text


@queues.command()
@click.argument("name")
@pass_session
def resume(session: Session, name: str) -> None:
    """Resume a paused queue."""
    app = session.store()
    queue = _queue(app, name)
    queue.resume()
    _report(session, queue, f"Queue {name} is open.")


@queues.command()
@click.argument("name")
@click.argument("most", metavar="[N|none]", required=False)
@click.option("--rate", metavar="RATE|none", help="How many jobs may start per time, such as 100/m.")
@pass_session
def limit(session: Session, name: str, most: str | None, rate: str | None) -> None:
    """Limit how many jobs of a queue run at once, over all workers.

    `none` removes the limit; then the one of the settings applies.
    """
    if most is None and rate is None:
        raise click.UsageError("give a limit: `windlass queues limit NAME 4`, or --rate 100/m; `none` removes one")
    app = session.store(create=True)
    queue = _queue(app, name)
    if most is not None:
        queue.limit(_count(most))
    if rate is not None:
        queue.rate(None if rate == "none" else rate)
    _report(session, queue, f"Queue {name}: {_bounds(queue.info(), app, most, rate)}.")


def _count(text: str) -> int | None:
    if text == "none":
        return None
    if (number := whole_number(text, caps.NUMBER)) is None:
        raise click.UsageError(f"{shown(text)} is not a limit; give a whole number from 1 to {caps.COUNT:,}, or none")
    return number


def _bounds(info: QueueInfo, app: Windlass, most: str | None, rate: str | None) -> str:
    """What holds now for what was changed; what was lifted and holds still is said by the settings."""

    def settings(key: str, text: str | None) -> str:
        return f", as {app.loaded.where('queues', info.name, key)} says" if text == "none" else ""

    said = []
    if most is not None:
        runs = count(info.limit or 0, "job runs", "jobs run")
        said.append(
            "any number runs at once" if info.limit is None else f"at most {runs} at once{settings('limit', most)}"
        )
    if rate is not None:
        said.append("they start at any rate" if info.rate is None else f"{info.rate} start{settings('rate', rate)}")
    return "; ".join(said)


def _queue(app: Windlass, name: str) -> Queue:
    """The queue of that name. One that is yet to come may be paused and limited, but perhaps another was meant."""
    queue = app.queue(name)
    of_jobs = [app.registry.get(each).queue for each in app.registry.names()]
    known = {*(each.name for each in app.queues()), *app.settings.queues, *of_jobs}
    if name not in known:
        note(f"Note: no job has ever been in queue {name}{nearest(name, known)}.")
    return queue


@queues.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def clear(session: Session, name: str, yes: bool) -> None:
    """Delete the waiting jobs of a queue. Running and held jobs stay."""
    app = session.store()
    queue = app.queue(name)
    info = queue.info()
    where = app.engine.info
    waiting = count(info.ready + info.blocked + info.scheduled, "waiting job")
    confirm(f"Delete {waiting} of queue {name} in {where.name} {where.target}?", yes)
    gone = queue.clear()
    if session.json:
        emit_json({"name": name, "deleted": int(gone), "held": gone.held})
    else:
        held = f" {count(gone.held, 'more is', 'more are')} held by workers and about to start." if gone.held else ""
        say(f"{count(gone, 'job')} deleted.{held}")


def _report(session: Session, queue: Queue, text: str) -> None:
    if session.json:
        emit_json(queue.info())
    else:
        say(text)
