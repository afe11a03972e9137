"""Queues and workers as people see them, what people may do to a queue, and how many workers it needs.

Must not claim or settle. Invariants: lengths of time that leave here are seconds, instants are aware datetimes.
"""

from __future__ import annotations

import getpass
import math
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from windlass.clock import Clock, from_ms, to_ms
from windlass.engines.base import Inspector
from windlass.errors import ConfigError
from windlass.handle import hop
from windlass.model import PoolInfo, QueueFlow, QueueRow, WorkerRow
from windlass.patterns import matches
from windlass.settings import QueueSettings
from windlass.units import check_name, duration_ms

if TYPE_CHECKING:
    from windlass.definition import Duration

__all__ = ["FLOW_WINDOW", "Queue", "QueueInfo", "QueueStats", "Stats", "WorkerStatus", "advise", "this_person"]

FLOW_WINDOW: Final = 60_000  # ms over which rates are taken
CLEAR_STEP: Final = 10_000  # jobs per write, so that a long clear does not hold up claims


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """One queue at one moment. ``latency`` is how long the job at its head has been due, in seconds."""

    name: str
    ready: int
    scheduled: int
    running: int
    latency: float
    paused: bool
    paused_reason: str | None = None
    paused_until: datetime | None = None
    paused_by: str | None = None

    @classmethod
    def of(cls, row: QueueRow) -> QueueInfo:
        """Turn what an engine says into what people see."""
        until = None if row.paused_until is None else from_ms(row.paused_until)
        latency = row.latency_ms / 1_000
        return cls(
            row.name,
            row.ready,
            row.scheduled,
            row.running,
            latency,
            row.paused,
            row.paused_reason,
            until,
            row.paused_by,
        )


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker at one moment. ``lease_left`` is seconds; below zero it counts as gone and waits to be reaped."""

    id: str
    group: str
    host: str
    pid: int
    queues: str
    slots: int
    version: str
    started_at: datetime
    running: int
    beat_at: datetime
    lease_left: float
    pools: tuple[PoolInfo, ...] = ()
    asked: tuple[str, ...] = ()  # what somebody asked of it through the store: quiet, stop

    @property
    def alive(self) -> bool:
        """Whether its lease still runs."""
        return self.lease_left > 0

    def serves(self, queue: str) -> bool:
        """Whether it claims from this queue."""
        if not self.pools:  # one of a version that had none
            return matches([part.partition("=")[0] for part in self.queues.replace(",", " ").split()], queue)
        return self.slots_for(queue) > 0

    def slots_for(self, queue: str) -> int:
        """How many jobs of this queue it can run at once."""
        return sum(
            max(pool.threads, pool.async_slots)
            for pool in self.pools
            if queue not in pool.without and matches(pool.serves, queue)
        )

    @classmethod
    def of(cls, row: WorkerRow) -> WorkerStatus:
        """Turn what an engine says into what people see."""
        info = row.info
        return cls(
            id=info.id,
            group=info.group,
            host=info.host,
            pid=info.pid,
            queues=info.queues,
            slots=info.slots,
            version=info.version,
            started_at=from_ms(info.started_at),
            running=row.running,
            beat_at=from_ms(row.beat_at),
            lease_left=row.lease_left_ms / 1_000,
            pools=info.pools,
            asked=row.control,
        )


@dataclass(frozen=True, slots=True)
class QueueStats:
    """One queue in figures. Lengths are seconds, rates jobs a second over the last minute; None: not known yet.

    ``workers_needed`` is how many worker processes of the present size keep its jobs from waiting longer than
    ``max_wait``: enough for what arrives, and to work off what waits within that time.
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

    @property
    def late(self) -> bool:
        """Whether its oldest job has waited longer than it may."""
        return self.max_wait is not None and self.latency > self.max_wait


class Stats(dict[str, int]):
    """Jobs by state and totals (``total_*``), as a dictionary, and every queue in figures under ``queues``."""

    def __init__(self, counts: Mapping[str, int], queues: Iterable[QueueStats]) -> None:
        super().__init__(counts)
        self.queues = {queue.name: queue for queue in queues}


