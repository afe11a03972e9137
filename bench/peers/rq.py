"""RQ. One worker runs one job at a time; ``SimpleWorker`` runs it without a fork."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from redis import Redis
from rq import Queue

queue = Queue("bench", connection=Redis.from_url(os.environ["BENCH_URL"]), serializer="json")


def one(job: str, *args: object) -> None:
    queue.enqueue(f"work.{job}", args=args, result_ttl=0)


def many(job: str, rows: Sequence[tuple[object, ...]]) -> None:
    queue.enqueue_many([Queue.prepare_data(f"work.{job}", args=row, result_ttl=0) for row in rows])


def worker(slots: int) -> list[str]:
    program = str(Path(sys.executable).with_name("rq"))
    url = os.environ["BENCH_URL"]
    return [program, "worker", "--worker-class", "rq.SimpleWorker", "-S", "json", "--quiet", "--url", url, "bench"]
