"""What a job raises to say how its run ends; no rule is asked then."""

from __future__ import annotations

from datetime import timedelta

from windlass.core.errors import WindlassError
from windlass.core.model import Wait, Write
from windlass.core.spelling import spelled
from windlass.core.units import duration_ms, show_duration

__all__ = ["Await", "Control", "Dead", "Delayed", "Discard", "RetryAfter", "Snooze"]


@spelled
class Control(WindlassError):
    """Root of what a job raises to say how its run ends; no rule is asked then."""

    def __init__(self, reason: str | None = None) -> None:
        super().__init__(reason)
        self.reason = None if reason is None else str(reason)

    def __str__(self) -> str:
        return self.reason or ""


class Await(Control):
    """Raised by a job of ours that waits for others, which it may start in the same write; no attempt is used."""

    def __init__(self, waits: Wait, then: Write | None = None) -> None:
        super().__init__(f"waits for {waits.join}")
        self.waits = waits
        self.then = then


@spelled
class Delayed(Control):
    """Root of those with a delay: seconds, a timedelta or text such as ``"5m"``. Raises ConfigError for another."""

    def __init__(self, delay: float | str | timedelta, reason: str | None = None) -> None:
        super().__init__(reason)
        self.args = (delay, reason)  # what a copy in another process is made from
        self.delay_ms = duration_ms(delay, f"{type(self).__name__}(delay)")

    def __str__(self) -> str:
        return self.reason or f"again in {show_duration(self.delay_ms)}"


class Snooze(Delayed):
    """Raised by a job to run later; no attempt is used. Beyond the setting ``max_snoozes`` each one uses an attempt."""


class RetryAfter(Delayed):
    """Raised by a job that failed and knows when to try again; an attempt is used."""


class Discard(Control):
    """Raised by a job that need not be done any more: it ends cancelled, with this reason."""


class Dead(Control):
    """Raised by a job that can never succeed: it goes to the dead list at once, with this reason."""
