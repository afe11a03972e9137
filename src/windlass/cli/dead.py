"""``windlass dead``: look at dead jobs, by one and by group, and redrive, edit, discard, export and load them.

All of it goes through ``app.dead``. Invariants: an argument that is redacted is shown only with ``--reveal``; what
cannot be undone is asked about; a redrive with a rate goes on when the command that began it ends.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import click

from windlass.cli.common import Commands, Session, pass_session
from windlass.cli.exits import FAILED, INTERRUPTED, WRONG_USE
from windlass.cli.instants import instant
from windlass.cli.output import Column, ago, confirm, count, emit_json, escaped, note, record, say, short, table
from windlass.core.files import descriptor_of

if TYPE_CHECKING:
    from windlass.app import Windlass
    from windlass.dead.deadlist import DeadFilters, DeadGroup
    from windlass.dead.watching import Redrive
    from windlass.jobs.info import JobInfo

__all__ = ["dead"]

P = ParamSpec("P")
R = TypeVar("R")


def filtered(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command the options that say which dead jobs."""
    for option in (
        click.option(
            "--before", metavar="WHEN", help="Jobs that died before this time, or longer ago than this, such as 2h."
        ),
        click.option("--after", metavar="WHEN", help="Jobs that died at or after this time, or within this duration."),
        click.option("--tag", metavar="TAG", help="Jobs with this tag."),
        click.option(
            "--error", metavar="NAME", help="Jobs that died of this exception: its dotted name or the last part."
        ),
        click.option("--queue", metavar="NAME", help="Jobs of this queue."),
        click.option("--name", metavar="NAME", help="Jobs of this name."),
        click.option("--group", metavar="GROUP", help="Jobs of this group, as `dead groups` shows it."),
    ):
        command = option(command)
    return command


def filters_of(options: dict[str, str | None]) -> DeadFilters:
    """Turn what ``filtered`` adds into filters."""
    found: DeadFilters = {}
    for name in ("group", "name", "queue", "error", "tag"):
        if (value := options[name]) is not None:
            found[name] = value
    for name in ("before", "after"):
        if (value := options[name]) is not None:
            # An instant begins with a year and a dash, a length of time never has one.
            found[name] = instant(value, f"--{name}") if "-" in value else value  # type: ignore[literal-required]
    return found


@click.group(cls=Commands)
def dead() -> None:
    """List, group, retry, edit, discard, export and load dead jobs."""


# -- looking -----------------------------------------------------------------------------------------------


@dead.command("ls")
@filtered
@click.option("--limit", type=int, default=100, show_default=True, metavar="N", help="How many at most.")
@click.option("--cursor", metavar="CURSOR", help="Continue after the previous page.")
@pass_session
def ls(session: Session, /, limit: int, cursor: str | None, **options: str | None) -> None:
    """List dead jobs, the newest first."""
    app = session.store()
    page = app.dead.list(limit=limit, cursor=cursor, **filters_of(options))
    now = app.clock.wall_ms()
    if session.json:
        emit_json(page.items)
    elif page.items:
        columns = [Column(each) for each in ("Id", "Job", "Queue", "Died")] + [Column("Attempts", right=True)]
        table([*columns, Column("Error")], [_row(job, now) for job in page])
    else:
        note(f"No dead jobs to show in {app.engine.info.name} {app.engine.info.target}.")
    if page.next is not None:
        note(f"More jobs follow: --cursor {page.next}")


def _row(job: JobInfo, now: int) -> list[str]:
    died = "" if job.finished_at is None else ago(job.finished_at, now)
    return [job.id, job.name, job.queue, died, str(job.attempt), short(_why(job))]


def _why(job: JobInfo) -> str:
    last = f"{job.errors[-1].type}: {job.errors[-1].message}" if job.errors else ""
    return last or job.reason or ""


@dead.command()
@filtered
@click.option("--limit", type=int, default=100, show_default=True, metavar="N", help="How many at most.")
@pass_session
def groups(session: Session, /, limit: int, **options: str | None) -> None:
    """Show what jobs died of, the largest group first."""
    app = session.store()
    found = app.dead.groups(limit=limit, **filters_of(options))
    now = app.clock.wall_ms()
    if session.json:
        emit_json(found)
    elif found:
        columns = [Column("Group"), Column("Count", right=True)]
        columns += [Column(each) for each in ("Error", "Where", "First", "Last", "Sample", "Message")]
        table(columns, [_group_row(group, now) for group in found])
    else:
        note(f"No dead jobs to show in {app.engine.info.name} {app.engine.info.target}.")


