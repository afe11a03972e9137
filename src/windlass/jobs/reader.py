"""The one way from a stored row to what people see of it, and from a wish to a move; handles, the application and the
command line share it.

Must not claim or settle. Invariants: a redacted argument is shown to nobody who did not ask with ``reveal``; a payload
that cannot be decoded is a JobInfo with a reason, never an error.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from windlass.core.clock import from_ms
from windlass.core.codec import decode_plain
from windlass.core.errors import (
    ConfigError,
    JobCancelled,
    JobFailed,
    PayloadError,
    ResultExpired,
    ResultNotStored,
    ResultTimeout,
    TransitionRefused,
)
from windlass.core.history import decode_errors
from windlass.core.meta import Meta, decode_meta
from windlass.core.model import FINISHED, RESULT_NOT_STORED, State
from windlass.core.model import JobError as StoredError
from windlass.core.rows import Action, JobRow, Moved
from windlass.core.units import Duration, duration_ms
from windlass.engines.base import Inspector
from windlass.jobs.info import JobError, JobInfo, JobProgress
from windlass.jobs.redaction import MASK, RESULT, arguments, hide, hide_in, mask, redacted
from windlass.jobs.registry import Registry
from windlass.jobs.spec import JobSpec

__all__ = ["Reader", "facts_of", "refuse"]

# One wait of the engine; then it is asked again. It bounds how long a thread outlives a waiter that gave up.
WAIT_SLICE: Final = 5.0

ALLOWED: Final = {
    Action.CANCEL: "a ready, scheduled, blocked or running job can be cancelled",
    Action.SKIP: "a ready, scheduled or blocked job can be skipped",
    Action.RETRY: "a dead, cancelled or scheduled job can be retried",
    Action.DELETE: "any job that is not running can be deleted; cancel it first",
}


class _StoredProgress(Struct):
    done: float
    total: float | None = None
    message: str | None = None


_encode = msgspec.json.Encoder().encode
_progress_decoder = msgspec.json.Decoder(_StoredProgress)


class Reader:
    """Answers questions about stored jobs, and moves them on request. *Blocking, thread-safe.*"""

    def __init__(self, engine: Inspector, registry: Registry) -> None:
        self._engine = engine
        self._registry = registry

    def info(self, job_id: str, reveal: bool = False) -> JobInfo | None:
        """Give the job, or None when no record of it is kept. ``reveal`` shows redacted arguments."""
        row = self._engine.job(job_id)
        return None if row is None else self.describe(row, reveal)

    def describe(self, row: JobRow, reveal: bool = False) -> JobInfo:
        """Turn a stored row into what people see. Never fails on what is stored."""
        spec = self._registry.find(row.name)
        args, kwargs, trouble = arguments(row)
        facts = facts_of(row)
        secrets: tuple[str, ...] = ()
        redact = frozenset() if reveal else redacted(row, spec)
        if redact and args is not None and kwargs is not None:
            args, kwargs, secrets = mask(args, kwargs, redact, spec, row.payload)
        return JobInfo(
            id=row.id,
            name=row.name,
            queue=row.queue,
            state=row.state,
            args=args,
            kwargs=kwargs,
            attempt=row.attempt,
            max_attempts=row.max_attempts,
            errors=_errors(row, secrets),
            enqueued_at=from_ms(row.enqueued_at),
            run_at=from_ms(row.run_at),
            started_at=None if row.started_at is None or row.held else from_ms(row.started_at),
            finished_at=None if row.finished_at is None else from_ms(row.finished_at),
            progress=_progress(row.progress, secrets),
            result=MASK if RESULT in redact and row.result is not None else _result(row, spec, secrets),
            tags=row.tags,
            reason=hide(row.reason, secrets) if row.reason else trouble,
            worker=row.worker,
            held=row.held,
            workflow=None if facts.step is None else facts.step.workflow,
            step=None if facts.step is None else facts.step.name,
            batches=facts.batches,
        )

    def veil(self, row: JobRow) -> tuple[JobRow, tuple[str, ...]]:
        """Hide what is redacted in a stored row, as ``describe`` does; give also the names of what was hidden."""
        spec = self._registry.find(row.name)
        redact = redacted(row, spec)
        if not redact:
            return row, ()
        args, kwargs, _ = arguments(row)
        if args is None or kwargs is None:  # nobody can tell what is what in there
            return replace(row, payload=b"null", errors=None, progress=None, reason=None, notes=()), tuple(
                sorted(redact)
            )
        masked_args, masked_kwargs, secrets = mask(args, kwargs, redact, spec, row.payload)
        if (masked_args, masked_kwargs) == (args, kwargs):
            return row, ()
        try:
            errors = [_cover(error, secrets) for error in decode_errors(row.errors)]
        except PayloadError:  # nobody can tell what is in there
            errors = []
        veiled = replace(
            row,
            payload=_encode((1, masked_args, masked_kwargs)),
            errors=_encode(errors) if errors else None,
            progress=_encode(progress) if (progress := _progress(row.progress, secrets)) else None,
            reason=None if row.reason is None else hide(row.reason, secrets),
            notes=tuple((key, hide(text, secrets)) for key, text in row.notes),
        )
        return veiled, tuple(sorted(redact - {RESULT}))

    def result(self, job_id: str, timeout: Duration | None = None, given_up: threading.Event | None = None) -> object:
        """Wait until the job ends and give its result; see ``JobHandle.result``."""
        deadline = None if timeout is None else time.monotonic() + duration_ms(timeout, "timeout") / 1_000
        left = WAIT_SLICE
        while not (given_up is not None and given_up.is_set()):
            if deadline is not None:
                left = min(WAIT_SLICE, max(0.0, deadline - time.monotonic()))
            if self._engine.wait_finished([job_id], left):
                row = self._engine.job(job_id)
                if row is None or row.state in FINISHED:  # else someone retried it in between
                    return self._outcome(job_id, row)
            elif deadline is not None and time.monotonic() >= deadline:
                break
        raise ResultTimeout(f"job {job_id} did not finish within {timeout}; it goes on, so ask again later", job_id)

    def _outcome(self, job_id: str, row: JobRow | None) -> object:
        if row is None:
            raise ResultExpired(
                f"no record of job {job_id} is kept any more, so its result is gone; give the job a keep= longer than "
                "keep_done: such a record stays that long, however many there are",
                job_id,
            )
        info = self.describe(row)
        match row.state:
            case State.DONE:
                if info.reason is not None and info.reason.startswith(RESULT_NOT_STORED):
                    raise ResultNotStored(f"job {job_id} ({row.name}) is done, but: {info.reason}", job_id)
                return _decoded_result(row, self._registry.find(row.name))
            case State.DEAD:
                last = info.errors[-1] if info.errors else None
                why = f"{last.type}: {last.message}" if last else info.reason or "no error was recorded"
                raise JobFailed(f"job {job_id} ({row.name}) is dead after attempt {row.attempt}: {why}", job_id)
            case _:
                why = info.reason or "no reason given"
                raise JobCancelled(f"job {job_id} ({row.name}) ended cancelled: {why}", job_id)

    def move(self, action: Action, job_id: str) -> None:
        """Cancel, retry or delete one job. Raises TransitionRefused when its state does not allow it."""
        refuse(action, self._engine.transition(action, [job_id])[0])


def refuse(action: Action, moved: Moved) -> None:
    """Raise TransitionRefused for a move that was not made."""
    if moved.applied:
        return
    if moved.before is None:
        raise TransitionRefused(f"cannot {action} job {moved.id}: no record of it is kept")
    if moved.reason is not None and moved.before in FINISHED:
        raise TransitionRefused(f"cannot {action} job {moved.id}, it stays {moved.before}: {moved.reason}")
    raise TransitionRefused(f"cannot {action} job {moved.id}: it is {moved.before}; {ALLOWED[action]}")


def facts_of(row: JobRow) -> Meta:
    """What the call of a job said for itself; nothing where nobody can read it."""
    try:
        return decode_meta(row.meta)
    except PayloadError:
        return Meta()


def _errors(row: JobRow, secrets: tuple[str, ...]) -> tuple[JobError, ...]:
    try:
        stored = decode_errors(row.errors)
    except PayloadError as error:
        return (JobError("PayloadError", f"the error history cannot be decoded: {error}", "", from_ms(0), 0),)
    return tuple(
        JobError(e.type, e.message, e.traceback, from_ms(e.at), e.attempt, e.host, e.worker, e.version)
        for e in (_cover(error, secrets) for error in stored)
    )


def _cover(error: StoredError, secrets: tuple[str, ...]) -> StoredError:
    if not secrets:
        return error
    return replace(error, message=hide(error.message, secrets), traceback=hide(error.traceback, secrets))


def _progress(raw: bytes | None, secrets: tuple[str, ...]) -> JobProgress | None:
    if raw is None:
        return None
    try:
        stored = _progress_decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    message = None if stored.message is None else hide(stored.message, secrets)
    return JobProgress(stored.done, stored.total, message)


def _decoded_result(row: JobRow, spec: JobSpec | None) -> object:
    if row.result is None:
        return None
    return spec.signature.decode_result(row.result) if spec else decode_plain(row.result)


def _result(row: JobRow, spec: JobSpec | None, secrets: tuple[str, ...]) -> object:
    """What people see of a result: one that has a secret in it is plain and masked."""
    for code in (spec, None):  # typed where its annotation fits, else plain
        try:
            if secrets and row.result is not None:
                plain = decode_plain(row.result)
                if (covered := hide_in(plain, secrets)) != plain:
                    return covered
            return _decoded_result(row, code)
        except (PayloadError, ConfigError):
            pass
    return None
