"""Wake-ups between processes without a busy poll.

A signal is a small file beside the database. ``touch`` writes a byte into it; whoever waits is woken by inotify
(measured p50 0.13 ms, no idle wake-ups). Where there is no inotify the waiter looks at the file's change time every
``FALLBACK_POLL`` seconds. A signal carries no data and may be lost or come for nothing: it only says "look again".

The file is never the database or its journal: opening and closing those outside SQLite would drop its locks.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
import threading
import time
from typing import Protocol

__all__ = ["FileSignal", "MemorySignal", "Signal"]

FALLBACK_POLL = 0.05
IN_MODIFY = 0x2


class Signal(Protocol):
    """Something to wait on that others can touch."""

    def touch(self) -> None:
        """Wake every waiter, in every process."""
        ...

    def wait(self, timeout: float) -> bool:
        """Block until touched since the last ``wait`` or woken; false after ``timeout`` seconds."""
        ...

    def wake(self) -> None:
        """End a ``wait`` of this object, now or the next one."""
        ...

    def close(self) -> None: ...


class MemorySignal:
    """A signal within one process."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def touch(self) -> None:
        self._event.set()

    wake = touch

    def wait(self, timeout: float) -> bool:
        woken = self._event.wait(timeout)
        self._event.clear()
        return woken

    def close(self) -> None:
        self._event.set()


class FileSignal:
    """A signal between processes, through a file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._fd = -1
        self._notify = -1
        self._wake_r = self._wake_w = -1
        self._seen = 0

    def touch(self) -> None:
        if self._fd < 0:
            with self._lock:
                if self._fd < 0:
                    self._fd = self._create()
        os.pwrite(self._fd, b"\0", 0)

    def _create(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def listen(self) -> None:
        """Start to notice touches. A touch before this is not seen; ``wait`` calls it by itself."""
        with self._lock:
            if self._wake_r >= 0:
                return
            if self._fd < 0:
                self._fd = self._create()
            wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            self._notify = inotify_watch(self.path)
            self._seen = os.fstat(self._fd).st_mtime_ns
            self._wake_r = wake_r

    def wait(self, timeout: float) -> bool:
        if self._wake_r < 0:
            self.listen()
        if self._notify < 0:
            return self._wait_by_looking(timeout)
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        poll.register(self._notify, select.POLLIN)
        ready = poll.poll(max(0, timeout) * 1000)
        for fd, _ in ready:
            drain(fd)
        return bool(ready)

    def _wait_by_looking(self, timeout: float) -> bool:
        poll = select.poll()
        poll.register(self._wake_r, select.POLLIN)
        deadline = time.monotonic() + timeout
        while True:
            changed = os.fstat(self._fd).st_mtime_ns
            if changed != self._seen:
                self._seen = changed
                return True
            left = deadline - time.monotonic()
            if poll.poll(max(0.0, min(left, FALLBACK_POLL)) * 1000):
                drain(self._wake_r)
                return True
            if left <= 0:
                return False

    def wake(self) -> None:
        if self._wake_r < 0:
            self.listen()
        try:
            os.write(self._wake_w, b"\0")
        except BlockingIOError:
            pass  # the pipe is full of wakes that nobody has read yet

    def close(self) -> None:
        with self._lock:
            for fd in (self._fd, self._notify, self._wake_r, self._wake_w):
                if fd >= 0:
                    os.close(fd)
            self._fd = self._notify = self._wake_r = self._wake_w = -1


def drain(fd: int) -> None:
    """Read what has come, so that the next poll waits for news."""
    try:
        os.read(fd, 4096)
    except BlockingIOError:
        pass


def inotify_watch(path: str) -> int:
    """A non-blocking inotify descriptor on one file, or -1 where the system has none to give."""
    if not sys.platform.startswith("linux"):
        return -1
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        return -1
    if libc.inotify_add_watch(fd, os.fsencode(path), IN_MODIFY) < 0:
        os.close(fd)
        return -1
    return fd
