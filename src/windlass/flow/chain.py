"""A chain: jobs one after the other, each with the result of the one before.

Stored in one write. Each step but the last has a join of its own, and the next one waits for that; all of them are
members of the chain's join, which keeps their records until the last has ended. What stands behind a failed step ends
cancelled, and goes on when that step is retried and succeeds. Invariant: a chain is known by the id of its last call,
so storing it twice stores it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Generic, TypeVar, overload

from msgspec.structs import replace

from windlass.core.aio import hop
from windlass.core.errors import ConfigError, PayloadError
from windlass.core.model import NewJoin, Wait, Written
from windlass.core.spelling import spelled
from windlass.flow.members import check_members, joined, waiting
from windlass.jobs.call import Call, Enqueuer, check_call
from windlass.jobs.handle import JobHandle
from windlass.settings import Settings

__all__ = ["Chain", "chain"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

WHAT = "chain(...)"


@spelled
class Chain(Generic[R_co]):
    """Steps that are not stored yet. Made by ``chain``."""

    def __init__(self, calls: tuple[Call[object], ...]) -> None:
        """Raises ConfigError or PayloadError for what can never be a chain."""
        app = check_members(calls, WHAT)
        if app is None:
            raise ConfigError(f"{WHAT} has no calls, so it has no result; give it one at least: chain(job.bind(...))")
        self._app: Enqueuer = app
        self._calls, self._joins = linked(calls)

    def __repr__(self) -> str:
        return f"<Chain of {len(self._calls)} to {self._calls[-1].id}>"

    def options(self, *, connection: object) -> Chain[R_co]:
        """Give the same chain, to be stored inside the caller's SQL transaction."""
        other = copy(self)
        other._calls = [replace(call, connection=connection) for call in self._calls]
        return other

    def composed(self, settings: Settings) -> tuple[Sequence[Call[object]], Sequence[NewJoin]]:
        """Give what is stored of it; see ``jobs.call.Composition``."""
        return self._calls, self._joins

    def enqueue(self) -> JobHandle[R_co]:
        """Store the chain; give the handle of its last step. *Atomic, idempotent, blocking.*

        Raises EngineUnavailable, EngineFull.
        """
        client = self._app.client
        return self._handle(client.compose(self._calls, self._joins))

    async def aenqueue(self) -> JobHandle[R_co]:
        """Store the chain without blocking the event loop; see ``enqueue``."""
        client = await hop(lambda: self._app.client)
        return self._handle(await client.acompose(self._calls, self._joins))

    def _handle(self, written: Written) -> JobHandle[R_co]:
        reader = self._app.client.reader
        if written.lost:
            return JobHandle(self._calls[-1].id, True, reader)
        last = written.placed[-1]
        return JobHandle(last.id, last.duplicate, reader)


def linked(calls: tuple[Call[object], ...]) -> tuple[list[Call[object]], list[NewJoin]]:
    """Give the calls of a chain as members that wait for one another, and the joins for that."""
    whole = f"chain:{calls[-1].id}"
    steps: list[Call[object]] = []
    joins = [NewJoin(whole)]
    for number, call in enumerate(calls, 1):
        where = f"{WHAT}: call {number}"
        if number == 1:
            check_call(call, where)
            step = call
        else:
            before = joins[-1].id
            try:
                step = call.maker.as_step(call, calls[number - 2].id, before)
            except (PayloadError, ConfigError) as error:
                raise type(error)(f"{where}: {error}") from None
            step = waiting(step, Wait(before), where)
        if number < len(calls):
            joins.append(NewJoin(f"{whole}:{number}", home=whole))
            step = joined(step, whole, joins[-1].id)
        else:
            step = joined(step, whole)
        steps.append(step)
    return steps, joins


@overload
def chain(last: Call[R], /) -> Chain[R]: ...
@overload
def chain(one: Call[object], last: Call[R], /) -> Chain[R]: ...
@overload
def chain(one: Call[object], two: Call[object], last: Call[R], /) -> Chain[R]: ...
@overload
def chain(one: Call[object], two: Call[object], three: Call[object], last: Call[R], /) -> Chain[R]: ...
@overload
def chain(*calls: Call[object]) -> Chain[object]: ...
def chain(*calls: Call[object]) -> Chain[object]:
    """Make jobs run one after the other: ``chain(create.bind(order), reserve.bind(), ship.bind()).enqueue()``.

    Each gets the result of the one before, also None: as ``previous`` where it has a parameter of that name, else as
    its first argument. Raises ConfigError or PayloadError for calls that can never fit.
    """
    return Chain(calls)
