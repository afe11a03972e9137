"""The slot table: what a worker process is at, in memory that outlives it and can be read while the process is stuck.

The supervisor makes one table per process and keeps it mapped. It has three parts:

- Times of the boot clock in ms: of the process's last beat and of its last answer to a ping, by which the supervisor
  sees a process that lives but whose threads are starved; of its last look for jobs, by which it tells whether the
  process is stuck; since when the store has been away and since when the event loop has been blocked (0: it is not);
  and of the last renewal of its lease by the supervisor.
- The fences of jobs that have started and whose outcome is not in the store. When the process dies, one of them may
  have killed it.
- For each slot, the job with a timeout that runs in it, by when its time is up. Whoever watches the process can tell
  which job is over its time, also when no thread of the process gets to run.

Nothing here may block or call the system after the table is mapped.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import time

from msgspec import Struct

__all__ = ["Running", "SlotTable", "monotonic_ms"]

WORD = 8
HEADER = 8  # words of times, some of them spare
UNSETTLED = 4_096  # jobs that may have ended and wait for their settle, besides those that run
LABEL = 1_008  # bytes for the id and the name of a job; an id has room in any alphabet
FACTS = 3  # words of a slot before its label: fence, when its time is up, thread
SLOT = FACTS * WORD + LABEL


class Running(Struct, frozen=True):
    """A job with a timeout that runs: its claim, and when its time is up, in ms of the monotonic clock.

    ``thread`` is the system's id of the thread that its body runs in; 0: it runs in a child process.
    """

    id: str
    name: str
    fence: int
    until: int
    thread: int = 0


class SlotTable:
    """A fixed number of slots in shared memory, one writer process, one reader process."""

    def __init__(self, fd: int, slots: int) -> None:
        self.fd = fd
        self.slots = slots
        self._cells = slots + UNSETTLED
        self._map = mmap.mmap(fd, size_of(slots))
        self._words = memoryview(self._map).cast("q")
        self._first_slot = HEADER + self._cells  # as a word
        self._free = list(range(HEADER + self._cells - 1, HEADER - 1, -1))
        self._begun: dict[int, int] = {}  # fence: its cell

    @classmethod
    def create(cls, slots: int) -> SlotTable:
        """Make an empty table; hand ``fd`` to the process that will fill it. Raises OSError when there is no memory."""
        fd = make_file()
        try:
            os.ftruncate(fd, size_of(slots))
            return cls(fd, slots)
        except OSError:
            os.close(fd)
            raise

    # -- jobs --

    def begin(self, fence: int) -> None:
        """Note that the job with this fence starts. *Thread-safe*, as is ``settle``: they need the interpreter lock."""
        if self._free:  # else more wait for their settle than was ever seen, and this one goes unnoticed
            cell = self._free.pop()
            self._words[cell] = fence
            self._begun[fence] = cell

    def settle(self, fence: int) -> None:
        """Note that the store has this job's outcome, or that nobody will ever tell it. *Idempotent.*"""
        cell = self._begun.pop(fence, None)
        if cell is not None:
            self._words[cell] = 0
            self._free.append(cell)

    def unsettled(self) -> list[int]:
        """The fences of the jobs that have started and whose outcome the store does not have."""
        return [fence for fence in self._words[HEADER : HEADER + self._cells].tolist() if fence]

    def enter(self, slot: int, running: Running) -> None:
        """Note which job with a timeout runs in a slot."""
        label = f"{running.id}\n{running.name}".encode()[:LABEL]
        word = self._first_slot + slot * (SLOT // WORD)
        start = (word + FACTS) * WORD
        self._map[start : start + LABEL] = label.ljust(LABEL, b"\0")
        self._words[word + 1] = running.until
        self._words[word + 2] = running.thread
        self._words[word] = running.fence  # last: it says that the rest is there

    def prolong(self, slot: int, until: int) -> None:
        """Note that the job in this slot has more time, or that its end is being waited for."""
        self._words[self._first_slot + slot * (SLOT // WORD) + 1] = until

    def leave(self, slot: int) -> None:
        """Note that the job with a timeout in this slot has ended."""
        self._words[self._first_slot + slot * (SLOT // WORD)] = 0

    def running(self) -> list[Running]:
        """The jobs with a timeout that run. One that starts in this moment may be missing."""
        found = []
        for slot in range(self.slots):
            word = self._first_slot + slot * (SLOT // WORD)
            fence = self._words[word]
            if fence:
                until, thread = self._words[word + 1], self._words[word + 2]
                start = (word + FACTS) * WORD
                label = self._map[start : start + LABEL].rstrip(b"\0").decode(errors="replace")
                if self._words[word] == fence:  # else it was another job's label
                    job_id, _, name = label.partition("\n")
                    found.append(Running(job_id, name, fence, until, thread))
        return found

    # -- times --

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

    def note_blocked(self, since_ms: int) -> None:
        """Note since when the event loop has been blocked; 0: it turns."""
        self._words[4] = since_ms

    @property
    def blocked_since(self) -> int:
        """Since when no coroutine job has got to run, because one does not let go of the event loop; 0: they do."""
        return self._words[4]

    def answer(self, now_ms: int) -> None:
        """Note that the process has heard a ping."""
        self._words[5] = now_ms

    @property
    def answered_at(self) -> int:
        """When the process last answered a ping; 0: never."""
        return self._words[5]

    def close(self) -> None:
        """Close the descriptor; the memory goes with the last reference, since another thread may be reading it."""
        os.close(self.fd)


def monotonic_ms() -> int:
    """Now, in ms of the clock that all processes of a machine share and that no suspend moves."""
    return time.monotonic_ns() // 1_000_000


def size_of(slots: int) -> int:
    """Bytes of a table."""
    return (HEADER + slots + UNSETTLED) * WORD + slots * SLOT


def make_file() -> int:
    """A file in memory, without a name: a full disk does not keep a worker from starting."""
    if hasattr(os, "memfd_create"):
        with contextlib.suppress(OSError):  # an old kernel
            return os.memfd_create("windlass-slots")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
