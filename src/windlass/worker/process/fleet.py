"""What the parts of a supervisor share: its processes and zygotes, its line to the store, and where in its life it is.

One thread changes it, that of the supervisor; others may look. It decides nothing: the parts above it do.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable

from windlass.core.clock import Clock
from windlass.logs import Log
from windlass.settings import Settings
from windlass.worker.process import health
from windlass.worker.process.generation import Generation, Process
from windlass.worker.process.messages import Launch
from windlass.worker.process.reports import Reports
from windlass.worker.process.timers import Timers
from windlass.worker.table import monotonic_ms

__all__ = ["KILL_AFTER", "RESPAWN_MOST", "Fleet"]

log = Log("windlass.supervisor")

KILL_AFTER = 2.0  # seconds past the grace until what still lives is killed
LAST_WORDS = 2.0  # seconds that the store may take to be told of the last death
RESPAWN_MOST = 10.0  # seconds between starts of a process that keeps dying at once, or that the system refuses


class Fleet:
    """The processes of one ``windlass worker``, and what is known of them."""

    def __init__(self, launch: Launch, clock: Clock) -> None:
        self.launch = launch
        self.clock = clock
        self.settings = Settings()  # the application's, once it is loaded
        self.selector = selectors.DefaultSelector()
        self.timers = Timers()
        self.processes: dict[int, Process] = {}  # by token
        self.generation: Generation | None = None  # the one that new processes come from
        self.successor: Generation | None = None  # loading, after a HUP
        self.reports: Reports | None = None  # made before the first process
        self.stopping = False
        self.quiet = False  # nothing is claimed, also by processes to come
        self.adopts = False  # processes whose parent has died
        self.code = 0  # to exit with
        self.starting = 0  # processes that will be forked in a moment
        self.grace_over = 0.0  # when the stop is to be over
        self.last_death = 0.0
        self._refusals = 0  # of the system, in a row

    # -- who there is --

    def processes_of(self, generation: Generation) -> list[Process]:
        """The processes that were forked from a zygote."""
        return [one for one in self.processes.values() if one.generation is generation]

    def able(self) -> Process | None:
        """A process that knows the application and listens."""
        for one in self.processes.values():
            if one.ready and not (one.stopping or one.silent or one.broken or one.pinged_at):
                return one
        return None

    def command_all(self, word: str) -> None:
        """Tell every process."""
        for process in self.processes.values():
            process.command(word)

    # -- starts --

    def start_later(self, seconds: float, start: Callable[[], None]) -> None:
        """Start a process later; the worker does not end before that."""
        self.starting += 1

        def go() -> None:
            self.starting -= 1
            start()

        self.timers.after(seconds, go)

    def try_later(self, why: object, start: Callable[[], None]) -> None:
        """Do again, later, what the system has refused; longer each time."""
        if self.stopping:
            return
        wait = min(RESPAWN_MOST, 0.5 * 2**self._refusals)
        self._refusals += 1
        log.error("no process can be started, next try in %.1f s: %s", wait, why)
        self.start_later(wait, start)

    def granted(self) -> None:
        """The system has not refused a process."""
        self._refusals = 0

    # -- ends --

    def retire(self, process: Process) -> None:
        """Let a process end in order."""
        if not process.stopping and process.token in self.processes:
            process.stopping = True
            process.command("stop")
            self.kill_later(process)

    def kill_later(self, process: Process, grace: float | None = None) -> None:
        """Kill a process that has not ended a moment after its grace."""
        grace = self.settings.shutdown_timeout / 1000 if grace is None else grace

        def kill() -> None:
            if process.token not in self.processes:
                return
            log.error("worker process %d has not ended in the time it had, and is killed", process.pid)
            # A job past its timeout is why; it must not go back with nothing charged, to do the same elsewhere.
            process.culprits = process.culprits or health.hanging(process, monotonic_ms(), 0)
            process.kill()

        self.timers.after(grace + KILL_AFTER, kill, lasting=True)

    def end_reports(self) -> None:
        """Once nothing lives any more, wait a moment for the store; to the end of the grace if jobs wait for it too."""
        if self.stopping and not self.processes and self.reports is not None:
            until = self.last_death + LAST_WORDS
            at = max(until, self.grace_over) if self.reports.urgent else until
            self.timers.after(at - time.monotonic(), self.reports.abandon, lasting=True)
