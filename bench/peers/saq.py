"""SAQ on Redis. No bulk API."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import work
from saq import Queue

NAMES = {"noop": ("number", "text"), "nap": ("number",), "since": ("number", "sent")}
queue = Queue.from_url(os.environ["BENCH_URL"])


async def noop(ctx: dict[str, Any], *, number: int, text: str = "") -> None:
    await work.anoop(number, text)


async def nap(ctx: dict[str, Any], *, number: int) -> None:
    await work.anap(number)


async def since(ctx: dict[str, Any], *, number: int, sent: int) -> None:
    await work.asince(number, sent)


settings = {
    "queue": queue,
    "functions": [noop, nap, since],
    "concurrency": int(os.environ.get("BENCH_WORKER_SLOTS", "10")),
}


@asynccontextmanager
async def session() -> AsyncIterator[None]:
    await queue.connect()
    try:
        yield
    finally:
        await queue.disconnect()


async def one(job: str, *args: object) -> None:
    await queue.enqueue(job, ttl=-1, **dict(zip(NAMES[job], args, strict=False)))


def worker(slots: int) -> list[str]:
    os.environ["BENCH_WORKER_SLOTS"] = str(slots)
    program = str(Path(sys.executable).with_name("saq"))
    return [program, "peers.saq.settings", "--quiet"]
