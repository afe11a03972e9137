"""The zygote: one single-threaded process that has loaded the application and forks from there.

Every worker process, and every child of ``executor="process"``, is a fork of it, so nothing ever forks from a process
with threads, the application is imported once, and its memory is shared. It must not open an engine: what it forks
opens its own. Invariants:

- It reaps what it forked, and nothing else: a helper process of the application keeps its exit code for whoever asks.
- It alone signals its forks, so a process id is never used after its process has gone.
- A fork that the system refuses (no processes, no memory, no descriptors) is an answer, not the end of the zygote.
- A child leads a session of its own. When it is killed, crashes or loses its worker, all that it started is killed.
- When the supervisor goes away it forks no more workers and ends after its last process.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from selectors import EVENT_READ, DefaultSelector

from windlass.logs import Log
from windlass.worker.attempt.processes import NoProcess
from windlass.worker.process.family import end_family
from windlass.worker.process.farewell import live
from windlass.worker.process.messages import (
    ChildDied,
    Died,
    ForkChild,
    Forked,
    ForkWorker,
    Kill,
    NotForked,
    Show,
    decode_from_zygote,
    decode_to_zygote,
    encode,
)
from windlass.worker.stacks import LAST_LOOK
from windlass.worker.wire import Line

__all__ = ["HEARD", "Zygote", "ZygoteFork"]

log = Log("windlass.worker")

FAREWELL = 5.0  # seconds that children may take to end after their worker has ended in order
UNASKED = 1_000  # ends of children that are remembered
PATIENCE = 1.0  # seconds for a worker to take an answer
SHOWING = 0.1  # seconds for a process to write its stacks
RUNNING = -1  # no wait status is negative
FORKING = 30.0  # seconds that a worker waits for the zygote's answer

RunWorker = Callable[[ForkWorker, Line, int, "ZygoteFork"], int]
RunChild = Callable[[Line], int]

# Signals for the worker as a whole. A fork hears them without an effect until it has handlers of its own: ignored, they
# would be ignored by the programs that jobs start; unhandled, one sent to the whole process group would be a crash.
HEARD = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTTIN,
)  # fmt: skip


@dataclass
class Forking:
    """A process that was forked here and has not been reaped."""

    token: int
    asker: Line | None  # of the worker that it is a child of; None: it is a worker
    line: Line | None = None  # on which a worker asks for children


class Zygote:
    """Forks on request until the supervisor goes away."""

    def __init__(self, control: Line, run_worker: RunWorker, run_child: RunChild) -> None:
        """``run_worker`` and ``run_child`` are the lives of the two kinds of process; each gives an exit code."""
        self._control = control
        self._serving = True  # until the supervisor goes away
        self._run_worker = run_worker
        self._run_child = run_child
        self._selector = DefaultSelector()
        self._forks: dict[int, Forking] = {}  # by process id
        self._due: list[tuple[float, int, Callable[[int], None]]] = []  # when to do what to which fork, if it lives

    def serve(self) -> None:
        """Serve requests. *Blocking.*"""
        gc.collect()
        gc.freeze()  # keep the collector from writing into pages that the forks share
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        self._wake_r, self._wake_w = os.pipe()
        for end in (self._wake_r, self._wake_w):
            os.set_blocking(end, False)
        # From here on signals are ours, whatever the application did with them.
        signal.set_wakeup_fd(self._wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (*HEARD, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # the supervisor speaks for the terminal
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        self._selector.register(self._wake_r, EVENT_READ)
        self._selector.register(self._control, EVENT_READ)
        while self._serving or self._forks:
            for key, _ in self._selector.select(self._patience()):
                if isinstance(key.fileobj, Line):
                    self._serve_request(key.fileobj)
                else:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_r, 4096)
            self._reap()

    def _serve_request(self, line: Line) -> None:
        try:
            message, fds = line.receive_fds(2)
        except (EOFError, OSError):
            self._selector.unregister(line)
            if line is self._control:
                self._serving = False
            line.close()
            return
        request = decode_to_zygote(message)
        try:
            match request:
                case ForkWorker():
                    self._fork_worker(request, fds)
                case ForkChild():
                    self._fork_child(request, fds, line)
                case Kill():
                    self._kill(request, line)
                case Show():
                    self._show(request)
        except (OSError, MemoryError) as error:
            if isinstance(request, ForkWorker | ForkChild):
                tell(line, NotForked(request.token, str(error) or type(error).__name__))
        finally:
            for fd in fds:
                os.close(fd)

    def _fork_worker(self, request: ForkWorker, fds: list[int]) -> None:
        control, table = checked(fds, 2)
        ours, theirs = Line.pair(PATIENCE)
        try:
            pid = os.fork()
        except BaseException:
            ours.close()
            theirs.close()
            raise
        if pid == 0:
            live(lambda: self._be_worker(request, ours, theirs, control, table))
        theirs.close()
        self._forks[pid] = Forking(request.token, None, ours)
        self._selector.register(ours, EVENT_READ)
        tell(self._control, Forked(request.token, pid))

    def _be_worker(self, request: ForkWorker, ours: Line, theirs: Line, control: int, table: int) -> int:
        self._become_fork()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
        ours.close()
        return self._run_worker(request, Line(control), table, ZygoteFork(theirs))

    def _fork_child(self, request: ForkChild, fds: list[int], asker: Line) -> None:
        (sock,) = checked(fds, 1)
        pid = os.fork()
        if pid == 0:
            live(lambda: self._be_child(sock))
        self._forks[pid] = Forking(request.token, asker)
        tell(asker, Forked(request.token, pid))

    def _be_child(self, sock: int) -> int:
        os.setsid()
        self._become_fork()
        signal.signal(signal.SIGINT, lambda *_: None)
        return self._run_child(Line(sock))

    def _become_fork(self) -> None:
        """Let go of everything that is the zygote's."""
        signal.set_wakeup_fd(-1)
        for number in HEARD:
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        self._control.close()
        os.close(self._wake_r)
        os.close(self._wake_w)
        for fork in self._forks.values():
            if fork.line is not None:
                fork.line.close()

    # -- signals --

    def _kill(self, request: Kill, asker: Line) -> None:
        whose = None if asker is self._control else asker
        for pid, fork in self._forks.items():
            if fork.asker is whose and fork.token == request.token:
                self._end(pid, fork)
                return

    def _end(self, pid: int, fork: Forking) -> None:
        if fork.asker is None:
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so the id is still this process's
        else:
            end_family(pid)

    def _show(self, request: Show) -> None:
        """Have a worker and its children write what they do."""
        for pid, fork in self._forks.items():
            if fork.asker is None and fork.token == request.token:
                if request.last:
                    if LAST_LOOK is not None:
                        os.kill(pid, LAST_LOOK)
                    return
                show(pid)
                for number, child in enumerate(self._children_of(fork), 1):  # one by one, or their lines would mix
                    self._due.append((time.monotonic() + number * SHOWING, child, show))

    def _children_of(self, worker: Forking) -> list[int]:
        return [pid for pid, fork in self._forks.items() if fork.asker is not None and fork.asker is worker.line]

    # -- ends --

    def _patience(self) -> float | None:
        return max(0.0, min(at for at, _, _ in self._due) - time.monotonic()) if self._due else None

    def _reap(self) -> None:
        """Look at each fork: any other child of this process is the application's."""
        for pid in list(self._forks):
            status = ended(pid)
            if status is not RUNNING:
                self._reap_one(pid, self._forks.pop(pid), status)
        now, due = time.monotonic(), self._due
        self._due = [one for one in due if one[0] > now]
        for at, pid, act in due:
            if at <= now and pid in self._forks:
                act(pid)

    def _reap_one(self, pid: int, fork: Forking, status: int | None) -> None:
        if fork.asker is not None:
            if status:
                end_family(pid)  # what it started must not go on beside its next attempt
            reap(pid)
            tell(fork.asker, ChildDied(fork.token, status))
            return
        reap(pid)
        for child in self._children_of(fork):
            if status == 0:
                self._due.append((time.monotonic() + FAREWELL, child, end_family))
            else:
                end_family(child)  # its worker's jobs run elsewhere in a moment
        line = fork.line
        if line is not None and line.fileno() >= 0:
            self._selector.unregister(line)
            line.close()
        tell(self._control, Died(fork.token, status))


