"""Processes that are killed: one worker process (F1), a whole tree (F2). Reference: fault catalogue."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from faults.harness import Fault, Fleet, Nemesis, Sink, check
from kit.fleet import Process, stat_of
from kit.waiting import stretched

SLOTS = 4
SETTLES = 100  # settle_batch: outcomes that may wait for their write when the process dies


def load(fleet: Fleet, count: int) -> None:
    """Many short jobs, and twenty long ones among them; every one with an effect."""
    for part in range(20):
        fleet.enqueue("pay", 1 + part % 5, times=count // 20)
        fleet.enqueue("pay", 200)


def storm(fleet: Fleet, seed: int, jobs: int, kills: int, trees: int) -> None:
    """Kill worker processes one after the other while their supervisors live."""
    for _ in range(trees):
        fleet.start_ready(processes=2, threads=SLOTS)
    load(fleet, jobs)

    def hit(fault: Fault) -> None:
        if not fleet.open_jobs():
            fleet.enqueue("pay", 5, times=200)  # nothing would be cut short by the rest of the kills
        pids = sorted(fleet.until(fleet.worker_pids, "a worker to live"))
        fleet.kill_worker(pids[fault.target % len(pids)])

    Nemesis(seed, kills, ("kill",), least=0.1, most=0.5).run(hit)
    fleet.drain()


def assert_storm(fleet: Fleet, figure: Callable[[str, object], None], kills: int) -> None:
    verdict = check(fleet)
    figure("F1", f"{kills} kills: {verdict}")
    verdict.assert_safe()
    assert verdict.dead == 0
    assert len(verdict.freed) == kills
    assert max(verdict.freed) < stretched(10)  # the promise is 2 s; a lost job never comes back
    assert max(verdict.repeats.values(), default=0) <= SLOTS + SETTLES
    with Sink(fleet.folder) as sink:
        assert sink.keys() == set(fleet.acked)
        figure("F1", f"effects {dict(sink.verdicts())}")


def test_a_killed_worker_process_loses_nothing_and_its_jobs_run_again_at_once(
    fleets: Callable[..., Fleet], seed: int, figure: Callable[[str, object], None], share: float
) -> None:
    # The lease is long here: only the supervisors can free what the dead held.
    fleet = fleets(lease="60s", renew="1s", max_crashes=50)
    kills = int(20 * share)
    storm(fleet, seed, jobs=int(2_000 * share), kills=kills, trees=3)
    assert_storm(fleet, figure, kills)


@pytest.mark.soak
def test_a_hundred_killed_worker_processes_lose_nothing(
    fleets: Callable[..., Fleet], seed: int, figure: Callable[[str, object], None]
) -> None:
    fleet = fleets(lease="60s", renew="1s", max_crashes=50)
    storm(fleet, seed, jobs=10_000, kills=100, trees=4)
    assert_storm(fleet, figure, 100)


@pytest.mark.thorough
def test_a_killed_supervisor_takes_its_processes_along_in_order(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None]
) -> None:
    fleet = fleets(lease="60s", renew="1s", shutdown_timeout="1h")
    fleet.enqueue("pay", 50, times=200)
    fleet.enqueue("pwork", 50, times=20)
    tree = fleet.start_ready(processes=2, threads=SLOTS)
    fleet.until(lambda: len(fleet.runs()) > 20, "jobs to run")
    os.kill(tree.pid, signal.SIGKILL)
    tree.gone()
    assert not fleet.app.workers(), "a worker ended without deregistering"
    assert [run for run in fleet.runs() if run.ended is None] == []
    assert fleet.app.stats()["running"] == 0
    fleet.start_ready(processes=2, threads=SLOTS)
    fleet.drain()
    verdict = check(fleet)
    figure("F2", f"supervisor alone: {verdict}")
    verdict.assert_safe()
    assert verdict.duplicated == 0


@pytest.mark.thorough
def test_a_killed_zygote_is_replaced_with_its_workers_and_nothing_is_lost(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None]
) -> None:
    fleet = fleets(lease="60s", renew="1s", shutdown_timeout="3s")
    fleet.enqueue("pay", 20, times=200)
    fleet.enqueue("pwork", 20, times=50)
    tree = fleet.start_ready(processes=2, threads=SLOTS)
    before = set(fleet.worker_pids())
    fleet.until(lambda: len(fleet.runs()) > 20, "jobs to run")
    zygote = stat_of(min(before))
    assert zygote is not None
    os.kill(zygote.parent, signal.SIGKILL)
    fleet.drain()
    fleet.until(lambda: len(set(fleet.worker_pids()) - before) == 2, "two new worker processes")
    assert tree.runs
    verdict = check(fleet)
    figure("F1", f"zygote killed: {verdict}")
    verdict.assert_safe()
    assert not before & set(fleet.worker_pids())


def kill_trees(fleet: Fleet, seed: int, jobs: int, kills: int) -> None:
    """Kill supervisor and workers together, start anew, again and again."""
    tree: Process = fleet.start_ready(processes=2, threads=SLOTS)
    load(fleet, jobs)

    def hit(fault: Fault) -> None:
        nonlocal tree
        fleet.until(lambda: fleet.running_on() or not fleet.open_jobs(), "jobs to run")
        dead = fleet.kill_tree(tree)
        tree = fleet.start(processes=2, threads=SLOTS)
        fleet.await_freed(dead)

    Nemesis(seed, kills, ("kill tree",), least=0.2, most=0.6).run(hit)
    fleet.drain()


def test_a_killed_tree_loses_nothing_and_its_jobs_run_again_when_the_lease_is_over(
    fleets: Callable[..., Fleet], seed: int, figure: Callable[[str, object], None], share: float
) -> None:
    fleet = fleets(lease="2s", renew="300ms", reap="300ms")
    kill_trees(fleet, seed, jobs=int(1_000 * share), kills=3)
    verdict = check(fleet)
    figure("F2", f"lease 2 s: {verdict}")
    verdict.assert_safe()
    assert verdict.dead == 0
    assert max(verdict.freed) < stretched(20)  # lease + reap, and the start of the new tree
    assert max(verdict.repeats.values(), default=0) <= SLOTS + SETTLES
    with Sink(fleet.folder) as sink:
        assert sink.keys() == set(fleet.acked)


@pytest.mark.soak
def test_thirty_killed_trees_lose_nothing(
    fleets: Callable[..., Fleet], seed: int, figure: Callable[[str, object], None]
) -> None:
    fleet = fleets(lease="2s", max_interruptions=100)
    kill_trees(fleet, seed, jobs=10_000, kills=30)
    verdict = check(fleet)
    figure("F2", verdict)
    verdict.assert_safe()
    with Sink(fleet.folder) as sink:
        assert sink.keys() == set(fleet.acked)
