"""Documents with versions: the compare-and-set that processes agree by (``engines.base.Coordinator``).

Versions come from one counter of the store, so a key that was removed and made anew has a version nobody holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from windlass.core.model import Swap, Versioned
from windlass.engines.sqlite.core import SqliteCore
from windlass.engines.sqlite.schema import Sql

__all__ = ["SqliteDocuments", "has_lost", "look", "swap"]

READ: Final = 'SELECT version, value FROM "windlass_documents" WHERE key = ? AND (until IS NULL OR until > ?)'
NEXT: Final = """
INSERT INTO "windlass_meta" (key, value) VALUES ('document', 1)
ON CONFLICT (key) DO UPDATE SET value = value + 1 RETURNING value
"""
WRITE: Final = 'INSERT OR REPLACE INTO "windlass_documents" (key, version, value, until) VALUES (?, ?, ?, ?)'
REMOVE: Final = 'DELETE FROM "windlass_documents" WHERE key = ?'
SWEEP: Final = 'DELETE FROM "windlass_documents" WHERE until <= ?'
KEYS: Final = """
SELECT key FROM "windlass_documents" WHERE substr(key, 1, length(?1)) = ?1 AND (until IS NULL OR until > ?2)
ORDER BY key LIMIT ?3
"""


class SqliteDocuments(SqliteCore):
    """``read`` and ``keys`` of the engine; documents are written by its ``commit``."""

    def read(self, keys: Sequence[str]) -> list[Versioned]:
        now = self._clock.wall_ms()
        return self._ask(lambda db: [look(db, self._q, key, now) for key in keys])

    def keys(self, prefix: str, limit: int = 1_000) -> list[str]:
        bindings = (prefix, self._clock.wall_ms(), limit)
        return [str(key) for (key,) in self._ask(lambda db: db.execute(self._q(KEYS), bindings).fetchall())]


def look(db: apsw.Connection, q: Sql, key: str, now: int) -> Versioned:
    """The document of a key as it stands."""
    found = db.execute(q(READ), (key, now)).fetchall()
    return Versioned(key, int(str(found[0][0])), str(found[0][1])) if found else Versioned(key, 0, None)


def has_lost(db: apsw.Connection, q: Sql, swaps: Sequence[Swap], now: int) -> bool:
    """Whether one of these meets another version than it names. Each sees those before it; nothing is written."""
    made: dict[str, int | None] = {}  # None: a version that nobody can know
    for one in swaps:
        have = made[one.key] if one.key in made else look(db, q, one.key, now).version
        if have != one.version:
            return True
        made[one.key] = 0 if one.value is None else None
    return False


def swap(db: apsw.Connection, q: Sql, one: Swap, now: int) -> Versioned:
    """Write a document, whatever version it has."""
    db.execute(q(SWEEP), (now,))
    if one.value is None:
        db.execute(q(REMOVE), (one.key,))
        return Versioned(one.key, 0, None)
    given = db.execute(q(NEXT)).fetchall()
    fresh = Versioned(one.key, int(str(given[0][0])), one.value)
    until = None if one.ttl_ms is None else now + one.ttl_ms
    db.execute(q(WRITE), (fresh.key, fresh.version, fresh.value, until))
    return fresh
