"""Loading the application in a zygote: at the start, anew after HUP, and again when a zygote has died.

New code is loaded beside the old. The old goes on until every process of the new is ready, and for good when the new
cannot be loaded.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

from windlass.logs import Log
from windlass.settings import Settings
from windlass.worker.process.deaths import Deaths
from windlass.worker.process.fleet import Fleet
from windlass.worker.process.forking import Forking
from windlass.worker.process.generation import Generation
from windlass.worker.process.messages import Died, Failed, Forked, Hello, NotForked, decode_from_zygote
from windlass.worker.process.signals import SIGNALS
from windlass.worker.process.zygotes import Zygotes

__all__ = ["Loading"]

log = Log("windlass.supervisor")

KILLS_MOST = 3  # loading processes killed in a row, as the system does when memory is short, until the worker gives up
REAPED_WITHIN = 1.0  # seconds: the line of a zygote ends a moment before its process does


class Loading:
    """Hears the zygotes of a supervisor."""

    def __init__(
        self,
        fleet: Fleet,
        zygotes: Zygotes,
        forking: Forking,
        deaths: Deaths,
        *,
        on_settings: Callable[[Settings], None],
        on_loaded: Callable[[Settings], None],
    ) -> None:
        """``on_settings`` is called with the settings of the application whenever it has been loaded.

        ``on_loaded`` likewise, when its processes are about to start.
        """
        self._fleet = fleet
        self._zygotes = zygotes
        self._forking = forking
        self._deaths = deaths
        self._on_settings = on_settings
        self._on_loaded = on_loaded
        self._restart_again = False  # asked for while a restart was loading
        self._kills = 0  # of processes that were loading, in a row

    def load(self, *, successor: bool = False) -> None:
        """Start a zygote that loads the application; as soon as the system lets us."""
        try:
            generation = self._zygotes.start()
        except OSError as error:
            self._fleet.try_later(error, lambda: self.load(successor=successor))
            return
        self._fleet.granted()
        if successor:
            self._fleet.successor = generation
        else:
            self._fleet.generation = generation

    def restart(self) -> None:
        """HUP: load the code anew beside the old, then let the old processes end."""
        if self._fleet.stopping:
            return
        if self._fleet.successor is not None:
            self._restart_again = True  # what it loads may be older than what this was asked for
            return
        log.info("rolling restart: loading the application anew")
        self.load(successor=True)

    def hear(self, generation: Generation) -> None:
        """Take what a zygote has to say."""
        try:
            message = generation.control.receive()
        except (EOFError, OSError):
            self.lost(generation)
            return
        self._hear(generation, message)

    def _hear(self, generation: Generation, text: bytes) -> None:
        processes = self._fleet.processes
        match decode_from_zygote(text):
            case Hello() as hello:
                self._loaded(generation, hello)
            case Failed() as failed:
                self._failed(generation, failed)
            case Forked(token, pid):
                self._fleet.granted()
                if (process := processes.get(token)) is not None:
                    process.pid = pid
            case NotForked(token, why):
                self._forking.refused(token, why)
            case Died(token, status):
                if (process := processes.get(token)) is not None:
                    self._deaths.died(process, status)

    def _loaded(self, generation: Generation, hello: Hello) -> None:
        fleet = self._fleet
        generation.hello = hello
        self._kills = 0
        self._on_settings(hello.settings)
        if fleet.stopping:
            return
        if generation not in (fleet.generation, fleet.successor):  # another was asked for while it was loaded
            self._zygotes.forget(generation)
            return
        for note in hello.notes:
            log.info("%s", note)
        self._on_loaded(hello.settings)
        if generation is fleet.successor:
            old, fleet.successor, fleet.generation = fleet.generation, None, generation
            if old is not None:
                self._zygotes.forget_if_spent(old)  # nothing of it is left that would end it
        for number, crew in enumerate(hello.crews):
            for _ in range(crew.processes):
                self._forking.fork(number)
        self._restart_if_asked()

    def _failed(self, generation: Generation, failed: Failed) -> None:
        self._zygotes.forget(generation)
        if generation is self._fleet.successor:
            self._fleet.successor = None
            log.error("the new code cannot be loaded, the old one goes on: %s", failed.message)
            self._restart_if_asked()
            return
        log.error("%s", failed.message)
        self._fleet.code = failed.code
        self._fleet.stopping = True

    def lost(self, generation: Generation) -> None:
        """A zygote ended that we did not let go."""
        fleet = self._fleet
        for message in generation.control.rest():
            self._hear(generation, message)
        if generation.gone:  # one of its last words was that it could not load the application
            return
        self._zygotes.forget(generation)
        number = ended_by(generation) if generation.hello is None else None
        self._kills += number == signal.SIGKILL
        if number is not None and self._kills < KILLS_MOST:
            self._load_later(generation, number)
        elif generation is fleet.successor:
            fleet.successor = None
            log.error("the new code ended while it was loaded; the old one goes on")
            self._restart_if_asked()
        elif generation.hello is None and not fleet.stopping:
            log.error("the application ended while it was loaded; it must not exit, fork or become a daemon at import")
            fleet.code = fleet.code or 2
            fleet.stopping = True
        elif generation is fleet.generation and not fleet.stopping:
            log.error("the zygote died; its workers stop and new ones start from a new one")
            self.load()
        for process in fleet.processes_of(generation):
            process.command("stop")
            self._deaths.miss(process)

    def _load_later(self, generation: Generation, number: int) -> None:
        """One that was loading was ended by a signal from outside: to the whole process group, or SIGKILL."""
        successor = generation is self._fleet.successor
        if successor:
            self._fleet.successor = None
        why = f"{signal.Signals(number).name} ended the process that loads the application"
        self._fleet.try_later(why, lambda: self.load(successor=successor))

    def retire_old(self, generation: Generation) -> None:
        """Once every process of the new code is ready, stop those of the old."""
        fleet = self._fleet
        if generation is not fleet.generation or generation.hello is None:
            return
        ready = [one for one in fleet.processes_of(generation) if one.ready and not one.alone]
        if len(ready) < sum(crew.processes for crew in generation.hello.crews):
            return
        for process in fleet.processes.values():
            if process.generation is not generation:
                fleet.retire(process)

    def _restart_if_asked(self) -> None:
        if self._restart_again:
            self._restart_again = False
            self.restart()


def ended_by(generation: Generation) -> int | None:
    """The signal from outside that ended a zygote, if it was one."""
    try:
        code = generation.process.wait(REAPED_WITHIN)
    except subprocess.TimeoutExpired:
        return None
    return -code if -code in (*SIGNALS, signal.SIGKILL) else None
