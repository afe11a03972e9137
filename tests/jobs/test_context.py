"""What a running job can ask for; the worker's side is a run made by hand over the real engine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import pytest

from windlass import Call, JobContext, Windlass, current_job
from windlass.core.clock import Clock, ManualClock
from windlass.core.notebook import Notebook
from windlass.core.work import Want, WorkerInfo
from windlass.engines.base import Store
from windlass.engines.url import rules_of
from windlass.errors import ConfigError, JobCancelled, LeaseLost, NotInJob, PayloadError, TransactionTooLong
from windlass.jobs.context import CURRENT, Run
from windlass.settings import Settings


@dataclass
class HandRun:
    engine: Store
    clock: Clock
    settings: Settings
    keep_ms: int | None = None
    stopping: bool = False
    cancelled: bool = False
    progress: list[str | None] = field(default_factory=list)
    settled: bool = False
    notes: Notebook = field(default_factory=lambda: Notebook("j1", ()))

    def hide(self, text: str) -> str:
        return text

    def note(self, key: str, value: str | None) -> None:
        assert key == "progress"
        self.progress.append(value)

    def around_enqueue(self, calls: Sequence[Call[object]]) -> AbstractContextManager[None]:
        return nullcontext()

    def open_notebook(self) -> Notebook:
        return self.notes

    def note_proof(self) -> None: ...

    def note_moved(self) -> None: ...

    def note_settling(self) -> None: ...

    def note_settled(self, settled: bool) -> None:
        self.settled = settled


def charge(n: int) -> int:
    return n


def ship(n: int) -> int:
    return n


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def app(clock: ManualClock) -> Iterator[Windlass]:
    with Windlass("memory://", clock=clock) as app:
        app.job(name="charge", tags=["money"])(charge).options(id="j1").enqueue(1)
        yield app


@pytest.fixture
def run(app: Windlass, clock: ManualClock) -> HandRun:
    return HandRun(app.engine, clock, app.settings)


@pytest.fixture
def ctx(app: Windlass, run: HandRun) -> JobContext:
    app.engine.extend(WorkerInfo("w1", "g", "host", 1, "*", 10, "0", 0), [], 30_000)
    made: Run = run
    return JobContext(app.engine.claim(Want("w1", 1)).leases[0], made)


def lose(app: Windlass, clock: ManualClock) -> None:
    """Let the lease run out and another worker take the job."""
    clock.advance(31_000)
    app.engine.maintain(rules_of(app.settings), 100)
    app.engine.extend(WorkerInfo("w2", "g", "host", 1, "*", 10, "0", 0), [], 30_000)
    assert app.engine.claim(Want("w2", 1)).leases


def state(app: Windlass) -> str:
    info = app.get("j1")
    assert info is not None
    return info.state


def test_a_context_knows_its_run(ctx: JobContext) -> None:
    assert (ctx.id, ctx.name, ctx.queue, ctx.attempt, ctx.max_attempts) == ("j1", "charge", "default", 1, 10)
    assert (ctx.tags, ctx.idempotency_key) == (("money",), "j1")
    assert ctx.fence > 0
    assert ctx.enqueued_at.utcoffset() is not None
    assert ctx.scheduled_for == ctx.enqueued_at
    assert not ctx.stopping
    assert not ctx.cancelled


def test_current_job_is_the_context_inside_and_an_error_outside(ctx: JobContext) -> None:
    with pytest.raises(NotInJob):
        current_job()
    token = CURRENT.set(ctx)
    assert current_job() is ctx
    CURRENT.reset(token)


def test_the_log_carries_id_name_and_attempt(ctx: JobContext, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "windlass.job"):
        ctx.log.info("hello")
    fields = vars(caplog.records[0])
    assert (fields["job_id"], fields["job_name"], fields["attempt"]) == ("j1", "charge", 1)


def test_progress_is_written_twice_a_second_and_the_last_value_always(
    ctx: JobContext, run: HandRun, clock: ManualClock
) -> None:
    for done in range(10):
        ctx.progress(done, 10)
        clock.advance(100)
    assert run.progress == ['{"done":0,"total":10,"message":null}', '{"done":5,"total":10,"message":null}']
    ctx.flush()
    ctx.flush()
    assert run.progress[2:] == ['{"done":9,"total":10,"message":null}']


def test_progress_raises_when_a_cancel_was_requested(ctx: JobContext, run: HandRun) -> None:
    run.cancelled = True
    with pytest.raises(JobCancelled, match="j1"):
        ctx.progress(1)
    assert run.progress == []


@pytest.mark.parametrize("done", [float("nan"), float("inf"), 2**60, "1"])
def test_progress_refuses_what_is_no_number(ctx: JobContext, done: float) -> None:
    with pytest.raises(ConfigError, match="done"):
        ctx.progress(done)


def test_progress_survives_any_message(ctx: JobContext, run: HandRun) -> None:
    ctx.progress(1, message="\ud800" + "x" * 10_000)
    assert len(run.progress[0]) < 2_000


def test_the_owner_is_sure_until_another_worker_has_the_job(app: Windlass, ctx: JobContext, clock: ManualClock) -> None:
    ctx.ensure_owner()
    asyncio.run(ctx.aensure_owner())
    lose(app, clock)
    with pytest.raises(LeaseLost, match="j1"):
        ctx.ensure_owner()
    with pytest.raises(LeaseLost):
        asyncio.run(ctx.aensure_owner())


def test_a_transaction_commits_writes_follow_ups_and_completion_together(
    app: Windlass, ctx: JobContext, run: HandRun
) -> None:
    follow = app.job(name="ship")(ship).bind(7)
    with ctx.transaction() as tx:
        tx.execute("CREATE TABLE ledger (n INTEGER)")
        tx.execute("INSERT INTO ledger VALUES (1)")
        ctx.then(follow)
        tx.result = 42
    info = app.get("j1")
    assert info is not None
    assert (info.state, info.result) == ("done", 42)
    assert app.get(follow.id) is not None
    assert run.settled
    with app.transaction() as tx:
        assert tx.execute("SELECT n FROM ledger").fetchall() == [(1,)]


def test_what_is_no_call_cannot_follow(app: Windlass, ctx: JobContext) -> None:
    with pytest.raises(ConfigError, match=r"is not a call; write ship\.bind"):
        ctx.then(app.job(name="ship")(ship))  # type: ignore[arg-type]
    assert ctx.follow_ups == ()


def test_an_error_in_a_transaction_rolls_everything_back(app: Windlass, ctx: JobContext, run: HandRun) -> None:
    with pytest.raises(ZeroDivisionError), ctx.transaction() as tx:
        tx.execute("CREATE TABLE ledger (n INTEGER)")
        raise ZeroDivisionError
    assert state(app) == "running"
    assert not run.settled
    with app.transaction() as tx:
        assert tx.execute("SELECT name FROM sqlite_master WHERE name = 'ledger'").fetchall() == []


def test_a_stale_transaction_rolls_back_and_raises(
    app: Windlass, ctx: JobContext, run: HandRun, clock: ManualClock
) -> None:
    lose(app, clock)
    with pytest.raises(LeaseLost), ctx.transaction() as tx:
        tx.execute("CREATE TABLE ledger (n INTEGER)")
    assert not run.settled
    assert state(app) == "running"
    with app.transaction() as tx:
        assert tx.execute("SELECT name FROM sqlite_master WHERE name = 'ledger'").fetchall() == []


def test_a_result_that_cannot_be_stored_rolls_back(app: Windlass, ctx: JobContext) -> None:
    with pytest.raises(PayloadError), ctx.transaction() as tx:
        tx.result = object()
    assert state(app) == "running"


def test_one_transaction_per_attempt_and_nothing_follows_it(app: Windlass, ctx: JobContext) -> None:
    with ctx.transaction(), pytest.raises(ConfigError, match="one per attempt"), ctx.transaction():
        pass
    with pytest.raises(ConfigError, match="one per attempt"), ctx.transaction():
        pass
    with pytest.raises(ConfigError, match="completed already"):
        ctx.then(app.job(name="ship")(ship).bind(1))


def test_a_transaction_that_holds_the_only_writer_too_long_is_rolled_back(
    app: Windlass, ctx: JobContext, run: HandRun, clock: ManualClock
) -> None:
    with app.transaction() as tx:
        tx.execute("CREATE TABLE paid (id INTEGER)")
    with pytest.raises(TransactionTooLong, match=r"open for 5\.001 s .* within 5 s"), ctx.transaction() as tx:
        tx.execute("INSERT INTO paid VALUES (1)")
        clock.advance(run.settings.renew // 2 + 1)
    with app.transaction() as tx:
        assert tx.execute("SELECT count(*) FROM paid").fetchall() == [(0,)]
    assert not run.settled
    with ctx.transaction() as tx:
        clock.advance(run.settings.renew // 2)
    assert run.settled
