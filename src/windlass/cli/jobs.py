"""``windlass jobs``: look at stored jobs and move them.

Moves go through the application's ``cancel``, ``retry`` and ``delete``, in batches, so that a long move holds up no
claim. Invariants: an argument that is redacted is shown only with ``--reveal``; what cannot be undone is asked about.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

import click

from windlass.cli.common import Commands, Session, pass_session
from windlass.cli.exits import FAILED
from windlass.cli.output import (
    Column,
    ago,
    confirm,
    count,
    emit_json,
    inline,
    length,
    moment,
    note,
    record,
    say,
    short,
    table,
)
from windlass.core.clock import from_ms
from windlass.core.errors import ConfigError, TransitionRefused
from windlass.core.model import FINISHED, State
from windlass.core.rows import Action, Moved
from windlass.core.units import duration_ms, nearest
from windlass.insight.others import batch_title, workflow_title
from windlass.jobs.info import JobInfo, JobProgress
from windlass.jobs.reader import refuse

if TYPE_CHECKING:
    from windlass.app import Windlass

__all__ = ["facts_of", "job_table", "jobs"]

BATCH: Final = 500  # jobs per write of a move

# From which states a move makes sense; the engine decides job by job.
MOVABLE: Final = {
    Action.CANCEL: (State.READY, State.SCHEDULED, State.BLOCKED, State.RUNNING),
    Action.RETRY: (State.DEAD, State.CANCELLED, State.SCHEDULED),
    Action.DELETE: (State.READY, State.SCHEDULED, State.BLOCKED, State.DONE, State.DEAD, State.CANCELLED),
}
DONE_TO: Final = {Action.CANCEL: "cancelled", Action.RETRY: "retried", Action.DELETE: "deleted"}


@click.group(cls=Commands)
def jobs() -> None:
    """List, show, watch, retry, cancel and delete jobs."""


@jobs.command("ls")
@click.option("--state", metavar="STATE", help=f"One of {', '.join(State)}.")
@click.option("--name", metavar="NAME", help="Jobs of this name.")
@click.option("--queue", metavar="NAME", help="Jobs of this queue.")
@click.option("--tag", metavar="TAG", help="Jobs with this tag.")
@click.option("--limit", type=int, default=100, show_default=True, metavar="N", help="How many at most.")
@click.option("--cursor", metavar="CURSOR", help="Continue after the previous page.")
@pass_session
def ls(
    session: Session,
    state: str | None,
    name: str | None,
    queue: str | None,
    tag: str | None,
    limit: int,
    cursor: str | None,
) -> None:
    """List jobs, newest first."""
    app = session.store()
    page = app.jobs(state, name, queue, tag, limit, cursor)
    now = app.clock.wall_ms()
    if session.json:
        emit_json(page.items)
    elif page.items:
        job_table(page, now)
    else:
        note(f"No jobs to show in {app.engine.info.name} {app.engine.info.target}{_spelling(app, name, queue)}")
    if page.next is not None:
        note(f"For more jobs: --cursor {page.next}")


def _spelling(app: Windlass, name: str | None, queue: str | None) -> str:
    """The nearest spelling of a filter that names nothing the application or the store knows."""
    queues = [each.name for each in app.queues()]
    found = "" if name is None or name in app.registry else nearest(name, app.registry.names())
    return found + ("" if queue is None or queue in queues else nearest(queue, queues)) or "."


def job_table(found: Iterable[JobInfo], now: int) -> None:
    """Print jobs, each in a line."""
    columns = [Column(each) for each in ("Id", "Job", "Queue", "State")]
    columns += [Column("Attempt", right=True), Column("Enqueued"), Column("Note")]
    table(columns, [_row(job, now) for job in found])


def _row(job: JobInfo, now: int) -> list[str]:
    attempt = f"{job.attempt}/{job.max_attempts}"
    return [job.id, job.name, job.queue, job.state, attempt, ago(job.enqueued_at, now), _note(job, now)]


def _note(job: JobInfo, now: int) -> str:
    """What one wants to know of a job in its state."""
    match job.state:
        case State.SCHEDULED:
            text = f"{'retry ' if job.errors else ''}due {ago(job.run_at, now)}"
        case State.RUNNING if job.held:
            text = "held by its worker, about to start"
        case State.RUNNING:
            text = " ".join(["started", ago(job.started_at or job.run_at, now), *_percent(job.progress)])
        case State.DONE:
            text = job.reason or ("" if job.started_at is None else f"took {_took(job)}")
        case State.DEAD if job.errors:
            text = f"{job.errors[-1].type}: {job.errors[-1].message}"
        case State.DEAD | State.CANCELLED:
            text = job.reason or ""
        case _:
            text = job.reason or ("" if not job.errors else f"failed before: {job.errors[-1].type}")
    return short(text)


def _percent(progress: JobProgress | None) -> list[str]:
    return [] if progress is None or progress.percent is None else [f"{progress.percent:.0f} %"]


def _took(job: JobInfo) -> str:
    assert job.started_at is not None
    assert job.finished_at is not None
    return length((job.finished_at - job.started_at).total_seconds() * 1_000)


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--reveal", is_flag=True, help="Show redacted arguments.")
@pass_session
def show(session: Session, job_id: str, reveal: bool) -> int:
    """Show everything about one job."""
    app = session.store()
    job = app.get(job_id, reveal=reveal)
    if job is None:
        return _unknown(app, job_id)
    if session.json:
        emit_json(job)
        return 0
    now = app.clock.wall_ms()
    record(list(facts_of(app, job)))
    for error in job.errors:
        click.echo()
        record([(f"Attempt {error.attempt}", f"{error.type}: {error.message}"), ("Failed", moment(error.at, now))])
    if job.errors and job.errors[-1].traceback:
        click.echo()
        record([("Traceback", job.errors[-1].traceback)])
    return 0


@jobs.command()
@click.argument("job_id", metavar="ID")
@click.option("--every", default="500ms", show_default=True, metavar="DURATION", help="How often to look for progress.")
@pass_session
def watch(session: Session, job_id: str, every: str) -> int:
    """Follow a job until it ends, with a line for each change.

    Exits 0 when it is done, else 1. Ctrl-C stops watching; the job goes on.
    """
    app = session.store()
    pause = max(0.05, duration_ms(every, "--every") / 1_000)
    shown: list[str] = []
    while True:
        job = app.get(job_id)
        if job is None:
            return _unknown(app, job_id)
        now = app.clock.wall_ms()
        line = [job.state, f"attempt {job.attempt} of {job.max_attempts}", _watched(job, now)]
        if line != shown and not session.json:
            say(f"{from_ms(now):%H:%M:%S}  {'  '.join(filter(None, line))}")
        shown = line
        if job.state in FINISHED:
            if session.json:
                emit_json(job)
            return 0 if job.state is State.DONE else FAILED
        app.engine.wait_finished([job_id], pause)


def _watched(job: JobInfo, now: int) -> str:
    """What a line of a watched job says behind its state; nothing in it changes by the mere passing of time."""
    match job.state:
        case State.SCHEDULED:
            return f"due {job.run_at:%Y-%m-%d %H:%M:%S} UTC"
        case State.RUNNING:
            return _how_far(job.progress)
        case State.READY:
            return ""
        case _:
            return _note(job, now)


def _unknown(app: Windlass, job_id: str) -> int:
    where = app.engine.info
    note(
        f"windlass: there is no job {job_id} in {where.name} {where.target}: "
        "it was never stored here, or its record has been removed"
    )
    return FAILED


def _how_far(progress: JobProgress | None) -> str:
    if progress is None:
        return ""
    total = "" if progress.total is None else f" of {progress.total:,g}"
    parts = [f"{progress.done:,g}{total}", *_percent(progress), *([progress.message] if progress.message else [])]
    return ", ".join(parts)


def facts_of(app: Windlass, job: JobInfo) -> Iterator[tuple[str, str]]:
    """What there is to say of a job, by name."""
    now = app.clock.wall_ms()
    yield "Id", job.id
    yield "Job", job.name
    yield "Queue", job.queue
    if job.workflow is not None and job.step is not None:
        yield "Workflow", workflow_title(job.workflow, app.engine)
        yield "Step", job.step
    for batch in job.batches:
        yield "Batch", batch_title(batch, app.engine)
    yield "State", f"{job.state}, attempt {job.attempt} of {job.max_attempts}"
    if job.reason:
        yield "Reason", job.reason
    if job.args is not None and job.kwargs is not None:
        given = [inline(value) for value in job.args] + [
            f"{name}={inline(value)}" for name, value in job.kwargs.items()
        ]
        yield "Arguments", ", ".join(given) or "none"
    if job.tags:
        yield "Tags", ", ".join(job.tags)
    yield "Enqueued", moment(job.enqueued_at, now)
    yield "Due", moment(job.run_at, now)
    if job.started_at is not None:
        yield "Started", moment(job.started_at, now)
    if job.finished_at is not None:
        took = f", took {_took(job)}" if job.started_at is not None else ""
        yield "Finished", moment(job.finished_at, now) + took
    if job.worker is not None:
        yield "Worker", job.worker
    if job.progress is not None:
        yield "Progress", _how_far(job.progress)
    if job.state is State.DONE:
        yield "Result", inline(job.result)


# -- moves -------------------------------------------------------------------------------------------------


@jobs.command(short_help="Run jobs again, now.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--state", metavar="STATE", help="Retry all jobs in this state: dead, cancelled or scheduled.")
@click.option("--name", metavar="NAME", help="With --state: only jobs of this name.")
@click.option("--queue", metavar="NAME", help="With --state: only jobs of this queue.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def retry(
    session: Session, ids: tuple[str, ...], state: str | None, name: str | None, queue: str | None, yes: bool
) -> int:
    """Run dead, cancelled or scheduled jobs now, with a fresh budget of attempts. With --state it asks first."""
    return _move(session, Action.RETRY, ids, state, name, queue, yes)


@jobs.command(short_help="Cancel waiting and running jobs.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--state", metavar="STATE", help="Cancel all jobs in this state: ready, scheduled, blocked or running.")
@click.option("--name", metavar="NAME", help="With --state: only jobs of this name.")
@click.option("--queue", metavar="NAME", help="With --state: only jobs of this queue.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def cancel(
    session: Session, ids: tuple[str, ...], state: str | None, name: str | None, queue: str | None, yes: bool
) -> int:
    """Cancel jobs: waiting ones end at once, running ones are asked to stop. With --state it asks first."""
    return _move(session, Action.CANCEL, ids, state, name, queue, yes)


@jobs.command(short_help="Delete records of jobs.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--state", metavar="STATE", help="Delete all jobs in this state; running ones cannot be deleted.")
@click.option("--name", metavar="NAME", help="With --state: only jobs of this name.")
@click.option("--queue", metavar="NAME", help="With --state: only jobs of this queue.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def delete(
    session: Session, ids: tuple[str, ...], state: str | None, name: str | None, queue: str | None, yes: bool
) -> int:
    """Delete the records of jobs that are not running. With --state it asks first."""
    return _move(session, Action.DELETE, ids, state, name, queue, yes)


def _move(
    session: Session,
    action: Action,
    ids: Sequence[str],
    state: str | None,
    name: str | None,
    queue: str | None,
    yes: bool,
) -> int:
    if bool(ids) == (state is not None):
        raise click.UsageError("give ids, or --state for all jobs in one state")
    app = session.store()
    if state is None:
        if name is not None or queue is not None:
            raise click.UsageError("--name and --queue go with --state, not with ids")
        return _move_ids(session, app, action, list(dict.fromkeys(ids)))
    page = app.jobs(state, name, queue, limit=1)
    if state not in MOVABLE[action]:
        raise ConfigError(f"{action} --state {state}: {action} applies to jobs that are {', '.join(MOVABLE[action])}")
    if page.items:
        which = f"{state} jobs{f' named {name}' if name else ''}{f' of queue {queue}' if queue else ''}"
        where = app.engine.info
        confirm(f"{str(action).capitalize()} all {which} in {where.name} {where.target}?", yes)
    return _move_all(session, app, action, state, name, queue)


def _mover(app: Windlass, action: Action) -> Callable[[Sequence[str]], list[Moved]]:
    return {Action.CANCEL: app.cancel, Action.RETRY: app.retry, Action.DELETE: app.delete}[action]


def _move_ids(session: Session, app: Windlass, action: Action, ids: Sequence[str]) -> int:
    move = _mover(app, action)
    moved = [one for start in range(0, len(ids), BATCH) for one in move(ids[start : start + BATCH])]
    if session.json:
        emit_json(moved)
    code = 0
    for one in moved:
        try:
            refuse(action, one)
        except TransitionRefused as error:
            note(f"windlass: {error}")
            code = FAILED
            continue
        if not session.json:
            asked = action is Action.CANCEL and one.before is State.RUNNING
            say(f"{one.id} {'asked to stop' if asked else DONE_TO[action]}")
    return code


def _move_all(session: Session, app: Windlass, action: Action, state: str, name: str | None, queue: str | None) -> int:
    move = _mover(app, action)
    applied = refused = 0
    cursor: str | None = None
    with _progress(app, action, state, name, queue) as advance:
        while True:
            # Newest first by key: what is stored meanwhile stands before the cursor and is left alone.
            page = app.jobs(state, name, queue, None, BATCH, cursor)
            moved = move([job.id for job in page]) if page.items else []
            applied += sum(one.applied for one in moved)
            refused += sum(not one.applied for one in moved)
            advance(len(moved))
            cursor = page.next
            if cursor is None:
                break
    if session.json:
        emit_json({"action": action, "applied": applied, "refused": refused})
    else:
        if not applied and not refused and (hint := _spelling(app, name, queue)) != ".":
            note(f"No such jobs{hint}")
        also = f"; {count(refused, 'job')} had moved on meanwhile" if refused else ""
        say(f"{count(applied, 'job')} {DONE_TO[action]}{also}.")
    return 0


@contextlib.contextmanager
def _progress(
    app: Windlass, action: Action, state: str, name: str | None, queue: str | None
) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, where the number of jobs is known: all of one state."""
    if not sys.stderr.isatty() or name is not None or queue is not None:
        yield lambda step: None
        return
    with click.progressbar(
        length=app.stats()[state], label=str(action).capitalize(), file=sys.stderr, show_pos=True
    ) as bar:
        yield bar.update
