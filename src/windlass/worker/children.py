"""Jobs in processes of their own (``executor="process"``): killable at any moment, in C code too.

A worker thread lends its slot to a child process and waits for the answer on a line. The zygote forks the child, reaps
it and is the only one to kill it, with all that it started, so a process id is never used after its process has gone. A
child runs one job after another; it is replaced when a timeout, a cancel or a crash ended it, and when it has grown to
``max_memory``. One that died before it began with a job is nobody's fault: another child takes the job. When the system
has no process to give, the job goes back for a while, and its slot is free for jobs that need none.

The child opens its own engine, so a job's transactions work there as in a thread. What the worker has to know while a
job runs (its progress, that a transaction has completed it, that it is to be retried) comes over the line before the
answer; how long a retry waits, and that the worker is stopping, goes the other way. When the worker dies, the line
ends, and the child ends at once with all that it started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from random import Random
from typing import Protocol, TypeAlias

import msgspec
from msgspec import Struct

from windlass.core.clock import Clock
from windlass.core.foreign import shield_logs
from windlass.core.history import NOWHERE, Origin
from windlass.core.work import Lease, Outcome
from windlass.engines.base import Store
from windlass.events import Events
from windlass.guards.verdict import Verdict
from windlass.logs import Log
from windlass.settings import Settings
from windlass.worker.attempt.deadlines import Deadlines
from windlass.worker.attempt.execute import run_alone, run_sync
from windlass.worker.attempt.guarded import circuit_of, verdict_of
from windlass.worker.attempt.judge import escaped
from windlass.worker.attempt.processes import NoProcess, describe, died, no_process
from windlass.worker.attempt.run import JobRun, Prepared
from windlass.worker.recycle import resident
from windlass.worker.stacks import Stack, dump_on_signals, stack_of_task, stack_of_thread
from windlass.worker.stalls import Stalls, Watch
from windlass.worker.wire import Line

__all__ = ["ChildHost", "ChildLine", "Children", "Fork", "serve_child"]

log = Log("windlass.worker")

BODY = f"{run_alone.__qualname__}.<locals>.body"
TRIES = 3  # children that may die one after the other before they have begun with a job
REFUSED_FOR = 30.0  # seconds that a refusal is news
ENDING = 5.0  # seconds for a child to end


class Fork(Protocol):
    """Asks the zygote for processes."""

    def open(self) -> None:
        """Begin to listen to the zygote; before the first child is asked for."""
        ...

    def start(self) -> tuple[Line, int]:
        """Fork a child; give the line to it and its token. *Blocking.* Raises NoProcess when the system has none."""
        ...

    def kill(self, token: int) -> None:
        """Kill a child, if it still lives."""
        ...

    def status(self, token: int, timeout: float) -> int | None:
        """The wait status of a child that has ended; None when it is not known in time."""
        ...


class Order(Struct, array_like=True, tag="order"):
    """Worker to child: run this."""

    lease: Lease
    origin: Origin


class Stopping(Struct, array_like=True, tag="stopping"):
    """Worker to child: whatever runs should end soon."""


class Look(Struct, array_like=True, tag="look"):
    """Worker to child: say where the job is."""


class Deferred(Struct, array_like=True, tag="deferred"):
    """Worker to child: how long the retry has to wait."""

    delay_ms: int


class Began(Struct, array_like=True, tag="began"):
    """Child to worker: the order has come; from now on a death is charged to its job."""


class Noted(Struct, array_like=True, tag="noted"):
    """Child to worker: a note of the job."""

    key: str
    value: str | None
    durable: bool


class Proven(Struct, array_like=True, tag="proven"):
    """Child to worker: a run has noted something durably by itself, so the store has no crash charges of its job."""

    fence: int  # of that run: a thread that it left behind may say this late


class Seen(Struct, array_like=True, tag="seen"):
    """Child to worker: where the job is, and for how many seconds it has made no progress."""

    stack: Stack
    quiet: float


class Settling(Struct, array_like=True, tag="settling"):
    """Child to worker: a transaction is about to settle the job; the child waits for the worker to know."""


class Known(Struct, array_like=True, tag="known"):
    """Worker to child: the worker knows that."""


class SettledOrNot(Struct, array_like=True, tag="settled"):
    """Child to worker: whether the transaction has settled the job."""

    settled: bool


class Defer(Struct, array_like=True, tag="defer"):
    """Child to worker: the job is to be retried in so many ms; the retry budget of its queue is kept by the worker."""

    delay_ms: int


class Answer(Struct, array_like=True, tag="answer"):
    """Child to worker: what came out (None when a transaction settled it), and what that says to the job's circuit.

    ``full``: the child has grown to ``max_memory``, so another should run the next job.
    """

    outcome: Outcome | None
    verdict: Verdict | None
    full: bool = False


ToChild: TypeAlias = Order | Stopping | Look | Deferred | Known
ToWorker: TypeAlias = Began | Noted | Proven | Seen | Settling | SettledOrNot | Defer | Answer

encode = msgspec.msgpack.Encoder().encode
decode_to_child = msgspec.msgpack.Decoder(ToChild).decode
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode


class ChildLine:
    """One end of the line between a worker and a child of it. *Thread-safe* for sending."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.receive = line.receive
        self.close = line.close

    def send(self, message: ToChild | ToWorker) -> None:
        """Send one message, whole. *Blocking.* Raises OSError when the other end has gone."""
        self._line.send(encode(message))


