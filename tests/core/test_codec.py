"""What crosses the store comes back as it was, or is refused where it is made."""

from __future__ import annotations

import enum
import json
import traceback
import typing
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Literal, NamedTuple, TypedDict
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from windlass.core.codec import Signature, decode_plain, encode_result
from windlass.core.history import decode_errors, encode_error
from windlass.core.meta import Meta, decode_meta, encode_meta
from windlass.core.model import JobError
from windlass.errors import PayloadError

LIMIT = 1 << 20


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


@dataclass
class User:
    name: str
    tags: list[str] = field(default_factory=list)
    born: date | None = None
    score: float = 0.0


class Point(NamedTuple):
    x: int
    y: int


class Options(TypedDict, total=False):
    width: int


class Order(msgspec.Struct):
    id: uuid.UUID
    total: Decimal
    at: datetime


class Price(msgspec.Struct):
    amount: float
    history: list[float] = []


class Sizes(TypedDict):
    width: float


class Spot(NamedTuple):
    x: float


class Patch(msgspec.Struct):
    name: str | msgspec.UnsetType = msgspec.UNSET


class Plain:
    pass


def signature(fn: Callable[..., object], *, payload_max: int = LIMIT, skip_first: bool = False) -> Signature:
    return Signature(fn, skip_first=skip_first, job_name="shop.job", payload_max=payload_max)


def taking(hint: object) -> Signature:
    """The signature of a job with one parameter ``user`` of this type."""

    def job(user): ...  # type: ignore[no-untyped-def]

    job.__annotations__ = {} if hint is None else {"user": hint}
    return signature(job)


def there_and_back(hint: object, value: object) -> object:
    codec = taking(hint)
    args, kwargs = codec.decode(codec.encode((value,), {}).encode())
    named = codec.decode(codec.encode((), {"user": value}).encode())
    assert kwargs == {}
    assert named == ([], {"user": args[0]})
    return args[0]


NOW = datetime(2026, 3, 1, 12, 30, 0, 123456, tzinfo=UTC)

SURVIVORS: list[tuple[object, object]] = [
    *((int, 1), (int, 2**63 - 1), (int, -(2**63)), (str, "é\0🙂\u2028"), (bool, True), (float, -0.0), (float, 1e300)),
    *((None, 1), (None, 1.0), (None, False), (None, None), (None, {"a": [1, 2.0, None]}), (None, "x"), (object, 3)),
    *((datetime, NOW), (datetime, NOW.astimezone(timezone(timedelta(hours=-3)))), (date, date(2026, 2, 3))),
    *((time, time(3, 4, 5)), (timedelta, timedelta(days=-2, microseconds=1)), (uuid.UUID, uuid.UUID(int=7))),
    *((Decimal, Decimal("1.10")), (Color, Color.BLUE), (Level, Level.LOW), (Literal["a", "b"], "a")),
    *((User, User("n", ["a"], date(2020, 1, 1), 1.5)), (Point, Point(1, 2)), (Options, {"width": 3}), (Options, {})),
    *((Order, Order(uuid.UUID(int=1), Decimal("0.10"), NOW)), (list[User], [User("a")]), (tuple[int, str], (1, "a"))),
    *((tuple[int, ...], (1, 2, 3)), (set[int], {1, 2}), (frozenset[str], frozenset("a")), (dict[int, str], {1: "a"})),
    *((dict[date, list[Point]], {date(2020, 1, 1): [Point(0, 1)]}), (int | None, None), (int | str, "a")),
    *((int | datetime, NOW), (Sequence[int], [1]), (Iterable[int], [1]), (typing.Any, [1])),
    *((Patch, Patch()), (Patch, Patch("b")), (float | None, 1.0), (bytes | None, None)),
]


@pytest.mark.parametrize(("hint", "value"), SURVIVORS, ids=lambda item: str(item)[:40])
def test_annotated_value_comes_back_as_it_was(hint: object, value: object) -> None:
    back = there_and_back(hint, value)
    assert (type(back), back) == (type(value), value)
    if not isinstance(value, set | frozenset):  # whose order is nobody's promise
        assert str(back) == str(value)  # tells -0.0 from 0.0


def typed(value: object) -> object:
    """A value with the types of all that is in it, so that 1 and 1.0 differ."""
    return json.loads(msgspec.json.encode(value)), str(value)


