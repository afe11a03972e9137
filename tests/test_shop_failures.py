"""The example of the failure policy does what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_every_invoice_ends_as_the_example_says(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
    environment |= {
        "WINDLASS_URL": f"sqlite:///{tmp_path}/jobs.db",
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), environment.get("PYTHONPATH", "")]),
    }
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "windlass", "-A", "shop.failures:app", "worker"],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "shop.failures"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        worker.terminate()
        worker.wait(60)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert said["fine"] == "settled in attempt 1"
    assert said["busy"] == "settled in attempt 2"
    assert said["unsteady"] == "settled in attempt 3"
    assert said["not yet open"] == "settled in attempt 1"
    assert said["paid by hand"].endswith("ended cancelled: the customer paid at the counter")
    assert said["refused"].endswith("CardRefused: do not honour")
    assert said["unknown"].endswith("no such invoice; somebody has to look at it")
    log_text = (tmp_path / "worker.log").read_text()
    assert "invoice ('refused',) needs you" in log_text
    assert "invoice ('unknown',) needs you" in log_text
