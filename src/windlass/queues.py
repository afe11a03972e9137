"""Queues and workers as people see them, and what people may do to a queue.

Must not claim or settle. Invariants: lengths of time that leave here are seconds, instants are aware datetimes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from windlass.clock import Clock, from_ms, to_ms
from windlass.engines.base import Inspector
from windlass.errors import ConfigError
from windlass.handle import hop
from windlass.model import QueueRow, WorkerRow
from windlass.units import check_name, duration_ms

if TYPE_CHECKING:
    from windlass.definition import Duration

__all__ = ["Queue", "QueueInfo", "WorkerStatus"]

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

    @classmethod
    def of(cls, row: QueueRow) -> QueueInfo:
        """Turn what an engine says into what people see."""
        until = None if row.paused_until is None else from_ms(row.paused_until)
        latency = row.latency_ms / 1_000
        return cls(row.name, row.ready, row.scheduled, row.running, latency, row.paused, row.paused_reason, until)


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

    @property
    def alive(self) -> bool:
        """Whether its lease still runs."""
        return self.lease_left > 0

    def serves(self, queue: str) -> bool:
        """Whether it claims from this queue."""
        served = (part.strip() for part in self.queues.replace(" ", ",").split(","))
        return any(part in ("*", queue) or part.startswith((f"{queue}=", f"{queue}:")) for part in served)

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
        )


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

    def pause(self, reason: str | None = None, until: Duration | datetime | None = None) -> None:
        """Let no job of the queue start, until ``resume`` or ``until`` (duration or aware datetime). *Idempotent.*"""
        self._engine.pause(self.name, reason, self._instant(until))

    async def apause(self, reason: str | None = None, until: Duration | datetime | None = None) -> None:
        """Let no job of the queue start; see ``pause``."""
        await hop(lambda: self.pause(reason, until))

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
        if not isinstance(until, datetime):
            return self._clock.wall_ms() + duration_ms(until, f"pause of queue {self.name!r}: until")
        if until.utcoffset() is None:
            raise ConfigError(f"pause of queue {self.name!r}: until is {until!r}, which has no time zone; give it one")
        return to_ms(until)
