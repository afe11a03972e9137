"""Judging the guards of jobs inside a claim: who may run, who waits at which gate, and whom a gate lets go on.

A job that meets a closed gate leaves ``ready`` for ``blocked``, so nobody scans a backlog. ``windlass_gates`` lists
the gates that have waiters and may let some through: triggers enter a gate when something it counts is released, the
judge enters the time at which a rate or a circuit opens by itself. Each claim puts as many waiters of such a gate back
as it may let through, in their place; what the claim does not take goes on waiting.

Must not decide what a guard means for the job beyond that. Invariant: one judge lives as long as one claim, inside its
write transaction, so what it has counted stays true until it has written what it lets through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final

import apsw
import msgspec
from msgspec import Struct

from windlass.core import circuit
from windlass.core.circuit import CircuitDocument
from windlass.core.model import Guard, GuardKind
from windlass.core.ratewindow import AHEAD_SLACK_MS, Entry, RateWindow
from windlass.core.work import Want
from windlass.engines.sqlite import holds
from windlass.engines.sqlite.counts import count
from windlass.engines.sqlite.schema import Sql

__all__ = ["Judge", "Stored", "as_guards", "decode_stored", "encode_stored", "forget_rates"]

GATES_MAX: Final = 64  # gates that one claim looks at
LATE_MS: Final = 4
UNBOUNDED: Final = 1_000_000

encode = msgspec.json.Encoder().encode


class Stored(Struct, array_like=True, frozen=True):
    """One guard as the column ``guards`` keeps it."""

    kind: GuardKind
    gate: str
    limit: int = 0
    per_ms: int = 0
    burst: int | None = None
    keep_ms: int = 0

    @property
    def key(self) -> str:
        return self.gate.partition(":")[2]


decode = msgspec.json.Decoder(tuple[Stored, ...]).decode


@lru_cache(maxsize=4_096)  # thousands of jobs share a key, or have one each: then it costs what decoding costs
def decode_stored(text: str) -> tuple[Stored, ...]:
    """What the column ``guards`` says."""
    return decode(text)


@lru_cache(maxsize=4_096)
def as_guards(text: str) -> tuple[Guard, ...]:
    """The guards as the job was enqueued with them."""
    return tuple(Guard(one.kind, one.key, one.limit, one.per_ms, one.burst, one.keep_ms) for one in decode_stored(text))


@lru_cache(maxsize=4_096)
def encode_stored(guards: tuple[Guard, ...]) -> str | None:
    """The text of the column ``guards``."""
    if not guards:
        return None
    return encode([(g.kind, g.gate, g.limit, g.per_ms, g.burst, g.keep_ms) for g in guards]).decode()


GATES: Final = 'SELECT gate, at FROM "windlass_gates" ORDER BY at LIMIT ?'
SET_GATE: Final = """
INSERT INTO "windlass_gates" (gate, at) VALUES (?, ?) ON CONFLICT (gate) DO UPDATE SET at = excluded.at
"""
FORGET_GATE: Final = 'DELETE FROM "windlass_gates" WHERE gate = ?'
FIRST_WAITER: Final = """
SELECT guards FROM "windlass_jobs" WHERE state = 'blocked' AND blocked_by = ? LIMIT 1
"""
# The waiters of a gate in the queues that this claim serves and of the kinds it has room for, in their place.
LET_ON: Final = """
UPDATE "windlass_jobs" SET state = 'ready' WHERE seq IN (
    SELECT seq FROM "windlass_jobs" WHERE state = 'blocked' AND blocked_by = ?1
        AND queue IN (SELECT value FROM json_each(?2)) AND slot IN (SELECT value FROM json_each(?4))
    ORDER BY level, place, seq LIMIT ?3) RETURNING seq
