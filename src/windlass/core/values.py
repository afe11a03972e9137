"""Which values survive the store: what is refused before it is encoded, and how a value that came back is compared.

Pure, and without a word about jobs: ``codec`` puts the job and the argument around a refusal. Invariants: the check of
a value is bounded in depth and size before anything recurses into it; ``compare`` tells apart whatever ``==`` would
not (``True`` from 1, 1.0 from 1, a tuple from a list), with one exception that type checkers make too: an int may come
back as the float that is exactly this number, since only an annotation that says float makes it one.
"""

from __future__ import annotations

import dataclasses
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import copysign
from pathlib import PurePath
from typing import Final
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType

from windlass.core.errors import PayloadError
from windlass.core.hints import is_model

__all__ = [
    "INT_MAX",
    "INT_MIN",
    "SCALARS",
    "Refused",
    "TooLarge",
    "ValueCheck",
    "check_depth",
    "compare",
]

MAX_DEPTH: Final = 64
ENVELOPE_DEPTH: Final = 2
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
SCALARS: Final[frozenset[type]] = frozenset({int, str, bool, float, type(None)})
LEAVES: Final[frozenset[type]] = frozenset({bool, type(None), date, timedelta, UUID, UnsetType})
KEYS: Final = (str, int, float, date, time, timedelta, Decimal, UUID, Enum)
SURROGATE: Final = re.compile("[\ud800-\udfff]")
STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
BRACES_AS_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


class Refused(Exception):
    """A value that cannot be stored. Each level on the way out adds its part of the path.

    ``advice`` names the annotation that would restore the value.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice
        self.parts: list[str] = []

    def at(self, part: str) -> Refused:
        self.parts.append(part)
        return self

    @property
    def path(self) -> str:
        return "".join(reversed(self.parts)).removeprefix(".")


def show(value: object) -> str:
    """A short picture of a value. Only of plain types: a foreign ``__repr__`` may be slow, huge or secret."""
    if type(value) is int and value.bit_length() > 128:
        return "a huge int"
    if type(value) in SCALARS or isinstance(value, (date, time, timedelta, Decimal, UUID)):
        text = repr(value) if not isinstance(value, str) else repr(value[:40])
        return f"{text[:80]} ({type(value).__qualname__})"
    return f"a {type(value).__qualname__}"


def fields_of(value: object) -> list[tuple[str, object]] | None:
    """Names and values of what a record consists of, or None for something that is no record."""
    if isinstance(value, Struct):
        return [(name, getattr(value, name)) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    if is_model(value):
        held = vars(value)  # cached properties too, which are no fields
        named = [(name, held[name]) for name in type(value).model_fields if name in held]
        return [*named, *(value.model_extra or {}).items()]
    if (of_attrs := getattr(type(value), "__attrs_attrs__", None)) is not None:
        return [(field.name, getattr(value, field.name, None)) for field in of_attrs]
    return None


class ValueCheck:
    """Walks a value before it is encoded: refuses what JSON would bend, and bounds depth and size.

    The size is a lower bound of the JSON text, so a value that shares its parts (and would explode) stops early.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0

    def check(self, value: object, depth: int = 0) -> None:
        kind = type(value)
        self.size += 1 + (len(value) if isinstance(value, str) else 0)
        if self.size > self.limit:
            raise TooLarge
        if kind is bool or value is None or value is UNSET:
            return
        match value:
            case int():
                if not INT_MIN <= value <= INT_MAX:
                    raise Refused("is an integer beyond 64 bits; pass it as text")
            case float():
                if value - value != 0.0:
                    raise Refused(f"is {float(value)!r}, which JSON does not have; pass None or text")
            case str():
                if not value.isascii() and SURROGATE.search(value):
                    raise Refused("has a lone surrogate, which is not valid text; clean it with errors='replace'")
            case bytes() | bytearray() | memoryview():
                raise Refused("is bytes; store them elsewhere and pass a reference, or encode them as base64 text")
            case datetime():
                if value.utcoffset() is None:
                    raise Refused("is a naive datetime; give it a time zone, such as datetime.now(UTC)")
            case Decimal():
                if not value.is_finite():
                    raise Refused(f"is Decimal {value}; pass None or text")
            case time():
                if value.tzinfo is not None and value.utcoffset() is None:
                    raise Refused("is a time in a zone whose offset depends on the date; pass a datetime")
            case Enum() | date() | timedelta() | UUID():
                return
            case _:
                if depth >= MAX_DEPTH:
                    raise Refused(f"is nested more than {MAX_DEPTH} deep (or contains itself); flatten it")
                self._check_inside(value, depth + 1)

    def _check_inside(self, value: object, depth: int) -> None:
        part = ""
        try:
            if isinstance(value, (list, tuple)):
                names = getattr(value, "_fields", None)
                for index, item in enumerate(value):
                    part = f"[{index}]" if names is None else f".{names[index]}"
                    self.check(item, depth)
            elif isinstance(value, (set, frozenset)):
                part = "{}"
                for item in value:
                    self.check(item, depth)
            elif isinstance(value, dict):
                for key, item in value.items():
                    part = key_text(key)
                    self.check(key, depth)
                    if isinstance(key, bool) or not isinstance(key, KEYS):
                        raise Refused(
                            f"has {show(key)} as its key, which JSON cannot have; use text or numbers as keys, or pass "
                            "a list of pairs"
                        )
                    self.check(item, depth)
            elif (fields := fields_of(value)) is not None:
                for name, item in fields:
                    part = f".{name}"
                    self.check(item, depth)
            else:
                instead = "it as text: str(path)" if isinstance(value, PurePath) else "an id or plain data"
                raise Refused(f"is a {type(value).__qualname__}, which cannot be stored; pass {instead}")
        except Refused as refused:
            raise refused.at(part) if part else refused  # noqa: B904  it is the same error on its way out


