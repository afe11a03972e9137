"""The fields of a job and their columns: one list, by which a job is stored, read, put back and written over.

A new field of a job is a line here, a column in ``schema``, what is sound for it in ``records``, and a field of the
structs in ``core``. Beside the fields stand what follows from them: columns that the engine works out when a job is
stored. A column that no statement names keeps its default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, Final

import msgspec
from msgspec import Struct

from windlass.core.model import Guard, GuardKind, NewJob, UniqueKey
from windlass.engines.sqlite.claim import read_tags
from windlass.engines.sqlite.guards import Stored, as_guards, encode_stored
from windlass.engines.sqlite.schema import SLOT_CODES, SLOTS

__all__ = [
    "ASKED",
    "FIELDS",
    "INSERT",
    "INSERT_GUARDED",
    "OF_GUARDS",
    "REPLACE",
    "SAVED",
    "bindings",
    "due_of",
    "guarded_bindings",
    "holding",
    "listed",
    "once_key",
]

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


def tags_text(tags: Sequence[str]) -> str | None:
    return encode(tags).decode() if tags else None


def unique_text(unique: UniqueKey | None) -> str | None:
    return None if unique is None else encode(unique).decode()


class Field(Struct, frozen=True):
    """One field of a JobRow. One that is not saved says how a live job stands.

    ``given``: a NewJob has it under the same name, and it is stored as it is there. ``asked``: it says what the job is
    to do, so it may be written over.
    """

    name: str
    column: str = ""  # if it has another name
    sql: str = "{0}"  # how the column is read
    load: Callable[[Any], Any] | None = None
    save: Callable[[Any], Any] | None = same
    given: bool = False
    asked: bool = False

    @property
    def stored(self) -> str:
        return self.column or self.name


FIELDS: Final = (
    Field("id", given=True),
    Field("name", given=True, asked=True),
    Field("queue", given=True),
    Field("state", save=None),
    Field("payload", sql=BYTES, save=text, given=True, asked=True),
    Field("priority", given=True),
    Field("attempt", sql="{0} + (state = 'running')"),
    Field("max_attempts", given=True),
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
    Field("tags", load=read_tags, save=tags_text, asked=True),
    Field("meta", sql=BYTES, save=text, given=True, asked=True),
    Field("crashes"),
    Field("interruptions"),
    Field("snoozes"),
    Field("cancel_requested", "cancel", load=bool, save=None),
    Field("error_type"),
    Field("fingerprint"),
    Field("frame"),
    Field("recoveries"),
    Field("expires_ms", given=True),
    Field("caller_id", load=bool, given=True),
    Field("blocked_by", sql="CASE state WHEN 'blocked' THEN {0} END", save=None),
    Field("guards", load=lambda raw: () if raw is None else as_guards(str(raw)), save=encode_stored, asked=True),
    Field(
        "unique",
        "uniq",
        load=lambda raw: None if raw is None else decode_unique(str(raw)),
        save=unique_text,
        asked=True,
    ),
    Field("held", sql="state = 'running' AND {0} IS NOT NULL", load=bool, save=None),
    Field("slot", load=SLOTS.__getitem__, save=SLOT_CODES.__getitem__),
    Field("shift_ms", "shift"),
)
SAVED: Final = tuple((field.name, field.stored, field.save) for field in FIELDS if field.save is not None)
ASKED: Final = tuple(
    (field.name, field.stored, field.save) for field in FIELDS if field.asked and field.save is not None
)
OF_GUARDS: Final = ("holding", "once_key")  # columns that say again what the guards say


def listed(*columns: str) -> str:
    return ", ".join(columns)


# A new job: the fields that a call gives, then what is made of it (``bindings``), then what belongs to guards.
GIVEN: Final = tuple(field for field in FIELDS if field.given)
MADE: Final = ("tags", "slot", "run_at", "enqueued_at", "state", "expires_at", "shift", "place")
NEW: Final = (*(field.stored for field in GIVEN), *MADE)
NEW_GUARDED: Final = (*NEW, "guards", *OF_GUARDS, "uniq")
BOUND: Final = {column: f"?{number}" for number, column in enumerate((*NEW_GUARDED, "behind", "other"), 1)}


def insertion(columns: Sequence[str]) -> str:
    return (
        f'INSERT INTO "windlass_jobs" ({listed(*columns)}) VALUES ({listed(*("?" for _ in columns))}) '
        "ON CONFLICT (id) DO NOTHING"
    )


INSERT: Final = insertion(NEW)
INSERT_GUARDED: Final = insertion(NEW_GUARDED)
# A waiting job gets what a new one would have; its id and its arrival stay, and so does its unique key. One that waits
# behind a running job of its key goes on waiting, and so does one that waits for other jobs.
AT_JOIN: Final = "state = 'blocked' AND blocked_by >= 'join:' AND blocked_by < 'join;'"
REPLACED: Final = {
    **{column: BOUND[column] for column in NEW_GUARDED if column not in ("id", "enqueued_at", "caller_id", "uniq")},
    "state": f"CASE WHEN {BOUND['behind']} OR {AT_JOIN} THEN 'blocked' ELSE {BOUND['state']} END",
    "expires_at": f"CASE WHEN NOT ({AT_JOIN}) THEN {BOUND['expires_at']} END",
    **dict.fromkeys(("attempt", "crashes", "interruptions", "snoozes"), "0"),
    "retrying_since": "NULL",
}
REPLACE: Final = (
    f'UPDATE "windlass_jobs" SET {listed(*(f"{name} = {value}" for name, value in REPLACED.items()))} '
    f"WHERE id = {BOUND['other']}"
)

given: Final = attrgetter(*(field.name for field in GIVEN))


def due_of(job: NewJob, now: int) -> int:
    """When a job is due, wall-clock ms."""
    return now + job.delay_ms if job.run_at is None else job.run_at


def bindings(job: NewJob, now: int) -> tuple[object, ...]:
    """What INSERT binds of one job."""
    run_at = due_of(job, now)
    expires = job.expires_ms
    shift = job.priority * job.aging_ms
    values: tuple[object, ...] = given(job)
    made = (  # in the order of MADE
        tags_text(job.tags) if job.tags else None,
        SLOT_CODES[job.slot],
        run_at,
        now,
        "ready" if run_at <= now else "scheduled",
        None if expires is None else run_at + expires,
        shift,
        -now if job.at_front else run_at + shift,
    )
    return values + made


def guarded_bindings(job: NewJob, now: int) -> tuple[object, ...]:
    """What INSERT_GUARDED binds of one job, and REPLACE before what is its own."""
    guards = job.guards
    return (*bindings(job, now), encode_stored(guards), holding(guards), once_key(guards), unique_text(job.unique))


def holding(guards: Iterable[Guard | Stored]) -> int | None:
    """1 when a job has guards that it may hold rows for."""
    return 1 if any(guard.kind is not GuardKind.RATE for guard in guards) else None


def once_key(guards: Iterable[Guard | Stored]) -> str | None:
    """The Once key among the guards of a job, if there is one."""
    return next((guard.key for guard in guards if guard.kind is GuardKind.ONCE), None)
