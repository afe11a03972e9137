"""The cold path: questions of people and dashboards, and what holds for a queue or is asked of a worker.

Questions run on the reader connection, so a long one never holds up a claim. Lists are pages by key, never by offset.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final

import apsw
import msgspec

from windlass.core import caps
from windlass.core.errors import ConfigError
from windlass.core.model import State
from windlass.core.rows import (
    BlockedRow,
    JobFilter,
    JobRow,
    JoinRow,
    Member,
    Metrics,
    QueueChange,
    QueueRow,
    WorkerRow,
)
from windlass.core.units import shown, whole_number
from windlass.core.work import QueueBound, RateBound, WorkerInfo
from windlass.engines.base import REPAIR, Finding
from windlass.engines.damage import made
from windlass.engines.sqlite.bounds import merged, meter_of, set_queue
from windlass.engines.sqlite.connection import translated
from windlass.engines.sqlite.core import FOREIGN, FOREIGN_ADVICE, SqliteCore, foreign_handle
from windlass.engines.sqlite.counts import read_counts, read_totals
from windlass.engines.sqlite.joins import members_of, page_of, page_of_joins, read_joins
from windlass.engines.sqlite.leases import release_strays
from windlass.engines.sqlite.rows import ROW, to_rows
from windlass.engines.sqlite.surroundings import look_around

__all__ = ["SqliteInspector"]

encode = msgspec.json.Encoder().encode
decode_words = msgspec.json.Decoder(tuple[str, ...]).decode
decode_info = msgspec.json.Decoder(WorkerInfo).decode

SPOILED_SHOWN: Final = 5
LOOK_AGAIN: Final = 1.0  # seconds: the most a lost wake-up can delay wait_finished

QUEUES: Final = 'SELECT name, paused, reason, until, who, most, rate, per_ms FROM "windlass_queues" ORDER BY name'
READY: Final = """
SELECT queue, count(*), min(run_at) FROM "windlass_jobs" WHERE state = 'ready' AND crashes < 2 GROUP BY queue
"""
READY_ALONE: Final = """
SELECT queue, count(*), min(run_at) FROM "windlass_jobs" WHERE state = 'ready' AND crashes >= 2 AND purge_at IS NULL
GROUP BY queue
"""
# One that has come due is ready, also before a claim or a sweep has written that down.
DUE: Final = """
SELECT queue, sum(run_at > ?1), sum(run_at <= ?1), min(run_at) FROM "windlass_jobs" WHERE state = 'scheduled'
GROUP BY queue
"""
RUNNING: Final = "SELECT queue, count(*), count(held) FROM \"windlass_jobs\" WHERE state = 'running' GROUP BY queue"
BLOCKED: Final = """
SELECT queue, blocked_by, count(*), min(run_at) FROM "windlass_jobs" WHERE state = 'blocked'
GROUP BY blocked_by, queue ORDER BY queue, blocked_by
"""
WORKERS: Final = """
SELECT info, beat_at, lease_until, boot, control, (SELECT count(*) FROM "windlass_jobs" WHERE state = 'running'
    AND worker = workers.id) FROM "windlass_workers" AS workers ORDER BY beat_at, id
"""
COUNTS: Final = """
SELECT 'ready', count(*) FROM "windlass_jobs" WHERE state = 'ready' AND crashes < 2
UNION ALL SELECT 'ready', count(*) FROM "windlass_jobs" WHERE state = 'ready' AND crashes >= 2 AND purge_at IS NULL
UNION ALL SELECT 'blocked', count(*) FROM "windlass_jobs" WHERE state = 'blocked'
UNION ALL SELECT 'ready', count(*) FROM "windlass_jobs" WHERE state = 'scheduled' AND run_at <= ?1
UNION ALL SELECT 'scheduled', count(*) FROM "windlass_jobs" WHERE state = 'scheduled' AND run_at > ?1
UNION ALL SELECT 'running', count(*) FROM "windlass_jobs" WHERE state = 'running'
UNION ALL SELECT 'held', count(held) FROM "windlass_jobs" WHERE state = 'running'
UNION ALL SELECT state, count(*) FROM "windlass_jobs" WHERE purge_at IS NOT NULL GROUP BY state
"""
TOTAL_NAMES: Final = ("enqueued", "done", "retried", "dead", "cancelled", "stale", "recovered", "crashed", "trimmed")

ASK_WORKERS: Final = """
UPDATE "windlass_workers" SET control = CASE WHEN control IS NULL THEN json_array(?2)
    WHEN EXISTS (SELECT 1 FROM json_each(control) WHERE value = ?2) THEN control
    ELSE json_insert(control, '$[#]', ?2) END
