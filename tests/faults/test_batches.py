"""A batch whose workers are killed while it runs (F34)."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from faults.harness import Fault, Fleet, Nemesis, Sink, check
from windlass import State

CALLBACKS = {"many:on_success": State.DONE, "many:on_complete": State.DONE, "many:on_death": State.CANCELLED}


def under_kills(fleet: Fleet, seed: int, count: int, kills: int) -> dict[str, int]:
    """Add jobs to a batch while workers run them and are killed; give the memory of who adds them."""
    for _ in range(2):
        fleet.start_ready(processes=2, threads=4)
    client = fleet.program(sys.executable, "-m", "faults.batch_client", str(count))
    fleet.until(lambda: fleet.app.engine.joins(["batch:many"])[0], "the batch to be there")

    def at_work() -> list[int]:
        """Those that have begun a job: a supervisor gives up when one after the other ends before."""
        return sorted(pid for pid in fleet.worker_pids() if (fleet.folder / f"ledger-{pid}.log").exists())

    def hit(fault: Fault) -> None:
        if client.runs or fleet.open_jobs():
            fleet.until(lambda: at_work() or not fleet.open_jobs(), "a worker to work")
        if pids := at_work():
            fleet.kill_worker(pids[fault.target % len(pids)])

    Nemesis(seed, kills, ("kill",), least=0.1, most=1.5).run(hit)
    assert client.ended() == 0, client.said()
    fleet.drain()
    resident: dict[str, int] = json.loads(client.said().splitlines()[-1])
    return resident


def assert_batch(fleet: Fleet, count: int, figure: Callable[[str, object], None]) -> None:
    info = fleet.app.batch(id="many").info()
    assert (info.sealed, info.progress.total, info.progress.done, info.progress.open) == (True, count, count, 0)
    assert {id: fleet.info(id).state for id in CALLBACKS} == CALLBACKS
    ran = Counter(run.job for run in fleet.runs() if run.ended is not None)
    with Sink(fleet.folder) as sink:
        assert sink.keys() == {"many:on_success", "many:on_complete"}  # the effect of each, once
        figure("F34", f"visits {dict(sink.verdicts())}")
    assert len(ran) == count + 2
    assert fleet.app.stats()["total_done"] == count + 2  # no result was accepted twice
    fleet.acked += ran
    verdict = check(fleet)
    figure("F34", verdict)
    verdict.assert_safe()


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("count", "kills"), [(1_000, 3), pytest.param(100_000, 30, marks=pytest.mark.soak)], ids=["short", "long"]
)
def test_a_batch_whose_workers_are_killed_calls_back_once(
    fleets: Callable[..., Fleet], seed: int, figure: Callable[[str, object], None], count: int, kills: int
) -> None:
    fleet = fleets(lease="60s", renew="1s", max_crashes=50)
    resident = under_kills(fleet, seed, count, kills)
    figure("F34", f"{len(fleet.kills)} kills; KiB of who adds them, by jobs: {resident}")
    first, *_, last = resident.values()
    assert last - first < 20_000
    assert_batch(fleet, count, figure)
