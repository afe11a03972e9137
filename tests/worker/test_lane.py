"""What a lane has room for: nothing after it gave runs back, for as long as every slot is busy."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from kit.waiting import until
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


@pytest.fixture
def ends() -> Iterator[list[threading.Event]]:
    """For each run that has begun in ``busy``, what ends it."""
    made: list[threading.Event] = []
    yield made
    for end in made:
        end.set()


@pytest.fixture
def busy(ends: list[threading.Event]) -> Iterator[Threads]:
    """Two slots, and both are busy."""

    def run(_: object, slot: int) -> None:
        end = threading.Event()
        ends.append(end)
        end.wait()

    made = Threads(2, run, lambda run, slot, error: None)
    made.start()
    for _ in range(2):
        made.put(object())  # type: ignore[arg-type]
    until(lambda: len(ends) == 2, "the runs do not begin")
    yield made
    made.stop()


def test_a_lane_that_gave_up_is_shut_until_a_slot_is_free(busy: Threads, ends: list[threading.Event]) -> None:
    assert (busy.is_stuck, busy.is_shut) == (True, False)
    busy.give_up()
    assert [(busy.room, busy.is_shut) for _ in range(2)] == [(0, True)] * 2
    ends[0].set()
    until(lambda: (busy.room, busy.is_shut) == (1, False), "it stays shut though a slot is free")
    busy.put(object())  # type: ignore[arg-type]
    until(lambda: busy.is_stuck, "the next run does not begin")
    assert not busy.is_shut


def test_a_lane_with_a_free_slot_has_room_though_it_gave_up(lane: Threads) -> None:
    lane.give_up()
    assert (lane.room, lane.is_shut) == (2, False)


def test_it_is_time_to_claim_when_no_more_wait_than_the_mark_says(lane: Threads) -> None:
    lane.low_water = 1
    seen = []
    for _ in range(3):
        seen.append(lane.is_low)
        lane.put(object())  # type: ignore[arg-type]
    assert seen == [True, True, False]
