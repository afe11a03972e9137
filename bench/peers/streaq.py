"""streaq, with uvloop and without results. Its bulk API is a pipeline."""

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import work
from streaq import Worker

queue = Worker(
    redis_url=os.environ["BENCH_URL"],
    concurrency=int(os.environ.get("BENCH_WORKER_SLOTS", "16")),
    anyio_kwargs={"use_uvloop": True},
)
JOBS = {name: queue.task(name=name, ttl=0, silent=True)(getattr(work, f"a{name}")) for name in ("noop", "nap", "since")}


@asynccontextmanager
async def session() -> AsyncIterator[None]:
    async with queue:
        yield


async def one(job: str, *args: object) -> None:
    await JOBS[job].enqueue(*args)


async def many(job: str, rows: Sequence[tuple[object, ...]]) -> None:
    task = JOBS[job]
    await queue.enqueue_many([task.enqueue(*row) for row in rows])


def worker(slots: int) -> list[str]:
    os.environ["BENCH_WORKER_SLOTS"] = str(slots)
    return [sys.executable, "-c", "from peers.streaq import queue; queue.run_sync()"]
