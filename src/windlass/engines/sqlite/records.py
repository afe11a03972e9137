"""What a sound record is, in every table, and what becomes of one that is not.

Nothing here is asked while all is well: a call that meets a record which is not sound fails, and its transaction is
rolled back. Then ``repair`` looks through the whole store, and the call is made again (``core``). What no call falls
over, such as a job in a state that nothing searches, is found by ``look_on``, a bounded step of upkeep.

A job that is not sound is dead: its payload and every sound column are kept, the others are emptied and named in its
reason and its history. Where only what people read was spoiled (``HARMLESS``), the job goes on without it. Rows of
other tables get what is known to be safe in place of a spoiled value, or go when nothing is.

Invariants: a column without a rule here fails a test; every row is looked at again inside the transaction that changes
it, and each change is logged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Annotated, Any, Final, Literal

import apsw
import msgspec
from msgspec import Meta, Struct

from windlass.core.clock import Clock
from windlass.core.fingerprint import DAMAGED
from windlass.core.model import FINISHED, GuardKind, JobError, State, UniqueKey, Until
from windlass.core.work import Rules, WorkerInfo
from windlass.engines.damage import LAST_MS, NAME_OF_DAMAGED, QUEUE_OF_DAMAGED, QueueName, described
from windlass.engines.sqlite.counts import count
from windlass.engines.sqlite.guards import Stored
from windlass.engines.sqlite.schema import FENCE_MAX, FOREVER, SLOTS, VERSION, VERSION_MAX, Sql, version_of
from windlass.engines.sqlite.upkeep import decode_swept
from windlass.logs import Log

__all__ = ["HARMLESS", "TABLES", "Repairer"]

log = Log("windlass.engine")

CHUNK: Final = 500
LOOK_MAX: Final = 250  # rows that one step of upkeep looks at: 1 ms
GATES_STEP: Final = 32
LEASE_MAX_MS: Final = 30 * 86_400_000
GRACE_MS: Final = 30_000  # how long a worker with a spoiled lease is believed to live
MARKER_MS: Final = 86_400_000  # how long a Once marker with a spoiled time stays

Count: Final = Annotated[int, Meta(ge=0, le=2**53)]
Signed: Final = Annotated[int, Meta(ge=-(2**62), le=2**62)]
Instant: Final = Annotated[int, Meta(ge=0, le=LAST_MS)]
Fence: Final = Annotated[int, Meta(ge=0, le=FENCE_MAX)]
Key: Final = Annotated[str, Meta(min_length=1)]
Yes: Final = Literal[1]
Flag: Final = Literal[0, 1]

TEXT: Final = "typeof({0}) IN ('text', 'null')"
LIST: Final = (
    "CASE WHEN {0} IS NULL THEN 1 WHEN typeof({0}) = 'text' AND json_valid({0}) THEN json_type({0}) = 'array' END"
)

encode = msgspec.json.Encoder().encode


class Never(Struct, frozen=True):
    """Nothing can stand for a spoiled value."""


NEVER: Final = Never()


class Column(Struct, frozen=True):
    """The rule of one column. ``empty`` stands for a spoiled value, ``test`` is asked of SQLite instead of it."""

    name: str
    type: Any
    empty: Any = NEVER
    test: str | None = None
    is_json: bool = False


class Now(Struct, frozen=True):
    """What values that stand for spoiled ones are made of."""

    wall: int
    boot_ms: int
    boot: str
    rules: Rules


class Table(Struct, frozen=True):
    """The rules of one table. ``rule`` names further columns of a row whose values do not go together."""

    name: str
    columns: tuple[Column, ...]
    rule: Callable[[Any], Sequence[str]] | None = None

    @property
    def key(self) -> str:
        """What rows are ordered by: every table has its key in front."""
        return KEYS.get(self.name, self.columns[0].name)


def job_rule(row: Any) -> list[str]:
    """What of a job does not go together: the derived columns, and those that belong to a state."""
    wrong = []
    finished = row.state in FINISHED
    if finished != (row.purge_at is not None):
        wrong.append("purge_at")
    if finished and row.finished_at is None:
        wrong.append("finished_at")
    elif finished and row.purge_at is not None and row.purge_at < row.finished_at:
        wrong.append("purge_at")
    if row.state == State.RUNNING and row.worker is None:
        wrong.append("worker")
    guards: tuple[Stored, ...] = row.guards or ()
    if not all(map(is_sound, guards)):
        wrong.append("guards")
    elif (row.once_key, row.holding) != derived(guards):
        wrong += "once_key", "holding"
    if row.state == State.BLOCKED and row.blocked_by not in gates_of(guards, row.uniq):
        wrong.append("blocked_by")
    return wrong


def is_sound(guard: Stored) -> bool:
    """Whether a guard can be judged."""
    if not guard.gate.startswith(f"{guard.kind}:"):
        return False
    if guard.kind is GuardKind.RATE:
        return guard.limit > 0 and guard.per_ms > 0 and (guard.burst is None or guard.burst > 0)
    return guard.kind is not GuardKind.CONCURRENCY or guard.limit > 0


def derived(guards: Sequence[Stored]) -> tuple[str | None, int | None]:
    """The columns ``once_key`` and ``holding`` of guards."""
    once = next((guard.key for guard in guards if guard.kind is GuardKind.ONCE), None)
    return once, 1 if any(guard.kind is not GuardKind.RATE for guard in guards) else None


def gates_of(guards: Sequence[Stored], unique: UniqueKey | None) -> list[str]:
    """Where a job may wait."""
    return [*(guard.gate for guard in guards), *(() if unique is None else (f"unique:{unique.key}",))]


def meta_rule(row: Any) -> list[str]:
    """The store's own values, each by its name."""
    match row.key:
        case "fence" | "document":
            good = isinstance(row.value, int) and 0 <= row.value <= FENCE_MAX
        case "schema":
            good = isinstance(row.value, int) and VERSION <= row.value <= VERSION_MAX
        case "swept":
            good = is_swept(row.value)
        case "steady":
            good = isinstance(row.value, str) and re.fullmatch(r"\S+ -?\d{1,18}", row.value) is not None
        case _:
            good = True
    return [] if good else ["value"]


