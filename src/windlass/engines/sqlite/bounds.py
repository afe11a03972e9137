"""What queues are held to inside a claim: how many of their jobs may run at once, how many may be claimed in a window.

The running jobs are counted when somebody asks, never kept as a number, so nothing can leak and a limit holds for jobs
that ran before it was set. The log of a rate is that of a Rate guard, at the gate ``queue:NAME``.

A claim that leaves jobs behind because their queue is full marks the queue as ``held_back``. When one of its jobs ends,
and whoever settled it does not use the room itself, workers are woken. Must not know shares or guards of jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import apsw
import msgspec
from msgspec import UNSET

from windlass.core.model import GuardKind
from windlass.core.ratewindow import AHEAD_SLACK_MS
from windlass.core.rows import Pause, QueueChange
from windlass.core.work import Outcome, QueueBound, RateBound, Want
from windlass.engines.sqlite.guards import LATE_MS, UNBOUNDED, RateMeter, Stored
from windlass.engines.sqlite.schema import Sql

__all__ = ["Bounds", "make_room", "merged", "meter_of", "set_queue", "take_note"]

ROOM_MADE: Final = 2  # held_back: one of its jobs has ended, and nobody has been told

RUNNING: Final = "SELECT queue, count(*) FROM \"windlass_jobs\" WHERE state = 'running' GROUP BY queue"
WAITING: Final = """
SELECT EXISTS (SELECT 1 FROM "windlass_jobs" WHERE state = 'ready' AND crashes < 2 AND queue = ?1)
    OR EXISTS (SELECT 1 FROM "windlass_jobs" WHERE state = 'ready' AND crashes >= 2 AND purge_at IS NULL AND queue = ?1)
    OR EXISTS (SELECT 1 FROM "windlass_gates" JOIN "windlass_jobs" ON state = 'blocked' AND blocked_by = gate
               WHERE at <= ?2 AND queue = ?1)
"""
HOLD_BACK: Final = 'UPDATE "windlass_queues" SET held_back = ? WHERE name = ?'
ANY_HELD_BACK: Final = 'SELECT 1 FROM "windlass_queues" WHERE held_back != 0 LIMIT 1'
MAKE_ROOM: Final = """
UPDATE "windlass_queues" SET held_back = 2 WHERE held_back = 1 AND name IN (
    SELECT queue FROM "windlass_jobs" WHERE id IN (SELECT value FROM json_each(?)))
"""
TAKE_NOTE: Final = 'UPDATE "windlass_queues" SET held_back = 0 WHERE held_back != 0 AND held_back = 2'
# What is not given stays as it is, and lifting makes no name.
SET_QUEUE: Final = """
INSERT INTO "windlass_queues" (name, paused, reason, until, who, most, rate, per_ms)
SELECT :name, :paused, :reason, :until, :who, :most, :rate, :per_ms
WHERE :holds OR EXISTS (SELECT 1 FROM "windlass_queues" WHERE name = :name)
ON CONFLICT (name) DO UPDATE SET idle_since = NULL,
    paused = iif(:pausing, excluded.paused, paused), reason = iif(:pausing, excluded.reason, reason),
    until = iif(:pausing, excluded.until, until), who = iif(:pausing, excluded.who, who),
    most = iif(:limiting, excluded.most, most),
    rate = iif(:rating, excluded.rate, rate), per_ms = iif(:rating, excluded.per_ms, per_ms)
"""
# A new rate begins with an empty window.
FORGET_WINDOW: Final = """
DELETE FROM "windlass_rates" WHERE gate = ? AND NOT EXISTS (
    SELECT 1 FROM "windlass_queues" WHERE name = ? AND rate IS ? AND per_ms IS ?)
"""

encode = msgspec.json.Encoder().encode


def merged(
    rows: Iterable[tuple[str, int | None, int | None, int | None]], given: Sequence[QueueBound]
) -> dict[str, QueueBound]:
    """What holds for each queue of the rows (name, most, rate, per_ms): the store's own, else what was given."""
    others = {one.name: one for one in given}
    found = {}
    for name, most, rate, per_ms in rows:
        other = others.get(name)
        if most is None and rate is None and other is None:
            continue
        own = None if rate is None or per_ms is None else RateBound(rate, per_ms)
        if other is not None:
            most, own = other.limit if most is None else most, own or other.rate
        found[name] = QueueBound(name, most, own)
    return found


