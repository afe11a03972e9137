"""Joins: sets of jobs that are counted by how they end, and the jobs that wait for that.

A row of ``windlass_members`` says how one member of one join has ended. Triggers change it with every end of a record,
whoever writes that, and derive the counters of the join from it: the sets decide, and the counters cannot differ from
them. A join whose counters have moved is dirty (1), and so is one that is only to be looked at (2). ``advance`` decides
every dirty join in the write that made it so, level by level; what is left beyond ``LEVELS`` or ``AT_ONCE`` stays
dirty and is done by the next write.

Whoever waits is ``blocked`` with a row in ``windlass_waits``. The row stays when the job is skipped, for a dead member
that runs again may still let it go on; it goes when the job does. The record of a member is held (``HELD``) until no
join has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import apsw
import msgspec

from windlass.core.join import SKIPPED, Tally, decide
from windlass.core.model import NewJoin, Placed, State, Wait, Write
from windlass.core.rows import JoinRow, Member
from windlass.core.work import Rules
from windlass.engines.sqlite.counts import count
from windlass.engines.sqlite.schema import FOREVER, HELD, Sql

__all__ = [
    "LOOK_AGAIN_MS",
    "advance",
    "any_known",
    "enter",
    "make",
    "members_of",
    "page_of",
    "page_of_joins",
    "read_joins",
    "seal",
    "sweep",
    "wait_at",
    "watch",
]

LEVELS: Final = 64  # of waiters that wait for waiters, in one write
AT_ONCE: Final = 1_000  # waiters of a kind that one join moves; a write that has moved so many leaves the rest
JOINS_AT_ONCE: Final = 64
LOOK_AGAIN_MS: Final = 3_600_000  # at a join that is kept for a dead member

Row = TypeVar("Row", JoinRow, Member)

encode = msgspec.json.Encoder().encode

KNOWN: Final = 'SELECT 1 FROM "windlass_joins" WHERE id IN (SELECT value FROM json_each(?)) LIMIT 1'
MAKE: Final = """
INSERT INTO "windlass_joins" (id, sealed, keep_ms, home, meta, made_at, moved_at, dirty, watch_ms, watch_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6, 1, ?7, CASE WHEN ?7 > 0 THEN ?6 + ?7 END) ON CONFLICT (id) DO NOTHING
"""
SEAL: Final = """
UPDATE "windlass_joins" SET sealed = 1, dirty = 1 WHERE id IN (SELECT value FROM json_each(?)) AND NOT sealed
"""
# A member that has ended counts as it did; one whose record is gone, and its end unknown, as an end and no more.
ENTER: Final = """
INSERT INTO "windlass_members" (id, join_id, verdict)
SELECT mine.id, joins.id, CASE WHEN jobs.seq IS NULL THEN 'cancelled' WHEN jobs.purge_at IS NOT NULL THEN jobs.state END
FROM (SELECT value ->> 0 AS id, value ->> 1 AS join_id FROM json_each(?)) AS mine
    JOIN "windlass_joins" AS joins ON joins.id = mine.join_id
    LEFT JOIN "windlass_jobs" AS jobs ON jobs.id = mine.id
WHERE true
ON CONFLICT (id, join_id) DO UPDATE SET verdict = excluded.verdict WHERE verdict IS NOT excluded.verdict
    AND (verdict IS NULL OR EXISTS (SELECT 1 FROM "windlass_jobs" WHERE id = excluded.id))
"""
TIE: Final = f"""
UPDATE "windlass_jobs" SET tied = 1,
    purge_at = CASE WHEN state != 'dead' AND purge_at < {HELD} THEN min(purge_at + {HELD}, {FOREVER}) ELSE purge_at END
WHERE id IN (SELECT value FROM json_each(?))
    AND EXISTS (SELECT 1 FROM "windlass_members" AS members WHERE members.id = "windlass_jobs".id)
