"""From a URL to an engine. Drivers are imported here, lazily, and only the one that the URL names."""

from __future__ import annotations

import os

from windlass.core.clock import Clock
from windlass.core.errors import ConfigError
from windlass.core.urls import parse_url
from windlass.core.work import Rules
from windlass.engines.base import Store
from windlass.settings import Settings, mask_url

__all__ = ["connect", "rules_of"]


def connect(settings: Settings, clock: Clock | None = None, client: object = None) -> Store:
    """Make the engine that ``settings.url`` names, or one on the server of ``client``. It opens at first use.

    ``client`` is a ``redis.Redis`` or ``redis.RedisCluster``; address, credentials and TLS are its, timeouts and
    retries are ours. Raises ConfigError for a wrong URL or another object.
    """
    address = parse_url(settings.url)
    engine: Store
    match address.scheme:
        case _ if client is not None:
            engine = redis(settings, clock, client)
        case "memory":
            engine = sqlite(None, settings, clock)
        case "sqlite":
            engine = sqlite(address.path, settings, clock)
        case "postgresql":
            raise ConfigError(f"url {mask_url(settings.url)!r}: there is no engine for postgresql:// yet")
        case _:
            engine = redis(settings, clock)
    if os.environ.get("WINDLASS_CRASHPOINT"):
        from windlass.engines.crashpoint import crashing

        engine = crashing(engine, os.environ["WINDLASS_CRASHPOINT"])
    return engine


def sqlite(path: str | None, settings: Settings, clock: Clock | None) -> Store:
    """The engine on a SQLite file, or in memory."""
    from windlass.engines.sqlite import SqliteEngine

    return SqliteEngine(
        path,
        clock=clock,
        durability=settings.durability or "fsync",
        busy_timeout_ms=settings.busy_timeout,
        namespace=settings.namespace,
        rules=rules_of(settings),
    )


def redis(settings: Settings, clock: Clock | None, client: object = None) -> Store:
    """The engine on a Redis or Valkey server. Raises ConfigError when the driver is not installed."""
    what = f"url {mask_url(settings.url)!r}" if client is None else "client="
    try:
        from windlass.engines.redis import RedisEngine
    except ModuleNotFoundError as error:
        if error.name not in ("redis", "hiredis"):
            raise
        raise ConfigError(f"{what} needs the Redis driver: pip install redis hiredis") from error
    return RedisEngine(
        settings.url if client is None else None,
        client=client,
        clock=clock,
        namespace=settings.namespace,
        rules=rules_of(settings),
        durability=settings.durability,
        network_timeout_ms=settings.network_timeout,
        pool_timeout_ms=settings.pool_timeout,
    )


def rules_of(settings: Settings) -> Rules:
    """What an engine decides by itself, from the settings."""
    return Rules(
        max_crashes=settings.max_crashes,
        max_interruptions=settings.max_interruptions,
        keep_done_ms=settings.keep_done,
        keep_done_max=settings.keep_done_max,
        dead_keep_ms=settings.dead_keep,
        dead_max=settings.dead_max,
        dead_held=settings.dead_archive is not None,
        id_keep_ms=settings.id_keep,
    )
