"""Starting worker processes: for each crew, as successors, in place of those that died, and for jobs that run alone.

The zygote forks; this asks it to, and asks again later when the system refuses. What follows from the end of a process
is not decided here, but in ``deaths``.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from collections.abc import Callable

from windlass.logs import Log
from windlass.worker.process.fleet import RESPAWN_MOST, Fleet
from windlass.worker.process.generation import PATIENCE, Generation, Process
from windlass.worker.process.messages import ForkWorker
from windlass.worker.process.stopping import Stopping
from windlass.worker.table import SlotTable
from windlass.worker.wire import Line

__all__ = ["Forking"]

log = Log("windlass.supervisor")

NO_WORKER = 69  # EX_UNAVAILABLE: the exit code when no process comes to its work
STILLBORN_MAX = 10  # deaths of processes that never came to their work, in a row, until the worker gives up
ALONE_MOST = 4  # quarantine processes at once: a crash also sends the neighbours of the culprit there
SETTLED_IN = 10.0  # seconds of life after which a death is not part of a crash loop


class Forking:
    """Starts the processes of a worker."""

    def __init__(self, fleet: Fleet, stopping: Stopping, on_word: Callable[[Process], None]) -> None:
        """``on_word`` is called when a process has something to say, or its line has ended."""
        self._fleet = fleet
        self._stopping = stopping
        self._on_word = on_word
        self._tokens = 0
        self._deaths = 0  # in a row, each soon after its start
        self._stillborn = 0  # processes that ended before they were ready, in a row
        self._alone_at = 0.0  # when the next look for a quarantine process is due, if one is

    def fork(self, crew: int | None, predecessor: Process | None = None) -> None:
        """Start a process of a crew (None: jobs run alone in it), if the worker still has that crew."""
        fleet, generation = self._fleet, self._fleet.generation
        if fleet.stopping or generation is None or generation.gone or generation.hello is None:
            return
        crews = generation.hello.crews
        if crew is not None and crew >= len(crews):
            return  # the new code has a smaller layout, and has started all of it
        try:
            ours, theirs = Line.pair(PATIENCE)
            try:
                table = SlotTable.create(2 if crew is None else crews[crew].slots)
            except OSError:
                ours.close()
                theirs.close()
                raise
        except OSError as error:
            fleet.try_later(error, lambda: self._fork_if_current(generation, crew, predecessor))
            return
        self._tokens += 1
        process = Process(self._tokens, ours, table, generation, crew)
        process.predecessor = predecessor
        fleet.processes[process.token] = process
        fleet.selector.register(ours, selectors.EVENT_READ, lambda _: self._on_word(process))
        heard = generation.ask(ForkWorker(process.token, table.slots, crew, fleet.quiet), (theirs.fileno(), table.fd))
        theirs.close()
        if not heard:
            self.refused(process.token, "the zygote does not answer")

    def refused(self, token: int, why: str) -> None:
        """The zygote could not fork a process: it is tried again."""
        process = self._fleet.processes.pop(token, None)
        if process is None:
            return
        self.put_away(process)
        self._fleet.try_later(why, lambda: self._fork_again(process))
        self._fleet.end_reports()

    def put_away(self, process: Process) -> None:
        """Let go of what belonged to a process that is no more."""
        with contextlib.suppress(KeyError, ValueError):
            self._fleet.selector.unregister(process.control)
        process.control.close()
        process.table.close()
        process.ended = True

    def came_to_work(self) -> None:
        """A process is ready, so what is forked works."""
        self._stillborn = 0

    def succeed(self, process: Process) -> None:
        """Start the successor of a process that has done enough; the old one stops when the new one is ready."""
        if process.has_successor or process.stopping or process.alone or not self._is_current(process):
            return  # one is on its way, or none is needed
        process.has_successor = True
        self.fork(process.crew, process)

    def replace(self, process: Process) -> None:
        """Start another in place of one that has ended, if one is missing."""
        fleet = self._fleet
        if fleet.stopping or process.stopping or process.has_successor or not self._is_current(process):
            return
        if process.bye is not None and fleet.launch.burst and not process.bye.overdue:
            return
        self._stillborn = 0 if process.ready else self._stillborn + 1
        if self._stillborn >= STILLBORN_MAX and not any(one.ready for one in fleet.processes.values()):
            log.error("%d worker processes in a row ended before they came to their work; giving up", self._stillborn)
            fleet.code = NO_WORKER
            self._stopping.stop()
            return
        lived = time.monotonic() - process.began
        self._deaths = 0 if lived > SETTLED_IN else self._deaths + 1
        # The first replacement starts at once; a process that dies again and again waits longer each time.
        wait = 0.0 if self._deaths <= 1 else min(RESPAWN_MOST, 0.1 * 2 ** (self._deaths - 2))
        fleet.start_later(wait, lambda: self._fork_again(process))

    def run_alone(self, in_ms: int) -> None:
        """Have a quarantine process when a job that must run alone is due."""
        at = time.monotonic() + in_ms / 1000
        if not self._alone_at or at < self._alone_at:  # it is told again and again
            self._alone_at = at
            self._fleet.timers.after(in_ms / 1000, self._fork_alone)

    def _fork_alone(self) -> None:
        """Add a quarantine process, up to ``ALONE_MOST``, unless the last one has not begun yet."""
        self._alone_at = 0.0
        alone = [process for process in self._fleet.processes.values() if process.alone]
        if not self._fleet.quiet and len(alone) < ALONE_MOST and all(process.ready for process in alone):
            self.fork(None)

    def _fork_again(self, process: Process) -> None:
        self._fork_if_current(process.generation, process.crew, process.predecessor)

    def _fork_if_current(self, generation: Generation, crew: int | None, predecessor: Process | None) -> None:
        if generation is self._fleet.generation:  # else there is new code by now, with processes of its own
            self.fork(crew, predecessor)

    def _is_current(self, process: Process) -> bool:
        return process.generation is self._fleet.generation
