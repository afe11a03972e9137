"""Fences: numbers from one counter of the store, for claims and for holds of tokens."""

from __future__ import annotations

from typing import Final

import apsw

from windlass.engines.sqlite.schema import Sql

__all__ = ["next_fence"]

LAST_FENCE: Final = "SELECT value FROM \"windlass_meta\" WHERE key = 'fence'"
SET_FENCE: Final = "INSERT OR REPLACE INTO \"windlass_meta\" (key, value) VALUES ('fence', ?)"


def next_fence(db: apsw.Connection, q: Sql, count: int, now: int, above: int) -> int:
    """Reserve ``count`` fences and give the first: above every fence the store ever gave, its clock, and ``above``."""
    last = db.execute(q(LAST_FENCE)).fetchall()
    first = max(now * 1000, int(str(last[0][0])) + 1 if last else 0, above + 1)
    db.execute(q(SET_FENCE), (first + count - 1,))
    return first
