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

from windlass.engines.base import Store
from windlass.errors import ConfigError
from windlass.units import nearest

__all__ = ["CRASH_POINTS", "crashing"]

# Every call that changes the store, or on whose answer a process acts.
CRASH_POINTS: Final = (
    "enqueue",
    "claim",
    "settle",
    "exchange",
    "report",
    "extend",
    "depart",
    "bury",
    "maintain",
    "transition",
    "settle_within",
    "enqueue_within",
)


class CrashingStore:
    """Passes every call on to the real engine, and dies where it was told to."""

    def __init__(self, engine: Store, points: dict[tuple[str, str], int]) -> None:
        self._engine = engine
        self._points = points
        self._calls: dict[tuple[str, str], int] = {}

    def __getattr__(self, name: str) -> object:
        value = getattr(self._engine, name)
        if name not in CRASH_POINTS or not any(point == name for point, _ in self._points):
            return value
        return self._dying(name, value)

    def _dying(self, name: str, call: Callable[..., object]) -> Callable[..., object]:
        def dying(*args: object, **kwargs: object) -> object:
            self._reach(name, "before")
            answer = call(*args, **kwargs)
            self._reach(name, "after")
            return answer

        return dying

    def _reach(self, name: str, side: str) -> None:
        key = (name, side)
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._points.get(key) == self._calls[key] and first_in_fleet():
            os._exit(137)


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
    """Wrap an engine with the crash points of ``spec``. Raises ConfigError for a point that does not exist."""
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
    return cast(Store, CrashingStore(engine, points))
