"""The heart: renews the worker's lease, learns what was lost or cancelled, and knows when to stop believing in itself.

One thread that does nothing else. The lease is measured from before the last renewal was sent, on the boot clock, so a
process that was stopped and woken finds out before it writes anything. What follows from its age:

    below 2/3 of the lease   all is well
    from 2/3                 stop claiming
    from 1 lease             settle only what the store still takes; what it cannot be asked about is dropped
    from 2 leases            end the process

The store checks every fence anyway; this only keeps a worker from useless work, and from running beside its successor
longer than it must.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import IntEnum

from windlass.core.clock import Clock
from windlass.core.errors import EngineError
from windlass.core.foreign import start_thread
from windlass.core.work import Heartbeat, LeaseRef, WorkerInfo
from windlass.engines.base import Engine
from windlass.logs import Log
from windlass.worker.table import SlotTable

__all__ = ["Heart", "Trust"]

log = Log("windlass.worker")


class Trust(IntEnum):
    """How far a worker may go on the lease it has."""

    FULL = 0
    NO_CLAIMS = 1
    NO_SETTLES = 2
    NONE = 3


class Heart:
    """Keeps one worker's lease alive."""

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        worker: Callable[[], WorkerInfo],
        *,
        lease_ms: int,
        renew_ms: int,
        table: SlotTable,
        leases: Callable[[], list[LeaseRef]],
        on_beat: Callable[[Heartbeat], None],
        on_end: Callable[[], None],
    ) -> None:
        """``worker`` is asked at every beat what to say."""
        self._engine = engine
        self._clock = clock
        self._worker = worker
        self._lease_ms = lease_ms
        self._renew_ms = renew_ms
        self._table = table
        self._leases = leases
        self._on_beat = on_beat
        self._on_end = on_end
        self._renewed = clock.boot_ms()
        self._now = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Register the worker, then keep beating. Raises EngineError when the store is away."""
        self._beat()
        self._thread = start_thread(self._run, "windlass-heart")

    def stop(self) -> None:
        """End the thread; the lease is left as it is."""
        self._closed = True
        self._now.set()
        if self._thread is not None:
            self._thread.join(5)

    def beat_now(self) -> None:
        """Renew at once: the store said that it does not know this worker."""
        self._now.set()

    def trust(self) -> Trust:
        """How far the present lease carries."""
        age = self._clock.boot_ms() - max(self._renewed, self._table.renewed_at)
        if age * 3 < self._lease_ms * 2:
            return Trust.FULL
        if age < self._lease_ms:
            return Trust.NO_CLAIMS
        return Trust.NO_SETTLES if age < 2 * self._lease_ms else Trust.NONE

    def _run(self) -> None:
        wait = self._renew_ms
        while True:
            try:
                self._now.wait(wait / 1000)
                self._now.clear()
                if self._closed:
                    return
                self._beat()
                wait = self._renew_ms
            except BaseException as error:
                wait = max(1, min(1_000, self._renew_ms // 4))
                trace = None if isinstance(error, EngineError) else error
                log.warning("worker %s could not renew its lease: %s", self._worker().id, error, exc_info=trace)
            if self.trust() is Trust.NONE:
                log.critical("worker %s has been cut off for two leases; it ends", self._worker().id)
                self._on_end()
                return

    def _beat(self) -> None:
        self._table.beat(self._clock.boot_ms())
        sent = self._clock.boot_ms()
        answer = self._engine.extend(self._worker(), self._leases(), self._lease_ms)
        self._on_beat(answer)  # first what was lost: nobody may trust the new lease for an old claim
        self._renewed = sent
