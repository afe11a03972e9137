"""Redis servers for tests: started from PATH on free loopback ports in temporary folders, and ended by process id."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from random import SystemRandom

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from kit.waiting import PATIENCE, until

GUIDE = Path(__file__).parents[1] / "docs" / "redis.md"
QUICK = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
MISSING = "redis-server is not in PATH: these tests need it (apt-get install redis-server)"


def free_port() -> int:
    """A loopback port that nobody has, and from a range that the system gives to no client meanwhile.

    A cluster's bus takes the port 10,000 above, which is free and in no such range either.
    """
    while True:
        port = SystemRandom().randrange(10_000, 22_000)
        with socket.socket() as probe, socket.socket() as bus:
            try:
                probe.bind(("127.0.0.1", port))
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        return port


def plain(port: int, **options: object) -> Redis:
    """A client that tries once."""
    return Redis(port=port, socket_timeout=PATIENCE, retry=Retry(NoBackoff(), 0), **options)  # type: ignore[arg-type]


def caught_up(master: Redis, replica: Redis) -> None:
    """Wait until a replica has every write that its master has taken until now. WAIT says that of one connection's."""
    offset = master.info("replication")["master_repl_offset"]
    until(lambda: replica.info("replication").get("slave_repl_offset", -1) >= offset, "the replica lags behind")


class RedisServer:
    """One server process. ``stop`` ends it; ``start`` brings it back on the same port and folder."""

    def __init__(self, *options: str, sentinel: bool = False, wait: bool = True, password: str | None = None) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.fail(MISSING)
        self._folder = tempfile.TemporaryDirectory(prefix="windlass-redis-")
        self.folder = Path(self._folder.name)
        self.port = free_port()
        self.password = password
        self._config = self.folder / "redis.conf"
        self._config.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n")
        self._command = [program, str(self._config), *(["--sentinel"] if sentinel else [])]
        self._options = () if sentinel else (*QUICK, *options)
        self._process: subprocess.Popen[bytes] | None = None
        if wait:
            self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def configure(self, text: str) -> None:
        """Add to the configuration file, before the start."""
        with self._config.open("a") as file:
            file.write(text)

    def client(self) -> Redis:
        return plain(self.port, password=self.password)

    def start(self, *more: str) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*self._command, *self._options, *more], stdout=log, stderr=log)
        until(self.answers, f"redis-server on port {self.port} does not answer", (self.folder / "log").read_text)

    def answers(self) -> bool:
        """Whether it is there; another server that was quicker to take the port is not."""
        assert self._process is not None
        with self.client() as client:
            try:
                return bool(client.ping()) and client.info("server")["process_id"] == self._process.pid
            except RedisError:
                return False

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def send(self, what: signal.Signals) -> None:
        """Send a signal such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(what)

    def close(self) -> None:
        self.stop(signal.SIGKILL)
        self._folder.cleanup()


class Cluster:
    """Three masters on loopback ports that share the slots."""

    def __init__(self) -> None:
        self.servers = [
            # A node that a busy machine lets wait must not be taken for dead: no test here is about a lost node.
            RedisServer(
                "--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "120000"
            )
            for _ in range(3)
        ]
        bounds = [0, 5461, 10923, 16384]
        for n, server in enumerate(self.servers):
            with server.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[n], bounds[n + 1] - 1)
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.servers[0].port)
        until(self.ready, "the cluster does not come together")

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.servers)

    def ready(self) -> bool:
        for server in self.servers:
            with server.client() as client:
                text = client.execute_command("CLUSTER", "INFO")
                shards = client.execute_command("CLUSTER", "SLOTS")
                state = text.get("cluster_state") if isinstance(text, dict) else text
                if str(state) != "ok" and "cluster_state:ok" not in str(state):
                    return False
                if len(shards) != 3:
                    return False
        return True

    def flush(self) -> None:
        for server in self.servers:
            with server.client() as client:
                client.flushall()

    def close(self) -> None:
        for server in self.servers:
            server.close()


class Replicated:
    """A master, a replica, and a Sentinel that knows the master as ``mymaster``."""

    def __init__(self) -> None:
        self.master = RedisServer()
        self.replica = RedisServer("--replicaof", "127.0.0.1", str(self.master.port))
        self.sentinel = RedisServer(sentinel=True, wait=False)
        self.sentinel.configure(
            f"sentinel monitor mymaster 127.0.0.1 {self.master.port} 1\n"
            "sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 3000\n"
        )
        until(self.linked, "the replica does not follow its master")
        self.sentinel.start()  # only now: it looks for replicas at once, and then every ten seconds

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/mymaster/0"

    def linked(self) -> bool:
        with self.replica.client() as client:
            return bool(client.info("replication").get("master_link_status") == "up")

    def close(self) -> None:
        for server in (self.sentinel, self.replica, self.master):
            server.close()


def of_the_guide(server: RedisServer | Cluster | Replicated) -> str:
    """Make the user that the guide describes, with its very words; give the URL as that user."""
    rules = [line.split() for line in re.findall(r"^ACL SETUSER .*$", GUIDE.read_text("utf-8"), re.MULTILINE)]
    match server:
        case Cluster():
            every = server.servers
        case Replicated():
            every, rules = [server.master, server.replica], rules[:1]
        case _:
            every, rules = [server], rules[:1]
    for each in every:
        with each.client() as client:
            for rule in rules:
                client.execute_command(*rule)
    password = next(word[1:] for word in rules[0] if word.startswith(">"))
    return server.url.replace("://", f"://jobs:{password}@", 1)
