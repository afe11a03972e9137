"""The files beside the database are hints: nothing that is wrong with them decides about a call that has committed."""

from __future__ import annotations

import logging
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import apsw
import pytest

from windlass import Windlass
from windlass.engines.sqlite import SqliteEngine
from windlass.jobs.definition import Job
from windlass.testing.conformance.harness import resume

VICTIM = b"somebody else's words\n"
NAMES = ("ready", "done", "lock")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store" / "jobs.db"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    found = tmp_path / "victim"
    found.write_bytes(VICTIM)
    return found


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


def beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.name}-{name}")


def as_folder(place: Path, victim: Path) -> None:
    place.mkdir()


def as_fifo(place: Path, victim: Path) -> None:
    os.mkfifo(place)


def as_link(place: Path, victim: Path) -> None:
    place.symlink_to(victim)


def as_dangling_link(place: Path, victim: Path) -> None:
    place.symlink_to(victim.with_name("not there"))


def as_hard_link(place: Path, victim: Path) -> None:
    place.hardlink_to(victim)


PUT = (as_folder, as_fifo, as_link, as_dangling_link, as_hard_link)


@pytest.mark.parametrize("put", PUT)
def test_what_stands_in_the_place_of_a_wake_up_file_is_left_alone_and_calls_answer(
    app: Windlass, double: Job[[int], int], path: Path, victim: Path, put: Callable[[Path, Path], None]
) -> None:
    for name in NAMES:
        put(beside(path, name), victim)
    handle = double.enqueue(1)
    assert app.get(handle.id) is not None
    app.engine.wait(None, 0.01)
    handle.cancel()
    assert handle.state == "cancelled"
    with app.lock("key"):
        pass
    assert victim.read_bytes() == VICTIM
    assert not victim.with_name("not there").exists()


@pytest.mark.parametrize("put", [as_folder, as_link, as_hard_link])
def test_the_doctor_names_what_is_no_wake_up_file_of_ours(
    app: Windlass, double: Job[[int], int], path: Path, victim: Path, put: Callable[[Path, Path], None]
) -> None:
    put(beside(path, "ready"), victim)
    double.enqueue(1)
    found = [finding for finding in app.engine.doctor() if finding.check == "wake-ups" and finding.level == "warning"]
    assert len(found) == 1
    assert str(beside(path, "ready")) in found[0].message


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let this process open nothing."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_process_without_free_descriptors_enqueues_and_says_once_that_others_learn_of_it_later(
    app: Windlass, double: Job[[int], int], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app.engine.open()
    with no_more_descriptors(), caplog.at_level(logging.WARNING):
        ids = [double.enqueue(n).id for n in range(3)]
        app.engine.wait(None, 0.01)
    assert all(app.get(id) is not None for id in ids)
    assert [record.levelname for record in caplog.records if str(beside(path, "ready")) in record.message] == [
        "WARNING"
    ]
    double.enqueue(4)
    assert beside(path, "ready").exists()  # once there are descriptors again


def test_nothing_is_written_into_a_file_that_has_got_the_number_of_a_closed_descriptor(
    app: Windlass, double: Job[[int], int], path: Path, victim: Path
) -> None:
    double.enqueue(1)
    for number in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # that of the listing itself
            continue
        if name in {str(beside(path, end)) for end in NAMES}:
            os.close(int(number))  # as os.closerange(3, 4096) of a job does
    files = [os.open(victim, os.O_RDWR) for _ in range(64)]
    try:
        double.enqueue(2)
        assert victim.read_bytes() == VICTIM
    finally:
        for fd in files:
            os.close(fd)


def test_a_wake_up_file_that_was_removed_is_made_again_and_heard_by_those_who_waited_before(
    app: Windlass, double: Job[[int], int], path: Path
) -> None:
    double.enqueue(1)
    app.engine.wait(None, 0.01)
    beside(path, "ready").unlink()
    app.engine.wait(None, 0.01)  # the removal itself may wake it
    with closing(SqliteEngine(str(path))) as other:
        resume(other, "default")
        assert app.engine.wait(None, 10)
        resume(other, "default")
        assert app.engine.wait(None, 10)
    assert beside(path, "ready").exists()


def test_files_beside_the_database_get_its_mode_and_group(app: Windlass, double: Job[[int], int], path: Path) -> None:
    path.touch(0o600)
    os.chmod(path, 0o664)
    if os.geteuid() == 0:
        os.chown(path, -1, 4242)
    before = os.umask(0o077)
    try:
        double.enqueue(1).cancel()
        with app.lock("key"):
            pass
    finally:
        os.umask(before)
    like = path.stat()
    for name in (*NAMES, "wal", "shm"):
        found = beside(path, name).stat()
        assert (name, stat.filemode(found.st_mode), found.st_gid) == (name, stat.filemode(like.st_mode), like.st_gid)


def test_a_wake_up_file_of_an_older_version_gets_the_mode_of_the_database(
    app: Windlass, double: Job[[int], int], path: Path
) -> None:
    path.touch()
    os.chmod(path, 0o660)
    beside(path, "ready").touch()
    os.chmod(beside(path, "ready"), 0o600)
    double.enqueue(1)
    assert stat.S_IMODE(beside(path, "ready").stat().st_mode) == 0o660


def test_a_commit_of_the_callers_own_connection_does_not_fail_for_a_wake_up_file(
    app: Windlass, double: Job[[int], int], path: Path, victim: Path
) -> None:
    app.engine.open()
    as_folder(beside(path, "ready"), victim)
    db = apsw.Connection(str(path))
    try:
        db.execute("BEGIN IMMEDIATE")
        handle = double.options(connection=db).enqueue(1)
        with no_more_descriptors():
            db.execute("COMMIT")
    finally:
        db.close()
    assert app.get(handle.id) is not None
