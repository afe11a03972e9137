"""Lengths of time, sizes and names as people write them, and the checks that go with them.

Pure. Must not read settings or clocks. Invariants: every length leaves here as whole, non-negative milliseconds, every
size as whole bytes, and a positive length never becomes zero by rounding. Errors name the option that was wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Final, TypeAlias

from windlass.core import caps
from windlass.core.clock import to_ms
from windlass.core.errors import ConfigError

__all__ = [
    "Duration",
    "check_name",
    "check_text",
    "count_per",
    "duration_ms",
    "format_duration",
    "format_rate",
    "instant_ms",
    "nearest",
    "per_second",
    "show_duration",
    "shown",
    "size_bytes",
    "whole_number",
]

Duration: TypeAlias = int | float | str | timedelta
"""Seconds, a timedelta, or text such as ``"90s"``, ``"10m"``, ``"24h"``."""

DURATION_UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
RATE_UNITS: Final = ("s", "m", "h", "d")
SIZE_UNITS: Final = {
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}

NUMBER_TEXT: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?")
PART: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]+)\s*")
RATE: Final = re.compile(r"\s*([0-9]{1,9})\s*/\s*([0-9]{0,6})\s*([A-Za-z]+)\s*")
NAME_MAX: Final = 300  # characters of a word that are compared with names
NAME: Final = re.compile(rf"[A-Za-z0-9_.:-]{{1,{caps.NAME}}}")


def nearest(word: str, words: Iterable[str]) -> str:
    """Give ``" (did you mean 'x'?)"`` for the closest of ``words``, or an empty text."""
    from difflib import get_close_matches  # late: only an error needs it

    close = get_close_matches(word[:NAME_MAX], list(words), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def duration_ms(value: object, name: str) -> int:
    """Turn a length of time into milliseconds.

    Takes seconds (int or float), a ``timedelta``, or text such as ``"90s"``, ``"10m"``, ``"500ms"``, ``"1h30m"`` (a
    bare number is seconds). Raises ConfigError, naming the option ``name``, for anything negative, not finite, boolean,
    longer than 200 years or in an unknown unit.
    """
    match value:
        case bool():
            raise _wrong_duration(value, name)
        case int():
            exact = Fraction(value * 1_000)
        case float():
            if value - value != 0.0:  # NaN or infinite
                raise _wrong_duration(value, name)
            # Through the shortest text: 0.1 s is 100 ms, not 100.0000000000000055.
            exact = Fraction(repr(value)) * 1_000
        case timedelta():
            exact = Fraction(value // timedelta(microseconds=1), 1_000)
        case str():
            exact = _parse_duration(value, name)
        case _:
            raise _wrong_duration(value, name)
    if exact < 0:
        raise ConfigError(f"{name} is {shown(value)}, which is negative; a length of time is zero or more")
    if exact > caps.DURATION_MS:
        raise ConfigError(f"{name} is {shown(value)}, which is more than 200 years; give a shorter time")
    return max(round(exact), 1) if exact else 0


def instant_ms(value: object, name: str) -> int:
    """Turn an aware datetime into milliseconds since the epoch.

    Raises ConfigError, naming the option ``name``, for anything else and for what is before 1970 or after the year
    8999: later ones mean "never", and a sum of one and a length of time would be no date any more.
    """
    if not isinstance(value, datetime):
        raise ConfigError(f"{name} is {shown(value)}, which is not an instant; give an aware datetime")
    if value.utcoffset() is None:
        raise ConfigError(f"{name} is {value!r}, which has no time zone; give it one, such as tzinfo=UTC")
    ms = to_ms(value)
    if not 0 <= ms < caps.INSTANT_MS:
        side = "before 1970" if ms < 0 else "after the year 8999"
        raise ConfigError(f"{name} is {value!r}, which is {side}; give an instant between them")
    return ms


def _parse_duration(text: str, name: str) -> Fraction:
    body = text.strip()
    if NUMBER_TEXT.fullmatch(body):
        return Fraction(body) * 1_000
    total, at = Fraction(0), 0
    while at < len(body):
        part = PART.match(body, at)
        if part is None:
            raise _wrong_duration(text, name)
        number, unit = part.groups()
        if unit not in DURATION_UNITS:
            raise ConfigError(f"{name} is {shown(text)}: unknown unit {unit!r}; units are {', '.join(DURATION_UNITS)}")
        total += Fraction(number) * DURATION_UNITS[unit]
        at = part.end()
    if at == 0:
        raise _wrong_duration(text, name)
    return total


def _wrong_duration(value: object, name: str) -> ConfigError:
    return ConfigError(
        f"{name} is {shown(value)}, which is not a duration; "
        "give seconds, a timedelta, or text such as '90s', '10m', '24h'"
    )


def per_second(value: object, name: str) -> float:
    """Turn a rate into so many a second: a number, or text such as ``"5/s"``, ``"100/m"``, ``"1000/h"``.

    Raises ConfigError, naming the option ``name``, for anything else and for what is not above zero.
    """
    rate: Fraction | float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        rate = value
    elif isinstance(value, str):
        count, _, unit = value.replace(" ", "").partition("/")
        if NUMBER_TEXT.fullmatch(count) and unit in RATE_UNITS:
            rate = Fraction(count) * 1_000 / DURATION_UNITS[unit]
    if rate is None or not 0 < rate < 1e9:
        raise ConfigError(
            f"{name} is {shown(value)}, which is not a rate; write a number per time, such as '5/s' or '100/m'"
        )
    return float(rate)


def count_per(value: object, name: str) -> tuple[int, int]:
    """Turn a rate into how many in how many milliseconds: ``"100/m"``, ``"5/s"``, ``"9/10s"``.

    Raises ConfigError, which begins with ``name``, for anything else; both numbers are whole and at least 1.
    """
    found = RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ConfigError(f"{name}: write a number per time, such as '100/m', '5/s' or '9/10s'")
    count, times, unit = found.groups()
    if unit not in RATE_UNITS:
        raise ConfigError(f"{name}: unknown unit {unit!r}{nearest(unit, RATE_UNITS)}; units are s, m, h, d")
    if not 1 <= int(count) <= caps.COUNT or int(times or 1) == 0:
        raise ConfigError(f"{name}: both numbers are whole and at least 1, and the first at most {caps.COUNT:,}")
    per_ms = int(times or 1) * DURATION_UNITS[unit]
    if per_ms > caps.DURATION_MS:
        raise ConfigError(f"{name}: the time is more than 200 years; give a shorter one")
    return int(count), per_ms


def format_rate(count: int, per_ms: int) -> str:
    """Write a rate as ``count_per`` reads it."""
    unit = next((one for one in reversed(RATE_UNITS) if per_ms % DURATION_UNITS[one] == 0), "ms")
    times = per_ms // DURATION_UNITS[unit]
    return f"{count}/{'' if times == 1 else times}{unit}"


def size_bytes(value: object, name: str) -> int:
    """Turn a size into bytes.

    Takes an int or text: ``"512MB"`` is decimal, ``"512MiB"`` binary, a bare number is bytes. Raises ConfigError,
    naming the option ``name``, for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        size = Fraction(value)
    elif isinstance(value, str):
        body = value.strip()
        part = PART.fullmatch(body)
        if NUMBER_TEXT.fullmatch(body):
            size = Fraction(body)
        elif part is None:
            raise _wrong_size(value, name)
        elif part[2] in SIZE_UNITS:
            size = Fraction(part[1]) * SIZE_UNITS[part[2]]
        else:
            raise ConfigError(
                f"{name} is {shown(value)}: unknown unit {part[2]!r}{nearest(part[2], SIZE_UNITS)}; "
                f"units are {', '.join(SIZE_UNITS)}"
            )
    else:
        raise _wrong_size(value, name)
    if not 0 <= size <= caps.NUMBER:
        raise _wrong_size(value, name)
    return int(size)


