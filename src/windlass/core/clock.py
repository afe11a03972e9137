"""Time as a parameter.

Engines and workers ask a Clock, never ``time`` itself, so tests can move time by hand. Due times are wall-clock
milliseconds (UTC epoch); leases are milliseconds of the boot clock, which no clock step changes. A Redis server has one
clock for both.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

__all__ = ["Clock", "ManualClock", "SystemClock", "from_ms", "to_ms"]

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MS: Final = timedelta(milliseconds=1)
# What stands for any instant that no calendar has, a day inside its ends: every time zone can show it.
FIRST: Final = datetime(1, 1, 2, tzinfo=UTC)
LAST: Final = datetime(9999, 12, 30, tzinfo=UTC)
FIRST_MS: Final = (FIRST - EPOCH) // MS
LAST_MS: Final = (LAST - EPOCH) // MS

# CLOCK_BOOTTIME goes on through a suspend, so a lease runs out while a laptop sleeps. Elsewhere than on Linux the
# monotonic clock is the nearest thing.
BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Two readings: ``wall_ms`` for due times, ``boot_ms`` for leases."""

    def wall_ms(self) -> int: ...

    def boot_ms(self) -> int: ...


class SystemClock:
    """The machine's clocks."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def boot_ms(self) -> int:
        return time.clock_gettime_ns(BOOT_CLOCK) // 1_000_000


class ManualClock:
    """A clock that moves only when told to. Both readings start at ``start_ms`` and move together."""

    def __init__(self, start_ms: int = 1_700_000_000_000) -> None:
        self._wall = start_ms
        self._boot = start_ms

    def wall_ms(self) -> int:
        return self._wall

    def boot_ms(self) -> int:
        return self._boot

    def advance(self, ms: int) -> None:
        """Let ``ms`` milliseconds pass on both clocks."""
        self._wall += ms
        self._boot += ms

    def step_wall(self, ms: int) -> None:
        """Step the wall clock alone, as an operator or NTP would; may be negative."""
        self._wall += ms


def to_ms(when: datetime) -> int:
    """Whole milliseconds since the epoch of an aware datetime, whatever its time zone; exact for every date."""
    return (when - EPOCH) // MS


def from_ms(ms: int) -> datetime:
    """The aware UTC datetime of milliseconds since the epoch.

    *Never fails*: what a store holds is shown to everybody, so an instant that no calendar has is shown as the first or
    the last one that every time zone has.
    """
    if FIRST_MS <= ms <= LAST_MS:
        return EPOCH + timedelta(milliseconds=ms)
    return FIRST if ms < FIRST_MS else LAST
