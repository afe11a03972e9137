"""Which arguments of a job nobody may see, and how they are kept out of what people read.

Whoever shows or writes something that a job's code could have put an argument into (arguments, results, progress,
errors, reasons, log lines) goes through here. Invariants: what is redacted by the stored job or by the code of today is
hidden, in whatever form it stands in a text (``disguises``); of a job whose code is not at hand all positional
arguments are, since nobody can tell which is which.

Not hidden: what a job derives from a redacted value, such as its half, its hash or its base64.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Final, Protocol
from uuid import UUID

from msgspec import Struct

from windlass.core.codec import decode_plain
from windlass.core.disguises import LEAST, cover
from windlass.core.errors import PayloadError
from windlass.core.meta import decode_meta
from windlass.jobs.spec import JobSpec

__all__ = ["MASK", "RESULT", "Stored", "arguments", "hide", "hide_in", "mask", "redacted", "secrets_in"]

MASK: Final = "•••"
RESULT: Final = "return"  # among the names that are redacted: what the job returns, as in its annotations


class Stored(Protocol):
    """What a stored job and a claimed one have in common."""

    @property
    def payload(self) -> bytes: ...

    @property
    def meta(self) -> bytes | None: ...


def arguments(row: Stored) -> tuple[tuple[object, ...] | None, dict[str, object] | None, str | None]:
    """Give positional and named arguments as plain values; or None and what is wrong with the payload."""
    try:
        match decode_plain(row.payload):
            case [int(), list(args), dict(kwargs)]:
                return tuple(args), kwargs, None
        return None, None, "the payload cannot be decoded: it is no [version, args, kwargs]"
    except PayloadError as error:
        return None, None, f"the payload cannot be decoded: {error}"


def redacted(row: Stored, spec: JobSpec | None) -> frozenset[str]:
    """Give the names of the arguments that are hidden."""
    # What the job carries and what the code says today: adding redact= also hides the old ones.
    try:
        stored = decode_meta(row.meta).redact
    except PayloadError:
        stored = ()
    return frozenset(stored) | frozenset(spec.redact if spec else ())


def mask(
    args: tuple[object, ...], kwargs: dict[str, object], redact: frozenset[str], spec: JobSpec | None, payload: bytes
) -> tuple[tuple[object, ...], dict[str, object], tuple[str, ...]]:
    """Hide arguments by name; give also the texts that must not show up elsewhere. ``payload`` is what they came in."""
    names = None if spec is None else _positional_names(spec, len(args))
    hide_position = [names is None or names[i] in redact for i in range(len(args))]
    named = None if spec is None else {p.name for p in inspect.signature(spec.fn).parameters.values()}
    hide_name = {
        name: name in redact or (named is not None and name not in named and bool(_var_keyword(spec) & redact))
        for name in kwargs
    }

    def chosen(args: Sequence[object], kwargs: Mapping[str, object]) -> list[object]:
        hidden = [arg for arg, veiled in zip(args, hide_position, strict=False) if veiled]
        return hidden + [arg for name, arg in kwargs.items() if hide_name[name]]

    typed = _typed(spec, payload) if True in (*hide_position, *hide_name.values()) else None
    leaves = {*_leaves(chosen(args, kwargs), keys=typed is None), *_leaves(typed and chosen(*typed), keys=True)}
    return (
        tuple(MASK if veiled else arg for arg, veiled in zip(args, hide_position, strict=True)),
        {name: MASK if hide_name[name] else arg for name, arg in kwargs.items()},
        # Longest first, or a short one inside a long one would leave the rest of it in sight.
        tuple(sorted((text for text in leaves if len(text) >= LEAST), key=len, reverse=True)),
    )


def secrets_in(row: Stored, spec: JobSpec | None) -> tuple[str, ...]:
    """Give the texts that must not show up in what a job says; none where nothing is redacted or can be read."""
    redact = redacted(row, spec)
    args, kwargs, _ = arguments(row) if redact else (None, None, None)
    return () if args is None or kwargs is None else mask(args, kwargs, redact, spec, row.payload)[2]


def hide(text: str, secrets: tuple[str, ...]) -> str:
    """Put the mask over every secret in a text."""
    return cover(text, secrets, MASK) if secrets else text


def hide_in(value: object, secrets: tuple[str, ...]) -> object:
    """Put the mask over every secret in a plain value, its keys and numbers included."""
    match value:
        case str():
            return hide(value, secrets)
        case dict():
            return {hide(str(key), secrets): hide_in(each, secrets) for key, each in value.items()}
        case list():
            return [hide_in(each, secrets) for each in value]
        case int() | float() if str(value) in secrets:
            return MASK
    return value


def _typed(spec: JobSpec | None, payload: bytes) -> tuple[Sequence[object], Mapping[str, object]] | None:
    """The arguments as the job gets them: a date looks different there. None where they cannot be had."""
    if spec is None:
        return None
    try:
        return spec.signature.decode(payload)
    except PayloadError:
        return None


def _positional_names(spec: JobSpec, count: int) -> list[str]:
    """The parameter that each positional argument belongs to."""
    parameters = list(inspect.signature(spec.fn).parameters.values())[spec.takes_context :]
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), "")
    return names[:count] + [rest] * (count - len(names))


def _var_keyword(spec: JobSpec | None) -> frozenset[str]:
    if spec is None:
        return frozenset()
    return frozenset(p.name for p in inspect.signature(spec.fn).parameters.values() if p.kind is p.VAR_KEYWORD)


def _leaves(value: object, *, keys: bool) -> Iterator[str]:
    """The texts in a value, each in every way that it is usually written; ``keys``: those of dicts are data too."""
    match value:
        case bool() | None:
            pass  # masking every "True" would hide nothing and garble everything
        case str():
            yield value
        case Enum():
            yield from _leaves(value.value, keys=keys)
        case date() | time():
            yield str(value)
            yield value.isoformat()
        case int() | float() | Decimal() | UUID() | timedelta():
            yield str(value)
        case dict():
            for key, each in value.items():
                if keys:
                    yield from _leaves(key, keys=True)
                yield from _leaves(each, keys=keys)
        case list() | tuple() | set() | frozenset():
            for each in value:
                yield from _leaves(each, keys=keys)
        case Struct():
            yield from _leaves([getattr(value, name) for name in value.__struct_fields__], keys=keys)
        case _ if is_dataclass(value):
            yield from _leaves([getattr(value, field.name, None) for field in fields(value)], keys=keys)
        case _ if hasattr(value, "model_fields_set") or hasattr(value, "__attrs_attrs__"):  # of pydantic and attrs
            yield from _leaves(list(vars(value).values()), keys=keys)
