"""The guards that a job is defined with: Once, Unique, Concurrency, Rate, and the name of a circuit.

What is wrong with one is an error where it is written. ``compile_guards`` checks them against a job's parameters and
gives a plan that renders a call's guards; a job without guards has no plan and pays nothing. Must not know engines:
what leaves here is data of ``model``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeAlias, get_args

from msgspec.structs import force_setattr

from windlass.core import caps
from windlass.core.codec import Signature
from windlass.core.errors import ConfigError
from windlass.core.model import Guard, GuardKind, OnConflict, UniqueKey, Until
from windlass.core.spelling import Spelled
from windlass.core.units import count_per, duration_ms, format_duration, nearest, shown
from windlass.guards.keys import KeyTemplate

if TYPE_CHECKING:
    Duration = int | float | str | timedelta
    Key = str | Callable[..., str]
else:
    Duration = Key = object  # checked when it is written

__all__ = ["Concurrency", "GuardPlan", "Limit", "Once", "Rate", "Unique", "compile_guards"]

UNTIL: Final = get_args(Until)
RULES: Final = get_args(OnConflict)


class Once(Spelled, frozen=True):
    """Run one job per key to its end: another with the key waits, and ends with the stored result once that is done.

    ``key`` is a template over the job's arguments, such as ``"payment:{payment_id}"``, or a function of them. The key
    is held from the first claim to the end of its job, through retries and crashes; dead and cancelled free it.
    Done, a marker with the result stays for ``keep``, and as long as any waiting, running or dead job carries the
    key. Raises ConfigError for a ``keep`` of zero.
    """

    key: Key
    keep: Duration = "24h"

    def __post_init__(self) -> None:
        force_setattr(self, "keep", _positive(self.keep, "Once(keep)"))


class Unique(Spelled, frozen=True):
    """Store one job per key: what becomes of another one while the key is held is ``on_conflict``.

    ``until``: the key is freed when its job starts, when it is done (or dead, or cancelled), or by ``expiry`` of
    ``ttl`` alone; a ``ttl`` counts from the due time and also bounds the other two. ``on_conflict``: ``return`` the
    existing job's handle, ``raise`` Duplicate, ``replace`` the arguments and the time of a waiting one, or
    ``keep_latest``: at most one runs and one waits, and that one has the latest arguments; while one waits, no ``ttl``
    takes the key from the one that runs. Raises ConfigError.
    """

    key: Key
    until: Until = "done"
    ttl: Duration | None = None
    on_conflict: OnConflict = "return"

    def __post_init__(self) -> None:
        _choice(self.until, UNTIL, "Unique(until)")
        _choice(self.on_conflict, RULES, "Unique(on_conflict)")
        if self.ttl is not None:
            force_setattr(self, "ttl", _positive(self.ttl, "Unique(ttl)"))
        elif self.until == "expiry":
            raise ConfigError("Unique(until='expiry') needs a ttl=, such as ttl='10m': nothing else would free the key")
        if self.on_conflict == "keep_latest" and self.until != "done":
            raise ConfigError(
                f"Unique(on_conflict='keep_latest', until={self.until!r}): one waits for the end of the other, so "
                "until must be 'done'"
            )


class Concurrency(Spelled, frozen=True):
    """Let at most ``n`` jobs with the key run at once, over the whole fleet. Raises ConfigError for n below 1."""

    n: int
    key: Key

    def __post_init__(self) -> None:
        if not _is_count(self.n):
            raise ConfigError(f"Concurrency({shown(self.n)}): n is a whole number from 1 to {caps.COUNT:,}")


class Rate(Spelled, frozen=True):
    """Let at most so many jobs with the key start in any window, over the whole fleet: ``"100/m"``, ``"9/10s"``.

    Units are s, m, h, d. Without ``burst`` it is an exact sliding window. With it the starts are spaced evenly, up to
    ``burst`` of them may come at once, and a window never has more than n + burst. Raises ConfigError.
    """

    rate: str
    key: Key
    burst: int | None = None

    def __post_init__(self) -> None:
        self.parsed()
        if self.burst is not None and not _is_count(self.burst):
            raise ConfigError(
                f"Rate({self.rate!r}, burst={shown(self.burst)}): burst is a whole number from 1 to {caps.COUNT:,}"
            )

    def parsed(self) -> tuple[int, int]:
        """How many in how many milliseconds."""
        return count_per(self.rate, f"Rate({self.rate!r})")


Limit = Concurrency | Rate
Arguments: TypeAlias = tuple[tuple[object, ...], Mapping[str, object]]


class GuardPlan:
    """The guards of one job, ready to be rendered for a call."""

    def __init__(
        self,
        once: tuple[KeyTemplate, int] | None,
        unique: tuple[KeyTemplate, Unique] | None,
        circuit: str | None,
        limits: tuple[tuple[KeyTemplate, Limit], ...],
    ) -> None:
        self._once = once
        self._unique = unique
        self._circuit = circuit
        self._limits = limits

    def render(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[tuple[Guard, ...], UniqueKey | None]:
        """Give the guards of one call, in the order in which they are judged: what takes nothing comes first."""
        guards: list[Guard] = []
        if self._once is not None:
            template, keep_ms = self._once
            guards.append(Guard(GuardKind.ONCE, template.render(args, kwargs), keep_ms=keep_ms))
        if self._circuit is not None:
            guards.append(Guard(GuardKind.CIRCUIT, self._circuit))
        for template, limit in self._limits:
            key = template.render(args, kwargs)
            if isinstance(limit, Concurrency):
                guards.append(Guard(GuardKind.CONCURRENCY, key, limit.n))
            else:
                count, per_ms = limit.parsed()
                guards.append(Guard(GuardKind.RATE, key, count, per_ms, limit.burst))
        unique = None
        if self._unique is not None:
            template, how = self._unique
            ttl = None if how.ttl is None else duration_ms(how.ttl, "ttl")
            unique = UniqueKey(template.render(args, kwargs), how.until, ttl, how.on_conflict)
        return tuple(guards), unique

    def key_of(self, name: str) -> str | None:
        """The job and the option whose key may depend on this argument; None: none does."""
        keyed = [one[0] for one in (self._once, self._unique, *self._limits) if one is not None]
        return next((template.what for template in keyed if template.uses(name)), None)

    def moved(
        self, guards: tuple[Guard, ...], unique: UniqueKey | None, before: Arguments | None, after: Arguments
    ) -> tuple[tuple[Guard, ...], UniqueKey | None]:
        """Give the guards of a stored job when its arguments change; those that its own call had stay.

        ``before`` None: nobody can read the old arguments, so all are made anew.
        """
        fresh, fresh_key = self.render(*after)
        if before is None:
            return fresh, fresh_key
        stale, stale_key = self.render(*before)
        follows = {(old.kind, old.key): new for old, new in zip(stale, fresh, strict=True)}
        moved = tuple(follows.get((one.kind, one.key), one) for one in guards)
        same = unique is not None and stale_key is not None and unique.key == stale_key.key
        return moved, fresh_key if same else unique


def compile_guards(
    options: Mapping[str, object],
    signature: Signature,
    redact: tuple[str, ...],
    circuits: Iterable[str],
    where: str,
) -> GuardPlan | None:
    """Check the guard options of a job and make its plan; None when it has none. Raises ConfigError."""
    once, unique, limits = options.get("once"), options.get("unique"), options.get("limits")
    circuit = _circuit(options.get("circuit"), list(circuits), where)
    if once is None and unique is None and circuit is None and not limits:
        return None

    def template(key: object, option: str) -> KeyTemplate:
        return KeyTemplate(key, f"{where}: {option}", signature, redact)

    if once is not None and not isinstance(once, Once):
        raise ConfigError(f"{where}: once is {once!r}; give Once('payment:{{payment_id}}', keep='24h')")
    if unique is not None and not isinstance(unique, Unique):
        raise ConfigError(f"{where}: unique is {unique!r}; give Unique('report:{{day}}')")
    return GuardPlan(
        None if once is None else (template(once.key, "once"), duration_ms(once.keep, "keep")),
        None if unique is None else (template(unique.key, "unique"), unique),
        circuit,
        tuple((template(one.key, f"limits: {type(one).__name__}"), one) for one in _limits(limits, where)),
    )


def _limits(value: object, where: str) -> list[Limit]:
    if value is None:
        return []
    given: list[object] = (
        [value]
        if isinstance(value, Concurrency | Rate)
        else list(value)
        if isinstance(value, list | tuple)
        else [value]
    )
    if len(given) > caps.GUARDS - 2:
        raise ConfigError(f"{where}: limits has {len(given):,} entries; give at most {caps.GUARDS - 2}")
    limits: list[Limit] = []
    for one in given:
        if not isinstance(one, Concurrency | Rate):
            raise ConfigError(
                f"{where}: limits has {one!r}; give a list of Concurrency(n, key=) and Rate('100/m', key=)"
            )
        if any(type(one) is type(other) and one.key == other.key for other in limits):
            raise ConfigError(f"{where}: limits has two {type(one).__name__} with the key {one.key!r}; leave one")
        limits.append(one)
    # A rate is spent by being asked, so it is asked last.
    return sorted(limits, key=lambda one: isinstance(one, Rate))


def _circuit(value: object, known: list[str], where: str) -> str | None:
    if value is None:
        return None
    name: object = value if isinstance(value, str) else getattr(value, "name", None)
    if not isinstance(name, str):
        raise ConfigError(f"{where}: circuit is {value!r}; give the name of a circuit, or what app.circuit(...) gave")
    if name not in known:
        raise ConfigError(
            f"{where}: there is no circuit {name!r}{nearest(name, known)}; declare it before the job, with "
            f"app.circuit({name!r}, ...) or under [windlass.circuits.{name}]"
        )
    return name


def _choice(value: object, words: tuple[str, ...], what: str) -> None:
    if value not in words:
        raise ConfigError(f"{what} is {value!r}{nearest(str(value), words)}; it is one of {', '.join(words)}")


def _positive(value: object, what: str) -> str:
    ms = duration_ms(value, what)
    if ms == 0:
        raise ConfigError(f"{what} is {value!r}; it must be longer than zero")
    return format_duration(ms)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= caps.COUNT