def hold_rule(row: Any) -> list[str]:
    """The columns of a token, which a run has none of."""
    return [name for name in ("token", "until", "since", "owner") if (getattr(row, name) is None) != (row.seq >= 0)]


def is_token(row: dict[str, Any]) -> bool:
    """Whether a hold is that of a token."""
    return isinstance(row["seq"], int) and row["seq"] < 0


def of_run(row: dict[str, Any], now: Now) -> Never | None:
    """A run has its place whatever else its row says; a token has none without its lease."""
    return NEVER if is_token(row) else None


def is_swept(value: object) -> bool:
    """Whether upkeep can go on from there."""
    try:
        swept = decode_swept(str(value))
        bytes.fromhex(swept.queue)
    except (ValueError, msgspec.MsgspecError):
        return False
    return swept.state in ("", *FINISHED)


def unknown_worker(row: dict[str, Any], now: Now) -> str:
    """What stands for the words of a worker until it beats again."""
    return encode(
        WorkerInfo(id=row["id"], group="", host="?", pid=0, queues="*", slots=0, version="", started_at=now.wall)
    ).decode()


def purge_time(row: dict[str, Any], now: Now) -> int | None:
    """When the record of a job goes, if it has ended."""
    if row["state"] not in FINISHED:
        return None
    return now.wall + (dead_keep(now.rules) if row["state"] == State.DEAD else now.rules.keep_done_ms)


def dead_keep(rules: Rules) -> int:
    """How long a dead record stays, in ms."""
    return FOREVER if rules.dead_keep_ms is None else rules.dead_keep_ms


