"""What the store is to be told of runs that go on: their notes, and that those claimed ahead have started.

A job that was claimed beyond the free slots counts as held until it is told of. Most have ended within ``HELD_TOLD``,
so it waits for that long, and for the next stroke of the pump.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from windlass.core.work import Note
from windlass.worker.attempt.run import JobRun

__all__ = ["Notes"]

HELD_TOLD = 0.5  # seconds that a held job runs before the store is told that it has started: most have ended by then


class Notes:
    """Notes of the runs of one worker. Any thread adds; the pump takes. *Thread-safe.*"""

    def __init__(self) -> None:
        self.begun: dict[JobRun, int] = {}  # of those that the store has as held: when they began, in ns
        self._untold: deque[Note] = deque()

    def add(self, run: JobRun, key: str, value: str | None, *, durable: bool = False) -> None:
        """Note something of a run."""
        self._untold.append(Note(run.lease.id, run.lease.fence, key, value, durable))

    def due_in(self) -> float | None:
        """Seconds until a held run that has started is to be told of; None: there is none."""
        for _, began in list(self.begun.items()):
            return began / 1e9 + HELD_TOLD - time.monotonic()
        return None

    def take(self) -> list[Note]:
        """Empty it of what is due, in order."""
        if self.begun:
            due = time.monotonic_ns() - int(HELD_TOLD * 1e9)
            for run, began in list(self.begun.items()):
                if began > due:
                    break
                self.begun.pop(run, None)
                self.add(run, "", None)
        return [self._untold.popleft() for _ in range(len(self._untold))]

    def take_back(self, notes: Sequence[Note]) -> None:
        """Take what the store could not be told; it goes before what has come since."""
        self._untold.extendleft(reversed(notes))
