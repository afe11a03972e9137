"""How the worker processes of a supervisor are, from what they left in shared memory. Asked by other threads.

Nothing here changes anything, asks the store, or asks a process.
"""

from __future__ import annotations

from collections.abc import Sequence

from windlass.settings import Settings
from windlass.worker.generation import Process

__all__ = ["missing", "stuck"]


def stuck(processes: Sequence[Process], settings: Settings, now: int) -> str | None:
    """What is wrong with their life: one that has not looked for jobs within ``live_within``; ``now`` in boot ms."""
    for process in processes:
        silent = now - process.table.polled_at
        if process.ready and silent > settings.live_within:
            return f"worker process {process.pid} has not looked for jobs for {silent / 1000:.0f} s"
    return None


def missing(processes: Sequence[Process], wanted: int, settings: Settings, now: int) -> str | None:
    """What keeps them from doing the work of so many processes."""
    ready = [one for one in processes if one.ready and not one.stopping and not one.alone]
    if len(ready) < wanted:
        return f"{len(ready)} of {wanted} worker processes are ready"
    for process in ready:
        away = process.table.away_since
        # A process looks every poll_max; one that does not is waiting for an answer of the store.
        since = away or process.table.polled_at
        if away or now - since > 2 * settings.poll_max + 1_000:
            return f"the store has been away for {(now - since) / 1000:.0f} s"
    return stuck(processes, settings, now)
