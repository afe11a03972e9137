"""``/livez`` and ``/readyz`` over a real socket."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator

import pytest

from kit.waiting import PATIENCE
from windlass.errors import ConfigError, EngineUnavailable
from windlass.worker.process.probe import CLIENTS_MAX, Probe


class Served:
    def __init__(self) -> None:
        self.wrong: str | None = None
        self.away = False
        self.gate = threading.Event()
        answers = {"/livez": lambda: None, "/readyz": lambda: self.wrong}
        self.probe = Probe("127.0.0.1", 0, answers, {"/figures": self.figures})
        self.probe.start()

    def figures(self) -> bytes:
        assert self.gate.wait(PATIENCE)
        if self.away:
            raise EngineUnavailable("the store is away")
        return b'{"ready":3}'

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.probe.port, timeout=PATIENCE)
        connection.request(method, path)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def close(self) -> None:
        self.gate.set()
        self.probe.close()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def test_what_is_well_is_200_and_what_is_not_is_503_with_the_reason(served: Served) -> None:
    assert served.get("/livez") == (200, "ok\n")
    assert served.get("/readyz?verbose=1") == (200, "ok\n")
    served.wrong = "the store has been away for 7 s"
    assert served.get("/readyz") == (503, "the store has been away for 7 s\n")
    assert served.get("/livez")[0] == 200


def test_a_page_is_json_and_503_says_why_there_is_none(served: Served) -> None:
    served.gate.set()
    assert served.get("/figures?since=1") == (200, '{"ready":3}\n')
    assert served.get("/figures", "HEAD") == (200, "")
    assert served.get("/figures", "POST")[0] == 405
    served.away = True
    assert served.get("/figures") == (503, "the store is away\n")


def test_an_answer_waits_for_no_page(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.probe.port), PATIENCE) as patient:
        patient.sendall(b"GET /figures HTTP/1.1\r\n\r\n")
        assert served.get("/livez") == (200, "ok\n")
        served.gate.set()
        assert patient.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_other_paths_and_methods_are_refused(served: Served) -> None:
    assert served.get("/")[0] == 404
    assert served.get("/livez", "POST")[0] == 405
    assert served.get("/livez", "HEAD") == (200, "")


def test_garbage_and_silence_harm_nobody(served: Served) -> None:
    silent = [socket.create_connection(("127.0.0.1", served.probe.port), PATIENCE) for _ in range(CLIENTS_MAX - 1)]
    with socket.create_connection(("127.0.0.1", served.probe.port), PATIENCE) as rude:
        rude.sendall(b"\x00\xff" * 8_000)
        assert rude.recv(100).startswith(b"HTTP/1.1 405")
    assert served.get("/livez")[0] == 200
    for sock in silent:
        sock.close()


def test_a_request_may_come_in_pieces(served: Served) -> None:
    with socket.create_connection(("127.0.0.1", served.probe.port), PATIENCE) as slow:
        for piece in (b"GET /li", b"vez HTTP/1.1\r\nHost", b": x\r\n\r\n"):
            slow.sendall(piece)
        assert slow.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_a_port_that_is_taken_says_so(served: Served) -> None:
    with pytest.raises(ConfigError, match=f"--http-port {served.probe.port} on 127.0.0.1 cannot be had"):
        Probe("127.0.0.1", served.probe.port, {})


def ask(port: int, head: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\n" + head + b"\r\n")
        return client.recv(200).partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"Host: 127.0.0.1\r\n",
        b"host:localhost:80\r\n",
        b"HOST:  LocalHost.\r\n",
        b"Host: [::1]:8\r\n",
        b"Host: 10.1.2.3:8\r\n",
    ],
)
def test_a_request_to_an_address_or_localhost_is_answered(served: Served, host: bytes) -> None:
    assert ask(served.probe.port, host) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    "host",
    [
        b"Host: evil.example\r\n",
        b"Host: localhost.evil.example:80\r\n",
        b"A: b\r\nHost: 127.0.0.1.nip.io\r\n",
    ],
)
def test_a_name_that_was_pointed_here_is_not_answered(served: Served, host: bytes) -> None:
    assert ask(served.probe.port, host) == b"HTTP/1.1 421 Misdirected Request"
    served.gate.set()
    with socket.create_connection(("127.0.0.1", served.probe.port), PATIENCE) as client:
        client.sendall(b"GET /figures HTTP/1.1\r\n" + host + b"\r\n")
        assert b"ready" not in client.makefile("rb").read()


def test_on_another_address_names_are_not_known_and_answered() -> None:
    probe = Probe("0.0.0.0", 0, {"/livez": lambda: None})
    probe.start()
    try:
        assert not probe.local
        assert ask(probe.port, b"Host: worker:80\r\n") == b"HTTP/1.1 200 OK"
    finally:
        probe.close()
