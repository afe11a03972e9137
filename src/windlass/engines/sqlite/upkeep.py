"""The bounded sweep that every worker may run at once: promote, reap, expire, prune.

Each part changes only rows that are still in the state it looked for, so two sweeps beside each other do nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from windlass.core.work import LeaseRef, Rules, Upkeep
from windlass.engines.sqlite import holds, joins
from windlass.engines.sqlite.claim import promote
from windlass.engines.sqlite.counts import count, fold
from windlass.engines.sqlite.guards import forget_rates
from windlass.engines.sqlite.leases import end_silent
from windlass.engines.sqlite.names import forget_names, note_idle_names
from windlass.engines.sqlite.schema import Sql

__all__ = ["forget", "lapse", "maintain", "remove"]

encode = msgspec.json.Encoder().encode
ENDED_STATES: Final = ("done", "cancelled", "dead")
QUEUES_MAX: Final = 1_000  # queues whose ended jobs one step looks at
MARKER_LOOK_MS: Final = 3_600_000

decode_words = msgspec.json.Decoder(tuple[str, ...]).decode

EXPIRE: Final = """
UPDATE "windlass_jobs" SET state = 'cancelled', reason = 'expired', finished_at = ?1, purge_at = ?1 + ?2
WHERE seq IN (SELECT seq FROM "windlass_jobs" WHERE expires_at <= ?1 AND purge_at IS NULL
              AND state IN ('ready', 'scheduled', 'blocked') LIMIT ?3)
"""
EXPIRE_THESE: Final = """
UPDATE "windlass_jobs" SET state = 'cancelled', reason = 'expired', finished_at = ?1, purge_at = ?1 + ?2
WHERE id IN (SELECT value FROM json_each(?3)) AND expires_at <= ?1 AND purge_at IS NULL
    AND state IN ('ready', 'scheduled', 'blocked')
"""
PAST_AGE: Final = """
SELECT seq FROM "windlass_jobs" WHERE id IN (SELECT value FROM json_each(?)) AND state IN ('done', 'cancelled')
    AND purge_at <= ?
"""
# How far the steps have come that look at a part of what there is: a state and a queue of ended jobs, a queue name.
SWEPT: Final = "SELECT value FROM \"windlass_meta\" WHERE key = 'swept'"
SET_SWEPT: Final = "INSERT OR REPLACE INTO \"windlass_meta\" (key, value) VALUES ('swept', ?)"
# The queues that have ended jobs in a state, found by steps through their index: how many, the last one, and those
# whose oldest record is over its age or that have more than so many. In hex, for a damaged file may hold no text.
ENDED_QUEUES: Final = """
WITH RECURSIVE ended(met) AS (
    SELECT (SELECT queue FROM "windlass_jobs" WHERE state = :state AND purge_at IS NOT NULL
              AND queue > CAST(:after AS TEXT) AND queue < x'' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM "windlass_jobs" WHERE state = :state AND purge_at IS NOT NULL AND queue > met
              AND queue < x'' ORDER BY queue LIMIT 1)
    FROM ended WHERE met IS NOT NULL)
SELECT count(*), hex(max(met)), json_group_array(hex(met)) FILTER (WHERE
    (SELECT purge_at FROM "windlass_jobs" WHERE state = :state AND purge_at IS NOT NULL AND queue = met
     ORDER BY purge_at LIMIT 1) <= :now
    OR :keep IS NOT NULL AND (SELECT 1 FROM "windlass_jobs" WHERE state = :state AND purge_at IS NOT NULL
        AND queue = met LIMIT 1 OFFSET :keep))
