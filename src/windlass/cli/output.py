"""How the command speaks: tables and records for people, one JSON value for programs.

Only answers go to stdout; notes go to stderr. Must not ask a store anything. Invariants: text that came out of a store
cannot steer the terminal (control characters are shown, not sent); JSON keys are the attribute names of the API, and
instants are ISO 8601.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import click
import msgspec

from windlass.logs.lines import printable
from windlass.units import show_duration

__all__ = [
    "Column",
    "ago",
    "confirm",
    "count",
    "emit_json",
    "inline",
    "length",
    "moment",
    "note",
    "printable",
    "record",
    "table",
]

GAP: Final = "  "
LAST_LEAST: Final = 24  # characters into which the last column of a table may be folded

# Words that a terminal with rich shows in colour.
STYLES: Final = {
    "ready": "bold",
    "scheduled": "yellow",
    "running": "cyan",
    "done": "green",
    "dead": "bold red",
    "cancelled": "dim",
    "paused": "yellow",
    "ok": "green",
    "advice": "cyan",
    "warning": "yellow",
    "error": "bold red",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. Numbers stand ``right``."""

    name: str
    right: bool = False


def emit_json(value: object) -> None:
    """Print one value as JSON on stdout. Takes what the API gives: dataclasses, Structs, datetimes, enums."""
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=_plain), indent=2)
    click.echo(text.decode())


def _plain(value: object) -> object:
    dump: Callable[..., object] | None = getattr(value, "model_dump", None)  # a pydantic model, restored from a result
    return dump(mode="json") if callable(dump) else str(value)


def inline(value: object) -> str:
    """Write a value as JSON in one line."""
    return msgspec.json.encode(value, enc_hook=_plain).decode()


def note(text: str) -> None:
    """Tell the person something that is no part of the answer."""
    click.echo(printable(text), err=True)


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; with rich on a terminal also in colour."""
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [[c.name for c in columns], *cells]) for i in range(len(columns))]
    if sys.stdout.isatty() and importlib.util.find_spec("rich"):
        _rich_table(columns, cells, widths)
        return
    for row in [[column.name for column in columns], *cells]:
        padded = (
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        click.echo(GAP.join(padded).rstrip())


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


def confirm(question: str, yes: bool) -> None:
    """Ask before something that cannot be undone. A no ends the command with 1, nobody to answer with 2."""
    if yes:
        return
    try:
        agreed = click.confirm(question, err=True)
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
