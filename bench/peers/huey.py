"""Huey: variants ``redis`` and ``sqlite`` (with fsync). No bulk API."""

import os
import sys
from pathlib import Path

import work
from huey import RedisHuey, SqliteHuey

if os.environ["BENCH_VARIANT"] == "redis":
    huey = RedisHuey("bench", url=os.environ["BENCH_URL"], results=False)
else:
    huey = SqliteHuey("bench", filename=f"{os.environ['BENCH_DIR']}/huey.db", fsync=True, results=False)
JOBS = {name: huey.task(name=name)(getattr(work, name)) for name in ("noop", "nap", "since")}


def one(job: str, *args: object) -> None:
    JOBS[job](*args)


def worker(slots: int) -> list[str]:
    program = str(Path(sys.executable).with_name("huey_consumer"))
    polling = ["--delay", "0.005", "--max-delay", "0.005"]  # SQLite only; Redis blocks
    return [program, "peers.huey.huey", "-k", "thread", "-w", str(slots), "--no-periodic", "--quiet", *polling]
