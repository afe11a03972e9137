"""What a worker says of itself: what it has done so far, and what keeps it from its work. People read it in the store.

It changes nothing of what it looks at. The pump's thread counts, the heart's thread reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import structs

from windlass.core.units import show_duration
from windlass.core.work import QueueWork, WorkerInfo
from windlass.worker.attempt.run import JobRun
from windlass.worker.children import Children
from windlass.worker.held import Held
from windlass.worker.host import RunHost
from windlass.worker.table import SlotTable

__all__ = ["Account"]


class Account:
    """What one worker says of itself."""

    def __init__(
        self, info: WorkerInfo, host: RunHost, *, held: Held, table: SlotTable, children: Children | None
    ) -> None:
        self.id = info.id
        self._info = info
        self._host = host
        self._held = held
        self._table = table
        self._children = children
        self._work: dict[str, list[int]] = {}  # queue: runs, nanoseconds

    def count(self, runs: Sequence[JobRun]) -> None:
        """Take note of runs that have ended."""
        work = self._work
        for run in runs:
            run.lane.ended += 1
            done = work.setdefault(run.lease.queue, [0, 0])
            done[0] += 1
            done[1] += run.took_ns

    def info(self) -> WorkerInfo:
        """What the worker says of itself now, with what it has done."""
        work = tuple(QueueWork(queue, ended, ns // 1_000_000) for queue, (ended, ns) in self._work.copy().items())
        return structs.replace(self._info, work=work, trouble="; ".join(self._troubles()))

    def _troubles(self) -> Iterator[str]:
        """What keeps this process from doing its work: pump, event loop, threads, children."""
        host, table = self._host, self._table
        silent = host.clock.boot_ms() - table.polled_at
        if table.polled_at and silent > host.settings.live_within:
            yield f"it has not looked for jobs for {show_duration(silent)}"
        if host.timeouts.blocked_by is not None:
            yield f"{host.timeouts.blocked_by} blocks the event loop"
        for run in self._held.outlived():
            yield f"job {run.lease.name} {run.lease.id} does not end though its time is up"
        if self._children is not None and (why := self._children.refusal()) is not None:
            yield f"no child process can be started: {why}"
