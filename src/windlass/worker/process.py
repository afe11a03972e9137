"""The life of one worker process: run a worker, listen to the supervisor, end in order.

Commands come over the control socket; when it ends, the supervisor has died, and the worker stops within its grace.
TERM and QUIT sent straight to this process do what they do to the whole worker.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import signal
import socket
import threading

from windlass import logs
from windlass.errors import EngineError, EngineUnusable
from windlass.events import WorkerCrashed
from windlass.hooks import Moment
from windlass.logs import Log
from windlass.units import show_duration
from windlass.worker import wire
from windlass.worker.messages import Alone, Asked, Born, Bye, Command, Ended, Full, Ready, decode_to_child, encode
from windlass.worker.worker import Worker

__all__ = ["Line", "serve_worker"]

log = Log("windlass.worker")

WAIT_FIRST = 0.5  # seconds before the second try to reach an engine that is away; doubles up to WAIT_MOST
WAIT_MOST = 5.0


class Line:
    """The worker process's end of its control socket. *Thread-safe.*"""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def send(self, message: Born | Ready | Alone | Full | Asked | Bye) -> None:
        """Tell the supervisor; if it has gone, nobody needs to know."""
        with self._lock, contextlib.suppress(OSError):
            wire.send(self._sock, encode(message))

    def receive(self) -> Command | Ended:
        """The next command. *Blocking.* Raises EOFError when the supervisor has gone."""
        return decode_to_child(wire.receive(self._sock))


def serve_worker(worker: Worker, line: Line) -> int:
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
    for number in (signal.SIGUSR1, signal.SIGTTIN):
        signal.signal(number, lambda *_: dump(worker))
    signal.signal(signal.SIGTSTP, lambda *_: worker.quiet())
    threading.Thread(target=listen, args=(worker, line, ended), name="windlass-control", daemon=True).start()
    line.send(Born(worker.info))
    try:
        if not reach_engine(worker, ended):
            line.send(Bye())
            return 0
    except EngineUnusable as error:
        line.send(Bye(fatal=str(error)))
        return 3
    line.send(Ready())
    worker.wait()
    clean = worker.shut_down()
    line.send(Bye(overdue=tuple(worker.overdue()), held=not clean))
    worker.finish_hooks()
    return 75 if worker.cut_off else 0  # EX_TEMPFAIL: the store could not be reached for two leases


def reach_engine(worker: Worker, ended: threading.Event) -> bool:
    """Start the worker as soon as its engine can be reached; false when it was told to end before."""
    wait = WAIT_FIRST
    while not ended.is_set():
        try:
            worker.start()
        except EngineUnusable:
            raise
        except EngineError as error:
            log.error("the store is away, next try in %s: %s", show_duration(wait * 1_000), error)
            ended.wait(wait)
            wait = min(wait * 2, WAIT_MOST)
        else:
            return True
    return False


def listen(worker: Worker, line: Line, ended: threading.Event) -> None:
    """Obey the supervisor until it goes."""
    while True:
        try:
            message = line.receive()
        except (EOFError, OSError):
            if not worker.stopping:
                log.warning("the supervisor has gone; worker %s stops", worker.info.id)
            ended.set()
            worker.stop()
            return
        if isinstance(message, Ended):
            worker.tell_hooks(Moment.DEAD, message.dead)
            worker.tell_hooks(Moment.RETRY, message.retried)
            worker.tell_died(message.died)
            if message.cause:
                worker.events.emit(WorkerCrashed(message.worker, message.cause))
            continue
        match message.word:
            case "stop":
                ended.set()
                worker.stop()
            case "abort":
                ended.set()
                worker.abort()
            case "quiet":
                worker.quiet()
            case "dump":
                dump(worker)


def dump(worker: Worker) -> None:
    """Write what runs, and the stack of every thread and coroutine, to stderr."""
    text = io.StringIO()  # not sys.stderr, which the application may have closed
    text.write(f"worker {worker.info.id} pid {worker.info.pid} runs:\n")
    text.writelines(f"  {line}\n" for line in worker.dump() or ["nothing"])
    for task in worker.tasks():
        task.print_stack(file=text)
    logs.write(text.getvalue())
    with contextlib.suppress(ValueError):  # there is no stderr
        faulthandler.dump_traceback(logs.own_stderr(), all_threads=True)
