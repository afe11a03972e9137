"""The hot path of the Redis engine: each call is one script, one round trip, one atomic step.

The scripts hold the logic (``scripts/*.lua``, and what they share in ``scripts/lib``); here arguments are packed and
answers read. ``core`` runs scripts, ``waiting`` blocks, ``inspector`` is the cold path, ``doctor`` looks after damage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from windlass.core.errors import ConfigError, Duplicate, EngineDamaged, EngineFull
from windlass.core.fingerprint import INTERRUPTED, POISON
from windlass.core.model import Count, JobError, NewJob, Placed, Write, Written
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
from windlass.engines.redis import carried
from windlass.engines.redis.connection import Command
from windlass.engines.redis.coordinator import RedisCoordinator
from windlass.engines.redis.dead import RedisDead
from windlass.engines.redis.documents import RedisDocuments, loss, made, pack_swaps
from windlass.engines.redis.reading import as_list, strings, to_lease
from windlass.engines.redis.wire import (
    Head,
    JobTexts,
    OutcomeTexts,
    Runs,
    as_int,
    cause_text,
    encode_info,
    error_head,
    guards_text,
    is_bare,
    keep_dead,
    none_below_zero,
    pack,
    pack_bounds,
    pack_counts,
    pack_joins,
    pack_rooms,
)
from windlass.logs import Log

__all__ = ["RedisEngine"]

log = Log("windlass.engine")

INTERRUPTED_ERROR: Final = error_head(
    JobError(INTERRUPTED.error_type, "interrupted more often than max_interruptions allows", "", 0, 0)
)
NO_BOUND: Final = 1_000_000
QUEUE_SETS_MAX: Final = 100  # combinations of queues whose JobTexts are remembered
APPLIED: Final = {ord("1"): Settled.APPLIED, ord("0"): Settled.STALE}


class RedisEngine(RedisCoordinator, RedisDead, RedisDocuments):
    """A store in Redis or Valkey: ``url`` or ``client`` says where. Fulfils ``engines.base.Store``. *Thread-safe.*"""

    def _forget_handles(self) -> None:
        super()._forget_handles()
        self._turn = ""  # the queue behind which the next claim of any queue begins
        self._made: dict[tuple[str, ...], JobTexts] = {}
        self._beats: dict[str, int] = {}  # worker -> when its lease ends that this object took last, by the store

    def open(self) -> None:
        with self._opening:
            if self._calls is not None:
                return
            super().open()
            try:
                self._carry_circuits()
            except (EngineDamaged, EngineFull) as error:
                log.warning("%s: circuits of the version before were not read over: %s", self.target, error)
            except BaseException:
                self.close()
                raise

    def _carry_circuits(self) -> None:
        """Make documents of the circuits that the version before has left."""
        for swap in carried.swaps_of(as_list(self._ask_plainly("HGETALL", f"{self._prefix}{carried.HASH}"))):
            self.commit(Write(swaps=(swap,)))  # where there is a document already, that one stays

    def commit(self, write: Write) -> Written:
        jobs, swaps = write.jobs, write.swaps
        if not (jobs or write.opens or write.counts or write.has_ties):
            return self._swap(write)
        self._client()  # what the server can do decides what may be asked of it
        names = tuple(dict.fromkeys(job.queue for job in jobs))
        before, fsync = self._seen["jobs"], self._wants_disk(jobs)
        reply = self._put(write, names, fsync, look=True)
        while reply[0] == b"\0lapsed":
            reply = self._put(write, names, fsync, look=self._lapse(strings(as_list(reply[1]))))
        if (lost := loss(swaps, reply)) is not None:
            self._learn_time(reply[2])
            return lost
        if as_int(reply[0]) < 0:
            holder, key = strings(reply[1:3])
            raise Duplicate(
                f"nothing is stored: the unique key {key!r} is taken by job {holder}; wait for that one, or give "
                "another on_conflict",
                holder,
            )
        answers = str_of(reply[1])
        self._watch("jobs", before + answers.count("0"), reply[0])
        placed = [Placed(job.id, answer == "1") for job, answer in zip(jobs, answers, strict=True)]
        if len(reply) > 2:
            others = as_list(reply[2])
            for place, holder in zip(others[::2], strings(others[1::2]), strict=True):
                placed[as_int(place) - 1] = Placed(holder, duplicate=True)
        if not swaps:
            return Written(placed)
        self._learn_time(reply[4])
        return Written(placed, made(swaps, reply[3]))

    def _swap(self, write: Write) -> Written:
        if not write.swaps:
            return Written([])
        reply = self._call("swap", (), pack_swaps(write), fsync=self._wants_documents_on_disk(write))
        self._learn_time(reply[2])
        return loss(write.swaps, reply) or Written([], made(write.swaps, reply[1]))

    def _wants_documents_on_disk(self, write: Write) -> bool:
        lasting = write.has_ties or any(one.durable for one in write.swaps)
        return self._durability == "fsync" and lasting

    def _put(self, write: Write, names: tuple[str, ...], fsync: bool, *, look: bool) -> list[object]:
        jobs, swaps = write.jobs, write.swaps
        if swaps or write.opens or write.counts or write.has_ties:
            specs, flags, *rest = self._guarded_args(jobs, names, look)
            opens: list[Command] = []
            for one in write.opens:
                opens += one.gate, -1 if one.in_ms is None else one.in_ms
            counts = pack_counts(write.counts)
            joins = pack_joins(write.joins), pack(write.seals), pack(write.enters)
            args = [specs, flags, len(swaps), len(write.opens), counts, *joins, *pack_swaps(write), *opens, *rest]
            return self._call("commit", names, args, fsync=fsync or self._wants_documents_on_disk(write))
        if len(jobs) == 1 and is_plain(jobs[0]):
            body, spec = self._texts_of(names)(jobs[0])
            reply = self._call("enqueue_plain", names, (spec, jobs[0].id, body), fsync=fsync)
            if reply[0] != b"\0known":
                return reply
        if all(map(is_bare, jobs)):
            return self._call("enqueue", names, self._job_args(jobs, names, look), fsync=fsync)
        return self._call("enqueue_guarded", names, self._guarded_args(jobs, names, look), fsync=fsync)

    def _lapse(self, ids: Sequence[str]) -> bool:
        """Make true of jobs what time has made of them; say whether that changed any."""
        before = self._seen["writes"]
        reply = self._call("lapse", (), [self._rules.keep_done_ms, self._rules.id_keep_ms, *ids])
        self._watch("writes", before + 1, reply[0])
        return as_int(reply[1]) > 0

    def _texts_of(self, names: tuple[str, ...]) -> Callable[[NewJob], tuple[bytes, str]]:
        """What turns jobs of these queues into body and spec."""
        made = self._made.get(names)
        if made is None:
            if len(self._made) >= QUEUE_SETS_MAX:
                self._made.clear()
            made = self._made[names] = JobTexts(names)
        return made.texts

    def _job_args(self, jobs: Sequence[NewJob], names: tuple[str, ...], look: bool) -> list[Command]:
        texts = self._texts_of(names)
        ids = [job.id for job in jobs]
        runs, bodies = Runs(), list[Command]()
        for job in jobs:
            body, spec = texts(job)
            runs.add(spec)
            bodies.append(body)
        return [runs.packed(), f"{len(set(ids)) == len(ids):d}{look:d}", *ids, *bodies]

    def _guarded_args(self, jobs: Sequence[NewJob], names: tuple[str, ...], look: bool) -> list[Command]:
        return [*self._job_args(jobs, names, look), *(guards_text(job, self._rules) for job in jobs)]

    def _wants_disk(self, jobs: Sequence[NewJob]) -> bool:
        usual = self._durability == "fsync"
        wishes = {job.durable for job in jobs}
        if True not in wishes and not (usual and None in wishes):
            return False
        if not usual and not self._server.can_sync:
            raise ConfigError(
                f"durability 'fsync' of job {jobs[0].id} needs Redis 7.2 with an append-only file, and {self.target} "
                f"is {self._server.version} ({self._server.persistence}): leave the job's durability out"
            )
        return True

    def claim(self, want: Want) -> Claimed:
        return self._claim(want, ())

    def _claim(self, want: Want, counts: Sequence[Count]) -> Claimed:
        before = self._seen["writes"]
        reply = self._call("claim", (), [*self._claim_args(want), pack_counts(counts)], guarded=bool(want.bounds))
        self._watch("writes", before + 1, reply[0])
        return self._claimed(reply[1])

    def listen(self, queues: Sequence[str | Watch] | None, timeout: float, want: Want) -> Claimed | None:
        return self._unless_woken(lambda: self._block_and_claim(queues, timeout, want), None)

    def _block_and_claim(self, queues: Sequence[str | Watch] | None, timeout: float, want: Want) -> Claimed:
        before = self._seen["writes"]
        what, keys, args = self._made_call("claim", (), self._claim_args(want), guarded=bool(want.bounds))
        answer = self._block_then(queues, timeout, ("EVALSHA", what.sha, len(keys), *keys, *args))
        if isinstance(answer, Exception) or self._is_for_guards(reply := as_list(answer)):
            return self.claim(want)
        self._watch("writes", before + 1, reply[0])
        return self._claimed(reply[1])

    def settle(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        return self._settle(outcomes, ())

    def _settle(self, outcomes: Sequence[Outcome], counts: Sequence[Count]) -> list[Settled]:
        if not outcomes and not counts:
            return []
        before = self._seen["writes"]
        names = queues_of(outcomes)
        args = [pack_counts(counts), *self._settle_args(outcomes, names)]
        reply = self._call("settle", names, args, guarded=any_guarded(outcomes))
        self._watch("writes", before + 1, reply[0])
        return settled_of(reply[1])

    def exchange(
        self, outcomes: Sequence[Outcome], want: Want | None, counts: Sequence[Count] = ()
    ) -> tuple[list[Settled], Claimed]:
        if want is None:
            return self._settle(outcomes, counts), Claimed([])
        if not outcomes:
            return [], self._claim(want, counts)
        names = queues_of(outcomes)
        before = self._seen["writes"]
        reply = self._call(
            "exchange",
            names,
            [*self._claim_args(want), pack_counts(counts), *self._settle_args(outcomes, names)],
            guarded=bool(want.bounds) or any_guarded(outcomes),
        )
        self._watch("writes", before + 1, reply[0])
        return settled_of(reply[1]), self._claimed(reply[2])

    def _claimed(self, reply: object) -> Claimed:
        """The answer of ``scripts/lib/claiming.lua``, of which the queue behind which the next claim begins is kept."""
        *answer, turn = as_list(reply)
        self._turn = str_of(turn)
        return claimed_of(answer)

    def _claim_args(self, want: Want) -> list[Command]:
        shares: str | list[str | int] = self._turn
        if want.queues is not None:
            shares = [part for share in want.queues for part in (share.name, max(0, share.limit))]
        room = NO_BOUND if want.room is None else want.room
        return [
            want.worker,
            want.limit,
            int(want.alone),
            self._rules.keep_done_ms,
            pack(shares),
            room,
            want.late_ms,
            pack_bounds(want.bounds),
            pack_rooms(want.rooms),
        ]

    def _settle_args(self, outcomes: Sequence[Outcome], names: Sequence[str]) -> list[Command]:
        args: list[Command] = [len(outcomes), b""]
        runs, texts = Runs(), OutcomeTexts(self._rules)
        then: list[Command] = []
        bodies, composed = None, False
        for place, one in enumerate(outcomes, 1):
            own, spec = texts.texts(one)
            runs.add(spec)
            args += own
            for write in one.then:
                composed = composed or bool(write.joins or write.seals)
                if composed:
                    then += place, "", pack_joins(write.joins), pack(write.seals), ""
                for job in write.jobs:
                    bodies = bodies or JobTexts(names)
                    then += place, job.id, *bodies.texts(job), guards_text(job, self._rules)
        args[1] = runs.packed()
        return args + then

    def names(self) -> list[str]:
        return sorted(strings(self._call("names", (), ())))

    def note(self, notes: Sequence[Note]) -> list[Settled]:
        if not notes:
            return []
        args: list[Command] = []
        for one in notes:
            args += one.id, one.fence, one.key, int(one.value is not None), one.value or "", int(one.durable)
        fsync = self._durability == "fsync" and any(one.durable for one in notes)
        return settled_of(self._call("note", (), args, fsync=fsync)[1])

    def extend(self, worker: WorkerInfo, leases: Sequence[LeaseRef], lease_ms: int) -> Heartbeat:
        before, until = self._seen["writes"], self._beats.get(worker.id)
        reply = self._call("extend", (), [worker.id, encode_info(worker), lease_ms, self._inbox])
        self._watch("writes", before + 1, reply[0])
        known, now, flat = as_int(reply[1]), as_int(reply[2]), as_list(reply[3])
        self._beats[worker.id] = now + lease_ms
        if not known and until is not None and now < until:
            self._alarm(f"worker {worker.id} beat within its lease, but its record is gone")
        ids = strings(flat[::3])
        held = [LeaseRef(id, as_int(fence)) for id, fence in zip(ids, flat[1::3], strict=True)]
        mine, listed = set(held), set(leases)
        return Heartbeat(
            lost=tuple(lease for lease in leases if lease not in mine),
            strays=tuple(lease for lease in held if lease not in listed),
            cancels=tuple(lease for lease, cancel in zip(held, flat[2::3], strict=True) if as_int(cancel)),
            control=tuple(str_of(reply[4]).split()),
        )

    def depart(self, worker: str) -> Buried:
        rules = self._rules
        args: list[Command] = [
            worker,
            rules.max_interruptions,
            INTERRUPTED_ERROR,
            rules.keep_done_ms,
            keep_dead(rules),
            cause_text(INTERRUPTED),
        ]
        self._beats.pop(worker, None)
        _, released, dead = self._call("depart", (), args)
        return Buried(released=tuple(strings(as_list(released))), dead=tuple(strings(as_list(dead))))

    def bury(self, worker: str, started: Sequence[int], error: str, rules: Rules) -> Buried:
        args: list[Command] = [
            worker,
            pack(list(started)),
            rules.max_crashes,
            rules.crash_delay_ms,
            rules.crash_delay_max_ms,
            error_head(error),
            rules.keep_done_ms,
            keep_dead(rules),
            cause_text(POISON),
        ]
        self._beats.pop(worker, None)
        _, released, charged, dead = self._call("bury", (), args)
        return Buried(
            released=tuple(strings(as_list(released))),
            charged=tuple(strings(as_list(charged))),
            dead=tuple(strings(as_list(dead))),
        )

    def maintain(self, rules: Rules, budget: int) -> Upkeep:
        args: list[Command] = [
            budget,
            rules.max_interruptions,
            INTERRUPTED_ERROR,
            rules.keep_done_ms,
            keep_dead(rules),
            -1 if rules.keep_done_max is None else rules.keep_done_max,
            -1 if rules.dead_max is None else rules.dead_max,
            rules.id_keep_ms,
            cause_text(INTERRUPTED),
            int(rules.dead_held),
            pack([part for keep in rules.counts for part in (keep.kind, keep.minutes, keep.into or "")]),
        ]
        self._repairer.look_on()
        _, promoted, expired, released, died, pruned, trimmed, overdue, alone, due, more = self._call(
            "maintain", (), args
        )
        expired_workers = tuple(strings(as_list(expired)))
        for worker in expired_workers:
            self._beats.pop(worker, None)
        return Upkeep(
            promoted=as_int(promoted),
            expired_workers=expired_workers,
            released=tuple(strings(as_list(released))),
            died=tuple(strings(as_list(died))),
            pruned=as_int(pruned),
            trimmed=tuple(strings(as_list(trimmed))),
            overdue=deaths_of(as_list(overdue)),
            alone_in_ms=none_below_zero(alone),
            due_in_ms=none_below_zero(due),
            more=bool(as_int(more)),
            rollbacks=self._report_alarms(),
        )


def deaths_of(flat: Sequence[object]) -> tuple[LeaseRef, ...]:
    """Deaths, from ids and fences in turn."""
    return tuple(LeaseRef(id, as_int(fence)) for id, fence in zip(strings(flat[::2]), flat[1::2], strict=True))


def is_plain(job: NewJob) -> bool:
    """Whether nothing but its own id may be in the way of a job, and it is due at once and for ever."""
    waits = job.run_at is not None or job.delay_ms != 0 or job.expires_ms is not None
    return not waits and not job.caller_id and is_bare(job)


def any_guarded(outcomes: Sequence[Outcome]) -> bool:
    """Whether a follow-up has guards or ties or makes them, or a job is to wait."""
    return any(one.waits is not None or (one.then and not all(map(is_loose, one.then))) for one in outcomes)


def is_loose(write: Write) -> bool:
    """Whether a follow-up is jobs without guards and ties, and nothing else."""
    return not (write.joins or write.seals) and all(map(is_bare, write.jobs))


def queues_of(outcomes: Sequence[Outcome]) -> list[str]:
    """The queues of follow-ups."""
    return list(dict.fromkeys(job.queue for one in outcomes for write in one.then for job in write.jobs))


def str_of(reply: object) -> str:
    """The text a script gave."""
    if not isinstance(reply, bytes):
        raise TypeError(f"the server gave {type(reply).__name__} where a text belongs")
    return reply.decode()


def settled_of(reply: object) -> list[Settled]:
    """One answer an outcome, from the text a script gave."""
    return [APPLIED[answer] for answer in str_of(reply).encode()]


def by_number(flat: Sequence[object]) -> dict[int, object]:
    """What a claim gives of some of its leases, by their numbers."""
    return dict(zip(map(as_int, flat[::2]), flat[1::2], strict=True)) if flat else {}


def claimed_of(answer: Sequence[object]) -> Claimed:
    """What a claim gives."""
    expelled, due_in, cancels, first, leases, guards, notes, ended = answer
    fence = as_int(first)
    guards_of, notes_of = by_number(as_list(guards)), by_number(as_list(notes))
    flat, asked = as_list(leases), as_list(cancels)
    heads: dict[bytes, Head] = {}
    return Claimed(
        leases=[
            to_lease(flat[at : at + 4], fence + at // 4, heads, guards_of.get(at // 4), notes_of.get(at // 4))
            for at in range(0, len(flat), 4)
        ],
        cancels=tuple(LeaseRef(id, as_int(fence)) for id, fence in zip(strings(asked[::2]), asked[1::2], strict=True)),
        due_in_ms=none_below_zero(due_in),
        expelled=bool(as_int(expelled)),
        ended=tuple(strings(as_list(ended))),
    )
