"""Storing jobs: insert-if-absent by id, all or none.

The usual batch holds only new ids, so it is inserted without looking first and the count of changes tells whether that
was so. Only a batch with a known id, or one with ids that users chose (which may have a tombstone), or with unique
keys, is taken apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import apsw
import msgspec

from windlass.core.errors import Duplicate
from windlass.core.model import WAITING, Guard, NewJob, Placed, State, UniqueKey
from windlass.core.work import Rules
from windlass.engines.sqlite.counts import count_each
from windlass.engines.sqlite.fields import (
    INSERT,
    INSERT_GUARDED,
    REPLACE,
    bindings,
    due_of,
    guarded_bindings,
    once_key,
)
from windlass.engines.sqlite.notes import drop_notes
from windlass.engines.sqlite.schema import Sql
from windlass.engines.sqlite.upkeep import lapse

__all__ = ["ADD_QUEUES", "forget_markers", "insert"]

HOLDER: Final = 'SELECT id, next, expires_at FROM "windlass_unique" WHERE key = ?'
STATE_OF: Final = 'SELECT state FROM "windlass_jobs" WHERE id = ?'
# A key until expiry may outlive its job, and another job have its id by now.
STATE_OF_HOLDER: Final = 'SELECT state FROM "windlass_jobs" WHERE id = ? AND uniq ->> 0 = ?'
TAKE_KEY: Final = """
INSERT OR REPLACE INTO "windlass_unique" (key, id, until, expires_at) VALUES (?, ?, ?, ?)
"""
PROLONG: Final = 'UPDATE "windlass_unique" SET expires_at = ? WHERE key = ?'
OPEN_GATES: Final = """
INSERT INTO "windlass_gates" (gate, at) SELECT gate, 0 FROM "windlass_holds"
WHERE seq = (SELECT seq FROM "windlass_jobs" WHERE id = ?) ON CONFLICT (gate) DO UPDATE SET at = 0
"""
DROP_HOLDS: Final = """
DELETE FROM "windlass_holds" WHERE seq = (SELECT seq FROM "windlass_jobs" WHERE id = ?)
"""
# While one waits behind the holder, the key is the holder's to its end: nothing else would wake it.
WAIT_BEHIND: Final = 'UPDATE "windlass_unique" SET next = ?, expires_at = NULL WHERE key = ?'
BLOCK: Final = "UPDATE \"windlass_jobs\" SET state = 'blocked', blocked_by = ? WHERE id = ?"
# A marker is forgotten when its time is over and no record carries its key any more.
FORGET_MARKERS: Final = """
DELETE FROM "windlass_once" WHERE key IN (SELECT value FROM json_each(?)) AND until <= ?
    AND NOT EXISTS (SELECT 1 FROM "windlass_jobs" WHERE once_key = "windlass_once".key AND state != 'done')
"""
ADD_QUEUES: Final = """
INSERT INTO "windlass_queues" (name) SELECT value FROM json_each(?) WHERE true
ON CONFLICT (name) DO UPDATE SET idle_since = NULL WHERE idle_since IS NOT NULL
"""
# Whether ADD_QUEUES has nothing to do for a queue.
IN_USE: Final = 'SELECT 1 FROM "windlass_queues" WHERE name = ? AND idle_since IS NULL'
TOMBSTONES: Final = """
SELECT id FROM "windlass_tombstones" WHERE until > ? AND id IN (SELECT value FROM json_each(?))
"""

encode = msgspec.json.Encoder().encode


def insert(db: apsw.Connection, q: Sql, jobs: Sequence[NewJob], now: int, rules: Rules) -> list[Placed]:
    """Store jobs inside the caller's write transaction, in order; say which were duplicates."""
    if len(jobs) == 1 and is_plain(jobs[0]):
        job = jobs[0]
        keep_name(db, q, job.queue)
        placed = [store(db, q, job, now, rules)]
    else:
        db.execute(q(ADD_QUEUES), (encode(list({job.queue for job in jobs})).decode(),))
        placed = insert_any(db, q, jobs, now, rules)
    fresh = [job.queue for job, one in zip(jobs, placed, strict=True) if not one.duplicate]
    count_each(db, q, now, "arrived", fresh)
    return placed


def is_plain(job: NewJob) -> bool:
    """Whether nothing but its own id may be in the way of a job."""
    return not (job.guards or job.unique is not None or job.caller_id)


def keep_name(db: apsw.Connection, q: Sql, queue: str) -> None:
    """As ADD_QUEUES for one queue; most often it is known, and nothing is to be written."""
    if db.execute(q(IN_USE), (queue,)).fetchone() is None:
        db.execute(q(ADD_QUEUES), (encode([queue]).decode(),))


def insert_any(db: apsw.Connection, q: Sql, jobs: Sequence[NewJob], now: int, rules: Rules) -> list[Placed]:
    """Store a batch, or a job with guards or an id that somebody chose."""
    tombs = tombstones(db, q, jobs, now)
    guarded = any(job.guards or job.unique for job in jobs)
    if guarded:
        forget_markers(db, q, (job.guards for job in jobs), now)
    if len(jobs) == 1:
        return one_by_one(db, q, jobs, now, rules, tombs)
    apart = tombs or len({job.id for job in jobs}) < len(jobs) or (guarded and any(job.unique for job in jobs))
    before = db.total_changes()
    db.execute("SAVEPOINT batch")
    try:
        if not apart:
            sql, bound = (q(INSERT_GUARDED), guarded_bindings) if guarded else (q(INSERT), bindings)
            db.executemany(sql, [bound(job, now) for job in jobs])
        if not apart and db.total_changes() - before == len(jobs):
            placed = [Placed(job.id) for job in jobs]
        else:
            db.execute("ROLLBACK TO batch")
            placed = one_by_one(db, q, jobs, now, rules, tombs)
    except Duplicate:  # any other error ends the whole transaction, and a full disk has ended it already
        db.execute("ROLLBACK TO batch")
        db.execute("RELEASE batch")
        raise
    db.execute("RELEASE batch")
    return placed


