"""Pictures of workflows: who stands below whom, what is left out, and names that would be syntax."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from windlass import State, StepInfo, WorkflowInfo
from windlass.flow.drawing import ALL, COLOURS, SOME, Most, draw_dot, draw_mermaid, draw_tree, state_of
from windlass.flow.members import FlowProgress

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ODD = 'a "b" <i>c</i> #35; & `d` [x] \\N; -->|y| {z}'


def step(name: str, state: str | None = "done", **facts: Any) -> StepInfo:
    given: dict[str, Any] = {
        "id": f"w:{name}", "job": "job", "after": (), "when": "succeeded", "parent": "", "workflow": "", "attempt": 1,
        "reason": None, "error": None, "enqueued_at": BEGAN, "started_at": None, "finished_at": None, "waits_for": (),
    }  # fmt: skip
    return StepInfo(name=name, state=state, **(given | facts))


def workflow(*steps: StepInfo, name: str = "order") -> WorkflowInfo:
    progress = FlowProgress(len(steps), 0, 0, 0)
    return WorkflowInfo("w", name, "running", progress, BEGAN, BEGAN, None, None, steps, "")


def tree(info: WorkflowInfo, subs: dict[str, WorkflowInfo] | None = None, most: Most = SOME) -> list[str]:
    return [line.label for line in draw_tree(info, subs or {}, most)]


def test_what_a_step_made_and_the_workflow_that_it_runs_stand_below_it() -> None:
    sub = workflow(step("wrap", workflow="deep"), step("seal", after=("wrap",)), name="pack")
    deep = workflow(step("cut"), name="paper")
    info = workflow(
        step("list"),
        step("pack", after=("list",), workflow="sub"),
        step("ship", after=("pack",)),
        step("list/1", parent="list"),
        step("list/2", parent="list"),
        step("list/1/a", parent="list/1"),
        step("pack/x", parent="pack"),
    )
    assert tree(info, {"sub": sub, "deep": deep}) == [
        "list",
        "├─ list/1",
        "│  └─ list/1/a",
        "└─ list/2",
        "pack",
        "├─ pack/x",
        "├─ wrap",
        "│  └─ cut",
        "└─ seal",
        "ship",
    ]


def test_a_workflow_that_has_not_begun_is_one_step() -> None:
    assert tree(workflow(step("pack", "blocked", workflow="sub"))) == ["pack"]


def test_a_spoiled_workflow_that_is_in_itself_is_drawn_once() -> None:
    sub = workflow(step("again", workflow="sub"))
    assert tree(workflow(step("pack", workflow="sub")), {"sub": sub}) == ["pack", "└─ again"]


def test_a_step_whose_parent_is_lost_is_shown() -> None:
    assert tree(workflow(step("a"), step("gone/1", parent="gone"))) == ["a", "gone/1"]


def test_of_a_long_fan_out_those_are_shown_that_somebody_looks_for() -> None:
    states = ["done"] * 9_990 + ["running", "dead", "blocked", None]
    made = [step(f"r/{number}", state, parent="r") for number, state in enumerate(states)]
    info = workflow(step("r", "blocked"), *made)
    shown = ["r", *(f"├─ r/{number}" for number in (0, 1, 2, 3, 4, 5, 9990, 9991, 9992, 9993))]
    assert tree(info) == [*shown, "└─ ... and 9,984 more done"]
    assert len(tree(info, most=ALL)) == 9_995
    assert "... and 9,984 more done" in draw_mermaid(info, {})
    assert "... and 9,984 more done" in draw_dot(info, {})


def test_what_is_left_out_is_counted_by_state() -> None:
    states = ["done"] * 30 + ["running"] * 12 + ["ready"] * 3
    info = workflow(step("r"), *(step(f"r/{at}", state, parent="r") for at, state in enumerate(states)))
    assert tree(info)[-1] == "└─ ... and 35 more: 30 done, 3 ready, 2 running"


def test_a_workflow_of_many_steps_is_shortened_too() -> None:
    info = workflow(*(step(f"s{at}") for at in range(150)))
    assert tree(info)[-2:] == ["s99", "... and 50 more done"]


@pytest.mark.parametrize("draw", [draw_mermaid, draw_dot])
def test_edges_of_steps_that_are_left_out_lead_to_those_that_stand_for_them(draw: Any) -> None:
    many = [step(f"s{at}", after=("first",)) for at in range(150)]
    picture = draw(
        workflow(step("first", "dead"), *many, step("last", "dead", after=tuple(one.name for one in many))), {}
    )
    (more,) = re.findall(r"^ *(n\d+).*and 52 more done", picture, re.MULTILINE)
    assert len(re.findall(rf"-+> {more}\b", picture)) == 1
    assert len(re.findall(rf"^ *{more} -+>", picture, re.MULTILINE)) == 1


def test_a_mermaid_graph() -> None:
    took = {"started_at": BEGAN, "finished_at": BEGAN + timedelta(milliseconds=340)}
    info = workflow(
        step("pay", **took),
        step("refund", "blocked", after=("pay",), when="any_failed"),
        step("pack", workflow="sub"),
        step("pay/audit", "running", parent="pay"),
    )
    assert draw_mermaid(info, {"sub": workflow(step("wrap"), name="paper")}) == (
        "flowchart TD\n"
        '    n1["pay<br/>done, 340 ms"]:::done\n'
        '    n2["pay/audit<br/>running"]:::running\n'
        '    n3["refund<br/>blocked"]:::blocked\n'
        '    n4["pack<br/>done"]:::done\n'
        '    subgraph g5["paper"]\n'
        '        n6["wrap<br/>done"]:::done\n'
        "    end\n"
        "    n1 -->|any_failed| n3\n"
        "    n1 -.-> n2\n"
        "    n4 -.-> g5\n"
        "    classDef blocked fill:#ffffff,stroke:#bdbdbd,color:#000\n"
        "    classDef done fill:#d9f2d9,stroke:#2e7d32,color:#000\n"
        "    classDef running fill:#d6ecfa,stroke:#0277bd,color:#000\n"
    )


def test_a_dot_graph() -> None:
    info = workflow(
        step("pay", "dead"),
        step("refund", "ready", after=("pay",), when="failed"),
        step("pack", workflow="sub"),
    )
    picture = draw_dot(info, {"sub": workflow(step("wrap"), name="paper")})
    assert picture.startswith('digraph "order" {\n')
    assert picture.endswith(
        '    n1 [label="pay\\ndead", fillcolor="#fbdcdc", color="#c62828"];\n'
        '    n2 [label="refund\\nready", fillcolor="#ffffff", color="#616161"];\n'
        '    n3 [label="pack\\ndone", fillcolor="#d9f2d9", color="#2e7d32"];\n'
        "    subgraph cluster_g4 {\n"
        '        label="paper";\n'
        '        n5 [label="wrap\\ndone", fillcolor="#d9f2d9", color="#2e7d32"];\n'
        "    }\n"
        '    n1 -> n2 [label="failed"];\n'
        "    n3 -> n5 [style=dashed, lhead=cluster_g4];\n"
        "}\n"
    )


def test_names_are_text_in_mermaid() -> None:
    odd = step(ODD, workflow="sub")
    picture = draw_mermaid(workflow(odd, step("end", after=(ODD,))), {"sub": workflow(odd, name=ODD + "\u202e\n")})
    labels = re.findall(r'\["(.*)"\]', picture)
    assert len(labels) == 4
    for label in labels:
        text = label.replace("<br/>", "")
        assert not re.search(r"[\"<>&`\[\]\\{}|\n]", text)
        assert re.sub(r"#(\d+);", lambda number: chr(int(number[1])), text).startswith(ODD) or "end" in text
    for line in picture.splitlines()[1:]:
        assert re.fullmatch(
            r' *(n\d+\["[^"]*"\]:::\w+|subgraph g\d+\["[^"]*"\]|end|n\d+ -\.?->(\|\w+\|)? [ng]\d+|classDef .*)', line
        ), line


def test_names_are_text_in_dot() -> None:
    odd = step(ODD, workflow="sub")
    picture = draw_dot(workflow(odd, step("end", after=(ODD,)), name=ODD), {"sub": workflow(odd, name=ODD + "\n\x1b")})
    quoted = re.findall(r'"((?:\\.|[^"\\])*)"', picture)
    texts = [re.sub(r"\\(.)", r"\1", one.replace("&amp;", "&")) for one in quoted]
    assert sum(text.startswith(ODD) for text in texts) == 4
    outside = re.sub(r'"(?:\\.|[^"\\])*"', "", picture)
    assert not re.search(r'["<\\|#&`]', outside)
    assert "\x1b" not in picture


def test_every_state_has_a_colour() -> None:
    states = {state_of(step("s", state)) for state in (*State, "skipped", None)}
    assert set(COLOURS) == {*states, "more"}
    assert state_of(replace(step("s"), state=None)) == "lost"
