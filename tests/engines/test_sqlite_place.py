"""The store is the file that has the name now. One that was removed, replaced or cut short takes no job with it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from kit.waiting import elapse, until
from windlass import EngineUnavailable, Windlass
from windlass.core.work import Kind, Outcome, QueueShare, Rules, Settled, Want, WorkerInfo
from windlass.engines.sqlite import SqliteEngine
from windlass.engines.sqlite.place import LOOK_EVERY
from windlass.errors import EngineUnusable
from windlass.jobs.definition import Job


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store" / "jobs.db"


@pytest.fixture
def app(path: Path) -> Iterator[Windlass]:
    with Windlass(f"sqlite:///{path}") as app:
        yield app


@pytest.fixture
def double(app: Windlass) -> Job[[int], int]:
    @app.job(name="double")
    def double(n: int) -> int:
        return 2 * n

    return double


def files(path: Path) -> list[Path]:
    return [path.with_name(path.name + end) for end in ("", "-wal", "-shm")]


def backup(path: Path, to: Path) -> Path:
    """Copy a store that is in use, as SQLite's own backup does."""
    source, target = apsw.Connection(str(path)), apsw.Connection(str(to))
    with target.backup("main", source, "main") as copying:
        copying.step()
    target.close()
    source.close()
    return to


