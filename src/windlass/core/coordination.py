"""What a fleet agrees on beside jobs: holds and limits; ``circuit`` has circuits.

Pure. Times are integer milliseconds, as in ``model``.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from windlass.core.model import GuardKind

__all__ = ["LOCKS", "Grip", "HoldRow", "LimitRow"]

LOCKS: Final = "lock:"  # what the gates of locks begin with; those of guards begin with their kind


class Grip(Struct, frozen=True):
    """The answer to a try for a place at a gate. ``fence`` is None when it was not got.

    Then ``left_ms`` is what the lease of that holder has left which ends first (0: none does, or others wait in front),
    and ``owner`` says who that is. ``seen`` is for ``wait_released``.
    """

    fence: int | None
    left_ms: int = 0
    owner: str = ""
    seen: int = 0


class HoldRow(Struct, frozen=True):
    """One place at a gate that is taken: by a token, or by a job until it stops or ends.

    ``left_ms`` of a token is below zero when its lease ran out and nobody has taken the place since.
    """

    gate: str
    owner: str  # what the token's holder said of itself; empty for a job
    fence: int  # of the hold; for a job, of its last run
    since: int
    left_ms: int | None  # None for a job
    waiting: int  # tokens in the line of the gate
    job: str | None = None


class LimitRow(Struct, frozen=True):
    """One limit as it stands. ``used`` of ``limit`` slots or claims of the window; ``waiting`` jobs wait at it."""

    kind: GuardKind
    key: str
    used: int
    limit: int | None  # None: no waiting or running job says it
    per_ms: int
    waiting: int
