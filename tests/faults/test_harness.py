"""The checker sees what it is there for: what is lost, run beside itself, run though never stored, or left behind."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from faults.harness import NS, Fleet, Nemesis, check
from windlass.core.ids import new_id
from windlass.core.work import Want, WorkerInfo


def ledger(fleet: Fleet, *lines: tuple[str, str, int, int, float]) -> None:
    """Write ledger lines: mark, job, fence, process id, seconds."""
    for mark, job, fence, pid, at in lines:
        with (fleet.folder / f"ledger-{pid}.log").open("a") as file:
            file.write(f"{mark} {job} 1 {fence} {pid} {int(at * NS)}\n")


def test_a_job_that_vanished_is_lost(fleets: Callable[..., Fleet]) -> None:
    fleet = fleets()
    kept, gone = fleet.enqueue("work", 1, times=2)
    ledger(fleet, ("S", kept, 1, 10, 1), ("E", kept, 1, 10, 2), ("S", gone, 2, 10, 3))
    fleet.app.delete([kept, gone])
    assert check(fleet).lost == {gone}


def test_two_runs_at_one_time_are_an_overlap_unless_the_first_process_was_stopped(fleets: Callable[..., Fleet]) -> None:
    fleet = fleets()
    (job,) = fleet.enqueue("work", 1)
    ledger(fleet, ("S", job, 1, 10, 1), ("S", job, 2, 11, 2), ("E", job, 1, 10, 3), ("E", job, 2, 11, 4))
    verdict = check(fleet)
    assert (verdict.overlaps, verdict.excused, verdict.duplicated) == (1, 0, 1)
    fleet.suspended.add(10)
    verdict = check(fleet)
    assert (verdict.overlaps, verdict.excused) == (0, 1)


def test_a_later_run_with_a_smaller_fence_is_seen(fleets: Callable[..., Fleet]) -> None:
    fleet = fleets()
    (job,) = fleet.enqueue("work", 1)
    ledger(fleet, ("S", job, 5, 10, 1), ("E", job, 5, 10, 2), ("S", job, 4, 11, 3), ("E", job, 4, 11, 4))
    assert check(fleet).fences_fell == 1


def test_a_run_of_a_job_that_nobody_stored_is_unexpected_and_one_whose_answer_got_lost_is_recovered(
    fleets: Callable[..., Fleet],
) -> None:
    fleet = fleets()
    ledger(
        fleet, ("S", "ghost", 1, 10, 1), ("E", "ghost", 1, 10, 2), ("S", "tried", 2, 10, 3), ("E", "tried", 2, 10, 4)
    )
    verdict = check(fleet, ["tried"])
    assert verdict.unexpected == {"ghost"}
    assert verdict.recovered == {"tried"}


def test_a_job_that_is_still_held_after_the_drain_is_a_ghost(fleets: Callable[..., Fleet]) -> None:
    fleet = fleets()
    fleet.enqueue("work", 1)
    engine = fleet.app.engine
    info = WorkerInfo(new_id(), new_id(), "here", 1, "*", 1, "", 0)
    engine.extend(info, (), 60_000)
    assert engine.claim(Want(info.id, 1)).leases
    assert check(fleet).ghosts == ["1 jobs are still open after the drain"]


def test_a_seed_gives_the_same_schedule_again() -> None:
    def schedule(seed: int) -> list[object]:
        return list(Nemesis(seed, 50, ("a", "b"), least=0.1, most=0.2).faults)

    assert schedule(7) == schedule(7) != schedule(8)
    times = [fault.t for fault in Nemesis(7, 50, ("a",), least=0.1, most=0.2).faults]
    assert all(0.1 <= later - t <= 0.2 + 1e-9 for t, later in pairwise(times))
