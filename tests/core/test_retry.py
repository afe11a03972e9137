"""The policy language: what the options mean, what is refused where it is written, and what is decided."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.core.retry import (
    UNLIMITED,
    Backoff,
    Cancelled,
    Constant,
    Decision,
    Died,
    Exponential,
    Facts,
    Linear,
    Retried,
    Retry,
    Rule,
    Snoozed,
    decide,
    decode_backoff,
    encode_backoff,
    on,
)
from windlass.errors import ConfigError, Dead, Discard, JobInterrupted, JobTimeout, RetryAfter, Snooze


def test_exponential_without_jitter_doubles_up_to_its_cap() -> None:
    backoff = Exponential(factor=1, cap="10s", jitter="none")
    assert [backoff.delay_ms(n, Random(0)) for n in range(1, 7)] == [1000, 2000, 4000, 8000, 10000, 10000]


def test_factor_and_cap_take_any_duration() -> None:
    assert Exponential(factor="500ms", cap=timedelta(minutes=2)) == Exponential(factor=0.5, cap=120)


@given(st.integers(1, 10**9), st.integers(0, 2**32))
def test_full_jitter_stays_between_zero_and_the_cap_for_any_attempt(attempt: int, seed: int) -> None:
    assert 0 <= Exponential(cap="1h").delay_ms(attempt, Random(seed)) <= 3_600_000


def test_full_jitter_uses_the_whole_range() -> None:
    rng = Random(1)
    waits = [Exponential(factor=10, cap="10s").delay_ms(1, rng) for _ in range(500)]
    assert min(waits) < 1_000
    assert max(waits) > 9_000


def test_a_zero_factor_retries_at_once_however_often() -> None:
    assert Exponential(factor=0).delay_ms(100_000, Random(0)) == 0


def test_a_backoff_survives_json() -> None:
    backoff = Exponential(base=3, factor="2s", cap="5m", jitter="none")
    assert decode_backoff(encode_backoff(backoff)) == backoff


@pytest.mark.parametrize(
    "raw", ["", "[]", '{"kind":"quadratic"}', '{"kind":"constant"}', '{"kind":"exponential","cap":"soon"}']
)
def test_a_stored_backoff_that_cannot_be_read_is_a_config_error(raw: str) -> None:
    with pytest.raises(ConfigError):
        decode_backoff(raw)


@pytest.mark.parametrize(
    ("value", "runs"),
    [(5, 6), (0, 1), (False, 1), (None, 10), (True, 10), (Retry(attempts=5), 5), (Retry(), 10)],
)
def test_a_number_counts_retries_and_a_retry_counts_runs(value: int | Retry | None, runs: int) -> None:
    assert Retry.of(value, 10).attempts == runs


def test_the_backoff_of_a_retry_without_attempts_is_kept() -> None:
    backoff = Exponential(cap="1m")
    assert Retry.of(Retry(backoff=backoff), 7, Constant(1)) == Retry(7, backoff=backoff)
    assert Retry.of(Retry(attempts=2), 7, Constant(1)) == Retry(2, backoff=Constant(1))
    assert Retry.of(3, 7, Constant(1)) == Retry(4, backoff=Constant(1))


@pytest.mark.parametrize("value", [-1, 1.5, "5", 10**9])
def test_a_wrong_retry_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="retry="):
        Retry.of(value, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("attempts", [0, -1, True, 2.0])
def test_a_wrong_number_of_attempts_is_refused(attempts: object) -> None:
    with pytest.raises(ConfigError, match="attempts"):
        Retry(attempts=attempts)  # type: ignore[arg-type]


def test_wrong_values_of_a_backoff_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'full'"):
        Exponential(jitter="ful")
    with pytest.raises(ConfigError, match="cap"):
        Exponential(cap="soon")
    with pytest.raises(ConfigError, match="factor"):
        Exponential(factor=-1)
    with pytest.raises(ConfigError, match="base"):
        Exponential(base=0.5)
    with pytest.raises(ConfigError, match="policy"):
        Retry(backoff="fast")  # type: ignore[arg-type]


# -- backoff -----------------------------------------------------------------------------------------------

JITTERS = st.sampled_from(["full", "equal", "none"])
SECONDS = st.floats(0, 10_000)
EXPONENTIALS = st.builds(Exponential, base=st.floats(1, 10), factor=SECONDS, cap=SECONDS, jitter=JITTERS)
LINEARS = st.builds(Linear, step=SECONDS, cap=SECONDS, jitter=JITTERS)
CONSTANTS = st.builds(Constant, SECONDS, jitter=JITTERS)
BACKOFFS: st.SearchStrategy[Backoff] = st.one_of(EXPONENTIALS, LINEARS, CONSTANTS)


@given(BACKOFFS, st.integers(1, 2_000))
def test_waits_never_shrink_and_never_pass_their_cap(backoff: Backoff, attempt: int) -> None:
    least, most = backoff.range_ms(attempt)
    later = backoff.range_ms(attempt + 1)
    cap = backoff.delay if isinstance(backoff, Constant) else backoff.cap
    assert 0 <= least <= most <= round(float(str(cap)) * 1000)
    assert (least, most) <= later
    assert most <= later[1]


@given(BACKOFFS, st.integers(1, 100), st.integers(0, 2**32))
def test_a_wait_is_in_the_range_that_its_jitter_gives(backoff: Backoff, attempt: int, seed: int) -> None:
    least, most = backoff.range_ms(attempt)
    assert least <= backoff.delay_ms(attempt, Random(seed)) <= most
    assert least == {"full": 0, "equal": most // 2, "none": most}[backoff.jitter]


@given(BACKOFFS)
def test_every_backoff_survives_json(backoff: Backoff) -> None:
    assert decode_backoff(encode_backoff(backoff)) == backoff


def test_linear_grows_by_its_step() -> None:
    backoff = Linear(step="10s", cap="35s")
    assert [backoff.delay_ms(n, Random(0)) for n in range(1, 6)] == [10_000, 20_000, 30_000, 35_000, 35_000]


def test_constant_waits_the_same_every_time() -> None:
    assert {Constant("30s").delay_ms(n, Random(n)) for n in range(1, 9)} == {30_000}


# -- what is refused ---------------------------------------------------------------------------------------


class RateLimited(Exception):
    def __init__(self, retry_after: object) -> None:
        super().__init__("slow down")
        self.retry_after = retry_after


def nothing(_attempt: int) -> int:
    return 1


async def later(_attempt: int, _error: BaseException) -> int:
    return 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Retry(attempts=None), "would never end"),
        (lambda: Retry(within=-1), "negative"),
        (lambda: Constant(-1), "negative"),
        (lambda: Linear(step="soon"), "step"),
        (lambda: Constant(5, jitter="ful"), "did you mean 'full'"),
        (lambda: Retry(backoff=nothing), r"must take f\(attempt, error\)"),  # type: ignore[arg-type]
        (lambda: Retry(backoff=later), "async"),  # type: ignore[arg-type]
        (lambda: Retry(backoff=Exponential), "give a policy"),  # type: ignore[arg-type]
        (lambda: Retry(rules=on(ValueError).dead()), "list of rules"),  # type: ignore[arg-type]
        (lambda: Retry(rules=[on(ValueError)]), "does not say what to do"),  # type: ignore[list-item]
        (lambda: Retry(rules=[ValueError]), "made by on"),  # type: ignore[list-item]
        (lambda: on(), "names no exception"),
        (lambda: on(ValueError("x")), "exception classes"),  # type: ignore[arg-type]
        (lambda: on(int), "exception classes"),  # type: ignore[arg-type]
        (lambda: on(Snooze), "already decided"),
        (lambda: on(ValueError).retry(attempts=0), "1 or more"),
        (lambda: on(ValueError).retry(backoff="5s"), "give a policy"),  # type: ignore[arg-type]
        (lambda: on(ValueError).discard(5), "reason must be text"),  # type: ignore[arg-type]
        (lambda: on(ValueError).dead(5), "reason must be text"),  # type: ignore[arg-type]
        (lambda: on(ValueError).after(-5), "negative"),
        (lambda: on(ValueError).after(lambda: 5), r"must take f\(error\)"),
        (lambda: on("json.JSONDecodeErr").dead(), "did you mean 'JSONDecodeError'"),
        (lambda: on("json.loads").dead(), "not an exception class"),
        (lambda: on("ValueErorr").dead(), "did you mean 'ValueError'"),
        (lambda: on("a b").dead(), "dotted name"),
    ],
)
def test_what_can_never_be_right_is_refused_where_it_is_written(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


@pytest.mark.parametrize(
    ("rules", "winner"),
    [
        ([on(OSError).dead(), on(ConnectionError, TimeoutError).discard()], "on.OSError."),
        ([on(ValueError).dead(), on(KeyError).dead(), on(ValueError).discard()], "on.ValueError."),
        ([on(Exception).dead(), on("json.JSONDecodeError").discard()], "on.Exception."),
        ([on("nowhere.Gone").dead(), on("nowhere.Gone").discard()], "on.nowhere.Gone."),
    ],
)
def test_a_rule_that_an_earlier_one_always_wins_over_is_refused(rules: list[Rule], winner: str) -> None:
    with pytest.raises(ConfigError, match=f"can never match: {winner} stands before it"):
        Retry(rules=rules)


def test_a_rule_of_which_a_part_can_match_is_kept() -> None:
    assert (
        len(Retry(rules=[on(ConnectionError).dead(), on(OSError).discard(), on(OSError, KeyError).dead()]).rules) == 3
    )


# -- how many and for how long -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "runs"),
    [
        (Retry(), 7),
        (Retry(backoff=Constant(5)), 7),
        (Retry(within="1h"), UNLIMITED),
        (Retry(attempts=None, within="1h"), UNLIMITED),
        (Retry(attempts=4, within="1h"), 4),
        ([on(ValueError).dead()], 7),
    ],
)
def test_attempts_left_out_are_the_settings_unless_time_is_the_bound(policy: Retry | list[Rule], runs: int) -> None:
    assert Retry.of(policy, 7).max_attempts == runs


def settle(policy: Retry, error: BaseException, *, attempt: int = 1, max_attempts: int = 5, **facts: int) -> Decision:
    """The decision about one failed run."""
    return decide(policy, error, Facts(attempt, max_attempts, **facts), Random(0))


def test_a_job_is_dead_after_its_last_attempt() -> None:
    policy = Retry(5, backoff=Constant(3))
    assert settle(policy, ValueError(), attempt=4) == Retried(3_000)
    assert settle(policy, ValueError(), attempt=5) == Died(None)


def test_no_run_starts_after_the_time_budget() -> None:
    policy = Retry(within="1h", backoff=Constant("10m"))
    assert settle(policy, ValueError(), max_attempts=UNLIMITED, elapsed_ms=50 * 60_000) == Retried(600_000)
    assert settle(policy, ValueError(), max_attempts=UNLIMITED, elapsed_ms=50 * 60_000 + 1) == Died(
        "no further attempt fits within 1 h"
    )


def test_the_attempts_of_a_rule_bound_the_job_when_it_matches() -> None:
    policy = Retry(5, backoff=Constant(1), rules=[on(OSError).retry(attempts=8), on(KeyError).retry(attempts=2)])
    assert settle(policy, OSError(), attempt=7) == Retried(1_000)
    assert settle(policy, OSError(), attempt=8) == Died(None)
    assert settle(policy, KeyError(), attempt=2) == Died(None)
    assert settle(policy, ValueError(), attempt=4) == Retried(1_000)


def test_no_rule_goes_beyond_what_the_call_itself_said() -> None:
    policy = Retry(5, rules=[on(OSError).retry(attempts=8)])
    assert settle(policy, OSError(), attempt=1, max_attempts=1, capped=True) == Died(None)


# -- rules -------------------------------------------------------------------------------------------------

CLASSES: list[type[Exception]] = [Exception, OSError, ConnectionError, ConnectionResetError, ValueError, KeyError]


@given(st.permutations(CLASSES), st.sampled_from([*CLASSES, TypeError]))
def test_rules_are_tried_in_order_and_every_error_has_one_consequence(
    order: list[type[Exception]], raised: type[Exception]
) -> None:
    rules: list[Rule] = []
    for kind in order:
        if not any(issubclass(kind, earlier) for rule in rules for earlier in rule.errors if isinstance(earlier, type)):
            rules.append(on(kind).dead(kind.__name__))
    first = next((kind for kind in order if issubclass(raised, kind)), None)
    expected: Decision = Retried(1_000) if first is None else Died(first.__name__)
    assert settle(Retry(rules=rules, backoff=Constant(1)), raised()) == expected


def test_a_rule_by_text_matches_its_class_and_subclasses() -> None:
    policy = Retry(rules=[on("json.JSONDecodeError").dead("json"), on("ConnectionError").discard("net")])
    import json

    assert settle(policy, json.JSONDecodeError("x", "", 0)) == Died("json")
    assert settle(policy, ConnectionResetError()) == Cancelled("net")
    assert isinstance(settle(policy, ValueError()), Retried)


def test_a_rule_by_text_of_a_library_that_is_not_here_matches_nothing() -> None:
    policy = Retry(rules=[on("nowhere.Gone").dead()])
    assert isinstance(settle(policy, ValueError()), Retried)
    assert policy.problems() == ["on('nowhere.Gone'): there is no module 'nowhere' here"]


def test_discard_gives_the_words_of_the_error_unless_it_has_its_own() -> None:
    policy = Retry(rules=[on(ValueError).discard(), on(KeyError).discard("not wanted")])
    assert settle(policy, ValueError("no such user")) == Cancelled("ValueError: no such user")
    assert settle(policy, KeyError("x")) == Cancelled("not wanted")


NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("answer", "delay_ms"),
    [
        (30, 30_000),
        ("120", 120_000),
        (timedelta(minutes=1), 60_000),
        (NOON + timedelta(seconds=90), 90_000),
        (NOON - timedelta(days=1), 0),
        ("Tue, 01 Jan 2030 12:00:10 GMT", 10_000),
        (None, 7_000),
    ],
)
def test_after_takes_what_a_retry_after_header_says(answer: object, delay_ms: int) -> None:
    policy = Retry(backoff=Constant(7), rules=[on(RateLimited).after(lambda e: e.retry_after)])
    now = int(NOON.timestamp() * 1000)
    assert settle(policy, RateLimited(answer), now_ms=now) == Retried(delay_ms)


def test_after_takes_a_plain_duration() -> None:
    assert settle(Retry(rules=[on(ValueError).after("2m")]), ValueError()) == Retried(120_000)


@pytest.mark.parametrize("answer", [-1, float("nan"), "soon", object(), datetime(2030, 1, 1)])  # noqa: DTZ001
def test_nonsense_from_after_is_reported_and_the_backoff_is_used(answer: object) -> None:
    policy = Retry(backoff=Constant(7), rules=[on(RateLimited).after(lambda e: e.retry_after)])
    decision = settle(policy, RateLimited(answer))
    assert isinstance(decision, Retried)
    assert decision.delay_ms == 7_000
    assert decision.trouble is not None
    assert decision.trouble.startswith("after ")


def broken(_attempt: int, error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    "backoff", [lambda n, e: -1, lambda n, e: None, lambda n, e: "soon", lambda n, e: 10**30, lambda n, e: True, broken]
)
def test_nonsense_from_a_backoff_is_reported_and_the_default_is_used(backoff: Callable[..., int]) -> None:
    decision = settle(Retry(backoff=backoff), SystemExit("boom"))
    assert isinstance(decision, Retried)
    assert decision.delay_ms == Exponential().delay_ms(1, Random(0))
    assert decision.trouble is not None
    assert decision.trouble.startswith("backoff ")


def test_a_custom_backoff_sees_the_attempt_and_the_error() -> None:
    seen: list[tuple[int, BaseException]] = []

    def own(attempt: int, error: BaseException) -> float:
        seen.append((attempt, error))
        return 1.5 * attempt

    error = ValueError()
    assert settle(Retry(backoff=own), error, attempt=3) == Retried(4_500)
    assert seen == [(3, error)]


# -- what the job says itself ------------------------------------------------------------------------------


def test_what_a_job_raises_itself_comes_before_any_rule() -> None:
    policy = Retry(rules=[on(Exception).dead("rule")])
    assert settle(policy, Snooze("5m", "busy")) == Snoozed(300_000, "busy")
    assert settle(policy, RetryAfter(30)) == Retried(30_000)
    assert settle(policy, Discard("why")) == Cancelled("why")
    assert settle(policy, Discard()) == Cancelled("cancelled by the job")
    assert settle(policy, Dead("why")) == Died("why")


def test_a_lone_error_in_a_group_counts_as_itself() -> None:
    assert settle(Retry(), ExceptionGroup("tasks", [ExceptionGroup("more", [Dead("why")])])) == Died("why")
    two = ExceptionGroup("tasks", [Dead("why"), ValueError()])
    assert isinstance(settle(Retry(), two), Retried)


def test_retry_after_is_bound_by_the_attempts() -> None:
    assert settle(Retry(), RetryAfter(30), attempt=5) == Died(None)


def test_a_snooze_beyond_the_cap_uses_an_attempt() -> None:
    assert settle(Retry(), Snooze(9), snoozes=2, max_snoozes=3) == Snoozed(9_000, None)
    assert settle(Retry(), Snooze(9), snoozes=3, max_snoozes=3) == Retried(9_000)
    assert settle(Retry(), Snooze(9), attempt=5, snoozes=3, max_snoozes=3) == Died(None)


def test_a_timeout_is_an_error_like_any_other_and_an_interruption_is_not() -> None:
    policy = Retry(backoff=Constant(1), rules=[on(TimeoutError).dead("slow"), on(Exception).dead("rule")])
    assert settle(policy, JobTimeout("too long")) == Died("slow")
    assert settle(policy, JobInterrupted("too often")) == Retried(1_000)


@pytest.mark.parametrize("make", [lambda: Snooze(-1), lambda: RetryAfter("soon"), lambda: Snooze(float("nan"))])
def test_a_wrong_delay_is_refused_where_it_is_raised(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="delay"):
        make()


def test_what_a_job_raises_survives_a_copy() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(Snooze("5m", "busy")))
    assert (error.delay_ms, error.reason) == (300_000, "busy")
    assert pickle.loads(pickle.dumps(Dead("why"))).reason == "why"
