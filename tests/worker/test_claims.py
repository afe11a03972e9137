"""Who takes a job: whoever can start it now. What a worker cannot start it leaves, or gives back and takes no more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from msgspec import structs
from redis import Redis

from kit.waiting import PATIENCE, stretched, until
from servers import RedisServer
from windlass import Constant, Retry, State, Windlass
from windlass.core.model import Slot
from windlass.core.rows import Action
from windlass.core.work import Room, Watch
from windlass.engines.redis import RedisEngine
from windlass.testing.conformance.harness import join, place, take
from windlass.worker import notes, pump
from windlass.worker.worker import Worker


@contextmanager
def working(app: Windlass) -> Iterator[Worker]:
    worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)
    worker.start()
    try:
        yield worker
    finally:
        worker.abort()
        worker.shut_down()


class Site:
    """One application on a store, and the jobs that it has: long ones that run until ``open``, and quick ones."""

    def __init__(self, app: Windlass) -> None:
        self.app = app
        self.gate = threading.Event()
        self.entered = 0

        def hold() -> None:
            self.entered += 1
            self.gate.wait(120)

        async def ahold() -> None:
            self.entered += 1
            while not self.gate.is_set():
                await asyncio.sleep(0.005)

        async def abrief() -> None:
            await asyncio.sleep(0)

        self.hold = {Slot.THREAD: app.job(name="hold")(hold), Slot.LOOP: app.job(name="ahold")(ahold)}
        self.brief = {
            Slot.THREAD: app.job(name="brief")(lambda: threading.Event().wait(0.001)),
            Slot.LOOP: app.job(name="abrief")(abrief),
        }

    def fill(self, slot: Slot, count: int) -> None:
        """Let long jobs take so many slots of a kind."""
        before = self.entered
        self.app.enqueue_many(self.hold[slot].bind() for _ in range(count))
        until(lambda: self.entered == before + count, "the long jobs do not start")

    def done(self) -> int:
        return self.app.stats()["done"]


Sites = Callable[..., Site]


@pytest.fixture
def sites(store: dict[str, str], tmp_path: Path) -> Iterator[Sites]:
    """Applications on one store."""
    with ExitStack() as stack:
        made: list[Site] = []

        def make(**options: object) -> Site:
            url = store.get("WINDLASS_URL", f"sqlite:///{tmp_path}/jobs.db")
            made.append(Site(stack.enter_context(Windlass(url, **options))))  # type: ignore[arg-type]
            return made[-1]

        def let_go() -> None:
            for site in made:
                site.gate.set()

        stack.callback(let_go)
        yield make


@pytest.mark.parametrize("slot", list(Slot))
def test_what_a_busy_worker_cannot_start_starts_on_an_idle_one(sites: Sites, slot: Slot) -> None:
    busy, idle = sites(threads=1, async_slots=1), sites()
    with working(busy.app):
        busy.fill(slot, 1)
        with working(idle.app):
            busy.app.enqueue_many(busy.brief[slot].bind() for _ in range(30))
            until(lambda: busy.done() == 30, "jobs wait behind the long one")
            for _ in range(20):
                busy.brief[slot].enqueue()
            until(lambda: busy.done() == 50, "jobs wait behind the long one")
            busy.gate.set()


@pytest.mark.parametrize("slot", list(Slot))
def test_what_a_busy_worker_holds_when_its_long_jobs_begin_goes_to_an_idle_one(sites: Sites, slot: Slot) -> None:
    busy, idle = sites(threads=1, async_slots=1), sites()
    brief, hold = busy.brief[slot], busy.hold[slot]
    with working(busy.app) as worker:
        busy.app.enqueue_many([*(brief.bind() for _ in range(300)), hold.bind(), *(brief.bind() for _ in range(60))])
        until(lambda: busy.entered == 1, "the long job does not start")
        with working(idle.app):
            until(lambda: busy.done() == 360, "jobs wait behind the long one")
            assert worker.held == 1
            busy.gate.set()


def gave_back(site: Site, count: int) -> bool:
    """Whether so many jobs are ready, and some of them were claimed before: it has tried."""
    rows = [site.app.engine.job(info.id) for info in site.app.jobs(State.READY)]
    ready = [row for row in rows if row is not None and row.state is State.READY]  # still, when it was read
    return len(ready) == count and any(row.fence for row in ready)


@pytest.mark.parametrize("slot", list(Slot))
def test_a_worker_does_not_take_again_what_it_gave_back(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, slot: Slot
) -> None:
    monkeypatch.setattr(pump, "HOARD_MAX", 60.0)
    monkeypatch.setattr(pump, "AHEAD", 10.0)  # so that some are held however slow the machine is
    busy = sites(threads=1, async_slots=1, poll_min="10ms", poll_max="20ms")
    (other,) = set(Slot) - {slot}
    brief, hold = busy.brief[slot], busy.hold[slot]
    with working(busy.app) as worker:
        busy.app.enqueue_many([*(brief.bind() for _ in range(300)), hold.bind(), *(brief.bind() for _ in range(60))])
        until(lambda: busy.entered == 1, "the long job does not start")
        until(lambda: worker.held > 1, "it holds nothing ahead")
        monkeypatch.setattr(pump, "HOARD_MAX", 0.05)
        until(lambda: worker.held == 1, "it keeps what it cannot start")
        until(lambda: gave_back(busy, 60), "it does not give back what it cannot start")
        fences = {info.id: busy.app.engine.job(info.id) for info in busy.app.jobs(State.READY)}
        busy.app.enqueue_many(busy.brief[other].bind() for _ in range(300))
        until(lambda: busy.done() == 600, "jobs of the other kind do not run")
        assert {info.id: busy.app.engine.job(info.id) for info in busy.app.jobs(State.READY)} == fences
        busy.gate.set()
        until(lambda: busy.done() == 661, "it takes nothing more")


@contextmanager
def standing_still(app: Windlass, slot: Slot, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A worker of which no slot of a kind comes to its turn until what this gives is called."""
    worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)
    (pool,) = worker._pools
    start, turn = pool.threads.start, threading.Event()
    if slot is Slot.THREAD:
        monkeypatch.setattr(pool.threads, "start", lambda: None)
    worker.start()
    if slot is Slot.LOOP:
        pool.loop.start().call_soon_threadsafe(turn.wait)
    try:
        yield turn.set if slot is Slot.LOOP else start
    finally:
        turn.set()
        worker.abort()
        worker.shut_down()


