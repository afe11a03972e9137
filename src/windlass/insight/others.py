"""What a job has to do with others, in words: what it is a part of, what it waits for, why it was skipped.

Pure over what an engine's Inspector answers. Invariant: a join is never named by its id where it is one of ours; who
reads this knows steps, batches, chains and jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from windlass.core.join import SKIPPED
from windlass.core.model import State
from windlass.core.rows import JobFilter, JobRow, JoinRow, Member
from windlass.core.units import shown
from windlass.engines.base import Inspector
from windlass.flow import batch
from windlass.flow.reading import facts_of, members_of
from windlass.flow.steps import edge_of, workflow_join
from windlass.jobs.reader import facts_of as meta_of

__all__ = ["batch_title", "composition_of", "part_of", "waits_for_others", "why_skipped", "workflow_title"]

SHOWN: Final = 3
COMMANDS: Final = {"workflow": "workflows", "batch": "batches"}
WHEN: Final = {
    "succeeded": "all have succeeded", "failed": "all have failed", "any_failed": "one has failed",
    "finished": "all have ended",
}  # fmt: skip


def workflow_title(id: str, engine: Inspector) -> str:
    """The name of a workflow, and its id."""
    (row,) = engine.joins([workflow_join(id)])
    return id if row is None else f"{facts_of(row).name} ({id})"


def batch_title(id: str, engine: Inspector) -> str:
    """The name of a batch, and its id."""
    (row,) = engine.joins([batch.batch_join(id)])
    return id if row is None else f"{batch.facts_of(row).name} ({id})"


def composition_of(id: str, engine: Inspector) -> list[str]:
    """The workflow or the batch that has this id, for somebody who takes it for that of a job."""
    rows = engine.joins([workflow_join(id), batch.batch_join(id)])
    words = [word for word, row in zip(("workflow", "batch"), rows, strict=True) if row is not None]
    return [f"There is a {word} of this id: `windlass {COMMANDS[word]} show {id}`." for word in words]


def part_of(row: JobRow, engine: Inspector) -> list[str]:
    """Which step of which workflow it is, and of which batches it is a job."""
    facts = meta_of(row)
    said = []
    if facts.step is not None:
        title = workflow_title(facts.step.workflow, engine)
        said.append(f"It is step {shown(facts.step.name)} of workflow {title}.")
    if facts.batches:
        titles = (f"batch {batch_title(id, engine)}" for id in facts.batches)
        said.append(f"It is a job of {', in '.join(titles)}.")
    return said


def waits_for_others(join: str, row: JobRow, engine: Inspector) -> list[str]:
    """What a job waits for at a join."""
    (found,) = engine.joins([join])
    if found is None:
        return [f"waits for other jobs, and the store has no record of which ({join})."]
    kind, _, rest = join.partition(":")
    left, of = f"{found.tally.open:,}", f"{found.tally.total:,}"
    step = meta_of(row).step
    match kind:
        case "edge" if step is not None:
            when = WHEN.get(step.when, step.when)
            return [f"waits for {left} of {of} steps: {_open(found, engine)}.", f"It runs when {when}."]
        case "items":
            return [f"waits for {left} of the {of} jobs that it made: {_open(found, engine)}."]
        case "undo" if step is not None and rest == step.workflow:
            return [f"waits for {left} of {of} steps that undo others: {_open(found, engine)}."]
        case "forward":
            return [f"waits for {left} of {of} steps to end: {_open(found, engine)}."]
        case "workflow":
            title = workflow_title(rest, engine)
            return [f"waits for workflow {title}, which it runs: {left} of {of} steps have not ended."]
        case "batch":
            more = "" if found.tally.sealed else ", and it takes more"
            return [f"waits for batch {batch_title(rest, engine)}: {left} of {of} jobs have not ended{more}."]
        case "chain":
            return [f"waits for the job before it in its chain: {_open(found, engine)}."]
        case _:
            return [f"waits for {left} of {of} jobs to end: {_open(found, engine)}."]


def why_skipped(row: JobRow, engine: Inspector) -> list[str]:
    """What a step that was skipped had waited for."""
    step = meta_of(row).step
    if step is None or row.reason != SKIPPED:
        return []
    (found,) = engine.joins([edge_of(step.workflow, step.name)])
    if found is None:
        return []

    def counts(member: Member) -> bool:
        return step.when != "succeeded" or member.end is not State.DONE

    return [f"It was to run when {WHEN.get(step.when, step.when)}: {_named(found, counts, engine)}."]


def _open(found: JoinRow, engine: Inspector) -> str:
    return _named(found, lambda member: member.end is None, engine, found.tally.open)


def _named(found: JoinRow, wanted: Callable[[Member], bool], engine: Inspector, of: int | None = None) -> str:
    """Some members of a join with their states, and how many more there are of ``of``."""
    all_wanted = (member for page in members_of(engine, found.id) for member in page if wanted(member))
    members = list(islice(all_wanted, SHOWN))
    more = 0 if of is None else of - len(members)
    if of is None and next(all_wanted, None) is not None:
        return f"{', '.join(_names(members, engine))} and others"
    return ", ".join(_names(members, engine)) + (f" and {more:,} more" if more > 0 else "")


def _names(members: list[Member], engine: Inspector) -> Iterator[str]:
    rows, _ = engine.jobs(JobFilter(ids=tuple(member.id for member in members)), None, max(1, len(members)))
    by_id = {row.id: row for row in rows}
    for member in members:
        if (row := by_id.get(member.id)) is None:
            yield f"job {member.id} ({member.end or 'no record'})"
        elif (step := meta_of(row).step) is not None:
            yield f"{shown(step.name)} ({row.state})"
        else:
            yield f"job {row.id} ({row.name}, {row.state})"
