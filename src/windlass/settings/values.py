"""Each kind of setting: how its value is read, and what is said when it is wrong.

A reader takes the raw value, as TOML, an argument or a variable has it, and the words that name it in an error. Must
not know where values come from. Invariants: lengths are whole milliseconds, sizes whole bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from windlass.core import caps
from windlass.core.backoff import read_backoff
from windlass.core.errors import ConfigError
from windlass.core.patterns import check_pattern, parse_queues
from windlass.core.recovery import RecoveryRule
from windlass.core.units import (
    check_name,
    count_per,
    duration_ms,
    format_duration,
    format_rate,
    nearest,
    shown,
    size_bytes,
)
from windlass.core.urls import mask_url, parse_url

__all__ = [
    "COUNTS",
    "FLAGS",
    "FLAG_WORDS",
    "READERS",
    "TABLES",
    "PoolSettings",
    "QueueSettings",
    "WrongEntry",
    "mask_url",
]

COUNT_MAX: Final = 2**31 - 1  # of what has no bound of its own


class PoolSettings(Struct, frozen=True, kw_only=True):
    """One table ``[windlass.pools.NAME]``: slots that serve only these queues."""

    queues: tuple[str, ...]  # names, patterns, weights, as -q takes them
    threads: int | None  # None: as many as the settings say for every process
    async_slots: int | None
    processes: int = 0  # of its own; 0: slots beside those of the other pools, in the common processes
    strict: bool = False


class QueueSettings(Struct, frozen=True, kw_only=True):
    """One table ``[windlass.queues.NAME]``."""

    max_wait: int | None = None  # ms: how long a due job may wait; alerts and the advice on workers go by it
    limit: int | None = None  # jobs that run at once over all workers; what is set in the store goes before it
    rate: str | None = None  # jobs that start, such as "100/m", over all workers; likewise
    paused: str | None = None  # why workers with these settings leave the queue alone; None: they do not
    retry_budget: float | None = None  # share of the queue's runs that may be retries; None: no bound


Reader: TypeAlias = Callable[[object, str], object]


def _duration(least: int, most: int = caps.DURATION_MS) -> Reader:
    def read(value: object, name: str) -> int:
        ms = duration_ms(value, name)
        if ms < least:
            raise ConfigError(f"{name} is {shown(value)}; it must be at least {format_duration(least)}")
        if ms > most:
            raise ConfigError(f"{name} is {shown(value)}; it must be at most {format_duration(most)}")
        return ms

    return read


def _wait(least: int) -> Reader:
    """A length of time that a process waits for."""
    return _duration(least, caps.WAIT_MS)


def _size(least: int, most: int = caps.NUMBER) -> Reader:
    def read(value: object, name: str) -> int:
        size = size_bytes(value, name)
        if size < least:
            raise ConfigError(f"{name} is {shown(value)}; it must be at least {least} bytes")
        if size > most:
            raise ConfigError(f"{name} is {shown(value)}; it must be at most {most:,} bytes")
        return size

    return read


def _count(least: int, most: int = COUNT_MAX) -> Reader:
    def read(value: object, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{name} is {shown(value)}; it must be a whole number")
        if not least <= value <= most:
            raise ConfigError(f"{name} is {shown(value)}; it must be a whole number from {least} to {most:,}")
        return value

    return read


def _choice(*words: str) -> Reader:
    def read(value: object, name: str) -> str:
        if isinstance(value, str) and value in words:
            return value
        hint = nearest(value, words) if isinstance(value, str) else ""
        raise ConfigError(f"{name} is {shown(value)}; it must be one of {', '.join(words)}{hint}")

    return read


def _or_none(read_value: Reader) -> Reader:
    # TOML has no null, so the word "none" lifts a bound there.
    def read(value: object, name: str) -> object:
        return None if value is None or value == "none" else read_value(value, name)

    return read


def _flag(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{name} is {shown(value)}; it must be true or false")


def _text(value: object, name: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise ConfigError(f"{name} is {shown(value)}; it must not be empty")


def _namespace(value: object, name: str) -> str:
    return check_name(value, name)


def _app(value: object, name: str) -> str:
    if isinstance(value, str) and re.fullmatch(r"[\w.]+:[\w.]+", value):
        return value
    raise ConfigError(f"{name} is {shown(value)}; write module:attribute, such as 'shop.jobs:app'")


def _url(value: object, name: str) -> str:
    text = _text(value, name)
    parse_url(text, name)
    return text


class WrongEntry(Exception):
    """A wrong value inside a table: the keys that lead to it, and why. Becomes a ConfigError with its line."""

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        self.path = path
        super().__init__(message)


def _table(read_entry: Callable[[str, Mapping[str, object]], object], what: str) -> Reader:
    """A table of named tables."""

    def read(value: object, name: str) -> dict[str, object]:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{name} is {shown(value)}; it must be a table of {what} names, each a table")
        entries: dict[str, object] = {}
        for key, options in value.items():
            try:
                check_name(key, what)
            except ConfigError as error:
                raise WrongEntry((str(key),), str(error)) from None
            if not isinstance(options, Mapping):
                raise WrongEntry((key,), f"{what} {key!r} is {shown(options)}; it must be a table")
            entries[key] = read_entry(key, options)
        return entries

    return read


def _entry(name: str, options: Mapping[str, object], readers: Mapping[str, Reader]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in options.items():
        if key not in readers:
            raise WrongEntry((name, key), f"{name}: unknown option {key!r}{nearest(key, readers)}")
        try:
            values[key] = readers[key](value, f"{name}.{key}")
        except ConfigError as error:
            raise WrongEntry((name, key), str(error)) from None
    return values


def _reason(value: object, name: str) -> str | None:
    if isinstance(value, bool):
        return "paused in the settings" if value else None
    return _text(value, name)


def _circuit(name: str, options: Mapping[str, object]) -> dict[str, object]:
    """The options as they are: what they may be is known where circuits are made."""
    return dict(options)


def _patterns(value: object, name: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{name} is {shown(value)}; it must be a list of queues")
    if not texts:
        raise ConfigError(f"{name} is empty; name at least one queue, or '*' for all")
    parse_queues(texts)
    return tuple(texts)


def _share(value: object, name: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return float(value)
    raise ConfigError(f"{name} is {shown(value)}; it must be a share above 0 and up to 1, such as 0.2")


def _rate(value: object, name: str) -> str:
    return format_rate(*count_per(value, f"{name} is {shown(value)}"))


QUEUE_READERS: Final[dict[str, Reader]] = {
    "max_wait": _or_none(_duration(1)),
    "limit": _or_none(_count(1, caps.COUNT)),
    "rate": _or_none(_rate),
    "paused": _reason,
    "retry_budget": _or_none(_share),
}
POOL_READERS: Final[dict[str, Reader]] = {
    "queues": _patterns,
    "threads": _count(0, caps.SLOTS),
    "async_slots": _count(0, caps.SLOTS),
    "processes": _count(0, caps.PROCESSES),
    "strict": _flag,
}


def _queue(name: str, options: Mapping[str, object]) -> QueueSettings:
    return msgspec.convert(_entry(name, options, QUEUE_READERS), QueueSettings)


def _pool(name: str, options: Mapping[str, object]) -> PoolSettings:
    values = _entry(name, options, POOL_READERS)
    if "queues" not in values:
        check_pattern(name, f"pool {name!r}: queue")
        values["queues"] = (name,)
    # One number for both kinds, since a slot is a slot; a pool of processes has as many as the settings say.
    if "threads" in values or "async_slots" in values:
        values.setdefault("threads", values.get("async_slots"))
        values.setdefault("async_slots", values.get("threads"))
    elif values.get("processes"):
        values["threads"] = values["async_slots"] = None
    else:
        raise WrongEntry((name,), f"pool {name!r} has no slots: give it threads = 2, or processes = 1 of its own")
    if values["threads"] == 0 and values["async_slots"] == 0:
        key = "threads" if "threads" in options else "async_slots"
        raise WrongEntry((name, key), f"pool {name!r} has no slots: {key} must be at least 1")
    return msgspec.convert(values, PoolSettings)


def _recover(value: object, name: str) -> list[dict[str, object]]:
    """Rules as a list of tables, or as tables with names of their own."""
    tables = list(value.values()) if isinstance(value, Mapping) else value
    if not isinstance(tables, list | tuple) or not all(isinstance(table, Mapping) for table in tables):
        raise ConfigError(f'{name} is {shown(value)}; write tables, such as [[windlass.recover]] on = ["TimeoutError"]')
    for number, table in enumerate(tables):
        RecoveryRule.of(table, f"{name}, rule {number + 1}")
    return [dict(table) for table in tables]


READERS: Final[dict[str, Reader]] = {
    "url": _url,
    "namespace": _namespace,
    "app": _or_none(_app),
    "strict_queues": _flag,
    "lease": _wait(1),
    "renew": _wait(1),
    "reap": _wait(1),
    "shutdown_timeout": _wait(0),
    "settle_flush": _wait(0),
    "settle_batch": _count(1),
    "attempts": _count(1, caps.ATTEMPTS),
    "backoff": read_backoff,
    "max_crashes": _count(1),
    "max_interruptions": _count(0),
    "max_snoozes": _or_none(_count(0)),
    "unknown_grace": _duration(0),
    "network_timeout": _wait(1),
    "pool_timeout": _wait(1),
    "busy_timeout": _wait(0),
    "durability": _or_none(_choice("fsync", "normal")),
    "payload_max": _size(64, caps.VALUE_SIZE),
    "result_max": _size(64, caps.VALUE_SIZE),
    "error_max": _size(1_024, caps.ERRORS_SIZE),  # less has no room for a type, a message and one frame
    "dead_max": _or_none(_count(0)),
    "dead_keep": _or_none(_duration(0)),
    "dead_archive": _or_none(_text),
    "recover": _recover,
    "keep_done": _duration(0),
    "keep_done_max": _or_none(_count(0)),
    "id_keep": _duration(0),
    "poll_min": _wait(1),
    "poll_max": _wait(1),
    "threads": _count(1, caps.SLOTS),
    "async_slots": _count(1, caps.SLOTS),
    "processes": _count(1, caps.PROCESSES),
    "max_jobs": _or_none(_count(1)),
    "max_memory": _or_none(_size(1)),
    "live_within": _wait(1),
    "aging": _or_none(_duration(1)),
    "log_format": _choice("text", "json", "logfmt"),
    "configure_logging": _flag,
    "quiet_jobs": _flag,
    "queues": _table(_queue, "queue"),
    "circuits": _table(_circuit, "circuit"),
    "pools": _table(_pool, "pool"),
}
TABLES: Final = frozenset({"queues", "circuits", "pools", "recover"})
FLAGS: Final = frozenset({"strict_queues", "configure_logging", "quiet_jobs"})
COUNTS: Final = frozenset(
    [
        "settle_batch",
        "attempts",
        "max_crashes",
        "max_interruptions",
        "max_snoozes",
        "dead_max",
        "keep_done_max",
        "threads",
        "async_slots",
        "processes",
        "max_jobs",
    ]
)
FLAG_WORDS: Final = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
