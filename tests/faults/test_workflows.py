"""Workflows on processes that die (F34): none is stuck, every join decides once, and each comes to the end it must."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

import pytest

from faults.flows import STEPS, Fate, Plan, plan
from faults.harness import Fleet, Kill, Run, Sink, check
from faults.test_crash_points import BY_SUPERVISOR, BY_WORKER, CRASHED, IN_TRANSACTIONS
from kit.fleet import Process, alive
from windlass.engines.base import TransactionalCommit, TransactionalSettle
from windlass.flow.handle import WorkflowHandle

Fleets = Callable[..., Fleet]
Figure = Callable[[str, object], None]
Flows = Sequence[tuple[str, int]]  # ids and seeds

LOOKED = 0.1  # part of the times at which a workflow is asked whether it is stalled
DEATHS = {"max_crashes": 1_000, "max_interruptions": 1_000}  # no process dies of a job here
POINTS = [*BY_WORKER, *BY_SUPERVISOR]
NTH = {"exchange": [1, 4, 15, 40], "extend": [2], "maintain": [1, 3]}
SIDES = ["before", "after"]


def test_a_workflow_comes_to_its_end_on_processes_that_die(fleets: Fleets, seed: int, figure: Figure) -> None:
    fleet = fleets(lease="60s", **DEATHS)
    flows = [("w", seed)]
    assert start(fleet, *flows[0], "commit:after") == [CRASHED, 0]
    seen = storm(fleet, flows, seed, {"WINDLASS_CRASHPOINT": "exchange:after:25,exchange:before:60"}, kills=1)
    assert fleet.app.start(plan(fleet.app, fleet.jobs, *flows[0]).flow).duplicate
    assert_as_planned(fleet, flows, seen, figure)


@pytest.mark.soak
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("call", ["commit", "commit_within"])
def test_a_start_that_dies_and_is_repeated_starts_one_workflow(fleets: Fleets, seed: int, call: str, side: str) -> None:
    fleet = fleets()
    within = ["within"] if call == "commit_within" else []
    if within and not isinstance(fleet.app.engine, TransactionalCommit):
        return  # there is no such call to die at
    assert start(fleet, "w", seed, f"{call}:{side}", *within) == [CRASHED, 0]
    # In a transaction nothing is stored before its block has ended, and the process died inside of it.
    assert ("was there" in fleet.said()) is (side == "after" and not within)
    assert start(fleet, "w", seed, "", *within) == [0]
    assert fleet.logged("was there") == 1 + (side == "after" and not within)
    assert [one.id for one in fleet.app.workflows()] == ["w"]
    wanted = STEPS + bool(plan(fleet.app, fleet.jobs, "x", seed).undone)
    assert fleet.app.workflow("w").progress().total == fleet.app.stats()["total_enqueued"] == wanted


@pytest.mark.soak
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("point", [(point, nth) for point in POINTS for nth in NTH.get(point, [1])], ids=str)
def test_a_process_that_ends_at_an_engine_call_leaves_its_steps_to_others(
    fleets: Fleets, seed: int, figure: Figure, point: tuple[str, int], side: str
) -> None:
    fleet = fleets(lease="5s", renew="200ms", reap="200ms", **DEATHS)
    call, nth = point
    if call in IN_TRANSACTIONS and not isinstance(fleet.app.engine, TransactionalSettle):
        return  # there is no such call to die at
    fired = fleet.folder / "fired"
    flows = [("w", seed)]
    assert start(fleet, "w", seed) == [0]
    crash = {"WINDLASS_CRASHPOINT": f"{call}:{side}:{nth}", "WINDLASS_CRASHPOINT_ONCE": str(fired)}
    seen = storm(fleet, flows, seed, crash, kills=1 if call in BY_SUPERVISOR else 0, stops=1)
    fleet.until(fired.exists, f"a process to come by {call}:{side}")
    assert_as_planned(fleet, flows, seen, figure)


@pytest.mark.soak
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("nth", [12, 30])
def test_processes_that_all_end_at_the_same_call_get_through_it_together(
    fleets: Fleets, seed: int, figure: Figure, nth: int, side: str
) -> None:
    fleet = fleets(lease="60s", **DEATHS)
    flows = [("w", seed)]
    assert start(fleet, "w", seed) == [0]
    seen = storm(fleet, flows, seed, {"WINDLASS_CRASHPOINT": f"exchange:{side}:{nth}"})
    assert_as_planned(fleet, flows, seen, figure)


@pytest.mark.soak
@pytest.mark.parametrize("what", ["workers", "trees"])
def test_workflows_come_to_their_ends_under_kills_at_random(
    fleets: Fleets, seed: int, figure: Figure, what: str
) -> None:
    fleet = fleets(lease="5s", renew="200ms", reap="200ms", **DEATHS)
    flows = [(f"w{number}", seed + number) for number in range(5)]
    for id, seed_of_one in flows:
        assert start(fleet, id, seed_of_one) == [0]
    seen = storm(fleet, flows, seed, kills=20 if what == "workers" else 0, tree_kills=5 if what == "trees" else 0)
    assert_as_planned(fleet, flows, seen, figure)


# -- running them --


def start(fleet: Fleet, id: str, seed: int, crash: str = "", *within: str) -> list[int]:
    """Start a workflow in a program, again and again until that ends well; give its exit codes."""
    if isinstance(fleet.app.engine, TransactionalSettle):
        with fleet.app.transaction() as tx:
            tx.execute("CREATE TABLE IF NOT EXISTS bookings (id TEXT)")
    variables = {"WINDLASS_CRASHPOINT": crash, "WINDLASS_CRASHPOINT_ONCE": f"{fleet.folder}/start-fired"}
    codes: list[int] = []
    while not codes or codes[-1] == CRASHED:
        program = fleet.program(
            sys.executable, "-m", "faults.flows", id, str(seed), *within, **(variables if crash else {})
        )
        codes.append(program.ended())
        assert codes[-1] in (0, CRASHED), program.said()
    return codes


@dataclass
class Seen:
    """What was seen while workflows ran."""

    seconds: float = 0
    deaths: int = 0  # worker processes that ended in the middle
    healthy: set[int] = field(default_factory=set)  # process ids of those that were left at the end
    alarms: list[str] = field(default_factory=list)  # how workflows were said to be stalled


def storm(
    fleet: Fleet,
    flows: Flows,
    seed: int,
    crash: dict[str, str] | None = None,
    *,
    kills: int = 0,
    tree_kills: int = 0,
    stops: int = 0,
) -> Seen:
    """Run workflows in worker trees until all have ended; kill at random, and start what has ended anew."""
    rng, seen, began = Random(seed), Seen(), time.monotonic()
    handles = [fleet.app.workflow(id) for id, _ in flows]
    hits = ["kill"] * kills + ["kill tree"] * tree_kills + ["stop"] * stops
    rng.shuffle(hits)
    after = sorted(rng.uniform(0.05, 0.7) * STEPS * len(flows) for _ in hits)  # runs; there are more of them
    tree = fleet.start(processes=2, threads=4, **(crash or {}))

    def left() -> int:
        nonlocal tree
        if not tree.runs:
            tree.kill_all()
            tree = fleet.start(processes=2, threads=4, **(crash or {}))
        if rng.random() < LOOKED and (why := rng.choice(handles).info().stalled) is not None:
            seen.alarms.append(why)
        pids = sorted(fleet.worker_pids(tree))
        if hits and pids and len(fleet.runs()) > after[-len(hits)]:
            hit(fleet, tree, hits.pop(), rng.choice(pids))
        return fleet.open_jobs()

    fleet.until_none(left, "every workflow to end")
    seen.seconds = time.monotonic() - began
    worked = {run.pid for run in fleet.runs()}
    seen.healthy = {pid for pid in worked if alive(pid)}
    seen.deaths = len(worked - seen.healthy)
    if hits:  # what came too late is still met by processes that have nothing to do
        hit(fleet, tree, hits.pop(), min(fleet.until(lambda: fleet.worker_pids(tree), "a worker to live")))
    return seen


def hit(fleet: Fleet, tree: Process, what: str, pid: int) -> None:
    """Kill a worker process or its whole tree, or tell that to stop."""
    if what == "kill":
        at = time.monotonic_ns()
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself meanwhile
            os.kill(pid, signal.SIGKILL)
            fleet.kills.append(Kill(pid, "", at))
    elif what == "kill tree":
        fleet.kill_tree(tree)
    else:
        tree.send_signal(signal.SIGTERM)
        tree.ended()


# -- what they must have come to --


def assert_as_planned(fleet: Fleet, flows: Flows, seen: Seen, figure: Figure) -> None:
    """Each workflow has ended as planned, and each of its jobs ran when it could and as often as it had to."""
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in fleet.runs():
        runs[run.job].append(run)
    early: list[str] = []
    for id, seed in flows:
        planned = plan(fleet.app, fleet.jobs, id, seed)
        early += compare(fleet, planned, fleet.app.workflow(id), runs)
    twice = [job for job, each in runs.items() if decided_twice(each, seen.healthy)]
    verdict = check(fleet)
    figure(
        "F34",
        f"{len(flows)} workflows of {len(fleet.acked)} jobs in {seen.seconds:.1f} s, {seen.deaths} deaths, stuck 0, "
        f"decided twice {len(twice)}, too early {len(early)}, said to be stalled {len(seen.alarms)}; {verdict}",
    )
    verdict.assert_safe()
    assert (twice, early) == ([], [])
    assert not seen.alarms, seen.alarms
    with Sink(fleet.folder) as sink:
        assert sink.keys() == {run.job for run in fleet.runs() if not run.job.endswith(":book")}


def compare(fleet: Fleet, planned: Plan, handle: WorkflowHandle, runs: dict[str, list[Run]]) -> list[str]:
    """Hold a workflow against its plan; give the steps that ran before those they wait for had ended."""
    info = handle.info()
    assert (info.state, info.stalled, info.progress.open) == (planned.whole, None, 0)
    ids = {step.name: step.id for step in info.steps}
    counted = [step for step in info.steps if not step.job.startswith("windlass.")]  # those that the ledger has
    fleet.acked += [step.id for step in counted]
    real = {step.name: Fate(str(step.state), step.attempt, fleet.info(step.id).result) for step in info.steps}
    assert real == planned.fates()
    for step in counted:
        assert {run.attempt for run in runs[step.id]} == set(range(1, step.attempt + 1)), step.name
    early = []
    for node in planned.nodes.values():
        ends = {one: runs[ids[one]][-1].ended for one in node.after if runs[ids[one]]}
        if node.when == "any_failed":  # the first death is enough; of what windlass runs itself the ledger has no time
            dead = [one for one in node.after if planned.nodes[one].end == "dead"]
            awaited = min((ends.get(one) or 0 for one in dead), default=0)
        else:
            awaited = max(ends.values(), default=0)
        if runs[ids[node.name]] and runs[ids[node.name]][0].began < awaited:
            early.append(ids[node.name])
    for step in info.steps:
        if step.workflow:
            early += compare(fleet, planned.subs[step.name], fleet.app.workflow(step.workflow), runs)
    return early


def decided_twice(runs: list[Run], healthy: set[int]) -> bool:
    """Whether a job ran again though one of its runs ended in a process that did not die: its result was accepted."""
    return any(one.pid in healthy and one.attempt == later.attempt for one, later in pairwise(runs))
