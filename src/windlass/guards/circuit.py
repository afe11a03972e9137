"""Circuits: a dependency that fails is left alone, by the whole fleet, until probes of it succeed.

The state lives in the store, and each change of it is made by one process (``agreed``). A process keeps the state for
at most ``FRESH`` seconds and reports calls in batches, so a call through a closed circuit costs no round trip. A call
through one that is not closed asks the store, which admits as many probes as are needed to close it.

Must not decide what becomes of a job: it raises CircuitOpen and reports. Invariants: an outcome counts only in the
state in which its call began; what is no statement about the dependency (a cancel, a busy lock, an ignored error) is
counted neither way; when the store is away nothing goes through unguarded.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar, Token
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Final, Protocol, Self, TypeAlias, TypeVar, cast

from msgspec import Struct

from windlass.core.aio import hop
from windlass.core.circuit import CircuitDocument, CircuitPolicy, CircuitRow, Tally, opens_in
from windlass.core.clock import from_ms
from windlass.core.control import Control, RetryAfter
from windlass.core.current import hide_in_job
from windlass.core.errors import CircuitOpen, ConfigError, EngineError, GuardUnavailable, JobTimeout, WindlassError
from windlass.core.history import clean_reason
from windlass.core.spelling import spelled
from windlass.core.units import Duration, duration_ms, show_duration, shown
from windlass.core.work import LeaseRef
from windlass.engines.base import Store
from windlass.events import CircuitClosed, CircuitHalfOpened, CircuitOpened, Events
from windlass.guards import agreed
from windlass.guards.verdict import Kinds, Verdict, is_any, reason_of, retry_after_ms
from windlass.logs import Log

__all__ = ["Circuit", "CircuitInfo", "Hub", "Passed"]

F = TypeVar("F", bound=Callable[..., object])
FRESH: Final = 0.2  # seconds; with the way to the store it stays below the 250 ms that are promised
FLUSH_FAILURES: Final = 0.02  # seconds that failures are collected
FLUSH: Final = 0.5  # seconds that successes are collected

logger = Log("windlass.circuits")


@dataclass(frozen=True, slots=True)
class CircuitInfo:
    """One circuit at one moment. ``retry_in`` is when an open one may be probed, in seconds."""

    name: str
    state: str
    since: datetime | None
    retry_in: float | None
    reason: str | None
    by_hand: bool
    calls: int
    failures: int
    probes: int
    waiting: int

    @classmethod
    def of(cls, row: CircuitRow) -> CircuitInfo:
        """Turn what an engine says into what people see."""
        return cls(
            name=row.name,
            state=row.state,
            since=None if row.since is None else from_ms(row.since),
            retry_in=None if row.left_ms is None else row.left_ms / 1_000,
            reason=row.reason,
            by_hand=row.by_hand,
            calls=row.calls,
            failures=row.failures,
            probes=row.probes,
            waiting=row.waiting,
        )


class Passed(Struct, frozen=True):
    """One call on its way through a circuit. ``probe`` is its token when the circuit was not closed.

    ``leased`` is that token when it has a place to give back; the place of a job goes with its run.
    """

    epoch: int
    began: float
    probe: str | None = None
    leased: str | None = None


# A call in a ``with`` block, what restores the context behind it, and the error that was being handled before it.
Entry: TypeAlias = tuple[Passed, Token[object], BaseException | None]


class Count:
    """Calls of one epoch that are not reported yet."""

    __slots__ = ("failed", "ok", "reason", "retry_after_ms", "since")

    def __init__(self) -> None:
        self.ok = 0
        self.failed = 0
        self.retry_after_ms = 0
        self.reason: str | None = None
        self.since = time.monotonic()


class Hub(Protocol):
    """What a circuit needs of the application it belongs to."""

    engine: Callable[[], Store]
    events: Events

    def check_fork(self) -> None:
        """Start anew where this process is a fork of the one that was here before."""
        ...

    def wake(self) -> None:
        """There is something new to report."""
        ...


@spelled
class Circuit:
    """One circuit: a job option, a decorator for functions and coroutine functions, and a context manager."""

    def __init__(
        self, name: str, policy: CircuitPolicy, trip_on: Kinds, ignore: Kinds, slow_ms: int | None, hub: Hub
    ) -> None:
        self.name = name
        self.policy = policy
        self._trip_on = trip_on
        self._ignore = ignore
        self._slow = None if slow_ms is None else slow_ms / 1_000
        self._hub = hub
        self._passes: ContextVar[Entry | None] = ContextVar(f"windlass_circuit_{name}", default=None)
        self.start_anew()

    def start_anew(self) -> None:
        """Forget what a parent process knew and had not reported."""
        self._lock = threading.Lock()
        self._reporting = threading.RLock()  # who asks for the state waits for a report that is under way
        self._known: agreed.Known | None = None
        self._counts: dict[int, Count] = {}

    def __repr__(self) -> str:
        return f"<Circuit {self.name}>"

    # -- what people ask and do --

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half_open``. *Blocking*; async code asks ``ainfo``."""
        return self.info().state

    def info(self) -> CircuitInfo:
        """Give the circuit as the store has it. *Blocking.*"""
        self.flush()
        return CircuitInfo.of(agreed.see(self._engine, self.name))

    async def ainfo(self) -> CircuitInfo:
        """Give the circuit as the store has it; see ``info``."""
        return await hop(self.info)

    def open(self, for_: Duration | None = None, reason: str | None = None) -> None:
        """Let nothing through until ``close``, or for a duration and then probes. *Atomic, idempotent, blocking.*"""
        ms = None if for_ is None else duration_ms(for_, f"circuit {self.name!r}: for_")
        if ms == 0:
            raise ConfigError(f"circuit {self.name!r}: for_ is {for_!r}; it must be longer than zero")
        if reason is not None and not isinstance(reason, str):
            raise ConfigError(f"circuit {self.name!r}: reason is {shown(reason)}; give text")
        why = clean_reason(reason) or "opened by hand"
        self._tell(agreed.switch(self._engine, self.name, ms, True, why, self.policy.half_open))

    async def aopen(self, for_: Duration | None = None, reason: str | None = None) -> None:
        """Let nothing through; see ``open``."""
        await hop(lambda: self.open(for_, reason))

    def close(self) -> None:
        """Let everything through again. *Atomic, idempotent, blocking.*"""
        self._tell(agreed.switch(self._engine, self.name, None, False, None, self.policy.half_open))

    async def aclose(self) -> None:
        """Let everything through again; see ``close``."""
        await hop(self.close)

    # -- calls --

    def __enter__(self) -> Self:
        """Begin a call. Raises CircuitOpen, and GuardUnavailable when the store is away."""
        self._push(self.enter())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count the call."""
        passed, handled = self._pop()
        self.note(passed, self.judge(passed.began, error, handled=handled))

    async def __aenter__(self) -> Self:
        """Begin a call without blocking the event loop; see ``__enter__``."""
        self._push(await self.aenter())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count the call."""
        passed, handled = self._pop()
        await self.anote(passed, self.judge(passed.began, error, handled=handled))

    def __call__(self, fn: F) -> F:
        """Guard every call of a function or coroutine function."""
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def guarded(*args: object, **kwargs: object) -> object:
                async with self:
                    return await fn(*args, **kwargs)

            return cast(F, guarded)
        if not inspect.isroutine(fn):
            raise ConfigError(f"@circuit {self.name!r} decorates {fn!r}; put it on a function, below @app.job")

        @functools.wraps(fn)
        def guarded_sync(*args: object, **kwargs: object) -> object:
            with self:
                return fn(*args, **kwargs)

        return cast(F, guarded_sync)

    def _push(self, passed: Passed) -> None:
        # The token of ``set`` is kept beside the call, so that leaving restores the context to what it was.
        token = cast("Token[object]", self._passes.set(None))
        self._passes.set((passed, token, sys.exception()))

    def _pop(self) -> tuple[Passed, BaseException | None]:
        entry = self._passes.get()
        if entry is None:
            raise ConfigError(f"circuit {self.name!r} is left in another task or thread than it was entered in")
        self._passes.reset(cast("Token[Entry | None]", entry[1]))
        return entry[0], entry[2]

    def enter(self, job: LeaseRef | None = None) -> Passed:
        """Begin a call, of anybody or of a running job that has this circuit; end it with ``leave``. *Blocking.*"""
        passed = self._pass_closed()
        if passed is not None:
            return passed
        token = os.urandom(8).hex()
        try:
            # A claim has let the job through: it asks, also where a moment ago the circuit was open.
            known = self._fresh() if job is None else None
            answer = agreed.admit(self._engine, self.name, token, job, known)
        except EngineError as error:
            raise GuardUnavailable(
                f"circuit {self.name!r} could not ask its store, so the call was not made: {error}"
            ) from error
        self._tell(answer.change)
        it = agreed.standing(self._engine, answer.change.known)
        if not answer.is_admitted:
            raise self._refusal(it)
        return Passed(it.epoch, time.monotonic(), token if it.state == "half_open" else None, answer.leased)

    async def aenter(self, job: LeaseRef | None = None) -> Passed:
        """Begin a call without blocking the event loop; see ``enter``."""
        passed = self._pass_closed()
        return passed if passed is not None else await hop(lambda: self.enter(job))

    def leave(self, passed: Passed, error: BaseException | None, timed_out: bool = False) -> None:
        """Count a call by how it ended. A probe is reported at once, others soon."""
        self.note(passed, self.judge(passed.began, error, timed_out))

    def note(self, passed: Passed, verdict: Verdict) -> None:
        """Count a call by what it says, which another process may have judged; see ``leave``."""
        if passed.probe is not None:
            self._report_probe(passed, verdict)
        elif verdict.ok is not None:
            self._count(passed.epoch, verdict)

    async def aleave(self, passed: Passed, error: BaseException | None, timed_out: bool = False) -> None:
        """Count a call without blocking the event loop; see ``leave``."""
        await self.anote(passed, self.judge(passed.began, error, timed_out))

    async def anote(self, passed: Passed, verdict: Verdict) -> None:
        """Count a call by what it says, without blocking the event loop; see ``note``."""
        if passed.probe is None:
            self.note(passed, verdict)
        else:
            await hop(lambda: self.note(passed, verdict))

    def _pass_closed(self) -> Passed | None:
        self._hub.check_fork()
        known = self._fresh()
        if known is None or known.document.state != "closed":
            return None
        return Passed(known.document.epoch, time.monotonic())

    def _fresh(self) -> agreed.Known | None:
        """What is known of the circuit, unless that is too old to rely on."""
        known = self._known
        return None if known is None or time.monotonic() - known.seen >= FRESH else known

    def _refusal(self, it: CircuitDocument) -> CircuitOpen:
        left_ms = opens_in(it, self._engine.times().leases) if it.state == "open" else None
        why = f" ({it.reason})" if it.reason else ""
        when = "until somebody closes it" if it.state == "open" and left_ms is None else "while it is being probed"
        if left_ms is not None:
            when = f"for {show_duration(max(1, round(left_ms)))} more"
        return CircuitOpen(
            f"circuit {self.name!r} is open {when}{why}; try again later, or let this error end the attempt",
            self.name,
            None if left_ms is None else left_ms / 1_000,
        )

    def judge(
        self,
        began: float,
        error: BaseException | None,
        timed_out: bool = False,
        handled: BaseException | None = None,
        hide: Callable[[str], str] = hide_in_job,
    ) -> Verdict:
        """Say what a call that began at ``began`` (monotonic seconds) and ended so tells. Pure.

        ``handled`` was being handled already when the call began, so nothing that the call raises was raised from it.
        ``hide`` masks what its job redacts; without it that is the job that runs here.
        """
        if timed_out:
            return Verdict(False, "timeout" if error is None else reason_of(error, hide), retry_after_ms(error))
        if error is not None:
            if not isinstance(error, Exception) or is_any(error, self._ignore):
                return Verdict(None)
            if isinstance(error, ExceptionGroup):
                return self._judge_group(began, error, handled, hide)
            if isinstance(error, Control):
                return self._judge_control(began, error, handled, hide)
            if isinstance(error, WindlassError) and not isinstance(error, JobTimeout):
                return Verdict(None)
            if isinstance(error, JobTimeout) or is_any(error, self._trip_on):
                return Verdict(False, reason_of(error, hide), retry_after_ms(error))
        slow = self._slow is not None and time.monotonic() - began >= self._slow
        return Verdict(False, reason_of(error, hide), retry_after_ms(error)) if slow else Verdict(True)

    def _judge_group(
        self, began: float, group: ExceptionGroup[Exception], handled: BaseException | None, hide: Callable[[str], str]
    ) -> Verdict:
        """A group fails where one of its errors does; where one says nothing, so do all."""
        verdicts = [self.judge(began, each, handled=handled, hide=hide) for each in group.exceptions]
        order = {False: 0, None: 1, True: 2}
        return min(verdicts, key=lambda verdict: order[verdict.ok])

    def _judge_control(
        self, began: float, error: Control, handled: BaseException | None, hide: Callable[[str], str]
    ) -> Verdict:
        """What ends a job's run is about the job; the service is judged by the error that it was raised from."""
        behind = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if behind is not None and behind is not handled:
            verdict = self.judge(began, behind, handled=handled, hide=hide)
            asked_ms = max(verdict.retry_after_ms, retry_after_ms(error)) if verdict.ok is False else 0
            return Verdict(verdict.ok, verdict.reason, asked_ms)
        if isinstance(error, RetryAfter) and is_any(error, self._trip_on):
            return Verdict(False, reason_of(error, hide), retry_after_ms(error))
        return Verdict(None)

    def _count(self, epoch: int, verdict: Verdict) -> None:
        with self._lock:
            count = self._counts.get(epoch)
            if count is None:
                count = self._counts[epoch] = Count()
            before = None if not (count.ok or count.failed) else self._patience(count)
            if verdict.ok:
                count.ok += 1
            else:
                count.failed += 1
                count.reason = verdict.reason
                count.retry_after_ms = max(count.retry_after_ms, verdict.retry_after_ms)
            news = before is None or self._patience(count) < before
        if news:
            self._hub.wake()

    def _report_probe(self, passed: Passed, verdict: Verdict) -> None:
        report = Tally(
            ok=verdict.ok is True,
            failed=verdict.ok is False,
            epoch=passed.epoch,
            probe=passed.probe,
            retry_after_ms=verdict.retry_after_ms,
            reason=verdict.reason,
        )
        try:
            self._tell(agreed.tally(self._engine, self.name, self.policy, report, self._known))
            if passed.leased is not None:
                agreed.give_back(self._engine, self.name, passed.leased)
        except EngineError as trouble:
            logger.warning("circuit %s could not report a probe; its lease will run out: %s", self.name, trouble)

    # -- reporting --

    def due_in(self) -> float | None:
        """Seconds until what was counted is to be reported; None: nothing was."""
        with self._lock:
            counts = list(self._counts.values())
        if not counts:
            return None
        now = time.monotonic()
        return min(count.since + self._patience(count) - now for count in counts)

    def _patience(self, count: Count) -> float:
        """How long calls are collected before they are reported; what opens the circuit by itself is not."""
        if self.policy.failures is not None and count.failed >= self.policy.failures:
            return 0.0
        return FLUSH_FAILURES if count.failed else FLUSH

    def flush(self, engine: Store | None = None) -> None:
        """Report what was counted. *Blocking.* Raises EngineError, and then it is kept."""
        self._hub.check_fork()
        with self._reporting:
            self._flush(engine or self._engine)

    async def aflush(self, engine: Store | None = None) -> None:
        """Report what was counted; see ``flush``."""
        await hop(lambda: self.flush(engine))

    def _flush(self, engine: Store) -> None:
        with self._lock:
            counts, self._counts = self._counts, {}
        for epoch, count in list(counts.items()):
            report = Tally(count.ok, count.failed, epoch, None, count.retry_after_ms, count.reason)
            try:
                self._tell(agreed.tally(engine, self.name, self.policy, report, self._known))
            except EngineError:
                with self._lock:
                    self._counts = {**counts, **self._counts}
                raise
            del counts[epoch]

    @property
    def _engine(self) -> Store:
        return self._hub.engine()

    def _see(self, known: agreed.Known) -> agreed.Known:
        self._known = known
        return known

    def _tell(self, change: agreed.Change) -> None:
        """Note what is known now, and report a change that we made: one process of the fleet does."""
        self._see(change.known)
        events = self._hub.events
        match change.entered:
            case "open":
                it = change.known.document
                left_ms = opens_in(it, it.since or 0)
                logger.warning("circuit %s is open: %s", self.name, it.reason or "no reason given")
                events.emit(CircuitOpened(self.name, it.reason, None if left_ms is None else left_ms / 1_000))
            case "half_open":
                logger.info("circuit %s is being probed", self.name)
                events.emit(CircuitHalfOpened(self.name))
            case "closed":
                logger.warning("circuit %s is closed again", self.name)
                events.emit(CircuitClosed(self.name))
