"""The sweep of compositions: what was lost in one heals, and one that does not get on is told of.

Upkeep names the joins to look at, and one worker gets each. A member whose record is gone counts as an end from then
on, so nobody waits for it for ever. Invariants: what heals is derived from the facts in the store, whoever does it and
however often; a stall is told once, by a compare-and-set on a document that names the moment since which it lasts.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from windlass.core.errors import EngineError
from windlass.core.foreign import Shield
from windlass.core.model import Swap, Write
from windlass.core.rows import JoinRow
from windlass.core.units import show_duration
from windlass.engines.base import Store
from windlass.events import Events, WorkflowStalled
from windlass.flow.handle import cancel_workflow
from windlass.flow.members import WATCH_MS
from windlass.flow.reading import ReadWorkflow, read_workflow
from windlass.flow.steps import workflow_join
from windlass.flow.stuck import lost_members, undecided, why_stalled, why_stuck
from windlass.logs import Log

__all__ = ["FlowWatch"]

log = Log("windlass.worker")

WORKFLOW: Final = workflow_join("")
PREFIX: Final = "stall:"  # of the documents
LARGE: Final = 1_000  # members
TOLD_FOR: Final = 86_400_000  # ms; a stall that lasts longer is told again


class Told(Struct, frozen=True):
    """The stall that was told last: since when nothing has moved."""

    moved_at: int


class FlowWatch:
    """Looks at compositions. *Blocking.*"""

    def __init__(self, engine: Store, events: Events) -> None:
        self._engine = engine
        self._events = events

    def look(self, joins: tuple[str, ...]) -> None:
        """Look at the compositions of these joins, and do for each what is to be done. Raises EngineError."""
        if not joins:
            return
        now = self._engine.times().wall
        for row in self._engine.joins(joins):
            if row is not None and not row.tally.has_ended:
                with Shield(log, "the composition %s could not be looked at; the next look follows", row.id):
                    self._look_at(row, now)

    def _look_at(self, row: JoinRow, now: int) -> None:
        try:
            # A large one is read when it has stood still: whatever was lost in it, it comes to that.
            gets_on = row.tally.open > LARGE and now - row.moved_at < WATCH_MS
            healed = 0 if gets_on else self._heal(row)
            if row.id.startswith(WORKFLOW):
                self._judge(row.id.removeprefix(WORKFLOW), now, healed)
        except EngineError as error:
            log.warning("the composition %s has to wait: %s", row.id, error)

    def _heal(self, row: JoinRow) -> int:
        """Let the members of a join whose records are gone count as an end; give how many that were."""
        lost = tuple(lost_members(self._engine, row.id))
        if lost:
            log.error("the store has lost %d jobs of %s: %s", len(lost), row.id, ", ".join(id for _, id in lost[:5]))
            self._engine.commit(Write(enters=lost))
        return len(lost)

    def _judge(self, id: str, now: int, healed: int) -> None:
        found = read_workflow(self._engine, id)
        if found is None or found.row.tally.has_ended:
            return
        facts = found.facts
        if facts.deadline_ms is not None and now - found.row.made_at >= facts.deadline_ms:
            log.warning("workflow %s %s is cancelled: its deadline is over", facts.name, id)
            self._tell(found, f"its deadline of {show_duration(facts.deadline_ms)} is over", healed)
            cancel_workflow(self._engine, id)
            return
        why = why_stalled(self._engine, found, now)
        if why is None and not healed:
            return
        self._tell(found, why or "records were lost", healed)
        if why is None:
            return
        match facts.on_stall:
            case "cancel":
                log.warning("workflow %s %s is cancelled: %s", facts.name, id, why)
                cancel_workflow(self._engine, id)
            case "retry" if why_stuck(self._engine, found) is not None:
                self._engine.commit(Write(enters=tuple(undecided(self._engine, found.row.id))))

    def _tell(self, found: ReadWorkflow, why: str, healed: int) -> None:
        """Tell of a stall, if nobody has."""
        key, told = PREFIX + found.id, Told(found.row.moved_at)
        (known,) = self._engine.read([key])
        if known.value is not None and msgspec.json.decode(known.value, type=Told) == told:
            return
        swap = Swap(key, known.version, msgspec.json.encode(told).decode(), TOLD_FOR)
        if self._engine.commit(Write(swaps=(swap,))).lost:
            return
        log.error("workflow %s %s does not get on: %s", found.name, found.id, why)
        self._events.emit(WorkflowStalled(found.id, found.name, why, healed))
