"""The fields of a job and their columns: one list, by which a row is read, a dead job put back and written over.

A field that is not saved says how a live job stands. ``PUT`` writes beside the fields what follows from them; a column
that is missing in both keeps its default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import apsw
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from windlass.core.model import State, UniqueKey
from windlass.core.rows import JobRow, fields_of
from windlass.engines.damage import made
from windlass.engines.sqlite.claim import read_tags
from windlass.engines.sqlite.enqueue import holding, once_key
from windlass.engines.sqlite.guards import as_guards, encode_stored
from windlass.engines.sqlite.notes import Texts, notes_of
from windlass.engines.sqlite.schema import Sql

__all__ = ["OVER", "PUT", "ROW", "over_bindings", "put_bindings", "state_at", "to_rows"]

encode = msgspec.json.Encoder().encode
decode_unique = msgspec.json.Decoder(UniqueKey).decode

BYTES: Final = "CAST({0} AS BLOB)"


def same(value: Any) -> Any:
    return value


def text(raw: bytes | None) -> str | bytes | None:
    """JSON as text; what is none stays as it is."""
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return raw


class Field(Struct, frozen=True):
    """One field of a JobRow. ``asked``: it says what the job is to do, so it may be written over."""

    name: str
    column: str = ""  # if it has another name
    sql: str = "{0}"  # how the column is read
    load: Callable[[Any], Any] | None = None
    save: Callable[[Any], Any] | None = same
    asked: bool = False

    @property
    def stored(self) -> str:
        return self.column or self.name


FIELDS: Final = (
    Field("id"),
    Field("name", asked=True),
    Field("queue"),
    Field("state", save=None),
    Field("payload", sql=BYTES, save=text, asked=True),
    Field("priority"),
    Field("attempt", sql="{0} + (state = 'running')"),
    Field("max_attempts"),
    Field("fence"),
    Field("enqueued_at"),
    Field("run_at"),
    Field("started_at"),
    Field("finished_at"),
    Field("expires_at", save=None),
    Field("worker", save=None),
    Field("result", sql=BYTES, save=None),
    Field("errors", sql=BYTES, save=text),
    Field("reason"),
    Field("tags", load=read_tags, save=lambda tags: encode(tags).decode() if tags else None, asked=True),
    Field("meta", sql=BYTES, save=text, asked=True),
    Field("crashes"),
    Field("interruptions"),
    Field("snoozes"),
    Field("cancel_requested", "cancel", load=bool, save=None),
    Field("error_type"),
    Field("fingerprint"),
    Field("frame"),
    Field("recoveries"),
    Field("expires_ms"),
    Field("caller_id", load=bool, save=int),
    Field("blocked_by", sql="CASE state WHEN 'blocked' THEN {0} END", save=None),
    Field("guards", load=lambda raw: () if raw is None else as_guards(str(raw)), save=encode_stored, asked=True),
    Field(
        "unique",
        "uniq",
        load=lambda raw: None if raw is None else decode_unique(str(raw)),
        save=lambda unique: None if unique is None else encode(unique).decode(),
        asked=True,
    ),
    Field("held", sql="state = 'running' AND {0} IS NOT NULL", load=bool, save=None),
)
LOADS: Final = tuple((field.name, field.load) for field in FIELDS if field.load is not None)
NAMES: Final = tuple(field.name for field in FIELDS)
SAVED: Final = tuple((field.name, field.stored, field.save) for field in FIELDS if field.save is not None)
ASKED: Final = tuple(
    (field.name, field.stored, field.save) for field in FIELDS if field.asked and field.save is not None
)
OF_GUARDS: Final = ("holding", "once_key")  # columns that say again what the guards say


def listed(*columns: str) -> str:
    return ", ".join(columns)


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
