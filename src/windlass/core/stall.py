"""What is stored of a job that stalled: a note under its own key, written by the worker that saw it.

Pure. It is no note of the job's: it does not count against what the job may note, nor does it say that the job gets on.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from windlass.core import caps
from windlass.core.hints import encode

__all__ = ["STALL", "Stall", "decode_stall", "encode_stall"]

STALL: Final = "stall"  # the key of the note


class Stall(Struct, frozen=True, omit_defaults=True):
    """A job that made no progress for ``quiet_ms``, as it was seen at ``at`` (ms).

    ``line`` is where it hangs, ``stack`` how it got there, the outermost place first. ``moved_at`` is when it was seen
    to get on again.
    """

    at: int
    quiet_ms: int
    line: str
    stack: tuple[str, ...] = ()
    moved_at: int | None = None


_decoder: Final = msgspec.json.Decoder(Stall)


def encode_stall(stall: Stall) -> str:
    """Give the text of the note; the outermost places go when it would be too long."""
    while len(data := encode(stall)) > caps.STALL_SIZE and stall.stack:
        stall = msgspec.structs.replace(stall, stack=stall.stack[len(stall.stack) // 2 + 1 :])
    return data.decode()


def decode_stall(text: str) -> Stall | None:
    """Give a stall back; None for what is none."""
    try:
        return _decoder.decode(text)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
