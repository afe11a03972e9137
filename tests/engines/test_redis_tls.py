"""Redis over TLS: the certificate is checked, and what is wrong with it is said."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trustme
from redis import Redis

from kit.waiting import PATIENCE, stretched
from servers import RedisServer
from windlass import Windlass
from windlass.core.work import Kind, Outcome, Want, WorkerInfo
from windlass.engines.redis import RedisEngine
from windlass.errors import EngineUnavailable, EngineUnusable


class TlsServer(RedisServer):
    """A server that speaks TLS alone, with a certificate of an authority of its own."""

    def __init__(self) -> None:
        super().__init__(wait=False)
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        self.authority = self.folder / "ca.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        chain, key = self.folder / "server.pem", self.folder / "server.key"
        certificate.cert_chain_pems[0].write_to_path(str(chain))
        certificate.private_key_pem.write_to_path(str(key))
        self.configure(
            f"port 0\ntls-port {self.port}\ntls-cert-file {chain}\ntls-key-file {key}\n"
            f"tls-ca-cert-file {self.authority}\ntls-auth-clients no\n"
        )
        self.start()

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}/0?ssl_ca_certs={self.authority}"

    def client(self) -> Redis:
        return Redis("127.0.0.1", self.port, ssl=True, ssl_ca_certs=str(self.authority), socket_timeout=PATIENCE)


@pytest.fixture(scope="module")
def server() -> Iterator[TlsServer]:
    with closing(TlsServer()) as made:
        yield made


def test_a_job_goes_through_with_its_wake_up_and_its_result(server: TlsServer) -> None:
    with Windlass(server.url) as app:

        @app.job(name="add")
        def add(a: int, b: int) -> int:
            return a + b

        handle = add.enqueue(1, 2)
        engine = app.engine
        engine.extend(WorkerInfo("w1", "g", "h", 1, "*", 1, "1", 0), (), 60_000)
        assert engine.wait(["default"], 30)
        (lease,) = engine.claim(Want("w1", 1)).leases
        engine.settle([Outcome(lease.id, lease.fence, Kind.DONE, result="3")])
        assert handle.result(timeout=stretched(PATIENCE)) == 3


def test_an_authority_that_is_not_trusted_is_told_and_nothing_is_sent(server: TlsServer, tmp_path: Path) -> None:
    stranger = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    for options in (f"?ssl_ca_certs={stranger}", ""):
        with pytest.raises(EngineUnusable, match=r"no TLS connection .*certificate"):
            RedisEngine(f"rediss://127.0.0.1:{server.port}/0{options}").open()


def test_a_name_that_the_certificate_does_not_bear_is_refused(server: TlsServer) -> None:
    with pytest.raises(EngineUnusable, match="no TLS connection"):
        RedisEngine(server.url.replace("127.0.0.1", "localhost")).open()


def test_a_client_without_tls_is_told_to_use_it(server: TlsServer) -> None:
    with pytest.raises((EngineUnavailable, EngineUnusable), match="rediss://"):
        RedisEngine(f"redis://127.0.0.1:{server.port}/0", network_timeout_ms=1_000).open()
