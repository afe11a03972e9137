"""Settings: one frozen record, read in layers, and where every value came from.

Layers, later ones win: default, settings file, environment, arguments. The file is ``windlass.toml`` (root table
``[windlass]``) or ``[tool.windlass]`` of ``pyproject.toml``, looked for in the project (``settings_file``);
``[windlass.env.NAME]`` is laid over it when ``WINDLASS_ENV`` is ``NAME``.

Must not open stores, import applications or know the wishes of one module: a value is checked once
(``setting_values``) and handed on. Invariants: lengths are whole milliseconds, sizes whole bytes, a ``sqlite:///`` URL
is absolute, and an unknown key never passes in silence.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import msgspec
from msgspec import Struct

from windlass.core.backoff import Backoff, Exponential
from windlass.core.errors import ConfigError, UnknownOption
from windlass.core.patterns import overlap, parse_queues
from windlass.core.units import format_duration, nearest
from windlass.core.urls import absolute
from windlass.settings.file import find_table, read_file
from windlass.settings.toml_lines import line_of
from windlass.settings.values import (
    COUNTS,
    FLAG_WORDS,
    FLAGS,
    READERS,
    TABLES,
    PoolSettings,
    QueueSettings,
    WrongEntry,
    mask_url,
)

__all__ = ["Loaded", "PoolSettings", "QueueSettings", "Settings", "load_settings", "mask_url"]

DEFAULT_URL: Final = "sqlite:///windlass.db"
ENV_PREFIX: Final = "WINDLASS_"
# Variables that steer the loading or the process itself and are no settings.
ENV_OTHERS: Final = frozenset({"WINDLASS_ENV", "WINDLASS_CONFIG", "WINDLASS_CRASHPOINT", "WINDLASS_CRASHPOINT_ONCE"})


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
    configure_logging: bool = True  # false: a worker writes no log itself, the application's configuration decides
    quiet_jobs: bool = False  # no line for a job that ends well
    queues: dict[str, QueueSettings] = {}
    circuits: dict[str, dict[str, object]] = {}
    pools: dict[str, PoolSettings] = {}

    def __repr__(self) -> str:
        shown = msgspec.structs.asdict(self) | {"url": mask_url(self.url)}
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class Loaded(Struct, frozen=True):
    """Settings with their history. ``origin`` says for each key where its value came from."""

    settings: Settings
    origin: dict[str, str]
    file: Path | None
    warnings: list[str]

    @property
    def inherited(self) -> str | None:
        """A warning when the store is that of ``REDIS_URL``, which platforms set and nobody may have meant for jobs."""
        if self.origin["url"] != INHERITED:
            return None
        return (
            f"the store is {mask_url(self.settings.url)}, taken from the environment variable REDIS_URL; "
            "to choose another, or to say that this one is meant, set WINDLASS_URL, or url in windlass.toml"
        )

    def where(self, *path: str) -> str:
        """Say where a key was set, with its line when that was in a file: ``windlass.toml, line 4``."""
        return place(self.file, self.origin.get(path[0], "default"), path)


def place(file: Path | None, source: str, path: Sequence[str]) -> str:
    """The source of a value, and its line where it came from the settings file."""
    if file is None or not source.startswith(file.name):
        return source
    root = ["tool", "windlass"] if file.name == "pyproject.toml" else ["windlass"]
    env = re.search(r" \[env\.(.+)\]$", source)
    line = line_of(read_file(file)[0].decode(errors="replace"), [*root, *(["env", env[1]] if env else []), *path])
    return source if line is None else f"{source}, line {line}"


INHERITED: Final = "environment REDIS_URL (inherited)"
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
        lay({"url": inherited}, INHERITED)

    file, table = find_table(here, environ.get("WINDLASS_CONFIG"), warnings)
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

    values["url"] = absolute(str(values.get("url", DEFAULT_URL)), file.parent if file else here)
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
            others = ("client", "clock") if where == "argument" else ()
            raise UnknownOption(f"unknown setting {key!r} ({where}){nearest(key, [*READERS, *others])}")


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


def _check_together(settings: Settings, origin: Mapping[str, str], warnings: list[str]) -> None:
    def named(key: str) -> str:
        return f"{key} is {format_duration(getattr(settings, key))} ({origin[key]})"

    if settings.renew >= settings.lease:
        raise ConfigError(f"{named('renew')}, but {named('lease')}; renew must be at most a third of lease")
    if settings.poll_min > settings.poll_max:
        raise ConfigError(f"{named('poll_min')}, but {named('poll_max')}; poll_min must not be longer than poll_max")
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
