"""Jobs of our own that decide at run time what a workflow does next: expand a result, run a workflow in it, undo steps.

Each starts jobs and waits for them in one write, and looks at what is stored when it runs again: so it may be killed at
any point. Must not import anything by a stored name; what it stores was made and checked by whoever added the step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from windlass.core.codec import fill
from windlass.core.control import Await, Dead, Discard
from windlass.core.errors import ConfigError, PayloadError
from windlass.core.join import SKIPPED
from windlass.core.meta import Meta, StepFacts, decode_meta, encode_meta
from windlass.core.model import NewJob, NewJoin, State, Wait, Write
from windlass.engines.base import Store
from windlass.flow.members import MEMBERS_MAX
from windlass.flow.reading import read_steps, read_workflow, state_of
from windlass.flow.steps import decode_facts, forward_join, workflow_join
from windlass.jobs.call import Call, Enqueuer
from windlass.jobs.context import JobContext
from windlass.jobs.definition import Job, define
from windlass.jobs.spec import JobSpec

__all__ = ["builtin_specs", "expand_job", "subflow_job", "undo_job"]

EXPAND: Final = "windlass.expand"
SUBFLOW: Final = "windlass.workflow"
UNDO: Final = "windlass.undo"


def builtin_specs(app: Enqueuer) -> dict[str, Callable[[], JobSpec]]:
    """What makes the jobs of ours, by name."""
    return {name: partial(_spec, name, app) for name in BODIES}


def _spec(name: str, app: Enqueuer) -> JobSpec:
    return _define(name, app).spec


def _define(name: str, app: Enqueuer, **options: object) -> Job[..., Any]:
    job = define(BODIES[name], {"name": name, **options}, app, app.client.settings)
    assert isinstance(job, Job)
    return job


# -- expanding a result ------------------------------------------------------------------------------------------------


def expand_job(
    app: Enqueuer, call: Call[object], where: str, watched: Callable[[Meta], Meta]
) -> Callable[[object], Call[object]]:
    """Give what makes the call of a step that runs ``call`` for each item. Raises ConfigError or PayloadError.

    ``watched`` adds to what a job says for itself how long it may stand still.
    """
    if call.new.unique is not None or call.new.caller_id:
        what = "unique=" if call.new.unique is not None else "id="
        raise ConfigError(f"{where}: {call!r} has {what}, and all items would be one job; give it .options({what}None)")
    if call.connection is not None:
        raise ConfigError(f"{where}: {call!r} has a connection=, and is stored by a worker; leave it out")
    item, at = call.maker.as_item(call)
    template = plain(replace(item.new, meta=encode_meta(watched(decode_facts(item)))))
    job = _define(EXPAND, app).options(queue=call.queue, priority=call.new.priority)
    return lambda items: job.bind(items, template, at)


def expand(ctx: JobContext, items: object, template: Any, at: Any) -> list[object]:
    """Run a job for each item, and give what they return in the order of the items."""
    facts, engine = facts_of(ctx), engine_of(ctx)
    join = f"items:{facts.workflow}:{facts.name}"
    (row,) = engine.joins([join])
    if row is None:
        if not isinstance(items, list):
            raise Dead(f"step {facts.name!r} expands a list, and got a {type(items).__name__}")
        if len(items) > MEMBERS_MAX:
            raise Dead(
                f"step {facts.name!r} expands at most {MEMBERS_MAX:,} items, and got {len(items):,}; app.batch(...) "
                "takes as many as there are"
            )
        if not items:
            return []
        new = msgspec.convert(template, NewJob)
        jobs = [_item(new, at, number, value, len(items), facts, join) for number, value in enumerate(items, 1)]
        raise Await(Wait(join, "end"), Write(tuple(jobs), joins=(NewJoin(join, home=workflow_join(facts.workflow)),)))
    if not row.tally.has_ended:
        raise Await(Wait(join, "end"))
    steps = read_steps(engine, join)
    if bad := [step for step in steps if step.state is not State.DONE]:
        raise Dead(f"{len(bad):,} of {len(steps):,} jobs of step {facts.name!r} are not done; the first is {bad[0].id}")
    return [step.result for step in steps]


def _item(new: NewJob, at: int | str, number: int, value: object, of: int, facts: StepFacts, join: str) -> NewJob:
    name = f"{facts.name}/{number:0{len(str(of))}}"
    step = StepFacts(facts.workflow, name, number, (), "succeeded", facts.name)
    payload = fill(new.payload.encode(), [(at, msgspec.json.encode(value))]).decode()
    return replace(
        new,
        id=f"{facts.workflow}:{name}",
        payload=payload,
        meta=with_step(new, step),
        joins=(*new.joins, join, workflow_join(facts.workflow)),
    )


# -- a workflow in a workflow ------------------------------------------------------------------------------------------


def subflow_job(app: Enqueuer, write: Write, workflow: str, queue: str) -> Call[object]:
    """Make the call of a step that runs a workflow. Raises PayloadError for one that is too large for that."""
    try:
        return _define(SUBFLOW, app).options(queue=queue).bind(workflow, plain(write))
    except PayloadError as error:
        raise PayloadError(f"the steps of a workflow in another one are stored as arguments: {error}") from None


def subflow(ctx: JobContext, workflow: str, write: Any) -> dict[str, object]:
    """Run a workflow, and give the results of its last steps by name."""
    engine, join = engine_of(ctx), workflow_join(workflow)
    (row,) = engine.joins([join])
    if row is None:
        raise Await(Wait(join, "end"), msgspec.convert(write, Write))
    if not row.tally.has_ended:
        raise Await(Wait(join, "end"))
    found = read_workflow(engine, workflow)
    assert found is not None
    if found.state != "succeeded":
        raise Dead(f"workflow {found.name} {workflow} {found.state}{found.because}")
    return {step.name: step.result for step in found.leaves if step.state is State.DONE}


# -- undoing -----------------------------------------------------------------------------------------------------------


def undo_job(app: Enqueuer, undos: list[tuple[str, NewJob]]) -> Call[object]:
    """Make the call of a step that undoes others: names of steps, in the order of the workflow, and their jobs."""
    job = _define(UNDO, app).options(queue=undos[0][1].queue)
    return job.bind([[name, plain(new)] for name, new in undos])


def undo(ctx: JobContext, undos: list[Any]) -> list[str]:
    """Undo the steps that are done, the last one first, if the workflow has failed; give their names."""
    facts, engine = facts_of(ctx), engine_of(ctx)
    join, forward = f"undo:{facts.workflow}", forward_join(facts.workflow)
    (row, steps_row) = engine.joins([join, forward])
    if row is None:
        if steps_row is not None and not steps_row.tally.has_ended:
            raise Await(Wait(forward, "end"))
        steps = read_steps(engine, forward)
        done = {step.name for step in steps if step.state is State.DONE}
        wanted = [(name, msgspec.convert(new, NewJob)) for name, new in reversed(undos) if name in done]
        if state_of(steps) != "failed" or not wanted:
            raise Discard(SKIPPED)  # not done: it has to look again when a dead step is retried
        home = workflow_join(facts.workflow)
        jobs: list[NewJob] = []
        joins = [NewJoin(join, home=home)]
        for number, (name, new) in enumerate(wanted):
            step = StepFacts(facts.workflow, f"{facts.name}/{name}", number, (name,), "finished", facts.name)
            new = replace(new, joins=(*new.joins, join, home), meta=with_step(new, step))
            if number:  # one after the other, however that ends: each that can be undone is
                before = f"{join}:{wanted[number - 1][0]}"
                joins.append(NewJoin(before, home=home))
                jobs[-1] = replace(jobs[-1], joins=(*jobs[-1].joins, before))
                new = replace(new, waits=Wait(before, "end"))
            jobs.append(new)
        raise Await(Wait(join, "end"), Write(tuple(jobs), joins=tuple(joins)))
    if not row.tally.has_ended:
        raise Await(Wait(join, "end"))
    steps = read_steps(engine, join)
    if bad := [step.name for step in steps if step.state is not State.DONE]:
        raise Dead(f"not undone, of workflow {facts.workflow}: {', '.join(bad)}")
    return [step.name for step in steps]


def with_step(new: NewJob, step: StepFacts) -> str | None:
    """What a job says of itself, with the step that it is."""
    return encode_meta(replace(decode_meta(None if new.meta is None else new.meta.encode()), step=step))


def plain(value: object) -> Any:
    """Give a value as an argument of a job."""
    return msgspec.json.decode(msgspec.json.encode(value))


def facts_of(ctx: JobContext) -> StepFacts:
    """What the running step is in its workflow."""
    step = ctx.step_facts
    if step is None:
        raise Dead(f"job {ctx.id} is no step of a workflow; it was not made by one")
    return step


def engine_of(ctx: JobContext) -> Store:
    """The store that the running job is in."""
    return ctx._run.engine


BODIES: Final[dict[str, Callable[..., object]]] = {EXPAND: expand, SUBFLOW: subflow, UNDO: undo}
