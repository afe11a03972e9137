"""A descriptor of our own to where stderr leads, that neither blocks nor ends a process.

It is a copy, so an application may close, replace or redirect its stderr. Writing never raises. A reader that does not
read holds a writer up for ``PATIENCE`` and not again until it reads; meanwhile lines are lost, and the first line that
gets through says how many. Descriptors of ours are non-blocking by themselves: the flag of the one we were given is
shared with the shell and the application, and is not touched.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket

__all__ = ["Outlet"]

PATIENCE: Final = 0.1  # seconds
WHOLE: Final = 4_096  # bytes that reach a pipe in one piece, whoever else writes there (PIPE_BUF)


class Outlet:
    """Writes lines to what ``fd`` leads to now. *Thread-safe.*"""

    def __init__(self, fd: int) -> None:
        self.fd = -1
        self.lost = 0  # lines, since the last one that got through
        self._stuck = False  # the last write had to be given up
        self._torn = False  # the last line has no end
        self._may_block = False
        self._socket: socket.socket | None = None
        self.put: Callable[[bytes], int] = self._nowhere
        self.make_lock()
        try:
            self._open(fd)
        except OSError:
            pass  # it is closed: there is nobody to tell

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._socket is not None:
            self._socket.close()
        elif self.fd >= 0:
            os.close(self.fd)

    def make_lock(self) -> None:
        """Make a new lock: the old one may be held by a thread that a fork has left behind."""
        self._lock = threading.RLock()  # a signal handler may write in the middle of a write

    def write(self, lines: Sequence[bytes]) -> None:
        """Write whole lines, several with one call where they fit."""
        with self._lock:
            at = 0
            while at < len(lines):
                size, end = len(lines[at]), at + 1
                while end < len(lines) and size + len(lines[end]) <= WHOLE:
                    size += len(lines[end])
                    end += 1
                self._write(b"".join(lines[at:end]), end - at)
                at = end

    def _open(self, fd: int) -> None:
        mode = os.fstat(fd).st_mode
        self.fd = os.dup(fd)
        if stat.S_ISSOCK(mode):
            import socket  # late: few have one

            sock = self._socket = socket.socket(fileno=self.fd)
            self.put = lambda data: sock.send(data, socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0))
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            try:  # a second opening has flags of its own
                own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:  # not Linux, another user's terminal, or no reader any more
                self._may_block = True
            else:
                os.close(self.fd)
                self.fd = own
            self.put = self._to_file
        else:
            self.put = self._to_file

    def _nowhere(self, data: bytes) -> int:
        return len(data)

    def _to_file(self, data: bytes) -> int:
        if not self._may_block:
            return os.write(self.fd, data)
        if not self._is_ready(0):
            raise BlockingIOError
        return os.write(self.fd, data[:WHOLE])

    def _write(self, data: bytes, lines: int) -> None:
        if self.lost:
            data = b"(%d lines were lost here: stderr could not be written to)\n%b" % (self.lost, data)
        if self._torn:
            data = b"\n" + data
        whole = len(data)
        while data:
            try:
                data = data[self.put(data) :]
            except BlockingIOError:
                if self._stuck or not self._is_ready(PATIENCE):
                    self._stuck = True
                    break
            except OSError:  # the reader has gone, the disk is full
                break
        if not data:
            self.lost = 0
            self._stuck = self._torn = False
            return
        self.lost += lines
        self._torn = self._torn or len(data) < whole

    def _is_ready(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(seconds * 1_000))
