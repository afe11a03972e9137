"""Redrives at a rate: even, each death once, across stops, crashes and restarts of workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import pytest
from msgspec.structs import replace

from dead_shop import Shop
from kit.waiting import PATIENCE, until
from windlass.core.rows import Action, Moved
from windlass.core.work import LeaseRef
from windlass.dead import redrive
from windlass.dead.watching import Redrive
from windlass.engines.base import Store
from windlass.errors import EngineUnavailable
from windlass.worker.redriver import AT_ONCE, STEP, TAKEOVER, Redriver


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    yield made
    made.app.close()


class Failing:
    """A store whose answers to some calls get lost: the call is made, and then it raises."""

    def __init__(self, engine: Store) -> None:
        self._engine = engine
        self.lose: set[str] = set()

    def __getattr__(self, name: str) -> object:
        value: Callable[..., object] = getattr(self._engine, name)

        def call(*args: object, **kwargs: object) -> object:
            answer = value(*args, **kwargs)
            if name in self.lose:
                self.lose.discard(name)
                raise EngineUnavailable(f"the answer to {name} got lost")
            return answer

        return call


def turns(redriver: Redriver, shop: Shop, begin: float, seconds: float, step: float = STEP) -> list[int]:
    """Let time pass for a redriver; give how many jobs were ready after each turn."""
    seen = []
    for n in range(1, int(seconds / step) + 1):
        redriver.turn(begin + n * step)
        seen.append(shop.app.stats()["ready"])
    return seen


def finish(redriver: Redriver, begin: float) -> float:
    """Take turns until nothing is left to do; give the time it took."""
    now = begin
    while redriver.turn(now) is not None:
        now += STEP
        assert now < begin + 1_000
    return now - begin


# -- the rate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.5, 1.5, 5.0, 50.0, 333.0])
def test_jobs_are_moved_evenly_at_the_rate(shop: Shop, rate: float) -> None:
    shop.die(*["late"] * (int(rate * 12) + 2))
    shop.app.dead.retry(rate=rate)
    redriver = Redriver(shop.app.engine, "w1")
    redriver.turn(0.0)
    seen = turns(redriver, shop, 0.0, 10.0)
    assert abs(seen[-1] - rate * 10) <= 1 + rate * 0.01
    steps = [after - before for before, after in pairwise([0, *seen])]
    assert max(steps) - min(steps) <= 1  # no bursts


def test_a_stall_is_not_followed_by_a_flood(shop: Shop) -> None:
    shop.die(*["late"] * 200)
    shop.app.dead.retry(rate="10/s")
    redriver = Redriver(shop.app.engine, "w1")
    redriver.turn(0.0)
    redriver.turn(60.0)
    assert shop.app.stats()["ready"] <= 6


def test_rates_have_units(shop: Shop) -> None:
    for rate, each_second in [("5/s", 5.0), ("90/m", 1.5), ("3600 / h", 1.0), (2, 2.0), (0.5, 0.5)]:
        assert shop.app.dead.retry(rate=rate).info().rate == each_second  # type: ignore[arg-type]


# -- its life ----------------------------------------------------------------------------------------------


def test_it_tells_its_progress_and_ends(shop: Shop) -> None:
    shop.die(*["late"] * 25)
    operation = shop.app.dead.retry(rate="100/s", limit=20)
    assert (operation.total, operation.done, operation.state) == (20, 0, "running")
    redriver = Redriver(shop.app.engine, "w1")
    redriver.turn(0.0)
    redriver.turn(0.1)
    assert (operation.done, operation.state) == (10, "running")
    finish(redriver, 0.2)
    assert (operation.done, operation.state) == (20, "done")
    assert shop.app.stats()["ready"] == 20
    assert [one.id for one in shop.app.dead.redrives()] == [operation.id]
    assert operation.wait(0)


def test_only_what_was_asked_for_is_moved(shop: Shop) -> None:
    late, lost, other = shop.die("late", "lost", "late")
    shop.app.dead.retry([late], rate="100/s")
    shop.app.dead.retry(group=shop.app.dead.groups(error=LookupError)[0], rate="100/s")
    finish(Redriver(shop.app.engine, "w1"), 0.0)
    assert shop.states([late, lost, other]) == ["ready", "ready", "dead"]


def test_a_job_that_dies_again_is_not_moved_again(shop: Shop) -> None:
    shop.die(*["late"] * 30)
    shop.runs.clear()
    operation = shop.app.dead.retry(rate="100/s")
    redriver = Redriver(shop.app.engine, "w1")
    now = 0.0
    while redriver.turn(now) is not None:
        shop.burst()  # what was moved dies at once
        now += STEP
    assert sorted(shop.runs) == list(range(30))
    assert (operation.done, shop.app.dead.count()) == (30, 30)


def test_a_stop_is_heard(shop: Shop) -> None:
    shop.die(*["late"] * 100)
    operation = shop.app.dead.retry(rate="40/s")
    redriver = Redriver(shop.app.engine, "w1")
    redriver.turn(0.0)
    redriver.turn(0.25)
    operation.stop()
    operation.stop()
    assert redriver.turn(0.5) is None
    assert (operation.state, operation.done, shop.app.stats()["ready"]) == ("stopped", 10, 10)
    assert operation.wait(0)


def test_an_operation_over_nothing_ends(shop: Shop) -> None:
    operation = shop.app.dead.retry(rate="5/s")
    assert operation.total == 0
    finish(Redriver(shop.app.engine, "w1"), 0.0)
    assert operation.state == "done"


def test_more_ids_than_an_operation_carries_are_refused(shop: Shop) -> None:
    with pytest.raises(ValueError, match="a group or filters"):
        shop.app.dead.retry([f"j{n}" for n in range(1_001)], rate="5/s")


def test_a_step_notes_a_bounded_number(shop: Shop) -> None:
    shop.die(*["late"] * (AT_ONCE + 200))
    shop.app.dead.retry(rate="1000/s")
    redriver = Redriver(shop.app.engine, "w1")
    redriver.turn(0.0)
    redriver.turn(60.0)
    assert shop.app.stats()["ready"] <= AT_ONCE


# -- several workers ---------------------------------------------------------------------------------------


def test_one_worker_does_an_operation_and_the_others_watch(shop: Shop) -> None:
    shop.die(*["late"] * 100)
    shop.app.dead.retry(rate="4/s")
    first, second = Redriver(shop.app.engine, "w1"), Redriver(shop.app.engine, "w2")
    for n in range(80):
        first.turn(n * STEP)
        second.turn(n * STEP)
    assert abs(shop.app.stats()["ready"] - 4 * 79 * STEP) <= 2


def test_a_slow_operation_is_not_taken_from_a_worker_that_lives(shop: Shop) -> None:
    shop.die("late", "late")
    shop.app.dead.retry(rate="1/h")
    first, second = Redriver(shop.app.engine, "w1"), Redriver(shop.app.engine, "w2")
    for n in range(200):
        first.turn(n * STEP)
        second.turn(n * STEP)
    ((_, operation),) = redrive.find(shop.app.engine, shop.app.engine.keys(redrive.PREFIX))
    assert operation.owner == "w1"


def test_a_worker_that_stops_hands_it_over(shop: Shop) -> None:
    shop.die(*["late"] * 20)
    operation = shop.app.dead.retry(rate="8/s")
    first, second = Redriver(shop.app.engine, "w1"), Redriver(shop.app.engine, "w2")
    first.turn(0.0)
    turns(first, shop, 0.0, 1.0)
    first.stop()
    second.turn(1.0)  # at once
    assert turns(second, shop, 1.0, 0.5)[-1] == 12
    finish(second, 1.5)
    assert (operation.done, operation.state, shop.app.stats()["ready"]) == (20, "done", 20)


def test_what_a_dead_worker_left_is_gone_on_with_and_each_death_is_moved_once(shop: Shop) -> None:
    shop.die(*["late"] * 40)
    shop.runs.clear()
    operation = shop.app.dead.retry(rate="40/s")
    first, second = Redriver(shop.app.engine, "w1"), Redriver(shop.app.engine, "w2")
    first.turn(0.0)
    first.turn(0.25)  # and it is never heard of again; its last step is noted and done
    shop.burst()  # what it moved died again meanwhile
    second.turn(0.3)
    second.turn(0.3 + TAKEOVER - 0.1)
    assert shop.app.stats()["ready"] == 0
    finish(second, 0.3 + TAKEOVER)
    shop.burst()
    assert sorted(shop.runs) == list(range(40))
    assert (operation.done, operation.state) == (40, "done")


def test_a_worker_that_was_overtaken_in_the_middle_of_a_step_moves_nothing(shop: Shop) -> None:
    shop.die(*["late"] * 30)
    operation = shop.app.dead.retry(rate="100/s")

    class Overtaken(Failing):
        def jobs(self, *args: object) -> object:
            """Another worker writes the operation while this one looks for what to move."""
            for document, one in redrive.find(shop.app.engine, [redrive.PREFIX + operation.id]):
                if one.owner == "w1":
                    redrive.save(shop.app.engine, replace(one, owner="w2"), document.version)
            return shop.app.engine.jobs(*args)  # type: ignore[arg-type]

    first, second = Redriver(Overtaken(shop.app.engine), "w1"), Redriver(shop.app.engine, "w2")  # type: ignore[arg-type]
    first.turn(0.0)
    first.turn(0.1)
    assert shop.app.stats()["ready"] == 0
    finish(second, 0.2)
    assert (operation.done, operation.state, shop.app.stats()["ready"]) == (30, "done", 30)


@pytest.mark.parametrize("call", ["commit", "transition", "jobs", "keys", "read"])
def test_a_lost_answer_moves_nothing_twice_and_loses_nothing(shop: Shop, call: str) -> None:
    shop.die(*["late"] * 30)
    shop.runs.clear()
    operation = shop.app.dead.retry(rate="40/s")
    store = Failing(shop.app.engine)
    redriver = Redriver(store, "w1")  # type: ignore[arg-type]
    now, pause = 0.0, 0.0
    for n in range(1_000):
        if n % 3 == 1:
            store.lose.add(call)
        try:
            if redriver.turn(now) is None:
                break
        except EngineUnavailable:
            pause += 1
        shop.burst()
        now += STEP
    shop.burst()
    assert pause > 0
    assert sorted(shop.runs) == list(range(30))
    assert (operation.done, operation.state) == (30, "done")


def test_a_death_that_is_noted_and_not_yet_moved_is_moved_by_the_next_worker(shop: Shop) -> None:
    shop.die(*["late"] * 10)
    operation = shop.app.dead.retry(rate="8/s")

    class Dying(Failing):
        def transition(self, action: Action, deaths: Sequence[LeaseRef]) -> list[Moved]:
            if deaths:
                raise EngineUnavailable("the process is gone")
            return []

    first = Redriver(Dying(shop.app.engine), "w1")  # type: ignore[arg-type]
    first.turn(0.0)
    with pytest.raises(EngineUnavailable):
        first.turn(0.25)
    assert shop.app.stats()["ready"] == 0
    second = Redriver(shop.app.engine, "w2")
    second.turn(1.0)
    finish(second, 1.0 + TAKEOVER)
    assert (operation.done, shop.app.stats()["ready"]) == (10, 10)


# -- the real thing ----------------------------------------------------------------------------------------


def test_a_redrive_holds_its_rate_and_survives_a_worker_restart(capsys: pytest.CaptureFixture[str]) -> None:
    """5,000 failed jobs of three causes; one group of 150 at 50/s, its worker replaced in the middle."""
    shop = Shop()
    shop.die(*["late"] * 2_425, *["lost"] * 2_425, *["broken"] * 150)
    assert len(shop.app.dead.groups()) == 3
    shop.runs.clear()
    with shop.working():
        operation = shop.app.dead.retry(group=shop.app.dead.groups(error=RuntimeError)[0], rate="50/s")
        before = rate_until(operation, 75)
    stopped = operation.done
    assert 75 <= stopped < 150
    with shop.working():
        after = rate_until(operation, 150)
        assert operation.wait(PATIENCE)
        until(lambda: len(shop.runs) == 150)
    with capsys.disabled():
        print(f"\nredrive at 50/s: {before:.1f}/s, after the restart {after:.1f}/s")
    assert operation.done == 150
    assert len(set(shop.runs)) == len(shop.runs) == 150  # none twice, none lost
    # Never faster. A loaded machine may be slower; that the steps add up to the rate is asserted above, on a clock.
    assert max(before, after) <= 55
    shop.app.close()


def rate_until(operation: Redrive, done: int) -> float:
    """Watch a redrive until so many are done; give its rate between the first and the last step that were seen.

    A step may be seen late, so the first one counts as made right after the look before it.
    """
    looks = [(time.monotonic(), operation.done)]
    steps: list[tuple[float, float, int]] = []  # the last look before it, the first after it, how many were done

    def look() -> bool:
        seen = operation.done
        before, had = looks[-1]
        looks.append((time.monotonic(), seen))
        if seen > had or not steps:
            steps.append((before, looks[-1][0], seen))
        return seen >= done

    until(look)
    (begin, _, first), (_, end, last) = steps[1], steps[-1]
    return (last - first) / (end - begin)
