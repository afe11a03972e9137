"""What crosses the store: arguments, results, errors and per-job facts, as JSON text.

A payload is ``[1,[positional...],{keyword...}]``; the 1 is the version of the envelope. It is typed from annotations:
what an annotation can restore may be passed. Defaults are not stored; the run fills them in.

Must not import anything from a stored name, unpickle, or touch a store. Invariants:

1. Nothing is stored that would come back different: every encode is checked by decoding it again, except for scalars
   whose exact type is known to survive.
2. For any bytes at all, decoding gives values or PayloadError, in time linear in their length. Depth is measured before
   a parser that recurses sees them.
3. ``encode_error`` never fails.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import copysign
from typing import ClassVar, Final, TypeGuard, get_args, get_origin
from uuid import UUID

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from windlass.errors import PayloadError
from windlass.fingerprint import type_name
from windlass.model import JobError

__all__ = [
    "NOWHERE",
    "Meta",
    "Origin",
    "Signature",
    "decode_errors",
    "decode_meta",
    "decode_plain",
    "encode_error",
    "encode_meta",
    "encode_result",
]

VERSION: Final = 1
MAX_DEPTH: Final = 64
ENVELOPE_DEPTH: Final = 2
INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1

SCALARS: Final[frozenset[type]] = frozenset({int, str, bool, float, type(None)})
LEAVES: Final[frozenset[type]] = frozenset({bool, type(None), date, timedelta, UUID, UnsetType})
UNTYPED: Final[tuple[object, ...]] = (inspect.Parameter.empty, typing.Any, object)

SURROGATE: Final = re.compile("[\ud800-\udfff]")
UNPRINTED: Final = re.compile("[\ud800-\udfff\0]")
REASON_MAX: Final = 1_000  # characters
STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
BRACES_AS_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
NOT_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


# --- values that msgspec does not know -------------------------------------------------------------


class _Model(typing.Protocol):
    """The part of a pydantic model that is used here."""

    model_extra: Mapping[str, object] | None

    def model_dump(self, *, mode: str) -> dict[str, object]: ...

    @classmethod
    def model_validate(cls, value: object) -> _Model: ...


def _is_model_type(kind: object) -> TypeGuard[type[_Model]]:
    # A value can only be a pydantic model when somebody else has imported pydantic already.
    base = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    return base is not None and isinstance(kind, type) and issubclass(kind, base)


def _is_model(value: object) -> TypeGuard[_Model]:
    return _is_model_type(type(value))


def _enc_hook(value: object) -> object:
    if _is_model(value):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__qualname__} has no JSON form")


def _dec_hook(kind: object, value: object) -> object:
    if _is_model_type(kind):
        return kind.model_validate(value)
    plain = get_origin(kind) or kind
    if isinstance(plain, type) and isinstance(value, plain):
        return value  # an abstract type such as Iterable, which a list fulfils
    raise TypeError(f"Cannot restore `{getattr(plain, '__qualname__', plain)}`")


_encode: Final = msgspec.json.Encoder(enc_hook=_enc_hook).encode
_PLAIN: Final = msgspec.json.Decoder()
_ENVELOPE: Final = msgspec.json.Decoder(tuple[int, list[Raw], dict[str, Raw]])
_ERRORS: Final = msgspec.json.Decoder(tuple[JobError, ...])

Decode: typing.TypeAlias = Callable[[bytes | Raw], object]


# --- refusals --------------------------------------------------------------------------------------


class _Refused(Exception):
    """A value that cannot be stored. Each level on the way out adds its part of the path."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.parts: list[str] = []

    def at(self, part: str) -> _Refused:
        self.parts.append(part)
        return self

    @property
    def path(self) -> str:
        return "".join(reversed(self.parts)).removeprefix(".")


def _show(value: object) -> str:
    """A short picture of a value. Only of plain types: a foreign ``__repr__`` may be slow, huge or secret."""
    if type(value) is int and value.bit_length() > 128:
        return "a huge int"
    if type(value) in SCALARS or isinstance(value, (date, time, timedelta, Decimal, UUID)):
        text = repr(value) if not isinstance(value, str) else repr(value[:40])
        return f"{text[:80]} ({type(value).__qualname__})"
    return f"a {type(value).__qualname__}"


