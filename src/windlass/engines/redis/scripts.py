"""The Lua scripts: one operation a file, put together with the libraries that its first line names.

A script is given only those of the fixed keys that its text names; the first lines of the text say which.

Each text is sent in full only to a server that does not know it (EVALSHA, then EVAL), so losing the script cache at
any time costs one round trip and nothing else.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Final

from msgspec import Struct

__all__ = ["FIXED_KEYS", "READ_ONLY", "Script", "script"]

FIXED_KEYS: Final = (
    "meta", "body", "rec", "result", "errors", "reason", "progress", "arrivals", "running", "cancels",
    "dead", "dead-purge", "workers", "leases", "tombs", "totals", "queues", "expiring", "awaited", "wake", "wake-loop",
    "busy", "dues", "lone", "idle",
    "cause", "died", "recoveries", "documents", "documents-over", "flow",
    "guards", "blocked", "blocked-by", "holds", "once", "carriers", "markers", "gates", "rates", "unique",
    "unique-expiring", "locks", "lines", "circuits", "probes", "bounds", "starved", "rate-ends", "damaged",
)  # fmt: skip
TYPES: Final = {
    "arrivals": "zset", "running": "zset", "cancels": "zset", "dead": "zset", "dead-purge": "zset", "leases": "zset",
    "tombs": "zset", "expiring": "zset", "awaited": "zset", "wake": "list", "wake-loop": "list",
    "busy": "zset", "dues": "zset", "lone": "zset",
    "died": "zset", "documents-over": "zset",
    "blocked": "zset", "holds": "zset", "carriers": "zset", "markers": "zset", "gates": "zset",
    "unique-expiring": "zset", "rate-ends": "zset",
}  # fmt: skip
# Keys by which workers hear of jobs, and counts for people. What is wrong with them decides about no call.
HINTS: Final = frozenset({"wake", "wake-loop", "awaited", "totals", "flow"})
GUARD_KEYS: Final = frozenset(FIXED_KEYS[FIXED_KEYS.index("guards") : FIXED_KEYS.index("damaged")])

# Scripts that change nothing, so a call whose answer was lost may be made again.
READ_ONLY: Final = frozenset(
    {
        "rows", "page", "queues", "workers", "counts", "check", "names", "deaths", "read", "keys", "locks", "circuits",
        "limits", "blocked",
    }
)  # fmt: skip


# Scripts that have a short form for a store without guards and bound queues, and the libraries that are left out of it.
UNGUARDED: Final = frozenset({"claim", "settle", "exchange"})
OF_GUARDS: Final = frozenset({"admitting", "running", "circuits", "judging", "bounding"})

# Scripts that look at keys by number, and so are given all of them.
WHOLE: Final = frozenset({"check", "sweep"})


class Script(Struct, frozen=True):
    """One operation: its name, the text that the server runs, the digest that names it, and its fixed keys."""

    name: str
    text: str
    sha: str
    keys: tuple[str, ...]


@cache
def script(name: str, *, guarded: bool = True) -> Script:
    """Read a script and its libraries; without ``guarded`` in its short form, if it has one. *Idempotent.*"""
    folder = files("windlass.engines.redis") / "scripts"
    text = (folder / f"{name}.lua").read_text("utf-8")
    first = text.partition("\n")[0]
    keys: tuple[str, ...] = ()
    if first != "-- bare":
        uses = first.removeprefix("-- uses:").split() if first.startswith("-- uses:") else []
        if not guarded and name in UNGUARDED:
            uses = ["unguarded" if part == "guards" else part for part in uses if part not in OF_GUARDS]
        parts = [(folder / "lib" / f"{part}.lua").read_text("utf-8") for part in ("base", *uses)]
        text = "\n".join((*parts, text))
        words = set(re.findall(r"\w+", text))
        keys = tuple(key for key in FIXED_KEYS if name in WHOLE or constant(key) in words)
        checked = keys if name not in READ_ONLY else ()
        text = f"{declared(keys)}local KINDS = '{kinds(checked)}'\n{text}"
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), keys)


def constant(key: str) -> str:
    """What the scripts call a fixed key."""
    return key.upper().replace("-", "_")


def kinds(keys: Sequence[str]) -> str:
    """A letter for each key: of what type it must be before a script writes, "-" where that decides nothing."""
    return "".join("-" if key in HINTS else TYPES.get(key, "hash")[0] for key in keys)


def declared(keys: Sequence[str]) -> str:
    """Lua that names the fixed keys of a script. A key more costs client and server 0.3 us a call each.

    Those of guards are fields of ``K``, since a script has room for 200 locals only.
    """
    places = {constant(key): f"KEYS[{place}]" for place, key in enumerate(keys, 1)}
    of_guards = {constant(key): places.pop(constant(key)) for key in keys if key in GUARD_KEYS}
    table = ", ".join(f"{name} = {place}" for name, place in of_guards.items())
    named = f"local {', '.join(places)} = {', '.join(places.values())}\n"
    return f"{named}local K = {{ {table} }}\n"
