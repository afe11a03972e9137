"""``windlass doctor``: is everything in order with the store, the settings, the clock and the workers?

Changes nothing, unless --repair is given. Errors are what keeps jobs from running or endangers them; warnings are what
somebody should look at.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Final

import click

from windlass.cli.common import Session, pass_session
from windlass.cli.exits import FAILED
from windlass.cli.findings import ERROR, OK, WARNING, report
from windlass.cli.output import count, length, note
from windlass.core.clock import to_ms
from windlass.core.errors import EngineError
from windlass.core.units import format_duration
from windlass.engines.base import Finding
from windlass.insight.queues import QueueInfo, WorkerStatus

if TYPE_CHECKING:
    from windlass.app import Windlass

__all__ = ["doctor"]

CLOCK_SLACK: Final = 5_000  # ms that clocks of several machines may differ without harm


@click.command()
@click.option("--repair", is_flag=True, help="Repair what can be repaired in the store.")
@pass_session
def doctor(session: Session, repair: bool) -> int:
    """Check the store, the settings, the clock and the workers. Exits 1 if it finds an error.

    A finding says so when --repair can put it right.
    """
    app = session.store()
    try:
        of_store = app.engine.doctor(repair)
    except EngineError:
        if app.loaded.inherited is not None:  # it may well be why
            note(f"warning: {app.loaded.inherited}")
        raise
    findings = [*of_store, *_settings(app), *_clock(app), *_queues(app)]
    report(session, findings)
    return FAILED if any(finding.level == ERROR for finding in findings) else 0


def _settings(app: Windlass) -> Iterator[Finding]:
    loaded = app.loaded
    source = loaded.file.name if loaded.file else "no settings file"
    yield Finding("settings", OK, f"{source}; the url comes from: {loaded.origin['url']}")
    if loaded.inherited is not None:
        yield Finding("settings", WARNING, loaded.inherited)
    for warning in loaded.warnings:
        yield Finding("settings", WARNING, warning)


def _clock(app: Windlass) -> Iterator[Finding]:
    """The store's newest traces of time against this machine's clock."""
    now = app.clock.wall_ms()
    traces: list[tuple[str, datetime]] = [(f"job {job.id} was stored", job.enqueued_at) for job in app.jobs(limit=1)]
    traces += [(f"worker {worker.id} on {worker.host} sent its beat", worker.beat_at) for worker in app.workers()]
    ahead = [(what, to_ms(when) - now) for what, when in traces if to_ms(when) - now > CLOCK_SLACK]
    for what, ms in ahead:
        yield Finding(
            "clock",
            ERROR,
            f"{what} {length(ms)} in the future by this machine's clock",
            "synchronize the clocks of all machines (NTP); due times depend on them",
        )
    if not ahead:
        yield Finding("clock", OK, "nothing in the store is from the future")


def _queues(app: Windlass) -> Iterator[Finding]:
    workers = app.workers()
    alive = [worker for worker in workers if worker.alive]
    for worker in workers:
        if not worker.alive:
            yield Finding(
                "workers",
                WARNING,
                f"the lease of worker {worker.id} ({worker.host}, pid {worker.pid}) ran out "
                f"{length(-worker.lease_left * 1_000)} ago",
                f"a live worker takes its jobs back within {format_duration(app.settings.reap * 2)}"
                if alive
                else "start a worker; it takes the jobs back",
            )
        elif worker.trouble:
            yield Finding(
                "workers",
                ERROR,
                f"worker {worker.id} ({worker.host}, pid {worker.pid}) lives and cannot do all its work: "
                f"{worker.trouble}",
                "see its log; USR1 to the worker makes it write the stacks of all threads, coroutines and children",
            )
    yield Finding("workers", OK, f"{count(len(alive), 'worker')} alive")
    for queue in app.queues():
        yield _queue(queue, alive)
    for name, options in app.settings.queues.items():
        if options.paused is not None:
            yield Finding(
                f"queue {name}",
                WARNING,
                f"workers with these settings do not serve it: {options.paused}",
                f"remove `paused` from {app.loaded.where('queues', name, 'paused')}",
            )


def _queue(queue: QueueInfo, alive: list[WorkerStatus]) -> Finding:
    check = f"queue {queue.name}"
    jobs = f"{count(queue.ready, 'ready job')}, {queue.scheduled:,} scheduled"
    served = sum(worker.serves(queue.name) for worker in alive)
    if queue.paused:
        by = f" by {queue.paused_by}" if queue.paused_by else ""
        reason = f" ({queue.paused_reason}){by}" if queue.paused_reason else by
        return Finding(
            check, WARNING, f"paused{reason}; {jobs}", f"resume it with `windlass queues resume {queue.name}`"
        )
    if served or not (queue.ready or queue.scheduled):
        return Finding(check, OK, f"{jobs}, served by {count(served, 'worker')}")
    # What is only scheduled may wait for a worker that starts in time.
    return Finding(
        check,
        ERROR if queue.ready else WARNING,
        f"{jobs}, and no live worker serves it",
        f"start one: `windlass worker -q {queue.name}`",
    )
