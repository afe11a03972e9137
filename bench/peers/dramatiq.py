"""Dramatiq on Redis. No bulk API: a group sends one message after the other."""

import os
import sys

import dramatiq
import work
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_URL"]))
JOBS = {name: dramatiq.actor(getattr(work, name), actor_name=name) for name in ("noop", "nap", "since")}


def one(job: str, *args: object) -> None:
    JOBS[job].send(*args)


def worker(slots: int) -> list[str]:
    os.environ.update(dramatiq_queue_prefetch="1000")
    return [sys.executable, "-m", "dramatiq", "peers.dramatiq", "--processes", "1", "--threads", str(slots)]
