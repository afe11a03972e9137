"""A worker whose store will never work ends by itself; one whose store is replaced goes on in the new one."""

from __future__ import annotations

import os
from pathlib import Path

from kit.fleet import Fleet
from kit.waiting import PATIENCE
from windlass import Windlass
from windlass.engines.sqlite import SqliteEngine

APP = """
from windlass import Windlass

app = Windlass()

@app.job(name="double")
def double(n: int) -> int:
    return 2 * n
"""


def test_a_worker_says_that_its_store_was_replaced_and_goes_on_in_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text(APP)
    path, spare = tmp_path / "jobs.db", tmp_path / "spare.db"
    for each in (path, spare):
        engine = SqliteEngine(str(each))
        engine.open()
        engine.close()
    url = f"sqlite:///{path}"
    with Fleet(tmp_path, url, "jobs:app", WINDLASS_URL=url) as fleet:
        worker = fleet.start()
        with Windlass(url) as app:
            fleet.until(app.workers, "the worker to register")
        for end in ("-wal", "-shm"):
            Path(f"{path}{end}").unlink()
        os.replace(spare, path)
        with Windlass(url) as app:
            double = app.job(name="double")(twice)
            assert double.enqueue(21).result(timeout=PATIENCE) == 42
            fleet.heard("goes on in the file that is there now")
        fleet.stop(worker)
        assert "Traceback" not in fleet.said()
    assert {file.name for file in tmp_path.glob("jobs.db*")} >= {"jobs.db"}
    assert not (tmp_path / "jobs.db-wal").exists()


def twice(n: int) -> int:
    return 2 * n


def test_a_worker_with_several_processes_ends_on_a_store_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "jobs.py").write_text("from windlass import Windlass\napp = Windlass()\n")
    url = f"sqlite:///{tmp_path}/missing/jobs.db"
    with Fleet(tmp_path, url, "jobs:app", WINDLASS_URL=url) as fleet:
        for _ in range(3):
            worker = fleet.start("-p", "4")
            assert worker.ended() == 3, worker.said()
            assert "no folder" in worker.said()