JOBS: Final = Table(
    "jobs",
    (
        Column("seq", int),
        Column("id", Key),
        Column("name", Key, NAME_OF_DAMAGED),
        Column("queue", QueueName, QUEUE_OF_DAMAGED),
        Column("state", State, State.DEAD.value),
        Column("payload", Yes, test="1"),
        Column("priority", Signed, 0),
        Column("place", Signed, 0),
        Column("run_at", Instant, lambda row, now: now.wall),
        Column("enqueued_at", Instant, lambda row, now: now.wall),
        Column("max_attempts", Count, 1),
        Column("attempt", Count, 0),
        Column("fence", Fence, 0),
        Column("crashes", Count, 0),
        Column("interruptions", Count, 0),
        Column("snoozes", Count, 0),
        Column("cancel", Flag, 0),
        Column("caller_id", Flag, 0),
        Column("worker", str | None, lambda row, now: "" if row["state"] == "running" else None),
        Column("started_at", Instant | None, None),
        Column("finished_at", Instant | None, lambda row, now: now.wall if row["state"] in FINISHED else None),
        Column("purge_at", Count | None, purge_time),
        Column("expires_ms", Count | None, None),
        Column("expires_at", Count | None, None),
        Column("result", Yes, None, TEXT),
        Column("errors", Yes, None, LIST),
        Column("reason", str | None, None),
        Column("progress", Yes, None, TEXT),
        Column("tags", tuple[str, ...] | None, None, is_json=True),
        Column("meta", Yes, None, TEXT),
        Column("retrying_since", Instant | None, None),
        Column("error_type", str | None, None),
        Column("fingerprint", str | None, None),
        Column("frame", str | None, None),
        Column("recoveries", Count, 0),
        Column("shift", Signed, 0),
        Column("guards", tuple[Stored, ...] | None, None, is_json=True),
        Column("holding", Yes | None, lambda row, now: derived(row["guards"] or ())[1]),
        Column("once_key", str | None, lambda row, now: derived(row["guards"] or ())[0]),
        Column("uniq", UniqueKey | None, None, is_json=True),
        Column("blocked_by", str | None, None),
        Column("slot", Annotated[int, Meta(ge=0, lt=len(SLOTS))], 0),
        Column("held", Yes | None, None),
        Column("noted", Yes | None, 1),
    ),
    job_rule,
)
OF_GUARDS: Final = ("uniq", "guards", "holding", "once_key")
# A job goes on without these: people read them, or they say again what other columns say.
HARMLESS: Final = frozenset(
    {
        "cancel", "worker", "started_at", "finished_at", "purge_at", "result", "errors", "reason", "progress", "tags",
        "error_type", "fingerprint", "frame", "recoveries", "holding", "once_key", "blocked_by", "slot", "held",
        "noted",
    }
)  # fmt: skip