@pytest.mark.parametrize(
    ("hint", "value", "wanted"),
    [
        (float, 10, 10.0),
        (float, -3, -3.0),
        (float, 0, 0.0),
        (float, 2**53, float(2**53)),
        (float, 2**60, float(2**60)),  # beyond 2**53, and still exactly a float
        (float | None, 1, 1.0),
        (typing.Optional[float], 1, 1.0),  # noqa: UP045  as older code writes it
        (float | str, 1, 1.0),
        (typing.Annotated[float, msgspec.Meta(ge=0)], 1, 1.0),
        (list[float], [1, 2.5], [1.0, 2.5]),
        (tuple[float, ...], (1, 2), (1.0, 2.0)),
        (set[float], {1}, {1.0}),
        (dict[str, float], {"a": 1}, {"a": 1.0}),
        (dict[float, str], {1: "a"}, {1.0: "a"}),
        (list[dict[str, float | None]], [{"a": 1, "b": None}], [{"a": 1.0, "b": None}]),
        (User, User("n", score=5), User("n", score=5.0)),
        (Price, Price(5, [1]), Price(5.0, [1.0])),
        (Sizes, {"width": 3}, {"width": 3.0}),
        (Spot, Spot(3), Spot(3.0)),
        (int | float, 1, 1),  # both are named, so nothing changes
        (None, 1, 1),
    ],
    ids=str,
)
def test_an_int_for_a_float_arrives_as_that_float(hint: object, value: object, wanted: object) -> None:
    back = there_and_back(hint, value)
    assert type(back) is type(wanted)
    assert typed(back) == typed(wanted)


def test_an_int_and_its_float_are_one_payload() -> None:
    for hint, one, other in ((float, 10, 10.0), (list[float], [10], [10.0]), (Price, Price(1), Price(1.0))):
        codec = taking(hint)
        assert codec.encode((one,), {}) == codec.encode((other,), {})
        assert codec.encode((), {"user": one}) == codec.encode((), {"user": other})


def test_further_positional_and_keyword_arguments_take_ints_for_floats() -> None:
    def job(*amounts: float, **named: float) -> None: ...

    codec = signature(job)
    args, kwargs = codec.decode(codec.encode((1, 2.5), {"a": 3}).encode())
    assert (str(args), str(kwargs)) == ("[1.0, 2.5]", "{'a': 3.0}")


def test_a_payload_that_only_fits_with_ints_is_too_large() -> None:
    def job(many: list[float]) -> None: ...

    numbers = [1] * 30
    assert len(signature(job).encode((numbers,), {})) == 130
    with pytest.raises(PayloadError, match="take 130 bytes as JSON, payload_max is 129"):
        signature(job, payload_max=129).encode((numbers,), {})


def test_a_result_that_is_an_int_for_a_float_comes_back_as_that_float() -> None:
    def job() -> dict[str, float]: ...

    back = signature(job).decode_result(encode_result({"a": 1}, LIMIT).encode())
    assert str(back) == "{'a': 1.0}"


def test_zone_comes_back_as_the_offset_of_the_same_instant_and_wall_time() -> None:
    autumn = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris"))
    back = there_and_back(datetime, autumn)
    assert isinstance(back, datetime)
    assert back.isoformat() == autumn.isoformat()


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def cycle() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


class Text(str):
    pass


