"""Files of earlier schemas are brought up, with what is in them; files of later ones are refused."""

from __future__ import annotations

import re
import time
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from windlass import Windlass
from windlass.core.clock import ManualClock
from windlass.core.model import State
from windlass.core.work import WorkerInfo
from windlass.engines.sqlite import SqliteEngine
from windlass.engines.sqlite.schema import MIGRATIONS, VERSION, prefix_of
from windlass.errors import EngineUnusable
from windlass.guards import agreed
from windlass.testing.conformance.harness import add, set_limit, take, upkeep

OLD_JOB = """
INSERT INTO windlass_jobs (id, name, queue, state, payload, priority, place, run_at, enqueued_at, max_attempts)
VALUES ('old', 'n', 'default', 'ready', '[1,[],{}]', 0, 1, 1, 1, 3)
"""


SIMILAR = ("shop", "Shop", "SHOP", "shop_jobs", "shop_Jobs", "shop_jobs_jobs", "sqlite", "SQLite", "sqlite_jobs",
           "sqlite_x", "s.q:l-1")  # fmt: skip


def test_namespaces_that_sqlite_would_mix_up_are_kept_apart(tmp_path: Path) -> None:
    apps = {name: Windlass(f"sqlite:///{tmp_path}/jobs.db", namespace=name) for name in SIMILAR}
    for name, app in apps.items():
        app.job(name="noop")(noop).options(id=name).enqueue()
    for name, app in apps.items():
        assert [job.id for job in app.jobs()] == [name]
        app.engine.migrate()
        app.close()


def noop() -> None:
    pass


def test_no_name_of_one_namespace_is_a_name_of_another() -> None:
    own = [name for text in MIGRATIONS for name in re.findall(r'CREATE (?:TABLE|INDEX|TRIGGER) "windlass_(\w+)"', text)]
    seen: dict[str, str] = {}
    for namespace in (*SIMILAR, *(f"shop_{name}" for name in own)):
        for name in own:
            full = f"{prefix_of(namespace)}_{name}".lower()
            assert not full.startswith("sqlite_")
            assert seen.setdefault(full, namespace) == namespace


def of_schema(path: Path, version: int) -> None:
    """Make a file as the windlass of that schema left it, with one job."""
    with closing(apsw.Connection(str(path))) as db:
        db.execute("CREATE TABLE windlass_meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID")
        for text in MIGRATIONS[:version]:
            db.execute(text)
        db.execute("INSERT INTO windlass_meta VALUES ('schema', ?)", (version,))
        db.execute("INSERT INTO windlass_queues (name) VALUES ('default')")
        db.execute(OLD_JOB)


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_a_file_of_each_schema_is_brought_up_and_its_job_runs(tmp_path: Path, version: int) -> None:
    path = tmp_path / "jobs.db"
    of_schema(path, version)
    with closing(SqliteEngine(str(path))) as engine:
        assert engine.migrate() == VERSION
        set_limit(engine, "default", 1)
        engine.extend(WorkerInfo("w1", "g", "h", 1, "*", 1, "1", 0), (), 60_000)
        assert [lease.id for lease in take(engine)] == ["old"]
        row = engine.job("old")
        assert row is not None
        assert (row.state, row.payload, row.guards, row.unique) == (State.RUNNING, b"[1,[],{}]", (), None)


def test_locks_and_probes_that_were_held_stay_held(tmp_path: Path) -> None:
    path, clock = tmp_path / "jobs.db", ManualClock()
    of_schema(path, 8)
    now = clock.wall_ms()
    with closing(apsw.Connection(str(path))) as db:
        db.execute("INSERT INTO windlass_locks VALUES ('k', 'token', 77, ?, ?, 'me')", (now + 60_000, now))
        db.execute("INSERT INTO windlass_line VALUES ('k', 1, 'waits', ?)", (now + 3_000,))
        db.execute("INSERT INTO windlass_probes VALUES ('c', 'a', ?1), ('c', 'b', ?1)", (now + 5_000,))
    with closing(SqliteEngine(str(path), clock=clock)) as engine:
        busy = engine.hold("lock:k", "other", 1, 60_000)
        assert (busy.fence, busy.left_ms, busy.owner) == (None, 60_000, "me")
        assert engine.renew([("lock:k", "token")], 90_000) == [True]
        (lock,) = engine.holds("lock:")
        assert (lock.gate, lock.fence, lock.left_ms, lock.since) == ("lock:k", 77, 90_000, now)
        assert engine.hold("circuit:c", "d", 2, 5_000).fence is None
        clock.advance(5_000)
        assert engine.hold("circuit:c", "d", 2, 5_000).fence is not None
        assert engine.release("lock:k", "token")
        assert (engine.hold("lock:k", "other", 1, 60_000).fence or 0) > 77


