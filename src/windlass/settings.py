"""Settings: one frozen record, read in layers, and where every value came from.

Layers, later ones win: default, settings file, environment, arguments. The file is ``windlass.toml`` (root table
``[windlass]``) or ``[tool.windlass]`` of ``pyproject.toml``, looked for from the current directory upwards to a
directory with ``.git``; ``[windlass.env.NAME]`` is laid over it when ``WINDLASS_ENV`` is ``NAME``.

Must not open stores, import applications or know the wishes of one module: a value is checked here, once, and handed
on. Invariants: lengths are whole milliseconds, sizes whole bytes, a ``sqlite:///`` URL is absolute, and an unknown key
never passes in silence.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Struct

from windlass.backoff import Backoff, Exponential, read_backoff
from windlass.errors import ConfigError
from windlass.patterns import check_pattern, overlap, parse_queues
from windlass.recovery import RecoveryRule
from windlass.toml_lines import line_of
from windlass.units import check_name, count_per, duration_ms, format_duration, format_rate, nearest, size_bytes

__all__ = ["Loaded", "PoolSettings", "QueueSettings", "Settings", "load_settings", "mask_url"]

DEFAULT_URL: Final = "sqlite:///windlass.db"
SCHEMES: Final = ("sqlite", "memory", "redis", "rediss", "redis+cluster", "redis+sentinel", "postgresql")
ENV_PREFIX: Final = "WINDLASS_"
# Variables that steer the loading or the process itself and are no settings.
ENV_OTHERS: Final = frozenset({"WINDLASS_ENV", "WINDLASS_CONFIG", "WINDLASS_CRASHPOINT", "WINDLASS_CRASHPOINT_ONCE"})


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


class Settings(Struct, frozen=True, kw_only=True):
    """Every value that can be set. Lengths of time are milliseconds, sizes bytes; None means no bound.

    Source of the defaults: the table of constants in the docs ("Settings").
    """

    url: str = DEFAULT_URL
    namespace: str = "windlass"
    app: str | None = None  # "module:attribute"
    strict_queues: bool = False

    lease: int = 30_000
    renew: int = 10_000
    reap: int = 5_000
    shutdown_timeout: int = 25_000
    settle_flush: int = 50
    settle_batch: int = 100

    attempts: int = 10  # runs in total
    backoff: Backoff = Exponential()
    max_crashes: int = 3
    max_interruptions: int = 10
    max_snoozes: int | None = None
    unknown_grace: int = 900_000

    network_timeout: int = 5_000
    pool_timeout: int = 5_000
    busy_timeout: int = 5_000
    durability: Literal["fsync", "normal"] | None = None  # None: the engine's default

    payload_max: int = 1_048_576
    result_max: int = 262_144
    error_max: int = 16_384

    dead_max: int | None = None
    dead_keep: int | None = 90 * 86_400_000
    dead_archive: str | None = None
    recover: list[dict[str, object]] = []  # rules, as ``recovery.RecoveryRule`` reads them
    keep_done: int = 600_000
    keep_done_max: int | None = 10_000  # per queue
    id_keep: int = 86_400_000

    poll_min: int = 1_000
    poll_max: int = 5_000
    threads: int = 10
    async_slots: int = 100
    processes: int = 1
    max_jobs: int | None = None  # runs until a worker process is replaced
    max_memory: int | None = None  # bytes resident until a worker process is replaced
    live_within: int = 30_000  # a worker process that has not looked for jobs for so long counts as stuck
    aging: int | None = None  # waiting so long outweighs one step of priority; None: nothing does

    log_format: Literal["text", "json", "logfmt"] = "text"
    queues: dict[str, QueueSettings] = {}
    circuits: dict[str, dict[str, object]] = {}
    pools: dict[str, PoolSettings] = {}


class Loaded(Struct, frozen=True):
    """Settings with their history. ``origin`` says for each key where its value came from."""

    settings: Settings
    origin: dict[str, str]
    file: Path | None
    warnings: list[str]

    def where(self, *path: str) -> str:
        """Say where a key was set, with its line when that was in a file: ``windlass.toml, line 4``."""
        return place(self.file, self.origin.get(path[0], "default"), path)


def place(file: Path | None, source: str, path: Sequence[str]) -> str:
    """The source of a value, and its line where it came from the settings file."""
    if file is None or not source.startswith(file.name):
        return source
    root = ["tool", "windlass"] if file.name == "pyproject.toml" else ["windlass"]
    env = re.search(r" \[env\.(.+)\]$", source)
    line = line_of(file.read_text(errors="replace"), [*root, *(["env", env[1]] if env else []), *path])
    return source if line is None else f"{source}, line {line}"


# --- one reader per kind of value: takes the raw value and the words that name it in an error ------

Reader: TypeAlias = Callable[[object, str], object]


def _duration(least: int) -> Reader:
    def read(value: object, name: str) -> int:
        ms = duration_ms(value, name)
        if ms < least:
            raise ConfigError(f"{name} is {value!r}; it must be at least {format_duration(least)}")
        return ms

    return read


def _size(least: int) -> Reader:
    def read(value: object, name: str) -> int:
        size = size_bytes(value, name)
        if size < least:
            raise ConfigError(f"{name} is {value!r}; it must be at least {least} bytes")
        return size

    return read


def _count(least: int) -> Reader:
    def read(value: object, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{name} is {value!r}; it must be a whole number")
        if not least <= value < 2**31:
            raise ConfigError(f"{name} is {value!r}; it must be at least {least} and below 2**31")
        return value

    return read


def _choice(*words: str) -> Reader:
    def read(value: object, name: str) -> str:
        if isinstance(value, str) and value in words:
            return value
        hint = nearest(value, words) if isinstance(value, str) else ""
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(words)}{hint}")

    return read


def _or_none(read_value: Reader) -> Reader:
    # TOML has no null, so the word "none" lifts a bound there.
    def read(value: object, name: str) -> object:
        return None if value is None or value == "none" else read_value(value, name)

    return read


def _flag(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{name} is {value!r}; it must be true or false")


def _text(value: object, name: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise ConfigError(f"{name} is {value!r}; it must be text that is not empty")


def _namespace(value: object, name: str) -> str:
    return check_name(value, name)


def _app(value: object, name: str) -> str:
    if isinstance(value, str) and re.fullmatch(r"[\w.]+:[\w.]+", value):
        return value
    raise ConfigError(f"{name} is {value!r}; write module:attribute, such as 'shop.jobs:app'")


def _url(value: object, name: str) -> str:
    text = _text(value, name)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in SCHEMES:
        raise ConfigError(
            f"{name} is {mask_url(text)!r}: unknown engine; a URL begins with "
            f"{', '.join(f'{one}://' for one in SCHEMES)}{nearest(scheme, SCHEMES)}"
        )
    if scheme == "sqlite" and not re.match(r"/[^?]", rest):
        raise ConfigError(f"{name} is {text!r}; write sqlite:///relative.db or sqlite:////absolute.db")
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
            raise ConfigError(f"{name} is {value!r}; it must be a table of {what} names, each a table")
        entries: dict[str, object] = {}
        for key, options in value.items():
            try:
                check_name(key, what)
            except ConfigError as error:
                raise WrongEntry((str(key),), str(error)) from None
            if not isinstance(options, Mapping):
                raise WrongEntry((key,), f"{what} {key!r} is {options!r}; it must be a table")
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
        raise ConfigError(f"{name} is {value!r}; it must be a list of queues")
    if not texts:
        raise ConfigError(f"{name} is empty; name at least one queue, or '*' for all")
    parse_queues(texts)
    return tuple(texts)


def _share(value: object, name: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1:
        return float(value)
    raise ConfigError(f"{name} is {value!r}; it must be a share above 0 and up to 1, such as 0.2")


def _rate(value: object, name: str) -> str:
    return format_rate(*count_per(value, f"{name} is {value!r}"))


QUEUE_READERS: Final[dict[str, Reader]] = {
    "max_wait": _or_none(_duration(1)),
    "limit": _or_none(_count(1)),
    "rate": _or_none(_rate),
    "paused": _reason,
    "retry_budget": _or_none(_share),
}
POOL_READERS: Final[dict[str, Reader]] = {
    "queues": _patterns,
    "threads": _count(0),
    "async_slots": _count(0),
    "processes": _count(0),
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
        raise ConfigError(f'{name} is {value!r}; write tables, such as [[windlass.recover]] on = ["TimeoutError"]')
    for number, table in enumerate(tables):
        RecoveryRule.of(table, f"{name}, rule {number + 1}")
    return [dict(table) for table in tables]


READERS: Final[dict[str, Reader]] = {
    "url": _url,
    "namespace": _namespace,
    "app": _or_none(_app),
    "strict_queues": _flag,
    "lease": _duration(1),
    "renew": _duration(1),
    "reap": _duration(1),
    "shutdown_timeout": _duration(0),
    "settle_flush": _duration(0),
    "settle_batch": _count(1),
    "attempts": _count(1),
    "backoff": read_backoff,
    "max_crashes": _count(1),
    "max_interruptions": _count(0),
    "max_snoozes": _or_none(_count(0)),
    "unknown_grace": _duration(0),
    "network_timeout": _duration(1),
    "pool_timeout": _duration(1),
    "busy_timeout": _duration(0),
    "durability": _or_none(_choice("fsync", "normal")),
    "payload_max": _size(64),
    "result_max": _size(64),
    "error_max": _size(1_024),  # less has no room for a type, a message and one frame
    "dead_max": _or_none(_count(0)),
    "dead_keep": _or_none(_duration(0)),
    "dead_archive": _or_none(_text),
    "recover": _recover,
    "keep_done": _duration(0),
    "keep_done_max": _or_none(_count(0)),
    "id_keep": _duration(0),
    "poll_min": _duration(1),
    "poll_max": _duration(1),
    "threads": _count(1),
    "async_slots": _count(1),
    "processes": _count(1),
    "max_jobs": _or_none(_count(1)),
    "max_memory": _or_none(_size(1)),
    "live_within": _duration(1),
    "aging": _or_none(_duration(1)),
    "log_format": _choice("text", "json", "logfmt"),
    "queues": _table(_queue, "queue"),
    "circuits": _table(_circuit, "circuit"),
    "pools": _table(_pool, "pool"),
}
TABLES: Final = frozenset({"queues", "circuits", "pools", "recover"})
FLAGS: Final = frozenset({"strict_queues"})
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
NO_OVERRIDES: Final[Mapping[str, object]] = MappingProxyType({})


# --- loading ---------------------------------------------------------------------------------------


def load_settings(
    url: str | None = None,
    overrides: Mapping[str, object] = NO_OVERRIDES,
    *,
    environ: Mapping[str, str] = os.environ,
    start: Path | None = None,
) -> Loaded:
    """Read all layers and give the settings with their origins. ``start`` stands in for the current directory.

    ``url`` counts as an argument. Order of the URL: argument, ``WINDLASS_URL``, file, ``REDIS_URL``, a SQLite file.
    Raises ConfigError that names key, value and origin for a wrong value or an unknown key, with the nearest spelling.
    An unknown ``WINDLASS_`` variable is a warning only, since other programs may own it.
    """
    here = (start or Path.cwd()).absolute()
    warnings: list[str] = []
    file: Path | None = None
    values: dict[str, object] = {}
    origin = dict.fromkeys(READERS, "default")

    def lay(layer: Mapping[str, object], source: str) -> None:
        for key, value in layer.items():
            try:
                values[key] = READERS[key](value, f"{key} ({source})")
            except WrongEntry as error:
                raise ConfigError(f"{key} ({place(file, source, (key, *error.path))}): {error}") from None
            origin[key] = source

    if inherited := environ.get("REDIS_URL"):
        # Below the file on purpose: platforms set it, nobody asked us to use it.
        lay({"url": inherited}, "environment REDIS_URL (inherited)")

    file, table = _find_file(here, environ.get("WINDLASS_CONFIG"))
    if file is not None:
        base, per_env = _split_table(table, file.name)
        lay(base, file.name)
        wanted = environ.get("WINDLASS_ENV")
        if wanted and wanted in per_env:
            lay(per_env[wanted], f"{file.name} [env.{wanted}]")
        elif wanted and per_env:
            warnings.append(f"WINDLASS_ENV is {wanted!r}, which {file.name} does not have{nearest(wanted, per_env)}")

    for variable, text in environ.items():
        if not variable.startswith(ENV_PREFIX) or variable in ENV_OTHERS or not text:
            continue
        key = variable.removeprefix(ENV_PREFIX).lower()
        if variable != variable.upper() or key not in READERS or key in TABLES:
            warnings.append(f"unknown variable {variable} is ignored{nearest(variable, _variables())}")
            continue
        lay({key: _from_text(key, text)}, f"environment {variable}")

    arguments = dict(overrides) if url is None else {**overrides, "url": url}
    _check_keys(arguments, "argument")
    lay(arguments, "argument")

    values["url"] = _absolute(str(values.get("url", DEFAULT_URL)), file.parent if file else here)
    if isinstance(archive := values.get("dead_archive"), str):
        values["dead_archive"] = os.path.normpath((file.parent if file else here) / archive)
    settings = msgspec.convert(values, Settings)
    _check_together(settings, origin, warnings)
    loaded = Loaded(settings, origin, file, warnings)
    _check_pools(loaded)
    return loaded


def _variables() -> list[str]:
    return sorted(ENV_OTHERS) + [ENV_PREFIX + key.upper() for key in READERS if key not in TABLES]


def _from_text(key: str, text: str) -> object:
    """An environment variable is always text; give numbers and flags their type where they parse."""
    if key in COUNTS and re.fullmatch(r"-?[0-9]{1,18}", text.strip()):
        return int(text)
    if key in FLAGS:
        return FLAG_WORDS.get(text.strip().lower(), text)
    return text


def _check_keys(table: Iterable[str], where: str) -> None:
    for key in table:
        if key not in READERS:
            raise ConfigError(f"unknown setting {key!r} ({where}){nearest(key, READERS)}")


def _find_file(here: Path, explicit: str | None) -> tuple[Path | None, Mapping[str, object]]:
    if explicit:
        file = here / explicit
        table = _read_table(file)
        if table is None:
            raise ConfigError(f"{file} (WINDLASS_CONFIG) has no [tool.windlass] table; add one or name another file")
        return file, table
    for folder in (here, *here.parents):
        for name in ("windlass.toml", "pyproject.toml"):
            file = folder / name
            # os.path: a folder that may not be searched is one without settings.
            if os.path.isfile(file) and (table := _read_table(file)) is not None:
                return file, table
        if os.path.exists(folder / ".git"):
            break
    return None, {}


def _read_table(file: Path) -> Mapping[str, object] | None:
    """Our table of a settings file, or None for a ``pyproject.toml`` that has none."""
    is_project = file.name == "pyproject.toml"
    try:
        raw = file.read_bytes()
        if is_project and b"windlass" not in raw:
            return None  # and whatever is wrong with it is not ours to report
        content = tomllib.loads(raw.decode())
    except OSError as error:
        raise ConfigError(f"the settings file {file} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"the settings file {file} is not valid TOML: {error}") from error
    if is_project:
        tool = content.get("tool")
        content = {key: tool[key] for key in ("windlass",) if isinstance(tool, dict) and key in tool}
        if not content:
            return None
    for key in content:
        if key != "windlass":
            raise ConfigError(
                f"{file.name} has {key!r} at its root; settings stand under [windlass]{nearest(key, ['windlass'])}"
            )
    table = content.get("windlass", {})
    if not isinstance(table, dict):
        raise ConfigError(f"{file.name}: windlass is {table!r}; it must be a table")
    return table


def _split_table(table: Mapping[str, object], name: str) -> tuple[dict[str, object], dict[str, dict[str, object]]]:
    """The settings of a file, and those per environment. A wrong key in any of them is an error, chosen or not."""
    base = dict(table)
    tables = base.pop("env", {})
    _check_keys(base, name)
    if not isinstance(tables, dict):
        raise ConfigError(f"{name}: env is {tables!r}; it must be a table of environments")
    for env, layer in tables.items():
        if not isinstance(layer, dict):
            raise ConfigError(f"{name}: env.{env} is {layer!r}; it must be a table of settings")
        _check_keys(layer, f"{name} [env.{env}]")
    return base, tables


def _absolute(url: str, base: Path) -> str:
    if not url.startswith("sqlite:///"):
        return url
    path, mark, query = url.removeprefix("sqlite:///").partition("?")
    return f"sqlite:///{os.path.normpath(base / path)}{mark}{query}"


def _check_together(settings: Settings, origin: Mapping[str, str], warnings: list[str]) -> None:
    def named(key: str) -> str:
        return f"{key} is {format_duration(getattr(settings, key))} ({origin[key]})"

    if settings.renew >= settings.lease:
        raise ConfigError(f"{named('renew')}, but {named('lease')}; renew a third of the way into a lease, or sooner")
    if settings.poll_min > settings.poll_max:
        raise ConfigError(f"{named('poll_min')}, but {named('poll_max')}; poll_min must not be the longer one")
    if settings.renew * 3 > settings.lease:
        warnings.append(
            f"{named('renew')} and {named('lease')}: one late renewal may lose the lease; use a third of it"
        )


def _check_pools(loaded: Loaded) -> None:
    settings = loaded.settings
    seen: dict[str, str] = {}  # pattern: its pool
    for name, pool in settings.pools.items():
        for queue in parse_queues(pool.queues):
            where = loaded.where("pools", name, "queues")
            if settings.strict_queues and not any(overlap(queue, known) for known in settings.queues):
                hint = nearest(queue, settings.queues)
                raise ConfigError(
                    f"pool {name!r} ({where}): queue {queue!r} is not in the settings{hint}; "
                    "strict_queues allows only those under [windlass.queues]"
                )
            # "*" is the pool for the rest: it may stand beside the others, they may not stand on each other's feet.
            rival = next((other for other in seen if "*" not in (queue, other) and overlap(queue, other)), None)
            if rival is not None:
                raise ConfigError(
                    f"pool {name!r} ({where}): queue {queue!r} is served by pool {seen[rival]!r} too; slots are "
                    "dedicated to one pool: name the queue in one of them, or make the two one pool with weights"
                )
            seen[queue] = name


def mask_url(url: str) -> str:
    """Hide the secrets of a URL for logs and errors: the password, and query values that look like one."""
    # Up to the last "@", since people forget to escape one in a password; too much hidden is better than too little.
    url = re.sub(r"(?s)^([^:/]*://[^:/?#@]*):.*@", r"\1:•••@", url)
    return re.sub(r"(?i)([?&][^=&#]*(?:pass|secret|token)[^=&#]*=)[^&#]*", r"\1•••", url)
