"""A TCP proxy in this process that spoils connections on request: resets, silence, lost answers, slowness."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

PIECE = 65_536


class Proxy:
    """Forwards a free loopback port to another one.

    ``drop`` resets every connection. ``silence`` accepts and forwards nothing until it ends. ``lose`` lets the next
    request that holds a text through, and resets its connection instead of giving the answer. ``delay`` holds each
    piece for so many seconds, both ways.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self.delay = 0.0
        self.lost = 0
        self._open = threading.Event()
        self._open.set()
        self._lose: bytes | None = None
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._closed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def point(self, port: int) -> None:
        """Send new connections elsewhere."""
        self._target = port

    def lose(self, text: str) -> None:
        self._lose = text.encode()

    @contextlib.contextmanager
    def silence(self) -> Iterator[None]:
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def drop(self) -> None:
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._reset(pair)

    def close(self) -> None:
        self._closed.set()
        self._open.set()
        self._listener.close()
        self.drop()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            answers = threading.Event()  # set while the answers of this connection are to be lost
            with self._lock:
                self._pairs.add(pair)
            threading.Thread(target=self._pump, args=(pair, client, server, answers, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(pair, server, client, answers, False), daemon=True).start()

    def _pump(
        self,
        pair: tuple[socket.socket, socket.socket],
        source: socket.socket,
        sink: socket.socket,
        losing: threading.Event,
        asking: bool,
    ) -> None:
        try:
            while piece := source.recv(PIECE):
                self._open.wait()
                if self.delay:
                    self._closed.wait(self.delay)
                if asking and self._lose is not None and self._lose in piece:
                    self._lose = None
                    losing.set()
                elif not asking and losing.is_set():
                    self.lost += 1
                    break
                sink.sendall(piece)
        except OSError:
            pass
        self._reset(pair)

    def _reset(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            if pair not in self._pairs:
                return
            self._pairs.remove(pair)
        for one in pair:
            # Lingering for no time makes close send a reset; shutdown first wakes the thread that reads it.
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RD)
            one.close()
