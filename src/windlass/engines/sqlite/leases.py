"""Leases of workers, and what happens to jobs when a worker ends: in order, by a death somebody saw, or by silence.

Each statement changes only jobs that run and that the worker has, so what is said twice is done once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from windlass.core.fingerprint import INTERRUPTED, POISON
from windlass.core.model import JobError
from windlass.core.work import Buried, Heartbeat, LeaseRef, Rules, WorkerInfo
from windlass.engines.sqlite.counts import count
from windlass.engines.sqlite.schema import FOREVER, HISTORY, Sql

__all__ = ["bury", "dead_keep", "depart", "end_silent", "extend", "release_strays"]

encode = msgspec.json.Encoder().encode
decode_words = msgspec.json.Decoder(tuple[str, ...]).decode

BEAT: Final = """
INSERT INTO "windlass_workers" (id, boot, lease_until, beat_at, info) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET boot = excluded.boot, lease_until = excluded.lease_until, beat_at = excluded.beat_at,
    info = excluded.info
"""
CONTROL: Final = 'SELECT control FROM "windlass_workers" WHERE id = ?'
HELD: Final = """
SELECT json_group_array(json_array(id, fence, cancel)) FROM "windlass_jobs" WHERE state = 'running' AND worker = ?
"""
FORGET_WORKER: Final = 'DELETE FROM "windlass_workers" WHERE id = ?'

# An interruption is free until there have been too many; then each costs an attempt, and the last attempt is the end.
INTERRUPT: Final = f"""
UPDATE "windlass_jobs" SET
    state = CASE WHEN cancel THEN 'cancelled'
                 WHEN interruptions >= ?3 AND attempt + 1 >= max_attempts THEN 'dead' ELSE 'ready' END,
    reason = CASE WHEN cancel THEN 'cancelled'
                  WHEN interruptions >= ?3 AND attempt + 1 >= max_attempts THEN 'interrupted' END,
    finished_at = CASE WHEN cancel OR (interruptions >= ?3 AND attempt + 1 >= max_attempts) THEN ?2 END,
    purge_at = CASE WHEN cancel THEN ?2 + ?5
                    WHEN interruptions >= ?3 AND attempt + 1 >= max_attempts THEN ?2 + ?6 END,
    errors = CASE WHEN interruptions >= ?3
                  THEN json_insert({HISTORY}, '$[#]', json_set(?4, '$.attempt', attempt + 1, '$.at', ?2))
                  ELSE errors END,
    attempt = attempt + (interruptions >= ?3),
    interruptions = interruptions + 1,
    error_type = CASE WHEN NOT cancel AND interruptions >= ?3 AND attempt + 1 >= max_attempts THEN ?7 END,
    fingerprint = CASE WHEN NOT cancel AND interruptions >= ?3 AND attempt + 1 >= max_attempts THEN ?8 END,
    worker = NULL
WHERE state = 'running' AND worker = ?1 RETURNING id, state
"""
# A started job of a dead process: first charge at once, from the second alone and later, at the last dead.
CHARGE: Final = f"""
UPDATE "windlass_jobs" SET
    state = CASE WHEN cancel THEN 'cancelled' WHEN crashes + 1 >= ?4 THEN 'dead'
                 WHEN crashes >= 1 THEN 'scheduled' ELSE 'ready' END,
    reason = CASE WHEN cancel THEN 'cancelled' WHEN crashes + 1 >= ?4 THEN 'poison' END,
    finished_at = CASE WHEN cancel OR crashes + 1 >= ?4 THEN ?2 END,
    purge_at = CASE WHEN cancel THEN ?2 + ?7 WHEN crashes + 1 >= ?4 THEN ?2 + ?8 END,
    run_at = CASE WHEN crashes >= 1 THEN ?2 + min(?11, ?5 << min(crashes - 1, 31)) ELSE run_at END,
    errors = json_insert({HISTORY}, '$[#]', json_set(?6, '$.attempt', attempt + 1, '$.at', ?2)),
    crashes = crashes + 1,
    error_type = CASE WHEN NOT cancel AND crashes + 1 >= ?4 THEN ?9 END,
    fingerprint = CASE WHEN NOT cancel AND crashes + 1 >= ?4 THEN ?10 END,
    worker = NULL
WHERE state = 'running' AND worker = ?1 AND fence IN (SELECT value FROM json_each(?3)) RETURNING id, state
"""
RELEASE_HELD: Final = """
UPDATE "windlass_jobs" SET state = CASE WHEN cancel THEN 'cancelled' ELSE 'ready' END,
    reason = CASE WHEN cancel THEN 'cancelled' END, finished_at = CASE WHEN cancel THEN ?2 END,
    purge_at = CASE WHEN cancel THEN ?2 + ?3 END, worker = NULL
WHERE state = 'running' AND worker = ?1 RETURNING id, state
"""

SILENT: Final = 'SELECT id FROM "windlass_workers" WHERE boot != ? OR lease_until <= ? ORDER BY lease_until LIMIT ?'
OWNERLESS: Final = """
SELECT DISTINCT worker FROM "windlass_jobs" WHERE state = 'running'
    AND worker NOT IN (SELECT id FROM "windlass_workers") LIMIT ?
