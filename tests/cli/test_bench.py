"""``windlass bench`` with tiny numbers: that it measures, says in what unit, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = {
    "enqueue": {"one by one": "jobs/s"},
    "enqueue-many": {"store": "jobs/s", "make and store": "jobs/s"},
    "drain-sync": {"1 process": "jobs/s", "2 processes": "jobs/s"},
    "drain-async": {"1 process": "jobs/s", "2 processes": "jobs/s"},
    "latency": {"p50": "ms", "p99": "ms"},
    "sleep": {"50 threads": "% of ideal", "50 async slots": "% of ideal"},
    "due": {"last one done": "ms"},
    "idle": {"CPU": "% of a core", "wake-ups": "per s", "memory": "MiB"},
    "backlog": {"1,000 waiting": "µs/job", "20,000 waiting": "µs/job", "many to few": "x"},
    "queues": {
        "1 known, 1 busy": "µs/job",
        "100 known, 1 busy": "µs/job",
        "1,000 known, 1 busy": "µs/job",
        "1,000 known, 100 busy": "µs/job",
        "many busy to one": "x",
    },
}


def bench(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
    return subprocess.run(
        [sys.executable, "-m", "windlass", "bench", "--quick", "--jobs", "100", *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("scenario", list(UNITS))
def test_every_scenario_gives_its_figures_with_units(tmp_path: Path, scenario: str) -> None:
    done = bench(tmp_path, "--scenario", scenario, "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["figures"]
    assert {figure["name"]: figure["unit"] for figure in figures} == UNITS[scenario]
    for figure in figures:
        assert figure["scenario"] == scenario
        assert figure["how"]
        assert figure["value"] >= 0
        # An idle process may use no tick of CPU in the moment that is measured; everything else takes time.
        assert figure["value"] > 0 or scenario == "idle"


def test_the_report_says_what_the_figures_depend_on(tmp_path: Path) -> None:
    done = bench(tmp_path, "--scenario", "enqueue", "--json")
    report = json.loads(done.stdout)
    assert report["quick"] is True
    assert report["durability"] == "fsync"
    assert report["engine"].startswith("sqlite 3.")
    assert report["cpus"] >= 1
    assert {"windlass", "python", "machine"} < set(report)


def test_several_scenarios_make_one_table(tmp_path: Path) -> None:
    done = bench(tmp_path, "--scenario", "enqueue", "--scenario", "enqueue-many")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["enqueue", "enqueue-many", "enqueue-many"]
    assert all("jobs/s" in line for line in lines[-3:])


def test_it_leaves_nothing_in_the_folder(tmp_path: Path) -> None:
    assert bench(tmp_path, "--scenario", "drain-sync").returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_a_store_of_the_user_keeps_what_was_in_it_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mine.db"
    with sqlite3.connect(path) as mine:
        mine.execute("CREATE TABLE precious (thing TEXT)")
        mine.execute("INSERT INTO precious VALUES ('vase')")
    mine.close()
    done = bench(tmp_path, "--scenario", "drain-sync", "--url", f"sqlite:///{path}")
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(path) as mine:
        assert mine.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall() == [("precious",)]
        assert mine.execute("SELECT thing FROM precious").fetchall() == [("vase",)]
    mine.close()


def test_a_store_in_memory_is_refused(tmp_path: Path) -> None:
    done = bench(tmp_path, "--url", "memory://")
    assert done.returncode == 2
    assert "another process" in done.stderr
