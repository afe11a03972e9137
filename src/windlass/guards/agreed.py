"""Circuits as a fleet agrees on them: documents of its store, changed by compare-and-set.

What becomes of a circuit is decided in ``core.circuit``, for the time that the store's own clock tells. Whoever comes
too late with a change decides again on what is there now, so nothing that a fleet reports at once is lost. Exactly one
process makes each change, and is told so.

Must not keep anything: what a process knows of a circuit is handed in and given back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from msgspec import Struct

from windlass.core import circuit
from windlass.core.circuit import CircuitDocument, CircuitPolicy, CircuitRow, CircuitState, Tally
from windlass.core.errors import EngineError, EngineUnavailable
from windlass.core.model import Opening, Swap, Versioned, Write
from windlass.core.work import LeaseRef
from windlass.engines.base import Store

__all__ = [
    "PROBE_LEASE_MS",
    "Admission",
    "Change",
    "Known",
    "admit",
    "give_back",
    "look",
    "rows",
    "see",
    "standing",
    "switch",
    "tally",
]

TRIES: Final = 100  # of one change; of processes that meet at least one gets through each time
PROBE_LEASE_MS: Final = 60_000  # how long a probe that is no job may take until it counts as vanished
NAMES_MAX: Final = 100_000


class Known(Struct, frozen=True):
    """A circuit as its store last showed it; ``seen`` is when that was, in monotonic seconds."""

    version: int
    document: CircuitDocument
    seen: float


class Change(Struct, frozen=True):
    """A circuit after we had our say. ``entered`` is the state that it has entered by us."""

    known: Known
    entered: CircuitState | None = None


class Admission(Struct, frozen=True):
    """The answer to who asks to go through. ``leased`` is the token of a place that is to be given back."""

    change: Change
    is_admitted: bool
    leased: str | None = None


def known_of(found: Versioned) -> Known:
    """What a store says of a circuit."""
    return Known(found.version, circuit.decode(found.value), time.monotonic())


def look(store: Store, name: str) -> Known:
    """Ask the store for a circuit; one that nothing was ever reported of is closed."""
    return known_of(store.read([circuit.key_of(name)])[0])


def standing(store: Store, known: Known) -> CircuitDocument:
    """What is known of a circuit, as it stands now."""
    return circuit.standing(known.document, store.times().leases)


def see(store: Store, name: str) -> CircuitRow:
    """One circuit as people see it."""
    return _rows_of(store, [name])[0]


def rows(store: Store) -> list[CircuitRow]:
    """Every circuit that the store knows, by name."""
    return _rows_of(store, [key.removeprefix(circuit.PREFIX) for key in store.keys(circuit.PREFIX, NAMES_MAX)])


def _rows_of(store: Store, names: list[str]) -> list[CircuitRow]:
    if not names:
        return []
    gates = [circuit.key_of(name) for name in names]
    documents, probes, waiting = store.read(gates), dict.fromkeys(gates, 0), dict.fromkeys(gates, 0)
    for held in store.holds(gates[0] if len(gates) == 1 else circuit.PREFIX):
        if held.gate in probes and (held.left_ms is None or held.left_ms > 0):
            probes[held.gate] += 1
    for row in store.blocked():
        if row.gate in waiting:
            waiting[row.gate] += row.jobs
    now = store.times()
    return [
        circuit.row_of(name, circuit.decode(found.value), now, probes[found.key], waiting[found.key])
        for name, found in zip(names, documents, strict=True)
    ]


def tally(store: Store, name: str, policy: CircuitPolicy, report: Tally, known: Known | None = None) -> Change:
    """Report calls that ended; open, close or reopen the circuit by the policy. Raises EngineError."""

    def decide(it: CircuitDocument, now: int) -> CircuitDocument | None:
        return circuit.tallied(it, policy, report, now)

    return _change(store, name, decide, known, durable=False)


def switch(store: Store, name: str, open_ms: int | None, opened: bool, reason: str | None, half_open: int) -> Change:
    """Open a circuit by hand (for ``open_ms``, None: until it is closed) or close it. *Idempotent.*"""

    def decide(it: CircuitDocument, now: int) -> CircuitDocument | None:
        return circuit.switched(it, open_ms, opened, reason, half_open, now)

    return _change(store, name, decide, None, durable=True)


def _change(
    store: Store,
    name: str,
    decide: Callable[[CircuitDocument, int], CircuitDocument | None],
    known: Known | None,
    *,
    durable: bool,
) -> Change:
    """Make of a circuit what ``decide`` says of it as it stands, if it says anything.

    What is known of it may be old, and so may the time: the store refuses what was decided on another version or for
    another time, and tells both anew. Probes of a state that is over have no place any more.
    """
    key, is_fresh = circuit.key_of(name), known is None
    if known is None:
        known = look(store, name)
    for _ in range(TRIES):
        now = store.times().leases
        before = circuit.standing(known.document, now)
        after = decide(before, now)
        if after is None or after == known.document:
            return Change(known)
        entered = None if known.document.state == before.state == after.state else after.state
        turned = after.epoch != before.epoch
        write = Write(
            swaps=(Swap(key, known.version, circuit.encode(after), durable=durable),),
            opens=(Opening(key, circuit.opens_in(after, now)),) if turned else (),
            clock=None if is_fresh else now,
        )
        written = store.commit(write)
        known, is_fresh = known_of(written.documents[0]), True
        if not written.lost:
            if turned and before.state != "closed" and after.state != "half_open":
                with suppress(EngineError):  # what is done is done, and their leases and runs end as well
                    store.release(key, None)
            return Change(known, entered)
    raise EngineUnavailable(
        f"circuit {name!r} changed {TRIES} times while one report of it was to be written; it is written later"
    )


def admit(store: Store, name: str, token: str, job: LeaseRef | None, known: Known | None = None) -> Admission:
    """Ask to go through a circuit that may not be closed. *Idempotent by token or job.* Raises EngineError.

    Half-open, it admits as many as may still be needed to close it. Each has a place, by its run or leased to the token
    until it is given back. Whoever is the first writes down that the circuit is half-open.
    """
    change = Change(known or look(store, name))
    for _ in range(TRIES):
        it = standing(store, change.known)
        if it.state != "half_open":
            return Admission(change, it.state == "closed")
        grip = store.hold(circuit.key_of(name), token, circuit.places(it), PROBE_LEASE_MS, job=job)
        if grip.fence is None:
            return Admission(change, False)
        # The place was given for what was known. It is right if the circuit stands so still.
        change = _begin(store, name, change.known)
        now = standing(store, change.known)
        if (now.epoch, circuit.places(now)) == (it.epoch, circuit.places(it)):
            return Admission(change, True, None if job is not None and grip.fence == job.fence else token)
        give_back(store, name, token)
    return Admission(change, False)


def give_back(store: Store, name: str, token: str) -> None:
    """Give back the place of a probe that was leased to a token. *Idempotent.*"""
    store.release(circuit.key_of(name), token)


def _begin(store: Store, name: str, known: Known) -> Change:
    """Write down that a circuit is half-open, if nobody has; else look at it again."""
    if known.document.state == "half_open":
        return Change(look(store, name))
    return _change(store, name, lambda it, now: it if it.state == "half_open" else None, known, durable=False)
