"""The Lua scripts: one operation a file, put together with the libraries that its first line names.

Each text is sent in full only to a server that does not know it (EVALSHA, then EVAL), so losing the script cache at
any time costs one round trip and nothing else.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from msgspec import Struct

__all__ = ["READ_ONLY", "Script", "script"]

# Scripts that change nothing, so a call whose answer was lost may be made again.
READ_ONLY: Final = frozenset({"rows", "page", "queues", "workers", "counts", "check", "locks", "circuits", "limits"})


class Script(Struct, frozen=True):
    """One operation: its name, the text that the server runs, and the digest that names the text."""

    name: str
    text: str
    sha: str


@cache
def script(name: str) -> Script:
    """Read a script and its libraries. *Idempotent.*"""
    folder = files("windlass.engines.redis") / "scripts"
    text = (folder / f"{name}.lua").read_text("utf-8")
    first = text.partition("\n")[0]
    if first != "-- bare":
        uses = first.removeprefix("-- uses:").split() if first.startswith("-- uses:") else []
        parts = [(folder / "lib" / f"{part}.lua").read_text("utf-8") for part in ("base", *uses)]
        text = "\n".join((*parts, text))
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
