"""Holds, circuits and limits: the Coordinator half of the engine. Each call is one small write that needs no sync.

A hold that is lost in a power cut is lost with every process that could have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from windlass.core.coordination import LOCKS, Grip, HoldRow, LimitRow
from windlass.core.model import PLACES, GuardKind, Times
from windlass.core.work import LeaseRef
from windlass.engines.sqlite import holds
from windlass.engines.sqlite.connection import leak
from windlass.engines.sqlite.core import Endings
from windlass.engines.sqlite.guards import RateMeter, Stored, decode_stored
from windlass.engines.sqlite.transaction import SqliteTransactions

__all__ = ["SqliteCoordinator"]

LIMITS_MAX: Final = 1_000

# Every limit that a running or a waiting job knows of; the jobs say the numbers.
RUNNING: Final = "SELECT guards FROM \"windlass_jobs\" WHERE state = 'running' AND guards IS NOT NULL LIMIT ?"
WAITERS: Final = """
SELECT blocked_by, count(*), min(guards) FROM "windlass_jobs" WHERE state = 'blocked' AND guards IS NOT NULL
GROUP BY blocked_by LIMIT ?
"""
RATES: Final = "SELECT DISTINCT gate FROM \"windlass_rates\" WHERE substr(gate, 1, 5) = 'rate:' LIMIT ?"


class SqliteCoordinator(SqliteTransactions):
    """``engines.base.Coordinator`` on the engine's own tables."""

    def _forget_handles(self) -> None:
        super()._forget_handles()
        self._freed = self._make_signal("lock")
        self._releases = Endings(self._freed)

    def close(self) -> None:
        super().close()
        self._releases.close()
        self._releases = Endings(self._freed)
        self._freed.close()

    def _after_fork_in_child(self) -> None:
        leak(self._freed, self._releases)
        super()._after_fork_in_child()

    # -- holds --

    def hold(
        self,
        gate: str,
        token: str,
        places: int,
        lease_ms: int,
        owner: str = "",
        wait_ms: int = 0,
        job: LeaseRef | None = None,
    ) -> Grip:
        def write(db: apsw.Connection) -> Grip:
            self._steady.start(db)
            now, wall = self._steady.now(db), self._clock.wall_ms()
            return holds.hold(db, self._q, gate, token, places, lease_ms, owner, wait_ms, job, now, wall)

        if wait_ms > 0:
            self._freed.listen()  # from now on: a release after this try must not be missed
        seen = self._releases.count
        return msgspec.structs.replace(self._write(write, durable=False), seen=seen)

    def renew(self, held: Sequence[tuple[str, str]], lease_ms: int) -> list[bool]:
        def write(db: apsw.Connection) -> list[bool]:
            self._steady.start(db)
            return holds.renew(db, self._q, held, lease_ms, self._steady.now(db))

        return self._write(write, durable=False) if held else []

    def release(self, gate: str, token: str | None) -> bool:
        released = self._write(lambda db: holds.release(db, self._q, gate, token), durable=False)
        self._freed.touch()
        if released and not gate.startswith(LOCKS):  # jobs may wait there
            self._ready.touch()
        return released

    def wait_released(self, seen: int, timeout: float) -> None:
        with self._releases.listening() as releases:
            releases.wait(seen, timeout)

    def holds(self, prefix: str = "") -> list[HoldRow]:
        return self._ask(lambda db: holds.rows(db, self._q, prefix, self._steady.now(db)))

    def times(self) -> Times:
        return Times(self._steady.known() or self._ask(self._steady.now), self._clock.wall_ms())

    # -- limits --

    def limits(self) -> list[LimitRow]:
        def ask(db: apsw.Connection) -> list[LimitRow]:
            q, now = self._q, self._steady.now(db)
            known: dict[str, Stored] = {}
            waiting: dict[str, int] = {}
            texts = [str(text) for (text,) in db.execute(q(RUNNING), (LIMITS_MAX,))]
            for gate, count, text in db.execute(q(WAITERS), (LIMITS_MAX,)):
                waiting[str(gate)] = int(count)
                texts.append(str(text))
            for text in texts:
                known.update((one.gate, one) for one in decode_stored(text))
            for (gate,) in db.execute(q(RATES), (LIMITS_MAX,)):
                known.setdefault(str(gate), Stored(GuardKind.RATE, str(gate)))
            found = []
            for gate, one in sorted(known.items()):
                if one.kind in PLACES:
                    used, _ = holds.taken(db, q, gate, now)
                elif one.kind is GuardKind.RATE:
                    used = RateMeter(db, q, one, now).used() if one.limit else 0
                else:
                    continue
                found.append(LimitRow(one.kind, one.key, used, one.limit or None, one.per_ms, waiting.get(gate, 0)))
            return found[:LIMITS_MAX]

        return self._ask(ask)
