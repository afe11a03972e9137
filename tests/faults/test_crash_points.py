"""A process ends just before or just after each engine call (F3): every named point is reached, and passes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.harness import Fleet, Sink, check
from windlass.core.model import State
from windlass.engines.base import TransactionalSettle
from windlass.engines.crashpoint import CRASH_POINTS

CRASHED = 137

# Where each call is made. ``claim`` and ``settle`` are whole calls of the contract that a worker makes as one
# ``exchange``; a client that works by hand makes them by themselves.
BY_CLIENT = ("commit", "claim", "settle", "transition", "commit_within")
BY_SUPERVISOR = ("bury",)
BY_WORKER = ("exchange", "note", "extend", "depart", "maintain", "settle_within")
IN_TRANSACTIONS = ("settle_within", "commit_within")  # only engines that share a database with their users have these
NTH = {"commit": 4, "exchange": 3, "extend": 2}  # in the middle of things rather than at the start


def test_every_crash_point_is_walked(figure: Callable[[str, object], None]) -> None:
    walked = {*BY_CLIENT, *BY_SUPERVISOR, *BY_WORKER}
    figure("F3", f"crash points walked {2 * len(walked)} of {2 * len(CRASH_POINTS)} (before and after each call)")
    assert sorted(BY_CLIENT + BY_SUPERVISOR + BY_WORKER) == sorted(CRASH_POINTS)


SIDES = (pytest.param("before", marks=pytest.mark.thorough), "after")  # after: it is stored, and nobody was told


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_process_that_ends_at_an_engine_call_loses_nothing(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None], point: str, side: str
) -> None:
    fleet = fleets(lease="2s", renew="200ms", reap="200ms")
    if point in IN_TRANSACTIONS and not isinstance(fleet.app.engine, TransactionalSettle):
        return  # there is no such call to die at
    fired = fleet.folder / "fired"
    crash = {
        "WINDLASS_CRASHPOINT": f"{point}:{side}:{NTH.get(point, 1)}",
        "WINDLASS_CRASHPOINT_ONCE": str(fired),
    }
    prepare(fleet)
    codes = run_client(fleet, crash if point in BY_CLIENT else {})
    assert codes in ([0], [CRASHED, 0])
    assert fired.exists() is (point in BY_CLIENT)

    if point in BY_SUPERVISOR:
        fleet.enqueue("die_once", "here")
    run_fleet(fleet, {} if point in BY_CLIENT else crash)
    assert fired.exists(), f"nobody came by {point}:{side}"

    verdict = check(fleet, lines(fleet.folder, "tried"))
    figure("F3", f"{point}:{side}: {verdict}")
    verdict.assert_safe()
    assert not fleet.app.workers()
    assert fleet.info("unwanted").state is State.CANCELLED
    with Sink(fleet.folder) as sink:
        paid = {one for one in fleet.acked if fleet.info(one).name == "pay"}
        assert sink.keys() == paid
    assert_transactions(fleet)


@pytest.mark.thorough
@pytest.mark.parametrize("point", ["exchange:before:1", "exchange:after:1", "extend:after:1"])
def test_a_process_that_dies_at_its_first_calls_is_buried_without_waiting_for_its_lease(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None], point: str
) -> None:
    fleet = fleets(lease="10m", renew="1s")
    fleet.enqueue("pay", 5, times=10)
    crash = {"WINDLASS_CRASHPOINT": point, "WINDLASS_CRASHPOINT_ONCE": str(fleet.folder / "fired")}
    fleet.start(processes=1, threads=2, **crash)
    fleet.drain()
    fleet.until(lambda: len(fleet.app.workers()) == 1, "the dead worker to be forgotten")
    verdict = check(fleet)
    figure("F3", f"{point}: {verdict}")
    verdict.assert_safe()


def prepare(fleet: Fleet) -> None:
    if isinstance(fleet.app.engine, TransactionalSettle):
        with fleet.app.transaction() as tx:
            tx.execute("CREATE TABLE bookings (id TEXT)")
            tx.execute("CREATE TABLE orders (id TEXT PRIMARY KEY)")


def run_client(fleet: Fleet, crash: dict[str, str]) -> list[int]:
    """Run the client until it ends well; give its exit codes."""
    codes: list[int] = []
    while not codes or codes[-1] == CRASHED:
        assert len(codes) < 3
        client = fleet.program(sys.executable, "-m", "faults.client", **crash)
        codes.append(client.ended())
        assert codes[-1] in (0, CRASHED), client.said()
    fleet.acked += sorted(set(lines(fleet.folder, "acked")))
    return codes


def run_fleet(fleet: Fleet, crash: dict[str, str]) -> None:
    """Run everything there is in worker trees, a new one whenever one has died, and end in order."""
    fleet.enqueue("pay", 5, times=10)
    fleet.enqueue("pay", 500)  # longer than a renewal
    fleet.enqueue("note", 3, times=2)
    if isinstance(fleet.app.engine, TransactionalSettle):
        fleet.enqueue("book", times=2)
    tree = fleet.start(processes=1, threads=2, **crash)

    def drained() -> bool:
        nonlocal tree
        if not tree.runs:
            tree.kill_all()
            tree = fleet.start(processes=1, threads=2, **crash)
        return fleet.open_jobs() == 0

    fleet.until(drained, "the store to be drained")
    fleet.until(lambda: fleet.worker_pids(tree), "a worker to be registered")
    tree.send_signal(signal.SIGTERM)
    tree.ended()
    if fleet.app.workers():  # one that died while it departed is left to the lease: another tree sees to it
        last = fleet.start_ready()
        fleet.until(lambda: len(fleet.app.workers()) == 1, "the dead worker to be reaped")
        last.send_signal(signal.SIGTERM)
        assert last.ended() == 0


def assert_transactions(fleet: Fleet) -> None:
    """What was written in a transaction with the engine's own write is there once, or not at all with it."""
    if not isinstance(fleet.app.engine, TransactionalSettle):
        return
    with fleet.app.transaction() as tx:
        booked = [one for (one,) in tx.execute("SELECT id FROM bookings")]
        ordered = [one for (one,) in tx.execute("SELECT id FROM orders")]
    assert sorted(booked) == sorted(one for one in fleet.acked if fleet.info(one).name == "book")
    assert ordered == ["within"]


def lines(folder: Path, name: str) -> list[str]:
    file = folder / f"{name}.log"
    return file.read_text().split() if file.exists() else []
