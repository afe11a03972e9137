"""Break a fleet of real workers on a seeded schedule, and check afterwards what it did against what it owed.

The parts: ``Fleet`` starts workers and keeps account of what was asked of them; ``Nemesis`` is the schedule of faults;
``Ledger`` reads what ran, from files that no engine wrote; ``check`` holds it against what was acknowledged, in the
manner of Jepsen's total-queue checker. Nothing here knows an engine: it looks through the public API and the Inspector.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from types import SimpleNamespace

import apsw

from faults import jobs
from kit import fleet as kit
from kit.fleet import Process, group_of
from kit.waiting import elapse
from windlass import JobInfo, Windlass
from windlass.core.model import State
from windlass.core.rows import JobRow

SHORT: dict[str, str | int] = {
    "lease": "10s",  # a live worker keeps it on any machine; where its end is what a test is about, it is shorter
    "renew": "500ms",
    "reap": "300ms",
    "poll_min": "100ms",
    "poll_max": "500ms",
    "shutdown_timeout": "1s",
    "keep_done": "3h",
    "keep_done_max": "none",
}
NS = 1_000_000_000
OF_THE_SERVER = {"advisories", "access", "disk"}  # what the doctor says of the machine, and no fault here changes


# -- the fleet --


@dataclass
class Kill:
    """One worker process that was killed: when, and when the store had let go of its jobs."""

    pid: int
    worker: str
    at: int  # ns, monotonic
    freed: int = 0

    @property
    def seconds_to_free(self) -> float:
        return (self.freed - self.at) / NS


class Fleet(kit.Fleet):
    """Worker trees (supervisor, zygote, worker processes) on one store, and a client of it."""

    def __init__(self, url: str, folder: Path, **settings: str | int) -> None:
        self.settings = {**SHORT, **settings}
        variables = {f"WINDLASS_{key.upper()}": str(value) for key, value in self.settings.items()}
        variables |= {"WINDLASS_URL": url, "FLEET_DIR": str(folder), "PYTHONUNBUFFERED": "1"}
        super().__init__(folder, url, "faults.worker_app:app", **variables)
        self.kills: list[Kill] = []
        self.suspended: set[int] = set()
        self.acked: list[str] = []
        self.attempted = 0
        self.app = Windlass(url, **self.settings)  # type: ignore[arg-type]
        self.jobs: SimpleNamespace = jobs.install(self.app)
        jobs.open_sink(str(folder)).close()  # made here, so that no two processes make it at once

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.app.close()

    def start(self, *options: str, processes: int = 1, threads: int = 4, **env: str) -> Process:  # type: ignore[override]
        """Start one more tree. ``env`` is added to its environment."""
        slots = "-p", str(processes), "-c", str(threads), "--async-slots", str(threads)
        return super().start(*slots, *options, **env)

    def start_ready(self, *options: str, processes: int = 1, threads: int = 4, **env: str) -> Process:
        """Start one more tree and wait until its workers are registered."""
        have = {worker.id for worker in self.app.workers()}
        tree = self.start(*options, processes=processes, threads=threads, **env)
        self.until(
            lambda: len({worker.id for worker in self.app.workers()} - have) >= processes or not tree.runs,
            f"{processes} workers to register",
        )
        assert tree.runs, self.last_words()
        return tree

    def enqueue(self, name: str, *args: object, times: int = 1) -> list[str]:
        """Enqueue a job; its ids count as acknowledged from here on."""
        self.attempted += times
        job = getattr(self.jobs, name)
        handles = self.app.enqueue_many([job.bind(*args) for _ in range(times)])
        ids = [handle.id for handle in handles]
        self.acked += ids
        return ids

    def worker_pids(self, tree: Process | None = None) -> dict[int, str]:
        """Process ids of live worker processes, with their worker ids."""
        found = {}
        for worker in self.app.workers():
            group = group_of(worker.pid)
            if group is not None and (tree is None or group == tree.pid):
                found[worker.pid] = worker.id
        return found

    def kill_worker(self, pid: int) -> Kill:
        """SIGKILL one worker process, and wait until its supervisor has freed its jobs."""
        worker = self.worker_pids()[pid]
        kill = Kill(pid, worker, time.monotonic_ns())
        os.kill(pid, signal.SIGKILL)
        self.kills.append(kill)
        self.await_freed([kill])
        return kill

    def kill_tree(self, tree: Process) -> list[Kill]:
        """SIGKILL a whole tree; nobody is left to tell the store."""
        pids = self.worker_pids(tree)
        now = time.monotonic_ns()
        tree.kill_all()
        kills = [Kill(pid, worker, now) for pid, worker in pids.items()]
        self.kills += kills
        return kills

    def await_freed(self, kills: Iterable[Kill]) -> None:
        """Wait until the store has let go of what these workers held."""
        for kill in kills:
            self.until(
                lambda worker=kill.worker: worker not in {one.id for one in self.app.workers()},  # type: ignore[misc]
                f"the jobs of worker {kill.worker} to be free",
            )
            kill.freed = time.monotonic_ns()

    @contextlib.contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """Hold a process with SIGSTOP for the length of the block; not in the middle of a write to SQLite.

        There it would hold the file's one writer, and no store can do anything about that.
        """
        self.suspended.add(pid)
        os.kill(pid, signal.SIGSTOP)
        while not self._writable():
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.01)
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _writable(self) -> bool:
        """Whether nobody has held the writer of the file for a second."""
        if not self.url.startswith("sqlite:"):
            return True
        with contextlib.closing(apsw.Connection(self.url.removeprefix("sqlite:///"))) as db:
            db.set_busy_timeout(1_000)
            try:
                db.execute("BEGIN IMMEDIATE; ROLLBACK")
            except apsw.BusyError:
                return False
            return True

    def info(self, job: str) -> JobInfo:
        found = self.app.get(job)
        assert found is not None, job
        return found

    def row(self, job: str) -> JobRow:
        """All that the store has of a job."""
        found = self.app.engine.job(job)
        assert found is not None, job
        return found

    def open_jobs(self) -> int:
        """How many jobs have not ended."""
        counts = self.app.stats()
        return counts["ready"] + counts["scheduled"] + counts["blocked"] + counts["running"]

    def drain(self) -> None:
        """Wait until every job has ended."""
        self.until_none(self.open_jobs, "every job to end")

    def runs(self) -> list[Run]:
        return Ledger(self.folder).runs()

    def running_on(self) -> dict[int, list[Run]]:
        """Runs that have begun and not ended, by process id."""
        found: dict[int, list[Run]] = defaultdict(list)
        for run in self.runs():
            if run.ended is None:
                found[run.pid].append(run)
        return found


# -- faults --


@dataclass(frozen=True)
class Fault:
    """At ``t`` seconds hit target number ``target`` (modulo how many there are) with ``what``."""

    t: float
    what: str
    target: int


class Nemesis:
    """A schedule of faults, the same for the same seed."""

    def __init__(self, seed: int, count: int, kinds: tuple[str, ...], *, least: float, most: float) -> None:
        """``least`` and ``most`` bound the seconds between two faults."""
        rng = Random(seed)
        t = 0.0
        self.faults: list[Fault] = []
        for _ in range(count):
            t += rng.uniform(least, most)
            self.faults.append(Fault(t, rng.choice(kinds), rng.randrange(1_000)))

    def run(self, hit: Callable[[Fault], None]) -> None:
        """Let each fault happen at its time, or as soon after it as the last one is over."""
        began = time.monotonic()
        for fault in self.faults:
            elapse(max(0.0, began + fault.t - time.monotonic()))
            hit(fault)


# -- what happened --


@dataclass
class Run:
    """One execution of a job, as the ledger has it."""

    job: str
    attempt: int
    fence: int
    pid: int
    began: int  # ns, monotonic
    ended: int | None = None


class Ledger:
    """Reads what the processes of a fleet wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def runs(self) -> list[Run]:
        """All executions, oldest first."""
        runs: dict[tuple[str, int], Run] = {}
        for file in self.folder.glob("ledger-*.log"):
            for line in file.read_text().splitlines():
                mark, job, attempt, fence, pid, at = line.split()
                key = (job, int(fence))
                if mark == "S":
                    assert key not in runs, f"job {job} began twice under one fence {fence}"
                    runs[key] = Run(job, int(attempt), int(fence), int(pid), int(at))
                else:
                    runs[key].ended = int(at)
        return sorted(runs.values(), key=lambda run: run.began)


