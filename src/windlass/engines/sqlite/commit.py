"""One write of jobs and documents, all or nothing, inside a transaction of the engine or of the caller.

What may say no comes first: swaps are judged before anything is written, and ``insert`` undoes what it refuses.
"""

from __future__ import annotations

import apsw

from windlass.core.model import Write, Written
from windlass.core.work import Rules
from windlass.engines.sqlite.counts import count_these
from windlass.engines.sqlite.documents import has_lost, look, swap
from windlass.engines.sqlite.enqueue import insert
from windlass.engines.sqlite.schema import Sql

__all__ = ["commit"]


def commit(db: apsw.Connection, q: Sql, write: Write, now: int, rules: Rules) -> Written:
    """Store jobs and documents, and count; or nothing, when a swap has lost or Duplicate is raised."""
    jobs, swaps = write.jobs, write.swaps
    if swaps and has_lost(db, q, swaps, now):
        return Written([], tuple(look(db, q, one.key, now) for one in swaps), lost=True)
    placed = insert(db, q, jobs, now, rules) if jobs else []
    if write.counts:
        count_these(db, q, now, write.counts)
    return Written(placed, tuple(swap(db, q, one, now) for one in swaps)) if swaps else Written(placed)
