"""Pictures of a workflow: a tree for terminals, and graphs as Mermaid and Graphviz read them.

Pure over what ``app.workflow(id).info()`` says. Invariants: a name is text in a picture and never a part of its syntax;
of many steps that stand side by side those are shown that somebody may look for (dead, running, waiting), and how many
are left out is said.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NamedTuple

from windlass.core.join import SKIPPED
from windlass.core.model import State
from windlass.core.units import show_duration
from windlass.flow.handle import StepInfo, WorkflowInfo
from windlass.logs.lines import printable

__all__ = ["ALL", "LOST", "SOME", "Line", "Most", "draw_dot", "draw_mermaid", "draw_tree", "state_of", "took_ms"]


class Most(NamedTuple):
    """How many steps of one workflow are shown, and how many of those that one step made while it ran."""

    own: int = 100
    made: int = 10


SOME: Final = Most()
ALL: Final = Most(sys.maxsize, sys.maxsize)

LOST: Final = "lost"  # the state of a step without a record

ORDER: Final = {
    state: place
    for place, state in enumerate(
        (State.DEAD, LOST, State.RUNNING, State.SCHEDULED, State.READY, State.BLOCKED, State.CANCELLED, SKIPPED)
    )
}
"""Who is shown first where not all are; what is done is last."""

# Fill and border of a step in a graph.
COLOURS: Final = {
    "done": ("#d9f2d9", "#2e7d32"),
    "running": ("#d6ecfa", "#0277bd"),
    "dead": ("#fbdcdc", "#c62828"),
    "lost": ("#fbdcdc", "#c62828"),
    "scheduled": ("#fff3cd", "#b28704"),
    "ready": ("#ffffff", "#616161"),
    "blocked": ("#ffffff", "#bdbdbd"),
    "cancelled": ("#eeeeee", "#9e9e9e"),
    "skipped": ("#eeeeee", "#9e9e9e"),
    "more": ("#ffffff", "#9e9e9e"),
}


def state_of(step: StepInfo) -> str:
    """The state of a step in a word."""
    return LOST if step.state is None else str(step.state)


def took_ms(step: StepInfo) -> float | None:
    """How long the last run of a step that has ended took; None: it has not, or never ran."""
    if step.started_at is None or step.finished_at is None:
        return None
    return (step.finished_at - step.started_at).total_seconds() * 1_000


# -- what is shown -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shown:
    """Steps that stand side by side: those that are shown, and those that are only counted."""

    nodes: tuple[Node, ...]
    hidden: tuple[StepInfo, ...] = ()

    @property
    def more(self) -> str:
        """How many are left out: ``... and 9,950 more done``; empty: none."""
        if not self.hidden:
            return ""
        states = Counter(map(state_of, self.hidden))
        if len(states) == 1:
            return f"... and {len(self.hidden):,} more {next(iter(states))}"
        parts = ", ".join(f"{number:,} {state}" for state, number in states.most_common())
        return f"... and {len(self.hidden):,} more: {parts}"


@dataclass(frozen=True, slots=True)
class Node:
    """A step, the steps that it made while it ran, and the workflow that it runs."""

    step: StepInfo
    made: Shown
    sub: WorkflowInfo | None
    own: Shown


NOTHING: Final = Shown(())


def _show(info: WorkflowInfo, subs: Mapping[str, WorkflowInfo], most: Most, above: tuple[str, ...] = ()) -> Shown:
    """Arrange the steps of a workflow. ``subs`` are the workflows that are steps of it or of those, by id.

    ``above`` are those that it is in: a spoiled store could say that one is in itself.
    """
    names = {step.name for step in info.steps}
    made: dict[str, list[StepInfo]] = {}
    for step in info.steps:
        # One whose parent has no record any more must not vanish with it.
        made.setdefault(step.parent if step.parent in names else "", []).append(step)

    def below(parent: str, number: int) -> Shown:
        steps = made.pop(parent, [])
        shown = steps if len(steps) <= number else _first(steps, number)
        known = {id(step) for step in shown}
        return Shown(tuple(map(node, shown)), tuple(step for step in steps if id(step) not in known))

    def node(step: StepInfo) -> Node:
        sub = None if step.workflow in above else subs.get(step.workflow)
        own = NOTHING if sub is None else _show(sub, subs, most, (*above, step.workflow))
        return Node(step, below(step.name, most.made), sub, own)

    return below("", most.own)


def _first(steps: Sequence[StepInfo], most: int) -> list[StepInfo]:
    """Those that somebody may look for, in the order in which they stand."""
    places = sorted(range(len(steps)), key=lambda at: (ORDER.get(state_of(steps[at]), len(ORDER)), at))
    return [steps[at] for at in sorted(places[:most])]


# -- the tree ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a tree: ``branch`` leads to a step of ``info``, or to the words that say what was left out.

    ``within`` are the steps that run the workflows around it.
    """

    info: WorkflowInfo
    branch: str
    step: StepInfo | None
    more: str = ""
    within: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """What stands in the tree."""
        return self.branch + (self.more if self.step is None else self.step.name)


