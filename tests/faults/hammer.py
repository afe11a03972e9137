"""Uses one store hard from several threads, for some seconds or until killed.

``python -m faults.hammer SECONDS THREADS``. Even threads enqueue, one by one and in batches; odd ones claim and settle
as workers of their own. Acknowledged ids go to ``acked.log`` (whole lines, appended, so a SIGKILL leaves what was
acknowledged); at the end one JSON line on stdout says how much was done and every error that the engine raised.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter

from faults import jobs
from faults.client import tell
from windlass import Windlass
from windlass.core.ids import new_id
from windlass.core.work import Kind, Outcome, Rules, Want, WorkerInfo
from windlass.errors import WindlassError

BATCH = 20


def main() -> None:
    seconds, threads = float(sys.argv[1]), int(sys.argv[2])
    app = Windlass()
    defined = jobs.install(app)
    over = time.monotonic() + seconds
    done: Counter[str] = Counter()
    errors: list[str] = []

    def produce() -> None:
        turn = 0
        while time.monotonic() < over:
            turn += 1
            size = 1 if turn % 2 else BATCH
            handles = app.enqueue_many([defined.work.bind(turn) for _ in range(size)])
            tell("acked", [handle.id for handle in handles])
            done["enqueued"] += size

    def consume() -> None:
        engine = app.engine
        info = WorkerInfo(new_id(), new_id(), "here", os.getpid(), "*", 1, "", app.clock.wall_ms())
        beat = 0.0
        while time.monotonic() < over:
            if time.monotonic() > beat:
                engine.extend(info, (), 10_000)
                engine.maintain(Rules(keep_done_max=None), 100)
                beat = time.monotonic() + 1
            claimed = engine.claim(Want(info.id, BATCH))
            engine.settle([Outcome(one.id, one.fence, Kind.DONE, "null") for one in claimed.leases])
            engine.counts()
            done["settled"] += len(claimed.leases)
        engine.depart(info.id)

    def guarded(life: object) -> None:
        try:
            life()  # type: ignore[operator]
        except WindlassError as error:
            errors.append(f"{type(error).__name__}: {error}")

    lives = [threading.Thread(target=guarded, args=(consume if n % 2 else produce,)) for n in range(threads)]
    for one in lives:
        one.start()
    for one in lives:
        one.join()
    app.close()
    print(json.dumps({"done": done, "errors": errors}))


if __name__ == "__main__":
    main()