@dataclass
class Verdict:
    """What a fleet owed and what it did."""

    attempted: int
    acked: int
    executed: int
    runs: int
    lost: set[str]  # acknowledged, and neither run to its end nor dead nor cancelled
    unexpected: set[str]  # run, and never acknowledged
    recovered: set[str]  # run, tried to enqueue, not acknowledged
    duplicated: int  # executions beyond one per job and attempt
    overlaps: int  # two runs of one job at one time, both in processes that nobody had stopped
    excused: int  # the same, the older one in a process that was stopped past its lease
    doubled: int  # accepted results beyond one per job
    stale: int  # settles that the store refused
    fences_fell: int
    dead: int
    retried: int  # attempts that failed and ran again
    ghosts: list[str]
    repeats: Counter[int] = field(default_factory=Counter)  # by process id that was killed
    rerun: list[float] = field(default_factory=list)  # seconds from a kill to the next run of a job it cut short
    freed: list[float] = field(default_factory=list)  # seconds from a kill to the store letting go

    def assert_safe(self) -> None:
        """What holds in every run, whatever was broken."""
        assert not self.lost, self
        assert not self.unexpected, self
        assert self.overlaps == 0, self
        assert self.doubled == 0, self
        assert self.fences_fell == 0, self
        assert not self.ghosts, self

    def __str__(self) -> str:
        return (
            f"acked {self.acked}, executed {self.executed} in {self.runs} runs, lost {len(self.lost)}, "
            f"unexpected {len(self.unexpected)}, recovered {len(self.recovered)}, duplicated {self.duplicated}, "
            f"overlap {self.overlaps} (+{self.excused} in stopped processes), accepted twice {self.doubled}, "
            f"stale settles refused {self.stale}, dead {self.dead}, retried {self.retried}, ghosts {len(self.ghosts)}"
            + (f"; dups per kill max {max(self.repeats.values(), default=0)}" if self.repeats or self.freed else "")
            + (f"; claimable again {spread(self.freed)}" if self.freed else "")
            + (f"; run again {spread(self.rerun)}" if self.rerun else "")
        )


