"""The example of queues and pools runs, keeps its promise, and shows its layout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "shop" / "priorities.py"


def test_payments_do_not_wait_behind_newsletters(store: dict[str, str]) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
    environment |= store
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--newsletters", "300"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for text in ("20 payments waited", "critical:2 default:5 low,report-*:2", "mailers", "2 processes"):
        assert text in done.stdout
    assert "20 of 600/m started" in done.stdout