REFUSED: list[tuple[object, object, str]] = [
    (int, 2**63, "user is an integer beyond 64 bits"),
    (None, [0, -(2**63) - 1], r"user\[1\] is an integer beyond"),
    (None, 10**5000, "beyond 64 bits"),
    (float, float("nan"), "user is nan"),
    (None, {"a": float("inf")}, r"user\['a'\] is inf"),
    (float | None, float("-inf"), "user is -inf"),
    (Decimal, Decimal("NaN"), "user is Decimal NaN"),
    (bytes, b"x", "user is bytes"),
    (None, [bytearray(b"x")], r"user\[0\] is bytes"),
    (dict[str, bytes], {"a": b"x"}, r"user\['a'\] is bytes"),
    (datetime, NOW.replace(tzinfo=None), "user is a naive datetime"),
    (None, NOW, "user is .* and would come back as .*str"),
    (str, "a\ud800", "user has a lone surrogate"),
    (None, {"\udfff": 1}, "has a lone surrogate"),
    (None, (1, 2), "user is a tuple and would come back as a list"),
    (None, {1, 2}, "user is a set and would come back as a list"),
    (list[int], (1, 2), "user is a tuple and would come back as a list"),
    (None, {1: "a"}, r"user\[1 \(int\)\] would not come back under this key; annotate the dict"),
    (dict[str, int], {1: 2}, "would not come back under this key; .*use keys that are text"),
    (None, [(1, 2)], r"user\[0\] is a tuple .*; pass it as list, or annotate it as tuple"),
    (int, True, "user"),
    (float, True, "user"),
    (float, 2**53 + 1, r"user is 9007199254740993 \(int\), which no float holds exactly; annotate it as int"),
    (list[float], [1.0, 2**53 + 1], r"user\[1\] is 9007199254740993 \(int\), which no float holds"),
    (dict[str, float], {"a": -(2**53) - 1}, r"user\['a'\] is -9007199254740993 \(int\), which no float holds"),
    (list[float], [True], "user"),
    (float, Level.LOW, "user is .*Level.* would come back as 1.0"),
    (Decimal, 1, r"user is 1 \(int\) and would come back as Decimal"),
    (Mixed, 1, r"user is 1 \(int\) and would come back as a Mixed; pass it as Mixed"),
    (Mixed, "three", 'Invalid value "three" for Mixed'),
    (None, Color.RED, "user is a Color and would come back as 'red'"),
    (None, Level.LOW, "user is .*Level.* would come back as 1"),
    (None, Text("a"), "user|encoded"),
    (None, Plain(), "user is a Plain, which cannot be stored"),
    (Plain, Plain(), "user is a Plain, which cannot be stored"),
    (None, User("a"), "user is a User and would come back as a dict"),
    (None, Decimal("1.0"), "user is .*Decimal.* would come back as"),
    (None, uuid.UUID(int=1), "user is .*UUID.* would come back as"),
    (User, User("n", ["a", "b", "c", 3]), r"argument 'user' cannot be decoded: .*tags\[3\]"),  # type: ignore[list-item]
    (User, User("n", [], None, 2**53 + 1), r"user.score is 9007199254740993 \(int\), which no float holds"),
    (list[User], [User("n"), User("n", score=float("nan"))], r"user\[1\].score is nan"),
    (Point, Point(1, 2**64), "user.y is an integer beyond"),
    (time, time(1, tzinfo=ZoneInfo("Europe/Paris")), "user is a time in a zone"),
    (None, nested(66), "nested more than 64 deep"),
    (None, cycle(), "nested more than 64 deep"),
    (None, lambda: 1, "user is a function"),
]


@pytest.mark.parametrize(("hint", "value", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_value_that_would_change_is_refused_with_its_path(hint: object, value: object, message: str) -> None:
    codec = taking(hint)
    with pytest.raises(PayloadError, match=rf"^shop\.job: .*{message}"):
        codec.encode((value,), {})
    with pytest.raises(PayloadError, match=message):
        codec.encode((), {"user": value})


def test_depth_of_64_is_the_last_that_passes() -> None:
    assert there_and_back(None, nested(64)) == nested(64)
    with pytest.raises(PayloadError, match="64 deep"):
        taking(None).encode((nested(65),), {})


def test_payload_over_the_cap_is_refused_with_both_sizes_and_advice() -> None:
    def job(text: object) -> None: ...

    codec = signature(job, payload_max=100)
    assert len(codec.encode(("x" * 89,), {})) == 100
    with pytest.raises(PayloadError, match=r"take 101 bytes as JSON, payload_max is 100; .*pass a reference"):
        codec.encode(("x" * 90,), {})
    with pytest.raises(PayloadError, match="more than 100 bytes"):
        codec.encode((["x" * 200],), {})


def test_shared_parts_that_would_explode_are_refused_early() -> None:
    value: list[object] = []
    for _ in range(60):
        value = [value, value]
    with pytest.raises(PayloadError, match="payload_max"):
        signature(lambda x: x, payload_max=10_000).encode((value,), {})


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "missing a required argument: 'a'"),
        ((1,), {}, "missing a required argument: 'k'"),
        ((1, 2, 3), {"k": 1}, "too many positional"),
        ((1,), {"k": 1, "z": 2}, "there is no argument 'z'"),
        ((1,), {"a": 1, "k": 1}, "multiple values for argument 'a'"),
    ],
)
def test_call_that_does_not_fit_is_refused_with_the_signature(
    args: tuple[object, ...], kwargs: dict[str, object], message: str
) -> None:
    def job(a: int, b: int = 2, *, k: int) -> None: ...

    with pytest.raises(PayloadError, match=message) as caught:
        signature(job).encode(args, kwargs)
    assert "shop.job(a: 'int', b: 'int' = 2, k: 'int')" in str(caught.value)


