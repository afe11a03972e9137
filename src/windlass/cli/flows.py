"""What the commands for workflows and for batches share: progress in a line, JSON, and following one until it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from windlass.cli.live import live
from windlass.cli.output import count, length, say
from windlass.core.clock import from_ms

if TYPE_CHECKING:
    from windlass.app import Windlass
    from windlass.flow.batch import BatchInfo
    from windlass.flow.handle import WorkflowInfo
    from windlass.flow.members import FlowProgress

__all__ = ["as_json", "follow", "left", "progress_text", "some", "took"]

T = TypeVar("T")

SOME: Final = 3


def as_json(info: WorkflowInfo | BatchInfo) -> dict[str, object]:
    """What programs get of one: the attributes, with the ETA in seconds."""
    eta = None if info.eta is None else info.eta.total_seconds()
    return {one.name: getattr(info, one.name) for one in fields(info)} | {"eta": eta}


def progress_text(progress: FlowProgress, noun: str, skipped: int = 0) -> str:
    """How far it is: ``66 %, 4 of 6 steps: 2 done, 1 dead, 1 skipped``. ``skipped`` of the cancelled ones were."""
    if progress.percent is None:
        return f"no {noun}s"
    ends = {
        "done": progress.done,
        "dead": progress.dead,
        "skipped": skipped,
        "cancelled": progress.cancelled - skipped,
    }
    told = ", ".join(f"{number:,} {end}" for end, number in ends.items() if number > 0)
    text = f"{int(progress.percent)} %, {progress.ended:,} of {count(progress.total, noun)}"
    return f"{text}: {told}" if told else text


def left(eta: timedelta | None) -> str:
    """How long it will take."""
    return "" if eta is None else f"about {length(eta.total_seconds() * 1_000)} left"


def took(began: datetime, ended: datetime | None) -> str:
    """How long it took; empty: it has not ended."""
    return "" if ended is None else f"took {length((ended - began).total_seconds() * 1_000)}"


def some(names: Sequence[str]) -> str:
    """Some of the names, and how many more there are."""
    shown = ", ".join(names[:SOME])
    return shown if len(names) <= SOME else f"{shown} and {len(names) - SOME:,} more"


def follow(
    app: Windlass,
    read: Callable[[], T],
    has_ended: Callable[[T], bool],
    picture: Callable[[T, int, int, str], list[str]],
    headline: Callable[[T], str],
    parts: Callable[[T], Mapping[str, str]],
    pause: float,
    quiet: bool,
) -> T:
    """Look again and again until it has ended; give the last look.

    On a terminal the picture is drawn. Elsewhere there is a line for each change of its parts, whose names lead to what
    is said of them, and of its headline; ``quiet``: none.
    """
    if not quiet and sys.stdout.isatty():
        return live(lambda before: read(), picture, pause, has_ended)
    known: Mapping[str, str] | None = None
    headed = ""
    while True:
        seen = read()
        if not quiet:
            now, told, head = from_ms(app.clock.wall_ms()), parts(seen), headline(seen)
            changed = [] if known is None else [name for name in told if known.get(name) != told[name]]
            for line in (*(f"{name}  {told[name]}" for name in changed), *([head] if head != headed else [])):
                say(f"{now:%H:%M:%S}  {line}".rstrip())
            known, headed = told, head
        if has_ended(seen):
            return seen
        time.sleep(pause)
