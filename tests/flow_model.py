"""What becomes of the steps of a workflow, in plain Python: the reference that real ones are held against."""

from __future__ import annotations

from collections.abc import Iterable

from windlass.core.join import Tally, decide
from windlass.flow.steps import WAITS

__all__ = ["Model", "Node"]


class Node:
    """A step as the reference has it: ``went`` says that it may run, or ran."""

    def __init__(self, name: str, after: list[str], when: str) -> None:
        self.name, self.after, self.when = name, after, when
        self.end: str | None = None  # done, dead, cancelled; or skipped
        self.went = not after


class Model:
    """What becomes of a workflow."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}

    def decide(self) -> None:
        """Let go or skip whoever waits, in the order of the steps, which none depends on a later one."""
        for node in self.nodes.values():
            if not node.went and node.end in (None, "skipped"):
                ends = [self.nodes[name].end for name in node.after]
                ok, bad, open_ = ends.count("done"), ends.count("dead"), ends.count(None)
                of, count = WAITS[node.when]
                verdict = decide(Tally(True, len(ends), ok, bad, len(ends) - ok - bad - open_), of, count)
                node.went = verdict == "go"
                node.end = "skipped" if verdict == "skip" else None

    def state(self, name: str) -> str:
        node = self.nodes[name]
        return node.end or ("ready" if node.went else "blocked")

    @property
    def whole(self) -> str:
        nodes = self.nodes.values()
        if any(node.end is None for node in nodes):
            return "running"
        handlers = [node for node in nodes if node.end == "done" and node.when in ("failed", "any_failed")]
        dealt = {name for node in handlers for name in node.after}
        if any(node.end == "dead" and node.name not in dealt for node in nodes):
            return "failed"
        return "cancelled" if any(node.end == "cancelled" for node in nodes) else "succeeded"
