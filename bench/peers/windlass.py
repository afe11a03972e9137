"""windlass: variants ``sqlite`` and ``redis``, and either with ``-async``. Every setting is the default."""

import os
import sys
from collections.abc import Sequence

import work

from windlass import Windlass

STORE, _, KIND = os.environ["BENCH_VARIANT"].partition("-")

app = Windlass(os.environ["BENCH_URL"] if STORE == "redis" else f"sqlite:///{os.environ['BENCH_DIR']}/windlass.db")
register = app.job(queue="bench")
if KIND == "async":
    JOBS = {"noop": register(work.anoop), "nap": register(work.anap), "since": register(work.asince)}
else:
    JOBS = {"noop": register(work.noop), "nap": register(work.nap), "since": register(work.since)}


def one(job: str, *args: object) -> None:
    JOBS[job].enqueue(*args)


def many(job: str, rows: Sequence[tuple[object, ...]]) -> None:
    bind = JOBS[job].bind
    app.enqueue_many([bind(*row) for row in rows])


def worker(slots: int) -> list[str]:
    room = "--async-slots" if KIND == "async" else "--threads"
    return [sys.executable, "-m", "windlass", "-A", "peers.windlass:app", "worker", room, str(slots)]
