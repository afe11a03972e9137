"""``windlass batches``: look at batches, as a list and one by one, also live.

All of it goes through ``app.batches`` and ``app.batch``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from windlass.cli.common import Commands, Session, pass_session
from windlass.cli.exits import FAILED
from windlass.cli.flows import as_json, follow, left, progress_text, took
from windlass.cli.output import Column, ago, emit_json, fit, moment, note, printable, record, table
from windlass.core.units import duration_ms

if TYPE_CHECKING:
    from windlass.flow.batch import BatchInfo

__all__ = ["batches"]


@click.group(cls=Commands)
def batches() -> None:
    """List, show and watch batches."""


@batches.command("ls")
@click.option("--limit", type=int, default=100, show_default=True, metavar="N", help="How many at most.")
@click.option("--cursor", metavar="CURSOR", help="Continue after the previous page.")
@pass_session
def ls(session: Session, limit: int, cursor: str | None) -> None:
    """List batches by id. An open one takes more jobs, a sealed one takes no more."""
    app = session.store()
    page = app.batches(limit=limit, cursor=cursor)
    now = app.clock.wall_ms()
    if session.json:
        emit_json([as_json(info) for info in page])
    elif page.items:
        columns = [Column(each) for each in ("Id", "Batch", "State")]
        columns += [Column("Ended", right=True), Column("Dead", right=True), Column("Created"), Column("Note")]
        table(columns, [_row(info, now) for info in page])
    else:
        note(f"No batches to show in {app.engine.info.name} {app.engine.info.target}.")
    if page.next is not None:
        note(f"For more batches: --cursor {page.next}")


def _row(info: BatchInfo, now: int) -> list[str]:
    ended = f"{info.progress.ended:,} of {info.progress.total:,}"
    text = took(info.created_at, info.ended_at) or left(info.eta)
    return [info.id, info.name, _state(info), ended, f"{info.progress.dead:,}", ago(info.created_at, now), text]


def _state(info: BatchInfo) -> str:
    if info.ended_at is not None:
        return "ended"
    return "sealed" if info.sealed else "open"


@batches.command()
@click.argument("batch_id", metavar="ID")
@click.option("--watch", is_flag=True, help="Follow it until it ends; exit 0 when all its jobs are done, else 1.")
@click.option("--every", default="1s", show_default=True, metavar="DURATION", help="With --watch: how often to look.")
@pass_session
def show(session: Session, batch_id: str, watch: bool, every: str) -> int:
    """Show a batch, how far it is, and its callbacks."""
    from windlass.cli.jobs import job_table

    app = session.store()
    pause = max(0.05, duration_ms(every, "--every") / 1_000)
    batch = app.batch(id=batch_id)
    if watch:
        info = follow(
            app,
            batch.info,
            lambda seen: seen.ended_at is not None,
            _picture,
            _headline,
            lambda seen: {},
            pause,
            quiet=session.json,
        )
    else:
        info = batch.info()
    if session.json:
        emit_json(as_json(info))
    else:
        now = app.clock.wall_ms()
        record(list(_facts(info, now)))
        callbacks = [job for id in info.callbacks if (job := app.get(id)) is not None]
        if callbacks:
            click.echo()
            job_table(callbacks, now)
    return FAILED if watch and info.ended_at is not None and info.progress.done < info.progress.total else 0


def _facts(info: BatchInfo, now: int) -> Iterator[tuple[str, str]]:
    yield "Id", info.id
    yield "Batch", info.name
    yield "State", {"open": "open, it takes more jobs"}.get(_state(info), _state(info))
    yield "Progress", _progress(info)
    yield "Created", moment(info.created_at, now)
    if info.ended_at is None:
        yield "Moved", moment(info.moved_at, now)
    else:
        yield "Ended", f"{moment(info.ended_at, now)}, {took(info.created_at, info.ended_at)}"
    if info.parent:
        yield "Part of", f"batch {info.parent}"


def _progress(info: BatchInfo) -> str:
    return "; ".join(filter(None, (progress_text(info.progress, "job"), left(info.eta))))


def _picture(info: BatchInfo, columns: int, rows: int, trouble: str) -> list[str]:
    head = [trouble or f"{info.name} {info.id}: {_state(info)}", _progress(info)]
    return [fit(printable(line), columns) for line in head]


def _headline(info: BatchInfo) -> str:
    return f"{info.id}  {_state(info)}  {progress_text(info.progress, 'job')}"