OTHERS: Final = (
    Table("meta", (Column("key", str), Column("value", int | str)), meta_rule),
    Table(
        "queues",
        (
            Column("name", QueueName),
            Column("paused", Flag, 0),
            Column("reason", str | None, None),
            Column("until", Instant | None, None),
            Column("who", str | None, None),
            Column("most", Annotated[int, Meta(ge=1, le=2**53)] | None, None),
            Column("rate", Annotated[int, Meta(ge=1, le=2**53)] | None, None),
            Column("per_ms", Annotated[int, Meta(ge=1, le=2**53)] | None, None),
            Column("held_back", Literal[0, 1, 2], 0),
            Column("idle_since", Instant | None, None),
        ),
    ),
    Table(
        "workers",
        (
            Column("id", Key),
            Column("boot", str, lambda row, now: now.boot),
            Column("lease_until", Count, lambda row, now: now.boot_ms + GRACE_MS),
            Column("beat_at", Instant, lambda row, now: now.wall),
            Column("info", WorkerInfo, unknown_worker, is_json=True),
            Column("control", tuple[str, ...] | None, None, is_json=True),
        ),
    ),
    Table("tombstones", (Column("id", Key), Column("until", Count, lambda row, now: now.wall + now.rules.id_keep_ms))),
    Table("totals", (Column("name", str), Column("value", Count, 0))),
    Table(
        "documents",
        (Column("key", str), Column("version", Count), Column("value", str), Column("until", Count | None, None)),
    ),
    Table("counts", (Column("minute", Count), Column("series", str), Column("n", Count, 0))),
    Table("flow", (Column("queue", str), Column("step", Count), Column("arrived", Count), Column("claimed", Count))),
    Table(
        "holds",
        (
            Column("seq", int),
            Column("gate", Key),
            Column("token", str | None, of_run),
            Column("until", Count | None, of_run),
            Column("since", Instant | None, lambda row, now: now.wall if is_token(row) else None),
            Column("owner", str | None, lambda row, now: "" if is_token(row) else None),
        ),
        hold_rule,
    ),
    Table(
        "once",
        (
            Column("key", str),
            Column("id", str, "a job whose id was damaged"),
            Column("result", str | None, None),
            Column("until", Count, lambda row, now: now.wall + MARKER_MS),
            Column("look", Count, lambda row, now: now.wall + MARKER_MS),
        ),
    ),
    Table("gates", (Column("gate", Key), Column("at", Count, 0))),
    Table(
        "rates", (Column("gate", Key), Column("at", Count), Column("total", Count), Column("until", Count | None, None))
    ),
    Table(
        "unique",
        (
            Column("key", str),
            Column("id", Key),
            Column("next", Key | None, None),
            Column("until", Until, "done"),
            Column("expires_at", Count | None, None),
        ),
    ),
    Table("line", (Column("gate", Key), Column("ticket", Count), Column("token", str), Column("until", Count))),
    Table("notes", (Column("seq", int), Column("key", Key), Column("value", Yes, test="typeof({0}) = 'text'"))),
)  # fmt: skip
TABLES: Final = (JOBS, *OTHERS)
KEYS: Final = {  # of more than one column
    "flow": "step, queue",
    "counts": "minute, series",
    "holds": "seq, gate",
    "rates": "gate, at",
    "line": "gate, ticket",
    "notes": "seq, key",
}

# -- what no rule of a row can see ------------------------------------------------------------------------------------

# A slot or key that is held for a job which does not run.
LEAKED: Final = """
SELECT seq, gate FROM "windlass_holds" AS held WHERE seq >= 0 AND NOT EXISTS (
    SELECT 1 FROM "windlass_jobs" AS jobs WHERE jobs.seq = held.seq
    AND (jobs.state = 'running' OR jobs.purge_at IS NULL AND substr(held.gate, 1, 5) = 'once:'))
    AND (held.seq, held.gate) IN (SELECT seq, gate FROM "windlass_holds" ORDER BY seq, gate LIMIT ? OFFSET ?)
"""
# A unique key that is held for a job which is not there any more.
ORPHANED_KEYS: Final = """
SELECT key FROM "windlass_unique" AS held WHERE until != 'expiry'
    AND NOT EXISTS (SELECT 1 FROM "windlass_jobs" AS jobs WHERE jobs.id = held.id AND jobs.purge_at IS NULL)
    AND key IN (SELECT key FROM "windlass_unique" ORDER BY key LIMIT ? OFFSET ?)
"""
# Notes of a job that is not there any more.
STRAY_NOTES: Final = """
DELETE FROM "windlass_notes" WHERE NOT EXISTS (
    SELECT 1 FROM "windlass_jobs" AS jobs WHERE jobs.seq = "windlass_notes".seq)
    AND (seq, key) IN (SELECT seq, key FROM "windlass_notes" ORDER BY seq, key LIMIT ? OFFSET ?)
"""
# Jobs of which no listing would know that they have some.
UNNOTED: Final = """
UPDATE "windlass_jobs" SET noted = 1 WHERE noted IS NULL
    AND seq IN (SELECT seq FROM "windlass_notes" ORDER BY seq, key LIMIT ? OFFSET ?)
"""
# Jobs that wait for the end of a holder that does not know of them.
FORGOTTEN: Final = """
UPDATE "windlass_jobs" SET state = 'scheduled', blocked_by = NULL WHERE state = 'blocked'
    AND blocked_by >= 'unique:' AND blocked_by < 'unique;' AND NOT EXISTS (
        SELECT 1 FROM "windlass_unique" AS taken
        WHERE taken.key = substr(blocked_by, 8) AND taken.next = "windlass_jobs".id)
"""
PASS_ON: Final = 'UPDATE "windlass_unique" SET id = next, next = NULL WHERE key = ? AND next IS NOT NULL'
FREE_KEY: Final = """
DELETE FROM "windlass_unique" WHERE key = ? AND NOT EXISTS (
    SELECT 1 FROM "windlass_jobs" AS jobs WHERE jobs.id = "windlass_unique".id AND jobs.purge_at IS NULL)
"""
HELD_BY: Final = 'SELECT gate FROM "windlass_holds" WHERE seq = ?'
LET_GO: Final = 'DELETE FROM "windlass_holds" WHERE seq = ?'
# It waits for the holder of its key, or is judged anew.
BLOCKED_ANEW: Final = """
UPDATE "windlass_jobs" SET
    state = iif(taken.key IS NULL, 'scheduled', 'blocked'), blocked_by = 'unique:' || taken.key
FROM (SELECT ?1 AS seq) LEFT JOIN (
    SELECT key, next FROM "windlass_unique" WHERE next = (SELECT id FROM "windlass_jobs" WHERE seq = ?1)) AS taken
WHERE "windlass_jobs".seq = ?1 AND state = 'blocked'
"""
ADD_ERROR: Final = """
UPDATE "windlass_jobs" SET errors = json_insert(coalesce(errors, '[]'), '$[#]', json(?)) WHERE seq = ?
"""
ADD_QUEUES_OF: Final = """
INSERT INTO "windlass_queues" (name) SELECT DISTINCT queue FROM "windlass_jobs"
WHERE seq > ? AND seq <= ? AND purge_at IS NULL ON CONFLICT (name) DO NOTHING
"""
LAST_DOCUMENT: Final = 'SELECT coalesce(max(version), 0) FROM "windlass_documents"'
SHORTEN_LEASES: Final = 'UPDATE "windlass_workers" SET lease_until = ? WHERE lease_until > ?'
WAITED_AT: Final = """
SELECT min(blocked_by) FROM "windlass_jobs" WHERE state = 'blocked' AND blocked_by > ?
"""
LOOK_AT_GATE: Final = """
INSERT INTO "windlass_gates" (gate, at) VALUES (?, 0) ON CONFLICT (gate) DO UPDATE SET at = 0
"""


