"""Once everybody has stopped, the database file alone is the whole store, and may be copied."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from windlass import Windlass
from windlass.engines.sqlite import SqliteEngine

SCRIPT = """
import sys
from windlass import Windlass

def main():
    app = Windlass("sqlite:///{path}")

    @app.job(name="double")
    def double(n):
        return n

    for n in range(5):
        double.enqueue(n)
    return app

{end}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def jobs_in_a_copy(path: Path) -> int:
    """How many jobs a copy of the file alone has."""
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    db = apsw.Connection(str(copy))
    try:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return int(str(db.execute("SELECT count(*) FROM windlass_jobs").fetchall()[0][0]))
    finally:
        db.close()
        copy.unlink()


def test_who_closes_last_leaves_a_whole_file(path: Path) -> None:
    with Windlass(f"sqlite:///{path}") as app:
        double = app.job(name="double")(twice)
        with closing(SqliteEngine(str(path))) as other:
            other.open()
            app.enqueue_many([double.bind(n) for n in range(5)])
            app.close()
            assert other.job("none") is None
            assert path.with_name("jobs.db-wal").stat().st_size > 0  # somebody may need it
        assert jobs_in_a_copy(path) == 5
        assert not path.with_name("jobs.db-wal").exists()


def twice(n: int) -> int:
    return 2 * n


def test_an_application_that_nobody_closed_leaves_a_whole_file_when_it_is_forgotten(path: Path) -> None:
    def use() -> None:
        Windlass(f"sqlite:///{path}").job(name="double")(twice).enqueue(1)

    use()
    gc.collect()
    assert jobs_in_a_copy(path) == 1


@pytest.mark.parametrize("end", ["main()", "app = main()", "app = main(); sys.exit(3)", "app = main(); 1 / 0"])
def test_a_program_that_ends_without_closing_leaves_a_whole_file(path: Path, end: str) -> None:
    code = SCRIPT.format(path=path, end=end)
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert jobs_in_a_copy(path) == 5


def test_a_forked_child_that_ends_leaves_the_log_to_its_parent(path: Path) -> None:
    with Windlass(f"sqlite:///{path}") as app:
        double = app.job(name="double")(twice)
        double.enqueue(1)
        child = os.fork()
        if child == 0:
            app.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert path.with_name("jobs.db-wal").stat().st_size > 0
        double.enqueue(2)
    assert jobs_in_a_copy(path) == 2


def test_closing_does_not_wait_for_somebody_who_reads(path: Path) -> None:
    with Windlass(f"sqlite:///{path}") as app:
        app.job(name="double")(twice).enqueue(1)
        reading = apsw.Connection(str(path))
        try:
            reading.execute("BEGIN")
            reading.execute("SELECT count(*) FROM windlass_jobs").fetchall()
            app.close()
            assert path.with_name("jobs.db-wal").stat().st_size > 0
        finally:
            reading.close()
    assert jobs_in_a_copy(path) == 1
