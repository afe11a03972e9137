"""Timeouts: one thread that sleeps until the next deadline, so a run without a timeout costs nothing.

A deadline that is dropped lets go of its call at once, and of its place before such places outnumber the others: what
is kept is as much as is under way, however far off the deadlines are.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable

from windlass.core import caps
from windlass.core.foreign import Shield, start_thread
from windlass.logs import Log

__all__ = ["Deadlines"]

log = Log("windlass.worker")

SLACK = 64  # places of dropped deadlines that are not worth a clearing


class Deadlines:
    """Calls back when a time has come. *Thread-safe.* The thread starts with the first deadline."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._heap: list[tuple[float, int]] = []  # when, number
        self._calls: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, seconds: float, call: Callable[[], None]) -> int:
        """Call ``call`` in ``seconds`` on the deadline thread; give a number to drop it by.

        It must be quick, and decide itself if it is moot.
        """
        with self._changed:
            number = next(self._numbers)
            self._calls[number] = call
            heapq.heappush(self._heap, (time.monotonic() + seconds, number))
            if self._thread is None:
                self._thread = start_thread(self._watch, "windlass-deadlines")
            elif self._heap[0][1] == number:
                self._changed.notify()
        return number

    def drop(self, number: int) -> None:
        """Forget a deadline; nothing happens when its time has come."""
        with self._changed:
            self._calls.pop(number, None)
            if len(self._heap) > 2 * len(self._calls) + SLACK:
                self._heap = [place for place in self._heap if place[1] in self._calls]
                heapq.heapify(self._heap)

    def close(self) -> None:
        """Forget all deadlines and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _watch(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._heap or self._heap[0][0] > time.monotonic()):
                    left = self._heap[0][0] - time.monotonic() if self._heap else caps.DURATION_MS / 1000
                    self._changed.wait(min(left, caps.DURATION_MS / 1000))  # what a thread can wait for
                if self._closed:
                    return
                _, number = heapq.heappop(self._heap)
                call = self._calls.pop(number, None)
            if call is not None:
                with Shield(log, "what was to happen at the end of a time limit failed; other time limits go on"):
                    call()
