"""Whether a workflow gets on: what in it can still move, and what has been lost.

Reads only. A workflow is stuck when it has not ended and nothing in it is ready, running, scheduled or waiting for
something that can still happen. It is stalled when it is stuck, or has not moved for its ``stall_after``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from windlass.core.model import State
from windlass.core.rows import JobFilter, JobRow
from windlass.core.stall import STALL, decode_stall
from windlass.core.units import show_duration
from windlass.engines.base import Inspector
from windlass.flow.reading import PAGE, ReadStep, ReadWorkflow, members_of, read_workflow

__all__ = ["lost_members", "undecided", "why_stalled", "why_stuck"]

GATE: Final = "join:"
DEEP: Final = 10  # joins of jobs outside of the workflow that are followed
SHOWN: Final = 3


def why_stalled(engine: Inspector, found: ReadWorkflow, now_ms: int | None = None) -> str | None:
    """Why a workflow does not get on; None: it does, or has ended."""
    if found.row.tally.has_ended:
        return None
    if (why := why_stuck(engine, found)) is not None:
        return why
    hangs = [step for step in found.steps if step.state is State.RUNNING and has_stalled(step)]
    if hangs:
        return f"running without progress: {names(hangs)}"
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    still = now_ms - found.row.moved_at
    if found.facts.stall_ms is None or still < found.facts.stall_ms:
        return None
    return f"no step has ended for {show_duration(still)}; open are {names(open_of(found))}"


def why_stuck(engine: Inspector, found: ReadWorkflow) -> str | None:
    """Why nothing in a workflow can move any more; None: something can.

    It is read in parts, and may have moved from one to the next: so a second look must say the same.
    """
    if why_still(engine, found) is None:
        return None
    again = read_workflow(engine, found.id)
    return None if again is None or again.row.tally.has_ended else why_still(engine, again)


def why_still(engine: Inspector, found: ReadWorkflow) -> str | None:
    """Why nothing can move, by what was read."""
    waiting = open_of(found)
    if any(step.row is not None and moves(step.row) for step in waiting):
        return None
    if lost := [step for step in waiting if step.row is None]:
        return f"the store has no record of {names(lost)}"
    mine = {step.id for step in found.steps}
    if any(step.row is not None and may_go_on(engine, step.row, mine, DEEP) for step in waiting):
        return None
    return (
        f"nothing in it can move: {names(waiting)} wait for what cannot happen" if waiting else "its end was not noted"
    )


def undecided(engine: Inspector, join: str) -> Iterator[tuple[str, str]]:
    """Members of a join that have not ended as it says, and of those that these wait for: join and id."""
    joins = {join: None}
    for one in joins.copy():
        for ids, rows in open_members(engine, one):
            yield from ((one, id) for id in ids)
            gates = (row.blocked_by or "" for row in rows.values())
            joins |= {gate.removeprefix(GATE): None for gate in gates if gate.startswith(GATE)}
    for one in [*joins][1:]:
        for ids, _ in open_members(engine, one):
            yield from ((one, id) for id in ids)


def lost_members(engine: Inspector, join: str) -> Iterator[tuple[str, str]]:
    """Those of ``undecided`` that will never end, as no record of them is there, or have ended already."""
    pairs = list(undecided(engine, join))
    for begin in range(0, len(pairs), PAGE):
        part = pairs[begin : begin + PAGE]
        rows = rows_of(engine, [id for _, id in part])
        yield from ((one, id) for one, id in part if id not in rows or rows[id].finished_at is not None)


def open_members(engine: Inspector, join: str) -> Iterator[tuple[list[str], dict[str, JobRow]]]:
    """Members of a join that have not ended, in pages, and the records that are there of them."""
    for members in members_of(engine, join):
        ids = [member.id for member in members if member.end is None]
        if ids:
            yield ids, rows_of(engine, ids)


def rows_of(engine: Inspector, ids: Sequence[str]) -> dict[str, JobRow]:
    """The records of these jobs, by id."""
    rows, _ = engine.jobs(JobFilter(ids=tuple(ids)), None, len(ids))
    return {row.id: row for row in rows}


def open_of(found: ReadWorkflow) -> list[ReadStep]:
    """The steps that have not ended."""
    return [step for step in found.steps if not step.has_ended]


def moves(row: JobRow) -> bool:
    """Whether a job runs, will be run, or waits for a guard, which opens again."""
    return row.state in (State.READY, State.RUNNING, State.SCHEDULED) or (
        row.state is State.BLOCKED and not (row.blocked_by or "").startswith(GATE)
    )


def may_go_on(engine: Inspector, row: JobRow, mine: set[str], deep: int) -> bool:
    """Whether what a blocked job waits for can still happen by jobs that are not ``mine``."""
    join = (row.blocked_by or "").removeprefix(GATE)
    (found,) = engine.joins([join])
    if found is None or deep == 0:
        return False
    if not found.tally.sealed:
        return True
    for _, rows in open_members(engine, join):
        outside = [row for id, row in rows.items() if id not in mine]
        if any(moves(one) or may_go_on(engine, one, mine, deep - 1) for one in outside):
            return True
    return False


def has_stalled(step: ReadStep) -> bool:
    """Whether its run was seen to stall, and has not been seen to get on since."""
    text = None if step.row is None else next((text for key, text in step.row.notes if key == STALL), None)
    stall = None if text is None else decode_stall(text)
    began = None if step.row is None else step.row.started_at
    return stall is not None and began is not None and stall.moved_at is None and began <= stall.at


def names(steps: list[ReadStep]) -> str:
    """Some of the names, and how many more there are."""
    shown = ", ".join(step.name for step in steps[:SHOWN])
    return shown if len(steps) <= SHOWN else f"{shown} and {len(steps) - SHOWN:,} more"
