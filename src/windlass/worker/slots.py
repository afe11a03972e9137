"""The slots of the pump: claimed jobs go from here into the lanes of their pools, settled ones leave by here.

The pump's thread calls it (``pump.Slots`` says when), and in the end whoever stops the worker. It must not run a job,
and it claims and settles nothing itself. Invariant: each lease that comes in becomes a run that is held, or an outcome
for the settler.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from windlass.core.errors import PayloadError
from windlass.core.model import Slot
from windlass.core.work import Claimed, Kind, Lease, Outcome, Settled
from windlass.events import JobEnqueued, SettleDropped
from windlass.jobs.hooks import Moment
from windlass.logs import Log
from windlass.worker.account import Account
from windlass.worker.attempt.endings import Endings
from windlass.worker.attempt.outcomes import released
from windlass.worker.attempt.run import JobRun, Prepared, tell_enqueued
from windlass.worker.attempt.unbegun import unknown, unreadable
from windlass.worker.heart import Heart
from windlass.worker.held import Held
from windlass.worker.hooks import HookThread
from windlass.worker.host import RunHost
from windlass.worker.lane import Lane
from windlass.worker.notes import Notes
from windlass.worker.pool import Pool
from windlass.worker.settler import Settler
from windlass.worker.table import SlotTable

__all__ = ["WorkerSlots"]

log = Log("windlass.worker")


class WorkerSlots:
    """The slots of one worker. Fulfils ``pump.Slots``."""

    def __init__(
        self,
        prepared: Mapping[str, Prepared],
        host: RunHost,
        *,
        held: Held,
        notes: Notes,
        settler: Settler,
        table: SlotTable,
        heart: Heart,
        account: Account,
        endings: Endings,
        hooks: HookThread,
    ) -> None:
        """``prepared`` are the jobs that this process has code for, by every name of theirs."""
        self._prepared = prepared
        self._host = host
        self._held = held
        self._notes = notes
        self._settler = settler
        self._table = table
        self._heart = heart
        self._account = account
        self._endings = endings
        self._hooks = hooks
        self.trust = heart.trust
        self.notes = notes.take
        self.untold = notes.take_back
        self.notes_in = notes.due_in

    @property
    def held(self) -> int:
        return len(self._held)

    def polling(self, *, away: bool) -> None:
        now = self._host.clock.boot_ms()
        self._table.poll(now)
        if away != bool(self._table.away_since):
            self._table.note_away(now if away else 0)

    def tally(self) -> None:
        ended = self._host.ended
        runs = [ended.popleft() for _ in range(len(ended))]
        if runs:
            self._account.count(runs)
            self._endings.tell(runs)

    def take(self, pool: Pool, claimed: Claimed) -> None:
        if claimed.expelled:
            log.warning("the store does not know worker %s as alive; it registers anew", self._account.id)
            self._heart.beat_now()
        for ref in claimed.cancels:
            self._host.cancel(ref)
        tasks: list[JobRun] = []
        for lease in claimed.leases:
            run = self._make_run(lease)
            if run is None:
                continue
            run.lane = lane = pool.loop if run.prepared.slot is Slot.LOOP else pool.threads
            # Where its record says another kind than the code, the store has given it without a place for it.
            misfiled = lease.slot is not lane.slot and len(pool.lanes) > 1
            if misfiled and lane.room <= (len(tasks) if lane is pool.loop else 0):
                self._settler.add(released(run))
                continue
            lane.last_start = time.monotonic()
            self._held[lease.id] = run
            if lane is pool.loop:
                tasks.append(run)
            else:
                pool.threads.put(run)
        if tasks:
            pool.loop.put(tasks)
            self._host.timeouts.watch_loop()

    def settled(self, outcomes: Sequence[Outcome], answers: Sequence[Settled]) -> None:
        for one in outcomes:
            self._table.settle(one.fence)
        stale = [one for one, answer in zip(outcomes, answers, strict=True) if answer is Settled.STALE]
        if stale:
            self._tell_dropped(stale, "another worker owns the job now")
        if self._host.events.wants(JobEnqueued):
            for one, answer in zip(outcomes, answers, strict=True):
                if answer is Settled.APPLIED:
                    tell_enqueued(self._host.events, one.then)
        for moment, kind in ((Moment.DEAD, Kind.DEAD), (Moment.RETRY, Kind.RETRY)):
            if self._hooks.wants(moment):
                pairs = zip(outcomes, answers, strict=True)
                self._hooks.tell(moment, [o.id for o, a in pairs if o.kind is kind and a is Settled.APPLIED])

    def dropped(self, outcomes: Sequence[Outcome]) -> None:
        for one in outcomes:
            self._table.settle(one.fence)
        self._tell_dropped(outcomes, "the lease ended before the store could be reached")

    def give_back(self, lane: Lane) -> None:
        for run in lane.take_back():
            self._held.drop(run)
            self._settler.add(released(run))

    def _tell_dropped(self, outcomes: Sequence[Outcome], reason: str) -> None:
        ids = ", ".join(one.id for one in outcomes[:5]) + (", ..." if len(outcomes) > 5 else "")
        log.warning("the outcomes of %d jobs were dropped, and they run again: %s (%s)", len(outcomes), reason, ids)
        for one in outcomes:
            self._host.events.emit(SettleDropped(one.id, "", "", 0, reason))

    def _make_run(self, lease: Lease) -> JobRun | None:
        prepared = self._prepared.get(lease.name)
        if prepared is None:
            self._end_unbegun(lease, unknown(lease, self._host))
            return None
        try:
            return JobRun(lease, prepared, self._host)
        except PayloadError as error:
            self._end_unbegun(lease, unreadable(lease, self._host, error))
            return None

    def _end_unbegun(self, lease: Lease, outcome: Outcome) -> None:
        if outcome.kind is Kind.DEAD:
            self._endings.tell_one(lease, outcome)
        self._settler.add(outcome)
