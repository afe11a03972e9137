"""What crosses the store: arguments and results, as JSON text.

A payload is ``[1,[positional...],{keyword...}]``; the 1 is the version of the envelope. It is typed from annotations:
what an annotation can restore may be passed. Defaults are not stored; the run fills them in.

Must not import anything from a stored name, unpickle, or touch a store. Invariants:

1. Nothing is stored that would come back different: every encode is checked by decoding it again, except for scalars
   whose exact type is known to survive. An int for a float becomes that float before it is stored, so that 10 and 10.0
   are one call: one payload, one guard key.
2. For any bytes at all, decoding gives values or PayloadError, in time linear in their length. Depth is measured before
   a parser that recurses sees them.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import ClassVar, Final, get_args, get_origin

import msgspec
from msgspec import Raw

from windlass.core.errors import PayloadError
from windlass.core.foreign import is_ctrl_c, kind_name, said
from windlass.core.hints import Decode, decoder_of
from windlass.core.hints import encode as _encode
from windlass.core.units import nearest
from windlass.core.values import (
    INT_MAX,
    INT_MIN,
    SCALARS,
    Refused,
    TooLarge,
    ValueCheck,
    check_depth,
    compare,
)

__all__ = ["PREVIOUS", "Signature", "decode_plain", "encode_result", "fill"]

VERSION: Final = 1
PREVIOUS: Final = "previous"  # the parameter that takes the result of the step before

UNTYPED: Final[tuple[object, ...]] = (inspect.Parameter.empty, typing.Any, object)

_PLAIN: Final = msgspec.json.Decoder()
_ENVELOPE: Final = msgspec.json.Decoder(tuple[int, list[Raw], dict[str, Raw]])


# --- arguments -------------------------------------------------------------------------------------


class Signature:
    """The payload codec of one function: binds, encodes and decodes its arguments by its annotations.

    ``skip_first`` leaves out an injected context. Annotations that do not resolve yet count as untyped and are tried
    again at each use until they do. *Thread-safe.*
    """

    _OPEN: ClassVar[frozenset[inspect._ParameterKind]] = frozenset(
        {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    )

    def __init__(
        self,
        fn: Callable[..., object],
        *,
        skip_first: bool,
        job_name: str,
        payload_max: int,
        redact: tuple[str, ...] = (),
    ) -> None:
        self._fn = fn
        self._redact = frozenset(redact)
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
        self._result_problem: str | None = None
        self._pending = True
        self._defaults: dict[str, object] | None = None
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
        unusable: dict[str, str] = {}
        for parameter in self._parameters:
            name = parameter.name
            hint = hints.get(name, parameter.empty)
            decoders[name] = plain
            exact[name] = _exact_types(hint)
            if hint in UNTYPED:
                continue
            try:
                decoders[name] = decoder_of(hint)
            except TypeError as error:  # not a type that JSON can be turned into; that will not change
                problem, exact[name] = f"parameter {name!r}: {error}", SCALARS
                unusable[name] = " ".join(str(error).split())
            except Exception as error:  # noqa: BLE001  a name inside the type; foreign code, so anything may come
                problem, exact[name], pending = f"parameter {name!r}: {error!r}", SCALARS, True
        self._result, self._result_problem = plain, None
        if (hint := hints.get("return", inspect.Parameter.empty)) not in UNTYPED:
            try:
                self._result = decoder_of(hint)
            except Exception as error:  # noqa: BLE001  see above
                self._result_problem = " ".join(said(error).split())
                problem, pending = problem or f"the result: {error}", pending or not isinstance(error, TypeError)
        self._decoders = decoders
        self._exact = exact
        self._unusable = unusable
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
        self._bind(args, kwargs)
        return self._encode_checked(args, kwargs)

    def place_of_previous(self, given: int) -> int | str | None:
        """Where a call with ``given`` positional arguments takes the result of the step before it.

        That is the parameter ``previous``, else the first one: a position or a name; None when there is no parameter.
        """
        found = self._signature.parameters.get(PREVIOUS)
        if found is None or found.kind is found.VAR_KEYWORD:
            found = next(iter(self._parameters), None)
        match None if found is None else found.kind:
            case None | inspect.Parameter.VAR_KEYWORD:
                return None
            case inspect.Parameter.VAR_POSITIONAL:
                return 0
        assert found is not None
        index = self._names.index(found.name) if found.name in self._names else None
        return index if index is not None and given >= index else found.name

    def encode_open(self, args: tuple[object, ...], kwargs: Mapping[str, object], holes: Collection[int | str]) -> str:
        """Give the payload of a call some of whose arguments are filled in at run time; see ``fill``.

        What stands at these positions is null in it, and these names are left out. Raises PayloadError, as ``encode``.
        """
        if self._pending:
            self._resolve()
        args = tuple(None if at in holes else value for at, value in enumerate(args))
        self._bind(args, {**kwargs, **{at: None for at in holes if isinstance(at, str)}})
        given = {name: value for name, value in kwargs.items() if name not in holes}
        return self._encode_checked(args, given, holes)

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

    def _encode_checked(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], holes: Collection[int | str] = ()
    ) -> str:
        guard = ValueCheck(self._max)
        named = [*((self._position_name(n), value) for n, value in enumerate(args)), *kwargs.items()]
        name = ""
        try:
            for name, value in named:  # noqa: B007  a refusal tells the name
                guard.check(value)
            data = _encode((VERSION, args, kwargs))
            back, back_by_name = self._decode(data, holes)
            after = [*back, *back_by_name.values()]
            for (name, value), restored in zip(named, after, strict=True):  # noqa: B007
                compare(value, restored)
            data = _encode((VERSION, back, back_by_name))
            if len(data) > self._max:
                raise self._too_large(f"{len(data):,}")
        except Refused as refused:
            if self._is_hidden(name):
                raise self._not_shown(name) from None
            advice = refused.advice
            if advice and (problem := self._unusable.get(name.partition("[")[0])):
                advice = f"; the annotation cannot restore it: {problem}"
            raise PayloadError(f"{self._job}: {refused.at(name).path} {refused.reason}{advice}") from None
        except TooLarge:
            raise self._too_large(f"more than {self._max:,}") from None
        except PayloadError:
            raise
        except Exception as error:  # noqa: BLE001  foreign types are at work: their failures are about this value
            hidden = bool(self._redact)  # it may tell any of them
            what = f"{kind_name(error)}, not shown since it may hold a redacted one" if hidden else said(error)
            raise PayloadError(f"{self._job}: the arguments cannot be encoded: {what}; signature: {self._text}") from (
                None if hidden else error
            )
        return data.decode()

    def _position_name(self, n: int) -> str:
        return self._names[n] if n < len(self._names) else f"{self._star}[{n - len(self._names)}]"

    def _is_hidden(self, name: str) -> bool:
        name = name.partition("[")[0]
        return name in self._redact or (name not in self._decoders and self._double_star in self._redact)

    def _not_shown(self, name: str) -> PayloadError:
        return PayloadError(
            f"{self._job}: argument {name!r} is redacted, so its value is not shown; it would not come back as it is: "
            f"annotate it with its type, or pass plain data; signature: {self._text}"
        )

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
            names = self._signature.parameters
            strange = next((key for key in kwargs if key not in names), None)
            what = (
                str(error)
                if strange is None or self._double_star
                else f"there is no argument {strange!r}{nearest(strange, names)}"
            )
            raise PayloadError(f"{self._job}: {what}; signature: {self._text}") from None

    def as_run(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], payload: str
    ) -> tuple[tuple[object, ...], Mapping[str, object]]:
        """Give the arguments as the function will get them; ``payload`` is what ``encode`` made of them."""
        if self._is_plain(args, kwargs):
            return args, kwargs
        back, back_by_name = self._decode(payload.encode())
        return tuple(back), back_by_name

    def as_open(self, payload: str, holes: Collection[int | str]) -> tuple[tuple[object, ...], Mapping[str, object]]:
        """Give the arguments as the function will get them, None in the place of open ones; see ``encode_open``."""
        back, back_by_name = self._decode(payload.encode(), holes)
        return tuple(back), {**back_by_name, **{at: None for at in holes if isinstance(at, str)}}

    def name_at(self, at: int | str) -> str:
        """The name of the parameter that takes the argument at a position, or of this name."""
        return at if isinstance(at, str) else self._names[at] if at < len(self._names) else self._star

    @property
    def names(self) -> list[str]:
        """The names of the parameters."""
        return list(self._signature.parameters)

    def arguments(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, object]:
        """Give all arguments of a call by name. Those left out are what they would be had their default been passed."""
        if self._defaults is None or self._pending:
            self._defaults = {parameter.name: self._default(parameter) for parameter in self._parameters}
        return {**self._defaults, **self._signature.bind(*args, **kwargs).arguments}

    def _default(self, parameter: inspect.Parameter) -> object:
        match parameter.kind:
            case parameter.VAR_POSITIONAL:
                return ()
            case parameter.VAR_KEYWORD:
                return {}
        try:
            restored = self._decoders[parameter.name](_encode(parameter.default))
            compare(parameter.default, restored)
        except Exception:  # noqa: BLE001  one that could not be passed, or none at all; foreign types are at work
            return parameter.default
        return restored

    # -- decode --

    def decode(self, payload: bytes) -> tuple[list[object], dict[str, object]]:
        """Give positional and keyword arguments, typed. Raises PayloadError, and nothing else, for any bytes.

        The bytes are not to blame for a MemoryError, which goes through.
        Whether they fit the signature is left to the call: during a rolling deploy that is a failure to retry, not a
        payload that nobody can read.
        """
        if self._pending:
            self._resolve()
        return self._decode(payload)

    def _decode(self, payload: bytes, holes: Collection[int | str] = ()) -> tuple[list[object], dict[str, object]]:
        args: list[object] = []
        kwargs: dict[str, object] = {}
        where, name = "the payload", ""
        try:
            check_depth(payload)
            version, raws, raws_by_name = _ENVELOPE.decode(payload)
            if version != VERSION:
                raise ValueError(f"envelope version {version}, but this process reads {VERSION}; upgrade it")
            decoders = self._by_position
            if len(raws) > len(decoders):
                decoders = decoders + [self._decoders.get(self._star, _PLAIN.decode)] * (len(raws) - len(decoders))
            if holes:  # what will stand there is not known yet
                decoders = [_PLAIN.decode if at in holes else decode for at, decode in enumerate(decoders)]
            where = ""
            for decode, raw in zip(decoders, raws, strict=False):
                args.append(decode(raw))
            for name, raw in raws_by_name.items():
                where = f"argument {name!r}"
                decode = self._decoders.get(name) or self._decoders.get(self._double_star, _PLAIN.decode)
                kwargs[name] = decode(raw)
        except BaseException as error:  # foreign types are at work, and this must raise one thing only
            if isinstance(error, MemoryError) or is_ctrl_c(error):
                raise
            if not where:
                name = self._position_name(len(args))
                where = f"argument {name!r}"
            if self._is_hidden(name):
                raise self._not_shown(name) from None
            raise PayloadError(
                f"{self._job}: {where} cannot be decoded: {said(error)}; signature: {self._text}"
            ) from error
        return args, kwargs

    def decode_result(self, raw: bytes) -> object:
        """Give a result typed by the return annotation. Raises PayloadError where it does not fit."""
        if self._pending:
            self._resolve()
        check_depth(raw)
        if self._result_problem is not None and raw != b"null":
            raise self._changed_result(self._result_problem)
        try:
            return self._result(raw)
        except Exception as error:  # foreign types are at work
            raise self._changed_result(said(error)) from error

    def _changed_result(self, why: str) -> PayloadError:
        return PayloadError(
            f"{self._job}: the result does not come back as it is annotated: {why}; annotate what the job returns; "
            "info().result has it as plain data"
        )


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


def fill(payload: bytes, values: Iterable[tuple[int | str, bytes]]) -> bytes:
    """Put JSON values into the places of a payload that were left open.

    Whether a value is of the type that is annotated there shows when the payload is decoded. Raises PayloadError when
    there is no such place.
    """
    try:
        check_depth(payload)
        version, args, kwargs = _ENVELOPE.decode(payload)
        for at, value in values:
            if isinstance(at, str):
                kwargs[at] = Raw(value)
            else:
                args[at] = Raw(value)
    except Exception as error:
        raise PayloadError(f"what comes from another job has no place in the arguments: {said(error)}") from error
    return _encode((version, args, kwargs))


# --- results and plain JSON ------------------------------------------------------------------------


def encode_result(value: object, limit: int) -> str:
    """Give a result as JSON text. Tuples and sets become lists. Raises PayloadError for what JSON would bend."""
    if value is None:
        return "null"
    try:
        ValueCheck(limit).check(value)
        data = _encode(value)
        if len(data) > limit:
            raise _too_large_result(f"{len(data):,}", limit)
    except Refused as refused:
        raise PayloadError(f"{refused.at('result').path} {refused.reason}") from None
    except TooLarge:
        raise _too_large_result(f"more than {limit:,}", limit) from None
    except PayloadError:
        raise
    except BaseException as error:  # foreign types are at work: their failures are about this value, not about us
        if is_ctrl_c(error):
            raise
        words = said(error) or kind_name(error)
        raise PayloadError(f"the result cannot be encoded: {words}; return plain data") from error
    return data.decode()


def _too_large_result(size: str, limit: int) -> PayloadError:
    return PayloadError(
        f"the result takes {size} bytes as JSON, result_max is {limit:,}; store it elsewhere and return a reference"
    )


def decode_plain(raw: bytes) -> object:
    """Give JSON as plain values. Raises PayloadError, and nothing else, for any bytes."""
    check_depth(raw)
    try:
        return _PLAIN.decode(raw)
    except Exception as error:
        raise PayloadError(f"not valid JSON: {error}") from error
