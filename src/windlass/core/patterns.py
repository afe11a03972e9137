"""Names of queues as an operator writes them: plain, weighted (``mail=3``), or with a wildcard (``report-*``).

Pure. Must not know stores or workers. Invariants: ``*`` stands for any run of characters, also none, and nothing
else is special; a weight is a whole number from 1 to 1,000.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from windlass.core.errors import ConfigError
from windlass.core.units import check_name, whole_number

__all__ = ["check_pattern", "is_pattern", "matches", "overlap", "parse_queues"]

WEIGHT_MAX = 1_000


def is_pattern(text: str) -> bool:
    """Whether it has a wildcard."""
    return "*" in text


def check_pattern(text: str, what: str) -> str:
    """Give back a queue name or pattern, or raise ConfigError."""
    if text.strip("*"):
        check_name(text.replace("*", "x"), what)
    elif text != "*":
        raise ConfigError(f"{what} {text!r} is not a queue; write a name, a pattern such as 'report-*', or '*' for all")
    return text


def parse_queues(texts: Sequence[str]) -> dict[str, int]:
    """Read ``a``, ``a,b``, ``a=3``, ``a-*`` into weights by name or pattern. Raises ConfigError for what is wrong."""
    weights: dict[str, int] = {}
    for part in (part.strip() for text in texts for part in text.split(",")):
        name, equals, weight = part.partition("=")
        check_pattern(name, "queue")
        number = whole_number(weight, WEIGHT_MAX) if equals else 1
        if not number:
            zero = "; leave the queue out to serve it with no weight" if weight.strip("0") == "" and weight else ""
            raise ConfigError(
                f"queue {part!r}: a weight is a whole number from 1 to {WEIGHT_MAX:,}, as in {name}=3{zero}"
            )
        if name in weights:
            raise ConfigError(f"queue {name!r} is named twice")
        weights[name] = number
    return weights


@lru_cache(1024)
def compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))))


def matches(patterns: Iterable[str], queue: str) -> bool:
    """Whether one of the names or patterns stands for this queue."""
    return any(one == queue or (is_pattern(one) and compiled(one).fullmatch(queue) is not None) for one in patterns)


@lru_cache(4096)
def overlap(one: str, other: str) -> bool:
    """Whether there can be a queue that both stand for."""
    if not one or not other:
        return not (one + other).strip("*")
    if one[0] == "*":
        return overlap(one[1:], other) or overlap(one, other[1:])
    if other[0] == "*":
        return overlap(other, one)
    return one[0] == other[0] and overlap(one[1:], other[1:])
