"""When a process asks for its successor, and when it claims no more."""

from __future__ import annotations

import gc

from windlass.worker.recycle import Recycler, resident


def make(max_jobs: int | None = None, max_memory: int | None = None) -> tuple[Recycler, list[str]]:
    asked: list[str] = []
    return Recycler(max_jobs, max_memory, lambda: asked.append("successor")), asked


def test_no_more_than_max_jobs_are_claimed_and_the_successor_is_asked_for_once() -> None:
    recycler, asked = make(max_jobs=10)
    assert recycler.left == 10
    recycler.claimed(9, pace=0.0)
    assert (recycler.left, asked) == (1, [])
    recycler.claimed(1, pace=0.0)
    recycler.claimed(0, pace=0.0)
    assert (recycler.left, asked) == (0, ["successor"])


def test_a_quick_process_asks_early_but_not_in_its_first_half() -> None:
    recycler, asked = make(max_jobs=100)
    recycler.claimed(49, pace=100_000.0)
    assert asked == []
    recycler.claimed(2, pace=100_000.0)
    assert (recycler.left, asked) == (49, ["successor"])


def test_one_job_a_process_is_possible() -> None:
    recycler, asked = make(max_jobs=1)
    recycler.claimed(1, pace=9.0)
    assert (recycler.left, asked) == (0, ["successor"])


def test_a_process_that_is_too_large_claims_no_more() -> None:
    recycler, asked = make(max_memory=resident() // 2)
    assert recycler.left is None
    recycler.look(0)
    assert (recycler.left, asked) == (0, ["successor"])


def test_a_process_that_is_nearly_too_large_goes_on_until_its_successor_is_there() -> None:
    recycler, asked = make(max_memory=int(resident() * 1.05))
    recycler.look(0)
    assert (recycler.left, asked) == (None, ["successor"])


def test_a_small_process_asks_for_nothing() -> None:
    recycler, asked = make(max_memory=resident() * 100)
    recycler.look(0)
    assert (recycler.left, asked) == (None, [])


def test_no_more_is_claimed_than_fits_by_what_the_runs_so_far_left_behind() -> None:
    gc.collect()  # what other tests left must not go while this one measures
    recycler, _ = make(max_memory=resident() + 1200 * 2**20)
    kept = b"x" * (240 * 2**20)
    recycler.claimed(6, pace=0.0)
    recycler.look(4)
    assert kept
    assert recycler.left is not None
    assert 10 <= recycler.left + 6 <= 24  # sixty MiB a run, into twelve hundred
