"""Backoff and attempts: what the options mean, and what is refused where it is written."""

from __future__ import annotations

from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.errors import ConfigError
from windlass.retry import Exponential, Retry, decode_backoff, encode_backoff


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


@pytest.mark.parametrize("raw", ["", "[]", '{"kind":"linear"}', '{"kind":"exponential","cap":"soon"}'])
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
    assert Retry.of(Retry(backoff=backoff), 7) == Retry(7, backoff)


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
