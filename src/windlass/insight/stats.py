"""How each queue does, in figures, and how many workers it needs: what ``app.stats()`` gives.

It changes nothing. Lengths of time that leave here are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from windlass.core.model import MINUTE_MS
from windlass.core.rows import BlockedRow, Metrics, QueueRow, WorkerRow
from windlass.engines.base import Inspector
from windlass.insight.queues import QueueInfo, WorkerStatus, bounds_of, by_queue
from windlass.settings import QueueSettings, Settings

__all__ = ["QueueStats", "Stats", "advise", "measure"]

RATES: Final = ("arrived:", "claimed:")  # counts of these are asked for


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One queue in figures. Lengths are seconds, rates jobs a second over the last minute; None: not known yet.

    The store counts by the minute. Of the minute before the present one, the part that is not a minute old yet counts,
    as if its jobs had come evenly.

    ``workers_needed`` is how many worker processes of the present size keep its jobs from waiting longer than
    ``max_wait``: enough for what arrives, and to work off what waits within that time; no more than the queue's limit
    and rate can use.
    """

    name: str
    ready: int
    scheduled: int
    running: int
    latency: float
    arrival: float
    drain: float
    runtime: float | None  # of one job in its slot
    workers: int  # alive and serving it
    max_wait: float | None
    workers_needed: int | None
    limit: int | None = None  # how many may run at once
    rate: str | None = None
    held: int = 0  # claimed by a worker and about to start; not among the running
    blocked: int = 0  # due, and waiting at a gate; their time counts in the latency
    blocked_by: dict[str, int] = field(default_factory=dict)  # at which, such as circuit:stripe

    @property
    def late(self) -> bool:
        """Whether its oldest job has waited longer than it may."""
        return self.max_wait is not None and self.latency > self.max_wait


class Stats(dict[str, int]):
    """Jobs by state and totals (``total_*``), as a dictionary, and every queue in figures under ``queues``.

    ``held`` says how many of the running jobs a worker has only claimed and is about to start.
    """

    def __init__(self, counts: Mapping[str, int], queues: Iterable[QueueStats]) -> None:
        super().__init__(counts)
        self.queues = {queue.name: queue for queue in queues}

    def as_json(self) -> dict[str, object]:
        """The counts and, under ``queues``, the list of queues: what goes out as JSON."""
        return {**self, "queues": [asdict(queue) for queue in self.queues.values()]}


def rates(metrics: Metrics) -> dict[str, float]:
    """How much each series counted in a second, over the last minute. Pure."""
    found: dict[str, float] = {}
    present = metrics.now // MINUTE_MS * MINUTE_MS
    old = (metrics.now - present) / MINUTE_MS  # the part of the minute before that is more than a minute old
    for one in metrics.counts:
        share = {present: 1.0, present - MINUTE_MS: 1 - old}.get(one.at or 0, 0.0)
        found[one.series] = found.get(one.series, 0.0) + one.n * share * 1_000 / MINUTE_MS
    return found


def advise(
    rows: Iterable[QueueRow],
    metrics: Metrics,
    workers: Iterable[WorkerRow],
    settings: Mapping[str, QueueSettings],
    blocked: Iterable[BlockedRow] = (),
) -> list[QueueStats]:
    """Put together what an engine says of queues, of what came and went, of workers and of blocked jobs. Pure."""
    at = by_queue(blocked)
    speeds = rates(metrics)
    rows_alive = [row for row in workers if row.lease_left_ms > 0]
    alive = [WorkerStatus.of(row) for row in rows_alive]
    ended: dict[str, int] = {}
    busy: dict[str, int] = {}
    for work in (work for row in rows_alive for work in row.info.work):
        ended[work.queue] = ended.get(work.queue, 0) + work.ended
        busy[work.queue] = busy.get(work.queue, 0) + work.busy_ms
    found = []
    for row in rows:
        info = QueueInfo.of(row, at.get(row.name, ()))
        arrival = speeds.get(f"arrived:{row.name}", 0.0)
        drain = speeds.get(f"claimed:{row.name}", 0.0)
        runtime = busy[row.name] / ended[row.name] / 1_000 if ended.get(row.name) else None
        slots = [worker.slots_for(row.name) for worker in alive if worker.serves(row.name)]
        options = settings.get(row.name)
        max_wait = None if options is None or options.max_wait is None else options.max_wait / 1_000
        needed = None
        total = sum(slots)
        if max_wait is not None and runtime is not None and total:
            # Little's law: so many slots are busy at that rate; and a worker has so many slots.
            speed = arrival + row.ready / max_wait
            if row.rate is not None:
                speed = min(speed, row.rate.count * 1_000 / row.rate.per_ms)
            busy_slots = min(speed * runtime, math.inf if row.limit is None else row.limit)
            needed = max(1, math.ceil(busy_slots / (total / len(slots)))) if arrival or row.ready else 0
        elif max_wait is not None and not row.ready and not arrival:
            needed = 0
        found.append(
            QueueStats(
                row.name, row.ready, row.scheduled, row.running, info.latency,
                round(arrival, 3), round(drain, 3), runtime, len(slots), max_wait, needed, row.limit,
                info.rate, row.held, info.blocked, info.blocked_by,
            )
        )  # fmt: skip
    return found


def measure(engine: Inspector, settings: Settings) -> Stats:
    """Ask an engine and put it together. *Blocking.*"""
    rows, blocked = engine.queues(bounds_of(settings)), engine.blocked()
    queues = advise(rows, engine.metrics(RATES, 1), engine.workers(), settings.queues, blocked)
    return Stats(engine.counts(), queues)
