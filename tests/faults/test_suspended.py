"""Workers that live and cannot work: stopped (F5), starved of the interpreter (F6), with a wrong wall clock (F7)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from faults.harness import Fault, Fleet, Nemesis, Sink, check
from kit.waiting import elapse, stretched

LEASE = 2.0  # seconds


def busy_worker(fleet: Fleet) -> int:
    """A live worker process that is running a job now."""

    def find() -> int:
        running, live = fleet.running_on(), fleet.worker_pids()
        return next((pid for pid in live if running.get(pid)), 0)

    return fleet.until(find, "a worker to run a job")


THOROUGH = pytest.mark.thorough


@pytest.mark.parametrize("leases", [pytest.param(0.1, marks=THOROUGH), 1.5, pytest.param(5, marks=THOROUGH)])
def test_a_stopped_worker_that_wakes_up_changes_nothing_that_is_not_its_own_any_more(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None], leases: float
) -> None:
    lease = LEASE if leases > 1 else 15 * LEASE  # what is to be a part of it is one on any machine
    fleet = fleets(lease=f"{lease}s", renew="250ms", reap="200ms")
    fleet.start_ready(processes=2, threads=2)
    fleet.enqueue("pay", 400, times=12)
    pid = busy_worker(fleet)
    held = {run.job for run in fleet.running_on()[pid]}
    worker = fleet.worker_pids()[pid]
    with fleet.stopped(pid):
        if leases > 1:
            fleet.until(
                lambda: worker not in {one.id for one in fleet.app.workers()}, "the stopped worker to be reaped"
            )
        if leases > 2:  # the others have all the time they need
            fleet.until(lambda: fleet.open_jobs() == 0, "the other worker to do all jobs")
        elapse(leases * lease)
    fleet.drain()
    fleet.until(lambda: not fleet.running_on(), "the woken runs to end")
    fleet.until(lambda: len(fleet.worker_pids()) == 2, "both workers to be registered again")
    fleet.enqueue("pay", 5, times=20)
    fleet.drain()

    verdict = check(fleet)
    dropped = fleet.logged("outcomes were dropped")
    with Sink(fleet.folder) as sink:
        verdicts = sink.verdicts()
        figure(
            "F5", f"{leases} leases: {verdict}; settles dropped by the woken worker {dropped}; effects {dict(verdicts)}"
        )
        assert sink.keys() == set(fleet.acked)
        assert verdicts["first"] == len(fleet.acked)
        if leases > 2:
            assert verdicts["refused"] >= 1
    verdict.assert_safe()
    assert held
    if leases < 1:
        assert (verdict.stale, verdict.excused, verdict.duplicated) == (0, 0, 0)
    else:
        assert verdict.stale + dropped >= 1
    if leases > 2:
        assert verdict.excused >= 1


@pytest.mark.parametrize("job", [pytest.param("spin", marks=THOROUGH), "clutch"])
def test_a_job_that_starves_its_process_keeps_its_lease(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None], job: str
) -> None:
    lease = round(stretched(LEASE))
    fleet = fleets(lease=f"{lease}s", renew="250ms", reap="200ms")
    fleet.start_ready(processes=2, threads=2)
    hogs = fleet.enqueue(job, 2 * lease)
    fleet.until(lambda: fleet.running_on(), "the hog to run")
    fleet.enqueue("pay", 20, times=50)
    fleet.drain()
    # A hog that was taken for dead would be claimed once more; its process takes part again at once.
    fleet.enqueue("pay", 5, times=20)
    fleet.drain()

    verdict = check(fleet)
    counts = fleet.app.stats()
    renewed = fleet.logged("its lease is renewed for it")
    figure(
        "F6", f"{job}: {verdict}; false expiries {counts['total_recovered']}, renewed by the supervisor {renewed} times"
    )
    verdict.assert_safe()
    assert verdict.duplicated == 0, fleet.last_words()
    assert counts["total_recovered"] == 0
    assert verdict.stale == 0
    assert fleet.info(hogs[0]).attempt == 1
    if job == "clutch":
        assert renewed >= 1


HOUR = 3_600_000  # ms


def test_a_wall_clock_that_is_stepped_costs_no_lease_and_no_second_run(
    fleets: Callable[..., Fleet], seed: int, figure: Callable[[str, object], None], share: float
) -> None:
    lease = round(stretched(5))
    fleet = fleets(lease=f"{lease}s", renew="500ms", reap="200ms")
    fleet.start_ready(processes=3, threads=2)
    fleet.enqueue("pay", 10, times=int(600 * share))
    fleet.enqueue("pay", lease * 1_200, times=3)  # longer than a lease, across the steps
    seen: list[str] = []

    def hit(fault: Fault) -> None:
        pids = sorted(fleet.worker_pids())
        offset = {"ahead": HOUR, "behind": -HOUR, "right": 0}[fault.what]
        target = pids[fault.target % len(pids)]
        step(fleet, target, offset)
        seen.append(fault.what)

    Nemesis(seed, 12, ("ahead", "behind", "right"), least=0.1, most=0.4).run(hit)
    fleet.drain()
    verdict = check(fleet)
    counts = fleet.app.stats()
    figure("F7", f"steps {seen}: {verdict}; leases lost {counts['total_recovered']}")
    verdict.assert_safe()
    assert counts["total_recovered"] == 0
    assert (verdict.duplicated, verdict.stale) == (0, 0)
    with Sink(fleet.folder) as sink:
        assert sink.keys() == set(fleet.acked)


@THOROUGH
def test_fences_grow_although_the_wall_clock_steps_back(fleets: Callable[..., Fleet]) -> None:
    fleet = fleets()
    tree = fleet.start_ready(processes=1, threads=2)
    (pid,) = fleet.worker_pids()
    step(fleet, pid, HOUR)
    fleet.enqueue("pay", 1, times=10)
    fleet.drain()
    step(fleet, pid, -HOUR)
    fleet.enqueue("pay", 1, times=10)
    fleet.drain()
    tree.send_signal(signal.SIGTERM)
    assert tree.ended() == 0
    fences = [run.fence for run in fleet.runs()]
    first, second = set(fleet.acked[:10]), set(fleet.acked[10:])
    assert max(run.fence for run in fleet.runs() if run.job in first) < min(
        run.fence for run in fleet.runs() if run.job in second
    )
    assert len(set(fences)) == len(fences)


def step(fleet: Fleet, pid: int, offset: int) -> None:
    """Step the wall clock of one process, in one write."""
    new = fleet.folder / "skew.new"
    new.write_text(str(offset))
    os.replace(new, fleet.folder / f"skew-{pid}")
