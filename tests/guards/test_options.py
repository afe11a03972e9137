"""What a guard option may say, and what a key renders to."""

from __future__ import annotations

import enum
from collections.abc import Iterator

import pytest

from windlass import Concurrency, ConfigError, JobContext, Once, PayloadError, Rate, Unique, Windlass
from windlass.core import caps
from windlass.core.model import Guard, GuardKind


@pytest.fixture
def app() -> Iterator[Windlass]:
    with Windlass("memory://") as app:
        yield app


def pay(payment_id: int, currency: str = "EUR") -> None: ...


class Level(enum.IntEnum):
    LOW = 1


def anything(a, b=None): ...  # type: ignore[no-untyped-def]


def with_defaults(
    amount: float = 10,
    rates: list[float] = [1],  # noqa: B006
    level: Level = Level.LOW,
    *rest: int,
    **more: int,
) -> None: ...


def keys(app: Windlass, *options: object, name: str = "j") -> list[str]:
    """The Once keys of calls with these first arguments."""
    job = app.job(name=name, once=Once("p:{a}+{b}"))(two)
    return [job.bind(*call).new.guards[0].key for call in options]  # type: ignore[misc, has-type]


def two(a: str, b: str = "x") -> None: ...


# -- keys --


def test_a_key_is_the_same_by_position_by_name_and_by_default(app: Windlass) -> None:
    job = app.job(name="pay", once=Once("payment:{payment_id}:{currency}"))(pay)
    calls = [job.bind(42), job.bind(42, "EUR"), job.bind(payment_id=42), job.bind(42, currency="EUR")]
    assert {call.new.guards for call in calls} == {(Guard(GuardKind.ONCE, "payment:42:EUR", keep_ms=86_400_000),)}


def test_an_int_for_a_float_has_the_key_of_that_float(app: Windlass) -> None:
    def refund(amount: float, *, fee: float | None = None) -> None: ...

    for name, key in (("template", "{amount}:{fee}"), ("function", lambda amount, fee=None: f"{amount}:{fee}")):
        job = app.job(name=name, once=Once(key), unique=Unique(key))(refund)
        news = [job.bind(*args, **kw).new for args in ((10,), (10.0,)) for kw in ({"fee": 1}, {"fee": 1.0})]
        assert {new.payload for new in news} == {'[1,[10.0],{"fee":1.0}]'}
        assert len({(new.guards, new.unique) for new in news}) == 1


def test_values_are_escaped_so_that_different_calls_have_different_keys(app: Windlass) -> None:
    job = app.job(name="two", once=Once("{a}:{b}"))(two)
    assert job.bind("x:y", "z").new.guards != job.bind("x", "y:z").new.guards
    assert job.bind("x%3Ay", "z").new.guards != job.bind("x:y", "z").new.guards
    assert job.bind("a\nb", "ü").new.guards[0].key == "a%0Ab:ü"


APART: list[object] = [
    None, "None", True, "True", False, "False", 1, "1", 1.0, "1.0", -1, "-1", "", " ", "0", 0, 1e30, "1e+30", '"1"',
    [1], "[1]", ["1"], '["1"]', [None], {"a": 1}, '{"a":1}', '{"a":"1"}', {"a": None}, "null", "a", '"a"', "%22a%22",
    [], "[]", {}, "{}", "{None}", "none", "a:b", "a%3Ab",
]  # fmt: skip


@pytest.mark.parametrize("redact", [[], ["a"]], ids=["shown", "redacted"])
def test_different_values_have_different_keys(app: Windlass, redact: list[str]) -> None:
    job = app.job(name="any", once=Once("k:{a}"), redact=redact)(anything)
    assert len({job.bind(value).new.guards[0].key for value in APART}) == len(APART)


