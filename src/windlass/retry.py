"""When a failed job runs again: how many attempts it has and how long it waits between them.

Pure. Must not sleep, read a clock or know an engine. Invariants: a policy is frozen and checked when it is written, a
delay is whole milliseconds between 0 and the cap whatever the attempt, and a backoff survives a round trip through
JSON, so that one given per call can ride with its job.
"""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from msgspec.structs import force_setattr

from windlass.errors import ConfigError
from windlass.units import duration_ms, nearest

if TYPE_CHECKING:
    Duration = int | float | str | timedelta
else:
    Duration = object  # JSON holds seconds; the struct itself checks what was written

__all__ = ["Backoff", "Exponential", "Retry", "decode_backoff", "encode_backoff"]

JITTERS = ("full", "none")


class Exponential(Struct, frozen=True, tag="exponential", tag_field="kind"):
    """Wait ``factor * base ** (attempt - 1)``, at most ``cap``.

    ``factor`` and ``cap`` are durations; read back, they are seconds. ``jitter="full"`` draws the wait evenly between
    zero and that value, which spreads a herd best (AWS Architecture Blog, "Exponential backoff and jitter");
    ``"none"`` waits exactly that long. Raises ConfigError for a bad value.
    """

    base: float = 2
    factor: Duration = 1
    cap: Duration = "1h"
    jitter: str = "full"

    def __post_init__(self) -> None:
        if isinstance(self.base, bool) or not isinstance(self.base, int | float) or not 1 <= self.base <= 1_000:
            raise ConfigError(f"Exponential(base={self.base!r}): base is a number from 1 to 1000")
        if self.jitter not in JITTERS:
            hint = nearest(str(self.jitter), JITTERS)
            raise ConfigError(f"Exponential(jitter={self.jitter!r}): jitter is 'full' or 'none'{hint}")
        force_setattr(self, "factor", duration_ms(self.factor, "Exponential(factor)") / 1_000)
        force_setattr(self, "cap", duration_ms(self.cap, "Exponential(cap)") / 1_000)

    def delay_ms(self, attempt: int, rng: Random) -> int:
        """Give the wait after the failed run number ``attempt`` (from 1), in milliseconds."""
        factor, cap = duration_ms(self.factor, "factor"), duration_ms(self.cap, "cap")
        try:
            longest = min(float(cap), factor * float(self.base) ** (attempt - 1))
        except OverflowError:
            longest = float(cap) if factor else 0.0
        return int(longest) if self.jitter == "none" else int(rng.uniform(0, longest))


Backoff = Exponential
"""Any backoff policy; a tagged union in JSON."""

_decoder = msgspec.json.Decoder(Backoff)


def encode_backoff(backoff: Backoff) -> str:
    """Write a backoff as JSON text, for ``codec.Meta.backoff``."""
    return msgspec.json.encode(backoff).decode()


def decode_backoff(raw: str) -> Backoff:
    """Read a backoff back. Raises ConfigError for anything else."""
    try:
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, ConfigError, UnicodeError) as error:
        raise ConfigError(f"a stored backoff cannot be read: {error}") from error


class Retry(Struct, frozen=True):
    """How often a job runs in all, and how long it waits in between.

    ``attempts`` counts runs, the first included; None means the setting ``attempts``. Raises ConfigError.
    """

    attempts: int | None = None
    backoff: Backoff = Exponential()

    def __post_init__(self) -> None:
        if self.attempts is not None and not _is_count(self.attempts, 1):
            raise ConfigError(f"Retry(attempts={self.attempts!r}): attempts counts runs, so it is 1 or more")
        if not isinstance(self.backoff, Backoff):
            raise ConfigError(f"Retry(backoff={self.backoff!r}): give a policy, such as Exponential(cap='10m')")

    @classmethod
    def of(cls, value: int | Retry | None, settings_attempts: int) -> Retry:
        """Resolve what a ``retry=`` option says to a Retry whose ``attempts`` is set.

        ``5`` is five retries, six runs; ``Retry(attempts=5)`` is five runs; 0 or False is one run; None or True is
        what the settings say. Raises ConfigError for anything else.
        """
        if value is None or value is True:
            return cls(settings_attempts)
        if isinstance(value, Retry):
            return value if value.attempts is not None else cls(settings_attempts, value.backoff)
        if _is_count(value, 0):
            return cls(int(value) + 1)
        raise ConfigError(f"retry={value!r}: give the number of retries (0 or more) or a Retry(...)")

    def delay_ms(self, attempt: int, rng: Random) -> int:
        """Give the wait after the failed run number ``attempt`` (from 1), in milliseconds."""
        return self.backoff.delay_ms(attempt, rng)


MAX_ATTEMPTS = 1_000_000


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and value is not True and least <= value <= MAX_ATTEMPTS
