"""Circuits as the store keeps them: one small JSON document each, changed inside a write transaction.

The window is kept in slices, so a document stays small whatever the traffic. Half-open is not written when its time
comes: an open circuit whose time is over is half-open by definition, and the first probe writes it down. Probes are
holds. Must not know thresholds: they come with each report.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

import apsw
import msgspec
from msgspec import Meta, Struct

from windlass.core.coordination import CircuitPolicy, CircuitRow, Tally
from windlass.core.work import LeaseRef
from windlass.engines.damage import LAST_MS
from windlass.engines.sqlite import holds
from windlass.engines.sqlite.schema import Sql

__all__ = ["Doc", "probe", "read", "rows", "switch", "tally"]

SLICES: Final = 20  # of a window; a call counts up to a twentieth of the window longer

READ: Final = 'SELECT doc FROM "windlass_circuits" WHERE name = ?'
WRITE: Final = 'INSERT OR REPLACE INTO "windlass_circuits" (name, doc) VALUES (?, ?)'
NAMES: Final = 'SELECT name FROM "windlass_circuits" ORDER BY name'
WAITING: Final = "SELECT count(*) FROM \"windlass_jobs\" WHERE state = 'blocked' AND blocked_by = ?"
OPEN_GATE: Final = """
INSERT INTO "windlass_gates" (gate, at) SELECT ?1, ?2
WHERE EXISTS (SELECT 1 FROM "windlass_jobs" WHERE state = 'blocked' AND blocked_by = ?1)
ON CONFLICT (gate) DO UPDATE SET at = excluded.at
"""
FORGET_GATE: Final = 'DELETE FROM "windlass_gates" WHERE gate = ?'


class Doc(Struct, omit_defaults=True):
    """One circuit. Times are steady ms; ``slices`` are [number, ok, failed]."""

    state: Literal["closed", "open", "half_open"] = "closed"
    epoch: int = 0
    since: int | None = None
    wall: Annotated[int, Meta(ge=0, le=LAST_MS)] | None = None  # ``since`` for people
    open_until: int | None = None
    half_open: int = 1
    successes: int = 0
    reason: str | None = None
    by_hand: bool = False
    slices: list[tuple[int, int, int]] = []
    slice_ms: Annotated[int, Meta(ge=1)] = 3_000

    def state_at(self, now: int) -> str:
        """closed, open or half_open."""
        if self.state == "open" and self.open_until is not None and now >= self.open_until:
            return "half_open"
        return self.state

    def places(self, now: int) -> int:
        """How many probes may be on their way: as many as are still needed to close it."""
        if self.state_at(now) != "half_open":
            return 0
        return self.half_open - (self.successes if self.state == "half_open" else 0)

    def window(self, now: int) -> tuple[int, int]:
        """Calls and failures in the window."""
        first = now // self.slice_ms - SLICES
        inside = [one for one in self.slices if one[0] > first]
        return sum(ok + failed for _, ok, failed in inside), sum(failed for _, _, failed in inside)

    def add(self, now: int, window_ms: int, ok: int, failed: int) -> None:
        """Count calls in the slice of now."""
        slice_ms = max(1, window_ms // SLICES)
        if slice_ms != self.slice_ms:
            self.slices, self.slice_ms = [], slice_ms
        number = now // slice_ms
        kept = [one for one in self.slices if one[0] > number - SLICES]
        if kept and kept[-1][0] == number:
            _, before, failed_before = kept.pop()
            ok, failed = ok + before, failed + failed_before
        self.slices = [*kept, (number, ok, failed)]

    def turn(self, state: Literal["closed", "open", "half_open"], now: int, wall: int) -> None:
        """Enter a state; what was counted before it is over."""
        self.state, self.epoch, self.since, self.wall = state, self.epoch + 1, now, wall
        self.successes, self.slices, self.open_until, self.by_hand = 0, [], None, False


decode = msgspec.json.Decoder(Doc).decode
encode = msgspec.json.Encoder().encode


def read(db: apsw.Connection, q: Sql, name: str) -> Doc:
    """The document of a circuit; one that is not stored is closed."""
    found = db.execute(q(READ), (name,)).fetchone()
    return Doc() if found is None else decode(str(found[0]))


def write(db: apsw.Connection, q: Sql, name: str, doc: Doc) -> None:
    """Store a document."""
    db.execute(q(WRITE), (name, encode(doc).decode()))


def gate_of(name: str) -> str:
    """The gate at which a circuit's jobs wait."""
    return f"circuit:{name}"


