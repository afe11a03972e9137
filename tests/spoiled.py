"""A store that has something of everything, and what must still be true of it after one value in it was spoiled.

``build`` fills a store, ``drive`` runs what there is to run as workers would, ``look`` asks every question that people
and dashboards ask, and ``Verdict`` counts: neighbours that did not run, listings that failed, jobs gone without a word,
calls that failed, and spoiled jobs that wait without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from windlass.core.circuit import CircuitPolicy, Tally
from windlass.core.clock import ManualClock
from windlass.core.model import Cause, Guard, GuardKind, NewJob, NewJoin, Slot, State, UniqueKey, Wait, Write
from windlass.core.rows import Action, JobFilter
from windlass.core.work import PROGRESS, Kind, LeaseRef, Note, Outcome, QueueShare, RateBound, Room, Rules, Want
from windlass.dead.deadlist import DeadList
from windlass.engines.base import Store
from windlass.guards import agreed
from windlass.guards.circuit import CircuitInfo
from windlass.guards.limits import LimitInfo, LockInfo
from windlass.insight.explain import explain
from windlass.insight.queues import QueueInfo, WorkerStatus
from windlass.insight.stats import measure
from windlass.jobs.reader import Reader
from windlass.jobs.registry import Registry
from windlass.settings import Settings
from windlass.testing.conformance.harness import ended, error, info, job, pause, place, set_limit, set_rate, swap

ROUNDS: Final = 7
SHOWN: Final = 15
ROUND_MS: Final = 40_000
BUDGET: Final = 1_000
RULES: Final = Rules(keep_done_max=None)

# Kinds of garbage that the value itself does not matter for.
GARBAGE: Final[tuple[object, ...]] = (
    None,
    "no JSON",
    "",
    b"\xff\xfe\x00\x80",
    2**63 - 1,
    -7,
    1.5e300,
    '{"a": [1, {"b": null}]}',
)


def guarded(id: str, *guards: Guard, unique: UniqueKey | None = None, queue: str = "default") -> NewJob:
    return NewJob(id, "shop.jobs.add", queue, "[1,[],{}]", guards=guards, unique=unique)


class Scene(Struct):
    """What was built: the ids that are to run, and those that had ended."""

    waiting: tuple[str, ...]
    finished: tuple[str, ...]
    started: tuple[int, ...]  # fences of what w1 runs


def build(store: Store, clock: ManualClock) -> Scene:
    """Fill an empty store with something of everything. It may be driven by ``drive`` until all of it has run."""
    store.extend(info("w1"), (), 30_000)
    store.extend(info("w2"), (), 3_600_000)
    pause(store, "asleep", "because", clock.wall_ms() + 3_600_000, "me")
    set_limit(store, "narrow", 3)
    set_rate(store, "paced", RateBound(100, 60_000))
    once = Guard(GuardKind.ONCE, "pay:1", keep_ms=3_600_000)

    def run(id: str, kind: Kind = Kind.DONE, **more: object) -> None:
        (lease,) = store.claim(Want("w1", 1)).leases
        assert lease.id == id
        store.settle([ended(lease, kind, **more)])  # type: ignore[arg-type]

    place(store, [guarded("done-1", once)])
    run("done-1", result='{"x":1}')
    place(store, [job("done-2", tags=("a", "b"), caller_id=True, meta='{"timeout_ms":5000}')])
    run("done-2", result="null", reason="because")
    place(store, [job("dead-1", tags=("x",), expires_ms=9_000_000)])
    run("dead-1", Kind.DEAD, error=error(), reason="because", cause=Cause("builtins.ValueError", "abcdef123456", "m.f"))
    unique = UniqueKey("dead", "done", None, "return")
    place(store, [guarded("dead-2", Guard(GuardKind.CONCURRENCY, "t", 2), unique=unique)])
    run("dead-2", Kind.DEAD, error=error(), cause=Cause("builtins.KeyError", "abcdef123457"))
    place(store, [job("cancelled-1")])
    store.transition(Action.CANCEL, ["cancelled-1"])
    place(store, [job("gone-1", caller_id=True)])
    run("gone-1", keep_ms=1)
    place(store, [job("retry-1")])
    run("retry-1", Kind.RETRY, error=error(), delay_ms=20_000)
    place(store, [job("snoozed-1")])
    run("snoozed-1", Kind.SNOOZE, reason="busy", delay_ms=30_000)
    for _ in range(2):
        place(store, [job("alone-1")])
        (lease,) = store.claim(Want("w1", 1)).leases
        store.settle([ended(lease, Kind.CRASH, error=error("WorkerCrashed"))])
    clock.advance(10)
    store.maintain(RULES, BUDGET)

    # What runs on w1: holders of slots and keys, one whose cancel was asked for, one only held ahead.
    place(
        store,
        [
            guarded("holder-1", Guard(GuardKind.CONCURRENCY, "one", 1)),
            guarded("once-1", Guard(GuardKind.ONCE, "pay:2", keep_ms=1_000)),
            guarded("unique-1", unique=UniqueKey("report", "done", 900_000, "keep_latest")),
            guarded("rate-1", Guard(GuardKind.RATE, "api", 1, 60_000)),
            guarded("paced-1", queue="paced"),
            guarded("narrow-1", queue="narrow"),
            job("stopping-1"),
        ],
    )
    leases = store.claim(Want("w1", 100)).leases
    assert len(leases) == 7
    noted = ((PROGRESS, '{"done":1,"total":3}'), ("cursor:main", '{"at":7}'), ("step:charge", '"receipt"'))
    store.note([Note(lease.id, lease.fence, *one) for lease in leases[:3] for one in noted])
    store.transition(Action.CANCEL, ["stopping-1"])
    place(store, [job("ahead-1", slot=Slot.THREAD)])
    (held,) = store.claim(Want("w1", 1, rooms=(Room(Slot.THREAD, 0, 5),))).leases
    assert held.held

    # What waits behind those, and what waits by itself.
    policy = CircuitPolicy(failures=1, open_for_ms=50_000)
    agreed.tally(store, "stripe", policy, Tally(failed=1, reason="it is down"))
    agreed.tally(store, "calm", policy, Tally(ok=3))
    agreed.tally(store, "half", CircuitPolicy(failures=1, open_for_ms=1), Tally(failed=1))
    clock.advance(5)
    assert agreed.admit(store, "half", "token-1", None).is_admitted
    place(
        store,
        [
            guarded("behind-slot", Guard(GuardKind.CONCURRENCY, "one", 1)),
            guarded("behind-once", Guard(GuardKind.ONCE, "pay:2", keep_ms=1_000)),
            guarded("behind-rate", Guard(GuardKind.RATE, "api", 1, 60_000)),
            guarded("behind-rate-2", Guard(GuardKind.RATE, "burst", 10, 60_000, 2)),
            guarded("behind-circuit", Guard(GuardKind.CIRCUIT, "stripe")),
            guarded("behind-unique", unique=UniqueKey("report", "done", 900_000, "keep_latest")),
        ],
    )
    store.claim(Want("w1", 1, queues=(QueueShare("nothing", 1),)))
    (lease,) = store.claim(Want("w1", 100)).leases  # the others are blocked now
    assert lease.id == "behind-rate-2"
    place(store, [job("later-1", delay_ms=60_000), job("later-2", delay_ms=90_000, queue="other", slot=Slot.LOOP)])
    place(store, [job("expiring-1", delay_ms=1_000, expires_ms=3_600_000)])
    place(store, [guarded("key-1", unique=UniqueKey("start", "start", None, "return"))])
    place(store, [guarded("key-2", unique=UniqueKey("expiry", "expiry", 100_000, "replace"))])
    place(store, [job("ready-1", tags=("t1", "t2"), meta='{"keep_ms":5000000}', priority=3, aging_ms=1_000)])
    place(store, [job("ready-2", queue="other", slot=Slot.THREAD, caller_id=True)])
    place(store, [job("ready-3", queue="other", slot=Slot.LOOP)])
    place(store, [guarded("ready-4", Guard(GuardKind.ONCE, "pay:3", keep_ms=1_000), queue="paced")])
    place(store, [job("ready-5", queue="narrow"), job("sleeping-1", queue="asleep")])
    flow = (
        replace(job("step-1"), joins=("flow", "flow-1")),
        replace(job("step-2", delay_ms=5), joins=("flow", "flow-2"), waits=Wait("flow-1", "end")),
        replace(job("step-3"), joins=("flow",), waits=Wait("flow-2", "end")),
    )
    joins = (
        NewJoin("flow", keep_ms=3_600_000, meta="{}"),
        NewJoin("flow-1", home="flow"),
        NewJoin("flow-2", home="flow"),
    )
    store.commit(Write(flow, joins=joins))
    store.hold("lock:door", "token-a", 1, 60_000, "somebody")
    store.hold("lock:door", "token-b", 1, 60_000, "somebody else", 60_000)
    swap(store, "redrive:1", 0, '{"a":1}', 900_000)
    swap(store, "plain", 0, '"text"')
    store.control("w2", "quiet")
    waiting = (
        "retry-1", "snoozed-1", "alone-1", "holder-1", "once-1", "unique-1", "rate-1", "paced-1", "narrow-1", "ahead-1",
        "behind-slot", "behind-once", "behind-rate", "behind-rate-2", "behind-circuit", "behind-unique",
        "later-1", "later-2", "expiring-1", "key-1", "key-2", "ready-1", "ready-2", "ready-3", "ready-4", "ready-5",
        "step-1", "step-2", "step-3",
    )  # fmt: skip
    finished = ("done-1", "done-2", "dead-1", "dead-2", "cancelled-1", "stopping-1", "sleeping-1")
    rows = store.jobs(JobFilter(), None, 1_000)[0]
    assert {row.id for row in rows} == {*waiting, *finished}
    return Scene(waiting, finished, tuple(row.fence for row in rows if row.state is State.RUNNING and not row.held))


class Verdict(Struct):
    """What went wrong in one case."""

    neighbours: list[str] = []  # that did not run
    listings: list[str] = []  # that failed
    gone: list[str] = []  # jobs without a record
    calls: list[str] = []  # of workers that failed
    stuck: list[str] = []  # spoiled jobs that neither ran nor ended with a reason

    @property
    def is_good(self) -> bool:
        return not (self.neighbours or self.listings or self.gone or self.calls or self.stuck)

    def add(self, other: Verdict) -> None:
        for name in self.__struct_fields__:
            getattr(self, name).extend(getattr(other, name))

    def told(self) -> str:
        """The first cases of each kind, for a failing test."""
        return "\n".join(
            line for name in self.__struct_fields__ for line in (f"-- {name}", *getattr(self, name)[:SHOWN])
        )

    def figures(self) -> str:
        return (
            f"neighbours that did not run {len(self.neighbours)}, listings that failed {len(self.listings)}, "
            f"jobs gone without a word {len(self.gone)}, calls of workers that failed {len(self.calls)}, "
            f"spoiled jobs that wait without a word {len(self.stuck)}"
        )


def judge(store: Store, clock: ManualClock, scene: Scene, victims: Sequence[str], rng: Random, what: str) -> Verdict:
    """Look, run, look again, and say what is not as it must be."""
    verdict = Verdict()
    if rng.random() < 0.5:
        look(store, clock, scene, verdict, what)
    first = rng.choice(("bury", "depart", "reap", "cancel", "retry"))
    drive(store, clock, scene, verdict, f"{what} after {first}", first, victims)
    look(store, clock, scene, verdict, what)
    left = tried(verdict.listings, f"{what}: doctor", lambda: [one for one in store.doctor() if one.check == "records"])
    verdict.calls += [f"{what}: {one.message}" for one in left or [] if one.level != "ok"]  # type: ignore[attr-defined]
    for id in scene.waiting:
        row = tried(verdict.listings, f"{what}: job {id}", lambda id=id: store.job(id))  # type: ignore[misc]
        if id in victims:
            later = row is not None and row.state is State.SCHEDULED and row.run_at > clock.wall_ms()  # which is seen
            if row is not None and not (row.state in (State.DONE, State.DEAD) or row.reason or later):
                verdict.stuck.append(f"{what}: {id} is {row.state}")
        elif row is None or row.state is not State.DONE:
            verdict.neighbours.append(f"{what}: {id} is {None if row is None else (row.state, row.reason)}")
    rows = tried(verdict.listings, f"{what}: jobs", lambda: store.jobs(JobFilter(), None, 1_000)[0]) or []
    seen = {row.id for row in rows}
    everybody = {*scene.waiting, *scene.finished}
    missing = everybody - seen
    strange = seen - everybody
    if len(missing) > len(strange):  # an id that was spoiled itself shows as another one
        verdict.gone += [f"{what}: {id}" for id in sorted(missing)]
    return verdict


def tried(into: list[str], what: str, ask: Callable[[], object]) -> object:
    """What a call gives; its error is noted."""
    try:
        return ask()
    except Exception as error:  # whatever it is, it is what we look for
        into.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")
        return None


def drive(
    store: Store, clock: ManualClock, scene: Scene, verdict: Verdict, what: str, first: str, victims: Sequence[str]
) -> None:
    """Run everything, as workers of another process would after w1 has ended in one way or another."""

    def ask(name: str, call: Callable[[], object]) -> object:
        return tried(verdict.calls, f"{what}: {name}", call)

    if first == "bury":
        ask("bury", lambda: store.bury("w1", scene.started, error("WorkerCrashed"), RULES))
    elif first == "depart":
        ask("extend", lambda: store.extend(info("w1"), [LeaseRef("holder-1", 1)], 30_000))
        ask("depart", lambda: store.depart("w1"))
    elif first in ("cancel", "retry") and victims:
        action = Action.RETRY if first == "retry" else Action.CANCEL
        ask(first, lambda: store.transition(action, list(victims)))
    outcomes: list[Outcome] = []
    for _ in range(ROUNDS):
        clock.advance(ROUND_MS)
        for _ in range(3):
            ask("maintain", lambda: store.maintain(RULES, BUDGET))
        beat = ask("extend", lambda: store.extend(info("w3"), (), 3_600_000))
        # What a call claimed that failed half-way: a worker gives it back.
        strays = [] if beat is None else [Outcome(one.id, one.fence, Kind.RELEASE) for one in beat.strays]  # type: ignore[attr-defined]
        ask("settle strays", lambda strays=strays: store.settle(strays))  # type: ignore[misc]
        for alone in (False, True, False):
            want = Want("w3", 100, alone=alone)
            answer = ask("exchange", lambda want=want, done=outcomes: store.exchange(done, want))  # type: ignore[misc]
            outcomes = [] if answer is None else [ended(one, result="1") for one in answer[1].leases]  # type: ignore[index]
        ask("settle", lambda done=outcomes: store.settle(done))  # type: ignore[misc]
        outcomes = []


def look(store: Store, clock: ManualClock, scene: Scene, verdict: Verdict, what: str) -> None:
    """Ask every question there is."""
    for name, ask in questions(store, clock, scene):
        tried(verdict.listings, f"{what}: {name}", ask)


def questions(store: Store, clock: ManualClock, scene: Scene) -> Iterator[tuple[str, Callable[[], object]]]:
    registry = Registry()
    reader = Reader(store, registry)
    dead = DeadList(lambda: store, registry, clock)
    yield "jobs", lambda: [reader.describe(row) for row in store.jobs(JobFilter(), None, 1_000)[0]]
    for state in State:
        yield f"jobs {state}", lambda state=state: store.jobs(JobFilter(state=state), None, 5)  # type: ignore[misc]
    yield "jobs of a tag", lambda: store.jobs(JobFilter(tag="a", queue="default", name="shop.jobs.add"), None, 5)
    yield "jobs of an error", lambda: store.jobs(JobFilter(error="ValueError", ended_after=0), None, 5)
    yield "counts", store.counts
    yield "stats", lambda: measure(store, Settings())
    yield "queues", lambda: [QueueInfo.of(row) for row in store.queues()]
    yield "workers", lambda: [WorkerStatus.of(row) for row in store.workers()]
    yield "groups", lambda: dead.groups()
    yield "dead", lambda: [*dead.list()]
    yield "dead lines", lambda: [*dead.lines()]
    yield "dead count", lambda: dead.count()
    yield "redrives", lambda: dead.redrives()
    yield "holds", store.holds
    yield "locks", lambda: [LockInfo.of(row) for row in store.holds("lock:")]
    yield "circuits", lambda: [CircuitInfo.of(row) for row in agreed.rows(store)]
    yield "limits", lambda: [LimitInfo.of(row) for row in store.limits()]
    yield "names", store.names
    yield "documents", lambda: store.read(store.keys(""))
    yield "joins", lambda: [store.members(one.id, None, 100) for one in store.list_joins("", None, 100)[0]]
    yield "doctor", store.doctor
    for id in (*scene.waiting[::5], *scene.finished):
        yield (
            f"explain {id}",
            lambda id=id: explain(id, store, reader, registry, clock, Settings()),  # type: ignore[misc]
        )


def flipped(raw: bytes, rng: Random) -> bytes:
    """The bytes with one bit flipped."""
    if not raw:
        return b"\x01"
    at = rng.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ (1 << rng.randrange(8))]) + raw[at + 1 :]
