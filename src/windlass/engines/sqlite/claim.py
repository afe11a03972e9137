"""Claiming: lease the head of the ready queues to one worker.

Each kind of slot has an order of its own in a queue. A claim reads the heads of the kinds that it has room for and
merges them, so it passes no job that it may not take, and takes those that it may in the order of all.

The heads of many queues are read as one JSON text and the rows are marked with one statement, because every row that
crosses into Python by itself costs a hand-over of the interpreter lock, and in a busy worker that costs up to 5 ms.
Queues are found by ``walk``, so names that have nothing to claim cost nothing.

A fence is above every fence the store ever gave and above its clock in microseconds, so it never repeats: not in one
batch, not when the clock steps back, not for a record made anew under an old id, not when the store lost its tail.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Annotated, Final

import apsw
import msgspec
from msgspec import Meta, Struct

from windlass.core.work import Claimed, Lease, LeaseRef, QueueShare, Want
from windlass.engines.sqlite.bounds import Bounds, merged
from windlass.engines.sqlite.counts import count, count_each
from windlass.engines.sqlite.fences import next_fence
from windlass.engines.sqlite.guards import UNBOUNDED, Judge, as_guards
from windlass.engines.sqlite.notes import notes_of
from windlass.engines.sqlite.schema import FENCE_MAX, SLOT_CODES, SLOTS, Sql
from windlass.engines.sqlite.steady import Steady
from windlass.engines.sqlite.walk import FEW, Walk, busy_among

__all__ = ["Claimer", "promote"]

PROMOTE_MAX: Final = 2_000  # due jobs made ready by one claim: 5,000 due at one instant take three claims

SCAN_MAX: Final = 1_000  # jobs that one claim looks at, however many of them meet a closed gate
SCAN_STEP: Final = 64
LOOK_SOON_MS: Final = 50
ALONE_MAX: Final = 10  # of those that run alone, the first whose gates are open

PROMOTE: Final = """
UPDATE "windlass_jobs" SET state = 'ready' WHERE seq IN (
    SELECT seq FROM "windlass_jobs" WHERE state = 'scheduled' AND run_at <= ? ORDER BY run_at LIMIT ?)
"""
NEXT_DUE: Final = "SELECT run_at FROM \"windlass_jobs\" WHERE state = 'scheduled' ORDER BY run_at LIMIT 1"
ALIVE: Final = 'SELECT 1 FROM "windlass_workers" WHERE id = ? AND boot = ? AND lease_until > ?'
# Those that are not like all others, as the index windlass_queues_set has them.
SET_QUEUES: Final = """
SELECT name, paused != 0 AND (until IS NULL OR until > ?), most, rate, per_ms, held_back FROM "windlass_queues"
WHERE paused != 0 OR most IS NOT NULL OR rate IS NOT NULL OR held_back != 0
"""
CANCELS: Final = "SELECT id, fence FROM \"windlass_jobs\" WHERE state = 'running' AND worker = ? AND cancel = 1"

COLUMNS: Final = """seq, id, name, queue, {payload} AS payload, fence, attempt, max_attempts, priority, enqueued_at,
       run_at, crashes, interruptions, snoozes, tags, {meta} AS meta, expires_at, reason, retrying_since, guards,
       slot{more}"""
HEAD: Final = """
FROM "windlass_jobs" WHERE state = 'ready' AND crashes < 2 AND queue = ?1 AND slot = ?4
ORDER BY level, place, seq LIMIT ?2 OFFSET ?3
"""
ALONE: Final = """
FROM "windlass_jobs" WHERE state = 'ready' AND crashes >= 2 AND purge_at IS NULL AND queue = ?1
ORDER BY run_at LIMIT ?2 OFFSET ?3
"""
# The same number of jobs from each of many heads, and of which of these that was not all.
HEADS: Final = """
FROM (SELECT value FROM json_each(?1)) AS head CROSS JOIN "windlass_jobs" WHERE seq IN (
    SELECT seq FROM "windlass_jobs" WHERE state = 'ready' AND crashes < 2 AND queue = head.value ->> 0
        AND slot = head.value ->> 1 ORDER BY level, place, seq LIMIT ?2)
