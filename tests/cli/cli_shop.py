"""A small application in a directory of its own, the command run on it, and a stand-in for its workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from click.testing import CliRunner, Result

from kit.waiting import PATIENCE
from windlass import Windlass
from windlass.cli.main import cli
from windlass.core.fingerprint import cause_of
from windlass.core.history import encode_error
from windlass.core.ids import new_id
from windlass.core.work import Kind, Lease, Outcome, Want, WorkerInfo

MODULE = """
from datetime import datetime

from windlass import JobContext, Windlass

app = Windlass("sqlite:///shop.db", lease="{lease}", renew="50ms")


@app.job(name="charge", queue="payments", redact=["card"], tags=["money"])
def charge(payment_id: int, card: str = "none") -> dict[str, int]:
    return {{"paid": payment_id}}


@app.job(name="remind")
async def remind(ctx: JobContext, when: datetime) -> str:
    return when.isoformat()
"""


class Shop:
    """The directory, and what a test does with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder}/shop.db"
        self.write("cli_shop_jobs.py", MODULE.format(lease="30s"))

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.write_text(text)
        return file

    def run(self, *args: str, code: int = 0, input: str | None = None, app: bool = True) -> Result:
        """Run the command in this process; its exit code must be ``code``."""
        sys.modules.pop("cli_shop_jobs", None)
        command = ["-A", "cli_shop_jobs", *args] if app else list(args)
        result = CliRunner().invoke(cli, command, input=input)
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
        return result

    def json(self, *args: str, code: int = 0, app: bool = True) -> object:
        """Run the command with ``--json`` and give what stands on stdout."""
        return json.loads(self.run(*args, "--json", code=code, app=app).stdout)

    def popen(self, *args: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start the command as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "windlass.cli.main", *args],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            env={key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")},
        )

    def enqueue(self, *args: str) -> str:
        """Store one job by the command and give its id."""
        return self.run("enqueue", *args).stdout.strip()

    @contextmanager
    def store(self) -> Iterator[Windlass]:
        with Windlass(self.url) as app:
            yield app

    @contextmanager
    def claimed(self, queues: str = "*", limit: int = 1) -> Iterator[list[Lease]]:
        """Jobs that a live worker has claimed and is running."""
        with self.store() as app:
            info = register(app, queues)
            yield app.engine.claim(Want(info.id, limit)).leases

    def settle(self, kind: Kind, limit: int = 1, result: str | None = None, delay_ms: int = 0) -> None:
        """Have a worker claim what is ready and end it so."""
        with self.store() as app:
            info = register(app)
            leases = app.engine.claim(Want(info.id, limit)).leases
            assert leases
            app.engine.settle([outcome(lease, kind, result, delay_ms) for lease in leases])
            app.engine.depart(info.id)

    @contextmanager
    def worker(self, kind: Kind, result: str | None = None) -> Iterator[None]:
        """A live worker that ends every job in one way."""
        stop = threading.Event()
        ready = threading.Event()

        def work() -> None:
            with self.store() as app:
                info = register(app)
                ready.set()
                while not stop.is_set():
                    leases = app.engine.claim(Want(info.id, 1)).leases
                    app.engine.settle([outcome(lease, kind, result, 0) for lease in leases])
                    app.engine.wait(None, 0.1)

        thread = threading.Thread(target=work)
        thread.start()
        assert ready.wait(PATIENCE)
        try:
            yield
        finally:
            stop.set()
            thread.join(PATIENCE)


def register(app: Windlass, queues: str = "*") -> WorkerInfo:
    info = WorkerInfo(new_id(), new_id(), "host-1", 4711, queues, 10, "1", app.clock.wall_ms())
    app.engine.extend(info, [], 60_000)
    return info


def outcome(lease: Lease, kind: Kind, result: str | None, delay_ms: int) -> Outcome:
    error = cause = None
    if kind in (Kind.DEAD, Kind.RETRY):
        try:
            raise ValueError("card declined")
        except ValueError as raised:
            cause = cause_of(raised)
            error = encode_error(raised, attempt=lease.attempt, at=int(time.time() * 1_000), limit=4_096)
    return Outcome(lease.id, lease.fence, kind, result, error, delay_ms=delay_ms, cause=cause)
