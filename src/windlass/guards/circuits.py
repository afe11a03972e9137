"""The circuits of one application: declared in code and settings, and a thread that reports for them.

Must not open or close a circuit: what is reported does.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final, cast

from windlass.core import caps
from windlass.core.circuit import CircuitPolicy
from windlass.core.errors import ConfigError, EngineError
from windlass.core.foreign import Shield, start_thread
from windlass.core.spelling import unknown_option
from windlass.core.units import check_name, duration_ms, shown
from windlass.engines.base import Store
from windlass.events import Events
from windlass.guards.circuit import Circuit
from windlass.guards.verdict import to_kinds
from windlass.logs import Log

__all__ = ["OPTIONS", "Circuits"]

RETRY_FLUSH: Final = 1.0
IDLE: Final = 5.0  # seconds without a call until the reporting thread ends
OPTIONS: Final = (
    "failures", "window", "open_for", "half_open", "trip_on", "ignore", "min_calls", "failure_rate", "slow_call",
)  # fmt: skip

logger = Log("windlass.circuits")


class Circuits:
    """The circuits of one application, and the thread that reports for them."""

    def __init__(
        self, engine: Callable[[], Store], events: Events, declared: Mapping[str, Mapping[str, object]]
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
                self._thread = start_thread(self._run, "windlass-circuits")
            self._wakeup.notify()

    def flush(self, engine: Store) -> None:
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
                with Shield(logger, "circuit %s failed to report; it tries again", circuit.name):
                    try:
                        circuit.flush()
                        continue
                    except EngineError as error:
                        logger.warning("circuit %s cannot report now: %s", circuit.name, error)
                not_before = time.monotonic() + RETRY_FLUSH


def make_circuit(name: str, options: Mapping[str, object], hub: Circuits) -> Circuit:
    """Check the options of a circuit and make it. Raises ConfigError for what is wrong or contradicts itself."""
    where = f"circuit {name!r}"
    for key in options:
        if key not in OPTIONS:
            raise unknown_option(where, key, OPTIONS)
    failures, rate = options.get("failures", 5), options.get("failure_rate")
    if failures is not None and not _is_count(failures):
        raise ConfigError(
            f"{where}: failures is {shown(failures)}; it must be a whole number from 1 to {caps.COUNT:,}, or None"
        )
    if rate is not None and not (isinstance(rate, int | float) and not isinstance(rate, bool) and 0 < rate <= 1):
        raise ConfigError(
            f"{where}: failure_rate is {shown(rate)}; it is above 0 and at most 1, such as 0.5 for one half"
        )
    if failures is None and rate is None:
        raise ConfigError(f"{where}: failures and failure_rate are both None, so it would never open; give one")
    min_calls, half_open = options.get("min_calls", 1), options.get("half_open", 1)
    for key, value in (("min_calls", min_calls), ("half_open", half_open)):
        if not _is_count(value):
            raise ConfigError(f"{where}: {key} is {shown(value)}; it must be a whole number from 1 to {caps.COUNT:,}")
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
    trip_on = to_kinds(options.get("trip_on", (Exception,)), f"{where}: trip_on")
    return Circuit(name, policy, trip_on, to_kinds(options.get("ignore", ()), f"{where}: ignore"), slow_ms, hub)


def _length(value: object, what: str) -> int:
    ms = duration_ms(value, what)
    if ms == 0:
        raise ConfigError(f"{what} is {value!r}; it must be longer than zero")
    return ms


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= caps.COUNT
