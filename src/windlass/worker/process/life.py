"""The life of one worker process: run a worker, listen to the supervisor, end in order.

Commands come over the control line; when it ends, the supervisor has died, and the worker stops within its grace.
TERM and QUIT sent straight to this process end it alone; TSTP makes the whole worker quiet.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Sequence
from functools import partial

from windlass.core.errors import EngineError, EngineUnusable
from windlass.core.foreign import Shield, start_thread
from windlass.core.units import show_duration
from windlass.core.work import LeaseRef, Outcome
from windlass.events import WorkerCrashed
from windlass.jobs.hooks import Moment
from windlass.logs import Log
from windlass.worker.process.farewell import end
from windlass.worker.process.messages import (
    Alone,
    Asked,
    Born,
    Bye,
    Command,
    Ended,
    Full,
    Judge,
    Judged,
    Overran,
    Ready,
    decode_to_child,
    encode,
)
from windlass.worker.stacks import dump_on_signals
from windlass.worker.wire import Line
from windlass.worker.worker import Worker

__all__ = ["ControlLine", "serve_worker"]

log = Log("windlass.worker")

WAIT_FIRST = 0.5  # seconds before the second try to reach an engine that is away; doubles up to WAIT_MOST
WAIT_MOST = 5.0


class ControlLine:
    """The worker process's end of its line to the supervisor. *Thread-safe.*"""

    def __init__(self, line: Line) -> None:
        self._line = line

    def send(self, message: Born | Ready | Alone | Full | Overran | Asked | Judged | Bye) -> None:
        """Tell the supervisor; if it has gone, nobody needs to know."""
        with contextlib.suppress(OSError):
            self._line.send(encode(message))

    def receive(self) -> Command | Ended | Judge:
        """The next command. *Blocking.* Raises EOFError or OSError when the supervisor has gone."""
        return decode_to_child(self._line.receive())


def serve_worker(worker: Worker, line: ControlLine) -> int:
    """Run a worker to its end; give the exit code. *Blocking.*"""
    ended = threading.Event()

    def stop(number: int, _frame: object) -> None:
        ended.set()
        if number == signal.SIGQUIT:
            worker.abort()
        else:
            worker.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGQUIT, stop)
    signal.signal(signal.SIGTSTP, lambda *_: hush(worker, line))
    dump_on_signals(worker.describe, worker.tasks)
    start_thread(lambda: listen(worker, line, ended), "windlass-control")
    line.send(Born(worker.info))
    try:
        if not reach_engine(worker, line, ended):
            line.send(Bye())
            return 0
    except EngineUnusable as error:
        line.send(Bye(fatal=str(error)))
        return 3
    worker.wait()
    clean = False
    overdue: tuple[Outcome, ...] = ()
    try:
        clean = worker.shut_down()
        overdue = tuple(worker.overdue())
    except Exception:
        log.exception("worker %s could not end in order; what it holds is given back when it has gone", worker.info.id)
    line.send(Bye(overdue=overdue, held=not clean))
    worker.finish_hooks()
    code = 75 if worker.cut_off else 0  # EX_TEMPFAIL: the store could not be reached for two leases
    if not clean:
        end(code, in_order=False)  # a thread that cannot be stopped would be waited for
    return code


def hush(worker: Worker, line: ControlLine) -> None:
    """Claim no more, and have the whole worker do so: a process that takes this one's place must know it too."""
    worker.quiet()
    # Not in a signal handler: the line may be in use by the thread that was interrupted.
    with Shield(log, "the other processes of this worker cannot be told to be quiet"):
        start_thread(lambda: line.send(Asked("quiet")), "windlass-hush")


def reach_engine(worker: Worker, line: ControlLine, ended: threading.Event) -> bool:
    """Start the worker as soon as its engine can be reached, and say so; false when it was told to end before."""
    wait = WAIT_FIRST
    while not ended.is_set():
        try:
            worker.start(lambda: line.send(Ready()))
        except EngineUnusable:
            raise
        except EngineError as error:
            log.error("the store is away, next try in %s: %s", show_duration(wait * 1_000), error)
            ended.wait(wait)
            wait = min(wait * 2, WAIT_MOST)
        else:
            return True
    return False


def listen(worker: Worker, line: ControlLine, ended: threading.Event) -> None:
    """Obey the supervisor until it goes. A worker that does not hear it any more stops, whatever the reason."""
    try:
        while True:
            message = line.receive()
            kind = type(message).__name__
            with Shield(log, "worker %s cannot do what the supervisor says: %s", worker.info.id, kind):
                obey(worker, line, ended, message)  # there may be no room for another thread
    except (EOFError, OSError):
        if not worker.stopping:
            log.warning("the supervisor has gone; worker %s stops", worker.info.id)
    finally:
        ended.set()
        worker.stop()


def obey(worker: Worker, line: ControlLine, ended: threading.Event, message: Command | Ended | Judge) -> None:
    """Do what the supervisor says."""
    match message:
        case Ended():
            worker.tell_hooks(Moment.DEAD, message.dead)
            worker.tell_hooks(Moment.RETRY, message.retried)
            worker.tell_died(message.died)
            if message.cause:
                crash = WorkerCrashed(message.worker, message.cause)
                start_thread(partial(worker.events.emit, crash), "windlass-crash-event")
        case Judge(token, culprits):
            start_thread(partial(judge, worker, line, token, culprits), "windlass-judge")
        case Command("stop"):
            ended.set()
            worker.stop()
        case Command("abort"):
            ended.set()
            worker.abort()
        case Command("quiet"):
            worker.quiet()
        case Command("ping"):
            worker.answer()


def judge(worker: Worker, line: ControlLine, token: int, culprits: Sequence[LeaseRef]) -> None:
    """Answer what becomes of jobs that were killed with another process of this worker, for being past their time."""
    outcomes: list[Outcome] = []
    try:
        for ref in culprits:
            outcome = worker.judge(ref)
            if outcome is not None:
                outcomes.append(outcome)
    except EngineError as error:
        log.warning("cannot tell what becomes of jobs that ran past their timeout: %s", error)
        return  # whoever asked has another way
    line.send(Judged(token, tuple(outcomes)))
