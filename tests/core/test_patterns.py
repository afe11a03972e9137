"""Names of queues as an operator writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.core.patterns import matches, overlap, parse_queues
from windlass.errors import ConfigError

SHORT = st.text(alphabet="ab*", max_size=5)
NAMES = st.text(alphabet="ab", max_size=5)


def test_queues_are_read_with_weights_and_wildcards() -> None:
    assert parse_queues(["a,b=3", "report-*", "c.d:e=1000"]) == {"a": 1, "b": 3, "report-*": 1, "c.d:e": 1000}


@pytest.mark.parametrize("text", ["a=0", "a=1001", "a=x", "a=", "a=²", "a b", "", "a,a", "a,,b", "**", "r?port"])
def test_what_is_no_queue_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_queues([text])


def test_a_weight_of_zero_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"'low=0'.*from 1 to 1,000.*leave the queue out"):
        parse_queues(["low=0"])


def test_a_star_stands_for_any_run_of_characters_and_nothing_else_is_special() -> None:
    assert matches(["report-*"], "report-daily")
    assert matches(["report-*"], "report-")
    assert not matches(["report-*"], "report")
    assert not matches(["a.c"], "abc")
    assert not matches(["a.*"], "abc")
    assert matches(["x", "*-eu"], "mail-eu")


@given(SHORT, SHORT, NAMES)
def test_patterns_that_a_name_meets_overlap(one: str, other: str, name: str) -> None:
    if matches([one], name) and matches([other], name):
        assert overlap(one, other)
    assert overlap(one, other) == overlap(other, one)


@given(SHORT, NAMES)
def test_a_name_overlaps_with_what_matches_it(pattern: str, name: str) -> None:
    assert overlap(pattern, name) == matches([pattern], name)
