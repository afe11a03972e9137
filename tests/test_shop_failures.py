"""The example of the failure policy does what it says."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kit.fleet import IMPORTS, Fleet

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_every_invoice_ends_as_the_example_says(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    path = os.pathsep.join([str(EXAMPLES), IMPORTS])
    with Fleet(tmp_path, url, "shop.failures:app", WINDLASS_URL=url, PYTHONPATH=path) as fleet:
        worker = fleet.start()
        example = fleet.program(sys.executable, "-W", "error", "-m", "shop.failures")
        assert example.ended() == 0, fleet.last_words()
        fleet.stop(worker)
    said = dict(line.split(": ", 1) for line in example.said().splitlines())
    assert said["fine"] == "settled in attempt 1"
    assert said["busy"] == "settled in attempt 2"
    assert said["unsteady"] == "settled in attempt 3"
    assert said["not yet open"] == "settled in attempt 1"
    assert said["paid by hand"].endswith("ended cancelled: the customer paid at the counter")
    assert said["refused"].endswith("CardRefused: do not honour")
    assert said["unknown"].endswith("no such invoice; somebody has to look at it")
    assert "invoice ('refused',) needs you" in worker.said()
    assert "invoice ('unknown',) needs you" in worker.said()
