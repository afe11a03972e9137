"""The Lua scripts: one operation a file, put together with the libraries that its first line names.

``-- uses:`` names libraries on top of ``ground`` and ``base``, which most scripts need; ``-- on:`` names all there are.

A script is given only those of the fixed keys that its text names. What is constant in it, such as the place of a key,
stands in the text where it is used (``inlined``).

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
    "dead", "dead-purge", "workers", "leases", "tombs", "counts", "queues", "expiring", "awaited", "wake", "wake-loop",
    "busy", "dues", "lone", "idle",
    "cause", "died", "recoveries", "documents", "documents-over", "totals", "flow", "notes",
    "guards", "blocked", "blocked-by", "holds", "once", "carriers", "markers", "gates", "rates", "unique",
    "unique-expiring", "locks", "lines", "bounds", "starved", "rate-ends", "joins", "tied", "join-ends", "damaged",
)  # fmt: skip
TYPES: Final = {
    "arrivals": "zset", "running": "zset", "cancels": "zset", "dead": "zset", "dead-purge": "zset", "leases": "zset",
    "tombs": "zset", "expiring": "zset", "awaited": "zset", "wake": "list", "wake-loop": "list",
    "busy": "zset", "dues": "zset", "lone": "zset",
    "died": "zset", "documents-over": "zset",
    "blocked": "zset", "holds": "zset", "carriers": "zset", "markers": "zset", "gates": "zset",
    "unique-expiring": "zset", "rate-ends": "zset", "tied": "zset", "join-ends": "zset",
}  # fmt: skip
# Keys by which workers hear of jobs, and counts for people; totals and flow are those of the version before. What is
# wrong with them decides about no call.
HINTS: Final = frozenset({"wake", "wake-loop", "awaited", "counts", "totals", "flow"})
GUARD_KEYS: Final = frozenset(FIXED_KEYS[FIXED_KEYS.index("guards") : FIXED_KEYS.index("damaged")])

# Scripts that change nothing, so a call whose answer was lost may be made again.
READ_ONLY: Final = frozenset(
    {
        "rows", "page", "queues", "workers", "counts", "check", "names", "deaths", "read", "keys", "holds",
        "limits", "blocked", "metrics", "joins", "list_joins", "members",
    }
)  # fmt: skip


# Scripts that have a short form for a store without guards and bound queues, and the libraries that are left out of it.
UNGUARDED: Final = frozenset({"claim", "settle", "exchange"})
OF_GUARDS: Final = frozenset(
    {"deciding", "joining", "admitting", "running", "leases", "document", "circuits", "judging", "bounding"}
)

# Libraries that another one stands on.
NEEDS: Final = {"records": ("noting",)}
# Libraries that go with another one.
ADDS: Final = {"guards": ("deciding", "joining")}

# Scripts that look at keys by number, and so are given all of them.
WHOLE: Final = frozenset({"check", "sweep"})


# What scripts are read as: comments, texts, names. A name behind a dot is a field, but for those of G and K.
PIECE: Final = re.compile(r"""--[^\n]*|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|(?<![\w.:])(?:[GK]\.)?[A-Za-z_]\w*""")
# Lines that only name constants: numbers and texts.
CONSTANTS: Final = re.compile(
    r"(?:local )?((?:(?:G\.|[bks])?[A-Z]\w*)(?:, (?:[bks]?[A-Z]\w*))*)"
    r" = ((?:-?\d[\de. ^+-]*|'[^']*')(?:, -?\d[\de. ^+-]*)*)"
)


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
        uses = ["ground", "base"]
        if first.startswith("-- on:"):
            uses = first.removeprefix("-- on:").split()
        elif first.startswith("-- uses:"):
            uses += first.removeprefix("-- uses:").split()
        uses = [part for one in uses for part in (*NEEDS.get(one, ()), one, *ADDS.get(one, ()))]
        if not guarded and name in UNGUARDED:
            uses = ["unguarded" if part == "guards" else part for part in uses if part not in OF_GUARDS]
        parts = [(folder / "lib" / f"{part}.lua").read_text("utf-8") for part in uses]
        text = "\n".join((*parts, text))
        words = set(re.findall(r"\w+", text))
        keys = tuple(key for key in FIXED_KEYS if name in WHOLE or constant(key) in words)
        text = inlined(text, keys, checked=name not in READ_ONLY)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), keys)


def constant(key: str) -> str:
    """What the scripts call a fixed key."""
    return key.upper().replace("-", "_")


def inlined(text: str, keys: Sequence[str], *, checked: bool) -> str:
    """The text of a script without comments, and with what is constant written where it is used.

    A script is a function that the server runs from its first line on in each call. Every local that functions of it
    use makes each of these functions dearer to set up, by a search among all such locals; a constant costs nothing.
    With ``checked`` it looks at the types of its keys before it writes, but for those where they decide nothing.
    """
    places = {key: f"KEYS[{place}]" for place, key in enumerate(keys, 1)}
    known = {("K." if key in GUARD_KEYS else "") + constant(key): place for key, place in places.items()}
    looks, sorted_sets = [], []
    for key, place in places.items() if checked else ():
        if TYPES.get(key) == "zset":
            sorted_sets.append(f"[{place}] = true")
        if key not in HINTS:
            looks.append(f"call('{'ZCARD' if TYPES.get(key) == 'zset' else 'HLEN'}', {place})")
    known |= {"LOOK_AT_TYPES": " ".join(looks), "SORTED_SETS": f"{{ {', '.join(sorted_sets)} }}"}
    lines = []
    for line in PIECE.sub(lambda piece: "" if piece[0].startswith("--") else piece[0], text).split("\n"):
        found = CONSTANTS.fullmatch(line.rstrip())
        if found is None:
            lines.append(line)
        else:
            known |= zip(found[1].split(", "), (value_of(one) for one in found[2].split(", ")), strict=True)
    return PIECE.sub(lambda piece: known.get(piece[0], piece[0]), "\n".join(lines))


def value_of(text: str) -> str:
    """A constant as it can stand in any expression."""
    return f"({text})" if " " in text else text
