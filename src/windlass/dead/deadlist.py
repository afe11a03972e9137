"""Dead jobs as people work with them: look, group, redrive, edit, discard, export, load, and rules of recovery.

Takes the engine (as a callable: a rule is written before a store is opened), registry and clock by argument. Must not
claim or settle. Invariants: whatever is moved or deleted is named by its death, so a job that lives again in the
meantime is left alone; a redacted argument leaves here only on request; nothing reads the whole dead list at once.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, TypeAlias, TypedDict, Unpack

from msgspec.structs import replace

from windlass.core import caps
from windlass.core.aio import hop
from windlass.core.clock import Clock, from_ms, to_ms
from windlass.core.errors import ConfigError, PayloadError, TransitionRefused, WindlassError
from windlass.core.files import open_source, replacing
from windlass.core.fingerprint import type_name
from windlass.core.ids import new_id
from windlass.core.meta import decode_meta, encode_meta
from windlass.core.model import State
from windlass.core.recovery import RecoveryRule
from windlass.core.rows import Action, JobFilter, JobRow, Moved
from windlass.core.spelling import spelled, unknown_option
from windlass.core.units import Duration, duration_ms, per_second, shown
from windlass.core.work import LeaseRef
from windlass.dead import redrive as operations
from windlass.dead.redrive import Operation
from windlass.dead.watching import Redrive, RedriveInfo, info_of
from windlass.engines.base import Store
from windlass.guards.options import Arguments
from windlass.jobs.definition import guard_plan
from windlass.jobs.info import JobInfo, Page
from windlass.jobs.reader import Reader
from windlass.jobs.redaction import MASK
from windlass.jobs.registry import Registry

__all__ = ["DeadFilters", "DeadGroup", "DeadList"]

BATCH: Final = 500  # jobs per write: some 10 ms of the store
PAGE_MAX: Final = 1_000
IDS_MAX: Final = 1_000  # ids that an operation carries; more of them are one group, or a filter
LINES: Final = 100  # that are read ahead for a coroutine, each up to the caps of payload and errors
GROUPS_MAX: Final = 1_000

Progress: TypeAlias = Callable[[int, int], object]
"""Called with how many are done, and of how many."""
Which: TypeAlias = "str | Sequence[str] | DeadGroup | None"
"""One id, some ids, or a group as ``groups`` gave it."""
Groups: TypeAlias = "list[DeadGroup]"
Redrives: TypeAlias = "list[Redrive]"


class DeadFilters(TypedDict, total=False):
    """Which dead jobs. ``before`` and ``after`` are about the death: aware datetimes, or how long ago."""

    group: str | DeadGroup
    name: str
    queue: str
    error: str | type[BaseException]
    tag: str
    before: datetime | timedelta | int | float | str
    after: datetime | timedelta | int | float | str


@dataclass(frozen=True, slots=True)
class DeadGroup:
    """The dead jobs that died of the same thing, at one moment.

    ``error`` is the exception's dotted name, ``frame`` the function of the application it came from, ``names`` those of
    their jobs, ``sample`` the one that died last.
    """

    fingerprint: str
    error: str | None
    frame: str | None
    names: tuple[str, ...]
    count: int
    first_seen: datetime
    last_seen: datetime
    sample: JobInfo | None

    @property
    def message(self) -> str:
        """What the sample died of, in its own words."""
        if self.sample is None:
            return ""
        return self.sample.errors[-1].message if self.sample.errors else self.sample.reason or ""


@spelled
class DeadList:
    """The dead jobs of an application. *Blocking, thread-safe*; the ``a`` twins do not block the event loop."""

    def __init__(
        self, engine: Callable[[], Store], registry: Registry, clock: Clock, payload_max: int = caps.VALUE_SIZE
    ) -> None:
        """``payload_max`` bounds what is loaded, as it bounds what is enqueued."""
        self._payload_max = payload_max
        self._engine = engine
        self._registry = registry
        self._clock = clock

    def __repr__(self) -> str:
        return "<DeadList>"

    # -- looking ---------------------------------------------------------------------------------------

    def list(
        self,
        ids: Which = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        **filters: Unpack[DeadFilters],
    ) -> Page[JobInfo]:
        """Give a page of dead jobs, those stored last first. ``cursor`` is the ``next`` of the page before.

        Raises ConfigError.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= PAGE_MAX:
            raise ConfigError(f"dead.list(limit={shown(limit)}): a page has 1 to {PAGE_MAX} jobs")
        engine, reader = self._open()
        rows, following = engine.jobs(self._where("list", ids, filters), cursor, limit)
        return Page(tuple(reader.describe(row) for row in rows), following)

    async def alist(
        self,
        ids: Which = None,
        *,
        limit: int = 100,
        cursor: str | None = None,
        **filters: Unpack[DeadFilters],
    ) -> Page[JobInfo]:
        """Give a page of dead jobs; see ``list``."""
        return await hop(lambda: self.list(ids, limit=limit, cursor=cursor, **filters))

    def count(self, ids: Which = None, **filters: Unpack[DeadFilters]) -> int:
        """Count dead jobs. Raises ConfigError."""
        return self._engine().count(self._where("count", ids, filters))

    async def acount(self, ids: Which = None, **filters: Unpack[DeadFilters]) -> int:
        """Count dead jobs; see ``count``."""
        return await hop(lambda: self.count(ids, **filters))

    def groups(self, *, limit: int = 100, **filters: Unpack[DeadFilters]) -> Groups:
        """Give the dead jobs by what they died of, the largest group first; counted anew at each call.

        Jobs are in one group when the exception's class, the application's function that it came from and the class of
        its cause are the same. Raises ConfigError.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= GROUPS_MAX:
            raise ConfigError(f"dead.groups(limit={shown(limit)}): give 1 to {GROUPS_MAX}")
        engine, reader = self._open()
        found = engine.groups(self._where("groups", None, filters), limit)
        wanted = JobFilter(ids=tuple(row.sample for row in found))
        samples = {row.id: reader.describe(row) for row in engine.jobs(wanted, None, max(1, len(found)))[0]}
        return [
            DeadGroup(
                fingerprint=row.fingerprint,
                error=row.error_type,
                frame=row.frame or None,
                names=row.names,
                count=row.count,
                first_seen=from_ms(row.first_seen),
                last_seen=from_ms(row.last_seen),
                sample=samples.get(row.sample),
            )
            for row in found
        ]

    async def agroups(self, *, limit: int = 100, **filters: Unpack[DeadFilters]) -> Groups:
        """Give the dead jobs by what they died of; see ``groups``."""
        return await hop(lambda: self.groups(limit=limit, **filters))

    # -- running again ---------------------------------------------------------------------------------

    def retry(
        self,
        ids: Which = None,
        *,
        rate: str | float | None = None,
        limit: int | None = None,
        on_progress: Progress | None = None,
        **filters: Unpack[DeadFilters],
    ) -> Redrive:
        """Run dead jobs again, with a fresh budget: these ids, a group, what the filters find, or all of them.

        A group is every dead job of its fingerprint, as they are now: none when all have left it since ``groups``.

        Without ``rate`` they are moved at once, in batches, before this returns. With it, such as ``"5/s"``, an
        operation is stored that the workers do: it survives restarts and can be watched and stopped through what is
        given back. Each death is moved once (*idempotent*), at most ``limit`` of them. Raises ConfigError.
        """
        where = self._where("retry", ids, filters)
        if limit is not None and (
            isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit < caps.NUMBER
        ):
            raise ConfigError(f"dead.retry(limit={shown(limit)}): limit must be 1 or more, or None for all")
        engine = self._engine()
        total = engine.count(where)
        total = total if limit is None else min(total, limit)
        started = self._clock.wall_ms()
        if rate is None:
            done = 0
            for deaths in self._deaths(engine, where, limit):
                done += applied(engine.transition(Action.RETRY, deaths))
                if on_progress is not None:
                    on_progress(done, total)
            info = RedriveInfo(new_id(), total, done, operations.DONE, None, from_ms(started))
            return Redrive(info, self._engine)
        each_second = per_second(rate, "dead.retry: rate")
        if each_second > operations.RATE_MAX:
            raise ConfigError(
                f"dead.retry(rate={rate!r}): that is more than {operations.RATE_MAX:g} a second; leave rate out to "
                "move them at once"
            )
        if where.ids is not None and len(where.ids) > IDS_MAX:
            raise ConfigError(
                f"dead.retry: {len(where.ids):,} ids with a rate; give up to {IDS_MAX:,}, or a group or filters"
            )
        operation = Operation(new_id(), where, total, each_second, started, limit)
        if operations.save(engine, operation, 0) is None:
            raise WindlassError(f"redrive {operation.id} could not be stored: its id is taken; call again")
        return Redrive(info_of(operation), self._engine)

    async def aretry(
        self,
        ids: Which = None,
        *,
        rate: str | float | None = None,
        limit: int | None = None,
        on_progress: Progress | None = None,
        **filters: Unpack[DeadFilters],
    ) -> Redrive:
        """Run dead jobs again; see ``retry``. ``on_progress`` is called on the event loop."""
        told = on_this_loop(on_progress)
        return await hop(lambda: self.retry(ids, rate=rate, limit=limit, on_progress=told, **filters))

    def redrives(self) -> Redrives:
        """Give the redrives with a rate that run, and those that ended within a day, oldest first."""
        engine = self._engine()
        found = operations.find(engine, engine.keys(operations.PREFIX))
        return [Redrive(info_of(operation), self._engine) for _, operation in found]

    async def aredrives(self) -> Redrives:
        """Give the redrives with a rate; see ``redrives``."""
        return await hop(self.redrives)

    def recover(
        self,
        on: type[BaseException] | str | Sequence[type[BaseException] | str],
        after: Duration = "1h",
        attempts: int = 3,
    ) -> None:
        """Let workers bring dead jobs back that died of these exceptions or a subclass, ``after`` their death.

        A job comes back ``attempts`` times and then stays dead; when a person runs it again, it has them anew. Any
        worker does it, at every upkeep, up to 100 jobs a rule. Call it while the application's module is imported.
        Raises ConfigError.
        """
        options = {"on": on, "after": after, "attempts": attempts}
        self._registry.recoveries.append(RecoveryRule.of(options, "dead.recover"))

    # -- editing ---------------------------------------------------------------------------------------

    def edit(
        self,
        job_id: str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        *,
        retry: bool = False,
    ) -> JobInfo:
        """Replace the arguments of a dead job, checked as at enqueue; it stays dead unless ``retry``. *Atomic.*

        ``args`` replaces all positional ones, ``kwargs`` all named ones; None leaves them. Keys of guards that came
        from the arguments follow them. A step that takes the result of another job is given both, and takes it no more.
        Raises TransitionRefused for a job that is not dead, PayloadError for arguments that do not fit, ConfigError for
        a job this application does not have.
        """
        if isinstance(args, str | bytes):
            raise ConfigError(f"dead.edit({job_id!r}): args is text; give a list of arguments")
        engine, reader = self._open()
        row = engine.job(job_id)
        if row is None or row.state is not State.DEAD:
            raise _refused("edit", job_id, row)
        spec = self._registry.get(row.name)
        facts = decode_meta(row.meta)
        if facts.refs and (args is None or kwargs is None):
            raise PayloadError(
                f"dead.edit({job_id!r}): one of them is the result of job {facts.refs[0].job}; give both args= "
                "and kwargs= to put others in the place of all"
            )
        before: Arguments | None = None
        try:
            old_args, old_kwargs = spec.signature.decode(row.payload)
            before = (tuple(old_args), old_kwargs)
        except PayloadError as error:
            if args is None or kwargs is None:
                raise PayloadError(f"{error}; give both args= and kwargs= to replace them") from error
        if before is not None:
            args, kwargs = before[0] if args is None else args, before[1] if kwargs is None else kwargs
        args, kwargs = tuple(args or ()), kwargs or {}
        if MASK in args or MASK in kwargs.values():
            raise PayloadError(
                f"dead.edit({job_id!r}): an argument is {MASK}, which stands for a redacted value; give the real one"
            )
        payload = spec.signature.encode(args, kwargs)
        plan, guards, unique = guard_plan(spec), row.guards, row.unique
        if plan is not None:
            guards, unique = plan.moved(guards, unique, before, spec.signature.as_run(args, kwargs, payload))
        changed = replace(row, payload=payload.encode(), guards=guards, unique=unique)
        if facts.refs:
            meta = encode_meta(replace(facts, refs=()))
            changed = replace(changed, meta=None if meta is None else meta.encode())
        if not engine.put_dead([changed], over=True)[0] or (
            retry and not applied(engine.transition(Action.RETRY, [LeaseRef(row.id, row.fence)]))
        ):
            raise _refused("edit", job_id, engine.job(job_id))
        return reader.info(job_id) or reader.describe(row)

    async def aedit(
        self,
        job_id: str,
        args: Sequence[object] | None = None,
        kwargs: Mapping[str, object] | None = None,
        *,
        retry: bool = False,
    ) -> JobInfo:
        """Replace the arguments of a dead job; see ``edit``."""
        return await hop(lambda: self.edit(job_id, args, kwargs, retry=retry))

    # -- removing --------------------------------------------------------------------------------------

    def discard(
        self,
        ids: Which = None,
        *,
        on_progress: Progress | None = None,
        **filters: Unpack[DeadFilters],
    ) -> int:
        """Delete dead jobs for good and give how many: these ids, a group, or what the filters find.

        A group is every dead job of its fingerprint, as they are now; 0 when all have left it since ``groups``.
        Raises ConfigError, also when nothing is said about which.
        """
        if ids is None and all(value is None for value in filters.values()):
            raise ConfigError(
                "dead.discard() would delete every dead job; say which, or write dead.discard(before=0) to mean all"
            )
        where = self._where("discard", ids, filters)
        engine = self._engine()
        total, gone = engine.count(where), 0
        for deaths in self._deaths(engine, where, None):
            gone += applied(engine.transition(Action.DISCARD, deaths))
            if on_progress is not None:
                on_progress(gone, total)
        return gone

    async def adiscard(
        self,
        ids: Which = None,
        *,
        on_progress: Progress | None = None,
        **filters: Unpack[DeadFilters],
    ) -> int:
        """Delete dead jobs for good; see ``discard``. ``on_progress`` is called on the event loop."""
        told = on_this_loop(on_progress)
        return await hop(lambda: self.discard(ids, on_progress=told, **filters))

    # -- files -----------------------------------------------------------------------------------------

    def lines(self, ids: Which = None, *, reveal: bool = False, **filters: Unpack[DeadFilters]) -> Iterator[bytes]:
        """Give dead jobs as lines of JSON, one by one, in constant memory. ``reveal`` shows redacted arguments."""
        from windlass.dead.lines import to_line  # late: few programs export

        where = self._where("lines", ids, filters)
        engine, reader = self._open()
        return (
            to_line(*((row, ()) if reveal else reader.veil(row)))
            for rows in _pages(engine, where, None, size=100)
            for row in rows
        )

    async def alines(
        self, ids: Which = None, *, reveal: bool = False, **filters: Unpack[DeadFilters]
    ) -> AsyncIterator[bytes]:
        """Give dead jobs as lines of JSON without blocking the event loop; see ``lines``."""
        lines = await hop(lambda: self.lines(ids, reveal=reveal, **filters))
        while some := await hop(lambda: tuple(islice(lines, LINES))):
            for line in some:
                yield line

    def export(
        self,
        path: str | os.PathLike[str],
        ids: Which = None,
        *,
        reveal: bool = False,
        on_progress: Progress | None = None,
        **filters: Unpack[DeadFilters],
    ) -> int:
        """Write dead jobs to a file as lines of JSON and give how many; they stay in the store.

        The file appears whole or not at all and is readable for its owner only; it takes the place of a regular file,
        and of nothing else. A path such as ``/dev/stdout`` is written to as it is. Redacted arguments are hidden unless
        ``reveal``, and a line with a hidden one cannot be loaded. Raises ConfigError, FileRefused, OSError.
        """
        total = self.count(ids, **filters) if on_progress is not None else 0
        lines = self.lines(ids, reveal=reveal, **filters)
        count = 0
        with replacing(os.fspath(path)) as file:
            for line in lines:
                file.write(line)
                count += 1
                if on_progress is not None and count % BATCH == 0:
                    on_progress(count, total)
        if on_progress is not None:
            on_progress(count, total)
        return count

    async def aexport(
        self,
        path: str | os.PathLike[str],
        ids: Which = None,
        *,
        reveal: bool = False,
        on_progress: Progress | None = None,
        **filters: Unpack[DeadFilters],
    ) -> int:
        """Write dead jobs to a file; see ``export``. ``on_progress`` is called on the event loop."""
        told = on_this_loop(on_progress)
        return await hop(lambda: self.export(path, ids, reveal=reveal, on_progress=told, **filters))

    def load(self, path: str | os.PathLike[str], *, on_progress: Progress | None = None) -> int:
        """Put the dead jobs of a file back under their ids and give how many; those that have a record are left alone.

        The whole file is checked first, and its jobs are held to the bounds of those that are enqueued. Raises
        PayloadError with the number of a line that is not a dead job, is out of bounds or whose arguments were hidden,
        and then nothing was stored; OSError.
        """
        total = sum(1 for _ in _rows(path, self._payload_max))
        engine = self._engine()
        rows = _rows(path, self._payload_max)
        stored = seen = 0
        while batch := tuple(islice(rows, BATCH)):
            stored += sum(engine.put_dead(batch))
            seen += len(batch)
            if on_progress is not None:
                on_progress(seen, total)
        return stored

    async def aload(self, path: str | os.PathLike[str], *, on_progress: Progress | None = None) -> int:
        """Put the dead jobs of a file back; see ``load``. ``on_progress`` is called on the event loop."""
        told = on_this_loop(on_progress)
        return await hop(lambda: self.load(path, on_progress=told))

    # -- within ----------------------------------------------------------------------------------------

    def _open(self) -> tuple[Store, Reader]:
        engine = self._engine()
        return engine, Reader(engine, self._registry)

    def _deaths(self, engine: Store, where: JobFilter, limit: int | None) -> Iterator[tuple[LeaseRef, ...]]:
        for rows in _pages(engine, where, limit, size=BATCH):
            yield tuple(LeaseRef(row.id, row.fence) for row in rows)

    def _where(self, method: str, ids: Which, filters: DeadFilters) -> JobFilter:
        for word in filters:
            if word not in DeadFilters.__annotations__:
                own = getattr(DeadList, method).__kwdefaults__ or {}
                raise unknown_option(f"dead.{method}()", word, ["ids", *own, *DeadFilters.__annotations__])
        if isinstance(ids, DeadGroup):
            if filters.get("group") is not None:
                raise ConfigError(f"dead.{method}: a group is given twice; leave one of them out")
            filters = {**filters, "group": ids}
            ids = None
        group, error = filters.get("group"), filters.get("error")
        if group is not None and not isinstance(group, str | DeadGroup):
            raise ConfigError(
                f"dead.{method}: group is {group!r}; give a group of app.dead.groups(), or its fingerprint as text"
            )
        before, after = filters.get("before"), filters.get("after")
        return JobFilter(
            state=State.DEAD,
            name=filters.get("name"),
            queue=filters.get("queue"),
            tag=filters.get("tag"),
            ended_before=None if before is None else self._instant(before, f"dead.{method}: before"),
            ended_after=None if after is None else self._instant(after, f"dead.{method}: after"),
            group=group.fingerprint if isinstance(group, DeadGroup) else group,
            error=type_name(error) if isinstance(error, type) else error,
            ids=None if ids is None else (ids,) if isinstance(ids, str) else _ids(method, ids),
        )

    def _instant(self, when: datetime | timedelta | int | float | str, name: str) -> int:
        if not isinstance(when, datetime):
            return self._clock.wall_ms() - duration_ms(when, name)
        if when.utcoffset() is None:
            raise ConfigError(f"{name} is {when!r}, which has no time zone; give it one, such as tzinfo=UTC")
        return to_ms(when)


def _ids(method: str, given: object) -> tuple[str, ...]:
    """Check a list of ids, each once."""
    ids: dict[str, None] = {}
    for each in given if isinstance(given, Iterable) and not isinstance(given, bytes) else (given,):
        if not isinstance(each, str):
            hint = "one group at a time" if isinstance(each, DeadGroup) else "write job.id"
            raise ConfigError(f"dead.{method}: {each!r} is no id; give ids as text, or a group; {hint}")
        ids[each] = None
    return tuple(ids)


def on_this_loop(on_progress: Progress | None) -> Progress | None:
    """Have a function that other threads call run on the event loop that runs here."""
    if on_progress is None:
        return None
    import asyncio  # late: sync programs need not load it

    loop, fn = asyncio.get_running_loop(), on_progress
    return lambda done, total: loop.call_soon_threadsafe(fn, done, total)


def applied(moved: Sequence[Moved]) -> int:
    """How many jobs were moved."""
    return sum(one.applied for one in moved)


def _pages(engine: Store, where: JobFilter, limit: int | None, *, size: int) -> Iterator[Sequence[JobRow]]:
    """Walk a listing by key, so that what is moved or dies meanwhile shifts nothing."""
    cursor: str | None = None
    left = limit
    while left is None or left > 0:
        rows, cursor = engine.jobs(where, cursor, size if left is None else min(size, left))
        if rows:
            yield rows
        if left is not None:
            left -= len(rows)
        if cursor is None:
            return


def _rows(path: str | os.PathLike[str], payload_max: int) -> Iterator[JobRow]:
    from windlass.dead.lines import from_line

    with open_source(os.fspath(path)) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield from_line(line, f"{os.fspath(path)} line {number}", payload_max)


def _refused(what: str, job_id: str, row: JobRow | None) -> TransitionRefused:
    if row is None:
        return TransitionRefused(f"cannot {what} job {job_id}: no record of it is kept")
    return TransitionRefused(f"cannot {what} job {job_id}: it is {row.state}; only a dead job can be edited")
