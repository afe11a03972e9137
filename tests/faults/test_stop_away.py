"""Workers that are told to stop while their store is away: a server that is down, a file that another process locks.

They end within their grace, at once when told twice, and what they could not tell the store is left to their leases.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

from faults.harness import Fleet, check
from kit.fleet import Process
from kit.waiting import elapse
from servers import RedisServer
from windlass.worker.process.stopping import ECHO

SHORT, LONG = "2s", "1h"  # a grace that passes, and one that is longer than any patience
UNTOLD = "the store was not told"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that has on disk what it confirmed."""
    with closing(RedisServer("--appendonly", "yes", "--appendfsync", "always")) as made:
        yield made


@contextmanager
def locked(fleet: Fleet) -> Iterator[None]:
    """Hold the write lock of a fleet's SQLite file."""
    with closing(apsw.Connection(fleet.url.removeprefix("sqlite:///"))) as db:
        db.set_busy_timeout(10_000)
        db.execute("BEGIN IMMEDIATE")
        yield


def work_on_one_process(fleet: Fleet, ms: int = 3_600_000) -> tuple[Process, int]:
    """A tree whose worker process runs two jobs that take so long, and that process's id."""
    fleet.enqueue("work", ms, times=2)
    tree = fleet.start_ready(processes=1, threads=2)
    fleet.until(lambda: sum(map(len, fleet.running_on().values())) == 2, "both jobs to run")
    (pid,) = fleet.worker_pids(tree)
    return tree, pid


def kill_unseen(fleet: Fleet, pid: int) -> None:
    """Kill a worker process while the store is away, and wait until its supervisor has noticed."""
    os.kill(pid, signal.SIGKILL)
    fleet.until(lambda: fleet.logged(f"worker process {pid} was killed"), "the supervisor to see the death")


def end(tree: Process, fleet: Fleet) -> int:
    """Wait for the end of the whole tree; give its exit code."""
    code = tree.ended()
    tree.gone()
    return code


def test_term_ends_a_worker_whose_store_is_away_and_its_jobs_come_back_when_their_lease_is_over(
    server: RedisServer, tmp_path: Path
) -> None:
    with Fleet(server.url, tmp_path, network_timeout="1s", lease="2s", shutdown_timeout=SHORT) as fleet:
        tree, pid = work_on_one_process(fleet, 3_000)
        server.stop(signal.SIGKILL)
        kill_unseen(fleet, pid)
        fleet.until(lambda: fleet.logged("cannot tell the store"), "the supervisor to try")
        tree.send_signal(signal.SIGTERM)
        assert end(tree, fleet) == 0, fleet.last_words()
        assert fleet.logged(UNTOLD) == 1, fleet.last_words()
        assert fleet.logged("Traceback") == 0, fleet.last_words()
        server.start()
        fleet.start_ready(processes=1, threads=2, WINDLASS_LEASE="60s")  # it keeps its own
        fleet.drain()
        check(fleet).assert_safe()
        assert [(row.crashes, row.interruptions) for row in map(fleet.row, fleet.acked)] == [(0, 1), (0, 1)]


def test_term_ends_a_worker_whose_store_is_away_when_the_grace_of_its_running_jobs_is_over(
    server: RedisServer, tmp_path: Path
) -> None:
    with Fleet(server.url, tmp_path, network_timeout="1s", lease="1h", shutdown_timeout=SHORT) as fleet:
        tree, _ = work_on_one_process(fleet)
        server.stop(signal.SIGKILL)
        tree.send_signal(signal.SIGTERM)
        assert end(tree, fleet) == 0, fleet.last_words()
        assert fleet.logged(UNTOLD) == 1, fleet.last_words()


def test_term_ends_an_idle_worker_whose_store_is_away_long_before_the_grace_is_over(
    server: RedisServer, tmp_path: Path
) -> None:
    with Fleet(server.url, tmp_path, network_timeout="1s", lease="1h", shutdown_timeout=LONG) as fleet:
        tree = fleet.start_ready(processes=2)
        server.stop(signal.SIGKILL)
        tree.send_signal(signal.SIGTERM)
        assert end(tree, fleet) == 0, fleet.last_words()
        assert fleet.logged(UNTOLD) == 0, fleet.last_words()


