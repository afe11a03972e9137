"""What enters a store is bounded where it enters, and what is in one is shown whatever it says."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inside import end_of, worker_of

from kit.waiting import PATIENCE, stretched, until
from windlass import CircuitOpen, Once, Rate, State, Unique, Windlass, on
from windlass.core import caps
from windlass.core.clock import FIRST, LAST, from_ms, to_ms
from windlass.core.fingerprint import cause_of
from windlass.core.model import NewJob
from windlass.core.patterns import parse_queues
from windlass.core.retry import Facts, Retried, Retry, decide
from windlass.core.units import instant_ms
from windlass.errors import ConfigError, PayloadError, ResultExpired
from windlass.settings.values import READERS
from windlass.testing.conformance.harness import pause, place
from windlass.worker.layout import split_pool

WEST = timezone(-timedelta(hours=5))
NEVER = [
    datetime.max.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=WEST),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=14))),
    datetime(9999, 12, 31, 23, tzinfo=WEST),
    datetime(9000, 1, 1, tzinfo=UTC),
    datetime.min.replace(tzinfo=UTC),
]
LONGEST = timedelta(milliseconds=caps.DURATION_MS)
LATEST = datetime(9000, 1, 1, tzinfo=UTC) - timedelta(milliseconds=1)


def look_at_everything(app: Windlass) -> None:
    """Ask whatever lists what a store holds."""
    for page in (app.jobs(), app.dead.list()):
        for info in page:
            assert app.explain(info.id)
    app.queues(), app.workers(), app.stats(), app.circuit_states(), app.locks(), app.limits(), app.dead.groups()
    list(app.dead.lines())


@pytest.fixture
def app(store: dict[str, str], tmp_path: Path) -> Iterator[Windlass]:
    with Windlass(store.get("WINDLASS_URL", f"sqlite:///{tmp_path}/w.db")) as app:
        yield app


def double(n: int = 1) -> int:
    return 2 * n


# -- instants and lengths ----------------------------------------------------------------------------------


@pytest.mark.parametrize("when", NEVER)
def test_an_instant_that_means_never_is_refused_where_it_is_written(when: datetime) -> None:
    with Windlass("memory://") as app:
        job = app.job(name="double")(double)
        writers: list[tuple[str, Callable[[], object]]] = [
            ("at is", lambda: job.options(at=when)),
            ("at is", lambda: job.enqueue_at(when)),
            ("until is", lambda: app.queue("default").pause(until=when)),
        ]
        for option, write in writers:
            with pytest.raises(ConfigError, match=rf"{option} .*(before 1970|after the year 8999)"):
                write()
        assert app.jobs().items == ()
        assert app.queues() == []


def test_the_latest_instant_and_the_longest_lengths_are_taken_and_shown(app: Windlass) -> None:
    app.circuit("c", window=LONGEST, open_for=LONGEST).open(for_=LONGEST)
    job = app.job(
        name="double", timeout=LONGEST, expires=LONGEST, keep=LONGEST, once=Once("o:{n}", keep=LONGEST),
        unique=Unique("u:{n}", ttl=LONGEST), limits=[Rate("1/72999d", key="r")], retry=Retry(within=LONGEST),
    )(double)  # fmt: skip
    job.options(at=LATEST).enqueue(1)
    job.options(delay=LONGEST).enqueue(2)
    app.queue("default").pause(until=LATEST)
    with app.lock("k", lease=LONGEST, wait=LONGEST):
        look_at_everything(app)
    assert {info.state for info in app.jobs()} == {State.SCHEDULED}
    assert app.queue("default").info().paused_until == LATEST


def test_a_job_with_the_longest_timeout_and_lock_runs(app: Windlass) -> None:
    @app.job(name="locked", timeout=LONGEST, keep=LONGEST)
    def locked() -> str:
        with app.lock("k", lease=LONGEST, wait=LONGEST) as lock:
            return "renewed in time" if lock.renew_at - 1 < threading.TIMEOUT_MAX else "never renewed"

    handle = locked.enqueue()
    with worker_of(app):
        assert handle.result(timeout=LONGEST) == "renewed in time"


@pytest.mark.parametrize("key", sorted(READERS.keys() - {"url", "namespace", "dead_archive"}))
def test_no_setting_takes_a_huge_number(key: str) -> None:
    for huge in (10**30, 10**5_000, 1e300, "1000000000000000d"):
        with pytest.raises(ConfigError):
            Windlass("memory://", **{key: huge})


def test_the_longest_waits_that_settings_take_are_waited_for(app: Windlass, tmp_path: Path) -> None:
    waits = {
        key: timedelta(milliseconds=caps.WAIT_MS)
        for key in ("lease", "reap", "shutdown_timeout", "network_timeout", "pool_timeout", "busy_timeout", "poll_max",
                    "poll_min", "live_within")
    }  # fmt: skip
    url = app.settings.url
    # The first wake-up may come before the worker listens; its first poll is behind that.
    with Windlass(url, **(waits | {"poll_min": timedelta(seconds=1)}), renew="8d", settle_flush=0) as patient:
        job = patient.job(name="double")(double)
        with worker_of(patient):
            assert job.enqueue(4).result(timeout=stretched(PATIENCE)) == 8
        for key in waits:
            with pytest.raises(ConfigError, match=rf"^{key} .* it must be at most 24d"):
                Windlass(url, **{**waits, key: "25d"})


def test_a_date_that_an_error_asks_for_is_bounded() -> None:
    policy = Retry.of(Retry(attempts=5, rules=[on(ValueError).after(lambda error: error.args[0])]), 10)
    for asked in (NEVER[0], "Fri, 31 Dec 9999 23:59:59 GMT", datetime(2500, 1, 1, tzinfo=UTC), 1e30, 10**400):
        decision = decide(policy, ValueError(asked), Facts(1, 5), __import__("random").Random(1))
        assert isinstance(decision, Retried)
        assert decision.delay_ms <= 3_600_000  # the backoff's
        assert "its answer" in str(decision.trouble)


def test_a_guard_that_says_how_long_it_stays_closed_is_bounded(app: Windlass) -> None:
    @app.job(name="blocked", retry=0)
    def blocked() -> None:
        raise CircuitOpen("made by the application", "mine", 1e30)

    handle = blocked.enqueue()
    with worker_of(app):
        while handle.state is not State.SCHEDULED:
            pass
    look_at_everything(app)


def test_a_result_that_is_promised_longer_outlives_the_count(store: dict[str, str], tmp_path: Path) -> None:
    url = store.get("WINDLASS_URL", f"sqlite:///{tmp_path}/w.db")
    with Windlass(url, keep_done_max=3, reap="50ms", renew="200ms", lease="30s") as app:
        promised = app.job(name="promised", keep="1h")(double)
        plain = app.job(name="plain")(double)
        handles = app.enqueue_many(promised.bind(n) for n in range(50))
        others = app.enqueue_many(plain.bind(n) for n in range(50))
        with worker_of(app):
            assert [handle.result(timeout=stretched(PATIENCE)) for handle in handles] == [2 * n for n in range(50)]
            until(lambda: app.stats()["done"] == 53, "the trimming")
        assert [handle.result(timeout=0) for handle in handles] == [2 * n for n in range(50)]
        with pytest.raises(ResultExpired, match="give the job a keep= longer than keep_done"):
            others[0].result(timeout=0)


# -- reading what is stored already ------------------------------------------------------------------------


@given(st.integers())
def test_any_instant_of_a_store_is_shown(ms: int) -> None:
    shown = from_ms(ms)
    assert FIRST <= shown <= LAST
    for zone in (timezone(-timedelta(hours=24) + timedelta(minutes=1)), timezone(timedelta(hours=23, minutes=59))):
        shown.astimezone(zone)


@given(st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=st.sampled_from([UTC, WEST])))  # noqa: DTZ001
def test_an_instant_survives_to_the_millisecond(when: datetime) -> None:
    back = from_ms(to_ms(when))
    assert timedelta(0) <= when - back < timedelta(milliseconds=1, microseconds=1)


@given(st.integers(0, caps.INSTANT_MS - 1))
def test_milliseconds_survive_exactly(ms: int) -> None:
    assert instant_ms(from_ms(ms), "at") == ms


def test_every_listing_goes_on_with_instants_that_no_calendar_has(app: Windlass) -> None:
    job = app.job(name="double")(double)
    job.enqueue(1)
    far = 259_000_000_000_000  # the year 10177
    place(app.engine, [NewJob("far", "double", "default", "[1,[2],{}]", run_at=far)])
    pause(app.engine, "default", "for good", far)
    look_at_everything(app)
    assert app.get("far") is not None


# -- names, numbers and words ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tags": [str(n) for n in range(100_000)]}, "100,000 tags; give at most 100"),
        ({"tags": ["\x1b[31mred"]}, "a tag is"),
        ({"tags": ["x" * 129]}, "a tag is"),
        ({"tags": ["\u202egnp"]}, "a tag is"),
        ({"priority": 10**5_000}, "priority is a huge number"),
        ({"retry": 10**7}, "retry"),
        ({"version": "x" * 129}, "version is"),
        ({"limits": [Rate("1/s", key=f"k{n}") for n in range(31)]}, "give at most 30"),
    ],
)
def test_options_are_bounded_at_the_definition_and_at_the_call(options: dict[str, object], says: str) -> None:
    with Windlass("memory://") as app:
        with pytest.raises(ConfigError, match=says):
            app.job(name="a", **options)(double)  # type: ignore[call-overload]
        with pytest.raises(ConfigError, match=says):
            app.job(name="b")(double).options(**options).bind(1)  # type: ignore[arg-type]


def test_words_of_people_are_shortened_and_never_refused_for_their_length(app: Windlass) -> None:
    words = "no\0 more \udce9" + "x" * 10_000_000
    app.queue("default").pause(words, by=words)
    info = app.queue("default").info()
    assert info.paused_reason is not None
    assert info.paused_by is not None
    assert len(info.paused_reason) <= caps.REASON
    assert len(info.paused_by) <= caps.REASON
    assert info.paused_reason.startswith("no\ufffd more \ufffdxxx")
    circuit = app.circuit("c")
    circuit.open(reason=words)
    assert len(circuit.info().reason or "") <= caps.REASON
    for wrong in (5, b"x", ["x"]):
        with pytest.raises(ConfigError, match="give text"):
            app.queue("default").pause(wrong)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="give text"):
            circuit.open(reason=wrong)  # type: ignore[arg-type]


def test_an_exception_class_that_names_itself_oddly_does_not_break_the_dead_list(app: Windlass) -> None:
    class Odd(Exception):
        pass

    Odd.__qualname__ = "Odd\0\x1b[31m\udce9" + "x" * 100_000
    cause = cause_of(Odd())
    assert cause.error_type.isprintable()
    assert len(cause.error_type) <= caps.JOB_NAME

    @app.job(name="die", retry=0)
    def die() -> None:
        raise Odd

    handle = die.enqueue()
    with worker_of(app):
        assert end_of(handle).state is State.DEAD
    look_at_everything(app)


@pytest.mark.parametrize("digits", ["9" * 5_000, "9" * 19])
def test_very_long_numbers_on_the_command_line_are_wrong_numbers(app: Windlass, digits: str) -> None:
    assert sys.get_int_max_str_digits() < 5_000
    for read in (
        lambda: parse_queues([f"a={digits}"]),
        lambda: split_pool(f"a:{digits}"),
        lambda: app.jobs(cursor=digits),
    ):
        with pytest.raises(ConfigError):
            read()


# -- what is loaded ----------------------------------------------------------------------------------------

LINE = {"id": "a", "name": "double", "queue": "default", "payload": [1, [2], {}]}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"payload": [1, ["x" * 2_000_000], {}]}, "payload takes 2,000,0.* the most is 1,048,576"),
        ({"payload_base64": "eHh4" * 500_000}, "payload takes 1,500,000 bytes"),
        ({"run_at": 10**18}, "run_at is"),
        ({"finished_at": 10**15}, "finished_at is"),
        ({"started_at": -1}, "started_at is -1"),
        ({"enqueued_at": 10**30}, "enqueued_at"),
        ({"attempt": -5}, "attempt is -5; it must be from 0 to 1,000,000"),
        ({"attempt": 1e30}, ""),
        ({"max_attempts": 0}, "max_attempts is 0"),
        ({"priority": 2_000}, "priority is 2000"),
        ({"crashes": 2**40}, "crashes is"),
        ({"snoozes": -1}, "snoozes is"),
        ({"recoveries": 70_000}, "recoveries is"),
        ({"expires_ms": 10**15}, "expires_ms is"),
        ({"fence": -1}, "fence is"),
        ({"tags": ["\x1b[31m"]}, "a tag is"),
        ({"tags": [str(n) for n in range(101)]}, "101 tags"),
        ({"name": "a\nb"}, "name is"),
        ({"name": "x" * 300}, "name is"),
        ({"fingerprint": "a\0b"}, "fingerprint is"),
        ({"guards": [["once", "k", 0, 0, None, 10**15]]}, "keep of a guard"),
        ({"guards": [["rate", "k" * 201, 1, 1]]}, "key of a guard"),
        ({"guards": [["rate", "k", 1, 1]] * 33}, "33 guards"),
        ({"unique": ["k\x1b", "done", None, "return"]}, "key of a guard"),
        ({"unique": ["k", "done", 10**15, "return"]}, "ttl of the unique key"),
        ({"progress": {"message": "x" * 70_000}}, "progress takes"),
        ({"meta": {"version": "x" * 70_000}}, "meta takes"),
    ],
)
def test_a_loaded_line_is_held_to_the_bounds_of_what_is_enqueued(
    tmp_path: Path, changed: dict[str, object], says: str
) -> None:
    path = tmp_path / "dead.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps({**LINE, "id": "b", **changed}) + "\n")
    with Windlass("memory://") as app:
        with pytest.raises(PayloadError, match=rf"line 2 is not a dead job: .*{says}"):
            app.dead.load(path)
        assert app.dead.count() == 0


def test_what_a_loaded_line_explains_is_shortened(app: Windlass, tmp_path: Path) -> None:
    path = tmp_path / "dead.jsonl"
    history = [{"type": "E", "message": "m", "traceback": "", "at": 10**30, "attempt": -7}]
    words = {"reason": "r\0" + "x" * 5_000, "error_type": "E\0" + "x" * 5_000, "frame": "f\0", "fingerprint": "f"}
    path.write_text(json.dumps({**LINE, **words, "errors": history}) + "\n")
    assert app.dead.load(path) == 1
    look_at_everything(app)
    (info,) = app.dead.list()
    assert info.errors[0].at == LAST
    assert len(info.reason or "") <= caps.REASON