def _group_row(group: DeadGroup, now: int) -> list[str]:
    return [
        group.fingerprint,
        f"{group.count:,}",
        group.error or "",
        group.frame or ", ".join(group.names),
        ago(group.first_seen, now),
        ago(group.last_seen, now),
        "" if group.sample is None else group.sample.id,
        short(group.message),
    ]


@dead.command()
@click.argument("job_id", metavar="ID")
@click.option("--reveal", is_flag=True, help="Show redacted arguments.")
@pass_session
def show(session: Session, job_id: str, reveal: bool) -> int:
    """Show one dead job with the error of every attempt."""
    from windlass.cli.jobs import facts_of

    app = session.store()
    job = app.get(job_id, reveal=reveal)
    if job is None or job.state != "dead":
        note(f"windlass: job {job_id} is {'not kept here' if job is None else f'{job.state}, not dead'}")
        return FAILED
    if session.json:
        emit_json(job)
        return 0
    record(list(facts_of(app, job)))
    for error in job.errors:
        place = " ".join(part for part in (error.host, error.worker, error.version) if part)
        click.echo()
        record([(f"Attempt {error.attempt}", place), ("Error", f"{error.type}: {error.message}")])
        record([("", error.traceback)])
    return 0


# -- running again -----------------------------------------------------------------------------------------


