"""What is left of a call once it is stored: its id, and what may be asked about it and of it."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar, cast

from msgspec import Struct

from windlass.core.aio import hop, own_thread
from windlass.core.errors import ResultExpired
from windlass.core.model import State
from windlass.core.rows import Action
from windlass.core.spelling import spelled
from windlass.core.units import Duration
from windlass.jobs.info import JobInfo, JobProgress
from windlass.jobs.reader import Reader

__all__ = ["JobHandle"]

R_co = TypeVar("R_co", covariant=True)


# Made by the thousand in a bulk enqueue, and never part of a cycle: the collector need not look at them.
@spelled
class JobHandle(Struct, Generic[R_co], frozen=True, eq=False, gc=False):
    """A stored job. ``duplicate`` is true when the id existed already and nothing new was stored."""

    id: str
    duplicate: bool
    reader: Reader

    def __repr__(self) -> str:
        return f"<JobHandle {self.id}{' duplicate' if self.duplicate else ''}>"

    def info(self) -> JobInfo:
        """Give the job as it stands. *Blocking.* Raises ResultExpired when no record of it is kept."""
        info = self.reader.info(self.id)
        if info is None:
            raise ResultExpired(f"no record of job {self.id} is kept any more", self.id)
        return info

    async def ainfo(self) -> JobInfo:
        """Give the job as it stands; see ``info``."""
        return await hop(self.info)

    @property
    def state(self) -> State:
        """The job's state. *Blocking*; async code asks ``ainfo``."""
        return self.info().state

    def result(self, timeout: Duration | None = None) -> R_co:
        """Wait for the job to end and give what it returned. *Blocking*, woken by the end, not by polling.

        ``timeout`` is a duration; None waits for ever. It comes back as it is annotated, and as plain data where it is
        not, or where this process does not know the job. Raises JobFailed (dead), JobCancelled, ResultTimeout,
        ResultExpired (no record is kept), ResultNotStored, and PayloadError for one that does not fit its annotation.
        """
        return cast(R_co, self.reader.result(self.id, timeout))

    async def aresult(self, timeout: Duration | None = None) -> R_co:
        """Wait for the job to end without blocking the event loop; see ``result``."""
        # A thread of its own: waits may be long, and a pool full of them would hold up everybody else.
        given_up = threading.Event()
        try:
            return cast(R_co, await own_thread(lambda: self.reader.result(self.id, timeout, given_up)))
        finally:
            given_up.set()

    def progress(self) -> JobProgress | None:
        """Give the last progress the job reported. *Blocking.*"""
        return self.info().progress

    async def aprogress(self) -> JobProgress | None:
        """Give the last progress the job reported."""
        return (await self.ainfo()).progress

    def cancel(self) -> None:
        """Cancel the job: a waiting one ends at once, a running one is asked to stop. Raises TransitionRefused."""
        self.reader.move(Action.CANCEL, self.id)

    async def acancel(self) -> None:
        """Cancel the job; see ``cancel``."""
        await hop(self.cancel)

    def retry(self) -> None:
        """Run a dead, cancelled or scheduled job now, with a fresh budget. Raises TransitionRefused."""
        self.reader.move(Action.RETRY, self.id)

    async def aretry(self) -> None:
        """Run the job now; see ``retry``."""
        await hop(self.retry)
