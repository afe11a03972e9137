"""Guards under real processes that are stopped, killed and cut off from their dependency. Figures are printed.

The small sizes run with the tests, the full ones (those that the guarantees page quotes) under ``make soak``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from guards.fleet import Fleet
from kit.waiting import PATIENCE, elapse, stretched
from windlass import Concurrency, Job, JobInfo, Once, Rate, State, Windlass
from windlass.core.retry import Exponential, Retry

NS = 1_000_000_000
STALE = 0.25  # seconds that a process may believe in an old state of a circuit


@pytest.fixture
def url(store: dict[str, str], tmp_path: Path) -> str:
    return store.get("WINDLASS_URL", f"sqlite:///{tmp_path}/jobs.db")


@pytest.fixture
def fleet(tmp_path: Path, url: str) -> Iterator[Fleet]:
    with Fleet(tmp_path, url) as fleet:
        yield fleet


@pytest.fixture
def app(url: str) -> Iterator[Windlass]:
    with Windlass(url) as app:
        yield app


def infos(app: Windlass, name: str) -> list[JobInfo]:
    page = app.jobs(name=name, limit=1_000)
    found = list(page)
    while page.next is not None:
        page = app.jobs(name=name, limit=1_000, cursor=page.next)
        found += page
    return found


# -- 1. a dependency that is down --


@pytest.mark.parametrize(
    ("jobs", "processes", "seconds"),
    [(400, 2, 4.0), pytest.param(10_000, 3, 20.0, marks=pytest.mark.soak)],
)
def test_jobs_of_a_dependency_that_is_down_wait_and_none_is_lost(
    app: Windlass, fleet: Fleet, jobs: int, processes: int, seconds: float
) -> None:
    app.circuit("api")

    @app.job(name="call", circuit="api", retry=Retry(attempts=100, backoff=Exponential(cap="1s")))
    def call(number: int) -> None: ...

    (fleet.folder / "down").touch()
    app.enqueue_stream(call.bind(n) for n in range(jobs))
    fleet.worker("-p", str(processes), "-c", "8")
    fleet.until(lambda: fleet.lines("opened"), "the circuit to open")
    elapse(seconds)
    (fleet.folder / "down").unlink()
    back = time.monotonic()
    fleet.until_none(lambda: jobs - app.stats()["done"], "every job to be done")
    drained = time.monotonic() - back

    served = {words[1] for _, words in fleet.lines("served")}
    calls = fleet.lines("call")
    uncharged = sum(info.attempt for info in infos(app, "call")) - len(calls)
    late, probes = calls_while_open(fleet)
    print(
        f"\n{jobs} jobs, {processes} processes, down for {seconds:g} s: lost {jobs - len(served)}, calls that failed "
        f"{len(calls) - jobs}, attempts used without a call {uncharged}, calls later than 250 ms after opening {late} "
        f"with {probes} probes admitted, drained in {drained:.1f} s"
    )
    assert len(served) == jobs
    assert uncharged == 0
    assert late <= probes


def calls_while_open(fleet: Fleet) -> tuple[int, int]:
    """Calls later than 250 ms after an opening and before the next closing, and how many probes were admitted.

    One success closes this circuit, so it counts as closed from the first call that was served: the event comes a
    moment after the fact.
    """
    late = probes = 0
    opened: int | None = None
    for at, words in fleet.lines("call", "opened", "half_open", "served"):
        match words[0]:
            case "opened":
                opened = at if opened is None else min(opened, at)
            case "served":
                opened = None
            case "half_open":
                probes += 1
            case _:
                late += opened is not None and at > opened + stretched(STALE) * NS
    return late, probes


@pytest.mark.parametrize(("how", "reason"), [("refuse", "ConnectionError: refused"), ("hang", "timeout")])
def test_what_ends_badly_in_a_child_process_opens_the_circuit(
    app: Windlass, fleet: Fleet, how: str, reason: str
) -> None:
    def call_in_child(how: str) -> None: ...

    circuit = app.circuit("remote")
    remote = app.job(name="remote", circuit="remote", retry=0)(call_in_child)
    fleet.worker("-c", "1")
    app.enqueue_many(remote.bind("miss") for _ in range(4))  # not the dependency's fault
    fleet.until(lambda: app.stats()["dead"] == 4, "the misses to end")
    assert circuit.state == "closed"
    app.enqueue_many(remote.bind(how) for _ in range(5))
    fleet.until(lambda: circuit.state == "open", "the circuit to open")
    assert circuit.info().reason == reason
    late = remote.enqueue(how)
    fleet.until(lambda: late.state is State.BLOCKED, "a later one to wait")


def test_a_call_that_hangs_in_a_thread_until_its_process_ends_opens_the_circuit(app: Windlass, fleet: Fleet) -> None:
    app.circuit("hung")
    hung = app.job(name="hung", circuit="hung", retry=0)(lambda: None)
    fleet.worker("-c", "1")
    first = hung.enqueue()
    fleet.until(lambda: first.state is State.DEAD, "the first one to be given up")
    assert app.circuit("hung").state == "open"
    late = hung.enqueue()
    fleet.until(lambda: late.state is State.BLOCKED, "a later one to wait")


# -- 2. locks, limits and rates --


@pytest.mark.parametrize(("holders", "turns", "stops"), [(6, 6, 3), pytest.param(16, 30, 12, marks=pytest.mark.soak)])
def test_holders_that_are_stopped_past_their_lease_are_fenced_off(
    app: Windlass, fleet: Fleet, holders: int, turns: int, stops: int
) -> None:
    started = [fleet.holder(turns) for _ in range(holders)]
    fleet.until(lambda: len(fleet.lines("leave")) >= 3, "the first holders")
    stopped = set()
    for _ in range(stops):
        pid, fence = fleet.until(lambda: stopped_holder(fleet), "a holder to be stopped")
        stopped.add(fence)
        elapse(1.3)
        os.kill(pid, signal.SIGCONT)
    for process in started:
        assert process.ended() == 0, process.said()

    entered = fleet.lines("enter")
    fences = [int(words[1]) for _, words in entered]
    lost = {words[1] for _, words in fleet.lines("lost")}
    overlaps = overlapping(fleet, lost)
    print(
        f"\n{holders} holders, {len(fences)} turns, {stops} stopped past the lease: lost {len(lost)}, fences strictly "
        f"increasing {fences == sorted(set(fences))}, valid holders together {overlaps}, locks left {len(app.locks())}"
    )
    assert stopped <= lost  # and no other, unless the machine itself has let one stand still for so long
    assert len(fences) == holders * turns
    assert fences == sorted(set(fences))
    assert overlaps == 0
    assert app.locks() == []


def stopped_holder(fleet: Fleet) -> tuple[int, str] | None:
    """Stop the process that holds the lock; give its id and fence. None when it let go before it stood still."""
    _, words = fleet.lines("enter")[-1]
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(words[2]), signal.SIGSTOP)
        if words[1] not in {left[1] for _, left in fleet.lines("leave", "lost")}:
            return int(words[2]), words[1]
        os.kill(int(words[2]), signal.SIGCONT)
    return None


def overlapping(fleet: Fleet, lost: set[str]) -> int:
    """How often a holder that never lost the lock held it while another such did."""
    inside: set[str] = set()
    found = 0
    for _, words in fleet.lines("enter", "leave"):
        if words[1] in lost:
            continue
        if words[0] == "enter":
            found += bool(inside)
            inside.add(words[1])
        else:
            inside.discard(words[1])
    return found


@pytest.mark.parametrize(
    ("jobs", "processes", "faults"), [(150, 2, 2), pytest.param(3_000, 3, 8, marks=pytest.mark.soak)]
)
def test_no_more_slots_are_held_than_there_are_and_none_leaks(
    app: Windlass, fleet: Fleet, jobs: int, processes: int, faults: int
) -> None:
    @app.job(name="limited", limits=Concurrency(3, key="tenant:{tenant}"))
    def limited(tenant: str) -> None: ...

    app.enqueue_stream(limited.bind("t") for _ in range(jobs))
    workers = [fleet.worker("-c", "6", lease="2s") for _ in range(processes)]
    rng = Random(jobs)
    looks: list[int] = []

    def done() -> int:
        stats = app.stats()
        looks.append(stats["running"])
        return stats["done"]

    fleet.until(done, "the first job to be done")
    for fault in range(faults):
        fleet.until(lambda fault=fault: done() > jobs * fault // faults // 2, "some progress")  # type: ignore[misc]
        victim = rng.randrange(processes)
        if fault % 2:
            os.killpg(workers[victim].pid, signal.SIGKILL)
            workers[victim] = fleet.worker("-c", "6", lease="2s")
        else:
            os.killpg(workers[victim].pid, signal.SIGSTOP)
            for _ in range(50):
                elapse(0.05)  # in all, longer than the lease
                done()
            os.killpg(workers[victim].pid, signal.SIGCONT)
    fleet.until_none(lambda: jobs - done(), "every job to be done")
    leaked = sum(row.used for row in app.limits())
    print(
        f"\n{jobs} jobs in 3 slots, {faults} workers stopped or killed, {len(looks)} looks: most at once "
        f"{max(looks)}, leaked {leaked}"
    )
    assert max(looks) == 3
    assert leaked == 0


@pytest.mark.parametrize(("jobs", "processes"), [(100, 2), pytest.param(1_200, 3, marks=pytest.mark.soak)])
def test_no_window_has_more_claims_than_its_rate(app: Windlass, fleet: Fleet, jobs: int, processes: int) -> None:
    @app.job(name="paced", limits=Rate("40/s", key="api"))
    def paced(number: int) -> None: ...

    app.enqueue_stream(paced.bind(n) for n in range(jobs))
    workers = [fleet.worker("-c", "8", lease="2s") for _ in range(processes)]
    fleet.until(lambda: len(fleet.lines("paced")) >= jobs // 2, "half of the jobs")
    os.killpg(workers[0].pid, signal.SIGKILL)
    fleet.worker("-c", "8")
    fleet.until_none(lambda: jobs - app.stats()["done"], "every job to be done")
    claimed = sorted(round(info.started_at.timestamp() * 1_000) for info in infos(app, "paced") if info.started_at)
    starts = sorted(at // 1_000_000 for at, _ in fleet.lines("paced"))
    most = max(sum(at <= other < at + 1_000 for other in claimed) for at in claimed)
    most_starts = max(sum(at <= other < at + 1_000 for other in starts) for at in starts)
    took = (claimed[-1] - claimed[0]) / 1_000
    print(f"\n{jobs} jobs at 40/s: most claims in a second {most}, most starts {most_starts}, took {took:.1f} s")
    assert most <= 40


# -- 3. one charge for one payment --


@pytest.mark.parametrize("payments", [20, pytest.param(500, marks=pytest.mark.soak)])
def test_a_payment_is_charged_once_however_often_it_is_delivered(app: Windlass, fleet: Fleet, payments: int) -> None:
    pay = payment_job(app)
    names = [f"p{n}" for n in range(payments)]
    for name in names[::5]:
        (fleet.folder / f"crash-{name}").touch()
    app.enqueue_many([pay.bind(name) for name in names for _ in range(2)])
    fleet.worker("-p", "3", "-c", "4")
    # A process that keeps dying is started later and later, so many crashes take their time.
    fleet.until_none(lambda: 2 * payments - app.stats()["done"], "every delivery to end")

    charges = fleet.lines("charge")
    keys = {words[2] for _, words in charges}
    duplicates = [info for info in infos(app, "pay") if (info.reason or "").startswith("duplicate of ")]
    crashed = len(names[::5])
    print(
        f"\n{payments} payments delivered twice, {crashed} crashes between charge and settle: bodies run "
        f"{len(charges)}, keys charged {len(keys)}, ended as duplicates {len(duplicates)}"
    )
    assert len(keys) == payments
    assert len(charges) >= payments + crashed  # the neighbours of a job that killed its process run again as well
    assert len(duplicates) == payments
    assert {info.result for info in infos(app, "pay")} == {f"receipt of {name}" for name in names}


def test_a_dead_payment_that_is_retried_after_its_markers_age_is_not_charged_again(app: Windlass, fleet: Fleet) -> None:
    pay = payment_job(app)
    dead = pay.enqueue("p", True)
    worker = fleet.worker("-c", "4")
    fleet.until(lambda: dead.state is State.DEAD, "the first delivery to die")
    paid = pay.enqueue("p")
    assert paid.result(PATIENCE) == "receipt of p"
    elapse(1.5)  # the marker's keep is a second
    dead.retry()
    assert dead.result(PATIENCE) == "receipt of p"
    assert dead.info().reason == f"duplicate of {paid.id}"
    assert len(fleet.lines("charge")) == 1
    assert worker.runs


def payment_job(app: Windlass) -> Job[..., str]:
    def pay(payment: str, fails: bool = False) -> str:
        return ""

    return app.job(name="pay", once=Once("payment:{payment}", keep="1s"), retry=Retry(1))(pay)


def test_the_ledger_is_in_the_order_of_time(fleet: Fleet) -> None:
    (fleet.folder / "ledger").write_text("1 call 0\n2 served 0\n")
    assert [at for at, _ in fleet.lines("call", "served")] == [1, 2]
    assert all(one <= other for one, other in pairwise(at for at, _ in fleet.lines("call", "served")))
