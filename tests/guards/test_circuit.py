"""Circuits as user code has them: what counts as a failure, what is let through, and what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import ClassVar

import pytest

from servers import RedisServer
from windlass import (
    Circuit,
    CircuitOpen,
    ConfigError,
    Dead,
    Discard,
    JobCancelled,
    LockBusy,
    RetryAfter,
    Snooze,
    Windlass,
)
from windlass.core.circuit import Tally
from windlass.core.clock import ManualClock
from windlass.errors import Control, EngineUnavailable, GuardUnavailable
from windlass.events import CircuitClosed, CircuitHalfOpened, CircuitOpened, Event
from windlass.guards import agreed
from windlass.guards import circuit as module
from windlass.guards.verdict import retry_after_ms
from windlass.worker.worker import Worker, WorkerOptions


class StripeError(Exception):
    retry_after: float | None = None


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def app(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Windlass]:
    monkeypatch.setattr(module, "FRESH", 0.0)  # each call looks: these tests move time by hand
    with Windlass("memory://", clock=clock) as app:
        yield app


@pytest.fixture
def stripe(app: Windlass) -> Circuit:
    return app.circuit("stripe", failures=2, window="10s", open_for="5s", half_open=2, trip_on=(StripeError,))


def fail(circuit: Circuit, error: BaseException | None = None) -> None:
    with pytest.raises(type(error or StripeError())), circuit:
        raise error or StripeError("down")


def open_it(circuit: Circuit) -> None:
    for _ in range(2):
        fail(circuit)
    assert circuit.state == "open"


def test_failures_open_a_circuit_and_its_time_and_probes_close_it(
    app: Windlass, stripe: Circuit, clock: ManualClock
) -> None:
    told: list[Event] = []
    app.on(Event)(told.append)
    open_it(stripe)
    with pytest.raises(CircuitOpen, match="StripeError: down") as caught, stripe:
        raise AssertionError
    assert caught.value.retry_in is not None
    assert 4.0 < caught.value.retry_in <= 5.0
    clock.advance(5_000)
    assert stripe.state == "half_open"
    for _ in range(2):
        with stripe:
            pass
    assert stripe.state == "closed"
    assert told == [
        CircuitOpened("stripe", "StripeError: down", 5.0),
        CircuitHalfOpened("stripe"),
        CircuitClosed("stripe"),
    ]


def test_half_open_lets_exactly_so_many_through(stripe: Circuit, clock: ManualClock) -> None:
    open_it(stripe)
    clock.advance(5_000)
    first, second = stripe.enter(), stripe.enter()
    with pytest.raises(CircuitOpen, match="being probed"):
        stripe.enter()
    stripe.leave(first, None)
    with pytest.raises(CircuitOpen):
        stripe.enter()
    stripe.leave(second, StripeError())
    assert stripe.state == "open"


@pytest.mark.parametrize("error", [ValueError("mine"), JobCancelled("x", "y"), LockBusy("x", "k"), KeyboardInterrupt()])
def test_errors_that_say_nothing_about_the_dependency_open_nothing(stripe: Circuit, error: BaseException) -> None:
    for _ in range(5):
        fail(stripe, error)
    assert stripe.state == "closed"


def test_ignored_errors_count_neither_way(app: Windlass) -> None:
    circuit = app.circuit("c", failures=None, failure_rate=0.5, min_calls=2, ignore=(LookupError,))
    for _ in range(10):
        fail(circuit, KeyError())
    for error in (ValueError(), ValueError()):
        fail(circuit, error)
    assert circuit.info().state == "open"


def test_errors_may_be_named(app: Windlass) -> None:
    circuit = app.circuit("c", failures=1, trip_on=["OSError", f"{__name__}.StripeError"])
    fail(circuit, ValueError())
    assert circuit.state == "closed"
    fail(circuit, ConnectionError())
    assert circuit.state == "open"
    circuit.close()
    fail(circuit, StripeError())
    assert circuit.state == "open"


def test_slow_calls_are_failures(app: Windlass, monkeypatch: pytest.MonkeyPatch) -> None:
    circuit = app.circuit("c", failures=1, slow_call="2s", window="10s")
    now = [100.0]
    passed = circuit.enter()
    monkeypatch.setattr(module.time, "monotonic", lambda: passed.began + now[0])
    now[0] = 1.9
    circuit.leave(passed, None)
    assert circuit.state == "closed"
    now[0] = 2.0
    circuit.leave(passed, None)
    assert circuit.info().reason == "slow calls"


def test_a_circuit_stays_open_for_as_long_as_the_service_asks(stripe: Circuit) -> None:
    error = StripeError("busy")
    error.retry_after = 60
    fail(stripe, error)
    fail(stripe)
    assert stripe.info().retry_in == 60.0


def test_retry_after_is_found_where_libraries_put_it() -> None:
    class Response:
        headers: ClassVar = {"Retry-After": "7"}

    error = StripeError()
    assert retry_after_ms(error) == 0
    error.response = Response()  # type: ignore[attr-defined]
    assert retry_after_ms(error) == 7_000
    Response.headers = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert retry_after_ms(error) == 0
    Response.headers = {"Retry-After": "soon"}
    assert retry_after_ms(error) == 0
    assert retry_after_ms(None) == 0


def test_it_decorates_functions_and_coroutine_functions(stripe: Circuit) -> None:
    @stripe
    def call(x: int) -> int:
        return x

    @stripe
    async def acall(x: int) -> int:
        if x < 0:
            raise StripeError
        return x

    assert call(1) == 1
    assert asyncio.run(acall(2)) == 2
    for _ in range(2):
        with pytest.raises(StripeError):
            asyncio.run(acall(-1))
    assert stripe.state == "open"
    with pytest.raises(CircuitOpen):
        call(1)
    with pytest.raises(CircuitOpen):
        asyncio.run(acall(1))


def test_blocks_may_be_nested_and_run_side_by_side(stripe: Circuit) -> None:
    with stripe, stripe:
        pass

    async def one() -> None:
        async with stripe:
            await asyncio.sleep(0)

    async def many() -> None:
        await asyncio.gather(*(one() for _ in range(20)))

    asyncio.run(many())
    assert stripe.info().calls == 22


def test_opened_by_hand_it_stays_so_until_it_is_closed(stripe: Circuit, clock: ManualClock) -> None:
    stripe.open(reason="maintenance")
    clock.advance(1_000_000)
    with pytest.raises(CircuitOpen, match=r"until somebody closes it.*maintenance") as caught, stripe:
        raise AssertionError
    assert caught.value.retry_in is None
    stripe.close()
    with stripe:
        pass
    stripe.open("10s")
    clock.advance(10_000)
    assert stripe.state == "half_open"


def test_a_closed_circuit_is_asked_of_the_store_once_in_a_while_only(
    app: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FRESH", 60.0)
    asked: list[list[str]] = []
    circuit = app.circuit("c")
    real = app.engine.read
    monkeypatch.setattr(app.engine, "read", lambda keys: (asked.append(keys), real(keys))[1])
    for _ in range(100):
        with circuit:
            pass
    assert asked == [["circuit:c"]]


def test_a_report_costs_one_call_of_the_store(app: Windlass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH", 60.0)
    asked: list[str] = []
    for name in ("read", "commit", "hold", "release"):
        real = getattr(app.engine, name)
        monkeypatch.setattr(
            app.engine, name, lambda *args, name=name, real=real, **more: (asked.append(name), real(*args, **more))[1]
        )
    circuit = app.circuit("c", failures=3, open_for="5s")
    for _ in range(3):
        fail(circuit)
        circuit.flush()
    assert asked == ["read", "commit", "commit", "commit"]
    with pytest.raises(CircuitOpen), circuit:
        raise AssertionError
    assert len(asked) == 4


def test_what_another_process_has_reported_since_is_not_lost(app: Windlass) -> None:
    circuit = app.circuit("c", failures=100)
    with circuit:
        pass
    circuit.flush()
    agreed.tally(app.engine, "c", circuit.policy, Tally(failed=5))
    with circuit:
        pass
    assert (circuit.info().calls, circuit.info().failures) == (7, 5)


def test_without_its_store_nothing_goes_through(
    app: Windlass, stripe: Circuit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_args: object) -> None:
        raise EngineUnavailable("gone")

    monkeypatch.setattr(app.engine, "read", away)
    with pytest.raises(GuardUnavailable, match="was not made"), stripe:
        raise AssertionError


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"failures": 0}, "whole number from 1"),
        ({"failures": None}, "would never open"),
        ({"failure_rate": 1.5}, "at most 1"),
        ({"min_calls": 5}, "failure_rate only"),
        ({"half_open": 0}, "half_open"),
        ({"window": 0}, "longer than zero"),
        ({"open_for": 0}, "longer than zero"),
        ({"slow_call": "60s"}, "not shorter than the window"),
        ({"trip_on": (5,)}, "exception classes"),
    ],
)
def test_thresholds_that_contradict_themselves_are_errors(app: Windlass, options: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        app.circuit("c", **options)  # type: ignore[arg-type]


def test_a_circuit_is_declared_once(app: Windlass) -> None:
    first = app.circuit("c", failures=3)
    assert app.circuit("c") is first
    assert app.circuit("c", failures=3) is first
    with pytest.raises(ConfigError, match="declared already"):
        app.circuit("c", failures=4)


def test_settings_declare_circuits_and_win_over_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "windlass.toml").write_text(
        '[windlass]\nurl = "memory://"\n[windlass.circuits.stripe]\nfailures = 7\nopen_for = "9s"\n'
    )
    monkeypatch.chdir(tmp_path)
    with Windlass() as app:
        circuit = app.circuit("stripe", failures=2, half_open=3)
        assert (circuit.policy.failures, circuit.policy.open_for_ms, circuit.policy.half_open) == (7, 9_000, 3)
    (tmp_path / "windlass.toml").write_text("[windlass.circuits.stripe]\nfailurs = 7\n")
    with pytest.raises(ConfigError, match=r"no option 'failurs' .did you mean 'failures'"):
        Windlass("memory://")


class CardError(StripeError):
    """An answer of the service about one customer."""


def raised_while(handled: Exception, raised: Exception, cause: Exception | None = None) -> Exception:
    """An error that was raised while another was handled; ``cause`` is what it says that it comes from."""
    try:
        try:
            raise handled
        except Exception:
            if cause is None:
                raise raised  # noqa: B904
            raise raised from cause
    except Exception as error:
        return error


def alone(raised: Exception) -> Exception:
    """An error that says that it comes from no other."""
    try:
        try:
            raise StripeError("in between")
        except StripeError:
            raise raised from None
    except Exception as error:
        return error


ENDINGS = [lambda: RetryAfter(30), lambda: Snooze("5m"), lambda: Discard("no"), lambda: Dead("never")]


@pytest.mark.parametrize("make", ENDINGS, ids=["retry after", "snooze", "discard", "dead"])
def test_what_ends_a_run_counts_as_the_error_that_it_was_raised_from(
    app: Windlass, make: Callable[[], Control]
) -> None:
    circuit = app.circuit("s", failures=1, trip_on=(StripeError,), ignore=(CardError,))
    verdicts = {
        "alone": (make(), None),
        "from none": (alone(make()), None),
        "while it failed": (raised_while(StripeError("down"), make()), False),
        "from a failure": (raised_while(KeyError(), make(), StripeError("down")), False),
        "from another error": (raised_while(StripeError("down"), make(), KeyError()), True),
        "while an ignored one": (raised_while(CardError("declined"), make()), None),
        "from a busy lock": (raised_while(LockBusy("busy", "k"), make()), None),
        "from a chain": (raised_while(raised_while(StripeError("down"), Snooze(1)), make()), False),
    }
    assert {what: circuit.judge(0.0, error).ok for what, (error, _) in verdicts.items()} == {
        what: ok for what, (_, ok) in verdicts.items()
    }


def test_a_retry_after_of_its_own_counts_where_it_is_named_and_by_default(app: Windlass) -> None:
    assert app.circuit("default").judge(0.0, RetryAfter(30)).ok is False
    assert app.circuit("named", trip_on=(RetryAfter,)).judge(0.0, RetryAfter(30)).retry_after_ms == 30_000
    assert app.circuit("other", trip_on=(StripeError,)).judge(0.0, RetryAfter(30)).ok is None
    assert app.circuit("snooze").judge(0.0, Snooze(30)).ok is None


def test_one_customers_retry_after_leaves_the_circuit_closed_for_others(stripe: Circuit) -> None:
    for _ in range(5):
        with pytest.raises(RetryAfter), stripe:
            raise RetryAfter(30)

    @stripe
    async def called() -> None:
        raise RetryAfter(30)

    for _ in range(5):
        with pytest.raises(RetryAfter):
            asyncio.run(called())
    assert (stripe.state, stripe.info().calls) == ("closed", 0)


def test_an_error_that_was_handled_before_the_call_is_not_what_it_was_raised_from(stripe: Circuit) -> None:
    async def wait() -> None:
        async with stripe:
            raise Snooze("5m")

    for _ in range(3):
        try:
            raise StripeError("of another call")
        except StripeError:
            with pytest.raises(Snooze), stripe:
                raise Snooze("5m")  # noqa: B904
            with pytest.raises(Snooze):
                asyncio.run(wait())
    assert (stripe.state, stripe.info().calls) == ("closed", 0)


def test_a_group_counts_as_the_errors_in_it(app: Windlass) -> None:
    circuit = app.circuit("s", failures=1, trip_on=(StripeError,), ignore=(CardError,))
    groups = [
        ([StripeError("down"), ValueError()], False),
        ([ExceptionGroup("inner", [StripeError("down")])], False),
        ([CardError("declined"), StripeError("down")], False),
        ([ValueError(), CardError("declined")], None),
        ([ValueError()], True),
        ([RetryAfter(5)], None),
    ]
    for errors, ok in groups:
        assert circuit.judge(0.0, ExceptionGroup("all", errors)).ok is ok, errors


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


@pytest.mark.parametrize("engine", ["sqlite", "redis"])
def test_a_job_of_a_circuit_counts_as_the_error_that_its_end_was_raised_from(
    engine: str, request: pytest.FixtureRequest
) -> None:
    url = "memory://" if engine == "sqlite" else request.getfixturevalue("server").url
    with Windlass(url) as app:
        app.circuit("stripe", failures=2, open_for="1h", trip_on=(StripeError,))

        @app.job(name="pay", circuit="stripe", retry=0)
        def pay(down: bool) -> None:
            if not down:
                raise RetryAfter(30)
            try:
                raise StripeError("down")
            except StripeError:
                raise Discard("gave up")  # noqa: B904

        @app.job(name="apay", circuit="stripe", retry=0)
        async def apay(down: bool) -> None:
            pay.__wrapped__(down)  # type: ignore[attr-defined]

        def run() -> str:
            options = WorkerOptions(burst=True)
            Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, options).run()
            return app.circuit("stripe").state

        for _ in range(3):
            pay.enqueue(False)
            apay.enqueue(False)
        assert run() == "closed"
        pay.enqueue(True)
        apay.enqueue(True)
        assert run() == "open"
