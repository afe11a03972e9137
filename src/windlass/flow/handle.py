"""A stored workflow: what people ask of it and do to it.

Must not decide how it goes on; it moves steps and leaves the rest to their joins. Invariants: steps are called off from
the last to the first, so none is let go by the end of another; what it says is what is stored at that moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from windlass.core.aio import hop, own_thread
from windlass.core.clock import from_ms
from windlass.core.errors import ConfigError, JobCancelled, JobFailed, ResultExpired, ResultTimeout, TransitionRefused
from windlass.core.join import SKIPPED
from windlass.core.model import NewJoin, State, Written
from windlass.core.rows import Action, JobRow, JoinRow
from windlass.core.spelling import spelled
from windlass.core.units import Duration, duration_ms, nearest
from windlass.engines.base import Inspector
from windlass.flow.members import FlowProgress, eta_of
from windlass.flow.reading import ReadStep, ReadWorkflow, WorkflowState, facts_of, own_of, read_workflow
from windlass.flow.steps import UNDO, edge_of, workflow_join
from windlass.flow.stuck import why_stalled
from windlass.flow.workflow import Workflow, app_of
from windlass.jobs.call import Call, Enqueuer
from windlass.jobs.handle import JobHandle
from windlass.jobs.info import Page
from windlass.jobs.reader import Reader
from windlass.logs import Log

if TYPE_CHECKING:
    from windlass.jobs.call import Storer

__all__ = ["StepInfo", "WorkflowHandle", "WorkflowInfo", "astart", "list_workflows", "start"]

CHUNK: Final = 1_000  # steps moved at once
PASSES: Final = 3  # of a cancel: steps that run may have added others meanwhile
WAIT_SLICE: Final = 5.0  # seconds; one wait of the engine
WATCHED: Final = 100  # steps that one wait looks at

log = Log("windlass.client")


@dataclass(frozen=True, slots=True)
class StepInfo:
    """One step at one moment. ``state`` is that of its job, or ``skipped``; None: the store has lost its record.

    ``parent`` is the step that added it while it ran; ``workflow`` the one that it runs. ``waits_for`` are the steps
    that it still waits for, also those that it has made itself, or the gate of a guard.
    """

    name: str
    id: str
    job: str
    state: str | None
    after: tuple[str, ...]
    when: str
    parent: str
    workflow: str
    attempt: int
    reason: str | None
    error: str | None
    enqueued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    waits_for: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """A workflow at one moment. ``stalled`` says why it does not get on; None: it does, or has ended."""

    id: str
    name: str
    state: WorkflowState
    progress: FlowProgress
    started_at: datetime
    moved_at: datetime
    ended_at: datetime | None
    stalled: str | None
    steps: tuple[StepInfo, ...]
    parent: str

    @property
    def eta(self) -> timedelta | None:
        """How long it will take, if the rest goes as fast as what has ended; None: it has ended, or nobody can tell."""
        return eta_of(self.progress, self.moved_at - self.started_at)


@spelled
class WorkflowHandle(Struct, frozen=True, eq=False):
    """A stored workflow. ``duplicate``: one of this id was there, and nothing new was stored."""

    id: str
    duplicate: bool
    app: Enqueuer

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self.id}{' duplicate' if self.duplicate else ''}>"

    def info(self) -> WorkflowInfo:
        """Give the workflow with its steps as it stands. *Blocking.* Raises ResultExpired when none is kept."""
        return info_of(self._client, self._read())

    async def ainfo(self) -> WorkflowInfo:
        """Give the workflow with its steps as it stands; see ``info``."""
        return await hop(self.info)

    @property
    def state(self) -> WorkflowState:
        """``running``, ``succeeded``, ``failed`` or ``cancelled``. *Blocking*; async code asks ``ainfo``."""
        return self._read().state

    def steps(self) -> tuple[StepInfo, ...]:
        """Give its steps, in the order in which they were added. *Blocking.* Raises as ``info``."""
        return self.info().steps

    async def asteps(self) -> tuple[StepInfo, ...]:
        """Give its steps; see ``steps``."""
        return await hop(self.steps)

    def progress(self) -> FlowProgress:
        """Say how many steps have ended, and how. *Blocking.* Raises as ``info``."""
        return FlowProgress.of(self._row().tally)

    async def aprogress(self) -> FlowProgress:
        """Say how many steps have ended; see ``progress``."""
        return await hop(self.progress)

    def step(self, name: str) -> JobHandle[object]:
        """Give the handle of the job that a step is. *Blocking.* Raises ConfigError for a name that no step has."""
        return JobHandle(self._step(self._read(), name).id, False, self._client.reader)

    async def astep(self, name: str) -> JobHandle[object]:
        """Give the handle of the job that a step is; see ``step``."""
        return await hop(lambda: self.step(name))

    def result(self, timeout: Duration | None = None) -> dict[str, object]:
        """Wait for the end and give the results of the last steps (those no other waits for), by name. *Blocking.*

        They are plain data; a step that was skipped is not among them. Raises JobFailed when the workflow has failed,
        JobCancelled when it was cancelled, ResultTimeout, and ResultExpired when no record of it is kept.
        """
        return self._result(timeout, None)

    async def aresult(self, timeout: Duration | None = None) -> dict[str, object]:
        """Wait for the end without blocking the event loop; see ``result``."""
        given_up = threading.Event()
        try:
            return await own_thread(lambda: self._result(timeout, given_up))
        finally:
            given_up.set()

    def _result(self, timeout: Duration | None, given_up: threading.Event | None) -> dict[str, object]:
        deadline = None if timeout is None else time.monotonic() + duration_ms(timeout, "timeout") / 1_000
        while not self._row().tally.has_ended and not (given_up is not None and given_up.is_set()):
            left = WAIT_SLICE if deadline is None else min(WAIT_SLICE, deadline - time.monotonic())
            if left <= 0:
                raise ResultTimeout(
                    f"workflow {self.id} did not end within {timeout}; it goes on, so ask again later", self.id
                )
            running = [step.id for step in self._read().steps if not step.has_ended]
            self._engine.wait_finished(running[:WATCHED], left)
        found = self._read()
        match found.state:
            case "succeeded":
                return {step.name: step.result for step in found.leaves if step.state is State.DONE}
            case "cancelled":
                raise JobCancelled(f"workflow {found.name} {self.id} was cancelled", self.id)
            case _:
                raise JobFailed(f"workflow {found.name} {self.id} {found.state}{found.because}", self.id)

    # -- moving ----------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Call off the workflow: steps that wait end at once, those that run are asked to stop. *Blocking.*

        Nothing is undone. Raises ResultExpired when no record of it is kept; one that has ended stays as it is.
        """
        cancel_workflow(self._engine, self.id)

    async def acancel(self) -> None:
        """Call off the workflow; see ``cancel``."""
        await hop(self.cancel)

    def retry(self, step: str | None = None) -> list[str]:
        """Run a dead step again, or every one; give the names. Steps that were skipped for it wait again. *Blocking.*

        Of a step that expands a result or runs a workflow, what failed in it runs again. Raises TransitionRefused when
        there is nothing to run again or the steps are being undone, and ConfigError for a name that no step has.
        """
        found = self._read()
        if any(one.facts.parent == UNDO for one in found.steps):
            raise TransitionRefused(f"workflow {self.id}: its steps are undone since it failed; start a new one")
        wanted = [self._step(found, step)] if step is not None else [one for one in own_of(found.steps) if is_dead(one)]
        ids: list[str] = []
        for one in wanted:
            if not is_dead(one):
                raise TransitionRefused(
                    f"workflow {self.id}: step {one.name!r} is {shown(one)}; a dead one can be retried"
                )
            ids += [inner.id for inner in found.steps if inner.facts.parent == one.name and is_dead(inner)]
            if one.facts.sub:
                inner_flow = read_workflow(self._engine, one.facts.sub)
                if inner_flow is not None and any(map(is_dead, inner_flow.steps)):
                    WorkflowHandle(one.facts.sub, False, self.app).retry()
            ids.append(one.id)
        if not ids:
            raise TransitionRefused(f"workflow {self.id} has no dead step; its state is {found.state}")
        looks = [one.id for one in found.steps if one.name == UNDO and one.was_skipped]  # if this goes wrong again
        move(self._engine, Action.RETRY, [*ids, *looks])
        return [one.name for one in wanted]

    async def aretry(self, step: str | None = None) -> list[str]:
        """Run dead steps again; see ``retry``."""
        return await hop(lambda: self.retry(step))

    def skip(self, step: str) -> None:
        """End a step that waits without running it: those behind it go on, or are skipped, by their ``when``.

        *Blocking.* Raises TransitionRefused for one that runs or has ended, ConfigError for a name that no step has.
        """
        one = self._step(self._read(), step)
        if one.state not in (State.READY, State.SCHEDULED, State.BLOCKED):
            raise TransitionRefused(f"workflow {self.id}: step {step!r} is {shown(one)}; one that waits can be skipped")
        (moved,) = self._engine.transition(Action.SKIP, [one.id])
        if not moved.applied:
            raise TransitionRefused(
                f"workflow {self.id}: step {step!r} is {moved.before} now; one that waits can be skipped"
            )

    async def askip(self, step: str) -> None:
        """End a step that waits without running it; see ``skip``."""
        await hop(lambda: self.skip(step))

    # -- below -----------------------------------------------------------------------------------------

    @property
    def _client(self) -> Storer:
        return self.app.client

    @property
    def _engine(self) -> Inspector:
        return self.app.client.engine

    def _row(self) -> JoinRow:
        (row,) = self._engine.joins([workflow_join(self.id)])
        if row is None:
            raise gone(self.id)
        return row

    def _read(self) -> ReadWorkflow:
        found = read_workflow(self._engine, self.id)
        if found is None:
            raise gone(self.id)
        return found

    def _step(self, found: ReadWorkflow, name: str) -> ReadStep:
        for one in found.steps:
            if one.name == name:
                return one
        names = [one.name for one in found.steps]
        raise ConfigError(f"workflow {self.id} has no step {name!r}{nearest(name, names) or f'; it has {names[:20]}'}")


