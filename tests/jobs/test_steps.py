"""Steps: what is done once although the job runs again; on every engine, the worker's side a run made by hand."""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict
from uuid import UUID, uuid4

import pytest
from msgspec import structs

from kit.waiting import PATIENCE, until_async
from servers import RedisServer
from windlass import Call, JobContext, Windlass
from windlass.core import caps
from windlass.core.clock import SystemClock
from windlass.core.meta import StepFacts
from windlass.core.notebook import Notebook
from windlass.core.work import Kind, Lease, Note, Outcome, Rules, Settled, Want, WorkerInfo
from windlass.engines.base import Tx
from windlass.errors import (
    ConfigError,
    EngineError,
    EngineFull,
    EngineUnavailable,
    EngineUnusable,
    JobCancelled,
    LeaseLost,
    PayloadError,
    TransactionTooLong,
)
from windlass.jobs.transactions import AsyncTx
from windlass.testing.conformance.harness import error


class Run:
    """The worker's side of a run, made by hand over the real engine."""

    def __init__(self, app: Windlass, lease: Lease) -> None:
        self.engine = app.engine
        self.clock = SystemClock()
        self.settings = app.settings
        self.keep_ms: int | None = None
        self.stopping = self.cancelled = self.settled = False
        self.book = Notebook(lease.id, lease.notes)
        self.proofs = 0

    def hide(self, text: str) -> str:
        return text

    def around_enqueue(self, calls: Sequence[Call[object]]) -> AbstractContextManager[None]:
        return nullcontext()

    def workflow(self, facts: StepFacts) -> Any:
        raise AssertionError

    def note(self, key: str, value: str | None) -> None: ...

    def note_settling(self) -> None: ...

    def note_settled(self, settled: bool) -> None:
        self.settled = settled

    def open_notebook(self) -> Notebook:
        return self.book

    def note_proof(self) -> None:
        self.proofs += 1


class Attempts:
    """The runs of one job, one after the other."""

    def __init__(self, app: Windlass) -> None:
        self.app = app
        self.numbers = itertools.count()
        self.worker = ""
        self.run: Run
        self.lease: Lease
        app.job(name="charge")(charge).options(id="j1").enqueue()

    def begin(self) -> JobContext:
        """The next run, by another worker."""
        self.worker = f"w{next(self.numbers)}"
        self.app.engine.extend(WorkerInfo(self.worker, "g", "host", 1, "*", 10, "0", 0), [], 30_000)
        claim = self.app.engine.claim
        (self.lease,) = claim(Want(self.worker, 1)).leases or claim(Want(self.worker, 1, alone=True)).leases
        self.run = Run(self.app, self.lease)
        return JobContext(self.lease, self.run)

    def again(self) -> JobContext:
        """The run goes back, and the next one begins."""
        outcome = Outcome(self.lease.id, self.lease.fence, Kind.RELEASE)
        assert self.app.engine.settle([outcome]) == [Settled.APPLIED]
        return self.begin()

    def crash(self) -> JobContext:
        """The worker dies, and the next run begins."""
        self.app.engine.bury(self.worker, [self.lease.fence], error("WorkerCrashed"), Rules(crash_delay_ms=0))
        return self.begin()

    @property
    def steps(self) -> dict[str, str]:
        """What the store keeps."""
        row = self.app.engine.job("j1")
        assert row is not None
        return {key.removeprefix("step:"): text for key, text in row.notes}


