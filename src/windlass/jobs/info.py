"""A stored job as people see it, at one moment. Times are aware datetimes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from windlass.core.model import State

__all__ = ["JobError", "JobInfo", "JobProgress", "Page"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JobError:
    """Why one attempt failed. ``attempt`` is the number of the run, from 1.

    ``host`` and ``worker`` say where it ran, ``version`` which code; empty where that is not known.
    """

    type: str
    message: str
    traceback: str
    at: datetime
    attempt: int
    host: str = ""
    worker: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class JobProgress:
    """The last progress that a job reported."""

    done: float
    total: float | None = None
    message: str | None = None

    @property
    def percent(self) -> float | None:
        """Between 0 and 100, or None when the total is not known."""
        return None if not self.total else max(0.0, min(100.0, 100.0 * self.done / self.total))


@dataclass(frozen=True, slots=True)
class JobInfo:
    """One stored job at one moment. ``args`` is None when the payload cannot be decoded, and ``reason`` says why.

    ``held``: a worker has claimed it and is about to start it; its state is running, and ``started_at`` is None.
    ``workflow`` is the id of the one that it is a step of, ``step`` its name there; ``batches`` are the ids of those
    that it was added to.
    """

    id: str
    name: str
    queue: str
    state: State
    args: tuple[object, ...] | None
    kwargs: dict[str, object] | None
    attempt: int
    max_attempts: int
    errors: tuple[JobError, ...]
    enqueued_at: datetime
    run_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    progress: JobProgress | None
    result: object
    tags: tuple[str, ...]
    reason: str | None
    worker: str | None
    held: bool = False
    workflow: str | None = None
    step: str | None = None
    batches: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of a long list. ``next`` is the cursor of the page that follows, None at the end."""

    items: tuple[T, ...]
    next: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)