"""
LONGER: Final = """
SELECT value ->> 0, value ->> 1 FROM json_each(?1) AS head WHERE (
    SELECT 1 FROM "windlass_jobs" WHERE state = 'ready' AND crashes < 2 AND queue = head.value ->> 0
        AND slot = head.value ->> 1 LIMIT 1 OFFSET ?2)
"""
STANDING: Final = ", level, place"  # read only where heads are merged
AS_TEXT: Final = COLUMNS.format(payload="payload", meta="meta", more="")
AS_STANDING: Final = COLUMNS.format(payload="payload", meta="meta", more=STANDING)
# Raw bytes for rows that are not what we wrote: invalid UTF-8, a blob, a number.
AS_BYTES: Final = COLUMNS.format(payload="CAST(payload AS BLOB)", meta="CAST(meta AS BLOB)", more=STANDING)
PACKED: Final = """
SELECT CAST(json_group_array(json_array(seq, id, name, queue, payload, fence, attempt, max_attempts, priority,
    enqueued_at, run_at, crashes, interruptions, snoozes, tags, meta, expires_at, reason,
    retrying_since, guards, slot%s)) AS BLOB)
FROM (SELECT %s %s)
"""

TAKE: Final = """
UPDATE "windlass_jobs" SET state = 'running', worker = ?1, started_at = ?2, fence = mine.fence,
    held = CASE WHEN mine.fence >= ?4 THEN 1 END
