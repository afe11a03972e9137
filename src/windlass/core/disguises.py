"""Finding secrets in a text in whatever form they stand there: as they are, or escaped by ``repr``, JSON or a URL.

Pure. Text and secret are brought into one common form, in which every escape is what it stands for, a backslash is
nothing, and a newline is the ``n`` that it is written with. Escaping does not change that form, also not when it is
done twice, so a secret is found by a plain search and the work grows only with the length of the text. The form says
less than the text: what is found may in rare cases be something else, and is then covered for nothing.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Sequence
from typing import Final

__all__ = ["LEAST", "cover"]

LEAST: Final = 3  # characters; covering shorter texts in a message would eat the message
LINE_LEAST: Final = 8  # characters of a line of a secret that is covered by itself

HEX: Final = "[0-9a-fA-F]"
BACKSLASH: Final = r"(?:\\|%(?:25)*+5[cC])"
ESCAPE: Final = re.compile(
    rf"(?P<coded>(?:{BACKSLASH}++u{HEX}{{4}})+|{BACKSLASH}++U{HEX}{{8}}|(?:{BACKSLASH}++x{HEX}{{2}})+"
    rf"|(?:(?!{BACKSLASH})%(?:25)*{HEX}{{2}})+)|{BACKSLASH}++|[+\n\r\t\b\f]"
)
UNIT: Final = re.compile(rf"{BACKSLASH}++(?:U({HEX}{{8}})|u({HEX}{{4}})|x({HEX}{{2}}))|%(?:25)*({HEX}{{2}})")
COMMON: Final = str.maketrans({"\\": "", "+": " ", "\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"})


def cover(text: str, secrets: Sequence[str], mask: str) -> str:
    """Put the mask over every secret in a text, and over each longer line of one."""
    wanted: list[str] = []
    for secret in secrets:
        text = text.replace(secret, mask)
        if not (secret.isascii() and secret.isalnum()):  # else it looks the same everywhere
            lines = {line.strip() for line in secret.splitlines()}
            wanted += [secret, *(line for line in lines if len(line) >= LINE_LEAST)]
    if not wanted:
        return text
    common, starts, ends = _common(text)
    spans = []
    for each in wanted:
        sought = _common(each)[0]
        at = common.find(sought) if len(sought) >= LEAST else -1
        while at >= 0:
            spans.append((starts[at], ends[at + len(sought) - 1]))
            at = common.find(sought, at + len(sought))
    return _replace(text, spans, mask)


def _replace(text: str, spans: list[tuple[int, int]], mask: str) -> str:
    parts, done = [], 0
    for start, end in sorted(spans, key=lambda span: (span[0], -span[1])):
        if start >= done:
            parts += [text[done:start], mask]
        done = max(done, end)
    return "".join([*parts, text[done:]])


def _common(text: str) -> tuple[str, array[int], array[int]]:
    """The common form of a text, and where each character of it begins and ends in the text."""
    parts: list[str] = []
    starts, ends = array("q"), array("q")
    done = 0
    for found in ESCAPE.finditer(text):
        start, end = found.span()
        parts.append(text[done:start])
        starts.extend(range(done, start))
        ends.extend(range(done + 1, start + 1))
        if found["coded"] is None:
            if len(found[0]) == 1 and (mark := found[0].translate(COMMON)):  # else it is a run of backslashes
                parts.append(mark)
                starts.append(start)
                ends.append(end)
        else:
            for mark, first, last in _meant(found[0]):
                parts.append(mark)
                starts.append(start + first)
                ends.append(start + last)
        done = end
    parts.append(text[done:])
    starts.extend(range(done, len(text)))
    ends.extend(range(done + 1, len(text) + 1))
    return "".join(parts), starts, ends


def _meant(escape: str) -> Iterator[tuple[str, int, int]]:
    """The characters that a run of escapes stands for, in common form, each with its place in the run."""
    units = list(UNIT.finditer(escape))
    codes = [int(unit[unit.lastindex or 0], 16) for unit in units]
    read = _of_bytes if units[0].lastindex in (3, 4) else _of_units
    at = 0
    while at < len(codes):
        mark, width = read(codes, at)
        if mark := mark.translate(COMMON):
            yield mark, units[at].start(), units[at + width - 1].end()
        at += width


def _of_bytes(codes: list[int], at: int) -> tuple[str, int]:
    """A character in UTF-8, else the one of that number."""
    width = 1 if codes[at] < 0xC0 else 2 if codes[at] < 0xE0 else 3 if codes[at] < 0xF0 else 4
    try:
        return bytes(codes[at : at + width]).decode(), width
    except UnicodeDecodeError:
        return chr(codes[at]), 1


def _of_units(codes: list[int], at: int) -> tuple[str, int]:
    """A character of its number, or of two surrogates."""
    if 0xD800 <= codes[at] < 0xDC00 and at + 1 < len(codes) and 0xDC00 <= codes[at + 1] < 0xE000:
        return chr(0x10000 + ((codes[at] - 0xD800) << 10) + codes[at + 1] - 0xDC00), 2
    return chr(min(codes[at], 0x10FFFF)), 1
