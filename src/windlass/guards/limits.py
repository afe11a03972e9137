"""Locks and limits as people see them. Invariant: lengths of time are seconds, instants are aware datetimes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from windlass.core.clock import from_ms
from windlass.core.coordination import LOCKS, HoldRow, LimitRow

__all__ = ["LimitInfo", "LockInfo"]


@dataclass(frozen=True, slots=True)
class LockInfo:
    """One lock that is held. ``lease_left`` below zero: its holder is late, and the next who asks gets it."""

    key: str
    owner: str
    fence: int
    since: datetime
    lease_left: float
    waiting: int

    @classmethod
    def of(cls, row: HoldRow) -> LockInfo:
        """Turn what an engine says into what people see."""
        left = 0 if row.left_ms is None else row.left_ms / 1_000
        return cls(row.gate.removeprefix(LOCKS), row.owner, row.fence, from_ms(row.since), left, row.waiting)


@dataclass(frozen=True, slots=True)
class LimitInfo:
    """One limit. ``used`` of ``limit`` slots, or claims in the window of ``per`` seconds; ``waiting`` jobs wait at it.

    ``limit`` is None when no job that runs or waits says what it is.
    """

    kind: str
    key: str
    used: int
    limit: int | None
    per: float | None
    waiting: int

    @classmethod
    def of(cls, row: LimitRow) -> LimitInfo:
        """Turn what an engine says into what people see."""
        return cls(row.kind.value, row.key, row.used, row.limit, row.per_ms / 1_000 or None, row.waiting)
