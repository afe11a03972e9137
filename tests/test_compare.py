"""The comparison with other queues: its plan, its marks, its table, and one measurement for real."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parent.parent / "bench"
PLAN = tomllib.loads((BENCH / "peers.toml").read_text())


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    # Its dataclasses look their module up, so it must be there under its name.
    monkeypatch.syspath_prepend(str(BENCH))
    import compare

    return vars(compare)


@pytest.fixture
def work() -> dict[str, Any]:
    return runpy.run_path(str(BENCH / "work.py"))


@pytest.fixture
def measure(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def measure(command: str, count: int, variant: str = "sqlite", slots: int = 4) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "harness", "windlass", command, str(count)],
            cwd=tmp_path,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("WINDLASS_")},
                "PYTHONPATH": os.pathsep.join([str(BENCH), str(BENCH.parent / "src")]),
                "PYTHONSAFEPATH": "1",
                "BENCH_URL": "redis://127.0.0.1:1/0",
                "BENCH_DIR": str(tmp_path),
                "BENCH_VARIANT": variant,
                "BENCH_SLOTS": str(slots),
                "BENCH_CPUS": "",
            },
            capture_output=True,
            text=True,
            timeout=120,
        )

    return measure


@pytest.mark.parametrize("row", PLAN["row"], ids=lambda row: row["name"])
def test_every_row_has_an_adapter_an_environment_and_says_what_it_guarantees(
    row: dict[str, Any], compare: dict[str, Any]
) -> None:
    made = compare["Row"](**row)  # an unknown or a missing key raises
    assert (BENCH / "peers" / f"{made.adapter}.py").is_file()
    assert made.adapter in PLAN["environments"]
    assert made.store in compare["DURABILITY"]
    assert "at most once" in made.delivery or "at least once" in made.delivery or "retries" in made.delivery


def test_every_package_of_a_peer_is_pinned() -> None:
    for name, packages in PLAN["environments"].items():
        if name != "windlass":  # this checkout
            assert [package for package in packages if "==" not in package] == []


def test_memory_is_measured_once_and_only_on_redis(compare: dict[str, Any]) -> None:
    rows = {row["name"]: compare["Row"](**row) for row in PLAN["row"]}
    assert "fill" in rows["Celery"].commands(0)
    assert "fill" not in rows["Celery"].commands(1)
    assert "fill" not in rows["Huey, SQLite"].commands(0)


def test_a_queue_that_runs_one_job_at_a_time_is_not_asked_to_sleep(compare: dict[str, Any]) -> None:
    rows = {row["name"]: compare["Row"](**row) for row in PLAN["row"]}
    assert "sleep" not in rows["RQ"].commands(0)
    assert "sleep" in rows["Celery"].commands(0)


def test_a_cell_of_the_table_gives_the_median_and_both_ends(compare: dict[str, Any]) -> None:
    assert compare["figure"]([3_000.0, 1_000.0, 2_000.0], "{:,.0f}") == "2,000 (1,000 to 3,000)"
    assert compare["figure"]([1.5], "{:.1f}") == "1.5"
    assert compare["figure"]([], "{:.1f}") == "–"


def test_marks_are_seen_through_another_mapping_of_the_file(work: dict[str, Any], tmp_path: Path) -> None:
    watcher = work["Marks"](tmp_path / "marks", 3)
    worker = work["Marks"](tmp_path / "marks")
    worker.write(1, 10, 20)
    began, ended = watcher.read()
    assert (list(began), list(ended)) == ([0, 10, 0], [0, 20, 0])
    assert not watcher.are_full()
    assert (watcher.has(1), watcher.has(2)) == (True, False)


def test_a_drain_runs_every_job_in_a_real_worker_and_ends_it(
    measure: Callable[..., subprocess.CompletedProcess[str]], work: dict[str, Any], tmp_path: Path
) -> None:
    before = time.monotonic_ns()
    ended = measure("drain", 50)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["per_second"] > 0
    _, marks = work["Marks"](tmp_path / "marks").read()
    assert len(marks) == 50
    assert min(marks) > before


def test_a_measurement_without_its_server_fails_and_says_where_it_looked(
    measure: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ended = measure("drain", 10, variant="redis")  # nobody listens there
    assert ended.returncode != 0
    assert "127.0.0.1:1" in ended.stderr


def test_a_measurement_whose_worker_ends_by_itself_fails_at_once(
    measure: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ended = measure("drain", 10, slots=0)  # no worker starts with no threads
    assert ended.returncode != 0
    assert "the worker ended by itself with code 2" in ended.stderr
