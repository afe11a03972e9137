"""Jobs in processes of their own (``executor="process"``): killable at any moment, in C code too.

A worker thread lends its slot to a child process and waits for the answer on a socket. The zygote forks the child,
reaps it and is the only one to kill it, so a process id is never used after its process has gone. A child runs one job
after another; it is replaced when a timeout, a cancel or a crash ended it, and when it has grown to ``max_memory``.

The child opens its own engine, so a job's transactions work there as in a thread. What the worker has to know while a
job runs (its progress, that a transaction has completed it) comes over the socket before the answer; that the worker is
stopping goes the other way. When the worker dies, the socket ends and the child ends at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from random import Random
from typing import Protocol

import msgspec
from msgspec import Struct

from windlass.clock import Clock
from windlass.codec import NOWHERE, Origin, encode_error
from windlass.engines.base import Store
from windlass.engines.url import rules_of
from windlass.errors import WindlassError
from windlass.events import Events, JobDead
from windlass.fingerprint import POISON
from windlass.guards.verdict import Verdict
from windlass.model import Kind, Lease, Outcome, Rules
from windlass.settings import Settings
from windlass.worker import wire
from windlass.worker.deadlines import Deadlines
from windlass.worker.execute import failure, interrupted, run_async, run_sync, tell, withdrawn
from windlass.worker.guarded import circuit_of, verdict_of
from windlass.worker.recycle import resident
from windlass.worker.run import JobRun, Prepared

__all__ = ["ChildHost", "Children", "Fork", "Line", "ProcessDied", "serve_child"]


class ProcessDied(WindlassError):
    """The process that ran the job died."""


class Fork(Protocol):
    """Asks the zygote for processes."""

    def start(self) -> tuple[socket.socket, int]:
        """Fork a child; give the socket to it and its token."""
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


class Report(Struct, array_like=True, tag="report"):
    """Child to worker: how far the job is."""

    text: str


class Completed(Struct, array_like=True, tag="completed"):
    """Child to worker: a transaction has completed the job, so it is not in the store's list of leases any more."""


class Answer(Struct, array_like=True, tag="answer"):
    """Child to worker: what came out (None when a transaction settled it), and what that says to the job's circuit.

    ``full``: the child has grown to ``max_memory``, so another should run the next job.
    """

    outcome: Outcome | None
    verdict: Verdict | None
    full: bool = False


encode = msgspec.msgpack.Encoder().encode
decode_to_child = msgspec.msgpack.Decoder(Order | Stopping).decode
decode_to_worker = msgspec.msgpack.Decoder(Report | Completed | Answer).decode


