"""The slot table: what a worker process is running, in memory that outlives it.

The supervisor makes one table per process and keeps it mapped. A slot holds the fence of the job that runs in it, or
0; starting a job is one store, ending it another. When the process dies, the table says which of its jobs had started
and so may have killed it. The words before the slots are times of the boot clock in ms: of the process's last beat, by
which the supervisor sees a process that lives but whose threads are starved; of its last look for jobs, by which it
tells whether the process is stuck; since when the store has been away (0: it is not); and of the last renewal of its
lease by the supervisor.

Nothing here may block or call the system after the table is mapped.
"""

from __future__ import annotations

import mmap
import os
import tempfile

__all__ = ["SlotTable"]

WORD = 8
HEADER = 4  # words before the slots


class SlotTable:
    """A fixed number of slots in shared memory, one writer process, one reader process."""

    def __init__(self, fd: int, slots: int) -> None:
        self.fd = fd
        self.slots = slots
        self._map = mmap.mmap(fd, (HEADER + slots) * WORD)
        self._words = memoryview(self._map).cast("q")

    @classmethod
    def create(cls, slots: int) -> SlotTable:
        """Make a table of empty slots; hand ``fd`` to the process that will fill it."""
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
        os.ftruncate(fd, (HEADER + slots) * WORD)
        return cls(fd, slots)

    def start(self, slot: int, fence: int) -> None:
        """Note that the job with this fence starts in a slot."""
        self._words[HEADER + slot] = fence

    def end(self, slot: int) -> None:
        """Note that a slot is empty."""
        self._words[HEADER + slot] = 0

    def beat(self, now_ms: int) -> None:
        """Note that the process is alive."""
        self._words[0] = now_ms

    @property
    def beat_at(self) -> int:
        """When the process last said that it is alive, in ms of the boot clock; 0: never."""
        return self._words[0]

    def poll(self, now_ms: int) -> None:
        """Note that the process looks for jobs."""
        self._words[1] = now_ms

    @property
    def polled_at(self) -> int:
        """When the process last looked for jobs; 0: never."""
        return self._words[1]

    def note_away(self, since_ms: int) -> None:
        """Note since when the store has been away; 0: it is there."""
        self._words[2] = since_ms

    @property
    def away_since(self) -> int:
        """Since when the process has not reached the store; 0: it does."""
        return self._words[2]

    def renew(self, now_ms: int) -> None:
        """Note that the supervisor has renewed the lease."""
        self._words[3] = now_ms

    @property
    def renewed_at(self) -> int:
        """When the supervisor last renewed the lease in the process's stead; 0: never."""
        return self._words[3]

    def started(self) -> list[int]:
        """The fences of the jobs that have started and not ended."""
        return [fence for fence in self._words[HEADER:].tolist() if fence]

    def close(self) -> None:
        """Close the descriptor; the memory goes with the last reference, since another thread may be reading it."""
        os.close(self.fd)
