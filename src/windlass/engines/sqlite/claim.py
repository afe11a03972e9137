"""Claiming: lease the head of the ready queues to one worker.

Each queue's head is read as one JSON text and the rows are marked with one statement, because every row that crosses
into Python by itself costs a hand-over of the interpreter lock, and in a busy worker that costs up to 5 ms.

A fence is above every fence the store ever gave and above its clock in microseconds, so it never repeats: not in one
batch, not when the clock steps back, not for a record made anew under an old id, not when the store lost its tail.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec
from msgspec import Struct

from windlass.engines.sqlite.flow import count_flow
from windlass.engines.sqlite.schema import Sql
from windlass.engines.sqlite.totals import add_total
from windlass.model import Claimed, Lease, LeaseRef, QueueShare, Want

__all__ = ["Claimer", "promote"]

PROMOTE_MAX: Final = 2_000  # due jobs made ready by one claim: 5,000 due at one instant take three claims

PROMOTE: Final = """
UPDATE "windlass_jobs" SET state = 'ready' WHERE seq IN (
    SELECT seq FROM "windlass_jobs" WHERE state = 'scheduled' AND run_at <= ? ORDER BY run_at LIMIT ?)
"""
NEXT_DUE: Final = "SELECT run_at FROM \"windlass_jobs\" WHERE state = 'scheduled' ORDER BY run_at LIMIT 1"
ALIVE: Final = 'SELECT 1 FROM "windlass_workers" WHERE id = ? AND boot = ? AND lease_until > ?'
OPEN_QUEUES: Final = 'SELECT name FROM "windlass_queues" WHERE paused = 0 OR until <= ?'
CANCELS: Final = "SELECT id, fence FROM \"windlass_jobs\" WHERE state = 'running' AND worker = ? AND cancel = 1"

COLUMNS: Final = """seq, id, name, queue, {payload} AS payload, fence, attempt, max_attempts, priority, enqueued_at,
       run_at, crashes, interruptions, snoozes, tags, {meta} AS meta, expires_at, reason, retrying_since"""
HEAD: Final = """
FROM "windlass_jobs" WHERE state = 'ready' AND crashes < 2 AND queue = ?
ORDER BY level, place, seq LIMIT ? OFFSET ?
"""
ALONE: Final = """
FROM "windlass_jobs" WHERE state = 'ready' AND crashes >= 2 AND purge_at IS NULL AND queue = ?
ORDER BY run_at LIMIT ? OFFSET ?
"""
AS_TEXT: Final = COLUMNS.format(payload="payload", meta="meta")
# Raw bytes for rows that are not what we wrote: invalid UTF-8, a blob, a number.
AS_BYTES: Final = COLUMNS.format(payload="CAST(payload AS BLOB)", meta="CAST(meta AS BLOB)")
PACKED: Final = """
SELECT CAST(json_group_array(json_array(seq, id, name, queue, payload, fence, attempt, max_attempts, priority,
    enqueued_at, run_at, crashes, interruptions, snoozes, tags, meta, expires_at, reason,
    retrying_since)) AS BLOB) FROM (SELECT %s %s)
