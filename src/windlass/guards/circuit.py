"""Circuits: a dependency that fails is left alone, by the whole fleet, until probes of it succeed.

The state lives in the store, which decides every change atomically. A process keeps the state for at most ``FRESH``
seconds and reports calls in batches, so a call through a closed circuit costs no round trip. A call through one that is
not closed asks the store, which admits as many probes as are needed to close it.

Must not decide what becomes of a job: it raises CircuitOpen and reports. Invariants: an outcome counts only in the
state in which its call began; what is no statement about the dependency (a cancel, a busy lock, an ignored error) is
counted neither way; when the store is away nothing goes through unguarded.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar, cast

from msgspec import Struct

from windlass.clock import from_ms
from windlass.engines.base import Coordinator
from windlass.errors import (
    CircuitOpen,
    ConfigError,
    EngineError,
    GuardUnavailable,
    JobTimeout,
    RetryAfter,
    WindlassError,
)
from windlass.events import CircuitClosed, CircuitHalfOpened, CircuitOpened, Events
from windlass.handle import hop
from windlass.model import CircuitPolicy, CircuitRow, LeaseRef, Tally
from windlass.units import check_name, duration_ms, format_duration, nearest

if TYPE_CHECKING:
    from windlass.definition import Duration

__all__ = ["OPTIONS", "Circuit", "CircuitInfo", "Circuits", "Passed"]

F = TypeVar("F", bound=Callable[..., object])
Kinds = tuple[type[BaseException] | str, ...]

FRESH: Final = 0.2  # seconds; with the way to the store it stays below the 250 ms that are promised
FLUSH_FAILURES: Final = 0.02  # seconds that failures are collected
FLUSH: Final = 0.5  # seconds that successes are collected
RETRY_FLUSH: Final = 1.0
IDLE: Final = 5.0  # seconds without a call until the reporting thread ends
PROBE_LEASE_MS: Final = 60_000  # how long a probe that is no job may take until it counts as vanished
RETRY_AFTER_MAX_MS: Final = 86_400_000
OPTIONS: Final = (
    "failures", "window", "open_for", "half_open", "trip_on", "ignore", "min_calls", "failure_rate", "slow_call",
)  # fmt: skip

logger = logging.getLogger("windlass.circuits")


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
    """One call on its way through a circuit. ``probe`` is its token when the circuit was not closed."""

    epoch: int
    began: float
    probe: str | None = None


class Verdict(Struct, frozen=True, array_like=True):
    """What a call says about its dependency: that it is well (True), is not (False), or nothing (None)."""

    ok: bool | None
    reason: str | None = None  # of a call that ended badly
    retry_after_ms: int = 0


class Count:
    """Calls of one epoch that are not reported yet."""

    __slots__ = ("failed", "ok", "reason", "retry_after_ms", "since")

    def __init__(self) -> None:
        self.ok = 0
        self.failed = 0
        self.retry_after_ms = 0
        self.reason: str | None = None
        self.since = time.monotonic()


class Circuit:
    """One circuit: a job option, a decorator for functions and coroutine functions, and a context manager."""

    def __init__(
        self, name: str, policy: CircuitPolicy, trip_on: Kinds, ignore: Kinds, slow_ms: int | None, hub: Circuits
    ) -> None:
        self.name = name
        self.policy = policy
        self._trip_on = trip_on
        self._ignore = ignore
        self._slow = None if slow_ms is None else slow_ms / 1_000
        self._hub = hub
        self._passes: ContextVar[tuple[Passed, Token[object]] | None] = ContextVar(
            f"windlass_circuit_{name}", default=None
        )
        self.start_anew()

    def start_anew(self) -> None:
        """Forget what a parent process knew and had not reported."""
        self._lock = threading.Lock()
        self._reporting = threading.RLock()  # who asks for the state waits for a report that is under way
        self._view: CircuitRow | None = None
        self._seen = 0.0
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
        return CircuitInfo.of(self._see(self._engine.circuit(self.name)))

    async def ainfo(self) -> CircuitInfo:
        """Give the circuit as the store has it; see ``info``."""
        return await hop(self.info)

    def open(self, for_: Duration | None = None, reason: str | None = None) -> None:
        """Let nothing through until ``close``, or for a duration and then probes. *Atomic, idempotent, blocking.*"""
        ms = None if for_ is None else duration_ms(for_, f"circuit {self.name!r}: for_")
        if ms == 0:
            raise ConfigError(f"circuit {self.name!r}: for_ is {for_!r}; it must be longer than zero")
        self._tell(self._engine.switch(self.name, ms, True, reason or "opened by hand", self.policy.half_open))

    async def aopen(self, for_: Duration | None = None, reason: str | None = None) -> None:
        """Let nothing through; see ``open``."""
        await hop(lambda: self.open(for_, reason))

    def close(self) -> None:
        """Let everything through again. *Atomic, idempotent, blocking.*"""
        self._tell(self._engine.switch(self.name, None, False, None, self.policy.half_open))

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
        self.leave(self._pop(), error)

    async def __aenter__(self) -> Self:
        """Begin a call without blocking the event loop; see ``__enter__``."""
        self._push(await self.aenter())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count the call."""
        await self.aleave(self._pop(), error)

    def __call__(self, fn: F) -> F:
        """Guard every call of a function or coroutine function."""
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def guarded(*args: object, **kwargs: object) -> object:
                async with self:
                    return await fn(*args, **kwargs)

            return cast(F, guarded)
        if not inspect.isroutine(fn):
            raise ConfigError(f"@circuit {self.name!r} stands on {fn!r}; put it on a function, below @app.job")

        @functools.wraps(fn)
        def guarded_sync(*args: object, **kwargs: object) -> object:
            with self:
                return fn(*args, **kwargs)

        return cast(F, guarded_sync)

    def _push(self, passed: Passed) -> None:
        # The token of ``set`` is kept beside the call, so that leaving restores the context to what it was.
        token = cast("Token[object]", self._passes.set(None))
        self._passes.set((passed, token))

    def _pop(self) -> Passed:
        entry = self._passes.get()
        if entry is None:
            raise ConfigError(f"circuit {self.name!r} is left in another task or thread than it was entered in")
        self._passes.reset(cast("Token[tuple[Passed, Token[object]] | None]", entry[1]))
        return entry[0]

    def enter(self, job: LeaseRef | None = None) -> Passed:
        """Begin a call, of anybody or of a running job that has this circuit; end it with ``leave``. *Blocking.*"""
        passed = self._pass_closed()
        if passed is not None:
            return passed
        try:
            if self._is_stale():
                self._see(self._engine.circuit(self.name))
                passed = self._pass_closed()
                if passed is not None:
                    return passed
            self._refuse_known(job)
            token = secrets.token_hex(8)
            row = self._see(self._engine.probe(self.name, token, PROBE_LEASE_MS, job))
        except EngineError as error:
            raise GuardUnavailable(
                f"circuit {self.name!r} could not ask its store, so the call was not made: {error}"
            ) from error
        self._tell(row)
        if not row.admitted:
            raise self._refusal(row, row.left_ms)
        return Passed(row.epoch, time.monotonic(), None if row.state == "closed" else token)

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
        view = self._view
        if view is None or view.state != "closed" or self._is_stale():
            return None
        return Passed(view.epoch, time.monotonic())

    def _is_stale(self) -> bool:
        return self._view is None or time.monotonic() - self._seen >= FRESH

    def _refuse_known(self, job: LeaseRef | None) -> None:
        """Refuse without asking what is known to be open for a while. A job was let through by a claim: ask for it."""
        view = self._view
        if job is not None or view is None or view.state != "open":
            return
        left = None if view.left_ms is None else view.left_ms - (time.monotonic() - self._seen) * 1_000
        if left is None or left > 0:
            raise self._refusal(view, left)

    def _refusal(self, row: CircuitRow, left_ms: float | None) -> CircuitOpen:
        why = f" ({row.reason})" if row.reason else ""
        when = "until somebody closes it" if row.state == "open" and left_ms is None else "while it is being probed"
        if left_ms is not None:
            when = f"for {format_duration(max(1, round(left_ms)))} more"
        return CircuitOpen(
            f"circuit {self.name!r} is open {when}{why}; leave the call for later, or let the job be put back",
            self.name,
            None if left_ms is None else left_ms / 1_000,
        )

    def judge(self, began: float, error: BaseException | None, timed_out: bool = False) -> Verdict:
        """Say what a call that began at ``began`` (monotonic seconds) and ended so tells. Pure."""
        if timed_out:
            return Verdict(False, "timeout" if error is None else _reason(error), retry_after_ms(error))
        if error is not None:
            if not isinstance(error, Exception) or _is_any(error, self._ignore):
                return Verdict(None)
            if isinstance(error, WindlassError) and not isinstance(error, JobTimeout | RetryAfter):
                return Verdict(None)
            if isinstance(error, JobTimeout | RetryAfter) or _is_any(error, self._trip_on):
                return Verdict(False, _reason(error), retry_after_ms(error))
        slow = self._slow is not None and time.monotonic() - began >= self._slow
        return Verdict(False, _reason(error), retry_after_ms(error)) if slow else Verdict(True)

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
            self._tell(self._engine.tally(self.name, self.policy, report))
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

    def flush(self, engine: Coordinator | None = None) -> None:
        """Report what was counted. *Blocking.* Raises EngineError, and then it is kept."""
        self._hub.check_fork()
        with self._reporting:
            self._flush(engine or self._engine)

    def _flush(self, engine: Coordinator) -> None:
        with self._lock:
            counts, self._counts = self._counts, {}
        for epoch, count in list(counts.items()):
            report = Tally(count.ok, count.failed, epoch, None, count.retry_after_ms, count.reason)
            try:
                self._tell(engine.tally(self.name, self.policy, report))
            except EngineError:
                with self._lock:
                    self._counts = {**counts, **self._counts}
                raise
            del counts[epoch]

    @property
    def _engine(self) -> Coordinator:
        return self._hub.engine()

    def _see(self, row: CircuitRow) -> CircuitRow:
        self._view, self._seen = row, time.monotonic()
        return row

    def _tell(self, row: CircuitRow) -> None:
        """Note a state, and report a change that our call made: one process of the fleet does."""
        self._see(row)
        if row.changed is None:
            return
        events = self._hub.events
        match row.state:
            case "open":
                logger.warning("circuit %s is open: %s", self.name, row.reason or "no reason given")
                events.emit(CircuitOpened(self.name, row.reason, None if row.left_ms is None else row.left_ms / 1_000))
            case "half_open":
                logger.info("circuit %s is being probed", self.name)
                events.emit(CircuitHalfOpened(self.name))
            case _:
                logger.warning("circuit %s is closed again", self.name)
                events.emit(CircuitClosed(self.name))


