"""An application that a test writes, the worker that runs it, and what can be seen of both from outside."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

from kit.fleet import Fleet, Process
from windlass import JobInfo, State, Windlass
from windlass.core.ids import new_id
from windlass.core.model import NewJob
from windlass.testing.conformance.harness import place

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


class World(Fleet):
    """A folder with an application, its store, and its workers."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        super().__init__(folder, url or f"sqlite:///{folder}/jobs.db", "world_jobs:app")
        self.app = Windlass(self.url)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.app.close()

    def write(self, code: str, **settings: object) -> None:
        """Make the application: the jobs ``quick``, ``aquick`` and ``inchild``, and what the test adds."""
        text = ", ".join(f"{name}={value!r}" for name, value in (SETTINGS | settings).items())
        (self.folder / "world_jobs.py").write_text(HEAD.format(url=self.url, settings=text) + code)

    def start_with(self, begin: str, *options: str) -> Process:
        """Start a worker whose first process runs this code before all else."""
        code = f"import sys; sys.path.insert(0, '.'); {begin}; from windlass.cli.main import main; sys.exit(main())"
        return self.program(sys.executable, "-c", code, "-A", self.loads, "worker", *options)

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

    def get(self, path: str) -> tuple[int, str]:
        """Ask the worker's HTTP port."""
        port = self.said().partition("http://127.0.0.1:")[2].split()[0]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
