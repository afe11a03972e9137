"""One attempt of one job, from its lease to its outcome.

A JobRun is the record that travels through a worker: the fetcher makes it, a thread, the loop or a child process runs
it, the pump settles what came out. It is also what the job's context talks to (``context.Run``). Flags are set by other
threads and only ever go from false to true.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from random import Random
from typing import Final, Protocol

from msgspec import Struct

from windlass.core.clock import Clock
from windlass.core.history import Origin
from windlass.core.meta import Meta, StepFacts, decode_meta
from windlass.core.model import Slot, Write
from windlass.core.notebook import Notebook
from windlass.core.stall import Stall
from windlass.core.work import Lease, Outcome
from windlass.engines.base import Store
from windlass.events import Events, JobEnqueued
from windlass.flow.inside import RunningWorkflow
from windlass.guards.circuit import Passed
from windlass.guards.circuits import Circuits
from windlass.guards.verdict import Verdict
from windlass.jobs.call import Call
from windlass.jobs.context import JobContext
from windlass.jobs.middleware import AsyncBody, Body, Middleware
from windlass.jobs.redaction import hide, secrets_in
from windlass.jobs.spec import JobSpec
from windlass.settings import Settings

__all__ = ["Host", "JobRun", "Prepared", "Stand", "tell_enqueued"]

NO_META = Meta()
OPENING: Final = threading.Lock()  # of a notebook: a job may have threads of its own


def tell_enqueued(events: Events, writes: Sequence[Write]) -> None:
    """Tell of jobs that were stored with the end of another."""
    if writes and events.wants(JobEnqueued):
        for write in writes:
            for new in write.jobs:
                events.emit(JobEnqueued(new.id, new.name, new.queue))


class Prepared(Struct, frozen=True):
    """A job as this process runs it: its spec, and its body with the middleware around it."""

    spec: JobSpec
    slot: Slot  # the kind that it runs in
    body: Body | None  # of a sync job
    async_body: AsyncBody | None  # of an async one
    circuits: Circuits | None = None  # those that its jobs may name
    middleware: Middleware = Middleware()  # around what it enqueues

    @property
    def in_child(self) -> bool:
        """Whether it runs in a child process of its own."""
        return self.spec.executor == "process"


class Host(Protocol):
    """What a worker offers to the runs in it."""

    engine: Store
    clock: Clock
    settings: Settings
    events: Events
    rng: Random
    stopping: bool
    origin: Origin

    def note(self, run: JobRun, key: str, value: str | None, *, durable: bool = False) -> None:
        """Queue a note of the run."""
        ...

    def prolong(self, run: JobRun, ms: float) -> None:
        """Note that a run with a timeout has so much time from now on."""
        ...

    def defer(self, run: JobRun, delay_ms: int) -> int:
        """Give the wait of a retry that is due in ``delay_ms``: longer, where its queue has used up its budget."""
        ...


class Stand(Protocol):
    """Where a run has its slot; see ``worker.lane``."""

    slot: Slot
    ended: int
    last_start: float

    @property
    def is_low(self) -> bool: ...


class JobRun:
    """One claimed job on its way."""

    __slots__ = (
        "began_ns",
        "cancelled",
        "context",
        "deferred",
        "ended_ns",
        "error",
        "exited",
        "given",
        "host",
        "interrupted",
        "lane",
        "lease",
        "lost",
        "meta",
        "moved_at",
        "notebook",
        "outcome",
        "outlived",
        "passed",
        "prepared",
        "proven",
        "secrets",
        "settled",
        "settling",
        "slot",
        "stall",
        "timed_out",
        "took_ns",
        "verdict",
    )

    lane: Stand  # in whose slots it runs; set when it is put there

    def __init__(self, lease: Lease, prepared: Prepared, host: Host) -> None:
        self.lease = lease
        self.prepared = prepared
        self.host = host
        self.meta: Meta = NO_META if lease.meta is None else decode_meta(lease.meta)
        self.context: JobContext | None = None
        self.notebook: Notebook | None = None  # once it has noted something
        self.error: BaseException | None = None  # what the body raised
        self.exited: BaseException | None = None  # what a callback or task of the job raised to end its loop
        self.slot = -1  # its place in the slot table, once it has started and if it has a timeout
        self.moved_at = 0.0  # when it last made progress, on the monotonic clock; of no meaning before it has
        self.stall: Stall | None = None  # for which its time was up
        self.given = 0.0  # seconds that it got again, since others held the event loop
        self.began_ns = 0
        self.ended_ns = 0
        self.took_ns = 0  # of its slot, once it has ended
        self.secrets: tuple[str, ...] | None = None  # once something had to be masked
        self.outcome: Outcome | None = None  # once it has ended; None: a transaction of the job settled it
        self.deferred = False  # its retry waits longer, since the retry budget of its queue is used up
        self.cancelled = False  # a cancel was asked for
        self.interrupted = False  # the worker stops and cannot wait for it
        self.timed_out = False
        self.outlived = False  # it went on after its timeout, and its process has to end with it
        self.lost = False  # another worker owns it now
        self.proven = False  # that it gets on: it has noted something durably, so it has no crash charges
        self.settling = False  # a transaction of the job is about to settle it
        self.settled = False  # one has
        self.passed: Passed | None = None  # its circuit, in a thread, and is not counted there yet
        self.verdict: Verdict | None = None  # on the dependency of its circuit, where a child process ran it

    @property
    def spec(self) -> JobSpec:
        return self.prepared.spec

    @property
    def timeout_ms(self) -> int | None:
        """How long this run may take: what the call said, else the job."""
        return self.meta.timeout_ms if self.meta.timeout_ms is not None else self.prepared.spec.timeout_ms

    @property
    def stall_ms(self) -> int | None:
        """For how long it may make no progress: what the call said, else the job."""
        return self.meta.stall_ms if self.meta.stall_ms is not None else self.prepared.spec.stall_ms

    @property
    def on_stall(self) -> str:
        """What is done about it when it stalls: what the call said, else the job."""
        return self.meta.on_stall or self.prepared.spec.on_stall

    @property
    def redacts(self) -> bool:
        """Whether some arguments of this job may not be seen."""
        return bool(self.meta.redact or self.spec.redact)

    def hide(self, text: str) -> str:
        """Mask the redacted arguments in what the job says, before it is stored or logged."""
        if not self.redacts:
            return text
        if self.secrets is None:
            self.secrets = secrets_in(self.lease, self.spec)
        return hide(text, self.secrets)

    @property
    def origin(self) -> Origin:
        """Where this attempt runs, for its error."""
        host = self.host.origin
        version = self.prepared.spec.version or host.version
        return host if version == host.version else Origin(host.host, host.worker, version)

    # -- context.Run --

    @property
    def engine(self) -> Store:
        return self.host.engine

    @property
    def clock(self) -> Clock:
        return self.host.clock

    @property
    def settings(self) -> Settings:
        return self.host.settings

    @property
    def keep_ms(self) -> int | None:
        return self.meta.keep_ms if self.meta.keep_ms is not None else self.prepared.spec.keep_ms

    @property
    def stopping(self) -> bool:
        return self.host.stopping

    def around_enqueue(self, calls: Sequence[Call[object]]) -> AbstractContextManager[object]:
        """Enter the enqueue middleware of these calls."""
        return self.prepared.middleware.around_enqueue(calls)

    def workflow(self, facts: StepFacts) -> RunningWorkflow:
        """Give the workflow that this run is a step of."""
        return RunningWorkflow(facts, self.meta, self.lease.id, self.host.engine)

    def note(self, key: str, value: str | None, *, durable: bool = False) -> None:
        """Note a text of this job, or forget one (None). Never blocks. Raises as ``Notebook.put``."""
        self.open_notebook().put(key, value)
        self.note_moved()
        self.host.note(self, key, value, durable=durable)

    def open_notebook(self) -> Notebook:
        """Give what the job has noted, and this run of it."""
        with OPENING:
            if self.notebook is None:
                self.notebook = Notebook(self.lease.id, self.lease.notes)
            return self.notebook

    def note_proof(self) -> None:
        self.proven = True
        self.note_moved()

    def note_moved(self) -> None:
        self.moved_at = time.monotonic()

    def note_settling(self) -> None:
        self.settling = True

    def note_settled(self, settled: bool) -> None:
        self.settling, self.settled = False, settled
        if settled and self.context is not None:
            tell_enqueued(self.host.events, self.context.follow_ups)

    def prolong(self, ms: float) -> None:
        """Note that it has so much time from now on."""
        self.host.prolong(self, ms)
