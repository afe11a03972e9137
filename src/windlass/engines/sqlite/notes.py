"""Notes: named texts of a job, written under its fence and gone with its record.

A row a note, by the number of the job, so that one of a thousand steps is written by itself. A claim looks for them
only where a job has a fence, and so has run before. The column ``noted`` says that there may be some: only then a
listing looks, and a trigger deletes them with the record. It decides nothing else; upkeep sets it where it is missing
(``records``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw
import msgspec

from windlass.core.work import Note, Settled
from windlass.engines.sqlite.schema import Sql

__all__ = ["Texts", "drop_notes", "note", "notes_of", "put_notes"]

Texts = tuple[tuple[str, str], ...]

OWNED: Final = """
SELECT seq, noted IS NULL, held IS NOT NULL, crashes FROM "windlass_jobs"
WHERE id = ? AND fence = ? AND state = 'running'
"""
STARTED: Final = """
UPDATE "windlass_jobs" SET held = NULL, noted = iif(?2, 1, noted), crashes = iif(?3, 0, crashes) WHERE seq = ?1
"""
WRITE: Final = """
INSERT INTO "windlass_notes" (seq, key, value) VALUES (?, ?, ?)
ON CONFLICT (seq, key) DO UPDATE SET value = excluded.value
"""
REMOVE: Final = 'DELETE FROM "windlass_notes" WHERE seq = ? AND key = ?'
SET_NOTED: Final = 'UPDATE "windlass_jobs" SET noted = 1 WHERE id = ? RETURNING seq'
DROP: Final = """
DELETE FROM "windlass_notes" WHERE seq = (SELECT seq FROM "windlass_jobs" WHERE id = ? AND noted IS NOT NULL)
"""
# As bytes: what was spoiled may be no text.
READ: Final = """
SELECT seq, CAST(key AS BLOB), CAST(value AS BLOB) FROM "windlass_notes"
WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq, key
"""

encode = msgspec.json.Encoder().encode


def note(db: apsw.Connection, q: Sql, notes: Sequence[Note]) -> list[Settled]:
    """Write notes, and that their jobs have started, where the fence holds; inside the caller's write transaction."""
    answers = []
    for one in notes:
        owned: Any = db.execute(q(OWNED), (one.id, one.fence)).fetchone()
        if owned is None:
            answers.append(Settled.STALE)
            continue
        seq, is_bare, is_held, crashes = owned
        first, proof = bool(is_bare and one.key and one.value is not None), one.durable and crashes > 0
        if first or is_held or proof:
            db.execute(q(STARTED), (seq, first, proof))
        if one.key:
            write(db, q, seq, one.key, one.value)
        answers.append(Settled.APPLIED)
    return answers


def write(db: apsw.Connection, q: Sql, seq: int, key: str, value: str | None) -> None:
    """Write or remove one note of a job that is marked as having some."""
    if value is None:
        db.execute(q(REMOVE), (seq, key))
    else:
        db.execute(q(WRITE), (seq, key, value))


def put_notes(db: apsw.Connection, q: Sql, job_id: str, notes: Sequence[tuple[str, str | None]]) -> None:
    """Write notes of a stored job, whoever has it."""
    if notes:
        ((seq,),) = db.execute(q(SET_NOTED), (job_id,)).fetchall()
        for key, value in notes:
            write(db, q, int(str(seq)), key, value)


def drop_notes(db: apsw.Connection, q: Sql, job_id: str) -> None:
    """Forget the notes of a job that becomes another one."""
    db.execute(q(DROP), (job_id,))


def notes_of(db: apsw.Connection, q: Sql, seqs: Sequence[int]) -> dict[int, Texts]:
    """The notes of jobs by their numbers, in order of the keys. What is no text any more is left out."""
    found: dict[int, list[tuple[str, str]]] = {}
    rows: Any = db.execute(q(READ), (encode(seqs).decode(),)) if seqs else ()
    for seq, key, value in rows:
        try:
            found.setdefault(seq, []).append((key.decode(), value.decode()))
        except (AttributeError, UnicodeDecodeError):
            continue
    return {seq: tuple(notes) for seq, notes in found.items()}
