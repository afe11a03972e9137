"""Queues and workers as people see them, and what people may do to a queue.

Must not claim or settle. Invariants: lengths of time that leave here are seconds, instants are aware datetimes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import nlargest
from typing import Final

from windlass.core import caps
from windlass.core.aio import hop
from windlass.core.clock import Clock, from_ms
from windlass.core.errors import ConfigError
from windlass.core.history import clean_reason
from windlass.core.patterns import matches
from windlass.core.rows import Action, BlockedRow, Pause, QueueChange, QueueRow, Waiting, WorkerRow
from windlass.core.spelling import spelled
from windlass.core.units import Duration, check_name, count_per, duration_ms, format_rate, instant_ms, shown
from windlass.core.work import PoolInfo, QueueBound, RateBound
from windlass.engines.base import Inspector
from windlass.settings import Settings

__all__ = [
    "BLOCKED_SHOWN",
    "OTHER_JOBS",
    "Cleared",
    "Queue",
    "QueueInfo",
    "WorkerStatus",
    "bounds_of",
    "by_queue",
    "read_queues",
    "this_person",
]

OTHER_JOBS: Final = "other jobs"  # what stands for all joins where gates are counted
BLOCKED_SHOWN: Final = 10  # gates of a queue
CLEAR_STEP: Final = 10_000  # jobs per write, so that a long clear does not hold up claims


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """One queue at one moment. ``latency`` is how long the job at its head has been due, in seconds.

    ``blocked`` jobs wait at a gate; ``blocked_by`` says how many at which, such as ``circuit:stripe``, the ten at which
    most wait, or ``other jobs``. Their time counts in ``latency``, but for those that wait for other jobs.
    ``held`` jobs have been claimed by a worker that is about to start them; they are not among the ``running``.
    ``limit`` is how many of its jobs may run at once and ``rate`` how many may start in a time, such as ``"100/m"``,
    over all workers: what was set at run time, or else what the settings say. ``started`` of ``rate`` have started.
    """

    name: str
    ready: int
    scheduled: int
    running: int
    latency: float
    paused: bool
    paused_reason: str | None = None
    paused_until: datetime | None = None
    paused_by: str | None = None
    limit: int | None = None
    rate: str | None = None
    started: int = 0
    held: int = 0
    blocked: int = 0
    blocked_by: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, row: QueueRow, blocked: Sequence[BlockedRow] = ()) -> QueueInfo:
        """Turn what an engine says of a queue into what people see."""
        until = None if row.paused_until is None else from_ms(row.paused_until)
        latency = max([row.latency_ms, *(one.due_ms for one in blocked)]) / 1_000
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
            row.limit,
            None if row.rate is None else format_rate(row.rate.count, row.rate.per_ms),
            row.started,
            row.held,
            sum(one.jobs for one in blocked),
            most_blocked(blocked),
        )


def most_blocked(rows: Sequence[BlockedRow]) -> dict[str, int]:
    """How many jobs wait at each gate: those at which most do."""
    return {row.gate: row.jobs for row in nlargest(BLOCKED_SHOWN, rows, key=lambda row: row.jobs)}


def by_queue(rows: Iterable[BlockedRow]) -> dict[str, list[BlockedRow]]:
    """Where jobs are blocked, by the name of their queue.

    Those that wait for other jobs stand together: each may have a join of its own, and none is due before that decides.
    """
    found: dict[str, list[BlockedRow]] = {}
    waiting: dict[str, int] = {}
    for row in rows:
        if row.gate.startswith("join:"):
            waiting[row.queue] = waiting.get(row.queue, 0) + row.jobs
        else:
            found.setdefault(row.queue, []).append(row)
    for queue, jobs in waiting.items():
        found.setdefault(queue, []).append(BlockedRow(queue, OTHER_JOBS, jobs, 0))
    return found


def read_queues(engine: Inspector, bounds: Sequence[QueueBound]) -> list[QueueInfo]:
    """Every queue as it stands. *Blocking.*"""
    blocked = by_queue(engine.blocked())
    return [QueueInfo.of(row, blocked.get(row.name, ())) for row in engine.queues(bounds)]


class Cleared(int):
    """How many jobs were deleted. ``held`` more had been claimed by workers that are about to start them."""

    held: int

    def __new__(cls, deleted: int, held: int) -> Cleared:
        made = super().__new__(cls, deleted)
        made.held = held
        return made


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One worker process at one moment. ``lease_left`` is seconds; below zero it counts as gone and waits to be reaped.

    ``pid`` is its own; ``supervisor_pid`` is that of its ``windlass worker``, the one to signal.
    """

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
    supervisor_pid: int | None = None
    trouble: str = ""  # what keeps it from doing its work; empty: nothing
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
            supervisor_pid=info.supervisor_pid,
            trouble=info.trouble,
            asked=row.control,
        )


def bounds_of(settings: Settings) -> tuple[QueueBound, ...]:
    """What the settings hold queues to."""
    return tuple(
        QueueBound(name, one.limit, None if one.rate is None else RateBound(*count_per(one.rate, "rate")))
        for name, one in settings.queues.items()
        if one.limit is not None or one.rate is not None
    )


