"""Add many jobs to the batch ``many``, and say how much memory this process has meanwhile.

``python -m faults.batch_client COUNT``; prints KiB by the number of jobs that are added, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from faults import jobs
from windlass import Windlass


def memory_kib() -> int:
    """What this process has resident."""
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])


def main(count: int) -> None:
    resident: dict[int, int] = {}
    with Windlass() as app:
        defined = jobs.install(app)
        callbacks = {when: defined.pay.bind(0) for when in ("on_success", "on_complete", "on_death")}
        with app.batch("many", id="many", **callbacks) as batch:
            for number in range(1, count + 1):
                batch.add(defined.work.bind(0))
                if number in (count // 10, count // 2, count):
                    resident[number] = memory_kib()
    print(json.dumps(resident), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
