"""The slot table: what of a process can be read from outside, also when the process is stuck or gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from windlass.worker.table import UNSETTLED, Running, SlotTable


@pytest.fixture
def table() -> Iterator[SlotTable]:
    with closing(SlotTable.create(2)) as made:
        yield made


def test_a_job_is_unsettled_from_its_start_to_its_settle(table: SlotTable) -> None:
    table.begin(7)
    table.begin(8)
    assert sorted(table.unsettled()) == [7, 8]
    table.settle(7)
    table.settle(7)
    assert table.unsettled() == [8]


def test_a_table_has_room_for_as_many_jobs_as_come_one_after_the_other(table: SlotTable) -> None:
    for fence in range(1, 2 * UNSETTLED):
        table.begin(fence)
        table.settle(fence)
    table.begin(99)
    assert table.unsettled() == [99]


def test_a_full_table_notes_no_more_and_goes_on_when_there_is_room(table: SlotTable) -> None:
    room = table.slots + UNSETTLED
    for fence in range(1, room + 2):
        table.begin(fence)
    assert len(table.unsettled()) == room
    table.settle(room + 1)  # the one that had none
    table.settle(1)
    table.begin(room + 2)
    assert sorted(table.unsettled()) == [*range(2, room + 1), room + 2]


def test_the_jobs_with_a_timeout_are_those_that_run(table: SlotTable) -> None:
    first, second = Running("a", "näme", 5, 1_000, 17), Running("b", "other", 6, 2_000)
    table.enter(0, first)
    table.enter(1, second)
    assert table.running() == [first, second]
    table.prolong(1, 3_000)
    table.leave(0)
    assert table.running() == [Running("b", "other", 6, 3_000)]
    table.enter(1, Running("c", "x", 7, 4_000))
    assert table.running() == [Running("c", "x", 7, 4_000)]  # nothing of the longer label before it


def test_each_time_is_kept_by_itself(table: SlotTable) -> None:
    table.beat(1)
    table.poll(2)
    table.note_away(3)
    table.renew(4)
    table.note_blocked(5)
    table.answer(6)
    seen = (
        table.beat_at, table.polled_at, table.away_since, table.renewed_at, table.blocked_since, table.answered_at,
    )  # fmt: skip
    assert (seen, table.unsettled(), table.running()) == ((1, 2, 3, 4, 5, 6), [], [])