class Child:
    """One child process, as the worker sees it."""

    def __init__(self, line: ChildLine, token: int) -> None:
        self.line = line
        self.token = token
        self.began = False  # with the job that it was given last
        self.watch: Watch | None = None  # of the job that it runs
        self.doomed = False  # its kill is on its way, so no other job may run in it


class Children:
    """The child processes of one worker: one for each run that is on, kept for the next. *Thread-safe.*"""

    def __init__(self, fork: Fork) -> None:
        self._fork = fork
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._running: dict[JobRun, Child] = {}
        self._stopping = False
        self._refused: tuple[float, str] | None = None  # when the system last had no process to give, and why

    def open(self) -> None:
        """Make ready to start children."""
        self._fork.open()

    def run(self, run: JobRun, deadlines: Deadlines, stalls: Stalls) -> Outcome | None:
        """Run a job in a child to its outcome. *Blocking.*"""
        for _ in range(TRIES):
            try:
                child = self._take()
            except NoProcess as error:
                self._refused = (time.monotonic(), str(error))
                return no_process(run, error)
            self._refused = None
            run.began_ns = time.monotonic_ns()
            answer = self._run_in(child, run, deadlines, stalls)
            if answer is not None:
                run.verdict = answer.verdict
                return answer.outcome
            status = self._fork.status(child.token, ENDING)
            if child.began or child.doomed:
                return died(run, status)
            how = describe(status)
            log.warning("a child process %s before it began with job %s; another takes it", how, run.lease.id)
        return no_process(run, NoProcess(f"{TRIES} child processes died before they began with it"))

    def _run_in(self, child: Child, run: JobRun, deadlines: Deadlines, stalls: Stalls) -> Answer | None:
        """Give a job to a child; None: the child has died."""
        with self._lock:
            self._running[run] = child
        deadline = None
        if run.timeout_ms is not None:
            run.prolong(run.timeout_ms)  # it begins only now
            deadline = deadlines.add(run.timeout_ms / 1000, lambda: self.kill(run, timed_out=True))
        if run.stall_ms is not None:
            child.watch = stalls.watch_child(run, lambda: self._look(child))
        answer = None
        try:
            answer = self._converse(run, child, stalls)
        except (OSError, EOFError):
            pass
        except BaseException:
            self.kill(run)  # or the job would go on beside what becomes of it here
            raise
        finally:
            if deadline is not None:
                deadlines.drop(deadline)
            if child.watch is not None:
                stalls.drop(child.watch)
                child.watch = None
            with self._lock:
                del self._running[run]
                keep = answer is not None and not (answer.full or child.doomed)
                if keep:
                    child.began = False
                    self._idle.append(child)
            if not keep:
                child.line.close()
        if answer is not None and not keep:  # it ends by itself, or is made to
            deadlines.add(ENDING, lambda: self._fork.kill(child.token))
        return answer

    def refusal(self) -> str | None:
        """Why no child could be started, when that was a moment ago and none has been since."""
        refused = self._refused
        return refused[1] if refused is not None and time.monotonic() - refused[0] < REFUSED_FOR else None

    def kill(self, run: JobRun, *, timed_out: bool = False) -> None:
        """Kill the child that runs this job, if one does."""
        with self._lock:
            child = self._running.get(run)
            if child is None:
                return
            child.doomed = True  # the job may end before the kill arrives
            run.timed_out = run.timed_out or timed_out
        self._fork.kill(child.token)

    def stop(self) -> None:
        """Let jobs know that the worker is stopping: those that run, and those that begin from now on. *Blocking.*"""
        with self._lock:
            self._stopping = True
            running = list(self._running.values())
        for child in running:
            with contextlib.suppress(OSError):  # it has died; who waits for its answer finds out
                child.line.send(Stopping())

    def close(self) -> None:
        """Let idle children end."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.line.close()

    def _converse(self, run: JobRun, child: Child, stalls: Stalls) -> Answer:
        """Send the order, take what the job has to say, give the answer."""
        if self._stopping:
            child.line.send(Stopping())
        if run.cancelled:  # asked for before there was a child to kill
            self.kill(run)
        child.line.send(Order(run.lease, run.host.origin))
        while True:
            match decode_to_worker(child.line.receive()):
                case Began():
                    child.began = True
                    run.note_moved()
                case Noted(key, value, durable):
                    run.note_moved()
                    run.host.note(run, key, value, durable=durable)
                    if durable:
                        run.note_proof()
                case Proven(fence) if fence == run.lease.fence:
                    run.note_proof()
                case Proven():
                    pass
                case Seen(stack, quiet):
                    if child.watch is not None:
                        stalls.answered(child.watch, stack, quiet)
                case Settling():
                    run.note_settling()
                    child.line.send(Known())
                case SettledOrNot(settled):
                    run.note_settled(settled)
                case Defer(delay_ms):
                    child.line.send(Deferred(run.host.defer(run, delay_ms)))
                case Answer() as answer:
                    return answer

    def _look(self, child: Child) -> None:
        """Ask where its job is. One that has not begun with it reads nothing yet, and must not be waited for."""
        if child.began:
            with contextlib.suppress(OSError):  # it has died; who waits for its answer finds out
                child.line.send(Look())

    def _take(self) -> Child:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        line, token = self._fork.start()
        return Child(ChildLine(line), token)


class ChildHost:
    """What a run in a child process has for a host: its own engine, and the line to the worker."""

    def __init__(self, engine: Store, clock: Clock, settings: Settings, events: Events, line: ChildLine) -> None:
        self.engine = engine
        self.clock = clock
        self.settings = settings
        self.events = events
        self.rng = Random()
        self.stopping = False
        self.origin = NOWHERE  # each order says which worker it comes from
        self.line = line
        self.run: JobRun | None = None
        self.waits: SimpleQueue[int] = SimpleQueue()  # what the worker has answered to ``Defer``
        self.known: SimpleQueue[Known] = SimpleQueue()  # and to ``Settling``

    def note(self, _run: JobRun, key: str, value: str | None, *, durable: bool = False) -> None:
        self.line.send(Noted(key, value, durable))

    def prolong(self, run: JobRun, ms: float) -> None:
        """The worker watches the time of a job in a child."""

    def defer(self, _run: JobRun, delay_ms: int) -> int:
        self.line.send(Defer(delay_ms))
        return self.waits.get()


class ChildRun(JobRun):
    """A run in a child process: its worker has to know what it knows."""

    __slots__ = ("_host",)

    def __init__(self, lease: Lease, prepared: Prepared, host: ChildHost) -> None:
        super().__init__(lease, prepared, host)
        self._host = host

    def note_proof(self) -> None:
        super().note_proof()
        self._host.line.send(Proven(self.lease.fence))

    def note_settling(self) -> None:
        super().note_settling()
        self._host.line.send(Settling())
        self._host.known.get()

    def note_settled(self, settled: bool) -> None:
        super().note_settled(settled)
        self._host.line.send(SettledOrNot(settled))


def serve_child(host: ChildHost, lookup: Callable[[str], Prepared | None]) -> None:
    """Run orders until the worker lets this process go. The main thread runs the jobs; another watches the line."""
    shield_logs()
    orders: SimpleQueue[Order | None] = SimpleQueue()
    running: list[Lease] = []

    def watch() -> None:
        while True:
            try:
                message = decode_to_child(host.line.receive())
            except (OSError, EOFError):
                if running:  # the worker has gone; whatever runs here must not go on, nor what it started
                    os.killpg(0, signal.SIGKILL)
                orders.put(None)
                return
            match message:
                case Order():
                    running.append(message.lease)
                    orders.put(message)
                case Stopping():
                    host.stopping = True
                case Look():
                    if host.run is not None:
                        host.line.send(Seen(stack_in_main(), time.monotonic() - host.run.moved_at))
                case Deferred(delay_ms):
                    host.waits.put(delay_ms)
                case Known() as known:
                    host.known.put(known)

    def describe_jobs() -> list[str]:
        jobs = [f"{lease.name} {lease.id} attempt {lease.attempt}" for lease in running]
        return [f"child process {os.getpid()} runs: {', '.join(jobs) or 'nothing'}"]

    def stop(_number: int, _frame: object) -> None:
        host.stopping = True  # the worker has got it too, and says so in a moment

    signal.signal(signal.SIGTERM, stop)
    dump_on_signals(describe_jobs, running_tasks)
    threading.Thread(target=watch, name="windlass-orders", daemon=True).start()
    with contextlib.suppress(OSError):  # the worker has gone in this moment
        while (order := orders.get()) is not None:
            host.line.send(Began())
            host.origin = order.origin
            answer = run_order(order.lease, host, lookup)
            running.clear()
            host.run = None
            host.line.send(answer)


def stack_in_main() -> Stack:
    """Where the job is that the main thread runs: in a call, or where its task awaits."""
    ident = threading.main_thread().ident
    assert ident is not None
    frame = sys._current_frames().get(ident)
    while frame is not None and frame.f_code is not run_alone.__code__:
        frame = frame.f_back
    runner = None if frame is None else frame.f_locals.get("runner")
    if isinstance(runner, asyncio.Runner) and asyncio.current_task(loop := runner.get_loop()) is None:
        for task in asyncio.all_tasks(loop):
            if getattr(task.get_coro(), "__qualname__", "") == BODY:
                return stack_of_task(task)
    return stack_of_thread(ident)


def running_tasks() -> set[asyncio.Task[object]]:
    """The tasks of the job that runs in this thread, if it is a coroutine."""
    try:
        return asyncio.all_tasks()
    except RuntimeError:
        return set()


def run_order(lease: Lease, host: ChildHost, lookup: Callable[[str], Prepared | None]) -> Answer:
    """One job in this process. The worker has passed its circuit."""
    prepared = lookup(lease.name)
    assert prepared is not None, lease.name  # the worker looked it up in the same registry
    run = host.run = ChildRun(lease, prepared, host)
    if run.stall_ms is not None:
        run.note_moved()
    began = time.monotonic()
    try:
        outcome = run_alone(run) if prepared.spec.is_async else run_sync(run)
    except BaseException as error:  # noqa: BLE001 - the process goes on, and answers whatever it is
        outcome = escaped(run, error)
    circuit, most = circuit_of(run), host.settings.max_memory
    verdict = None if circuit is None else verdict_of(run, circuit, began)
    return Answer(outcome, verdict, most is not None and resident() >= most)
