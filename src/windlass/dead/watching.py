"""A redrive as people watch it: how far it is, until it is over, and how it is stopped.

What it does is an operation of ``redrive``. Invariant: this only looks and asks; it moves no job itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from windlass.core.aio import hop
from windlass.core.clock import from_ms
from windlass.core.spelling import spelled
from windlass.core.units import Duration, duration_ms
from windlass.dead import redrive as operations
from windlass.dead.redrive import Operation
from windlass.engines.base import Store

__all__ = ["Redrive", "RedriveInfo", "info_of"]

LOOK: Final = 0.25  # seconds between two looks of ``wait``


@dataclass(frozen=True, slots=True)
class RedriveInfo:
    """A redrive at one moment. ``state`` is running, done or stopped; ``rate`` is jobs a second, None for at once."""

    id: str
    total: int
    done: int
    state: str
    rate: float | None
    started_at: datetime


@spelled
class Redrive:
    """A redrive under way, or over. ``total`` is how many jobs there were to move when it began. *Thread-safe.*"""

    def __init__(self, info: RedriveInfo, engine: Callable[[], Store]) -> None:
        self.id = info.id
        self.total = info.total
        self._last = info
        self._engine = engine

    def __repr__(self) -> str:
        return f"<Redrive {self.id} of {self.total}>"

    def info(self) -> RedriveInfo:
        """Give it as it stands. *Blocking.* A durable one can be asked about for a day after its end."""
        if self._last.rate is not None and self._last.state == operations.RUNNING:
            found = operations.find(self._engine(), [operations.PREFIX + self.id])
            if found:
                self._last = info_of(found[0][1])
        return self._last

    async def ainfo(self) -> RedriveInfo:
        """Give it as it stands; see ``info``."""
        return await hop(self.info)

    @property
    def done(self) -> int:
        """How many jobs were moved so far. *Blocking*; async code asks ``ainfo``."""
        return self.info().done

    @property
    def state(self) -> str:
        """``running``, ``done`` or ``stopped``. *Blocking*; async code asks ``ainfo``."""
        return self.info().state

    def stop(self) -> None:
        """Move no more; what was moved stays moved. *Idempotent, blocking.*"""
        if self._last.rate is not None:
            operations.stop(self._engine(), self.id)

    async def astop(self) -> None:
        """Move no more; see ``stop``."""
        await hop(self.stop)

    def wait(self, timeout: Duration | None = None) -> bool:
        """Wait until it is over; false when ``timeout`` passes first. *Blocking.* A worker has to be there to do it."""
        deadline = None if timeout is None else time.monotonic() + duration_ms(timeout, "timeout") / 1_000
        pause = threading.Event()
        while self.info().state == operations.RUNNING:
            left = LOOK if deadline is None else min(LOOK, deadline - time.monotonic())
            if left <= 0:
                return False
            pause.wait(left)
        return True

    async def await_(self, timeout: Duration | None = None) -> bool:
        """Wait until it is over without blocking the event loop; see ``wait``."""
        return await hop(lambda: self.wait(timeout))


def info_of(operation: Operation) -> RedriveInfo:
    """What a stored operation says of its redrive."""
    done = operation.done + len(operation.pending)
    started = from_ms(operation.started_at)
    return RedriveInfo(operation.id, operation.total, done, operation.state, operation.rate, started)
