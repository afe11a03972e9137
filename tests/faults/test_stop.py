"""Workers that are told to stop (F29): within the grace, past it, at once; exit codes, and what is given back."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from faults.harness import Fleet, check
from kit.fleet import Process
from kit.waiting import elapse
from windlass import State
from windlass.worker.process.stopping import ECHO

GRACE = 1.0  # seconds; shutdown_timeout of these fleets
HOUR = 3_600_000  # ms; a job that ends within no patience
LONG = int((GRACE + 1) * 1000)  # ms; a job that cannot end within the grace


def stop(fleet: Fleet, tree: Process, *signals: int) -> tuple[int, float]:
    """Send signals, each when the one before was taken; give the exit code and how long it took to end."""
    began = time.monotonic()
    for count, number in enumerate(signals):
        tree.send_signal(number)
        if count == 0 and len(signals) > 1:
            fleet.until(lambda: fleet.logged("stopping:"), "the first signal to be taken")
            elapse(2 * ECHO)  # two within it are one
    code = tree.ended()
    took = time.monotonic() - began
    tree.gone()
    return code, took


def until_running(fleet: Fleet, count: int) -> None:
    fleet.until(lambda: sum(map(len, fleet.running_on().values())) >= count, f"{count} jobs to run")


def test_term_lets_short_jobs_end_and_leaves_the_rest_as_it_is(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None]
) -> None:
    fleet = fleets(shutdown_timeout="1h")
    for name in ("pay", "awork", "pwork"):
        fleet.enqueue(name, 100, times=40)
    tree = fleet.start_ready(processes=2, threads=4)
    until_running(fleet, 8)
    code, took = stop(fleet, tree, signal.SIGTERM)
    counts = fleet.app.stats()
    cut = [run for run in fleet.runs() if run.ended is None]
    figure("F29", f"TERM, jobs of 0.1 s: exit {code} after {took:.2f} s, done {counts['done']}, left {counts['ready']}")
    assert code == 0
    assert cut == []
    assert counts["running"] == 0
    assert counts["done"] + counts["ready"] == 120
    assert counts["done"] == len(fleet.runs())
    assert not fleet.app.workers()
    interruptions = [fleet.row(one).interruptions for one in fleet.acked]
    assert sum(interruptions) == 0
    fleet.start_ready(processes=2, threads=4)
    fleet.drain()
    verdict = check(fleet)
    verdict.assert_safe()
    assert verdict.duplicated == 0


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["work", "awork", "pwork", "narrate"])
def test_term_gives_back_a_job_that_outlasts_the_grace_and_counts_the_interruption(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None], name: str
) -> None:
    fleet = fleets(shutdown_timeout=f"{GRACE}s", lease="60s", renew="1s")
    (long,) = fleet.enqueue(name, LONG * 4)
    tree = fleet.start_ready(processes=1, threads=2)
    until_running(fleet, 1)
    code, took = stop(fleet, tree, signal.SIGTERM)
    row = fleet.row(long)
    figure("F29", f"TERM, {name} of grace + {LONG * 4 / 1000 - GRACE:g} s: exit {code} after {took:.2f} s")
    assert code == 0
    assert (row.state, row.interruptions, row.attempt, row.crashes) == (State.READY, 1, 0, 0)
    assert not fleet.app.workers()


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        pytest.param((signal.SIGTERM, signal.SIGTERM), 143, id="TERM-TERM"),
        pytest.param((signal.SIGINT, signal.SIGINT), 130, id="INT-INT", marks=pytest.mark.thorough),
        pytest.param((signal.SIGTERM, signal.SIGINT), 130, id="TERM-INT", marks=pytest.mark.thorough),
        pytest.param((signal.SIGQUIT,), 131, id="QUIT", marks=pytest.mark.thorough),
    ],
)
def test_a_second_signal_or_quit_ends_at_once_and_returns_the_jobs(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None], signals: tuple[int, ...], code: int
) -> None:
    fleet = fleets(shutdown_timeout="1h", lease="60s", renew="1s")
    for name in ("work", "awork", "pwork"):
        fleet.enqueue(name, HOUR)
    tree = fleet.start_ready(processes=1, threads=4)
    until_running(fleet, 3)
    got, took = stop(fleet, tree, *signals)
    counts = fleet.app.stats()
    figure("F29", f"{signals}: exit {got} after {took:.2f} s, given back {counts['ready']}")
    assert got == code
    assert counts["ready"] == 3, fleet.last_words()
    assert [fleet.row(one).interruptions for one in fleet.acked] == [1, 1, 1]
    assert not fleet.app.workers()


@pytest.mark.thorough
def test_one_int_stops_gracefully_with_code_0(fleets: Callable[..., Fleet]) -> None:
    fleet = fleets(shutdown_timeout="1h")
    fleet.enqueue("pay", 200, times=4)
    tree = fleet.start_ready(processes=1, threads=4)
    until_running(fleet, 1)
    code, _ = stop(fleet, tree, signal.SIGINT)
    assert code == 0
    assert [run for run in fleet.runs() if run.ended is None] == []


def is_left(fleet: Fleet) -> bool:
    """Whether nobody takes a new job within two polls."""
    fleet.enqueue("pay", 1)
    return not fleet.app.engine.wait_finished(fleet.acked[-1:], 1.0)


@pytest.mark.thorough
def test_quiet_claims_nothing_more_until_the_worker_is_stopped(fleets: Callable[..., Fleet]) -> None:
    fleet = fleets(shutdown_timeout="1h")
    tree = fleet.start_ready(processes=1, threads=2)
    tree.send_signal(signal.SIGTSTP)
    (pid,) = fleet.worker_pids()
    fleet.until(lambda: is_left(fleet), "a job to be left alone")
    fleet.enqueue("pay", 1, times=5)
    elapse(0.7)  # longer than poll_max
    assert fleet.app.stats()["ready"] == 6
    assert pid in fleet.worker_pids()
    code, _ = stop(fleet, tree, signal.SIGTERM)
    assert code == 0


@pytest.mark.parametrize("name", [pytest.param("work", marks=pytest.mark.thorough), "awork"])
def test_interruptions_are_free_until_there_were_too_many(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None], name: str
) -> None:
    fleet = fleets(shutdown_timeout="0s", max_interruptions=1, lease="60s", renew="1s")
    job = getattr(fleet.jobs, name).options(retry=1).enqueue(HOUR).id
    seen = []
    for turn in (1, 2, 3):
        tree = fleet.start_ready(processes=1, threads=2)
        fleet.until(lambda turn=turn: len(fleet.runs()) == turn, f"run {turn} to begin")  # type: ignore[misc]
        code, _ = stop(fleet, tree, signal.SIGTERM)
        assert code == 0
        row = fleet.row(job)
        seen.append((row.state.value, row.attempt))
    figure("F29", f"{name}, max_interruptions=1, two attempts: {seen}")
    assert seen[0] == ("ready", 0)
    assert seen[1] in (("ready", 1), ("scheduled", 1))
    assert seen[2] == ("dead", 2)
