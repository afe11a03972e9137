"""The keeper: asks the engine for one bounded step of upkeep every ``reap``, jittered, and more while there is more.

Every worker has one and none is the leader; the engine sees to it that two beside each other do nothing twice.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from random import Random

from windlass.engines.base import Engine
from windlass.errors import EngineError
from windlass.model import Rules, Upkeep

__all__ = ["Keeper"]

log = logging.getLogger("windlass.worker")

BUDGET = 1_000  # rows a step may touch in each of its parts: some 10 ms of the writer


class Keeper:
    """Runs upkeep in a thread of its own."""

    def __init__(
        self, engine: Engine, rules: Rules, reap_ms: int, rng: Random, on_upkeep: Callable[[Upkeep], None]
    ) -> None:
        self._engine = engine
        self._rules = rules
        self._reap_ms = reap_ms
        self._rng = rng
        self._on_upkeep = on_upkeep
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="windlass-keeper", daemon=True)

    def start(self) -> None:
        """Begin with a step at once: what a dead fleet left behind should not wait."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its step."""
        self._closed.set()
        self._thread.join(5)

    def _run(self) -> None:
        pause = 0.0
        while not self._closed.wait(pause):
            pause = self._reap_ms / 1000 * self._rng.uniform(0.8, 1.2)
            try:
                done = self._engine.maintain(self._rules, BUDGET)
            except EngineError as error:
                log.warning("upkeep has to wait: %s", error)
                continue
            if done.more:
                pause = 0.0
            for worker in done.expired_workers:
                log.warning("the lease of worker %s ran out; its jobs are free again", worker)
            if done.died:
                log.error("dead after too many interruptions: %s", ", ".join(done.died))
            if done.trimmed:
                log.warning("removed %d dead jobs past dead_keep or dead_max", len(done.trimmed))
            self._on_upkeep(done)