class Circuits:
    """The circuits of one application, and the thread that reports for them."""

    def __init__(
        self, engine: Callable[[], Coordinator], events: Events, declared: Mapping[str, Mapping[str, object]]
    ) -> None:
        """``declared`` are those of the settings; what they say wins over code. Raises ConfigError."""
        self.engine = engine
        self.events = events
        self._settings = declared
        self._options: dict[str, dict[str, object]] = {}
        self._circuits: dict[str, Circuit] = {}
        self._pid = os.getpid()
        self._wakeup = threading.Condition()
        self._thread: threading.Thread | None = None
        for name in declared:
            self.declare(name, {})

    @property
    def names(self) -> list[str]:
        """The names of all circuits."""
        return sorted(self._circuits)

    def find(self, name: str) -> Circuit | None:
        """Give the circuit of this name, or None."""
        return self._circuits.get(name)

    def declare(self, name: str, options: Mapping[str, object]) -> Circuit:
        """Make a circuit, or give the one of this name. Raises ConfigError for wrong or different options."""
        check_name(name, "circuit")
        known = self._circuits.get(name)
        if known is not None and (not options or options == self._options[name]):
            return known
        if known is not None and self._options[name]:
            raise ConfigError(f"circuit {name!r} is declared already with other options; declare it in one place")
        made = make_circuit(name, {**options, **self._settings.get(name, {})}, self)
        if known is not None:  # the settings declared it and the code adds to that: jobs may hold the object
            known.policy, known._trip_on = made.policy, made._trip_on
            known._ignore, known._slow = made._ignore, made._slow
        self._options[name] = dict(options)
        return self._circuits.setdefault(name, made)

    def check_fork(self) -> None:
        """In a forked child: neither threads nor what they had to report came along."""
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        self._wakeup = threading.Condition()
        self._thread = None
        for circuit in self._circuits.values():
            circuit.start_anew()

    def wake(self) -> None:
        """There is something new to report."""
        with self._wakeup:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="windlass-circuits", daemon=True)
                self._thread.start()
            self._wakeup.notify()

    def flush(self, engine: Coordinator) -> None:
        """Report everything to an engine that is about to close. *Blocking.* What cannot be reported is dropped."""
        for circuit in self._circuits.values():
            try:
                circuit.flush(engine)
            except EngineError as error:
                logger.warning("circuit %s could not report its last calls: %s", circuit.name, error)

    def _run(self) -> None:
        not_before = 0.0
        while True:
            with self._wakeup:
                dues = [due for circuit in list(self._circuits.values()) if (due := circuit.due_in()) is not None]
                if not dues:
                    if not self._wakeup.wait(IDLE):
                        self._thread = None
                        return
                    continue
                pause = max(min(dues), not_before - time.monotonic())
                if pause > 0:
                    self._wakeup.wait(pause)
                    continue
            for circuit in list(self._circuits.values()):
                due = circuit.due_in()
                if due is None or due > 0:
                    continue
                try:
                    circuit.flush()
                except EngineError as error:
                    logger.warning("circuit %s cannot report now: %s", circuit.name, error)
                    not_before = time.monotonic() + RETRY_FLUSH