def gone(id: str) -> ResultExpired:
    """The error for a workflow that is not there."""
    return ResultExpired(
        f"there is no workflow {id!r}: it never was, or it ended longer ago than keep_done; check the id", id
    )


def is_dead(step: ReadStep) -> bool:
    return step.state is State.DEAD


def shown(step: ReadStep) -> str:
    """The state of a step, in a word."""
    return SKIPPED if step.was_skipped else str(step.state or "lost")


# -- starting ----------------------------------------------------------------------------------------------------------


def start(app: Enqueuer, workflow: Workflow, connection: object) -> WorkflowHandle:
    """Store a workflow; see ``app.start``."""
    client = app.client
    calls, joins = composed(app, workflow, connection)
    return handle_of(app, workflow, client.compose(calls, joins))


async def astart(app: Enqueuer, workflow: Workflow, connection: object) -> WorkflowHandle:
    """Store a workflow without blocking the event loop; see ``app.start``."""
    calls, joins = composed(app, workflow, connection)
    written = await app.client.acompose(calls, joins)
    return await hop(lambda: handle_of(app, workflow, written))


def composed(app: Enqueuer, workflow: Workflow, connection: object) -> tuple[Sequence[Call[object]], Sequence[NewJoin]]:
    """What is stored of a workflow, by this application."""
    if not isinstance(workflow, Workflow):
        raise ConfigError(f"start(): {workflow!r} is no Workflow")
    theirs = app_of(workflow)
    if theirs is not None and theirs is not app:
        raise ConfigError(f"start(): the steps of {workflow!r} are of {theirs!r}, and not of {app!r}")
    calls, joins = workflow.composed(app.client.settings)
    return [replace(call, connection=connection) for call in calls], joins


