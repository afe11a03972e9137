"""The zygote: one single-threaded process that has loaded the application and forks from there.

Every worker process, and every child of ``executor="process"``, is a fork of it, so nothing ever forks from a process
with threads, the application is imported once, and its memory is shared. It must not open an engine: what it forks
opens its own. It reaps what it forked and tells whoever asked for it; it alone kills, so a process id is never used
after its process has gone. When the supervisor goes away it forks no more workers and ends after its last process.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import socket
import threading
from collections.abc import Callable
from typing import NoReturn

from windlass.worker import wire
from windlass.worker.messages import (
    ChildDied,
    Died,
    ForkChild,
    Forked,
    ForkWorker,
    Kill,
    decode_from_zygote,
    decode_to_zygote,
    encode,
)

__all__ = ["Zygote", "ZygoteFork"]

RunWorker = Callable[[ForkWorker, socket.socket, int, "ZygoteFork"], int]
RunChild = Callable[[socket.socket], int]


class Zygote:
    """Forks on request until the supervisor goes away."""

    def __init__(self, control: socket.socket, run_worker: RunWorker, run_child: RunChild) -> None:
        """``run_worker`` and ``run_child`` are the lives of the two kinds of process; each gives an exit code."""
        self._control = control
        self._serving = True  # until the supervisor goes away
        self._run_worker = run_worker
        self._run_child = run_child
        self._selector = selectors.DefaultSelector()
        self._asked_by: dict[int, tuple[socket.socket | None, int]] = {}  # pid: who asked, under which token
        self._workers: dict[int, socket.socket] = {}  # pid of a worker: the socket it asks for children on

    def serve(self) -> None:
        """Serve requests. *Blocking.*"""
        gc.collect()
        gc.freeze()  # keep the collector from writing into pages that the forks share
        wake_r, wake_w = socket.socketpair()
        for end in (wake_r, wake_w):
            end.setblocking(False)
        self._wake = (wake_r, wake_w)
        signal.set_wakeup_fd(wake_w.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)  # the supervisor speaks for the terminal
        self._selector.register(wake_r, selectors.EVENT_READ)
        self._selector.register(self._control, selectors.EVENT_READ)
        while self._serving or self._asked_by:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is wake_r:
                    wake_r.recv(4096)
                else:
                    self._serve_request(sock)
            self._reap()

    def _serve_request(self, sock: socket.socket) -> None:
        try:
            message, fds = wire.receive_fds(sock, 2)
        except (EOFError, OSError):
            self._selector.unregister(sock)
            if sock is self._control:
                self._serving = False
            sock.close()
            return
        request = decode_to_zygote(message)
        if isinstance(request, ForkWorker):
            self._fork_worker(request, fds)
        elif isinstance(request, ForkChild):
            self._fork_child(request, fds, sock)
        else:
            self._kill(request, sock)

    def _fork_worker(self, request: ForkWorker, fds: list[int]) -> None:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            self._become_fork()
            ours.close()
            control = socket.socket(fileno=fds[0])
            end(self._run_worker(request, control, fds[1], ZygoteFork(theirs)))
        theirs.close()
        for fd in fds:
            os.close(fd)
        self._workers[pid] = ours
        self._selector.register(ours, selectors.EVENT_READ)
        self._asked_by[pid] = (None, request.token)
        self._tell(None, Forked(request.token, pid))

    def _fork_child(self, request: ForkChild, fds: list[int], asker: socket.socket) -> None:
        pid = os.fork()
        if pid == 0:
            self._become_fork()
            end(self._run_child(socket.socket(fileno=fds[0])))
        os.close(fds[0])
        self._asked_by[pid] = (asker, request.token)

    def _become_fork(self) -> None:
        """Let go of everything that is the zygote's."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor decides
        self._selector.close()
        for sock in (self._control, *self._wake, *self._workers.values()):
            sock.close()

    def _kill(self, request: Kill, asker: socket.socket) -> None:
        whose = None if asker is self._control else asker
        for pid, (by, token) in self._asked_by.items():
            if by is whose and token == request.token:
                os.kill(pid, signal.SIGKILL)  # not reaped yet, so the id is still this process's
                return

    def _reap(self) -> None:
        while self._asked_by:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            asker, token = self._asked_by.pop(pid)
            worker = self._workers.pop(pid, None)
            if worker is not None and worker.fileno() >= 0:
                self._selector.unregister(worker)
                worker.close()
            self._tell(asker, Died(token, status) if asker is None else ChildDied(token, status))

    def _tell(self, whom: socket.socket | None, message: Forked | Died | ChildDied) -> None:
        sock = self._control if whom is None else whom
        if sock.fileno() < 0:
            return
        try:
            wire.send(sock, encode(message))
        except OSError:
            pass  # it has gone; its end of the socket tells us


def end(code: int) -> NoReturn:
    """End a forked process without running the zygote's exit handlers."""
    os._exit(code)


class ZygoteFork:
    """A worker process's line to its zygote. Fulfils ``children.Fork``. *Thread-safe.*"""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._changed = threading.Condition()
        self._next = 0
        self._ended: dict[int, int] = {}
        self._listening = False

    def start(self) -> tuple[socket.socket, int]:
        ours, theirs = socket.socketpair()
        with self._changed:
            self._next += 1
            token = self._next
            if not self._listening:
                self._listening = True
                threading.Thread(target=self._listen, name="windlass-zygote", daemon=True).start()
            wire.send_fds(self._sock, encode(ForkChild(token)), [theirs.fileno()])
        theirs.close()
        return ours, token

    def kill(self, token: int) -> None:
        with self._changed:
            wire.send(self._sock, encode(Kill(token)))

    def status(self, token: int, timeout: float) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: token in self._ended, timeout)
            return self._ended.pop(token, None)

    def _listen(self) -> None:
        while True:
            try:
                message = decode_from_zygote(wire.receive(self._sock))
            except (EOFError, OSError):
                return
            if isinstance(message, ChildDied):
                with self._changed:
                    self._ended[message.token] = message.status
                    self._changed.notify_all()
