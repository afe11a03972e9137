"""What the supervisor knows of a zygote and of each process forked from it, and how it speaks to them.

Records and lines only: what is to happen when one of them changes, the supervisor decides. Other threads may read them;
only its own writes, and the one that warns of starved processes notes when it did.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

from windlass.core.work import WorkerInfo
from windlass.settings import Settings
from windlass.worker.process.messages import Bye, Command, Ended, ForkWorker, Hello, Judge, Kill, Launch, Show, encode
from windlass.worker.table import Running, SlotTable
from windlass.worker.wire import Line

__all__ = ["PATIENCE", "Generation", "Process", "is_running"]

PATIENCE = 5.0  # seconds for a process to take a message, or to finish one that it has begun


class Generation:
    """One zygote and what was forked from it. HUP makes a new one."""

    def __init__(self, launch: Launch) -> None:
        """Raises OSError when the system has no process or no descriptors to give."""
        self.hello: Hello | None = None
        self.gone = False
        self.control, theirs = Line.pair(PATIENCE)
        try:
            self.process = subprocess.Popen(
                # -P: the current folder comes behind what is installed; the zygote puts it there itself.
                [sys.executable, "-P", "-m", "windlass.cli.preload", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        except BaseException:
            self.control.close()
            raise
        finally:
            theirs.close()
        with contextlib.suppress(OSError):  # one that has died at once is heard of otherwise
            self.control.send(encode(launch))

    def ask(self, message: ForkWorker | Kill | Show, fds: tuple[int, ...] = ()) -> bool:
        """Ask the zygote for something; false when it has not heard. One that has gone is heard of otherwise."""
        try:
            self.control.send(encode(message), fds)
        except TimeoutError:
            self.process.kill()  # it hangs, and half a message is in its line
            return False
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let the zygote end when its last process has."""
        self.gone = True
        self.control.close()


class Process:
    """One worker process."""

    def __init__(self, token: int, control: Line, table: SlotTable, generation: Generation, crew: int | None) -> None:
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
        self.silent = False  # its end of the line is closed
        self.strayed = False  # and it was not by us: it has ended, or something in it has closed its descriptors
        self.broken = False  # it does not take what it is told
        self.pinged_at = 0  # when it was asked whether its threads run, since its beats are missing
        self.asked_at = 0  # when it was asked about jobs that are past their time
        self.writes_at = 0  # when it was asked whether its threads run, since it keeps others from writing
        self.switches: dict[int, int] = {}  # then: how often each thread of those had waited
        self.switches_in_write: dict[int, int] = {}  # when it was asked because of a write: the same of all its threads
        self.suspect = False  # the last look found it wedged
        self.told_starved = 0  # when it was last told of, in ms of the boot clock
        self.overran = False  # it has said that a job of it does not end, and ends by itself
        self.culprits: list[Running] = []  # the jobs it was killed for, since they did not end and it could not
        self.was_stopped = False  # then: it did not run at all (SIGSTOP)
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

    def send(self, message: Command | Ended | Judge) -> None:
        """Send a message; one to a process that has gone is lost."""
        try:
            self.control.send(encode(message))
        except TimeoutError:
            self.broken = True
        except OSError:
            pass

    def kill(self) -> None:
        """Kill it, and take note that it did not crash."""
        self.killed = True
        if not self.generation.gone:
            self.generation.ask(Kill(self.token))
        elif self.pid:
            with contextlib.suppress(OSError):  # it has just ended
                os.kill(self.pid, signal.SIGKILL)

    def show(self, *, last: bool = False) -> None:
        """Have it and its children write their stacks; ``last``: it is about to be killed, and may not get to run."""
        self.generation.ask(Show(self.token, last))

    def look_for_life(self, now: int, settings: Settings) -> None:
        """Ask whether threads of it get to run, once its own beats are missing; ``now`` in ms of the boot clock."""
        if self.ended or not self.ready or now - self.table.beat_at < settings.renew * 1.5:
            self.pinged_at = 0
        elif not self.pinged_at or self.answers:
            self.pinged_at = now
            self.command("ping")

    @property
    def answers(self) -> bool:
        """Whether threads of it get to run: it has answered the last ping."""
        return 0 < self.pinged_at <= self.table.answered_at

    def is_starved(self, now: int, settings: Settings) -> bool:
        """Whether it lives and no thread of it gets to run, so that it cannot renew its lease itself.

        A lease that is over is not renewed for anyone: others may have its jobs, and only a beat of the process itself
        learns which. That is a process that was stopped and goes on. Nor is that of a process whose threads run: its
        heart waits for the store, which may be away or of no use to it any more.
        """
        if self.ended or self.silent or not self.pinged_at or self.answers:
            return False
        unrenewed = now - max(self.table.beat_at, self.table.renewed_at)
        return unrenewed < settings.lease and is_running(self.pid)


def is_running(pid: int) -> bool:
    """Whether a process lives and is not stopped (Linux; elsewhere: whether it lives)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("T", "t", "Z", "X")
    except FileNotFoundError:
        return not os.path.exists("/proc/self/stat")
    except OSError:
        return True
