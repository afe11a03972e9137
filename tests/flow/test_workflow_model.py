"""Random workflows against a reference: random ends, retries by hand, skips and cancels, step by step."""

from __future__ import annotations

import os
import random
from typing import Any, cast

import pytest

from flow_model import Model, Node
from windlass import TransitionRefused, Windlass, Workflow
from windlass.core.work import Kind, Lease, Outcome, Want, WorkerInfo
from windlass.flow.steps import WAITS

SEED = int(os.environ.get("WINDLASS_TEST_SEED") or random.SystemRandom().randrange(10**6))
NODES = 30
ME = WorkerInfo("me", "me", "host", 1, "*", 10, "1", 0)


def graph(app: Windlass, job: Any, rng: random.Random, id: str) -> tuple[Workflow, Model]:
    """A random graph, as a workflow and as its reference."""
    flow, nodes = Workflow("random", id=id), list[Node]()
    for number in range(rng.randint(1, NODES)):
        after = [node.name for node in nodes if rng.random() < 2.5 / max(4, len(nodes))]
        when = rng.choice([*WAITS, "succeeded", "succeeded"]) if after else "succeeded"
        flow.add(job.bind(number), name=f"s{number}", after=after, when=cast("Any", when))
        nodes.append(Node(f"s{number}", after, when))
    return flow, Model(nodes)


@pytest.mark.parametrize("number", range(6))
def test_a_random_workflow_does_what_the_reference_does(app: Windlass, number: int) -> None:
    seed = SEED + number
    print(f"WINDLASS_TEST_SEED={seed}")
    rng, engine = random.Random(seed), app.engine

    @app.job(name="work")
    def work(n: int) -> int:
        return n

    flow, model = graph(app, work, rng, "w")
    handle = app.start(flow)
    engine.extend(ME, [], 60_000)
    held: dict[str, Lease] = {}

    def compare() -> None:
        model.decide()
        real = {step.name: str(step.state) for step in handle.steps()}
        wanted = {name: "running" if name in held else model.state(name) for name in model.nodes}
        assert real == wanted
        info = handle.info()
        assert (info.state, info.stalled) == (model.whole, None)
        assert info.progress.open == sum(node.end is None for node in model.nodes.values())

    compare()
    for _ in range(4 * NODES):
        act = rng.random()
        if act < 0.6:
            leases = engine.claim(Want("me", rng.randint(1, 4))).leases
            held |= {lease.id.removeprefix("w:"): lease for lease in leases}
            ended = rng.sample(sorted(held), rng.randint(0, len(held)))
            outcomes = []
            for name in ended:
                lease, kind = held.pop(name), rng.choice([Kind.DONE, Kind.DONE, Kind.DEAD, Kind.CANCELLED])
                outcomes.append(Outcome(lease.id, lease.fence, kind))
                model.nodes[name].end = str(kind)
            engine.settle(outcomes)
        elif act < 0.75 and (dead := [node for node in model.nodes.values() if node.end == "dead"]):
            node = rng.choice(dead)
            handle.retry(node.name)
            node.end, node.went = None, True
        elif act < 0.8:
            name = rng.choice(sorted(model.nodes))
            waits = name not in held and model.state(name) in ("ready", "blocked")
            try:
                handle.skip(name)
                assert waits
                model.nodes[name].end, model.nodes[name].went = "skipped", True
            except TransitionRefused:
                assert not waits
        elif act < 0.82:
            engine.depart("me")  # what it held goes back
            held.clear()
            engine.extend(ME, [], 60_000)
        elif act < 0.825:
            handle.cancel()
            for name, node in model.nodes.items():
                if node.end is None and name not in held:
                    node.end = "cancelled"
            engine.settle([Outcome(lease.id, lease.fence, Kind.CANCELLED) for lease in held.values()])
            for name in held:
                model.nodes[name].end = "cancelled"
            held.clear()
        compare()
