"""Framed messages over a Unix socket between the processes of one worker: four bytes of length, then the message.

The application runs in the same processes and may change what Python offers to everybody: a default timeout for
sockets, another class in place of ``socket.socket``, a SIGPIPE that kills. A line depends on none of it: it stands on
the C class, has a timeout of its own, and a write to a process that has gone sends no signal.

File descriptors ride with the first byte of a frame. Both ends are processes of the same program and the same user;
nothing from a store or a network comes this way.
"""

from __future__ import annotations

import _socket
import array
import os
import struct
import threading
from _socket import AF_UNIX, CMSG_SPACE, SCM_RIGHTS, SHUT_RDWR, SOCK_STREAM, SOL_SOCKET, socketpair
from _socket import socket as Socket
from collections.abc import Iterator, Sequence

__all__ = ["Line"]

HEADER = struct.Struct("!I")
FD_SIZE = array.array("i").itemsize
QUIETLY: int = getattr(_socket, "MSG_NOSIGNAL", 0)  # no SIGPIPE
OURS: int = getattr(_socket, "MSG_CMSG_CLOEXEC", 0)  # what came is not for the programs that a job starts


class Line:
    """One end of a line. *Thread-safe* for sending; one thread receives.

    Every call raises OSError when the line is broken, and TimeoutError (one of them) when the other end did not take
    or send a whole message within the timeout: the line is of no use afterwards.
    """

    def __init__(self, fd: int, timeout: float | None = None) -> None:
        """Own a descriptor. ``timeout`` (s) bounds every read and write of a part; None: they may last for ever."""
        self._sock = Socket(AF_UNIX, SOCK_STREAM, 0, fd)
        self._timeout = timeout
        self._sock.settimeout(timeout)  # also when it is None: the default is the application's
        self._sending = threading.Lock()

    @classmethod
    def pair(cls, timeout: float | None = None) -> tuple[Line, Line]:
        """Make both ends, the first with a timeout. Raises OSError when there are no descriptors left."""
        ours, theirs = socketpair(AF_UNIX, SOCK_STREAM, 0)
        return cls(ours.detach(), timeout), cls(theirs.detach())

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""
        return self._sock.fileno()

    def send(self, message: bytes, fds: Sequence[int] = ()) -> None:
        """Send one message, whole, and descriptors with it. *Blocking.*"""
        frame = HEADER.pack(len(message)) + message
        with self._sending:
            if fds:
                rights = [(SOL_SOCKET, SCM_RIGHTS, array.array("i", fds).tobytes())]
                sent = self._sock.sendmsg([frame], rights, QUIETLY)
                frame = frame[sent:]
            self._sock.sendall(frame, QUIETLY)

    def receive(self) -> bytes:
        """Receive one message. *Blocking.* Raises EOFError when the other end has gone."""
        (size,) = HEADER.unpack(self._read(HEADER.size))
        return self._read(size)

    def receive_fds(self, most: int) -> tuple[bytes, list[int]]:
        """Receive one message and up to ``most`` descriptors that came with it.

        There are fewer when this process has no room for them. *Blocking.* Raises EOFError as ``receive`` does.
        """
        head, rights, _, _ = self._sock.recvmsg(HEADER.size, CMSG_SPACE(most * FD_SIZE), OURS)
        if not head:
            raise EOFError("the other process has gone")
        fds = array.array("i")
        for level, kind, data in rights:
            if level == SOL_SOCKET and kind == SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % FD_SIZE])
        for fd in fds if not OURS else ():
            os.set_inheritable(fd, False)
        (size,) = HEADER.unpack(head + self._read(HEADER.size - len(head)))
        return self._read(size), list(fds)

    def rest(self) -> Iterator[bytes]:
        """What has come and was not received, without waiting for more; for a process that has ended."""
        try:
            self._sock.settimeout(0)
            while True:
                yield self.receive()
        except (EOFError, OSError):
            return

    def hang_up(self) -> None:
        """End the line for both ends, even one that waits at this moment. What was sent can still be read."""
        try:
            self._sock.shutdown(SHUT_RDWR)
        except OSError:
            pass  # it is down

    def close(self) -> None:
        """Close the descriptor. *Idempotent.*"""
        self._sock.close()

    def _read(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        parts = []
        while size:
            part = self._sock.recv(size)
            if not part:
                raise EOFError("the other process has gone")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
