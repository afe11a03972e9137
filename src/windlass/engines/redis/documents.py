"""Documents with versions: the compare-and-set that processes agree by (``engines.base.Coordinator``)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from windlass.core.model import Swap, Times, Versioned, Write, Written
from windlass.engines.redis.connection import Command
from windlass.engines.redis.core import RedisCore
from windlass.engines.redis.reading import as_list, strings
from windlass.engines.redis.wire import as_int

__all__ = ["RedisDocuments", "loss", "made", "pack_swaps"]


class RedisDocuments(RedisCore):
    """``read``, ``keys`` and ``times`` of the engine; documents are written by its ``commit``."""

    _ahead_ms: float | None = None  # of the server's clock to the monotonic one of this process

    def read(self, keys: Sequence[str]) -> list[Versioned]:
        if not keys:
            return []
        return self._read(keys)

    def times(self) -> Times:
        clock = self._clock
        if clock is not None:
            return Times(clock.boot_ms(), clock.wall_ms())
        if self._ahead_ms is None:
            self._read(())
        now = int((self._ahead_ms or 0) + time.monotonic() * 1_000)
        return Times(now, now)  # a server has one clock

    def _read(self, keys: Sequence[str]) -> list[Versioned]:
        now, *flat = self._call("read", (), list(keys))
        self._learn_time(now)
        return stand(keys, flat)

    def _learn_time(self, now: object) -> None:
        """Note what time it is by the server."""
        self._ahead_ms = as_int(now) - time.monotonic() * 1_000

    def keys(self, prefix: str, limit: int = 1_000) -> list[str]:
        return strings(self._call("keys", (), [prefix, limit]))


def stand(keys: Iterable[str], flat: Sequence[object]) -> list[Versioned]:
    """The documents of these keys, from versions and values in turn."""
    found = zip(keys, flat[::2], strings(flat[1::2]), strict=True)
    return [Versioned(key, as_int(version), value if as_int(version) else None) for key, version, value in found]


def pack_swaps(write: Write) -> list[Command]:
    """What ``scripts/lib/swapping.lua`` reads: the time that swaps were decided for, and the swaps."""
    args: list[Command] = ["" if write.clock is None else write.clock]
    for one in write.swaps:
        if one.value is None:
            args += one.key, one.version, "", ""
        else:
            args += one.key, one.version, -1 if one.ttl_ms is None else one.ttl_ms, one.value
    return args


def made(swaps: Sequence[Swap], versions: object) -> tuple[Versioned, ...]:
    """The documents that swaps have written."""
    given = zip(swaps, map(as_int, as_list(versions)), strict=True)
    return tuple(Versioned(one.key, version, one.value) for one, version in given)


def loss(swaps: Sequence[Swap], reply: Sequence[object]) -> Written | None:
    """The answer to a write of which a swap has lost; None when all have won."""
    if reply[0] != b"\0lost":
        return None
    return Written([], tuple(stand((one.key for one in swaps), as_list(reply[1]))), lost=True)
