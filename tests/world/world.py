"""An application that a test writes, the worker that runs it, and what can be seen of both from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from windlass import JobInfo, State, Windlass
from windlass.core.ids import new_id
from windlass.core.model import NewJob
from windlass.testing.conformance.harness import place

T = TypeVar("T")

DEADLINE = 90.0
HEAD = """
import asyncio, ctypes, os, re, signal, socket, subprocess, sys, threading, time
from windlass import Constant, JobContext, Retry, Windlass, current_job

app = Windlass({url!r}, {settings})


@app.job(name="quick")
def quick() -> int:
    return os.getpid()


@app.job(name="aquick")
async def aquick() -> int:
    return os.getpid()


@app.job(name="inchild", executor="process")
def inchild() -> int:
    return os.getpid()


def note(text):
    with open("ledger", "a") as file:
        file.write(text + "\\n")


def hold(gate):
    while not os.path.exists(gate):
        time.sleep(0.01)

"""
SETTINGS = {"renew": "500ms", "lease": "5s", "reap": "500ms"}


class World:
    """A folder with an application, its store, and its workers."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.folder = folder
        self.url = url or f"sqlite:///{folder}/jobs.db"
        self.log = folder / "worker.log"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.app = Windlass(self.url)

    def write(self, code: str, **settings: object) -> None:
        """Make the application: the jobs ``quick``, ``aquick`` and ``inchild``, and what the test adds."""
        text = ", ".join(f"{name}={value!r}" for name, value in (SETTINGS | settings).items())
        (self.folder / "world_jobs.py").write_text(HEAD.format(url=self.url, settings=text) + code)

    def start(self, *options: str, begin: str = "", **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker in a process group of its own; ``begin``: code that its first process runs before all else."""
        code = f"import sys; sys.path.insert(0, '.'); {begin}; from windlass.cli.main import main; sys.exit(main())"
        command = [sys.executable, "-c", code] if begin else [sys.executable, "-m", "windlass"]
        with self.log.open("ab") as log:
            worker = subprocess.Popen(
                [*command, "-A", "world_jobs:app", "worker", *options],
                cwd=self.folder,
                env={**{k: v for k, v in os.environ.items() if not k.startswith("WINDLASS_")}, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.workers.append(worker)
        return worker

    def enqueue(self, name: str, *args: object, **options: object) -> str:
        """Store a job by name, as another program would; it runs once unless told otherwise."""
        job_id = new_id()
        payload = json.dumps([1, list(args), {}])
        options.setdefault("max_attempts", 1)
        place(self.app.engine, [NewJob(job_id, name, "default", payload, **options)])  # type: ignore[arg-type]
        return job_id

    def info(self, job_id: str) -> JobInfo:
        found = self.app.get(job_id)
        assert found is not None
        return found

    def ended(self, job_id: str) -> JobInfo:
        """Wait for the end of a job."""
        return self.until(
            lambda: (info := self.info(job_id)).state in (State.DONE, State.DEAD, State.CANCELLED) and info
        )

    def value(self, job_id: str) -> object:
        """Wait for the result of a job."""
        info = self.ended(job_id)
        assert info.state is State.DONE, (info, self.said())
        return info.result

    def running(self, job_id: str) -> None:
        """Wait until a job runs."""
        self.until(lambda: self.info(job_id).state is State.RUNNING)

    def ledger(self) -> list[str]:
        file = self.folder / "ledger"
        return file.read_text().splitlines() if file.exists() else []

    def open_gate(self, name: str = "gate") -> None:
        (self.folder / name).touch()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, look: Callable[[], T], seconds: float = DEADLINE) -> T:
        """Look again and again until what is seen is true; then give it."""
        deadline = time.monotonic() + seconds
        while True:
            seen = look()
            if seen:
                return seen
            assert time.monotonic() < deadline, self.said()[-6_000:]
            time.sleep(0.02)

    def heard(self, text: str) -> None:
        """Wait until the worker has said something."""
        self.until(lambda: text in self.said())

    def stop(self, worker: subprocess.Popen[bytes], code: int = 0) -> None:
        worker.terminate()
        assert worker.wait(DEADLINE) == code, self.said()

    def command(self, *words: str, code: int = 0) -> str:
        """Run a command of ``windlass`` on the store."""
        done = subprocess.run(
            [sys.executable, "-m", "windlass", *words, "--url", self.url],
            cwd=self.folder,
            env={**os.environ, "COLUMNS": "300"},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout

    def get(self, path: str) -> tuple[int, str]:
        """Ask the worker's HTTP port."""
        port = self.said().partition("http://127.0.0.1:")[2].split()[0]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def tree(self, worker: subprocess.Popen[bytes]) -> list[int]:
        """Every process below a worker."""
        found, new = [], [worker.pid]
        while new:
            pid = new.pop()
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                try:
                    below = [int(one) for one in task.read_text().split()]
                except OSError:
                    continue
                found += below
                new += below
        return found

    def close(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGQUIT)
            worker.wait(DEADLINE)
        self.app.close()


@contextmanager
def world_in(folder: Path, url: str | None = None) -> Iterator[World]:
    made = World(folder, url)
    try:
        yield made
    finally:
        made.close()


def alive(pid: int) -> bool:
    """Whether a process lives; one that has ended and was not collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
