"""Limits and rates of queues with real workers: over processes, changed while they run, and who is woken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, Line

from windlass import State


@pytest.fixture
def fleet(tmp_path: Path, store: dict[str, str]) -> Iterator[Fleet]:
    with Fleet(tmp_path, store.get("WINDLASS_URL")) as made:
        yield made


def most_at_once(lines: list[Line]) -> int:
    """The most jobs that ran at one moment."""
    most = running = 0
    for line in sorted(lines, key=lambda line: (line.at, line.what == "begin")):
        running += 1 if line.what == "begin" else -1
        most = max(most, running)
    return most


def test_a_limit_holds_over_processes_and_another_queue_has_the_other_slots(fleet: Fleet) -> None:
    fleet.write_jobs(queues={"tight": {"limit": 3}})
    fleet.enqueue("work", "tight", 60, "[[0.02], {}]")
    fleet.enqueue("work", "wide", 60, "[[0.02], {}]")
    fleet.run("-q", "tight,wide", "-p", "2", "-c", "4", "--burst")
    tight = [line for line in fleet.lines() if line.queue == "tight"]
    assert most_at_once(tight) == 3
    assert most_at_once(fleet.lines()) > 4
    assert len([line for line in fleet.lines() if line.what == "end"]) == 120


def test_a_limit_is_changed_while_the_workers_run(fleet: Fleet) -> None:
    fleet.enqueue("hold", "default", 6, f'[["{fleet.folder}/gate"], {{}}]')
    fleet.command("queues", "limit", "default", "1")
    fleet.start("-p", "2", "-c", "4")
    fleet.until(lambda: fleet.app.stats()["running"] == 1)
    assert "at most 3 jobs run at once" in fleet.command("queues", "limit", "default", "3")
    fleet.until(lambda: fleet.app.stats()["running"] == 3)
    assert fleet.app.queue("default").info().limit == 3
    fleet.command("queues", "limit", "default", "none")
    fleet.until(lambda: fleet.app.stats()["running"] == 6)


def test_an_idle_worker_has_the_room_that_one_leaves_which_claims_no_more(fleet: Fleet) -> None:
    fleet.write_jobs(poll_min="1h", poll_max="1h")  # only a wake-up can tell it in time
    fleet.app.queue("default").limit(1)
    fleet.start("-c", "1")
    fleet.alive(1)
    first, second = fleet.enqueue("hold", "default", 2, f'[["{fleet.folder}/gate"], {{}}]')
    fleet.until(lambda: fleet.app.jobs(State.RUNNING))
    (busy,) = fleet.app.workers()
    fleet.start("-c", "1")
    fleet.alive(2)
    fleet.command("workers", "quiet", busy.id)
    fleet.until(lambda: any("quiet" in worker.asked for worker in fleet.app.workers()))
    (fleet.folder / "gate").touch()
    done = fleet.until(lambda: fleet.app.get(second).finished_at)
    assert done > fleet.app.get(first).finished_at


def test_a_rate_holds_over_processes(fleet: Fleet) -> None:
    fleet.write_jobs(queues={"default": {"rate": "20/s"}})
    fleet.enqueue("work", "default", 70)
    fleet.run("-p", "2", "-c", "4", "--burst")
    # A fence is the time of its claim in microseconds.
    claims = sorted(line.fence for line in fleet.lines("begin"))
    assert len(claims) == 70
    for place, claimed in enumerate(claims):
        assert sum(claimed <= other < claimed + 1_000_000 for other in claims[place : place + 30]) <= 20
