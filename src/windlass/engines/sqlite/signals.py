"""Wake-ups between processes without a busy poll.

A signal is a small file beside the database. ``touch`` changes its times; whoever waits is woken by inotify (measured
p50 0.13 ms, no idle wake-ups). Where there is no inotify the waiter looks at the file's change time every
``FALLBACK_POLL`` seconds. A signal carries no data and may be lost or come for nothing: it only says "look again".

Invariants. Nothing here raises: a signal is given after a commit, and must not decide about the answer of a call. One
that cannot be given is said in the log once, and in ``doctor``; those who wait find out at their next poll. A file is
named, never opened for writing, so nothing is ever written into what somebody has put in its place. A new one gets the
mode and group of the database, so that whoever may write the one may touch the other.

The file is never the database or its journal: opening and closing those outside SQLite would drop its locks.
"""

from __future__ import annotations

import ctypes
import os
import select
import stat
import struct
import sys
import threading
import time
from typing import Final, Protocol

from windlass.logs import Log

__all__ = ["FileSignal", "MemorySignal", "Signal"]

FALLBACK_POLL: Final = 0.05
BLIND_POLL: Final = 0.5  # seconds between looks where there is no file either
TRY_AGAIN: Final = 5.0  # seconds until inotify is asked for again
IN_MODIFY: Final = 0x2
IN_ATTRIB: Final = 0x4
IN_DONT_FOLLOW: Final = 0x02000000
GONE: Final = 0x400 | 0x800 | 0x2000 | 0x8000  # the file was deleted, moved, its volume unmounted, the watch ended
EVENT: Final = struct.Struct("iIII")
RIGHTS: Final = stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IWGRP | stat.S_IROTH | stat.S_IWOTH

log = Log("windlass.engine")


class Signal(Protocol):
    """Something to wait on that others can touch. *Never fails.*"""

    def touch(self) -> None:
        """Wake every waiter, in every process."""
        ...

    def listen(self) -> None:
        """Start to notice touches. A touch before this is not seen; ``wait`` calls it by itself."""
        ...

    def wait(self, timeout: float) -> bool:
        """Block until touched since the last ``wait`` or woken; false after ``timeout`` seconds."""
        ...

    def wake(self) -> None:
        """End a ``wait`` of this object, now or the next one."""
        ...

    def trouble(self) -> str | None:
        """Say why processes do not hear of each other by this signal; None when they do."""
        ...

    def close(self) -> None: ...


