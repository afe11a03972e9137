"""What a lane has room for: nothing after it gave runs back, until something of it starts or ends."""

from __future__ import annotations

import pytest

from windlass.worker.threads import Threads


@pytest.fixture
def lane() -> Threads:
    """Two slots; their threads do not run."""
    return Threads(2, lambda run, slot: None, lambda run, slot, error: None)


def test_runs_that_wait_take_the_room_of_free_slots(lane: Threads) -> None:
    rooms = [lane.room]
    for _ in range(3):
        lane.put(object())  # type: ignore[arg-type]
        rooms.append(lane.room)
    assert rooms == [2, 1, 0, 0]
    assert (len(lane.take_back()), lane.room) == (3, 2)


def test_a_lane_that_gave_up_has_no_room_until_something_starts(lane: Threads) -> None:
    lane.give_up()
    assert [(lane.room, lane.is_shut) for _ in range(2)] == [(0, True)] * 2
    lane.last_start += 1
    assert (lane.room, lane.is_shut) == (2, False)


def test_or_until_something_ends(lane: Threads) -> None:
    lane.give_up()
    lane.ended += 1
    assert (lane.room, lane.is_shut) == (2, False)
    lane.give_up()
    assert lane.is_shut


def test_it_is_time_to_claim_when_no_more_wait_than_the_mark_says(lane: Threads) -> None:
    lane.low_water = 1
    seen = []
    for _ in range(3):
        seen.append(lane.is_low)
        lane.put(object())  # type: ignore[arg-type]
    assert seen == [True, True, False]
