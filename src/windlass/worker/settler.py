"""The buffer of outcomes that wait for their settle, and the rule for when it is time.

A flush is due when ``settle_batch`` outcomes wait, when the oldest has waited ``settle_flush``, or at once when the
worker has nothing else to do. An outcome leaves the buffer only when the engine has answered; while the engine is away
it stays until the worker's lease has ended, because after that it could not be applied any more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from windlass.core.work import LeaseRef, Outcome

__all__ = ["Settler"]


class Settler:
    """Outcomes on their way to the engine. *Thread-safe*.

    Without a lock: every job thread comes by here, and a lock held across a switch of threads made all of them queue
    (measured: 60 % of a no-op job's time).
    """

    def __init__(self, batch: int, flush_ms: int) -> None:
        self._batch = batch if flush_ms else 1
        self._flush = flush_ms / 1000
        self._waiting: deque[Outcome] = deque()  # append and popleft are atomic
        self._sent: list[Outcome] = []  # taken, and the engine has not answered yet
        self._oldest = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, outcome: Outcome) -> bool:
        """Put an outcome into the buffer; true when the batch is full."""
        waiting = self._waiting
        if not waiting:
            self._oldest = time.monotonic()
        waiting.append(outcome)
        return len(waiting) >= self._batch

    def holds(self, ref: LeaseRef) -> bool:
        """Whether an outcome of this claim waits here or is on its way."""
        return any(one.id == ref.id and one.fence == ref.fence for one in (*self._sent, *self._waiting.copy()))

    @property
    def patience(self) -> float | None:
        """Seconds after which to look for an outcome that filled no batch; None: none does that."""
        return self._flush or None

    def due_in(self, *, idle: bool) -> float | None:
        """Seconds until a flush is due; 0: now; None: nothing waits."""
        count = len(self._waiting)
        if not count:
            return None
        if idle or count >= self._batch:
            return 0.0
        return max(0.0, self._oldest + self._flush - time.monotonic())

    def take(self) -> list[Outcome]:
        """Empty the buffer. For the pump alone; ``answered`` or ``take_back`` must follow."""
        popleft = self._waiting.popleft
        self._sent = [popleft() for _ in range(len(self._waiting))]
        return self._sent

    def answered(self) -> None:
        """The engine has answered for what was taken, or nobody will ask it again."""
        self._sent = []

    def take_back(self, outcomes: Sequence[Outcome]) -> None:
        """Return outcomes that the engine did not answer for, before those that came since."""
        self._waiting.extendleft(reversed(outcomes))
        self._sent = []
