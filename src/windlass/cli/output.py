"""How the command speaks: tables and records for people, one JSON value for programs.

Only answers go to stdout; notes go to stderr. Must not ask a store anything. Invariants: text that came out of a store
cannot steer the terminal, in JSON neither (control characters and marks of direction are shown, not sent); JSON keys
are the attribute names of the API, and instants are ISO 8601.
"""

from __future__ import annotations

import importlib.util
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import click
import msgspec

from windlass.core.units import show_duration
from windlass.logs.lines import escaped, printable

__all__ = [
    "Column",
    "ago",
    "confirm",
    "count",
    "emit_json",
    "escaped",
    "fit",
    "inline",
    "length",
    "lines",
    "moment",
    "note",
    "printable",
    "record",
    "say",
    "short",
    "table",
]

GAP: Final = "  "
ELLIPSIS: Final = "…"
TEXT_MAX: Final = 60  # characters of free text in a table
LAST_LEAST: Final = 24  # characters into which the last column of a table may be folded

# Words that a terminal with rich shows in colour.
STYLES: Final = {
    "ready": "bold",
    "scheduled": "yellow",
    "running": "cyan",
    "done": "green",
    "dead": "bold red",
    "cancelled": "dim",
    "skipped": "dim",
    "lost": "bold red",
    "succeeded": "green",
    "failed": "bold red",
    "paused": "yellow",
    "ok": "green",
    "advice": "cyan",
    "warning": "yellow",
    "error": "bold red",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Numbers stand ``right``.

    Where a table must fit a width, ``extra`` columns are left out first, then those with a ``least`` are shortened, but
    not below it.
    """

    name: str
    right: bool = False
    least: int | None = None
    extra: bool = False


def emit_json(value: object) -> None:
    """Print one value as JSON on stdout. Takes what the API gives: dataclasses, Structs, datetimes, enums."""
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2)
    click.echo(escaped(text.decode()))


def _plain(value: object) -> object:
    dump: Callable[..., object] | None = getattr(value, "model_dump", None)  # a pydantic model, restored from a result
    return dump(mode="json") if callable(dump) else str(value)


def inline(value: object) -> str:
    """Write a value as JSON in one line."""
    return escaped(msgspec.json.encode(value, enc_hook=_plain).decode())


def say(text: str) -> None:
    """Print a line of the answer."""
    click.echo(printable(text))


def note(text: str) -> None:
    """Tell the person something that is no part of the answer."""
    click.echo(printable(text), err=True)


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; with rich on a terminal also in colour."""
    if sys.stdout.isatty() and importlib.util.find_spec("rich"):
        cells = [[printable(cell) for cell in row] for row in rows]
        _rich_table(columns, cells, _widths(columns, cells))
        return
    for line in lines(columns, rows):
        click.echo(line)


def lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Give an aligned table as lines, the names of the columns first; none is wider than ``width``."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = _widths(columns, cells)
    if width is not None and _total(widths) > width:
        kept = [index for index, column in enumerate(columns) if not column.extra]
        columns, widths = [columns[i] for i in kept], [widths[i] for i in kept]
        cells = [[row[i] for i in kept] for row in cells]
        _shorten(columns, widths, width)
    made = []
    for row in [[column.name for column in columns], *cells]:
        padded = []
        for cell, room, column in zip(row, widths, columns, strict=True):
            text = fit(cell, room)
            space = " " * (room - _width(text))
            padded.append(space + text if column.right else text + space)
        line = GAP.join(padded).rstrip()
        made.append(line if width is None else _cut(line, width))
    return made


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[int]:
    return [max([_width(column.name), *(_width(row[i]) for row in cells)]) for i, column in enumerate(columns)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _shorten(columns: Sequence[Column], widths: list[int], width: int) -> None:
    """Take from the widest column that may be shortened until the table fits, or nothing is left to take."""
    while _total(widths) > width:
        able = [i for i, column in enumerate(columns) if column.least is not None and widths[i] > column.least]
        if not able:
            return
        widths[max(able, key=lambda i: widths[i])] -= 1


def fit(text: str, width: int) -> str:
    """Give a text of at most this width: one that is too long loses its middle."""
    if _width(text) <= width:
        return text
    if width < 1:
        return ""
    tail = (width - 1) // 2
    return _cut(text, width - 1 - tail) + ELLIPSIS + _cut(text[::-1], tail)[::-1]


def _cut(text: str, width: int) -> str:
    while text and _width(text) > width:
        text = text[:-1]
    return text


def _width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(mark) else 1 + (unicodedata.east_asian_width(mark) in "WF") for mark in text)


def _rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], widths: Sequence[int]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, padding=(0, len(GAP), 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        last = index == len(columns) - 1
        grid.add_column(column.name, justify="right" if column.right else "left", no_wrap=not last, overflow="fold")
    for row in rows:
        grid.add_row(*(Text(cell, style=STYLES.get(cell.strip(), "")) for cell in row))
    console = Console()
    others = sum(widths[:-1]) + len(GAP) * len(widths)
    if console.width - others < min(LAST_LEAST, widths[-1]):
        # Rich would cut ids and states to fit. Whole lines that the terminal wraps are of more use.
        console = Console(width=others + widths[-1])
    console.print(grid)


def record(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values below each other; further lines of a value stand under the first."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        first, *others = value.splitlines() or [""]
        label = click.style(name.ljust(width) if first else name, bold=True)
        click.echo(f"{label}{GAP}{printable(first)}" if first else label)
        for line in others:
            click.echo(f"{' ' * width}{GAP}{printable(line)}".rstrip())


def short(text: str, most: int = TEXT_MAX) -> str:
    """Write free text as one line of a table, of ``most`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= most else text[: most - 3] + "..."


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone. A no ends the command with 1, nobody to answer with 2."""
    if yes:
        return
    try:
        agreed = click.confirm(printable(question), err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise click.UsageError("nobody is there to confirm this; give --yes") from None
    if not agreed:
        note("Nothing was changed.")
        raise click.exceptions.Exit(1)


def moment(when: datetime, now_ms: int) -> str:
    """Write an instant and how far away it is: ``2026-01-02 03:04:05 UTC (5 min ago)``."""
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC ({ago(when, now_ms)})"


def ago(when: datetime, now_ms: int) -> str:
    """Write how far away an instant is: ``5 min ago``, ``in 5 min``, ``now``."""
    ms = now_ms - round(when.timestamp() * 1_000)
    if abs(ms) < 1_000:
        return "now"
    whole = max(1_000, abs(ms) // 1_000 * 1_000)
    return f"{length(whole)} ago" if ms > 0 else f"in {length(whole)}"


def length(ms: float) -> str:
    """Write a length of time; one that clocks of two machines made negative is none."""
    return show_duration(max(0.0, ms))


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Write a number and its noun: ``1 job``, ``1,200 jobs``."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
