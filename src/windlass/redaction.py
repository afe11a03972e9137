"""Which arguments of a job nobody may see, and how they are kept out of what people read.

Pure. Whoever shows or writes something that a job's code could have put an argument into (arguments, errors, reasons,
log lines) goes through here. Invariants: what is redacted by the stored job or by the code of today is hidden; of a job
whose code is not at hand all positional arguments are, since nobody can tell which is which.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from windlass.codec import decode_meta, decode_plain
from windlass.errors import PayloadError

if TYPE_CHECKING:
    from windlass.definition import JobSpec

__all__ = ["MASK", "Stored", "arguments", "hide", "mask", "redacted", "secrets_in"]

MASK: Final = "•••"
SHORTEST_SECRET: Final = 3  # characters; masking shorter texts in a message would eat the message


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
    args: tuple[object, ...], kwargs: dict[str, object], redact: frozenset[str], spec: JobSpec | None
) -> tuple[tuple[object, ...], dict[str, object], tuple[str, ...]]:
    """Hide arguments by name; give also the texts that must not show up elsewhere."""
    names = None if spec is None else _positional_names(spec, len(args))
    hide_position = [names is None or names[i] in redact for i in range(len(args))]
    named = None if spec is None else {p.name for p in inspect.signature(spec.fn).parameters.values()}
    hide_name = {
        name: name in redact or (named is not None and name not in named and bool(_var_keyword(spec) & redact))
        for name in kwargs
    }
    hidden = [arg for arg, veiled in zip(args, hide_position, strict=True) if veiled]
    hidden += [arg for name, arg in kwargs.items() if hide_name[name]]
    return (
        tuple(MASK if veiled else arg for arg, veiled in zip(args, hide_position, strict=True)),
        {name: MASK if hide_name[name] else arg for name, arg in kwargs.items()},
        _secrets(hidden),
    )


def secrets_in(row: Stored, spec: JobSpec | None) -> tuple[str, ...]:
    """Give the texts that must not show up in what a job says; none where nothing is redacted or can be read."""
    redact = redacted(row, spec)
    args, kwargs, _ = arguments(row) if redact else (None, None, None)
    return () if args is None or kwargs is None else mask(args, kwargs, redact, spec)[2]


def hide(text: str, secrets: tuple[str, ...]) -> str:
    """Put the mask over every secret in a text."""
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text


def _secrets(hidden: list[object]) -> tuple[str, ...]:
    texts = {text for text in map(str, _leaves(hidden)) if len(text) >= SHORTEST_SECRET}
    # Longest first, or a short one inside a long one would leave the rest of it in sight.
    return tuple(sorted(texts, key=len, reverse=True))


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


def _leaves(values: list[object]) -> Iterator[object]:
    for value in values:
        match value:
            case dict():
                yield from _leaves(list(value.values()))
            case list():
                yield from _leaves(value)
            case bool() | None:
                pass  # masking every "True" would hide nothing and garble everything
            case _:
                yield value
