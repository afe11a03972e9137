"""The hot path of the SQLite engine: each call is one write transaction, and a signal afterwards.

The pieces are next door: ``enqueue``, ``claim``, ``settle``, ``leases``, ``upkeep`` hold the statements; ``connection``
the grouping of commits; ``inspector``, ``moves`` and ``dead`` the cold path; ``transaction`` what a caller's own
transaction may do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from windlass.core.model import Count, Write, Written
from windlass.core.work import (
    Buried,
    Claimed,
    Heartbeat,
    LeaseRef,
    Note,
    Outcome,
    Rules,
    Settled,
    Upkeep,
    Want,
    Watch,
    WorkerInfo,
)
from windlass.engines.sqlite import upkeep
from windlass.engines.sqlite.bounds import make_room, take_note
from windlass.engines.sqlite.claim import Claimer
from windlass.engines.sqlite.commit import commit
from windlass.engines.sqlite.coordinator import SqliteCoordinator
from windlass.engines.sqlite.counts import count_these
from windlass.engines.sqlite.dead import SqliteDead
from windlass.engines.sqlite.documents import SqliteDocuments
from windlass.engines.sqlite.leases import bury, depart, extend
from windlass.engines.sqlite.moves import SqliteMoves
from windlass.engines.sqlite.names import unneeded_names
from windlass.engines.sqlite.notes import note
from windlass.engines.sqlite.place import writer_of
from windlass.engines.sqlite.settle import settle

__all__ = ["SqliteEngine"]

NOTHING: Final = Write()
NAMES: Final = 'SELECT name FROM "windlass_queues" ORDER BY name'
OPENED: Final = 'SELECT 1 FROM "windlass_gates" WHERE at = 0 LIMIT 1'  # something was released that others wait for


class SqliteEngine(SqliteCoordinator, SqliteMoves, SqliteDead, SqliteDocuments):
    """A store in one SQLite file (``path``), or in memory (None). Fulfils ``engines.base.Store``. *Thread-safe.*"""

    def _forget_store(self) -> None:
        super()._forget_store()
        self._claimer = Claimer(self._q, self._boot, self._steady)

    def commit(self, write: Write) -> Written:
        def store(db: apsw.Connection) -> Written:
            if write.swaps or write.opens or write.counts:
                self._steady.start(db)
            return commit(db, self._q, write, self._clock.wall_ms(), self._rules, self._steady)

        if not write.jobs and write == NOTHING:
            return Written([])
        wishes = {job.durable for job in write.jobs}
        durable = bool(wishes - {False} or write.has_ties) or any(one.durable for one in write.swaps)
        is_tied = write.has_ties or any(job.joins or job.waits for job in write.jobs)
        written = self._write(store, durable=durable, whatever_is_set=True in wishes, moves_jobs=is_tied)
        if written.placed or (write.opens and not written.lost):
            self._ready.touch()
        return written

    def claim(self, want: Want) -> Claimed:
        claimed = self._write(lambda db: self._claim(db, want), durable=False)
        if claimed.ended:
            self._ended.touch()
        return claimed

    def settle(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        return self.exchange(outcomes, None)[0]

    def exchange(
        self, outcomes: Sequence[Outcome], want: Want | None, counts: Sequence[Count] = ()
    ) -> tuple[list[Settled], Claimed]:
        def write(db: apsw.Connection) -> tuple[list[Settled], bool, Claimed]:
            answers = settle(db, self._q, outcomes, self._clock.wall_ms(), self._rules)
            if counts:
                count_these(db, self._q, self._clock.wall_ms(), counts)
            opened = bool(outcomes) and bool(db.execute(self._q(OPENED)).fetchall())
            room = bool(outcomes) and make_room(db, self._q, outcomes)
            claimed = Claimed([]) if want is None else self._claim(db, want)
            return answers, opened or (room and take_note(db, self._q)), claimed

        if not outcomes and want is None and not counts:
            return [], Claimed([])
        answers, opened, claimed = self._write(write, durable=bool(outcomes))
        if outcomes:
            self._signal(outcomes, opened)
        elif claimed.ended:
            self._ended.touch()
        return answers, claimed

    def _claim(self, db: apsw.Connection, want: Want) -> Claimed:
        now, boot_now = self._clock.wall_ms(), self._clock.boot_ms()
        self._steady.start(db)
        return self._claimer.claim(db, want, now, boot_now, self._rules.keep_done_ms)

    def _signal(self, outcomes: Sequence[Outcome], opened: bool) -> None:
        """Wake those who wait for an end, and workers when something may be ready now or due sooner."""
        self._ended.touch()
        if opened or any(one.then or one.kind not in ("done", "dead", "cancelled") for one in outcomes):
            self._ready.touch()

    def note(self, notes: Sequence[Note]) -> list[Settled]:
        if not notes:
            return []
        return self._write(lambda db: note(db, self._q, notes), durable=any(one.durable for one in notes))

    def extend(self, worker: WorkerInfo, leases: Sequence[LeaseRef], lease_ms: int) -> Heartbeat:
        def write(db: apsw.Connection) -> Heartbeat:
            until = self._clock.boot_ms() + lease_ms
            return extend(db, self._q, worker, leases, self._boot, until, self._clock.wall_ms())

        return self._write(write, durable=False)

    def depart(self, worker: str) -> Buried:
        departed = self._write(lambda db: depart(db, self._q, worker, self._clock.wall_ms(), self._rules), durable=True)
        self._ready.touch()
        if departed.dead:
            self._ended.touch()
        return departed

    def bury(self, worker: str, started: Sequence[int], error: str, rules: Rules) -> Buried:
        buried = self._write(
            lambda db: bury(db, self._q, worker, started, error, self._clock.wall_ms(), rules), durable=True
        )
        self._ready.touch()
        self._ended.touch()
        return buried

    def maintain(self, rules: Rules, budget: int) -> Upkeep:
        def write(db: apsw.Connection) -> tuple[Upkeep, int]:
            self._steady.start(db)
            steady = self._steady.now(db)
            repaired = self._repairer.look_on(db, budget)
            return (
                upkeep.maintain(db, self._q, rules, budget, self._boot, clock.boot_ms(), now, steady, names),
                repaired,
            )

        clock = self._clock
        now = clock.wall_ms()
        names = self._ask(lambda db: unneeded_names(db, self._q, now))
        done, repaired = self._write(write, durable=False)
        if self._alarms:
            done = msgspec.structs.replace(done, rollbacks=self._tell_alarms())
        if done.promoted or done.released or repaired:
            self._ready.touch()
        if done.died or done.pruned or done.trimmed or repaired:
            self._ended.touch()
        return done

    def names(self) -> list[str]:
        return [str(name) for (name,) in self._ask(lambda db: db.execute(self._q(NAMES)).fetchall())]

    def wait(self, queues: Sequence[str | Watch] | None, timeout: float) -> bool:
        self.open()
        return self._ready.wait(timeout)

    def listen(self, queues: Sequence[str | Watch] | None, timeout: float, want: Want) -> Claimed | None:
        return self.claim(want) if self.wait(queues, timeout) else None

    def wake(self) -> None:
        self._ready.wake()

    def writer(self) -> int | None:
        return writer_of(self.path) if self.path else None
