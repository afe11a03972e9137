"""What a fleet agrees on beside jobs: holds, limits and circuits.

Pure. Times are integer milliseconds, as in ``model``.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from windlass.core.model import GuardKind

__all__ = ["LOCKS", "CircuitPolicy", "CircuitRow", "Grip", "HoldRow", "LimitRow", "Tally"]

LOCKS: Final = "lock:"  # what the gates of locks begin with; those of guards begin with their kind


class Grip(Struct, frozen=True):
    """The answer to a try for a place at a gate. ``fence`` is None when it was not got.

    Then ``left_ms`` is what the lease of that holder has left which ends first (0: none does, or others wait in front),
    and ``owner`` says who that is. ``seen`` is for ``wait_released``.
    """

    fence: int | None
    left_ms: int = 0
    owner: str = ""
    seen: int = 0


class HoldRow(Struct, frozen=True):
    """One place at a gate that is taken: by a token, or by a job until it stops or ends.

    ``left_ms`` of a token is below zero when its lease ran out and nobody has taken the place since.
    """

    gate: str
    owner: str  # what the token's holder said of itself; empty for a job
    fence: int  # of the hold; for a job, of its last run
    since: int
    left_ms: int | None  # None for a job
    waiting: int  # tokens in the line of the gate
    job: str | None = None


class LimitRow(Struct, frozen=True):
    """One limit as it stands. ``used`` of ``limit`` slots or claims of the window; ``waiting`` jobs wait at it."""

    kind: GuardKind
    key: str
    used: int
    limit: int | None  # None: no waiting or running job says it
    per_ms: int
    waiting: int


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


class CircuitRow(Struct, frozen=True):
    """One circuit as it stands.

    ``epoch`` counts its changes. ``left_ms`` is when an open one may be probed (None: not by itself). ``changed`` is
    the state before, when the call that gave this row changed it. ``admitted``: that call may go on, as a probe when
    the state is not closed.
    """

    name: str
    state: str = "closed"
    epoch: int = 0
    since: int | None = None
    left_ms: int | None = None
    reason: str | None = None
    by_hand: bool = False
    calls: int = 0
    failures: int = 0
    successes: int = 0  # of probes in a row
    probes: int = 0  # on their way
    waiting: int = 0  # jobs
    changed: str | None = None
    admitted: bool = True