@dead.command(short_help="Redrive dead jobs: run them again.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filtered
@click.option("--all", "everything", is_flag=True, help="All dead jobs.")
@click.option("--rate", metavar="RATE", help="Let the workers do it at this rate, such as 5/s or 100/m.")
@click.option("--limit", type=int, metavar="N", help="How many at most.")
@click.option("--detach", is_flag=True, help="With --rate: do not wait until it is finished.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def retry(
    session: Session,
    /,
    ids: tuple[str, ...],
    everything: bool,
    rate: str | None,
    limit: int | None,
    detach: bool,
    yes: bool,
    **options: str | None,
) -> int:
    """Redrive dead jobs: run them again with a fresh budget of attempts. With --all it asks first.

    Without --rate all are made ready at once. With --rate the workers do it, at that pace; Ctrl-C stops the watching,
    and `windlass dead redrives --stop ID` stops the redrive.
    """
    app = session.store()
    filters = filters_of(options)
    _needs_choice(ids, filters, everything)
    if everything and (found := app.dead.count()):
        confirm(f"Retry {_all(found, limit)} of {app.engine.info.name} {app.engine.info.target}?", yes)
    with _bar("Retry") as advance:
        redrive = app.dead.retry(ids or None, rate=rate, limit=limit, on_progress=advance, **filters)
        code = 0 if rate is None or detach else _watch(app, redrive, advance)
    info = redrive.info()
    if session.json:
        emit_json(info)
    elif info.state == "running":
        say(f"Redrive {info.id}: {info.done:,} of {count(info.total, 'job')}; the workers go on with it.")
    else:
        say(f"{count(info.done, 'job')} retried.")
    return code or _missing(ids, info.total)


def _all(found: int, limit: int | None) -> str:
    return count(found, "dead job") if limit is None or limit >= found else f"{limit:,} of {count(found, 'dead job')}"


def _watch(app: Windlass, redrive: Redrive, advance: Callable[[int, int], None]) -> int:
    if not any(worker.alive for worker in app.workers()):
        note("No worker is alive; the redrive starts when a worker does.")
    try:
        while not redrive.wait(0.5):
            advance(redrive.done, redrive.total)
    except KeyboardInterrupt:
        note(f"Redrive {redrive.id} continues; stop it with: windlass dead redrives --stop {redrive.id}")
        return INTERRUPTED
    return 0


def _missing(ids: tuple[str, ...], found: int) -> int:
    if len(set(ids)) <= found:
        return 0
    note(f"windlass: {len(set(ids)) - found} of {count(len(set(ids)), 'id')} are not dead jobs")
    return FAILED


@dead.command()
@click.option("--stop", metavar="ID", help="Stop this redrive.")
@pass_session
def redrives(session: Session, stop: str | None) -> int:
    """List running redrives and those of the last day, or stop one."""
    app = session.store()
    found = [one for one in app.dead.redrives() if stop is None or one.id == stop]
    if stop is not None and not found:
        note(f"windlass: there is no redrive {stop}")
        return FAILED
    if stop is not None:
        found[0].stop()
    infos = [one.info() for one in found]
    now = app.clock.wall_ms()
    if session.json:
        emit_json(infos)
    elif infos:
        columns = [Column("Id"), Column("State"), Column("Done", right=True), Column("Total", right=True)]
        columns += [Column("Rate", right=True), Column("Started")]
        rows = [
            [info.id, info.state, f"{info.done:,}", f"{info.total:,}", f"{info.rate:g}/s", ago(info.started_at, now)]
            for info in infos
        ]
        table(columns, rows)
    else:
        note("No redrives to show.")
    return 0


# -- editing and deleting ----------------------------------------------------------------------------------


@dead.command()
@click.argument("job_id", metavar="ID")
@click.argument("args_json", metavar="ARGS_JSON")
@click.option("--retry", "again", is_flag=True, help="Run it at once.")
@pass_session
def edit(session: Session, job_id: str, args_json: str, again: bool) -> int:
    """Replace the arguments of a dead job. Needs the application.

    ARGS_JSON is a JSON list that replaces the positional arguments, or an object that replaces the named ones. They are
    checked as at enqueue. The job stays dead unless --retry is given.
    """
    from windlass.cli.enqueue import _arguments

    app = session.store(needs_app=True)
    job = app.get(job_id)
    if job is None or job.state != "dead":
        note(f"windlass: job {job_id} is {'not kept here' if job is None else f'{job.state}, not dead'}")
        return FAILED
    args, kwargs = _arguments(app.registry.get(job.name), args_json)
    named = args_json.lstrip().startswith("{")
    info = app.dead.edit(job_id, None if named else args, kwargs if named else None, retry=again)
    if session.json:
        emit_json(info)
    else:
        say(f"{job_id} edited, {info.state}")
    return 0


@dead.command(short_help="Delete dead jobs for good.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filtered
@click.option("--all", "everything", is_flag=True, help="All dead jobs.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def discard(session: Session, /, ids: tuple[str, ...], everything: bool, yes: bool, **options: str | None) -> int:
    """Delete dead jobs for good. Asks first, unless ids are given."""
    app = session.store()
    filters = filters_of(options)
    _needs_choice(ids, filters, everything)
    found = app.dead.count(ids or None, **filters)
    if found and not ids:
        confirm(f"Delete {count(found, 'dead job')} of {app.engine.info.name} {app.engine.info.target}?", yes)
    if everything:
        filters["before"] = 0
    with _bar("Discard") as advance:
        gone = app.dead.discard(ids or None, on_progress=advance, **filters)
    if session.json:
        emit_json({"discarded": gone})
    else:
        say(f"{count(gone, 'job')} discarded.")
    return _missing(ids, found)


# -- files -------------------------------------------------------------------------------------------------


@dead.command()
@click.argument("path", metavar="FILE")
@filtered
@click.option("--reveal", is_flag=True, help="Show redacted arguments; only then can their lines be loaded again.")
@pass_session
def export(session: Session, /, path: str, reveal: bool, **options: str | None) -> None:
    """Write dead jobs to FILE as lines of JSON. They stay in the store; - is stdout."""
    app = session.store()
    filters = filters_of(options)
    if path == "-" or descriptor_of(path) == 1:
        for line in app.dead.lines(reveal=reveal, **filters):
            click.echo(escaped(line.decode()), nl=False)
        return
    with _bar("Export") as advance, _file_errors(path):
        written = app.dead.export(path, reveal=reveal, on_progress=advance, **filters)
    if session.json:
        emit_json({"exported": written, "path": path})
    else:
        say(f"{count(written, 'job')} exported to {path}.")


@dead.command()
@click.argument("path", metavar="FILE")
@pass_session
def load(session: Session, path: str) -> None:
    """Put the dead jobs of FILE back into the store. Jobs that are in the store already are left alone."""
    app = session.store(create=True)
    seen = 0
    with _bar("Load") as advance, _file_errors(path):

        def progress(done: int, total: int) -> None:
            nonlocal seen
            seen = done
            advance(done, total)

        stored = app.dead.load(path, on_progress=progress)
    if session.json:
        emit_json({"loaded": stored, "present": seen - stored})
    else:
        also = f"; {count(seen - stored, 'job')} had a record" if seen > stored else ""
        say(f"{count(stored, 'job')} loaded{also}.")


@contextlib.contextmanager
def _file_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        note(f"windlass: {path}: {error.strerror}")
        raise click.exceptions.Exit(WRONG_USE) from error


def _needs_choice(ids: tuple[str, ...], filters: DeadFilters, everything: bool) -> None:
    if bool(ids) + bool(filters) + everything != 1:
        raise click.UsageError("say which jobs: ids, a filter such as --group, or --all")


@contextlib.contextmanager
def _bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, from the first that is known of the length."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    with click.progressbar(length=0, label=label, file=sys.stderr, show_pos=True) as bar:

        def advance(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield advance
