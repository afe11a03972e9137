"""A worker whose store will never work ends by itself; one whose store is replaced goes on in the new one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from windlass import Windlass
from windlass.engines.sqlite import SqliteEngine

APP = """
from windlass import Windlass

app = Windlass()

@app.job(name="double")
def double(n: int) -> int:
    return 2 * n
"""


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_says_that_its_store_was_replaced_and_goes_on_in_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(APP)
    path, spare = tmp_path / "jobs.db", tmp_path / "spare.db"
    for each in (path, spare):
        engine = SqliteEngine(str(each))
        engine.open()
        engine.close()
    log = tmp_path / "log"
    with log.open("w") as file:
        worker = subprocess.Popen(
            [sys.executable, "-m", "windlass", "worker", "-A", "jobs:app"],
            cwd=tmp_path,
            env={**os.environ, "WINDLASS_URL": f"sqlite:///{path}"},
            stderr=file,
        )
    try:
        with Windlass(f"sqlite:///{path}") as app:
            until(app.workers)
        for end in ("-wal", "-shm"):
            Path(f"{path}{end}").unlink()
        os.replace(spare, path)
        with Windlass(f"sqlite:///{path}") as app:
            double = app.job(name="double")(twice)
            assert double.enqueue(21).result(timeout=30) == 42
            until(lambda: "goes on in the file that is there now" in log.read_text())
    finally:
        worker.terminate()
        assert worker.wait(40) == 0
    assert "Traceback" not in log.read_text()
    assert {file.name for file in tmp_path.glob("jobs.db*")} >= {"jobs.db"}
    assert not (tmp_path / "jobs.db-wal").exists()


def twice(n: int) -> int:
    return 2 * n


def test_a_worker_with_several_processes_ends_on_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text("from windlass import Windlass\napp = Windlass()\n")
    environment = {**os.environ, "WINDLASS_URL": f"sqlite:///{tmp_path}/missing/jobs.db"}
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-m", "windlass", "worker", "-A", "jobs:app", "-p", "4"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.returncode == 3, done.stderr
        assert "no folder" in done.stderr
