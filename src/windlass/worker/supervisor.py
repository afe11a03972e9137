"""The supervisor: starts, watches, replaces and stops the processes of one ``windlass worker``.

Thin on purpose: one thread, one loop, and it never imports the application, so nothing a job does can take it down. It
keeps three promises:

- When a process dies, its jobs are released at once, and only those it had started are charged with the crash; the slot
  table it left behind tells which. A job that killed its process twice runs alone in a process of its own.
- A process that is alive but whose threads are starved (a C call that holds the interpreter lock) keeps its lease: the
  supervisor renews it. A process that was stopped (SIGSTOP) does not.
- Stopping is orderly within the grace, and whatever has not ended two seconds later is killed; its jobs are then given
  back as interrupted, not as crashed.

What must reach the store and cannot (the store is away) is kept and tried again.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from windlass.clock import Clock, SystemClock
from windlass.codec import Origin
from windlass.engines.base import Store
from windlass.engines.url import connect, rules_of
from windlass.errors import EngineError, EngineUnusable
from windlass.model import Kind, Settled, WorkerInfo
from windlass.settings import Settings
from windlass.worker import wire
from windlass.worker.children import ProcessDied, crash_error, describe
from windlass.worker.messages import (
    Alone,
    Asked,
    Born,
    Bye,
    Command,
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
from windlass.worker.notify import notify, watchdog_s
from windlass.worker.probe import Probe
from windlass.worker.reload import FileWatch
from windlass.worker.slots import SlotTable

__all__ = ["Supervisor"]

log = logging.getLogger("windlass.supervisor")

KILL_AFTER = 2.0  # seconds past the grace until what still lives is killed
STORE_RETRY = 1.0  # seconds between tries to tell the store
RESPAWN_MOST = 10.0  # seconds between starts of a process that keeps dying at once
SETTLED_IN = 10.0  # seconds of life after which a death is not part of a crash loop

SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGUSR1, signal.SIGTTIN,
)  # fmt: skip


class Process:
    """One worker process as the supervisor knows it."""

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
        self.began = time.monotonic()

    @property
    def alone(self) -> bool:
        """Whether jobs run alone in it."""
        return self.crew is None

    def command(self, word: str) -> None:
        """Tell the process; one that has gone is heard of otherwise."""
        self.send(Command(word))

    def send(self, message: Command | Ended) -> None:
        """Send a message; one to a process that has gone is lost."""
        with contextlib.suppress(OSError):
            wire.send(self.control, encode(message))


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


class Supervisor:
    """Runs ``windlass worker`` in this process. *Blocking.*"""

    def __init__(
        self,
        launch: Launch,
        *,
        clock: Clock | None = None,
        http: tuple[str, int] | None = None,
        reload: bool = False,
    ) -> None:
        """``http``: where to answer ``/livez`` and ``/readyz``; ``reload``: restart when source files change."""
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
        self._engine: Store | None = None
        self._settings = Settings()
        self._stopping = False
        self._patience = math.inf  # until when a store that is away is told again, on the monotonic clock
        self._quiet = False  # nothing is claimed, also by processes to come
        self._restart_again = False  # asked for while a restart was loading
        self._told_ready = False
        self._code = 0
        self._starting = 0  # processes that will be forked in a moment
        self._deaths = 0  # in a row, each soon after its start
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._reports: list[Callable[[Store], None]] = []  # what the store does not know yet
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
                self._probe = Probe(host, port, {"/livez": self._stuck, "/readyz": self._not_ready})
                self._probe.start()
                log.info("/livez and /readyz on http://%s:%d", host, self._probe.port)
            if self._files is not None:
                self._files.start()
                self._selector.register(self._files.socket, selectors.EVENT_READ, lambda _: self._on_files())
            every = watchdog_s()
            if every is not None:
                threading.Thread(
                    target=self._pat_watchdog, args=(every,), name="windlass-watchdog", daemon=True
                ).start()
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
        if self._processes or self._reports:
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
        if self._engine is not None:
            self._engine.close()
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
        if self._stopping:
            return
        for note in hello.notes:
            log.info("%s", note)
        if self._engine is None:
            self._settings = hello.settings
            self._engine = connect(hello.settings)
            self._after(self._settings.renew / 1000, self._watch_beats)
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
        started = process.table.started()
        process.table.close()
        bye = process.bye
        if bye is not None and bye.fatal is not None:
            if not self._stopping:
                log.error("%s", bye.fatal)
                self._code = 3
                self._stop_all()
        elif bye is not None or process.killed:
            self._report(lambda store: self._settle_departed(store, process))
        else:
            log.error("worker process %d %s", process.pid, describe(status))
            self._report(lambda store: self._bury(store, process, started, describe(status)))
        self._replace(process)
        old = process.generation
        if old is not self._generation and not old.gone and not self._processes_of(old):
            self._forget(old)

    def _drain(self, process: Process) -> None:
        """Read what the process said before it ended."""
        process.control.setblocking(False)
        with contextlib.suppress(OSError, EOFError):
            while True:
                message = decode_from_child(wire.receive(process.control))
                if isinstance(message, Bye):
                    process.bye = message
                elif isinstance(message, Born):
                    process.info = message.info

    def _replace(self, process: Process) -> None:
        if process.alone:
            self._report(self._look_for_lonely)
            return
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

    # -- what the store must know --

    def _report(self, call: Callable[[Store], None]) -> None:
        self._reports.append(call)
        self._send_reports()

    def _send_reports(self) -> None:
        store = self._engine
        if store is None:
            self._reports.clear()
            return
        while self._reports:
            try:
                self._reports[0](store)
            except EngineUnusable as error:
                log.error("cannot tell the store, and never will: %s", error)
                self._reports.clear()
                return
            except EngineError as error:
                if time.monotonic() >= self._patience:
                    log.error("the store was not told what has ended here; it learns so when the leases end: %s", error)
                    self._reports.clear()
                    return
                log.error("cannot tell the store, next try in %.0f s: %s", STORE_RETRY, error)
                self._after(STORE_RETRY, self._send_reports)
                return
            self._reports.pop(0)

    def _settle_departed(self, store: Store, process: Process) -> None:
        if process.bye is not None and process.bye.overdue:
            overdue = process.bye.overdue
            pairs = zip(overdue, store.settle(overdue), strict=True)
            settled = [outcome for outcome, answer in pairs if answer is Settled.APPLIED]
            self._tell_hooks(
                dead=[one.id for one in settled if one.kind is Kind.DEAD],
                retried=[one.id for one in settled if one.kind is Kind.RETRY],
            )
        if process.info is not None:
            self._tell_hooks(dead=store.depart(process.info.id).dead)

    def _bury(self, store: Store, process: Process, started: Sequence[int], how: str) -> None:
        if process.info is None:
            return
        error = ProcessDied(f"the worker process {process.pid} that ran this job {how}")
        info = process.info
        text = crash_error(error, 0, 0, self._settings.error_max, Origin(info.host, info.id, info.version))
        buried = store.bury(process.info.id, started, text, rules_of(self._settings))
        if buried.charged or buried.dead or buried.released:
            log.warning(
                "of its jobs %d had started and run again, %d are dead, %d had not started",
                len(buried.charged), len(buried.dead), len(buried.released),
            )  # fmt: skip
        self._tell_hooks(dead=buried.dead)
        if buried.charged:
            self._look_for_lonely(store)

    def _look_for_lonely(self, store: Store) -> None:
        done = store.maintain(rules_of(self._settings), 100)
        self._tell_hooks(dead=done.died)
        if done.alone_in_ms is not None:
            self._run_alone(done.alone_in_ms)

    def _tell_hooks(self, dead: Sequence[str] = (), retried: Sequence[str] = ()) -> None:
        """Have a process that knows the application call the hooks of these jobs, now or when there is one."""
        if dead or retried:
            self._unhooked.append(Ended(tuple(dead), tuple(retried)))
            self._send_unhooked()

    def _send_unhooked(self) -> None:
        able = next((one for one in self._processes.values() if one.ready and not one.stopping), None)
        if able is not None:
            waiting, self._unhooked = self._unhooked, []
            for message in waiting:
                able.send(message)

    def _watch_beats(self) -> None:
        """Renew the lease of processes that live but do not get to it themselves."""
        self._after(self._settings.renew / 2000, self._watch_beats)
        store, now = self._engine, self._clock.boot_ms()
        for process in self._processes.values():
            if store is None or not process.ready or process.info is None:
                continue
            unheard = now - process.table.beat_at
            unrenewed = now - max(process.table.beat_at, process.table.renewed_at)
            # A lease that is over is not renewed for anyone: others may have its jobs, and only a beat of the process
            # itself learns which. That is a process that was stopped and goes on.
            starved = unheard >= self._settings.renew * 1.5 and unrenewed < self._settings.lease
            if starved and is_running(process.pid):
                log.warning("worker process %d is alive but starved; its lease is renewed for it", process.pid)
                with contextlib.suppress(EngineError):
                    store.extend(process.info, (), self._settings.lease)
                    process.table.renew(now)

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
            log.info("asked to stop: running jobs have %.0f s to end", self._settings.shutdown_timeout / 1000)
            self._stop_all()
        elif word == "quiet" and not self._quiet:
            log.warning("quiet: no new jobs are claimed; what runs goes on. Stop with TERM")
            self._quiet = True
            self._command_all("quiet")

    def _stop_signal(self, number: int) -> None:
        if number == signal.SIGQUIT or self._stopping:
            self._code = {signal.SIGQUIT: 131, signal.SIGINT: 130}.get(signal.Signals(number), 143)
            log.warning("stopping at once; running jobs are given back")
            self._stop_all("abort", 0.0)
            return
        log.info("stopping: running jobs have %.0f s to end", self._settings.shutdown_timeout / 1000)
        self._stop_all()

    def _stop_all(self, word: str = "stop", grace: float | None = None) -> None:
        self._stopping = True
        notify("STOPPING=1")
        self._timers = [(at, call) for at, call in self._timers if call == self._send_reports]
        grace = self._settings.shutdown_timeout / 1000 if grace is None else grace
        held = any(process.ready for process in self._processes.values())  # else there is no lease to give back
        self._patience = time.monotonic() + (grace if held else 0.0)
        for process in self._processes.values():
            process.stopping = True
            process.command(word)
            self._kill_later(process, grace)

    def _command_all(self, word: str) -> None:
        for process in self._processes.values():
            process.command(word)

    def _kill_later(self, process: Process, grace: float | None = None) -> None:
        grace = self._settings.shutdown_timeout / 1000 if grace is None else grace

        def kill() -> None:
            if process.token not in self._processes:
                return
            log.error("worker process %d has not ended %.0f s after its grace; it is killed", process.pid, KILL_AFTER)
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

    # -- how it is: these are asked by other threads, and change nothing --

    def _stuck(self) -> str | None:
        """What is wrong with the life of the processes: one that has not looked for jobs within ``live_within``."""
        now = self._clock.boot_ms()
        for process in list(self._processes.values()):
            silent = now - process.table.polled_at
            if process.ready and silent > self._settings.live_within:
                return f"worker process {process.pid} has not looked for jobs for {silent / 1000:.0f} s"
        return None

    def _not_ready(self) -> str | None:
        """What keeps the worker from doing its work."""
        generation = self._generation
        if self._stopping:
            return "stopping"
        if generation is None or generation.hello is None:
            return "the application is being loaded"
        ready = [one for one in list(self._processes.values()) if one.ready and not one.stopping and not one.alone]
        wanted = sum(crew.processes for crew in generation.hello.crews)
        if len(ready) < wanted:
            return f"{len(ready)} of {wanted} worker processes are ready"
        now = self._clock.boot_ms()
        for process in ready:
            away = process.table.away_since
            # A process looks every poll_max; one that does not is waiting for an answer of the store.
            since = away or process.table.polled_at
            if away or now - since > 2 * self._settings.poll_max + 1_000:
                return f"the store has been away for {(now - since) / 1000:.0f} s"
        return self._stuck()

    def _pat_watchdog(self, every: float) -> None:
        """Tell systemd that no process is stuck, until this process ends."""
        while True:
            if self._stopping or self._stuck() is None:
                notify("WATCHDOG=1")
            time.sleep(every)


def is_running(pid: int) -> bool:
    """Whether a process lives and is not stopped (Linux; elsewhere: whether it lives)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in ("T", "t", "Z", "X")
    except FileNotFoundError:
        return False
    except OSError:
        return True
