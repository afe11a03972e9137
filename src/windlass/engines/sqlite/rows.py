"""Rows of jobs: how one is read, a dead job put back and written over, by the list of ``fields``.

``PUT`` writes beside the fields what follows from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw
from msgspec.structs import replace

from windlass.core.model import State
from windlass.core.rows import JobRow, fields_of
from windlass.engines.damage import made
from windlass.engines.sqlite.fields import ASKED, FIELDS, OF_GUARDS, SAVED, holding, listed, once_key
from windlass.engines.sqlite.notes import Texts, notes_of
from windlass.engines.sqlite.schema import Sql

__all__ = ["OVER", "PUT", "ROW", "over_bindings", "put_bindings", "state_at", "to_rows"]

LOADS: Final = tuple((field.name, field.load) for field in FIELDS if field.load is not None)
NAMES: Final = tuple(field.name for field in FIELDS)
ROW: Final = (
    f"SELECT {listed(*(field.sql.format(field.stored) for field in FIELDS))}, noted, seq "
    'FROM "windlass_jobs" AS jobs WHERE '
)
PUT_COLUMNS: Final = (*(column for _, column, _ in SAVED), *OF_GUARDS, "state", "place", "purge_at")
PUT: Final = (
    f'INSERT INTO "windlass_jobs" ({listed(*PUT_COLUMNS)}) VALUES ({listed(*("?" for _ in PUT_COLUMNS))}) '
    "ON CONFLICT (id) DO NOTHING"
)
OVER: Final = (
    'UPDATE "windlass_jobs" SET '
    + listed(*(f"{column} = ?" for column in (*(column for _, column, _ in ASKED), *OF_GUARDS)))
    + " WHERE id = ? AND fence = ? AND state = 'dead'"
)


def state_at(stored: object, run_at: object, now: int) -> State:
    """The state of a job: what is stored, but a scheduled one that has come due is ready."""
    state = State(str(stored))
    return State.READY if state is State.SCHEDULED and int(str(run_at)) <= now else state


def to_row(found: tuple[object, ...], now: int, notes: Texts) -> JobRow:
    """A JobRow of one line of ROW, and of the job's notes. Raises ValidationError where it is not sound."""
    values: dict[str, Any] = dict(zip(NAMES, found[:-2], strict=True))
    for name, load in LOADS:
        values[name] = load(values[name])
    values["state"] = state_at(values["state"], values["run_at"], now)
    return made(JobRow, **values, **fields_of(notes))


def to_rows(db: apsw.Connection, q: Sql, found: Sequence[tuple[Any, ...]], now: int) -> list[JobRow]:
    """The JobRows of lines of ROW."""
    notes = notes_of(db, q, [seq for *_, noted, seq in found if noted is not None])
    return [to_row(one, now, notes.get(one[-1], ())) for one in found]


def put_bindings(row: JobRow, purge_at: int) -> tuple[object, ...]:
    """What PUT stores of a dead job."""
    if row.finished_at is not None:
        row = replace(row, finished_at=min(row.finished_at, purge_at))
    saved = [save(getattr(row, name)) for name, _, save in SAVED]
    return (*saved, holding(row.guards), once_key(row.guards), State.DEAD.value, row.run_at, purge_at)


def over_bindings(row: JobRow) -> tuple[object, ...]:
    """What OVER writes over the death that the row names."""
    saved = [save(getattr(row, name)) for name, _, save in ASKED]
    return (*saved, holding(row.guards), once_key(row.guards), row.id, row.fence)
