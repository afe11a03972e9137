"""Timeouts: one thread that sleeps until the next deadline, so a run without a timeout costs nothing."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

__all__ = ["Deadlines"]


class Deadlines:
    """Calls back when a time has come. *Thread-safe.* The thread starts with the first deadline."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, seconds: float, call: Callable[[], None]) -> None:
        """Call ``call`` in ``seconds`` on the deadline thread. It must be quick, and decide itself if it is moot."""
        with self._changed:
            heapq.heappush(self._heap, (time.monotonic() + seconds, next(self._order), call))
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="windlass-deadlines", daemon=True)
                self._thread.start()
            else:
                self._changed.notify()

    def close(self) -> None:
        """Forget all deadlines and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._heap or self._heap[0][0] > time.monotonic()):
                    left = self._heap[0][0] - time.monotonic() if self._heap else None
                    self._changed.wait(left)
                if self._closed:
                    return
                _, _, call = heapq.heappop(self._heap)
            call()
