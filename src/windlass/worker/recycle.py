"""When a worker process has done enough: after so many jobs, or when it has grown too large.

It asks for its successor early, so that there is one before it stops claiming, and capacity does not drop. It must not
stop anything itself. Invariant: no more than ``max_jobs`` runs are claimed, and none beyond ``max_memory``; and no more
than fit into it, by what the runs so far have left behind, so that a leak does not go far beyond either.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from windlass.logs import Log

__all__ = ["FORK_COST", "Recycler", "resident"]

log = Log("windlass.worker")

FORK_COST = 8 * 2**20  # bytes a worker needs beyond the application: engine, threads, their stacks (measured: 6 to 8)
LEAD = 0.2  # seconds that a successor may take to be ready
EARLY = 0.9  # of max_memory, from which the successor is asked for


class Recycler:
    """Counts the claims of one process and watches its memory. For the pump's thread."""

    def __init__(self, max_jobs: int | None, max_memory: int | None, ask: Callable[[], None]) -> None:
        """``ask`` is called once, when a successor should start."""
        self._max_jobs = max_jobs
        self._max_memory = max_memory
        self._ask = ask
        self._asked = False
        self._claimed = 0
        self._base = 0 if max_memory is None else resident()
        self._fit: int | None = None  # how many runs fit into the memory, those so far included
        self._too_large = False

    @property
    def left(self) -> int | None:
        """How many more runs may be claimed; None: any number."""
        if self._too_large:
            return 0
        bounds = [bound for bound in (self._max_jobs, self._fit) if bound is not None]
        return max(0, min(bounds) - self._claimed) if bounds else None

    def claimed(self, count: int, pace: float) -> None:
        """Note a claim. ``pace`` is how many jobs end a second."""
        self._claimed += count
        if self._max_jobs is not None and not self._asked:
            # Not in its first half, or a quick process would be replaced as soon as it has begun.
            lead = min(int(pace * LEAD), self._max_jobs // 2)
            if self._max_jobs - self._claimed <= lead:
                self._start_successor(f"it has claimed {self._claimed} of its {self._max_jobs} jobs")

    def look(self, ended: int) -> None:
        """Look at the memory; ``ended`` runs are behind this process."""
        if self._max_memory is None:
            return
        size = resident()
        if size >= self._max_memory * EARLY and not self._asked:
            self._start_successor(f"it has {size / 2**20:.0f} MiB of its {self._max_memory / 2**20:.0f}")
        self._too_large = size >= self._max_memory
        grown = size - self._base
        self._fit = (self._max_memory - self._base) * ended // grown if ended and grown > 0 else None

    def _start_successor(self, why: str) -> None:
        self._asked = True
        log.info("worker process %d asks for its successor: %s", os.getpid(), why)
        self._ask()


def resident() -> int:
    """How many bytes of this process are in memory (where the system does not tell: were, at most)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
