"""What a workflow is, from what is stored: its steps, how they have ended, and what that makes of the whole.

Reads only. Invariant: a workflow has no state of its own; it follows from the ends of its steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from windlass.core.codec import decode_plain
from windlass.core.errors import PayloadError
from windlass.core.join import SKIPPED, SKIPPED_BY_HAND
from windlass.core.meta import StepFacts, decode_meta
from windlass.core.model import FINISHED, State
from windlass.core.rows import JobFilter, JobRow, JoinRow, Member
from windlass.engines.base import Inspector
from windlass.flow.steps import UNDO, workflow_join

__all__ = [
    "PAGE",
    "ReadStep",
    "ReadWorkflow",
    "WorkflowFacts",
    "WorkflowState",
    "facts_of",
    "members_of",
    "read_steps",
    "read_workflow",
    "state_of",
]

PAGE: Final = 1_000

WorkflowState: TypeAlias = Literal["running", "succeeded", "failed", "cancelled"]


class WorkflowFacts(Struct, frozen=True, omit_defaults=True):
    """What the join of a workflow says of it. ``parent`` is the workflow that it is a step of."""

    name: str = ""
    stall_ms: int | None = None
    on_stall: str = "alert"
    deadline_ms: int | None = None
    parent: str = ""


def facts_of(row: JoinRow) -> WorkflowFacts:
    """What a join says of its workflow."""
    return msgspec.json.decode(row.meta or "{}", type=WorkflowFacts)


@dataclass(frozen=True, slots=True)
class ReadStep:
    """A step and its job. ``row`` is None where no record is there, which is a fault of the store."""

    id: str
    facts: StepFacts
    row: JobRow | None
    end: State | None  # as the join has it

    @property
    def name(self) -> str:
        """Its name in the workflow."""
        return self.facts.name

    @property
    def state(self) -> State | None:
        """The state of its job."""
        return self.end if self.row is None else self.row.state

    @property
    def result(self) -> object:
        """What it returned, as plain data."""
        return decode_plain((None if self.row is None else self.row.result) or b"null")

    @property
    def has_ended(self) -> bool:
        """Whether it has, in any way."""
        return self.state in FINISHED

    @property
    def was_skipped(self) -> bool:
        """Whether it ended for what it waited for, or was skipped by hand."""
        return (
            self.row is not None and self.row.state is State.CANCELLED and self.row.reason in (SKIPPED, SKIPPED_BY_HAND)
        )


@dataclass(frozen=True, slots=True)
class ReadWorkflow:
    """A workflow and its steps at one moment."""

    id: str
    facts: WorkflowFacts
    row: JoinRow
    steps: tuple[ReadStep, ...]

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def state(self) -> WorkflowState:
        """Where the whole stands."""
        return "running" if not self.row.tally.has_ended else state_of(self.steps)

    @property
    def leaves(self) -> list[ReadStep]:
        """The steps that no other one waits for."""
        return leaves_of(self.steps)

    @property
    def because(self) -> str:
        """The first of the steps that keep it from having succeeded, behind the words that say so."""
        step = next((step for step in self.steps if step.state is State.DEAD), None)
        return "" if step is None else f": step {step.name!r}, job {step.id}, is dead"


def members_of(engine: Inspector, join: str) -> Iterator[list[Member]]:
    """The members of a join, in pages."""
    cursor: str | None = None
    while True:
        members, cursor = engine.members(join, cursor, PAGE)
        if members:
            yield members
        if cursor is None:
            return


def read_steps(engine: Inspector, join: str) -> list[ReadStep]:
    """The members of a join as steps, in the order of the workflow."""
    steps = []
    for members in members_of(engine, join):
        ids = tuple(member.id for member in members)
        rows, _ = engine.jobs(JobFilter(ids=ids), None, len(ids))
        by_id = {row.id: row for row in rows}
        steps += [_step(member, by_id.get(member.id)) for member in members]
    return sorted(steps, key=lambda step: (step.facts.parent, step.facts.number, step.id))


def _step(member: Member, row: JobRow | None) -> ReadStep:
    facts = None
    if row is not None:
        try:
            facts = decode_meta(row.meta).step
        except PayloadError:
            pass  # nobody can read what it says of itself
    if facts is None:  # another job stands for the step, or its record is lost
        facts = StepFacts("", member.id if row is None else row.name)
    return ReadStep(member.id, facts, row, member.end)


def read_workflow(engine: Inspector, id: str) -> ReadWorkflow | None:
    """A workflow by id; None: there is none, or no record of it is kept."""
    join = workflow_join(id)
    (row,) = engine.joins([join])
    return None if row is None else ReadWorkflow(id, facts_of(row), row, tuple(read_steps(engine, join)))


def leaves_of(steps: Sequence[ReadStep]) -> list[ReadStep]:
    """The steps that no other one waits for, but for those that were made while it ran, and what undoes others."""
    waited = {name for step in steps for name in step.facts.after} | {UNDO}
    return [step for step in steps if not step.facts.parent and step.name not in waited]


def state_of(steps: Iterable[ReadStep]) -> WorkflowState:
    """What has become of steps that have all ended.

    A failure is dealt with when a step that waits for it (``when`` failed or any_failed) is done. One that is not makes
    the whole failed, and a step that somebody called off makes it cancelled. Jobs that a step made are its own matter.
    """
    own = [step for step in steps if not step.facts.parent]
    dealt_with = {
        name
        for step in own
        if step.facts.when in ("failed", "any_failed") and step.state is State.DONE
        for name in step.facts.after
    }
    if any(step.state is State.DEAD and step.name not in dealt_with for step in own):
        return "failed"
    if any(step.state is State.CANCELLED and not step.was_skipped for step in own):
        return "cancelled"
    return "succeeded"
