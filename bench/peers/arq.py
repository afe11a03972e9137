"""arq. No bulk API; its worker polls."""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import work
from arq import ArqRedis, create_pool
from arq.connections import RedisSettings

SETTINGS = RedisSettings.from_dsn(os.environ["BENCH_URL"])
QUIET = {"version": 1, "disable_existing_loggers": True}
pools: list[ArqRedis] = []


async def noop(ctx: dict[str, Any], number: int, text: str = "") -> None:
    await work.anoop(number, text)


async def nap(ctx: dict[str, Any], number: int) -> None:
    await work.anap(number)


async def since(ctx: dict[str, Any], number: int, sent: int) -> None:
    await work.asince(number, sent)


class Worker:
    functions = (noop, nap, since)
    redis_settings = SETTINGS
    max_jobs = int(os.environ.get("BENCH_WORKER_SLOTS", "10"))
    poll_delay = 0.005
    keep_result = 0
    log_results = False


@asynccontextmanager
async def session() -> AsyncIterator[None]:
    pools.append(await create_pool(SETTINGS))
    try:
        yield
    finally:
        await pools.pop().aclose()


async def one(job: str, *args: object) -> None:
    await pools[-1].enqueue_job(job, *args)


def worker(slots: int) -> list[str]:
    os.environ["BENCH_WORKER_SLOTS"] = str(slots)
    program = str(Path(sys.executable).with_name("arq"))
    return [program, "peers.arq.Worker", "--custom-log-dict", "peers.arq.QUIET"]