def test_plain_text_and_numbers_are_shown_as_they_are(app: Windlass) -> None:
    job = app.job(name="any", once=Once("k:{a}"))(anything)
    shown = {
        "p-1": "p-1",
        42: "42",
        -7: "-7",
        1.5: "1.5",
        "ü b": "ü b",
        None: "None",
        "42": '"42"',
        "2026-03-01": "2026-03-01",
    }
    assert {value: job.bind(value).new.guards[0].key for value in shown} == {v: f"k:{key}" for v, key in shown.items()}


PAIRS = ["a", "", "b", "a-b", "-", "a-", "-b", "%", "a:b", ":", '"', '"-"', "1", "x", "-1", "%2D", "a/-b"]


@pytest.mark.parametrize(
    "template", ["{a}-{b}", "{a}/{b}", "{b}, {a}", "<{a}|-{b}>", '{a}"-"{b}', "{a}x-{b}", "{a}:{b}:{a}"]
)
def test_what_stands_between_two_arguments_does_not_mix_them_up(app: Windlass, template: str) -> None:
    job = app.job(name="two", once=Once(template))(anything)
    calls = [(a, b) for a in PAIRS for b in PAIRS]
    assert len({job.bind(*call).new.guards[0].key for call in calls}) == len(calls)


@pytest.mark.parametrize("template", ["{a}{b}", "k:{a}{b}", "{a}x{b}", "{a}%{b}", '{a}"{b}', "{a}:{b}{a}"])
def test_a_key_that_does_not_part_its_arguments_is_an_error_at_definition(app: Windlass, template: str) -> None:
    with pytest.raises(ConfigError, match=r"does not part \{[ab]\} from \{[ab]\}.*put a mark such as ':'"):
        app.job(name="two", unique=Unique(template))(anything)


def test_a_default_has_the_key_that_it_has_when_it_is_passed(app: Windlass) -> None:
    key = "{amount}:{rates}:{level}:{rest}:{more}"
    job = app.job(name="pay", once=Once(key), limits=Concurrency(1, key=key))(with_defaults)
    given = [job.bind(), job.bind(10), job.bind(10.0, [1.0]), job.bind(level=Level.LOW)]
    assert len({call.new.guards for call in given}) == 1
    assert given[0].new.guards[0].key == "10.0:[1.0]:1:[]:%7B%7D"
    assert job.bind(11).new.guards != given[0].new.guards


def test_a_context_is_no_argument_of_a_key(app: Windlass) -> None:
    @app.job(name="ctx", once=Once("k:{day}"))
    def report(ctx: JobContext, day: str) -> None: ...

    assert report.bind("monday").new.guards[0].key == "k:monday"
    with pytest.raises(ConfigError, match="names 'ctx'"):
        report.options(once=Once("k:{ctx}"))


def test_a_key_that_is_too_long_is_hashed_and_stays_different(app: Windlass) -> None:
    job = app.job(name="two", once=Once("{a}"))(two)
    first, second = (job.bind("x" * 5_000 + end).new.guards[0].key for end in "ab")
    assert first != second
    assert len(first) <= caps.KEY


def test_redacted_arguments_do_not_show_in_a_key(app: Windlass) -> None:
    job = app.job(name="two", once=Once("{a}:{b}"), redact=["a"])(two)
    key = job.bind("secret", "open").new.guards[0].key
    assert "secret" not in key
    assert key.endswith(":open")
    by_call = job.options(once=Once(lambda a, b="x": f"{a}!")).bind("secret").new.guards[0].key
    assert "secret" not in by_call


