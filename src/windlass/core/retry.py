"""What follows when a job fails: the policy language, and the one function that decides.

A policy is a number of attempts, a time budget, a backoff and rules. Rules are tried in order, the first that matches
wins, subclasses match too, and what no rule matches is retried by the policy itself; so every error has exactly one
consequence. What the job says itself (Snooze, RetryAfter, Discard, Dead) comes before any rule.

Pure but for the functions of the user that it calls. Must not sleep, read a clock or know an engine. Invariants: a
policy is frozen and checked when it is written; whatever a function of the user does, a decision comes out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from random import Random
from typing import Final, TypeAlias, assert_never

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import force_setattr, replace

from windlass.core import caps
from windlass.core.backoff import (
    Backoff,
    Constant,
    CustomBackoff,
    Duration,
    Exponential,
    Linear,
    decode_backoff,
    encode_backoff,
)
from windlass.core.control import Control, Dead, Discard, RetryAfter, Snooze
from windlass.core.errornames import NamedError
from windlass.core.errors import ConfigError, JobInterrupted
from windlass.core.foreign import kind_name, name_of, said
from windlass.core.spelling import Spelled, spelled
from windlass.core.units import duration_ms, instant_ms, show_duration, shown

__all__ = [
    "UNLIMITED",
    "After",
    "Backoff",
    "Cancel",
    "Cancelled",
    "Constant",
    "CustomBackoff",
    "Decision",
    "Die",
    "Died",
    "Exponential",
    "Facts",
    "Linear",
    "Retried",
    "Retry",
    "RetryAs",
    "Rule",
    "Snoozed",
    "decide",
    "decode_backoff",
    "encode_backoff",
    "leaf",
    "on",
]

UNLIMITED: Final = caps.ATTEMPTS
"""The attempts of a policy that is bounded by time alone; a stored job always has a number."""

DEFAULT_BACKOFF: Final = Exponential()

Delay: TypeAlias = Duration | datetime | None
"""What a function given to ``after`` may answer: a duration, an aware datetime, or None for the policy's backoff."""


# -- rules -------------------------------------------------------------------------------------------------


class RetryAs(Struct, frozen=True):
    """Retry; None means as the policy says."""

    attempts: int | None
    backoff: Backoff | CustomBackoff | None


class After(Struct, frozen=True):
    """Retry after a delay of its own: milliseconds, or what the function says of the error."""

    delay: int | Callable[[BaseException], Delay]


class Cancel(Struct, frozen=True):
    """End the job cancelled."""

    reason: str | None


class Die(Struct, frozen=True):
    """End the job dead."""

    reason: str | None


class Rule(Struct, frozen=True):
    """What follows when an attempt fails with one of ``errors``. Made by ``on``."""

    errors: tuple[type[BaseException] | NamedError, ...]
    then: RetryAs | After | Cancel | Die

    def matches(self, error: BaseException) -> bool:
        """Whether the error is one of these, or of a subclass of theirs."""
        return any(
            isinstance(error, found)
            for one in self.errors
            if (found := one.find() if isinstance(one, NamedError) else one) is not None
        )

    def names(self) -> list[str]:
        """The errors as a person would write them."""
        return [one.text if isinstance(one, NamedError) else one.__name__ for one in self.errors]

    def __str__(self) -> str:
        return f"on({', '.join(self.names())})"


@spelled
class On:
    """The first half of a rule: which errors. One of its methods says what follows."""

    def __init__(self, errors: tuple[type[BaseException] | NamedError, ...]) -> None:
        self._errors = errors

    def __repr__(self) -> str:
        return str(Rule(self._errors, Die(None)))

    def retry(self, *, attempts: int | None = None, backoff: Backoff | CustomBackoff | None = None) -> Rule:
        """Retry with other numbers than the policy's.

        ``attempts`` bounds all runs of the job, not only those that end in this error, whenever this rule matches.
        """
        if attempts is not None and not _is_count(attempts, 1):
            raise ConfigError(f"{self!r}.retry(attempts={shown(attempts)}): attempts counts runs, so it is 1 or more")
        if backoff is not None:
            _check_backoff(backoff, f"{self!r}.retry")
        return Rule(self._errors, RetryAs(attempts, backoff))

    def after(self, delay: Duration | Callable[..., Delay]) -> Rule:
        """Retry after a delay of its own: a duration, or ``f(error)`` that gives one.

        The function may answer seconds, a timedelta, text (the value of a ``Retry-After`` header, seconds or date, as
        it is), an aware datetime, or None for the policy's backoff. The attempts are those of the policy.
        """
        if not callable(delay):
            return Rule(self._errors, After(duration_ms(delay, f"{self!r}.after")))
        _check_call(delay, (ValueError(),), f"{self!r}.after", "f(error)")
        return Rule(self._errors, After(delay))

    def discard(self, reason: str | None = None) -> Rule:
        """End the job cancelled, with this reason or the error's own words."""
        return Rule(self._errors, Cancel(self._reason("discard", reason)))

    def dead(self, reason: str | None = None) -> Rule:
        """Send the job to the dead list at once."""
        return Rule(self._errors, Die(self._reason("dead", reason)))

    def _reason(self, what: str, reason: object) -> str | None:
        if reason is None or isinstance(reason, str):
            return reason
        raise ConfigError(
            f"{self!r}.{what}({reason!r}): the reason must be text; leave it out to use the message of the error"
        )


