"""What the threads and the event loop of a pool have in common: slots of one kind, and the runs that wait for them.

Invariant: a lane that gave runs back because none of them started has no room for as long as none could start, so a
worker does not take again what it has just given back. A lane with a slot that can take a run always has room: a
process that stood still gives back what it held, and goes on.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from windlass.core.model import Slot
from windlass.worker.attempt.run import JobRun

__all__ = ["Lane"]


class Lane(ABC):
    """Slots of one kind in one pool. ``last_start`` is set by whoever starts a run; the rest belongs to the pump."""

    def __init__(self, slot: Slot, count: int) -> None:
        self.slot = slot
        self.count = count
        self.ended = 0  # runs that have ended here, as far as the pump has counted
        self.last_start = time.monotonic()
        self.low_water = 0  # it is time to claim when no more runs than this wait for a slot
        self._gave_up = False

    @property
    @abstractmethod
    def busy(self) -> int:
        """How many jobs are running."""

    @property
    @abstractmethod
    def waiting(self) -> int:
        """How many runs wait for a slot."""

    @property
    @abstractmethod
    def is_stuck(self) -> bool:
        """Whether a run that waited could not start now, however much time its slots were given."""

    @abstractmethod
    def take_back(self) -> list[JobRun]:
        """Remove every run that has not started."""

    @property
    def is_shut(self) -> bool:
        """Whether nothing may be claimed for it, not even to be held."""
        if self._gave_up and not self.is_stuck:
            self._gave_up = False
        return self._gave_up

    @property
    def room(self) -> int:
        """Slots that are free and have nothing waiting for them."""
        return 0 if self.is_shut else max(0, self.count - self.busy - self.waiting)

    @property
    def is_low(self) -> bool:
        """Whether it is time to claim."""
        return self.waiting <= self.low_water

    def give_up(self) -> None:
        """Take nothing more for as long as nothing could start."""
        self._gave_up = True
