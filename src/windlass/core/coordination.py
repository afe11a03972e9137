"""What a fleet agrees on beside jobs: locks and limits; ``circuit`` has circuits.

Pure. Times are integer milliseconds, as in ``model``.
"""

from __future__ import annotations

from msgspec import Struct

from windlass.core.model import GuardKind

__all__ = ["Grip", "LimitRow", "LockRow"]


class Grip(Struct, frozen=True):
    """The answer to a try for a lock. ``fence`` is None when it was not got; then ``left_ms`` is what the holder's
    lease has left (0: others wait in front). ``seen`` is for ``wait_unlocked``.
    """

    fence: int | None
    left_ms: int = 0
    owner: str = ""
    seen: int = 0


class LockRow(Struct, frozen=True):
    """One lock that is held, or whose lease ran out and that nobody has taken since (``left_ms`` below zero)."""

    key: str
    owner: str
    fence: int
    since: int
    left_ms: int
    waiting: int


class LimitRow(Struct, frozen=True):
    """One limit as it stands. ``used`` of ``limit`` slots or claims of the window; ``waiting`` jobs wait at it."""

    kind: GuardKind
    key: str
    used: int
    limit: int | None  # None: no waiting or running job says it
    per_ms: int
    waiting: int