def on(*errors: type[BaseException] | str) -> On:
    """Begin a rule about these exceptions and their subclasses: classes, or dotted texts such as ``"httpx.HTTPError"``.

    A text is checked here when its top module can be imported, else when it is first needed. Raises ConfigError.
    """
    if not errors:
        raise ConfigError("on() names no exception; write on(ConnectionError, ...)")
    found: list[type[BaseException] | NamedError] = []
    for error in errors:
        one = NamedError(error) if isinstance(error, str) else error
        cls = one.known if isinstance(one, NamedError) else one
        if not isinstance(one, NamedError) and not (isinstance(one, type) and issubclass(one, BaseException)):
            raise ConfigError(f"on({error!r}): give exception classes, or their dotted names as text")
        if cls is not None and issubclass(cls, Control):
            raise ConfigError(
                f"on({cls.__name__}): a job that raises it has already decided what happens, so no rule applies"
            )
        found.append(one)
    return On(tuple(found))


# -- the policy --------------------------------------------------------------------------------------------


class Retry(Spelled, frozen=True):
    """How often a job runs in all, for how long, how long it waits in between, and what is different for which error.

    ``attempts`` counts runs, the first included; left out it is the setting ``attempts``, or without bound where
    ``within`` is given; None is without bound, and needs ``within``. ``within`` is a duration from the start of the
    first run that failed: no run starts after it. ``backoff`` is a policy or ``f(attempt, error)`` that gives a
    duration; left out it is the setting ``backoff``. ``rules`` come from ``on``. Raises ConfigError, also for a rule
    that an earlier one always wins over.
    """

    attempts: int | UnsetType | None = UNSET
    within: Duration | None = None
    backoff: Backoff | CustomBackoff | UnsetType = UNSET
    rules: Sequence[Rule] = ()

    def __post_init__(self) -> None:
        if self.attempts is None and self.within is None:
            raise ConfigError(
                "Retry(attempts=None) would never end; give a time budget, such as within='24h', or a number"
            )
        if not (self.attempts is None or self.attempts is UNSET or _is_count(self.attempts, 1)):
            raise ConfigError(f"Retry(attempts={shown(self.attempts)}): attempts counts runs, so it is 1 or more")
        if self.within is not None:
            force_setattr(self, "within", duration_ms(self.within, "Retry(within)") / 1_000)
        if self.backoff is not UNSET:
            _check_backoff(self.backoff, "Retry")
        force_setattr(self, "rules", _checked_rules(self.rules))

    @classmethod
    def of(
        cls,
        value: int | Retry | Sequence[Rule] | None,
        settings_attempts: int,
        settings_backoff: Backoff = DEFAULT_BACKOFF,
    ) -> Retry:
        """Resolve what a ``retry=`` option says to a Retry whose ``attempts`` is a number and whose backoff is there.

        ``5`` is five retries, six runs; ``Retry(attempts=5)`` is five runs; 0 or False is one run; None or True is
        what the settings say; rules alone are rules of that. Raises ConfigError for anything else.
        """
        if value is None or value is True:
            return cls(settings_attempts, backoff=settings_backoff)
        if isinstance(value, list | tuple):
            return cls(settings_attempts, backoff=settings_backoff, rules=value)
        if isinstance(value, Retry):
            unsaid = settings_attempts if value.within is None else UNLIMITED
            attempts = value.attempts if isinstance(value.attempts, int) else unsaid
            backoff = settings_backoff if value.backoff is UNSET else value.backoff
            return replace(value, attempts=attempts, backoff=backoff)
        if isinstance(value, int) and _is_count(value, 0):
            return cls(int(value) + 1, backoff=settings_backoff)
        raise ConfigError(
            f"retry={shown(value)}: give the number of retries (0 or more), a Retry(...) or a list of rules"
        )

    @property
    def max_attempts(self) -> int:
        """How many runs a job has in all, for a policy that ``of`` has resolved."""
        return self.attempts if isinstance(self.attempts, int) else UNLIMITED

    @property
    def waits(self) -> Backoff | CustomBackoff:
        """The backoff."""
        return DEFAULT_BACKOFF if isinstance(self.backoff, UnsetType) else self.backoff

    @property
    def within_ms(self) -> int | None:
        """The time budget in milliseconds."""
        return None if self.within is None else duration_ms(self.within, "within")

    def rule_for(self, error: BaseException) -> Rule | None:
        """Give the first rule that matches, or None."""
        return next((rule for rule in self.rules if rule.matches(error)), None)

    def problems(self) -> list[str]:
        """Look every dotted text up now, and say what is wrong with the rules in this process."""
        found = [
            problem
            for rule in self.rules
            for one in rule.errors
            if isinstance(one, NamedError) and (problem := one.problem()) is not None
        ]
        return found or list(_covered(self.rules))


