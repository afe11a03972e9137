"""Wait for what a test expects to happen. A test says what it waits for; how long that may take is said here alone.

A wait looks again and again until what it sees is true, and gives that. It gives up after ``PATIENCE``, and only on a
machine that is not busy: where more wants to run than there are cores, everything has that much longer. Nothing waits
for the whole of it unless it fails, so there is no reason for less anywhere.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

PATIENCE = 60.0  # seconds
PAUSE = 0.01  # seconds between two looks


def stretched(seconds: float) -> float:
    """How long something may take here and now that takes so many seconds on a machine with nothing else to do."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def until(look: Callable[[], T], what: str = "", said: Callable[[], str] = str) -> T:
    """Wait until what is seen is true, and give it.

    A failure says what it waited for or misses (``what``, else the code of ``look``), what was seen last, and what
    there is in ``said``: a log, for example.
    """
    wait = _Wait(look, what, said)
    while not wait.is_over():
        time.sleep(PAUSE)
    return wait.seen


def until_none(left: Callable[[], int], what: str = "", said: Callable[[], str] = str) -> None:
    """Wait until nothing is left of many. All of it may take long: what has the patience of ``until`` is one step."""
    least = left()
    while least:
        least = least - until(lambda least=least: max(0, least - left()), what, said)  # type: ignore[misc]


async def until_async(look: Callable[[], T], what: str = "", said: Callable[[], str] = str) -> T:
    """Wait as ``until`` does, and let the event loop go on meanwhile."""
    wait = _Wait(look, what, said)
    while not wait.is_over():
        await asyncio.sleep(PAUSE / 10)
    return wait.seen


def elapse(seconds: float) -> None:
    """Let a fault last. To wait for something to happen, use ``until``."""
    time.sleep(max(0.0, seconds))


class _Wait(Generic[T]):
    def __init__(self, look: Callable[[], T], what: str, said: Callable[[], str]) -> None:
        self._look = look
        self._what = what
        self._said = said
        self._began = time.monotonic()
        self.seen: T

    def is_over(self) -> bool:
        """Look once. Fails when that was after the end of all patience."""
        waited = time.monotonic() - self._began  # before the look: one that comes late is a look all the same
        self.seen = self._look()
        if self.seen:
            return True
        if waited > stretched(PATIENCE):
            what = self._what or inspect.getsource(self._look).strip()
            raise AssertionError(f"waited {waited:.0f} s in vain: {what}\nseen last: {self.seen!r}\n{self._said()}")
        return False
