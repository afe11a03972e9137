"""Names of queues that nothing needs any more: noted, and forgotten when they are still idle an hour later.

A name is needed while it has a pause or a bound, or a job that is not dead. Whatever gives it one of these clears the
note (enqueue, a pause, a bound, a dead job that lives again), so what a look finds beside a note stays true until the
name is forgotten. Hence the costly look, for jobs that wait without an index by queue, is made outside of any write,
and only for names whose hour is over; names are noted in steps of time, so that one look serves many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from windlass.engines.sqlite.schema import Sql

__all__ = ["forget_names", "note_idle_names", "unneeded_names"]

NAME_KEPT_MS: Final = 3_600_000
NOTE_STEP_MS: Final = 600_000
NAMES_MAX: Final = 250  # names that one step looks at
FORGET_MAX: Final = 1_000  # names that one step forgets

NEEDED: Final = """(
    paused != 0 AND (until IS NULL OR until > :now) OR most IS NOT NULL OR rate IS NOT NULL
    OR EXISTS (SELECT 1 FROM "windlass_jobs" WHERE state = 'ready' AND crashes < 2 AND queue = queues.name)
    OR EXISTS (SELECT 1 FROM "windlass_jobs" WHERE state = 'ready' AND crashes >= 2 AND purge_at IS NULL
               AND queue = queues.name)
    OR EXISTS (SELECT 1 FROM "windlass_jobs" WHERE state IN ('done', 'cancelled') AND purge_at IS NOT NULL
               AND queue = queues.name)
    OR queues.name IN (SELECT queue FROM "windlass_jobs" WHERE state = 'running'))
"""
NOTE: Final = f"""
UPDATE "windlass_queues" SET idle_since = :note WHERE name IN (
    SELECT name FROM (SELECT * FROM "windlass_queues" WHERE name > :after ORDER BY name LIMIT :most) AS queues
    WHERE idle_since IS NULL AND NOT {NEEDED})
"""
# The last name of a step, if there may be more behind it.
STOP: Final = 'SELECT name FROM "windlass_queues" WHERE name > ? ORDER BY name LIMIT 1 OFFSET ?'
OVER: Final = f"""
SELECT name, {NEEDED} FROM "windlass_queues" AS queues WHERE idle_since <= :until ORDER BY idle_since LIMIT :most
"""
WAITING: Final = """
SELECT DISTINCT queue FROM "windlass_jobs" WHERE state = 'scheduled' AND queue IN (SELECT value FROM json_each(?1))
UNION SELECT queue FROM "windlass_jobs" WHERE state = 'blocked' AND queue IN (SELECT value FROM json_each(?1))
"""
IN_USE: Final = 'UPDATE "windlass_queues" SET idle_since = NULL WHERE name IN (SELECT value FROM json_each(?))'
FORGET: Final = """
DELETE FROM "windlass_queues" WHERE name IN (SELECT value FROM json_each(?)) AND idle_since IS NOT NULL
"""

encode = msgspec.json.Encoder().encode


def note_idle_names(db: apsw.Connection, q: Sql, now: int, after: str) -> str:
    """Note which of the next names nothing needs; give the name where the next step goes on, "" for the first."""
    note = -(-now // NOTE_STEP_MS) * NOTE_STEP_MS
    db.execute(q(NOTE), {"now": now, "note": note, "after": after, "most": NAMES_MAX})
    stop = db.execute(q(STOP), (after, NAMES_MAX - 1)).fetchall()
    return str(stop[0][0]) if stop else ""


def unneeded_names(db: apsw.Connection, q: Sql, now: int) -> tuple[list[str], list[str]]:
    """Of the names whose hour is over those that nothing needs, and those that something needs after all."""
    bindings = {"now": now, "until": now - NAME_KEPT_MS, "most": FORGET_MAX}
    over = [(str(name), bool(needed)) for name, needed in db.execute(q(OVER), bindings)]
    idle = [name for name, needed in over if not needed]
    waiting = {str(queue) for (queue,) in db.execute(q(WAITING), (encode(idle).decode(),))} if idle else set()
    return (
        [name for name in idle if name not in waiting],
        [name for name, needed in over if needed or name in waiting],
    )


def forget_names(db: apsw.Connection, q: Sql, unneeded: Sequence[str], needed: Sequence[str]) -> None:
    """Forget names, but for those whose note has been cleared since; clear the note of those that are needed."""
    if needed:
        db.execute(q(IN_USE), (encode(needed).decode(),))
    if unneeded:
        db.execute(q(FORGET), (encode(unneeded).decode(),))
