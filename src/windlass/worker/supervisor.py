"""The supervisor: starts, watches, replaces and stops the processes of one ``windlass worker``.

Thin on purpose: one loop, and it never imports the application, so nothing a job does can take it down. It never waits
for the store either: ``reports`` does. It keeps three promises:

- When a process dies, its jobs are released at once, and only those it had started are charged with the crash; the slot
  table it left behind tells which. A job that killed its process twice runs alone in a process of its own.
- A process that is alive but whose threads are starved (a C call that holds the interpreter lock) keeps its lease: the
  supervisor renews it. A process that was stopped (SIGSTOP) does not.
- Stopping is orderly within the grace, and whatever has not ended two seconds later is killed; its jobs are then given
  back as interrupted, not as crashed. A store that is away does not hold it up: what it was not told by the end of the
  grace is given up.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable

import msgspec

from windlass.clock import Clock, SystemClock
from windlass.errors import EngineUnavailable
from windlass.logs import Log
from windlass.settings import Settings
from windlass.stats import measure
from windlass.units import show_duration
from windlass.worker import health, wire
from windlass.worker.children import describe
from windlass.worker.generation import Generation, Process
from windlass.worker.messages import (
    Alone,
    Asked,
    Born,
    Bye,
    Died,
    Ended,
    Failed,
    Forked,
    ForkWorker,
    Full,
    Hello,
    Kill,
    Launch,
    Ready,
    decode_from_child,
    decode_from_zygote,
    encode,
)
from windlass.worker.notify import notify, pat_watchdog
from windlass.worker.probe import Probe
from windlass.worker.reload import FileWatch
from windlass.worker.reports import Reports
from windlass.worker.slots import SlotTable

__all__ = ["Supervisor"]

log = Log("windlass.supervisor")

ECHO = 0.002  # seconds: who signals a process and its group at once, as timeout(1) does, means one signal
KILL_AFTER = 2.0  # seconds past the grace until what still lives is killed
LAST_WORDS = 2.0  # seconds that the store may take to be told of the last death
RESPAWN_MOST = 10.0  # seconds between starts of a process that keeps dying at once
SETTLED_IN = 10.0  # seconds of life after which a death is not part of a crash loop

SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGUSR1, signal.SIGTTIN,
)  # fmt: skip


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
        self._on_settings = on_settings
        self._launch = launch
        self._http = http
        self._probe: Probe | None = None
        self._files = FileWatch(os.getcwd()) if reload else None
        self._clock: Clock = clock or SystemClock()
        self._selector = selectors.DefaultSelector()
        self._processes: dict[int, Process] = {}
        self._tokens = 0
        self._generation: Generation | None = None  # the one that new processes come from
        self._successor: Generation | None = None  # loading, after a HUP
        self._reports: Reports | None = None  # made before the first process
        self._settings = Settings()
        self._stopping = False
        self._heard = (0, 0.0)  # the last signal to stop, and when on the monotonic clock
        self._quiet = False  # nothing is claimed, also by processes to come
        self._restart_again = False  # asked for while a restart was loading
        self._told_ready = False
        self._code = 0
        self._starting = 0  # processes that will be forked in a moment
        self._deaths = 0  # in a row, each soon after its start
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._grace_over = 0.0  # when the stop is to be over
        self._last_death = 0.0
        self._unhooked: list[Ended] = []  # what no process that could call hooks knows yet

    def run(self) -> int:
        """Supervise until told to stop, or until a burst is over; give the exit code."""
        wake_r, wake_w = socket.socketpair()
        for one in (wake_r, wake_w):
            one.setblocking(False)
        signal.set_wakeup_fd(wake_w.fileno(), warn_on_full_buffer=False)
        before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        self._selector.register(wake_r, selectors.EVENT_READ, self._on_signals)
        try:
            if self._http is not None:
                host, port = self._http
                answers = {"/livez": self._stuck, "/readyz": self._not_ready}
                self._probe = Probe(host, port, answers, {"/api/v1/stats": self._stats})
                self._probe.start()
                log.info("/livez, /readyz and /api/v1/stats on http://%s:%d", host, self._probe.port)
            if self._files is not None:
                self._files.start()
                self._selector.register(self._files.socket, selectors.EVENT_READ, lambda _: self._on_files())
            pat_watchdog(lambda: self._stopping or self._stuck() is None)
            self._generation = self._begin(self._launch)
            while not self._is_over():
                for key, _ in self._selector.select(self._next_timer()):
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    if sock.fileno() >= 0:  # not closed by the one before it
                        key.data(sock)
                self._run_timers()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._close()
        return self._code

    def _is_over(self) -> bool:
        if self._processes or (self._reports is not None and self._reports.pending):
            return False
        loading = self._generation is not None and self._generation.hello is None
        return self._stopping or not (loading or self._starting)

    def _close(self) -> None:
        if self._probe is not None:
            self._probe.close()
        if self._files is not None:
            self._files.close()
        for process in self._processes.values():
            process.control.close()
        for generation in (self._generation, self._successor):
            if generation is not None:
                if not generation.gone:
                    generation.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    generation.process.wait(5)
        if self._reports is not None:
            self._reports.close()
        self._selector.close()

    # -- timers --

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        self._timers.append((time.monotonic() + seconds, call))

    def _next_timer(self) -> float | None:
        return max(0.0, min(at for at, _ in self._timers) - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        now = time.monotonic()
        due = [call for at, call in self._timers if at <= now]
        self._timers = [(at, call) for at, call in self._timers if at > now]
        for call in due:
            call()

    # -- zygotes --

    def _begin(self, launch: Launch) -> Generation:
        generation = Generation(launch)
        self._selector.register(generation.control, selectors.EVENT_READ, lambda _: self._on_zygote(generation))
        return generation

    def _on_zygote(self, generation: Generation) -> None:
        try:
            message = decode_from_zygote(wire.receive(generation.control))
        except (EOFError, OSError):
            self._lost_zygote(generation)
            return
        match message:
            case Hello():
                self._loaded(generation, message)
            case Failed():
                self._failed_to_load(generation, message)
            case Forked():
                process = self._processes.get(message.token)
                if process is not None:
                    process.pid = message.pid
            case Died():
                process = self._processes.get(message.token)
                if process is not None:
                    self._died(process, message.status)

    def _loaded(self, generation: Generation, hello: Hello) -> None:
        generation.hello = hello
        self._on_settings(hello.settings)
        if self._stopping:
            return
        for note in hello.notes:
            log.info("%s", note)
        if self._reports is None:
            self._settings = hello.settings
            self._reports = reports = Reports(hello.settings, self._clock)
            self._selector.register(reports.socket, selectors.EVENT_READ, lambda _: self._on_news(reports))
            self._after(self._settings.renew / 1000, lambda: self._watch_beats(reports))
        if generation is self._successor:
            self._successor, self._generation = None, generation
        for number, crew in enumerate(hello.crews):
            for _ in range(crew.processes):
                self._fork(number)
        self._restart_if_asked()

    def _failed_to_load(self, generation: Generation, failed: Failed) -> None:
        self._forget(generation)
        if generation is self._successor:
            self._successor = None
            log.error("the new code cannot be loaded, the old one goes on: %s", failed.message)
            self._restart_if_asked()
            return
        log.error("%s", failed.message)
        self._code = failed.code
        self._stopping = True

    def _lost_zygote(self, generation: Generation) -> None:
        """A zygote ended that we did not let go."""
        self._forget(generation)
        if generation is self._successor:
            self._successor = None
            log.error("the new code ended while it was loaded; the old one goes on")
            self._restart_if_asked()
        elif generation.hello is None:
            log.error("the application ended while it was loaded")
            self._code = self._code or 2
            self._stopping = True
        elif generation is self._generation and not self._stopping:
            log.error("the zygote died; its workers stop and new ones start from a new one")
            self._generation = self._begin(self._launch)
        for process in self._processes.values():
            if process.generation is generation:
                process.command("stop")

    def _forget(self, generation: Generation) -> None:
        self._selector.unregister(generation.control)
        generation.close()

    # -- worker processes --

    def _fork(self, crew: int | None, predecessor: Process | None = None) -> None:
        generation = self._generation
        if self._stopping or generation is None or generation.gone or generation.hello is None:
            return
        crews = generation.hello.crews
        if crew is not None and crew >= len(crews):
            return  # the new code has a smaller layout, and has started all of it
        self._tokens += 1
        ours, theirs = socket.socketpair()
        table = SlotTable.create(2 if crew is None else crews[crew].slots)
        process = Process(self._tokens, ours, table, generation, crew)
        process.predecessor = predecessor
        self._processes[process.token] = process
        self._selector.register(ours, selectors.EVENT_READ, lambda _: self._on_process(process))
        request = encode(ForkWorker(process.token, table.slots, crew, self._quiet))
        with contextlib.suppress(OSError):  # a zygote that has just died is heard of by its socket
            wire.send_fds(generation.control, request, [theirs.fileno(), table.fd])
        theirs.close()

    def _on_process(self, process: Process) -> None:
        try:
            message = decode_from_child(wire.receive(process.control))
        except (EOFError, OSError):
            self._selector.unregister(process.control)
            if process.generation.gone:  # nobody else will tell how it ended
                self._died(process, None)
            return
        match message:
            case Born():
                process.info = message.info
            case Ready():
                process.ready = True
                self._now_ready(process)
                self._send_unhooked()
            case Alone():
                self._run_alone(message.in_ms)
            case Full():
                self._succeed(process)
            case Asked():
                self._obey(message.word)
            case Bye():
                process.bye = message

    def _now_ready(self, process: Process) -> None:
        if process.stopping or self._stopping:
            process.command("stop")
            return
        if self._quiet:
            process.command("quiet")
        if process.predecessor is not None:
            self._retire(process.predecessor)
            process.predecessor = None
        self._retire_old(process.generation)
        if not self._told_ready and self._not_ready() is None:
            self._told_ready = True
            notify("READY=1")

    def _succeed(self, process: Process) -> None:
        """Start the successor of a process that has done enough; the old one stops when the new one is ready."""
        if process.has_successor or process.stopping or process.generation is not self._generation:
            return  # one is on its way
        process.has_successor = True
        self._fork(process.crew, process)

    def _retire(self, process: Process) -> None:
        if not process.stopping and process.token in self._processes:
            process.stopping = True
            process.command("stop")
            self._kill_later(process)

    def _died(self, process: Process, status: int | None) -> None:
        """Release what the process held, then start another if one is missing."""
        self._processes.pop(process.token, None)
        with contextlib.suppress(KeyError, ValueError):
            self._drain(process)
            self._selector.unregister(process.control)
        process.control.close()
        process.ended = True
        self._last_death = time.monotonic()
        started = process.table.started()
        process.table.close()
        bye, reports = process.bye, self._reports
        assert reports is not None
        if bye is not None and bye.fatal is not None:
            if not self._stopping:
                log.error("%s", bye.fatal)
                self._code = 3
                self._stop_all()
        elif bye is not None or process.killed:
            reports.departed(process)
        else:
            log.error("worker process %d %s", process.pid, describe(status))
            reports.died(process, started, describe(status))
        if process.alone:
            reports.look_for_lonely()
        else:
            self._replace(process)
        old = process.generation
        if old is not self._generation and not old.gone and not self._processes_of(old):
            self._forget(old)
        self._end_reports()

    def _drain(self, process: Process) -> None:
        """Read what the process said before it ended."""
        process.control.setblocking(False)
        with contextlib.suppress(OSError, EOFError):
            while True:
                match decode_from_child(wire.receive(process.control)):
                    case Born(info):
                        process.info = info
                    case Ready():
                        process.ready = True
                    case Bye() as bye:
                        process.bye = bye

    def _replace(self, process: Process) -> None:
        if self._stopping or process.stopping or process.has_successor or process.generation is not self._generation:
            return
        if process.bye is not None and self._launch.burst and not process.bye.overdue:
            return
        lived = time.monotonic() - process.began
        self._deaths = 0 if lived > SETTLED_IN else self._deaths + 1
        # The first replacement starts at once; a process that dies again and again waits longer each time.
        wait = 0.0 if self._deaths <= 1 else min(RESPAWN_MOST, 0.1 * 2 ** (self._deaths - 2))
        self._starting += 1
        self._after(wait, lambda: self._fork_again(process))

    def _fork_again(self, process: Process) -> None:
        self._starting -= 1
        if process.generation is self._generation:  # else there is new code by now, with processes of its own
            self._fork(process.crew, process.predecessor)

    def _processes_of(self, generation: Generation) -> list[Process]:
        return [one for one in self._processes.values() if one.generation is generation]

    def _retire_old(self, generation: Generation) -> None:
        """Once every process of the new code is ready, stop those of the old."""
        mine = [one for one in self._processes_of(generation) if not one.alone]
        if generation is not self._generation or not all(one.ready for one in mine):
            return
        for process in self._processes.values():
            if process.generation is not generation:
                self._retire(process)

    def _run_alone(self, in_ms: int) -> None:
        """Have a quarantine process when a job that must run alone is due."""
        self._after(in_ms / 1000, self._fork_alone)

    def _fork_alone(self) -> None:
        if not any(process.alone for process in self._processes.values()):
            self._fork(None)

    # -- what the store is told, and answers --

    def _on_news(self, reports: Reports) -> None:
        for news in reports.news():
            if isinstance(news, Alone):
                self._run_alone(news.in_ms)
            else:
                self._unhooked.append(news)
        self._send_unhooked()

    def _send_unhooked(self) -> None:
        """Have a process that knows the application call the hooks that are owed, now or when there is one."""
        able = next((one for one in self._processes.values() if one.ready and not one.stopping), None)
        if able is not None:
            waiting, self._unhooked = self._unhooked, []
            for message in waiting:
                able.send(message)

    def _watch_beats(self, reports: Reports) -> None:
        """Have the lease of processes renewed that live but do not get to it themselves."""
        self._after(self._settings.renew / 2000, lambda: self._watch_beats(reports))
        now = self._clock.boot_ms()
        for process in self._processes.values():
            if process.is_starved(now, self._settings):
                reports.renew(process)

    # -- signals --

    def _on_signals(self, sock: socket.socket) -> None:
        for number in sock.recv(4096):
            match number:
                case signal.SIGTERM | signal.SIGINT | signal.SIGQUIT:
                    self._stop_signal(number)
                case signal.SIGTSTP:
                    self._obey("quiet")
                case signal.SIGUSR1 | signal.SIGTTIN:
                    self._command_all("dump")
                case signal.SIGHUP:
                    self._restart()

    def _obey(self, word: str) -> None:
        """Do what a signal or somebody through the store asked of the worker as a whole. *Idempotent.*"""
        if word == "stop" and not self._stopping:
            log.info("asked to stop: running jobs have %s to end", show_duration(self._settings.shutdown_timeout))
            self._stop_all()
        elif word == "quiet" and not self._quiet:
            log.warning("quiet: no new jobs are claimed; what runs goes on. Stop with TERM")
            self._quiet = True
            self._command_all("quiet")

    def _stop_signal(self, number: int) -> None:
        heard, self._heard = self._heard, (number, time.monotonic())
        if heard[0] == number and self._heard[1] - heard[1] < ECHO:
            return
        if number == signal.SIGQUIT or self._stopping:
            self._code = {signal.SIGQUIT: 131, signal.SIGINT: 130}.get(signal.Signals(number), 143)
            log.warning("stopping at once; running jobs are given back")
            self._stop_all("abort", 0.0)
            return
        log.info("stopping: running jobs have %s to end", show_duration(self._settings.shutdown_timeout))
        self._stop_all()

    def _stop_all(self, word: str = "stop", grace: float | None = None) -> None:
        self._stopping = True
        notify("STOPPING=1")
        self._timers.clear()
        grace = self._settings.shutdown_timeout / 1000 if grace is None else grace
        self._grace_over = time.monotonic() + grace
        for process in self._processes.values():
            process.stopping = True
            process.command(word)
            self._kill_later(process, grace if process.ready else 0.0)  # one that is not ready holds no jobs
        self._end_reports()

    def _end_reports(self) -> None:
        """Once nothing lives any more, wait a moment for the store; to the end of the grace if jobs wait for it too."""
        if self._stopping and not self._processes and self._reports is not None:
            until = self._last_death + LAST_WORDS
            self._timers.append(
                (max(until, self._grace_over) if self._reports.urgent else until, self._reports.abandon)
            )

    def _command_all(self, word: str) -> None:
        for process in self._processes.values():
            process.command(word)

    def _kill_later(self, process: Process, grace: float | None = None) -> None:
        grace = self._settings.shutdown_timeout / 1000 if grace is None else grace

        def kill() -> None:
            if process.token not in self._processes:
                return
            log.error(
                "worker process %d has not ended %s after its grace and is killed",
                process.pid, show_duration(KILL_AFTER * 1_000),
            )  # fmt: skip
            process.killed = True
            if process.generation.gone:
                os.kill(process.pid, signal.SIGKILL)
            else:
                with contextlib.suppress(OSError):
                    wire.send(process.generation.control, encode(Kill(process.token)))

        self._after(grace + KILL_AFTER, kill)

    def _restart(self) -> None:
        """HUP: load the code anew beside the old, then let the old processes end."""
        if self._stopping:
            return
        if self._successor is not None:
            self._restart_again = True  # what it loads may be older than what this was asked for
            return
        log.info("rolling restart: loading the application anew")
        self._successor = self._begin(self._launch)

    def _restart_if_asked(self) -> None:
        if self._restart_again:
            self._restart_again = False
            self._restart()

    def _on_files(self) -> None:
        assert self._files is not None
        self._files.drain()
        log.info("source files have changed")
        self._restart()

    # -- how it is: asked by other threads --

    def _stuck(self) -> str | None:
        return health.stuck(list(self._processes.values()), self._settings, self._clock.boot_ms())

    def _not_ready(self) -> str | None:
        """What keeps the worker from doing its work."""
        generation = self._generation
        if self._stopping:
            return "stopping"
        if generation is None or generation.hello is None:
            return "the application is being loaded"
        wanted = sum(crew.processes for crew in generation.hello.crews)
        return health.missing(list(self._processes.values()), wanted, self._settings, self._clock.boot_ms())

    def _stats(self) -> bytes:
        """How the queues do and how many workers they need, as JSON: what an autoscaler asks."""
        reports = self._reports
        if reports is None:
            raise EngineUnavailable("the application is being loaded")
        return msgspec.json.encode(measure(reports.store, self._settings).as_json())
