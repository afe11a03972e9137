"""The retry budget of a queue: what share of its runs may be retries, so an outage is not multiplied.

Retries beyond the budget wait longer; none is ever lost, and no attempt is used by waiting. Each worker process holds
itself to the share of the runs it sees, and so the fleet keeps to it as a whole. Must not know jobs or engines.

How it works: the runs of the last minute give the rate at which retries may fall due. Each retry books the next place
on that line (a leaky bucket, ITU-T I.371), and what would fall due before its place waits for it. ``BURST`` seconds of
places are free at any time, and ``FLOOR`` retries a second always: fewer than that are no storm.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from windlass.settings import Settings

__all__ = ["RetryBudget", "budgets_of"]

WINDOW: Final = 60.0  # seconds of runs that the rate is taken from
BUCKET: Final = 5.0
FLOOR: Final = 1.0
BURST: Final = 10.0


class RetryBudget:
    """The budget of one queue in one process. *Thread-safe.*"""

    def __init__(self, share: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._buckets: deque[list[float]] = deque()  # [when it began, runs]
        self._since = monotonic()
        self._line = 0.0  # the place after the last one that was booked

    def count(self) -> None:
        """Take note of a run that has ended."""
        with self._lock:
            now = self._monotonic()
            if not self._buckets or now - self._buckets[-1][0] >= BUCKET:
                self._buckets.append([now, 0])
            self._buckets[-1][1] += 1

    def defer(self, delay_ms: int) -> int:
        """Book a place for a retry that is due in ``delay_ms``; give the delay it has to wait, never a shorter one."""
        with self._lock:
            now = self._monotonic()
            while self._buckets and now - self._buckets[0][0] >= WINDOW + BUCKET:
                self._buckets.popleft()
            # The window is as long as what is counted in it, so no bucket counts half.
            oldest = self._buckets[0][0] if self._buckets else now
            span = max(BUCKET, min(now - self._since, max(WINDOW, now - oldest)))
            rate = max(FLOOR, self._share * sum(runs for _, runs in self._buckets) / span)
            place = max(self._line, now)
            self._line = place + 1 / rate
            return max(delay_ms, round((place - BURST - now) * 1000))


def budgets_of(settings: Settings) -> dict[str, RetryBudget]:
    """The budgets that the settings give, by queue."""
    return {
        name: RetryBudget(queue.retry_budget)
        for name, queue in settings.queues.items()
        if queue.retry_budget is not None
    }