def _fields(value: object) -> list[tuple[str, object]] | None:
    """Names and values of what a record consists of, or None for something that is no record."""
    if isinstance(value, Struct):
        return [(name, getattr(value, name)) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    if _is_model(value):
        return [*vars(value).items(), *(value.model_extra or {}).items()]
    return None


class _Guard:
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
            raise _TooLarge
        if kind is bool or value is None or value is UNSET:
            return
        match value:
            case int():
                if not INT_MIN <= value <= INT_MAX:
                    raise _Refused("is an integer beyond 64 bits; pass it as text")
            case float():
                if value - value != 0.0:
                    raise _Refused(f"is {float(value)!r}, which JSON does not have; pass None or text")
            case str():
                if not value.isascii() and SURROGATE.search(value):
                    raise _Refused("has a lone surrogate, which is no valid text; clean it with errors='replace'")
            case bytes() | bytearray() | memoryview():
                raise _Refused("is bytes; store them elsewhere and pass a reference, or encode them as base64 text")
            case datetime():
                if value.utcoffset() is None:
                    raise _Refused("is a naive datetime; give it a time zone, such as datetime.now(UTC)")
            case Decimal():
                if not value.is_finite():
                    raise _Refused(f"is Decimal {value}; pass None or text")
            case time():
                if value.tzinfo is not None and value.utcoffset() is None:
                    raise _Refused("is a time in a zone whose offset depends on the date; pass a datetime")
            case Enum() | date() | timedelta() | UUID():
                return
            case _:
                if depth >= MAX_DEPTH:
                    raise _Refused(f"is nested more than {MAX_DEPTH} deep (or contains itself); flatten it")
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
                    part = _key(key)
                    self.check(key, depth)
                    self.check(item, depth)
            elif (fields := _fields(value)) is not None:
                for name, item in fields:
                    part = f".{name}"
                    self.check(item, depth)
            else:
                raise _Refused(f"is a {type(value).__qualname__}, which cannot be stored; pass an id or plain data")
        except _Refused as refused:
            raise refused.at(part) if part else refused  # noqa: B904  it is the same error on its way out


class _TooLarge(Exception):
    pass


def _key(key: object) -> str:
    return f"[{key[:40]!r}]" if isinstance(key, str) else f"[{_show(key)}]"


def _compare(before: object, after: object) -> None:
    """Raise _Refused where two values differ in type or structure. ``==`` will not do: True == 1 == 1.0."""
    kind = type(before)
    if type(after) is not kind:
        raise _Refused(f"is {_show(before)} and would come back as {_show(after)}; annotate it or pass the plain value")
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
                _compare(left, right)
        elif isinstance(before, (set, frozenset)) and isinstance(after, (set, frozenset)):
            same = before == after
            found = {item: item for item in after}
            part = "{}"
            for item in before:
                _compare(item, found.get(item))
        elif isinstance(before, dict) and isinstance(after, dict):
            same = len(before) == len(after)
            keys = {key: key for key in after}
            for key, item in before.items():
                part = _key(key)
                _compare(key, keys.get(key))
                _compare(item, after[key])
        else:
            fields, others = _fields(before), _fields(after)
            if fields is None or others is None:
                raise _Refused(f"is a {kind.__qualname__}, which cannot be stored; pass an id or plain data")
            same = len(fields) == len(others)
            for (name, left), (_, right) in zip(fields, others, strict=False):
                part = f".{name}"
                _compare(left, right)
    except _Refused as refused:
        raise refused.at(part) if part else refused  # noqa: B904  it is the same error on its way out
    if not same:
        raise _Refused(f"is {_show(before)} and would come back as {_show(after)}")


def _check_depth(raw: bytes) -> None:
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


# --- arguments -------------------------------------------------------------------------------------


class Signature:
    """The payload codec of one function: binds, encodes and decodes its arguments by its annotations.

    ``skip_first`` leaves out an injected context. Annotations that do not resolve yet count as untyped and are tried
    again at each use until they do. *Thread-safe.*
    """

    _OPEN: ClassVar[frozenset[inspect._ParameterKind]] = frozenset(
        {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    )

    def __init__(self, fn: Callable[..., object], *, skip_first: bool, job_name: str, payload_max: int) -> None:
        self._fn = fn
        self._job = job_name
        self._max = payload_max
        parameters = list(_signature(fn).parameters.values())[1 if skip_first else 0 :]
        self._signature = inspect.Signature(parameters)
        self._text = f"{job_name}({', '.join(map(str, parameters))})"
        self._names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self._star = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")
        self._double_star = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), "")
        by_name = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        needed = [p.name for p in parameters if p.default is p.empty and p.kind not in self._OPEN]
        positional_only = {p.name for p in parameters if p.kind is p.POSITIONAL_ONLY}
        # For n positional arguments: the keywords that must come, and those that may.
        self._shapes = [
            (
                frozenset(needed) - set(self._names[:n]),
                frozenset([*self._names[n:], *(p.name for p in by_name)]) - positional_only,
            )
            for n in range(len(self._names) + 1)
        ]
        self._complete = frozenset(n for n, (must, _) in enumerate(self._shapes) if not must)
        self._parameters = parameters
        self._problem: str | None = None
        self._pending = True
        self._resolve()

    # -- annotations --

    def _resolve(self) -> None:
        # An injected context is none of ours: its annotation may stay unresolved for ever.
        wanted = {"return", *(parameter.name for parameter in self._parameters)}
        hints, problem = _hints(self._fn, wanted)
        pending = problem is not None
        plain: Decode = _PLAIN.decode
        exact: dict[str, frozenset[type]] = {}
        decoders: dict[str, Decode] = {}
        for parameter in self._parameters:
            name = parameter.name
            hint = hints.get(name, parameter.empty)
            decoders[name] = plain
            exact[name] = _exact_types(hint)
            if hint in UNTYPED:
                continue
            try:
                decoders[name] = msgspec.json.Decoder(hint, dec_hook=_dec_hook).decode
            except TypeError as error:  # not a type that JSON can be turned into; that will not change
                problem, exact[name] = f"parameter {name!r}: {error}", SCALARS
            except Exception as error:  # noqa: BLE001  a name inside the type; foreign code, so anything may come
                problem, exact[name], pending = f"parameter {name!r}: {error!r}", SCALARS, True
        self._result = plain
        try:
            if (hint := hints.get("return", object)) not in UNTYPED:
                self._result = msgspec.json.Decoder(hint, dec_hook=_dec_hook).decode
        except Exception:  # noqa: BLE001  results of such a type are given plain
            pass
        self._decoders = decoders
        self._exact = exact
        self._by_position = [decoders[name] for name in self._names]
        self._exact_by_position = [exact[name] for name in self._names]
        self._problem = problem
        self._pending = pending

    def unresolved(self) -> str | None:
        """Say which annotation cannot be used and why, or give None. Tries to resolve it first."""
        if self._pending:
            self._resolve()
        return f"{self._text}: {self._problem}" if self._problem else None

    # -- encode --

    def encode(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """Give the payload of a call. Raises PayloadError with the path of the value that would not survive.

        A call that does not fit the signature is refused too, with the signature.
        """
        if self._pending:
            self._resolve()
        if self._is_plain(args, kwargs):
            try:
                data = _encode((VERSION, args, kwargs))
            except UnicodeEncodeError:
                pass  # the checked way finds where
            else:
                if len(data) <= self._max:
                    return data.decode()
        return self._encode_checked(args, kwargs)

    def _is_plain(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> bool:
        """Whether the call fits and has only scalars that are known to survive. This is the hot path: no binding."""
        if kwargs:
            if len(args) >= len(self._shapes):
                return False
            must, may = self._shapes[len(args)]
            if not must <= kwargs.keys() <= may:
                return False
            for name, value in kwargs.items():
                if not _survives(value, self._exact[name], self._max):
                    return False
        elif len(args) not in self._complete:
            return False
        for value, kinds in zip(args, self._exact_by_position, strict=False):
            if not _survives(value, kinds, self._max):
                return False
        return True

    def _encode_checked(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        self._bind(args, kwargs)
        guard = _Guard(self._max)
        named = [*((self._position_name(n), value) for n, value in enumerate(args)), *kwargs.items()]
        name = ""
        try:
            for name, value in named:  # noqa: B007  a refusal tells the name
                guard.check(value)
            data = _encode((VERSION, args, kwargs))
            if len(data) > self._max:
                raise self._too_large(f"{len(data):,}")
            back, back_by_name = self._decode(data)
            after = [*back, *back_by_name.values()]
            for (name, value), restored in zip(named, after, strict=True):  # noqa: B007
                _compare(value, restored)
        except _Refused as refused:
            raise PayloadError(f"{self._job}: {refused.at(name).path} {refused.reason}") from None
        except _TooLarge:
            raise self._too_large(f"more than {self._max:,}") from None
        except PayloadError:
            raise
        except Exception as error:  # foreign types are at work: their failures are about this value, not about us
            raise PayloadError(
                f"{self._job}: the arguments cannot be encoded: {error}; signature: {self._text}"
            ) from error
        return data.decode()

    def _position_name(self, n: int) -> str:
        return self._names[n] if n < len(self._names) else f"{self._star}[{n - len(self._names)}]"

    def _too_large(self, size: str) -> PayloadError:
        return PayloadError(
            f"{self._job}: the arguments take {size} bytes as JSON, payload_max is {self._max:,}; "
            "store the data elsewhere and pass a reference (a path, a key, an id)"
        )

    def _bind(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        if len(args) < len(self._shapes):
            must, may = self._shapes[len(args)]
            if must <= kwargs.keys() <= may:
                return
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise PayloadError(f"{self._job}: {error}; signature: {self._text}") from None

    # -- decode --

    def decode(self, payload: bytes) -> tuple[list[object], dict[str, object]]:
        """Give positional and keyword arguments, typed. Raises PayloadError, and nothing else, for any bytes.

        Whether they fit the signature is left to the call: during a rolling deploy that is a failure to retry, not a
        payload that nobody can read.
        """
        if self._pending:
            self._resolve()
        return self._decode(payload)

    def _decode(self, payload: bytes) -> tuple[list[object], dict[str, object]]:
        args: list[object] = []
        kwargs: dict[str, object] = {}
        where = "the payload"
        try:
            _check_depth(payload)
            version, raws, raws_by_name = _ENVELOPE.decode(payload)
            if version != VERSION:
                raise ValueError(f"envelope version {version}, but this process reads {VERSION}; upgrade it")
            decoders = self._by_position
            if len(raws) > len(decoders):
                decoders = decoders + [self._decoders.get(self._star, _PLAIN.decode)] * (len(raws) - len(decoders))
            where = ""
            for decode, raw in zip(decoders, raws, strict=False):
                args.append(decode(raw))
            for name, raw in raws_by_name.items():
                where = f"argument {name!r}"
                decode = self._decoders.get(name) or self._decoders.get(self._double_star, _PLAIN.decode)
                kwargs[name] = decode(raw)
        except Exception as error:  # foreign types are at work, and this must raise one thing only
            where = where or f"argument {self._position_name(len(args))!r}"
            raise PayloadError(f"{self._job}: {where} cannot be decoded: {error}; signature: {self._text}") from error
        return args, kwargs

    def decode_result(self, raw: bytes) -> object:
        """Give a result typed by the return annotation, or plain where that does not fit. Raises PayloadError."""
        if self._pending:
            self._resolve()
        try:
            _check_depth(raw)
            return self._result(raw)
        except Exception:  # noqa: BLE001  a function may return what it does not announce
            return decode_plain(raw)


def _survives(value: object, kinds: frozenset[type], limit: int) -> bool:
    """Whether a scalar is of one of these exact types and in the range that JSON keeps."""
    kind = type(value)
    if kind not in kinds:
        return False
    if kind is int:
        return INT_MIN <= value <= INT_MAX  # type: ignore[operator]
    if kind is str:
        return len(value) <= limit  # type: ignore[arg-type]
    return kind is not float or value - value == 0.0  # type: ignore[operator]


def _exact_types(hint: object) -> frozenset[type]:
    """The scalar types that come back as they were under this annotation; none where only a round trip can tell."""
    if hint in UNTYPED:
        return SCALARS
    if hint is None:
        return frozenset({type(None)})
    if isinstance(hint, type) and hint in SCALARS:
        return frozenset({hint})
    if get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_exact_types(part) for part in get_args(hint)]
        return frozenset().union(*parts) if all(parts) else frozenset()
    return frozenset()


def _hints(fn: Callable[..., object], wanted: set[str]) -> tuple[dict[str, object], str | None]:
    """Annotations that resolve, one by one so that a bad one costs only itself, and what is wrong with the first."""
    target = inspect.unwrap(fn)
    scope = getattr(target, "__globals__", {})
    hints: dict[str, object] = {}
    problem: str | None = None
    for name, annotation in _annotations(target).items():
        if name not in wanted:
            continue
        holder = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints[name] = typing.get_type_hints(holder, scope, include_extras=True)[name]
        except Exception as error:  # noqa: BLE001  evaluating an annotation runs foreign code
            problem = problem or f"the annotation of {name!r} does not resolve: {error}"
    return hints, problem


def _signature(fn: Callable[..., object]) -> inspect.Signature:
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
    return inspect.signature(fn)


def _annotations(fn: Callable[..., object]) -> dict[str, object]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(fn, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(fn)


# --- results and plain JSON ------------------------------------------------------------------------


def encode_result(value: object, limit: int) -> str:
    """Give a result as JSON text. Tuples and sets become lists. Raises PayloadError for what JSON would bend."""
    if value is None:
        return "null"
    try:
        _Guard(limit).check(value)
        data = _encode(value)
        if len(data) > limit:
            raise _too_large_result(f"{len(data):,}", limit)
    except _Refused as refused:
        raise PayloadError(f"{refused.at('result').path} {refused.reason}") from None
    except _TooLarge:
        raise _too_large_result(f"more than {limit:,}", limit) from None
    except PayloadError:
        raise
    except Exception as error:
        raise PayloadError(f"the result cannot be encoded: {error}; return plain data") from error
    return data.decode()


def _too_large_result(size: str, limit: int) -> PayloadError:
    return PayloadError(
        f"the result takes {size} bytes as JSON, result_max is {limit:,}; store it elsewhere and return a reference"
    )


def decode_plain(raw: bytes) -> object:
    """Give JSON as plain values. Raises PayloadError, and nothing else, for any bytes."""
    _check_depth(raw)
    try:
        return _PLAIN.decode(raw)
    except Exception as error:
        raise PayloadError(f"not valid JSON: {error}") from error


# --- errors of attempts ----------------------------------------------------------------------------


class Origin(Struct, frozen=True):
    """Where an attempt ran: the machine, the worker incarnation, and which version of the code."""

    host: str = ""
    worker: str = ""
    version: str = ""


NOWHERE: Final = Origin()


def encode_error(exc: BaseException, *, attempt: int, at: int, limit: int, origin: Origin = NOWHERE) -> str:
    """Give a JobError as JSON text of at most ``limit`` bytes (at least 512). *Never fails.*

    The type is the dotted name (builtins without a module), the traceback has its chain and no local variables. What
    is too long loses its middle; NULs and lone surrogates, which stores refuse, become U+FFFD.
    """
    kind = type(exc)
    name = _safely(lambda: type_name(kind), "Exception", limit)
    message = _safely(lambda: str(exc), "<the message cannot be shown: its __str__ fails>", limit)
    trace = _safely(
        lambda: "".join(traceback.format_exception(exc)), "<the traceback cannot be shown: formatting fails>", limit
    )
    room = limit
    while True:
        short = _cut(message, max(room // 4, room - len(trace)))
        error = JobError(
            _cut(name, 160),
            short,
            _cut(trace, max(room - len(short), 0)),
            at,
            attempt,
            origin.host,
            origin.worker,
            origin.version,
        )
        data = _encode(error)
        if len(data) <= limit or room == 0:
            return data.decode()
        room = room * 9 // 10


def clean_reason(text: str | None) -> str | None:
    """Make a reason that came from a job fit for every store: at most 1,000 characters, none that a store refuses."""
    return None if text is None else UNPRINTED.sub("\ufffd", _cut(text, REASON_MAX))


def _safely(make: Callable[[], str], otherwise: str, limit: int) -> str:
    try:
        return UNPRINTED.sub("\ufffd", _cut(make(), limit))
    except BaseException:  # noqa: BLE001  a foreign __str__ may raise anything, SystemExit included
        return otherwise


def _cut(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    mark = f"\n... {len(text) - room} characters left out ...\n"
    half = max(room - len(mark), 0) // 2
    return text[:half] + mark + text[len(text) - half :] if half else text[:room]


def decode_errors(raw: bytes | None) -> tuple[JobError, ...]:
    """Give the error history of a job, oldest first. Raises PayloadError."""
    if raw is None:
        return ()
    _check_depth(raw)
    try:
        return _ERRORS.decode(raw)
    except Exception as error:
        raise PayloadError(f"the error history cannot be decoded: {error}") from error


# --- per-job facts ---------------------------------------------------------------------------------


class Meta(Struct, frozen=True, omit_defaults=True):
    """Facts of one job that engines keep and do not read. ``backoff`` is JSON text, made and read by ``retry``.

    ``within_ms`` goes with ``backoff``: a call that brought its own policy brought both. ``capped`` says that the call
    itself named the attempts, so no rule goes beyond them.
    """

    timeout_ms: int | None = None
    keep_ms: int | None = None
    redact: tuple[str, ...] = ()
    backoff: str | None = None
    version: str | None = None
    within_ms: int | None = None
    capped: bool = False


_META: Final = msgspec.json.Decoder(Meta)
_NO_META: Final = Meta()


def encode_meta(meta: Meta) -> str | None:
    """Give the facts as JSON text, or None when all are defaults, which costs the store nothing."""
    return None if meta == _NO_META else _encode(meta).decode()


def decode_meta(raw: bytes | None) -> Meta:
    """Give the facts back; fields of a newer version are ignored. Raises PayloadError."""
    if raw is None:
        return _NO_META
    _check_depth(raw)
    try:
        return _META.decode(raw)
    except Exception as error:
        raise PayloadError(f"the facts of a job cannot be decoded: {error}") from error
