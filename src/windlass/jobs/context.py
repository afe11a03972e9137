"""What a running job knows of itself, and the few things it may ask of its worker.

One context is built per run, so building it is cheap and everything else is lazy. It talks to the run through the
``Run`` protocol only; it must not know the worker. Invariants: every write carries the fence of the claim; progress
never blocks; after ``transaction()`` has settled the attempt nothing the function does can undo it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Concatenate, Final, Literal, ParamSpec, Protocol, TypeVar, cast, overload

import msgspec

from windlass.core.clock import from_ms
from windlass.core.codec import encode_result
from windlass.core.current import RUNNING
from windlass.core.errors import ConfigError, JobCancelled, LeaseLost, NotInJob
from windlass.core.meta import StepFacts, decode_meta
from windlass.core.model import GuardKind, State, Write
from windlass.core.spelling import spelled
from windlass.core.work import PROGRESS, Kind, Lease, Outcome, Settled
from windlass.engines.base import Tx
from windlass.jobs.call import Call, Composition, check_call
from windlass.jobs.commits import open_transaction
from windlass.jobs.results import After, Step, When
from windlass.jobs.steps import StepRun, Steps
from windlass.jobs.transactions import AsyncTx, Transaction

__all__ = ["CURRENT", "JobContext", "JobLog", "Run", "current_job"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

PROGRESS_EVERY_MS: Final = 500  # two writes a second are enough for an eye
MESSAGE_MAX: Final = 1_000  # characters of a progress message that are kept

OPENING: Final = threading.Lock()  # of the steps of a run: it may have threads of its own

logger = logging.getLogger("windlass.job")


class Run(StepRun, Protocol):
    """What a worker offers the context of one run."""

    @property
    def keep_ms(self) -> int | None:
        """How long the finished record stays; None: the engine's setting."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether the worker is shutting down."""
        ...

    def hide(self, text: str) -> str:
        """Mask what the job redacts."""
        ...

    def around_enqueue(self, calls: Sequence[Call[object]]) -> AbstractContextManager[object]:
        """Enter the enqueue middleware of these calls."""
        ...

    def workflow(self, facts: StepFacts) -> Growing:
        """Give the workflow that the run is a step of."""
        ...

    def note(self, key: str, value: str | None) -> None:
        """Queue a note of the job; must not block."""
        ...

    def note_moved(self) -> None:
        """Take note that the job has made progress. Every note says so too."""
        ...

    def note_settling(self) -> None:
        """Take note that a transaction is about to settle this attempt: its claim may go before it is known why."""
        ...

    def note_settled(self, settled: bool) -> None:
        """Take note whether the transaction has: then there is nothing left to settle."""
        ...


class Growing(Protocol):
    """The workflow of a running step, as far as it may be added to; see ``flow.inside``."""

    id: str
    step: str

    def add(
        self,
        call: Call[R],
        *,
        name: str | None = None,
        after: After = (),
        when: When = "succeeded",
        before: str | tuple[str, ...] = (),
    ) -> Step[R]: ...

    async def aadd(
        self,
        call: Call[R],
        *,
        name: str | None = None,
        after: After = (),
        when: When = "succeeded",
        before: str | tuple[str, ...] = (),
    ) -> Step[R]: ...

    def write(self) -> Write | None: ...


class JobLog(logging.LoggerAdapter[logging.Logger]):
    """The logger of one run: adds ``job_id``, ``job_name`` and ``attempt`` to every record."""


