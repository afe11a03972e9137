"""Lengths of time, sizes and names as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.core import caps
from windlass.core.units import (
    check_name,
    count_per,
    duration_ms,
    format_duration,
    format_rate,
    nearest,
    show_duration,
    size_bytes,
)
from windlass.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (0, 0),
        (30, 30_000),
        (0.1, 100),
        (0.0001, 1),
        (1.5, 1_500),
        (timedelta(minutes=2), 120_000),
        (timedelta(microseconds=1), 1),
        ("90s", 90_000),
        ("10m", 600_000),
        ("24h", 86_400_000),
        ("7d", 7 * 86_400_000),
        ("500ms", 500),
        ("1h30m", 5_400_000),
        (" 1h 30m ", 5_400_000),
        ("0.5s", 500),
        ("25", 25_000),
    ],
)
def test_duration_is_read_as_milliseconds(value: object, ms: int) -> None:
    assert duration_ms(value, "lease") == ms


@pytest.mark.parametrize(
    "value",
    [
        *(-1, -0.5, timedelta(seconds=-1), "-5s", float("nan"), float("inf"), True, None, b"5s", [], 10**400),
        *("", " ", "5 parsecs", "5x", "s", "1h30", "1e3", "five", "\u0665s", "9" * 5000 + "s"),
        caps.DURATION_MS // 1000 + 1,
    ],
)
def test_wrong_duration_is_refused_and_the_option_named(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^keep is "):
        duration_ms(value, "keep")


def test_unknown_unit_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown unit 'min'; units are ms, s, m, h, d"):
        duration_ms("5min", "lease")


@given(st.integers(0, caps.DURATION_MS))
def test_formatted_duration_reads_back(ms: int) -> None:
    assert duration_ms(format_duration(ms), "x") == ms


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 s"),
        (0.0153, "0.0153 ms"),
        (0.8, "0.8 ms"),
        (12.34, "12.3 ms"),
        (99.96, "100 ms"),
        (999.4, "999 ms"),
        (999.6, "1 s"),
        (12_300, "12.3 s"),
        (59_940, "59.9 s"),
        (59_960, "1 min"),
        (506_202, "8 min 26 s"),
        (3_599_600, "1 h"),
        (12_000_000, "3 h 20 min"),
        (86_399_999, "1 d"),
        (1_000_000_000, "11 d 14 h"),
        (-90_000, "-1 min 30 s"),
    ],
)
def test_durations_are_shown_as_people_write_them(ms: float, text: str) -> None:
    assert show_duration(ms) == text


@given(st.floats(0.0, float(caps.DURATION_MS)), st.floats(0.0, float(caps.DURATION_MS)))
def test_a_duration_that_is_shown_is_near_the_true_one(one: float, other: float) -> None:
    for ms in (one, other):
        text = show_duration(ms).replace("min", "m").replace(" ", "")
        if ms >= 1:
            assert abs(duration_ms(text, "x") - ms) <= max(1.0, ms * 0.03)


def test_durations_are_written_as_settings_have_them() -> None:
    assert [format_duration(ms) for ms in (0, 250, 90_000, 5_400_000, -1_000)] == [
        "0s",
        "250ms",
        "1m30s",
        "1h30m",
        "-1s",
    ]


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (77, 77),
        ("77", 77),
        ("512MB", 512_000_000),
        ("512MiB", 2**29),
        ("1GB", 10**9),
        ("1.5 KiB", 1536),
        ("1kB", 1000),
    ],
)
def test_size_is_read_as_bytes(value: object, size: int) -> None:
    assert size_bytes(value, "max_memory") == size


@pytest.mark.parametrize("value", [-1, True, 1.5, None, "", "MB", "5MBs", "-5MB", "1e3", 2**60, "9" * 15 + "GB"])
def test_wrong_size_is_refused_and_the_option_named(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^payload_max is "):
        size_bytes(value, "payload_max")


def test_wrong_size_unit_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'MiB'"):
        size_bytes("5Mib", "payload_max")


@pytest.mark.parametrize("text", ["a", "default", "a.b:c-d_9", "x" * 128])
def test_good_name_passes(text: str) -> None:
    assert check_name(text, "queue") == text


@pytest.mark.parametrize("text", ["", "x" * 129, "a b", "a/b", "é", "a\n", "{a}", "*", None, 3])
def test_bad_name_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match=r"^queue name "):
        check_name(text, "queue")


@pytest.mark.parametrize(
    ("text", "count", "per_ms", "written"),
    [
        ("5/s", 5, 1_000, "5/s"),
        (" 9 / 10 s ", 9, 10_000, "9/10s"),
        ("100/60s", 100, 60_000, "100/m"),
        ("3/36h", 3, 36 * 3_600_000, "3/36h"),
        ("1/2d", 1, 2 * 86_400_000, "1/2d"),
    ],
)
def test_rates_are_read_and_written(text: str, count: int, per_ms: int, written: str) -> None:
    assert count_per(text, "rate") == (count, per_ms)
    assert format_rate(count, per_ms) == written
    assert count_per(written, "rate") == (count, per_ms)


@pytest.mark.parametrize("value", ["5", "5/week", "0/s", "5/0s", "1.5/s", "-5/s", "2000000/s", "", None, 5, True])
def test_a_wrong_rate_is_refused_and_the_option_named(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^mail\.rate: "):
        count_per(value, "mail.rate")


def test_nearest_speaks_only_when_something_is_near() -> None:
    assert nearest("leese", ["lease", "renew"]) == " (did you mean 'lease'?)"
    assert nearest("zzz", ["lease", "renew"]) == ""
