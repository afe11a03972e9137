"""The supervisor: starts, watches, replaces and stops the processes of one ``windlass worker``.

Thin on purpose: one loop, and it never imports the application, so nothing a job does can take it down. It never waits
for the store either: ``reports`` does. Here are the loop, what it hears, and how the parts hang together; each part has
one concern (``loading``, ``forking``, ``deaths``, ``judging``, ``watch``, ``stopping``), and what they share is in
``fleet``. Together they keep five promises:

- When a process dies, its jobs are released at once, and only those it had started are charged with the crash; the slot
  table it left behind tells which. A job that killed its process twice runs alone in a process of its own.
- A process that is alive but whose threads are starved (a C call that holds the interpreter lock) keeps its lease: the
  supervisor renews it. A process that was stopped (SIGSTOP) does not.
- Stopping is orderly within the grace, and whatever has not ended two seconds later is killed; its jobs are then given
  back as interrupted, not as crashed. A store that is away does not hold it up: what it was not told by the end of the
  grace is given up.
- A process that is alive and cannot do its work is replaced: one whose job is past its timeout and cannot be stopped
  from within (it holds the interpreter lock), one whose pump or heart has hung. Only the job to blame is charged.
- A process that stands still in the middle of a write, and so keeps everybody from the store, is ended.

Nothing that the system refuses for a while (a process, memory, a descriptor) ends it: it says so and tries again, later
each time. Processes that never come to their work end it, with a code that says so.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable

import msgspec

from windlass.core.clock import Clock, SystemClock
from windlass.core.errors import EngineUnavailable
from windlass.insight.stats import measure
from windlass.logs import Log
from windlass.settings import Settings
from windlass.worker.process import health
from windlass.worker.process.deaths import Deaths
from windlass.worker.process.fleet import KILL_AFTER, Fleet
from windlass.worker.process.forking import Forking
from windlass.worker.process.generation import Process
from windlass.worker.process.judging import Judging
from windlass.worker.process.loading import Loading
from windlass.worker.process.messages import (
    Alone,
    Asked,
    Born,
    Bye,
    Ended,
    Full,
    Judged,
    Launch,
    Overran,
    Ready,
    decode_from_child,
)
from windlass.worker.process.notify import notify, pat_watchdog
from windlass.worker.process.orphans import adopt, collect
from windlass.worker.process.probe import Probe
from windlass.worker.process.reload import FileWatch
from windlass.worker.process.reports import Reports
from windlass.worker.process.signals import Signals
from windlass.worker.process.stopping import Stopping
from windlass.worker.process.timers import do
from windlass.worker.process.watch import Watch
from windlass.worker.process.zygotes import Zygotes
from windlass.worker.wire import Line

__all__ = ["Supervisor"]

log = Log("windlass.supervisor")

RESPITE = 0.5  # seconds of rest after something that nobody expected
FAREWELL = 10.0  # seconds for a process to end after it has said that it does


class Supervisor:
    """Runs ``windlass worker`` in this process. *Blocking.*"""

    def __init__(
        self,
        launch: Launch,
        *,
        clock: Clock | None = None,
        http: tuple[str, int] | None = None,
        reload: bool = False,
        on_settings: Callable[[Settings], None] = lambda _: None,
    ) -> None:
        """``http``: where to answer ``/livez`` and ``/readyz``; ``reload``: restart when source files change.

        ``on_settings`` is called with the settings of the application whenever it has been loaded.
        """
        self._http = http
        self._probe: Probe | None = None
        self._files = FileWatch(os.getcwd()) if reload else None
        self._told_ready = False
        self._unhooked: list[Ended] = []  # what no process that could call hooks knows yet
        self._fleet = fleet = Fleet(launch, clock or SystemClock())
        self._judging = Judging(fleet)
        self._stopping = Stopping(fleet, self._judging)
        self._forking = Forking(fleet, self._stopping, self._on_process)
        self._zygotes = Zygotes(fleet, lambda generation: self._loading.hear(generation))
        self._deaths = Deaths(fleet, self._stopping, self._judging, self._forking, self._zygotes)
        self._loading = Loading(
            fleet, self._zygotes, self._forking, self._deaths, on_settings=on_settings, on_loaded=self._on_loaded
        )
        self._watch = Watch(fleet, self._forking, self._judging)

    def run(self) -> int:
        """Supervise until told to stop, or until a burst is over; give the exit code."""
        fleet, signals = self._fleet, Signals()
        fleet.selector.register(signals.socket, selectors.EVENT_READ, lambda _: self._on_signals(signals))
        try:
            if self._http is not None:
                self._open_probe(*self._http)
            if self._files is not None:
                self._files.start()
                fleet.selector.register(self._files.socket, selectors.EVENT_READ, lambda _: self._on_files())
            pat_watchdog(lambda: fleet.stopping or self._stuck() is None)
            fleet.adopts = adopt()
            self._loading.load()
            while not self._is_over():
                try:
                    self._turn()
                except Exception:
                    # Nothing else looks after the processes: say what happened, and keep the promise to do so.
                    log.exception("the supervisor failed at something; it goes on")
                    time.sleep(RESPITE)
        finally:
            signals.release()
            self._close()
            signals.close()
        return fleet.code

    def _turn(self) -> None:
        for key, _ in self._fleet.selector.select(self._fleet.timers.next_in()):
            end = key.fileobj
            assert isinstance(end, socket.socket | Line)
            if end.fileno() >= 0:  # not closed by the one before it
                key.data(end)
        self._fleet.timers.run()

    def _is_over(self) -> bool:
        fleet = self._fleet
        if fleet.processes or self._judging.pending or (fleet.reports is not None and fleet.reports.pending):
            return False
        loading = fleet.generation is not None and fleet.generation.hello is None
        return fleet.stopping or not (loading or fleet.starting)

    def _close(self) -> None:
        if self._probe is not None:
            self._probe.close()
        if self._files is not None:
            self._files.close()
        for process in self._fleet.processes.values():
            process.control.close()
        self._zygotes.close()
        if self._fleet.reports is not None:
            self._fleet.reports.close()
        self._fleet.selector.close()

    # -- what it hears --

    def _on_loaded(self, settings: Settings) -> None:
        fleet = self._fleet
        fleet.settings = settings
        if fleet.reports is None:
            fleet.reports = reports = Reports(settings, fleet.clock)
            fleet.selector.register(reports.socket, selectors.EVENT_READ, lambda _: self._on_news(reports))
            self._watch.begin(reports)

    def _on_process(self, process: Process) -> None:
        try:
            text = process.control.receive()
        except (EOFError, OSError):
            self._deaths.silence(process)
            return
        self._hear(process, text)

    def _hear(self, process: Process, text: bytes) -> None:
        match decode_from_child(text):
            case Born(info):
                process.info, process.pid = info, info.pid
            case Ready():
                process.ready = True
                self._now_ready(process)
                self._send_unhooked()
                self._judging.ask()
            case Alone(in_ms):
                self._forking.run_alone(in_ms)
            case Full():
                self._forking.succeed(process)
            case Overran():
                process.overran = True
                self._forking.succeed(process)
                self._fleet.kill_later(process)
            case Asked(word):
                self._stopping.obey(word)
            case Judged(token, outcomes):
                self._judging.answered(token, outcomes)
            case Bye() as bye:
                process.bye = bye
                self._fleet.kill_later(process, FAREWELL - KILL_AFTER)

    def _now_ready(self, process: Process) -> None:
        fleet = self._fleet
        self._forking.came_to_work()
        if process.stopping or fleet.stopping:
            process.command("stop")
            return
        if fleet.quiet:
            process.command("quiet")
        if process.predecessor is not None:
            fleet.retire(process.predecessor)
            process.predecessor = None
        self._loading.retire_old(process.generation)
        if not self._told_ready and self._not_ready() is None:
            self._told_ready = True
            notify("READY=1")

    def _on_news(self, reports: Reports) -> None:
        for news in reports.news():
            if isinstance(news, Alone):
                self._forking.run_alone(news.in_ms)
            else:
                self._unhooked.append(news)
        self._send_unhooked()

    def _send_unhooked(self) -> None:
        """Have a process that knows the application call the hooks that are owed, now or when there is one."""
        able = self._fleet.able()
        if able is not None:
            waiting, self._unhooked = self._unhooked, []
            for message in waiting:
                able.send(message)

    def _on_files(self) -> None:
        assert self._files is not None
        self._files.drain()
        log.info("source files have changed")
        self._loading.restart()

    def _on_signals(self, signals: Signals) -> None:
        for number in signals.caught():
            do(lambda number=number: self._on_signal(number))  # type: ignore[misc]

    def _on_signal(self, number: int) -> None:
        match number:
            case signal.SIGTERM | signal.SIGINT | signal.SIGQUIT:
                self._stopping.signalled(number)
            case signal.SIGTSTP:
                self._stopping.obey("quiet")
            case signal.SIGUSR1 | signal.SIGTTIN:
                for process in self._fleet.processes.values():
                    process.show()
            case signal.SIGCHLD:
                self._reap()
            case signal.SIGHUP:
                self._loading.restart()

    def _reap(self) -> None:
        """Take note of zygotes that have ended, and collect whatever else the system has given to this process."""
        fleet = self._fleet
        for generation in (fleet.generation, fleet.successor):
            if generation is not None and generation.process.poll() is not None and not generation.gone:
                self._loading.lost(generation)
        generations = {process.generation for process in fleet.processes.values()}
        zygotes = {one.process.pid for one in (fleet.generation, fleet.successor, *generations) if one}
        for pid, status in collect(spare=zygotes):
            process = next((one for one in fleet.processes.values() if one.pid == pid), None)
            if process is not None:  # its zygote has gone
                self._deaths.died(process, status)

    # -- how it is: asked by other threads --

    def _open_probe(self, host: str, port: int) -> None:
        answers = {"/livez": self._stuck, "/readyz": self._not_ready}
        self._probe = Probe(host, port, answers, {"/api/v1/stats": self._stats})
        self._probe.start()
        log.info("/livez, /readyz and /api/v1/stats on http://%s:%d", host, self._probe.port)
        if not self._probe.local:
            log.warning("whoever reaches port %d can read the names and figures of your queues", self._probe.port)

    def _stuck(self) -> str | None:
        fleet = self._fleet
        return health.stuck(list(fleet.processes.values()), fleet.settings, fleet.clock.boot_ms())

    def _not_ready(self) -> str | None:
        """What keeps the worker from doing its work."""
        fleet, generation = self._fleet, self._fleet.generation
        if fleet.stopping:
            return "stopping"
        if generation is None or generation.hello is None:
            return "the application is being loaded"
        wanted = sum(crew.processes for crew in generation.hello.crews)
        return health.missing(list(fleet.processes.values()), wanted, fleet.settings, fleet.clock.boot_ms())

    def _stats(self) -> bytes:
        """How the queues do and how many workers they need, as JSON: what an autoscaler asks."""
        reports = self._fleet.reports
        if reports is None:
            raise EngineUnavailable("the application is being loaded")
        return msgspec.json.encode(measure(reports.store, self._fleet.settings).as_json())
