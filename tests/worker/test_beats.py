"""What a worker makes of what the store tells it with a beat: each word is about one claim, and no other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from inside import worker_of

from kit.waiting import PATIENCE, stretched, until
from windlass import Windlass
from windlass.core.work import Heartbeat, Kind, LeaseRef, Outcome
from windlass.events import LeaseExpired
from windlass.worker.worker import Worker

BESIDE = LeaseRef("nothing here has it", 5)


class Desk:
    """A worker that runs one job until it is let go."""

    def __init__(self, app: Windlass) -> None:
        self.app = app
        self.entered, self.gate = threading.Event(), threading.Event()

        def hold() -> None:
            self.entered.set()
            self.gate.wait(60)

        self.id = app.job(name="hold")(hold).enqueue().id


@pytest.fixture
def desk() -> Iterator[Desk]:
    with Windlass("memory://", threads=1) as app:
        yield Desk(app)


@pytest.fixture
def worker(desk: Desk) -> Iterator[Worker]:
    with worker_of(desk.app) as made:
        assert desk.entered.wait(stretched(PATIENCE))
        yield made
        desk.gate.set()


def run_of(worker: Worker, desk: Desk) -> tuple[LeaseRef, LeaseRef]:
    """The claim of the run, and one that the same job had before."""
    lease = worker._held[desk.id].lease
    return LeaseRef(lease.id, lease.fence), LeaseRef(lease.id, lease.fence - 1)


def test_a_cancel_reaches_the_run_of_its_claim_alone(desk: Desk, worker: Worker) -> None:
    mine, earlier = run_of(worker, desk)
    worker._beats.hear(Heartbeat(cancels=(earlier, BESIDE)))
    assert not worker._held[desk.id].cancelled
    worker._beats.hear(Heartbeat(cancels=(mine,)))
    assert worker._held[desk.id].cancelled


def test_a_lost_lease_is_that_of_its_claim_alone_and_is_told_once(desk: Desk, worker: Worker) -> None:
    told: list[str] = []
    desk.app.on(LeaseExpired)(lambda event: told.append(event.id))
    mine, earlier = run_of(worker, desk)
    worker._beats.hear(Heartbeat(lost=(earlier, BESIDE)))
    assert (worker._held[desk.id].lost, told) == (False, [])
    worker._beats.hear(Heartbeat(lost=(mine,)))
    assert (worker._held[desk.id].lost, told) == (True, [desk.id])


def test_a_claim_that_a_transaction_of_its_job_settles_is_not_lost_unless_that_rolls_back(
    desk: Desk, worker: Worker
) -> None:
    mine, _ = run_of(worker, desk)
    run = worker._held[desk.id]
    run.note_settling()
    worker._beats.hear(Heartbeat(lost=(mine,)))
    assert not run.lost
    run.note_settled(True)
    worker._beats.hear(Heartbeat(lost=(mine,)))
    assert not run.lost
    run.note_settled(False)
    worker._beats.hear(Heartbeat(lost=(mine,)))
    assert run.lost


def test_a_claim_whose_answer_got_lost_is_given_back_when_two_beats_in_a_row_show_it(desk: Desk) -> None:
    app = desk.app
    worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)  # its pump does not run
    for strays in ((BESIDE,), (), (BESIDE,)):  # a claim may have been answered after the list of a beat was made
        worker._beats.hear(Heartbeat(strays=strays))
        assert len(worker._settler) == 0
    worker._beats.hear(Heartbeat(strays=(BESIDE,)))
    assert worker._settler.take() == [Outcome(BESIDE.id, BESIDE.fence, Kind.RELEASE)]
    worker._beats.hear(Heartbeat(strays=(BESIDE,)))  # on its way already
    assert len(worker._settler) == 0


def test_a_run_that_is_held_here_is_no_stray_but_an_earlier_claim_of_it_is(desk: Desk, worker: Worker) -> None:
    mine, earlier = run_of(worker, desk)
    worker.quiet()
    assert worker._pump.rest(30)
    for _ in range(2):
        worker._beats.hear(Heartbeat(strays=(mine,)))
    assert len(worker._settler) == 0
    desk.gate.set()
    until(lambda: not worker.held, "the end of the run")
    assert desk.app.stats()["total_stale"] == 0
    for _ in range(2):
        worker._beats.hear(Heartbeat(strays=(earlier,)))
    worker._pump.wake()
    until(lambda: desk.app.stats()["total_stale"] == 1, "the release of the earlier claim")
