"""Locks, circuits and limits: the Coordinator half of the engine. Each call is one small write that needs no sync.

A lock is a row with the token of its holder; whoever waits has a ticket in ``windlass_line`` that it keeps by trying
again, so the line is first come, first served and one that died in it falls out. A lock that is lost in a power cut is
lost with every process that could hold it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from windlass.core.coordination import CircuitPolicy, CircuitRow, Grip, LimitRow, LockRow, Tally
from windlass.core.model import GuardKind
from windlass.core.work import LeaseRef
from windlass.engines.damage import made
from windlass.engines.sqlite import circuits
from windlass.engines.sqlite.claim import next_fence
from windlass.engines.sqlite.connection import leak
from windlass.engines.sqlite.core import Endings
from windlass.engines.sqlite.guards import RateMeter, Stored, decode_stored
from windlass.engines.sqlite.transaction import SqliteTransactions

__all__ = ["SqliteCoordinator"]

LIMITS_MAX: Final = 1_000

HOLDER: Final = 'SELECT token, fence, until, owner FROM "windlass_locks" WHERE key = ?'
TAKE: Final = """
INSERT OR REPLACE INTO "windlass_locks" (key, token, fence, until, since, owner) VALUES (?, ?, ?, ?, ?, ?)
"""
LEFT_LINE: Final = 'DELETE FROM "windlass_line" WHERE key = ? AND (token = ? OR until <= ?)'
PRUNE_LINE: Final = 'DELETE FROM "windlass_line" WHERE key = ? AND until <= ?'
FIRST: Final = 'SELECT token FROM "windlass_line" WHERE key = ? ORDER BY ticket LIMIT 1'
STAY: Final = 'UPDATE "windlass_line" SET until = ? WHERE key = ? AND token = ?'
QUEUE_UP: Final = """
INSERT INTO "windlass_line" (key, ticket, token, until)
SELECT ?1, 1 + coalesce((SELECT max(ticket) FROM "windlass_line" WHERE key = ?1), 0), ?2, ?3
"""
RENEW: Final = 'UPDATE "windlass_locks" SET until = ? WHERE key = ? AND token = ?'
UNLOCK: Final = 'DELETE FROM "windlass_locks" WHERE key = ?1 AND (?2 IS NULL OR token = ?2)'
LOCKS: Final = """
SELECT key, owner, fence, since, until - ?1,
    (SELECT count(*) FROM "windlass_line" AS line WHERE line.key = locks.key AND line.until > ?1)