def advise(
    rows: Iterable[QueueRow],
    flows: Iterable[QueueFlow],
    workers: Iterable[WorkerRow],
    settings: Mapping[str, QueueSettings],
) -> list[QueueStats]:
    """Put together what an engine says of queues, of what came and went, and of workers. Pure."""
    flow = {one.name: one for one in flows}
    rows_alive = [row for row in workers if row.lease_left_ms > 0]
    alive = [WorkerStatus.of(row) for row in rows_alive]
    ended: dict[str, int] = {}
    busy: dict[str, int] = {}
    for work in (work for row in rows_alive for work in row.info.work):
        ended[work.queue] = ended.get(work.queue, 0) + work.ended
        busy[work.queue] = busy.get(work.queue, 0) + work.busy_ms
    found = []
    for row in rows:
        went = flow.get(row.name)
        arrival = went.arrived * 1_000 / went.span_ms if went else 0.0
        drain = went.claimed * 1_000 / went.span_ms if went else 0.0
        runtime = busy[row.name] / ended[row.name] / 1_000 if ended.get(row.name) else None
        slots = [worker.slots_for(row.name) for worker in alive if worker.serves(row.name)]
        options = settings.get(row.name)
        max_wait = None if options is None or options.max_wait is None else options.max_wait / 1_000
        needed = None
        total = sum(slots)
        if max_wait is not None and runtime is not None and total:
            # Little's law: so many slots are busy at that rate; and a worker has so many slots.
            busy_slots = (arrival + row.ready / max_wait) * runtime
            needed = max(1, math.ceil(busy_slots / (total / len(slots)))) if arrival or row.ready else 0
        elif max_wait is not None and not row.ready and not arrival:
            needed = 0
        found.append(
            QueueStats(
                row.name, row.ready, row.scheduled, row.running, row.latency_ms / 1_000,
                round(arrival, 3), round(drain, 3), runtime, len(slots), max_wait, needed,
            )
        )  # fmt: skip
    return found


def this_person() -> str:
    """Who and where this process is, for what others will want to know of a pause."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = "unknown"
    return f"{name}@{socket.gethostname()}"


class Queue:
    """One queue by name. *Thread-safe, blocking*; the ``a`` twins do not block the event loop."""

    def __init__(self, name: str, engine: Inspector, clock: Clock) -> None:
        self.name = check_name(name, "queue")
        self._engine = engine
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Queue {self.name}>"

    def info(self) -> QueueInfo:
        """Give the queue as it stands; one that nothing was ever put into is empty."""
        for row in self._engine.queues():
            if row.name == self.name:
                return QueueInfo.of(row)
        return QueueInfo(self.name, 0, 0, 0, 0.0, paused=False)

    async def ainfo(self) -> QueueInfo:
        """Give the queue as it stands; see ``info``."""
        return await hop(self.info)

    @property
    def size(self) -> int:
        """How many jobs are ready. *Blocking*; async code asks ``ainfo``."""
        return self.info().ready

    @property
    def latency(self) -> float:
        """Seconds that the job at the head has been due. *Blocking*; async code asks ``ainfo``."""
        return self.info().latency

    def pause(self, reason: str | None = None, until: Duration | datetime | None = None, by: str | None = None) -> None:
        """Let no job of the queue start, until ``resume`` or ``until`` (duration or aware datetime). *Idempotent.*

        ``by`` says who asks; the user and host of this process when left out.
        """
        self._engine.pause(self.name, reason, self._instant(until), by or this_person())

    async def apause(
        self, reason: str | None = None, until: Duration | datetime | None = None, by: str | None = None
    ) -> None:
        """Let no job of the queue start; see ``pause``."""
        await hop(lambda: self.pause(reason, until, by))

    def resume(self) -> None:
        """Lift a pause. *Idempotent.*"""
        self._engine.resume(self.name)

    async def aresume(self) -> None:
        """Lift a pause; see ``resume``."""
        await hop(self.resume)

    def clear(self) -> int:
        """Delete the waiting jobs of the queue and give how many; running ones stay."""
        total = 0
        while gone := self._engine.clear(self.name, CLEAR_STEP):
            total += gone
        return total

    async def aclear(self) -> int:
        """Delete the waiting jobs of the queue; see ``clear``."""
        return await hop(self.clear)

    def _instant(self, until: int | float | str | timedelta | datetime | None) -> int | None:
        if until is None:
            return None
        where, now = f"pause of queue {self.name!r}: until", self._clock.wall_ms()
        if not isinstance(until, datetime):
            at = now + duration_ms(until, where)
        elif until.utcoffset() is None:
            raise ConfigError(f"{where} is {until!r}, which has no time zone; give it one")
        else:
            at = to_ms(until)
        if at <= now:
            raise ConfigError(f"{where} is {until!r}, which is over, so nothing would be paused; give a later one")
        return at
