"""The redriver: moves dead jobs back at the rate that an operation in the store asks for.

It has a thread only while there are operations; the keeper looks for them. Any worker may do an operation and one does:
it writes its id into the document, and every step is a compare-and-set on it. Whoever sees the same version for
``TAKEOVER`` seconds on its own clock takes it over, so no clocks are compared. Must not decide what to move.

Invariants: a step notes the deaths before it moves them, so after a crash the same ones are moved and each once; what a
delay left behind is caught up for ``CATCH_UP`` seconds' worth at most, so a stall is not followed by a flood.
"""

from __future__ import annotations

import threading
import time
from typing import Final

from msgspec.structs import replace

from windlass.core.errors import EngineError
from windlass.core.foreign import start_thread
from windlass.core.model import Versioned
from windlass.core.rows import Action
from windlass.core.units import show_duration
from windlass.core.work import LeaseRef
from windlass.dead.redrive import DONE, PREFIX, RUNNING, Operation, find, save
from windlass.engines.base import Store
from windlass.logs import Log

__all__ = ["Redriver"]

log = Log("windlass.worker")

STEP: Final = 0.25  # seconds between two steps of an operation of ours
WATCH: Final = 1.0  # seconds between two looks at those of others
BEAT: Final = 1.0  # seconds after which the document is written though nothing was moved
TAKEOVER: Final = 5.0
CATCH_UP: Final = 0.5
AT_ONCE: Final = 500  # deaths a step notes at most


class Owned:
    """An operation that this worker does: when it last moved something, and how much it may move by now."""

    def __init__(self, now: float) -> None:
        self.since = now
        self.credit = 0.0
        self.beat = now
        self.unsent = True  # its pending deaths may not have been moved yet


class Redriver:
    """Does the redrives of the store, as far as no other worker does."""

    def __init__(self, engine: Store, worker: str) -> None:
        self._engine = engine
        self._worker = worker
        self._held: dict[str, Owned] = {}
        self._seen: dict[str, tuple[int, float]] = {}  # of others: the version, and since when it stands
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Begin to work when there is something to do. Raises EngineError."""
        with self._lock:
            if self._thread is not None or self._closed.is_set():
                return
            if any(operation.state == RUNNING for _, operation in find(self._engine, self._engine.keys(PREFIX))):
                self._thread = start_thread(self._run, "windlass-redriver")

    def stop(self) -> None:
        """End the thread after its step, and let go of what it did so that others need not wait. *Blocking.*"""
        self._closed.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(5)
        try:
            for document, operation in find(self._engine, [PREFIX + id for id in self._held]):
                if operation.owner == self._worker and operation.state == RUNNING:
                    save(self._engine, replace(operation, owner=""), document.version)
        except EngineError as error:
            log.warning(
                "a redrive could not be handed over; another worker takes it in %s: %s",
                show_duration(TAKEOVER * 1_000),
                error,
            )

    def turn(self, now: float) -> float | None:
        """Do one step of each operation at ``now`` (monotonic seconds); give the pause until the next, None at the end.

        Raises EngineError; what was begun is then gone on with at the next turn.
        """
        running = [found for found in find(self._engine, self._engine.keys(PREFIX)) if found[1].state == RUNNING]
        ids = {operation.id for _, operation in running}
        self._held = {id: held for id, held in self._held.items() if id in ids}
        self._seen = {id: seen for id, seen in self._seen.items() if id in ids}
        for document, operation in running:
            held = self._held.get(operation.id)
            if operation.owner != self._worker:
                self._held.pop(operation.id, None)
                held = self._take(document, operation, now)
            elif held is None:  # ours by a write whose answer got lost
                held = self._held[operation.id] = Owned(now)
            elif not self._step(document, operation, held, now):
                del self._held[operation.id]
        return None if not running else STEP if self._held else WATCH

    def _run(self) -> None:
        pause: float | None = 0.0
        while pause is not None and not self._closed.wait(pause):
            try:
                pause = self.turn(time.monotonic())
            except BaseException as error:
                trace = None if isinstance(error, EngineError) else error
                log.warning("a redrive has to wait: %s", error, exc_info=trace)
                pause = WATCH
        with self._lock:
            self._thread = None

    def _take(self, document: Versioned, operation: Operation, now: float) -> Owned | None:
        """Make an operation ours if nobody does it."""
        if operation.owner:
            version, since = self._seen.get(operation.id, (0, now))
            if version != document.version:
                since = now
            self._seen[operation.id] = (document.version, since)
            if now - since < TAKEOVER:
                return None
        if save(self._engine, replace(operation, owner=self._worker), document.version) is None:
            return None
        log.info("redrive %s: this worker does it, %d of %d so far", operation.id, operation.done, operation.total)
        self._held[operation.id] = held = Owned(now)
        return held

    def _step(self, document: Versioned, operation: Operation, held: Owned, now: float) -> bool:
        """Move as many as it is time for; false when the operation is over, or another's by now."""
        if held.unsent:
            self._engine.transition(Action.RETRY, operation.pending)
            held.unsent = False
        room = 1.0 + operation.rate * CATCH_UP
        held.credit = min(room, held.credit + operation.rate * (now - held.since))
        held.since = now
        left = operation.left
        count = min(int(held.credit), AT_ONCE)
        if left is not None:
            count = min(count, left)
        fresh: tuple[LeaseRef, ...] = ()
        after = replace(operation, done=operation.done + len(operation.pending), pending=())
        if left == 0 or operation.last:
            after = replace(after, state=DONE)
        elif count > 0:
            rows, cursor = self._engine.jobs(operation.where, operation.cursor, count)
            fresh = tuple(LeaseRef(row.id, row.fence) for row in rows)
            after = replace(after, pending=fresh, cursor=cursor, last=cursor is None)
        elif not operation.pending and now - held.beat < BEAT:
            return True
        held.beat = now
        held.unsent = True  # until the store says so, whichever version it has
        if save(self._engine, after, document.version) is None:
            return False
        held.credit -= len(fresh)
        if fresh:
            self._engine.transition(Action.RETRY, fresh)
        held.unsent = False
        if after.state == DONE:
            log.info("redrive %s is done: %d dead jobs were moved", after.id, after.done)
        return after.state == RUNNING
