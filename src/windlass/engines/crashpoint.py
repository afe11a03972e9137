"""Crash points: end this process just before or after a named engine call. For fault tests, never for production.

``WINDLASS_CRASHPOINT="settle:after:3"`` ends the process with code 137 after its third ``settle`` returned, before
anybody saw the answer. The middle part is ``before`` or ``after``, the last one counts from 1 and may be left out.
Several points are separated by commas. With ``WINDLASS_CRASHPOINT_ONCE=FILE`` a point fires only if it can create
FILE, so that of a whole fleet one process dies, once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, cast

from windlass.core.errors import ConfigError
from windlass.core.units import nearest
from windlass.engines.base import Store

__all__ = ["CRASH_POINTS", "crashing"]

# Every call that changes the store, or on whose answer a process acts, but those on dead jobs: a death is named in each
# of them, so repeating one is safe by itself (tests/worker/test_redriver.py loses their answers).
CRASH_POINTS: Final = (
    "commit",
    "claim",
    "settle",
    "exchange",
    "note",
    "extend",
    "depart",
    "bury",
    "maintain",
    "transition",
    "settle_within",
    "commit_within",
)


def first_in_fleet() -> bool:
    """Whether this process may die: always, or only as the first to create the file that was named."""
    once = os.environ.get("WINDLASS_CRASHPOINT_ONCE")
    if not once:
        return True
    try:
        os.close(os.open(once, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True


def crashing(engine: Store, spec: str) -> Store:
    """Give the engine the crash points of ``spec``. Raises ConfigError for a point that does not exist."""
    points: dict[tuple[str, str], int] = {}
    for part in spec.split(","):
        name, _, rest = part.strip().partition(":")
        side, _, nth = rest.partition(":")
        if name not in CRASH_POINTS or side not in ("before", "after") or not (nth or "1").isdigit():
            raise ConfigError(
                f"WINDLASS_CRASHPOINT {part!r}: write NAME:before|after[:N]{nearest(name, CRASH_POINTS)}; "
                f"names are {', '.join(CRASH_POINTS)}"
            )
        points[(name, side)] = int(nth or "1")
    kind = type(engine)
    calls: dict[tuple[str, str], int] = {}
    mortal = {name: dying(name, getattr(kind, name), points, calls) for name, _ in points if hasattr(kind, name)}
    # A subclass, so that the engine still is what it was to everybody who asks.
    engine.__class__ = cast("type[Store]", type(f"Crashing{kind.__name__}", (kind,), mortal))
    return engine


def dying(
    name: str, call: Callable[..., object], points: dict[tuple[str, str], int], calls: dict[tuple[str, str], int]
) -> Callable[..., object]:
    """The method ``call``, with an end of the process before or after its nth call."""

    def reach(side: str) -> None:
        key = (name, side)
        calls[key] = calls.get(key, 0) + 1
        if points.get(key) == calls[key] and first_in_fleet():
            os._exit(137)

    def method(*args: object, **kwargs: object) -> object:
        reach("before")
        answer = call(*args, **kwargs)
        reach("after")
        return answer

    return method
