"""Real processes: start workers and other programs, signal them by process id, read what they say, and end them all.

``with Fleet(folder, url, "module:app") as fleet`` and then ``fleet.start("-p", "2")``. Every program has a process
group of its own and writes into a file of its own. When the block ends, whatever it started is killed, and is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from kit.waiting import PATIENCE, stretched, until, until_none

T = TypeVar("T")

TESTS = Path(__file__).parents[1]
IMPORTS = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
LINES = 60  # of each program that a failure shows


def environment(**more: str) -> dict[str, str]:
    """Our environment without what windlass would read, and with these variables. It finds what is beside the tests."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_") and key != "REDIS_URL"}
    return clean | {"PYTHONPATH": IMPORTS} | more


class Process(subprocess.Popen[bytes]):
    """One program: its process id, what it said, how it ended."""

    def __init__(
        self, command: list[str], folder: Path, env: Mapping[str, str], log: Path, stderr: int | None = None
    ) -> None:
        """``log``: the file for its output, standard error too unless that goes elsewhere."""
        self.log = log
        self._is_over = False  # it and its group have gone, and its id may be another's now
        with log.open("ab") as out:
            super().__init__(
                command,
                cwd=folder,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out if stderr is None else stderr,
                start_new_session=True,
            )

    @property
    def runs(self) -> bool:
        return self.poll() is None

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def ended(self) -> int:
        """Wait for its end; give its exit code."""
        try:
            code = self.wait(stretched(PATIENCE))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"process {self.pid} still runs: {self.args}\n{self.said()}") from None
        self._is_over = self._is_over or not self.members()
        return code

    def below(self) -> list[int]:
        """Every process below it, those nearest first."""
        return below(self.pid)

    def members(self) -> list[int]:
        """Processes of its group that live; itself, too."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if group_of(pid) == self.pid]

    def gone(self) -> None:
        """Wait until no process of its group is left."""
        until(lambda: not self.members(), f"every process of the group of {self.pid} to be gone", self.said)

    def kill_all(self) -> None:
        """SIGKILL its group and all that is below one of them, and wait until they are gone."""
        if self._is_over:
            return
        doomed = {below_it for pid in self.members() for below_it in below(pid)}
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.ended()
        self.gone()
        until(lambda: not any(map(alive, doomed)), f"all that process {self.pid} started to be gone", self.said)


class Fleet:
    """The programs of one test, and where they find their store and their application."""

    def __init__(self, folder: Path, url: str, app: str, **env: str) -> None:
        """``app``: what workers load, as ``module:name``. ``env``: variables that every program gets."""
        self.folder = folder
        self.url = url
        self.loads = app
        self.env = environment(**env)
        self.processes: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as ends:  # a failure of one keeps none of the others
            for process in self.processes:
                ends.callback(process.kill_all)

    def program(self, *command: str, stderr: int | None = None, **env: str) -> Process:
        """Start a program."""
        log = self.folder / f"process-{len(self.processes)}.log"
        self.processes.append(Process(list(command), self.folder, self.env | env, log, stderr))
        return self.processes[-1]

    def start(self, *options: str, stderr: int | None = None, **env: str) -> Process:
        """Start a ``windlass worker``."""
        command = [sys.executable, "-m", "windlass", "-A", self.loads, "worker", *options]
        return self.program(*command, stderr=stderr, **env)

    def stop(self, process: Process, code: int = 0, how: int = signal.SIGTERM) -> None:
        """Tell a program to end, and wait until it has, with this exit code."""
        process.send_signal(how)
        assert process.ended() == code, process.said()

    def command(self, *words: str, code: int = 0) -> str:
        """Run a command of ``windlass`` on the store; give what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "windlass", *words, "--url", self.url],
            cwd=self.folder,
            env=self.env | {"COLUMNS": "300"},
            capture_output=True,
            text=True,
            timeout=stretched(PATIENCE),
        )
        assert done.returncode == code, done.stderr + done.stdout
        return done.stdout

    # -- what the programs say --

    def said(self) -> str:
        """Everything, program after program."""
        return "".join(process.said() for process in self.processes)

    def last_words(self) -> str:
        """The last lines of every program, for a failure."""
        return "\n".join(
            f"--- {process.log.name}\n" + "\n".join(process.said().splitlines()[-LINES:]) for process in self.processes
        )

    def logged(self, text: str) -> int:
        """How many lines hold a text."""
        return sum(text in line for line in self.said().splitlines())

    def until(self, look: Callable[[], T], what: str = "") -> T:
        """Wait until what is seen is true, and give it; a failure shows the last words of every program."""
        return until(look, what, self.last_words)

    def until_none(self, left: Callable[[], int], what: str = "") -> None:
        """Wait until nothing is left of many."""
        until_none(left, what, self.last_words)

    def heard(self, text: str) -> None:
        """Wait until a program has said something."""
        self.until(lambda: text in self.said(), f"somebody to say {text!r}")


# -- processes by their ids --


def below(pid: int) -> list[int]:
    """Every process below one, those nearest first."""
    found, new = [], [pid]
    while new:
        for task in Path(f"/proc/{new.pop(0)}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                children = [int(one) for one in task.read_text().split()]
                found += children
                new += children
    return found


class Stat(NamedTuple):
    """What the system says of a process."""

    state: str
    parent: int
    group: int


def stat_of(pid: int) -> Stat | None:
    """What the system says of a process; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return Stat(fields[0].decode(), int(fields[1]), int(fields[2]))


def alive(pid: int) -> bool:
    """Whether a process lives; one that has ended and was not collected does not."""
    stat = stat_of(pid)
    return stat is not None and stat.state not in "ZX"


def group_of(pid: int) -> int | None:
    """The process group of a process that lives."""
    stat = stat_of(pid)
    return None if stat is None or stat.state in "ZX" else stat.group