"""

INTERRUPTED_ERROR: Final = encode(
    JobError(INTERRUPTED.error_type, "interrupted more often than max_interruptions allows", "", 0, 0)
).decode()


class Held(msgspec.Struct, array_like=True):
    """One job a worker holds, as HELD gives it."""

    id: str
    fence: int
    cancel: int


decode_held = msgspec.json.Decoder(list[Held]).decode


def held_by(db: apsw.Connection, q: Sql, worker: str) -> list[Held]:
    """What the store thinks a worker runs."""
    (packed,) = db.execute(q(HELD), (worker,)).fetchall()[0]
    return decode_held(str(packed))


def extend(
    db: apsw.Connection, q: Sql, worker: WorkerInfo, leases: Sequence[LeaseRef], boot: str, until: int, now: int
) -> Heartbeat:
    """Renew one worker inside the caller's write transaction."""
    db.execute(q(BEAT), (worker.id, boot, until, now, encode(worker).decode()))
    held = held_by(db, q, worker.id)
    mine = {(one.id, one.fence) for one in held}
    listed = {(lease.id, lease.fence) for lease in leases}
    control = db.execute(q(CONTROL), (worker.id,)).fetchone()
    return Heartbeat(
        lost=tuple(lease for lease in leases if (lease.id, lease.fence) not in mine),
        strays=tuple(LeaseRef(one.id, one.fence) for one in held if (one.id, one.fence) not in listed),
        cancels=tuple(LeaseRef(one.id, one.fence) for one in held if one.cancel),
        control=decode_words(control[0]) if control and control[0] else (),
    )


def depart(db: apsw.Connection, q: Sql, worker: str, now: int, rules: Rules) -> Buried:
    """Release what a worker holds as interrupted and forget the worker."""
    released, died = interrupt(db, q, worker, now, rules)
    db.execute(q(FORGET_WORKER), (worker,))
    return Buried(tuple(released), dead=tuple(died))


def interrupt(db: apsw.Connection, q: Sql, worker: str, now: int, rules: Rules) -> tuple[list[str], list[str]]:
    """End the leases of a worker that did not say how its jobs went; give ids that run again, and that died."""
    ended = db.execute(
        q(INTERRUPT),
        (
            worker,
            now,
            rules.max_interruptions,
            INTERRUPTED_ERROR,
            rules.keep_done_ms,
            dead_keep(rules),
            INTERRUPTED.error_type,
            INTERRUPTED.fingerprint,
        ),
    ).fetchall()
    died = ids_in(ended, "dead")
    count(db, q, now, "total:dead", len(died))
    return ids_in(ended, "ready"), died


def release_strays(db: apsw.Connection, q: Sql, now: int, rules: Rules) -> int:
    """Make the running jobs of workers that are not registered ready again, at no cost to them; give how many."""
    free = msgspec.structs.replace(rules, max_interruptions=FOREVER)
    workers = [str(id) for (id,) in db.execute(q(OWNERLESS), (-1,))]
    released = [job for worker in workers for job in interrupt(db, q, worker, now, free)[0]]
    count(db, q, now, "total:recovered", len(released))
    return len(released)


class Reaped(msgspec.Struct, frozen=True):
    """What became of workers that nobody hears of, and of their jobs."""

    workers: int  # that were looked at
    silent: tuple[str, ...]  # those whose leases had run out
    released: tuple[str, ...]  # jobs that run again
    died: tuple[str, ...]


def end_silent(db: apsw.Connection, q: Sql, rules: Rules, budget: int, boot: str, boot_now: int, now: int) -> Reaped:
    """End the leases of workers that were not renewed in time, and of those that are not registered."""
    silent = [str(id) for (id,) in db.execute(q(SILENT), (boot, boot_now, budget))]
    gone = silent + [str(id) for (id,) in db.execute(q(OWNERLESS), (budget,))]
    released: list[str] = []
    died: list[str] = []
    for worker in gone:
        again, dead = interrupt(db, q, worker, now, rules)
        released += again
        died += dead
        db.execute(q(FORGET_WORKER), (worker,))
    count(db, q, now, "total:recovered", len(released))
    return Reaped(len(gone), tuple(silent), tuple(released), tuple(died))


def bury(
    db: apsw.Connection, q: Sql, worker: str, started: Sequence[int], error: str, now: int, rules: Rules
) -> Buried:
    """Release what a dead process held; charge the crash to what it had started."""
    struck = db.execute(
        q(CHARGE),
        (
            worker,
            now,
            encode(list(started)).decode(),
            rules.max_crashes,
            rules.crash_delay_ms,
            error,
            rules.keep_done_ms,
            dead_keep(rules),
            POISON.error_type,
            POISON.fingerprint,
            rules.crash_delay_max_ms,
        ),
    ).fetchall()
    handed = db.execute(q(RELEASE_HELD), (worker, now, rules.keep_done_ms)).fetchall()
    db.execute(q(FORGET_WORKER), (worker,))
    buried = Buried(
        released=tuple(ids_in(handed, "ready")),
        charged=tuple(ids_in(struck, "ready", "scheduled")),
        dead=tuple(ids_in(struck, "dead")),
    )
    count(db, q, now, "total:dead", len(buried.dead))
    count(db, q, now, "total:crashed", len(struck))
    count(db, q, now, "total:recovered", len(buried.released) + len(buried.charged))
    return buried


def ids_in(changed: Sequence[tuple[object, ...]], *states: str) -> list[str]:
    """The ids of the rows that a statement put into one of these states."""
    return [str(id) for id, state in changed if state in states]


def dead_keep(rules: Rules) -> int:
    """How long a dead record stays, in ms."""
    return FOREVER if rules.dead_keep_ms is None else rules.dead_keep_ms