def ids_in(path: Path) -> set[str]:
    """What another process sees that opens the file now."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {str(id) for (id,) in db.execute("SELECT id FROM windlass_jobs")}
    finally:
        db.close()


@pytest.mark.parametrize("with_log", [True, False])
def test_an_enqueue_goes_into_the_backup_that_was_put_in_place(
    app: Windlass,
    double: Job[[int], int],
    path: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    with_log: bool,
) -> None:
    first = double.enqueue(1)
    restored = backup(path, tmp_path / "restored")
    lost = double.enqueue(2)
    os.replace(restored, path)
    if with_log:  # else the log of the file before lies beside the new one
        for file in files(path)[1:]:
            file.unlink()
    after = double.enqueue(3)
    assert ids_in(path) == {first.id, after.id}
    assert app.get(lost.id) is None
    assert "goes on in the file that is there now" in caplog.text


def test_the_log_of_the_file_before_is_left_to_whoever_uses_it_with_the_new_one(
    app: Windlass, double: Job[[int], int], path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    double.enqueue(1)
    os.replace(backup(path, tmp_path / "restored"), path)
    code = (
        "import sys, apsw; db = apsw.Connection(sys.argv[1]);"
        "print(db.execute('SELECT count(*) FROM windlass_jobs').fetchall(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        log = files(path)[1].stat().st_ino
        after = double.enqueue(2)
        assert files(path)[1].stat().st_ino == log
        assert "is used as its log" in caplog.text
        other.communicate(b"")
    assert after.id in ids_in(path)


def test_a_question_is_asked_of_the_file_that_is_there_now(
    app: Windlass, double: Job[[int], int], path: Path, tmp_path: Path
) -> None:
    double.enqueue(1)
    restored = backup(path, tmp_path / "restored")
    lost = double.enqueue(2)
    os.replace(restored, path)
    for file in files(path)[1:]:
        file.unlink()
    moment()
    assert app.get(lost.id) is None
    assert app.stats()["ready"] == 1


def moment() -> None:
    """Let the last look at the files grow old: a call that follows at once is judged after its commit only."""
    elapse(2 * LOOK_EVERY)


def test_a_store_that_is_gone_is_not_made_anew_and_is_used_again_when_it_is_back(
    app: Windlass, double: Job[[int], int], path: Path, tmp_path: Path
) -> None:
    first = double.enqueue(1)
    moment()
    away = tmp_path / "away"
    path.parent.rename(away)
    path.parent.mkdir()  # the bare folder under a volume that is not mounted
    for _ in range(2):
        with pytest.raises(EngineUnavailable, match="is gone"):
            double.enqueue(2)
        with pytest.raises(EngineUnavailable, match="is gone"):
            app.stats()
    assert list(path.parent.iterdir()) == []
    path.parent.rmdir()
    away.rename(path.parent)
    after = double.enqueue(3)
    assert ids_in(path) == {first.id, after.id}


def test_after_close_an_application_may_begin_with_an_empty_store(
    app: Windlass, double: Job[[int], int], path: Path
) -> None:
    double.enqueue(1)
    for file in files(path):
        file.unlink()
    with pytest.raises(EngineUnavailable, match="is gone"):
        double.enqueue(2)
    app.close()
    after = double.enqueue(3)
    assert ids_in(path) == {after.id}


def test_a_store_that_was_cut_to_nothing_is_written_back_from_its_log(
    app: Windlass, double: Job[[int], int], path: Path
) -> None:
    with closing(SqliteEngine(str(path))) as other:  # so that nobody is the last to close it
        first = double.enqueue(1)
        assert other.job(first.id) is not None
        os.truncate(path, 0)
        second = double.enqueue(2)
        assert ids_in(path) == {first.id, second.id}
        assert other.job(second.id) is not None


def test_a_store_that_was_cut_to_nothing_after_its_log_was_written_back_takes_no_job(
    app: Windlass, double: Job[[int], int], path: Path
) -> None:
    app.enqueue_many([double.bind(n) for n in range(2_000)])
    app.close()  # everything is in the file
    assert len(ids_in(path)) == 2_000
    app.engine.open()
    os.truncate(path, 0)
    with pytest.raises(EngineUnavailable, match=r"is gone|damaged|failed"):
        double.enqueue(2)


def test_a_store_that_was_cut_in_the_middle_takes_no_job(app: Windlass, double: Job[[int], int], path: Path) -> None:
    app.enqueue_many([double.bind(n) for n in range(2_000)])
    app.close()  # everything is in the file
    double.enqueue(1)
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    with pytest.raises(EngineUnusable, match=r"damaged|failed|cut"):
        for n in range(100):
            double.enqueue(n)


def test_a_file_that_is_no_store_is_left_as_it_is(
    app: Windlass, double: Job[[int], int], path: Path, tmp_path: Path
) -> None:
    double.enqueue(1)
    other = tmp_path / "other"
    db = apsw.Connection(str(other))
    db.execute("CREATE TABLE mine (n)")
    db.close()
    bytes_of_it = other.read_bytes()
    os.replace(other, path)
    for file in files(path)[1:]:
        file.unlink()
    with pytest.raises(EngineUnavailable, match="no job tables"):
        double.enqueue(2)
    assert path.read_bytes() == bytes_of_it


@pytest.mark.parametrize("gone", [("-wal",), ("-wal", "-shm"), ("-shm",)])
def test_jobs_of_a_log_that_was_removed_are_written_back(
    app: Windlass, double: Job[[int], int], path: Path, gone: tuple[str, ...]
) -> None:
    before = [double.enqueue(n).id for n in range(3)]
    for end in gone:
        path.with_name(path.name + end).unlink()
    after = [double.enqueue(n).id for n in range(3)]
    assert ids_in(path) == {*before, *after}


def test_a_link_that_is_pointed_elsewhere_is_followed(tmp_path: Path) -> None:
    link = tmp_path / "jobs.db"
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    for each in (one, two):
        with closing(SqliteEngine(str(each))) as engine:
            engine.open()
    link.symlink_to(one)
    with Windlass(f"sqlite:///{link}") as app:
        double = app.job(name="double")(twice)
        first = double.enqueue(1)
        moment()
        link.unlink()
        link.symlink_to(two)
        second = double.enqueue(2)
    assert (ids_in(one), ids_in(two)) == ({first.id}, {second.id})


def twice(n: int) -> int:
    return 2 * n


def test_a_transaction_whose_file_was_replaced_meanwhile_fails_and_the_next_one_does_not(
    app: Windlass, double: Job[[int], int], path: Path, tmp_path: Path
) -> None:
    app.engine.open()
    restored = backup(path, tmp_path / "restored")
    with pytest.raises(EngineUnavailable, match="not the file that was opened"), app.transaction() as tx:
        double.options(connection=tx).enqueue(1)
        os.replace(restored, path)
        for file in files(path)[1:]:
            file.unlink()
    with app.transaction() as tx:
        kept = double.options(connection=tx).enqueue(2)
    assert ids_in(path) == {kept.id}


def test_of_many_threads_none_is_told_of_a_job_that_is_in_a_file_that_was_replaced(
    app: Windlass, double: Job[[int], int], path: Path, tmp_path: Path
) -> None:
    kept = double.enqueue(0)
    backups = [backup(path, tmp_path / f"restored{n}") for n in range(3)]
    stored: list[tuple[float, str]] = []  # when it was asked for
    over = threading.Event()

    def enqueue() -> None:
        while not over.is_set():
            began = time.monotonic()
            stored.append((began, double.enqueue(1).id))

    with ThreadPoolExecutor(4) as threads:
        running = [threads.submit(enqueue) for _ in range(4)]
        for each in backups:
            have = len(stored)
            until(lambda have=have: len(stored) > have + 50)  # type: ignore[misc]
            os.replace(each, path)
            replaced = time.monotonic()
        have = len(stored)
        until(lambda: len(stored) > have + 50)
        over.set()
        for one in running:
            one.result()
    app.close()
    found = ids_in(path)
    assert {id for began, id in stored if began > replaced} <= found
    assert kept.id in found


def test_a_connection_of_the_caller_to_a_replaced_file_is_refused(
    app: Windlass, double: Job[[int], int], path: Path, tmp_path: Path
) -> None:
    app.engine.open()
    mine = apsw.Connection(str(path))
    try:
        mine.execute("SELECT count(*) FROM windlass_jobs").fetchall()
        os.replace(backup(path, tmp_path / "restored"), path)
        mine.execute("BEGIN IMMEDIATE")
        with pytest.raises(EngineUnavailable, match="connect anew"):
            double.options(connection=mine).enqueue(1)
    finally:
        mine.close()


def test_a_store_that_somebody_vacuums_stays_in_use(app: Windlass, double: Job[[int], int], path: Path) -> None:
    app.enqueue_many([double.bind(n) for n in range(2_000)])
    app.close()
    double.enqueue(0)
    app.queue("default").clear()
    kept = double.enqueue(1)
    size = path.stat().st_size
    db = apsw.Connection(str(path))
    db.execute("VACUUM")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.close()
    assert path.stat().st_size < size
    after = [double.enqueue(n).id for n in range(3)]
    assert ids_in(path) == {kept.id, *after}


WORKER = WorkerInfo("w1", "g1", "host", 1, "*", 1, "1", 0)


def test_what_a_worker_had_of_a_store_that_was_replaced_is_stale_and_fences_go_on(path: Path, tmp_path: Path) -> None:
    with Windlass(f"sqlite:///{path}") as app, closing(SqliteEngine(str(path))) as engine:
        double = app.job(name="double")(twice)
        handle = double.enqueue(1)
        restored = backup(path, tmp_path / "restored")
        engine.extend(WORKER, [], 60_000)
        want = Want("w1", 1, (QueueShare("default", 1),))
        (held,) = engine.claim(want).leases
        lock = engine.hold("lock:k", "t1", 1, 60_000, "me")
        os.replace(restored, path)
        for file in files(path)[1:]:
            file.unlink()
        assert engine.settle([Outcome(held.id, held.fence, Kind.DONE)]) == [Settled.STALE]
        assert engine.claim(want).expelled
        assert engine.maintain(Rules(), 10).rollbacks != ()
        assert engine.maintain(Rules(), 10).rollbacks == ()
        engine.extend(WORKER, [], 60_000)
        (again,) = engine.claim(want).leases
        assert (again.id, again.fence > held.fence) == (handle.id, True)
        later = engine.hold("lock:k", "t2", 1, 60_000, "me")
        assert lock.fence is not None
        assert later.fence is not None
        assert later.fence > lock.fence
        assert engine.settle([Outcome(again.id, again.fence, Kind.DONE)]) == [Settled.APPLIED]
        assert handle.state == "done"
