"""Circuits: the document that a store keeps of each, and everything that is decided about it.

Pure. Whoever changes a circuit reads its document, asks here what becomes of it, and writes that by compare-and-set
(``guards.agreed``); a claim asks here whether it lets a job through. Times are milliseconds of the engine's clock of
leases. The window is kept in slices, so a document stays small whatever the traffic.

Invariants: half-open is not written when its time comes: an open circuit whose time is over is half-open by
definition, in an epoch of its own, and the next write says so. Each change of state raises the epoch, and what began in
another epoch says nothing.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Struct

from windlass.core.model import GuardKind, Times

__all__ = [
    "PREFIX",
    "STAGGER_MS",
    "CircuitDocument",
    "CircuitPolicy",
    "CircuitRow",
    "CircuitState",
    "Tally",
    "decode",
    "encode",
    "key_of",
    "lets_on",
    "looks_again_at",
    "opens_in",
    "places",
    "row_of",
    "standing",
    "switched",
    "tallied",
    "window",
]

PREFIX: Final = f"{GuardKind.CIRCUIT}:"  # of the key of each document, which is also the gate where its jobs wait
SLICES: Final = 20  # of a window; a call counts up to a twentieth of the window longer
STAGGER_MS: Final = 100  # a closed circuit lets its waiters out in steps that double
STEPS_MAX: Final = 16

CircuitState: TypeAlias = Literal["closed", "open", "half_open"]
Number = Annotated[int, Meta(gt=-(2**53), lt=2**53)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Least = Annotated[int, Meta(ge=1, lt=2**53)]


class CircuitPolicy(Struct, frozen=True):
    """When a circuit opens and closes. At least one of ``failures`` and ``failure_rate`` is set."""

    failures: int | None = 5
    window_ms: int = 60_000
    open_for_ms: int = 300_000
    half_open: int = 1
    min_calls: int = 1
    failure_rate: float | None = None


class Tally(Struct, frozen=True):
    """Calls that ended since the last report. ``epoch`` is the circuit's when they began.

    ``probe`` is the token of a probe of a half-open circuit, which is reported by itself (neither ok nor failed: it
    proved nothing).
    """

    ok: int = 0
    failed: int = 0
    epoch: int = 0
    probe: str | None = None
    retry_after_ms: int = 0
    reason: str | None = None


class CircuitDocument(Struct, frozen=True, omit_defaults=True):
    """One circuit as it was written last. ``slices`` are (number, ok, failed), oldest first."""

    state: CircuitState = "closed"
    epoch: Count = 0
    since: Number | None = None
    open_until: Number | None = None  # None: until somebody closes it
    half_open: Least = 1
    successes: Count = 0  # of probes in a row
    reason: str | None = None
    by_hand: bool = False
    slices: tuple[tuple[Number, Count, Count], ...] = ()
    slice_ms: Least = 3_000


class CircuitRow(Struct, frozen=True):
    """One circuit as people see it.

    ``epoch`` counts its changes. ``left_ms`` is when an open one may be probed (None: not by itself). ``since`` is of
    the wall clock.
    """

    name: str
    state: CircuitState = "closed"
    epoch: int = 0
    since: int | None = None
    left_ms: int | None = None
    reason: str | None = None
    by_hand: bool = False
    calls: int = 0
    failures: int = 0
    successes: int = 0
    probes: int = 0  # on their way
    waiting: int = 0  # jobs


_decode = msgspec.json.Decoder(CircuitDocument).decode
_encode = msgspec.json.Encoder().encode
NEW: Final = CircuitDocument()


def key_of(name: str) -> str:
    """The key of a circuit's document, and the gate where its jobs wait."""
    return f"{PREFIX}{name}"


def decode(text: str | None) -> CircuitDocument:
    """Read a document; one that is not there or cannot be read is a new one."""
    if text is None:
        return NEW
    try:
        return _decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return NEW


def encode(document: CircuitDocument) -> str:
    """Write a document."""
    return _encode(document).decode()


# -- how it stands ----------------------------------------------------------------------------------------------------


def standing(it: CircuitDocument, now: int) -> CircuitDocument:
    """The circuit at a time: an open one whose time is over is half-open."""
    if it.state == "open" and it.open_until is not None and now >= it.open_until:
        return _turned(it, "half_open", it.open_until, it.reason)
    return it


def places(it: CircuitDocument) -> int:
    """How many probes may be on their way in a circuit that stands so: as many as are still needed to close it."""
    return it.half_open - it.successes if it.state == "half_open" else 0


def lets_on(it: CircuitDocument, now: int) -> int:
    """How many waiters a closed circuit lets on by now; a service that has just come back would not bear all."""
    steps = max(0, now - (it.since or 0)) // STAGGER_MS
    return it.half_open << min(steps, STEPS_MAX)


def looks_again_at(it: CircuitDocument, ends: int | None) -> int | None:
    """When the waiters of a circuit that lets none on are to be looked at; None: when a hold is released.

    ``ends`` is when the first lease of a probe runs out, if any is leased.
    """
    return it.open_until if it.state == "open" else ends