FROM (SELECT met FROM ended WHERE met IS NOT NULL LIMIT :most)
"""
OVER_AGE: Final = """
SELECT seq FROM "windlass_jobs" WHERE state = ? AND queue = ? AND purge_at <= ? ORDER BY purge_at LIMIT ?
"""
# What was promised to stay longer than all records do is neither counted nor trimmed.
OVER_COUNT: Final = """
SELECT seq FROM "windlass_jobs"
WHERE state = ?1 AND queue = ?2 AND purge_at IS NOT NULL AND purge_at - finished_at <= ?3
ORDER BY purge_at DESC, finished_at DESC, seq DESC LIMIT ?4 OFFSET ?5
"""
DEAD_OVER_COUNT: Final = """
SELECT seq FROM "windlass_jobs" WHERE state = 'dead' AND purge_at IS NOT NULL
ORDER BY finished_at DESC, seq DESC LIMIT ? OFFSET ?
"""
LEAVE_TOMBSTONES: Final = """
INSERT INTO "windlass_tombstones" (id, until) SELECT id, finished_at + ?2 FROM "windlass_jobs"
WHERE seq IN (SELECT value FROM json_each(?1)) AND caller_id AND finished_at + ?2 > ?3
ON CONFLICT (id) DO UPDATE SET until = max(until, excluded.until)
"""
DEATHS: Final = """
SELECT id, fence FROM "windlass_jobs" WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY finished_at, seq
"""
DELETE: Final = 'DELETE FROM "windlass_jobs" WHERE seq IN (SELECT value FROM json_each(?)) RETURNING id'
FORGET_IDS: Final = """
DELETE FROM "windlass_tombstones" WHERE id IN (SELECT id FROM "windlass_tombstones" WHERE until <= ? LIMIT ?)
"""
FORGET_KEYS: Final = """
DELETE FROM "windlass_unique" WHERE key IN (SELECT key FROM "windlass_unique" WHERE expires_at <= ? LIMIT ?)
"""
# People see for a while that a holder was late. A line is short, and so is this table.
# A Once marker past its time stays while a record carries its key; such a one is looked at again an hour later.
KEEP_MARKERS: Final = """
UPDATE "windlass_once" SET look = ?1 + ?2 WHERE key IN (
    SELECT key FROM "windlass_once" AS marker WHERE look <= ?1 AND EXISTS (
        SELECT 1 FROM "windlass_jobs" WHERE once_key = marker.key AND state != 'done') LIMIT ?3)
"""
FORGET_MARKERS: Final = """
DELETE FROM "windlass_once" WHERE key IN (SELECT key FROM "windlass_once" AS marker WHERE look <= ?1
    AND NOT EXISTS (SELECT 1 FROM "windlass_jobs" WHERE once_key = marker.key AND state != 'done') LIMIT ?2)
"""

NEXT_ALONE: Final = """
SELECT min(run_at) FROM "windlass_jobs" WHERE crashes >= 2 AND purge_at IS NULL AND state IN ('ready', 'scheduled')
"""


def maintain(
    db: apsw.Connection,
    q: Sql,
    rules: Rules,
    budget: int,
    boot: str,
    boot_now: int,
    now: int,
    steady_now: int,
    names: tuple[Sequence[str], Sequence[str]],
) -> Upkeep:
    """One bounded step inside the caller's write transaction. ``names`` are what ``unneeded_names`` gave."""
    promoted, due_in = promote(db, q, now, budget)
    reaped = end_silent(db, q, rules, budget, boot, boot_now, now)
    db.execute(q(EXPIRE), (now, rules.keep_done_ms, budget))
    expired = db.changes()
    count(db, q, now, "total:cancelled", expired)
    forget_names(db, q, *names)
    before = swept = read_swept(db, q)
    pruned, trimmed, overdue, swept = prune(db, q, rules, budget, now, swept)
    swept = Swept(swept.state, swept.queue, note_idle_names(db, q, now, before.name))
    if swept != before:
        db.execute(q(SET_SWEPT), (encode(swept).decode(),))
    db.execute(q(FORGET_IDS), (now, budget))
    forgotten = db.changes()
    db.execute(q(FORGET_KEYS), (now, budget))
    forgotten = max(forgotten, db.changes())
    db.execute(q(KEEP_MARKERS), (now, MARKER_LOOK_MS, budget))
    db.execute(q(FORGET_MARKERS), (now, budget))
    forgotten = max(forgotten, db.changes())
    forgotten = max(forgotten, forget_rates(db, q, steady_now, budget))
    holds.forget(db, q, steady_now)
    forgotten = max(forgotten, joins.sweep(db, q, now, budget))
    watched = joins.watch(db, q, now, budget)
    forgotten = max(forgotten, fold(db, q, now, rules.counts, budget))
    alone = db.execute(q(NEXT_ALONE)).fetchone()
    return Upkeep(
        promoted=promoted,
        expired_workers=reaped.silent,
        released=reaped.released,
        died=reaped.died,
        pruned=pruned,
        trimmed=trimmed,
        overdue=overdue,
        watched=watched,
        alone_in_ms=None if alone is None or alone[0] is None else max(0, alone[0] - now),
        due_in_ms=due_in,
        more=max(promoted, reaped.workers, expired, pruned, len(trimmed), len(watched), forgotten) >= budget,
    )


class Swept(msgspec.Struct, array_like=True, frozen=True):
    """Where the next step begins: behind a queue's ended jobs of a state, and behind a name. Empty: at the first."""

    state: str = ""
    queue: str = ""  # in hex
    name: str = ""