class Calls:
    """A function that counts."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, *args: int, **kwargs: int) -> int:
        self.count += 1
        return sum(args) + sum(kwargs.values()) + self.count


def charge() -> None: ...


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


@pytest.fixture(params=["memory", "sqlite", "redis"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Windlass]:
    match request.param:
        case "memory":
            url = "memory://"
        case "sqlite":
            url = f"sqlite:///{tmp_path}/jobs.db"
        case _:
            url = request.getfixturevalue("server").url
            with request.getfixturevalue("server").client() as client:
                client.flushall()
    with Windlass(url, lease="30s") as app:
        yield app


@pytest.fixture(params=["memory", "sqlite"])
def sql(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Windlass]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/jobs.db"
    with Windlass(url) as app:
        with app.transaction() as tx:
            tx.execute("CREATE TABLE paid (n INTEGER)")
        yield app


@pytest.fixture
def one() -> Iterator[Attempts]:
    with Windlass("memory://") as app:
        yield Attempts(app)


def paid(app: Windlass) -> list[int]:
    with app.transaction() as tx:
        return [n for (n,) in tx.execute("SELECT n FROM paid ORDER BY n")]


def pay(tx: Tx, n: int) -> int:
    tx.execute("INSERT INTO paid VALUES (?)", (n,))
    return n


def drive(main: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), PATIENCE))


# -- what is kept ------------------------------------------------------------------------------------------


def test_a_step_that_is_done_is_not_done_again(app: Windlass) -> None:
    attempts, first, second = Attempts(app), Calls(), Calls()
    ctx = attempts.begin()
    assert ctx.step("first", first, 1, more=2) == 4
    assert (attempts.steps, attempts.run.proofs) == ({"first": "4"}, 1)
    ctx = attempts.again()
    assert ctx.step("second", second) == 1
    assert ctx.step("first", first, 1, more=2) == 4
    ctx = attempts.crash()
    assert [ctx.step("first", first), ctx.step("second", second)] == [4, 1]
    assert (first.count, second.count) == (1, 1)


def test_a_step_that_was_cut_off_before_it_was_kept_is_done_again(app: Windlass) -> None:
    attempts, calls = Attempts(app), Calls()

    def die() -> int:
        calls()
        raise SystemExit

    with pytest.raises(SystemExit):
        attempts.begin().step("a", die)
    assert (attempts.crash().step("a", calls), calls.count) == (2, 2)


def test_a_step_that_fails_keeps_nothing_and_may_be_done_again(app: Windlass) -> None:
    attempts, calls = Attempts(app), Calls()
    ctx = attempts.begin()
    with pytest.raises(ZeroDivisionError):
        ctx.step("a", lambda: 1 // 0)
    assert attempts.steps == {}
    assert ctx.step("a", calls) == 1
    assert attempts.again().step("a", calls) == 1


def test_a_step_is_progress_that_ends_the_crash_charges(app: Windlass) -> None:
    attempts = Attempts(app)
    attempts.begin()
    ctx = attempts.crash()
    assert attempts.lease.crashes == 1
    ctx.step("a", charge)
    row = app.engine.job("j1")
    assert row is not None
    assert row.crashes == 0


def test_a_run_that_lost_its_job_does_not_begin_a_step(app: Windlass) -> None:
    attempts, calls = Attempts(app), Calls()
    late = attempts.begin()
    ctx = attempts.crash()
    with pytest.raises(LeaseLost, match=r"step 'a' of job j1: .* its function was not called"):
        late.step("a", calls)
    assert calls.count == 0
    assert ctx.step("a", calls) == 1


def test_what_a_run_gives_that_loses_its_job_meanwhile_is_not_kept(app: Windlass) -> None:
    attempts, calls = Attempts(app), Calls()
    late = attempts.begin()

    def slow() -> int:
        assert attempts.crash().step("a", calls) == 1
        return 7

    with pytest.raises(LeaseLost, match=r"step 'a' of job j1: .* what it gave is not kept"):
        late.step("a", slow)
    assert attempts.steps == {"a": "1"}


def test_a_store_that_is_away_before_a_step_is_heard_before_its_function_runs(
    app: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, calls = Attempts(app), Calls()
    ctx = attempts.begin()

    def away(notes: list[Note]) -> list[Settled]:
        raise EngineUnavailable("the store is away")

    with monkeypatch.context() as patch, pytest.raises(EngineUnavailable):
        patch.setattr(app.engine, "note", away)
        ctx.step("a", calls)
    assert calls.count == 0
    assert ctx.step("a", calls) == 1


class Away:
    """A store that takes no memo for so many calls."""

    def __init__(self, app: Windlass, monkeypatch: pytest.MonkeyPatch, times: int, error: EngineError) -> None:
        self.calls = 0
        note = app.engine.note

        def refuse(notes: list[Note]) -> list[Settled]:
            if not notes[0].key:
                return note(notes)
            self.calls += 1
            if self.calls <= times:
                raise error
            return note(notes)

        monkeypatch.setattr(app.engine, "note", refuse)
        monkeypatch.setattr("windlass.jobs.steps.AWAY_PAUSE", 0.001)


def test_a_step_that_has_had_its_effect_waits_for_a_store_that_is_away(
    app: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, calls = Attempts(app), Calls()
    ctx = attempts.begin()
    Away(app, monkeypatch, 3, EngineUnavailable("away"))
    assert ctx.step("a", calls) == 1
    assert drive(lambda: ctx.astep("b", calls)) == 2
    assert attempts.steps == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (EngineUnavailable("away"), "the lease has run out"),
        (EngineUnavailable("away"), "the job was cancelled or lost"),
        (EngineUnusable("needs a person"), ""),
        (EngineFull("full"), ""),
    ],
)
def test_a_step_whose_value_cannot_be_stored_is_known_to_nobody(
    app: Windlass, monkeypatch: pytest.MonkeyPatch, error: EngineError, why: str
) -> None:
    attempts, calls = Attempts(app), Calls()
    ctx = attempts.begin()

    def pays() -> int:
        attempts.run.cancelled = "cancelled" in why
        if "lease" in why:
            attempts.run.settings = structs.replace(app.settings, lease=10)
        return calls()

    away = Away(app, monkeypatch, 1_000_000, error)
    with pytest.raises(type(error)):
        ctx.step("a", pays)
    assert (away.calls == 1) is ("lease" not in why)
    assert (attempts.steps, attempts.run.proofs, attempts.run.book.get("step:a")) == ({}, 0, None)
    attempts.run.cancelled, away.calls = False, 1_000_000
    assert ctx.step("a", calls) == 2


def test_a_cancelled_job_begins_no_step(one: Attempts) -> None:
    calls = Calls()
    ctx = one.begin()
    one.run.cancelled = True
    with pytest.raises(JobCancelled):
        ctx.step("a", calls)
    assert calls.count == 0


# -- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "n" * 196, "a\0b", "a\nb", "\ud800", None, 7, charge])
def test_a_wrong_name_is_refused_before_anything_is_done(one: Attempts, name: Any) -> None:
    calls, ctx = Calls(), one.begin()
    with pytest.raises(ConfigError, match=r"(?s)^step .* of job j1: the name of a step is text of 1 to 195 characters"):
        ctx.step(name, calls)
    assert calls.count == 0


def test_any_other_name_is_kept_apart(app: Windlass) -> None:
    attempts = Attempts(app)
    names = ["a", "A", "a:b", "step:a", "é \U0001f680 '\"%", "n" * 195]
    ctx = attempts.begin()
    for number, name in enumerate(names):
        assert ctx.step(name, abs, number) == number
    ctx = attempts.again()
    assert [ctx.step(name, abs, -100) for name in names] == [*range(len(names))]


def test_a_name_is_used_once_per_attempt(one: Attempts) -> None:
    calls = Calls()
    ctx = one.begin()
    for _ in range(2):
        ctx.step("a", calls)
        with pytest.raises(ConfigError, match=r"step 'a' of job j1: the name is used already .* f'a:{n}'"):
            ctx.step("a", calls)
        ctx = one.again()
    assert calls.count == 1


def test_what_cannot_be_called_is_no_step(one: Attempts) -> None:
    nothing: Any = 7
    with pytest.raises(ConfigError, match="step 'a' of job j1: 7 cannot be called"):
        one.begin().step("a", nothing)


def test_two_threads_do_not_do_one_step_at_once(one: Attempts) -> None:
    ctx = one.begin()
    inside, over = threading.Event(), threading.Event()

    def slow() -> int:
        inside.set()
        assert over.wait(PATIENCE)
        return 1

    thread = threading.Thread(target=ctx.step, args=("a", slow))
    thread.start()
    assert inside.wait(PATIENCE)
    with pytest.raises(ConfigError, match="used already"):
        ctx.step("a", charge)
    assert ctx.step("b", Calls()) == 1
    over.set()
    thread.join(PATIENCE)
    assert one.steps == {"a": "1", "b": "1"}


def test_many_threads_do_steps_of_one_run(app: Windlass) -> None:
    attempts = Attempts(app)
    ctx = attempts.begin()
    threads = [threading.Thread(target=ctx.step, args=(f"a:{n}", abs, n)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert attempts.steps == {f"a:{n}": str(n) for n in range(20)}


def test_a_step_inside_a_step_is_kept_by_itself(app: Windlass) -> None:
    attempts, calls = Attempts(app), Calls()
    ctx = attempts.begin()

    def outer() -> int:
        return 10 * ctx.step("inner", calls)

    def dies() -> int:
        outer()
        raise SystemExit

    with pytest.raises(SystemExit):
        ctx.step("outer", dies)
    assert attempts.steps == {"inner": "1"}
    ctx = attempts.crash()
    assert ctx.step("outer", outer) == 10
    assert attempts.again().step("outer", outer) == 10
    assert calls.count == 1


# -- values ------------------------------------------------------------------------------------------------


@dataclass
class Receipt:
    number: UUID
    at: datetime
    lines: tuple[int, ...]


RECEIPT = Receipt(uuid4(), datetime.now(UTC), (1, 2))


class Totals(TypedDict):
    cents: int


class Gateway:
    def charge(self) -> Receipt:
        return RECEIPT

    def __call__(self, *, twice: bool = False) -> Receipt:
        return RECEIPT


def pair() -> tuple[int, str]:
    return (1, "a")


def ratio() -> float:
    return 3


def maybe() -> Receipt | None:
    return None


def totals() -> Totals:
    return {"cents": 1}


def by_number() -> dict[int, str]:
    return {1: "a"}


@pytest.mark.parametrize(
    ("fn", "value"),
    [
        (Gateway().charge, RECEIPT),
        (Gateway(), RECEIPT),
        (functools.partial(Gateway(), twice=True), RECEIPT),
        (functools.partial(functools.partial(Receipt, RECEIPT.number), RECEIPT.at, (3,)),
         Receipt(RECEIPT.number, RECEIPT.at, (3,))),
        (pair, (1, "a")),
        (ratio, 3.0),
        (maybe, None),
        (totals, {"cents": 1}),
        (by_number, {1: "a"}),
        (dict, {}),
        (lambda: [1, 2.5, "é", None, {"a": True}], [1, 2.5, "é", None, {"a": True}]),
        (len, 3),
    ],
)  # fmt: skip
def test_a_value_comes_back_as_its_function_is_annotated(one: Attempts, fn: Callable[..., Any], value: object) -> None:
    args = ("abc",) if fn is len else ()
    for attempt in (one.begin, one.again, one.crash):
        given = attempt().step("a", fn, *args)
        assert (given, type(given)) == (value, type(value))


def test_a_value_is_nobody_elses(one: Attempts) -> None:
    mine = [1]
    ctx = one.begin()
    given = ctx.step("a", lambda: mine)
    mine.append(2)
    assert given == [1]
    assert one.again().step("a", lambda: mine) == [1]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((1, 2), r"value is a tuple .* as a list; pass it as list; or annotate what the function returns"),
        ({"a": [{"b": {1}}]}, r"value\['a'\]\[0\]\['b'\] is a set"),
        ({1: "a"}, r"value.* annotate"),
        (uuid4(), r"value is UUID.* as .*\(str\)"),
        (RECEIPT, r"value is a Receipt and would come back as a dict"),
        (float("nan"), r"value is nan"),
        (2**70, r"value is an integer beyond 64 bits"),
        (b"x", r"value is bytes"),
        (datetime(2026, 1, 1), r"value is a naive datetime"),  # noqa: DTZ001
        ("\ud800", r"value has a lone surrogate"),
        (object(), r"value"),
        (iter([1]), r"value"),
        (lambda: 1, r"value"),
        ("x" * 300_000, r"the value takes more than 262,144 bytes as JSON, result_max is 262,144"),
        (["é" * 1_000] * 200, r"the value takes 400,601 bytes as JSON, result_max is 262,144"),
    ],
)
def test_a_value_that_would_come_back_different_is_refused(one: Attempts, value: Any, text: str) -> None:
    with pytest.raises(PayloadError, match=rf"^step 'a' of job j1: {text}"):
        one.begin().step("a", lambda: value)
    assert one.steps == {}


def wrong() -> int:
    value: Any = "seven"
    return value


def unresolved() -> Nowhere:  # type: ignore[name-defined]  # noqa: F821
    return RECEIPT


@pytest.mark.parametrize(
    ("fn", "text"),
    [
        (wrong, "the value does not come back as it is annotated: .*int"),
        (unresolved, "value is a Receipt .* the annotation of 'return' does not resolve"),
    ],
)
def test_a_value_of_another_type_than_annotated_is_refused(one: Attempts, fn: Callable[[], Any], text: str) -> None:
    with pytest.raises(PayloadError, match=f"^step 'a' of job j1: {text}"):
        one.begin().step("a", fn)


def test_what_no_json_restores_is_refused_before_anything_is_done(one: Attempts) -> None:
    called = []

    def opens() -> Receipt | Totals:
        called.append(1)
        return RECEIPT

    with pytest.raises(ConfigError, match="step 'a' of job j1: what its function returns cannot be restored from JSON"):
        one.begin().step("a", opens)
    assert called == []


def test_a_value_that_a_new_version_cannot_read_is_an_error_and_stays(one: Attempts) -> None:
    one.begin().step("a", pair)
    with pytest.raises(PayloadError, match="step 'a' of job j1: the value does not come back as it is annotated"):
        one.again().step("a", ratio)
    assert one.again().step("a", pair) == (1, "a")


def test_steps_are_bounded_like_all_notes_and_one_too_many_is_refused_before_it_is_done(
    one: Attempts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caps, "NOTES", 2)
    calls, ctx = Calls(), one.begin()
    ctx.step("a", calls)
    ctx.step("b", calls)
    with pytest.raises(
        PayloadError, match=r"there are notes: 3, and the most is 2\. Each step is a note: split the job"
    ):
        ctx.step("c", calls)
    assert calls.count == 2
    assert one.again().step("b", calls) == 2


def test_all_steps_together_are_bounded(one: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caps, "NOTES_SIZE", 20)
    ctx = one.begin()
    with pytest.raises(PayloadError, match="all notes take bytes: 38, and the most is 20"):
        ctx.step("a", lambda: "x" * 30)
    assert ctx.step("a", lambda: "x") == "x"


# -- with a transaction ------------------------------------------------------------------------------------


def test_the_writes_of_a_step_and_its_value_are_one_commit(sql: Windlass) -> None:
    attempts = Attempts(sql)
    ctx = attempts.begin()
    assert [ctx.step(f"pay:{n}", pay, n, transaction=True) for n in (1, 2)] == [1, 2]
    assert (paid(sql), attempts.steps, attempts.run.proofs) == ([1, 2], {"pay:1": "1", "pay:2": "2"}, 2)
    ctx = attempts.crash()
    assert [ctx.step(f"pay:{n}", pay, n, transaction=True) for n in (1, 2, 3)] == [1, 2, 3]
    assert paid(sql) == [1, 2, 3]


def test_a_job_that_a_step_enqueues_in_its_transaction_is_stored_once(sql: Windlass) -> None:
    attempts = Attempts(sql)
    job = sql.job(name="ship")(charge)

    def order(tx: Tx) -> str:
        return job.options(connection=tx, queue="ships", delay="1h").enqueue().id

    given = attempts.begin().step("order", order, transaction=True)
    assert attempts.crash().step("order", order, transaction=True) == given
    assert [info.id for info in sql.jobs(queue="ships")] == [given]


@pytest.mark.parametrize("how", ["error", "value", "lost", "long", "await"])
def test_whatever_fails_a_step_rolls_its_writes_back(tmp_path: Path, how: str) -> None:
    with Windlass(f"sqlite:///{tmp_path}/jobs.db", renew="30ms", lease="30s") as app:
        with app.transaction() as tx:
            tx.execute("CREATE TABLE paid (n INTEGER)")
        attempts = Attempts(app)
        ctx = attempts.begin()

        async def coroutine() -> int:
            return 1

        def fail(tx: Tx) -> Any:
            pay(tx, 1)
            match how:
                case "error":
                    raise ZeroDivisionError("no")
                case "value":
                    return {1}
                case "lost":
                    tx.execute("UPDATE windlass_jobs SET fence = fence + 1")
                case "long":
                    assert not threading.Event().wait(0.05)  # longer than half of renew
                case "await":
                    return coroutine()
            return None

        errors = {"error": ZeroDivisionError, "value": PayloadError, "lost": LeaseLost, "long": TransactionTooLong}
        with pytest.raises(errors.get(how, ConfigError), match="no" if how == "error" else "step 'a' of job j1"):
            ctx.step("a", fail, transaction=True)
        assert (paid(app), attempts.steps, attempts.run.book.get("step:a"), attempts.run.proofs) == ([], {}, None, 0)


def test_a_run_that_lost_its_job_does_not_begin_a_step_with_a_transaction(sql: Windlass) -> None:
    attempts = Attempts(sql)
    late = attempts.begin()
    attempts.crash()
    with pytest.raises(LeaseLost, match="its function was not called"):
        late.step("a", pay, 1, transaction=True)
    assert paid(sql) == []


def test_a_step_inside_a_transaction_is_refused_at_once(sql: Windlass) -> None:
    attempts, calls = Attempts(sql), Calls()
    ctx = attempts.begin()
    text = "step 'b' of job j1 is inside a transaction"
    with pytest.raises(ConfigError, match=text):
        ctx.step("a", lambda tx: ctx.step("b", calls), transaction=True)
    with pytest.raises(ConfigError, match=text):
        ctx.step("a", lambda tx: ctx.step("b", pay, 1, transaction=True), transaction=True)
    with sql.transaction(), pytest.raises(ConfigError, match=text):
        ctx.step("b", calls)

    async def main() -> None:
        with pytest.raises(ConfigError, match=text):
            await ctx.astep("a", lambda tx: ctx.astep("b", calls), transaction=True)
        async with ctx.transaction():
            with pytest.raises(ConfigError, match=text):
                await ctx.astep("b", calls)

    drive(main)
    with pytest.raises(ConfigError, match="job j1 is completed already: do step 'b' before"):
        ctx.step("b", calls)
    assert calls.count == 0


def test_steps_go_with_the_transaction_that_completes_the_job(sql: Windlass) -> None:
    attempts = Attempts(sql)
    ctx = attempts.begin()
    assert ctx.step("a", pay, 1, transaction=True) == 1
    with ctx.transaction() as tx:
        pay(tx, 2)
    info = sql.get("j1")
    assert info is not None
    assert (info.state, paid(sql)) == ("done", [1, 2])


def test_redis_has_no_transactions_for_a_step(server: RedisServer) -> None:
    with Windlass(server.url, namespace="without") as app:
        attempts = Attempts(app)
        ctx = attempts.begin()
        text = r"^step 'a' of job j1: the engine 'redis' has no transactions; it needs a SQL engine"
        with pytest.raises(ConfigError, match=text):
            ctx.step("a", pay, 1, transaction=True)
        with pytest.raises(ConfigError, match=text):
            drive(lambda: ctx.astep("a", pay, 1, transaction=True))
        assert attempts.steps == {}


# -- in coroutines -----------------------------------------------------------------------------------------


def test_a_step_that_would_block_the_event_loop_says_what_to_write(one: Attempts) -> None:
    calls, ctx = Calls(), one.begin()

    async def main() -> None:
        with pytest.raises(ConfigError, match=r"would block the event loop; use await ctx\.astep"):
            ctx.step("a", calls)
        assert await asyncio.to_thread(ctx.step, "a", calls) == 1

    drive(main)


def test_a_coroutine_function_is_no_step_of_a_thread(one: Attempts) -> None:
    async def fetch() -> int:
        return 1

    with pytest.raises(ConfigError, match=r"its function is a coroutine function; use await ctx\.astep"):
        one.begin().step("a", fetch)


async def fetch(n: int = 1) -> tuple[int, str]:
    await asyncio.sleep(0)
    return n, asyncio.current_task().get_name()  # type: ignore[union-attr]


def test_a_coroutine_does_steps_of_both_kinds(app: Windlass) -> None:
    attempts = Attempts(app)
    threads: set[int] = set()

    def blocks(n: int) -> int:
        threads.add(threading.get_ident())
        return n

    async def main(ctx: JobContext) -> list[object]:
        asyncio.current_task().set_name("mine")  # type: ignore[union-attr]
        return [
            await ctx.astep("sync", blocks, 1),
            await ctx.astep("async", fetch, n=2),
            await ctx.astep("lambda", lambda: fetch(3)),
            await ctx.astep("partial", functools.partial(fetch, 4)),
        ]

    ctx = attempts.begin()
    with pytest.raises(PayloadError, match="step 'lambda' of job j1: value is a tuple"):
        drive(lambda: main(ctx))
    ctx = attempts.crash()
    assert attempts.steps == {"sync": "1", "async": '[2,"mine"]'}

    async def rest() -> object:
        return (
            await ctx.astep("sync", blocks, 9),
            await ctx.astep("async", fetch, 9),
            await ctx.astep("p", functools.partial(fetch, 4)),
        )

    assert drive(rest)[:2] == (1, (2, "mine"))
    assert (threads - {threading.get_ident()}, len(threads)) == (threads, 1)


def test_a_coroutine_function_that_is_annotated_as_a_plain_one(one: Attempts) -> None:
    def soon(n: int) -> Coroutine[Any, Any, tuple[int, str]]:
        return fetch(n)

    ctx = one.begin()
    assert drive(lambda: ctx.astep("a", soon, 5))[0] == 5


def test_the_loop_goes_on_while_a_step_waits_for_the_store(sql: Windlass) -> None:
    ctx = Attempts(sql).begin()
    begun, over = threading.Event(), threading.Event()

    def hold() -> None:
        with sql.transaction():
            begun.set()
            assert over.wait(PATIENCE)

    async def main() -> int:
        thread = threading.Thread(target=hold)
        thread.start()
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        task = asyncio.create_task(ctx.astep("a", lambda: 1))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not task.done()
        over.set()
        return await task

    assert drive(main) == 1


def test_errors_and_cancels_of_a_coroutines_step(app: Windlass) -> None:
    attempts, calls = Attempts(app), Calls()
    ctx = attempts.begin()

    async def main() -> None:
        async def fails() -> int:
            raise ZeroDivisionError

        for bad in (fails, lambda: 1 // 0):
            with pytest.raises(ZeroDivisionError):
                await ctx.astep("a", bad)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await ctx.astep("a", lambda: next(iter(())))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await ctx.astep("a", asyncio.sleep, 3600)
        assert await ctx.astep("a", calls) == 1

    drive(main)
    assert attempts.steps == {"a": "1"}


def test_a_thread_goes_on_when_its_coroutine_is_cancelled_and_what_it_gives_is_kept(app: Windlass) -> None:
    attempts = Attempts(app)
    ctx = attempts.begin()
    inside, over = threading.Event(), threading.Event()

    def slow() -> int:
        inside.set()
        assert over.wait(PATIENCE)
        return 7

    async def main() -> None:
        task = asyncio.create_task(ctx.astep("a", slow))
        assert await asyncio.to_thread(inside.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ConfigError, match="used already"):  # it is not done twice at a time
            await ctx.astep("a", slow)
        over.set()
        await until_async(lambda: attempts.steps == {"a": "7"})

    drive(main)
    assert attempts.again().step("a", slow) == 7


def test_a_step_that_is_cancelled_while_its_value_is_stored_is_not_done_again(
    app: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = Attempts(app)
    ctx = attempts.begin()
    inside, over = threading.Event(), threading.Event()
    note = app.engine.note

    def slow(notes: list[Note]) -> list[Settled]:
        if notes[0].key:
            inside.set()
            assert over.wait(PATIENCE)
        return note(notes)

    monkeypatch.setattr(app.engine, "note", slow)

    async def main() -> None:
        task = asyncio.create_task(ctx.astep("a", asyncio.sleep, 0, 7))
        assert await asyncio.to_thread(inside.wait, PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ConfigError, match="used already"):
            await ctx.astep("a", asyncio.sleep, 0, 8)
        over.set()
        await until_async(lambda: attempts.steps == {"a": "7"})

    drive(main)


def test_a_coroutine_commits_its_writes_and_its_value_together(sql: Windlass) -> None:
    attempts = Attempts(sql)

    async def apay(tx: AsyncTx, n: int) -> int:
        await tx.aexecute("INSERT INTO paid VALUES (?)", (n,))
        return n

    async def main(ctx: JobContext) -> list[int]:
        return [
            await ctx.astep("a", apay, 1, transaction=True),
            await ctx.astep("b", pay, 2, transaction=True),
        ]

    async def fails(tx: AsyncTx) -> int:
        await apay(tx, 9)
        raise ZeroDivisionError

    async def hangs(tx: AsyncTx) -> int:
        await apay(tx, 9)
        await asyncio.sleep(3600)
        return 1

    async def bad(ctx: JobContext) -> None:
        with pytest.raises(ZeroDivisionError):
            await ctx.astep("c", fails, transaction=True)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await ctx.astep("c", hangs, transaction=True)
        with pytest.raises(PayloadError):
            await ctx.astep("c", lambda tx: (pay(tx, 9),), transaction=True)

    ctx = attempts.begin()
    assert drive(lambda: main(ctx)) == [1, 2]
    drive(lambda: bad(ctx))
    ctx = attempts.crash()
    assert drive(lambda: main(ctx)) == [1, 2]
    assert (paid(sql), attempts.steps) == ([1, 2], {"a": "1", "b": "2"})
    late = ctx
    attempts.crash()
    with pytest.raises(LeaseLost, match="its function was not called"):
        drive(lambda: late.astep("d", apay, 3, transaction=True))
    assert paid(sql) == [1, 2]
