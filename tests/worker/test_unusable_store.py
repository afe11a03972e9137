"""A worker whose store will never work ends by itself, however many processes it has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


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
