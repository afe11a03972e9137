"""Dead jobs: counted in groups, made ready again, mended, deleted and put back.

A death is named by the job's id and the fence of its last run, so each of these is a compare-and-set: what was decided
about one death never hits the job's next life.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from windlass.core.model import GroupRow, Guard, JobFilter, JobRow, LeaseRef, Recovery, UniqueKey
from windlass.engines.sqlite.core import SqliteCore
from windlass.engines.sqlite.enqueue import ADD_QUEUES, forget_markers, guard_bindings
from windlass.engines.sqlite.inspector import condition
from windlass.engines.sqlite.totals import add_total
from windlass.engines.sqlite.upkeep import dead_keep, forget

__all__ = ["SqliteDead"]

encode = msgspec.json.Encoder().encode
decode_names = msgspec.json.Decoder(list[str]).decode

COUNT: Final = 'SELECT count(*) FROM "windlass_jobs" AS jobs WHERE'
# The sample is the job that died last: its time stands before its id, both of fixed width.
GROUPS: Final = """
SELECT coalesce(fingerprint, 'unknown') AS shared, max(error_type), max(frame), json_group_array(DISTINCT name),
       count(*), min(finished_at), max(finished_at), substr(max(printf('%016d', finished_at) || id), 17)
FROM "windlass_jobs" AS jobs WHERE state = 'dead' AND {condition} GROUP BY shared ORDER BY count(*) DESC, shared LIMIT ?
"""
ALIVE_AGAIN: Final = """
UPDATE "windlass_jobs" SET state = 'ready', run_at = ?1, place = ?1 + shift, attempt = 0, crashes = 0,
    interruptions = 0, snoozes = 0, retrying_since = NULL, cancel = 0, reason = NULL, result = NULL,
    finished_at = NULL, purge_at = NULL, expires_at = ?1 + expires_ms, error_type = NULL,
    fingerprint = NULL, frame = NULL, recoveries = {recoveries} WHERE state = 'dead'
"""
REDRIVE: Final = ALIVE_AGAIN.format(recoveries="0") + "AND id = ?2 AND fence = ?3"
RECOVER: Final = (
    ALIVE_AGAIN.format(recoveries="recoveries + 1")
    + """
AND seq IN (SELECT seq FROM "windlass_jobs" WHERE state = 'dead' AND error_type IN (SELECT value FROM json_each(?2))
            AND finished_at <= ?1 - ?3 AND recoveries < ?4 ORDER BY finished_at, seq LIMIT ?5)
RETURNING id
"""
)
AMEND: Final = """
UPDATE "windlass_jobs" SET payload = ?, guards = ?, holding = ?, once_key = ?, uniq = ?
WHERE id = ? AND fence = ? AND state = 'dead'
"""
DEATH: Final = "SELECT seq FROM \"windlass_jobs\" WHERE id = ? AND fence = ? AND state = 'dead'"
RESTORE: Final = """
INSERT INTO "windlass_jobs" (id, name, queue, state, payload, priority, place, run_at, enqueued_at, max_attempts,
    attempt, fence, crashes, interruptions, snoozes, caller_id, started_at, finished_at, purge_at, expires_ms, errors,
    reason, progress, tags, meta, error_type, fingerprint, frame, recoveries, guards, holding, once_key, uniq)