"""
# A job's time to expire counts from when it is due, and that is not known yet.
BLOCK: Final = """
UPDATE "windlass_jobs" SET state = 'blocked', blocked_by = mine.gate, tied = 1, expires_at = NULL
FROM (SELECT value ->> 0 AS id, 'join:' || (value ->> 1) AS gate FROM json_each(?)) AS mine
WHERE "windlass_jobs".id = mine.id AND purge_at IS NULL
"""
# A run whose cancel was asked for has ended, and waits for nothing.
ADD_WAITS: Final = """
INSERT OR REPLACE INTO "windlass_waits" (id, join_id, of, count, delay_ms)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?)
WHERE EXISTS (SELECT 1 FROM "windlass_jobs" WHERE id = value ->> 0 AND state = 'blocked')
"""
LOOK_AT: Final = """
UPDATE "windlass_joins" SET dirty = coalesce(dirty, 2) WHERE id IN (SELECT value FROM json_each(?))
"""
# Who waits for a join that is not there waits for nothing that could come.
WITHOUT_JOIN: Final = """
SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM "windlass_joins" WHERE id = value)
"""

DIRTY: Final = 'SELECT id FROM "windlass_joins" WHERE dirty IS NOT NULL LIMIT ?'
# Before it is decided: whatever moves it again meanwhile, as the join of a waiter does, makes it dirty again.
CLEAN: Final = """
UPDATE "windlass_joins" SET dirty = NULL, moved_at = CASE dirty WHEN 1 THEN ?2 ELSE moved_at END,
    ended_at = CASE WHEN sealed AND total = ok + bad + void THEN coalesce(ended_at, ?2) END,
    watch_at = CASE WHEN ended_at IS NOT NULL AND watch_ms > 0 AND NOT (sealed AND total = ok + bad + void)
        THEN ?2 + watch_ms ELSE watch_at END,
    purge_at = CASE WHEN sealed AND total = ok + bad + void AND home IS NULL
        THEN coalesce(purge_at, ?2 + keep_ms) END
WHERE id = ?1 RETURNING sealed, total, ok, bad, void
"""
MORE: Final = 'UPDATE "windlass_joins" SET dirty = coalesce(dirty, 2) WHERE id = ?'
# The kinds of waits at a join, found by steps through their index.
NEXT_WAIT: Final = """
SELECT of, count FROM "windlass_waits" WHERE join_id = ?1 AND (of, count) > (?2, ?3) ORDER BY of, count LIMIT 1
"""
WAITERS: Final = """
SELECT waits.id FROM "windlass_waits" AS waits JOIN "windlass_jobs" AS jobs ON jobs.id = waits.id
WHERE join_id = ?1 AND of = ?2 AND count = ?3
"""
GO: Final = """
UPDATE "windlass_jobs" SET state = 'scheduled', blocked_by = NULL, reason = NULL, finished_at = NULL, purge_at = NULL,
    run_at = max(run_at, ?2 + waits.delay_ms),
    place = CASE WHEN place < 0 THEN place ELSE max(run_at, ?2 + waits.delay_ms) + shift END,
    expires_at = max(run_at, ?2 + waits.delay_ms) + expires_ms
FROM "windlass_waits" AS waits
WHERE "windlass_jobs".id IN (SELECT value FROM json_each(?1)) AND waits.id = "windlass_jobs".id
RETURNING id
"""
WENT: Final = 'DELETE FROM "windlass_waits" WHERE id IN (SELECT value FROM json_each(?))'
SKIP: Final = f"""
UPDATE "windlass_jobs" SET state = 'cancelled', reason = '{SKIPPED}', finished_at = ?2, purge_at = ?2 + ?3
WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'blocked'
"""
WAIT_AGAIN: Final = """
UPDATE "windlass_jobs" SET state = 'blocked', reason = NULL, finished_at = NULL, purge_at = NULL, expires_at = NULL
WHERE id IN (SELECT value FROM json_each(?1)) AND state = 'cancelled'
"""

READ: Final = """
SELECT id, sealed, total, ok, bad, void, made_at, moved_at, ended_at, keep_ms, home, CAST(meta AS BLOB), watch_ms
FROM "windlass_joins"
"""
READ_THESE: Final = READ + "WHERE id IN (SELECT value FROM json_each(?))"
READ_PAGE: Final = READ + "WHERE id > ?1 AND id >= ?2 AND substr(id, 1, ?3) = ?2 ORDER BY id LIMIT ?4"
MEMBERS: Final = """
SELECT id, verdict FROM "windlass_members" WHERE join_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3
"""

WATCH: Final = """
UPDATE "windlass_joins" SET watch_at = ?1 + watch_ms WHERE id IN (
    SELECT id FROM "windlass_joins" WHERE watch_at <= ?1 AND ended_at IS NULL ORDER BY watch_at LIMIT ?2)
RETURNING id
"""
# With one that is still to be decided, or has such a one inside, those who are to go on would be lost.
OVER: Final = """
SELECT id FROM "windlass_joins" AS joins WHERE purge_at <= ? AND sealed AND total = ok + bad + void AND NOT EXISTS (
    SELECT 1 FROM "windlass_joins" AS moved JOIN "windlass_waits" AS waits ON waits.join_id = moved.id
        JOIN "windlass_jobs" AS jobs ON jobs.id = waits.id
    WHERE moved.dirty IS NOT NULL AND joins.id IN (moved.id, moved.home) AND jobs.state = 'blocked')