"""

LAST_FENCE: Final = "SELECT value FROM \"windlass_meta\" WHERE key = 'fence'"
SET_FENCE: Final = "INSERT OR REPLACE INTO \"windlass_meta\" (key, value) VALUES ('fence', ?)"
TAKE: Final = """
UPDATE "windlass_jobs" SET state = 'running', worker = ?, started_at = ?, fence = mine.fence
FROM (SELECT value ->> 0 AS seq, value ->> 1 AS fence FROM json_each(?)) AS mine
WHERE "windlass_jobs".seq = mine.seq
"""
EXPIRE: Final = """
UPDATE "windlass_jobs" SET state = 'cancelled', reason = 'expired', finished_at = ?1, purge_at = ?1 + ?2
WHERE seq IN (SELECT value FROM json_each(?3))
"""


class Row(Struct, array_like=True):
    """One ready job as PACKED gives it."""

    seq: int
    id: str
    name: str
    queue: str
    payload: str
    fence: int
    attempt: int
    max_attempts: int
    priority: int
    enqueued_at: int
    run_at: int
    crashes: int
    interruptions: int
    snoozes: int
    tags: str | None
    meta: str | None
    expires_at: int | None
    reason: str | None
    retrying_since: int | None


decode_rows = msgspec.json.Decoder(list[Row]).decode
decode_tags = msgspec.json.Decoder(tuple[str, ...]).decode
encode = msgspec.json.Encoder().encode


def promote(db: apsw.Connection, q: Sql, now: int, limit: int) -> tuple[int, int | None]:
    """Make due jobs ready, at most ``limit``; give how many, and in how many ms the next one is due."""
    due = db.execute(q(NEXT_DUE)).fetchone()
    if due is None:
        return 0, None
    if due[0] > now:
        return 0, due[0] - now
    db.execute(q(PROMOTE), (now, limit))
    promoted = db.changes()
    due = db.execute(q(NEXT_DUE)).fetchone()
    return promoted, None if due is None else max(0, due[0] - now)


class Claimer:
    """Claims for one engine object; remembers whose turn it is when queues share alike."""

    def __init__(self, q: Sql, boot: str) -> None:
        self._q = q
        self._boot = boot
        self._turn = 0

    def claim(self, db: apsw.Connection, want: Want, now: int, boot_now: int, keep_ms: int) -> Claimed:
        """Lease ready jobs to a live worker inside the caller's write transaction."""
        q = self._q
        if not db.execute(q(ALIVE), (want.worker, self._boot, boot_now)).fetchall():
            return Claimed([], expelled=True)
        _, due_in = promote(db, q, now, PROMOTE_MAX)
        cancels = tuple(LeaseRef(id, fence) for id, fence in db.execute(q(CANCELS), (want.worker,)))
        if want.limit <= 0:
            return Claimed([], cancels, due_in)
        rows = self._heads(db, want, now)
        fresh: list[Row] = []
        expired: list[Row] = []
        for row in rows:
            (fresh if row.expires_at is None or row.expires_at > now else expired).append(row)
        if expired:
            db.execute(q(EXPIRE), (now, keep_ms, encode([row.seq for row in expired]).decode()))
            add_total(db, q, "cancelled", len(expired))
            if not fresh:
                due_in = 0  # only expired ones were at the head: look again at once
        leases = self._take(db, want.worker, fresh, now) if fresh else []
        count_flow(db, q, now, claimed=[row.queue for row in fresh])
        return Claimed(leases, cancels, due_in)

    def _heads(self, db: apsw.Connection, want: Want, now: int) -> list[Row]:
        """The rows to lease: each open queue's share first, then what is left, in the same order."""
        open_queues = {str(name) for (name,) in db.execute(self._q(OPEN_QUEUES), (now,))}
        shares = self._shares(want, open_queues)
        source = ALONE if want.alone else HEAD
        rows: list[Row] = []
        taken: dict[str, int] = {}
        left = 1 if want.alone else want.limit
        for share in shares:
            if left <= 0:
                break
            got = self._read(db, source, share.name, min(share.limit, left), 0) if share.limit else []
            rows += got
            left -= len(got)
            if len(got) >= share.limit:
                taken[share.name] = len(got)  # there may be more in it
        for name, offset in taken.items():
            if left <= 0:
                break
            got = self._read(db, source, name, left, offset)
            rows += got
            left -= len(got)
        return rows

    def _shares(self, want: Want, open_queues: set[str]) -> Sequence[QueueShare]:
        if want.queues is not None:
            return [share for share in want.queues if share.name in open_queues]
        names = sorted(open_queues)
        if not names:
            return []
        self._turn = (self._turn + 1) % len(names)
        each = max(1, want.limit // len(names))
        return [QueueShare(name, each) for name in names[self._turn :] + names[: self._turn]]

    def _read(self, db: apsw.Connection, source: str, queue: str, limit: int, offset: int) -> list[Row]:
        bindings = (queue, limit, offset)
        try:
            packed = db.execute(self._q(PACKED % (AS_TEXT, source)), bindings).fetchone()
            return decode_rows(packed[0]) if packed else []
        except (apsw.SQLError, msgspec.DecodeError, UnicodeDecodeError):
            return [salvage(found) for found in db.execute(self._q(f"SELECT {AS_BYTES} {source}"), bindings)]

    def _next_fence(self, db: apsw.Connection, rows: list[Row], now: int) -> int:
        """Reserve a fence for each row: above every fence the store ever gave, and above its clock."""
        last = db.execute(self._q(LAST_FENCE)).fetchall()
        first = max(now * 1000, int(str(last[0][0])) + 1 if last else 0, 1 + max(row.fence for row in rows))
        db.execute(self._q(SET_FENCE), (first + len(rows) - 1,))
        return first

    def _take(self, db: apsw.Connection, worker: str, rows: list[Row], now: int) -> list[Lease]:
        first = self._next_fence(db, rows, now)
        fences = range(first, first + len(rows))
        mine = encode([(row.seq, fence) for row, fence in zip(rows, fences, strict=True)]).decode()
        db.execute(self._q(TAKE), (worker, now, mine))
        return [
            Lease(
                row.id,
                row.name,
                row.queue,
                row.payload.encode("utf-8", "surrogateescape"),
                fence,
                row.attempt + 1,
                row.max_attempts,
                row.priority,
                row.enqueued_at,
                row.run_at,
                row.crashes,
                row.interruptions,
                row.snoozes,
                read_tags(row.tags),
                row.meta.encode("utf-8", "surrogateescape") if row.meta else None,
                row.reason,
                0 if row.retrying_since is None else max(0, now - row.retrying_since),
            )
            for row, fence in zip(rows, fences, strict=True)
        ]


def read_tags(raw: object) -> tuple[str, ...]:
    """The tags of a row; none where they are not what we wrote, since tags must not keep a job from running."""
    try:
        return decode_tags(raw) if isinstance(raw, str) else ()
    except (msgspec.MsgspecError, UnicodeError):
        return ()


def salvage(found: tuple[object, ...]) -> Row:
    """A row read column by column, its payload kept byte for byte whatever it is."""
    values = [value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in found]
    return Row(*values)  # type: ignore[arg-type]
