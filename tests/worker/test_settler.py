"""When outcomes go to the store: a full batch, after a while, or at once when there is nothing else to do."""

from __future__ import annotations

import pytest
from inside import worker_of

from kit.waiting import PATIENCE, stretched
from windlass import Windlass
from windlass.core.work import Kind, LeaseRef, Outcome
from windlass.worker.settler import Settler

LONG_MS = 3_600_000


def outcomes(count: int) -> list[Outcome]:
    return [Outcome(f"j{n}", n, Kind.DONE) for n in range(count)]


def filled(count: int, batch: int = 100, flush_ms: int = LONG_MS) -> Settler:
    settler = Settler(batch, flush_ms)
    for one in outcomes(count):
        settler.add(one)
    return settler


def test_a_worker_with_nothing_else_to_do_settles_at_once() -> None:
    settler = filled(1)
    busy = settler.due_in(idle=False)
    assert busy is not None
    assert busy > LONG_MS / 1000 / 2
    assert settler.due_in(idle=True) == 0


def test_nothing_is_due_when_nothing_waits() -> None:
    assert [Settler(100, 50).due_in(idle=idle) for idle in (True, False)] == [None, None]


def test_a_full_batch_is_due_and_whoever_fills_it_hears_of_it() -> None:
    settler = Settler(3, LONG_MS)
    assert [settler.add(one) for one in outcomes(4)] == [False, False, True, True]
    assert filled(3, batch=3).due_in(idle=False) == 0
    assert filled(2, batch=3).due_in(idle=False) != 0


def test_without_a_flush_time_every_outcome_is_a_batch() -> None:
    settler = Settler(100, 0)
    assert settler.add(outcomes(1)[0])
    assert settler.due_in(idle=False) == 0
    assert settler.patience is None


def test_what_the_store_did_not_answer_for_goes_again_before_what_came_since() -> None:
    settler = filled(3)
    taken = settler.take()
    assert (len(settler), [one.id for one in taken]) == (0, ["j0", "j1", "j2"])
    settler.add(Outcome("later", 9, Kind.DONE))
    settler.take_back(taken)
    assert [one.id for one in settler.take()] == ["j0", "j1", "j2", "later"]


def test_an_outcome_is_held_until_the_store_has_answered_and_by_its_own_claim_alone() -> None:
    settler = filled(1)
    mine, other = LeaseRef("j0", 0), LeaseRef("j0", 1)
    assert (settler.holds(mine), settler.holds(other)) == (True, False)
    settler.take()
    assert settler.holds(mine)
    settler.answered()
    assert not settler.holds(mine)


@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_the_outcome_of_the_last_job_is_in_the_store_long_before_a_flush_is_due(kind: str) -> None:
    with Windlass("memory://", settle_flush="1h", poll_min="1h", poll_max="1h") as app:

        async def coroutine() -> int:
            return 1

        job = app.job(name="one")(coroutine) if kind == "loop" else app.job(name="one")(lambda: 1)
        with worker_of(app):
            assert job.enqueue().result(timeout=stretched(PATIENCE)) == 1
            assert job.enqueue().result(timeout=stretched(PATIENCE)) == 1