def _wrong_size(value: object, name: str) -> ConfigError:
    return ConfigError(
        f"{name} is {shown(value)}, which is not a size; give bytes, or text such as '512MB' or '512MiB'"
    )


def format_duration(ms: int) -> str:
    """Write milliseconds as a setting has them: ``1h30m``, ``250ms``. Exact: ``duration_ms`` reads it back.

    What is only shown, ``show_duration`` writes.
    """
    if ms == 0:
        return "0s"
    text, rest = "-" if ms < 0 else "", abs(ms)
    for unit, length in reversed(DURATION_UNITS.items()):
        count, rest = divmod(rest, length)
        if count:
            text += f"{count}{unit}"
    return text


def show_duration(ms: float) -> str:
    """Write a length of time as people do: ``0.8 ms``, ``12.3 s``, ``8 min 26 s``, ``3 h 20 min``. Rounded."""
    if 0 < ms < 999.5:
        return f"{ms:.3g} ms"
    if ms <= 0:
        return f"-{show_duration(-ms)}" if ms else "0 s"
    if ms < 59_950:
        return f"{ms / 1_000:.3g} s"
    if (seconds := round(ms / 1_000)) < 3_600:
        return _parts(seconds, 60, "min", "s")
    if (minutes := round(ms / 60_000)) < 1_440:
        return _parts(minutes, 60, "h", "min")
    return _parts(round(ms / 3_600_000), 24, "d", "h")


def _parts(count: int, size: int, unit: str, part: str) -> str:
    whole, rest = divmod(count, size)
    return f"{whole} {unit} {rest} {part}" if rest else f"{whole} {unit}"


def whole_number(text: str, most: int) -> int | None:
    """Read a whole number from 0 to ``most`` written in digits, or give None. Python alone fails on very long ones."""
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        return None
    return number if (number := int(text)) <= most else None


def check_name(text: object, what: str) -> str:
    """Give back a queue or namespace name, or raise ConfigError. ``what`` says which, such as ``"queue"``.

    A name is 1 to 128 of letters, digits and ``_ . : -``.
    """
    if isinstance(text, str) and NAME.fullmatch(text):
        return text
    raise ConfigError(f"{what} name {shown(text)} is not valid; use 1 to 128 letters, digits, '_', '.', ':' or '-'")


def check_text(text: object, what: str, most: int = caps.TEXT) -> str:
    """Give back a text for people, such as a tag: 1 to ``most`` printable characters. Raises ConfigError."""
    if isinstance(text, str) and 1 <= len(text) <= most and text.isprintable():
        return text
    raise ConfigError(f"{what} is {shown(text)}; use 1 to {most} printable characters")


def shown(value: object) -> str:
    """Write a wrong value for an error, short whatever it is."""
    if isinstance(value, int) and value.bit_length() > 256:  # repr of a huge int is slow, or refused
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
