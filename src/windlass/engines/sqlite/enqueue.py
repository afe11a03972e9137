"""Storing jobs: insert-if-absent by id, all or none.

The usual batch holds only new ids, so it is inserted without looking first and the count of changes tells whether that
was so. Only a batch with a known id, or one with ids that users chose (which may have a tombstone), is taken apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from windlass.engines.sqlite.flow import count_flow
from windlass.engines.sqlite.schema import Sql
from windlass.engines.sqlite.totals import add_total
from windlass.model import NewJob, Placed

__all__ = ["ADD_QUEUES", "insert"]

INSERT: Final = """
INSERT INTO "windlass_jobs" (id, name, queue, state, payload, priority, place, run_at, enqueued_at, max_attempts,
                             expires_ms, expires_at, tags, meta, caller_id, shift)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING
"""
ADD_QUEUES: Final = """
INSERT INTO "windlass_queues" (name) SELECT value FROM json_each(?) WHERE true ON CONFLICT (name) DO NOTHING
"""
TOMBSTONES: Final = """
SELECT id FROM "windlass_tombstones" WHERE until > ? AND id IN (SELECT value FROM json_each(?))
"""

encode = msgspec.json.Encoder().encode


def row(job: NewJob, now: int) -> tuple[object, ...]:
    """The bindings of INSERT for one job."""
    run_at = job.run_at
    if run_at is None:
        run_at = now + job.delay_ms
    expires = job.expires_ms
    shift = job.priority * job.aging_ms
    return (
        job.id,
        job.name,
        job.queue,
        "ready" if run_at <= now else "scheduled",
        job.payload,
        job.priority,
        -now if job.at_front else run_at + shift,
        run_at,
        now,
        job.max_attempts,
        expires,
        None if expires is None else run_at + expires,
        encode(job.tags).decode() if job.tags else None,
        job.meta,
        1 if job.caller_id else 0,
        shift,
    )


def insert(db: apsw.Connection, q: Sql, jobs: Sequence[NewJob], now: int) -> list[Placed]:
    """Store jobs inside the caller's write transaction, in order; say which were duplicates."""
    db.execute(q(ADD_QUEUES), (encode(list({job.queue for job in jobs})).decode(),))
    buried = tombstones(db, q, jobs, now)
    sql = q(INSERT)
    before = db.total_changes()
    placed: list[Placed]
    if buried or len(jobs) == 1 or len({job.id for job in jobs}) < len(jobs):
        placed = one_by_one(db, sql, jobs, now, buried)
    else:
        db.execute("SAVEPOINT batch")
        db.executemany(sql, [row(job, now) for job in jobs])
        if db.total_changes() - before == len(jobs):
            placed = [Placed(job.id) for job in jobs]
        else:
            db.execute("ROLLBACK TO batch")
            placed = one_by_one(db, sql, jobs, now, buried)
        db.execute("RELEASE batch")
    fresh = [job.queue for job, one in zip(jobs, placed, strict=True) if not one.duplicate]
    add_total(db, q, "enqueued", len(fresh))
    count_flow(db, q, now, arrived=fresh)
    return placed


def one_by_one(db: apsw.Connection, sql: str, jobs: Sequence[NewJob], now: int, buried: set[str]) -> list[Placed]:
    """Insert each job for itself and see whether its id was free."""
    placed = []
    for job in jobs:
        if job.id in buried:
            placed.append(Placed(job.id, duplicate=True))
            continue
        db.execute(sql, row(job, now))
        placed.append(Placed(job.id, duplicate=db.changes() == 0))
    return placed


def tombstones(db: apsw.Connection, q: Sql, jobs: Sequence[NewJob], now: int) -> set[str]:
    """Which of the ids that users chose belong to a job that is gone but not forgotten."""
    chosen = [job.id for job in jobs if job.caller_id]
    if not chosen:
        return set()
    return {str(found[0]) for found in db.execute(q(TOMBSTONES), (now, encode(chosen).decode()))}
