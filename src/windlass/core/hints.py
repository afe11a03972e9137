"""From an annotation to what reads its values out of JSON, and what writes those that JSON does not have.

msgspec does nearly all of it. Here is what it leaves to us: enums and literals of mixed values, and pydantic models,
which are written and read by pydantic itself: without computed fields, by alias, or by name where a model does not
read the alias under which it writes.

Pure. Must not import pydantic: a value can only be a model when somebody else has imported it already.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, EnumMeta
from typing import Any, Final, Generic, Literal, TypeAlias, TypeGuard, TypeVar, get_args, get_origin

import msgspec
from msgspec import Raw

__all__ = ["Decode", "Model", "decoder_of", "encode", "is_model", "is_model_type"]

Decode: TypeAlias = Callable[[bytes | Raw], object]
E = TypeVar("E")


class Model(typing.Protocol):
    """The part of a pydantic model that is used here."""

    model_extra: Mapping[str, object] | None
    model_fields: typing.ClassVar[Mapping[str, object]]

    def model_dump_json(self, *, by_alias: bool, round_trip: bool, warnings: bool) -> str: ...

    @classmethod
    def model_validate_json(cls, data: bytes | str, **how: bool) -> Model: ...


def is_model_type(kind: object) -> TypeGuard[type[Model]]:
    base = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    # pydantic 1 has a BaseModel too, which can neither write nor read what is needed here.
    return base is not None and isinstance(kind, type) and issubclass(kind, base) and hasattr(kind, "model_dump_json")


def is_model(value: object) -> TypeGuard[Model]:
    return is_model_type(type(value))


# --- writing ---------------------------------------------------------------------------------------


def _write_model(model: Model) -> Raw:
    """Write a model so that its class reads it. Raises TypeError where it does not read what it writes."""
    kind, trouble, texts = type(model), "", []
    for by_alias in (True, False):
        texts.append(model.model_dump_json(by_alias=by_alias, round_trip=True, warnings=False))
        try:
            if _read_model(kind, texts[-1]) == model:
                return Raw(texts[-1].encode())
        except ValueError as error:
            trouble = trouble or str(error)
            texts.pop()
    if not texts:
        raise TypeError(f"a {kind.__qualname__} does not read what pydantic writes of it: {trouble}")
    return Raw(texts[0].encode())  # the comparison of the whole tells what has changed


def _enc_hook(value: object) -> object:
    if is_model(value):
        return _write_model(value)
    raise TypeError(f"{type(value).__qualname__} has no JSON form")


encode: Final = msgspec.json.Encoder(enc_hook=_enc_hook).encode


# --- reading ---------------------------------------------------------------------------------------


def _how() -> dict[str, bool]:
    """Both spellings are read where pydantic can do that, from 2.11 on."""
    version: str = getattr(sys.modules.get("pydantic"), "VERSION", "2.0")
    new = tuple(map(int, version.split(".")[:2])) >= (2, 11)
    return {"by_alias": True, "by_name": True} if new else {}


def _read_model(kind: type[Model], text: bytes | str) -> Model:
    """Read a model as JSON, which strict models take dates and tuples from. Raises ValueError without the input."""
    with _without_input():
        return kind.model_validate_json(text, **_how())


@contextlib.contextmanager
def _without_input() -> typing.Iterator[None]:
    try:
        yield
    except ValueError as error:
        list_errors: Callable[..., list[dict[str, Any]]] | None = getattr(error, "errors", None)
        if list_errors is None:
            raise
        found = list_errors(include_input=False, include_url=False, include_context=False)
        lines = [": ".join([*([".".join(map(str, one["loc"]))] if one["loc"] else []), one["msg"]]) for one in found]
        raise ValueError("; ".join(lines)) from None


class _Anything(type):
    def __instancecheck__(cls, value: object) -> bool:
        return True  # ``_choices`` has looked it up


class Chosen(Generic[E], metaclass=_Anything):
    """One of the members of an enum or of the values of a literal. msgspec hands what it reads for it to a hook."""


@functools.cache
def _choices(kind: object) -> dict[bytes, object]:
    """The members of an enum or a literal, by their JSON text, which tells 1 from True and from "1"."""
    members: list[object] = list(kind) if isinstance(kind, EnumMeta) else list(get_args(kind))
    return {msgspec.json.encode(member): member for member in members}


def _dec_hook(kind: object, value: object) -> object:
    if is_model_type(kind):
        return _read_model(kind, encode(value))
    origin = get_origin(kind)
    if origin is Chosen:
        (choice,) = get_args(kind)
        found = _choices(choice)
        text = msgspec.json.encode(value)
        if text in found:
            return found[text]
        if isinstance(value, str) and value.encode() in found:  # the key of a dict is text, whatever it was
            return found[value.encode()]
        raise ValueError(f"Invalid value {text.decode()[:80]} for {getattr(choice, '__qualname__', choice)}")
    plain = origin or kind
    if isinstance(plain, type) and isinstance(value, plain):
        return value  # an abstract type such as Iterable, which a list fulfils
    raise TypeError(f"Cannot restore `{getattr(plain, '__qualname__', plain)}`")


def decoder_of(hint: object) -> Decode:
    """Give what reads values of an annotation. Raises TypeError for one that JSON cannot be turned into."""
    try:
        return msgspec.json.Decoder(_readable(hint), dec_hook=_dec_hook).decode
    except TypeError as error:
        adapted = _adapted(hint) if _has_model(hint) else None
        if adapted is None:
            what = str(error).partition(" - type ")[0]
            raise TypeError(f"{what} - type `{hint}` is not supported") from error
        return adapted


def _readable(hint: object) -> object:
    """An annotation in which msgspec finds a type of ours for each enum and literal that it does not know."""
    if isinstance(hint, EnumMeta):
        members: Iterable[Enum] = hint
        kinds = {type(member.value) for member in members}
        return hint if kinds in ({str}, {int}) or not kinds else Chosen[hint]  # type: ignore[valid-type]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return Chosen[hint] if any(isinstance(one, Enum) for one in args) else hint  # type: ignore[valid-type]
    if origin is None or not args:
        return hint
    if origin is typing.Annotated:
        inner = _readable(args[0])
        return hint if inner is args[0] else typing.Annotated[(inner, *args[1:])]
    parts = tuple(_readable(one) for one in args)
    if all(new is old for new, old in zip(parts, args, strict=True)):
        return hint
    if origin in (typing.Union, types.UnionType):
        return typing.Union[parts]  # noqa: UP007  made of a tuple
    return typing.cast("Any", hint).copy_with(parts) if hasattr(hint, "copy_with") else origin[parts]


def _has_model(hint: object) -> bool:
    return is_model_type(hint) or any(_has_model(part) for part in get_args(hint))


def _adapted(hint: object) -> Decode | None:
    """Have pydantic itself read a type that has models in it, such as a union of two; None when it cannot either."""
    try:
        adapter = typing.cast("Any", sys.modules["pydantic"]).TypeAdapter(hint)
    except Exception:  # noqa: BLE001  what msgspec said of the type is told
        return None
    how = _how()

    def decode(raw: bytes | Raw) -> object:
        with _without_input():
            value: object = adapter.validate_json(bytes(raw), **how)
            return value

    return decode
