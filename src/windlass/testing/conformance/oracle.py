"""A job store in plain Python: what the state machine compares engines with.

It must stay small enough to be read as the specification. It predicts facts, not choices: which jobs may be claimed,
not which of two equal ones comes first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from windlass.core.model import FINISHED, MINUTE_MS, Count, NewJob, Slot, State, Swap, Versioned, minute_of
from windlass.core.rows import Action, Recovery
from windlass.core.work import Kind, Outcome, Room, Rules

WAITING = State.SCHEDULED  # the model keeps ready as "scheduled and due"
# The total that an outcome counts in, also when the job ends cancelled instead of waiting again.
COUNTED = {
    Kind.DONE: "done",
    Kind.RETRY: "retried",
    Kind.DEAD: "dead",
    Kind.CANCELLED: "cancelled",
    Kind.SNOOZE: "",
    Kind.RELEASE: "",
    Kind.AWAIT: "",
    Kind.CRASH: "crashed",
}


@dataclass
class OracleJob:
    """One job. ``state`` is SCHEDULED for every waiting job; ``run_at`` says whether it is due."""

    id: str
    queue: str
    priority: int
    run_at: int
    max_attempts: int
    state: State = WAITING
    attempt: int = 0
    crashes: int = 0
    interruptions: int = 0
    snoozes: int = 0
    errors: int = 0
    fence: int = 0
    worker: str | None = None
    cancel: bool = False
    purge_at: int | None = None
    slot: Slot | None = None
    held: bool = False
    died_at: int = 0
    recoveries: int = 0
    notes: dict[str, str] = field(default_factory=dict)

    def note(self, key: str, value: str | None) -> None:
        """Write or remove a note."""
        if value is None:
            self.notes.pop(key, None)
        elif key:
            self.notes[key] = value


@dataclass
class Oracle:
    """The store. ``now`` is passed in; both clocks move together here."""

    rules: Rules
    jobs: dict[str, OracleJob] = field(default_factory=dict)
    workers: dict[str, int] = field(default_factory=dict)  # id -> when its lease ends
    paused: set[str] = field(default_factory=set)
    limits: dict[str, int] = field(default_factory=dict)  # how many of a queue may run at once
    fences: dict[str, int] = field(default_factory=dict)  # the last fence of an id, beyond its record
    documents: dict[str, tuple[Versioned, int | None]] = field(default_factory=dict)  # and when each is over
    versions: set[int] = field(default_factory=set)  # that were ever given
    totals: Counter[str] = field(default_factory=Counter)
    counts: Counter[tuple[str, int]] = field(default_factory=Counter)  # by series and minute

    def made(self, new: NewJob, now: int) -> OracleJob:
        """The record of a new job."""
        return OracleJob(new.id, new.queue, new.priority, now + new.delay_ms, new.max_attempts, slot=new.slot)

    def enqueue(self, new: NewJob, now: int) -> bool:
        """Store a job; false for a duplicate. A record past its time is none, though no sweep has met it yet."""
        old = self.jobs.get(new.id)
        if old is not None and (old.state is State.DEAD or not self.is_over(old, now)):
            return False
        self.jobs[new.id] = self.made(new, now)
        self.totals["enqueued"] += 1
        self.count(f"arrived:{new.queue}", now)
        return True

    def is_over(self, job: OracleJob, now: int) -> bool:
        """Whether a record is past its time."""
        return job.state in FINISHED and job.purge_at is not None and job.purge_at <= now

    def count(self, series: str, now: int, n: int = 1) -> None:
        self.counts[series, minute_of(None, now)] += n

    def counted(self, now: int, minutes: int) -> list[Count]:
        """What was counted in the present minute and so many before it, without what totals are made of."""
        first = minute_of(None, now) - minutes
        found = sorted((minute, series, n) for (series, minute), n in self.counts.items() if minute >= first)
        return [Count(series, n, minute * MINUTE_MS) for minute, series, n in found]

    def document(self, key: str, now: int) -> Versioned:
        """A document as it stands."""
        found, over = self.documents.get(key, (Versioned(key, 0, None), None))
        return found if over is None or over > now else Versioned(key, 0, None)

    def wins(self, swaps: tuple[Swap, ...], now: int) -> bool:
        """Whether each meets the version that it names, those before it done."""
        made: dict[str, int] = {}
        for one in swaps:
            if one.version != made.get(one.key, self.document(one.key, now).version):
                return False
            made[one.key] = 0 if one.value is None else -1
        return True

    def swapped(self, one: Swap, made: Versioned, now: int) -> bool:
        """Learn what a swap has made; false when its version is no new one."""
        if one.value is None:
            self.documents.pop(one.key, None)
            return made == Versioned(one.key, 0, None)
        self.documents[one.key] = made, None if one.ttl_ms is None else now + one.ttl_ms
        fresh = made.version > 0 and made.version not in self.versions
        self.versions.add(made.version)
        return fresh and (made.key, made.value) == (one.key, one.value)

    def live(self, worker: str, now: int) -> bool:
        return self.workers.get(worker, now) > now

    def claimable(self, now: int, queues: tuple[str, ...] | None, alone: bool) -> set[str]:
        return {
            job.id
            for job in self.jobs.values()
            if job.state is WAITING
            and job.run_at <= now
            and job.queue not in self.paused
            and (queues is None or job.queue in queues)
            and (job.crashes >= 2) == alone
        }

    def expire(self, ids: tuple[str, ...], now: int) -> bool:
        """End jobs whose time to start is over; false when it is not. Here none has such a time."""
        return not ids

    def gives(self, open_to: set[str]) -> int:
        """How many of the jobs that may be claimed the limits of their queues let go."""
        running = Counter(job.queue for job in self.jobs.values() if job.state is State.RUNNING)
        waiting = Counter(self.jobs[job_id].queue for job_id in open_to)
        return sum(
            count if queue not in self.limits else max(0, min(count, self.limits[queue] - running[queue]))
            for queue, count in waiting.items()
        )

    def fits(self, got: list[str], rooms: tuple[Room, ...]) -> bool:
        """Whether a worker had room for these jobs; those of an unknown kind take free slots of either."""
        counts = Counter(self.jobs[job_id].slot for job_id in got)
        free = 0
        for room in rooms:
            count = counts.pop(room.slot, 0)
            if count > room.free + room.ahead:
                return False
            free += room.free
        return counts.pop(None, 0) <= free and not counts

    def owed(self, open_to: set[str], rooms: tuple[Room, ...]) -> int:
        """How many of the jobs the rooms let go, where no queue has a limit and the kinds of all are known."""
        caps = {room.slot: room.free + room.ahead for room in rooms}
        counts = Counter(self.jobs[job_id].slot for job_id in open_to)
        return sum(min(count, caps.get(slot, 0)) for slot, count in counts.items() if slot is not None)

    def claimed(self, job_id: str, worker: str, fence: int, held: bool, now: int) -> None:
        job = self.jobs[job_id]
        self.count(f"claimed:{job.queue}", now)
        job.state, job.worker, job.fence, job.held = State.RUNNING, worker, fence, held
        job.attempt += 1
        self.fences[job_id] = fence

    def owned(self, job_id: str, fence: int) -> OracleJob | None:
        job = self.jobs.get(job_id)
        return job if job is not None and job.state is State.RUNNING and job.fence == fence else None

    def held(self, worker: str) -> list[OracleJob]:
        return [job for job in self.jobs.values() if job.state is State.RUNNING and job.worker == worker]

    def finish(self, job: OracleJob, state: State, now: int, keep_ms: int | None = None) -> None:
        job.state, job.worker, job.cancel = state, None, False
        if keep_ms is None:
            keep_ms = self.rules.dead_keep_ms if state is State.DEAD else self.rules.keep_done_ms
        job.purge_at = None if keep_ms is None else now + keep_ms
        job.died_at = now

    def wait_unless_cancelled(self, job: OracleJob, now: int, delay_ms: int | None = None) -> None:
        """Let a job wait again; one whose cancel was asked for ends instead."""
        if job.cancel:
            self.finish(job, State.CANCELLED, now)
            return
        job.state, job.worker = WAITING, None
        if delay_ms is not None:
            job.run_at = now + delay_ms

    def settle(self, outcome: Outcome, now: int) -> bool:
        """End an attempt; false when stale."""
        job = self.owned(outcome.id, outcome.fence)
        if job is None:
            self.totals["stale"] += 1
            return False
        self.totals[COUNTED[outcome.kind]] += 1
        job.errors += outcome.error is not None
        for key, value in outcome.notes:
            job.note(key, value)
        if outcome.slot is not None and outcome.kind not in {Kind.DONE, Kind.DEAD, Kind.CANCELLED}:
            job.slot = outcome.slot
        match outcome.kind:
            case Kind.DONE | Kind.DEAD | Kind.CANCELLED:
                self.finish(job, State(outcome.kind.value), now, outcome.keep_ms)
            case Kind.RETRY:
                self.wait_unless_cancelled(job, now, outcome.delay_ms)
            case Kind.SNOOZE:
                job.attempt -= 1
                job.snoozes += 1
                self.wait_unless_cancelled(job, now, outcome.delay_ms)
            case Kind.RELEASE | Kind.AWAIT:  # one that waits for nothing is given back
                job.attempt -= 1
                job.interruptions += outcome.interrupted
                self.wait_unless_cancelled(job, now)
            case Kind.CRASH:
                job.attempt -= 1
                job.crashes += 1
                self.wait_unless_cancelled(job, now, outcome.delay_ms)
        return True

    def depart(self, worker: str, now: int) -> set[str]:
        """Release what a worker holds as interrupted; give the ids."""
        held = self.held(worker)
        for job in held:
            job.attempt -= 1
            job.interruptions += 1
            self.wait_unless_cancelled(job, now)
        self.workers.pop(worker, None)
        return {job.id for job in held}

    def bury(self, worker: str, started: set[int], now: int) -> tuple[set[str], set[str], set[str]]:
        """Charge the started ones; give released, charged and dead."""
        released, charged, dead = set[str](), set[str](), set[str]()
        for job in self.held(worker):
            job.attempt -= 1
            if job.fence not in started:
                released.add(job.id)
                self.wait_unless_cancelled(job, now)
                continue
            job.crashes += 1
            job.errors += 1
            self.totals["crashed"] += 1
            if job.crashes >= self.rules.max_crashes and not job.cancel:
                dead.add(job.id)
                self.totals["dead"] += 1
                self.finish(job, State.DEAD, now)
                continue
            charged.add(job.id)
            doubled = min(self.rules.crash_delay_max_ms, self.rules.crash_delay_ms * 2 ** (job.crashes - 2))
            self.wait_unless_cancelled(job, now, int(doubled) if job.crashes >= 2 else None)
        self.totals["recovered"] += sum(self.jobs[job_id].state is WAITING for job_id in released | charged)
        self.workers.pop(worker, None)
        return released, charged, dead

    def maintain(self, now: int) -> tuple[set[str], set[str]]:
        """Reap and prune; give the ids that came back and those that died."""
        recovered, died = set[str](), set[str]()
        for worker in [w for w, end in self.workers.items() if end <= now]:
            del self.workers[worker]
            for job in self.held(worker):
                job.interruptions += 1
                spent = False
                if job.interruptions <= self.rules.max_interruptions:
                    job.attempt -= 1
                else:
                    job.errors += 1
                    spent = job.attempt >= job.max_attempts
                if spent and not job.cancel:
                    died.add(job.id)
                    self.totals["dead"] += 1
                    self.finish(job, State.DEAD, now)
                    continue
                self.wait_unless_cancelled(job, now)
                if job.state is WAITING:
                    recovered.add(job.id)
                    self.totals["recovered"] += 1
        for job in list(self.jobs.values()):
            if self.is_over(job, now):
                del self.jobs[job.id]
                self.totals["trimmed"] += job.state is State.DEAD
        return recovered, died

    def that_wait(self, queue: str) -> set[str]:
        """The jobs of a queue that have not begun and not ended."""
        return {job.id for job in self.jobs.values() if job.state in {WAITING, State.BLOCKED} and job.queue == queue}

    def recoverable(self, rule: Recovery, now: int) -> set[str]:
        """The dead jobs that a rule is about, where it names what all of them died of."""
        return {
            job.id
            for job in self.jobs.values()
            if job.state is State.DEAD and job.died_at + rule.after_ms <= now and job.recoveries < rule.attempts
        }

    def act(
        self,
        action: Action,
        job_id: str,
        before: State | None,
        now: int,
        death: int | None = None,
        *,
        by_rule: bool = False,
    ) -> bool:
        """Apply an action, given the state that the engine saw; false when it is refused.

        ``death`` is the fence that a dead job is named by.
        """
        job = self.jobs.get(job_id)
        if job is None or before is None:
            return False
        if death is not None and (job.state is not State.DEAD or job.fence != death):
            return False
        match action:
            case Action.CANCEL if before is State.RUNNING:
                job.cancel = True
            case Action.CANCEL | Action.SKIP if before not in {*FINISHED, State.RUNNING}:
                self.totals["cancelled"] += 1
                self.finish(job, State.CANCELLED, now)
            case Action.RETRY if before in {State.DEAD, State.CANCELLED, State.SCHEDULED}:
                job.state, job.run_at = WAITING, now
                job.attempt = job.crashes = job.interruptions = job.snoozes = 0
                job.recoveries = job.recoveries + 1 if by_rule else 0
            case Action.DELETE | Action.DISCARD | Action.TRIM if before is not State.RUNNING:
                del self.jobs[job_id]
                self.totals["trimmed"] += action is Action.TRIM
            case _:
                return False
        return True
