"""Guard keys: from a template over a job's arguments, or a callable, to one text per call.

A template names arguments and nothing else, so it cannot reach into objects or run code. Must not know engines.
Invariants: what is wrong with a template is an error where it is written; a rendered key is printable, at most
``caps.KEY`` characters, and the same for the same arguments whether they came by position, by name or by default. Two
different calls never render to one key: in a value the marks are escaped that stand between the arguments, and text
that reads like another value (``None``, ``42``, ``[1]``) stands in quotes.
"""

from __future__ import annotations

import inspect
import itertools
import re
import string
from collections.abc import Callable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Final
from uuid import UUID

import msgspec

from windlass.core import caps
from windlass.core.codec import Signature
from windlass.core.errors import ConfigError, PayloadError
from windlass.core.foreign import kind_name, said
from windlass.core.units import nearest

__all__ = ["KeyTemplate", "check_key", "fit"]

KEPT: Final = 120  # characters of a key that is too long that stay readable, before its hash
HASH: Final = 32  # hex digits: 128 bits
MARKS: Final = frozenset(":%{}")
QUOTE: Final = frozenset('"')
# Text that another value renders to: None, a bool, a number, a list or a dict.
ALIKE: Final = re.compile(r"None|True|False|[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|[\[{].*", re.DOTALL)

_encode: Final = msgspec.json.Encoder(order="sorted").encode


class KeyTemplate:
    """One key of one job, checked against its parameters."""

    def __init__(self, key: object, what: str, signature: Signature, redact: tuple[str, ...]) -> None:
        """``what`` names job and option for errors. Raises ConfigError for a key that cannot be rendered."""
        self.what = what
        self._arguments = signature.arguments
        self._redact = frozenset(redact)
        self._call: Callable[..., object] | None = None
        self._parts: list[tuple[str, str | None]] = []
        self._constant: str | None = None
        if isinstance(key, str):
            self._parts = _parse(key, signature.names, what)
            self._marks = _marks(key, self._parts, what)
            if all(field is None for _, field in self._parts):
                self._constant = fit("".join(text for text, _ in self._parts))
        elif callable(key) and not isinstance(key, type) and not inspect.iscoroutinefunction(key):
            self._call = key
        else:
            raise ConfigError(
                f"{what}: key is {key!r}; give a template such as 'payment:{{payment_id}}', or a function of the "
                "job's arguments"
            )

    def render(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        """Give the key of one call. Raises PayloadError when a callable fails or gives no text."""
        if self._constant is not None:
            return self._constant
        if self._call is not None:
            return self._from_call(args, kwargs)
        values = self._arguments(args, kwargs)
        return fit(
            "".join(text + ("" if field is None else self._value(field, values[field])) for text, field in self._parts)
        )

    def uses(self, name: str) -> bool:
        """Whether the key may depend on this argument; of a function nobody can tell that it does not."""
        return self._call is not None or any(field == name for _, field in self._parts)

    def _value(self, name: str, value: object) -> str:
        text = _text(value)
        is_text = isinstance(value, str)
        quote = '"' if is_text and ALIKE.fullmatch(text) else ""
        shown = f"{quote}{_escape(text, self._marks | QUOTE if is_text else self._marks)}{quote}"
        return _digest(shown) if name in self._redact else shown

    def _from_call(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> str:
        assert self._call is not None
        try:
            text = self._call(*args, **kwargs)
        except Exception as error:
            words = "" if self._redact else f": {said(error)}"  # it may have a hidden argument in it
            raise PayloadError(f"{self.what}: the key function failed: {kind_name(error)}{words}") from error
        if not isinstance(text, str) or not text:
            raise PayloadError(f"{self.what}: the key function gave {text!r}; it must give text")
        if self._redact:  # it may have used a hidden argument
            return _digest(text)
        return fit(text)


def check_key(key: object, what: str) -> str:
    """Give back a key that a caller wrote out, made to fit. Raises ConfigError."""
    if isinstance(key, str) and key:
        return fit(key)
    raise ConfigError(f"{what}: the key is {key!r}; give text")


def fit(key: str) -> str:
    """Give a key as it is, or shortened with a hash of the whole where it is too long or not printable."""
    if len(key) <= caps.KEY and key.isprintable():
        return key
    digest = _digest(key)
    shown = "".join(mark for mark in key[:KEPT] if mark.isprintable())
    return f"{shown}#{digest}"


def _parse(template: str, names: list[str], what: str) -> list[tuple[str, str | None]]:
    if not template:
        raise ConfigError(f"{what}: the key is empty; write a template such as 'payment:{{payment_id}}'")
    try:
        found = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"{what}: the key {template!r} is not a template: {error}; write {{{{ for a brace") from None
    parts: list[tuple[str, str | None]] = []
    for text, field, spec, conversion in found:
        if field is not None:
            if spec or conversion or not field.isidentifier():
                raise ConfigError(
                    f"{what}: the key {template!r} has {{{field}}}, which is not a plain argument name; attributes, "
                    "items, formats and calls are not possible there. Give a function of the arguments instead"
                )
            if field not in names:
                raise ConfigError(
                    f"{what}: the key {template!r} names {field!r}, which is not an argument of the job"
                    f"{nearest(field, names)}; its arguments are {', '.join(names) or 'none'}"
                )
        parts.append((text, field))
    return parts


def _text(value: object) -> str:
    match value:
        case str():
            return value
        case Enum():
            return _text(value.value)
        case None | bool() | int() | float() | Decimal() | UUID() | date() | time() | timedelta():
            return str(value)
    try:
        return _encode(value).decode()
    except (TypeError, ValueError):
        return repr(value)


def _marks(template: str, parts: list[tuple[str, str | None]], what: str) -> frozenset[str]:
    """What is escaped in values: what stands between the arguments of a template, so that they can be told apart."""
    marks = set(MARKS)
    fields = [index for index, (_, field) in enumerate(parts) if field is not None]
    for before, index in itertools.pairwise(fields):
        between = {mark for mark in "".join(text for text, _ in parts[before + 1 : index + 1]) if not mark.isalnum()}
        if not between - {"%", *QUOTE}:
            raise ConfigError(
                f"{what}: the key {template!r} does not part {{{parts[before][1]}}} from {{{parts[index][1]}}}, so "
                "different arguments would have one key; put a mark such as ':' between them"
            )
        marks |= between - QUOTE
    return frozenset(marks)


def _escape(text: str, marks: frozenset[str]) -> str:
    """Hide the marks, and what is not printable."""
    if text.isalnum():
        return text
    return "".join(
        mark
        if mark.isprintable() and mark not in marks
        else "".join(f"%{byte:02X}" for byte in mark.encode("utf-8", "surrogatepass"))
        for mark in text
    )


def _digest(text: str) -> str:
    from hashlib import sha256  # late: it loads OpenSSL, and most keys are shown as they are

    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:HASH]