def _checked_rules(rules: object) -> tuple[Rule, ...]:
    if isinstance(rules, Rule | On | str) or not isinstance(rules, Sequence):
        raise ConfigError(f"Retry(rules={rules!r}): give a list of rules, such as [on(ValueError).dead()]")
    for rule in rules:
        if isinstance(rule, On):
            raise ConfigError(f"{rule!r} does not say what to do: add .retry(...), .after(...), .discard() or .dead()")
        if not isinstance(rule, Rule):
            raise ConfigError(
                f"Retry(rules=...) holds {rule!r}; a rule is made by on(...), such as on(ValueError).dead()"
            )
    for problem in _covered(rules):
        raise ConfigError(problem)
    return tuple(rules)


def _covered(rules: Sequence[Rule]) -> Iterator[str]:
    """The rules that can never match, because earlier ones always win."""
    for number, rule in enumerate(rules):
        earlier = [(one, before) for before in rules[:number] for one in before.errors]
        winners = [next((before for one, before in earlier if _covers(one, mine)), None) for mine in rule.errors]
        if None not in winners:
            names = ", ".join(dict.fromkeys(str(winner) for winner in winners))
            yield f"the rule {rule} can never match: {names} stands before it and matches first; put it further up"


def _covers(earlier: type[BaseException] | NamedError, later: type[BaseException] | NamedError) -> bool:
    wide = earlier.known if isinstance(earlier, NamedError) else earlier
    narrow = later.known if isinstance(later, NamedError) else later
    return earlier == later or (wide is not None and narrow is not None and issubclass(narrow, wide))


def _check_backoff(backoff: object, where: str) -> None:
    if isinstance(backoff, Exponential | Linear | Constant):
        return
    if not callable(backoff) or isinstance(backoff, type):
        raise ConfigError(
            f"{where}(backoff={backoff!r}): give a policy, such as Exponential(cap='10m') or Constant('30s')"
        )
    _check_call(backoff, (1, ValueError()), f"{where}(backoff)", "f(attempt, error)")


def _check_call(fn: Callable[..., object], args: tuple[object, ...], where: str, shape: str) -> None:
    if inspect.iscoroutinefunction(fn):
        raise ConfigError(f"{where}: the function is async; give a plain one, {shape}")
    try:
        inspect.signature(fn).bind(*args)
    except TypeError as error:
        raise ConfigError(f"{where}: the function must take {shape}: {error}") from None
    except ValueError:
        pass  # a built-in one without a signature


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and value is not True and least <= value <= UNLIMITED


# -- the decision ------------------------------------------------------------------------------------------


class Retried(Struct, frozen=True):
    """An attempt is used; run again after a delay. ``trouble`` says what a function of the user did wrong."""

    delay_ms: int
    trouble: str | None = None


class Snoozed(Struct, frozen=True):
    """No attempt is used; run again after a delay."""

    delay_ms: int
    reason: str | None


class Cancelled(Struct, frozen=True):
    """The job ends cancelled."""

    reason: str


class Died(Struct, frozen=True):
    """The job ends dead. Without a reason, its error is the reason."""

    reason: str | None


Decision: TypeAlias = Retried | Snoozed | Cancelled | Died


