"""Holds: who has a place at a gate, and who waits in line for one.

A hold is a row of ``windlass_holds``. That of a run bears its job's ``seq`` and goes by a trigger when the job moves
(``schema``). That of a token bears its fence below zero as ``seq``, and a lease: it counts until that is over. A place
in the line of a gate is kept by asking again, so the line is first come, first served, and who died in it falls out.

Each function is one step inside the caller's transaction. It must not know what a gate is for: ``places`` come with
each call. Invariant: who takes a place for a token removes the holds at that gate whose lease is over, and a token
whose lease is over renews only where nobody else has a place, so no place is held twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from windlass.core.coordination import Grip, HoldRow
from windlass.core.work import LeaseRef
from windlass.engines.damage import made
from windlass.engines.sqlite.fences import next_fence
from windlass.engines.sqlite.schema import Sql

__all__ = ["forget", "hold", "release", "renew", "rows", "taken"]

KEPT_MS: Final = 3_600_000  # how long a hold that nobody succeeded is kept after its lease

# Places that are taken, and when the lease of a token ends as the first of all.
TAKEN: Final = 'SELECT count(*), min(until) FROM "windlass_holds" WHERE gate = ?1 AND (until IS NULL OR until > ?2)'
TOKENS: Final = 'SELECT seq, token, until, owner FROM "windlass_holds" WHERE gate = ? AND seq < 0 ORDER BY until'
# A run may have a place where one of its guards is: these it gives back when it stops.
RUN: Final = """
SELECT seq, EXISTS (SELECT 1 FROM "windlass_holds" AS held WHERE held.seq = job.seq AND held.gate = ?3)
FROM "windlass_jobs" AS job WHERE id = ?1 AND fence = ?2 AND state = 'running' AND EXISTS (
    SELECT 1 FROM json_each(job.guards) AS guard WHERE guard.value ->> 1 = ?3)
"""
TAKE: Final = 'INSERT INTO "windlass_holds" (gate, seq, token, until, since, owner) VALUES (?, ?, ?, ?, ?, ?)'
RENEW: Final = 'UPDATE "windlass_holds" SET until = ? WHERE gate = ? AND seq = ?'
DROP_LATE: Final = 'DELETE FROM "windlass_holds" WHERE gate = ? AND until <= ?'
RELEASE: Final = 'DELETE FROM "windlass_holds" WHERE gate = ? AND token = ?'
RELEASE_ALL: Final = """
DELETE FROM "windlass_holds" WHERE gate = ? AND (seq < 0 OR substr(gate, 1, 8) = 'circuit:')
"""
FORGET: Final = 'DELETE FROM "windlass_holds" WHERE until <= ?'
HOLDS: Final = """
SELECT gate, coalesce(held.owner, ''), iif(held.seq < 0, -held.seq, job.fence), coalesce(held.since, job.started_at),
    until - ?1, (SELECT count(*) FROM "windlass_line" AS line WHERE line.gate = held.gate AND line.until > ?1), job.id
