"""How a worker ends as a whole: asked by a signal or through the store, within the grace, and at once when asked again.

Whatever has not ended ``KILL_AFTER`` past the grace is killed.
"""

from __future__ import annotations

import signal
import time

from windlass.core.units import show_duration
from windlass.logs import Log
from windlass.worker.process.fleet import Fleet
from windlass.worker.process.judging import Judging
from windlass.worker.process.notify import notify

__all__ = ["ECHO", "Stopping"]

log = Log("windlass.supervisor")

# Seconds. Who signals a process and its group, as timeout(1) does, means one signal; on a busy machine it is kept from
# sending the second for as long as others take their turns. Nobody presses a key twice within it.
ECHO = 0.05


class Stopping:
    """Stops the processes of a worker, or has them claim no more."""

    def __init__(self, fleet: Fleet, judging: Judging) -> None:
        self._fleet = fleet
        self._judging = judging
        self._heard = (0, 0.0)  # the last signal to stop, and when on the monotonic clock

    def obey(self, word: str) -> None:
        """Do what a signal or somebody through the store asked of the worker as a whole. *Idempotent.*"""
        fleet = self._fleet
        if word == "stop" and not fleet.stopping:
            log.info("asked to stop: running jobs have %s to end", show_duration(fleet.settings.shutdown_timeout))
            self.stop()
        elif word == "quiet" and not fleet.quiet:
            log.warning("quiet: no new jobs are claimed; what runs goes on. Stop with TERM")
            fleet.quiet = True
            fleet.command_all("quiet")

    def signalled(self, number: int) -> None:
        """Stop since a signal says so: in order at the first, at once at the second and at QUIT."""
        heard, self._heard = self._heard, (number, time.monotonic())
        if heard[0] == number and self._heard[1] - heard[1] < ECHO:
            return
        fleet = self._fleet
        if number == signal.SIGQUIT or fleet.stopping:
            fleet.code = {signal.SIGQUIT: 131, signal.SIGINT: 130}.get(signal.Signals(number), 143)
            log.warning("stopping at once; running jobs are given back")
            self.stop("abort", 0.0)
            return
        log.info("stopping: running jobs have %s to end", show_duration(fleet.settings.shutdown_timeout))
        self.stop()

    def stop(self, word: str = "stop", grace: float | None = None) -> None:
        """Stop every process, in its grace, which is the settings' unless it is given."""
        fleet = self._fleet
        fleet.stopping = True
        notify("STOPPING=1")
        fleet.timers.stop()
        self._judging.give_up()
        grace = fleet.settings.shutdown_timeout / 1000 if grace is None else grace
        fleet.grace_over = time.monotonic() + grace
        for process in fleet.processes.values():
            process.stopping = True
            process.command(word)
            fleet.kill_later(process, grace if process.ready else 0.0)  # one that is not ready holds no jobs
        fleet.end_reports()
