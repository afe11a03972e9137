"""A call: a job with its arguments and options, not yet stored, and what it needs of those who made it and store it.

Invariants: a Call never changes and is one job-to-be: its id is made with it, so storing it twice stores it once. One
that lacks its first argument is *open*: only as a step behind another can it be stored, which fills that in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

from msgspec import Struct

from windlass.core.errors import ConfigError, PayloadError
from windlass.core.meta import Meta, Ref
from windlass.core.model import NewJob, NewJoin, Written
from windlass.engines.base import Store
from windlass.guards.options import GuardPlan
from windlass.jobs.handle import JobHandle
from windlass.jobs.hooks import Hooks
from windlass.jobs.reader import Reader
from windlass.jobs.spec import JobSpec
from windlass.settings import Settings

__all__ = ["Call", "Composition", "Enqueuer", "Maker", "Plan", "Storer", "call_of", "check_call"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Storer(Protocol):
    """What stores calls that belong together, and reads what became of them."""

    engine: Store
    settings: Settings
    reader: Reader

    def compose(
        self, calls: Sequence[Call[object]], joins: Sequence[NewJoin] = (), seals: Sequence[str] = ()
    ) -> Written:
        """Store calls and joins in one write, and seal joins, with all that goes with an enqueue. *Atomic, blocking.*

        The answer is ``lost``, and nothing is stored, when one of the joins is there already.
        """
        ...

    async def acompose(
        self, calls: Sequence[Call[object]], joins: Sequence[NewJoin] = (), seals: Sequence[str] = ()
    ) -> Written:
        """Store calls and joins without blocking the event loop; see ``compose``."""
        ...


@runtime_checkable
class Composition(Protocol):
    """Calls that are stored together: a chain, a group or a workflow."""

    def composed(self, settings: Settings) -> tuple[Sequence[Call[object]], Sequence[NewJoin]]:
        """Give what is stored of it. Raises ConfigError for what can never be."""
        ...


class Enqueuer(Protocol):
    """What stores the calls of a job and knows its hooks: the application that the job belongs to."""

    @property
    def hooks(self) -> Hooks: ...

    @property
    def client(self) -> Storer: ...

    def enqueue(self, call: Call[R]) -> JobHandle[R]: ...

    async def aenqueue(self, call: Call[R]) -> JobHandle[R]: ...


class Maker(Protocol):
    """The job that made a call, with the options it had."""

    @property
    def enqueuer(self) -> Enqueuer:
        """The application of the job."""
        ...

    def as_step(self, call: Call[object], job: str, join: str) -> Call[object]:
        """Give the call as one that gets the result of the only member of ``join``; see ``BaseJob.as_step``."""
        ...

    def as_item(self, call: Call[object]) -> tuple[Call[object], int | str]:
        """Give the call as one whose first argument is put in later, and say where; see ``BaseJob.as_item``."""
        ...

    def with_results(self, call: Call[object], refs: tuple[Ref, ...]) -> Call[object]:
        """Give the call as one that gets results of steps; see ``BaseJob.with_results``."""
        ...


class Plan(Struct, frozen=True):
    """The options of the next call, ready to be copied into a NewJob."""

    queue: str
    priority: int
    max_attempts: int
    expires_ms: int | None
    tags: tuple[str, ...]
    durable: bool | None
    facts: Meta
    meta: str | None
    run_at: int | None = None
    delay_ms: int = 0
    at_front: bool = False
    id: str | None = None
    connection: object | None = None
    guards: GuardPlan | None = None


# Made by the thousand in a bulk enqueue, and part of no cycle that its own arguments do not make.
class Call(Struct, Generic[R_co], frozen=True, eq=False, gc=False):
    """A job, its arguments and options, not yet stored. ``new`` is the request an engine will get.

    ``lacks`` says which arguments it has not got; None: it is whole.
    """

    spec: JobSpec
    args: tuple[object, ...]
    kwargs: dict[str, object]
    new: NewJob
    maker: Maker
    connection: object | None = None
    lacks: str | None = None

    @property
    def id(self) -> str:
        """The id the job will have."""
        return self.new.id

    @property
    def name(self) -> str:
        """The name of the job."""
        return self.new.name

    @property
    def queue(self) -> str:
        """The queue it goes to."""
        return self.new.queue

    def __repr__(self) -> str:
        # Arguments stay out of it: they may be redacted.
        return f"<Call {self.new.name} {self.new.id} to {self.new.queue}>"


def call_of(given: object, where: str) -> Call[object]:
    """Give back a Call. Raises ConfigError for what is none: a job itself, the result of calling one, a handle."""
    if isinstance(given, Call):
        return given
    spec = getattr(given, "spec", None)  # of a job
    hint = f"write {spec.fn.__name__}.bind(...)" if isinstance(spec, JobSpec) else "job.bind(...) makes one"
    raise ConfigError(f"{where}: {given!r} is not a call; {hint}")


def check_call(given: object, where: str) -> None:
    """Raise ConfigError for what is no Call, and PayloadError for one that lacks an argument."""
    if not isinstance(given, Call):
        call_of(given, where)
    elif given.lacks is not None:
        raise PayloadError(given.lacks)
