"""Rows of jobs: how one is read, a dead job put back and written over, by the list of ``fields``.

``PUT`` writes beside the fields what follows from them.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from windlass.core.model import State
from windlass.core.rows import JobRow
from windlass.engines.damage import made
from windlass.engines.sqlite.fields import ASKED, FIELDS, OF_GUARDS, SAVED, holding, listed, once_key

__all__ = ["OVER", "PUT", "ROW", "over_bindings", "put_bindings", "state_at", "to_row"]

LOADS: Final = tuple((field.name, field.load) for field in FIELDS if field.load is not None)
NAMES: Final = tuple(field.name for field in FIELDS)
ROW: Final = (
    f'SELECT {listed(*(field.sql.format(field.stored) for field in FIELDS))}, seq FROM "windlass_jobs" AS jobs WHERE '
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


def to_row(found: tuple[object, ...], now: int) -> JobRow:
    """A JobRow of one line of ROW. Raises ValidationError where it is not sound."""
    values: dict[str, Any] = dict(zip(NAMES, found[:-1], strict=True))
    for name, load in LOADS:
        values[name] = load(values[name])
    values["state"] = state_at(values["state"], values["run_at"], now)
    return made(JobRow, **values)


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
