"""A call: a job with its arguments and options, not yet stored.

Invariant: a Call never changes and is one job-to-be: its id is made with it, so storing it twice stores it once.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

from windlass.core.errors import ConfigError
from windlass.core.meta import Meta
from windlass.core.model import NewJob
from windlass.guards.options import GuardPlan
from windlass.jobs.spec import JobSpec

__all__ = ["Call", "Plan", "check_call"]

R_co = TypeVar("R_co", covariant=True)


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
    """A job, its arguments and options, not yet stored. ``new`` is the request an engine will get."""

    spec: JobSpec
    args: tuple[object, ...]
    kwargs: dict[str, object]
    new: NewJob
    connection: object | None = None

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


def check_call(given: object, where: str) -> None:
    """Raise ConfigError for what is no Call: a job itself, the result of calling one, a handle."""
    if not isinstance(given, Call):
        spec = getattr(given, "spec", None)  # of a job
        hint = f"write {spec.fn.__name__}.bind(...)" if isinstance(spec, JobSpec) else "job.bind(...) makes one"
        raise ConfigError(f"{where}: {given!r} is not a call; {hint}")
