"""One line for each job that ends: how, in which attempt, how long it took and how long it had waited.

This is the only place that says it, whatever ended the job: its body, its policy, a crash, a stop. The line is made of
what goes to the store, so what is redacted there is redacted here; arguments and results are never in it. Lines of one
stroke of the pump are written together, since a write for each job would cost more than the job.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import assert_never

import msgspec
from msgspec import Struct

from windlass.core.clock import Clock
from windlass.core.model import RESULT_NOT_STORED
from windlass.core.units import show_duration
from windlass.core.work import Kind, Lease, Outcome
from windlass.logs import Entry, Log
from windlass.logs.lines import printable
from windlass.worker.attempt.run import JobRun

__all__ = ["Endings"]

log = Log("windlass.job")

LONG = 200  # characters of an error that are shown


class Told(Struct):
    """What a line needs of a JobError."""

    type: str
    message: str


read_error = msgspec.json.Decoder(Told).decode


class Endings:
    """Says how jobs end. ``quiet``: only those that did not end well."""

    def __init__(self, clock: Clock, *, quiet: bool) -> None:
        self._clock = clock
        self._quiet = quiet

    def tell(self, runs: Sequence[JobRun]) -> None:
        """Say how these runs ended, in this order."""
        if self._quiet or not log.wants(logging.INFO):
            runs = [run for run in runs if not is_plain(run.outcome)]
        if not runs:
            return
        # All of them ended within the last moment: one reading of each clock places them.
        wall, boot_ns, engine_ms = time.time(), time.monotonic_ns(), self._clock.wall_ms()
        with_fields = log.reads_fields(logging.INFO)
        entries = []
        for run in runs:
            lease, took_ms, ago_ms = run.lease, run.took_ns / 1e6, (boot_ns - run.ended_ns) / 1e6
            waited_ms = engine_ms - ago_ms - took_ms - lease.run_at
            entries.append(ending(lease, run.outcome, run, took_ms, waited_ms, wall - ago_ms / 1e3, with_fields))
        self._say(entries)

    def tell_one(self, lease: Lease, outcome: Outcome, run: JobRun | None = None) -> None:
        """Say how a job ended that did not run here to its end."""
        took_ms = 0.0 if run is None or not run.began_ns else (time.monotonic_ns() - run.began_ns) / 1e6
        waited_ms = self._clock.wall_ms() - took_ms - lease.run_at
        self._say([ending(lease, outcome, run, took_ms, waited_ms, time.time(), True)])

    def _say(self, entries: list[Entry]) -> None:
        log.tell([each for each in entries if each.level >= logging.WARNING] if self._quiet else entries)


def ending(
    lease: Lease,
    outcome: Outcome | None,
    run: JobRun | None,
    took_ms: float,
    waited_ms: float,
    at: float,
    with_fields: bool,
) -> Entry:
    """The entry of one job's end."""
    if waited_ms < 0.0:
        waited_ms = 0.0  # clocks of several machines
    took, waited = show_duration(took_ms), show_duration(waited_ms)
    if plain := is_plain(outcome):
        level, word = logging.INFO, "done"
        text = f"job {lease.name} {lease.id} is done in {took} (attempt {lease.attempt}, waited {waited})"
    else:
        assert outcome is not None
        level, word, what = verdict(lease, outcome, run)
        text = f"job {lease.name} {lease.id} {what} (took {took}, waited {waited})"
    if plain and not with_fields:
        return Entry(level, at, text)
    fields: dict[str, object] = {
        "event": "job_ended",
        "job_id": lease.id,
        "job_name": lease.name,
        "queue": lease.queue,
        "outcome": word,
        "attempt": lease.attempt,
        "duration": int(took_ms * 1_000) / 1e6,  # seconds to the microsecond; round() costs more than the rest
        "wait": int(waited_ms) / 1e3,
    }
    if outcome is not None:
        if outcome.kind is Kind.RETRY or outcome.kind is Kind.SNOOZE:
            fields["retry_in"] = outcome.delay_ms / 1e3
        if outcome.error is not None:
            fields["error"] = error_of(outcome)
        if outcome.reason is not None:
            fields["reason"] = outcome.reason
    return Entry(level, at, text, (), fields)


def is_plain(outcome: Outcome | None) -> bool:
    """Whether a job is done, and nothing more is to be said of it; None: its own transaction has settled it."""
    return outcome is None or (outcome.kind is Kind.DONE and outcome.reason is None)


def verdict(lease: Lease, outcome: Outcome, run: JobRun | None) -> tuple[int, str, str]:
    """Level, word for machines and words for people of an end that is not simply done."""
    attempt, delay, why = lease.attempt, show_duration(outcome.delay_ms), because(outcome.reason)
    if run is not None and run.lost:
        return logging.WARNING, "lost", f"ended in attempt {attempt}, but another worker owns it now"
    match outcome.kind:
        case Kind.DONE:
            kept = (outcome.reason or "").startswith(RESULT_NOT_STORED)
            return logging.WARNING if kept else logging.INFO, "done", f"is done in attempt {attempt}{why}"
        case Kind.RETRY:
            late = " because the retry budget of its queue is used up" if run is not None and run.deferred else ""
            what = f"failed in attempt {attempt} and is retried in {delay}{late}: {error_of(outcome)}"
            return logging.WARNING, "retried", what
        case Kind.DEAD:
            return logging.ERROR, "dead", f"is dead after attempt {attempt}: {error_of(outcome)}"
        case Kind.CANCELLED if outcome.error is not None:
            return logging.WARNING, "cancelled", f"was discarded in attempt {attempt}: {error_of(outcome)}"
        case Kind.CANCELLED:
            return logging.INFO, "cancelled", f"was cancelled in attempt {attempt}"
        case Kind.SNOOZE:
            return logging.INFO, "snoozed", f"is snoozed for {delay}{why}"
        case Kind.AWAIT:
            return logging.INFO, "waits", f"waits for other jobs in attempt {attempt}"
        case Kind.RELEASE:
            why = "the worker is stopping" if outcome.interrupted else refusal(run)
            return logging.INFO, "given_back", f"was given back: {why}"
        case Kind.CRASH:
            return logging.WARNING, "crashed", f"crashed in attempt {attempt} and runs again: {error_of(outcome)}"
        case _:
            assert_never(outcome.kind)


def because(reason: str | None) -> str:
    """A reason, behind the words that it explains."""
    return "" if reason is None else f": {first_line(reason)}"


def refusal(run: JobRun | None) -> str:
    """Why a run that had not begun goes back."""
    if run is None or run.error is None:
        return "it had not begun"
    return first_line(str(run.error))


def error_of(outcome: Outcome) -> str:
    """The error of an outcome, on one line."""
    if outcome.error is None:
        return outcome.reason or "no error was given"
    error = read_error(outcome.error)
    return first_line(f"{error.type.rpartition('.')[2]}: {error.message}")


def first_line(text: str) -> str:
    """The first line of a text, fit to be shown."""
    return printable(text.partition("\n")[0][:LONG])
