"""The supervisor: starts, watches, replaces and stops the processes of one ``windlass worker``.

Thin on purpose: one loop, and it never imports the application, so nothing a job does can take it down. It never waits
for the store either: ``reports`` does. It keeps five promises:

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

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

import msgspec

from windlass.core.clock import Clock, SystemClock
from windlass.core.errors import EngineUnavailable
from windlass.core.model import LeaseRef, Outcome
from windlass.core.units import show_duration
from windlass.insight.stats import measure
from windlass.logs import Log
from windlass.settings import Settings
from windlass.worker.attempt.processes import describe
from windlass.worker.process import health
from windlass.worker.process.generation import PATIENCE, Generation, Process, is_running
from windlass.worker.process.messages import (
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
    Judge,
    Judged,
    Launch,
    NotForked,
    Overran,
    Ready,
    decode_from_child,
    decode_from_zygote,
)
from windlass.worker.process.notify import notify, pat_watchdog
from windlass.worker.process.orphans import adopt, collect
from windlass.worker.process.probe import Probe
from windlass.worker.process.reload import FileWatch
from windlass.worker.process.reports import Reports
from windlass.worker.table import Running, SlotTable, monotonic_ms
from windlass.worker.wire import Line

__all__ = ["Supervisor"]


log = Log("windlass.supervisor")

RESPITE = 0.5  # seconds of rest after something that nobody expected
ECHO = 0.002  # seconds: who signals a process and its group at once, as timeout(1) does, means one signal
NO_WORKER = 69  # EX_UNAVAILABLE: the exit code when no process comes to its work
KILL_AFTER = 2.0  # seconds past the grace until what still lives is killed
LAST_WORDS = 2.0  # seconds that the store may take to be told of the last death
RESPAWN_MOST = 10.0  # seconds between starts of a process that keeps dying at once, or that the system refuses
STILLBORN_MAX = 10  # deaths of processes that never came to their work, in a row, until the worker gives up
LOOK = 2.0  # seconds between looks whether every process does its work
BROKEN_AFTER = 30_000  # ms, for a process whose threads run: it may still be ending the job
WAITING_RATE = 20  # turns that a thread gives up a second from which on it waits for the interpreter lock; it is 200
HANG_AFTER = 5_000  # ms past its timeout from which a job is its process's fault: the process itself takes 2,000
WRITES_FOR = 5_000  # ms, at most a third of a lease, that a process may write while its threads do not run
LAST_LOOK = 0.5  # seconds for a process that hangs to show its stacks, before it is killed
JUDGED_WITHIN = 15.0  # seconds for another process to say what becomes of a job that had to be killed
ZYGOTE_ENDS = 2.0  # seconds for a zygote to end that is not needed any more: exit handlers of the application may hang
FAREWELL = 10.0  # seconds for a process to end after it has said that it does
ALONE_MOST = 4  # quarantine processes at once: a crash also sends the neighbours of the culprit there
STRAYED = "had to be killed: a job has closed the descriptors of its process, or they were closed for it"
SETTLED_IN = 10.0  # seconds of life after which a death is not part of a crash loop

SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGUSR1, signal.SIGTTIN,
    signal.SIGCHLD,
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
        self._zygotes: list[Generation] = []  # those that have not ended for certain
        self._reports: Reports | None = None  # made before the first process
        self._settings = Settings()
        self._stopping = False
        self._adopts = False  # processes whose parent has died
        self._heard = (0, 0.0)  # the last signal to stop, and when on the monotonic clock
        self._quiet = False  # nothing is claimed, also by processes to come
        self._restart_again = False  # asked for while a restart was loading
        self._told_ready = False
        self._code = 0
        self._starting = 0  # processes that will be forked in a moment
        self._deaths = 0  # in a row, each soon after its start
        self._stillborn = 0  # processes that ended before they were ready, in a row
        self._refusals = 0  # of the system, in a row
        self._timers: list[tuple[float, Callable[[], None], bool]] = []  # when, what, whether also while stopping
        self._alone_at = 0.0  # when the next look for a quarantine process is due, if one is
        self._grace_over = 0.0  # when the stop is to be over
        self._last_death = 0.0
        self._unhooked: list[Ended] = []  # what no process that could call hooks knows yet
        self._unjudged: list[Process] = []  # killed for jobs of theirs, and nobody has said yet what becomes of those

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
                if not self._probe.local:
                    log.warning(
                        "whoever reaches port %d can read the names and figures of your queues", self._probe.port
                    )
            if self._files is not None:
                self._files.start()
                self._selector.register(self._files.socket, selectors.EVENT_READ, lambda _: self._on_files())
            pat_watchdog(lambda: self._stopping or self._stuck() is None)
            self._adopts = adopt()
            self._load()
            while not self._is_over():
                try:
                    self._turn()
                except Exception:
                    # Nothing else looks after the processes: say what happened, and keep the promise to do so.
                    log.exception("the supervisor failed at something; it goes on")
                    time.sleep(RESPITE)
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._close()
            wake_r.close()
            wake_w.close()
        return self._code

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._next_timer()):
            end = key.fileobj
            assert isinstance(end, socket.socket | Line)
            if end.fileno() >= 0:  # not closed by the one before it
                key.data(end)
        self._run_timers()

    def _is_over(self) -> bool:
        if self._processes or self._unjudged or (self._reports is not None and self._reports.pending):
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
        until = time.monotonic() + ZYGOTE_ENDS
        for generation in self._zygotes:
            if not generation.gone:
                generation.close()
        for generation in self._zygotes:
            try:
                generation.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                generation.process.kill()
                generation.process.wait()
        if self._reports is not None:
            self._reports.close()
        self._selector.close()

    # -- timers --

    def _after(self, seconds: float, call: Callable[[], None], *, lasting: bool = False) -> None:
        """Call something later; ``lasting``: also when the worker has been told to stop meanwhile."""
        self._timers.append((time.monotonic() + seconds, call, lasting))

    def _next_timer(self) -> float | None:
        return max(0.0, min(at for at, _, _ in self._timers) - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        now, timers = time.monotonic(), self._timers
        self._timers = [one for one in timers if one[0] > now]
        for at, call, _ in timers:
            if at <= now:
                self._do(call)

    def _do(self, call: Callable[[], None]) -> None:
        """Call something that must not keep what comes after it from its turn."""
        try:
            call()
        except Exception:
            log.exception("the supervisor failed at something; it goes on")

    # -- zygotes --

    def _load(self, *, successor: bool = False) -> None:
        """Start a zygote that loads the application; as soon as the system lets us."""
        try:
            generation = Generation(self._launch)
        except OSError as error:
            self._try_later(error, lambda: self._load(successor=successor))
            return
        self._refusals = 0
        self._zygotes.append(generation)
        if successor:
            self._successor = generation
        else:
            self._generation = generation
        self._selector.register(generation.control, selectors.EVENT_READ, lambda _: self._on_zygote(generation))

    def _try_later(self, why: object, call: Callable[[], None]) -> None:
        """Do again, later, what the system has refused; longer each time."""
        if self._stopping:
            return
        wait = min(RESPAWN_MOST, 0.5 * 2**self._refusals)
        self._refusals += 1
        log.error("no process can be started, next try in %.1f s: %s", wait, why)
        self._starting += 1

        def again() -> None:
            self._starting -= 1
            call()

        self._after(wait, again)

    def _on_zygote(self, generation: Generation) -> None:
        try:
            message = generation.control.receive()
        except (EOFError, OSError):
            self._lost_zygote(generation)
            return
        self._hear_zygote(generation, message)

    def _hear_zygote(self, generation: Generation, text: bytes) -> None:
        match decode_from_zygote(text):
            case Hello() as hello:
                self._loaded(generation, hello)
            case Failed() as failed:
                self._failed_to_load(generation, failed)
            case Forked(token, pid):
                self._refusals = 0
                process = self._processes.get(token)
                if process is not None:
                    process.pid = pid
            case NotForked(token, why):
                self._not_forked(token, why)
            case Died(token, status):
                process = self._processes.get(token)
                if process is not None:
                    self._died(process, status)

    def _loaded(self, generation: Generation, hello: Hello) -> None:
        generation.hello = hello
        self._on_settings(hello.settings)
        if self._stopping:
            return
        if generation not in (self._generation, self._successor):  # another was asked for while it was loaded
            self._forget(generation)
            return
        for note in hello.notes:
            log.info("%s", note)
        if self._reports is None:
            self._settings = hello.settings
            self._reports = reports = Reports(hello.settings, self._clock)
            self._selector.register(reports.socket, selectors.EVENT_READ, lambda _: self._on_news(reports))
            self._after(self._settings.renew / 1000, lambda: self._watch_beats(reports), lasting=True)
            self._after(LOOK, self._look_at_processes)
        self._settings = hello.settings
        if generation is self._successor:
            old, self._successor, self._generation = self._generation, None, generation
            if old is not None and not old.gone and not self._processes_of(old):
                self._forget(old)  # nothing of it is left that would end it
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
        for message in generation.control.rest():
            self._hear_zygote(generation, message)
        if generation.gone:  # one of its last words was that it could not load the application
            return
        self._forget(generation)
        if generation is self._successor:
            self._successor = None
            log.error("the new code ended while it was loaded; the old one goes on")
            self._restart_if_asked()
        elif generation.hello is None:
            log.error("the application ended while it was loaded; it must not exit, fork or become a daemon at import")
            self._code = self._code or 2
            self._stopping = True
        elif generation is self._generation and not self._stopping:
            log.error("the zygote died; its workers stop and new ones start from a new one")
            self._load()
        for process in self._processes_of(generation):
            process.command("stop")
            self._miss(process)

    def _forget(self, generation: Generation) -> None:
        self._selector.unregister(generation.control)
        generation.close()
        self._after(ZYGOTE_ENDS, lambda: self._end_zygote(generation))

    def _end_zygote(self, generation: Generation) -> None:
        """See to it that a zygote does not stay when nothing of it is left."""
        if self._processes_of(generation):
            self._after(ZYGOTE_ENDS, lambda: self._end_zygote(generation))
            return
        if generation.process.poll() is None:
            log.warning("zygote %d does not end, and is killed", generation.process.pid)
            generation.process.kill()
        self._zygotes.remove(generation)

    # -- worker processes --

    def _fork(self, crew: int | None, predecessor: Process | None = None) -> None:
        generation = self._generation
        if self._stopping or generation is None or generation.gone or generation.hello is None:
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
            self._try_later(error, lambda: self._fork_if_current(generation, crew, predecessor))
            return
        self._tokens += 1
        process = Process(self._tokens, ours, table, generation, crew)
        process.predecessor = predecessor
        self._processes[process.token] = process
        self._selector.register(ours, selectors.EVENT_READ, lambda _: self._on_process(process))
        heard = generation.ask(ForkWorker(process.token, table.slots, crew, self._quiet), (theirs.fileno(), table.fd))
        theirs.close()
        if not heard:
            self._not_forked(process.token, "the zygote does not answer")

    def _not_forked(self, token: int, why: str) -> None:
        process = self._processes.pop(token, None)
        if process is None:
            return
        self._put_away(process)
        self._try_later(why, lambda: self._fork_if_current(process.generation, process.crew, process.predecessor))
        self._end_reports()

    def _fork_if_current(self, generation: Generation, crew: int | None, predecessor: Process | None) -> None:
        if generation is self._generation:  # else there is new code by now, with processes of its own
            self._fork(crew, predecessor)

    def _put_away(self, process: Process) -> None:
        """Let go of what belonged to a process that is no more."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(process.control)
        process.control.close()
        process.table.close()
        process.ended = True

    def _on_process(self, process: Process) -> None:
        try:
            text = process.control.receive()
        except (EOFError, OSError):
            self._selector.unregister(process.control)
            process.silent = True
            process.strayed = not process.killed
            self._miss(process)
            self._kill_later(process)  # it ends, or a job of it has closed its descriptors
            return
        self._hear(process, text)

    def _miss(self, process: Process) -> None:
        """How a process ended, its parent tells: the zygote, or the system when that has gone; or else nobody."""
        if process.silent and process.generation.gone and not (process.pid and self._adopts):
            self._died(process, None)

    def _hear(self, process: Process, text: bytes) -> None:
        match decode_from_child(text):
            case Born(info):
                process.info, process.pid = info, info.pid
            case Ready():
                process.ready = True
                self._now_ready(process)
                self._send_unhooked()
                self._send_unjudged()
            case Alone(in_ms):
                self._run_alone(in_ms)
            case Full():
                self._succeed(process)
            case Overran():
                process.overran = True
                self._succeed(process)
                self._kill_later(process)
            case Asked(word):
                self._obey(word)
            case Judged(token, outcomes):
                self._judged(token, outcomes)
            case Bye() as bye:
                process.bye = bye
                self._kill_later(process, FAREWELL - KILL_AFTER)

    def _now_ready(self, process: Process) -> None:
        self._stillborn = 0
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
        if process.has_successor or process.stopping or process.alone or process.generation is not self._generation:
            return  # one is on its way, or none is needed
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
        for text in process.control.rest():
            match decode_from_child(text):
                case Born(info):
                    process.info, process.pid = info, info.pid
                case Ready():
                    process.ready = True
                case Bye() as last:
                    process.bye = last
        started = process.table.unsettled()
        self._put_away(process)
        self._last_death = time.monotonic()
        bye, reports = process.bye, self._reports
        assert reports is not None
        if bye is not None and bye.fatal is not None:
            if not self._stopping:
                log.error("%s", bye.fatal)
                self._code = 3
                self._stop_all()
        elif process.culprits and bye is None:
            self._have_judged(process)
        elif bye is not None or (process.killed and not process.strayed):
            reports.departed(process)
        else:
            how = STRAYED if process.killed else describe(status)
            log.error("worker process %d %s", process.pid, how)
            reports.died(process, started, how)
        if process.alone:
            reports.look_for_lonely()
        else:
            self._replace(process)
        old = process.generation
        if old is not self._generation and not old.gone and not self._processes_of(old):
            self._forget(old)
        self._end_reports()

    def _replace(self, process: Process) -> None:
        if self._stopping or process.stopping or process.has_successor or process.generation is not self._generation:
            return
        if process.bye is not None and self._launch.burst and not process.bye.overdue:
            return
        self._stillborn = 0 if process.ready else self._stillborn + 1
        if self._stillborn >= STILLBORN_MAX and not any(one.ready for one in self._processes.values()):
            log.error("%d worker processes in a row ended before they came to their work; giving up", self._stillborn)
            self._code = NO_WORKER
            self._stop_all()
            return
        lived = time.monotonic() - process.began
        self._deaths = 0 if lived > SETTLED_IN else self._deaths + 1
        # The first replacement starts at once; a process that dies again and again waits longer each time.
        wait = 0.0 if self._deaths <= 1 else min(RESPAWN_MOST, 0.1 * 2 ** (self._deaths - 2))
        self._starting += 1
        self._after(wait, lambda: self._fork_again(process))

    def _fork_again(self, process: Process) -> None:
        self._starting -= 1
        self._fork_if_current(process.generation, process.crew, process.predecessor)

    def _processes_of(self, generation: Generation) -> list[Process]:
        return [one for one in self._processes.values() if one.generation is generation]

    def _retire_old(self, generation: Generation) -> None:
        """Once every process of the new code is ready, stop those of the old."""
        if generation is not self._generation or generation.hello is None:
            return
        ready = [one for one in self._processes_of(generation) if one.ready and not one.alone]
        if len(ready) < sum(crew.processes for crew in generation.hello.crews):
            return
        for process in self._processes.values():
            if process.generation is not generation:
                self._retire(process)

    def _run_alone(self, in_ms: int) -> None:
        """Have a quarantine process when a job that must run alone is due."""
        at = time.monotonic() + in_ms / 1000
        if not self._alone_at or at < self._alone_at:  # it is told again and again
            self._alone_at = at
            self._after(in_ms / 1000, self._fork_alone)

    def _fork_alone(self) -> None:
        """Add a quarantine process, up to ``ALONE_MOST``, unless the last one has not begun yet."""
        self._alone_at = 0.0
        alone = [process for process in self._processes.values() if process.alone]
        if not self._quiet and len(alone) < ALONE_MOST and all(process.ready for process in alone):
            self._fork(None)

    # -- what the store is told, and answers --

    def _on_news(self, reports: Reports) -> None:
        for news in reports.news():
            if isinstance(news, Alone):
                self._run_alone(news.in_ms)
            else:
                self._unhooked.append(news)
        self._send_unhooked()

    def _able(self) -> Process | None:
        """A process that knows the application and listens."""
        for one in self._processes.values():
            if one.ready and not (one.stopping or one.silent or one.broken or one.pinged_at):
                return one
        return None

    def _send_unhooked(self) -> None:
        """Have a process that knows the application call the hooks that are owed, now or when there is one."""
        able = self._able()
        if able is not None:
            waiting, self._unhooked = self._unhooked, []
            for message in waiting:
                able.send(message)

    def _watch_beats(self, reports: Reports) -> None:
        """Have the lease of processes renewed that live but do not get to it themselves."""
        self._after(self._settings.renew / 2000, lambda: self._watch_beats(reports), lasting=True)
        now = self._clock.boot_ms()
        for process in self._processes.values():
            if process.is_starved(now, self._settings):  # it has not answered since the last look
                reports.renew(process)
            process.look_for_life(now, self._settings)
        for process in self._unjudged:
            reports.hold(process)

    # -- processes that are alive and do nothing --

    def _look_at_processes(self) -> None:
        self._after(LOOK, self._look_at_processes)
        now = self._clock.boot_ms()
        writer = self._reports.store.writer() if self._reports is not None else None
        for process in list(self._processes.values()):
            if process.killed or not process.ready:
                continue
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
            elif not process.stopping and (why := health.wedged(process, self._settings, now)) is not None:
                process.suspect = True  # for now: the whole machine may have slept
                if suspect:
                    log.error("worker process %d cannot do its work: %s; another takes its place", process.pid, why)
                    self._succeed(process)
                    process.show()
                    self._retire(process)

    def _keeps_others_out(self, process: Process, writer: int | None, now: int) -> bool:
        """Whether a process has a write open and gives no sign of life meanwhile. It is asked when it is first seen."""
        if writer != process.pid or process.table.answered_at >= process.writes_at > 0:
            process.writes_at = 0
        if writer == process.pid and not process.writes_at:
            process.writes_at = now
            process.switches_in_write = health.switches(process, process.table.running())
            process.command("ping")
        return process.writes_at > 0 and now - process.writes_at >= min(WRITES_FOR, self._settings.lease / 3)

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
        self._succeed(process)
        process.killed = True
        process.show(last=True)
        self._after(LAST_LOOK, process.kill, lasting=True)

    def _have_judged(self, process: Process) -> None:
        """Have a process that knows the application say what becomes of the jobs that another was killed for.

        Which of several coroutines held the loop, nobody knows, nor who stopped a process (SIGSTOP). They count as
        having crashed it, which uses no attempt, and in the end each runs alone.
        """
        self._unjudged.append(process)
        if self._stopping or process.was_stopped or share_a_thread(process.culprits):
            self._give_up_judging(process)
        else:
            self._send_unjudged()
            self._after(JUDGED_WITHIN, lambda: self._give_up_judging(process))

    def _send_unjudged(self) -> None:
        able = self._able()
        if able is not None:
            for process in self._unjudged:
                able.send(Judge(process.token, tuple(LeaseRef(one.id, one.fence) for one in process.culprits)))

    def _judged(self, token: int, outcomes: tuple[Outcome, ...]) -> None:
        process = next((one for one in self._unjudged if one.token == token), None)
        if process is not None and self._reports is not None:
            self._unjudged.remove(process)
            process.bye = Bye(overdue=outcomes, held=True)
            self._reports.departed(process)

    def _give_up_judging(self, process: Process) -> None:
        """Nobody can say: the jobs are charged as if they had crashed their process, which they have."""
        if process in self._unjudged and self._reports is not None:
            self._unjudged.remove(process)
            fences = [one.fence for one in process.culprits]
            self._reports.died(process, fences, "had to be killed: the job was past its timeout and did not end")
            self._end_reports()

    # -- signals --

    def _on_signals(self, sock: socket.socket) -> None:
        for number in sock.recv(4096):
            self._do(lambda number=number: self._on_signal(number))  # type: ignore[misc]

    def _on_signal(self, number: int) -> None:
        match number:
            case signal.SIGTERM | signal.SIGINT | signal.SIGQUIT:
                self._stop_signal(number)
            case signal.SIGTSTP:
                self._obey("quiet")
            case signal.SIGUSR1 | signal.SIGTTIN:
                for process in self._processes.values():
                    process.show()
            case signal.SIGCHLD:
                self._reap()
            case signal.SIGHUP:
                self._restart()

    def _reap(self) -> None:
        """Take note of zygotes that have ended, and collect whatever else the system has given to this process."""
        for generation in (self._generation, self._successor):
            if generation is not None and generation.process.poll() is not None and not generation.gone:
                self._lost_zygote(generation)
        zygotes = {one.process.pid for one in (self._generation, self._successor, *self._generations()) if one}
        for pid, status in collect(spare=zygotes):
            process = next((one for one in self._processes.values() if one.pid == pid), None)
            if process is not None:  # its zygote has gone
                self._died(process, status)

    def _generations(self) -> set[Generation]:
        return {process.generation for process in self._processes.values()}

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
        self._timers = [timer for timer in self._timers if timer[2]]
        for one in list(self._unjudged):
            self._give_up_judging(one)
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
            at = max(until, self._grace_over) if self._reports.urgent else until
            self._timers.append((at, self._reports.abandon, True))

    def _command_all(self, word: str) -> None:
        for process in self._processes.values():
            process.command(word)

    def _kill_later(self, process: Process, grace: float | None = None) -> None:
        grace = self._settings.shutdown_timeout / 1000 if grace is None else grace

        def kill() -> None:
            if process.token not in self._processes:
                return
            log.error("worker process %d has not ended in the time it had, and is killed", process.pid)
            # A job past its timeout is why; it must not go back with nothing charged, to do the same elsewhere.
            process.culprits = process.culprits or health.hanging(process, monotonic_ms(), 0)
            process.kill()

        self._after(grace + KILL_AFTER, kill, lasting=True)

    def _restart(self) -> None:
        """HUP: load the code anew beside the old, then let the old processes end."""
        if self._stopping:
            return
        if self._successor is not None:
            self._restart_again = True  # what it loads may be older than what this was asked for
            return
        log.info("rolling restart: loading the application anew")
        self._load(successor=True)

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


def holders(process: Process, late: Sequence[Running], before: dict[int, int], ms: int) -> list[Running]:
    """Those of the late jobs of a starved process that may hold its interpreter lock.

    A job in a child does not, and neither does one whose thread only waits for the lock: such a thread gives up its
    turn every 5 ms (``sys.setswitchinterval``), whoever holds the lock does not. ``before`` has those of ``ms``
    ago.
    """
    turns, most = health.switches(process, late), ms / 1000 * WAITING_RATE
    return [one for one in late if one.thread and turns.get(one.thread, 0) - before.get(one.thread, 0) < most]


def share_a_thread(jobs: Sequence[Running]) -> bool:
    """Whether some of these jobs are coroutines of one loop; those in children have no thread here."""
    threads = [one.thread for one in jobs if one.thread]
    return len(set(threads)) < len(threads)
