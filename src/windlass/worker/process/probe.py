"""``/livez`` and ``/readyz``, and pages of figures, over HTTP from threads of the supervisor.

No framework: a request is read as it comes, answered with one line, and the connection is closed. A client that sends
nothing is dropped after ``PATIENCE``. An answer must not ask the store anything: what it tells, the worker processes
have left in shared memory. Pages may; a second thread makes them, one by one, so that an answer waits for none of them.

On a loopback address only requests to an address or to a name without a dot, such as ``localhost``, are answered: a web
page whose name was pointed at this machine brings that name as the Host, and it has a dot. On other addresses it is not
known here by which names others come, and all are answered.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from queue import Full, Queue

from windlass.core.errors import ConfigError, EngineError

__all__ = ["Probe"]

PATIENCE = 5.0  # seconds a client may take to send its request
REQUEST_MAX = 8_192  # bytes of a request that are read
CLIENTS_MAX = 64  # at once; probes come one by one, and who is silent makes room for them
REST = 1.0  # seconds between tries to take clients when there are no descriptors

HOST = re.compile(rb"(?im)^host:([^\r\n]*)")

Answer = Callable[[], str | None]  # None: all is well, else what is wrong
Page = Callable[[], bytes]  # JSON; raises EngineError when the store is away


class Probe:
    """A listening socket and the thread that serves it."""

    def __init__(
        self, host: str, port: int, answers: Mapping[str, Answer], pages: Mapping[str, Page] | None = None
    ) -> None:
        """``answers`` and ``pages`` by path. Raises ConfigError when the port cannot be had."""
        self._selector = selectors.DefaultSelector()
        self._answers = answers
        self._pages = pages or {}
        self._asked: Queue[tuple[socket.socket, Page, bool] | None] = Queue(CLIENTS_MAX)
        self._clients: dict[socket.socket, tuple[float, bytes]] = {}
        try:
            self._listener = socket.create_server((host, port), family=family_of(host), backlog=16)
        except OSError as error:
            raise ConfigError(f"--http-port {port} on {host} cannot be had: {error.strerror or error}") from error
        self._listener.setblocking(False)
        self.local = is_local(host)
        self.port: int = self._listener.getsockname()[1]
        self._wake_r, self._wake_w = socket.socketpair()
        self._closed = False
        self._resting_until = 0.0  # the system has no descriptor for a client
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_r, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="windlass-probe", daemon=True)
        self._writer = threading.Thread(target=self._write_pages, name="windlass-pages", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()
        self._writer.start()

    def close(self) -> None:
        """Answer nobody any more. *Blocking*, for a moment."""
        self._closed = True
        self._wake_w.send(b"\0")
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
        with contextlib.suppress(Full):
            self._asked.put_nowait(None)
        self._selector.close()
        for sock in (*self._clients, self._listener, self._wake_r, self._wake_w):
            sock.close()

    def _serve(self) -> None:
        while not self._closed:
            if self._resting_until and time.monotonic() >= self._resting_until:
                self._resting_until = 0.0
                self._selector.register(self._listener, selectors.EVENT_READ)
            for key, _ in self._selector.select(REST if self._resting_until else None):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is self._listener:
                    self._accept()
                elif sock in self._clients:
                    self._read(sock)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptors left: it would be asked again at once, for ever
            self._selector.unregister(self._listener)
            self._resting_until = time.monotonic() + REST
            return
        client.setblocking(False)
        self._drop_slow()
        if len(self._clients) >= CLIENTS_MAX:
            self._drop(next(iter(self._clients)))  # the oldest: whoever asks now has a question
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
            self._take(client, request)
        elif not part:
            self._drop(client)
        else:
            self._clients[client] = (since, request)

    def _take(self, client: socket.socket, request: bytes) -> None:
        """Answer a request, or hand it to the writer of pages, which then owns the connection."""
        method, _, rest = request.split(b"\n", 1)[0].partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0].decode("latin-1")
        whole, page = method != b"HEAD", self._pages.get(path)
        misdirected = self.local and not is_for_here(request)
        if page is not None and method in (b"GET", b"HEAD") and not misdirected:
            del self._clients[client]
            self._selector.unregister(client)
            try:
                self._asked.put_nowait((client, page, whole))
            except Full:
                client.close()
            return
        refusal = response("421 Misdirected Request", b"ask for localhost, or for an address", whole)
        with contextlib.suppress(OSError):
            client.send(
                refusal if misdirected else self._respond(method, path, whole)
            )  # one packet; a client that cannot take it gets none
        self._drop(client)

    def _respond(self, method: bytes, path: str, whole: bool) -> bytes:
        answer = self._answers.get(path)
        if method not in (b"GET", b"HEAD"):
            return response("405 Method Not Allowed", b"GET only", whole)
        if answer is None:
            return response("404 Not Found", f"there is {', '.join([*self._answers, *self._pages])}".encode(), whole)
        wrong = answer()
        if wrong is None:
            return response("200 OK", b"ok", whole)
        return response("503 Service Unavailable", wrong.encode(), whole)

    def _write_pages(self) -> None:
        while (asked := self._asked.get()) is not None:
            client, page, whole = asked
            with client, contextlib.suppress(OSError):
                client.settimeout(PATIENCE)
                client.sendall(written(page, whole))

    def _drop_slow(self) -> None:
        limit = time.monotonic() - PATIENCE
        for client in [one for one, (since, _) in self._clients.items() if since < limit]:
            self._drop(client)

    def _drop(self, client: socket.socket) -> None:
        del self._clients[client]
        self._selector.unregister(client)
        client.close()


def written(page: Page, whole: bool) -> bytes:
    """The response with a page, or with why there is none."""
    try:
        return response("200 OK", page(), whole, "application/json")
    except EngineError as error:
        return response("503 Service Unavailable", str(error).encode(), whole)


def response(status: str, body: bytes, whole: bool, kind: str = "text/plain; charset=utf-8") -> bytes:
    """A response and its end of line; without its body unless ``whole``."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body) + 1}\r\n"
    return f"{head}Cache-Control: no-store\r\nConnection: close\r\n\r\n".encode() + (body + b"\n" if whole else b"")


def is_local(host: str) -> bool:
    """Whether only programs of this machine can reach an address."""
    return host == "localhost" or is_address(host, lambda address: address.is_loopback)


def is_for_here(request: bytes) -> bool:
    """Whether a request names no host, an address, or a name that nobody out in the world can have."""
    found = HOST.search(request)
    host = "" if found is None else found[1].strip().decode("latin-1")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return "." not in name.rstrip(".") or is_address(name, lambda _: True)


def is_address(text: str, fits: Callable[[IPv4Address | IPv6Address], bool]) -> bool:
    """Whether a text is an address that fits."""
    try:
        return fits(ip_address(text))
    except ValueError:
        return False


def family_of(host: str) -> socket.AddressFamily:
    """The family of an address as written."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET
