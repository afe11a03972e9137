"""How long a failed job waits before it runs again.

Pure. Must not sleep, read a clock or know why a job failed; a function of the user that does is a ``CustomBackoff``,
and ``retry`` calls it. Invariants: a policy is frozen and checked when it is written, a delay is whole milliseconds
between 0 and the cap whatever the attempt, and a policy survives a round trip through JSON, so that one given per call
can ride with its job.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec
from msgspec.structs import force_setattr

from windlass.core.errors import ConfigError
from windlass.core.spelling import Spelled
from windlass.core.units import duration_ms, nearest, shown

if TYPE_CHECKING:
    Duration = int | float | str | timedelta
else:
    Duration = object  # JSON holds seconds; the struct itself checks what was written

__all__ = [
    "Backoff",
    "Constant",
    "CustomBackoff",
    "Duration",
    "Exponential",
    "Linear",
    "decode_backoff",
    "encode_backoff",
    "read_backoff",
]

JITTERS = ("full", "equal", "none")


class Exponential(Spelled, frozen=True, tag="exponential", tag_field="kind"):
    """Wait ``factor * base ** (attempt - 1)``, at most ``cap``.

    ``factor`` and ``cap`` are durations; read back, they are seconds. ``jitter="full"`` draws the wait evenly between
    zero and that value, which spreads a herd best; ``"equal"`` keeps half of it and draws the other half; ``"none"``
    waits exactly that long. Raises ConfigError for a bad value. Source: AWS Architecture Blog, "Exponential backoff and
    jitter".
    """

    base: float = 2
    factor: Duration = 1
    cap: Duration = "1h"
    jitter: str = "full"

    def __post_init__(self) -> None:
        if isinstance(self.base, bool) or not isinstance(self.base, int | float) or not 1 <= self.base <= 1_000:
            raise ConfigError(f"Exponential(base={shown(self.base)}): base is a number from 1 to 1000")
        _check_jitter("Exponential", self.jitter)
        force_setattr(self, "factor", duration_ms(self.factor, "Exponential(factor)") / 1_000)
        force_setattr(self, "cap", duration_ms(self.cap, "Exponential(cap)") / 1_000)

    def range_ms(self, attempt: int) -> tuple[int, int]:
        """Give the shortest and the longest wait after the failed run number ``attempt`` (from 1), in ms."""
        factor, cap = duration_ms(self.factor, "factor"), duration_ms(self.cap, "cap")
        try:
            longest = min(float(cap), factor * float(self.base) ** (attempt - 1))
        except OverflowError:
            longest = float(cap) if factor else 0.0
        return _spread(int(longest), self.jitter)

    def delay_ms(self, attempt: int, rng: Random) -> int:
        """Give the wait after the failed run number ``attempt`` (from 1), in ms."""
        return rng.randint(*self.range_ms(attempt))


class Linear(Spelled, frozen=True, tag="linear", tag_field="kind"):
    """Wait ``step * attempt``, at most ``cap``.

    Durations, jitter and errors as in Exponential, but no jitter by default.
    """

    step: Duration = 10
    cap: Duration = "1h"
    jitter: str = "none"

    def __post_init__(self) -> None:
        _check_jitter("Linear", self.jitter)
        force_setattr(self, "step", duration_ms(self.step, "Linear(step)") / 1_000)
        force_setattr(self, "cap", duration_ms(self.cap, "Linear(cap)") / 1_000)

    def range_ms(self, attempt: int) -> tuple[int, int]:
        """Give the shortest and the longest wait after the failed run number ``attempt`` (from 1), in ms."""
        return _spread(min(duration_ms(self.cap, "cap"), duration_ms(self.step, "step") * attempt), self.jitter)

    def delay_ms(self, attempt: int, rng: Random) -> int:
        """Give the wait after the failed run number ``attempt`` (from 1), in ms."""
        return rng.randint(*self.range_ms(attempt))


class Constant(Spelled, frozen=True, tag="constant", tag_field="kind"):
    """Wait ``delay`` every time. Duration, jitter and errors as in Linear."""

    delay: Duration
    jitter: str = "none"

    def __post_init__(self) -> None:
        _check_jitter("Constant", self.jitter)
        force_setattr(self, "delay", duration_ms(self.delay, "Constant(delay)") / 1_000)

    def range_ms(self, attempt: int) -> tuple[int, int]:
        """Give the shortest and the longest wait after any failed run, in milliseconds."""
        return _spread(duration_ms(self.delay, "delay"), self.jitter)

    def delay_ms(self, attempt: int, rng: Random) -> int:
        """Give the wait after any failed run, in milliseconds."""
        return rng.randint(*self.range_ms(attempt))


Backoff: TypeAlias = Exponential | Linear | Constant
"""A shipped backoff policy; a tagged union in JSON."""

KINDS: Final = ("exponential", "linear", "constant")

CustomBackoff: TypeAlias = Callable[[int, BaseException], Duration]
"""A function of the user's: the number of the failed run (from 1) and its error, to a duration."""

_decoder: msgspec.json.Decoder[Backoff] = msgspec.json.Decoder(Backoff)


def encode_backoff(backoff: Backoff) -> str:
    """Write a backoff as JSON text, for ``codec.Meta.backoff``."""
    return msgspec.json.encode(backoff).decode()


def decode_backoff(raw: str) -> Backoff:
    """Read a backoff back. Raises ConfigError for anything else."""
    try:
        return _decoder.decode(raw)
    except (msgspec.MsgspecError, ConfigError, UnicodeError) as error:
        raise ConfigError(f"a stored backoff cannot be read: {error}") from error


def read_backoff(value: object, name: str) -> Backoff:
    """Read the backoff of a setting: a policy, a table such as ``{kind = "constant", delay = "5s"}``, or that as JSON.

    The kind alone stands for its defaults. Raises ConfigError that names the setting.
    """
    if isinstance(value, Exponential | Linear | Constant):
        return value
    table: object = {"kind": value} if isinstance(value, str) else value
    try:
        if isinstance(value, str) and value.lstrip().startswith("{"):
            table = msgspec.json.decode(value)
        kind_said = table.get("kind") if isinstance(table, dict) else None
        if isinstance(kind_said, str) and kind_said not in KINDS:
            raise ConfigError(f"there is no kind {kind_said!r}{nearest(kind_said, KINDS)}; it is {', '.join(KINDS)}")
        made: Backoff = msgspec.convert(table, Backoff)
    except (msgspec.MsgspecError, ConfigError) as error:
        raise ConfigError(f"{name} is {shown(value)}: {error}") from None
    kind = type(made)
    fields = {"kind", *kind.__struct_fields__}
    for key in table if isinstance(table, dict) else ():
        if key not in fields:
            raise ConfigError(f"{name}: {kind.__name__} has no {key!r}{nearest(str(key), fields)}")
    return made


def _check_jitter(policy: str, jitter: object) -> None:
    if jitter not in JITTERS:
        hint = nearest(str(jitter), JITTERS)
        raise ConfigError(f"{policy}(jitter={shown(jitter)}): jitter is 'full', 'equal' or 'none'{hint}")


def _spread(longest: int, jitter: str) -> tuple[int, int]:
    match jitter:
        case "full":
            return 0, longest
        case "equal":
            return longest // 2, longest
        case _:
            return longest, longest