@pytest.mark.parametrize("slot", list(Slot))
def test_what_was_given_back_while_a_process_stood_still_runs_when_it_goes_on(
    sites: Sites, monkeypatch: pytest.MonkeyPatch, slot: Slot
) -> None:
    monkeypatch.setattr(pump, "HOARD_MAX", 0.05)
    site = sites(threads=2, async_slots=2, poll_min="10ms", poll_max="20ms")
    with standing_still(site.app, slot, monkeypatch) as go_on:
        first, *_ = site.app.enqueue_many(site.brief[slot].bind() for _ in range(20))
        fences = set()

        def was_given_back() -> bool:
            row = site.app.engine.job(first.id)
            assert row is not None
            fences.update({row.fence} - {0})
            return len(fences) > 1 or (bool(row.fence) and row.state is State.READY)

        until(was_given_back, "it does not give back what it cannot start")
        go_on()
        until(lambda: site.done() == 20, "it takes nothing more")


def test_a_worker_whose_event_loop_stands_still_takes_no_coroutines(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "HOARD_MAX", 0.05)
    site = sites(threads=1, async_slots=2, poll_min="10ms", poll_max="20ms")
    with standing_still(site.app, Slot.LOOP, monkeypatch) as go_on:
        site.app.enqueue_many(site.brief[Slot.LOOP].bind() for _ in range(20))
        until(lambda: gave_back(site, 20), "it does not give back what it cannot start")
        rows = {info.id: site.app.engine.job(info.id) for info in site.app.jobs(State.READY)}
        site.app.enqueue_many(site.brief[Slot.THREAD].bind() for _ in range(300))
        until(lambda: site.done() == 300, "jobs of the other kind do not run")
        assert {info.id: site.app.engine.job(info.id) for info in site.app.jobs(State.READY)} == rows
        go_on()
        until(lambda: site.done() == 320, "it takes nothing more")


