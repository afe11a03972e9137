"""The retry budget of a queue: what is let through, and what waits."""

from __future__ import annotations

from windlass.worker.budget import BURST, RetryBudget


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def traffic(budget: RetryBudget, clock: Hand, seconds: int, rate: int) -> None:
    for _ in range(seconds):
        for _ in range(rate):
            budget.count()
        clock.now += 1


def test_a_few_retries_wait_no_longer_than_their_backoff() -> None:
    budget = RetryBudget(0.2, Hand())
    assert [budget.defer(250) for _ in range(int(BURST))] == [250] * int(BURST)


def test_a_storm_is_spread_to_the_share_of_the_traffic() -> None:
    clock = Hand()
    budget = RetryBudget(0.2, clock)
    traffic(budget, clock, 60, 50)
    waits = [budget.defer(0) for _ in range(600)]
    # 0.2 of 50 a second: ten retries fall due in each second behind the burst.
    assert sum(wait == 0 for wait in waits) == 101
    for second in range(1, 40):
        assert sum(second * 1000 < wait <= (second + 1) * 1000 for wait in waits) == 10


def test_waits_never_shrink_below_the_backoff_and_grow_in_order() -> None:
    budget = RetryBudget(0.2, Hand())
    waits = [budget.defer(3_000) for _ in range(50)]
    assert waits == sorted(waits)
    assert min(waits) == 3_000


def test_a_quiet_queue_still_has_one_retry_a_second() -> None:
    clock = Hand()
    budget = RetryBudget(0.01, clock)
    for _ in range(int(BURST) + 1):
        budget.defer(0)
    assert [budget.defer(0) for _ in range(3)] == [1_000, 2_000, 3_000]


def test_a_storm_that_is_over_leaves_nothing_behind() -> None:
    clock = Hand()
    budget = RetryBudget(0.2, clock)
    for _ in range(100):
        budget.defer(0)
    clock.now += 1_000
    assert budget.defer(500) == 500
