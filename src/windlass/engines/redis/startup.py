"""What is asked of a server before it is trusted with jobs: version, role, eviction, persistence.

Only looks; changes nothing. A server that would lose jobs by design is refused, one that might is warned about once.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct
from redis import Redis
from redis.exceptions import ResponseError

from windlass.core.errors import ConfigError, EngineUnusable

__all__ = ["CAPABILITIES", "VERSION_MIN", "Server", "examine"]

VERSION_MIN: Final = (6, 2)  # ZMSCORE, and TIME before writes in a script
CAPABILITIES: Final = {"fsync": (7, 2)}  # what a later version brings: WAITAOF


class Server(Struct, frozen=True):
    """What a server said of itself. ``persistence`` is what a returned enqueue survives."""

    version: str = ""
    number: tuple[int, int] = (0, 0)
    role: str = ""
    policy: str | None = None  # None: it could not be read
    maxmemory: int = 0
    persistence: str = "unknown"
    evicted: int = 0
    used: int = 0  # bytes of memory
    valkey: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def can_sync(self) -> bool:
        """Whether it can say that a write is on its disk."""
        return self.number >= CAPABILITIES["fsync"] and self.persistence.startswith("aof")


def examine(node: Redis, target: str, durability: str | None) -> Server:
    """Ask a server what it is. Raises EngineUnusable, or ConfigError for a durability it cannot give."""
    about = {str(name): str(value) for name, value in node.info("everything").items()}
    found = re.match(r"(\d+)\.(\d+)", about.get("redis_version", ""))
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    version = about.get("valkey_version") or about.get("redis_version", "unknown")
    if number < VERSION_MIN:
        raise EngineUnusable(f"{target} is version {version}; windlass needs 6.2 or later: upgrade the server")
    role = about.get("role", "unknown")
    if role != "master":
        raise EngineUnusable(
            f"{target} is a read-only replica of {about.get('master_host')}:{about.get('master_port')}: write the "
            "master's address, or use redis+sentinel:// to follow it"
        )
    warnings = []
    maxmemory = int(about.get("maxmemory", "0"))
    policy = about.get("maxmemory_policy")
    if policy is None:
        warnings.append("its maxmemory-policy cannot be read: make sure that it is noeviction")
    elif policy != "noeviction" and maxmemory > 0:
        raise EngineUnusable(
            f"{target} may evict jobs when it is full (maxmemory-policy {policy}): run "
            f"CONFIG SET maxmemory-policy noeviction, and write it into the server's configuration"
        )
    elif policy != "noeviction":
        warnings.append(
            f"its maxmemory-policy is {policy}, which would evict jobs once maxmemory is set: run "
            "CONFIG SET maxmemory-policy noeviction"
        )
    persistence = persistence_of(node, about)
    if persistence == "no-aof":
        warnings.append("it has no append-only file, so a restart may lose jobs: run CONFIG SET appendonly yes")
    elif persistence == "memory":
        warnings.append("it keeps nothing on disk, so a restart loses every job: run CONFIG SET appendonly yes")
    if durability == "fsync":
        need = CAPABILITIES["fsync"]
        if number < need:
            raise ConfigError(
                f"durability 'fsync' needs Redis {need[0]}.{need[1]} or later (WAITAOF), and {target} is {version}: "
                "leave durability out, and set appendfsync always on the server if each write must be on disk"
            )
        if not persistence.startswith("aof"):
            raise EngineUnusable(
                f"durability 'fsync' needs an append-only file, and {target} has none: run CONFIG SET appendonly yes"
            )
    return Server(
        version=version,
        number=number,
        role=role,
        policy=policy,
        maxmemory=maxmemory,
        persistence=persistence,
        evicted=int(about.get("evicted_keys", "0")),
        used=int(about.get("used_memory", "0")),
        valkey="valkey_version" in about,
        warnings=tuple(warnings),
    )


def persistence_of(node: Redis, about: dict[str, str]) -> str:
    """What of a server's writes outlives it: aof-always, -everysec, -no or -unknown, rdb, memory, no-aof or unknown.

    Only a user with many rights may read how often it syncs, and whether it saves: see the guide.
    """
    try:
        settings = {**node.config_get("appendfsync"), **node.config_get("save")}
    except ResponseError:
        settings = {}  # a user with few rights, or a managed server that hides CONFIG
    if about.get("aof_enabled") == "1":
        return f"aof-{text(settings.get('appendfsync')) or 'unknown'}"
    if "save" in settings:
        return "rdb" if text(settings["save"]) else "memory"
    return "no-aof" if about.get("aof_enabled") == "0" else "unknown"


def text(value: object) -> str:
    """A setting as text, whatever the driver made of it."""
    return value.decode() if isinstance(value, bytes) else str(value or "")