def make_circuit(name: str, options: Mapping[str, object], hub: Circuits) -> Circuit:
    """Check the options of a circuit and make it. Raises ConfigError for what is wrong or contradicts itself."""
    where = f"circuit {name!r}"
    for key in options:
        if key not in OPTIONS:
            raise ConfigError(f"{where}: there is no option {key!r}{nearest(key, OPTIONS)}")
    failures, rate = options.get("failures", 5), options.get("failure_rate")
    if failures is not None and not _is_count(failures):
        raise ConfigError(f"{where}: failures is {failures!r}; it is a whole number from 1, or None")
    if rate is not None and not (isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate <= 1):
        raise ConfigError(f"{where}: failure_rate is {rate!r}; it is above 0 and at most 1, such as 0.5 for one half")
    if failures is None and rate is None:
        raise ConfigError(f"{where}: failures and failure_rate are both None, so it would never open; give one")
    min_calls, half_open = options.get("min_calls", 1), options.get("half_open", 1)
    for key, value in (("min_calls", min_calls), ("half_open", half_open)):
        if not _is_count(value):
            raise ConfigError(f"{where}: {key} is {value!r}; it is a whole number from 1")
    if rate is None and min_calls != 1:
        raise ConfigError(f"{where}: min_calls={min_calls} counts for failure_rate only, and that is not given")
    window = _length(options.get("window", "60s"), f"{where}: window")
    slow = options.get("slow_call")
    slow_ms = None if slow is None else _length(slow, f"{where}: slow_call")
    if slow_ms is not None and slow_ms >= window:
        raise ConfigError(
            f"{where}: slow_call is {slow!r}, which is not shorter than the window; no slow call would count"
        )
    policy = CircuitPolicy(
        failures=cast("int | None", failures),
        window_ms=window,
        open_for_ms=_length(options.get("open_for", "300s"), f"{where}: open_for"),
        half_open=cast(int, half_open),
        min_calls=cast(int, min_calls),
        failure_rate=None if rate is None else float(cast(float, rate)),
    )
    trip_on = _kinds(options.get("trip_on", (Exception,)), f"{where}: trip_on")
    return Circuit(name, policy, trip_on, _kinds(options.get("ignore", ()), f"{where}: ignore"), slow_ms, hub)


