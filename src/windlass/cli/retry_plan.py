"""``windlass retry-plan``: what the retry policy of a job comes to, in delays.

Imports the application and touches no store. Asks functions of the user with a made-up error; what they do not answer
is shown as unknown, never guessed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, assert_never

import click
import msgspec
from msgspec import Struct

from windlass.cli.common import Session, pass_session
from windlass.cli.output import emit_json, printable
from windlass.core.retry import (
    UNLIMITED,
    After,
    Backoff,
    Cancel,
    CustomBackoff,
    Die,
    Retry,
    RetryAs,
    Rule,
)
from windlass.core.units import duration_ms, show_duration

if TYPE_CHECKING:
    from windlass.jobs.spec import JobSpec

__all__ = ["plan_of", "retry_plan"]

SHOWN: Final = 20  # delays of one rule that a person is shown
LISTED: Final = 1_000  # delays of one rule that are worked out
OTHERWISE: Final = "any other error"


class Wait(Struct, frozen=True):
    """The wait after a failed run, in seconds. None: only the error can tell."""

    attempt: int
    least: float | None
    most: float | None


class Line(Struct, frozen=True):
    """What one rule comes to. ``total`` is the last run, and the time spent waiting until it in seconds."""

    errors: tuple[str, ...]
    action: str  # retry, after, discard, dead
    reason: str | None = None
    attempts: int | None = None  # None: without bound
    delays: tuple[Wait, ...] = ()
    total: Wait | None = None


class RetryPlan(Struct, frozen=True):
    """What the policy of a job comes to. ``within`` in seconds."""

    name: str
    attempts: int | None
    within: float | None
    rules: tuple[Line, ...]


@click.command("retry-plan")
@click.argument("name", metavar="NAME")
@pass_session
def retry_plan(session: Session, name: str) -> None:
    """Show when a failing job would be retried, rule by rule, and how long it takes until it is dead."""
    plan = plan_of(session.app().registry.get(name))
    if session.json:
        emit_json(msgspec.to_builtins(plan))
        return
    click.echo(f"{printable(plan.name)}: {_attempts(plan.attempts)}{_within(plan.within)}")
    for line in plan.rules:
        click.echo(f"\n{printable(', '.join(line.errors))}")
        for text in _told(line):
            click.echo(f"  {printable(text)}")


def plan_of(spec: JobSpec) -> RetryPlan:
    """Work out what a job's policy comes to, the rules in their order and then every other error."""
    policy = spec.retry
    rules = [_line(policy, rule) for rule in policy.rules]
    rules.append(_retries(policy, (OTHERWISE,), "retry", policy.max_attempts, policy.waits))
    within = policy.within_ms
    return RetryPlan(spec.name, _bound(policy.max_attempts), None if within is None else within / 1000, tuple(rules))


def _line(policy: Retry, rule: Rule) -> Line:
    errors, then = tuple(rule.names()), rule.then
    match then:
        case RetryAs():
            backoff = policy.waits if then.backoff is None else then.backoff
            return _retries(policy, errors, "retry", then.attempts or policy.max_attempts, backoff)
        case After():
            delay = then.delay if isinstance(then.delay, int) else None
            return _retries(policy, errors, "after", policy.max_attempts, delay)
        case Cancel():
            return Line(errors, "discard", then.reason)
        case Die():
            return Line(errors, "dead", then.reason)
        case _:
            assert_never(then)


def _retries(
    policy: Retry, errors: tuple[str, ...], action: str, attempts: int, wait: Backoff | CustomBackoff | int | None
) -> Line:
    """The waits between the runs, until the attempts or the time budget are used up. Runs are taken to take no time."""
    delays: list[Wait] = []
    least, most, known = 0, 0, True
    for attempt in range(1, min(attempts, LISTED + 1)):
        span = _span(wait, attempt)
        if span is not None and policy.within_ms is not None and least + span[0] > policy.within_ms:
            break
        delays.append(_seconds(attempt, span))
        known = known and span is not None
        if span is not None:
            least, most = least + span[0], most + span[1]
            if policy.within_ms is not None:
                most = min(most, policy.within_ms)
    unknown = not known or (attempts > LISTED and len(delays) == LISTED)
    total = _seconds(len(delays) + 1, None if unknown else (least, most))
    return Line(errors, action, None, _bound(attempts), tuple(delays), total)


def _span(wait: Backoff | CustomBackoff | int | None, attempt: int) -> tuple[int, int] | None:
    if wait is None or isinstance(wait, int):
        return None if wait is None else (wait, wait)
    if isinstance(wait, Backoff):
        return wait.range_ms(attempt)
    try:
        ms = duration_ms(wait(attempt, RuntimeError("windlass retry-plan")), "its answer")
    except Exception:  # noqa: BLE001 - it asks something of an error that this one does not have
        return None
    return ms, ms


def _seconds(attempt: int, span: tuple[int, int] | None) -> Wait:
    return Wait(attempt, None, None) if span is None else Wait(attempt, span[0] / 1000, span[1] / 1000)


def _bound(attempts: int) -> int | None:
    return None if attempts >= UNLIMITED else attempts


# -- words -------------------------------------------------------------------------------------------------


def _told(line: Line) -> list[str]:
    reason = f", reason {line.reason!r}" if line.reason else ""
    if line.action == "discard":
        return [f"ends cancelled at once{reason or ', with the words of the error as reason'}"]
    if line.action == "dead":
        return [f"dead at once{reason}"]
    texts = [f"after run {wait.attempt}: {_range(wait)}" for wait in line.delays[:SHOWN]]
    if len(line.delays) > SHOWN:
        last = line.delays[-1]
        texts.append(f"... {len(line.delays) - SHOWN} more, the last of {_range(last)}")
    if line.total is None or line.total.most is None:
        return [*texts, "how long it takes until dead cannot be told"]
    return [*texts, f"dead after run {line.total.attempt}, {_range(line.total)} of waiting in all"]


def _range(wait: Wait) -> str:
    if wait.least is None or wait.most is None:
        return "what the error asks for"
    least, most = (show_duration(value * 1000) for value in (wait.least, wait.most))
    return most if least == most else f"{least} to {most}"


def _attempts(attempts: int | None) -> str:
    return "any number of runs" if attempts is None else f"{attempts} run{'s' if attempts != 1 else ''}"


def _within(within: float | None) -> str:
    return "" if within is None else f", none of them later than {show_duration(within * 1000)} after the first"
