"""Steps: parts of a job that are not done again once they are done, although the job may run again.

What a step gives is kept as the durable note ``step:NAME`` of its job. A later attempt finds it there and does not call
the step's function. A run that dies between the effect of the function and its note does the step again, unless both
are one commit (``transaction=True``).

Must not know the context of a job or a worker. Invariants: a function is called only by a run that has just proved that
it owns its job; what a step gives is what a later attempt would get; what is in the notebook is in the store; no event
loop waits here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from inspect import isawaitable, iscoroutinefunction
from types import CoroutineType
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from windlass.core import caps
from windlass.core.aio import own_thread, runs_loop
from windlass.core.control import StepNotKept
from windlass.core.errors import ConfigError, EngineUnavailable, EngineUnusable, LeaseLost, PayloadError
from windlass.core.ids import UNSAFE
from windlass.core.notebook import Notebook
from windlass.core.returned import Returned
from windlass.core.work import Lease, Note, Settled
from windlass.engines.base import Tx
from windlass.engines.holding import HOLDERS
from windlass.jobs.commits import Place, open_transaction
from windlass.jobs.transactions import Transaction

__all__ = ["StepRun", "Steps"]

T = TypeVar("T")
Write: TypeAlias = Callable[[Note], list[Settled]]

PREFIX: Final = "step:"  # of the keys of their notes
AWAY_PAUSE = 0.2  # seconds between two tries to write to a store that is away
NAME_MAX: Final = caps.KEY - len(PREFIX)


class StepRun(Place, Protocol):
    """What steps ask of a run."""

    @property
    def cancelled(self) -> bool:
        """Whether a cancel of this job was requested, or another worker has it."""
        ...

    def open_notebook(self) -> Notebook:
        """Give what the job has noted."""
        ...

    def note_proof(self) -> None:
        """Take note that the store has a durable note of this run, so the job has no crash charges any more."""
        ...


class Steps:
    """The steps of one run. *Thread-safe.*"""

    def __init__(self, lease: Lease, run: StepRun) -> None:
        self._lease = lease
        self._run = run
        self._names: set[str] = set()  # of those that are done or under way
        self._lock = threading.Lock()

    def do(
        self, name: str, fn: Callable[..., Any], args: tuple[object, ...], kwargs: Mapping[str, object], in_tx: bool
    ) -> object:
        """Do a step, or give what it gave. *Blocking.*"""
        if runs_loop():
            raise ConfigError(
                f"ctx.step({name!r}) in job {self._lease.id} would block the event loop; use await ctx.astep(...)"
            )
        with self._opened(name, fn) as step:
            if step.kept is not None:
                return step.returned.decode(step.kept)
            if in_tx:
                with Transaction(lambda: self._transaction(step)) as tx:
                    step.take(unawaited(step, fn(tx, *args, **kwargs)))
            else:
                step.prove(self._write)
                step.take(unawaited(step, fn(*args, **kwargs)))
                step.note(self._write_on)
            return step.done()

    async def ado(
        self, name: str, fn: Callable[..., Any], args: tuple[object, ...], kwargs: Mapping[str, object], in_tx: bool
    ) -> object:
        """Do a step, or give what it gave.

        A coroutine function runs on the loop, any other on a thread; where that gives something to be awaited, it is
        awaited on the loop.
        """
        with self._opened(name, fn) as step:
            if step.kept is not None:
                return step.returned.decode(step.kept)
            if in_tx:
                async with Transaction(lambda: self._transaction(step)) as tx:
                    value = await tx.arun(lambda: fn(tx, *args, **kwargs))
                    step.take(await value if isawaitable(value) else value)
                return step.done()

            def call() -> object:
                step.prove(self._write)
                value = fn(*args, **kwargs)
                return value if isawaitable(value) else keep(value)

            def keep(value: object) -> object:
                step.take(value)
                step.note(self._write_on)
                return step.done()

            if iscoroutinefunction(fn):
                await elsewhere(lambda: step.prove(self._write))
                value = fn(*args, **kwargs)
            else:
                value = await step.elsewhere(call)
                if not isawaitable(value):
                    return value
            value = await value
            return await step.elsewhere(lambda: keep(value))

    @contextmanager
    def _opened(self, name: str, fn: Callable[..., object]) -> Iterator[OwnStep]:
        """A step that may be done now. One that fails may be done again, unless a thread is still at it."""
        step = OwnStep(name, fn, self._lease, self._run)
        if any(holder.thread is not None for holder in HOLDERS.get()):
            raise ConfigError(
                f"{step.where} is inside a transaction, and could not be kept apart from it: do it before or after the "
                "block, or do its work in the block itself"
            )
        with self._lock:
            if name in self._names:
                raise ConfigError(
                    f"{step.where}: the name is used already in this attempt. Give each step a name of its own that is "
                    f"the same in every attempt; in a loop, number them: f{name + ':{n}'!r}"
                )
            self._names.add(name)
        try:
            yield step
        except BaseException:
            if not step.busy:
                self._names.discard(name)
            raise

    @contextmanager
    def _transaction(self, step: OwnStep) -> Iterator[Tx]:
        with open_transaction(self._run, step.where) as (tx, store):

            def write(note: Note) -> list[Settled]:
                return store.note_within(tx, [note])

            step.prove(write)
            yield tx
            step.note(write)

    def _write(self, note: Note) -> list[Settled]:
        return self._run.engine.note([note])

    def _write_on(self, note: Note) -> list[Settled]:
        """Write what a step gave, also when the store is away for a moment: its effect is there already.

        As a settle is, it is tried until nobody could have renewed the lease meanwhile.
        """
        run = self._run
        end = run.clock.boot_ms() + run.settings.lease
        while True:
            try:
                return self._write(note)
            except EngineUnusable:
                raise
            except EngineUnavailable:
                if run.cancelled or run.clock.boot_ms() >= end:
                    raise
            time.sleep(AWAY_PAUSE)


class OwnStep:
    """One step of a run on its way. Raises ConfigError for what can never be one."""

    def __init__(self, name: str, fn: Callable[..., object], lease: Lease, run: StepRun) -> None:
        self.where = f"step {name!r} of job {lease.id}"
        if not isinstance(name, str) or not 1 <= len(name) <= NAME_MAX or UNSAFE.search(name):
            raise ConfigError(
                f"{self.where[:300]}: the name of a step is text of 1 to {NAME_MAX} characters, none of them a control "
                'character, as in ctx.step("charge", gateway.charge, order)'
            )
        if not callable(fn):
            raise ConfigError(f"{self.where}: {fn!r} cannot be called; give the function, and its arguments behind it")
        self._key = PREFIX + name
        self._lease = lease
        self._run = run
        self._book = run.open_notebook()
        self.kept = self._book.get(self._key)
        if self.kept is None:
            self._book.check(self._key, "")  # while nothing is done yet
        self.returned = Returned(fn, self.where, run.settings.result_max)
        self.busy = False  # a thread is in it that nobody can stop
        self._value: object = None
        self._text = ""

    def prove(self, write: Write) -> None:
        """Have the store confirm that this run owns the job. Raises LeaseLost when it does not. *Blocking.*"""
        self._apply(write, Note(self._lease.id, self._lease.fence), "its function was not called")

    def take(self, value: object) -> None:
        """Take what the function gave. Raises StepNotKept for what cannot be kept."""
        try:
            self._value, self._text = self.returned.encode(value)
            self._book.check(self._key, self._text)
        except PayloadError as error:
            raise StepNotKept(f"{error}. The function has run, and a retry would only run it again") from error

    def note(self, write: Write) -> None:
        """Have the store keep what was taken. Raises LeaseLost when another worker owns the job. *Blocking.*"""
        note = Note(self._lease.id, self._lease.fence, self._key, self._text, durable=True)
        self._apply(write, note, "what it gave is not kept")

    def done(self) -> object:
        """Know what the store keeps; give it as a later attempt will get it."""
        self._book.put(self._key, self._text)
        self._run.note_proof()
        return self._value

    async def elsewhere(self, work: Callable[[], T]) -> T:
        """Do what cannot be stopped elsewhere, and know whether it still goes on."""

        def run() -> T:
            try:
                return work()
            finally:
                self.busy = False

        self.busy = True
        return await elsewhere(run)

    def _apply(self, write: Write, note: Note, so: str) -> None:
        if write(note) != [Settled.APPLIED]:
            raise LeaseLost(f"{self.where}: this run (fence {note.fence}) does not own the job any more; {so}")


def unawaited(step: OwnStep, value: object) -> object:
    """A value that nobody has to await. Raises ConfigError for one that somebody has to."""
    if not isawaitable(value):
        return value
    if isinstance(value, CoroutineType):
        value.close()
    raise ConfigError(f"{step.where}: its function is a coroutine function; use await ctx.astep(...)")


async def elsewhere(work: Callable[[], T]) -> T:
    """Do what blocks on a thread of its own, in this context: the loop's pool may wait for the writer, all of it."""
    context = copy_context()
    return await own_thread(lambda: context.run(work))
