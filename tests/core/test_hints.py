"""What msgspec leaves to us comes back as it was too: models of pydantic, enums and literals of mixed values."""

from __future__ import annotations

import enum
import functools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar

import attrs
import msgspec
import pytest
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    RootModel,
    SecretStr,
    computed_field,
    field_serializer,
)
from pydantic.alias_generators import to_camel
from pydantic.dataclasses import dataclass as checked_dataclass

from windlass.core.codec import Signature, encode_result
from windlass.errors import PayloadError

LIMIT = 1 << 20
T = TypeVar("T")
NOON = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


class Address(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)
    zip_code: str


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")
    price: int = Field(alias="unitPrice")
    count: int = 1
    ship_to: Address | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        return self.price * self.count


class Renamed(BaseModel):
    """Written under another name than it is read under."""

    inner: Address
    a: int = Field(default=0, validation_alias="inA", serialization_alias="outA")
    b: int = Field(default=0, validation_alias=AliasChoices("b1", "b2"))


class Box(BaseModel, Generic[T]):
    item: T


class Numbers(RootModel[list[int]]):
    pass


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Exact(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)
    at: datetime
    day: date
    pair: tuple[int, str]
    tags: frozenset[str]
    price: Decimal
    id: uuid.UUID
    wait: timedelta


class Cached(BaseModel):
    a: int
    _seen: int = PrivateAttr(default=0)

    @functools.cached_property
    def double(self) -> int:
        return 2 * self.a


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Base(BaseModel):
    a: int


class Child(Base):
    b: int = 2


class Secret(BaseModel):
    password: SecretStr


class OneWay(BaseModel):
    day: date

    @field_serializer("day")
    def in_words(self, day: date) -> str:
        return f"the {day:%d}th"


class Hiding(BaseModel):
    a: int
    b: int = Field(default=1, exclude=True)


@checked_dataclass
class Checked:
    day: date
    address: Address


@attrs.define
class Trip:
    day: date
    stops: list[str] = attrs.field(factory=list)


@attrs.frozen
class LongTrip(Trip):
    nights: int = 1


class Camel(msgspec.Struct, rename="camel"):
    zip_code: str
    other: int = msgspec.field(name="o", default=1)


class Tagged(msgspec.Struct, tag=True):
    a: int


class Other(msgspec.Struct, tag=True):
    a: int


class Pair(msgspec.Struct, Generic[T]):
    first: T
    second: T


@dataclass
class Parcel:
    to: Address
    order: Order | None = None


class Letter(TypedDict, total=False):
    to: Address


class Both(NamedTuple):
    one: Order
    day: date


class Mixed(enum.Enum):
    ONE = 1
    TWO = "a"


class Words(enum.Enum):
    NOTHING = None
    YES = True
    HALF = 0.5
    PAIR = (1, 2)
    DAY = date(2026, 1, 1)


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    LOW = 1


class Size(enum.StrEnum):
    BIG = "big"


UserId = NewType("UserId", int)


def codec_of(hint: object, **more: Any) -> Signature:
    """The codec of a job that takes an ``item`` of this type and gives one."""

    def job(item): ...  # type: ignore[no-untyped-def]

    job.__annotations__ = {"item": hint, "return": hint}
    return Signature(job, skip_first=False, job_name="shop.job", payload_max=LIMIT, **more)


