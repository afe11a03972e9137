"""What only a file can suffer: contention (F23), SIGKILL in a commit (F24), fork (F28), a full disk, a wrong file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import apsw
import pytest

from faults.harness import Fleet, check
from kit.fleet import Process
from kit.waiting import elapse
from windlass import EngineFull, Windlass
from windlass.engines.sqlite import schema
from windlass.errors import EngineError, EngineUnusable

WAL_MOST = 64 * 1024 * 1024  # bytes


@pytest.fixture
def fleet(sqlite_fleet: Fleet) -> Fleet:
    return sqlite_fleet


def python(fleet: Fleet, *arguments: str, before: tuple[str, ...] = ()) -> Process:
    """Start Python as a process of the fleet."""
    return fleet.program(*before, sys.executable, *arguments)


def database(fleet: Fleet) -> Path:
    return fleet.folder / "jobs.db"


def integrity(fleet: Fleet) -> list[str]:
    """What SQLite itself says of the file."""
    db = apsw.Connection(str(database(fleet)))
    try:
        return [str(line) for (line,) in db.execute("PRAGMA integrity_check")]
    finally:
        db.close()


@contextmanager
def snapshot(path: Path) -> Iterator[None]:
    """Hold a read transaction, so that the log cannot be emptied meanwhile."""
    db = apsw.Connection(str(path))
    try:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM windlass_jobs").fetchall()
        yield
    finally:
        db.close()


# -- F23 --


def hammer(fleet: Fleet, figure: Callable[[str, object], None], seconds: float, held: float) -> None:
    """Four processes of four threads on one file; somebody holds a snapshot for a part of the time."""
    fleet.app.engine.open()
    wal = Path(f"{database(fleet)}-wal")
    sizes: list[int] = []  # of the log: when the snapshot ends, and from then on
    processes = [python(fleet, "-m", "faults.hammer", str(seconds), "4") for _ in range(4)]

    def over() -> bool:
        sizes.append(wal.stat().st_size if wal.exists() else 0)
        return not any(one.runs for one in processes)

    with snapshot(database(fleet)):
        elapse(held)
        over()
    fleet.until(over, "the hammering to end")
    outcomes = []
    for one in processes:
        assert one.ended() == 0, one.said()
        outcomes.append(json.loads(one.said().splitlines()[-1]))
    enqueued = sum(one["done"].get("enqueued", 0) for one in outcomes)
    settled = sum(one["done"].get("settled", 0) for one in outcomes)
    errors = [error for one in outcomes for error in one["errors"]]
    figure(
        "F23",
        f"enqueued {enqueued}, settled {settled}, errors {len(errors)}, WAL peak {mib(sizes[:1])} MiB "
        f"under the snapshot, {mib(sizes[-50:])} MiB after it",
    )
    assert errors == []
    assert sizes[-1] < WAL_MOST  # a snapshot holds the log back, by nature; without one it is emptied again
    assert integrity(fleet) == ["ok"]
    counts = fleet.app.stats()
    assert counts["total_enqueued"] == enqueued
    assert counts["total_done"] == settled


def mib(sizes: list[int]) -> str:
    return f"{max(sizes) / 2**20:.1f}"


def test_four_processes_of_four_threads_on_one_file_never_see_it_locked(
    fleet: Fleet, figure: Callable[[str, object], None]
) -> None:
    hammer(fleet, figure, seconds=8, held=4)


@pytest.mark.soak
def test_sixteen_threads_on_one_file_for_a_minute_never_see_it_locked(
    fleet: Fleet, figure: Callable[[str, object], None]
) -> None:
    hammer(fleet, figure, seconds=60, held=20)


# -- F24 --


def slow_syncs() -> tuple[str, ...]:
    """A command that makes every sync take longer, so that a kill hits the middle of a commit; none without strace."""
    strace = shutil.which("strace")
    if strace is None:
        return ()
    return (strace, "-f", "-qq", "-o", os.devnull, "-e", "trace=fdatasync,fsync",
            "-e", "inject=fdatasync,fsync:delay_enter=5000:delay_exit=5000")  # fmt: skip


def kill_in_commits(fleet: Fleet, figure: Callable[[str, object], None], seed: int, kills: int) -> None:
    rng = Random(seed)
    acked = fleet.folder / "acked.log"
    fleet.app.engine.open()
    before = slow_syncs()
    for number in range(kills):
        had = acked.stat().st_size if acked.exists() else 0
        hammering = python(fleet, "-m", "faults.hammer", "60", "4", before=before)
        fleet.until(
            lambda had=had: acked.exists() and acked.stat().st_size > had,  # type: ignore[misc]
            f"commits of process {number}",
        )
        elapse(rng.uniform(0, 0.15))
        # strace too: its child is killed with it, in whatever call it is.
        hammering.kill_all()
        assert integrity(fleet) == ["ok"]
    ids = set(acked.read_text().split("\n")) - {""}
    missing = [one for one in ids if len(one) == 36 and fleet.app.get(one) is None]
    how = "with delayed syncs" if before else "without strace"
    figure("F24", f"{kills} kills {how} survived, {len(ids)} acknowledged, {len(missing)} missing")
    assert missing == []
    assert fleet.app.stats()["total_enqueued"] >= len(ids)


def test_a_process_killed_in_the_middle_of_commits_leaves_a_sound_file(
    fleet: Fleet, figure: Callable[[str, object], None], seed: int
) -> None:
    kill_in_commits(fleet, figure, seed, kills=6)


@pytest.mark.soak
def test_a_hundred_processes_killed_in_the_middle_of_commits_leave_a_sound_file(
    fleet: Fleet, figure: Callable[[str, object], None], seed: int
) -> None:
    kill_in_commits(fleet, figure, seed, kills=100)


# -- F28 --

FORK = """
import os, sys, threading
from faults import jobs
from windlass import Windlass

