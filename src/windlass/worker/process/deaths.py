"""The end of worker processes: what the store is told of it, and who is charged, before another takes its place.

The parent of a process tells how it ended: its zygote, or the system when the zygote has gone, or nobody.
"""

from __future__ import annotations

import time

from windlass.logs import Log
from windlass.worker.attempt.processes import describe
from windlass.worker.process.fleet import Fleet
from windlass.worker.process.forking import Forking
from windlass.worker.process.generation import Process
from windlass.worker.process.judging import Judging
from windlass.worker.process.messages import Born, Bye, Ready, decode_from_child
from windlass.worker.process.stopping import Stopping
from windlass.worker.process.zygotes import Zygotes

__all__ = ["Deaths"]

log = Log("windlass.supervisor")

STRAYED = "had to be killed: a job has closed the descriptors of its process, or they were closed for it"


class Deaths:
    """Sees to the processes that have ended."""

    def __init__(self, fleet: Fleet, stopping: Stopping, judging: Judging, forking: Forking, zygotes: Zygotes) -> None:
        self._fleet = fleet
        self._stopping = stopping
        self._judging = judging
        self._forking = forking
        self._zygotes = zygotes

    def silence(self, process: Process) -> None:
        """The line of a process has ended: it ends, or a job of it has closed its descriptors."""
        self._fleet.selector.unregister(process.control)
        process.silent = True
        process.strayed = not process.killed
        self.miss(process)
        self._fleet.kill_later(process)

    def miss(self, process: Process) -> None:
        """Take a process for dead of whose end nobody can tell."""
        if process.silent and process.generation.gone and not (process.pid and self._fleet.adopts):
            self.died(process, None)

    def died(self, process: Process, status: int | None) -> None:
        """Release what the process held, then start another if one is missing."""
        fleet = self._fleet
        fleet.processes.pop(process.token, None)
        for text in process.control.rest():
            match decode_from_child(text):
                case Born(info):
                    process.info, process.pid = info, info.pid
                case Ready():
                    process.ready = True
                case Bye() as last:
                    process.bye = last
        started = process.table.unsettled()
        self._forking.put_away(process)
        fleet.last_death = time.monotonic()
        bye, reports = process.bye, fleet.reports
        assert reports is not None
        if bye is not None and bye.fatal is not None:
            if not fleet.stopping:
                log.error("%s", bye.fatal)
                fleet.code = 3
                self._stopping.stop()
        elif process.culprits and bye is None:
            self._judging.begin(process)
        elif bye is not None or (process.killed and not process.strayed):
            reports.departed(process)
        else:
            how = STRAYED if process.killed else describe(status)
            log.error("worker process %d %s", process.pid, how)
            reports.died(process, started, how)
        if process.alone:
            reports.look_for_lonely()
        else:
            self._forking.replace(process)
        self._zygotes.forget_if_spent(process.generation)
        fleet.end_reports()
