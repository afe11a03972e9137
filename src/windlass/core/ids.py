"""Job ids: time-ordered, made by the client, and the check of those that callers make.

An id is UUIDv7 text (RFC 9562), 36 characters. Invariants: within a process every id sorts after all ids that were
returned before it, also in one millisecond, across threads and when the clock steps back; a forked child draws from
fresh randomness. Ids are unique, not secret: they come from a fast generator, so nothing may use one as a token.
"""

from __future__ import annotations

import os
import re
import threading
from random import Random
from time import time_ns
from typing import Final

from windlass.core import caps
from windlass.core.errors import ConfigError

__all__ = ["check_id", "new_id"]

# C0, DEL, C1, line and paragraph separators, lone surrogates: they break logs, terminals and UTF-8.
UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


_lock = threading.Lock()
_random = Random()  # seeds itself from the operating system
_ms = 0
_prefix = ""
_count = 0


def _start(ms: int) -> None:
    """Begin a millisecond: a prefix that stays, and a random place to count up from."""
    global _ms, _prefix, _count
    head, bits = f"{ms:012x}", _random.getrandbits(73)
    _ms = ms
    _prefix = f"{head[:8]}-{head[8:]}-7{bits >> 61:03x}-{0x8000 | bits >> 47 & 0x3FFF:04x}-"
    _count = bits & 0x7FFF_FFFF_FFFF  # 47 of 48 bits: counting never carries into the prefix


def new_id() -> str:
    """Make a job id: UUIDv7 text that sorts after every id this process made before. *Thread-safe, fork-safe.*"""
    global _count
    ms = time_ns() // 1_000_000
    with _lock:
        if ms > _ms:
            _start(ms)
        else:
            _count += 1
        return _prefix + "%012x" % _count  # noqa: UP031  measurably faster than an f-string


def _renew_after_fork() -> None:
    # The child inherits the parent's random state, and maybe its lock held by a thread that no longer exists. It starts
    # a millisecond later than the parent's last id, so that its own ids sort behind all it has seen.
    global _lock, _random
    _lock = threading.Lock()
    _random = Random()
    _start(_ms + 1)


os.register_at_fork(after_in_child=_renew_after_fork)


def check_id(text: object) -> str:
    """Give back an id made by a caller, or raise ConfigError.

    1 to 200 characters, without control characters and lone surrogates.
    """
    if not isinstance(text, str):
        raise ConfigError(f"a job id is text, not {type(text).__name__}; pass str(...) of it")
    if not 1 <= len(text) <= caps.ID:
        raise ConfigError(
            f"job id {text[:40]!r} has {len(text)} characters; use 1 to {caps.ID}, such as a hash of the rest"
        )
    if bad := UNSAFE.search(text):
        raise ConfigError(f"job id {text!r} has the character {bad[0]!r} at {bad.start()}; remove it")
    return text
