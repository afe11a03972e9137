"""The archive of dead jobs: what the bounds remove is first written to a file, a line of JSON each.

Must not remove what it could not write. Invariants: a line is on disk (fsync) before its job is deleted; lines are
whole, also when a disk fills up in the middle of one; the workers of one machine take turns (a file lock), so each job
has one line. After a crash between the two writes it may have two.

The file has the arguments in clear, as the store had them. A new one is readable for its owner only; one that is not
ours, or no regular file, is refused.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from windlass.core.files import open_own, sync_folder
from windlass.core.model import State
from windlass.core.rows import Action, JobFilter
from windlass.core.work import LeaseRef
from windlass.dead.lines import to_line
from windlass.engines.base import Store

__all__ = ["Archive"]

BATCH: Final = 100  # jobs in memory at a time; a payload may have a megabyte
PATIENCE: Final = 5.0  # seconds for another worker to finish what it writes
RETRY: Final = 0.02  # seconds


class Archive:
    """A file that dead jobs go to when they are removed."""

    def __init__(self, path: str, engine: Store) -> None:
        self.path = path
        self._engine = engine

    def take(self, deaths: Sequence[LeaseRef]) -> list[str]:
        """Write dead jobs to the file, then remove them; give their ids. *Blocking.*

        Raises OSError, and then nothing that is not in the file was removed.
        """
        gone: list[str] = []
        with self._locked() as fd:
            for start in range(0, len(deaths), BATCH):
                gone += self._take(fd, deaths[start : start + BATCH])
        return gone

    def _take(self, fd: int, deaths: Sequence[LeaseRef]) -> list[str]:
        # Read under the lock: another worker may have taken them a moment ago.
        wanted = set(deaths)
        where = JobFilter(state=State.DEAD, ids=tuple(death.id for death in deaths))
        rows = [row for row in self._engine.jobs(where, None, len(deaths))[0] if LeaseRef(row.id, row.fence) in wanted]
        if not rows:
            return []
        append(fd, b"".join(map(to_line, rows)))
        removed = self._engine.transition(Action.TRIM, [LeaseRef(row.id, row.fence) for row in rows])
        return [one.id for one in removed if one.applied]

    @contextmanager
    def _locked(self) -> Iterator[int]:
        fd, new = open_own(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            lock(fd)
            if new:
                sync_folder(self.path)
            yield fd
        finally:
            os.close(fd)


def lock(fd: int) -> None:
    """Take the file for this worker alone. Raises OSError when somebody else keeps it: upkeep has more to do."""
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up:
                raise OSError(f"another process has had it locked for {PATIENCE:.0f} s") from None
            time.sleep(RETRY)
        else:
            return


def append(fd: int, data: bytes) -> None:
    """Write all of it to disk, or leave the file as it was. Raises OSError."""
    size = os.fstat(fd).st_size
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, size)
        raise
