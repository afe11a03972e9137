"""Locks: one holder at a time over the whole fleet, leased, renewed by a thread, with a fence for the sink.

Only the store says who holds a lock; what is known here is how old the last renewal is. ``check`` uses just that, so it
may be called as often as one likes. Invariants: a lock is released only by its token; the fence of a later holder is
higher than that of any earlier one; a holder whose lease ran out on its own clock says so at the next ``check``,
whether or not somebody has taken the lock since.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from windlass.core.aio import hop, own_thread
from windlass.core.clock import Clock
from windlass.core.coordination import LOCKS
from windlass.core.current import RUNNING
from windlass.core.errors import ConfigError, EngineError, GuardUnavailable, LockBusy, LockLost
from windlass.core.foreign import Shield, start_thread
from windlass.core.units import show_duration
from windlass.engines.base import Coordinator
from windlass.logs import Log

__all__ = ["Lock", "LockKeeper"]

WAIT_SLICE: Final = 1.0  # seconds; a lost wake-up delays a waiter by that much at most
RENEW_AGAIN: Final = 1.0  # seconds
PLACE_MS: Final = 3_000  # how long a place in the line is kept for a waiter that does not ask again

logger = Log("windlass.locks")


class LockKeeper:
    """Renews every lock that this process holds, each after a third of its lease. One thread, while there are any."""

    def __init__(self, engine: Callable[[], Coordinator], clock: Clock) -> None:
        self.engine = engine
        self.clock = clock
        self._start_anew()

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._held: dict[str, Lock] = {}
        self._thread: threading.Thread | None = None

    def add(self, lock: Lock) -> None:
        """Begin to renew a lock."""
        if self._pid != os.getpid():  # threads do not survive a fork, and the locks are the parent's
            self._start_anew()
        with self._changed:
            self._held[lock.token] = lock
            if self._thread is None:
                self._thread = start_thread(self._run, "windlass-locks")
            self._changed.notify()

    def remove(self, lock: Lock) -> None:
        """Renew it no more."""
        with self._changed:
            self._held.pop(lock.token, None)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._held:
                    self._thread = None
                    return
                now = time.monotonic()
                pause = min(lock.renew_at for lock in self._held.values()) - now
                if pause > 0:
                    self._changed.wait(pause)
                    continue
                due = [lock for lock in self._held.values() if lock.renew_at <= now]
            for lock in due:
                kept = True
                with Shield(logger, "lock %s could not be renewed; it is tried again", lock.key):
                    lock.renew_at = time.monotonic() + RENEW_AGAIN  # where it fails
                    kept = lock._renew()
                if not kept:
                    self.remove(lock)


class Lock:
    """A lock on a key: ``with app.lock("payment:42") as lock``, or ``async with``. Not reentrant, one use at a time."""

    def __init__(self, key: str, lease_ms: int, wait_ms: int, keeper: LockKeeper) -> None:
        self.key = key
        self._gate = LOCKS + key
        self.token = ""
        self.renew_at = 0.0
        self._lease_ms = lease_ms
        self._wait = wait_ms / 1_000
        self._keeper = keeper
        self._fence: int | None = None
        self._renewed = 0
        self._lost = False

    def __repr__(self) -> str:
        return f"<Lock {self.key} {'free' if self._fence is None else f'fence {self._fence}'}>"

    @property
    def fence(self) -> int:
        """A number above that of every earlier holder: a sink that refuses lower ones cannot be written late."""
        if self._fence is None:
            raise ConfigError(f"lock {self.key!r} is not held; it has a fence only inside its with block")
        return self._fence

    def check(self) -> None:
        """Raise LockLost when the lease has run out or the store gave the lock to another. No I/O."""
        if self._fence is None:
            raise LockLost(f"lock {self.key!r} is not held: check() belongs inside its with block")
        if self._lost or self._age() >= self._lease_ms:
            raise LockLost(
                f"lock {self.key!r} (fence {self._fence}) is lost: its lease of {show_duration(self._lease_ms)} was "
                "not renewed in time or was taken away; another may hold it now, so stop without writing"
            )

    def _age(self) -> int:
        return self._keeper.clock.boot_ms() - self._renewed

    def __enter__(self) -> Self:
        """Take the lock. *Blocking*, up to ``wait``. Raises LockBusy, and GuardUnavailable when the store is away."""
        self._take(threading.Event())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock; one that was lost is left to whoever holds it."""
        self._release()

    async def __aenter__(self) -> Self:
        """Take the lock without blocking the event loop; see ``__enter__``."""
        given_up = threading.Event()
        try:
            await own_thread(lambda: self._take(given_up))
        except BaseException:
            given_up.set()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock; see ``__exit__``."""
        await hop(self._release)

    def _take(self, given_up: threading.Event) -> None:
        if self._fence is not None:
            raise ConfigError(f"lock {self.key!r} is held by this object already; make another with app.lock(...)")
        self.token = os.urandom(16).hex()
        try:
            fence = self._try(given_up)
        except EngineError as error:
            raise GuardUnavailable(
                f"lock {self.key!r} could not ask its store, so it was not taken: {error}"
            ) from error
        self._fence, self._lost = fence, False
        try:
            self._keeper.add(self)
        except RuntimeError as error:  # no room for a thread, so nobody would renew it
            self._release()
            raise GuardUnavailable(
                f"lock {self.key!r} was given back, since nothing here can renew it: {error}"
            ) from error
        if given_up.is_set():  # whoever asked has gone in the meantime
            self._release()

    def _try(self, given_up: threading.Event) -> int:
        engine = self._keeper.engine()
        deadline = time.monotonic() + self._wait
        while True:
            left = deadline - time.monotonic()
            waits = left > 0 and not given_up.is_set()
            self._sent()
            grip = engine.hold(self._gate, self.token, 1, self._lease_ms, owner(), PLACE_MS if waits else 0)
            if grip.fence is not None:
                return grip.fence
            if not waits:
                if self._wait > 0:
                    engine.release(self._gate, self.token)
                raise LockBusy(
                    f"lock {self.key!r} is held by {grip.owner or 'another holder'}"
                    + (f" and was not free within {show_duration(self._wait * 1_000)}" if self._wait else "")
                    + "; try again later, or give a longer wait=",
                    self.key,
                )
            # A little more than the holder's lease has left, so that it is over when we ask.
            pause = min(left, WAIT_SLICE, grip.left_ms / 1_000 + 0.002 if grip.left_ms else WAIT_SLICE)
            engine.wait_released(grip.seen, pause)

    def _sent(self) -> None:
        self._renewed = self._keeper.clock.boot_ms()
        self.renew_at = time.monotonic() + self._lease_ms / 3_000

    def _renew(self) -> bool:
        """Renew the lease; false when the lock is lost. For the keeper."""
        sent = self._keeper.clock.boot_ms()
        try:
            kept = self._keeper.engine().renew([(self._gate, self.token)], self._lease_ms)[0]
        except EngineError as error:
            logger.warning("lock %s could not be renewed and runs out: %s", self.key, error)
            self.renew_at = time.monotonic() + max(0.05, self._lease_ms / 12_000)
            return self._age() < self._lease_ms
        if not kept:
            self._lost = True
            logger.warning("lock %s (fence %s) is lost: another has taken it", self.key, self._fence)
            return False
        self._renewed, self.renew_at = sent, time.monotonic() + self._lease_ms / 3_000
        return True

    def _release(self) -> None:
        self._keeper.remove(self)
        self._fence = None
        try:
            self._keeper.engine().release(self._gate, self.token)
        except EngineError as error:
            logger.warning("lock %s could not be released, its lease will run out: %s", self.key, error)


def owner() -> str:
    """Who asks for a lock, for people: host, process, and the job where there is one."""
    import socket  # late: few programs take locks

    place = f"{socket.gethostname()}:{os.getpid()}"
    job = RUNNING.get(None)
    return place if job is None else f"job {job.id} on {place}"