"""
WAIT_AGAIN: Final = """
UPDATE "windlass_jobs" SET state = 'blocked' WHERE state = 'ready' AND seq IN (SELECT value FROM json_each(?))
"""
BLOCK: Final = """
UPDATE "windlass_jobs" SET state = 'blocked', blocked_by = mine.gate
FROM (SELECT value ->> 0 AS seq, value ->> 1 AS gate FROM json_each(?)) AS mine WHERE "windlass_jobs".seq = mine.seq
"""
END_DUPLICATES: Final = """
UPDATE "windlass_jobs" SET state = 'done', reason = 'duplicate of ' || mine.first, result = mine.result,
    finished_at = ?1, purge_at = ?1 + ?2
FROM (SELECT value ->> 0 AS seq, value ->> 1 AS first, value ->> 2 AS result FROM json_each(?3)) AS mine
WHERE "windlass_jobs".seq = mine.seq
"""
HOLD: Final = """
INSERT INTO "windlass_holds" (gate, seq) SELECT value ->> 0, value ->> 1 FROM json_each(?) WHERE true
ON CONFLICT (seq, gate) DO NOTHING
"""
HOLDER: Final = 'SELECT seq FROM "windlass_holds" WHERE gate = ?'
DOCUMENT: Final = 'SELECT value FROM "windlass_documents" WHERE key = ?'  # of a circuit, which is never over
MARKER: Final = 'SELECT id, result FROM "windlass_once" WHERE key = ?'

LAST_GRANT: Final = 'SELECT at, total FROM "windlass_rates" WHERE gate = ? ORDER BY at DESC LIMIT 1'
TOTAL_AT: Final = """
SELECT at, total FROM "windlass_rates" WHERE gate = ? AND at <= ? ORDER BY at DESC LIMIT 1
"""
# When the grant numbered ?3 was given: the window has room for one more once that is out of it.
GRANTED_AT: Final = """
SELECT at FROM "windlass_rates" WHERE gate = ?1 AND at > ?2 AND total >= ?3 ORDER BY at LIMIT 1
"""
ADD_GRANTS: Final = """
INSERT INTO "windlass_rates" (gate, at, total, until) VALUES (?, ?, ?, ?) ON CONFLICT (gate, at) DO UPDATE SET
    total = excluded.total, until = excluded.until
"""
NOT_THE_NEWEST: Final = """
UPDATE "windlass_rates" SET until = NULL WHERE gate = ?1
    AND at = (SELECT max(at) FROM "windlass_rates" WHERE gate = ?1)
"""
FORGET_GRANTS: Final = """
DELETE FROM "windlass_rates" WHERE gate = ?1
    AND at < (SELECT max(at) FROM "windlass_rates" WHERE gate = ?1 AND at <= ?2)
