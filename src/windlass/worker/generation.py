"""What the supervisor knows of a zygote and of each process forked from it, and how it speaks to them.

Records and sockets only: what is to happen when one of them changes, the supervisor decides. Other threads may read
them; only the supervisor's own writes.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time

from windlass.model import WorkerInfo
from windlass.settings import Settings
from windlass.worker import wire
from windlass.worker.messages import Bye, Command, Ended, Hello, Launch, encode
from windlass.worker.slots import SlotTable

__all__ = ["Generation", "Process"]


class Generation:
    """One zygote and what was forked from it. HUP makes a new one."""

    def __init__(self, launch: Launch) -> None:
        self.control, theirs = socket.socketpair()
        self.hello: Hello | None = None
        self.gone = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "windlass.cli.preload", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        wire.send(self.control, encode(launch))

    def close(self) -> None:
        """Let the zygote end when its last process has."""
        self.gone = True
        self.control.close()


class Process:
    """One worker process."""

    def __init__(
        self, token: int, control: socket.socket, table: SlotTable, generation: Generation, crew: int | None
    ) -> None:
        self.token = token
        self.control = control
        self.table = table
        self.generation = generation
        self.crew = crew  # its place among the generation's crews; None: jobs run alone in it
        self.predecessor: Process | None = None  # that stops when this one is ready
        self.has_successor = False
        self.pid = 0
        self.info: WorkerInfo | None = None
        self.ready = False
        self.bye: Bye | None = None
        self.killed = False  # by us, after its grace
        self.stopping = False
        self.ended = False
        self.began = time.monotonic()

    @property
    def alone(self) -> bool:
        """Whether jobs run alone in it."""
        return self.crew is None

    @property
    def may_hold_jobs(self) -> bool:
        """Whether the store may have jobs as running in it."""
        return self.ready and (self.bye is None or self.bye.held)

    def command(self, word: str) -> None:
        """Tell the process; one that has gone is heard of otherwise."""
        self.send(Command(word))

    def send(self, message: Command | Ended) -> None:
        """Send a message; one to a process that has gone is lost."""
        with contextlib.suppress(OSError):
            wire.send(self.control, encode(message))

    def is_starved(self, now: int, settings: Settings) -> bool:
        """Whether it lives and does not get to renew its lease itself; ``now`` in ms of the boot clock.

        A lease that is over is not renewed for anyone: others may have its jobs, and only a beat of the process itself
        learns which. That is a process that was stopped and goes on.
        """
        if self.ended or not self.ready or self.info is None:
            return False
        unheard = now - self.table.beat_at
        unrenewed = now - max(self.table.beat_at, self.table.renewed_at)
        return unheard >= settings.renew * 1.5 and unrenewed < settings.lease and is_running(self.pid)


def is_running(pid: int) -> bool:
    """Whether a process lives and is not stopped (Linux; elsewhere: whether it lives)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("T", "t", "Z", "X")
    except FileNotFoundError:
        return False
    except OSError:
        return True