@pytest.mark.parametrize(
    ("signals", "code", "frozen"),
    [
        pytest.param((signal.SIGTERM, signal.SIGTERM), 143, False, id="TERM-TERM-refuses"),
        pytest.param((signal.SIGQUIT,), 131, True, id="QUIT-hangs"),
    ],
)
def test_a_second_term_or_quit_ends_a_worker_whose_server_is_away_at_once(
    server: RedisServer, tmp_path: Path, signals: tuple[signal.Signals, ...], code: int, frozen: bool
) -> None:
    with Fleet(server.url, tmp_path, network_timeout="1h" if frozen else "1s", shutdown_timeout=LONG) as fleet:
        tree, pid = work_on_one_process(fleet)
        if frozen:
            server.send(signal.SIGSTOP)
        else:
            server.stop(signal.SIGKILL)
        kill_unseen(fleet, pid)
        send(fleet, tree, signals)
        assert end(tree, fleet) == code, fleet.last_words()
        assert fleet.logged(UNTOLD) == 1, fleet.last_words()


def send(fleet: Fleet, tree: Process, signals: tuple[signal.Signals, ...]) -> None:
    """Send signals, each when the one before was taken."""
    for count, number in enumerate(signals):
        if count:
            fleet.until(lambda: fleet.logged("stopping:"), "the first signal to be taken")
            elapse(2 * ECHO)  # two within it are one
        tree.send_signal(number)


@pytest.mark.parametrize(
    ("signals", "grace", "code"),
    [
        pytest.param((signal.SIGTERM,), SHORT, 0, id="TERM"),
        pytest.param((signal.SIGTERM, signal.SIGTERM), LONG, 143, id="TERM-TERM"),
    ],
)
def test_a_worker_whose_file_is_locked_hears_signals_and_ends(
    tmp_path: Path, signals: tuple[signal.Signals, ...], grace: str, code: int
) -> None:
    with Fleet(f"sqlite:///{tmp_path}/jobs.db", tmp_path, shutdown_timeout=grace) as fleet:
        tree, pid = work_on_one_process(fleet)
        with locked(fleet):
            kill_unseen(fleet, pid)
            send(fleet, tree, signals)
            assert end(tree, fleet) == code, fleet.last_words()
        assert fleet.logged(UNTOLD) == 1, fleet.last_words()
        assert fleet.logged("Traceback") == 0, fleet.last_words()


@pytest.mark.parametrize("stopping", [False, True], ids=["works", "stops"])
def test_a_report_that_the_store_could_not_take_is_made_when_it_is_back_within_the_grace(
    server: RedisServer, tmp_path: Path, stopping: bool
) -> None:
    with Fleet(server.url, tmp_path, network_timeout="1s", lease="1h", shutdown_timeout=LONG) as fleet:
        tree, pid = work_on_one_process(fleet)
        server.stop(signal.SIGKILL)
        kill_unseen(fleet, pid)
        if stopping:
            tree.send_signal(signal.SIGTERM)
        fleet.until(lambda: fleet.logged("cannot tell the store") >= 5, "the supervisor to try for some seconds")
        server.start()
        fleet.until(lambda: fleet.row(fleet.acked[0]).crashes == 1, "the crash to be charged")
        if stopping:
            assert end(tree, fleet) == 0, fleet.last_words()
        assert fleet.logged(UNTOLD) == 0, fleet.last_words()


def test_term_ends_a_worker_that_waits_for_its_server_at_start(server: RedisServer, tmp_path: Path) -> None:
    server.stop(signal.SIGKILL)
    with Fleet(server.url, tmp_path, network_timeout="1s", shutdown_timeout=LONG) as fleet:
        tree = fleet.start(processes=2)
        fleet.until(lambda: fleet.logged("the store is away, next try") >= 2, "both processes to find the server away")
        tree.send_signal(signal.SIGTERM)
        assert end(tree, fleet) == 0, fleet.last_words()
        assert fleet.logged("ended with exit code") == 0, fleet.last_words()


def test_term_ends_a_worker_that_waits_for_its_file_at_start(tmp_path: Path) -> None:
    with Fleet(f"sqlite:///{tmp_path}/jobs.db", tmp_path, shutdown_timeout=LONG) as fleet:
        fleet.app.stats()  # the file is there
        with locked(fleet):
            tree = fleet.start(processes=1)
            fleet.until(lambda: len(tree.members()) == 3, "supervisor, zygote and worker process")
            tree.send_signal(signal.SIGTERM)
            assert end(tree, fleet) == 0, fleet.last_words()