def row(db: apsw.Connection, q: Sql, name: str, doc: Doc, now: int, changed: str | None = None) -> CircuitRow:
    """A circuit as it stands."""
    state = doc.state_at(now)
    calls, failures = doc.window(now) if state == "closed" else (0, 0)
    return CircuitRow(
        name=name,
        state=state,
        epoch=doc.epoch,
        since=doc.wall,
        left_ms=max(0, doc.open_until - now) if state == "open" and doc.open_until is not None else None,
        reason=doc.reason if state != "closed" else None,
        by_hand=doc.by_hand,
        calls=calls,
        failures=failures,
        successes=doc.successes,
        probes=0 if state == "closed" else holds.taken(db, q, gate_of(name), now)[0],
        waiting=int(str(db.execute(q(WAITING), (gate_of(name),)).fetchall()[0][0])),
        changed=changed,
        admitted=state == "closed",
    )


def rows(db: apsw.Connection, q: Sql, now: int) -> Iterator[CircuitRow]:
    """Every circuit that was ever written, by name."""
    for name in [str(name) for (name,) in db.execute(q(NAMES))]:
        yield row(db, q, name, read(db, q, name), now)


def probe(
    db: apsw.Connection, q: Sql, name: str, token: str, lease_ms: int, job: LeaseRef | None, now: int, wall: int
) -> CircuitRow:
    """Let one call through if the circuit is closed, or as a probe if one is needed."""
    doc = read(db, q, name)
    if doc.state_at(now) == "closed":
        return row(db, q, name, doc, now)
    changed = None
    admitted = (
        holds.hold(db, q, gate_of(name), token, doc.places(now), lease_ms, "", 0, job, now, wall).fence is not None
    )
    if admitted and doc.state == "open":
        changed = "open"
        reason = doc.reason
        doc.turn("half_open", now, wall)
        doc.reason = reason
        write(db, q, name, doc)
    return msgspec.structs.replace(row(db, q, name, doc, now, changed), admitted=admitted)


def tally(
    db: apsw.Connection, q: Sql, name: str, policy: CircuitPolicy, report: Tally, now: int, wall: int
) -> CircuitRow:
    """Count calls that ended; open, close or reopen."""
    doc = read(db, q, name)
    if report.probe is not None:
        holds.release(db, q, gate_of(name), report.probe)
    if report.epoch != doc.epoch:  # calls of an earlier state say nothing about this one
        return row(db, q, name, doc, now)
    before = doc.state
    doc.half_open = policy.half_open
    match doc.state:
        case "closed":
            doc.add(now, policy.window_ms, report.ok, report.failed)
            if report.failed and trips(policy, *doc.window(now)):
                trip(db, q, name, doc, policy, report, now, wall)
        case "half_open" if report.probe is not None:
            if report.failed:
                trip(db, q, name, doc, policy, report, now, wall)
            elif report.ok:
                doc.successes += report.ok
                if doc.successes >= doc.half_open:
                    close(db, q, name, doc, now, wall)
            if doc.state == "half_open":
                db.execute(q(OPEN_GATE), (gate_of(name), 0))  # a place for another probe
    write(db, q, name, doc)
    return row(db, q, name, doc, now, before if doc.state != before else None)


def trips(policy: CircuitPolicy, calls: int, failures: int) -> bool:
    """Whether what is in the window opens the circuit."""
    if policy.failures is not None and failures >= policy.failures:
        return True
    return policy.failure_rate is not None and calls >= policy.min_calls and failures >= policy.failure_rate * calls


def trip(
    db: apsw.Connection, q: Sql, name: str, doc: Doc, policy: CircuitPolicy, report: Tally, now: int, wall: int
) -> None:
    """Open for as long as the policy says, or longer where the service asked for it."""
    doc.turn("open", now, wall)
    doc.open_until = now + max(policy.open_for_ms, report.retry_after_ms)
    doc.half_open = policy.half_open
    doc.reason = report.reason
    holds.release(db, q, gate_of(name), None)
    db.execute(q(OPEN_GATE), (gate_of(name), doc.open_until))


def close(db: apsw.Connection, q: Sql, name: str, doc: Doc, now: int, wall: int) -> None:
    """Let everything through again; the jobs that wait, step by step."""
    doc.turn("closed", now, wall)
    doc.reason = None
    holds.release(db, q, gate_of(name), None)
    db.execute(q(OPEN_GATE), (gate_of(name), 0))


def switch(
    db: apsw.Connection,
    q: Sql,
    name: str,
    open_ms: int | None,
    opened: bool,
    reason: str | None,
    half_open: int,
    now: int,
    wall: int,
) -> CircuitRow:
    """Open or close by hand."""
    doc = read(db, q, name)
    before = doc.state_at(now)
    if opened:
        doc.turn("open", now, wall)
        doc.by_hand, doc.half_open, doc.reason = True, half_open, reason
        holds.release(db, q, gate_of(name), None)
        db.execute(q(FORGET_GATE), (gate_of(name),))
        if open_ms is not None:
            doc.open_until = now + open_ms
            db.execute(q(OPEN_GATE), (gate_of(name), doc.open_until))
    elif before != "closed":
        close(db, q, name, doc, now, wall)
    write(db, q, name, doc)
    after = doc.state_at(now)
    return row(db, q, name, doc, now, before if after != before else None)
