"""The demo as ``make demo`` runs it, with fewer orders: a worker process is killed, and the books must balance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[1] / "examples" / "shop" / "demo.py"
ORDERS = 1_000


def run_demo(folder: Path, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
    return subprocess.run(
        [sys.executable, str(DEMO), "--orders", str(ORDERS), "--folder", str(folder), *options],
        capture_output=True,
        text=True,
        timeout=600,  # the demo itself gives up before
        env=environment | more,
        cwd=folder.parent,
    )


def test_a_killed_worker_loses_no_payment_and_pays_none_twice(tmp_path: Path, store: dict[str, str]) -> None:
    done = run_demo(tmp_path / "demo", "--json", **store)
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout)
    assert report["enqueued"] == report["paid_once"] == ORDERS
    assert report["lost"] == report["paid_twice"] == 0
    # The kill took jobs away in the middle, and every one of them ran to its end elsewhere.
    assert report["held_by_killed"] > 0
    assert report["recovered"] == report["held_by_killed"]
    assert report["executed_twice"] > 0
    assert report["executed"] >= ORDERS + report["executed_twice"]


def test_without_the_idempotent_sink_the_same_kill_pays_twice(tmp_path: Path) -> None:
    done = run_demo(tmp_path / "demo", "--json", "--no-idempotent-sink")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["lost"] == 0
    assert report["paid_twice"] > 0
    assert report["paid_once"] + report["paid_twice"] == ORDERS


def test_the_demo_leaves_no_process_behind(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    assert run_demo(folder).returncode == 0
    log = (folder / "worker.log").read_text()
    assert "stopping: running jobs have" in log
    for ledger in (folder / "ledger").glob("*.log"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(ledger.stem), 0)


def test_a_folder_that_is_not_the_demos_own_is_not_emptied(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    done = run_demo(precious)
    assert done.returncode == 2
    assert "no folder of an earlier demo" in done.stderr
    assert (precious / "thesis.txt").read_text() == "years of work"