def forget_markers(db: apsw.Connection, q: Sql, guards: Iterable[tuple[Guard, ...]], now: int) -> None:
    """Forget the Once markers whose time is over, before jobs with these guards carry their keys."""
    if keys := [key for each in guards if (key := once_key(each)) is not None]:
        db.execute(q(FORGET_MARKERS), (encode(keys).decode(), now))


def one_by_one(
    db: apsw.Connection, q: Sql, jobs: Sequence[NewJob], now: int, rules: Rules, tombs: set[str]
) -> list[Placed]:
    """Insert each job for itself and see whether its id and its unique key were free."""
    placed = []
    for job in jobs:
        if job.id in tombs:
            placed.append(Placed(job.id, duplicate=True))
            continue
        if job.unique is not None and (other := taken(db, q, job, job.unique, now, rules)) is not None:
            placed.append(other)
            continue
        one = store(db, q, job, now, rules)
        if job.unique is not None and not one.duplicate:
            take_key(db, q, job, job.unique, now)
        placed.append(one)
    return placed


def store(db: apsw.Connection, q: Sql, job: NewJob, now: int, rules: Rules) -> Placed:
    """Insert one job if its id is free, or is that of a record whose time is over."""
    if job.guards or job.unique:
        sql, bound = q(INSERT_GUARDED), guarded_bindings(job, now)
    else:
        sql, bound = q(INSERT), bindings(job, now)
    db.execute(sql, bound)
    if db.changes() == 0:
        if not lapse(db, q, [job.id], rules, now) or tombstones(db, q, [job], now):
            return Placed(job.id, duplicate=True)
        db.execute(sql, bound)
        return Placed(job.id, duplicate=db.changes() == 0)
    return Placed(job.id)


def take_key(db: apsw.Connection, q: Sql, job: NewJob, unique: UniqueKey, now: int) -> None:
    """Make a job that was just stored the holder of its key, or the one that waits behind the holder."""
    found = db.execute(q(HOLDER), (unique.key,)).fetchone()
    if found is not None and (found[2] is None or found[2] > now):
        db.execute(q(WAIT_BEHIND), (job.id, unique.key))
        db.execute(q(BLOCK), (f"unique:{unique.key}", job.id))
        return
    expires = None if unique.ttl_ms is None else due_of(job, now) + unique.ttl_ms
    db.execute(q(TAKE_KEY), (unique.key, job.id, unique.until, expires))


def taken(db: apsw.Connection, q: Sql, job: NewJob, unique: UniqueKey, now: int, rules: Rules) -> Placed | None:
    """Settle the conflict of a job whose key is taken; None when the job is to be stored. Raises Duplicate."""
    found = db.execute(q(HOLDER), (unique.key,)).fetchone()
    if found is None or (found[2] is not None and found[2] <= now):
        return None
    holder, behind = str(found[0]), found[1]
    if lapse(db, q, [holder], rules, now):  # it has expired, so its key is free, or that of the one behind it
        return taken(db, q, job, unique, now, rules)
    if db.execute(q(STATE_OF), (job.id,)).fetchone() is not None and not lapse(db, q, [job.id], rules, now):
        return Placed(job.id, duplicate=True)
    if unique.rule == "return":
        return Placed(holder, duplicate=True)
    if unique.rule == "raise":
        raise Duplicate(
            f"job {job.name} is not stored: its unique key {unique.key!r} is taken by job {holder}; wait for that one, "
            "or give another on_conflict",
            holder,
        )
    if unique.rule == "keep_latest" and behind is not None:
        replace(db, q, str(behind), job, now, behind=True)
        return Placed(str(behind), duplicate=True)
    state = db.execute(q(STATE_OF_HOLDER), (holder, unique.key)).fetchone()
    if state is not None and State(state[0]) in WAITING:
        replace(db, q, holder, job, now, behind=False)
        if unique.ttl_ms is not None:
            db.execute(q(PROLONG), (due_of(job, now) + unique.ttl_ms, unique.key))
        return Placed(holder, duplicate=True)
    if unique.rule == "keep_latest" and state is not None and state[0] == State.RUNNING:
        return None
    return Placed(holder, duplicate=True)


def replace(db: apsw.Connection, q: Sql, job_id: str, job: NewJob, now: int, *, behind: bool) -> None:
    """Write a new job over a waiting one."""
    db.execute(q(OPEN_GATES), (job_id,))
    db.execute(q(DROP_HOLDS), (job_id,))  # a Once key that an earlier run took: the new job may have another
    drop_notes(db, q, job_id)  # of runs with other arguments
    db.execute(q(REPLACE), (*guarded_bindings(job, now), behind, job_id))


def tombstones(db: apsw.Connection, q: Sql, jobs: Sequence[NewJob], now: int) -> set[str]:
    """Which of the ids that users chose belong to a job that is gone but not forgotten."""
    chosen = [job.id for job in jobs if job.caller_id]
    if not chosen:
        return set()
    return {str(found[0]) for found in db.execute(q(TOMBSTONES), (now, encode(chosen).decode()))}
