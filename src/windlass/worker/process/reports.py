"""What the supervisor tells the store: how its processes ended, and that a starved one is alive.

On a thread of its own, because a store that is away may take half a minute to say so, and the supervisor must hear
signals and deaths meanwhile. What the store answers comes back as news, which the supervisor reads on its own thread.

- Reports are made one after the other, in the order in which they were handed in, and none is skipped: one that the
  store cannot take is tried again until it does, or until ``abandon``.
- Each is safe to repeat, since an answer may get lost.
- What was abandoned loses nothing: the lease of the process runs out, and others have its jobs.

This must not decide what happens to a process, and calls no hooks: it knows no application.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue

from msgspec.structs import replace

from windlass.core.clock import Clock
from windlass.core.errors import EngineError, EngineUnusable
from windlass.core.history import Origin
from windlass.core.units import show_duration
from windlass.core.work import Kind, Outcome, Settled, WorkerInfo
from windlass.engines.base import Store
from windlass.engines.url import connect, rules_of
from windlass.logs import Log
from windlass.settings import Settings
from windlass.worker.attempt.processes import ProcessDied, crash_error
from windlass.worker.process.generation import Process
from windlass.worker.process.messages import Alone, Ended

__all__ = ["Reports"]

log = Log("windlass.supervisor")

STORE_RETRY = 1.0  # seconds between tries to tell the store
STARVED = "none of its threads gets to run: a job may hold the interpreter lock"
STARVED_EVERY = 60_000  # ms between warnings of the same starved process
CLOSING = 0.5  # seconds for the thread to end when it has nothing to do


class Reports:
    """The supervisor's line to the store, for its thread alone; ``socket`` becomes readable when there is news."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Connect at the first report. Raises ConfigError when there is no engine for the settings."""
        self.socket, self._bell = socket.socketpair()
        for one in (self.socket, self._bell):
            one.setblocking(False)
        self._settings = settings
        self._clock = clock
        self.store: Store = connect(settings)
        self._rules = rules_of(settings)
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._news: SimpleQueue[Ended | Alone | None] = SimpleQueue()  # None: a report has been dealt with
        self._pending: deque[Process | None] = deque()  # for each report, the process whose jobs wait for it
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name="windlass-reports", daemon=True)
        self._thread.start()

    # -- reports --

    def departed(self, process: Process) -> None:
        """A process ended in order, or was killed after its grace: settle what is overdue, give back the rest."""
        if process.bye is not None and process.bye.overdue:
            overdue = process.bye.overdue
            self._add(lambda: self._settle(overdue), process)
        if process.info is not None:
            info = process.info
            self._add(lambda: self._tell_hooks(died=self.store.depart(info.id).dead), process)

    def died(self, process: Process, started: Sequence[int], how: str) -> None:
        """A process died: charge the jobs that had started in it, give back the others."""
        if process.info is not None:
            info, pid = process.info, process.pid
            self._add(lambda: self._bury(info, pid, started, how), process)

    def look_for_lonely(self) -> None:
        """Ask when a job is due that must run alone."""
        self._add(self._look_for_lonely)

    def renew(self, process: Process) -> None:
        """Renew the lease of a process that is starved, if it still is when the store can be told."""
        self._add(lambda: self._renew(process))

    def hold(self, process: Process) -> None:
        """Renew the lease of a process that is dead or dying, until it is known what becomes of its jobs."""
        self._add(lambda: self._hold(process))

    # -- what becomes of them --

    @property
    def pending(self) -> bool:
        """Whether the store does not know something yet, or its answer is news that was not read."""
        return bool(self._pending)

    @property
    def urgent(self) -> bool:
        """Whether jobs wait for the store to be told that their process has gone."""
        return any(process is not None for process in self._pending)

    def news(self) -> Iterator[Ended | Alone]:
        """Take what the store has answered: jobs whose hooks are to be called, when a job is to run alone."""
        with contextlib.suppress(BlockingIOError):
            self.socket.recv(4_096)
        with contextlib.suppress(Empty):
            while True:
                one = self._news.get_nowait()
                if one is None:
                    self._pending.popleft()
                else:
                    yield one

    def abandon(self) -> None:
        """Give up what is pending, and warn of it. Nothing may be reported afterwards."""
        untold = sorted({process.pid for process in self._pending if process is not None})
        if untold:
            log.warning(
                "the store was not told how worker processes %s ended: jobs they had can be claimed again when their "
                "leases are over, in %s at most",
                ", ".join(map(str, untold)), show_duration(self._settings.lease + self._settings.reap),
            )  # fmt: skip
        self._pending.clear()
        self._abandoned.set()

    def close(self) -> None:
        """End the thread and close the store; a thread that hangs in a call is left to end with this process."""
        self._calls.put(None)
        self._thread.join(CLOSING)
        if not self._thread.is_alive():
            self.store.close()
        self.socket.close()
        self._bell.close()

    # -- the thread --

    def _add(self, call: Callable[[], None], about: Process | None = None) -> None:
        self._pending.append(about if about is not None and about.may_hold_jobs else None)
        self._calls.put(call)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            while not (self._send(call) or self._abandoned.wait(STORE_RETRY)):
                pass
            if self._abandoned.is_set():
                return
            self._tell(None)

    def _send(self, call: Callable[[], None]) -> bool:
        """Make a report; false when it must be made again."""
        try:
            call()
        except EngineUnusable as error:
            log.error("cannot tell the store, and never will: %s", error)
        except EngineError as error:
            log.error("cannot tell the store, next try in %s: %s", show_duration(STORE_RETRY * 1_000), error)
            return False
        except Exception:
            # Nothing else tells the store: say so, and go on with the next.
            log.exception("a report to the store failed; it is dropped")
        return True

    def _settle(self, overdue: Sequence[Outcome]) -> None:
        pairs = zip(overdue, self.store.settle(overdue), strict=True)
        settled = [outcome for outcome, answer in pairs if answer is Settled.APPLIED]
        self._tell_hooks(
            dead=[one.id for one in settled if one.kind is Kind.DEAD],
            retried=[one.id for one in settled if one.kind is Kind.RETRY],
        )

    def _bury(self, info: WorkerInfo, pid: int, started: Sequence[int], how: str) -> None:
        error = ProcessDied(f"the worker process {pid} that ran this job {how}")
        text = crash_error(error, 0, 0, self._settings.error_max, Origin(info.host, info.id, info.version))
        buried = self.store.bury(info.id, started, text, self._rules)
        if buried.charged or buried.dead or buried.released:
            log.warning(
                "of its jobs %d had started and run again, %d are dead, %d had not started",
                len(buried.charged), len(buried.dead), len(buried.released),
            )  # fmt: skip
        self._tell(Ended(died=buried.dead, worker=info.id, cause=how))
        if buried.charged:
            self._look_for_lonely()

    def _look_for_lonely(self) -> None:
        done = self.store.maintain(self._rules, 100)
        self._tell_hooks(died=done.died)
        if done.alone_in_ms is not None:
            self._tell(Alone(done.alone_in_ms))

    def _renew(self, process: Process) -> None:
        now = self._clock.boot_ms()
        if process.info is not None and process.is_starved(now, self._settings):
            if now - process.told_starved >= STARVED_EVERY:
                process.told_starved = now
                log.warning(
                    "no thread of worker process %d gets to run: a job may hold the interpreter lock; its lease is "
                    "renewed for it", process.pid,
                )  # fmt: skip
            with contextlib.suppress(EngineError):  # too late is worse than not at all; the next look tries again
                self.store.extend(replace(process.info, trouble=STARVED), (), self._settings.lease)
                process.table.renew(now)

    def _hold(self, process: Process) -> None:
        if process.info is not None and process.bye is None:
            with contextlib.suppress(EngineError):
                self.store.extend(process.info, (), self._settings.lease)

    def _tell_hooks(self, dead: Sequence[str] = (), retried: Sequence[str] = (), died: Sequence[str] = ()) -> None:
        if dead or retried or died:
            self._tell(Ended(tuple(dead), tuple(retried), tuple(died)))

    def _tell(self, news: Ended | Alone | None) -> None:
        self._news.put(news)
        with contextlib.suppress(OSError):  # full: it is readable already
            self._bell.send(b"\0")
