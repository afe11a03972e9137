"""The zygotes of a supervisor: start one, let one go, and see to it that none stays behind."""

from __future__ import annotations

import selectors
import subprocess
import time
from collections.abc import Callable

from windlass.logs import Log
from windlass.worker.process.fleet import Fleet
from windlass.worker.process.generation import Generation

__all__ = ["Zygotes"]

log = Log("windlass.supervisor")

ZYGOTE_ENDS = 5.0  # seconds for a zygote to end that is not needed any more: exit handlers of the application may hang


class Zygotes:
    """Those that have not ended for certain."""

    def __init__(self, fleet: Fleet, on_word: Callable[[Generation], None]) -> None:
        """``on_word`` is called when a zygote has something to say, or its line has ended."""
        self._fleet = fleet
        self._on_word = on_word
        self._zygotes: list[Generation] = []

    def start(self) -> Generation:
        """Start one, which loads the application. Raises OSError when the system refuses it."""
        generation = Generation(self._fleet.launch)
        self._zygotes.append(generation)
        self._fleet.selector.register(generation.control, selectors.EVENT_READ, lambda _: self._on_word(generation))
        return generation

    def forget(self, generation: Generation) -> None:
        """Let one end when nothing of it is left."""
        self._fleet.selector.unregister(generation.control)
        generation.close()
        self._fleet.timers.after(ZYGOTE_ENDS, lambda: self._end(generation))

    def forget_if_spent(self, generation: Generation) -> None:
        """Let go of one that is not current any more and of which no process is left."""
        fleet = self._fleet
        if generation is not fleet.generation and not generation.gone and not fleet.processes_of(generation):
            self.forget(generation)

    def _end(self, generation: Generation) -> None:
        """See to it that a zygote does not stay when nothing of it is left."""
        if self._fleet.processes_of(generation):
            self._fleet.timers.after(ZYGOTE_ENDS, lambda: self._end(generation))
            return
        if generation.process.poll() is None:
            log.warning("zygote %d does not end, and is killed", generation.process.pid)
            generation.process.kill()
        self._zygotes.remove(generation)

    def close(self) -> None:
        """End them all. *Blocking*, for some seconds at most."""
        until = time.monotonic() + ZYGOTE_ENDS
        for generation in self._zygotes:
            if not generation.gone:
                generation.close()
        for generation in self._zygotes:
            try:
                generation.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                generation.process.kill()
                generation.process.wait()
