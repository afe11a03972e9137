"""The thread that calls hooks, so that a slow one holds up neither jobs nor the pump.

Moments come in by job id, after the store has accepted them; each is read back as a JobInfo, and then the hooks run,
one after another. The thread starts with the first moment. An orderly end waits for it a little.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from queue import SimpleQueue

from windlass.core.errors import EngineError
from windlass.core.foreign import Shield, start_thread
from windlass.core.model import State
from windlass.core.units import show_duration
from windlass.engines.base import Store
from windlass.events import Events, JobDead
from windlass.jobs.hooks import Hooks, Moment
from windlass.jobs.reader import Reader
from windlass.jobs.registry import Registry
from windlass.logs import Log

__all__ = ["HookThread"]

log = Log("windlass.hooks")

UNCALLED = "the hooks of on_%s for job %s are not called, it cannot be read"
FAREWELL = 5.0  # seconds an orderly end waits for hooks that are owed


class HookThread:
    """Calls the hooks of one worker. *Thread-safe.*"""

    def __init__(self, hooks: Hooks, engine: Store, registry: Registry, events: Events) -> None:
        self._hooks = hooks
        self._registry = registry
        self._events = events
        self._reader = Reader(engine, registry)
        self._queue: SimpleQueue[tuple[Moment, str, bool] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wants(self, moment: Moment) -> bool:
        """Whether anybody waits for this moment."""
        return self._hooks.wants(moment)

    def tell(self, moment: Moment, ids: Iterable[str]) -> None:
        """Have the hooks of these jobs called."""
        if self._hooks.wants(moment):
            self._put(moment, ids, unreported=False)

    def tell_died(self, ids: Iterable[str]) -> None:
        """Have the hooks of jobs called that the store let die, and JobDead emitted, which no run of theirs could."""
        if self._hooks.wants(Moment.DEAD) or self._events.wants(JobDead):
            self._put(Moment.DEAD, ids, unreported=True)

    def _put(self, moment: Moment, ids: Iterable[str], *, unreported: bool) -> None:
        for job_id in ids:
            self._queue.put((moment, job_id, unreported))
            with self._lock:
                if self._thread is None:
                    with Shield(log, "the thread that calls hooks cannot start; it is tried again with the next hook"):
                        self._thread = start_thread(self._run, "windlass-hooks")

    def close(self) -> None:
        """End the thread after what it owes, or leave it when that takes too long. *Blocking.*"""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join(FAREWELL)
            if thread.is_alive():
                log.warning(
                    "hooks still run after %s; the worker ends without waiting for them",
                    show_duration(FAREWELL * 1_000),
                )

    def _run(self) -> None:
        while (told := self._queue.get()) is not None:
            moment, job_id, unreported = told
            with Shield(log, UNCALLED, moment, job_id):  # reading a result runs code of its type
                self._call(moment, job_id, unreported=unreported)

    def _call(self, moment: Moment, job_id: str, *, unreported: bool) -> None:
        try:
            info = self._reader.info(job_id)
        except EngineError as error:
            log.error(f"{UNCALLED}: %s", moment, job_id, error)
            return
        # A cancel that was asked for while it ran ended it instead; a person may have deleted it since.
        if info is None or info.state is State.CANCELLED:
            return
        if unreported:
            self._events.emit(JobDead(info.id, info.name, info.queue, info.attempt, info.reason))
        spec = self._registry.find(info.name)
        self._hooks.call(moment, info, spec.name if spec else info.name)
