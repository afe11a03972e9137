"""Looks through a SQLite store for records that break the rules of ``records``, and repairs them.

A job that is not sound becomes dead with what can be kept of it; another value is put right or goes. Must not know what
is sound: that is said there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Final

import apsw
import msgspec
from msgspec import Struct

from windlass.core.clock import Clock
from windlass.core.fingerprint import DAMAGED
from windlass.core.model import FINISHED, JobError, State
from windlass.core.work import Rules
from windlass.engines.damage import described
from windlass.engines.sqlite.counts import count
from windlass.engines.sqlite.records import (
    ADD_ERROR,
    ADD_QUEUES_OF,
    BLOCKED_ANEW,
    CHUNK,
    FORGOTTEN,
    FREE_KEY,
    GATES_STEP,
    GRACE_MS,
    HARMLESS,
    HELD_BY,
    JOBS,
    LAST_DOCUMENT,
    LEAKED,
    LEASE_MAX_MS,
    LET_GO,
    LOOK_AT_GATE,
    LOOK_AT_JOINS,
    LOOK_MAX,
    LOST_MEMBERS,
    MISCOUNTED,
    MISTIMED,
    OF_GUARDS,
    ORPHANED_KEYS,
    PASS_ON,
    SHORTEN_LEASES,
    STRAY_NOTES,
    TABLES,
    UNNOTED,
    UNTIED,
    WAIT_FOR_NOTHING,
    WAITED_AT,
    WRONG_VERDICTS,
    Column,
    Never,
    Now,
    Table,
    dead_keep,
    encode,
    log,
)
from windlass.engines.sqlite.schema import VERSION, Sql, version_of

__all__ = [
    "Repairer",
]

WAITED_IN_VAIN: Final = "its record was damaged: nobody knows any more what it waited for; look whether it may run"


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
        return count + self._repair_ties(db, 0, -1) + self._repair_joins(db, 0, -1) + self._shorten_leases(db)

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
            elif chunk.table.name in ("joins", "members", "waits"):
                repaired += self._repair_joins(db, at, budget)
            budget -= count
            self._place = (number, following) if budget <= 0 else ((number + 1) % len(TABLES), 0)
            if budget <= 0:
                break
        self._look_at_gates(db)
        return repaired

    def _repair(self, db: apsw.Connection, chunk: Chunk) -> int:
        now = self._now()
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
        attempt = 0 if "attempt" in wrong else values["attempt"] + 1
        if dies:
            self._let_die(db, seq, text, now, attempt, fresh)
        else:
            self._set(db, seq, fresh)
            self._add_error(db, seq, text, now, attempt)
        log.error("job %s %s: %s", row.raw["id"], "is dead" if dies else "goes on", text)

    def _let_die(self, db: apsw.Connection, seq: int, text: str, now: Now, attempt: int, fresh: dict[str, Any]) -> None:
        """Let a job be dead of its damage, with these values for other columns."""
        death = {
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
        self._set(db, seq, fresh | death)
        self._add_error(db, seq, text, now, attempt)

    def _add_error(self, db: apsw.Connection, seq: int, text: str, now: Now, attempt: int) -> None:
        error = JobError(DAMAGED.error_type, text, "", now.wall, attempt)
        db.execute(self._q(ADD_ERROR), (encode(error).decode(), seq))

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

    def _repair_joins(self, db: apsw.Connection, at: int, count: int) -> int:
        """Derive verdicts and counters anew from the records; give how much of them was wrong."""
        repaired = 0
        now = self._now()
        for sql in (WRONG_VERDICTS, LOST_MEMBERS, MISCOUNTED):
            db.execute(self._q(sql), (count, at))
            repaired += db.changes()
        db.execute(self._q(MISTIMED), (count, at, now.wall))
        repaired += db.changes()
        for sql in (UNTIED, LOOK_AT_JOINS):
            db.execute(self._q(sql), (count, at))
        for seq, id in db.execute(self._q(WAIT_FOR_NOTHING)).fetchall():
            self._let_die(db, int(str(seq)), WAITED_IN_VAIN, now, 0, {})
            log.error("job %s is dead: %s", id, WAITED_IN_VAIN)
            repaired += 1
        return repaired

    def _now(self) -> Now:
        return Now(self._clock.wall_ms(), self._clock.boot_ms(), self._boot, self._rules)

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
