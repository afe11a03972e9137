"""Workflows of a seed, and what must become of each of their steps. As a program, it starts one of them.

``python -m faults.flows ID SEED [within]`` starts it, inside a transaction if told so, and says whether it was there.
The program may be told to die at any engine call; run again, it must come to the same end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple

from faults import jobs
from faults.jobs import MOST, worth
from flow_model import Model, Node
from windlass import Windlass, Workflow
from windlass.engines.base import TransactionalSettle
from windlass.flow.steps import WAITS
from windlass.jobs.results import Step

STEPS = 200
FAN = 50  # steps that wait for one, and that one waits for
INNER = 12  # steps of a workflow that is a step
ITEMS = 6  # of a list that is expanded
GROWN = 3  # steps that a running one adds


class Fate(NamedTuple):
    """What becomes of a step."""

    state: str
    attempt: int
    result: Any = None


SKIPPED = Fate("skipped", 0)
DEAD = Fate("dead", 2)


class Planned(Node):
    """A step, and what becomes of it if it runs."""

    def __init__(self, name: str, after: Sequence[str], when: str, runs: Callable[[], Fate]) -> None:
        super().__init__(name, list(after), when)
        self.runs = runs
        self.fate = SKIPPED


class Plan:
    """A workflow that is made step by step, and beside it what must become of each."""

    def __init__(self, defined: SimpleNamespace, flow: Workflow, rng: Random) -> None:
        self.jobs, self.flow, self.rng = defined, flow, rng
        self.nodes: dict[str, Planned] = {}
        self.steps: dict[str, Step[Any]] = {}
        self.subs: dict[str, Plan] = {}
        self.undone: list[str] = []  # steps that have an undo
        self.items: dict[str, Fate] = {}
        self.whole = ""

    def note(self, name: str, after: Sequence[str], when: str, runs: Callable[[], Fate]) -> None:
        self.nodes[name] = Planned(name, after, when, runs)

    # -- kinds of steps --

    def node(self, name: str, after: Sequence[str] = (), when: Any = "succeeded", fails: int | None = None) -> None:
        """A step that takes the results of those it waits for, where these have all ended when it runs."""
        fails = self.rng.choices([0, 1, 2], [8, 1, 1])[0] if fails is None else fails
        takes = after if when in ("succeeded", "finished") else ()

        def runs() -> Fate:
            taken = sum(worth(self.nodes[one].fate.result) for one in takes)
            return DEAD if fails > 1 else Fate("done", fails + 1, (1 + taken) % MOST)

        self.note(name, after, when, runs)
        call = self.jobs.node.bind(*(self.steps[one].result for one in takes), fails=fails)
        undo = self.jobs.node.bind() if self.rng.random() < 0.1 else None
        if undo is not None:
            self.undone.append(name)
        self.steps[name] = self.flow.add(call, name=name, after=after, when=when, undo=undo)

    def random(self, name: str) -> None:
        """A step that waits for up to three others."""
        after = self.rng.sample(list(self.steps), min(len(self.steps), self.rng.randint(0, 3)))
        self.node(name, after, self.rng.choice([*WAITS, "succeeded", "succeeded"]) if after else "succeeded")

    def fan(self, name: str, after: Sequence[str], when: str) -> None:
        """A step that many wait for, these, and one that waits for all of them."""
        self.node(name, after, "finished" if after else "succeeded", fails=1)
        many = [f"{name}-{number}" for number in range(FAN)]
        for one in many:
            self.node(one, [name])
        self.node(f"{name}-all", many, when, fails=0)

    def expand(self, name: str, broken: list[int]) -> None:
        """A step that lists something, and one that runs a job for each item."""
        listing, numbers = f"{name}-list", list(range(ITEMS))
        self.note(listing, (), "succeeded", lambda: Fate("done", 1, numbers))
        self.steps[listing] = self.flow.add(self.jobs.listing.bind(ITEMS), name=listing)
        self.items |= {f"{name}/{n + 1}": DEAD if n in broken else Fate("done", 1, n) for n in numbers}
        fate = Fate("dead", 1) if broken else Fate("done", 1, numbers)
        self.note(name, [listing], "succeeded", lambda: fate)
        call = self.jobs.item.bind(broken=broken)
        self.steps[name] = self.flow.expand(call, self.steps[listing].result, name=name)

    def grow(self, name: str) -> None:
        """A step that adds others, one after the other, and one that waits for all of these."""
        self.note(name, (), "succeeded", lambda: Fate("done", 1))
        self.steps[name] = self.flow.add(self.jobs.grow.bind(GROWN, f"{name}-end"), name=name)
        chain = [name, f"{name}/node", *(f"{name}/node-{number}" for number in range(2, GROWN + 1))]
        for before, one in pairwise(chain):
            self.note(one, [before], "succeeded", lambda: Fate("done", 1, 1))
        self.node(f"{name}-end", [name])
        self.nodes[f"{name}-end"].after = chain

    def book(self, name: str) -> None:
        """A step that ends itself in a transaction of the store."""
        self.note(name, (), "succeeded", lambda: Fate("done", 1))
        self.steps[name] = self.flow.add(self.jobs.book.bind(), name=name)

    def sub(self, name: str, after: Sequence[str]) -> None:
        """A whole workflow, that begins however these end."""
        inner = self.subs[name] = Plan(self.jobs, Workflow(name), self.rng)
        for number in range(INNER):
            inner.random(f"inner-{number}")

        def runs() -> Fate:
            inner.play()
            return Fate("done", 1, inner.results()) if inner.whole == "succeeded" else Fate("dead", 1)

        self.note(name, after, "finished", runs)
        self.steps[name] = self.flow.add(inner.flow, name=name, after=after, when="finished")

    # -- what must become of them --

    def play(self) -> Plan:
        """Let all of it run to its end, step by step."""
        model = Model(self.nodes.values())
        for node in self.nodes.values():
            model.decide()
            if node.end is None:
                node.fate = node.runs()
                node.end = node.fate.state
        self.whole = model.whole
        return self

    def results(self) -> dict[str, Any]:
        """Of the steps that no other waits for."""
        waited = {name for node in self.nodes.values() for name in node.after}
        last = [node for name, node in self.nodes.items() if name not in waited and node.end == "done"]
        return {node.name: node.fate.result for node in last}

    def fates(self) -> dict[str, Fate]:
        """What becomes of each step, and of what steps make of their own."""
        fates = {name: node.fate for name, node in self.nodes.items()} | self.items
        if self.undone:
            has_died = any(node.end == "dead" for node in self.nodes.values())
            undone = [name for name in reversed(self.undone) if self.whole == "failed" and fates[name].state == "done"]
            fates |= {f"undo/{name}": Fate("done", 1, 1) for name in undone}
            told = Fate("done", 1, [f"undo/{name}" for name in undone]) if undone else Fate(SKIPPED.state, 1)
            fates["undo"] = told if has_died else SKIPPED
        return fates


def plan(app: Windlass, defined: SimpleNamespace, id: str, seed: int) -> Plan:
    """The workflow of a seed, and what must become of it."""
    made = Plan(defined, Workflow("flow", id=id), Random(seed))
    made.fan("first", (), "finished")
    made.expand("good", [])
    made.expand("bad", [1, 4])
    made.grow("grow")
    made.sub("sub-1", ["first-all"])
    made.sub("sub-2", ["bad", "good"])
    if isinstance(app.engine, TransactionalSettle):
        made.book("book")
    made.fan("second", list(made.steps)[-2:], "finished")
    while len(made.flow) < STEPS:
        made.random(f"random-{len(made.flow)}")
    return made.play()


def main(id: str, seed: str, within: str = "") -> None:
    app = Windlass()
    flow = plan(app, jobs.install(app), id, int(seed)).flow
    if within:
        with app.transaction() as tx:
            handle = app.start(flow, connection=tx)
    else:
        handle = app.start(flow)
    print("was there" if handle.duplicate else "started", flush=True)
    app.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