def test_defaults_are_not_stored() -> None:
    def job(a: int, b: int = 2) -> None: ...

    assert signature(job).encode((1,), {}) == "[1,[1],{}]"
    assert signature(job).encode((), {"a": 1}) == '[1,[],{"a":1}]'


def test_injected_context_is_left_out() -> None:
    def job(ctx: object, a: int) -> None: ...

    codec = signature(job, skip_first=True)
    assert codec.decode(codec.encode((5,), {}).encode()) == ([5], {})
    with pytest.raises(PayloadError, match="too many"):
        codec.encode((1, 2), {})


def test_open_parameters_are_typed_too() -> None:
    def job(first: int, /, *rest: date, **named: Decimal) -> None: ...

    codec = signature(job)
    args, kwargs = (1, date(2020, 1, 1), date(2020, 1, 2)), {"x": Decimal("1.0")}
    assert codec.decode(codec.encode(args, kwargs).encode()) == (list(args), kwargs)
    with pytest.raises(PayloadError, match=r"rest\[1\]"):
        codec.encode((1, date(2020, 1, 1), b"x"), {})


def test_annotation_that_does_not_resolve_is_tried_again_until_it_does() -> None:
    scope: dict[str, object] = {}
    exec("from __future__ import annotations\ndef job(a: Later, b: int): ...", scope)  # noqa: S102
    codec = signature(typing.cast("Callable[..., object]", scope["job"]))
    assert "'a' does not resolve" in str(codec.unresolved())
    assert codec.decode(codec.encode(("2020-01-01", 1), {}).encode()) == (["2020-01-01", 1], {})
    with pytest.raises(PayloadError, match="argument 'b' cannot be decoded: Expected `int`"):
        codec.encode(("x", "not an int"), {})
    scope["Later"] = date
    assert codec.decode(codec.encode((date(2020, 1, 1), 1), {}).encode()) == ([date(2020, 1, 1), 1], {})
    assert codec.unresolved() is None


def test_annotation_of_an_injected_context_does_not_matter() -> None:
    scope: dict[str, object] = {}
    exec("from __future__ import annotations\ndef job(ctx: Context, b: int): ...", scope)  # noqa: S102
    job = typing.cast("Callable[..., object]", scope["job"])
    assert signature(job, skip_first=True).unresolved() is None
    assert "'ctx'" in str(signature(job).unresolved())


def test_type_that_json_cannot_be_turned_into_counts_as_untyped_and_is_told() -> None:
    codec = taking(date | datetime)
    assert "parameter 'user'" in str(codec.unresolved())
    assert codec.decode(codec.encode((1,), {}).encode()) == ([1], {})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)  # fmt: skip
FINITE = st.floats(allow_nan=False, allow_infinity=False)
SAME = st.builds(User, st.text(), st.lists(st.text(), max_size=3), st.none() | st.dates(), FINITE)


@given(JSON)
def test_plain_values_survive_without_annotations(value: object) -> None:
    assert repr(there_and_back(None, value)) == repr(value)


@given(
    st.dictionaries(
        st.integers(-(2**63), 2**63 - 1), st.tuples(SAME, st.frozensets(st.uuids(), max_size=3)), max_size=3
    )
)
def test_typed_values_survive(value: object) -> None:
    assert there_and_back(dict[int, tuple[User, frozenset[uuid.UUID]]], value) == value


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=3) | st.datetimes()
    | st.decimals() | st.just(Color.RED) | st.text(st.characters(categories=["Cs"]), min_size=1),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.dictionaries(st.integers() | st.text(), inner),
    max_leaves=6,
)  # fmt: skip


@given(ANY, st.sampled_from([None, int, float, str, list[float], dict[int, object], tuple[int, ...], User]))
def test_whatever_is_accepted_comes_back_equal(value: object, hint: object) -> None:
    codec = taking(hint)
    try:
        payload = codec.encode((value,), {})
    except PayloadError:
        return
    if hint is float and type(value) is int:
        value = float(value)
    elif hint == list[float] and isinstance(value, list):
        value = [float(each) for each in value]
    assert repr(codec.decode(payload.encode())[0][0]) == repr(value)


