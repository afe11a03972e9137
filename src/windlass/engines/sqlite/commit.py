"""One write of jobs and documents, all or nothing, inside a transaction of the engine or of the caller.

What may say no comes first: swaps are judged before anything is written, and ``insert`` undoes what it refuses.
"""

from __future__ import annotations

from typing import Final

import apsw

from windlass.core.model import CLOCK_SLACK_MS, Opening, Placed, Write, Written
from windlass.core.work import Rules
from windlass.engines.sqlite import joins
from windlass.engines.sqlite.counts import count_these
from windlass.engines.sqlite.documents import has_lost, look, swap
from windlass.engines.sqlite.enqueue import insert
from windlass.engines.sqlite.schema import Sql
from windlass.engines.sqlite.steady import Steady

__all__ = ["commit", "store"]

OPEN_GATE: Final = """
INSERT INTO "windlass_gates" (gate, at) SELECT ?1, ?2
WHERE EXISTS (SELECT 1 FROM "windlass_jobs" WHERE state = 'blocked' AND blocked_by = ?1)
ON CONFLICT (gate) DO UPDATE SET at = excluded.at
"""
FORGET_GATE: Final = 'DELETE FROM "windlass_gates" WHERE gate = ?'


def commit(db: apsw.Connection, q: Sql, write: Write, now: int, rules: Rules, steady: Steady) -> Written:
    """Store jobs and documents, open gates and count; or nothing, when a swap has lost or Duplicate is raised."""
    jobs, swaps = write.jobs, write.swaps
    if not (swaps or write.opens or write.counts or write.has_ties):
        return Written(store(db, q, write, now, rules) if jobs else [])
    clock = steady.now(db)
    is_late = write.clock is not None and abs(clock - write.clock) > CLOCK_SLACK_MS
    if is_late or has_lost(db, q, swaps, now) or joins.any_known(db, q, write.joins):
        return Written([], tuple(look(db, q, one.key, now) for one in swaps), lost=True)
    placed = store(db, q, write, now, rules) if jobs or write.has_ties else []
    documents = tuple(swap(db, q, one, now) for one in swaps)
    for one in write.opens:
        open_gate(db, q, one, clock)
    if write.counts:
        count_these(db, q, now, write.counts)
    return Written(placed, documents)


def store(db: apsw.Connection, q: Sql, write: Write, now: int, rules: Rules) -> list[Placed]:
    """Store jobs and joins, and who is a member of what and waits for what. Raises Duplicate before it writes."""
    jobs = write.jobs
    placed = insert(db, q, jobs, now, rules) if jobs else []
    joins.make(db, q, write.joins, now)
    if write.joins or write.enters or any(job.joins or job.waits for job in jobs):
        joins.enter(db, q, write, placed, now, rules)
    if write.seals:
        joins.seal(db, q, write.seals)
    return placed


def open_gate(db: apsw.Connection, q: Sql, one: Opening, clock: int) -> None:
    """Note when a gate is looked at next, if anybody waits there."""
    if one.in_ms is None:
        db.execute(q(FORGET_GATE), (one.gate,))
    else:
        db.execute(q(OPEN_GATE), (one.gate, clock + one.in_ms if one.in_ms > 0 else 0))