FROM "windlass_locks" AS locks ORDER BY key
"""
# Every limit that a running or a waiting job knows of; the jobs say the numbers.
RUNNING: Final = "SELECT guards FROM \"windlass_jobs\" WHERE state = 'running' AND guards IS NOT NULL LIMIT ?"
WAITERS: Final = """
SELECT blocked_by, count(*), min(guards) FROM "windlass_jobs" WHERE state = 'blocked' AND guards IS NOT NULL
GROUP BY blocked_by LIMIT ?
"""
RATES: Final = "SELECT DISTINCT gate FROM \"windlass_rates\" WHERE substr(gate, 1, 5) = 'rate:' LIMIT ?"
HELD: Final = 'SELECT count(*) FROM "windlass_holds" WHERE gate = ?'


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

    # -- locks --

    def lock(self, key: str, token: str, lease_ms: int, owner: str, wait_ms: int) -> Grip:
        def write(db: apsw.Connection) -> Grip:
            self._steady.start(db)
            now, q = self._steady.now(db), self._q
            held = db.execute(q(HOLDER), (key,)).fetchone()
            if held is not None and held[0] == token:
                db.execute(q(RENEW), (now + lease_ms, key, token))
                return Grip(int(held[1]))
            db.execute(q(PRUNE_LINE), (key, now))
            first = db.execute(q(FIRST), (key,)).fetchone()
            if (held is None or held[2] <= now) and (first is None or first[0] == token):
                fence = next_fence(db, q, 1, self._clock.wall_ms(), 0 if held is None else int(held[1]))
                db.execute(q(TAKE), (key, token, fence, now + lease_ms, self._clock.wall_ms(), owner))
                db.execute(q(LEFT_LINE), (key, token, now))
                return Grip(fence)
            if wait_ms > 0:
                db.execute(q(STAY), (now + wait_ms, key, token))
                if not db.changes():
                    db.execute(q(QUEUE_UP), (key, token, now + wait_ms))
            left = 0 if held is None else max(0, int(held[2]) - now)
            return Grip(None, left, "" if held is None else str(held[3]))

        if wait_ms > 0:
            self._freed.listen()  # from now on: a release after this try must not be missed
        seen = self._releases.count
        return msgspec.structs.replace(self._write(write, durable=False), seen=seen)

    def renew(self, locks: Sequence[tuple[str, str]], lease_ms: int) -> list[bool]:
        def write(db: apsw.Connection) -> list[bool]:
            self._steady.start(db)
            until = self._steady.now(db) + lease_ms
            kept = []
            for key, token in locks:
                db.execute(self._q(RENEW), (until, key, token))
                kept.append(db.changes() > 0)
            return kept

        return self._write(write, durable=False) if locks else []

    def unlock(self, key: str, token: str | None) -> bool:
        def write(db: apsw.Connection) -> bool:
            db.execute(self._q(UNLOCK), (key, token))
            released = db.changes() > 0
            if token is not None:
                db.execute(self._q(LEFT_LINE), (key, token, 0))
            return released

        released = self._write(write, durable=False)
        self._freed.touch()
        return released

    def wait_unlocked(self, seen: int, timeout: float) -> None:
        with self._releases.listening() as releases:
            releases.wait(seen, timeout)

    def locks(self) -> list[LockRow]:
        def ask(db: apsw.Connection) -> list[LockRow]:
            found = db.execute(self._q(LOCKS), (self._steady.now(db),))
            return [made(LockRow, **dict(zip(LockRow.__struct_fields__, one, strict=True))) for one in found]

        return self._ask(ask)

    # -- circuits --

    def circuit(self, name: str) -> CircuitRow:
        def ask(db: apsw.Connection) -> CircuitRow:
            return circuits.row(db, self._q, name, circuits.read(db, self._q, name), self._steady.now(db))

        return self._ask(ask)

    def circuits(self) -> list[CircuitRow]:
        return self._ask(lambda db: list(circuits.rows(db, self._q, self._steady.now(db))))

    def probe(self, name: str, token: str, lease_ms: int, job: LeaseRef | None) -> CircuitRow:
        def write(db: apsw.Connection) -> CircuitRow:
            self._steady.start(db)
            now, wall = self._steady.now(db), self._clock.wall_ms()
            return circuits.probe(db, self._q, name, token, lease_ms, job, now, wall)

        return self._write(write, durable=False)

    def tally(self, name: str, policy: CircuitPolicy, tally: Tally) -> CircuitRow:
        def write(db: apsw.Connection) -> CircuitRow:
            self._steady.start(db)
            now, wall = self._steady.now(db), self._clock.wall_ms()
            return circuits.tally(db, self._q, name, policy, tally, now, wall)

        row = self._write(write, durable=False)
        if row.waiting and (row.changed is not None or tally.probe is not None):
            self._ready.touch()
        return row

    def switch(self, name: str, open_ms: int | None, opened: bool, reason: str | None, half_open: int) -> CircuitRow:
        def write(db: apsw.Connection) -> CircuitRow:
            self._steady.start(db)
            now, wall = self._steady.now(db), self._clock.wall_ms()
            return circuits.switch(db, self._q, name, open_ms, opened, reason, half_open, now, wall)

        row = self._write(write, durable=True)
        self._ready.touch()
        return row

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
                if one.kind is GuardKind.CONCURRENCY:
                    used = int(str(db.execute(q(HELD), (gate,)).fetchall()[0][0]))
                elif one.kind is GuardKind.RATE:
                    used = RateMeter(db, q, one, now).used() if one.limit else 0
                else:
                    continue
                found.append(LimitRow(one.kind, one.key, used, one.limit or None, one.per_ms, waiting.get(gate, 0)))
            return found[:LIMITS_MAX]

        return self._ask(ask)
