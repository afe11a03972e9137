"""A batch: jobs without end that belong together, and what is to run once when they have ended.

Its jobs are the members of a join that is open while they are added, chunk by chunk and in constant memory, and sealed
at the end of the block. The callbacks wait for that join, and were stored with it: so each runs once, whoever ends the
last job. Must not count or decide anything itself.

Invariants: jobs are added while the batch takes more, that is until it is sealed, and from inside a running job of its
own also afterwards; a block that ends in an error leaves the batch unsealed and cancelled. The jobs of a nested batch
are jobs of the outer one too, and so are its ``on_success`` and ``on_complete``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from windlass.core.aio import hop
from windlass.core.clock import from_ms
from windlass.core.errors import ConfigError, EngineError, NotInJob, TransitionRefused
from windlass.core.ids import check_id, new_id
from windlass.core.meta import decode_meta, encode_meta
from windlass.core.model import Ends, NewJoin, Wait
from windlass.core.rows import Action, JoinRow
from windlass.core.spelling import spelled
from windlass.flow.members import WATCH_MS, FlowProgress, check_app, check_members, eta_of, joined, read_facts, waiting
from windlass.jobs.call import Call, check_call
from windlass.jobs.context import current_job
from windlass.jobs.handle import JobHandle
from windlass.jobs.info import Page

if TYPE_CHECKING:
    from windlass.jobs.call import Enqueuer

__all__ = ["Batch", "BatchInfo", "batch_join", "facts_of", "list_batches"]

CHUNK: Final = 1_000
"""Jobs in one write, and in the memory of who adds them."""

ID_MAX: Final = 160  # characters: the ids of callbacks are longer

WAITS: Final[dict[str, tuple[Ends, int]]] = {"on_success": ("ok", 0), "on_complete": ("end", 0), "on_death": ("bad", 1)}
NEVER_SKIPPED_ALONE: Final = ("on_success", "on_complete")
"""Callbacks that are skipped only when a job of the batch was no success, so an outer batch can wait for them."""


class Facts(Struct, frozen=True, omit_defaults=True):
    """What the join of a batch says of it."""

    name: str = ""
    callbacks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """A batch at one moment. ``sealed``: it takes no more jobs; ``ended_at``: all had ended then.

    ``callbacks`` are the ids of the jobs that wait for it, ``parent`` the batch that it is nested in.
    """

    id: str
    name: str
    sealed: bool
    progress: FlowProgress
    created_at: datetime
    moved_at: datetime
    ended_at: datetime | None
    callbacks: tuple[str, ...]
    parent: str

    @property
    def eta(self) -> timedelta | None:
        """How long it will take, if the rest goes as fast as what has ended; None: it has ended, or nobody can tell."""
        return eta_of(self.progress, self.moved_at - self.created_at) if self.sealed else None


@spelled
class Batch:
    """Jobs that belong together. Made by ``app.batch``; a block of it belongs to one thread or task."""

    def __init__(
        self,
        app: Enqueuer,
        name: str | None,
        id: str | None,
        callbacks: Mapping[str, Call[object] | None],
        outer: Batch | None = None,
    ) -> None:
        """Raises ConfigError."""
        given = {when: call for when, call in callbacks.items() if call is not None}
        if name is None and id is None:
            raise ConfigError("app.batch(): give a new batch a name, app.batch('newsletter'), or one that is there id=")
        if name is None and given:
            raise ConfigError(
                f"app.batch(id={id!r}, {next(iter(given))}=): only a new batch, with a name, takes callbacks"
            )
        if id is not None and len(check_id(id)) > ID_MAX:
            raise ConfigError(f"the batch id {id[:40]!r}... has {len(id)} characters; use at most {ID_MAX}")
        self.id = new_id() if id is None else id
        self.name = name
        self._app = app
        self._outer = outer
        self._callbacks = given
        self._buffer: list[Call[object]] = []
        self._metas: dict[str | None, str | None] = {}
        self._inside = False  # its block
        self._seals = False  # it is this block that ends it
        check_members(list(given.values()), f"{self!r}")
        for when, call in given.items():
            check_app(call, app, f"{self!r}: {when}")

    def __repr__(self) -> str:
        return f"<Batch {self.id}{f' {self.name}' if self.name else ''}>"

    def batch(
        self,
        name: str,
        *,
        id: str | None = None,
        on_success: Call[object] | None = None,
        on_complete: Call[object] | None = None,
        on_death: Call[object] | None = None,
    ) -> Batch:
        """Make a batch inside this one, for ``with`` or ``async with``: this one ends after it and its callbacks."""
        given = {"on_success": on_success, "on_complete": on_complete, "on_death": on_death}
        return Batch(self._app, name, id, given, self)

    # -- adding ----------------------------------------------------------------------------------------

    def add(self, call: Call[object]) -> None:
        """Add a job; it is stored with others, at the end of the block at the latest. *Blocking now and then.*

        Without a block, which only a batch that is there can do, it is stored at once. Raises TransitionRefused when
        the batch takes no more, ConfigError, and as ``app.enqueue_many``; what was not stored goes with the next call.
        """
        if self._collect(call):
            self._flush()

    async def aadd(self, call: Call[object]) -> None:
        """Add a job without blocking the event loop; see ``add``."""
        if self._collect(call):
            await hop(self._flush)

    def __enter__(self) -> Batch:
        """Store the batch and its callbacks, or find the one that is there. *Blocking.* Raises TransitionRefused."""
        if self._inside:
            raise ConfigError(f"{self!r}: its block is entered already")
        self._seals = self._begin()
        self._inside = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Store what is left, and seal the batch; after an error, cancel it. *Blocking.*"""
        try:
            if error is None:
                self._flush(seal=self._seals)
            elif self._seals:
                self._cancel_for(error)
        finally:
            self._inside = False
            self._buffer = []

    async def __aenter__(self) -> Batch:
        """Store the batch without blocking the event loop; see ``__enter__``."""
        return await hop(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Seal or cancel the batch without blocking the event loop."""
        await hop(lambda: self.__exit__(kind, error, trace))

    def _begin(self) -> bool:
        """Store a new batch, or look whether the one that is there takes jobs; say whether the block is to seal it."""
        if self.name is not None:
            if self._outer is not None:
                self._outer._check_takes()
            calls = self._waiters()
            facts = Facts(self.name, tuple(call.id for call in calls))
            client = self._app.client
            home = None if self._outer is None else self._outer._join
            meta = msgspec.json.encode(facts).decode()
            join = NewJoin(
                self._join, sealed=False, keep_ms=client.settings.keep_done, home=home, meta=meta, watch_ms=WATCH_MS
            )
            if not client.compose(calls, [join]).lost:
                return True
        return not self._check_stored()

    def _waiters(self) -> list[Call[object]]:
        """The callbacks, as jobs that wait for the batch."""
        calls = []
        for when, call in self._callbacks.items():
            step = waiting(call, Wait(self._join, *WAITS[when]), f"{self!r}: {when}")
            step = replace(step, new=replace(step.new, id=self._callback_id(when, call)))
            if self._outer is not None and when in NEVER_SKIPPED_ALONE:
                step = self._outer._member(step)
            calls.append(step)
        return calls

    def _collect(self, call: Call[object]) -> bool:
        """Take a call; say whether to store what has come."""
        check_call(call, f"{self!r}: add()")
        check_app(call, self._app, f"{self!r}: add()")
        if call.connection is not None:
            raise ConfigError(
                f"{self!r}: {call!r} has a connection=, and a batch is stored in many writes; use chain() or group()"
            )
        if not self._inside and self.name is not None:
            raise ConfigError(f"{self!r}: add jobs inside of its block: `with app.batch(...) as batch: batch.add(...)`")
        self._buffer.append(self._member(call))
        return not self._inside or len(self._buffer) >= CHUNK

    def _member(self, call: Call[object]) -> Call[object]:
        """Give a call as a job of this batch and of those around it."""
        batches = self._line()
        meta = call.new.meta
        if meta not in self._metas:
            if len(self._metas) >= CHUNK:  # each call says something else
                self._metas.clear()
            facts = decode_meta(None if meta is None else meta.encode())
            self._metas[meta] = encode_meta(replace(facts, batches=tuple(batch.id for batch in batches)))
        member = joined(call, *(batch._join for batch in batches))
        return replace(member, new=replace(member.new, meta=self._metas[meta]))

    def _flush(self, *, seal: bool = False) -> None:
        """Store what has come; what fails stays, and goes with the next call."""
        if self._buffer:
            for batch in self._line():
                batch._check_takes()
        if self._buffer or seal:
            try:
                self._app.client.compose(self._buffer, (), (self._join,) if seal else ())
            except EngineError as error:
                error.add_note(f"{self!r} is not sealed; go on with `with app.batch(id={self.id!r})`, or cancel() it")
                raise
        self._buffer = []

    def _check_takes(self) -> None:
        """Raise when no more jobs can be added. One that this block seals takes them."""
        if self._inside and self._seals:
            return
        if self.name is not None and not self._inside:
            raise ConfigError(f"{self!r}: its block has not begun, or is over; nest the blocks: `with` in `with`")
        self._check_stored()

    def _check_stored(self) -> bool:
        """Say whether this is a running job of the batch. Raises TransitionRefused when it takes no jobs from here."""
        row = self._row()
        try:
            is_member = self.id in current_job().batches
        except NotInJob:
            is_member = False
        if row.ended_at is not None:
            raise TransitionRefused(f"{self!r} has ended, and its callbacks have gone on; make a new batch")
        if row.tally.sealed and not is_member:
            raise TransitionRefused(
                f"{self!r} is sealed: only its own jobs add to it, while they run; make a new batch, or take another id"
            )
        return is_member

    def _line(self) -> list[Batch]:
        """This batch and those around it, the innermost first."""
        return [self, *([] if self._outer is None else self._outer._line())]

    @property
    def callbacks(self) -> dict[str, JobHandle[object]]:
        """The handles of the callbacks that it was made with, by ``on_success``, ``on_complete`` and ``on_death``."""
        reader = self._app.client.reader
        return {when: JobHandle(self._callback_id(when, call), False, reader) for when, call in self._callbacks.items()}

    def _callback_id(self, when: str, call: Call[object]) -> str:
        return call.id if call.new.caller_id else f"{self.id}:{when}"

    # -- looking and cancelling ------------------------------------------------------------------------

    def info(self) -> BatchInfo:
        """Give the batch as it stands. *Blocking.* Raises TransitionRefused when there is none, or no more."""
        return info_of(self._row())

    async def ainfo(self) -> BatchInfo:
        """Give the batch as it stands; see ``info``."""
        return await hop(self.info)

    def progress(self) -> FlowProgress:
        """Say how many of its jobs have ended, and how. *Blocking.* Raises as ``info``."""
        return self.info().progress

    async def aprogress(self) -> FlowProgress:
        """Say how many of its jobs have ended; see ``progress``."""
        return await hop(self.progress)

    def cancel(self) -> None:
        """Cancel its jobs and callbacks: those that wait end at once, those that run are asked to stop. *Blocking.*"""
        engine = self._app.client.engine
        engine.transition(Action.CANCEL, facts_of(self._row()).callbacks)  # first, or the jobs' ends would free them
        cursor: str | None = None
        while True:
            members, cursor = engine.members(self._join, cursor, CHUNK)
            engine.transition(Action.CANCEL, [one.id for one in members if one.end is None])
            if cursor is None:
                return

    async def acancel(self) -> None:
        """Cancel its jobs and callbacks; see ``cancel``."""
        await hop(self.cancel)

    def _cancel_for(self, error: BaseException) -> None:
        """Cancel the batch for an error in its block, which is not to be hidden by another one."""
        try:
            self.cancel()
        except (EngineError, TransitionRefused) as trouble:
            error.add_note(f"{self!r} could not be cancelled, app.batch(id={self.id!r}).cancel() does it: {trouble}")

    @property
    def _join(self) -> str:
        return batch_join(self.id)

    def _row(self) -> JoinRow:
        (row,) = self._app.client.engine.joins([self._join])
        if row is None:
            raise TransitionRefused(
                f"there is no batch {self.id!r}: it never was, or it ended longer ago than keep_done; check the id"
            )
        return row


def batch_join(batch: str) -> str:
    """The join of the jobs of a batch."""
    return f"batch:{batch}"


def facts_of(row: JoinRow) -> Facts:
    """What a join says of its batch; nothing where nobody can read it."""
    return read_facts(row, Facts)


def info_of(row: JoinRow) -> BatchInfo:
    """What people see of a batch."""
    facts = facts_of(row)
    return BatchInfo(
        id=row.id.removeprefix(batch_join("")),
        name=facts.name,
        sealed=row.tally.sealed,
        progress=FlowProgress.of(row.tally),
        created_at=from_ms(row.made_at),
        moved_at=from_ms(row.moved_at),
        ended_at=None if row.ended_at is None else from_ms(row.ended_at),
        callbacks=facts.callbacks,
        parent=(row.home or "").removeprefix(batch_join("")),
    )


def list_batches(app: Enqueuer, limit: int, cursor: str | None) -> Page[BatchInfo]:
    """A page of the batches; see ``app.batches``."""
    rows, following = app.client.engine.list_joins(batch_join(""), cursor, limit)
    return Page(tuple(map(info_of, rows)), following)
