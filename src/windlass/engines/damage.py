"""What both engines say and do about a record that is not what we wrote: a bad disk, a bad program, a bad hand.

Whoever meets such a record repairs it: a job is dead, with what can be kept of it and the reason; everybody else goes
on. Each engine has its own rules for what is sound and its own repairing (``sqlite/records.py``, ``redis/records.py``);
here is what they share. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeVar

from msgspec import Meta, Struct, ValidationError, convert

__all__ = ["LAST_MS", "NAME_OF_DAMAGED", "QUEUE_OF_DAMAGED", "QueueName", "described", "made", "whole"]

LAST_MS: Final = 253_402_300_799_999  # the last instant that people can be shown: the end of the year 9999
NAME_OF_DAMAGED: Final = "damaged"  # of a job whose own name is not known any more
QUEUE_OF_DAMAGED: Final = "damaged"  # of a job whose own queue is not known any more
QueueName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:-]{1,128}\Z")]

T = TypeVar("T", bound=Struct)


def made(kind: type[T], **values: Any) -> T:
    """A record of what a store gave, each value of its type and each instant one. Raises ValidationError."""
    for name, value in values.items():
        is_instant = name == "since" or (name.endswith(("_at", "_until")) and name != "expires_at")
        if is_instant and isinstance(value, int) and not 0 <= value <= LAST_MS:
            raise ValidationError(f"{name} is {value}, which is no instant")
    return convert(values, kind)


def whole(value: object) -> int:
    """A whole number that a store gave. Raises ValidationError."""
    return convert(value, int)


TOLD: Final = frozenset(
    {
        "id", "name", "queue", "state", "worker", "attempt", "max_attempts", "fence", "priority", "place", "run_at",
        "enqueued_at", "crashes", "interruptions", "snoozes", "expires_at", "expires_ms", "slot", "started_at",
    }
)  # fmt: skip
TOLD_MAX: Final = 60


def described(wrong: Mapping[str, Any]) -> str:
    """What is wrong with a job, for its reason: names, and values where no argument can be in them."""
    parts = [f"{name} was {str(value)[:TOLD_MAX]!r}" if name in TOLD else name for name, value in wrong.items()]
    return f"its record was damaged: {', '.join(parts)}"
