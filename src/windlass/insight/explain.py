"""Why a job is not running, in words: what ``app.explain`` and the command line say.

Pure over what an engine's Inspector answers; it changes nothing. Invariant: it says what is, then what to do about it
where something can be done.
"""

from __future__ import annotations

from datetime import datetime

from windlass.core.clock import Clock, from_ms
from windlass.core.model import PLACES, GuardKind, State
from windlass.core.rows import JobRow
from windlass.core.units import format_rate, nearest, show_duration
from windlass.engines.base import Inspector, Store
from windlass.guards import agreed
from windlass.insight.others import composition_of, part_of, waits_for_others, why_skipped
from windlass.insight.queues import WorkerStatus, bounds_of
from windlass.jobs.info import JobInfo
from windlass.jobs.reader import Reader
from windlass.jobs.registry import Registry
from windlass.settings import Settings

__all__ = ["explain"]

ALONE_FROM = 2  # crash charges from which a job runs with no neighbours


def explain(job_id: str, engine: Store, reader: Reader, registry: Registry, clock: Clock, settings: Settings) -> str:
    """Say in words where a job stands and what it waits for. *Blocking.*"""
    row = engine.job(job_id)
    if row is None:
        gone = f"There is no job {job_id}: it was never stored here, or its record has been removed."
        return " ".join([gone, *composition_of(job_id, engine)])
    first, *others = _sentences(row, reader.describe(row), engine, registry, clock, settings)
    return f"Job {job_id} ({row.name}) {' '.join([first, *part_of(row, engine), *others])}"


def _sentences(
    row: JobRow, info: JobInfo, engine: Store, registry: Registry, clock: Clock, settings: Settings
) -> list[str]:
    now = clock.wall_ms()
    match row.state:
        case State.DONE:
            return [f"is done; it finished at {_at(row.finished_at)}.", *_reason(info)]
        case State.DEAD:
            return [
                f"is dead; it died at {_at(row.finished_at)}, after attempt {row.attempt} of {row.max_attempts}.",
                *_reason(info),
                *_last_error(info),
                f"Run it again with `windlass jobs retry {row.id}`.",
            ]
        case State.CANCELLED:
            return [f"was cancelled at {_at(row.finished_at)}.", *_reason(info), *why_skipped(row, engine)]
        case State.RUNNING:
            asked = ["A cancel was requested; it has not stopped yet."] if row.cancel_requested else []
            if row.held:
                return [f"is held by worker {row.worker} since {_at(row.started_at)}, about to start.", *asked]
            return [
                f"has been running on worker {row.worker} since {_at(row.started_at)} (attempt {row.attempt}).",
                *asked,
            ]
        case State.BLOCKED:
            return _waits_at(row, engine)
        case State.SCHEDULED:
            left = row.run_at - now
            wait = f"{_at(row.run_at)} ({f'in {show_duration(left)}' if left > 0 else 'due now'})"
            if info.errors:
                first = f"failed in attempt {row.attempt} of {row.max_attempts} and runs again at {wait}."
                return [first, *_reason(info), *_last_error(info), *_obstacles(row, engine, registry, settings)]
            return [f"is scheduled for {wait}.", *_reason(info), *_obstacles(row, engine, registry, settings)]
        case State.READY:
            since = show_duration(max(0, now - row.run_at))
            return [f"has been ready for {since}.", *_obstacles(row, engine, registry, settings), *_ahead(row, engine)]