VALUES (?, ?, ?, 'dead', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO NOTHING
"""
UNBURY: Final = 'DELETE FROM "windlass_tombstones" WHERE id = ?'


class SqliteDead(SqliteCore):
    """The part of the Inspector that is about dead jobs."""

    def count(self, where: JobFilter) -> int:
        clause, bindings = condition(where, self._clock.wall_ms())
        found = self._ask(lambda db: db.execute(f"{self._q(COUNT)} {clause}", bindings).fetchone())
        return int(str(found[0])) if found else 0

    def groups(self, where: JobFilter, limit: int) -> list[GroupRow]:
        clause, bindings = condition(where, self._clock.wall_ms())
        sql = self._q(GROUPS).format(condition=clause)
        rows = self._ask(lambda db: db.execute(sql, (*bindings, limit)).fetchall())
        return [
            GroupRow(
                fingerprint=str(fingerprint),
                error_type=None if kind is None else str(kind),
                frame=None if frame is None else str(frame),
                names=tuple(sorted(decode_names(str(names)))),
                count=int(str(count)),
                first_seen=int(str(first)),
                last_seen=int(str(last)),
                sample=str(sample),
            )
            for fingerprint, kind, frame, names, count, first, last, sample in rows
        ]

    def redrive(self, deaths: Sequence[LeaseRef]) -> list[bool]:
        now = self._clock.wall_ms()

        def write(db: apsw.Connection) -> list[bool]:
            return [self._changes(db, REDRIVE, (now, death.id, death.fence)) for death in deaths]

        moved = self._write(write, durable=True)
        self._ready.touch()
        return moved

    def recover(self, rule: Recovery, limit: int) -> list[str]:
        bindings = (self._clock.wall_ms(), encode(rule.errors).decode(), rule.after_ms, rule.attempts, limit)
        found = self._write(lambda db: db.execute(self._q(RECOVER), bindings).fetchall(), durable=True)
        if found:
            self._ready.touch()
        return [str(id) for (id,) in found]

    def amend(self, death: LeaseRef, payload: str, guards: tuple[Guard, ...], unique: UniqueKey | None) -> bool:
        bindings = (payload, *guard_bindings(guards, unique), death.id, death.fence)

        def write(db: apsw.Connection) -> bool:
            forget_markers(db, self._q, [guards], self._clock.wall_ms())
            return self._changes(db, AMEND, bindings)

        return self._write(write, durable=True)

    def discard(self, deaths: Sequence[LeaseRef], *, trimmed: bool = False) -> list[bool]:
        def write(db: apsw.Connection) -> list[bool]:
            seqs: dict[int, None] = {}
            answers = []
            for death in deaths:
                found = db.execute(self._q(DEATH), (death.id, death.fence)).fetchone()
                seq = None if found is None else int(str(found[0]))
                answers.append(seq is not None and seq not in seqs)
                if seq is not None:
                    seqs[seq] = None
            gone = forget(db, self._q, list(seqs), self._rules, self._clock.wall_ms())
            if trimmed:
                add_total(db, self._q, "trimmed", len(gone))
            return answers

        gone = self._write(write, durable=True)
        self._ended.touch()
        return gone

    def restore(self, rows: Sequence[JobRow]) -> list[bool]:
        now = self._clock.wall_ms()
        purge_at = now + dead_keep(self._rules)

        def write(db: apsw.Connection) -> list[bool]:
            db.execute(self._q(ADD_QUEUES), (encode(list({row.queue for row in rows})).decode(),))
            forget_markers(db, self._q, (row.guards for row in rows), now)
            stored = []
            for row in rows:
                db.execute(self._q(UNBURY), (row.id,))
                stored.append(self._changes(db, RESTORE, bindings_of(row, purge_at)))
            return stored

        return self._write(write, durable=True)

    def _changes(self, db: apsw.Connection, sql: str, bindings: tuple[object, ...]) -> bool:
        db.execute(self._q(sql), bindings)
        return db.changes() > 0


def bindings_of(row: JobRow, purge_at: int) -> tuple[object, ...]:
    """The bindings of RESTORE."""
    return (
        row.id,
        row.name,
        row.queue,
        text(row.payload),
        row.priority,
        row.run_at,
        row.run_at,
        row.enqueued_at,
        row.max_attempts,
        row.attempt,
        row.fence,
        row.crashes,
        row.interruptions,
        row.snoozes,
        1 if row.caller_id else 0,
        row.started_at,
        None if row.finished_at is None else min(row.finished_at, purge_at),
        purge_at,
        row.expires_ms,
        text(row.errors),
        row.reason,
        text(row.progress),
        encode(row.tags).decode() if row.tags else None,
        text(row.meta),
        row.error_type,
        row.fingerprint,
        row.frame,
        row.recoveries,
        *guard_bindings(row.guards, row.unique),
    )


def text(raw: bytes | None) -> str | bytes | None:
    """JSON as text; what is none stays as it is."""
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return raw