class Line:
    """One end of the socket between a worker and a child of it. *Thread-safe* for sending."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, message: Order | Stopping | Report | Completed | Answer) -> None:
        """Send one message, whole. *Blocking.* Raises OSError when the other end has gone."""
        packed = encode(message)
        with self._lock:
            wire.send(self._sock, packed)

    def receive(self) -> bytes:
        """Receive one message. *Blocking.* Raises EOFError or OSError when the other end has gone."""
        return wire.receive(self._sock)

    def close(self) -> None:
        self._sock.close()


class Child:
    """One child process, as the worker sees it."""

    def __init__(self, line: Line, token: int) -> None:
        self.line = line
        self.token = token
        self.doomed = False  # its kill is on its way, so no other job may run in it


class Children:
    """The child processes of one worker: one for each run that is on, kept for the next. *Thread-safe.*"""

    def __init__(self, fork: Fork) -> None:
        self._fork = fork
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self._running: dict[JobRun, Child] = {}
        self._stopping = False

    def run(self, run: JobRun, deadlines: Deadlines) -> Outcome | None:
        """Run a job in a child to its outcome. *Blocking.*"""
        child = self._take()
        run.began_ns = time.monotonic_ns()
        with self._lock:
            self._running[run] = child
        deadline = None
        if run.timeout_ms is not None:
            deadline = deadlines.add(run.timeout_ms / 1000, lambda: self.kill(run, timed_out=True))
        try:
            answer = self._converse(run, child)
        except (OSError, EOFError):
            answer = None
        if deadline is not None:
            deadlines.drop(deadline)
        with self._lock:
            del self._running[run]
            keep = answer is not None and not (answer.full or child.doomed)
            if keep:
                self._idle.append(child)
        status = None
        if not keep:
            child.line.close()
            status = self._fork.status(child.token, 5.0)
        if answer is None:
            return died(run, status)
        run.verdict = answer.verdict
        return answer.outcome

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

    def _converse(self, run: JobRun, child: Child) -> Answer:
        """Send the order, take what the job has to say, give the answer."""
        if self._stopping:
            child.line.send(Stopping())
        if run.cancelled:  # asked for before there was a child to kill
            self.kill(run)
        child.line.send(Order(run.lease, run.host.origin))
        while True:
            match decode_to_worker(child.line.receive()):
                case Report(text):
                    run.report(text)
                case Completed():
                    run.note_settled()
                case Answer() as answer:
                    return answer

    def _take(self) -> Child:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        sock, token = self._fork.start()
        return Child(Line(sock), token)


def died(run: JobRun, status: int | None) -> Outcome | None:
    """The outcome of a run whose process died, by our hand or not."""
    if run.settled:
        return None  # whatever came after its transaction, it stays done
    if run.timed_out or run.interrupted or run.cancelled:
        return killed(run)
    return crashed(run, describe(status))


def killed(run: JobRun) -> Outcome | None:
    """The outcome of a run whose process we killed ourselves."""
    from windlass.worker.worker import timeout_of

    if run.timed_out:
        return failure(run, timeout_of(run))
    return interrupted(run) if run.interrupted else withdrawn(run, "cancelled")


def crashed(run: JobRun, how: str) -> Outcome:
    """A crash charge: again, or dead when there have been too many."""
    lease, host = run.lease, run.host
    error = ProcessDied(f"the process that ran job {lease.id} {how}")
    text = crash_error(error, lease.attempt, host.clock.wall_ms(), host.settings.error_max, run.origin)
    if lease.crashes + 1 >= host.settings.max_crashes:
        tell(run, JobDead, lease.attempt, "poison")
        return Outcome(lease.id, lease.fence, Kind.DEAD, error=text, reason="poison", cause=POISON)
    return Outcome(
        lease.id, lease.fence, Kind.CRASH, error=text, delay_ms=crash_delay(lease.crashes, rules_of(host.settings))
    )


def crash_delay(crashes: int, rules: Rules) -> int:
    """The first crash is claimable at once; from the second on a job waits, twice as long each time up to a bound."""
    return 0 if crashes == 0 else min(rules.crash_delay_max_ms, rules.crash_delay_ms << (crashes - 1))


def crash_error(error: BaseException, attempt: int, at: int, limit: int, origin: Origin = NOWHERE) -> str:
    """A JobError of type ``WorkerCrashed``: the process is gone, so there is no traceback to show."""
    return encode_error(error, attempt=attempt, at=at, limit=limit, origin=origin).replace(
        f'"type":"{type(error).__module__}.{type(error).__qualname__}"', '"type":"WorkerCrashed"', 1
    )


def describe(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None:
        return "died"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(number).name}"
        return f"was killed by signal {number}"
    return f"ended with exit code {os.WEXITSTATUS(status)}"


class ChildHost:
    """What a run in a child process has for a host: its own engine, and the line to the worker."""

    def __init__(self, engine: Store, clock: Clock, settings: Settings, events: Events, line: Line) -> None:
        self.engine = engine
        self.clock = clock
        self.settings = settings
        self.events = events
        self.rng = Random()
        self.stopping = False
        self.origin = NOWHERE  # each order says which worker it comes from
        self.line = line

    def report(self, _run: JobRun, text: str) -> None:
        self.line.send(Report(text))


class ChildRun(JobRun):
    """A run in a child process: its worker has to know what it knows."""

    __slots__ = ("_line",)

    def __init__(self, lease: Lease, prepared: Prepared, host: ChildHost) -> None:
        super().__init__(lease, prepared, host)
        self._line = host.line

    def note_settled(self) -> None:
        super().note_settled()
        self._line.send(Completed())


def serve_child(host: ChildHost, lookup: Callable[[str], Prepared | None]) -> None:
    """Run orders from the worker until it goes away. The main thread runs the jobs; another watches the line."""
    orders: SimpleQueue[Order] = SimpleQueue()

    def watch() -> None:
        while True:
            try:
                message = decode_to_child(host.line.receive())
            except (OSError, EOFError):
                os._exit(0)  # the worker has gone; whatever runs here must not go on
            match message:
                case Order():
                    orders.put(message)
                case Stopping():
                    host.stopping = True

    threading.Thread(target=watch, name="windlass-orders", daemon=True).start()
    while True:
        order = orders.get()
        host.origin = order.origin
        host.line.send(run_order(order.lease, host, lookup))


def run_order(lease: Lease, host: ChildHost, lookup: Callable[[str], Prepared | None]) -> Answer:
    """One job in this process. The worker has passed its circuit."""
    prepared = lookup(lease.name)
    assert prepared is not None, lease.name  # the worker looked it up in the same registry
    run = ChildRun(lease, prepared, host)
    began = time.monotonic()
    if prepared.spec.is_async:
        import asyncio

        outcome = asyncio.run(run_async(run))
    else:
        outcome = run_sync(run)
    circuit, most = circuit_of(run), host.settings.max_memory
    verdict = None if circuit is None else verdict_of(run, circuit, began)
    return Answer(outcome, verdict, most is not None and resident() >= most)
