"""The sweep of compositions: what was lost heals, a stall is told once, a deadline ends what is left."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import redis

from dead_shop import worker_of
from kit.waiting import PATIENCE, until
from windlass import JobContext, Windlass, Workflow, chain
from windlass.core.meta import decode_meta
from windlass.events import WorkflowStalled
from windlass.flow.reading import read_workflow
from windlass.flow.stuck import why_stuck
from windlass.flow.watching import FlowWatch
from windlass.flow.workflow import watch_of

Burst = Callable[[], None]


@pytest.fixture
def told(app: Windlass) -> list[WorkflowStalled]:
    found: list[WorkflowStalled] = []
    app.on(WorkflowStalled)(found.append)
    return found


@pytest.fixture
def work(app: Windlass) -> Any:
    @app.job(name="work")
    def work(n: int = 0) -> int:
        return n

    return work


def lose(app: Windlass, id: str) -> None:
    """Let the store lose the record of a job, as a person does who deletes it there by hand."""
    if app.engine.info.name != "redis":
        with app.transaction() as tx:
            tx.execute("DELETE FROM windlass_jobs WHERE id = ?", (id,))
        return
    with closing(redis.Redis.from_url(app.settings.url)) as client:
        for name in ("body", "rec", "guards"):
            client.hdel(f"{{windlass}}:{name}", id)


def look(app: Windlass, *joins: str) -> None:
    FlowWatch(app.engine, app.events).look(joins)


@pytest.mark.parametrize("when", ["succeeded", "finished"])
def test_a_step_that_the_store_has_lost_counts_as_an_end(
    app: Windlass, work: Any, told: list[WorkflowStalled], burst: Burst, when: Any
) -> None:
    flow = Workflow("w", id="w")
    first = flow.add(work.options(delay="1h").bind(), name="first")
    flow.add(work.bind(), name="last", after=[first, flow.add(work.bind(), name="other")], when=when)
    handle = app.start(flow)
    burst()
    lose(app, "w:first")
    look(app, "workflow:w")
    burst()
    assert {step.name: step.state for step in handle.steps()}["last"] == ("skipped" if when == "succeeded" else "done")
    assert handle.state in ("cancelled", "failed")  # the rest of a record that was found and buried counts as dead
    assert handle.info().stalled is None


def test_a_link_of_a_chain_that_the_store_has_lost_frees_what_waits_for_it(
    app: Windlass, work: Any, burst: Burst
) -> None:
    links = [work.options(delay="1h").bind(1), work.bind(), work.bind()]
    handle = chain(*links).enqueue()
    lose(app, links[0].id)
    look(app, f"chain:{links[-1].id}")
    burst()
    assert handle.info().reason == "skipped"


def test_a_workflow_that_stands_still_is_told_of_once(
    app: Windlass, work: Any, told: list[WorkflowStalled], burst: Burst
) -> None:
    flow = Workflow("w", id="w", stall_after=0.001)
    flow.add(work.options(delay="1h").bind(), name="late")
    handle = app.start(flow)
    until(lambda: look(app, "workflow:w", "workflow:none") or told, "nobody tells of it")
    for _ in range(3):
        look(app, "workflow:w")
    assert [(one.id, one.name, one.healed) for one in told] == [("w", "w", 0)]
    assert "open are late" in told[0].reason
    assert [one.id for one in app.workflows(stalled=True)] == ["w"]
    handle.cancel()
    look(app, "workflow:w")
    assert len(told) == 1
    assert not app.workflows(stalled=True).items


def test_a_workflow_that_stands_still_is_cancelled_where_it_says_so(
    app: Windlass, work: Any, told: list[WorkflowStalled]
) -> None:
    flow = Workflow("w", id="w", stall_after=0.001, on_stall="cancel")
    flow.add(work.bind(), after=flow.add(work.options(delay="1h").bind(), name="late"))
    handle = app.start(flow)
    until(lambda: look(app, "workflow:w") or told, "nobody tells of it")
    assert handle.state == "cancelled"
    assert len(told) == 1


def test_a_workflow_past_its_deadline_is_cancelled(app: Windlass, work: Any, told: list[WorkflowStalled]) -> None:
    flow = Workflow("w", id="w", deadline=0.001)
    flow.add(work.options(delay="1h").bind())
    handle = app.start(flow)
    until(lambda: look(app, "workflow:w") or told, "nobody tells of it")
    assert handle.state == "cancelled"
    assert [one.reason for one in told] == ["its deadline of 1 ms is over"]


def test_a_worker_looks_at_what_is_watched(
    app: Windlass, work: Any, told: list[WorkflowStalled], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass.flow.workflow.WATCH_MS", 1)
    flow = Workflow("w", id="w", stall_after=0.001)
    flow.add(work.options(delay="1h").bind(), name="late")
    app.start(flow)
    worker = worker_of(app)
    worker.start()
    try:
        until(lambda: told, "no worker tells of it")
    finally:
        worker.stop()
        worker.shut_down()
    assert "open are late" in told[0].reason


@pytest.mark.parametrize(
    ("stall_ms", "deadline_ms", "watch_ms"),
    [(None, None, 60_000), (5_000, None, 5_000), (600_000, None, 60_000), (None, 90_000, 45_000), (7, 20, 7)],
)
def test_a_workflow_is_looked_at_when_its_deadline_is_over(
    stall_ms: int | None, deadline_ms: int | None, watch_ms: int
) -> None:
    assert watch_of(stall_ms, deadline_ms) == watch_ms


def test_steps_may_stand_still_no_longer_than_their_workflow(app: Windlass, work: Any, burst: Burst) -> None:
    @app.job(name="split")
    def split(ctx: JobContext) -> list[int]:
        ctx.workflow.add(work.bind(), name="added")
        return [1]

    flow, inner = Workflow("w", id="w", stall_after="5m", on_stall="retry"), Workflow("inner")
    inner.add(work.bind())
    items = flow.add(split.bind())
    flow.expand(work.bind(), over=items.result, name="items")
    flow.add(inner)
    flow.add(work.options(stall_after="1m", on_stall="cancel").bind(), name="own")
    app.start(flow)
    burst()
    sub = next(step.workflow for step in app.workflow("w").steps() if step.workflow)
    ids = ["w:split", "w:split/added", "w:items/1", f"{sub}:work", "w:own"]
    rows = [app.engine.job(id) for id in ids]
    facts = [decode_meta(None if row is None else row.meta) for row in rows]
    assert [(one.stall_ms, one.on_stall) for one in facts] == [(300_000, "retry")] * 4 + [(60_000, "cancel")]


def test_a_step_that_runs_and_makes_no_progress_is_told_with_its_workflow(app: Windlass) -> None:
    gate = threading.Event()

    @app.job(name="hang")
    def hang() -> None:
        gate.wait(PATIENCE)

    flow = Workflow("w", id="w", stall_after=0.05)
    flow.add(hang.bind())
    handle = app.start(flow)
    worker = worker_of(app)
    worker.start()
    try:
        reason = "running without progress: hang"
        until(lambda: handle.info().stalled == reason, "the step is not seen to stall")
    finally:
        gate.set()
        worker.stop()
        worker.shut_down()


def test_a_workflow_that_moved_while_it_was_read_is_not_stuck(app: Windlass, work: Any, burst: Burst) -> None:
    flow = Workflow("w", id="w")
    flow.add(work.bind(), name="last", after=flow.add(work.bind(), name="first"))
    app.start(flow)
    before = read_workflow(app.engine, "w")
    assert before is not None
    steps = tuple(step for step in before.steps if step.name == "last")  # as if the first was read when it had ended
    burst()
    assert why_stuck(app.engine, replace(before, steps=steps)) is None