class Facts(Struct, frozen=True):
    """What a decision is about besides the error. ``elapsed_ms`` counts from the start of the first failed run."""

    attempt: int  # the number of the run that failed, from 1
    max_attempts: int  # of this job
    capped: bool = False  # the call itself said how often: no rule goes beyond it
    elapsed_ms: int = 0
    snoozes: int = 0
    max_snoozes: int | None = None
    now_ms: int = 0  # wall clock, for delays that are given as a date
    backoff: Backoff = DEFAULT_BACKOFF  # of the settings, where a function of the user fails


def decide(policy: Retry, error: BaseException, facts: Facts, rng: Random) -> Decision:
    """Say what follows from a failed run. *Never fails.*"""
    error = leaf(error)
    limit = facts.max_attempts
    match error:
        case Snooze() if facts.max_snoozes is None or facts.snoozes < facts.max_snoozes:
            return Snoozed(error.delay_ms, error.reason)
        case Snooze() | RetryAfter():
            return _bounded(policy, facts, limit, error.delay_ms)
        case Discard():
            return Cancelled(error.reason or "cancelled by the job")
        case Dead():
            return Died(error.reason)
    try:
        # An interruption is the worker's doing, so rules about errors of the job do not apply to it.
        rule = None if isinstance(error, JobInterrupted) else policy.rule_for(error)
    except BaseException as problem:  # noqa: BLE001 - a class that answers isinstance() itself, a module that exits
        delay_ms, trouble = _waited(policy.waits, error, facts, rng)
        return _bounded(policy, facts, limit, delay_ms, trouble or f"rules: {_words(problem)}")
    match then := None if rule is None else rule.then:
        case None:
            return _bounded(policy, facts, limit, *_waited(policy.waits, error, facts, rng))
        case RetryAs():
            if then.attempts is not None:
                limit = min(limit, then.attempts) if facts.capped else then.attempts
            backoff = policy.waits if then.backoff is None else then.backoff
            return _bounded(policy, facts, limit, *_waited(backoff, error, facts, rng))
        case After():
            return _bounded(policy, facts, limit, *_asked(then.delay, policy, error, facts, rng))
        case Cancel():
            return Cancelled(then.reason or _words(error))
        case Die():
            return Died(then.reason)
        case _:
            assert_never(then)


def leaf(error: BaseException) -> BaseException:
    """Give the one error that a group holds (``asyncio.TaskGroup`` wraps a lone failure), or the error itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _bounded(policy: Retry, facts: Facts, limit: int, delay_ms: int, trouble: str | None = None) -> Retried | Died:
    if facts.attempt >= limit:
        return Died(None)
    within = policy.within_ms
    if within is not None and facts.elapsed_ms + delay_ms > within:
        return Died(f"no further attempt fits within {show_duration(within)}")
    return Retried(delay_ms, trouble)


def _waited(
    backoff: Backoff | CustomBackoff, error: BaseException, facts: Facts, rng: Random
) -> tuple[int, str | None]:
    """The delay of a backoff, and what went wrong; then it is the default's delay."""
    if isinstance(backoff, Exponential | Linear | Constant):
        return backoff.delay_ms(facts.attempt, rng), None
    try:
        return duration_ms(backoff(facts.attempt, error), "its answer"), None
    except BaseException as problem:  # noqa: BLE001 - a function of the user must not cost the job
        return facts.backoff.delay_ms(facts.attempt, rng), f"backoff {name_of(backoff)}: {_words(problem)}"


def _asked(
    delay: int | Callable[[BaseException], Delay], policy: Retry, error: BaseException, facts: Facts, rng: Random
) -> tuple[int, str | None]:
    """The delay that an error asks for; the policy's backoff where it asks for none, or for nonsense."""
    if isinstance(delay, int):
        return delay, None
    trouble = None
    try:
        asked = delay(error)
        if asked is not None:
            return _until(asked, facts.now_ms), None
    except BaseException as problem:  # noqa: BLE001
        trouble = f"after {name_of(delay)}: {_words(problem)}"
    waited, more = _waited(policy.waits, error, facts, rng)
    return waited, trouble or more


def _until(asked: Duration | datetime, now_ms: int) -> int:
    if isinstance(asked, str) and "," in asked:  # the date form of a Retry-After header (RFC 9110, section 10.2.3)
        from email.utils import parsedate_to_datetime  # late: it brings a mail library, and few ever need it

        asked = parsedate_to_datetime(asked)
    if not isinstance(asked, datetime):
        return duration_ms(asked, "its answer")
    return duration_ms(max(0, instant_ms(asked, "its answer") - now_ms) / 1_000, "its answer")


def _words(error: BaseException) -> str:
    text = said(error)
    return f"{kind_name(error)}: {text}" if text else kind_name(error)  # whoever shows it masks it, then cuts it