def draw_tree(info: WorkflowInfo, subs: Mapping[str, WorkflowInfo], most: Most = SOME) -> list[Line]:
    """Give the steps as lines of a tree, each above those that it made and those of the workflow that it runs."""
    shown = _show(info, subs, most)
    made = [line for node in shown.nodes for line in _branch(node, info, "", "", ())]
    return [*made, Line(info, "", None, shown.more)] if shown.hidden else made


def _branch(node: Node, info: WorkflowInfo, first: str, others: str, within: tuple[str, ...]) -> Iterator[Line]:
    yield Line(info, first, node.step, within=within)
    below: list[tuple[Node | str, WorkflowInfo, tuple[str, ...]]] = []
    for shown, whose, inside in (
        (node.made, info, within),
        (node.own, node.sub or info, (*within, node.step.name)),
    ):
        below += [(each, whose, inside) for each in shown.nodes]
        below += [(shown.more, whose, inside)] if shown.hidden else []
    for number, (part, whose, inside) in enumerate(below, 1):
        corner, bar = ("└─ ", "   ") if number == len(below) else ("├─ ", "│  ")
        if isinstance(part, Node):
            yield from _branch(part, whose, others + corner, others + bar, inside)
        else:
            yield Line(whose, others + corner, None, part, inside)


# -- graphs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Box:
    """A step in a graph, or what stands for those that were left out."""

    id: str
    lines: tuple[str, ...]
    state: str


@dataclass(frozen=True, slots=True)
class Edge:
    """From a step to one that waits for it; or dashed, to what belongs to it: a step or a whole graph."""

    tail: str
    head: str | Graph
    label: str = ""
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Graph:
    """The graph of one workflow, and those of the workflows that are steps of it."""

    id: str
    title: str
    boxes: list[Box] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    parts: list[Graph] = field(default_factory=list)


def _graph(info: WorkflowInfo, shown: Shown, numbers: Iterator[int]) -> Graph:
    graph = Graph(f"g{next(numbers)}", info.name)
    ids: dict[str, str] = {}  # of steps by name; those that were left out share one
    nodes: list[Node] = []

    def place(side: Shown, parent: str) -> None:
        for node in side.nodes:
            step, took = node.step, took_ms(node.step)
            box = ids[step.name] = f"n{next(numbers)}"
            times = "" if took is None else f", {show_duration(max(0.0, took))}"
            graph.boxes.append(Box(box, (step.name, state_of(step) + times), state_of(step)))
            if parent:
                graph.edges.append(Edge(parent, box, dashed=True))
            nodes.append(node)
            place(node.made, box)
            if node.sub is not None and node.own.nodes:
                part = _graph(node.sub, node.own, numbers)
                graph.parts.append(part)
                graph.edges.append(Edge(box, part, dashed=True))
        if side.hidden:
            box = f"n{next(numbers)}"
            ids.update((step.name, box) for step in side.hidden)
            graph.boxes.append(Box(box, (side.more,), "more"))
            if parent:
                graph.edges.append(Edge(parent, box, dashed=True))

    place(shown, "")
    edges: dict[Edge, None] = {}
    for step in info.steps:
        label = "" if step.when == "succeeded" else step.when
        for before in step.after:
            if before in ids and step.name in ids and ids[before] != ids[step.name]:
                edges[Edge(ids[before], ids[step.name], label)] = None
    graph.edges[:0] = edges
    return graph


