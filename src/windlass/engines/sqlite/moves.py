"""Stored jobs moved by hand or by a rule: cancelled, run again, or deleted.

Which ones is one question to the table: by id, by death, by a rule of recovery, or what waits in a queue. What becomes
of each is decided here, by its state; the statements change the row that was looked at in the same transaction, so what
was decided about one death never hits the job's next life.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import apsw
import msgspec

from windlass.core.join import SKIPPED_BY_HAND
from windlass.core.model import FINISHED, WAITING, State
from windlass.core.rows import Action, Moved, Recovery, Waiting, Which
from windlass.core.work import LeaseRef, Rules
from windlass.engines.sqlite.core import SqliteCore
from windlass.engines.sqlite.counts import count
from windlass.engines.sqlite.rows import state_at
from windlass.engines.sqlite.schema import Sql
from windlass.engines.sqlite.upkeep import forget, remove

__all__ = ["SqliteMoves"]

encode = msgspec.json.Encoder().encode

FIND: Final = 'SELECT seq, id, state, run_at, fence FROM "windlass_jobs" WHERE '
BY_ID: Final = FIND + "id = ?"
BY_RULE: Final = FIND + (
    "state = 'dead' AND error_type IN (SELECT value FROM json_each(?)) AND finished_at <= ? AND recoveries < ? "
    "ORDER BY finished_at, seq LIMIT ?"
)
# What waits behind another job goes first, or it would take the place of that one. The state is written out: a partial
# index is of no use to a condition that is known only when it is run.
BY_QUEUE: Final = [FIND + f"queue = ? AND state = '{state}' LIMIT ?" for state in ("blocked", "ready", "scheduled")]
CANCEL: Final = """
UPDATE "windlass_jobs" SET state = 'cancelled', reason = ?4, finished_at = ?2, purge_at = ?2 + ?3
WHERE seq = ?1
"""
CANCEL_RUNNING: Final = 'UPDATE "windlass_jobs" SET cancel = 1 WHERE seq = ?'
AGAIN: Final = """
UPDATE "windlass_jobs" SET state = 'ready', run_at = ?2, place = ?2 + shift, attempt = 0, crashes = 0,
    interruptions = 0, snoozes = 0, recoveries = iif(?3, recoveries + 1, 0), retrying_since = NULL, cancel = 0,
    reason = NULL, result = NULL, finished_at = NULL, purge_at = NULL, expires_at = ?2 + expires_ms,
    error_type = NULL, fingerprint = NULL, frame = NULL
WHERE seq = ?1
"""
REASON_OF: Final = 'SELECT reason FROM "windlass_jobs" WHERE seq = ?'
AGAIN_FROM: Final = frozenset({State.DEAD, State.CANCELLED, State.SCHEDULED})


class Found(NamedTuple):
    """What there is of a job."""

    seq: int
    id: str
    state: State
    fence: int


class SqliteMoves(SqliteCore):
    """The part of the Inspector that moves jobs."""

    def transition(self, action: Action, which: Which) -> list[Moved]:
        if not isinstance(which, Recovery | Waiting) and not which:
            return []
        now = self._clock.wall_ms()
        moved = self._write(lambda db: Moves(db, self._q, self._rules, now, action, which).make(), durable=True)
        if any(one.applied for one in moved):
            # A worker learns of a cancel, of a job to run again and of what a job held by its wake-up; a waiter of a
            # job's end by the other.
            self._ready.touch()
            self._ended.touch()
        return moved


class Moves:
    """One transition inside the caller's write transaction."""

    def __init__(self, db: apsw.Connection, q: Sql, rules: Rules, now: int, action: Action, which: Which) -> None:
        self._db = db
        self._q = q
        self._rules = rules
        self._now = now
        self._action = action
        self._which = which
        self._cancelled = 0
        self._gone: dict[int, None] = {}  # numbers, deleted together at the end

    def make(self) -> list[Moved]:
        """Move the jobs, and say what became of each."""
        db, q = self._db, self._q
        moved = [self._move(*found) for found in self._find()]
        count(db, q, self._now, "total:cancelled", self._cancelled)
        if self._action is Action.DELETE:
            remove(db, q, list(self._gone))
        else:
            forget(db, q, list(self._gone), self._rules, self._now)
        if self._action is Action.TRIM:
            count(db, q, self._now, "total:trimmed", len(self._gone))
        return moved

    def _find(self) -> Iterator[tuple[str, Found | None, int | None]]:
        """The jobs: id, what there is of it, and the fence of the death that it is named by."""
        which = self._which
        if isinstance(which, Recovery):
            errors = encode(which.errors).decode()
            for found in self._ask(BY_RULE, errors, self._now - which.after_ms, which.attempts, which.limit):
                yield found.id, found, None
        elif isinstance(which, Waiting):
            left = which.limit
            for by_queue in BY_QUEUE:
                for found in self._ask(by_queue, which.queue, left):
                    yield found.id, found, None
                    left -= 1
        else:
            for one in which:
                id, fence = (one.id, one.fence) if isinstance(one, LeaseRef) else (one, None)
                yield id, next(iter(self._ask(BY_ID, id)), None), fence

    def _ask(self, sql: str, *bindings: object) -> list[Found]:
        return [
            Found(int(str(seq)), str(id), state_at(state, run_at, self._now), int(str(fence)))
            for seq, id, state, run_at, fence in self._db.execute(self._q(sql), bindings).fetchall()
        ]

    def _move(self, id: str, found: Found | None, fence: int | None) -> Moved:
        if found is None or found.seq in self._gone:
            return Moved(id, None, applied=False)
        state = found.state
        if fence is not None and (state, found.fence) != (State.DEAD, fence):
            return Moved(id, state, applied=False)
        match self._action:
            case Action.CANCEL:
                return Moved(id, state, self._cancel(found))
            case Action.SKIP:
                return Moved(id, state, state in WAITING and self._end(found, SKIPPED_BY_HAND))
            case Action.RETRY if state in AGAIN_FROM:
                return self._again(found)
            case Action.RETRY:
                return Moved(id, state, applied=False)
            case Action.DELETE | Action.DISCARD | Action.TRIM:
                if state is not State.RUNNING:
                    self._gone[found.seq] = None
                return Moved(id, state, state is not State.RUNNING)

    def _cancel(self, found: Found) -> bool:
        if found.state in FINISHED:
            return False
        if found.state is State.RUNNING:
            self._db.execute(self._q(CANCEL_RUNNING), (found.seq,))
        else:
            self._end(found, "cancelled")
        return True

    def _end(self, found: Found, reason: str) -> bool:
        self._db.execute(self._q(CANCEL), (found.seq, self._now, self._rules.keep_done_ms, reason))
        self._cancelled += 1
        return True

    def _again(self, found: Found) -> Moved:
        """Make a job ready; where its unique key is taken a trigger leaves it as it is, and says why."""
        self._db.execute(self._q(AGAIN), (found.seq, self._now, isinstance(self._which, Recovery)))
        if self._db.changes():
            return Moved(found.id, found.state, applied=True)
        why = self._db.execute(self._q(REASON_OF), (found.seq,)).fetchall()[0][0]
        return Moved(found.id, found.state, applied=False, reason=None if why is None else str(why))
