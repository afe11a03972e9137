"""How many more may start under a rate, and when: arithmetic over what was granted before.

A rate without a burst is an exact sliding window: in any ``per_ms`` at most ``limit`` start. With a burst, starts are
spaced evenly, and up to ``burst`` of them may come at once. A grant may start ``late_ms`` after it was given, and one
that waits for a place ``AHEAD_SLACK_MS`` later still; the window grows by that, so what holds for grants holds for
starts. The times of grants are those of a clock that may not go back; where it does, the last grant is the present.

Pure: the log of grants is behind ``Grants``, which an engine fulfils. The scripts of the Redis engine have the same
arithmetic in ``judging.lua``.
"""

from __future__ import annotations

from math import ceil
from typing import Final, Protocol

from msgspec import Struct

__all__ = ["AHEAD_SLACK_MS", "Entry", "Grants", "RateWindow", "Rated"]

AHEAD_SLACK_MS: Final = 1_000  # how long a claimed job may wait for a place
ROUNDING: Final = 1e-6  # ms: lengths between even starts are no whole numbers


class Rated(Protocol):
    """What has a rate: ``limit`` in any ``per_ms``, evenly spaced with up to ``burst`` at once if there is one."""

    @property
    def limit(self) -> int: ...
    @property
    def per_ms(self) -> int: ...
    @property
    def burst(self) -> int | None: ...


class Grants(Protocol):
    """The log of one rate: entries of a time and of how many had been granted up to then, since the log was new."""

    def newest(self) -> tuple[int, int] | None:
        """Time and count of the newest entry."""
        ...

    def count_at(self, at: int) -> int:
        """The count of the newest entry that is not later than ``at``; 0 without one."""
        ...

    def reached_at(self, count: int, after: int) -> int | None:
        """The time of the first entry later than ``after`` that counts so many or more."""
        ...


class Entry(Struct, frozen=True):
    """What to log: ``count`` granted up to ``at``. It matters until ``until``.

    ``out`` is a time that is out of every window: of the entries up to it only the newest is needed. None: no other
    entry is.
    """

    at: int
    count: int
    until: int
    out: int | None


class RateWindow:
    """One rate at one moment, and what is granted in it."""

    def __init__(self, rate: Rated, grants: Grants, now: int, late_ms: int = 0) -> None:
        self.rate = rate
        self.given = 0  # at this moment
        self._grants = grants
        self._late_ms = late_ms
        newest = grants.newest()
        self._last_at, self._count = (now, 0) if newest is None else newest
        self._now = max(now, self._last_at) if rate.burst is None else now
        self._before: dict[int, int] = {}

    def room(self, slack: int = 0) -> int:
        """How many more may go on now; with ``slack``, also if each of them starts so many ms later still."""
        rate = self.rate
        if rate.burst is not None:
            spacing = rate.per_ms / rate.limit
            ahead = max(self._last_at - (self._now - slack), 0) if self._count else 0
            return int((rate.burst * spacing - ahead + ROUNDING) // spacing) - self.given
        if slack not in self._before:
            self._before[slack] = self._grants.count_at(self._now - rate.per_ms - self._late_ms - slack)
        return rate.limit - (self._count - self._before[slack]) - self.given

    def used(self) -> int:
        """How many of those that may start at once, or in a window, have."""
        rate = self.rate
        return max(0, (rate.limit if rate.burst is None else rate.burst) - self.room())

    def opens_at(self) -> int:
        """When one more may go on, given what was given."""
        rate = self.rate
        if rate.burst is not None:
            spacing = rate.per_ms / rate.limit
            spent = max(self._last_at, self._now) + self.given * spacing
            return max(self._now + 1, ceil(spent - (rate.burst - 1) * spacing))
        window = rate.per_ms + self._late_ms
        wanted = self._count + self.given - rate.limit + 1  # when that many were granted is what must be out of it
        if wanted > self._count:
            return self._now + window
        reached = self._grants.reached_at(wanted, self._now - window)
        return self._now + 1 if reached is None else reached + window

    def entry(self) -> Entry | None:
        """What to log of this moment; None when nothing was given."""
        rate = self.rate
        if not self.given:
            return None
        count = self._count + self.given
        if rate.burst is not None:  # the time is the one up to which the rate is spent
            spent = max(self._last_at if self._count else 0, self._now) + self.given * rate.per_ms / rate.limit
            return Entry(ceil(spent), count, ceil(spent), None)
        window = rate.per_ms + self._late_ms + AHEAD_SLACK_MS
        return Entry(self._now, count, self._now + window, self._now - window)
