"""The pump: the one thread of a worker that talks to the store about jobs.

Each stroke settles what has ended and claims what there is room for, in one exchange, so a busy worker pays one commit
for hundreds of jobs and an idle one sleeps in ``engine.wait``. It must never run a job, and nothing else may claim or
settle.

How much to claim. Free slots always, and beyond them no more than ``AHEAD`` seconds of work at the pace of the last
strokes: enough that no thread waits for a stroke, and never a hoard. Runs that wait here for ``HOARD_MAX`` without any
of them starting go back to the store, where another worker may take them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

from windlass.engines.base import Store
from windlass.errors import EngineError
from windlass.model import Claimed, Outcome, Progress, Settled, Want
from windlass.settings import Settings
from windlass.worker.heart import Trust
from windlass.worker.queues import QueuePolicy
from windlass.worker.settler import Settler

__all__ = ["Pump", "Slots"]

log = logging.getLogger("windlass.worker")

AHEAD = 0.1  # seconds of work to hold beyond the free slots
AHEAD_MAX = 1_000  # and never more jobs than this
HOARD_MAX = 1.0  # seconds that claimed work may wait here while nothing starts
PACE_TIME = 0.02  # seconds, or
PACE_COUNT = 200  # jobs, after which the pace is taken anew; half of it is what it was before
LATE_MS = 25  # what a claimed job may take until it starts, when it has a slot
OUTAGE_PAUSE = 0.5  # seconds between tries while the store is away


class Slots(Protocol):
    """What the pump asks of its worker."""

    @property
    def room(self) -> int:
        """Slots that are free and have nothing waiting for them."""
        ...

    @property
    def waiting(self) -> int:
        """Claimed runs that have not started."""
        ...

    @property
    def held(self) -> int:
        """Claimed runs that have not ended."""
        ...

    @property
    def last_start(self) -> float:
        """When a run last started, on the monotonic clock."""
        ...

    def trust(self) -> Trust: ...

    def take(self, claimed: Claimed) -> None:
        """Start the leases, cancel what is to be cancelled."""
        ...

    def settled(self, outcomes: Sequence[Outcome], answers: Sequence[Settled]) -> None: ...

    def dropped(self, outcomes: Sequence[Outcome]) -> None:
        """These outcomes can never be settled: the lease has ended."""
        ...

    def give_back(self) -> None:
        """Put the outcomes of runs that have not started into the settler."""
        ...

    def notes(self) -> list[Progress]: ...


class Pump:
    """Claims and settles for one worker."""

    def __init__(
        self,
        engine: Store,
        settings: Settings,
        worker: str,
        queues: QueuePolicy,
        settler: Settler,
        slots: Slots,
        rng: Random,
        *,
        alone: bool = False,
        when_empty: Callable[[], bool] | None = None,
    ) -> None:
        """``when_empty`` (burst mode) is asked when nothing is held and nothing was found; true ends the claiming."""
        self._engine = engine
        self._settings = settings
        self._worker = worker
        self._queues = queues
        self._settler = settler
        self._slots = slots
        self._rng = rng
        self._alone = alone
        self._when_empty = when_empty
        self._claiming = True
        self._closed = False
        self._hungry = True  # the store may have work for us
        self._poll = settings.poll_min / 1000
        self._look_at = 0.0  # when to look again without a wake-up
        self._pace = 0.0  # jobs settled a second, smoothed
        self._ended = 0  # jobs since the pace was taken
        self._pace_at = time.monotonic()
        self._away_since: float | None = None
        self.sleeping = False
        self.low_water = 0  # wake the pump when no more runs than this wait for a slot
        self.empty = threading.Event()
        self._thread = threading.Thread(target=self._run, name="windlass-pump", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def quiet(self) -> None:
        """Claim no more; go on settling."""
        self._claiming = False
        self.wake()

    def stop(self) -> None:
        """Settle what is in the buffer, then end the thread. *Blocking.*"""
        self._claiming = False
        self._closed = True
        self.wake()
        self._thread.join(self._settings.lease / 1000)

    def wake(self) -> None:
        """Make the pump look at once."""
        self._engine.wake()

    def poke(self, *, full: bool) -> None:
        """Tell the pump that a run has ended. Wakes it only when there is something to do."""
        if self.sleeping and (full or self._slots.waiting <= self.low_water):
            self._engine.wake()

    def _run(self) -> None:
        while True:
            try:
                if self._closed and not len(self._settler):
                    return
                self._stroke()
            except EngineError as error:
                self._outage(error)
            except Exception:
                # Nothing else settles for this worker: report, and keep the promise to go on.
                log.exception("the pump failed; it goes on")
                time.sleep(OUTAGE_PAUSE)

    def _stroke(self) -> None:
        trust = self._slots.trust()
        due = self._settler.due_in(idle=self._closed or self._slots.waiting == 0)
        outcomes = self._settler.take() if due == 0 else []
        notes = self._slots.notes()
        want = self._want() if trust is Trust.FULL and (self._hungry or outcomes or self._is_time()) else None
        if not outcomes and want is None and not notes:
            self._sleep(due)
            return
        try:
            if notes:
                self._engine.report(notes)
            answers, claimed = self._engine.exchange(outcomes, want)
        except BaseException:
            if trust < Trust.NO_SETTLES:
                self._settler.put_back(outcomes)
            elif outcomes:
                self._slots.dropped(outcomes)
            raise
        if self._away_since is not None:
            log.warning("the store is back after %.1f s", time.monotonic() - self._away_since)
            self._away_since = None
        self._measure(len(outcomes))
        if outcomes:
            self._slots.settled(outcomes, answers)
        if want is not None:
            self._answer(want, claimed)

    def _want(self) -> Want | None:
        if not self._claiming:
            return None
        ahead = 0 if self._alone else min(AHEAD_MAX, int(self._pace * AHEAD))
        limit = self._slots.room + ahead - self._slots.waiting
        if self._alone:
            limit = 1 if self._slots.held == 0 else 0
        if limit <= 0:
            return None
        shares, room = self._queues.shares(limit, self._rng), max(0, self._slots.room)
        return Want(self._worker, limit, shares, self._alone, room, LATE_MS)

    def _answer(self, want: Want, claimed: Claimed) -> None:
        self._hungry = len(claimed.leases) >= want.limit or claimed.due_in_ms == 0
        if claimed.leases:
            self._poll = self._settings.poll_min / 1000
        wait = self._poll if claimed.due_in_ms is None else min(self._poll, claimed.due_in_ms / 1000)
        self._look_at = time.monotonic() + wait
        self._slots.take(claimed)
        self.low_water = self._slots.waiting // 2 if self._hungry else 0
        if not claimed.leases and self._when_empty is not None and self._is_empty():
            self._claiming = False
            self.empty.set()

    def _is_empty(self) -> bool:
        assert self._when_empty is not None
        return self._slots.held == 0 and not len(self._settler) and self._when_empty()

    def _is_time(self) -> bool:
        """Whether it is time to look without a wake-up; the pauses grow while nothing comes."""
        if time.monotonic() < self._look_at:
            return False
        self._poll = min(self._poll * 2, self._settings.poll_max / 1000)
        return True

    def _sleep(self, flush_in: float | None) -> None:
        now = time.monotonic()
        timeout = self._settings.poll_max / 1000
        if self._claiming and self._slots.room > 0:
            timeout = self._look_at - now
        if flush_in is not None:
            timeout = min(timeout, flush_in)
        waiting = self._slots.waiting
        if waiting:
            timeout = min(timeout, self._slots.last_start + HOARD_MAX - now)
        self.sleeping = True
        try:
            # A run that ended before ``sleeping`` was set did not wake us: look once more.
            if self._settler.due_in(idle=self._slots.waiting == 0) != 0 and not (
                self._closed and not len(self._settler)
            ):
                woken = timeout > 0 and self._engine.wait(self._queues.names, timeout)
                self._hungry = self._hungry or woken
        finally:
            self.sleeping = False
        if waiting and time.monotonic() - self._slots.last_start >= HOARD_MAX:
            self._pace = 0.0
            self._slots.give_back()

    def _measure(self, count: int) -> None:
        """Take the pace: jobs ended a second, over enough time or jobs that waves even out."""
        now = time.monotonic()
        self._ended += count
        if now - self._pace_at >= PACE_TIME or self._ended >= PACE_COUNT:
            pace = self._ended / max(now - self._pace_at, 1e-4)
            self._pace = (self._pace + pace) / 2
            self._ended, self._pace_at = 0, now

    def _outage(self, error: EngineError) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.error("the store is away, the worker goes on trying: %s", error)
        self._hungry = True
        time.sleep(OUTAGE_PAUSE * self._rng.uniform(0.5, 1.0))
