"""Documents with versions: the compare-and-set that processes agree by (``engines.base.Coordinator``)."""

from __future__ import annotations

from collections.abc import Sequence

from windlass.engines.base import Versioned
from windlass.engines.redis.core import RedisCore
from windlass.engines.redis.wire import as_int, strings

__all__ = ["RedisDocuments"]


class RedisDocuments(RedisCore):
    """The Coordinator of the engine."""

    def read(self, keys: Sequence[str]) -> list[Versioned]:
        if not keys:
            return []
        reply = self._call("read", (), list(keys))
        found = zip(keys, reply[::2], strings(reply[1::2]), strict=True)
        return [Versioned(key, as_int(version), value if as_int(version) else None) for key, version, value in found]

    def swap(self, key: str, version: int, value: str | None, ttl_ms: int | None = None) -> Versioned | None:
        values = [] if value is None else [value]
        reply = self._call("swap", (), [key, version, -1 if ttl_ms is None else ttl_ms, *values])
        given = as_int(reply[0])
        return None if given < 0 else Versioned(key, given, value)

    def keys(self, prefix: str, limit: int = 1_000) -> list[str]:
        return strings(self._call("keys", (), [prefix, limit]))