PIECES = st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b"1", b",", b":", b"1e999", b"\xff", b"null"]))


@given(st.binary() | PIECES.map(b"".join) | PIECES.map(lambda pieces: b"[1,[" + b"".join(pieces) + b"],{}]"))
@example(b"")
@example(b"[1,[],{}")
@example(b"]" * 100_000)
@example(b'[1,["\\ud800"],{}]')
@example(b"[1,[NaN],{}]")
@example(b'[1,[],{"\xff":1}]')
@example(b'"' + b"\\" * 999)
def test_any_bytes_decode_or_raise_payload_error(raw: bytes) -> None:
    def job(a: int, b: User | None = None, **rest: date) -> tuple[int, str]:
        raise NotImplementedError

    codec = signature(job)
    for decode in (codec.decode, codec.decode_result, decode_plain, decode_errors, decode_meta):
        try:
            decode(raw)
        except PayloadError:
            pass  # the one error that is allowed


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[{" * 5_000 + b"}]" * 5_000,
    ],
    ids=["closed", "open", "objects", "mixed"],
)
def test_deep_nesting_is_refused_before_a_parser_sees_it(raw: bytes) -> None:
    codec = taking(None)
    for text in (raw, b"[1,[" + raw + b"],{}]"):
        for decode in (codec.decode, codec.decode_result, decode_plain, decode_errors, decode_meta):
            with pytest.raises(PayloadError, match="64 deep, or its brackets do not match"):
                decode(text)


def test_brackets_in_text_are_not_depth() -> None:
    value = ['[{"' * 500, "\\", '\\"[' * 500]
    assert there_and_back(None, value) == value


def test_payload_of_another_version_is_refused() -> None:
    with pytest.raises(PayloadError, match="envelope version 2, but this process reads 1; upgrade"):
        taking(int).decode(b"[2,[1],{}]")


def test_stored_argument_of_the_wrong_type_is_named() -> None:
    with pytest.raises(PayloadError, match=r"argument 'user' cannot be decoded: Expected `int`, got `str`"):
        taking(int).decode(b'[1,["x"],{}]')
    with pytest.raises(PayloadError, match="argument 'user' cannot be decoded"):
        taking(int).decode(b'[1,[],{"user":"x"}]')


