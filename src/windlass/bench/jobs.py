"""The jobs that are measured. They do as little as can be, so that what is measured is windlass.

Sync and async jobs belong to applications of their own: a worker with both keeps room for both.
"""

from __future__ import annotations

import asyncio
import time

from windlass.app import Windlass

__all__ = ["QUEUE", "AsyncJobs", "SyncJobs"]

QUEUE = "bench"


class SyncJobs:
    """Jobs on threads, registered with ``app``."""

    def __init__(self, app: Windlass) -> None:
        self.noop = app.job(name="noop", queue=QUEUE)(noop)
        self.nap = app.job(name="nap", queue=QUEUE)(nap)
        self.since = app.job(name="since", queue=QUEUE)(since)


class AsyncJobs:
    """Jobs on the event loop, registered with ``app``."""

    def __init__(self, app: Windlass) -> None:
        self.noop = app.job(name="noop", queue=QUEUE)(async_noop)
        self.nap = app.job(name="nap", queue=QUEUE)(async_nap)


def noop(number: int) -> None:
    """Do nothing."""


async def async_noop(number: int) -> None:
    """Do nothing."""


def nap(seconds: float) -> None:
    """Sleep, as a job does that waits for somebody else."""
    time.sleep(seconds)


async def async_nap(seconds: float) -> None:
    """Sleep, as a job does that waits for somebody else."""
    await asyncio.sleep(seconds)


def since(sent_ns: int) -> int:
    """Give the nanoseconds since ``sent_ns`` on the monotonic clock, which all processes of a machine share."""
    return time.monotonic_ns() - sent_ns