def _length(value: object, what: str) -> int:
    ms = duration_ms(value, what)
    if ms == 0:
        raise ConfigError(f"{what} is {value!r}; it must be longer than zero")
    return ms


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1_000_000


def _kinds(value: object, what: str) -> Kinds:
    given = value if isinstance(value, list | tuple | set | frozenset) else (value,)
    kinds: list[type[BaseException] | str] = []
    for kind in given:
        if not ((isinstance(kind, str) and kind) or (isinstance(kind, type) and issubclass(kind, BaseException))):
            raise ConfigError(f"{what} has {kind!r}; give exception classes, or their dotted names as text")
        kinds.append(kind)
    return tuple(kinds)


def _is_any(error: BaseException, kinds: Kinds) -> bool:
    for kind in kinds:
        if not isinstance(kind, str):
            if isinstance(error, kind):
                return True
        elif any(kind in (base.__qualname__, f"{base.__module__}.{base.__qualname__}") for base in type(error).__mro__):
            return True  # by name, so that settings need not import the client library
    return False


def _reason(error: BaseException | None) -> str:
    if error is None:
        return "slow calls"
    try:
        text = f"{type(error).__qualname__}: {error}"
    except Exception:  # noqa: BLE001  a foreign __str__
        text = type(error).__qualname__
    return ascii(text.partition("\n")[0][:200])[1:-1]


def retry_after_ms(error: BaseException | None) -> int:
    """What a service asked for: ``error.retry_after``, or Retry-After among the headers of ``error.response``; or 0."""
    if isinstance(error, RetryAfter):
        return min(error.delay_ms, RETRY_AFTER_MAX_MS)
    value: object = getattr(error, "retry_after", None)
    if value is None:
        headers = getattr(getattr(error, "response", None), "headers", None)
        get: Callable[[str], object] | None = getattr(headers, "get", None)
        value = None if get is None else get("Retry-After")
    try:
        match value:
            case bool() | None:
                return 0
            case timedelta():
                seconds = value.total_seconds()
            case int() | float():
                seconds = float(value)
            case str() if value.strip().isdigit():
                seconds = float(value)
            case str():
                seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
            case _:
                return 0
        return min(max(0, round(seconds * 1_000)), RETRY_AFTER_MAX_MS)
    except (ValueError, TypeError, OverflowError):
        return 0