WHERE id = ?1 OR info ->> 'group' = ?1
"""
# Without its trailing characters that are no dot a dotted name is the part before its last one.
LAST_PART: Final = "substr(error_type, length(rtrim(error_type, replace(error_type, '.', ''))) + 1)"
UNFINISHED: Final = """
SELECT count(*) FROM "windlass_jobs" WHERE id IN (SELECT value FROM json_each(?)) AND purge_at IS NULL
"""
STRAYS: Final = """
SELECT count(*) FROM "windlass_jobs" WHERE state = 'running' AND worker NOT IN (SELECT id FROM "windlass_workers")
"""


class SqliteInspector(SqliteCore):
    """The Inspector half of the engine."""

    def job(self, job_id: str) -> JobRow | None:
        sql, now = self._q(ROW) + "id = ?", self._clock.wall_ms()
        rows = self._ask(lambda db: to_rows(db, self._q, db.execute(sql, (job_id,)).fetchall(), now))
        return rows[0] if rows else None

    def jobs(self, where: JobFilter, cursor: str | None, limit: int) -> tuple[list[JobRow], str | None]:
        now = self._clock.wall_ms()
        clause, bindings = condition(where, now)
        if cursor is not None:
            clause, bindings = f"{clause} AND seq < ?", [*bindings, parse_cursor(cursor)]
        sql = f"{self._q(ROW)}{clause} ORDER BY seq DESC LIMIT ?"

        def ask(db: apsw.Connection) -> tuple[list[JobRow], str | None]:
            rows = db.execute(sql, (*bindings, limit + 1)).fetchall()
            more = str(rows[limit - 1][-1]) if len(rows) > limit else None
            return to_rows(db, self._q, rows[:limit], now), more

        return self._ask(ask)

    def joins(self, ids: Sequence[str]) -> list[JoinRow | None]:
        return self._ask(lambda db: read_joins(db, self._q, ids)) if ids else []

    def list_joins(self, prefix: str, cursor: str | None, limit: int) -> tuple[list[JoinRow], str | None]:
        return page_of(self._ask(lambda db: page_of_joins(db, self._q, prefix, cursor, limit + 1)), limit)

    def members(self, join: str, cursor: str | None, limit: int) -> tuple[list[Member], str | None]:
        return page_of(self._ask(lambda db: members_of(db, self._q, join, cursor, limit + 1)), limit)

    def queues(self, bounds: Sequence[QueueBound] = ()) -> list[QueueRow]:
        now = self._clock.wall_ms()

        def ask(db: apsw.Connection) -> list[QueueRow]:
            ready: dict[str, tuple[int, int]] = {}
            for queue, count, oldest in (*db.execute(self._q(READY)), *db.execute(self._q(READY_ALONE))):
                have, since = ready.get(queue, (0, now))
                ready[queue] = (have + count, min(since, oldest))
            scheduled: dict[str, int] = {}
            for queue, later, came, oldest in db.execute(self._q(DUE), (now,)):
                scheduled[queue] = later
                if came:
                    have, since = ready.get(queue, (0, now))
                    ready[queue] = (have + came, min(since, oldest))
            leased = {queue: (count - ahead, ahead) for queue, count, ahead in db.execute(self._q(RUNNING))}
            found: list[tuple[Any, ...]] = list(db.execute(self._q(QUEUES)))
            bound = merged(((row[0], *row[5:]) for row in found), bounds)
            rows = []
            for name, paused, reason, until, who, *_ in found:
                count, since = ready.get(name, (0, now))
                runs, ahead = leased.get(name, (0, 0))
                stopped = bool(paused) and (until is None or until > now)
                mine = bound.get(name) or QueueBound(name)
                rows.append(
                    made(
                        QueueRow,
                        name=name,
                        ready=count,
                        scheduled=scheduled.get(name, 0),
                        running=runs,
                        latency_ms=max(0, now - since),
                        paused=stopped,
                        paused_reason=reason if stopped else None,
                        paused_until=until if stopped else None,
                        paused_by=who if stopped else None,
                        limit=mine.limit,
                        rate=mine.rate,
                        started=0 if mine.rate is None else self._started(db, name, mine.rate),
                        held=ahead,
                    )
                )
            return rows

        return self._ask(ask)

    def _started(self, db: apsw.Connection, queue: str, rate: RateBound) -> int:
        """How many jobs of a queue were claimed in the window of its rate."""
        return rate.count - meter_of(db, self._q, queue, rate, self._steady.now(db)).room()

    def blocked(self) -> list[BlockedRow]:
        now = self._clock.wall_ms()
        rows: list[Any] = self._ask(lambda db: db.execute(self._q(BLOCKED)).fetchall())
        return [BlockedRow(queue, gate or "", jobs, max(0, now - since)) for queue, gate, jobs, since in rows]

    def workers(self) -> list[WorkerRow]:
        boot_now = self._clock.boot_ms()
        return self._ask(
            lambda db: [
                made(
                    WorkerRow,
                    info=decode_info(str(info)),
                    running=running,
                    beat_at=beat_at,
                    lease_left_ms=until - boot_now if boot == self._boot else -1,
                    control=decode_words(str(control)) if control else (),
                )
                for info, beat_at, until, boot, control, running in db.execute(self._q(WORKERS))
            ]
        )

    def counts(self) -> dict[str, int]:
        found = dict.fromkeys((*(state.value for state in State), "held"), 0) | {
            f"total_{name}": 0 for name in TOTAL_NAMES
        }

        now = self._clock.wall_ms()

        def ask(db: apsw.Connection) -> None:
            for state, count in db.execute(self._q(COUNTS), (now,)):
                found[state] = found.get(state, 0) + count
            for name, n in read_totals(db, self._q):
                if name in TOTAL_NAMES:
                    found[f"total_{name}"] += n

        self._ask(ask)
        return found

    def metrics(self, prefixes: Sequence[str], minutes: int) -> Metrics:
        now = self._clock.wall_ms()
        return self._ask(lambda db: Metrics(now, read_counts(db, self._q, now, prefixes, minutes)))

    def control(self, target: str, word: str) -> int:
        def write(db: apsw.Connection) -> int:
            db.execute(self._q(ASK_WORKERS), (target, word))
            return db.changes()

        return self._write(write, durable=True)

    def set_queue(self, queue: str, change: QueueChange) -> None:
        if change != QueueChange():
            self._write(lambda db: set_queue(db, self._q, queue, change), durable=True)
            self._ready.touch()

    def wait_finished(self, ids: Sequence[str], timeout: float) -> bool:
        with translated("looking for ends"):
            wanted = encode(list(ids)).decode()
        deadline = time.monotonic() + timeout
        with self._endings.listening() as endings:
            while True:
                seen = endings.count
                left = self._ask(lambda db: db.execute(self._q(UNFINISHED), (wanted,)).fetchone())
                if left is None or left[0] == 0:
                    return True
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                endings.wait(seen, min(remaining, LOOK_AGAIN))

    def doctor(self, repair: bool = False) -> list[Finding]:
        findings = [Finding("sqlite", "ok", f"SQLite {apsw.sqlite_lib_version()} through apsw {apsw.apsw_version()}")]
        damage = [str(line) for (line,) in self._ask(lambda db: db.execute("PRAGMA integrity_check(5)").fetchall())]
        if damage == ["ok"]:
            findings.append(Finding("integrity", "ok", "the file passes SQLite's integrity check"))
        else:
            findings.append(
                Finding(
                    "integrity", "error", "; ".join(damage), "restore a backup, or salvage it with SQLite's .recover"
                )
            )
        findings.append(self._records(repair))
        findings.append(self._strays(repair))
        if self.path is not None:
            findings += look_around(self.path)
        findings += self._wake_ups()
        if self.path is not None and foreign_handle(self.path):
            findings.append(Finding("handles", "error", FOREIGN.format(path=self.path), FOREIGN_ADVICE))
        return findings

    def _records(self, repair: bool) -> Finding:
        spoiled = self._open_reader().run(self._repairer.spoiled)
        if not spoiled:
            return Finding("records", "ok", "every record is sound")
        what = f"{len(spoiled)} records are damaged: {'; '.join(spoiled[:SPOILED_SHOWN])}"
        if not repair:
            return Finding("records", "error", what, f"repair them: `{REPAIR}`; any live worker does it too")
        self._repair_now()
        return Finding("records", "warning", f"{what}; repaired just now")

    def _wake_ups(self) -> list[Finding]:
        troubles = [trouble for signal in self._signals if (trouble := signal.trouble()) is not None]
        if not troubles:
            return [Finding("wake-ups", "ok", "processes hear at once what there is to do")]
        return [Finding("wake-ups", "warning", trouble) for trouble in troubles]

    def _strays(self, repair: bool) -> Finding:
        row = self._ask(lambda db: db.execute(self._q(STRAYS)).fetchone())
        strays = int(row[0]) if row else 0
        if strays == 0:
            return Finding("orphans", "ok", "every running job has a registered worker")
        what = "1 running job has no worker" if strays == 1 else f"{strays} running jobs have no worker"
        if not repair:
            return Finding("orphans", "error", what, f"release them: `{REPAIR}`; any live worker does it too")
        now = self._clock.wall_ms()
        released = self._write(lambda db: release_strays(db, self._q, now, self._rules), durable=True)
        self._ready.touch()
        return Finding("orphans", "warning", f"{what}; {released} released just now")


def condition(where: JobFilter, now: int) -> tuple[str, list[object]]:
    """The SQL condition of a filter, and its bindings."""
    # The state is written out: a partial index is of no use to a condition that is known only when it is run.
    clauses = ["true" if where.state is None else f"state = '{where.state.value}'"]
    bindings: list[object] = []
    if where.state is State.READY:
        clauses, bindings = ["(state = 'ready' OR (state = 'scheduled' AND run_at <= ?))"], [now]
    elif where.state is State.SCHEDULED:
        clauses, bindings = ["state = 'scheduled' AND run_at > ?"], [now]
    with translated(None):
        ids = None if where.ids is None else encode(where.ids).decode()
    for clause, value in (
        ("name = ?", where.name),
        ("queue = ?", where.queue),
        ("enqueued_at < ?", where.before),
        ("enqueued_at >= ?", where.after),
        ("finished_at < ?", where.ended_before),
        ("finished_at >= ?", where.ended_after),
        ("EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)", where.tag),
        ("coalesce(fingerprint, 'unknown') = ? AND state = 'dead'", where.group),
        (f"? IN (error_type, {LAST_PART})", where.error),
        ("id IN (SELECT value FROM json_each(?))", ids),
    ):
        if value is not None:
            clauses.append(clause)
            bindings.append(value)
    return " AND ".join(clauses), bindings


def parse_cursor(cursor: str) -> int:
    """The place a page cursor stands for."""
    if (place := whole_number(cursor, caps.NUMBER)) is None:
        raise ConfigError(f"{shown(cursor)} is not a page cursor: pass the 'next' of the page before")
    return place
