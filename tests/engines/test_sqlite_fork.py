"""A forked child of a process that has the engine open, in every order of ends."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import apsw
import pytest

from windlass.core.model import NewJob, Write
from windlass.engines.sqlite import SqliteEngine
from windlass.testing.conformance.harness import place

# A fork of a process with threads is what users do and Python warns of (from 3.12); it is the case under test.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def job(name: str) -> NewJob:
    return NewJob(id=name, name="m.job", queue="default", payload="[1,[],{}]")


def in_child(work: object) -> int:
    """Run ``work`` in a forked child; its exit status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    return pid


def test_a_child_that_outlives_its_parents_handles_loses_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "jobs.db")
    go_r, go_w = os.pipe()
    parent = SqliteEngine(path)
    place(parent, [job("parent")])

    def child() -> None:
        place(parent, [job("child-before")])
        os.read(go_r, 1)
        place(parent, [job("child-after")])
        parent.close()

    pid = in_child(child)
    # The parent goes; were the child's locks not its own, the log would be deleted or begun anew under it.
    while parent.job("child-before") is None:
        parent.wait_finished(["child-before"], 0.01)
    parent.close()
    third = SqliteEngine(path)
    place(third, [job("third")])
    os.write(go_w, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    place(third, [job("third-after")])
    assert [
        third.job(name) is not None for name in ("parent", "child-before", "child-after", "third", "third-after")
    ] == [True] * 5
    third.close()
    assert apsw.Connection(path).execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    os.close(go_r)
    os.close(go_w)


def test_forks_beside_a_thread_that_writes_all_the_time(tmp_path: Path) -> None:
    engine = SqliteEngine(str(tmp_path / "jobs.db"))
    engine.open()
    over = threading.Event()
    written: list[str] = []

    def write() -> None:
        while not over.is_set():
            name = f"thread-{len(written)}"
            place(engine, [job(name)])
            written.append(name)

    thread = threading.Thread(target=write)
    thread.start()
    for number in range(8):
        pid = in_child(lambda number=number: place(engine, [job(f"child-{number}")]))  # type: ignore[misc]
        assert os.waitpid(pid, 0)[1] == 0
        place(engine, [job(f"parent-{number}")])
    over.set()
    thread.join()
    for number in range(8):
        assert engine.job(f"child-{number}") is not None
        assert engine.job(f"parent-{number}") is not None
    assert engine.counts()["ready"] == len(written) + 16
    engine.close()


def test_a_fork_inside_a_transaction_leaves_it_to_the_parent(tmp_path: Path) -> None:
    engine = SqliteEngine(str(tmp_path / "jobs.db"))
    engine.open()
    with engine.transaction() as tx:
        engine.commit_within(tx, Write((job("inside"),)))
        pid = in_child(lambda: None)
        assert os.waitpid(pid, 0)[1] == 0
    assert engine.job("inside") is not None
    engine.close()


def test_a_lock_that_was_waited_for_can_be_had_in_a_child_and_in_the_parent(tmp_path: Path) -> None:
    engine = SqliteEngine(str(tmp_path / "jobs.db"))
    seen = engine.hold("lock:k", "holder", 1, 30_000, "me").seen
    engine.hold("lock:k", "waiter", 1, 30_000, "me", 30_000)  # from now on the engine listens to releases

    def child() -> None:
        assert engine.hold("lock:k", "child", 1, 30_000, "child").fence is None
        assert engine.release("lock:k", "holder")

    pid = in_child(child)
    assert os.waitpid(pid, 0)[1] == 0
    engine.wait_released(seen, 30.0)
    assert engine.hold("lock:k", "waiter", 1, 30_000, "me").fence is not None
    engine.close()
