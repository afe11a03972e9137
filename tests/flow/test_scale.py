"""Large compositions: what the end of a member costs, and how long a call keeps others waiting."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median

import pytest

from windlass import State, Windlass, chain
from windlass.core.model import NewJob, NewJoin, Wait, Write
from windlass.core.work import Kind, Lease, Outcome, Want
from windlass.testing.conformance.harness import info, upkeep

pytestmark = pytest.mark.soak

MEMBERS = 100_000
STEPS = 1_000
FAN_IN = 10_000
AT_ONCE = 100
SOME = 20  # members whose ends are timed one by one


@pytest.fixture
def app(url: str) -> Iterator[Windlass]:
    with Windlass(url, keep_done="3h", keep_done_max="none") as made:
        made.engine.open()
        made.engine.extend(info("w1"), (), 3_600_000)
        yield made


class Clock:
    """How long calls took, by what they were for."""

    def __init__(self) -> None:
        self.calls: dict[str, list[float]] = {}

    @contextmanager
    def time(self, what: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.calls.setdefault(what, []).append(time.perf_counter() - began)

    def tell(self, head: str) -> None:
        for what, took in self.calls.items():
            print(
                f"{head}, {what}: {len(took)} calls, {sum(took):.2f} s; "
                f"median {median(took) * 1e3:.2f} ms, longest {max(took) * 1e3:.2f} ms"
            )


def run(app: Windlass, clock: Clock, what: str, jobs: int, at_once: int = AT_ONCE) -> int:
    """Run so many jobs that are ready, if there are; give how many those were."""
    done = 0
    while done < jobs:
        with clock.time("claim"):
            leases: Sequence[Lease] = app.engine.claim(Want("w1", min(at_once, jobs - done))).leases
        if not leases:
            break
        with clock.time(what):
            app.engine.settle([Outcome(lease.id, lease.fence, Kind.DONE, "null") for lease in leases])
        done += len(leases)
    return done


def test_the_end_of_the_last_of_many_members_costs_what_the_first_one_costs(app: Windlass) -> None:
    send, ended = app.job(name="send")(lambda: None), app.job(name="ended")(lambda: None)
    clock = Clock()
    callbacks = {when: ended.bind() for when in ("on_success", "on_complete", "on_death")}
    with app.batch("news", **callbacks) as batch:
        for _ in range(MEMBERS):
            batch.add(send.bind())
    run(app, clock, "end of one, the first", SOME, 1)
    run(app, clock, f"ends of {AT_ONCE}", MEMBERS // 2 - SOME)
    run(app, clock, "end of one, in the middle", SOME, 1)
    run(app, clock, f"ends of {AT_ONCE}", MEMBERS - batch.progress().done - SOME)
    run(app, clock, "end of one, the last", SOME, 1)
    assert batch.progress().done == MEMBERS
    assert run(app, clock, "callbacks", 10) == 2
    assert [one.info().state for one in batch.callbacks.values()] == [State.DONE, State.DONE, State.CANCELLED]
    clock.tell(f"batch of {MEMBERS:,}")


def test_a_chain_of_a_thousand_steps(app: Windlass) -> None:
    step = app.job(name="step")(lambda previous=None: previous)
    clock = Clock()
    with clock.time("store"):
        handle = chain(*(step.bind() for _ in range(STEPS))).enqueue()
    assert run(app, clock, "end of a step", STEPS) == STEPS
    assert handle.info().state is State.DONE
    clock.tell(f"chain of {STEPS:,}")


def test_a_chain_of_a_thousand_steps_whose_first_one_dies(app: Windlass) -> None:
    step = app.job(name="step")(lambda previous=None: previous)
    clock = Clock()
    handle = chain(*(step.bind() for _ in range(STEPS))).enqueue()
    (lease,) = app.engine.claim(Want("w1", 1)).leases
    with clock.time("death of the first"):
        app.engine.settle([Outcome(lease.id, lease.fence, Kind.DEAD)])
    while handle.info().state is not State.CANCELLED:
        with clock.time("upkeep"):
            upkeep(app.engine)
    clock.tell(f"chain of {STEPS:,}")


def test_ten_thousand_wait_for_one_and_one_for_ten_thousand(app: Windlass) -> None:
    clock = Clock()
    many = [NewJob(f"m{n}", "m", "default", "[]", joins=("K",), waits=Wait("J")) for n in range(FAN_IN)]
    ends = NewJob("first", "m", "default", "[]", joins=("J",)), NewJob("last", "m", "default", "[]", waits=Wait("K"))
    with clock.time("store"):
        app.engine.commit(Write((*ends, *many), joins=(NewJoin("J", keep_ms=3_600_000), NewJoin("K"))))
    assert run(app, clock, "end of the first", 1) == 1
    assert run(app, clock, f"ends of {AT_ONCE}", FAN_IN) == FAN_IN
    assert run(app, clock, "end of the last", 1) == 1
    assert app.engine.counts()["done"] == FAN_IN + 2
    clock.tell(f"fan-out to and fan-in of {FAN_IN:,}")


def test_a_batch_of_many_is_cancelled_and_forgotten(app: Windlass, monkeypatch: pytest.MonkeyPatch) -> None:
    send, ended = app.job(name="send")(lambda: None), app.job(name="ended")(lambda: None)
    clock = Clock()
    with app.batch("news", on_complete=ended.bind()) as batch:
        for _ in range(MEMBERS):
            batch.add(send.bind())
    transition = app.engine.transition

    def timed(*args: object) -> object:
        with clock.time("cancel of a chunk"):
            return transition(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(app.engine, "transition", timed)
    batch.cancel()
    assert app.engine.counts()["cancelled"] == MEMBERS + 1
    assert batch.info().ended_at is not None
    clock.tell(f"cancel of {MEMBERS:,}")