FROM "windlass_holds" AS held LEFT JOIN "windlass_jobs" AS job ON job.seq = held.seq
WHERE substr(gate, 1, length(?2)) = ?2 AND (held.seq < 0 OR job.seq IS NOT NULL) ORDER BY gate, 3
"""
# The gate is looked at by the next claim, if any job waits there.
LOOK: Final = """
INSERT INTO "windlass_gates" (gate, at) SELECT ?1, 0
WHERE EXISTS (SELECT 1 FROM "windlass_jobs" WHERE state = 'blocked' AND blocked_by = ?1)
ON CONFLICT (gate) DO UPDATE SET at = 0
"""

LEAVE_LINE: Final = 'DELETE FROM "windlass_line" WHERE gate = ? AND token = ?'
SHORTEN_LINE: Final = 'DELETE FROM "windlass_line" WHERE gate = ? AND until <= ?'
FIRST: Final = 'SELECT token FROM "windlass_line" WHERE gate = ? ORDER BY ticket LIMIT 1'
STAY: Final = 'UPDATE "windlass_line" SET until = ? WHERE gate = ? AND token = ?'
QUEUE_UP: Final = """
INSERT INTO "windlass_line" (gate, ticket, token, until)
SELECT ?1, 1 + coalesce((SELECT max(ticket) FROM "windlass_line" WHERE gate = ?1), 0), ?2, ?3
"""
SOONER: Final = 'UPDATE "windlass_gates" SET at = ?1 WHERE gate = ?2 AND at > ?1'
FORGET_LINE: Final = 'DELETE FROM "windlass_line" WHERE until <= ?'


def taken(db: apsw.Connection, q: Sql, gate: str, now: int) -> tuple[int, int | None]:
    """How many places at a gate are taken, and when the first lease of them ends (None: there are only runs)."""
    ((count, until),) = db.execute(q(TAKEN), (gate, now)).fetchall()
    return int(str(count)), None if until is None else int(str(until))


def hold(
    db: apsw.Connection,
    q: Sql,
    gate: str,
    token: str,
    places: int,
    lease_ms: int,
    owner: str,
    wait_ms: int,
    job: LeaseRef | None,
    now: int,
    wall: int,
) -> Grip:
    """Take a place or renew it, else take a place in the line."""
    run = None if job is None else db.execute(q(RUN), (job.id, job.fence, gate)).fetchone()
    if job is not None and run is not None and run[1]:
        return Grip(job.fence)
    count, _ = taken(db, q, gate, now)
    tokens = [(int(seq), str(name), int(until), str(who)) for seq, name, until, who in db.execute(q(TOKENS), (gate,))]
    for seq, name, until, _ in tokens:
        if run is None and name == token and (until > now or count == 0 < places):
            prolong(db, q, gate, seq, until, now + lease_ms)
            return Grip(-seq)
    db.execute(q(SHORTEN_LINE), (gate, now))
    first = db.execute(q(FIRST), (gate,)).fetchone()
    if count < places and (first is None or first[0] == token):
        db.execute(q(LEAVE_LINE), (gate, token))
        db.execute(q(DROP_LATE), (gate, now))
        if job is not None and run is not None:
            db.execute(q(TAKE), (gate, run[0], None, None, None, None))
            return Grip(job.fence)
        fence = next_fence(db, q, 1, wall, max((-seq for seq, *_ in tokens), default=0))
        db.execute(q(TAKE), (gate, -fence, token, now + lease_ms, wall, owner))
        return Grip(fence)
    if wait_ms > 0:
        db.execute(q(STAY), (now + wait_ms, gate, token))
        if not db.changes():
            db.execute(q(QUEUE_UP), (gate, token, now + wait_ms))
    ends, who = next(
        ((until, who) for _, _, until, who in tokens if until > now), (now, tokens[0][3] if tokens else "")
    )
    return Grip(None, ends - now, who)


def renew(db: apsw.Connection, q: Sql, held: Sequence[tuple[str, str]], lease_ms: int, now: int) -> list[bool]:
    """Renew holds of tokens; say of each whether it could be."""
    kept = []
    for gate, token in held:
        mine = next(((seq, until) for seq, name, until, _ in db.execute(q(TOKENS), (gate,)) if name == token), None)
        good = mine is not None and (mine[1] > now or not taken(db, q, gate, now)[0])
        if mine is not None and good:
            prolong(db, q, gate, *mine, now + lease_ms)
        kept.append(good)
    return kept


def prolong(db: apsw.Connection, q: Sql, gate: str, seq: int, before: int, until: int) -> None:
    """Let a lease end then. Where that is sooner than before, the gate is looked at sooner as well."""
    db.execute(q(RENEW), (until, gate, seq))
    if until < before:
        db.execute(q(SOONER), (until, gate))


def release(db: apsw.Connection, q: Sql, gate: str, token: str | None) -> bool:
    """Give back the place of a token and leave the line, or with None give back those of all tokens and probes."""
    if token is None:
        db.execute(q(RELEASE_ALL), (gate,))
        released = db.changes() > 0
    else:
        db.execute(q(RELEASE), (gate, token))
        released = db.changes() > 0
        db.execute(q(LEAVE_LINE), (gate, token))
    if released:
        db.execute(q(LOOK), (gate,))
    return released


def rows(db: apsw.Connection, q: Sql, prefix: str, now: int) -> list[HoldRow]:
    """Every hold at the gates that begin so."""
    names = HoldRow.__struct_fields__
    return [made(HoldRow, **dict(zip(names, row, strict=True))) for row in db.execute(q(HOLDS), (now, prefix))]


def forget(db: apsw.Connection, q: Sql, now: int) -> None:
    """Forget tokens that nobody succeeded for an hour after their lease, and who died in a line."""
    db.execute(q(FORGET), (now - KEPT_MS,))
    db.execute(q(FORGET_LINE), (now,))
