"""What every composition asks of its calls, and how many of its members have ended how.

Pure. Invariant: what is wrong with a call shows before anything is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from windlass.core.errors import ConfigError
from windlass.core.join import Tally
from windlass.core.model import Wait
from windlass.core.rows import JoinRow
from windlass.jobs.call import Call, Enqueuer, call_of, check_call

__all__ = [
    "MEMBERS_MAX",
    "WATCH_MS",
    "FlowProgress",
    "check_app",
    "check_members",
    "eta_of",
    "joined",
    "read_facts",
    "waiting",
]

F = TypeVar("F")

MEMBERS_MAX: Final = 10_000
"""Of what is stored in one write, which keeps all others from writing meanwhile."""


WATCH_MS: Final = 60_000
"""How often a composition is looked at, as long as it has not ended: what was lost in it heals then."""


@dataclass(frozen=True, slots=True)
class FlowProgress:
    """How many members have ended, by state, at one moment."""

    total: int
    done: int
    dead: int
    cancelled: int

    @classmethod
    def of(cls, tally: Tally) -> FlowProgress:
        """What a join says of its members."""
        return cls(tally.total, tally.ok, tally.bad, tally.void)

    @property
    def ended(self) -> int:
        """How many have ended, in any way."""
        return self.done + self.dead + self.cancelled

    @property
    def open(self) -> int:
        """How many have not."""
        return self.total - self.ended

    @property
    def percent(self) -> float | None:
        """How many of a hundred have ended; None where there are no members."""
        return 100.0 * self.ended / self.total if self.total else None


def eta_of(progress: FlowProgress, so_far: timedelta) -> timedelta | None:
    """How long the rest will take at the pace ``so_far``; None: nothing is left, or nobody can tell."""
    return so_far * (progress.open / progress.ended) if progress.open and progress.ended else None


def check_members(calls: Sequence[Call[object]], what: str) -> Enqueuer | None:
    """Give the application of calls that are stored together; None: there are no calls. Raises ConfigError."""
    if len(calls) > MEMBERS_MAX:
        raise ConfigError(
            f"{what} has {len(calls):,} calls and is stored in one write, so it takes at most {MEMBERS_MAX:,}; "
            "app.batch(...) takes as many as there are"
        )
    app: Enqueuer | None = None
    seen: set[str] = set()
    for number, call in enumerate(calls, 1):
        call_of(call, f"{what}: call {number}")
        app = check_app(call, app, what)
        if call.id in seen:
            raise ConfigError(
                f"{what}: call {number}, {call!r}, is in it already; a call is one job, so bind another one, or give "
                "it another id"
            )
        seen.add(call.id)
    return app


def check_app(call: Call[object], app: Enqueuer | None, what: str) -> Enqueuer:
    """Give the application of a call. Raises ConfigError when it is not this one."""
    if app is not None and call.maker.enqueuer is not app:
        raise ConfigError(
            f"{what}: {call!r} is of {call.maker.enqueuer!r}, and the rest of {app!r}; what belongs together is in one "
            "store, so take jobs of one application"
        )
    return call.maker.enqueuer


def read_facts(row: JoinRow, kind: type[F]) -> F:
    """What a join says of itself; the defaults where nobody can read it, so that the rest can be looked at."""
    try:
        return msgspec.json.decode(row.meta or b"{}", type=kind)
    except msgspec.DecodeError:
        return kind()


def joined(call: Call[object], *joins: str) -> Call[object]:
    """Give a call as a member of joins."""
    return replace(call, new=replace(call.new, joins=(*call.new.joins, *joins)))


def waiting(call: Call[object], wait: Wait, what: str) -> Call[object]:
    """Give a whole call as one that waits. Raises ConfigError for one that another could be written over meanwhile."""
    check_call(call, what)
    unique = call.new.unique
    if unique is not None and unique.rule in ("keep_latest", "replace"):
        raise ConfigError(
            f"{what}: {call!r} waits for other jobs, and with Unique(on_conflict={unique.rule!r}) another call could "
            "take its place meanwhile; give it .options(unique=None), or on_conflict='return' or 'raise'"
        )
    return replace(call, new=replace(call.new, waits=wait))