SURVIVORS: list[tuple[object, object]] = [
    *((Address, Address(zipCode="1")), (Order, Order(unitPrice=3, count=4, ship_to=Address(zipCode="2")))),
    *((Renamed, Renamed(inner={"zipCode": "3"}, inA=5, b2=6)), (list[Order], [Order(unitPrice=1)])),
    *((dict[str, Address], {"a": Address(zipCode="1")}), (Address | None, Address(zipCode="1")), (Order | None, None)),
    *((Box[int], Box[int](item=1)), (Box[Order], Box[Order](item=Order(unitPrice=2))), (Box, Box(item="x"))),
    *((list[Box[date]], [Box[date](item=date(2026, 1, 1))]), (Numbers, Numbers([1, 2])), (Open, Open(a=1, more=[2]))),
    (Exact, Exact(at=NOON, day=NOON.date(), pair=(1, "a"), tags=frozenset("a"), price=Decimal("1.10"),
                  id=uuid.UUID(int=1), wait=timedelta(hours=1))),
    *((Cat | Dog, Dog(name="Rex")), (Cat | Dog, Cat()), (list[Cat | Dog], [Cat(lives=1), Dog(name="a")])),
    *((Annotated[Cat | Dog, Field(discriminator="kind")], Dog(name="b")), (Address | int, 5), (Cat | Dog | None, None)),
    *((Checked, Checked(date(2026, 1, 1), Address(zipCode="1"))), (Trip, Trip(date(2026, 1, 1), ["a"]))),
    *((LongTrip, LongTrip(date(2026, 1, 1), [], 3)), (Camel, Camel("1", 2)), (Tagged | Other, Other(1))),
    *((Pair[date], Pair(date(2026, 1, 1), date(2026, 1, 2))), (Parcel, Parcel(Address(zipCode="1")))),
    *((Parcel, Parcel(Address(zipCode="1"), Order(unitPrice=1))), (Letter, {"to": Address(zipCode="1")}), (Letter, {})),
    *((Both, Both(Order(unitPrice=1), date(2026, 1, 1))), (UserId, 3), (Annotated[date, "x"], date(2026, 1, 1))),
    *((Mixed, Mixed.ONE), (Mixed, Mixed.TWO), (list[Mixed], [Mixed.TWO, Mixed.ONE]), (Mixed | None, Mixed.ONE)),
    *((dict[Mixed, int], {Mixed.ONE: 1, Mixed.TWO: 2}), (dict[str, tuple[Mixed, ...]], {"a": (Mixed.ONE,)})),
    *((Annotated[Mixed, "x"], Mixed.ONE), *((Words, word) for word in Words)),
    *((Rights, Rights.READ | Rights.WRITE), (Level, Level.LOW), (Size, Size.BIG), (dict[Level, int], {Level.LOW: 1})),
    *((Literal[1, "a", None, True], True), (Literal[1, "a"], 1), (Literal[Mixed.ONE, "a"], Mixed.ONE)),
    *((Literal[Mixed.ONE, "a"], "a"), (list[Literal[Level.LOW]], [Level.LOW])),
    *((dict[date, int], {date(2026, 1, 1): 1}), (dict[datetime, int], {NOON: 1}), (dict[int, str], {1: "a"})),
    *((dict[uuid.UUID, int], {uuid.UUID(int=1): 1}), (dict[timedelta, int], {timedelta(1): 1})),
    *((dict[Decimal, int], {Decimal("1.10"): 1}), (dict[float, int], {1.5: 1}), (dict[Size, int], {Size.BIG: 1})),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "value"), SURVIVORS, ids=lambda item: str(item)[:40])
def test_it_comes_back_as_it_was(hint: object, value: object) -> None:
    codec = codec_of(hint)
    assert codec.unresolved() is None
    args, _ = codec.decode(codec.encode((value,), {}).encode())
    for back in (args[0], codec.decode_result(encode_result(value, LIMIT).encode())):
        assert (type(back), back) == (type(value), value)


def test_a_model_is_written_under_its_aliases_and_without_what_is_computed() -> None:
    order = Order(unitPrice=3, ship_to=Address(zipCode="2"))
    assert encode_result(order, LIMIT) == '{"unitPrice":3,"count":1,"ship_to":{"zipCode":"2"}}'


def test_a_model_whose_cached_property_has_been_read_comes_back() -> None:
    value = Cached(a=1)
    assert value.double == 2
    codec = codec_of(Cached)
    args, _ = codec.decode(codec.encode((value,), {}).encode())
    assert args == [Cached(a=1)]