def test_a_key_may_be_a_function_of_the_arguments(app: Windlass) -> None:
    job = app.job(name="pay", unique=Unique(lambda payment_id, currency="EUR": f"{payment_id % 10}"))(pay)
    assert job.bind(42).new.unique is not None
    assert job.bind(42).new.unique.key == "2"  # type: ignore[union-attr]
    broken = job.options(unique=Unique(lambda *_args: 7))  # type: ignore[arg-type, return-value]
    with pytest.raises(PayloadError, match="gave 7"):
        broken.bind(1)
    failing = job.options(unique=Unique(lambda *_args: str(1 / 0)))
    with pytest.raises(PayloadError, match="ZeroDivisionError"):
        failing.bind(1)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("payment:{paymnt_id}", "names 'paymnt_id'.*did you mean 'payment_id'"),
        ("payment:{payment_id.real}", "not a plain argument name"),
        ("payment:{payment_id[0]}", "not a plain argument name"),
        ("payment:{payment_id!r}", "not a plain argument name"),
        ("payment:{payment_id:03}", "not a plain argument name"),
        ("payment:{}", "not a plain argument name"),
        ("payment:{", "not a template"),
        ("", "is empty"),
        (7, "give a template"),
    ],
)
def test_a_wrong_key_is_an_error_at_definition(app: Windlass, key: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        app.job(name="pay", once=Once(key))(pay)


# -- options --


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Once("k", keep=0), "longer than zero"),
        (lambda: Once("k", keep="soon"), "not a duration"),
        (lambda: Unique("k", ttl=0), "longer than zero"),
        (lambda: Unique("k", until="finished"), "it is one of start, done, expiry"),
        (lambda: Unique("k", until="expiry"), "needs a ttl"),
        (lambda: Unique("k", on_conflict="replac"), "did you mean 'replace'"),
        (lambda: Unique("k", on_conflict="keep_latest", until="start"), "until must be 'done'"),
        (lambda: Concurrency(0, key="k"), "from 1"),
        (lambda: Concurrency(True, key="k"), "from 1"),
        (lambda: Rate("100", key="k"), "100/m"),
        (lambda: Rate("100/week", key="k"), "units are s, m, h, d"),
        (lambda: Rate("0/s", key="k"), "at least 1"),
        (lambda: Rate("5/0s", key="k"), "at least 1"),
        (lambda: Rate("5/s", key="k", burst=0), "burst"),
    ],
)
def test_a_guard_that_cannot_be_is_an_error_where_it_is_written(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()  # type: ignore[operator]


def test_rates_are_read(app: Windlass) -> None:
    assert [Rate(text, key="k").parsed() for text in ("5/s", "100/m", "2/h", "1/d", "9/10s", " 9 / 10 s ")] == [
        (5, 1_000), (100, 60_000), (2, 3_600_000), (1, 86_400_000), (9, 10_000), (9, 10_000),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"circuit": "strpe"}, "no circuit 'strpe' .did you mean 'stripe'"),
        ({"circuit": 5}, "give the name of a circuit"),
        ({"once": "payment"}, r"give Once\("),
        ({"unique": True}, r"give Unique\("),
        ({"limits": [5]}, r"give a list of Concurrency"),
        ({"limits": [Rate("1/s", key="a"), Rate("2/s", key="a")]}, "two Rate with the key 'a'"),
    ],
)
def test_a_wrong_option_of_a_job_is_an_error_at_definition(
    app: Windlass, options: dict[str, object], says: str
) -> None:
    app.circuit("stripe")
    with pytest.raises(ConfigError, match=says):
        app.job(name="pay", **options)(pay)  # type: ignore[call-overload]


def test_a_call_may_change_its_guards(app: Windlass) -> None:
    stripe = app.circuit("stripe")
    job = app.job(name="pay", circuit=stripe, limits=Rate("5/s", key="api"))(pay)
    assert [g.gate for g in job.bind(1).new.guards] == ["circuit:stripe", "rate:api"]
    assert [g.gate for g in job.options(circuit=None, once=Once("o")).bind(1).new.guards] == ["once:o", "rate:api"]
    assert job.options(circuit=None, limits=None).bind(1).new.guards == ()


def test_a_job_without_guards_stores_none(app: Windlass) -> None:
    new = app.job(name="pay")(pay).bind(1).new
    assert (new.guards, new.unique) == ((), None)
