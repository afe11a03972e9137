"""What rules and control exceptions do to stored jobs: the same on every engine.

Jobs run through the real pipeline, one claim at a time, on a clock that is moved by hand; so a whole policy plays out
in no time, and its every step can be compared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers import RedisServer
from windlass import Constant, Dead, Discard, JobInfo, Retry, RetryAfter, Snooze, State, Windlass, current_job, on
from windlass.core.clock import Clock, ManualClock
from windlass.core.history import NOWHERE
from windlass.core.work import Settled, Want, WorkerInfo
from windlass.engines.base import Store
from windlass.events import Events
from windlass.settings import Settings
from windlass.worker.attempt.endings import Endings
from windlass.worker.attempt.execute import prepare, run_async, run_sync
from windlass.worker.attempt.run import JobRun

WORKER = "w1"
STEPS_MAX = 60


class Host:
    """What a run needs of a worker."""

    def __init__(self, app: Windlass) -> None:
        self.engine: Store = app.engine
        self.clock: Clock = app.clock
        self.settings: Settings = app.settings
        self.events: Events = app.events
        self.rng = Random(0)
        self.stopping = False
        self.origin = NOWHERE

    def note(self, run: JobRun, key: str, value: str | None, *, durable: bool = False) -> None:
        raise AssertionError("no job here reports")

    def defer(self, run: JobRun, delay_ms: int) -> int:
        return delay_ms


class Shop:
    """An application on one engine, and a worker that is moved by hand."""

    def __init__(self, url: str, **options: object) -> None:
        self.clock = ManualClock()
        self.app = Windlass(url, clock=self.clock, **options)
        self.app.engine.open()
        self.host = Host(self.app)
        self.endings = Endings(self.app.clock, quiet=False)

    def beat(self) -> None:
        self.app.engine.extend(WorkerInfo(WORKER, "g", "box", 1, "*", 1, "1", 0), (), 10**9)

    def step(self) -> bool:
        """Run what is ready; false when nothing was."""
        store = self.app.engine
        self.beat()
        leases = store.claim(Want(WORKER, 10)).leases
        for lease in leases:
            run = JobRun(lease, prepare(self.app.registry.get(lease.name), self.app.middlewares), self.host)
            outcome = asyncio.run(run_async(run)) if run.spec.is_async else run_sync(run)
            assert outcome is not None
            run.outcome = outcome
            self.endings.tell([run])
            assert store.settle([outcome]) == [Settled.APPLIED]
        return bool(leases)

    def play(self, job_id: str) -> list[int]:
        """Run a job to its end; give its waits in ms."""
        waits = []
        for _ in range(STEPS_MAX):
            assert self.step()
            info = self.info(job_id)
            if info.state is not State.SCHEDULED:
                return waits
            wait = round(info.run_at.timestamp() * 1000) - self.clock.wall_ms()
            waits.append(wait)
            self.clock.advance(wait)
        raise AssertionError(f"job {job_id} has not ended after {STEPS_MAX} runs")

    def info(self, job_id: str) -> JobInfo:
        info = self.app.get(job_id)
        assert info is not None
        return info

    def close(self) -> None:
        self.app.close()


@pytest.fixture(scope="module", autouse=True)
def redis_server() -> Iterator[None]:
    """A server for the whole module; every shop empties it."""
    with closing(RedisServer()) as made:
        REDIS.append(made)
        yield
        REDIS.clear()


REDIS: list[RedisServer] = []


def emptied_redis(_folder: Path) -> str:
    with REDIS[0].client() as client:
        client.flushall()
    return REDIS[0].url


ENGINES: dict[str, Callable[[Path], str]] = {
    "memory": lambda _folder: "memory://",
    "sqlite": lambda folder: f"sqlite:///{folder}/jobs.db",
    "redis": emptied_redis,
}

MakeShop = Callable[..., Shop]


@pytest.fixture(params=list(ENGINES))
def make_shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeShop]:
    made: list[Shop] = []

    def make(**options: object) -> Shop:
        made.append(Shop(ENGINES[request.param](tmp_path), **options))
        return made[-1]

    yield make
    for shop in made:
        shop.close()


class CardStolen(Exception): ...


class Limited(Exception):
    def __init__(self, wait: object) -> None:
        super().__init__(f"wait {wait}")
        self.wait = wait


POLICY = Retry(
    attempts=4,
    backoff=Constant(1),
    rules=[
        on(Limited).after(lambda e: e.wait),
        on(ConnectionError).retry(attempts=6, backoff=Constant(2)),
        on(CardStolen).dead("stolen"),
        on(LookupError).discard(),
    ],
)

CASES: dict[str, tuple[Callable[[], Exception], State, int, str | None, list[int]]] = {
    "no rule": (lambda: ValueError("x"), State.DEAD, 4, None, [1_000] * 3),
    "own attempts": (lambda: ConnectionResetError("x"), State.DEAD, 6, None, [2_000] * 5),
    "after": (lambda: Limited("7s"), State.DEAD, 4, None, [7_000] * 3),
    "dead": (CardStolen, State.DEAD, 1, "stolen", []),
    "discard": (lambda: KeyError("sku"), State.CANCELLED, 1, "KeyError: 'sku'", []),
    "raised dead": (lambda: Dead("gone"), State.DEAD, 1, "gone", []),
    "raised discard": (lambda: Discard("late"), State.CANCELLED, 1, "late", []),
    "raised retry": (lambda: RetryAfter(9), State.DEAD, 4, None, [9_000] * 3),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_rule_has_the_outcome_it_names(make_shop: MakeShop, case: str) -> None:
    make, state, attempt, reason, waits = CASES[case]
    shop = make_shop()

    @shop.app.job(name="fail", retry=POLICY)
    def fail() -> None:
        raise make()

    handle = fail.enqueue()
    assert shop.play(handle.id) == waits
    info = shop.info(handle.id)
    assert (info.state, info.attempt, info.reason) == (state, attempt, reason)
    assert len(info.errors) == attempt
    assert [error.attempt for error in info.errors] == list(range(1, attempt + 1))


def test_a_snooze_uses_no_attempt_and_leaves_no_error(make_shop: MakeShop) -> None:
    shop = make_shop()

    @shop.app.job(name="wait", retry=0)
    def wait(turns: int) -> str:
        if current_job().scheduled_for.timestamp() * 1000 < start + turns * 5_000:
            raise Snooze("5s", "not yet")
        return "now"

    start = shop.clock.wall_ms()
    handle = wait.enqueue(3)
    assert shop.play(handle.id) == [5_000] * 3
    info = shop.info(handle.id)
    assert (info.state, info.attempt, info.errors, info.result) == (State.DONE, 1, (), "now")


def test_snoozes_beyond_their_cap_use_attempts(make_shop: MakeShop) -> None:
    shop = make_shop(max_snoozes=2)

    @shop.app.job(name="wait", retry=1)
    def wait() -> None:
        raise Snooze("5s")

    handle = wait.enqueue()
    assert shop.play(handle.id) == [5_000] * 3
    info = shop.info(handle.id)
    assert (info.state, info.attempt) == (State.DEAD, 2)
    assert [error.type for error in info.errors] == ["windlass.errors.Snooze"] * 2


def test_a_time_budget_ends_a_job_whatever_its_attempts(make_shop: MakeShop) -> None:
    shop = make_shop()

    @shop.app.job(name="fail", retry=Retry(within="1m", backoff=Constant("25s")))
    def fail() -> None:
        raise ValueError

    handle = fail.options(delay="1h").enqueue()
    shop.beat()
    shop.clock.advance(3_600_000)
    waits = shop.play(handle.id)
    assert waits == [25_000, 25_000]
    info = shop.info(handle.id)
    assert (info.state, info.attempt, info.reason) == (State.DEAD, 3, "no further attempt fits within 1 min")
    handle.retry()
    assert shop.play(handle.id) == [25_000, 25_000]


def test_what_a_call_says_of_retries_replaces_the_definition_but_its_rules(make_shop: MakeShop) -> None:
    shop = make_shop()

    @shop.app.job(name="fail", retry=POLICY)
    def fail(kind: str) -> None:
        raise {"lookup": KeyError("x"), "reset": ConnectionResetError(), "value": ValueError()}[kind]

    own = Retry(within="20s", backoff=Constant(6))
    assert shop.play(fail.options(retry=own).enqueue("value").id) == [6_000] * 3
    assert shop.play(fail.options(retry=own).enqueue("lookup").id) == []
    assert shop.play(fail.options(retry=1).enqueue("reset").id) == [2_000]
    assert shop.play(fail.options(retry=0).enqueue("value").id) == []


def test_a_control_exception_out_of_a_task_group_counts(make_shop: MakeShop) -> None:
    shop = make_shop()

    @shop.app.job(name="fan_out")
    async def fan_out() -> None:
        async def gone() -> None:
            raise Dead("no such customer")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(gone())

    handle = fan_out.enqueue()
    shop.play(handle.id)
    assert (shop.info(handle.id).state, shop.info(handle.id).reason) == (State.DEAD, "no such customer")


@pytest.mark.parametrize("text", ["nul \0", "half \ud800", "long " * 1_000])
def test_a_reason_that_a_store_would_refuse_harms_nobody(make_shop: MakeShop, text: str) -> None:
    shop = make_shop()

    @shop.app.job(name="quit", retry=Retry(rules=[on(KeyError).discard(), on(ValueError).dead(text)]))
    def quit(kind: str) -> None:
        raise {"rule": KeyError(text), "reason": ValueError(), "raised": Discard(text), "dead": Dead(text)}[kind]

    for kind in ("rule", "reason", "raised", "dead"):
        handle = quit.enqueue(kind)
        shop.play(handle.id)
        reason = shop.info(handle.id).reason
        assert reason is not None
        assert len(reason) <= 1_000


def test_a_broken_backoff_is_reported_and_costs_nothing(make_shop: MakeShop, caplog: pytest.LogCaptureFixture) -> None:
    shop = make_shop()

    def broken(attempt: int, error: BaseException) -> float:
        return attempt / 0

    @shop.app.job(name="fail", retry=Retry(attempts=2, backoff=broken))
    def fail() -> None:
        raise ValueError

    handle = fail.enqueue()
    (wait,) = shop.play(handle.id)
    assert 0 <= wait <= 1_000
    assert "ZeroDivisionError: division by zero" in caplog.text
    assert shop.info(handle.id).attempt == 2


def test_the_settings_give_the_waits_of_jobs_that_do_not_say(make_shop: MakeShop) -> None:
    shop = make_shop(attempts=3, backoff=Constant("90s"))

    @shop.app.job(name="fail")
    def fail() -> None:
        raise ValueError

    assert shop.play(fail.enqueue().id) == [90_000] * 2


ERRORS: dict[str, Callable[[], Exception]] = {name: case[0] for name, case in CASES.items()} | {
    "snooze": lambda: Snooze("3s", "busy"),
}
SCRIPTS = st.lists(st.lists(st.sampled_from(sorted(ERRORS)), max_size=9), min_size=1, max_size=4)


def story(url: str, scripts: list[list[str]]) -> list[tuple[object, ...]]:
    """What became of jobs that fail as their scripts say and then succeed."""
    with closing(Shop(url)) as shop:
        left = {number: list(script) for number, script in enumerate(scripts)}

        @shop.app.job(name="act", retry=POLICY)
        def act(number: int) -> str:
            if left[number]:
                raise ERRORS[left[number].pop(0)]()
            return "done"

        told: list[tuple[object, ...]] = []
        for number in left:
            handle = act.enqueue(number)
            waits = shop.play(handle.id)
            info = shop.info(handle.id)
            errors = tuple((error.type, error.message, error.attempt) for error in info.errors)
            told.append((info.state, info.attempt, info.reason, info.result, tuple(waits), errors))
        return told


@settings(max_examples=25, deadline=None)
@given(SCRIPTS)
def test_any_run_of_errors_ends_the_same_on_every_engine(
    tmp_path_factory: pytest.TempPathFactory, scripts: list[list[str]]
) -> None:
    stories = {name: story(url(tmp_path_factory.mktemp("shop")), scripts) for name, url in ENGINES.items()}
    first, *others = stories.values()
    assert all(other == first for other in others), stories


ENDINGS: dict[str, Exception] = {
    "fails": ValueError("card 4111-2222 refused"),
    "retries": ConnectionError("card 4111-2222 refused"),
    "is discarded": Discard("card 4111-2222 refused"),
    "is discarded by a rule": LookupError("card 4111-2222 refused"),
    "is dead": Dead("card 4111-2222 refused"),
    "is put off": Snooze("1h", "card 4111-2222 refused"),
}


@pytest.mark.parametrize("ending", list(ENDINGS))
def test_no_log_error_or_reason_shows_a_redacted_argument(
    make_shop: MakeShop, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    shop = make_shop()
    policy = Retry(attempts=2, rules=[on(ValueError).dead(), on(LookupError).discard()])

    @shop.app.job(name="pay", redact=["card"], retry=policy)
    def pay(card: str) -> None:
        raise ENDINGS[ending]

    handle = pay.enqueue("4111-2222")
    with caplog.at_level("DEBUG"):
        shop.step()
    assert "card ••• refused" in caplog.text
    info = shop.info(handle.id)
    assert "card ••• refused" in f"{info.errors} {info.reason}"
    stored = shop.app.engine.job(handle.id)
    assert stored is not None
    assert "4111" not in f"{caplog.text} {info} {stored.errors!r} {stored.reason}"


def test_editing_a_dead_job_brings_no_redacted_argument_of_its_past_to_light(make_shop: MakeShop) -> None:
    shop = make_shop()

    @shop.app.job(name="pay", redact=["card"], retry=0)
    def pay(card: str) -> None:
        raise ValueError(f"card {card} refused")

    handle = pay.enqueue("4111-2222")
    shop.step()
    assert "4111" not in repr(shop.app.dead.edit(handle.id, args=["5555-6666"]))


class Busy(Snooze):
    """An exception of somebody who forgot what its base needs."""

    def __init__(self, line: int) -> None:
        self.line = line


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_control_exception_that_was_never_initialised_fails_its_attempt(make_shop: MakeShop, kind: str) -> None:
    shop = make_shop()

    def call() -> None:
        raise Busy(3)

    async def acall() -> None:
        raise Busy(3)

    handle = shop.app.job(name="call", retry=0)(call if kind == "sync" else acall).enqueue()
    shop.play(handle.id)
    info = shop.info(handle.id)
    assert (info.state, info.errors[-1].type) == (State.DEAD, "AttributeError")
    assert "Busy" in info.errors[-1].traceback


async def awaited_by_nobody() -> int:
    raise AssertionError("no body runs by being called")


def generated_by_nobody() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize("make", [awaited_by_nobody, generated_by_nobody])
def test_a_job_whose_body_has_not_run_does_not_end_as_done(make_shop: MakeShop, make: Callable[[], object]) -> None:
    shop = make_shop()
    handle = shop.app.job(name="call", retry=0)(lambda: make()).enqueue()
    shop.play(handle.id)
    info = shop.info(handle.id)
    assert (info.state, len(info.errors)) == (State.DEAD, 1)
    assert "has not run" in info.errors[0].message