@pytest.mark.parametrize("slot", list(Slot))
def test_a_worker_with_both_kinds_of_slot_runs_both_kinds(sites: Sites, slot: Slot) -> None:
    site = sites(threads=2, async_slots=3)
    (other,) = set(Slot) - {slot}
    with working(site.app):
        site.fill(slot, 2 if slot is Slot.THREAD else 3)
        site.app.enqueue_many(site.brief[slot].bind() for _ in range(500))  # stand in front
        site.app.enqueue_many(site.brief[other].bind() for _ in range(500))
        until(lambda: site.done() == 500, "the other kind does not run")
        site.gate.set()
        until(lambda: not site.app.stats()["ready"], "the first kind does not run")


# -- records that say another kind than the code, or none ----------------------------------------------------


def records(site: Site, slot: Slot | None, really: Slot, count: int) -> None:
    """Store quick jobs as a client of another version does."""
    new = site.brief[really].bind().new
    place(site.app.engine, [structs.replace(new, id=f"{slot}-{really}-{n}", slot=slot) for n in range(count)])


@pytest.mark.parametrize("stored", [None, *Slot])
@pytest.mark.parametrize("really", list(Slot))
def test_jobs_of_a_wrong_kind_run_where_there_is_room(sites: Sites, stored: Slot | None, really: Slot) -> None:
    busy, idle = sites(threads=1, async_slots=1), sites()
    with working(busy.app):
        busy.fill(really, 1)
        records(busy, stored, really, 20)
        with working(idle.app):
            until(lambda: busy.done() == 20, "they do not run")
            busy.gate.set()


@pytest.mark.parametrize("stored", [None, *Slot])
def test_an_application_with_one_kind_of_job_takes_records_of_every_kind(
    store: dict[str, str], tmp_path: Path, stored: Slot | None
) -> None:
    with Windlass(store.get("WINDLASS_URL", f"sqlite:///{tmp_path}/jobs.db"), threads=2) as app:
        brief = app.job(name="brief")(lambda: None)
        place(app.engine, [structs.replace(brief.bind().new, slot=stored) for _ in range(300)])
        with working(app):
            until(lambda: app.stats()["done"] == 300, "they do not run")


def test_a_job_that_was_given_back_as_another_kind_is_not_taken_for_the_wrong_slots_again(sites: Sites) -> None:
    site = sites(threads=1, async_slots=5)
    with working(site.app):
        site.fill(Slot.THREAD, 1)
        records(site, Slot.LOOP, Slot.THREAD, 30)
        until(lambda: site.app.stats()["ready"] == 30, "they are not given back")
        site.app.enqueue_many(site.brief[Slot.LOOP].bind() for _ in range(200))
        until(lambda: site.done() == 200, "the other kind does not run")
        join(site.app.engine, "probe")
        assert take(site.app.engine, "probe", rooms=(Room(Slot.LOOP, 10),)) == []
        rows = [site.app.engine.job(f"loop-thread-{n}") for n in range(30)]
        assert all(row is not None and (row.attempt, row.interruptions) == (0, 0) for row in rows)
        site.gate.set()
        until(lambda: site.done() == 231, "they do not run")


def test_a_job_that_retries_waits_as_the_kind_that_it_is(sites: Sites) -> None:
    site = sites(threads=1, async_slots=1)
    failed = threading.Event()

    def fail() -> None:
        failed.set()
        raise ValueError("no")

    job = site.app.job(name="fail", retry=Retry(attempts=2, backoff=Constant("1h")))(fail)
    place(site.app.engine, [structs.replace(job.bind().new, id="x", slot=Slot.LOOP)])
    with working(site.app):
        until(failed.is_set, "it does not run")
        until(lambda: site.app.stats()["scheduled"] == 1, "it does not wait")
    join(site.app.engine, "probe")
    site.app.engine.transition(Action.RETRY, ["x"])
    assert take(site.app.engine, "probe", rooms=(Room(Slot.LOOP, 10),)) == []
    assert len(take(site.app.engine, "probe", rooms=(Room(Slot.THREAD, 10),))) == 1