REFUSED: list[tuple[object, object, str]] = [
    (Base, Child(a=1), "item is a Child and would come back as a Base; pass it as Base, or annotate it as Child"),
    (list[Base], [Base(a=1), Child(a=1)], r"item\[1\] is a Child"),
    (Box[int], Box(item=1), r"item is a Box and would come back as a Box\[int\]"),
    (Secret, Secret(password="x"), "item.password is a SecretStr, which cannot be stored"),
    (OneWay, OneWay(day=date(2026, 1, 1)), "a OneWay does not read what pydantic writes of it: day: Input should be"),
    (Hiding, Hiding(a=1, b=2), r"item\.b is 2 \(int\) and would come back as 1"),
    (Order, Order.model_construct(price="x"), "an? Order does not read what pydantic writes of it: unitPrice: Input"),
    (Trip, LongTrip(date(2026, 1, 1)), "item is a LongTrip and would come back as a Trip"),
    (Letter, {"to": Address(zipCode="1"), "from": 1}, "would not come back: the annotation has no such key"),
    (dict[tuple[int, int], int], {(1, 2): 1}, "item.* has a tuple as its key, which JSON cannot have; use text"),
    (dict[bool, int], {True: 1}, r"has True \(bool\) as its key"),
    (dict[Both, int], {Both(1, 2): 1}, "has a Both as its key"),  # type: ignore[arg-type]
    (dict[str, int], {None: 1}, r"has None \(NoneType\) as its key"),
    (Path, Path("a"), r"item is a PosixPath, which cannot be stored; pass it as text: str\(path\)"),
    (dict[Path, int], {Path("a"): 1}, r"pass it as text: str\(path\)"),
    (Mixed, 1, r"item is 1 \(int\) and would come back as a Mixed; pass it as Mixed"),
    (Mixed, True, "Invalid value true for Mixed"),
    (Mixed | int, Mixed.ONE, "cannot restore it: Type unions containing .* type `test_hints.Mixed | int`"),
    (Literal[Mixed.ONE], Mixed.TWO, "Invalid value"),
    (Literal[1, "a"], True, "Expected `int | str`, got `bool`"),
    (Literal[1, "a"], "b", "Invalid enum value 'b'"),
]  # fmt: skip


@pytest.mark.parametrize(("hint", "value", "message"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_would_change_is_refused(hint: object, value: object, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        codec_of(hint).encode((value,), {})


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Order, {"unitPrice": 1, "color": "red"}),
        (Order, [1]),
        (Cat | Dog, {"kind": "cow"}),
        (list[Order], [{"unitPrice": "x"}]),
        (Order | None, "no order"),
        (Mixed, 2),
        (Tagged | Other, {"type": "Third", "a": 1}),
        (int, True),
        (int, 1.0),
        (float, True),
        (Parcel | Trip, Trip(date(2026, 1, 1))),  # msgspec cannot tell them apart
    ],
    ids=str,
)
def test_a_result_that_does_not_fit_its_annotation_is_an_error_and_no_dict(hint: object, value: object) -> None:
    with pytest.raises(PayloadError, match=r"^shop\.job: the result does not come back as it is annotated: .*info\(\)"):
        codec_of(hint).decode_result(encode_result(value, LIMIT).encode())


@pytest.mark.parametrize(
    ("hint", "value", "wanted"),
    [
        (Base, Child(a=1), Base(a=1)),  # comes back as annotated: what only the subclass has is left out
        (Trip, LongTrip(date(2026, 1, 1)), Trip(date(2026, 1, 1))),
        (int, Level.LOW, 1),
        (list[int], (1, 2), [1, 2]),
        (Any, (1, 2), [1, 2]),
        (float, 1, 1.0),
    ],
    ids=str,
)
def test_a_result_of_a_narrower_type_comes_back_as_it_is_annotated(hint: object, value: object, wanted: object) -> None:
    back = codec_of(hint).decode_result(encode_result(value, LIMIT).encode())
    assert (type(back), back) == (type(wanted), wanted)


@pytest.mark.parametrize("how", ["encode", "decode"])
def test_what_pydantic_says_of_a_redacted_model_is_not_shown(how: str) -> None:
    codec = codec_of(Order, redact=("item",))
    call: Callable[[], object] = {
        "encode": lambda: codec.encode((Order.model_construct(price="4111"),), {}),
        "decode": lambda: codec.decode(b'[1,[{"unitPrice":"x4111"}],{}]'),
    }[how]
    with pytest.raises(PayloadError) as caught:
        call()
    assert "4111" not in str(caught.value)
    assert caught.value.__cause__ is None