class Found(Struct):
    """One row: its sound values, what was shown of it, and the names of the columns that are not sound."""

    key: dict[str, tuple[str, Any]]  # column of the key -> its type, and its value or bytes
    values: dict[str, Any]
    raw: dict[str, Any]
    wrong: list[str]

    @property
    def name(self) -> str:
        """How people know the row."""
        return ", ".join(str(self.raw[name]) for name in self.key)


class Chunk(Struct, frozen=True):
    """Rows of a table that are looked at together: ``count`` from ``at`` on, a sequence number or an offset."""

    table: Table
    at: int
    count: int = CHUNK


class Repairer:
    """Looks through a store for records that are not sound, and repairs them. One an engine object."""

    def __init__(self, q: Sql, clock: Clock, boot: str, rules: Rules) -> None:
        self._q = q
        self._clock = clock
        self._boot = boot
        self._rules = rules
        self._place = (0, 0)  # where ``look_on`` goes on: number of the table, place in it
        self._gate = ""

    # -- looking --

    def find(self, db: apsw.Connection) -> list[Chunk]:
        """Chunks with rows that are not sound, if these are the rules for them. Changes nothing."""
        found: list[Chunk] = []
        if version_of(db, self._q) > VERSION:  # a newer windlass writes here, and what it writes we do not know
            return found
        for table in TABLES:
            at, count = 0, CHUNK
            while count == CHUNK:
                if not self._is_sound(db, Chunk(table, at)):
                    found.append(Chunk(table, at))
                at, count = self._following(db, Chunk(table, at))
        return found

    def spoiled(self, db: apsw.Connection) -> list[str]:
        """What is not sound, in words for people. Changes nothing."""
        return [
            f"{chunk.table.name} {row.name}: {', '.join(row.wrong)}"
            for chunk in self.find(db)
            for row in self._rows(db, chunk)
            if row.wrong
        ]

    def _following(self, db: apsw.Connection, chunk: Chunk) -> tuple[int, int]:
        """Where the chunk behind this one begins, and how many rows this one has."""
        if chunk.table is JOBS:
            sql = "SELECT max(seq), count(*) FROM (SELECT seq FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?)"
            last, count = self._ask(db, chunk.table, sql, (chunk.at, chunk.count))[0]
            return last or 0, count
        sql = "SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT ? OFFSET ?)"
        ((count,),) = self._ask(db, chunk.table, sql, (chunk.count, chunk.at))
        return chunk.at + count, count

    def _is_sound(self, db: apsw.Connection, chunk: Chunk) -> bool:
        """Whether every row of a chunk is sound; quick where it is."""
        table = chunk.table
        cells = ", ".join(quick(column) for column in table.columns)
        sql = f"SELECT CAST(json_group_array(json_array({cells})) AS BLOB) FROM ({self._source(table)})"
        try:
            rows = decoder_of(table.name)(self._ask(db, table, sql, (chunk.at, chunk.count))[0][0])
        except (apsw.Error, msgspec.MsgspecError, UnicodeError):
            return False
        rule = table.rule
        return rule is None or not any(map(rule, rows))

    def _source(self, table: Table) -> str:
        if table is JOBS:
            return "SELECT * FROM {table} WHERE seq > ?1 ORDER BY seq LIMIT ?2"
        return f"SELECT * FROM {{table}} ORDER BY {table.key} LIMIT ?2 OFFSET ?1"

    def _ask(self, db: apsw.Connection, table: Table, sql: str, bindings: tuple[object, ...] = ()) -> list[Any]:
        text = sql.replace("{table}", f'"windlass_{table.name}"')
        return db.execute(self._q(text), bindings).fetchall()

    def _rows(self, db: apsw.Connection, chunk: Chunk) -> Iterator[Found]:
        """The rows of a chunk, each column by itself."""
        table = chunk.table
        cells = ", ".join(f"typeof({quoted(one)}), {exact(one)}" for one in table.columns)
        for cell in self._ask(db, table, f"SELECT {cells} FROM ({self._source(table)})", (chunk.at, chunk.count)):
            kinds, raws = cell[::2], cell[1::2]
            row = Found({}, {}, {}, [])
            for column, kind, raw in zip(table.columns, kinds, raws, strict=True):
                row.raw[column.name] = shown(raw)
                if column.name in table.key.split(", "):
                    row.key[column.name] = (kind, raw)
                try:
                    row.values[column.name] = value_of(column, kind, raw)
                except (ValueError, TypeError, RecursionError, msgspec.MsgspecError):
                    row.values[column.name] = None
                    row.wrong.append(column.name)
            if not row.wrong and table.rule is not None:
                row.wrong += table.rule(View(row.values))
            yield row

    # -- repairing --

    def repair(self, db: apsw.Connection, chunks: Sequence[Chunk]) -> int:
        """Repair the rows of these chunks inside the caller's write transaction; give how many that were."""
        count = sum(self._repair(db, chunk) for chunk in chunks if chunk.table is JOBS)
        for table in {chunk.table.name: chunk.table for chunk in chunks if chunk.table is not JOBS}.values():
            count += self._repair(db, Chunk(table, 0, -1))  # as a whole: its rows have no place of their own
        self._register(db, 0, 2**62)
        return count + self._repair_ties(db, 0, -1) + self._shorten_leases(db)

    def look_on(self, db: apsw.Connection, budget: int) -> int:
        """Look at some rows, at most ``budget``, from where the last call ended on; give how many were repaired."""
        repaired, budget = 0, min(budget, LOOK_MAX)
        if version_of(db, self._q) > VERSION:
            return 0
        for _ in TABLES:
            number, at = self._place
            chunk = Chunk(TABLES[number], at, budget)
            following, count = self._following(db, chunk)
            if not self._is_sound(db, chunk):
                repaired += self._repair(db, chunk)
            if chunk.table is JOBS:
                self._register(db, at, following)
            elif chunk.table.name == "workers":
                repaired += self._shorten_leases(db)
            elif chunk.table.name in ("holds", "unique", "notes"):
                repaired += self._repair_ties(db, at, budget)
            budget -= count
            self._place = (number, following) if budget <= 0 else ((number + 1) % len(TABLES), 0)
            if budget <= 0:
                break
        self._look_at_gates(db)
        return repaired

    def _repair(self, db: apsw.Connection, chunk: Chunk) -> int:
        now = Now(self._clock.wall_ms(), self._clock.boot_ms(), self._boot, self._rules)
        rows = [row for row in self._rows(db, chunk) if row.wrong]
        for row in rows:
            if chunk.table is JOBS:
                self._repair_job(db, row, now)
            else:
                self._repair_other(db, chunk.table, row, now)
        return len(rows)

    def _repair_other(self, db: apsw.Connection, table: Table, row: Found, now: Now) -> None:
        by_name = {column.name: column for column in table.columns}
        fresh = {name: self._in_place_of(db, table, by_name[name], row, now) for name in row.wrong}
        where = " AND ".join(
            f'"{name}" = CAST(? AS TEXT)' if kind == "text" else f'"{name}" IS ?' for name, (kind, _) in row.key.items()
        )
        bindings = tuple(raw for _, raw in row.key.values())
        what = ", ".join(f"{name} was {row.raw[name]}" for name in row.wrong)
        if any(isinstance(value, Never) for value in fresh.values()):
            self._ask(db, table, f"DELETE FROM {{table}} WHERE {where}", bindings)
            log.error("a damaged record is removed: %s %s (%s)", table.name, row.name, what)
            return
        sets = ", ".join(f'"{name}" = ?' for name in fresh)
        self._ask(db, table, f"UPDATE {{table}} SET {sets} WHERE {where}", (*fresh.values(), *bindings))
        log.error("a damaged record is repaired: %s %s (%s)", table.name, row.name, what)

    def _in_place_of(self, db: apsw.Connection, table: Table, column: Column, row: Found, now: Now) -> Any:
        if table.name == "meta" and row.values["key"] == "schema":
            return VERSION
        if table.name == "meta" and row.values["key"] == "document":
            return db.execute(self._q(LAST_DOCUMENT)).fetchall()[0][0]
        return column.empty(row.values, now) if callable(column.empty) else column.empty

    def _repair_job(self, db: apsw.Connection, row: Found, now: Now) -> None:
        """Let a job go on without what people read of it, or let it die of what is spoiled."""
        values, wrong, seq = row.values, row.wrong, row.values["seq"]
        has_ended = values["state"] in FINISHED
        dies = not has_ended and not HARMLESS.issuperset(wrong)
        fresh = {
            column.name: f"damaged-{seq}" if column.name == "id" else self._in_place_of(db, JOBS, column, row, now)
            for column in JOBS.columns
            if column.name in wrong
        }
        text = described({name: row.raw[name] for name in wrong})
        # What triggers look into must be sound before anything moves.
        first: dict[str, Any] = {name: fresh.pop(name) for name in OF_GUARDS if name in fresh}
        if dies:
            first["purge_at"] = None
        self._set(db, seq, first)
        if "guards" in wrong:
            for (gate,) in db.execute(self._q(HELD_BY), (seq,)).fetchall():
                db.execute(self._q(LOOK_AT_GATE), (gate,))
            db.execute(self._q(LET_GO), (seq,))
        if "blocked_by" in wrong and not dies and values["state"] == State.BLOCKED:
            del fresh["blocked_by"]
            db.execute(self._q(BLOCKED_ANEW), (seq,))
        if dies:
            fresh |= {
                "state": State.DEAD.value,
                "reason": text,
                "finished_at": now.wall,
                "purge_at": now.wall + dead_keep(now.rules),
                "worker": None,
                "error_type": DAMAGED.error_type,
                "fingerprint": DAMAGED.fingerprint,
                "frame": None,
            }
            count(db, self._q, now.wall, "total:dead", 1)
        self._set(db, seq, fresh)
        error = JobError(DAMAGED.error_type, text, "", now.wall, 0 if "attempt" in wrong else values["attempt"] + 1)
        db.execute(self._q(ADD_ERROR), (encode(error).decode(), seq))
        log.error("job %s %s: %s", row.raw["id"], "is dead" if dies else "goes on", text)

    def _set(self, db: apsw.Connection, seq: int, fresh: dict[str, Any]) -> None:
        if fresh:
            sets = ", ".join(f'"{name}" = ?' for name in fresh)
            self._ask(db, JOBS, f"UPDATE {{table}} SET {sets} WHERE seq = ?", (*fresh.values(), seq))

    def _repair_ties(self, db: apsw.Connection, at: int, count: int) -> int:
        """Let go what is held for jobs that do not run any more, and notes of those that are gone; give how much."""
        leaked = db.execute(self._q(LEAKED), (count, at)).fetchall()
        for seq, gate in leaked:
            db.execute(self._q(LOOK_AT_GATE), (gate,))
            db.execute(self._q(LET_GO) + " AND gate = ?", (seq, gate))
        orphaned = db.execute(self._q(ORPHANED_KEYS), (count, at)).fetchall()
        for (key,) in orphaned:
            db.execute(self._q(PASS_ON), (key,))
            db.execute(self._q(FREE_KEY), (key,))
        repaired = len(leaked) + len(orphaned)
        for sql, bindings in ((FORGOTTEN, ()), (STRAY_NOTES, (count, at)), (UNNOTED, (count, at))):
            db.execute(self._q(sql), bindings)
            repaired += db.changes()
        return repaired

    def _shorten_leases(self, db: apsw.Connection) -> int:
        """Let no worker hold its jobs for as long as nobody can mean."""
        now = self._clock.boot_ms()
        db.execute(self._q(SHORTEN_LEASES), (now + GRACE_MS, now + LEASE_MAX_MS))
        return db.changes()

    def _register(self, db: apsw.Connection, above: int, last: int) -> None:
        """Know the queues of these jobs, or nobody would claim them."""
        db.execute(self._q(ADD_QUEUES_OF), (above, last))

    def _look_at_gates(self, db: apsw.Connection) -> None:
        """Have the next claim look at some of the gates that jobs wait at, whatever is noted of them."""
        for _ in range(GATES_STEP):
            gate = db.execute(self._q(WAITED_AT), (self._gate,)).fetchall()[0][0]
            self._gate = "" if gate is None else str(gate)
            if gate is None:
                return
            db.execute(self._q(LOOK_AT_GATE), (gate,))


