"""The signals of the supervisor: none interrupts what it does, each comes to its loop as a byte in a socket."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator

__all__ = ["SIGNALS", "Signals"]

SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGUSR1, signal.SIGTTIN,
    signal.SIGCHLD,
)  # fmt: skip


class Signals:
    """Catches signals while it is open; ``socket`` becomes readable when there are some. For the main thread."""

    def __init__(self) -> None:
        self.socket, self._bell = socket.socketpair()
        for one in (self.socket, self._bell):
            one.setblocking(False)
        signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}

    def caught(self) -> Iterator[int]:
        """Take those that have come, in their order."""
        yield from self.socket.recv(4096)

    def release(self) -> None:
        """Let signals do again what they did before."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def close(self) -> None:
        """Close the socket, when nobody listens any more."""
        self.socket.close()
        self._bell.close()