"""
FORGET_LOG: Final = 'DELETE FROM "windlass_rates" WHERE gate = ?'
FORGET_RATES: Final = """
DELETE FROM "windlass_rates" WHERE gate IN (SELECT gate FROM "windlass_rates" WHERE until <= ? LIMIT ?)
"""


class Refused(Struct, frozen=True):
    """Why a job does not go on: it waits at a gate, has nowhere to start at once, or its key is done already."""

    gate: str | None = None
    opens_at: int | None = None  # steady ms; None: when something is released
    first: str | None = None
    result: str | None = None


NO_PLACE: Final = Refused()


class GrantLog:
    """The log of one rate, for as long as one claim."""

    def __init__(self, db: apsw.Connection, q: Sql, gate: str) -> None:
        self._db = db
        self._q = q
        self._gate = gate

    def newest(self) -> tuple[int, int] | None:
        found = self._db.execute(self._q(LAST_GRANT), (self._gate,)).fetchone()
        return None if found is None else (int(found[0]), int(found[1]))

    def count_at(self, at: int) -> int:
        found = self._db.execute(self._q(TOTAL_AT), (self._gate, at)).fetchone()
        return 0 if found is None else int(found[1])

    def reached_at(self, count: int, after: int) -> int | None:
        found = self._db.execute(self._q(GRANTED_AT), (self._gate, after, count)).fetchone()
        return None if found is None else int(found[0])

    def write(self, entry: Entry | None) -> None:
        """Log what was given, and forget what no window can need."""
        if entry is None:
            return
        gate, db, q = self._gate, self._db, self._q
        if entry.out is None:
            db.execute(q(FORGET_LOG), (gate,))
        else:
            db.execute(q(NOT_THE_NEWEST), (gate,))
        db.execute(q(ADD_GRANTS), (gate, entry.at, entry.count, entry.until))
        if entry.out is not None:
            db.execute(q(FORGET_GRANTS), (gate, entry.out))


class RateMeter(RateWindow):
    """One rate during one claim."""

    def __init__(self, db: apsw.Connection, q: Sql, guard: Stored, now: int, late_ms: int = 0) -> None:
        self._log = GrantLog(db, q, guard.gate)
        super().__init__(guard, self._log, now, late_ms)

    def write(self) -> None:
        """Log what was given."""
        self._log.write(self.entry())


def forget_rates(db: apsw.Connection, q: Sql, now: int, budget: int) -> int:
    """Delete the logs of up to ``budget`` rates that have no claim in their window; give how many rows that were."""
    db.execute(q(FORGET_RATES), (now, budget))
    return db.changes()


class Judge:
    """The guards of one claim."""

    def __init__(self, db: apsw.Connection, q: Sql, now: int, want: Want) -> None:
        self._db = db
        self._q = q
        self._now = now
        self._want = want
        self._held: dict[str, int] = {}
        self._ends: dict[str, int | None] = {}  # when the first lease of a token at a gate is over
        self._rates: dict[str, RateMeter] = {}
        self._circuits: dict[str, CircuitDocument] = {}
        self._holders: dict[str, int] = {}
        self._new_holds: list[tuple[str, int]] = []
        self._blocked: list[tuple[int, str]] = []
        self._opens: dict[str, int] = {}
        self._duplicates: list[tuple[int, str, str | None]] = []
        self._let_on: list[int] = []
        self._let_on_at: dict[int, str] = {}
        self._generous: set[str] = set()  # gates that would let more on than this claim can take
        self._went_on = False  # one that was let on has found another place than the gate it waited at
        self._visited: list[str] = []
        self._next_at: int | None = None
        self.duplicates: list[str] = []

    # -- gates whose waiters may go on --

    def let_on(self, queues_at: Callable[[str], Iterable[Sequence[str]]], slots: Sequence[int], limit: int) -> None:
        """Put waiters of gates that may have opened back to their place, no more than may pass.

        Those of the kinds in ``slots``, in the queues that ``queues_at`` gives for a gate, some at a time.
        """
        db, q = self._db, self._q
        due: list[str] = []
        for gate, at in db.execute(q(GATES), (GATES_MAX,)):
            if at > self._now:
                self._next_at = at
                break
            due.append(str(gate))
        if not due:
            return
        kinds = encode(list(slots)).decode()
        for gate in due:
            self._visited.append(gate)
            guard = self._waiting_for(gate)
            if guard is None:
                continue
            allowed = self._free(guard)
            free = min(allowed, limit)
            if allowed > limit:
                self._generous.add(gate)
            for queues in queues_at(gate) if free > 0 else ():
                served = encode(queues).decode()
                found = [int(seq) for (seq,) in db.execute(q(LET_ON), (gate, served, free, kinds))]
                self._let_on += found
                self._let_on_at.update(dict.fromkeys(found, gate))
                free -= len(found)
                if free <= 0:
                    break

    def _waiting_for(self, gate: str) -> Stored | None:
        """The guard of a gate, as its first waiter has it; None when nobody waits."""
        found = self._db.execute(self._q(FIRST_WAITER), (gate,)).fetchone()
        if found is None or found[0] is None:
            return None
        return next((one for one in decode_stored(str(found[0])) if one.gate == gate), None)

    def _free(self, guard: Stored) -> int:
        match guard.kind:
            case GuardKind.ONCE:
                if self._db.execute(self._q(MARKER), (guard.key,)).fetchone() is not None:
                    return UNBOUNDED
                return 0 if self._once_holder(guard.gate) is not None else 1
            case GuardKind.CONCURRENCY:
                return guard.limit - self._count(guard.gate)
            case GuardKind.RATE:
                return self._meter(guard).room()
            case GuardKind.CIRCUIT:
                it = self._circuit(guard.gate)
                return circuit.lets_on(it, self._now) if it.state == "closed" else self._probes_free(guard, it)

    def finish(self, *, filled: bool) -> int | None:
        """After the claim: write down what was let through; give in how many ms the next gate opens by itself.

        That is 0 when a gate may let more on at once and this claim had room for them.
        Waiters that were let on and not taken wait again, and each gate is noted for when it may let the next one on.
        """
        db, q = self._db, self._q
        if self._new_holds:
            db.execute(q(HOLD), (encode(self._new_holds).decode(),))
        for meter in self._rates.values():
            meter.write()
        if self._let_on:
            db.execute(q(WAIT_AGAIN), (encode(self._let_on).decode(),))
        more = False
        for gate in self._visited:
            guard = self._waiting_for(gate)
            at = None if guard is None else self._next_look(guard)
            if at is None:
                db.execute(q(FORGET_GATE), (gate,))
            else:
                self._note(gate, at)
                more = more or at <= self._now
        for gate, at in self._opens.items():
            if gate not in self._visited:
                self._note(gate, at)
        if more and self._went_on and not filled:
            return 0
        # A little late, so that a worker which slept until then is not too early by the rounding of its clock.
        return None if self._next_at is None else max(1, self._next_at - self._now + LATE_MS)

    def _note(self, gate: str, at: int) -> None:
        self._db.execute(self._q(SET_GATE), (gate, at))
        if at > self._now and (self._next_at is None or at < self._next_at):
            self._next_at = at

    def _next_look(self, guard: Stored) -> int | None:
        """When a gate that still has waiters is to be looked at; None: when something is released."""
        match guard.kind:
            case GuardKind.RATE:
                meter = self._meter(guard)
                return self._now if meter.room() > 0 else meter.opens_at()
            case GuardKind.CIRCUIT:
                it = self._circuit(guard.gate)
                if it.state == "closed":
                    # The steps have grown beyond what one claim takes: the next claim may go on at once.
                    return self._now if guard.gate in self._generous else self._now + circuit.STAGGER_MS
                return self._now if self._probes_free(guard, it) > 0 else self._looks_again_at(guard, it)
            case _:
                return self._now if self._free(guard) > 0 else self._ends.get(guard.gate)

    # -- one job --

    def passes(self, seq: int, job_id: str, text: str, *, at_once: bool) -> bool:
        """Whether a job may go on; if so what it takes is counted, if not it is noted where it waits.

        ``at_once`` says that it has a free slot to start in.
        """
        guards = decode_stored(text)
        refused = self._refuse(seq, guards, at_once)
        if refused is not NO_PLACE and seq in self._let_on:
            self._went_on = self._went_on or refused is None or refused.gate != self._let_on_at.get(seq)
        if refused is not None:
            if refused.first is not None:
                self._duplicates.append((seq, refused.first, refused.result))
                self.duplicates.append(job_id)
            elif refused.gate is not None:
                self._blocked.append((seq, refused.gate))
                if refused.opens_at is not None:
                    self._opens[refused.gate] = refused.opens_at
            return False
        for guard in guards:
            match guard.kind:
                case GuardKind.ONCE:
                    self._holders[guard.gate] = seq
                    self._new_holds.append((guard.gate, seq))
                case GuardKind.CONCURRENCY:
                    self._held[guard.gate] += 1
                    self._new_holds.append((guard.gate, seq))
                case GuardKind.RATE:
                    self._meter(guard).given += 1
                case GuardKind.CIRCUIT:
                    if self._circuit(guard.gate).state != "closed":
                        self._held[guard.gate] = self._count(guard.gate) + 1
                        self._new_holds.append((guard.gate, seq))
        return True

    def _refuse(self, seq: int, guards: Sequence[Stored], at_once: bool) -> Refused | None:
        for guard in guards:
            match guard.kind:
                case GuardKind.ONCE:
                    found = self._db.execute(self._q(MARKER), (guard.key,)).fetchone()
                    if found is not None:
                        return Refused(first=str(found[0]), result=None if found[1] is None else str(found[1]))
                    if self._once_holder(guard.gate) not in (None, seq):
                        return Refused(guard.gate)
                case GuardKind.CONCURRENCY:
                    if self._count(guard.gate) >= guard.limit:
                        return Refused(guard.gate, self._ends[guard.gate])
                case GuardKind.RATE:
                    meter = self._meter(guard)
                    if meter.room() <= 0:
                        return Refused(guard.gate, meter.opens_at())
                    if not at_once and meter.room(AHEAD_SLACK_MS) <= 0:
                        return NO_PLACE
                case GuardKind.CIRCUIT:
                    it = self._circuit(guard.gate)
                    if it.state == "closed":
                        continue
                    if self._probes_free(guard, it) <= 0:
                        return Refused(guard.gate, self._looks_again_at(guard, it))
                    if not at_once:
                        return NO_PLACE
        return None

    def _once_holder(self, gate: str) -> int | None:
        if gate not in self._holders:
            found = self._db.execute(self._q(HOLDER), (gate,)).fetchone()
            if found is None:
                return None
            self._holders[gate] = int(found[0])
        return self._holders[gate]

    def _count(self, gate: str) -> int:
        if gate not in self._held:
            self._held[gate], self._ends[gate] = holds.taken(self._db, self._q, gate, self._now)
        return self._held[gate]

    def _meter(self, guard: Stored) -> RateMeter:
        meter = self._rates.get(guard.gate)
        if meter is None:
            meter = self._rates[guard.gate] = RateMeter(self._db, self._q, guard, self._now, self._want.late_ms)
        meter.rate = guard
        return meter

    def _circuit(self, gate: str) -> CircuitDocument:
        """The circuit of a gate as it stands."""
        it = self._circuits.get(gate)
        if it is None:
            found = self._db.execute(self._q(DOCUMENT), (gate,)).fetchone()
            stored = circuit.decode(None if found is None else str(found[0]))
            it = self._circuits[gate] = circuit.standing(stored, self._now)
        return it

    def _probes_free(self, guard: Stored, it: CircuitDocument) -> int:
        return circuit.places(it) - self._count(guard.gate)

    def _looks_again_at(self, guard: Stored, it: CircuitDocument) -> int | None:
        return circuit.looks_again_at(it, self._ends[guard.gate])

    # -- writing it down --

    def write_round(self, now: int, keep_ms: int, *, block: bool) -> int:
        """Move those that wait or are duplicates out of ``ready``; give how many that were.

        Without ``block`` those that wait stay where they are: the lone lane is short and looked at seldom.
        """
        db, q = self._db, self._q
        if not block:
            self._blocked.clear()
            self._opens.clear()
        moved = len(self._blocked) + len(self._duplicates)
        if self._blocked:
            db.execute(q(BLOCK), (encode(self._blocked).decode(),))
        if self._duplicates:
            db.execute(q(END_DUPLICATES), (now, keep_ms, encode(self._duplicates).decode()))
            count(db, q, now, "total:done", len(self._duplicates))
        self._blocked.clear()
        self._duplicates.clear()
        return moved
