"""Where a key stands in a TOML file, so that an error can name the line to blame.

Pure, and a guide only: the parser of the standard library keeps no positions, so this looks for the line a person would
look for. It must never be used to read a value. Invariant: it gives a line of the file, or None, and never raises.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

__all__ = ["line_of"]

HEADER: Final = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
KEY: Final = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
PART: Final = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def line_of(text: str, path: Sequence[str]) -> int | None:
    """Give the number (from 1) of the line where the key ``path`` is set, or its nearest parent; None: neither is."""
    best: tuple[int, int] | None = None  # how much of the path, and where
    table: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        if header := HEADER.match(line):
            table = found = _parts(header[1])
        elif key := KEY.match(line):
            found = [*table, *_parts(key[1])]
        else:
            continue
        if list(path[: len(found)]) == found and (best is None or len(found) > best[0]):
            best = (len(found), number)
    return None if best is None else best[1]


def _parts(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in PART.findall(dotted)]
