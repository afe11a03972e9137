"""Documents with versions: the compare-and-set that processes agree by (``engines.base.Coordinator``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from windlass.core.model import Swap, Versioned, Written
from windlass.engines.redis.connection import Command
from windlass.engines.redis.core import RedisCore
from windlass.engines.redis.wire import as_int, as_list, strings

__all__ = ["RedisDocuments", "loss", "made", "pack_swaps"]


class RedisDocuments(RedisCore):
    """``read`` and ``keys`` of the engine; documents are written by its ``commit``."""

    def read(self, keys: Sequence[str]) -> list[Versioned]:
        if not keys:
            return []
        return stand(keys, self._call("read", (), list(keys)))

    def keys(self, prefix: str, limit: int = 1_000) -> list[str]:
        return strings(self._call("keys", (), [prefix, limit]))


def stand(keys: Iterable[str], flat: Sequence[object]) -> list[Versioned]:
    """The documents of these keys, from versions and values in turn."""
    found = zip(keys, flat[::2], strings(flat[1::2]), strict=True)
    return [Versioned(key, as_int(version), value if as_int(version) else None) for key, version, value in found]


def pack_swaps(swaps: Sequence[Swap]) -> list[Command]:
    """What ``scripts/lib/swapping.lua`` reads of swaps."""
    args: list[Command] = []
    for one in swaps:
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