class TooLarge(Exception):
    pass


def key_text(key: object) -> str:
    return f"[{key[:40]!r}]" if isinstance(key, str) else f"[{show(key)}]"


def compare(before: object, after: object) -> None:
    """Raise Refused where two values differ in type or structure. ``==`` will not do: True == 1 == 1.0."""
    kind = type(before)
    if kind is int and type(after) is float:
        if before == after:  # Python compares the two as numbers, exactly
            return
        raise Refused(f"is {show(before)}, which no float holds exactly; annotate it as int, or pass it as text")
    if type(after) is not kind:
        raise Refused(
            f"is {show(before)} and would come back as {show(after)}; pass it as {type(after).__qualname__}",
            f", or annotate it as {kind.__qualname__}",
        )
    same = True
    part = ""
    try:
        if kind in LEAVES or kind is int or kind is str:
            same = before == after
        elif isinstance(before, float) and isinstance(after, float):
            same = before == after and copysign(1.0, before) == copysign(1.0, after)
        elif isinstance(before, (datetime, time)) and isinstance(after, (datetime, time)):
            # A zone comes back as its offset: the same instant and the same wall time is the same value.
            plain = before.replace(tzinfo=None, fold=0), after.replace(tzinfo=None, fold=0)
            same = plain[0] == plain[1] and before.utcoffset() == after.utcoffset()
        elif isinstance(before, Decimal) and isinstance(after, Decimal):
            same = before.as_tuple() == after.as_tuple()
        elif isinstance(before, Enum):
            same = before is after
        elif isinstance(before, (list, tuple)) and isinstance(after, (list, tuple)):
            same = len(before) == len(after)
            for index, (left, right) in enumerate(zip(before, after, strict=False)):
                part = f"[{index}]"
                compare(left, right)
        elif isinstance(before, (set, frozenset)) and isinstance(after, (set, frozenset)):
            same = before == after
            found = {item: item for item in after}
            part = "{}"
            for item in before:
                compare(item, found.get(item))
        elif isinstance(before, dict) and isinstance(after, dict):
            same = len(before) == len(after)
            keys = {key: key for key in after}
            for key, item in before.items():
                part = key_text(key)
                if key not in keys and isinstance(key, str):
                    raise Refused("would not come back: the annotation has no such key; leave it out, or annotate it")
                if key not in keys:
                    raise Refused("would not come back under this key; annotate the dict, or use keys that are text")
                compare(key, keys[key])
                compare(item, after[key])
        else:
            fields, others = fields_of(before), fields_of(after)
            if fields is None or others is None:
                raise Refused(f"is a {kind.__qualname__}, which cannot be stored; pass an id or plain data")
            same = len(fields) == len(others)
            for (name, left), (_, right) in zip(fields, others, strict=False):
                part = f".{name}"
                compare(left, right)
    except Refused as refused:
        raise refused.at(part) if part else refused  # noqa: B904  it is the same error on its way out
    if not same:
        raise Refused(f"is {show(before)} and would come back as {show(after)}")


def check_depth(raw: bytes) -> None:
    """Refuse JSON nested deeper than the cap, in linear time and without recursion, whatever the bytes are."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return
    brackets = STRING.sub(b"", raw).translate(BRACES_AS_BRACKETS, NOT_BRACKETS)
    for _ in range(MAX_DEPTH + ENVELOPE_DEPTH):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"")  # takes the innermost level off
    if brackets:
        raise PayloadError(f"the JSON is nested more than {MAX_DEPTH} deep, or its brackets do not match")