ORDER BY purge_at LIMIT ?
"""
# A dead member may run again, so the join stays as long as its record.
KEPT: Final = """
SELECT 1 FROM "windlass_members" AS members JOIN "windlass_jobs" AS jobs ON jobs.id = members.id
WHERE join_id = ? AND verdict = 'dead' AND jobs.state = 'dead' LIMIT 1
"""
KEEP: Final = 'UPDATE "windlass_joins" SET purge_at = ?2 WHERE id = ?1'
OF_HOME: Final = 'SELECT id FROM "windlass_joins" WHERE home = ? LIMIT ?'
LEAVE: Final = """
DELETE FROM "windlass_members" WHERE (id, join_id) IN (
    SELECT id, join_id FROM "windlass_members" WHERE join_id = ? LIMIT ?)
"""
FORGET: Final = 'DELETE FROM "windlass_joins" WHERE id = ?'


# -- entering ----------------------------------------------------------------------------------------------------------


def any_known(db: apsw.Connection, q: Sql, joins: Sequence[NewJoin]) -> bool:
    """Whether one of these is there already."""
    return bool(joins) and bool(db.execute(q(KNOWN), (encode([one.id for one in joins]).decode(),)).fetchall())


def make(db: apsw.Connection, q: Sql, joins: Sequence[NewJoin], now: int) -> None:
    """Store joins, before the jobs that enter them."""
    for one in joins:
        db.execute(q(MAKE), (one.id, one.sealed, one.keep_ms, one.home, one.meta, now, one.watch_ms))


def enter(db: apsw.Connection, q: Sql, write: Write, placed: Sequence[Placed], now: int, rules: Rules) -> None:
    """Make stored jobs members of their joins, and let those wait that are to; inside the caller's transaction.

    A duplicate stands for the job that it asked for: what it is a duplicate of enters the joins.
    """
    pairs = [(id, one.id) for one in write.joins for id in one.members]
    pairs += [(id, join) for join, id in write.enters]
    waits = []
    for job, one in zip(write.jobs, placed, strict=True):
        pairs += [(one.id, join) for join in job.joins]
        if job.waits is not None and not one.duplicate:
            waits.append((job.id, job.waits, job.delay_ms if job.run_at is None else 0))
    if pairs:
        db.execute(q(ENTER), (encode(pairs).decode(),))
        db.execute(q(TIE), (encode([id for id, _ in pairs]).decode(),))
    wait_at(db, q, waits, now, rules)


def wait_at(db: apsw.Connection, q: Sql, waits: Sequence[tuple[str, Wait, int]], now: int, rules: Rules) -> None:
    """Let jobs wait: id, what for, and how long they wait on from then."""
    if not waits:
        return
    rows = encode([(id, wait.join, wait.of, wait.count, delay) for id, wait, delay in waits]).decode()
    db.execute(q(BLOCK), (rows,))
    db.execute(q(ADD_WAITS), (rows,))
    named = encode(list({wait.join for _, wait, _ in waits})).decode()
    db.execute(q(LOOK_AT), (named,))
    missing = {str(id) for (id,) in db.execute(q(WITHOUT_JOIN), (named,))}
    for kind in {(wait.join, wait.of, wait.count) for _, wait, _ in waits if wait.join in missing}:
        while give_up(db, q, kind, now, rules):
            pass


def seal(db: apsw.Connection, q: Sql, joins: Sequence[str]) -> None:
    """Let joins take no more members."""
    db.execute(q(SEAL), (encode(joins).decode(),))


# -- deciding ----------------------------------------------------------------------------------------------------------


def advance(db: apsw.Connection, q: Sql, now: int, rules: Rules) -> bool:
    """Decide the joins that have moved, inside the caller's transaction; say whether that moved a job."""
    moved = 0
    for _ in range(LEVELS):
        dirty: list[Any] = db.execute(q(DIRTY), (JOINS_AT_ONCE,)).fetchall()
        if not dirty:
            break
        for (id,) in dirty:
            found: Any = db.execute(q(CLEAN), (id, now)).fetchall()
            ((sealed, *counters),) = found
            changed = decide_join(db, q, str(id), Tally(bool(sealed), *counters), now, rules)
            moved += changed
            if changed >= AT_ONCE:
                db.execute(q(MORE), (id,))
            if moved >= AT_ONCE:
                return True
    return moved > 0


def decide_join(db: apsw.Connection, q: Sql, join: str, tally: Tally, now: int, rules: Rules) -> int:
    """Move those who wait for a join as its members have ended; give how many that were."""
    changed = 0
    of, least = "", -1
    while kind := db.execute(q(NEXT_WAIT), (join, of, least)).fetchone():
        of, least = str(kind[0]), int(str(kind[1]))
        bound = (join, of, least)
        match decide(tally, of, least):  # type: ignore[arg-type]
            case "go":
                changed += go(db, q, waiters(db, q, bound, "state IN ('blocked', 'cancelled')"), now)
            case "skip":
                changed += give_up(db, q, bound, now, rules)
            case "wait":
                changed += wait_again(db, q, waiters(db, q, bound, "state = 'cancelled'"))
    return changed


