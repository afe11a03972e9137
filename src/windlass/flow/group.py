"""A group: jobs side by side, whose results are read in the order of the calls.

Stored in one write, as the members of one sealed join that nobody waits for: its counters are the progress. It keeps
the records of all until the last has ended, and for ``keep_done`` from then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from copy import copy
from typing import Generic, Literal, TypeVar, overload

from msgspec import Struct
from msgspec.structs import replace

from windlass.core.aio import hop, own_thread
from windlass.core.errors import PayloadError, ResultError, ResultExpired, ResultTimeout
from windlass.core.ids import new_id
from windlass.core.model import NewJoin, Written
from windlass.core.spelling import spelled
from windlass.core.units import Duration, duration_ms
from windlass.flow.members import FlowProgress, check_members, joined
from windlass.jobs.call import Call, Storer, check_call
from windlass.settings import Settings

__all__ = ["Group", "GroupHandle", "group"]

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

WHAT = "group(...)"


def join_of(group_id: str) -> str:
    """The join of a group."""
    return f"group:{group_id}"


@spelled
class Group(Generic[R_co]):
    """Jobs that are not stored yet. Made by ``group``."""

    def __init__(self, calls: tuple[Call[R_co], ...]) -> None:
        """Raises ConfigError or PayloadError for what can never be a group."""
        self._app = check_members(calls, WHAT)
        for call in calls:
            check_call(call, WHAT)
        self.id = new_id()
        self._calls = [joined(call, join_of(self.id)) for call in calls]

    def __repr__(self) -> str:
        return f"<Group {self.id} of {len(self._calls)}>"

    def options(self, *, connection: object) -> Group[R_co]:
        """Give the same group, to be stored inside the caller's SQL transaction."""
        other = copy(self)
        other._calls = [replace(call, connection=connection) for call in self._calls]
        return other

    def enqueue(self) -> GroupHandle[R_co]:
        """Store the group; give its handle. *Atomic, idempotent, blocking.* Raises EngineUnavailable, EngineFull."""
        if self._app is None:
            return GroupHandle(self.id, (), None)
        client = self._app.client
        return self._handle(client, client.compose(*self.composed(client.settings)))

    async def aenqueue(self) -> GroupHandle[R_co]:
        """Store the group without blocking the event loop; see ``enqueue``."""
        app = self._app
        if app is None:
            return GroupHandle(self.id, (), None)
        client = await hop(lambda: app.client)
        return self._handle(client, await client.acompose(*self.composed(client.settings)))

    def composed(self, settings: Settings) -> tuple[Sequence[Call[object]], Sequence[NewJoin]]:
        """Give what is stored of it; see ``jobs.call.Composition``."""
        return self._calls, [NewJoin(join_of(self.id), keep_ms=settings.keep_done)] if self._calls else []

    def _handle(self, client: Storer, written: Written) -> GroupHandle[R_co]:
        found = self._calls if written.lost else written.placed
        return GroupHandle(self.id, tuple(one.id for one in found), client)


@spelled
class GroupHandle(Struct, Generic[R_co], frozen=True, eq=False):
    """A stored group. ``ids`` are those of its jobs, in the order of the calls."""

    id: str
    ids: tuple[str, ...]
    client: Storer | None  # None: it is empty

    def __repr__(self) -> str:
        return f"<GroupHandle {self.id} of {len(self.ids)}>"

    def progress(self) -> FlowProgress:
        """Say how many jobs have ended, and how. *Blocking.* Raises ResultExpired when that is not kept any more."""
        if self.client is None:
            return FlowProgress(0, 0, 0, 0)
        (row,) = self.client.engine.joins([join_of(self.id)])
        if row is None:
            raise ResultExpired(f"group {self.id} ended longer ago than keep_done; no record of it is kept", self.id)
        return FlowProgress.of(row.tally)

    async def aprogress(self) -> FlowProgress:
        """Say how many jobs have ended; see ``progress``."""
        return await hop(self.progress)

    @overload
    def results(self, timeout: Duration | None = None, *, return_exceptions: Literal[False] = False) -> list[R_co]: ...
    @overload
    def results(
        self, timeout: Duration | None = None, *, return_exceptions: bool
    ) -> list[R_co | ResultError | PayloadError]: ...
    def results(self, timeout: Duration | None = None, *, return_exceptions: bool = False) -> object:
        """Wait for all jobs to end and give what they returned, in the order of the calls. *Blocking.*

        ``timeout`` is for all of them. Raises the first failure in that order, as ``JobHandle.result`` does; with
        ``return_exceptions`` it stands in its place. Raises ResultTimeout in any case.
        """
        return self._results(timeout, return_exceptions)

    @overload
    async def aresults(
        self, timeout: Duration | None = None, *, return_exceptions: Literal[False] = False
    ) -> list[R_co]: ...
    @overload
    async def aresults(
        self, timeout: Duration | None = None, *, return_exceptions: bool
    ) -> list[R_co | ResultError | PayloadError]: ...
    async def aresults(self, timeout: Duration | None = None, *, return_exceptions: bool = False) -> object:
        """Wait for all jobs without blocking the event loop; see ``results``."""
        given_up = threading.Event()
        try:
            return await own_thread(lambda: self._results(timeout, return_exceptions, given_up))
        finally:
            given_up.set()

    def _results(
        self, timeout: Duration | None, return_exceptions: bool, given_up: threading.Event | None = None
    ) -> list[object]:
        deadline = None if timeout is None else time.monotonic() + duration_ms(timeout, "timeout") / 1_000
        found: list[object] = []
        for id in self.ids:
            assert self.client is not None
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                found.append(self.client.reader.result(id, left, given_up))
            except ResultTimeout:
                raise ResultTimeout(
                    f"group {self.id}: job {id} did not finish within {timeout}; it goes on, so ask again later", id
                ) from None
            except (ResultError, PayloadError) as error:
                if not return_exceptions:
                    raise
                found.append(error)
        return found


def group(*calls: Call[R]) -> Group[R]:
    """Make jobs run side by side: ``group(resize.bind("a"), resize.bind("b")).enqueue().results()``.

    One without calls is complete at once. Raises ConfigError for a call that is in it twice, or of another application.
    """
    return Group(calls)
