"""When a worker goes to its store: in large strokes, never for a run that ends, and to listen only with a free slot."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import pytest
from redis import Redis

from kit.waiting import PATIENCE, stretched, until
from servers import RedisServer
from windlass import State, Windlass
from windlass.core.work import Claimed, LeaseRef, Outcome, Settled, Want
from windlass.engines.redis import RedisEngine
from windlass.errors import EngineUnavailable
from windlass.events import SettleDropped
from windlass.worker import pump
from windlass.worker.heart import Trust
from windlass.worker.worker import Worker


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


@pytest.fixture
def client(server: RedisServer) -> Iterator[Redis]:
    with server.client() as made:
        made.flushall()
        yield made


@contextmanager
def working(app: Windlass) -> Iterator[Worker]:
    worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)
    worker.start()
    try:
        yield worker
    finally:
        worker.abort()
        worker.shut_down()


class Gate:
    """Jobs that run until they are let go."""

    def __init__(self, app: Windlass, name: str = "hold") -> None:
        self.entered = 0
        self._open = threading.Event()

        def hold() -> None:
            self.entered += 1
            self._open.wait(60)

        self.job = app.job(name=name)(hold)

    def open(self) -> None:
        self._open.set()


def nothing() -> None:
    """Do nothing."""


def a_little() -> None:
    """Leave the interpreter to others for a moment."""
    threading.Event().wait(0.001)


# -- listening ---------------------------------------------------------------------------------------------


def listeners(client: Redis) -> int:
    return int(client.info("clients")["blocked_clients"])


def tokens(client: Redis) -> int:
    """In the lists at which workers of any queue wait."""
    return sum(client.llen(f"{{windlass}}:{name}") for name in ("wake", "wake-loop"))


def test_a_worker_without_a_free_slot_leaves_wake_ups_to_others(server: RedisServer, client: Redis) -> None:
    with Windlass(server.url, threads=1) as app, closing(RedisEngine(server.url)) as other:
        gate = Gate(app)
        brief = app.job(name="brief")(nothing)
        with working(app):
            brief.enqueue().result(timeout=stretched(PATIENCE))  # now the queue is known
            until(lambda: listeners(client) == 1 and not tokens(client), "an idle worker does not listen")
            gate.job.enqueue()
            until(lambda: gate.entered and not listeners(client), "a worker without a free slot listens")
            for _ in range(3):
                while other.wait(["default"], 0.01):  # what was said before: a claim that left a job behind says so
                    pass
                woken: list[bool] = []
                waiter = threading.Thread(target=lambda w=woken: w.append(other.wait(["default"], 20)))
                waiter.start()
                until(lambda: listeners(client) == 1, "the other worker does not listen")
                gate.job.enqueue()
                waiter.join(stretched(PATIENCE))
                assert woken == [True]
            gate.open()
            until(lambda: gate.entered == 4 and listeners(client) == 1, "a worker with a free slot does not listen")


def test_runs_that_end_while_all_slots_are_taken_cost_no_wake_up_through_the_store(
    server: RedisServer, client: Redis
) -> None:
    with Windlass(server.url, threads=2) as app:
        brief = app.job(name="brief")(nothing)
        gate = Gate(app)
        app.enqueue_many(brief.bind() for _ in range(2_000))
        app.enqueue_many(gate.job.bind() for _ in range(2))
        client.config_resetstat()
        with working(app):
            until(lambda: gate.entered == 2, "the jobs do not run")
            assert client.info("commandstats").get("cmdstat_blpop", {"calls": 0})["calls"] == 0
            gate.open()


# -- strokes -----------------------------------------------------------------------------------------------


def test_a_busy_worker_claims_with_a_settle_or_when_half_of_what_it_holds_has_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strokes: list[tuple[int, bool]] = []  # outcomes, and whether slots needed work
    with Windlass("memory://", threads=4) as app:
        brief = app.job(name="brief")(a_little)
        app.enqueue_many(brief.bind() for _ in range(3_000))
        worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)
        (pool,) = worker._pools
        exchange = app.engine.exchange

        def note(outcomes: Sequence[Outcome], want: Want | None) -> tuple[list[Settled], Claimed]:
            strokes.append((len(outcomes), pool.is_low or pool.room > 0))
            return exchange(outcomes, want)

        monkeypatch.setattr(app.engine, "exchange", note)
        worker.start()
        try:
            until(lambda: not app.stats()["ready"] and not worker.held, "the jobs do not end")
        finally:
            worker.abort()
            worker.shut_down()
    assert sum(outcomes for outcomes, _ in strokes) == 3_000
    assert all(outcomes or needed for outcomes, needed in strokes)


@pytest.mark.parametrize("flush", ["50ms", "0s"])
def test_an_outcome_is_settled_though_more_runs_wait_and_none_ends(
    monkeypatch: pytest.MonkeyPatch, store: dict[str, str], flush: str
) -> None:
    monkeypatch.setattr(pump, "HOARD_MAX", 60.0)  # nothing else is to wake the pump
    url = store.get("WINDLASS_URL", "memory://")
    with Windlass(url, threads=2, settle_flush=flush, poll_min="60s", poll_max="60s") as app:
        brief = app.job(name="brief")(nothing)
        first, rest = Gate(app, "first"), Gate(app, "rest")
        before = app.enqueue_many(brief.bind() for _ in range(500))
        handle = app.enqueue_many([first.job.bind(), *(rest.job.bind() for _ in range(50))])[0]
        with working(app) as worker:
            until(lambda: first.entered and rest.entered, "the jobs do not run")
            until(lambda: all(one.state is State.DONE for one in before[-20:]), "the brief jobs are not settled")
            until(lambda: worker._pump.sleeping, "the pump does not sleep")
            first.open()
            until(lambda: handle.state is State.DONE, "the outcome is not settled")
            assert worker.held > 2  # runs waited for a slot all the time
            rest.open()


def test_a_claim_says_how_late_its_jobs_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    wants: list[Want] = []
    with Windlass("memory://", threads=1) as app:
        brief = app.job(name="brief")(nothing)
        exchange, claim = app.engine.exchange, app.engine.claim

        def note(outcomes: Sequence[Outcome], want: Want | None) -> tuple[list[Settled], Claimed]:
            wants.extend(() if want is None else (want,))
            return exchange(outcomes, want)

        monkeypatch.setattr(app.engine, "exchange", note)
        monkeypatch.setattr(app.engine, "claim", lambda want: wants.append(want) or claim(want))
        with working(app):
            brief.enqueue().result(timeout=stretched(PATIENCE))
    assert {want.late_ms for want in wants} == {pump.LATE_MS}
    assert pump.LATE_MS > 0


# -- outages -----------------------------------------------------------------------------------------------


def test_outcomes_wait_for_a_store_that_is_away_and_no_job_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "OUTAGE_PAUSE", 0.01)
    outages = [EngineUnavailable("the store is away") for _ in range(3)]
    with Windlass("memory://", threads=2) as app:
        first, second = Gate(app, "first"), Gate(app, "second")
        handles = [first.job.enqueue(), second.job.enqueue()]
        exchange = app.engine.exchange

        def away(outcomes: Sequence[Outcome], want: Want | None) -> tuple[list[Settled], Claimed]:
            if outcomes and outages:
                second.open()
                raise outages.pop()
            return exchange(outcomes, want)

        with working(app) as worker:
            until(lambda: first.entered and second.entered, "the jobs do not run")
            monkeypatch.setattr(app.engine, "exchange", away)
            first.open()
            until(lambda: all(one.state is State.DONE for one in handles), "the outcomes are not settled")
            until(lambda: not worker.held, "the worker holds what has ended")
        assert (first.entered, second.entered, outages) == (1, 1, [])


def test_outcomes_that_the_lease_did_not_outlive_are_dropped_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "OUTAGE_PAUSE", 0.01)
    dropped: list[str] = []
    with Windlass("memory://", threads=1) as app:
        app.on(SettleDropped)(lambda event: dropped.append(event.id))
        gate = Gate(app)
        handle = gate.job.enqueue()
        exchange = app.engine.exchange

        def away(outcomes: Sequence[Outcome], want: Want | None) -> tuple[list[Settled], Claimed]:
            if outcomes:
                raise EngineUnavailable("the store is away")
            return exchange(outcomes, want)

        with working(app) as worker:
            until(lambda: gate.entered, "the job does not run")
            monkeypatch.setattr(worker._slots, "trust", lambda: Trust.NO_SETTLES)
            monkeypatch.setattr(app.engine, "exchange", away)
            gate.open()
            until(lambda: dropped == [handle.id], "nobody is told")
            ref = LeaseRef(handle.id, 0)
            assert (len(worker._settler), worker._settler.holds(ref), worker._table.unsettled()) == (0, False, [])


def test_an_outcome_that_came_too_late_is_told(caplog: pytest.LogCaptureFixture) -> None:
    dropped: list[tuple[str, str]] = []
    with Windlass("memory://", threads=1) as app:
        app.on(SettleDropped)(lambda event: dropped.append((event.id, event.reason)))
        gate = Gate(app)
        handle = gate.job.enqueue()
        with working(app) as worker:
            until(lambda: gate.entered, "the job does not run")
            app.engine.depart(worker.info.id)  # as if somebody had taken the worker for dead
            gate.open()
            until(lambda: handle.state is State.DONE, "nobody runs it again")
        assert gate.entered == 2
        assert dropped == [(handle.id, "another worker owns the job now")]
        assert app.stats()["total_stale"] == 1
    assert "the outcomes of 1 jobs were dropped, and they run again" in caplog.text


def test_a_worker_that_may_not_claim_while_its_store_is_away_does_not_spin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    turns = []
    with closing(RedisServer()) as server, Windlass(server.url, threads=1, lease="6s", renew="1s") as app:
        app.job(name="brief")(nothing)
        with working(app) as worker:
            polling = worker._slots.polling

            def count(*, away: bool) -> None:
                if worker._heart.trust() is Trust.NO_CLAIMS:
                    turns.append(away)
                polling(away=away)

            monkeypatch.setattr(worker._slots, "polling", count)
            server.stop()
            until(lambda: worker._heart.trust() > Trust.NO_CLAIMS, "the lease does not end")
    assert 0 < len(turns) < 100