@spelled
class JobContext:
    """The running job: who it is, which attempt this is, and what it may ask for.

    ``result`` is for middleware: set behind the ``yield``, it replaces what the job returned.
    """

    __slots__ = (
        "_follow_ups",
        "_lease",
        "_log",
        "_pending",
        "_reported_at",
        "_run",
        "_settled",
        "_steps",
        "_transacting",
        "_workflow",
        "result",
    )

    def __init__(self, lease: Lease, run: Run) -> None:
        self._lease = lease
        self._run = run
        self.result: object = None
        self._follow_ups: tuple[Write, ...] = ()
        self._log: JobLog | None = None
        self._steps: Steps | None = None
        self._pending: str | None = None
        self._reported_at: int | None = None
        self._transacting = False
        self._settled = False
        self._workflow: Growing | None = None

    def __repr__(self) -> str:
        return f"<JobContext {self.name} {self.id} attempt {self.attempt}>"

    @property
    def id(self) -> str:
        """The job's id."""
        return self._lease.id

    @property
    def name(self) -> str:
        """The name the job was enqueued under."""
        return self._lease.name

    def _hide(self, text: str) -> str:
        return self._run.hide(text)

    @property
    def queue(self) -> str:
        """The queue it was claimed from."""
        return self._lease.queue

    @property
    def attempt(self) -> int:
        """The number of this run; 1 is the first."""
        return self._lease.attempt

    @property
    def max_attempts(self) -> int:
        """How many runs the job has in all."""
        return self._lease.max_attempts

    @property
    def enqueued_at(self) -> datetime:
        """When the job was stored (UTC)."""
        return from_ms(self._lease.enqueued_at)

    @property
    def scheduled_for(self) -> datetime:
        """When this run was due (UTC); not when it began."""
        return from_ms(self._lease.run_at)

    @property
    def tags(self) -> tuple[str, ...]:
        """The job's tags."""
        return self._lease.tags

    @property
    def batches(self) -> tuple[str, ...]:
        """The ids of the batches that the job was added to, the innermost first: ``app.batch(id=ctx.batches[0])``."""
        return decode_meta(self._lease.meta).batches

    @property
    def step_facts(self) -> StepFacts | None:
        """What the job is in its workflow; None: it is no step."""
        return decode_meta(self._lease.meta).step

    @property
    def workflow(self) -> Growing:
        """The workflow that this job is a step of, to add steps to it. Raises ConfigError when it is in none."""
        if self._workflow is None:
            facts = self.step_facts
            if facts is None:
                raise ConfigError(f"ctx.workflow in job {self.id}: the job is no step of a workflow")
            self._workflow = self._run.workflow(facts)
        return self._workflow

    @property
    def fence(self) -> int:
        """A number that grows with every claim of the job: a sink that remembers the highest can refuse late writes."""
        return self._lease.fence

    @property
    def idempotency_key(self) -> str:
        """A key that is the same in every run of this job, to hand to a service that drops repeats.

        It is the job's Once key where it has one, so that two jobs for one payment carry the same; else the job's id.
        """
        return next((guard.key for guard in self._lease.guards if guard.kind is GuardKind.ONCE), self._lease.id)

    @property
    def stopping(self) -> bool:
        """Whether the worker is shutting down; a long job should end soon."""
        return self._run.stopping

    @property
    def cancelled(self) -> bool:
        """Whether a cancel of this job was requested."""
        return self._run.cancelled

    @property
    def log(self) -> JobLog:
        """The logger ``windlass.job`` with this run's id, name and attempt."""
        logger.disabled = False  # by ``logging.config``, which does that to every logger it is not told of
        if self._log is None:
            self._log = JobLog(logger, {"job_id": self.id, "job_name": self.name, "attempt": self.attempt})
        return self._log

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report how far the job is; seen in ``JobInfo.progress``. Never blocks.

        Written at most twice a second, the last value always. Raises JobCancelled when a cancel was requested, and
        ConfigError for numbers that are not finite or beyond 2**53.
        """
        self._check_cancelled()
        for what, value in (("done", done), ("total", total)):
            # Beyond 2**53 a number is not exact in every reader of JSON; NaN compares false.
            if value is not None and not (isinstance(value, int | float) and abs(value) <= 2**53):
                raise ConfigError(f"progress({what}={value!r}) of job {self.id}: give a finite number below 2**53")
        if message is not None:
            message = self._run.hide(str(message))[:MESSAGE_MAX].encode("utf-8", "replace").decode()
        text = msgspec.json.encode({"done": done, "total": total, "message": message}).decode()
        now = self._run.clock.boot_ms()
        if self._reported_at is None or now - self._reported_at >= PROGRESS_EVERY_MS:
            self._reported_at, self._pending = now, None
            self._run.note(PROGRESS, text)
        else:
            self._pending = text
            self._run.note_moved()

    async def aprogress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Report how far the job is; see ``progress``."""
        self.progress(done, total, message)

    def _check_cancelled(self) -> None:
        if self._run.cancelled:
            raise JobCancelled(f"job {self.id} was cancelled while it ran", self.id)

    def flush(self) -> None:
        """Write the progress that the throttle held back. For the worker, at the end of a run."""
        if self._pending is not None:
            text, self._pending = self._pending, None
            self._run.note(PROGRESS, text)

    @overload
    def step(
        self,
        name: str,
        fn: Callable[Concatenate[Tx, ...], T],
        /,
        *args: object,
        transaction: Literal[True],
        **kwargs: object,
    ) -> T: ...
    @overload
    def step(self, name: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def step(self, name: str, fn: Callable[..., Any], /, *args: Any, transaction: Any = False, **kwargs: Any) -> object:
        """Do a part of the job once: call ``fn``, keep what it gives, and give that to every later attempt. *Blocking.*

        ``fn`` is called *at least once*: again when the run dies between its effect and the moment its value is stored,
        and never after that. With ``transaction=True`` (SQL engines) ``fn(tx, *args)`` is called inside a transaction
        of the engine's own database, and its writes and its value are one commit (*atomic*, so *exactly once*), as
        often as there are steps; as short as ``transaction()``.

        The value is stored as JSON, comes back as ``fn`` is annotated to return it, also in this attempt, and may have
        ``result_max`` bytes. A name is used once per attempt and is the same in all of them. A step that is done is
        progress: it ends the job's crash charges.

        Raises what ``fn`` raises, and the step may then be done again. LeaseLost when another worker owns the job,
        which is asked before ``fn`` is called and again with the value; StepNotKept, a PayloadError, for a value that
        would come back different or is too large, which makes the job dead, as a retry would do the step again;
        JobCancelled when a cancel was requested; EngineUnavailable when the value could not be stored. ConfigError on
        an event loop (use ``astep``), inside a transaction, for a name that was used, and for ``transaction=True`` on
        an engine that has none.
        """
        return self._open_steps(name).do(name, fn, args, kwargs, transaction)

    @overload
    async def astep(
        self,
        name: str,
        fn: Callable[Concatenate[AsyncTx, ...], Awaitable[T]],
        /,
        *args: object,
        transaction: Literal[True],
        **kwargs: object,
    ) -> T: ...
    @overload
    async def astep(
        self,
        name: str,
        fn: Callable[Concatenate[AsyncTx, ...], T],
        /,
        *args: object,
        transaction: Literal[True],
        **kwargs: object,
    ) -> T: ...
    @overload
    async def astep(self, name: str, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def astep(self, name: str, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def astep(
        self, name: str, fn: Callable[..., Any], /, *args: Any, transaction: Any = False, **kwargs: Any
    ) -> object:
        """Do a part of the job once, without blocking the event loop; see ``step``.

        ``fn`` may be a coroutine function, which runs on the loop; any other runs on a thread of its own, and goes on
        there when this coroutine is cancelled. With ``transaction=True`` it gets an AsyncTx.
        """
        return await self._open_steps(name).ado(name, fn, args, kwargs, transaction)

    def _open_steps(self, name: str) -> Steps:
        self._check_cancelled()
        if self._settled:
            raise ConfigError(f"job {self.id} is completed already: do step {name!r} before its transaction")
        with OPENING:
            if self._steps is None:
                self._steps = Steps(self._lease, self._run)
            return self._steps

    def then(self, follow_up: Call[object] | Composition) -> None:
        """Enqueue a call, a chain, a group or a workflow when this run succeeds, in the write that completes it.

        *Atomic.* Nothing is enqueued when the run fails. The enqueue middleware stands around this call, and
        JobEnqueued comes when the job is completed. A workflow whose id is there already goes on as it is. Raises
        ConfigError after ``transaction()`` has completed the job, and for a call that goes into a transaction.
        """
        where = f"ctx.then() in job {self.id}"
        if self._settled:
            raise ConfigError(f"job {self.id} is completed already: call then() before the transaction's block ends")
        if isinstance(follow_up, Composition):
            calls, joins = follow_up.composed(self._run.settings)
        else:
            check_call(follow_up, where)
            calls, joins = [follow_up], ()
        if any(call.connection is not None for call in calls):
            raise ConfigError(f"{where}: {follow_up!r} has a connection=, and is stored when the job is completed")
        with self._run.around_enqueue(calls):
            jobs = tuple(call.new for call in calls)
            if joins or not self._follow_ups or self._follow_ups[-1].joins:
                self._follow_ups += (Write(jobs, joins=tuple(joins)),)
            else:
                self._follow_ups = (*self._follow_ups[:-1], Write((*self._follow_ups[-1].jobs, *jobs)))

    @property
    def follow_ups(self) -> tuple[Write, ...]:
        """What is stored when the run succeeds: what ``then`` and ``workflow.add`` collected. For the worker."""
        more = None if self._workflow is None else self._workflow.write()
        return self._follow_ups if more is None else (*self._follow_ups, more)

    def ensure_owner(self) -> None:
        """Ask the engine whether this run still owns the job. *Blocking.* Raises LeaseLost when it does not."""
        row = self._run.engine.job(self.id)
        if row is None or row.fence != self.fence or row.state is not State.RUNNING:
            raise LeaseLost(
                f"job {self.id} is not owned by this run (fence {self.fence}) any more; stop without writing"
            )

    async def aensure_owner(self) -> None:
        """Ask the engine whether this run still owns the job; see ``ensure_owner``."""
        import asyncio  # late: a sync worker need not load it

        await asyncio.to_thread(self.ensure_owner)

    def transaction(self) -> Transaction:
        """Commit your writes and this job's completion together at the end of the block. *Atomic, fenced, blocking.*

        ``with ctx.transaction() as tx``, or in a coroutine ``async with``, which leaves the event loop free and has
        ``await tx.aexecute(...)``. Once per attempt, on SQL engines, in the engine's own database. What is assigned to
        ``tx.result`` is the job's result. An error in the block, or a cancel, rolls everything back.

        Raises ConfigError on an engine without transactions and for a second one, LeaseLost (and rolls back) when
        another worker owns the job, PayloadError for a result that cannot be stored. Where a transaction holds the
        store's only writer (SQLite), it must end within half of ``renew``, since no lease can be renewed meanwhile:
        TransactionTooLong (and rolls back) when it did not.
        """
        return Transaction(self._transaction)

    @contextmanager
    def _transaction(self) -> Iterator[Tx]:
        what = f"ctx.transaction() in job {self.id}"
        if self._transacting or self._settled:
            raise ConfigError(f"{what}: one per attempt, and it was opened before")
        self._transacting = True
        try:
            with open_transaction(self._run, what) as (tx, store):
                yield tx
                self._run.note_settling()
                if store.settle_within(tx, self._completion(tx)) is Settled.STALE:
                    raise LeaseLost(f"another worker owns job {self.id} now; the transaction was rolled back")
            self._settled = True
        finally:
            self._transacting = False
            self._run.note_settled(self._settled)

    def _completion(self, tx: Tx) -> Outcome:
        return Outcome(
            self.id,
            self.fence,
            Kind.DONE,
            result=encode_result(tx.result, self._run.settings.result_max),
            keep_ms=self._run.keep_ms,
            then=self.follow_ups,
        )


CURRENT: Final = cast("ContextVar[JobContext]", RUNNING)
"""The context of the run in this thread or coroutine. Set by the worker."""


def current_job() -> JobContext:
    """Give the context of the job that is running here. Raises NotInJob outside of one."""
    try:
        return CURRENT.get()
    except LookupError:
        raise NotInJob(
            "there is no running job here: current_job() works inside a job that a worker runs and in what that calls. "
            "A thread that a job starts has none of its own; hand it the context"
        ) from None
