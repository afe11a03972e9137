"""``/livez`` and ``/readyz``: two questions, answered over HTTP by one thread of the supervisor.

A thread, because the supervisor's loop may have to wait for a store that is away, which is when somebody wants to know.
No framework: a request is read as it comes, answered with one line, and the connection is closed. A client that sends
nothing is dropped after ``PATIENCE``. It must not ask the store anything: what it tells, the worker processes have left
in shared memory.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping

from windlass.errors import ConfigError

__all__ = ["Probe"]

PATIENCE = 5.0  # seconds a client may take to send its request
REQUEST_MAX = 8_192  # bytes of a request that are read
CLIENTS_MAX = 64  # at once; probes come one by one

Answer = Callable[[], str | None]  # None: all is well, else what is wrong


class Probe:
    """A listening socket and the thread that serves it."""

    def __init__(self, host: str, port: int, answers: Mapping[str, Answer]) -> None:
        """``answers`` by path; they are called in the thread. Raises ConfigError when the port cannot be had."""
        self._selector = selectors.DefaultSelector()
        self._answers = answers
        self._clients: dict[socket.socket, tuple[float, bytes]] = {}
        try:
            self._listener = socket.create_server((host, port), family=family_of(host), backlog=16)
        except OSError as error:
            raise ConfigError(f"--http-port {port} on {host} cannot be had: {error.strerror or error}") from error
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._wake_r, self._wake_w = socket.socketpair()
        self._closed = False
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_r, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="windlass-probe", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more. *Blocking*, for a moment."""
        self._closed = True
        self._wake_w.send(b"\0")
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
        self._selector.close()
        for sock in (*self._clients, self._listener, self._wake_r, self._wake_w):
            sock.close()

    def _serve(self) -> None:
        while not self._closed:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._listener:
                    self._accept()
                elif sock in self._clients:
                    self._read(sock)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            client.setblocking(False)
            self._drop_slow()
            if len(self._clients) >= CLIENTS_MAX:
                client.close()
                return
            self._clients[client] = (time.monotonic(), b"")
            self._selector.register(client, selectors.EVENT_READ)

    def _read(self, client: socket.socket) -> None:
        since, request = self._clients[client]
        try:
            part = client.recv(4_096)
        except BlockingIOError:
            return
        except OSError:
            part = b""
        request += part
        if b"\r\n\r\n" in request or b"\n\n" in request or len(request) > REQUEST_MAX:
            with contextlib.suppress(OSError):
                client.send(self._respond(request))  # one packet; a client that cannot take it gets none
            part = b""
        if not part:
            self._drop(client)
        else:
            self._clients[client] = (since, request)

    def _respond(self, request: bytes) -> bytes:
        method, _, rest = request.split(b"\n", 1)[0].partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0].decode("latin-1")
        answer = self._answers.get(path)
        if method not in (b"GET", b"HEAD"):
            status, body = "405 Method Not Allowed", "GET only"
        elif answer is None:
            status, body = "404 Not Found", f"there is {' and '.join(self._answers)}"
        else:
            wrong = answer()
            status, body = ("200 OK", "ok") if wrong is None else ("503 Service Unavailable", wrong)
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body.encode()) + 1}"
        )
        text = f"{head}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        return (text if method == b"HEAD" else f"{text}{body}\n").encode()

    def _drop_slow(self) -> None:
        limit = time.monotonic() - PATIENCE
        for client in [one for one, (since, _) in self._clients.items() if since < limit]:
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        del self._clients[client]
        self._selector.unregister(client)
        client.close()


def family_of(host: str) -> socket.AddressFamily:
    """The family of an address as written."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET
