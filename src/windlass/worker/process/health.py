"""How the worker processes of a supervisor are, from what they left in shared memory. Some is asked by other threads.

Nothing here changes anything, asks the store, or asks a process.
"""

from __future__ import annotations

from collections.abc import Sequence

from windlass.settings import Settings
from windlass.worker.process.generation import Process
from windlass.worker.table import Running

__all__ = ["hanging", "missing", "stuck", "wedged"]


def stuck(processes: Sequence[Process], settings: Settings, now: int) -> str | None:
    """What is wrong with their life, of what has lasted for ``live_within``; ``now`` in ms of the boot clock."""
    for process in processes:
        if not process.ready or process.stopping or process.killed:
            continue  # its end is seen to
        silent, blocked = now - process.table.polled_at, process.table.blocked_since
        if silent > settings.live_within:
            return f"worker process {process.pid} has not looked for jobs for {silent / 1000:.0f} s"
        if blocked and now - blocked > settings.live_within:
            return f"the event loop of worker process {process.pid} has been blocked for {(now - blocked) / 1000:.0f} s"
    return None


def missing(processes: Sequence[Process], wanted: int, settings: Settings, now: int) -> str | None:
    """What keeps them from doing the work of so many processes."""
    ready = [one for one in processes if one.ready and not one.stopping and not one.alone]
    if len(ready) < wanted:
        return f"{len(ready)} of {wanted} worker processes are ready"
    for process in ready:
        blocked = process.table.blocked_since
        if blocked:
            return f"the event loop of worker process {process.pid} has been blocked for {(now - blocked) / 1000:.0f} s"
        away = process.table.away_since
        # A process looks every poll_max; one that does not is waiting for an answer of the store.
        since = away or process.table.polled_at
        if away or now - since > 2 * settings.poll_max + 1_000:
            return f"the store has been away for {(now - since) / 1000:.0f} s"
    return stuck(processes, settings, now)


def hanging(process: Process, now: int, after: int) -> list[Running]:
    """The jobs of a process that are ``after`` ms past their timeout; ``now`` in ms of the monotonic clock."""
    return [one for one in process.table.running() if now > one.until + after]


def switches(process: Process, jobs: Sequence[Running]) -> dict[int, int]:
    """How often each of the threads of these jobs has given up its turn so far, where the system tells (Linux)."""
    found = {}
    for thread in {job.thread for job in jobs if job.thread}:
        try:
            with open(f"/proc/{process.pid}/task/{thread}/status", encoding="ascii", errors="replace") as file:
                line = next(line for line in file if line.startswith("voluntary_ctxt_switches:"))
                found[thread] = int(line.split()[1])
        except (OSError, StopIteration, ValueError):
            pass
    return found


def wedged(process: Process, settings: Settings, now: int) -> str | None:
    """What keeps a process that is alive from its work, though its threads get to run.

    A process that is starved as a whole is none: a job may hold the interpreter lock for as long as it has no timeout.
    """
    table = process.table
    unheard, unpolled = now - table.beat_at, now - table.polled_at
    if unheard < settings.lease and unpolled > settings.live_within:
        return f"its pump has not looked for jobs for {unpolled / 1000:.0f} s"
    if unheard > 2 * settings.lease and process.answers:
        return f"its heart has not beaten for {unheard / 1000:.0f} s though its threads run"
    return None
