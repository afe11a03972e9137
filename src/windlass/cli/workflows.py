"""``windlass workflows``: look at workflows, as a list, as a tree that can be watched and as a graph, and move them.

All of it goes through ``app.workflows`` and ``app.workflow``. Invariant: a picture for documents is all that stands on
stdout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click

from windlass.cli.common import Commands, Session, pass_session
from windlass.cli.exits import FAILED
from windlass.cli.flows import as_json, follow, left, progress_text, some, took
from windlass.cli.live import first_of
from windlass.cli.output import (
    Column,
    ago,
    count,
    emit_json,
    fit,
    length,
    lines,
    moment,
    note,
    printable,
    record,
    say,
    short,
    table,
)
from windlass.core.clock import from_ms
from windlass.core.errors import ResultExpired
from windlass.core.join import SKIPPED
from windlass.core.model import State
from windlass.core.units import duration_ms
from windlass.flow.drawing import (
    ALL,
    LOST,
    SOME,
    Line,
    Most,
    draw_dot,
    draw_mermaid,
    draw_tree,
    state_of,
    took_ms,
)
from windlass.flow.steps import step_id

if TYPE_CHECKING:
    from windlass.app import Windlass
    from windlass.flow.handle import StepInfo, WorkflowHandle, WorkflowInfo
    from windlass.jobs.info import Page

__all__ = ["workflows"]

NOTE_MAX: Final = 200  # characters: the last column is folded where a terminal has no room

COLUMNS: Final = (
    Column("Step", least=12),
    Column("State"),
    Column("Waited", right=True, extra=True),
    Column("Took", right=True),
    Column("After", least=8),
    Column("Note", least=12),
)


@dataclass(frozen=True, slots=True)
class Look:
    """A workflow and those that are steps of it, at one moment."""

    info: WorkflowInfo
    subs: Mapping[str, WorkflowInfo]
    now: int


@click.group(cls=Commands)
def workflows() -> None:
    """List, show, watch, draw, cancel and retry workflows."""


@workflows.command("ls")
@click.option("--stalled", is_flag=True, help="Only those in which nothing can move, or nothing moves for too long.")
@click.option("--state", metavar="STATE", help="One of running, succeeded, failed, cancelled.")
@click.option("--limit", type=int, default=100, show_default=True, metavar="N", help="How many at most.")
@click.option("--cursor", metavar="CURSOR", help="Continue after the previous page.")
@pass_session
def ls(session: Session, stalled: bool, state: str | None, limit: int, cursor: str | None) -> None:
    """List workflows by id, but for those that are steps of others."""
    app = session.store()
    page = _page(app, state, stalled, limit, cursor)
    now = app.clock.wall_ms()
    if session.json:
        emit_json([as_json(info) for info in page])
    elif page.items:
        columns = [Column(each) for each in ("Id", "Workflow", "State")]
        columns += [Column("Ended", right=True), Column("Started"), Column("Note")]
        table(columns, [_row(info, now) for info in page])
    else:
        note(f"No workflows to show in {app.engine.info.name} {app.engine.info.target}.")
    if page.next is not None:
        note(f"For more workflows: --cursor {page.next}")


def _page(app: Windlass, state: str | None, stalled: bool, limit: int, cursor: str | None) -> Page[WorkflowInfo]:
    """The next page that has something in it, if there is one."""
    while True:
        page = app.workflows(state, stalled=stalled, limit=limit, cursor=cursor)  # type: ignore[arg-type]
        if page.items or page.next is None:
            return page
        cursor = page.next


def _row(info: WorkflowInfo, now: int) -> list[str]:
    ended = f"{info.progress.ended:,} of {info.progress.total:,}"
    dead = [step.name for step in info.steps if step.state == State.DEAD and not step.parent]
    parts = [f"dead: {some(dead)}"] if dead and info.state != "succeeded" else []
    parts.append(took(info.started_at, info.ended_at) or left(info.eta))
    text = "; ".join(filter(None, parts)) if info.stalled is None else f"stalled: {info.stalled}"
    return [info.id, info.name, info.state, ended, ago(info.started_at, now), short(text)]


# -- showing -----------------------------------------------------------------------------------------------


@workflows.command()
@click.argument("workflow_id", metavar="ID")
@click.option("--watch", is_flag=True, help="Follow it until it ends; exit 0 when it has succeeded, else 1.")
@click.option("--every", default="1s", show_default=True, metavar="DURATION", help="With --watch: how often to look.")
@click.option("--mermaid", is_flag=True, help="Print the graph for Mermaid.")
@click.option("--dot", is_flag=True, help="Print the graph for Graphviz.")
@click.option("--all", "everything", is_flag=True, help="Show every step, however many there are.")
@pass_session
def show(
    session: Session, workflow_id: str, watch: bool, every: str, mermaid: bool, dot: bool, everything: bool
) -> int:
    """Show a workflow and its steps.

    Each stands above the steps that it made while it ran and those of the workflow that it runs.
    """
    if sum((session.json, mermaid, dot)) > 1 or (watch and (mermaid or dot)):
        raise click.UsageError("give one of --json, --mermaid and --dot; --watch goes with --json alone")
    app = session.store()
    pause = max(0.05, duration_ms(every, "--every") / 1_000)
    handle = app.workflow(workflow_id)
    most = ALL if everything else SOME
    if session.json:
        info = handle.info() if not watch else _follow(app, handle, pause, quiet=True).info
        emit_json(as_json(info))
        return _code(info) if watch else 0
    seen = _follow(app, handle, pause, quiet=False) if watch else _look(app, handle)
    if mermaid or dot:
        click.echo((draw_mermaid if mermaid else draw_dot)(seen.info, seen.subs, most), nl=False)
        return 0
    record(list(_facts(seen)))
    if seen.info.steps:
        click.echo()
        table(COLUMNS, _rows(seen, draw_tree(seen.info, seen.subs, most)))
    return _code(seen.info) if watch else 0


def _look(app: Windlass, handle: WorkflowHandle) -> Look:
    info = handle.info()
    subs: dict[str, WorkflowInfo] = {}
    wanted = [info]
    while wanted:
        for step in wanted.pop().steps:
            if step.workflow and step.workflow not in subs:
                try:
                    sub = app.workflow(step.workflow).info()
                except ResultExpired:  # it has not begun
                    continue
                subs[step.workflow] = sub
                wanted.append(sub)
    return Look(info, subs, app.clock.wall_ms())


def _follow(app: Windlass, handle: WorkflowHandle, pause: float, quiet: bool) -> Look:
    return follow(
        app,
        lambda: _look(app, handle),
        lambda seen: seen.info.ended_at is not None,
        _picture,
        _headline,
        _steps,
        pause,
        quiet,
    )


def _code(info: WorkflowInfo) -> int:
    """The exit code of who watched it; one who went before its end has no complaint."""
    return 0 if info.state in ("running", "succeeded") else FAILED


def _progress(info: WorkflowInfo) -> str:
    skipped = sum(step.state == SKIPPED for step in info.steps)
    return progress_text(info.progress, "step", skipped)


def _facts(seen: Look) -> Iterator[tuple[str, str]]:
    info, now = seen.info, seen.now
    yield "Id", info.id
    yield "Workflow", info.name
    yield "State", info.state
    yield "Progress", "; ".join(filter(None, (_progress(info), left(info.eta))))
    yield "Started", moment(info.started_at, now)
    if info.ended_at is None:
        yield "Moved", moment(info.moved_at, now)
    else:
        yield "Ended", f"{moment(info.ended_at, now)}, {took(info.started_at, info.ended_at)}"
    if info.stalled is not None:
        yield "Stalled", info.stalled
    if info.parent:
        yield "Part of", f"workflow {info.parent}"


def _picture(seen: Look, columns: int, rows: int, trouble: str) -> list[str]:
    """The lines that fit a window: who needs somebody is shown first."""
    info = seen.info
    head = [trouble or f"{info.name} {info.id}: {info.state}"]
    head.append("; ".join(filter(None, (_progress(info), left(info.eta)))))
    if info.stalled is not None:
        head.append(f"stalled: {info.stalled}")
    room = rows - len(head) - 1
    tree: list[Line] = []
    for most in (SOME, Most(made=3), Most(max(0, room - 2), 0)):
        if len(tree := draw_tree(info, seen.subs, most)) < room:
            break
    body = lines(COLUMNS, _rows(seen, tree), columns) if tree else []
    return [*(fit(printable(line), columns) for line in head), "", *first_of(body, room, "line")]


def _headline(seen: Look) -> str:
    """What a line of a watched workflow says; nothing in it changes by the mere passing of time."""
    stalled = "" if seen.info.ended_at is not None or not seen.info.stalled else "; stalled"
    return f"{seen.info.id}  {seen.info.state}  {_progress(seen.info)}{stalled}"


def _steps(seen: Look) -> dict[str, str]:
    """The same for the steps, by name."""
    told = {}
    for line in draw_tree(seen.info, seen.subs, ALL):
        if (step := line.step) is not None:
            name = " > ".join((*line.within, step.name))
            told[name] = f"{state_of(step)}  {_note(step, line.info)}".rstrip()
    return told


def _rows(seen: Look, tree: list[Line]) -> list[list[str]]:
    ends = {info.id: {step.name: step.finished_at for step in info.steps} for info in (seen.info, *seen.subs.values())}
    made = []
    for line in tree:
        if (step := line.step) is None:
            made.append([line.label, "", "", "", "", ""])
            continue
        after = some(step.after) if step.when == "succeeded" else f"{step.when}: {some(step.after)}"
        waited = _waited(step, ends[line.info.id], from_ms(seen.now))
        made.append([line.label, state_of(step), waited, _took(step, seen.now), after, _note(step, line.info)])
    return made


def _waited(step: StepInfo, ends: Mapping[str, datetime | None], now: datetime) -> str:
    """How long it waited for its turn, or does: from when the last step before it had ended."""
    until = step.started_at or (now if step.finished_at is None else None)
    if step.enqueued_at is None or until is None:
        return ""
    before = [end for name in step.after if (end := ends.get(name)) is not None and end <= until]
    return length((until - max([step.enqueued_at, *before])).total_seconds() * 1_000)


def _took(step: StepInfo, now: int) -> str:
    if step.state == State.RUNNING and step.started_at is not None:
        return length(now - step.started_at.timestamp() * 1_000)
    ms = took_ms(step)
    return "" if ms is None else length(ms)


def _note(step: StepInfo, info: WorkflowInfo) -> str:
    """What one wants to know of a step in its state."""
    parts = [f"workflow {step.workflow}"] if step.workflow else []
    if step.id not in (step_id(info.id, step.name), step.name):  # it is named like its job where its record is lost
        parts.append(f"job {step.id}")
    match state_of(step):
        case State.BLOCKED:
            parts += _waits(step)
        case State.DEAD:
            parts.append(step.error or step.reason or "")
        case State.DONE | State.CANCELLED:
            parts.append(step.reason or "")
        case str(state) if state == LOST:
            parts.append("the store has no record of it")
        case str(state) if state == SKIPPED:
            parts.append("" if step.reason == SKIPPED else step.reason or "")
        case _:
            parts.append(f"attempt {step.attempt}" if step.attempt > 1 else "")
            parts.append(f"failed before: {step.error}" if step.error else step.reason or "")
    return short(", ".join(filter(None, parts)), NOTE_MAX)


def _waits(step: StepInfo) -> list[str]:
    if not step.waits_for:
        return ["waits for those below it" if step.workflow else "waits for others"]
    at_gate = ":" in step.waits_for[0] and step.waits_for[0] not in step.after
    return [f"waits {'at' if at_gate else 'for'} {some(step.waits_for)}"]


# -- moving ------------------------------------------------------------------------------------------------


@workflows.command()
@click.argument("workflow_id", metavar="ID")
@pass_session
def cancel(session: Session, workflow_id: str) -> int:
    """Cancel a workflow: steps that wait end at once, those that run are asked to stop. Nothing is undone."""
    handle = session.store().workflow(workflow_id)
    before = handle.state
    if before != "running":
        note(f"windlass: workflow {workflow_id} has ended already: {before}")
        return FAILED
    handle.cancel()
    info = handle.info()
    running = [step.name for step in info.steps if step.state == State.RUNNING]
    if session.json:
        emit_json(as_json(info))
    elif running:
        say(f"{workflow_id} asked to stop; {count(len(running), 'step runs', 'steps run')}: {some(running)}")
    else:
        say(f"{workflow_id} {info.state}")
    return 0


@workflows.command()
@click.argument("workflow_id", metavar="ID")
@click.argument("step", required=False)
@pass_session
def retry(session: Session, workflow_id: str, step: str | None) -> None:
    """Run a dead step again, or all of them. Steps that were skipped for it wait again."""
    handle = session.store().workflow(workflow_id)
    names = handle.retry(step)
    if session.json:
        emit_json(as_json(handle.info()))
    else:
        say(f"{workflow_id}: {some(names)} {'runs' if len(names) == 1 else 'run'} again")


@workflows.command()
@click.argument("workflow_id", metavar="ID")
@click.argument("step")
@pass_session
def skip(session: Session, workflow_id: str, step: str) -> None:
    """End a step that waits without running it. Those behind it go on, or are skipped, by their `when`."""
    handle = session.store().workflow(workflow_id)
    handle.skip(step)
    if session.json:
        emit_json(as_json(handle.info()))
    else:
        say(f"{workflow_id}: {step} skipped")