FROM (SELECT value ->> 0 AS seq, value ->> 1 AS fence FROM json_each(?3)) AS mine
WHERE "windlass_jobs".seq = mine.seq
"""
EXPIRE: Final = """
UPDATE "windlass_jobs" SET state = 'cancelled', reason = 'expired', finished_at = ?1, purge_at = ?1 + ?2
WHERE seq IN (SELECT value FROM json_each(?3))
"""


Count = Annotated[int, Meta(ge=0, le=2**53)]


class Row(Struct, array_like=True):
    """One ready job as PACKED gives it. One that is not sound fails the claim, which is made again without it."""

    seq: int
    id: str
    name: str
    queue: str
    payload: str
    fence: Annotated[int, Meta(ge=0, le=FENCE_MAX)]
    attempt: Count
    max_attempts: Count
    priority: int
    enqueued_at: Count
    run_at: Count
    crashes: Count
    interruptions: Count
    snoozes: Count
    tags: str | None
    meta: str | None
    expires_at: Count | None
    reason: str | None
    retrying_since: Count | None
    guards: str | None
    slot: Annotated[int, Meta(ge=0, lt=len(SLOTS))]
    level: int = 0
    place: int = 0
    held: bool = False  # decided by the claim


def standing(row: Row) -> tuple[int, int, int]:
    """Where a job stands in its queue."""
    return row.level, row.place, row.seq


decode_rows = msgspec.json.Decoder(list[Row]).decode
decode_tags = msgspec.json.Decoder(tuple[str, ...]).decode
encode = msgspec.json.Encoder().encode


def promote(db: apsw.Connection, q: Sql, now: int, limit: int) -> tuple[int, int | None]:
    """Make due jobs ready, at most ``limit``; give how many, and in how many ms the next one is due."""
    due = db.execute(q(NEXT_DUE)).fetchone()
    if due is None:
        return 0, None
    if due[0] > now:
        return 0, due[0] - now
    db.execute(q(PROMOTE), (now, limit))
    promoted = db.changes()
    due = db.execute(q(NEXT_DUE)).fetchone()
    return promoted, None if due is None else max(0, due[0] - now)


class Places:
    """What a worker has room for, counted down while a claim goes on. A kind is one of ``schema.SLOTS`` by number."""

    def __init__(self, want: Want) -> None:
        self.total = 1 if want.alone else want.limit
        self._most: list[int] | None
        if want.rooms and not want.alone:
            self._rooms = {SLOT_CODES[room.slot]: [max(0, room.free), max(0, room.ahead)] for room in want.rooms}
            self._most = [self.left(slot) for slot in range(len(SLOTS))]
        else:
            every = [UNBOUNDED if want.room is None else want.room, UNBOUNDED]
            self._rooms = {0: every, 1: every, 2: every}
            self._most = None
        self._limit = self.total

    def left(self, slot: int | None = None) -> int:
        """How many more jobs may be leased, of one kind or in all."""
        if slot is None:
            return self.total
        if slot in self._rooms:
            return min(self.total, sum(self._rooms[slot]))
        # Nobody knows where it will run: only where it may start at once, or jobs that cannot would be hoarded.
        return 0 if slot else min(self.total, sum(free for free, _ in self._rooms.values()))

    def part(self, share: int, slot: int) -> int:
        """How many jobs of a kind a queue's share of the whole claim stands for."""
        return share if self._most is None else -(-share * self._most[slot] // self._limit)

    def slots(self) -> list[int]:
        """The kinds of which more may be leased."""
        return [slot for slot in range(len(SLOTS)) if self.left(slot) > 0]

    def room(self, slot: int) -> list[int] | None:
        """What the next job of a kind takes from: [free slots, places ahead]; ``total`` counts too. None: no more."""
        if self.total <= 0:
            return None
        room = self._rooms.get(slot)
        if room is None:
            room = max(self._rooms.values())
            return room if slot == 0 and room[0] > 0 else None
        return room if room[0] > 0 or room[1] > 0 else None


class Heads:
    """The heads of several queues, all read with one statement; what goes beyond that is read queue by queue."""

    def __init__(
        self,
        claimer: Claimer,
        db: apsw.Connection,
        shares: Sequence[QueueShare],
        kinds: dict[str, range],
        limit: int,
    ) -> None:
        self._claimer = claimer
        self._db = db
        self._each = max(1, limit // len(shares))
        heads = [(share.name, slot) for share in shares if share.limit >= self._each for slot in kinds[share.name]]
        self._rows: dict[tuple[str, int], list[Row]] = {head: [] for head in heads}
        if heads:
            for row in claimer.read(db, HEADS, (encode(heads).decode(), self._each), merging=True):
                self._rows[row.queue, row.slot].append(row)
        for rows in self._rows.values():
            rows.sort(key=standing)
        self._ended = {head for head, rows in self._rows.items() if len(rows) < self._each}

    def look_behind(self) -> None:
        """Find out which have more than what was read."""
        full = [head for head in self._rows if head not in self._ended]
        if len(full) > 1:
            longer = self._db.execute(self._claimer.q(LONGER), (encode(full).decode(), self._each))
            self._ended |= set(full).difference((str(queue), int(str(slot))) for queue, slot in longer)

    def read(self, queue: str, slot: int, count: int, offset: int) -> list[Row]:
        """So many jobs of one kind from a place in their order."""
        rows = self._rows.get((queue, slot), [])
        got = rows[offset : offset + count]
        if len(got) < count and (queue, slot) not in self._ended:
            got += self._claimer.read(self._db, HEAD, (queue, count - len(got), offset + len(got), slot), merging=True)
        return got


class Claimer:
    """Claims for one engine object; remembers whose turn it is when queues share alike."""

    def __init__(self, q: Sql, boot: str, steady: Steady) -> None:
        self.q = q
        self._boot = boot
        self._steady = steady
        self._walk = Walk(q)

    def claim(self, db: apsw.Connection, want: Want, now: int, boot_now: int, keep_ms: int) -> Claimed:
        """Lease ready jobs to a live worker inside the caller's write transaction."""
        q = self.q
        if not db.execute(q(ALIVE), (want.worker, self._boot, boot_now)).fetchall():
            return Claimed([], expelled=True)
        _, due_in = promote(db, q, now, PROMOTE_MAX)
        cancels = tuple(LeaseRef(id, fence) for id, fence in db.execute(q(CANCELS), (want.worker,)))
        if want.limit <= 0:
            return Claimed([], cancels, due_in)
        steady_now = self._steady.now(db)
        judge = Judge(db, q, steady_now, want)
        bounds, closed = self._closed(db, want, now, steady_now)
        places = Places(want)
        wide = set(places.slots())
        self._walk.go_on()
        shares = None if want.queues is None else [share for share in want.queues if share.name not in closed]
        if not want.alone:
            names = None if shares is None else [one.name for one in shares]
            judge.let_on(lambda gate: self._served_at(db, gate, names, closed), places.slots(), want.limit)
        leases: list[Lease] = []
        ended: list[str] = []
        freed = False  # what one that has expired had at a gate
        look, scanned, progress = ALONE_MAX if want.alone else places.left(), 0, False
        while places.left() > 0:
            served, kinds, more = self._busy(db, shares, look, places, closed, alone=want.alone)
            heads = self._heads(db, served, kinds, look, places, bounds, alone=want.alone, again=scanned > 0)
            fresh, expired = self._sort_out(heads, judge, places, bounds, now)
            moved = judge.write_round(now, keep_ms, block=not want.alone)
            if expired:
                db.execute(q(EXPIRE), (now, keep_ms, encode([row.seq for row in expired]).decode()))
                count(db, q, now, "total:cancelled", len(expired))
                ended += [row.id for row in expired]
                freed = freed or any(row.guards is not None for row in expired)
            if fresh:
                leases += self._take(db, want.worker, fresh, now)
            scanned += max(len(heads), len(served))
            progress = progress or bool(moved or expired or fresh)
            if not (moved or expired or more) or places.left() <= 0 or want.alone:
                break
            if scanned >= SCAN_MAX:
                # There may be some that can run behind those: look again at once, or soon where nothing has moved.
                due_in = 0 if progress else min(LOOK_SOON_MS, LOOK_SOON_MS if due_in is None else due_in)
                break
            if shares is not None:
                shares = less(shares, fresh)
            look = min(SCAN_MAX, max(places.left(), SCAN_STEP, look * 2))
        for opens_in in (judge.finish(filled=places.left() <= 0), None if bounds is None else bounds.finish()):
            if opens_in is not None:
                due_in = opens_in if due_in is None else min(due_in, opens_in)
        if want.rooms and any(lease.slot is None for lease in leases) and set(places.slots()) < wide:
            due_in = 0  # which kind of slot they need shows only now: there may be room for more
        if freed:
            due_in = 0  # whoever waits there, this claim has passed by
        count_each(db, q, now, "claimed", [lease.queue for lease in leases])
        return Claimed(leases, cancels, due_in, ended=(*ended, *judge.duplicates))

    def _closed(self, db: apsw.Connection, want: Want, now: int, steady_now: int) -> tuple[Bounds | None, set[str]]:
        """What holds for queues, and the queues that may give nothing now. No bounds cost nothing."""
        rows = [(str(name), *row) for name, *row in db.execute(self.q(SET_QUEUES), (now,))]
        if not rows and not want.bounds:
            return None, set()
        paused = {row[0] for row in rows if row[1]}
        asked = None if want.queues is None else {share.name for share in want.queues}
        held_back = {row[0]: row[5] for row in rows}
        rows += [(one.name, 0, None, None, None, 0) for one in want.bounds if one.name not in held_back]
        bound = merged(
            (
                (name, most, rate, per_ms)
                for name, _, most, rate, per_ms, _ in rows
                if name not in paused and (asked is None or name in asked)
            ),
            want.bounds,
        )
        if not bound:
            return None, paused
        bounds = Bounds(db, self.q, bound, held_back, steady_now, want)
        return bounds, paused | {name for name in bound if bounds.room(name) <= 0}

    def _served_at(
        self, db: apsw.Connection, gate: str, names: Sequence[str] | None, closed: set[str]
    ) -> Iterator[Sequence[str]]:
        """The queues whose waiters a gate may let on, some at a time.

        Without those that may give nothing: they would keep what the gate lets through from the others.
        """
        if names is not None and len(names) <= FEW:
            yield names
            return
        asked = None if names is None else set(names)
        for queues in self._walk.waiting_at(db, gate):
            yield [name for name in queues if name not in closed and (asked is None or name in asked)]

    def _busy(
        self,
        db: apsw.Connection,
        shares: Sequence[QueueShare] | None,
        look: int,
        places: Places,
        closed: set[str],
        *,
        alone: bool,
    ) -> tuple[Sequence[QueueShare], dict[str, range], bool]:
        """The queues that have ready jobs, each with its share; the kinds of those jobs; whether there may be more."""
        if shares is not None:
            kinds = busy_among(db, self.q, [share.name for share in shares], look, alone=alone)
            return [share for share in shares if share.name in kinds], kinds, False
        slots = range(len(SLOTS)) if alone else places.slots()
        kinds, more = self._walk.round(db, look, without=closed, slots=slots, alone=alone)
        each = max(1, places.left() // max(1, len(kinds)))
        return [QueueShare(name, each) for name in kinds], kinds, more

    def _sort_out(
        self, rows: list[Row], judge: Judge, places: Places, bounds: Bounds | None, now: int
    ) -> tuple[list[Row], list[Row]]:
        """Those of the rows that may run, as far as there are places, and those that have expired; the judge notes the
        others.
        """
        fresh: list[Row] = []
        expired: list[Row] = []
        for row in rows:
            if row.expires_at is not None and row.expires_at <= now:
                expired.append(row)
            elif (room := places.room(row.slot)) is not None:
                at_once = room[0] > 0
                if bounds is not None and not bounds.let_through(row.queue, at_once=at_once):
                    continue
                if row.guards is not None and not judge.passes(row.seq, row.id, row.guards, at_once=at_once):
                    continue
                room[0 if at_once else 1] -= 1
                row.held = not at_once
                fresh.append(row)
                places.total -= 1
                if bounds is not None:
                    bounds.take(row.queue)
        return fresh, expired

    def _heads(
        self,
        db: apsw.Connection,
        shares: Sequence[QueueShare],
        kinds: dict[str, range],
        limit: int,
        places: Places,
        bounds: Bounds | None,
        *,
        alone: bool,
        again: bool,
    ) -> list[Row]:
        """The heads of the queues: each one's share first, then what is left, in the same order.

        No more of a queue, and of a kind of slot, than it may give, but for a look behind those that met a closed gate
        (``again``).
        """
        rows: list[Row] = []
        read: dict[str, list[int]] = {}  # queue: how many of each kind
        taken = [0] * len(SLOTS)  # of each kind
        dry: set[str] = set()  # queues of one kind that were read to their end
        heads = Heads(self, db, shares[:limit], kinds, limit) if len(shares) > 1 and not alone else None

        def most(room: int) -> int:
            return max(room, SCAN_STEP) if again and room > 0 else room

        def take(queue: str, count: int, share: int | None = None) -> None:
            """Read up to so many more of a queue, and no more of each kind than its share."""
            have = read.setdefault(queue, [0] * len(SLOTS))
            if bounds is not None:
                count = min(count, most(bounds.room(queue)) - sum(have))
            if count <= 0 or queue in dry:
                return
            got: list[Row] = []
            slots = [0] if alone else kinds.get(queue, ())
            for slot in slots:
                room = count if alone else min(count, most(places.left(slot)) - taken[slot])
                if share is not None:
                    room = min(room, places.part(share, slot))
                if room > 0:
                    if heads is not None:
                        got += heads.read(queue, slot, room, have[slot])
                    elif alone:
                        got += self.read(db, ALONE, (queue, room, have[slot]))
                    else:
                        got += self.read(db, HEAD, (queue, room, have[slot], slot), merging=len(slots) > 1)
                if len(got) < room and len(slots) == 1:
                    dry.add(queue)
            if len(slots) > 1:
                got = sorted(got, key=standing)[:count]
            for slot in slots:
                count = len(got) if len(slots) == 1 else sum(row.slot == slot for row in got)
                have[slot] += count
                taken[slot] += count
            rows.extend(got)

        for share in shares:
            if len(rows) >= limit:
                break
            take(share.name, min(share.limit, limit - len(rows)), share.limit)
        if heads is not None and len(rows) < limit:
            heads.look_behind()
        for share in shares:
            if len(rows) >= limit:
                break
            take(share.name, limit - len(rows))
        return rows

    def read(
        self, db: apsw.Connection, source: str, bindings: tuple[str | int, ...], *, merging: bool = False
    ) -> list[Row]:
        parts = (STANDING, AS_STANDING, source) if merging else ("", AS_TEXT, source)
        try:
            packed = db.execute(self.q(PACKED % parts), bindings).fetchone()
            return decode_rows(packed[0]) if packed else []
        except (apsw.SQLError, msgspec.DecodeError, UnicodeDecodeError):
            return [salvage(found) for found in db.execute(self.q(f"SELECT {AS_BYTES} {source}"), bindings)]

    def _take(self, db: apsw.Connection, worker: str, rows: list[Row], now: int) -> list[Lease]:
        first = next_fence(db, self.q, len(rows), now, max(row.fence for row in rows))
        held_from = first + sum(not row.held for row in rows)
        free, ahead = itertools.count(first), itertools.count(held_from)
        fences = [next(ahead if row.held else free) for row in rows]
        mine = encode([(row.seq, fence) for row, fence in zip(rows, fences, strict=True)]).decode()
        db.execute(self.q(TAKE), (worker, now, mine, held_from))
        notes = notes_of(db, self.q, [row.seq for row in rows if row.fence])  # no other job has run before
        return [
            Lease(
                row.id,
                row.name,
                row.queue,
                row.payload.encode("utf-8", "surrogateescape"),
                fence,
                row.attempt + 1,
                row.max_attempts,
                row.priority,
                row.enqueued_at,
                row.run_at,
                row.crashes,
                row.interruptions,
                row.snoozes,
                read_tags(row.tags),
                row.meta.encode("utf-8", "surrogateescape") if row.meta else None,
                row.reason,
                0 if row.retrying_since is None else max(0, now - row.retrying_since),
                () if row.guards is None else as_guards(row.guards),
                SLOTS[row.slot],
                row.held,
                notes.get(row.seq, ()),
            )
            for row, fence in zip(rows, fences, strict=True)
        ]


def less(shares: Sequence[QueueShare], taken: Sequence[Row]) -> list[QueueShare]:
    """What is left of the shares."""
    counts = Counter(row.queue for row in taken)
    return [QueueShare(share.name, max(0, share.limit - counts[share.name])) for share in shares]


def read_tags(raw: object) -> tuple[str, ...]:
    """The tags of a row; none where they are not what we wrote, since tags must not keep a job from running."""
    try:
        return decode_tags(raw) if isinstance(raw, str) else ()
    except (msgspec.MsgspecError, UnicodeError):
        return ()


def salvage(found: tuple[object, ...]) -> Row:
    """A row read column by column, its payload kept byte for byte whatever it is."""
    values = [value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in found]
    return msgspec.convert(values, Row)
