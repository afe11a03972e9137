"""The rules of guards in plain Python: what the state machine for guards judges every claim by.

It must stay small enough to be read as the specification, and is asked the same question both ways: nothing may be
leased that it calls shut, and nothing may be left waiting that it calls open. It knows only what a user can see: what
was claimed when, and the rows and circuits that the store shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from windlass.core.circuit import CircuitRow
from windlass.core.model import FINISHED, Guard, GuardKind, State
from windlass.core.rows import JobRow
from windlass.core.work import Lease, RateBound

DUPLICATE = "duplicate of "


@dataclass
class Marker:
    """A Once key that is done."""

    id: str
    result: bytes | None
    until: int


@dataclass
class Gatekeeper:
    """What gates have let through and have not had back. ``now`` is passed in; both clocks move together here."""

    half_open: int  # of every circuit
    running: dict[str, tuple[Guard, ...]] = field(default_factory=dict)
    queued: dict[str, str] = field(default_factory=dict)  # of the running ones: their queues
    claims: dict[str, list[int]] = field(default_factory=dict)  # of a rate, by gate
    spent: dict[str, float] = field(default_factory=dict)  # of a rate with a burst: up to when its starts are taken
    holders: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # of a Once key: id and payload of its job
    markers: dict[str, Marker] = field(default_factory=dict)
    probes_free: dict[str, int | None] = field(default_factory=dict)  # of a circuit; None: it is closed
    limits: dict[str, int] = field(default_factory=dict)  # of queues
    rates: dict[str, RateBound] = field(default_factory=dict)

    def learn(self, rows: Iterable[JobRow], circuits: Iterable[CircuitRow], now: int) -> None:
        """Take in what the store shows: what runs, who has ended, how circuits stand."""
        known = {row.id: row for row in rows}
        running = [row for row in known.values() if row.state is State.RUNNING]
        self.running = {row.id: row.guards for row in running}
        self.queued = {row.id: row.queue for row in running}
        for key, (job_id, payload) in list(self.holders.items()):
            row = known.get(job_id)
            if row is not None and row.payload == payload and row.state not in FINISHED:
                continue
            del self.holders[key]
            if row is not None and row.state is State.DONE:
                (keep_ms,) = (guard.keep_ms for guard in row.guards if guard.kind is GuardKind.ONCE)
                self.markers[key] = Marker(job_id, row.result, (row.finished_at or 0) + keep_ms)
        carried = {
            guard.key
            for row in known.values()
            if row.state is not State.DONE
            for guard in row.guards
            if guard.kind is GuardKind.ONCE
        }
        for key, marker in list(self.markers.items()):
            if marker.until <= now and key not in carried:
                del self.markers[key]
        for one in circuits:
            free = 0 if one.state == "open" else self.half_open - one.successes - one.probes
            self.probes_free[one.name] = None if one.state == "closed" else free

    def lose(self, ids: Iterable[str]) -> None:
        """Take in that jobs have expired: they hold no key any more."""
        self.holders = {key: holder for key, holder in self.holders.items() if holder[0] not in ids}

    # -- what is shut --

    def shut(self, job_id: str, queue: str, guards: Sequence[Guard], now: int, late_ms: int = 0) -> str | None:
        """What keeps a job from being leased now; None when nothing does."""
        if queue in self.limits and list(self.queued.values()).count(queue) >= self.limits[queue]:
            return f"limit of {queue}"
        rate = self.rates.get(queue)
        if rate is not None and self._is_spent(f"queue:{queue}", rate.count, now - rate.per_ms - late_ms):
            return f"rate of {queue}"
        return next((guard.gate for guard in guards if self._is_shut(job_id, guard, now, late_ms)), None)

    def _is_shut(self, job_id: str, guard: Guard, now: int, late_ms: int) -> bool:
        match guard.kind:
            case GuardKind.ONCE:
                holder = self.holders.get(guard.key)
                return holder is not None and holder[0] != job_id
            case GuardKind.CONCURRENCY:
                return sum(guard.gate in gates(held) for held in self.running.values()) >= guard.limit
            case GuardKind.RATE if guard.burst is not None:
                ahead = self.spent.get(guard.gate, 0) - now
                return ahead > (guard.burst - 1) * guard.per_ms / guard.limit
            case GuardKind.RATE:
                return self._is_spent(guard.gate, guard.limit, now - guard.per_ms - late_ms)
            case GuardKind.CIRCUIT:
                free = self.probes_free.get(guard.key)
                return free is not None and free <= 0

    def _is_spent(self, gate: str, count: int, window: int) -> bool:
        return sum(at > window for at in self.claims.get(gate, [])) >= count

    # -- what is let through --

    def let_through(self, lease: Lease, now: int) -> None:
        """Count a lease."""
        self.running[lease.id] = lease.guards
        self.queued[lease.id] = lease.queue
        for guard in lease.guards:
            match guard.kind:
                case GuardKind.ONCE:
                    self.holders[guard.key] = (lease.id, lease.payload)
                case GuardKind.CIRCUIT:
                    if (free := self.probes_free.get(guard.key)) is not None:
                        self.probes_free[guard.key] = free - 1
                case GuardKind.RATE if guard.burst is not None:
                    spent = max(self.spent.get(guard.gate, 0), now)
                    self.spent[guard.gate] = spent + guard.per_ms / guard.limit
                case GuardKind.RATE:
                    self.claims.setdefault(guard.gate, []).append(now)
        if lease.queue in self.rates:
            self.claims.setdefault(f"queue:{lease.queue}", []).append(now)

    def set_rate(self, queue: str, rate: RateBound | None) -> None:
        """Hold a queue to another rate: its window begins anew."""
        if rate != self.rates.get(queue):
            self.claims.pop(f"queue:{queue}", None)
        self.rates.pop(queue, None)
        if rate is not None:
            self.rates[queue] = rate


def gates(guards: Iterable[Guard]) -> set[str]:
    """The gates of guards."""
    return {guard.gate for guard in guards}