def test_arguments_that_no_longer_fit_decode_and_are_left_to_the_call() -> None:
    assert taking(int).decode(b'[1,[1,"more"],{"new":2}]') == ([1, "more"], {"new": 2})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (5, "5"),
        ((1, (2,)), "[1,[2]]"),
        ({1}, "[1]"),
        (User("a", born=date(2020, 1, 1)), '{"name":"a","tags":[],"born":"2020-01-01","score":0.0}'),
        (NOW, '"2026-03-01T12:30:00.123456Z"'),
    ],
)
def test_result_is_json(value: object, text: str) -> None:
    assert encode_result(value, LIMIT) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [float("nan")]}, r"^result\['a'\]\[0\] is nan"),
        ([b"x"], r"^result\[0\] is bytes"),
        (2**63, "^result is an integer beyond 64 bits"),
        (datetime(2020, 1, 1), "^result is a naive datetime"),  # noqa: DTZ001
        ("\ud800", "^result has a lone surrogate"),
        (Plain(), "^result is a Plain"),
        (nested(65), "64 deep"),
        (cycle(), "64 deep"),
        ("x" * 99, "the result takes 101 bytes as JSON, result_max is 100"),
        ("x" * 101, "more than 100 bytes"),
    ],
)
def test_result_that_json_would_bend_is_refused(value: object, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        encode_result(value, 100)


def test_result_is_typed_by_the_return_annotation_or_an_error() -> None:
    def typed() -> tuple[date, int]:
        raise NotImplementedError

    def unusable() -> date | datetime | None:
        raise NotImplementedError

    codec = signature(typed)
    assert codec.decode_result(b'["2020-01-01",3]') == (date(2020, 1, 1), 3)
    with pytest.raises(PayloadError, match=r"^shop\.job: the result does not come back as it is annotated: Expected"):
        codec.decode_result(b'"other"')
    with pytest.raises(PayloadError):
        codec.decode_result(b"[")
    assert signature(lambda: None).decode_result(b"[1]") == [1]
    assert signature(unusable).decode_result(b"null") is None
    with pytest.raises(PayloadError, match="annotated: Type unions may not contain more than one"):
        signature(unusable).decode_result(b'"2020-01-01"')
    assert "the result: Type unions" in str(signature(unusable).unresolved())


def failed(exc: BaseException, limit: int = 16_384) -> JobError:
    text = encode_error(exc, attempt=2, at=77, limit=limit)
    assert len(text.encode()) <= limit
    assert "\\u0000" not in text
    error = decode_errors(f"[{text}]".encode())[0]
    assert (error.attempt, error.at) == (2, 77)
    return error


def raised(exc: BaseException) -> BaseException:
    secret = "do not show"
    try:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            assert secret
            raise exc from inner
    except BaseException as caught:
        return caught


def test_error_keeps_type_message_and_chained_traceback_without_locals() -> None:
    error = failed(raised(ValueError("outer")))
    assert (error.type, error.message) == ("ValueError", "outer")
    assert "KeyError: 'inner'" in error.traceback
    assert "direct cause" in error.traceback
    assert "in raised" in error.traceback
    assert failed(PayloadError("x")).type == "windlass.errors.PayloadError"


class Nasty(Exception):
    def __str__(self) -> str:
        raise SystemExit("from __str__")


class Wrong(Exception):
    def __str__(self) -> str:
        return 3  # type: ignore[return-value]


@pytest.mark.parametrize("exc", [Nasty(), Wrong(), raised(Nasty()), ExceptionGroup("g", [Nasty("x"), ValueError("y")])])
def test_error_whose_text_cannot_be_made_is_kept_all_the_same(exc: BaseException) -> None:
    error = failed(exc)
    assert error.type
    assert error.message


def test_error_text_that_stores_refuse_is_replaced() -> None:
    assert failed(ValueError("a\0b\ud800c")).message == "a\ufffdb\ufffdc"


@pytest.mark.parametrize("text", ["x" * 5_000_000, "\x01" * 100_000, "🙂" * 100_000, '"\\' * 100_000])
@pytest.mark.parametrize("limit", [1_024, 16_384])
def test_huge_error_loses_its_middle_and_keeps_the_limit(text: str, limit: int) -> None:
    error = failed(raised(ValueError("begin" + text + "end")), limit)
    assert error.message.startswith("begin")
    assert error.message.endswith("end")
    assert "characters left out" in error.message
    assert error.traceback.startswith("Traceback") or limit == 1_024


def test_no_error_history_is_empty() -> None:
    assert decode_errors(None) == ()


def test_meta_of_defaults_costs_nothing_and_others_come_back() -> None:
    assert encode_meta(Meta()) is None
    assert decode_meta(None) == Meta()
    meta = Meta(timeout_ms=5, redact=("card",), backoff='{"base":2}', version="3")
    text = encode_meta(meta)
    assert text is not None
    assert json.loads(text) == {"timeout_ms": 5, "redact": ["card"], "backoff": '{"base":2}', "version": "3"}
    assert decode_meta(text.encode()) == meta


def test_meta_of_a_newer_version_is_read() -> None:
    assert decode_meta(b'{"timeout_ms":5,"later":[1]}') == Meta(timeout_ms=5)
    with pytest.raises(PayloadError, match="facts of a job"):
        decode_meta(b'{"timeout_ms":"x"}')


@pytest.mark.parametrize(
    ("hint", "value"),
    [(str, 41112222), (float, 41112222_00000000001), (None, ("41112222",)), (Literal["a"], "41112222")],
)
@pytest.mark.parametrize("how", ["positional", "star", "keyword", "double star"])
def test_a_refusal_never_shows_the_value_of_a_redacted_argument(hint: object, value: object, how: str) -> None:
    def pay(card=None, *rest, **more): ...  # type: ignore[no-untyped-def]

    pay.__annotations__ = {} if hint is None else dict.fromkeys(("card", "rest", "more"), hint)
    codec = Signature(pay, skip_first=False, job_name="shop.pay", payload_max=1_000, redact=("card", "rest", "more"))
    fine: object = 1.0 if hint is float else "a"
    args, kwargs = {
        "positional": ((value,), {}),
        "star": ((fine, value), {}),
        "keyword": ((), {"card": value}),
        "double star": ((), {"pin": value}),
    }[how]
    with pytest.raises(PayloadError, match="is redacted, so its value is not shown") as caught:
        codec.encode(args, kwargs)
    assert "4111" not in "".join(traceback.format_exception(caught.value))
