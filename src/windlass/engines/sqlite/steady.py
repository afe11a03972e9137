"""A clock that only goes forward at its own pace: the boot clock, moved to where the wall clock was at its first use.

Windows, leases of locks and circuits are measured by it, so no step of the wall clock lets a rate through twice or ends
a lock early. After a reboot it goes on from the wall clock.
"""

from __future__ import annotations

from typing import Final

import apsw

from windlass.core.clock import Clock
from windlass.engines.sqlite.schema import Sql

__all__ = ["Steady"]

READ: Final = "SELECT value FROM \"windlass_meta\" WHERE key = 'steady'"
WRITE: Final = "INSERT OR REPLACE INTO \"windlass_meta\" (key, value) VALUES ('steady', ?)"


class Steady:
    """The steady clock of one store; every process on it reads the same."""

    def __init__(self, q: Sql, clock: Clock, boot: str) -> None:
        self._q = q
        self._clock = clock
        self._boot = boot
        self._offset: int | None = None

    def start(self, db: apsw.Connection) -> None:
        """Fix the offset for this boot, inside the caller's write transaction. *Idempotent.*"""
        if self._offset is not None:
            return
        boot, offset = self._stored(db)
        if boot != self._boot:
            offset = self._clock.wall_ms() - self._clock.boot_ms()
            db.execute(self._q(WRITE), (f"{self._boot} {offset}",))
        self._offset = offset

    def now(self, db: apsw.Connection) -> int:
        """Steady ms. Safe on a connection that may only read; there it may guess until the first write."""
        if self._offset is None:
            boot, offset = self._stored(db)
            if boot != self._boot:
                return self._clock.wall_ms()
            self._offset = offset
        return self._clock.boot_ms() + self._offset

    def known(self) -> int | None:
        """Steady ms, if that can be told without the store."""
        return None if self._offset is None else self._clock.boot_ms() + self._offset

    def _stored(self, db: apsw.Connection) -> tuple[str, int]:
        found = db.execute(self._q(READ)).fetchone()
        if found is None:
            return "", 0
        boot, _, offset = str(found[0]).rpartition(" ")
        return boot, int(offset)
