"""Whether a job that waits for others goes on. Pure.

A member of a join that is done counts as ok, one that is dead as bad, one that was cancelled or skipped as void: an
end, but neither a success nor a failure. Whoever waits goes on when enough have ended as it asks, and is skipped when
that cannot come true any more; only a sealed join tells.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from msgspec import Struct

from windlass.core.model import Ends

__all__ = ["SKIPPED", "SKIPPED_BY_HAND", "Decision", "Tally", "decide"]

SKIPPED: Final = "skipped"  # the reason of a job that was cancelled for what it waited for
SKIPPED_BY_HAND: Final = "skipped by hand"

Decision: TypeAlias = Literal["go", "skip", "wait"]


class Tally(Struct, frozen=True):
    """How the members of a join have ended. ``open`` ones have not."""

    sealed: bool
    total: int
    ok: int = 0
    bad: int = 0
    void: int = 0

    @property
    def open(self) -> int:
        """Members that have not ended."""
        return self.total - self.ok - self.bad - self.void

    @property
    def has_ended(self) -> bool:
        """Whether all have, and no more can come."""
        return self.sealed and self.open == 0


def decide(tally: Tally, of: Ends, count: int) -> Decision:
    """Whether who waits for ``count`` such ends (0: all) goes on, is skipped, or goes on waiting."""
    match of:
        case "ok":
            have = tally.ok
        case "bad":
            have = tally.bad
        case "end":
            have = tally.total - tally.open
    if count == 0 and not tally.sealed:
        return "wait"
    need = count or tally.total
    if have >= need:
        return "go"
    return "skip" if tally.sealed and have + tally.open < need else "wait"
