"""Noticing that source files have changed, for ``--reload`` in development.

With the ``watchfiles`` package the system tells; without it the files' times are looked at every ``LOOK`` seconds. One
thread, which only ever writes a byte to a socket. It must not restart anything itself, and it is not for production.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import threading
from collections.abc import Iterator

__all__ = ["FileWatch", "changed_files", "snapshot"]

LOOK = 0.5  # seconds between looks
ENDINGS = (".py", ".toml", ".yaml", ".yml", ".env")
SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages", "dist", "build"})


class FileWatch:
    """Watches the source files below a directory; ``socket`` becomes readable when some have changed."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.socket, self._ours = socket.socketpair()
        self.socket.setblocking(False)
        self._closed = threading.Event()
        watch = self._watch if importlib.util.find_spec("watchfiles") else self._look
        self._thread = threading.Thread(target=watch, name="windlass-reload", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def drain(self) -> None:
        """Read what has come, so that the next change is news."""
        with contextlib.suppress(BlockingIOError):
            self.socket.recv(4_096)

    def close(self) -> None:
        """End the thread. *Blocking*, for a moment."""
        self._closed.set()
        self._thread.join(2 * LOOK)
        self.socket.close()
        self._ours.close()

    def _tell(self) -> None:
        with contextlib.suppress(OSError):
            self._ours.send(b"\0")

    def _look(self) -> None:
        before = snapshot(self._root)
        while not self._closed.wait(LOOK):
            now = snapshot(self._root)
            if changed_files(before, now):
                self._tell()
            before = now

    def _watch(self) -> None:
        from watchfiles import watch

        for changes in watch(self._root, stop_event=self._closed, rust_timeout=500):
            if any(path.endswith(ENDINGS) for _, path in changes):
                self._tell()


def snapshot(root: str) -> dict[str, tuple[int, int]]:
    """Time and size of every source file below a directory; virtual environments and hidden folders are left out."""
    return dict(source_files(root))


def changed_files(before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]) -> set[str]:
    """The files that came, went or changed between two snapshots."""
    return {path for path in before.keys() | now.keys() if before.get(path) != now.get(path)}


def source_files(root: str) -> Iterator[tuple[str, tuple[int, int]]]:
    for folder, folders, names in os.walk(root):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in SKIPPED
            and not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))
        ]
        for name in names:
            if name.endswith(ENDINGS):
                path = os.path.join(folder, name)
                with contextlib.suppress(OSError):  # it has just gone
                    stat = os.stat(path)
                    yield path, (stat.st_mtime_ns, stat.st_size)
