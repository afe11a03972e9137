"""A picture that is drawn again and again until q is pressed, or what it shows has ended.

Must not know what is drawn. Invariant: a store that is away for a while is said in the picture, and asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from windlass.cli.output import count
from windlass.core.errors import EngineUnavailable

__all__ = ["first_of", "live"]

T = TypeVar("T")


def live(
    look: Callable[[T | None], T],
    picture: Callable[[T, int, int, str], list[str]],
    pause: float,
    has_ended: Callable[[T], bool] = lambda seen: False,
) -> T:
    """Draw, and look again every ``pause`` seconds; give the last look.

    ``look`` gets the look before. ``picture`` gets a look, the columns and rows of the window, and what is wrong with
    the store.
    """
    from windlass.cli.screen import Screen

    seen = look(None)
    trouble = ""
    with Screen() as screen:
        while not has_ended(seen):
            until = time.monotonic() + pause
            while (left := until - time.monotonic()) > 0:
                columns, rows = screen.size
                screen.show(picture(seen, columns, rows, trouble))
                key = screen.wait(left)
                if key and "q" in key.lower():
                    return seen
            try:
                seen, trouble = look(seen), ""
            except EngineUnavailable as error:
                trouble = str(error)
    return seen


def first_of(part: list[str], room: int, noun: str) -> list[str]:
    """As many lines as there is room for; the last one says how many are left out."""
    if len(part) <= room:
        return part
    if room < 3:  # not even the head, a line and the rest
        return []
    return [*part[: room - 1], f"... and {count(len(part) - room + 1, f'more {noun}')}"]