class MemorySignal:
    """A signal within one process."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def touch(self) -> None:
        self._event.set()

    wake = touch

    def listen(self) -> None:
        pass

    def wait(self, timeout: float) -> bool:
        woken = self._event.wait(timeout)
        self._event.clear()
        return woken

    def trouble(self) -> str | None:
        return None

    def close(self) -> None:
        self._event.set()


class FileSignal:
    """A signal between processes, through a file beside ``database``."""

    def __init__(self, path: str, database: str) -> None:
        self.path = path
        self._database = database
        self._lock = threading.RLock()  # a signal handler may wake
        self._woken = threading.Event()
        self._prepared = False
        self._said = False
        self._listening = False
        self._notify = self._wake_r = self._wake_w = -1
        self._seen = 0  # the file's change time at the last look
        self._try_again = 0.0  # monotonic seconds

    def touch(self) -> None:
        if not self._prepared:
            self._prepare()
        try:
            os.utime(self.path, follow_symlinks=False)
        except FileNotFoundError:
            self._prepare()
        except OSError as error:
            self._say(error)

    def _prepare(self) -> None:
        """Make the file, or give one of ours the rights that the database has."""
        self._prepared = True
        try:
            prepare(self.path, self._database)
        except OSError as error:
            if os.path.exists(self._database):  # else there is no store to wake anybody for, and its own errors say so
                self._say(error)

    def _say(self, error: OSError) -> None:
        if not self._said:
            self._said = True
            log.warning("%s", cannot(self.path, error))

    def trouble(self) -> str | None:
        try:
            prepare(self.path, self._database)
            found = os.lstat(self.path)
            if kind := other_kind(found):
                return f"{self.path} is {kind} and not a file of windlass: remove it"
            os.utime(self.path, follow_symlinks=False)
            like = os.stat(self._database)
        except OSError as error:
            return cannot(self.path, error)
        if found.st_mode & RIGHTS != like.st_mode & RIGHTS or found.st_gid != like.st_gid:
            return (
                f"{self.path} has other rights than the database: remove it, and the next process to write makes it "
                "anew with those of the database"
            )
        return None

    def listen(self) -> None:
        with self._lock:
            if not self._listening:
                self._prepare()
                self._seen = self._changed()
                self._watch()
                self._listening = True

    def _watch(self) -> None:
        """Ask the system to tell of changes. Without it we look ourselves, and ask again later."""
        self._try_again = time.monotonic() + TRY_AGAIN
        notify = inotify_watch(self.path)
        if notify < 0:
            return
        if self._wake_r < 0:
            try:
                self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                os.close(notify)
                return
        self._notify = notify

    def _changed(self) -> int:
        """The file's change time; 0 when there is none to see."""
        try:
            return os.lstat(self.path).st_mtime_ns
        except OSError:
            return 0

    def wait(self, timeout: float) -> bool:
        self.listen()
        if self._notify < 0 and time.monotonic() >= self._try_again:
            with self._lock:
                self._watch()
        if self._notify < 0:
            return self._wait_by_looking(timeout)
        if self._woken.is_set():  # perhaps from before there was a pipe to say it
            timeout = 0
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        poll.register(self._notify, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(max(0, timeout) * 1000)}
        woken = self._woken.is_set()
        if woken or self._wake_r in ready:
            drain(self._wake_r)
            self._woken.clear()
        if self._notify in ready and not is_there(drain(self._notify)):
            self._watch_anew()
        return woken or bool(ready)

    def _watch_anew(self) -> None:
        """What was watched is gone: make a new file, or take the one that is there now."""
        with self._lock:
            close(self._notify)
            self._notify = -1
            self._listening = False
        self.listen()

    def _wait_by_looking(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while True:
            changed = self._changed()
            if changed != self._seen:
                self._seen = changed
                return True
            left = deadline - time.monotonic()
            if self._woken.wait(max(0.0, min(left, FALLBACK_POLL if changed else BLIND_POLL))):
                self._woken.clear()
                return True
            if left <= 0:
                return False
            if not changed:
                self._prepare()
                return True  # nobody can tell us, so look

    def wake(self) -> None:
        self._woken.set()
        with self._lock:
            if self._wake_w >= 0:
                try:
                    os.write(self._wake_w, b"\0")
                except OSError:
                    pass  # the pipe is full of wakes that nobody has read yet, or somebody closed it

    def close(self) -> None:
        with self._lock:
            for fd in (self._notify, self._wake_r, self._wake_w):
                close(fd)
            self._notify = self._wake_r = self._wake_w = -1
            self._listening = self._prepared = False


def prepare(path: str, database: str) -> None:
    """Make a file with the mode and group of the database, or give them to one of ours. Raises OSError."""
    like = os.stat(database)
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, stat.S_IRUSR)
        except FileExistsError:  # another process was faster
            return
    else:
        mine = found.st_uid == os.geteuid() and not other_kind(found)
        if not mine or (found.st_mode & RIGHTS == like.st_mode & RIGHTS and found.st_gid == like.st_gid):
            return
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return  # ours and closed to us: it can be touched as it is
    try:
        if other_kind(os.fstat(fd)):  # it was changed for another meanwhile
            return
        try:
            os.fchown(fd, like.st_uid if os.geteuid() == 0 else -1, like.st_gid)
        except OSError:
            pass  # only root, or a member of the group
        os.fchmod(fd, like.st_mode & RIGHTS)
    finally:
        os.close(fd)


def other_kind(found: os.stat_result) -> str | None:
    """What stands there, if it is no plain file with this one name."""
    mode = found.st_mode
    if stat.S_ISREG(mode):
        return None if found.st_nlink <= 1 else "a hard link"
    kinds = ((stat.S_ISLNK, "a symbolic link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"))
    return next((name for is_one, name in kinds if is_one(mode)), "no plain file")


def cannot(path: str, error: OSError) -> str:
    """Say that a file cannot be touched, and what to do."""
    return (
        f"cannot touch {path} ({error.strerror or error}): jobs are stored and run all the same, but other processes "
        "hear of them later, at their next poll; give it the owner, group and mode of the database, or remove it"
    )


def close(fd: int) -> None:
    """Close a descriptor, if it is one still."""
    if fd >= 0:
        try:
            os.close(fd)
        except OSError:
            pass  # code of the application has closed it


def drain(fd: int) -> bytes:
    """Read what has come, so that the next poll waits for news; nothing from a descriptor that is no more."""
    try:
        return os.read(fd, 4096)
    except OSError:
        return b""


def is_there(events: bytes) -> bool:
    """Whether the file that inotify told of is still in its place; false also when it told of nothing."""
    at = 0
    while at + EVENT.size <= len(events):
        _, mask, _, size = EVENT.unpack_from(events, at)
        if mask & GONE:
            return False
        at += EVENT.size + size
    return at > 0


def inotify_watch(path: str) -> int:
    """A non-blocking inotify descriptor on one file, or -1 where the system has none to give."""
    if not sys.platform.startswith("linux"):
        return -1
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        return -1
    if libc.inotify_add_watch(fd, os.fsencode(path), IN_MODIFY | IN_ATTRIB | GONE & 0xFFF | IN_DONT_FOLLOW) < 0:
        os.close(fd)
        return -1
    return fd
