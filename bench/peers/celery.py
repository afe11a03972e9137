"""Celery on Redis. No bulk API: a group sends one message after the other."""

import os
import sys

import work
from celery import Celery

app = Celery(broker=os.environ["BENCH_URL"])
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=128,
    worker_enable_remote_control=False,
    worker_disable_rate_limits=True,
    broker_connection_retry_on_startup=True,
)
JOBS = {name: app.task(name=name)(getattr(work, name)) for name in ("noop", "nap", "since")}


def one(job: str, *args: object) -> None:
    JOBS[job].delay(*args)


def worker(slots: int) -> list[str]:
    pool = "solo" if slots == 1 else "threads"
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    return [sys.executable, "-m", "celery", "-A", "peers.celery", "worker", "-P", pool, "-c", str(slots), *quiet]