def meter_of(db: apsw.Connection, q: Sql, queue: str, rate: RateBound, now: int, late_ms: int = 0) -> RateMeter:
    """The log of a queue's rate."""
    return RateMeter(db, q, Stored(GuardKind.RATE, gate_of(queue), rate.count, rate.per_ms), now, late_ms)


def gate_of(queue: str) -> str:
    return f"queue:{queue}"


class Bounds:
    """The bounds of the queues of one claim, and how much of them is left."""

    def __init__(
        self,
        db: apsw.Connection,
        q: Sql,
        bounds: Mapping[str, QueueBound],
        held_back: Mapping[str, int],
        now: int,
        want: Want,
    ) -> None:
        self._db = db
        self._q = q
        self._now = now
        self._held_back = held_back
        self._left: dict[str, int] = {}
        self._meters: dict[str, RateMeter] = {}
        if any(one.limit is not None for one in bounds.values()):
            running = {str(name): int(count) for name, count in db.execute(q(RUNNING))}
            self._left = {
                name: one.limit - running.get(name, 0) for name, one in bounds.items() if one.limit is not None
            }
        for name, one in bounds.items():
            if one.rate is not None:
                self._meters[name] = meter_of(db, q, name, one.rate, now, want.late_ms)

    def room(self, queue: str) -> int:
        """How many more jobs of the queue may be leased."""
        left = self._left.get(queue, UNBOUNDED)
        meter = self._meters.get(queue)
        return left if meter is None else min(left, meter.room())

    def let_through(self, queue: str, *, at_once: bool) -> bool:
        """Whether one more job of the queue may be leased; ``at_once`` says that it has a free slot to start in."""
        if self.room(queue) <= 0:
            return False
        meter = self._meters.get(queue)
        return meter is None or at_once or meter.room(AHEAD_SLACK_MS) > 0

    def take(self, queue: str) -> None:
        """Count a job that is leased."""
        if queue in self._left:
            self._left[queue] -= 1
        meter = self._meters.get(queue)
        if meter is not None:
            meter.given += 1

    def finish(self) -> int | None:
        """After the claim: write down what was taken; give in how many ms the next rate has room for a job that waits.

        A queue that has become full is noted if jobs of it wait, so that the end of one wakes a worker.
        """
        db, q = self._db, self._q
        next_at = None
        for name, meter in self._meters.items():
            meter.write()
            if meter.room() <= 0 and self._left.get(name, 1) > 0 and self._waits(name):
                next_at = meter.opens_at() if next_at is None else min(next_at, meter.opens_at())
        for name, left in self._left.items():
            note = 1 if left <= 0 and self._waits(name) else 0
            if note != self._held_back.get(name, 0):
                db.execute(q(HOLD_BACK), (note, name))
        return None if next_at is None else max(1, next_at - self._now + LATE_MS)

    def _waits(self, queue: str) -> bool:
        return bool(self._db.execute(self._q(WAITING), (queue, self._now)).fetchall()[0][0])


def make_room(db: apsw.Connection, q: Sql, outcomes: Sequence[Outcome]) -> bool:
    """Note queues that held jobs back and of which one has just ended; whether there are any."""
    if not db.execute(q(ANY_HELD_BACK)).fetchall():
        return False
    db.execute(q(MAKE_ROOM), (encode([one.id for one in outcomes]).decode(),))
    return db.changes() > 0


def take_note(db: apsw.Connection, q: Sql) -> bool:
    """Whether, behind a claim that could use it, there is room for which workers must be woken."""
    db.execute(q(TAKE_NOTE))
    return db.changes() > 0


def set_queue(db: apsw.Connection, q: Sql, queue: str, change: QueueChange) -> None:
    """Write what holds for a queue from now on."""
    pause = None if change.pause is UNSET else change.pause
    limit = None if change.limit is UNSET else change.limit
    rate = None if change.rate is UNSET else change.rate
    stop = pause or Pause()
    count, per_ms = (None, None) if rate is None else (rate.count, rate.per_ms)
    if change.rate is not UNSET:
        db.execute(q(FORGET_WINDOW), (gate_of(queue), queue, count, per_ms))
    bindings = {
        "name": queue,
        "paused": pause is not None,
        "reason": stop.reason,
        "until": stop.until,
        "who": stop.who,
        "most": limit,
        "rate": count,
        "per_ms": per_ms,
        "pausing": change.pause is not UNSET,
        "limiting": change.limit is not UNSET,
        "rating": change.rate is not UNSET,
        "holds": any(one is not None for one in (pause, limit, rate)),
    }
    db.execute(q(SET_QUEUE), bindings)