decode_swept = msgspec.json.Decoder(Swept).decode


def read_swept(db: apsw.Connection, q: Sql) -> Swept:
    """Where this step begins."""
    found = db.execute(q(SWEPT)).fetchone()
    return Swept() if found is None else decode_swept(str(found[0]))


def ended_queues(
    db: apsw.Connection, q: Sql, rules: Rules, now: int, swept: Swept
) -> tuple[list[tuple[str, str]], Swept]:
    """The states and queues in which ended jobs may be too old or too many, among the next of those; and the last."""
    found: list[tuple[str, str]] = []
    room, after = QUEUES_MAX, swept.queue
    for state in ENDED_STATES[ENDED_STATES.index(swept.state) if swept.state else 0 :]:
        keep = None if state == "dead" else rules.keep_done_max
        bindings = {"state": state, "after": bytes.fromhex(after), "now": now, "keep": keep, "most": room}
        count, last, queues = db.execute(q(ENDED_QUEUES), bindings).fetchall()[0]
        names = [bytes.fromhex(name) for name in decode_words(str(queues))]
        found += [(state, name.decode()) for name in names if is_text(name)]
        room -= int(str(count))
        if room <= 0:
            return found, Swept(state, str(last), swept.name)
        after = ""
    return found, Swept(name=swept.name)


def prune(
    db: apsw.Connection, q: Sql, rules: Rules, budget: int, now: int, swept: Swept
) -> tuple[int, tuple[str, ...], tuple[LeaseRef, ...], Swept]:
    """Delete finished records past their age or count, from where the last step stopped.

    Gives how many ended, the ids of dead ones, those held, and where the next step begins.
    """
    seqs: list[int] = []
    dead: list[int] = []
    places, swept = ended_queues(db, q, rules, now, swept)
    for state, queue in places:
        if state == "dead":
            dead += column(db, q(OVER_AGE), (state, queue, now, budget - len(dead)))
            continue
        seqs += column(db, q(OVER_AGE), (state, queue, now, budget - len(seqs)))
        if rules.keep_done_max is not None and len(seqs) < budget:
            seqs += column(
                db, q(OVER_COUNT), (state, queue, rules.keep_done_ms, budget - len(seqs), rules.keep_done_max)
            )
    if rules.dead_max is not None and len(dead) < budget:
        dead += column(db, q(DEAD_OVER_COUNT), (budget - len(dead), rules.dead_max))
    pruned = forget(db, q, list(dict.fromkeys(seqs)), rules, now)
    if rules.dead_held:
        held = db.execute(q(DEATHS), (encode(list(dict.fromkeys(dead))).decode(),))
        return len(pruned), (), tuple(LeaseRef(str(id), int(str(fence))) for id, fence in held), swept
    trimmed = forget(db, q, list(dict.fromkeys(dead)), rules, now)
    count(db, q, now, "total:trimmed", len(trimmed))
    return len(pruned), tuple(trimmed), (), swept


def is_text(raw: bytes) -> bool:
    """Whether bytes are valid UTF-8."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def lapse(db: apsw.Connection, q: Sql, ids: Sequence[str], rules: Rules, now: int) -> bool:
    """Make true of some jobs what time has made of them, as a sweep would soon; say whether that changed any.

    One that has expired ends; a record that was to stay until now goes. For who is about to rely on it.
    """
    chosen = encode(ids).decode()
    db.execute(q(EXPIRE_THESE), (now, rules.keep_done_ms, chosen))
    expired = db.changes()
    count(db, q, now, "total:cancelled", expired)
    return bool(forget(db, q, column(db, q(PAST_AGE), (chosen, now)), rules, now)) or expired > 0


def column(db: apsw.Connection, sql: str, bindings: tuple[object, ...]) -> list[int]:
    """The first column of a bounded question."""
    return [int(seq) for (seq,) in db.execute(sql, bindings)]


def forget(db: apsw.Connection, q: Sql, seqs: list[int], rules: Rules, now: int) -> list[str]:
    """Delete records; ids that users chose leave a tombstone."""
    if seqs:
        db.execute(q(LEAVE_TOMBSTONES), (encode(seqs).decode(), rules.id_keep_ms, now))
    return remove(db, q, seqs)


def remove(db: apsw.Connection, q: Sql, seqs: list[int]) -> list[str]:
    """Delete records and give their ids."""
    return [str(id) for (id,) in db.execute(q(DELETE), (encode(seqs).decode(),))] if seqs else []
