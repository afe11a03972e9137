"""Dead jobs: counted, in groups too, and put back or written over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from windlass.core.rows import GroupRow, JobFilter, JobRow, all_notes
from windlass.engines.sqlite.core import SqliteCore
from windlass.engines.sqlite.enqueue import ADD_QUEUES, forget_markers
from windlass.engines.sqlite.inspector import condition
from windlass.engines.sqlite.leases import dead_keep
from windlass.engines.sqlite.notes import put_notes
from windlass.engines.sqlite.rows import OVER, PUT, over_bindings, put_bindings

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
FORGET_TOMBSTONE: Final = 'DELETE FROM "windlass_tombstones" WHERE id = ?'


class SqliteDead(SqliteCore):
    """The part of the Inspector that is about dead jobs alone."""

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

    def put_dead(self, rows: Sequence[JobRow], *, over: bool = False) -> list[bool]:
        now = self._clock.wall_ms()
        purge_at = now + dead_keep(self._rules)

        def put(db: apsw.Connection, row: JobRow) -> bool:
            if over:
                db.execute(self._q(OVER), over_bindings(row))
                return db.changes() > 0
            db.execute(self._q(FORGET_TOMBSTONE), (row.id,))
            db.execute(self._q(PUT), put_bindings(row, purge_at))
            if db.changes() == 0:
                return False
            put_notes(db, self._q, row.id, all_notes(row))
            return True

        def write(db: apsw.Connection) -> list[bool]:
            if not over:
                db.execute(self._q(ADD_QUEUES), (encode(list({row.queue for row in rows})).decode(),))
            forget_markers(db, self._q, (row.guards for row in rows), now)
            return [put(db, row) for row in rows]

        return self._write(write, durable=True) if rows else []