threaded, way = sys.argv[1] == "threaded", sys.argv[2]
app = Windlass()
defined = jobs.install(app)
defined.work.enqueue(1)
over = threading.Event()

def go_on():
    while not over.is_set():
        defined.work.enqueue(2)

thread = threading.Thread(target=go_on)
if threaded:
    thread.start()
children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        defined.work.options(tags=["child"]).enqueue(3)
        assert app.stats()["total_enqueued"] >= 2
        if way == "close":
            app.close()
        if way == "exit":
            sys.exit(0)
        os._exit(0)
    children.append(os.waitpid(pid, 0)[1])
    defined.work.options(tags=["parent"]).enqueue(4)
over.set()
if threaded:
    thread.join()
app.close()
print(children)
"""


@pytest.mark.parametrize("way", ["close", "exit", "_exit"])
@pytest.mark.parametrize("parent", ["single", "threaded"])
def test_a_forked_child_opens_its_own_handles_and_leaves_its_parents_alone(
    fleet: Fleet, figure: Callable[[str, object], None], parent: str, way: str
) -> None:
    forking = python(fleet, "-W", "ignore::DeprecationWarning", "-c", FORK, parent, way)
    assert forking.ended() == 0, forking.said()
    assert forking.said().split("\n")[-2] == str([0] * 4), forking.said()
    assert integrity(fleet) == ["ok"]
    children, parents = fleet.app.jobs(tag="child"), fleet.app.jobs(tag="parent")
    figure("F28", f"{parent} parent, child ends by {way}: 4 children, integrity ok")
    assert (len(list(children)), len(list(parents))) == (4, 4)


# -- a disk that is full --


def test_a_full_disk_refuses_new_jobs_whole_and_drains_the_ones_it_has(
    fleet: Fleet, figure: Callable[[str, object], None]
) -> None:
    fleet.enqueue("pay", 1)
    page_limit(fleet, 100)
    refused = 0
    with pytest.raises(EngineFull, match="nothing was stored"):
        while True:
            refused = fleet.app.stats()["total_enqueued"]
            fleet.enqueue("pay", 1, times=50)
    counts = fleet.app.stats()
    assert counts["total_enqueued"] == counts["ready"] == refused, "a batch was stored by halves"
    with pytest.raises(EngineFull):
        while True:
            fleet.enqueue("pay", 1)  # what is left of the last page is used up one by one
    assert integrity(fleet) == ["ok"]
    fleet.start_ready(processes=1)
    fleet.drain()
    page_limit(fleet, 1_000_000)
    fleet.enqueue("pay", 1, times=10)
    fleet.drain()
    verdict = check(fleet)
    figure("full disk", verdict)
    verdict.assert_safe()


def page_limit(fleet: Fleet, pages: int) -> None:
    """Let this process's writer grow the file to so many pages and no further."""
    with fleet.app.transaction() as tx:
        tx.execute(f"PRAGMA max_page_count = {pages}")


def test_a_worker_on_a_full_disk_goes_on_settling_and_loses_nothing(
    fleet: Fleet, figure: Callable[[str, object], None]
) -> None:
    """The file cannot grow by a page; ends of jobs find room in it, or wait until there is some."""
    fleet.enqueue("pay", 1, times=300)
    with fleet.app.transaction() as tx:
        (pages,) = next(iter(tx.execute("PRAGMA page_count")))
    tree = fleet.start_ready(processes=1, FLEET_PAGES=str(pages))
    fleet.until(lambda: not fleet.open_jobs() or fleet.logged("is full"), "the worker to drain or to meet the limit")
    met, left = fleet.logged("is full"), fleet.open_jobs()
    tree.send_signal(signal.SIGTERM)
    assert tree.ended() == 0, fleet.last_words()
    assert integrity(fleet) == ["ok"]
    fleet.start_ready(processes=1)
    fleet.drain()
    verdict = check(fleet)
    figure("full disk, worker", f"met the limit: {bool(met)}, left then {left}; {verdict}")
    verdict.assert_safe()


# -- a file that is no store --


def no_database(path: Path) -> None:
    path.write_bytes(b"this is a letter to my aunt, and no database at all\n" * 100)


def newer_schema(path: Path) -> None:
    with Windlass(f"sqlite:///{path}") as app:
        app.engine.open()
    db = apsw.Connection(str(path))
    db.execute("UPDATE windlass_meta SET value = ? WHERE key = 'schema'", (schema.VERSION + 1,))
    db.close()


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("spoil", [no_database, newer_schema, a_folder])
def test_a_file_that_is_no_store_is_refused_by_clients_and_ends_workers_with_code_3(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    path = tmp_path / "jobs.db"
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with Fleet(f"sqlite:///{path}", tmp_path) as fleet:
        with pytest.raises(EngineUnusable, match=r"jobs\.db"):
            fleet.enqueue("work", 1)
        tree = fleet.start()
        assert tree.ended() == 3, fleet.last_words()
        assert "Traceback" not in fleet.said()
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_folder_that_cannot_be_written_is_refused_by_clients_and_ends_workers_with_code_3(tmp_path: Path) -> None:
    # /proc refuses new files to everybody, also to root, for whom modes do not count.
    with Fleet("sqlite:////proc/jobs.db", tmp_path) as fleet:
        with pytest.raises(EngineError, match="write access"):
            fleet.enqueue("work", 1)
        tree = fleet.start()
        assert tree.ended() == 3, fleet.last_words()
        assert "Traceback" not in fleet.said()