def give_up(db: apsw.Connection, q: Sql, bound: tuple[str, str, int], now: int, rules: Rules) -> int:
    """Skip those who wait for what cannot come. A body that has run is told by going on: it decides for itself."""
    changed = go(db, q, waiters(db, q, bound, "state = 'blocked' AND fence > 0"), now)
    return changed + skip(db, q, waiters(db, q, bound, "state = 'blocked'"), now, rules)


def waiters(db: apsw.Connection, q: Sql, bound: tuple[str, str, int], which: str) -> list[str]:
    """Some of the jobs that wait so."""
    found = db.execute(q(f"{WAITERS} AND {which} LIMIT {AT_ONCE}"), bound)
    return [str(id) for (id,) in found]


def go(db: apsw.Connection, q: Sql, ids: Sequence[str], now: int) -> int:
    if not ids:
        return 0
    went = [id for (id,) in db.execute(q(GO), (encode(ids).decode(), now))]
    db.execute(q(WENT), (encode(went).decode(),))
    return len(went)


def skip(db: apsw.Connection, q: Sql, ids: Sequence[str], now: int, rules: Rules) -> int:
    if not ids:
        return 0
    db.execute(q(SKIP), (encode(ids).decode(), now, rules.keep_done_ms))
    skipped = db.changes()
    count(db, q, now, "total:cancelled", skipped)
    return skipped


def wait_again(db: apsw.Connection, q: Sql, ids: Sequence[str]) -> int:
    if not ids:
        return 0
    db.execute(q(WAIT_AGAIN), (encode(ids).decode(),))
    return db.changes()


# -- reading and forgetting --------------------------------------------------------------------------------------------


def read_joins(db: apsw.Connection, q: Sql, ids: Sequence[str]) -> list[JoinRow | None]:
    """Joins by id, in that order."""
    found = {row.id: row for row in map(to_join, db.execute(q(READ_THESE), (encode(ids).decode(),)))}
    return [found.get(id) for id in ids]


def to_join(row: Any) -> JoinRow:
    id, sealed, total, ok, bad, void, made_at, moved_at, ended_at, keep_ms, home, meta, watch_ms = row
    return JoinRow(
        id, Tally(bool(sealed), total, ok, bad, void), made_at, moved_at, ended_at, keep_ms, home, meta, watch_ms
    )  # fmt: skip


def page_of_joins(db: apsw.Connection, q: Sql, prefix: str, cursor: str | None, limit: int) -> list[JoinRow]:
    """Joins whose ids begin so, behind the cursor."""
    found = db.execute(q(READ_PAGE), (cursor or "", prefix, len(prefix), limit))
    return [to_join(row) for row in found]


def members_of(db: apsw.Connection, q: Sql, join: str, cursor: str | None, limit: int) -> list[Member]:
    """Members of a join, behind the cursor."""
    found: Any = db.execute(q(MEMBERS), (join, cursor or "", limit))
    return [Member(id, None if verdict is None else State(verdict)) for id, verdict in found]


def page_of(found: list[Row], limit: int) -> tuple[list[Row], str | None]:
    """The first of these and the cursor of the page behind them, if there is more."""
    return found[:limit], found[limit - 1].id if len(found) > limit else None


def watch(db: apsw.Connection, q: Sql, now: int, budget: int) -> tuple[str, ...]:
    """Name joins that have not ended and were not named for as long as they say."""
    return tuple(str(id) for (id,) in db.execute(q(WATCH), (now, budget)))


def sweep(db: apsw.Connection, q: Sql, now: int, budget: int) -> int:
    """Forget joins whose time is over, and let go of the records of their members; give how many rows that were."""
    gone = 0
    over = [str(id) for (id,) in db.execute(q(OVER), (now, budget))]
    for id in over:
        if gone >= budget:
            break
        if db.execute(q(KEPT), (id,)).fetchone() is not None:
            db.execute(q(KEEP), (id, now + LOOK_AGAIN_MS))
            continue
        inner = [str(one) for (one,) in db.execute(q(OF_HOME), (id, budget))]
        for one in (*inner, id):
            if gone < budget:
                db.execute(q(LEAVE), (one, budget - gone))
                gone += db.changes()
            if gone < budget and not (one == id and len(inner) >= budget):
                db.execute(q(FORGET), (one,))
                gone += 1
    return gone
