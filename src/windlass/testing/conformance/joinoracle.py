"""Joins in plain Python: what the state machine for joins compares engines with.

It asks ``core.join.decide`` and nothing else. How a member has ended is read off the records after every write, so it
cannot matter which verb ended one; who waits is decided until nothing moves any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from windlass.core.join import SKIPPED, Tally, decide
from windlass.core.model import FINISHED, NewJob, NewJoin, State, Wait
from windlass.core.rows import Action
from windlass.core.work import Kind, Outcome, Rules
from windlass.testing.conformance.oracle import WAITING, Oracle, OracleJob

__all__ = ["JoinOracle", "TiedJob"]

LOOK_AGAIN_MS = 3_600_000  # at a join that is kept for a dead member


@dataclass
class TiedJob(OracleJob):
    """A job that may wait for a join: blocked, or skipped and kept in mind."""

    wait: Wait | None = None
    wait_ms: int = 0  # how long it waits on when it goes on
    expires_ms: int | None = None
    expires_at: int | None = None
    reason: str | None = None

    @property
    def is_skipped(self) -> bool:
        return self.state is State.CANCELLED and self.reason == SKIPPED

    def go_on(self, now: int) -> None:
        """Wait for nothing but the time."""
        self.state, self.reason, self.wait = WAITING, None, None
        self.run_at = max(self.run_at, now + self.wait_ms)
        self.count_to_expiry(self.run_at)

    def block(self) -> None:
        """Wait for the join: until then nobody knows when it is due, so it does not expire."""
        self.state, self.reason, self.expires_at = State.BLOCKED, None, None

    def count_to_expiry(self, due: int) -> None:
        self.expires_at = None if self.expires_ms is None else due + self.expires_ms


@dataclass
class Member:
    """A record, and how it has ended."""

    record: OracleJob | None
    verdict: State | None


@dataclass
class OracleJoin:
    """A join."""

    new: NewJoin
    sealed: bool
    members: dict[str, Member] = field(default_factory=dict)
    ended_at: int | None = None
    kept_to: int | None = None  # for a dead member
    watch_at: int = 0

    def is_over(self, now: int) -> bool:
        """Whether its time has come; one with a home goes with that."""
        if self.ended_at is None or self.new.home is not None:
            return False
        return now >= (self.ended_at + self.new.keep_ms if self.kept_to is None else self.kept_to)

    @property
    def tally(self) -> Tally:
        ends = [member.verdict for member in self.members.values()]
        return Tally(
            self.sealed, len(ends), ends.count(State.DONE), ends.count(State.DEAD), ends.count(State.CANCELLED)
        )


class JoinOracle(Oracle):
    """The store of an ``Oracle``, with joins. Whoever made a write says ``look``."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.joins: dict[str, OracleJoin] = {}

    # -- writes --

    def make(self, new: NewJoin, now: int) -> None:
        self.joins[new.id] = OracleJoin(new, new.sealed, watch_at=now + new.watch_ms)

    def enter(self, id: str, joins: tuple[str, ...]) -> None:
        """Let a job that is there, or is not, enter joins as it stands."""
        record = self.jobs.get(id)
        for join in joins:
            if join in self.joins:
                known = self.joins[join].members.get(id)
                if record is None and known is not None and known.verdict is not None:
                    continue  # nobody knows better
                self.joins[join].members[id] = Member(record, State.CANCELLED if record is None else verdict(record))

    def enqueue(self, new: NewJob, now: int) -> bool:
        stored = super().enqueue(new, now)
        self.enter(new.id, new.joins)
        return stored

    def left(self, id: str) -> tuple[str, ...]:
        """The joins that have a member of this id whose record is another one, or gone."""
        return tuple(
            join.new.id
            for join in self.joins.values()
            if id in join.members
            and (join.members[id].record is None or join.members[id].record is not self.jobs.get(id))
        )

    def made(self, new: NewJob, now: int) -> TiedJob:
        job = TiedJob(new.id, new.queue, new.priority, now + new.delay_ms, new.max_attempts, slot=new.slot)
        job.expires_ms, job.wait, job.wait_ms = new.expires_ms, new.waits, new.delay_ms
        job.count_to_expiry(job.run_at)
        if job.wait is not None:
            job.block()
        return job

    def settle(self, outcome: Outcome, now: int) -> bool:
        job = self.owned(outcome.id, outcome.fence)
        applied = super().settle(outcome, now)
        awaits = outcome.kind is Kind.AWAIT and outcome.waits is not None
        if applied and awaits and isinstance(job, TiedJob) and job.state is WAITING:
            job.wait, job.wait_ms = outcome.waits, 0
            job.block()
        return applied

    def expired(self, now: int) -> list[TiedJob]:
        """Those that wait and whose time to start is over."""
        return [
            job
            for job in self.jobs.values()
            if isinstance(job, TiedJob)
            and job.state is WAITING
            and job.expires_at is not None
            and job.expires_at <= now
        ]

    def expire(self, ids: Iterable[str], now: int) -> bool:
        expired = {job.id: job for job in self.expired(now)}
        if not expired.keys() >= set(ids):
            return False
        for id in ids:
            self.totals["cancelled"] += 1
            self.finish(expired[id], State.CANCELLED, now)
        return True

    def claimable(self, now: int, queues: tuple[str, ...] | None, alone: bool) -> set[str]:
        return super().claimable(now, queues, alone) - {job.id for job in self.expired(now)}

    # -- records --

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
        applied = super().act(action, job_id, before, now, death, by_rule=by_rule)
        job = self.jobs.get(job_id)
        if applied and action is Action.RETRY and isinstance(job, TiedJob):
            job.count_to_expiry(now)
            job.reason = None
        return applied

    def is_over(self, job: OracleJob, now: int) -> bool:
        return super().is_over(job, now) and not self.is_kept(job)

    def is_kept(self, job: OracleJob) -> bool:
        return job.state is not State.DEAD and any(
            (member := join.members.get(job.id)) is not None and member.record is job for join in self.joins.values()
        )

    def maintain(self, now: int) -> tuple[set[str], set[str]]:
        recovered, died = super().maintain(now)
        self.expire([job.id for job in self.expired(now)], now)
        self.look(now)
        self.sweep(now)
        for job in [job for job in self.jobs.values() if self.is_over(job, now)]:
            del self.jobs[job.id]
        return recovered, died

    def watched(self, now: int) -> list[str]:
        """The joins that upkeep names now."""
        found = [join for join in self.joins.values() if join.ended_at is None and join.watch_at <= now]
        for join in found:
            join.watch_at = now + join.new.watch_ms
        return sorted(join.new.id for join in found)

    def is_late(self, job: OracleJob, now: int) -> bool:
        """Whether the next sweep ends or forgets it, which a write may do before."""
        return job in self.expired(now) or self.is_over(job, now)

    def sweep(self, now: int) -> None:
        """Forget joins whose time is over, and those that go with them."""
        for join in [join for join in self.joins.values() if join.is_over(now)]:
            if any(m.verdict is State.DEAD and m.record is self.jobs.get(id) for id, m in join.members.items()):
                join.kept_to = now + LOOK_AGAIN_MS
                continue
            for inner in [one.new.id for one in self.joins.values() if one.new.home == join.new.id]:
                del self.joins[inner]
            del self.joins[join.new.id]

    # -- deciding --

    def look(self, now: int) -> None:
        """Read off how members have ended, and move those who wait, until nothing moves."""
        while self.read_off() | self.decide_all(now):
            pass
        for join in self.joins.values():
            if not join.tally.has_ended:
                if join.ended_at is not None:
                    join.watch_at = now + join.new.watch_ms
                join.ended_at = join.kept_to = None
            elif join.ended_at is None:
                join.ended_at = now

    def read_off(self) -> bool:
        moved = False
        for join in self.joins.values():
            for id, member in join.members.items():
                there = self.jobs.get(id) is member.record
                found = verdict(member.record) if member.record is not None and there else member.verdict
                if not there and found is None:
                    found = State.CANCELLED  # it went without an end
                moved = moved or found is not member.verdict
                member.verdict = found
        return moved

    def decide_all(self, now: int) -> bool:
        moved = False
        for job in self.jobs.values():
            if isinstance(job, TiedJob) and job.wait is not None:
                moved = self.decide(job, now) or moved
        return moved

    def decide(self, job: TiedJob, now: int) -> bool:
        """Move one that waits, or was skipped; say whether it did."""
        assert job.wait is not None
        if job.state is not State.BLOCKED and not job.is_skipped:
            job.wait = job.reason = None  # ended otherwise, or made to run by hand
            return False
        join = self.joins.get(job.wait.join)
        if join is None and job.state is State.CANCELLED:
            return False
        what = "skip" if join is None else decide(join.tally, job.wait.of, job.wait.count)
        has_run = job.fence > 0
        if what == "go" or (what == "skip" and has_run and job.state is State.BLOCKED):
            job.go_on(now)
        elif what == "skip" and job.state is State.BLOCKED:
            self.totals["cancelled"] += 1
            self.finish(job, State.CANCELLED, now)
            job.reason = SKIPPED
        elif what == "wait" and job.state is State.CANCELLED:
            job.block()
        else:
            return False
        return True


def verdict(record: OracleJob) -> State | None:
    """How a record has ended."""
    return record.state if record.state in FINISHED else None