def this_person() -> str:
    """Who and where this process is, for what others will want to know of a pause."""
    import getpass  # late: they are for people, who ask seldom
    import socket

    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = "unknown"
    return f"{name}@{socket.gethostname()}"


@spelled
class Queue:
    """One queue by name. *Thread-safe, blocking*; the ``a`` twins do not block the event loop."""

    def __init__(
        self, name: str, engine: Callable[[], Inspector], clock: Clock, bounds: Sequence[QueueBound] = ()
    ) -> None:
        """``bounds`` are those of the settings."""
        self.name = check_name(name, "queue")
        self._engine = engine
        self._clock = clock
        self._bounds = bounds

    def __repr__(self) -> str:
        return f"<Queue {self.name}>"

    def info(self) -> QueueInfo:
        """Give the queue as it stands; one that nothing was ever put into is empty."""
        for info in read_queues(self._engine(), self._bounds):
            if info.name == self.name:
                return info
        bound = next((one for one in self._bounds if one.name == self.name), QueueBound(self.name))
        return QueueInfo.of(QueueRow(self.name, 0, 0, 0, 0, paused=False, limit=bound.limit, rate=bound.rate))

    async def ainfo(self) -> QueueInfo:
        """Give the queue as it stands; see ``info``."""
        return await hop(self.info)

    @property
    def size(self) -> int:
        """How many jobs are due and wait: those that are ready, and those that are blocked at a gate. *Blocking*."""
        info = self.info()
        return info.ready + info.blocked

    @property
    def latency(self) -> float:
        """Seconds that the job at the head has been due, ready or blocked. *Blocking*; async code asks ``ainfo``."""
        return self.info().latency

    def pause(self, reason: str | None = None, until: Duration | datetime | None = None, by: str | None = None) -> None:
        """Let no job of the queue start, until ``resume`` or ``until`` (duration or aware datetime). *Idempotent.*

        ``by`` says who asks; the user and host of this process when left out.
        """
        words = {"reason": reason, "by": by or this_person()}
        for what, text in words.items():
            if text is not None and not isinstance(text, str):
                raise ConfigError(f"pause of queue {self.name!r}: {what} is {shown(text)}; give text")
        until_ms = self._instant(until)
        self._set(QueueChange(pause=Pause(clean_reason(reason), until_ms, clean_reason(words["by"]))))

    async def apause(
        self, reason: str | None = None, until: Duration | datetime | None = None, by: str | None = None
    ) -> None:
        """Let no job of the queue start; see ``pause``."""
        await hop(lambda: self.pause(reason, until, by))

    def resume(self) -> None:
        """Lift a pause. *Idempotent.*"""
        self._set(QueueChange(pause=None))

    async def aresume(self) -> None:
        """Lift a pause; see ``resume``."""
        await hop(self.resume)

    def limit(self, n: int | None) -> None:
        """Let at most ``n`` jobs of the queue run at once, over all workers and from the next claim on. *Idempotent.*

        Jobs that run already count and are not stopped. It goes before the ``limit`` of the settings, which counts
        again with None. Raises ConfigError for n below 1: to let none run, ``pause`` the queue.
        """
        if n is not None and (isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= caps.COUNT):
            raise ConfigError(
                f"limit of queue {self.name!r} is {shown(n)}; give a whole number from 1 to {caps.COUNT:,}, or None to "
                "lift it; to let no job run, pause the queue"
            )
        self._set(QueueChange(limit=n))

    async def alimit(self, n: int | None) -> None:
        """Let at most ``n`` jobs of the queue run at once; see ``limit``."""
        await hop(lambda: self.limit(n))

    def rate(self, rate: str | None) -> None:
        """Let at most so many jobs of the queue start in any window, such as ``"100/m"``, over all workers.

        Counts from now on; what started before is forgotten unless the rate is the same. It goes before the ``rate`` of
        the settings, which counts again with None. *Idempotent.* Raises ConfigError.
        """
        bound = None if rate is None else RateBound(*count_per(rate, f"rate of queue {self.name!r} is {rate!r}"))
        self._set(QueueChange(rate=bound))

    async def arate(self, rate: str | None) -> None:
        """Let at most so many jobs of the queue start in any window; see ``rate``."""
        await hop(lambda: self.rate(rate))

    def clear(self) -> Cleared:
        """Delete the waiting jobs of the queue and give how many; those that run or are held by a worker stay.

        The number has an attribute ``held``: how many jobs are left that workers hold and are about to start.
        """
        total = 0
        while gone := self._engine().transition(Action.DELETE, Waiting(self.name, CLEAR_STEP)):
            total += len(gone)
        return Cleared(total, self.info().held)

    async def aclear(self) -> Cleared:
        """Delete the waiting jobs of the queue; see ``clear``."""
        return await hop(self.clear)

    def _set(self, change: QueueChange) -> None:
        self._engine().set_queue(self.name, change)

    def _instant(self, until: int | float | str | timedelta | datetime | None) -> int | None:
        if until is None:
            return None
        where, now = f"pause of queue {self.name!r}: until", self._clock.wall_ms()
        if not isinstance(until, datetime):
            at = now + duration_ms(until, where)
        else:
            at = instant_ms(until, where)
        if at <= now:
            raise ConfigError(f"{where} is {until!r}, which has passed; give a later time")
        return at
