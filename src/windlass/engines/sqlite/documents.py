"""Documents with versions: the compare-and-set that processes agree by (``engines.base.Coordinator``).

Versions come from one counter of the store, so a key that was removed and made anew has a version nobody holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from windlass.engines.base import Versioned
from windlass.engines.sqlite.core import SqliteCore

__all__ = ["SqliteDocuments"]

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
    """The Coordinator of the engine."""

    def read(self, keys: Sequence[str]) -> list[Versioned]:
        now = self._clock.wall_ms()
        return self._ask(lambda db: [self._look(db, key, now) for key in keys])

    def swap(self, key: str, version: int, value: str | None, ttl_ms: int | None = None) -> Versioned | None:
        now = self._clock.wall_ms()

        def write(db: apsw.Connection) -> Versioned | None:
            db.execute(self._q(SWEEP), (now,))
            if self._look(db, key, now).version != version:
                return None
            if value is None:
                db.execute(self._q(REMOVE), (key,))
                return Versioned(key, 0, None)
            given = db.execute(self._q(NEXT)).fetchall()
            fresh = Versioned(key, int(str(given[0][0])), value)
            db.execute(self._q(WRITE), (key, fresh.version, value, None if ttl_ms is None else now + ttl_ms))
            return fresh

        return self._write(write, durable=True)

    def keys(self, prefix: str, limit: int = 1_000) -> list[str]:
        bindings = (prefix, self._clock.wall_ms(), limit)
        return [str(key) for (key,) in self._ask(lambda db: db.execute(self._q(KEYS), bindings).fetchall())]

    def _look(self, db: apsw.Connection, key: str, now: int) -> Versioned:
        found = db.execute(self._q(READ), (key, now)).fetchall()
        return Versioned(key, int(str(found[0][0])), str(found[0][1])) if found else Versioned(key, 0, None)