def show(pid: int) -> None:
    """Have a fork write its stacks."""
    os.kill(pid, signal.SIGUSR1)


def checked(fds: list[int], count: int) -> list[int]:
    """The descriptors that came with a request. Raises OSError when this process had no room for them."""
    if len(fds) < count:
        raise OSError("the zygote has no descriptors left (ulimit -n)")
    return fds


def ended(pid: int) -> int | None:
    """The wait status of a child process that has ended, which is not reaped, so its id stays its own.

    RUNNING when it has not ended, None when nobody knows how: a thread of the application reaped it.
    """
    try:
        if not hasattr(os, "waitid"):  # macOS; it is reaped at once
            gone, status = os.waitpid(pid, os.WNOHANG)
            return status if gone else RUNNING
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    if found is None:
        return RUNNING
    return found.si_status << 8 if found.si_code == os.CLD_EXITED else found.si_status


def reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def tell(line: Line, message: Forked | NotForked | Died | ChildDied) -> None:
    """Answer; who has gone does not need to know, its end of the line tells us."""
    try:
        line.send(encode(message))
    except TimeoutError:
        line.hang_up()  # half a message is worse than none
    except OSError:
        pass


class ZygoteFork:
    """A worker process's line to its zygote. Fulfils ``children.Fork``. *Thread-safe.*"""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._changed = threading.Condition()
        self._next = 0
        self._children: dict[int, Line] = {}  # of those that live, or are about to
        self._answers: dict[int, str] = {}  # to requests: why not, or nothing
        self._ended: dict[int, int | None] = {}
        self._gone = False

    def open(self) -> None:
        """Begin to listen to the zygote."""
        threading.Thread(target=self._listen, name="windlass-zygote", daemon=True).start()

    def start(self) -> tuple[Line, int]:
        try:
            ours, theirs = Line.pair()
        except OSError as error:
            raise NoProcess(str(error)) from error
        with self._changed:
            self._next += 1
            token = self._next
            self._children[token] = ours
        try:
            self._line.send(encode(ForkChild(token)), [theirs.fileno()])
        except OSError:
            self._gone = True
        theirs.close()
        with self._changed:
            self._changed.wait_for(lambda: token in self._answers or self._gone, FORKING)
            refusal = self._answers.pop(token, "the zygote does not answer")
            if refusal:
                del self._children[token]
        if refusal:
            ours.close()
            raise NoProcess(refusal)
        return ours, token

    def kill(self, token: int) -> None:
        try:
            self._line.send(encode(Kill(token)))
        except OSError:  # no zygote, so nobody can; a child ends itself when its line does
            line = self._children.get(token)
            if line is not None:
                line.hang_up()

    def status(self, token: int, timeout: float) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: token in self._ended or self._gone, timeout)
            return self._ended.pop(token, None)

    def _listen(self) -> None:
        while True:
            try:
                message = decode_from_zygote(self._line.receive())
            except (EOFError, OSError):
                with self._changed:
                    self._gone = True
                    self._changed.notify_all()
                return
            with self._changed:
                match message:
                    case Forked(token):
                        self._answers[token] = ""
                    case NotForked(token, why):
                        self._answers[token] = why
                    case ChildDied(token, status):
                        self._ended[token] = status
                        if len(self._ended) > UNASKED:  # of those that ended well, nobody asks
                            del self._ended[next(iter(self._ended))]
                        line = self._children.pop(token, None)
                        if line is not None:
                            line.hang_up()  # a process that it left behind may hold the other end open
                self._changed.notify_all()
