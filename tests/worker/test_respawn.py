"""How soon a worker process that has ended is replaced, and when it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from windlass.core.work import Kind, Outcome
from windlass.worker.process.fleet import RESPAWN_MOST
from windlass.worker.process.forking import NO_WORKER, SETTLED_IN, STILLBORN_MAX
from windlass.worker.process.generation import Process
from windlass.worker.process.messages import Bye, Launch
from windlass.worker.process.supervisor import Supervisor
from windlass.worker.table import SlotTable


class Watched(Supervisor):
    """A supervisor that has no zygote and no processes; it tells how long it would wait before it forks."""

    def __init__(self, *, burst: bool = False) -> None:
        super().__init__(Launch("shop:app", burst=burst))
        self.waits: list[float] = []
        self._fleet.timers.after = lambda seconds, call, *, lasting=False: self.waits.append(seconds)  # type: ignore[method-assign]

    def replace(self, process: Process) -> None:
        self._forking.replace(process)

    def close(self) -> None:
        self._fleet.selector.close()


@pytest.fixture
def supervisor() -> Iterator[Watched]:
    with closing(Watched()) as made:
        yield made


@pytest.fixture
def process() -> Iterator[Callable[..., Process]]:
    with closing(SlotTable.create(1)) as table:

        def make(*, lived: float = 0.0, ready: bool = True, bye: Bye | None = None) -> Process:
            made = Process(1, None, table, None, 0)  # type: ignore[arg-type]
            made.ready, made.bye = ready, bye
            made.began -= lived
            return made

        yield make


def test_the_first_replacement_starts_at_once_and_each_after_it_waits_twice_as_long(
    supervisor: Watched, process: Callable[..., Process]
) -> None:
    for _ in range(12):
        supervisor.replace(process())
    assert supervisor.waits[:5] == [0.0, 0.1, 0.2, 0.4, 0.8]
    assert supervisor.waits == sorted(supervisor.waits)
    assert supervisor.waits[-1] == RESPAWN_MOST


def test_a_process_that_lived_for_a_while_ends_the_row(supervisor: Watched, process: Callable[..., Process]) -> None:
    for lived in (0.0, 0.0, 0.0, SETTLED_IN + 1, 0.0, 0.0):
        supervisor.replace(process(lived=lived))
    assert supervisor.waits == [0.0, 0.1, 0.2, 0.0, 0.0, 0.1]


def test_a_worker_gives_up_when_no_process_comes_to_its_work(
    supervisor: Watched, process: Callable[..., Process]
) -> None:
    for _ in range(STILLBORN_MAX - 1):
        supervisor.replace(process(ready=False))
    assert (supervisor._fleet.stopping, supervisor._fleet.code) == (False, 0)
    supervisor.replace(process(ready=False))
    assert (supervisor._fleet.stopping, supervisor._fleet.code, len(supervisor.waits)) == (
        True,
        NO_WORKER,
        STILLBORN_MAX - 1,
    )


def test_one_that_comes_to_its_work_ends_the_row_of_those_that_did_not(
    supervisor: Watched, process: Callable[..., Process]
) -> None:
    for ready in [*[False] * (STILLBORN_MAX - 1), True, *[False] * (STILLBORN_MAX - 1)]:
        supervisor.replace(process(ready=ready))
    assert not supervisor._fleet.stopping


def test_who_was_told_to_stop_or_has_a_successor_is_not_replaced(
    supervisor: Watched, process: Callable[..., Process]
) -> None:
    for name in ("stopping", "has_successor"):
        made = process()
        setattr(made, name, True)
        supervisor.replace(made)
    assert supervisor.waits == []


def test_a_burst_that_is_over_is_not_begun_again_but_for_a_job_past_its_timeout(
    process: Callable[..., Process],
) -> None:
    late = Outcome("late", 1, Kind.RETRY)
    with closing(Watched(burst=True)) as supervisor:
        supervisor.replace(process(bye=Bye()))
        assert supervisor.waits == []
        supervisor.replace(process(bye=Bye(overdue=(late,))))
        supervisor.replace(process())
        assert supervisor.waits == [0.0, 0.1]