def draw_mermaid(info: WorkflowInfo, subs: Mapping[str, WorkflowInfo], most: Most = SOME) -> str:
    """Give the graph as Mermaid reads it."""
    graph = _graph(info, _show(info, subs, most), count())
    lines = ["flowchart TD", *_mermaid(graph, "    ")]
    for state in sorted({box.state for one in _all(graph) for box in one.boxes}):
        fill, stroke = COLOURS[state]
        lines.append(f"    classDef {state} fill:{fill},stroke:{stroke},color:#000")
    return "\n".join(lines) + "\n"


def _mermaid(graph: Graph, space: str) -> Iterator[str]:
    for box in graph.boxes:
        text = "<br/>".join(map(_mermaid_text, box.lines))
        yield f'{space}{box.id}["{text}"]:::{box.state}'
    for part in graph.parts:
        yield f'{space}subgraph {part.id}["{_mermaid_text(part.title)}"]'
        yield from _mermaid(part, space + "    ")
        yield f"{space}end"
    for edge in graph.edges:
        arrow = "-.->" if edge.dashed else "-->"
        label = f"|{edge.label}|" if edge.label else ""
        head = edge.head.id if isinstance(edge.head, Graph) else edge.head
        yield f"{space}{edge.tail} {arrow}{label} {head}"


def _mermaid_text(text: str) -> str:
    """A text between quotes: what could be markup is written as a number."""
    return "".join(mark if mark.isalnum() or mark in " -_/.,:" else f"#{ord(mark)};" for mark in printable(text))


def draw_dot(info: WorkflowInfo, subs: Mapping[str, WorkflowInfo], most: Most = SOME) -> str:
    """Give the graph as Graphviz reads it."""
    graph = _graph(info, _show(info, subs, most), count())
    lines = [
        f"digraph {_dot_text(graph.title)} {{",
        "    compound=true;",
        '    node [shape=box, style="rounded,filled", fontname="sans-serif"];',
        '    edge [fontname="sans-serif"];',
        *_dot(graph, "    "),
        "}",
    ]
    return "\n".join(lines) + "\n"


def _dot(graph: Graph, space: str) -> Iterator[str]:
    for box in graph.boxes:
        fill, stroke = COLOURS[box.state]
        yield f'{space}{box.id} [label={_dot_text(*box.lines)}, fillcolor="{fill}", color="{stroke}"];'
    for part in graph.parts:
        yield f"{space}subgraph cluster_{part.id} {{"
        yield f"{space}    label={_dot_text(part.title)};"
        yield from _dot(part, space + "    ")
        yield f"{space}}}"
    for edge in graph.edges:
        options = [f"label={_dot_text(edge.label)}"] if edge.label else []
        options += ["style=dashed"] if edge.dashed else []
        head = edge.head
        if isinstance(head, Graph):  # an arrow leads to a box, and is cut off at the border around it
            options.append(f"lhead=cluster_{head.id}")
            head = head.boxes[0].id
        given = f" [{', '.join(options)}]" if options else ""
        yield f"{space}{edge.tail} -> {head}{given};"


def _dot_text(*lines: str) -> str:
    """Lines of a text as one quoted string."""
    made = (printable(line).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") for line in lines)
    return '"' + "\\n".join(made) + '"'


def _all(graph: Graph) -> Iterator[Graph]:
    yield graph
    for part in graph.parts:
        yield from _all(part)