def _waits_at(row: JobRow, engine: Store) -> list[str]:
    """Which gate a blocked job waits at, who holds it, and what opens it."""
    kind, _, key = (row.blocked_by or "").partition(":")
    match kind:
        case "once":
            return [
                f"waits because another job with the Once key {key!r} has begun and not ended; it runs after that one."
            ]
        case "unique":
            return [f"waits for the running job with the unique key {key!r} to end."]
        case "circuit":
            found = agreed.see(engine, key)
            why = f" ({found.reason})" if found.reason else ""
            if found.state == "closed":
                return [f"waits at circuit {key!r}, which is closed again; its waiting jobs start step by step."]
            if found.state == "half_open":
                return [f"waits at circuit {key!r}, which is half open{why}: {found.probes} probes are running."]
            if found.left_ms is None:
                when = "until somebody closes it"
            else:
                when = f"for {show_duration(found.left_ms)} more"
            return [f"waits at circuit {key!r}, which is open {when}{why}; close it: `windlass circuits close {key}`."]
        case _ if kind in PLACES or kind == GuardKind.RATE:
            rows = [one for one in engine.limits() if one.kind == kind and one.key == key]
            word = "slots are taken" if kind in PLACES else "starts of the window are used"
            used = f": {rows[0].used} of {rows[0].limit} {word}, and {rows[0].waiting} jobs wait" if rows else ""
            return [f"waits at the {kind} limit {key!r}{used}."]
        case "join":
            return waits_for_others(key, row, engine)
        case _:
            return ["waits for other jobs to end."]


def _obstacles(row: JobRow, engine: Inspector, registry: Registry, settings: Settings) -> list[str]:
    """What would keep a due job from starting."""
    found: list[str] = []
    for queue in engine.queues(bounds_of(settings)):
        if queue.name != row.queue:
            continue
        running = queue.running + queue.held
        if queue.limit is not None and running >= queue.limit:
            found.append(
                f"Queue {row.queue} is full: {running:,} of {queue.limit:,} are running; change that with "
                f"`windlass queues limit {row.queue} N`."
            )
        if queue.rate is not None and queue.started >= queue.rate.count:
            found.append(
                f"Queue {row.queue} has used up its rate of {format_rate(queue.rate.count, queue.rate.per_ms)}; "
                f"change that with `windlass queues limit {row.queue} --rate RATE`."
            )
        if queue.paused:
            until = f" until {_at(queue.paused_until)}" if queue.paused_until is not None else ""
            by = f" by {queue.paused_by}" if queue.paused_by else ""
            why = f" ({queue.paused_reason}){by}" if queue.paused_reason else by
            found.append(
                f"Queue {row.queue} is paused{until}{why}; resume it with `windlass queues resume {row.queue}`."
            )
    options = settings.queues.get(row.queue)
    if options is not None and options.paused is not None:
        found.append(f"Workers with these settings do not serve queue {row.queue}: {options.paused}.")
    workers = [worker for worker in map(WorkerStatus.of, engine.workers()) if worker.alive]
    if not workers:
        found.append("No worker is alive; start one with `windlass worker`.")
    elif not (serving := [worker for worker in workers if worker.serves(row.queue)]):
        found.append(
            f"No live worker serves queue {row.queue}: {len(workers)} alive, serving "
            f"{', '.join(sorted({worker.queues for worker in workers}))}; start one: `windlass worker -q {row.queue}`."
        )
    elif all(worker.asked for worker in serving):
        found.append(f"Every worker that serves queue {row.queue} was asked to claim no more, or to stop; start one.")
    # An empty registry is that of a tool that imported no jobs; it knows nothing about names.
    if len(registry) and row.name not in registry:
        hint = nearest(row.name, registry.names())
        found.append(
            f"This application has no job named {row.name}{hint}; a worker without it puts the job back in the queue."
        )
    if row.crashes >= ALONE_FROM:
        found.append(f"It killed its process {row.crashes} times, so it runs alone, once a worker has room for that.")
    return found


def _ahead(row: JobRow, engine: Inspector) -> list[str]:
    others = next((queue.ready for queue in engine.queues() if queue.name == row.queue), 1) - 1
    if others <= 0:
        return ["It is the only ready job of its queue."]
    return [f"{others} other ready {'jobs are' if others > 1 else 'job is'} in queue {row.queue}."]


def _reason(info: JobInfo) -> list[str]:
    return [f"Reason: {info.reason}."] if info.reason else []


def _last_error(info: JobInfo) -> list[str]:
    if not info.errors:
        return []
    text = f"Last error: {info.errors[-1].type}: {info.errors[-1].message}".rstrip()
    return [text if text.endswith((".", "!", "?")) else f"{text}."]


def _at(ms: int | None) -> str:
    if ms is None:
        return "an unknown time"
    when: datetime = from_ms(ms)
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")
