"""What windlass reports while it works: frozen facts, and the hub that hands them to whoever asked.

Events report; they change nothing (middleware does that). Handlers run at once, in the thread that emits, so they are
short. Invariants: whatever a handler raises is logged with the handler's name and reaches nobody else; an event nobody
asked for costs one dictionary lookup. Lengths of time are seconds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from windlass.core.errors import ConfigError
from windlass.core.foreign import Shield, name_of
from windlass.core.units import nearest
from windlass.logs import Log

__all__ = [
    "CircuitClosed",
    "CircuitHalfOpened",
    "CircuitOpened",
    "DeadRecovered",
    "DeadTrimmed",
    "Event",
    "Events",
    "JobDead",
    "JobEnqueued",
    "JobFailed",
    "JobRetrying",
    "JobStalled",
    "JobStarted",
    "JobSucceeded",
    "JobWithdrawn",
    "LeaseExpired",
    "ResultDropped",
    "SettleDropped",
    "StoreRolledBack",
    "WorkerCrashed",
    "WorkerStarted",
    "WorkerStopped",
    "WorkflowStalled",
]

logger = Log("windlass.events")


@dataclass(frozen=True)
class Event:
    """Root of all events; whoever subscribes to it gets every one."""


@dataclass(frozen=True)
class JobEvent(Event):
    """Something happened to one job."""

    id: str
    name: str
    queue: str


@dataclass(frozen=True)
class JobEnqueued(JobEvent):
    """A job was stored by this process (not a duplicate).

    One that goes into a caller's transaction is reported before that commits.
    """


@dataclass(frozen=True)
class JobStarted(JobEvent):
    """A run began. ``wait`` is how long the job had been due, in seconds."""

    attempt: int
    wait: float


@dataclass(frozen=True)
class JobSucceeded(JobEvent):
    """A run ended well. ``duration`` is its length in seconds."""

    attempt: int
    duration: float


@dataclass(frozen=True)
class JobFailed(JobEvent):
    """A run ended in an error, whatever follows from it. Not ``windlass.JobFailed``, which is the exception."""

    attempt: int
    duration: float
    error: BaseException


@dataclass(frozen=True)
class JobRetrying(JobEvent):
    """A failed job will run again, in ``delay`` seconds, what the retry budget of its queue adds included."""

    attempt: int
    delay: float


@dataclass(frozen=True)
class JobDead(JobEvent):
    """A job went to the dead list."""

    attempt: int
    reason: str | None


@dataclass(frozen=True)
class JobWithdrawn(JobEvent):
    """A job ended cancelled: by a person, by its own code, or because it expired."""

    attempt: int
    reason: str | None


@dataclass(frozen=True)
class JobStalled(JobEvent):
    """A running job has made no progress for its ``stall_after``; once per stall. Not the exception of that name.

    ``duration`` is for how long, in seconds; ``line`` where it hangs, ``stack`` how it got there, the outermost first.
    """

    attempt: int
    duration: float
    line: str
    stack: tuple[str, ...]


@dataclass(frozen=True)
class LeaseExpired(JobEvent):
    """A worker lost its lease; what the run did afterwards is not accepted."""

    attempt: int


@dataclass(frozen=True)
class ResultDropped(JobEvent):
    """A job is done, but its result could not be stored."""

    attempt: int
    reason: str


@dataclass(frozen=True)
class SettleDropped(JobEvent):
    """An outcome came too late or could not be delivered before the lease ended; the job runs again."""

    attempt: int
    reason: str


@dataclass(frozen=True)
class DeadTrimmed(Event):
    """Dead jobs were removed by age or count."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class CircuitEvent(Event):
    """A circuit changed. One process of the fleet reports each change: the one whose call made it."""

    circuit: str


@dataclass(frozen=True)
class CircuitOpened(CircuitEvent):
    """A circuit lets nothing through. ``open_for`` is for how long, in seconds; None: until somebody closes it."""

    reason: str | None
    open_for: float | None


@dataclass(frozen=True)
class CircuitHalfOpened(CircuitEvent):
    """A circuit lets its first probe through."""


@dataclass(frozen=True)
class CircuitClosed(CircuitEvent):
    """A circuit lets everything through again."""


@dataclass(frozen=True)
class DeadRecovered(Event):
    """Dead jobs were made ready by a recovery rule."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class WorkflowStalled(Event):
    """A workflow does not get on, and why; once per stall. ``healed`` records were lost, and count as an end now."""

    id: str
    name: str
    reason: str
    healed: int


@dataclass(frozen=True)
class WorkerEvent(Event):
    """Something happened to one worker incarnation."""

    worker: str


@dataclass(frozen=True)
class WorkerStarted(WorkerEvent):
    """A worker registered and claims jobs."""


@dataclass(frozen=True)
class WorkerStopped(WorkerEvent):
    """A worker ended in order."""


@dataclass(frozen=True)
class WorkerCrashed(WorkerEvent):
    """A worker process died. ``cause`` names the signal or the exit code."""

    cause: str


@dataclass(frozen=True)
class StoreRolledBack(WorkerEvent):
    """The store has lost writes that it had confirmed: it restarted or failed over without them.

    ``what`` says how it showed, in a sentence. Each worker that saw it reports it.
    """

    what: str


E = TypeVar("E", bound=Event)


def check_kind(kind: object) -> None:
    """Raise ConfigError for what is no event type, such as the function of a bare ``@app.on``."""
    if not (isinstance(kind, type) and issubclass(kind, Event)):
        name = getattr(kind, "__name__", str(kind))
        hint = nearest(name, __all__)
        raise ConfigError(f"{name} is not an event type{hint}; write @app.on(JobDead), with one of windlass.events")


class Events:
    """Hand events to subscribers. *Thread-safe.*"""

    def __init__(self) -> None:
        # Tuples that are replaced whole: emit reads without a lock.
        self._handlers: dict[type[Event], tuple[Callable[[Event], object], ...]] = {}

    def subscribe(self, kind: type[E], handler: Callable[[E], object]) -> None:
        """Call ``handler`` with each event of this type or a subtype.

        Raises ConfigError for what is no event type and for an ``async def`` handler, which nothing would await.
        """
        check_kind(kind)
        if inspect.iscoroutinefunction(handler):
            raise ConfigError(
                f"the handler {name_of(handler)} of {kind.__name__} is async; event handlers are plain functions"
            )
        # A handler of E never sees anything but an E: it is filed under E and its subtypes only.
        filed = cast("Callable[[Event], object]", handler)
        kinds: list[type[Event]] = [kind, *_subtypes(kind)]
        for each in kinds:
            self._handlers[each] = (*self._handlers.get(each, ()), filed)

    def wants(self, kind: type[Event]) -> bool:
        """Whether anyone would see an event of this type; ask before building one on a hot path."""
        return kind in self._handlers

    def emit(self, event: Event) -> None:
        """Call the event's handlers in the order they subscribed. *Never fails.*"""
        for handler in self._handlers.get(type(event), ()):
            # A broken observer must not change what it observes.
            with Shield(logger, "event handler %s failed on %s", name_of(handler), type(event).__name__):
                handler(event)


def _subtypes(kind: type[Event]) -> list[type[Event]]:
    found: list[type[Event]] = []
    for child in kind.__subclasses__():
        found += [child, *_subtypes(child)]
    return found