class View:
    """A row as its rule sees it."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


@cache
def decoder_of(name: str) -> Callable[[bytes], list[Any]]:
    """What reads a quick look at rows of a table; made when it is needed, since most programs only enqueue."""
    table = next(one for one in TABLES if one.name == name)
    fields = [(column.name, column.type) for column in table.columns]
    return msgspec.json.Decoder(list[msgspec.defstruct(table.name, fields, array_like=True)]).decode  # type: ignore[misc]


def quoted(column: Column) -> str:
    return f'"{column.name}"'


def quick(column: Column) -> str:
    """A column as a quick look asks for it."""
    if column.test is not None:
        return column.test.format(quoted(column))
    return f"json({quoted(column)})" if column.is_json else quoted(column)


def exact(column: Column) -> str:
    """A column as SQLite can give it, whatever is in it."""
    if column.test is not None:
        return column.test.format(quoted(column))
    return f"CASE typeof({quoted(column)}) WHEN 'text' THEN CAST({quoted(column)} AS BLOB) ELSE {quoted(column)} END"


def value_of(column: Column, kind: str, raw: Any) -> Any:
    """The sound value of a cell. Raises ValueError or its like where it is none."""
    if column.test is not None:
        return msgspec.convert(raw, column.type)
    if kind == "blob":
        raise ValueError("a blob where none belongs")
    value: object = raw.decode() if kind == "text" else raw
    if column.is_json and value is not None:
        return msgspec.json.decode(raw, type=column.type)
    return msgspec.convert(value, column.type)


def shown(raw: Any) -> Any:
    """A raw value as people may see it."""
    return raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
