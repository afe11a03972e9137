"""taskiq: variants ``list`` (popped, so lost with its worker) and ``stream`` (acknowledged). No bulk API."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import work
from taskiq_redis import ListQueueBroker, RedisStreamBroker

URL = os.environ["BENCH_URL"]
broker: ListQueueBroker | RedisStreamBroker
if os.environ["BENCH_VARIANT"] == "list":
    broker = ListQueueBroker(URL)
else:
    broker = RedisStreamBroker(URL, consumer_id="0")
JOBS = {name: broker.task(task_name=name)(getattr(work, f"a{name}")) for name in ("noop", "nap", "since")}


@asynccontextmanager
async def session() -> AsyncIterator[None]:
    await broker.startup()
    try:
        yield
    finally:
        await broker.shutdown()


async def one(job: str, *args: object) -> None:
    await JOBS[job].kiq(*args)


def worker(slots: int) -> list[str]:
    room = ["--workers", "1", "--max-async-tasks", str(slots), "--max-prefetch", str(slots)]
    quiet = ["--no-parse", "--log-level", "WARNING"]
    return [sys.executable, "-m", "taskiq", "worker", "peers.taskiq:broker", *room, *quiet]
