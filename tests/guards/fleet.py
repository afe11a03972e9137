"""A few real workers on one store, and what their ledger says."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src"


def until(condition: Callable[[], T], timeout: float, what: str) -> T:
    """Wait until the condition holds and give its value."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"after {timeout} s still not: {what}"
        time.sleep(0.02)


def elapse(seconds: float) -> None:
    """Let a fault last."""
    over = time.monotonic() + seconds
    until(lambda: time.monotonic() >= over, seconds + 60, "time to pass")


class Fleet:
    """The folder of one test and the processes on it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        clean = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
        self._env = {
            **clean,
            "WINDLASS_URL": url,
            "GUARDS_DIR": str(folder),
            "PYTHONPATH": f"{TESTS}{os.pathsep}{SOURCE}",
        }

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a Python process in a session of its own; its output goes to a file of the folder."""
        with (self.folder / f"log-{len(self._processes)}").open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=self.folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._processes.append(process)
        return process

    def worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one ``windlass worker``."""
        return self.start("-m", "windlass", "worker", "-A", "guards.fleet_app:app", "--log-level", "error", *arguments)

    def stop(self) -> None:
        """End every process."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)

    def lines(self, *words: str) -> list[tuple[int, list[str]]]:
        """Lines of the ledger that begin with one of these words: time in ns, and the words."""
        try:
            text = (self.folder / "ledger").read_text()
        except FileNotFoundError:
            return []
        found = [line.split() for line in text.splitlines()]
        return [(int(line[0]), line[1:]) for line in found if line[1] in words]


@contextmanager
def running(folder: Path, url: str) -> Iterator[Fleet]:
    """A fleet that is gone afterwards."""
    fleet = Fleet(folder, url)
    try:
        yield fleet
    finally:
        fleet.stop()
