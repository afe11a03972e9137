"""The timers of the supervisor: what it is to do later, on its own thread. What one call raises keeps no other back."""

from __future__ import annotations

import time
from collections.abc import Callable

from windlass.logs import Log

__all__ = ["Timers", "do"]

log = Log("windlass.supervisor")


class Timers:
    """Calls that are due at a time, made by ``run``."""

    def __init__(self) -> None:
        self._timers: list[tuple[float, Callable[[], None], bool]] = []  # when, what, whether also while stopping

    def after(self, seconds: float, call: Callable[[], None], *, lasting: bool = False) -> None:
        """Call something later; ``lasting``: also when the worker has been told to stop meanwhile."""
        self._timers.append((time.monotonic() + seconds, call, lasting))

    def next_in(self) -> float | None:
        """Seconds until the next call is due; None: none is."""
        return max(0.0, min(at for at, _, _ in self._timers) - time.monotonic()) if self._timers else None

    def run(self) -> None:
        """Make the calls that are due."""
        now, timers = time.monotonic(), self._timers
        self._timers = [one for one in timers if one[0] > now]
        for at, call, _ in timers:
            if at <= now:
                do(call)

    def stop(self) -> None:
        """Forget what is not to be done by a worker that stops."""
        self._timers = [timer for timer in self._timers if timer[2]]


def do(call: Callable[[], None]) -> None:
    """Call something that must not keep what comes after it from its turn."""
    try:
        call()
    except Exception:
        log.exception("the supervisor failed at something; it goes on")
