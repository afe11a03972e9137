"""Watching processes that are alive: one that is starved keeps its lease, one that cannot work is replaced or killed.

Each is asked first, and judged by what it left in the slot table. When a process has to be killed, only the job to
blame is charged; its other jobs go back with nothing charged.
"""

from __future__ import annotations

from collections.abc import Sequence

from windlass.logs import Log
from windlass.worker.process import health
from windlass.worker.process.fleet import Fleet
from windlass.worker.process.forking import Forking
from windlass.worker.process.generation import Process, is_running
from windlass.worker.process.judging import Judging
from windlass.worker.process.reports import Reports
from windlass.worker.table import Running, monotonic_ms

__all__ = ["Watch"]

log = Log("windlass.supervisor")

LOOK = 2.0  # seconds between looks whether every process does its work
BROKEN_AFTER = 30_000  # ms, for a process whose threads run: it may still be ending the job
WAITING_RATE = 20  # turns that a thread gives up a second from which on it waits for the interpreter lock; it is 200
HANG_AFTER = 5_000  # ms past its timeout from which a job is its process's fault: the process itself takes 2,000
WRITES_FOR = 5_000  # ms, at most a third of a lease, that a process may write while its threads do not run
LAST_LOOK = 1.5  # seconds for a process that hangs to show its stacks, before it is killed
LAST_LOOK_IN_WRITE = 0.5  # the same while it keeps others from writing, and so from renewing leases


class Watch:
    """Looks at the processes of a worker now and then."""

    def __init__(self, fleet: Fleet, forking: Forking, judging: Judging) -> None:
        self._fleet = fleet
        self._forking = forking
        self._judging = judging

    def begin(self, reports: Reports) -> None:
        """Look from now on: at leases until the end, at the work until the worker stops."""
        timers, renew = self._fleet.timers, self._fleet.settings.renew
        timers.after(renew / 1000, lambda: self._look_at_beats(reports), lasting=True)
        timers.after(LOOK, lambda: self._look_at_work(reports))

    def _look_at_beats(self, reports: Reports) -> None:
        """Have the lease of processes renewed that live but do not get to it themselves."""
        fleet, settings = self._fleet, self._fleet.settings
        fleet.timers.after(settings.renew / 2000, lambda: self._look_at_beats(reports), lasting=True)
        now = fleet.clock.boot_ms()
        for process in fleet.processes.values():
            if process.silent or process.killed:
                reports.hold(process)  # until its end is known: the jobs it had started are charged with it
            elif process.is_starved(now, settings):  # it has not answered since the last look
                reports.renew(process)
            process.look_for_life(now, settings)
        self._judging.hold()

    def _look_at_work(self, reports: Reports) -> None:
        fleet = self._fleet
        fleet.timers.after(LOOK, lambda: self._look_at_work(reports))
        now, writer = fleet.clock.boot_ms(), reports.store.writer()
        for process in list(fleet.processes.values()):
            if process.ready and not process.killed:
                self._look_at(process, writer, now)

    def _look_at(self, process: Process, writer: int | None, now: int) -> None:
        suspect, process.suspect = process.suspect, False
        if process.broken:
            log.error("worker process %d does not take what it is told; it is killed", process.pid)
            self._end_hung(process)
        elif self._keeps_others_out(process, writer, now):
            log.error(
                "worker process %d stands still in the middle of a write, and nobody else can write to the store: "
                "a job may hold the interpreter lock. The process is killed, and its jobs run elsewhere with "
                'nothing charged, but for one past its timeout. Give such a job executor="process"', process.pid,
            )  # fmt: skip
            self._blame(process, self._holders_in_write(process, now))
        elif culprits := self._culprits(process, now):
            self._blame(process, culprits)
        elif not process.stopping and (why := health.wedged(process, self._fleet.settings, now)) is not None:
            process.suspect = True  # for now: the whole machine may have slept
            if suspect:
                log.error("worker process %d cannot do its work: %s; another takes its place", process.pid, why)
                self._forking.succeed(process)
                process.show()
                self._fleet.retire(process)

    def _keeps_others_out(self, process: Process, writer: int | None, now: int) -> bool:
        """Whether a process has a write open and gives no sign of life meanwhile. It is asked when it is first seen."""
        if writer != process.pid or process.table.answered_at >= process.writes_at > 0:
            process.writes_at = 0
        if writer == process.pid and not process.writes_at:
            process.writes_at = now
            process.switches_in_write = health.switches(process, process.table.running())
            process.command("ping")
        return process.writes_at > 0 and now - process.writes_at >= min(WRITES_FOR, self._fleet.settings.lease / 3)

    def _holders_in_write(self, process: Process, now: int) -> list[Running]:
        """The jobs past their time that hold the interpreter lock in a process that stands still in a write.

        In one that was stopped (SIGSTOP) nobody holds it.
        """
        late = health.hanging(process, monotonic_ms(), 0) if is_running(process.pid) else []
        return holders(process, late, process.switches_in_write, now - process.writes_at)

    def _culprits(self, process: Process, now: int) -> list[Running]:
        """The jobs past their time that keep a process from ending them.

        It is asked first. One that answers ends them itself, and gets much longer for it.
        """
        late = health.hanging(process, monotonic_ms(), HANG_AFTER)
        if not late or process.overran:
            process.asked_at = 0
            return []
        if not process.asked_at:
            process.asked_at, process.switches = now, health.switches(process, late)
            process.command("ping")
            return []
        asked_at, process.asked_at = process.asked_at, 0
        if process.table.answered_at >= asked_at:
            return health.hanging(process, monotonic_ms(), BROKEN_AFTER)
        return holders(process, late, process.switches, now - asked_at)

    def _blame(self, process: Process, culprits: Sequence[Running]) -> None:
        """A process could not end a job that is past its timeout: end the process, and charge that job alone."""
        now = monotonic_ms()
        for one in culprits:
            log.error(
                "job %s %s is %.0f s past its timeout, and worker process %d cannot stop it: it may hold the "
                "interpreter lock. The process is killed, the job's attempt has failed, and the process's other jobs "
                'run elsewhere with nothing charged. Give the job executor="process" to make it killable by itself',
                one.name, one.id, (now - one.until) / 1000, process.pid,
            )  # fmt: skip
        process.culprits = list(culprits)
        process.was_stopped = not is_running(process.pid)
        self._end_hung(process)

    def _end_hung(self, process: Process) -> None:
        """Kill a process, after a last look at it; its successor starts at once."""
        self._forking.succeed(process)
        process.killed = True
        process.show(last=True)
        last_look = LAST_LOOK_IN_WRITE if process.writes_at else LAST_LOOK
        self._fleet.timers.after(last_look, process.kill, lasting=True)


def holders(process: Process, late: Sequence[Running], before: dict[int, int], ms: int) -> list[Running]:
    """Those of the late jobs of a starved process that may hold its interpreter lock.

    A job in a child does not, and neither does one whose thread only waits for the lock: such a thread gives up its
    turn every 5 ms (``sys.setswitchinterval``), whoever holds the lock does not. ``before`` has those of ``ms``
    ago.
    """
    turns, most = health.switches(process, late), ms / 1000 * WAITING_RATE
    return [one for one in late if one.thread and turns.get(one.thread, 0) - before.get(one.thread, 0) < most]
