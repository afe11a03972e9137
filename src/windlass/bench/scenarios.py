"""The measurements, by name. Each makes its own store and gives figures with their units.

What is measured, and between which two instants, is said in each docstring and printed beside the figure. Start-up of
processes is never part of a figure.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from msgspec import Struct

from windlass.app import Windlass
from windlass.bench.jobs import QUEUE, AsyncJobs, SyncJobs
from windlass.bench.lab import Lab, last_settle
from windlass.core.clock import from_ms
from windlass.core.errors import ConfigError
from windlass.core.ids import new_id
from windlass.core.work import Kind, LeaseRef, Outcome, Want, WorkerInfo
from windlass.flow.chain import chain
from windlass.jobs.call import Call

__all__ = ["SCENARIOS", "Figure"]

NAP: Final = 0.05  # seconds
NAP_SLOTS: Final = 50
PROCESSES: Final = (1, 2)
CLAIM: Final = 100  # jobs per claim in the backlog measurement
LEASE_MS: Final = 600_000


class Figure(Struct, frozen=True):
    """One measured number."""

    scenario: str
    name: str
    value: float
    unit: str
    how: str


def enqueue(lab: Lab) -> Iterator[Figure]:
    """``enqueue`` one by one in one thread: one commit each."""
    count = max(1, min(lab.jobs, 500 if lab.quick else 5_000))
    with lab.store() as app:
        noop = SyncJobs(app).noop
        began = time.perf_counter()
        for number in range(count):
            noop.enqueue(number)
        took = time.perf_counter() - began
    yield Figure("enqueue", "one by one", count / took, "jobs/s", f"{count:,} calls in one thread")


def enqueue_many(lab: Lab) -> Iterator[Figure]:
    """``enqueue_many``, with and without the time to make the calls."""
    with lab.store() as app:
        noop = SyncJobs(app).noop
        began = time.perf_counter()
        calls = [noop.bind(number) for number in range(lab.jobs)]
        bound = time.perf_counter()
        app.enqueue_many(calls)
        ended = time.perf_counter()
    yield Figure("enqueue-many", "store", lab.jobs / (ended - bound), "jobs/s", f"{lab.jobs:,} calls made before")
    yield Figure("enqueue-many", "make and store", lab.jobs / (ended - began), "jobs/s", "bind() included")


def drain_sync(lab: Lab) -> Iterator[Figure]:
    """No-op sync jobs, from the opening of the queue to the last settle."""
    for processes in PROCESSES:
        with lab.store() as app:
            noop = SyncJobs(app).noop
            took = _drain(lab, app, [noop.bind(n) for n in range(lab.jobs)], "sync_app", processes=processes)
        yield _drained("drain-sync", lab.jobs, took, processes)


def drain_async(lab: Lab) -> Iterator[Figure]:
    """No-op async jobs, from the opening of the queue to the last settle."""
    for processes in PROCESSES:
        with lab.store() as app:
            noop = AsyncJobs(app).noop
            took = _drain(lab, app, [noop.bind(n) for n in range(lab.jobs)], "async_app", processes=processes)
        yield _drained("drain-async", lab.jobs, took, processes)


def flows(lab: Lab) -> Iterator[Figure]:
    """Chains of two, and a batch with a callback, from the opening of the queue to the last settle."""
    for name in ("chains of two", "batch"):
        with lab.store() as app:
            noop = SyncJobs(app).noop
            app.queue(QUEUE).pause("until the worker is up")
            if name == "batch":
                with app.batch("bench", on_complete=noop.bind(0)) as batch:
                    for number in range(lab.jobs):
                        batch.add(noop.bind(number))
                last = batch.callbacks["on_complete"].id
            else:
                for number in range(lab.jobs // 2):
                    last = chain(noop.bind(number), noop.bind()).enqueue().id
            with lab.worker(app, "sync_app"):
                took = lab.open_and_drain(app, last)
        yield Figure("flows", name, lab.jobs / took, "jobs/s", f"{lab.jobs:,} no-op jobs, 1 process")


def latency(lab: Lab) -> Iterator[Figure]:
    """One job on an idle worker, from the call of ``enqueue`` to the first line of the job."""
    count = 20 if lab.quick else 200
    delays: list[float] = []
    with lab.store() as app, lab.worker(app, "sync_app"):
        since = SyncJobs(app).since
        for _ in range(count):
            time.sleep(NAP / 5)  # let the worker fall asleep
            delays.append(since.enqueue(time.monotonic_ns()).result(timeout="30s") / 1e6)
    how = f"{count} jobs, enqueue call to job body"
    yield Figure("latency", "p50", statistics.median(delays), "ms", how)
    yield Figure("latency", "p99", statistics.quantiles(delays, n=100, method="inclusive")[98], "ms", how)


def sleep(lab: Lab) -> Iterator[Figure]:
    """Jobs that sleep 50 ms on 50 slots: the share of what 50 slots could do."""
    count = 200 if lab.quick else 2_000
    ideal = count * NAP / NAP_SLOTS
    with lab.store() as app:
        nap = SyncJobs(app).nap
        took = _drain(lab, app, [nap.bind(NAP) for _ in range(count)], "sync_app", threads=NAP_SLOTS)
    yield Figure("sleep", f"{NAP_SLOTS} threads", 100 * ideal / took, "% of ideal", f"{count:,} jobs of 50 ms")
    with lab.store() as app:
        anap = AsyncJobs(app).nap
        took = _drain(lab, app, [anap.bind(NAP) for _ in range(count)], "async_app", async_slots=NAP_SLOTS)
    yield Figure("sleep", f"{NAP_SLOTS} async slots", 100 * ideal / took, "% of ideal", f"{count:,} jobs of 50 ms")


def due(lab: Lab) -> Iterator[Figure]:
    """Jobs that are all due at one instant, from that instant to the last settle."""
    count = 500 if lab.quick else 5_000
    with lab.store() as app, lab.worker(app, "sync_app"):
        noop = SyncJobs(app).noop
        instant = from_ms(app.clock.wall_ms()) + timedelta(seconds=2)
        handles = app.enqueue_many(noop.options(at=instant).bind(number) for number in range(count))
        lab.wait_done(app, handles[-1].id)
        late = last_settle(app, count) - instant.timestamp() * 1_000
    yield Figure("due", "last one done", late, "ms", f"{count:,} no-op jobs, after the instant they are due")


def idle(lab: Lab) -> Iterator[Figure]:
    """What an idle worker process uses. Needs ``/proc``."""
    if not Path("/proc/self/task").is_dir():
        raise ConfigError("--scenario idle reads /proc, which this system does not have; leave it out")
    pause = 1.0 if lab.quick else 15.0
    with lab.store() as app, lab.worker(app, "sync_app") as processes:
        pid = processes[0].pid
        time.sleep(pause / 5)
        before, began = _used(pid), time.monotonic()
        time.sleep(pause)
        after, took = _used(pid), time.monotonic() - began
        rss = _status(Path(f"/proc/{pid}/status"), "VmRSS") / 1024
    how = f"one process over {pause:g} s"
    yield Figure("idle", "CPU", 100 * (after[0] - before[0]) / took, "% of a core", how)
    yield Figure("idle", "wake-ups", (after[1] - before[1]) / took, "per s", f"voluntary switches, all threads, {how}")
    yield Figure("idle", "memory", rss, "MiB", "resident, pages shared with the zygote included")


def backlog(lab: Lab) -> Iterator[Figure]:
    """The cost of a claim with few and with many jobs waiting: it should not grow."""
    costs = []
    for waiting in (1_000, 20_000 if lab.quick else 200_000):
        with lab.store() as app:
            noop = SyncJobs(app).noop
            app.enqueue_stream(noop.bind(number) for number in range(waiting))
            costs.append(_claim_cost(app, 20 if lab.quick else 200))
        yield Figure(
            "backlog", f"{waiting:,} waiting", costs[-1], "µs/job", f"median claim of {CLAIM}, given back each time"
        )
    yield Figure("backlog", "many to few", costs[1] / costs[0], "x", "1.00 is flat")


def queues(lab: Lab) -> Iterator[Figure]:
    """The cost of a claim with names that were used once, and with many busy queues: neither should count."""
    many = 1_000 if lab.quick else 10_000
    costs = []
    for names, busy in dict.fromkeys([(1, 1), (100, 1), (1_000, 1), (many, 1), (many, many // 10)]):
        with lab.store() as app:
            noop = SyncJobs(app).noop
            used = app.enqueue_many(noop.options(queue=f"used-{n}").bind(n) for n in range(names - busy))
            app.delete([handle.id for handle in used])
            app.enqueue_many(noop.options(queue=f"busy-{n % busy}").bind(n) for n in range(20 * CLAIM))
            costs.append(_claim_cost(app, 20 if lab.quick else 200))
        name = f"{names:,} known, {busy:,} busy"
        yield Figure("queues", name, costs[-1], "µs/job", f"median claim of {CLAIM}, given back each time")
    yield Figure("queues", "many busy to one", costs[-1] / costs[0], "x", "the work in many queues, and in one")


SCENARIOS: Final[dict[str, Callable[[Lab], Iterator[Figure]]]] = {
    "enqueue": enqueue,
    "enqueue-many": enqueue_many,
    "drain-sync": drain_sync,
    "drain-async": drain_async,
    "flows": flows,
    "latency": latency,
    "sleep": sleep,
    "due": due,
    "idle": idle,
    "backlog": backlog,
    "queues": queues,
}


def _drain(
    lab: Lab,
    app: Windlass,
    calls: Sequence[Call[None]],
    kind: str,
    *,
    processes: int = 1,
    threads: int = 10,
    async_slots: int = 100,
) -> float:
    """Store the calls in a paused queue, start a worker, open the queue; give the seconds until all are settled."""
    app.queue(QUEUE).pause("until the worker is up")
    last = app.enqueue_many(calls)[-1].id
    with lab.worker(app, kind, processes=processes, threads=threads, async_slots=async_slots):
        return lab.open_and_drain(app, last)


def _drained(scenario: str, count: int, took: float, processes: int) -> Figure:
    name = f"{processes} process{'es' if processes > 1 else ''}"
    return Figure(scenario, name, count / took, "jobs/s", f"{count:,} no-op jobs, queue opened to last settle")


def _claim_cost(app: Windlass, rounds: int) -> float:
    """The median cost of a claim in µs a job."""
    engine = app.engine
    me = WorkerInfo(new_id(), new_id(), "bench", os.getpid(), "*", CLAIM, "", app.clock.wall_ms())
    engine.extend(me, list[LeaseRef](), LEASE_MS)
    costs = []
    for _ in range(rounds):
        began = time.perf_counter()
        leases = engine.claim(Want(me.id, CLAIM)).leases
        costs.append((time.perf_counter() - began) / len(leases) * 1e6)
        engine.settle([Outcome(lease.id, lease.fence, Kind.RELEASE) for lease in leases])
    engine.depart(me.id)
    return statistics.median(costs)


def _used(pid: int) -> tuple[float, int]:
    """What a process has used so far: seconds of CPU, and how often its threads went to sleep."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    switches = (_status(task / "status", "voluntary_ctxt_switches") for task in Path(f"/proc/{pid}/task").iterdir())
    return ticks / os.sysconf("SC_CLK_TCK"), sum(switches)


def _status(file: Path, key: str) -> int:
    for line in file.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise KeyError(key)