# -- held ahead ----------------------------------------------------------------------------------------------


def test_held_jobs_are_told_apart_until_they_have_run_for_a_while(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "HOARD_MAX", 60.0)
    monkeypatch.setattr(pump, "AHEAD", 10.0)  # so that some are held however slow the machine is,
    monkeypatch.setattr(pump, "AHEAD_MAX", 20)  # and some are not
    monkeypatch.setattr(notes, "HELD_TOLD", 0.05)
    site = sites(threads=1)
    brief, hold = site.brief[Slot.THREAD], site.hold[Slot.THREAD]
    with working(site.app) as worker:
        handles = site.app.enqueue_many([*(brief.bind() for _ in range(300)), *(hold.bind() for _ in range(60))])
        until(lambda: site.entered == 1, "the long job does not start")
        until(lambda: site.app.queue("default").info().running == 1, "the store is not told that it has started")
        # What it gives back meanwhile it has let go before the store is told.
        until(
            lambda: site.app.queue("default").info().held == worker.held - 1 > 0, "the store does not tell what is held"
        )
        info = site.app.queue("default").info()
        first, second = handles[300].id, handles[301].id
        assert not site.app.get(first).held
        found = site.app.get(second)
        assert found.held
        assert (found.state, found.started_at) == (State.RUNNING, None)
        assert "about to start" in site.app.explain(second)
        assert "about to start" not in site.app.explain(first)
        stats = site.app.stats()
        assert (stats["running"], stats["held"]) == (1 + info.held, info.held)
        assert (stats.queues["default"].running, stats.queues["default"].held) == (1, info.held)
        gone = site.app.queue("default").clear()
        assert (gone, gone.held) == (60 - worker.held, info.held)
        site.gate.set()
        until(lambda: not worker.held, "they do not run")
        until(lambda: site.app.queue("default").info().held == 0, "the store is not told that they have run")


def test_short_jobs_that_were_held_cost_the_store_nothing_more(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    site = sites(threads=2)
    reports = []
    monkeypatch.setattr(site.app.engine, "note", lambda notes: reports.append(notes) or [])
    with working(site.app):
        site.app.enqueue_many(site.brief[Slot.THREAD].bind() for _ in range(1_000))
        until(lambda: site.done() == 1_000, "they do not run")
    assert reports == []


# -- wake-ups ------------------------------------------------------------------------------------------------


def listeners(client: Redis) -> int:
    return int(client.info("clients")["blocked_clients"])


def test_a_worker_listens_only_for_what_it_has_room_for() -> None:
    with closing(RedisServer()) as server, Windlass(server.url, threads=1, async_slots=1) as app:
        site = Site(app)
        with server.client() as client, closing(RedisEngine(server.url)) as other, working(app):
            site.brief[Slot.THREAD].enqueue().result(timeout=stretched(PATIENCE))  # now the queue is known
            for slot in Slot:
                site.fill(slot, 1)
                (free,) = set(Slot) - {slot}
                until(lambda: listeners(client) == 1, "a worker with a free slot does not listen")
                while other.wait([Watch("default", (slot,))], 0.01):
                    pass
                woken: list[bool] = []
                waiter = threading.Thread(
                    target=lambda w=woken, slot=slot: w.append(other.wait([Watch("default", (slot,))], 30))
                )
                waiter.start()
                until(lambda: listeners(client) == 2, "the other worker does not listen")
                site.brief[slot].enqueue()
                waiter.join(stretched(PATIENCE))
                assert woken == [True]
                done = site.done()
                site.brief[free].enqueue()
                until(lambda done=done: site.done() > done, "the worker does not hear of what it could start")
                site.gate.set()
                until(lambda: not app.stats()["ready"] and not app.stats()["running"], "the jobs do not end")
                site.gate.clear()