def handle_of(app: Enqueuer, workflow: Workflow, written: Written) -> WorkflowHandle:
    """The handle of what was stored, or is there."""
    if written.lost:
        (row,) = app.client.engine.joins([workflow_join(workflow.id)])
        if row is not None and facts_of(row).name != workflow.name:
            log.warning(
                "workflow %s exists as %r; it goes on as it is, and this start of %r is ignored",
                workflow.id, facts_of(row).name, workflow.name,
            )  # fmt: skip
    return WorkflowHandle(workflow.id, written.lost, app)


# -- describing --------------------------------------------------------------------------------------------------------


def info_of(client: Storer, found: ReadWorkflow) -> WorkflowInfo:
    """What people see of a workflow."""
    row = found.row
    open_steps = {step.name: step.facts.parent for step in found.steps if not step.has_ended}
    return WorkflowInfo(
        id=found.id,
        name=found.name,
        state=found.state,
        progress=FlowProgress.of(row.tally),
        started_at=from_ms(row.made_at),
        moved_at=from_ms(row.moved_at),
        ended_at=None if row.ended_at is None else from_ms(row.ended_at),
        stalled=why_stalled(client.engine, found),
        steps=tuple(step_info(step, open_steps, client.reader) for step in found.steps),
        parent=found.facts.parent,
    )


