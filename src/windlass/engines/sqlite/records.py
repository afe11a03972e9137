"""What a sound record is, in every table, and what becomes of one that is not.

Nothing here is asked while all is well: a call that meets a record which is not sound fails, and its transaction is
rolled back. Then ``repairer`` looks through the whole store, and the call is made again (``core``). What no call falls
over, such as a job in a state that nothing searches, is found by ``look_on``, a bounded step of upkeep.

A job that is not sound is dead: its payload and every sound column are kept, the others are emptied and named in its
reason and its history. Where only what people read was spoiled (``HARMLESS``), the job goes on without it. Rows of
other tables get what is known to be safe in place of a spoiled value, or go when nothing is.

Invariants: a column without a rule here fails a test; every row is looked at again inside the transaction that changes
it, and each change is logged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from windlass.core.model import FINISHED, PLACES, Ends, GuardKind, State, UniqueKey, Until
from windlass.core.work import Rules, WorkerInfo
from windlass.engines.damage import LAST_MS, NAME_OF_DAMAGED, QUEUE_OF_DAMAGED, QueueName
from windlass.engines.sqlite.fields import holding, once_key
from windlass.engines.sqlite.guards import Stored
from windlass.engines.sqlite.schema import FENCE_MAX, FOREVER, SLOTS, VERSION, VERSION_MAX
from windlass.engines.sqlite.upkeep import decode_swept
from windlass.logs import Log

__all__ = [
    "ADD_ERROR",
    "ADD_QUEUES_OF",
    "BLOCKED_ANEW",
    "CHUNK",
    "FORGOTTEN",
    "FREE_KEY",
    "GATES_STEP",
    "GRACE_MS",
    "HARMLESS",
    "HELD_BY",
    "JOBS",
    "LAST_DOCUMENT",
    "LEAKED",
    "LEASE_MAX_MS",
    "LET_GO",
    "LOOK_AT_GATE",
    "LOOK_AT_JOINS",
    "LOOK_MAX",
    "LOST_MEMBERS",
    "MISCOUNTED",
    "OF_GUARDS",
    "ORPHANED_KEYS",
    "PASS_ON",
    "SHORTEN_LEASES",
    "STRAY_NOTES",
    "TABLES",
    "TEXT",
    "UNNOTED",
    "UNTIED",
    "WAITED_AT",
    "WAIT_FOR_NOTHING",
    "WRONG_VERDICTS",
    "Column",
    "Never",
    "Now",
    "Table",
    "dead_keep",
    "encode",
    "log",
]

log = Log("windlass.engine")

CHUNK: Final = 500
LOOK_MAX: Final = 250  # rows that one step of upkeep looks at: 1 ms
GATES_STEP: Final = 32
LEASE_MAX_MS: Final = 30 * 86_400_000
GRACE_MS: Final = 30_000  # how long a worker with a spoiled lease is believed to live
JOIN_KEEP_MS: Final = 86_400_000  # how long a join stays whose time to be kept is spoiled
MARKER_MS: Final = 86_400_000  # how long a Once marker with a spoiled time stays

Count: Final = Annotated[int, Meta(ge=0, le=2**53)]
Signed: Final = Annotated[int, Meta(ge=-(2**62), le=2**62)]
Instant: Final = Annotated[int, Meta(ge=0, le=LAST_MS)]
Fence: Final = Annotated[int, Meta(ge=0, le=FENCE_MAX)]
Key: Final = Annotated[str, Meta(min_length=1)]
Yes: Final = Literal[1]
Flag: Final = Literal[0, 1]
FinishedState: Final = Literal["done", "dead", "cancelled"]

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
    elif (row.once_key, row.holding) != (once_key(guards), holding(guards)):
        wrong += "once_key", "holding"
    if row.state == State.BLOCKED and row.blocked_by not in gates_of(guards, row.uniq) and not waits_for_jobs(row):
        wrong.append("blocked_by")
    return wrong


def waits_for_jobs(row: Any) -> bool:
    """Whether a blocked job waits at a join; what for, another table says."""
    return row.tied is not None and row.blocked_by is not None and row.blocked_by.startswith("join:")


def join_rule(row: Any) -> list[str]:
    """The counters of a join, which never are more than its members."""
    wrong = [name for name in ("ok", "bad", "void") if getattr(row, name) > row.total]
    return wrong or (["total"] if row.ok + row.bad + row.void > row.total else [])


def is_sound(guard: Stored) -> bool:
    """Whether a guard can be judged."""
    if not guard.gate.startswith(f"{guard.kind}:"):
        return False
    if guard.kind is GuardKind.RATE:
        return guard.limit > 0 and guard.per_ms > 0 and (guard.burst is None or guard.burst > 0)
    return guard.kind not in PLACES or guard.limit > 0


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
        Column("holding", Yes | None, lambda row, now: holding(row["guards"] or ())),
        Column("once_key", str | None, lambda row, now: once_key(row["guards"] or ())),
        Column("uniq", UniqueKey | None, None, is_json=True),
        Column("blocked_by", str | None, None),
        Column("slot", Annotated[int, Meta(ge=0, lt=len(SLOTS))], 0),
        Column("held", Yes | None, None),
        Column("noted", Yes | None, 1),
        Column("tied", Yes | None, 1),
    ),
    job_rule,
)
OF_GUARDS: Final = ("uniq", "guards", "holding", "once_key")
# A job goes on without these: people read them, or they say again what other columns say.
HARMLESS: Final = frozenset(
    {
        "cancel", "worker", "started_at", "finished_at", "purge_at", "result", "errors", "reason", "progress", "tags",
        "error_type", "fingerprint", "frame", "recoveries", "holding", "once_key", "blocked_by", "slot", "held",
        "noted", "tied",
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
    Table(
        "joins",
        (
            Column("id", Key),
            Column("sealed", Flag, 1),
            Column("total", Count, 0),
            Column("ok", Count, 0),
            Column("bad", Count, 0),
            Column("void", Count, 0),
            Column("made_at", Instant, lambda row, now: now.wall),
            Column("moved_at", Instant, lambda row, now: now.wall),
            Column("ended_at", Instant | None, None),
            Column("purge_at", Count | None, None),
            Column("keep_ms", Count, JOIN_KEEP_MS),
            Column("home", Key | None, None),
            Column("meta", Yes, None, TEXT),
            Column("dirty", Literal[1, 2] | None, 2),
        ),
        join_rule,
    ),
    Table("members", (Column("id", Key), Column("join_id", Key), Column("verdict", FinishedState | None, None))),
    Table(
        "waits",
        (
            Column("id", Key),
            Column("join_id", Key),
            Column("of", Ends),
            Column("count", Count),
            Column("delay_ms", Count, 0),
        ),
    ),
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
    "members": "id, join_id",
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
# A verdict that is not that of the record; triggers derive the counters.
WRONG_VERDICTS: Final = """
UPDATE "windlass_members" SET verdict = iif(jobs.purge_at IS NULL, NULL, jobs.state) FROM "windlass_jobs" AS jobs
WHERE jobs.id = "windlass_members".id AND verdict IS NOT iif(jobs.purge_at IS NULL, NULL, jobs.state)
    AND ("windlass_members".id, join_id) IN (
        SELECT id, join_id FROM "windlass_members" ORDER BY id, join_id LIMIT ? OFFSET ?)