def test_circuits_of_the_schema_before_are_documents_and_open_ones_stay_open(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    of_schema(path, 8)
    now = int(time.time() * 1_000)
    docs = {
        "by-hand": f'{{"state":"open","epoch":3,"since":{now},"wall":{now},"by_hand":true,"reason":"maintenance"}}',
        "calm": f'{{"slices":[[{now // 3_000},4,2]],"slice_ms":3000}}',
        "half": f'{{"state":"half_open","epoch":2,"since":{now},"wall":{now},"successes":1,"half_open":3}}',
        "tripped": f'{{"state":"open","epoch":1,"since":{now},"wall":{now},"open_until":{now + 900_000}}}',
    }
    guards = '[["circuit","circuit:by-hand",0,0,null,0]]'
    blocked = "UPDATE windlass_jobs SET state = 'blocked', blocked_by = 'circuit:by-hand', guards = ?, holding = 1"
    with closing(apsw.Connection(str(path))) as db:
        for name, doc in docs.items():
            db.execute("INSERT INTO windlass_circuits VALUES (?, ?)", (name, doc))
        db.execute("INSERT INTO windlass_documents VALUES ('redrive:1', 7, '{}', NULL)")
        db.execute("INSERT INTO windlass_meta VALUES ('document', 7)")
        db.execute(blocked, (guards,))
    with closing(SqliteEngine(str(path))) as engine:
        engine.migrate()
        rows = {row.name: row for row in agreed.rows(engine)}
        assert {name: (row.state, row.epoch) for name, row in rows.items()} == {
            "by-hand": ("open", 3), "calm": ("closed", 0), "half": ("half_open", 2), "tripped": ("open", 1),
        }  # fmt: skip
        assert (rows["by-hand"].by_hand, rows["by-hand"].reason, rows["by-hand"].waiting) == (True, "maintenance", 1)
        assert (rows["calm"].calls, rows["calm"].failures, rows["half"].successes) == (6, 2, 1)
        assert 0 < (rows["tripped"].left_ms or 0) <= 900_000
        versions = [one.version for one in engine.read(engine.keys(""))]
        assert sorted(versions) == [7, 8, 9, 10, 11]
        engine.extend(WorkerInfo("w1", "g", "h", 1, "*", 1, "1", 0), (), 60_000)
        assert take(engine) == []
        assert agreed.switch(engine, "by-hand", None, False, None, 1).known.version == 12
        assert [lease.id for lease in take(engine)] == ["old"]


def test_a_file_of_a_later_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    of_schema(path, VERSION)
    with closing(apsw.Connection(str(path))) as db:
        db.execute("UPDATE windlass_meta SET value = ? WHERE key = 'schema'", (VERSION + 1,))
    with pytest.raises(EngineUnusable, match=f"schema {VERSION + 1}.*upgrade windlass"):
        SqliteEngine(str(path)).open()


OLD_TOTAL = """
INSERT INTO "windlass_totals" (name, value) VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET value = value + excluded.value
"""
OLD_FLOW = """
INSERT INTO "windlass_flow" (step, queue, arrived, claimed) VALUES (?, ?, ?, ?)
ON CONFLICT (step, queue) DO UPDATE SET arrived = arrived + excluded.arrived, claimed = claimed + excluded.claimed
"""


def test_totals_and_rates_of_schema_8_go_on_and_a_process_of_it_may_go_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    of_schema(path, 8)
    clock = ManualClock()
    step = clock.wall_ms() // 10_000
    with closing(apsw.Connection(str(path))) as old:
        for name, value in (("enqueued", 9), ("done", 4), ("stale", "many"), (b"x", 1)):
            old.execute(OLD_TOTAL, (name, value))
        for ago, queue, arrived, claimed in ((0, "qa", 2, 1), (1, "qa", 1, 0), (0, "qb", 0, 5), (1, "qb", "x", 2**62)):
            old.execute(OLD_FLOW, (step - ago, queue, arrived, claimed))
        with closing(SqliteEngine(str(path), clock=clock)) as engine:
            counts = engine.counts()
            assert [counts[f"total_{name}"] for name in ("enqueued", "done", "stale")] == [9, 4, 0]
            assert rates(engine) == {"arrived:qa": 3, "claimed:qa": 1, "claimed:qb": 5}
            for _ in range(3):  # what a process of that schema does when it stores a job, and when one is done
                old.execute(OLD_TOTAL, ("enqueued", 2))
                old.execute(OLD_FLOW, (step, "qa", 2, 0))
                old.execute(OLD_FLOW, (step, "qa", 0, 1))
                old.execute(OLD_TOTAL, ("done", 1))
            add(engine, "new", queue="qa")
            for _ in range(2):
                counts = engine.counts()
                assert [counts[f"total_{name}"] for name in ("enqueued", "done")] == [16, 7]
                clock.advance(600_000)
                upkeep(engine)
            assert rates(engine) == {}


def rates(engine: SqliteEngine) -> dict[str, int]:
    return {one.series: one.n for one in engine.metrics(("arrived:", "claimed:"), 1).counts}