def step_info(step: ReadStep, open_steps: Mapping[str, str], reader: Reader) -> StepInfo:
    """What people see of a step; what is redacted shows up in no error or reason.

    ``open_steps`` are those that have not ended, each with the step that added it.
    """
    row, facts = step.row, step.facts
    told = None if row is None or (row.errors is None and row.reason is None) else reader.describe(row)
    last = None if told is None or not told.errors else told.errors[-1]
    return StepInfo(
        name=step.name,
        id=step.id,
        job="" if row is None else row.name,
        state=SKIPPED if step.was_skipped else step.state,
        after=facts.after,
        when=facts.when,
        parent=facts.parent,
        workflow=facts.sub,
        attempt=0 if row is None else row.attempt,
        reason=None if told is None else told.reason,
        error=None if last is None else f"{last.type.rpartition('.')[2]}: {last.message}",
        enqueued_at=None if row is None else from_ms(row.enqueued_at),
        started_at=None if row is None or row.started_at is None or row.held else from_ms(row.started_at),
        finished_at=None if row is None or row.finished_at is None else from_ms(row.finished_at),
        waits_for=() if row is None or row.state is not State.BLOCKED else waits_of(step, row, open_steps),
    )


def waits_of(step: ReadStep, row: JobRow, open_steps: Mapping[str, str]) -> tuple[str, ...]:
    """What a blocked step waits for, by name: those before it, those that it has made, or the gate of a guard."""
    kind, _, join = (row.blocked_by or "").partition(":")
    if kind != "join":
        return (row.blocked_by or "",)
    if join == edge_of(step.facts.workflow, step.name):
        return tuple(name for name in step.facts.after if name in open_steps)
    return tuple(name for name, parent in open_steps.items() if parent == step.name)


def list_workflows(
    app: Enqueuer, state: WorkflowState | None, stalled: bool, limit: int, cursor: str | None
) -> Page[WorkflowInfo]:
    """A page of the workflows that are no steps of others; see ``app.workflows``."""
    states = ("running", "succeeded", "failed", "cancelled")
    if state is not None and state not in states:
        raise ConfigError(f"workflows(state={state!r}): it is one of {', '.join(states)}{nearest(str(state), states)}")
    engine = app.client.engine
    rows, following = engine.list_joins(workflow_join(""), cursor, limit)
    found = []
    for row in rows:
        if facts_of(row).parent or (row.tally.has_ended and (stalled or state == "running")):
            continue
        if not row.tally.has_ended and state not in (None, "running"):
            continue
        read = read_workflow(engine, row.id.removeprefix(workflow_join("")))
        if read is not None and state in (None, read.state):
            info = info_of(app.client, read)
            if info.stalled or not stalled:
                found.append(info)
    return Page(tuple(found), following)


# -- moving ------------------------------------------------------------------------------------------------------------


def move(engine: Inspector, action: Action, ids: Sequence[str]) -> None:
    for begin in range(0, len(ids), CHUNK):
        engine.transition(action, ids[begin : begin + CHUNK])


def cancel_workflow(engine: Inspector, id: str) -> None:
    """Call off a workflow, the last step first, and the workflows that are steps of it."""
    for _ in range(PASSES):
        found = read_workflow(engine, id)
        if found is None:
            raise gone(id)
        waiting = [step for step in found.steps if not step.has_ended]
        move(engine, Action.CANCEL, [step.id for step in reversed(waiting)])
        for step in waiting:
            if step.facts.sub:
                (row,) = engine.joins([workflow_join(step.facts.sub)])
                if row is not None and not row.tally.has_ended:
                    cancel_workflow(engine, step.facts.sub)
        if all(step.state is State.RUNNING for step in waiting):
            return
