"""Whether the open handles are still those of the store: is the file that was opened the one that has its name now?

Files are removed, replaced by a backup, cut short, or hidden by a volume that is mounted over them. SQLite goes on in
the file that was opened, and what it commits there is lost without a word. So the file that the path names is compared
with the one that was opened: after each commit, before anything is confirmed, and now and then before a call. The log
and its index count as well, since a log that was removed takes its commits with it.

A look costs a ``stat`` a file. Invariant: a commit is confirmed only when, after it, the path named the file it is in.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import time
from collections.abc import Callable
from typing import Final

import apsw

from windlass.core.errors import EngineUnavailable

__all__ = ["Place", "StoreMoved", "has_moved", "writer_of"]

LOOK_EVERY: Final = 0.001  # seconds between whole looks; each commit looks at the database itself

NOTHING: Final = (0, 0, 0)
SHARED_FIRST: Final = 0x40000002  # the bytes of a database on which whoever has it open has a lock
SHARED_SIZE: Final = 510
WRITE_LOCK: Final = 120  # the byte of the log's index on which a connection has a lock while it writes


class StoreMoved(EngineUnavailable):
    """The open file is not the store any more. ``core`` follows to the one that is, where there is one."""


class Place:
    """The files of one engine object, as they were when it opened them. *Thread-safe.*"""

    def __init__(self, path: str, db: apsw.Connection) -> None:
        """``db`` has read from the file, so that its log is there. Raises StoreMoved when the file has just changed."""
        self.path = path
        self.log = db.filename_wal
        self._read = db.read
        self._moved: str | None = None  # what was seen, once something was
        self._dev, self._ino, self._size = look(path)
        self._beside = {name: look(name)[:2] for name in (self.log, f"{db.filename}-shm")}
        self._look_at = 0.0
        if has_moved(db):
            raise self._now(f"{path} was replaced while it was opened")

    def check(self) -> None:
        """Look before a call, if the last look is not a moment ago. Raises StoreMoved."""
        if self._moved is not None or time.monotonic() >= self._look_at:
            self._look()

    def confirm(self, *, durable: bool) -> None:
        """Look after a commit; one that is to be durable depends on its log too. Raises StoreMoved."""
        if durable:
            self._look()
        else:
            self._see()

    @property
    def keeps_its_log(self) -> bool:
        """Whether the database is in its place, and no other process has begun another log beside it."""
        log = look(self.log)[:2]
        return look(self.path)[:2] == (self._dev, self._ino) and log in (self._beside[self.log], NOTHING[:2])

    def take_log_along(self) -> bool:
        """Remove the log of the file that was opened from beside another one that has its name now.

        SQLite would take it for the log of that one, and write pages of the old into the new. False when it has to
        stay, since somebody has the new file open and so uses it as its log already.
        """
        now = look(self.path)
        mine = [name for name, opened in self._beside.items() if look(name)[:2] == opened]
        if now == NOTHING or now[:2] == (self._dev, self._ino) or not mine:
            return True
        if is_open_here(self.path):  # and a descriptor of ours would drop its locks
            return False
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, SHARED_SIZE, SHARED_FIRST)  # whoever opens it now waits
                for name in mine:
                    os.unlink(name)
            finally:
                os.close(fd)
        except OSError:
            return False
        return True

    def _look(self) -> None:
        self._see()
        for name, opened in self._beside.items():
            if look(name)[:2] != opened:
                raise self._now(f"{name} was removed or replaced while {self.path} was open")
        self._look_at = time.monotonic() + LOOK_EVERY

    def _see(self) -> None:
        if self._moved is not None:
            raise StoreMoved(self._moved)
        least = self._size
        dev, ino, size = look(self.path)
        if ino != self._ino or dev != self._dev:
            raise self._now(f"{self.path} is not the file that was opened any more: it was removed, replaced or moved")
        whole = whole_size(self._read) if size < least else 0  # SQLite shortens it too: VACUUM, auto_vacuum
        if whole is None:
            return  # the connection is at work in another thread, which looks after its commit
        if size < whole:
            raise self._now(f"{self.path} was cut short while it was open")
        self._size = size

    def _now(self, what: str) -> StoreMoved:
        self._moved = what
        return StoreMoved(what)


def whole_size(read: Callable[[str, int, int, int], tuple[bool, bytes]]) -> int | None:
    """How many bytes a database has by its own header; more than there can be when it cannot be read, None not now."""
    try:
        complete, head = read("main", 0, 0, 32)
    except apsw.ThreadingViolationError:
        return None
    except apsw.Error:
        return 2**62
    if not complete:
        return 2**62
    page = int.from_bytes(head[16:18], "big")
    return (65_536 if page == 1 else page) * int.from_bytes(head[28:32], "big")


def look(path: str) -> tuple[int, int, int]:
    """Device, number and size of the file that a path names; zeros when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return NOTHING
    return found.st_dev, found.st_ino, found.st_size


def is_open_here(path: str) -> bool:
    """Whether this process has the file open that has this name now; one that had the name before does not count."""
    try:
        now = os.stat(path)
        fds = os.listdir("/proc/self/fd")
    except OSError:
        return True  # nobody can tell
    for fd in fds:
        try:
            if os.path.samestat(os.stat(f"/proc/self/fd/{fd}"), now):
                return True
        except OSError:
            continue
    return False


def has_moved(db: apsw.Connection) -> bool:
    """Whether the file of a connection has lost its name, as SQLite itself sees it."""
    moved = ctypes.c_int()
    db.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, ctypes.addressof(moved))
    return bool(moved.value)


def writer_of(path: str) -> int | None:
    """The process that has a write transaction open in a database, where the system tells (Linux).

    Asked of the system, since a descriptor of ours on the file would drop the locks of this process when it is closed.
    """
    number = look(f"{path}-shm")[1]
    try:
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            for line in file:
                match line.split():
                    case [_, "POSIX", _, "WRITE", pid, where, first, last] if where.rpartition(":")[2] == str(
                        number
                    ) and int(first) <= WRITE_LOCK <= int(last):
                        return int(pid) if int(pid) > 0 else None  # of another namespace
    except (OSError, ValueError):
        pass
    return None
