"""The keeper: asks the engine for one bounded step of upkeep every ``reap``, jittered, and more while there is more.

It also brings dead jobs back by the recovery rules, archives those past their bounds, looks for redrives to do, and
sweeps compositions.
Every worker has one and none is the leader; the engine sees to it that two beside each other do nothing twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from random import Random

from windlass.core.errors import EngineError
from windlass.core.foreign import Shield
from windlass.core.recovery import RecoveryRule
from windlass.core.rows import Action, Recovery
from windlass.core.work import Rules, Upkeep
from windlass.engines.base import Store
from windlass.events import DeadRecovered, DeadTrimmed, Events
from windlass.flow.watching import FlowWatch
from windlass.logs import Log
from windlass.worker.archive import Archive
from windlass.worker.redriver import Redriver

__all__ = ["Keeper"]

log = Log("windlass.worker")

BUDGET = 1_000  # rows a step may touch in each of its parts: some 10 ms of the writer
FIRST_STEP = 2.0  # seconds that a worker waits for it before it claims


class Keeper:
    """Runs upkeep in a thread of its own."""

    def __init__(
        self,
        engine: Store,
        rules: Rules,
        reap_ms: int,
        rng: Random,
        on_upkeep: Callable[[Upkeep], None],
        *,
        events: Events,
        redriver: Redriver,
        recoveries: Sequence[RecoveryRule] = (),
        archive: Archive | None = None,
    ) -> None:
        self._flows = FlowWatch(engine, events)
        self._engine = engine
        self._rules = rules
        self._reap_ms = reap_ms
        self._rng = rng
        self._on_upkeep = on_upkeep
        self._events = events
        self._redriver = redriver
        self._recoveries = recoveries
        self._archive = archive
        self._closed = threading.Event()
        self._begun = threading.Event()  # the first step is over
        self._thread = threading.Thread(target=self._run, name="windlass-keeper", daemon=True)

    def start(self) -> None:
        """Begin with a step at once, for what a dead fleet left behind, and wait for it a little. *Blocking.*

        A first job that holds the interpreter lock would stop its write halfway, and with it every other writer of an
        embedded store. But it calls code of the application, and a file may be in use: neither may keep a worker from
        its jobs.
        """
        self._thread.start()
        self._begun.wait(FIRST_STEP)

    def stop(self) -> None:
        """End the thread after its step."""
        self._closed.set()
        self._thread.join(5)

    def _run(self) -> None:
        pause = 0.0
        while not self._closed.wait(pause):
            pause = self._reap_ms / 1000 * self._rng.uniform(0.8, 1.2)
            with Shield(log, "upkeep failed; it goes on with the next step"):
                if self._step():
                    pause = 0.0
            self._begun.set()

    def _step(self) -> bool:
        """Do one step; true when there is more to do at once."""
        try:
            done = self._engine.maintain(self._rules, BUDGET)
        except EngineError as error:
            log.warning("upkeep has to wait: %s", error)
            return False
        for worker in done.expired_workers:
            log.warning("the lease of worker %s ran out; its jobs are free again", worker)
        if done.died:
            log.error("dead after too many interruptions: %s", ", ".join(done.died))
        self._on_upkeep(done)
        try:
            self._flows.look(done.watched)
            trimmed = self._look_after_dead(done)
            self._redriver.look()
        except EngineError as error:
            log.warning("dead jobs and compositions have to wait: %s", error)
            return done.more
        return done.more or trimmed >= BUDGET

    def _look_after_dead(self, done: Upkeep) -> int:
        """Tell of what was trimmed, archive what is to be, recover by the rules; give how many were trimmed."""
        trimmed = done.trimmed or self._archived(done)
        if trimmed:
            log.warning("removed %d dead jobs past dead_keep or dead_max", len(trimmed))
            self._events.emit(DeadTrimmed(trimmed))
        for rule in self._recoveries:
            # A name is looked up in a module of the application, which may answer for itself.
            recovery = None
            with Shield(log, "the recovery rule on %s cannot be applied", rule.on):
                recovery = rule.resolve()
            if recovery is not None:
                self._recover(recovery)
        return len(trimmed)

    def _recover(self, recovery: Recovery) -> None:
        ids = tuple(one.id for one in self._engine.transition(Action.RETRY, recovery) if one.applied)
        if ids:
            log.info("brought %d dead jobs back that died of one of %s", len(ids), ", ".join(recovery.errors))
            self._events.emit(DeadRecovered(ids))

    def _archived(self, done: Upkeep) -> tuple[str, ...]:
        """Archive what is past its bounds; what cannot be written stays in the store."""
        if self._archive is None or not done.overdue:
            return ()
        try:
            return tuple(self._archive.take(done.overdue))
        except OSError as error:
            log.error("%d dead jobs past dead_keep or dead_max stay: dead_archive %s cannot be written: %s",
                      len(done.overdue), self._archive.path, error)  # fmt: skip
            return ()
