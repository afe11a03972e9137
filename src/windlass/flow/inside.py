"""Steps that a running step adds to its own workflow: stored in the write that ends it, or not at all.

Invariant: the running step is a member that has not ended of all that waits for it, so what it holds up still waits.
"""

from __future__ import annotations

from typing import TypeVar

from windlass.core.aio import hop
from windlass.core.errors import ConfigError, TransitionRefused
from windlass.core.meta import Meta, StepFacts
from windlass.core.model import Write
from windlass.core.spelling import spelled
from windlass.engines.base import Inspector
from windlass.flow.reading import members_of, read_steps
from windlass.flow.steps import UNDO, Steps, edge_of, forward_join, listed, workflow_join
from windlass.flow.workflow import Workflow
from windlass.jobs.call import Call
from windlass.jobs.results import After, Step, When

__all__ = ["RunningWorkflow"]

R = TypeVar("R")


@spelled
class RunningWorkflow:
    """The workflow of the running job: ``ctx.workflow``."""

    def __init__(self, facts: StepFacts, meta: Meta, job: str, engine: Inspector) -> None:
        self.id = facts.workflow
        self.step = facts.name
        self._job = job
        self._engine = engine
        self._steps = Steps(self.id, self, facts.name)
        self._steps.stall_ms, self._steps.on_stall = meta.stall_ms, meta.on_stall

    def __repr__(self) -> str:
        return f"<RunningWorkflow {self.id} in step {self.step}>"

    def add(
        self,
        call: Call[R],
        *,
        name: str | None = None,
        after: After = (),
        when: When = "succeeded",
        before: str | tuple[str, ...] = (),
    ) -> Step[R]:
        """Add a step; it is stored when this one succeeds, in the same write, under the name ``STEP/NAME``.

        ``before`` are steps that wait for this one: they wait for the new one as well. ``after`` and ``when`` are as in
        ``Workflow.add``; also steps that are stored already can be named. *Blocking* where one of those is named.
        Raises ConfigError, PayloadError, and TransitionRefused for a ``before`` that does not wait for this step.
        """
        if isinstance(call, Workflow):
            raise ConfigError(f"{self!r}: add({call!r}): a running step adds calls; ctx.then() starts a workflow")
        held = (before,) if isinstance(before, str) else tuple(before)
        joins = tuple(self._check_waits(one) for one in held)
        given = listed(after, f"{self!r}")
        if any(isinstance(one, str) and one not in self._steps for one in given) and not self._steps.known:
            stored = read_steps(self._engine, workflow_join(self.id))
            self._steps.known.update((step.name, step.id) for step in stored)
        return self._steps.add(call, name, given, when, joins)

    async def aadd(
        self,
        call: Call[R],
        *,
        name: str | None = None,
        after: After = (),
        when: When = "succeeded",
        before: str | tuple[str, ...] = (),
    ) -> Step[R]:
        """Add a step without blocking the event loop; see ``add``."""
        return await hop(lambda: self.add(call, name=name, after=after, when=when, before=before))

    def _check_waits(self, step: str) -> str:
        edge = edge_of(self.id, step)
        if not any(member.id == self._job for members in members_of(self._engine, edge) for member in members):
            raise TransitionRefused(
                f"{self!r}: {step!r} is no step that waits for this one, so it cannot be held up from here; give it "
                f"after={self.step!r} when the workflow is made"
            )
        return edge

    def write(self) -> Write | None:
        """Give what is stored of what was added; None: nothing was."""
        if not len(self._steps):
            return None
        all_in = [workflow_join(self.id)]
        if self.step.partition("/")[0] != UNDO:  # their end is waited for, too, before others are undone
            all_in.append(forward_join(self.id))
        parts = self._steps.parts(all_in)
        return Write(tuple(call.new for call in parts.calls), joins=tuple(parts.joins))