def window(it: CircuitDocument, now: int) -> tuple[int, int]:
    """Calls and failures in the window."""
    inside = _inside(it, now // it.slice_ms)
    return sum(ok + failed for _, ok, failed in inside), sum(failed for _, _, failed in inside)


def row_of(name: str, it: CircuitDocument, times: Times, probes: int, waiting: int) -> CircuitRow:
    """The row for people."""
    now = times.leases
    it = standing(it, now)
    calls, failures = window(it, now) if it.state == "closed" else (0, 0)
    return CircuitRow(
        name=name,
        state=it.state,
        epoch=it.epoch,
        since=None if it.since is None else times.wall - (now - it.since),
        left_ms=opens_in(it, now) if it.state == "open" else None,
        reason=it.reason if it.state != "closed" else None,
        by_hand=it.by_hand,
        calls=calls,
        failures=failures,
        successes=it.successes,
        probes=probes if it.state != "closed" else 0,
        waiting=waiting,
    )


# -- what becomes of it -----------------------------------------------------------------------------------------------


def tallied(it: CircuitDocument, policy: CircuitPolicy, tally: Tally, now: int) -> CircuitDocument | None:
    """Count calls that ended, and open, close or reopen; None when they say nothing. ``it`` is as it stands."""
    if tally.epoch != it.epoch or not (tally.ok or tally.failed):
        return None
    match it.state:
        case "closed":
            counted = _counted(it, policy, tally, now)
            trips = tally.failed and _trips(policy, *window(counted, now))
            return _tripped(counted, policy, tally, now) if trips else counted
        case "half_open" if tally.probe is not None:
            if tally.failed:
                return _tripped(it, policy, tally, now)
            successes = it.successes + tally.ok
            if successes >= policy.half_open:
                return _turned(it, "closed", now, half_open=policy.half_open)
            return msgspec.structs.replace(it, successes=successes, half_open=policy.half_open)
        case _:
            return None


def switched(
    it: CircuitDocument, open_ms: int | None, opened: bool, reason: str | None, half_open: int, now: int
) -> CircuitDocument | None:
    """Open or close by hand; None when there is nothing to close. ``it`` is as it stands."""
    if opened:
        until = None if open_ms is None else now + open_ms
        return _turned(it, "open", now, reason, open_until=until, half_open=half_open, by_hand=True)
    return None if it.state == "closed" else _turned(it, "closed", now)


def opens_in(it: CircuitDocument, now: int) -> int | None:
    """In how many ms a circuit that was changed now lets jobs on again; None: not by itself."""
    if it.state == "open":
        return None if it.open_until is None else max(0, it.open_until - now)
    return 0


def _turned(
    it: CircuitDocument,
    state: CircuitState,
    now: int,
    reason: str | None = None,
    *,
    open_until: int | None = None,
    half_open: int | None = None,
    by_hand: bool = False,
) -> CircuitDocument:
    """Enter a state; what was counted before it is over."""
    return CircuitDocument(
        state=state,
        epoch=it.epoch + 1,
        since=now,
        open_until=open_until,
        half_open=it.half_open if half_open is None else half_open,
        reason=reason,
        by_hand=by_hand,
        slice_ms=it.slice_ms,
    )


def _tripped(it: CircuitDocument, policy: CircuitPolicy, tally: Tally, now: int) -> CircuitDocument:
    """Open for as long as the policy says, or longer where the service asked for it."""
    until = now + max(policy.open_for_ms, tally.retry_after_ms)
    return _turned(it, "open", now, tally.reason, open_until=until, half_open=policy.half_open)


def _trips(policy: CircuitPolicy, calls: int, failures: int) -> bool:
    """Whether what is in the window opens the circuit."""
    if policy.failures is not None and failures >= policy.failures:
        return True
    return policy.failure_rate is not None and calls >= policy.min_calls and failures >= policy.failure_rate * calls


def _inside(it: CircuitDocument, number: int) -> list[tuple[int, int, int]]:
    """The slices of the window that ends in this one. What a clock of another time has left does not count."""
    return [one for one in it.slices if abs(one[0] - number) < SLICES]


def _counted(it: CircuitDocument, policy: CircuitPolicy, tally: Tally, now: int) -> CircuitDocument:
    """Count calls in the slice of now."""
    slice_ms = max(1, policy.window_ms // SLICES)
    number = now // slice_ms
    kept = _inside(it, number) if slice_ms == it.slice_ms else []
    ok, failed = tally.ok, tally.failed
    if kept and kept[-1][0] >= number:  # a report that was decided a moment later may be written first
        number, before, failed_before = kept.pop()
        ok, failed = ok + before, failed + failed_before
    return msgspec.structs.replace(
        it, slices=(*kept, (number, ok, failed)), slice_ms=slice_ms, half_open=policy.half_open
    )