def spread(seconds: list[float]) -> str:
    """Median, 99th percentile and maximum."""
    ranked = sorted(seconds)
    return f"p50 {at(ranked, 0.5):.3f} s p99 {at(ranked, 0.99):.3f} s max {ranked[-1]:.3f} s"


def at(ranked: list[float], part: float) -> float:
    return ranked[min(len(ranked) - 1, int(part * len(ranked)))]


def check(fleet: Fleet, unacked: Iterable[str] = ()) -> Verdict:
    """Hold the ledger against what was acknowledged and against the store, after the drain.

    ``unacked`` are ids whose enqueue began and never answered.
    """
    runs = fleet.runs()
    acked, tried = set(fleet.acked), set(unacked)
    counts = fleet.app.stats()
    by_job: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_job[run.job].append(run)
    finished = {run.job for run in runs if run.ended is not None}
    lost = {job for job in acked - finished if not has_ended(fleet.app, job)}
    ghosts = [
        f"{found.check}: {found.message}"
        for found in fleet.app.engine.doctor()
        if found.level in ("warning", "error") and found.check not in OF_THE_SERVER
    ]
    open_jobs = fleet.open_jobs()
    if open_jobs:
        ghosts.append(f"{open_jobs} jobs are still open after the drain")
    overlaps, excused = overlapping(by_job, fleet)
    # One attempt that ended well is one accepted result; the store's own count against the jobs that are done.
    doubled = counts["total_done"] - counts["done"]
    verdict = Verdict(
        attempted=fleet.attempted,
        acked=len(acked),
        executed=len(by_job),
        runs=len(runs),
        lost=lost,
        unexpected=set(by_job) - acked - tried,
        recovered=set(by_job) & (tried - acked),
        duplicated=sum(n - 1 for n in Counter((run.job, run.attempt) for run in runs).values()),
        overlaps=overlaps,
        excused=excused,
        doubled=doubled,
        stale=counts["total_stale"],
        fences_fell=sum(later.fence <= run.fence for each in by_job.values() for run, later in pairs(each)),
        dead=counts["dead"],
        retried=counts["total_retried"],
        ghosts=ghosts,
    )
    for kill in fleet.kills:
        if kill.freed:
            verdict.freed.append(kill.seconds_to_free)
        for run in runs:
            if run.pid != kill.pid:
                continue
            again = [later for later in by_job[run.job] if later.fence > run.fence and later.attempt == run.attempt]
            if again:
                verdict.repeats[kill.pid] += 1
                if run.ended is None:
                    verdict.rerun.append((again[0].began - kill.at) / NS)
    return verdict


def has_ended(app: Windlass, job: str) -> bool:
    """Whether a job that the ledger does not show as run to its end is accounted for all the same."""
    info = app.get(job)
    if info is None:
        return False
    # A job that completes itself in a transaction is done before its body ends; what it wrote is looked at elsewhere.
    return info.state in (State.DEAD, State.CANCELLED) or (info.state is State.DONE and info.name == "book")


def pairs(runs: list[Run]) -> Iterator[tuple[Run, Run]]:
    """Each run of a job with the one that began next."""
    return pairwise(runs)


def overlapping(by_job: Mapping[str, list[Run]], fleet: Fleet) -> tuple[int, int]:
    """Runs of one job that were on at one time: in healthy processes, and where the older one had been stopped."""
    died = {kill.pid: kill.at for kill in fleet.kills}
    bad = excused = 0
    for runs in by_job.values():
        for run, later in pairs(runs):
            # A run without an end stopped with its process; when that was not our doing, it is taken as at its start.
            end = run.ended if run.ended is not None else died.get(run.pid, run.began)
            if later.began < end:
                if run.pid in fleet.suspended:
                    excused += 1
                else:
                    bad += 1
    return bad, excused


# -- the sink --


class Sink:
    """The effects that the jobs had."""

    def __init__(self, folder: Path) -> None:
        self.db = jobs.open_sink(str(folder))

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    def keys(self) -> set[str]:
        """Keys that had their effect. The primary key makes it once each."""
        return {str(key) for (key,) in self.db.execute("SELECT key FROM effects")}

    def verdicts(self) -> Counter[str]:
        """How many visits were ``first``, ``again``, ``refused``."""
        return Counter({str(what): int(str(n)) for what, n in self.db.execute(VERDICTS)})


VERDICTS = "SELECT verdict, count(*) FROM visits GROUP BY verdict"
