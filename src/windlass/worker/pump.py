"""The pump: the one thread of a worker that talks to the store about jobs.

Each stroke settles what has ended and claims what there is room for, in one exchange, so a busy worker pays one commit
for hundreds of jobs and an idle one sleeps in ``engine.wait``. It must never run a job, and no other
thread of the worker claims. Others settle only what must not wait for it: a job that commits with its own transaction.

How much to claim. A claim says for each kind of slot how many are free, and the store gives no job of another kind.
Free slots always, and beyond them no more than ``AHEAD`` seconds of work at the pace of the last strokes: enough that
no thread waits for a stroke, and never a hoard. Where some queues go before others, it is ``AHEAD_ORDERED``, since what
is urgent has to wait for what was claimed before it. Runs of one kind that wait here for ``HOARD_MAX`` without any of
them starting go back to the store, where another worker may take them; this one takes none until one can start again.

When to claim. With each settle; by itself only for free slots, or when half of what was held ahead has started. A
claim for each run that ends would be right too, and cost a call for every few jobs.

When to listen. An idle worker sleeps in the store, where a wake-up goes to one worker alone. So a worker listens there
only for jobs of a kind that it has a free slot for, and without any it sleeps until one of its own runs ends.

Each pool of the worker is fed by itself, at its own pace, so a pool of long jobs never hoards what a pool of short ones
would be right to claim.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol, TypeVar

from windlass.core.errors import EngineDamaged, EngineError
from windlass.core.units import show_duration
from windlass.core.work import Claimed, Note, Outcome, Room, Settled, Want, Watch
from windlass.engines.base import Store
from windlass.insight.queues import bounds_of
from windlass.logs import Log
from windlass.settings import Settings
from windlass.worker.attempt.run import Stand
from windlass.worker.heart import Trust
from windlass.worker.lane import Lane
from windlass.worker.pool import Pool
from windlass.worker.recycle import Recycler
from windlass.worker.settler import Settler

__all__ = ["Pump", "Slots"]

log = Log("windlass.worker")
T = TypeVar("T")

AHEAD = 0.1  # seconds of work to hold beyond the free slots
AHEAD_ORDERED = 0.02  # the same, where queues are not all alike
AHEAD_MAX = 1_000  # and never more jobs than this
HOARD_MAX = 1.0  # seconds that claimed work may wait here while nothing starts
PACE_TIME = 0.02  # seconds, or
PACE_COUNT = 200  # jobs, after which the pace is taken anew; half of it is what it was before
LATE_MS = 25  # what a claimed job may take until it starts, when it has a slot
LULL = 0.002  # seconds to listen for the end of a run before listening to the store, where a wake-up is a round trip
OUTAGE_PAUSE = 0.5  # seconds between tries while the store is away
NAMES_AGE = 1.0  # seconds that a busy pool goes by the names of queues that it knows


class Slots(Protocol):
    """What the pump asks of its worker."""

    @property
    def held(self) -> int:
        """Claimed runs that have not ended."""
        ...

    def trust(self) -> Trust: ...

    def polling(self, *, away: bool) -> None:
        """The pump looks for work, or tries to; told at every turn."""
        ...

    def tally(self) -> None:
        """Count what has ended in each pool."""
        ...

    def take(self, pool: Pool, claimed: Claimed) -> None:
        """Start the leases, cancel what is to be cancelled."""
        ...

    def settled(self, outcomes: Sequence[Outcome], answers: Sequence[Settled]) -> None: ...

    def dropped(self, outcomes: Sequence[Outcome]) -> None:
        """These outcomes can never be settled: the lease has ended."""
        ...

    def give_back(self, lane: Lane) -> None:
        """Put the outcomes of runs that have not started in a lane into the settler."""
        ...

    def notes(self) -> list[Note]:
        """What runs have noted, and that held ones have started."""
        ...

    def untold(self, notes: Sequence[Note]) -> None:
        """The store could not be told these."""
        ...

    def notes_in(self) -> float | None:
        """Seconds until a held run that has started is to be told of; None: there is none."""
        ...


class Intake:
    """What the pump remembers of one lane of a pool: whether to look for work for it, and how fast it goes."""

    def __init__(self, lane: Lane, ahead: float) -> None:
        """``ahead`` is how many seconds of work to hold beyond the free slots."""
        self.lane = lane
        self.hungry = True  # the store may have work for it
        self.seen = 0  # what had ended when it was last claimed for
        self.pace = 0.0  # jobs ended a second
        self._ahead = ahead
        self._ended = 0  # when the pace was taken
        self._pace_at = time.monotonic()

    @property
    def wants(self) -> bool:
        """Whether the store may have work for it that it could not have when it was last asked."""
        return self.hungry or self.seen != self.lane.ended

    @property
    def ahead(self) -> int:
        """How many more jobs to hold beyond the free slots."""
        lane = self.lane
        return 0 if lane.is_shut else max(0, min(AHEAD_MAX, int(self.pace * self._ahead)) - lane.waiting)

    def measure(self) -> None:
        """Take the pace: jobs ended a second, over enough time or jobs that waves even out."""
        now = time.monotonic()
        ended = self.lane.ended - self._ended
        if now - self._pace_at >= PACE_TIME or ended >= PACE_COUNT:
            self.pace = (self.pace + ended / max(now - self._pace_at, 1e-4)) / 2
            self._ended, self._pace_at = self.lane.ended, now


class Feed:
    """What the pump remembers of one pool: its intakes, and when to look without a wake-up."""

    def __init__(self, pool: Pool, poll: float) -> None:
        self.pool = pool
        ahead = AHEAD_ORDERED if pool.policy.is_ordered else AHEAD
        self.intakes = [Intake(lane, ahead) for lane in pool.lanes]
        self.poll = poll
        self.look_at = 0.0  # when to look again without a wake-up
        self.names_at = 0.0  # when to learn the names of queues again

    @property
    def pace(self) -> float:
        return sum(one.pace for one in self.intakes)

    def rouse(self) -> None:
        """Look for work of every kind."""
        for one in self.intakes:
            one.hungry = True


class Pump:
    """Claims and settles for one worker."""

    def __init__(
        self,
        engine: Store,
        settings: Settings,
        worker: str,
        pools: Sequence[Pool],
        settler: Settler,
        slots: Slots,
        rng: Random,
        recycler: Recycler,
        *,
        alone: bool = False,
        when_empty: Callable[[], bool] | None = None,
    ) -> None:
        """``when_empty`` (burst mode) is asked when nothing is held and nothing was found; true ends the claiming."""
        self._engine = engine
        self._settings = settings
        self._worker = worker
        self._pools = pools
        self._feeds = [Feed(pool, settings.poll_min / 1000) for pool in pools]
        self._bounds = bounds_of(settings)
        self._recycler = recycler
        self._settler = settler
        self._slots = slots
        self._rng = rng
        self._alone = alone
        self._when_empty = when_empty
        self._claiming = True
        self._closed = False
        self._away_since: float | None = None
        self.sleeping = False  # a run that ends may have to ring
        self._listening = False  # to the store, so the bell alone wakes nobody
        self._bell = threading.Event()
        self.empty = threading.Event()
        self._rested = threading.Event()  # quiet, and no claim is under way
        self._thread = threading.Thread(target=self._run, name="windlass-pump", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def quiet(self) -> None:
        """Claim no more; go on settling."""
        self._claiming = False
        self.wake()

    def rest(self, timeout: float) -> bool:
        """Whether, after ``quiet``, no claim is under way any more; waits up to ``timeout`` seconds for that."""
        return not self._thread.is_alive() or self._rested.wait(timeout)

    def stop(self) -> None:
        """Settle what is in the buffer, then end the thread. *Blocking.*"""
        self._claiming = False
        self._closed = True
        self.wake()
        self._thread.join(self._settings.lease / 1000)

    def settle_rest(self) -> None:
        """Settle what came after the thread had ended, if the store can be reached. *Blocking.*"""
        if self._thread.is_alive() or not len(self._settler):
            return
        outcomes = self._settler.take()
        try:
            self._slots.settled(outcomes, self._engine.settle(outcomes))
        except EngineError as error:
            log.warning("the outcomes of %d jobs could not be stored, and they run again: %s", len(outcomes), error)
        self._settler.answered()

    def wake(self) -> None:
        """Make the pump look at once."""
        self._bell.set()  # before the look at _listening, which the pump sets before it looks at the bell
        if self._listening:
            self._engine.wake()

    def poke(self, lane: Stand, *, full: bool) -> None:
        """Tell the pump that a run of a lane has ended. Wakes it only when there is something to do."""
        if self.sleeping and (full or lane.is_low):
            self.sleeping = False  # one ring is enough, and it may take a while until the pump gets its turn
            self.wake()

    def _run(self) -> None:
        while True:
            if not self._claiming:
                self._rested.set()
            try:
                if self._closed and not len(self._settler):
                    return
                self._slots.polling(away=self._away_since is not None)
                self._stroke()
            except EngineError as error:
                self._outage(error)
            except BaseException:
                # Nothing else settles for this worker: report, and keep the promise to go on.
                log.exception("claiming or settling failed; the worker tries again")
                time.sleep(OUTAGE_PAUSE)

    def _stroke(self) -> None:
        self.sleeping = False
        self._bell.clear()  # before anything is looked at: who rings from here on is heard by the next sleep
        trust = self._slots.trust()
        self._slots.tally()
        self._recycler.look(sum(pool.ended for pool in self._pools))
        due = self._settler.due_in(idle=self._closed or self._waiting == 0)
        outcomes = self._settler.take() if due == 0 else []
        notes = self._slots.notes()
        may_claim = trust is Trust.FULL and self._claiming
        wants = self._wants(joins=bool(outcomes)) if may_claim else []
        if not outcomes and not wants and not notes:
            self._sleep(due, may_claim)
            return
        try:
            if notes:
                self._engine.note(notes)
                notes = []
            answers, claimed = self._engine.exchange(outcomes, wants[0][1] if wants else None)
        except BaseException:
            if trust < Trust.NO_SETTLES:
                self._settler.take_back(outcomes)
                self._slots.untold(notes)
            elif outcomes:
                self._settler.answered()
                self._slots.dropped(outcomes)
            raise
        self._settler.answered()
        if self._away_since is not None:
            log.warning("the store is back after %s", show_duration((time.monotonic() - self._away_since) * 1_000))
            self._away_since = None
        for feed in self._feeds:
            for intake in feed.intakes:
                intake.measure()
        if outcomes:
            self._slots.settled(outcomes, answers)
        found = False
        for number, (feed, want) in enumerate(wants):
            if number:
                # What one pool took counts against what the process may still claim.
                left = self._recycler.left
                if left is not None and left < want.limit:
                    feed.rouse()
                    continue
                claimed = self._engine.claim(want)
            self._answer(feed, want, claimed)
            found = found or bool(claimed.leases)
        if wants and not found and self._when_empty is not None and self._is_empty():
            self._claiming = False
            self.empty.set()

    @property
    def _waiting(self) -> int:
        return sum(pool.waiting for pool in self._pools)

    def _wants(self, *, joins: bool) -> list[tuple[Feed, Want]]:
        """What to claim for each pool that has room and may find something.

        Unless it ``joins`` a settle, a claim waits until half of what is held ahead has started, or it would fetch job
        by job what ends meanwhile.
        """
        left = self._recycler.left
        wants = []
        for feed in self._feeds:
            pool = feed.pool
            rooms = [Room(one.lane.slot, self._free(one), 0 if self._alone else one.ahead) for one in feed.intakes]
            able = [one for one, room in zip(feed.intakes, rooms, strict=True) if room.free + room.ahead]
            low = [one for one in able if joins or one.lane.is_low or self._free(one)]
            if not low or not (any(one.wants for one in low) or self._is_time(feed)):
                continue
            for one in able:
                one.seen = one.lane.ended
            free = sum(room.free for room in rooms)
            limit = free + sum(room.ahead for room in rooms)
            if self._alone:
                limit = min(limit, 1)
            if left is not None:
                limit = min(limit, left)
            if limit <= 0:
                continue
            if pool.policy.must_learn and time.monotonic() >= feed.names_at:
                self._learn(feed)
            # Of an application whose jobs are all of one kind, whatever is stored goes there.
            kinds = tuple(rooms) if len(rooms) > 1 and not self._alone else ()
            shares = pool.policy.shares(limit)
            wants.append((feed, Want(self._worker, limit, shares, self._alone, free, LATE_MS, self._bounds, kinds)))
        return wants

    def _free(self, intake: Intake) -> int:
        """How many jobs of a lane could start at once."""
        room = intake.lane.room
        if self._alone:
            room = 0 if self._slots.held else min(room, 1)
        left = self._recycler.left
        return room if left is None else min(room, left)

    def _learn(self, feed: Feed) -> bool:
        """Take in the names of the store's queues; true when that changed what the pool serves."""
        feed.names_at = time.monotonic() + NAMES_AGE
        return feed.pool.policy.learn(self._engine.names())

    def _answer(self, feed: Feed, want: Want, claimed: Claimed) -> None:
        pool = feed.pool
        full = len(claimed.leases) >= want.limit or claimed.due_in_ms == 0
        got = Counter(lease.slot for lease in claimed.leases) if want.rooms else Counter()
        rooms = {room.slot: room.free + room.ahead for room in want.rooms}
        for one in feed.intakes:
            room = rooms.get(one.lane.slot)
            if room != 0:  # of a kind that nothing was asked of, the answer says nothing
                one.hungry = full or (room is not None and got[one.lane.slot] >= room)
        pool.policy.charge([lease.queue for lease in claimed.leases], want.limit if want.rooms else None)
        self._recycler.claimed(len(claimed.leases), feed.pace)
        if claimed.leases:
            feed.poll = self._settings.poll_min / 1000
        wait = feed.poll if claimed.due_in_ms is None else min(feed.poll, claimed.due_in_ms / 1000)
        feed.look_at = time.monotonic() + wait
        self._slots.take(pool, claimed)
        if not claimed.leases and pool.policy.must_learn and self._learn(feed):
            feed.rouse()  # a queue has come that was not asked for
        for one in feed.intakes:
            one.lane.low_water = one.lane.waiting // 2 if one.hungry else 0

    def _is_empty(self) -> bool:
        assert self._when_empty is not None
        return self._slots.held == 0 and not len(self._settler) and self._when_empty()

    def _is_time(self, feed: Feed) -> bool:
        """Whether it is time to look without a wake-up; the pauses grow while nothing comes."""
        if time.monotonic() < feed.look_at:
            return False
        feed.poll = min(feed.poll * 2, self._settings.poll_max / 1000)
        return True

    def _sleep(self, flush_in: float | None, may_claim: bool) -> None:
        """Wait for something to do.

        Listens to the store only for pools with a free slot: a wake-up may go to one worker alone, and one that cannot
        use it would keep it from those that can. Without them the bell is enough, and costs the store nothing.
        """
        now = time.monotonic()
        timeout = self._settings.poll_max / 1000
        intakes = [one for feed in self._feeds for one in feed.intakes]
        waiting = [one for one in intakes if one.lane.waiting]
        roomy = [feed for feed in self._feeds if any(map(self._free, feed.intakes))] if may_claim else []
        if self._claiming and not may_claim:
            timeout = min(timeout, OUTAGE_PAUSE)  # nobody rings when the lease is renewed
        for feed in roomy:
            timeout = min(timeout, feed.look_at - now)
        for one in waiting:
            timeout = min(timeout, one.lane.last_start + HOARD_MAX - now)
        if any(one.lane.is_shut for one in intakes):
            timeout = min(timeout, HOARD_MAX)  # nobody rings when something starts
        note_in = self._slots.notes_in()
        if note_in is not None:
            timeout = min(timeout, note_in)
        if flush_in is None and waiting:
            flush_in = self._settler.patience  # runs may end meanwhile that do not ring
        if flush_in is not None:
            timeout = min(timeout, flush_in)
        self.sleeping = True
        # A run that ended before ``sleeping`` was set did not ring: look once more.
        is_due = self._settler.due_in(idle=self._waiting == 0) == 0
        if timeout > 0 and not is_due and not self._closed:
            if not roomy:
                self._bell.wait(timeout)
            elif not self._slots.held and len(self._feeds) == 1 and self._when_empty is None:
                self._claim_next(roomy[0], timeout)
            elif not (self._slots.held and self._bell.wait(min(timeout, LULL))) and self._listen(
                lambda: self._engine.wait(self._watches(roomy), timeout)
            ):
                for feed in roomy:
                    feed.rouse()
        for one in waiting:
            if one.lane.waiting and time.monotonic() - one.lane.last_start >= HOARD_MAX:
                one.pace, one.hungry = 0.0, True
                one.lane.give_up()
                self._slots.give_back(one.lane)

    def _claim_next(self, feed: Feed, timeout: float) -> None:
        """Sleep until the store may have work for an idle worker, and claim it in the same breath."""
        feed.rouse()
        wants = self._wants(joins=True)
        if not wants:
            return
        want = wants[0][1]
        claimed = self._listen(lambda: self._engine.listen(self._watches([feed]), timeout, want))
        if claimed is None:
            return
        if not claimed.leases:
            feed.poll = min(feed.poll * 2, self._settings.poll_max / 1000)
        self._answer(feed, want, claimed)

    def _listen(self, listen: Callable[[], T]) -> T | None:
        """Sleep in the store, unless the bell rings."""
        self._listening = True
        try:
            return None if self._bell.is_set() else listen()
        finally:
            self._listening = False

    def _watches(self, feeds: Sequence[Feed]) -> list[Watch] | None:
        """The jobs that should wake it; None: any."""
        watches: list[Watch] = []
        for feed in feeds:
            roomy = tuple(one.lane.slot for one in feed.intakes if self._free(one))
            slots = roomy if len(roomy) < len(feed.intakes) else ()
            names = feed.pool.policy.names
            if names is None and not slots:
                return None
            watches += [Watch(name, slots) for name in ((None,) if names is None else names)]
        return watches

    def _outage(self, error: EngineError) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            what = "holds what it cannot use" if isinstance(error, EngineDamaged) else "is away"
            log.error("the store %s, and the worker keeps trying: %s", what, error)
        for feed in self._feeds:
            feed.rouse()
        time.sleep(OUTAGE_PAUSE * self._rng.uniform(0.5, 1.0))