"""
# A member whose record has gone without a word.
LOST_MEMBERS: Final = """
UPDATE "windlass_members" SET verdict = 'cancelled' WHERE verdict IS NULL
    AND NOT EXISTS (SELECT 1 FROM "windlass_jobs" AS jobs WHERE jobs.id = "windlass_members".id)
    AND (id, join_id) IN (SELECT id, join_id FROM "windlass_members" ORDER BY id, join_id LIMIT ? OFFSET ?)
"""
UNTIED: Final = """
UPDATE "windlass_jobs" SET tied = 1 WHERE tied IS NULL
    AND id IN (SELECT id FROM "windlass_members" ORDER BY id, join_id LIMIT ? OFFSET ?)
"""
MISCOUNTED: Final = """
UPDATE "windlass_joins" SET dirty = coalesce(dirty, 2), total = real.total, ok = real.ok, bad = real.bad,
    void = real.void
FROM (SELECT joins.id AS join_id, count(members.id) AS total, count(*) FILTER (WHERE verdict = 'done') AS ok,
             count(*) FILTER (WHERE verdict = 'dead') AS bad, count(*) FILTER (WHERE verdict = 'cancelled') AS void
      FROM (SELECT id FROM "windlass_joins" ORDER BY id LIMIT ? OFFSET ?) AS joins
          LEFT JOIN "windlass_members" AS members ON members.join_id = joins.id GROUP BY joins.id) AS real
WHERE "windlass_joins".id = real.join_id
    AND ("windlass_joins".total, "windlass_joins".ok, "windlass_joins".bad, "windlass_joins".void)
    IS NOT (real.total, real.ok, real.bad, real.void)
"""
# Nobody knows any more what these wait for. To run them might do what should never have been done.
WAIT_FOR_NOTHING: Final = """
SELECT seq, id FROM "windlass_jobs" AS jobs WHERE state = 'blocked' AND blocked_by >= 'join:' AND blocked_by < 'join;'
    AND NOT EXISTS (SELECT 1 FROM "windlass_waits" AS waits JOIN "windlass_joins" AS joins ON joins.id = waits.join_id
                    WHERE waits.id = jobs.id AND 'join:' || join_id = jobs.blocked_by)
"""
# The sweep looks at every join now and then, whether or not its counters say that they have moved.
LOOK_AT_JOINS: Final = """
UPDATE "windlass_joins" SET dirty = coalesce(dirty, 2)
WHERE id IN (SELECT join_id FROM "windlass_waits" ORDER BY id LIMIT ? OFFSET ?)
"""
PASS_ON: Final = 'UPDATE "windlass_unique" SET id = next, next = NULL WHERE key = ? AND next IS NOT NULL'
FREE_KEY: Final = """
DELETE FROM "windlass_unique" WHERE key = ? AND NOT EXISTS (
    SELECT 1 FROM "windlass_jobs" AS jobs WHERE jobs.id = "windlass_unique".id AND jobs.purge_at IS NULL)
"""
HELD_BY: Final = 'SELECT gate FROM "windlass_holds" WHERE seq = ?'
LET_GO: Final = 'DELETE FROM "windlass_holds" WHERE seq = ?'
# It waits for other jobs, or for the holder of its key, or is judged anew.
BLOCKED_ANEW: Final = """
UPDATE "windlass_jobs" SET state = iif(mine.gate IS NULL, 'scheduled', 'blocked'), blocked_by = mine.gate,
    tied = iif(mine.gate IS NULL, tied, 1)
FROM (SELECT coalesce((SELECT 'join:' || join_id FROM "windlass_waits" WHERE id = jobs.id),
                      (SELECT 'unique:' || key FROM "windlass_unique" WHERE next = jobs.id)) AS gate
      FROM "windlass_jobs" AS jobs WHERE seq = ?1) AS mine
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
