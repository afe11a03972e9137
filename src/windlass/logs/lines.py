"""How one record becomes one line: text for people, JSON or logfmt for machines.

Control characters are shown and not sent, and a traceback is indented, so nothing that a job puts into a message can
look like a line of its own. Formatting never fails, whatever ``__str__`` an argument has.
"""

from __future__ import annotations

import codecs
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from windlass.logs.outlet import Outlet

__all__ = ["Entry", "Voice", "escaped", "printable"]

CONTEXT: Final = ("job_id", "job_name", "attempt")  # what ctx.log adds to a record
UNSHOWN: Final = "<a message that cannot be shown>"
LEVELS: Final = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
LABELS: Final = {number: f"{name.upper():<7}" for number, name in LEVELS.items()}


class Entry(Struct, frozen=True, gc=False):
    """One thing to say. ``fields`` are for machines: the message says them too."""

    level: int
    at: float  # seconds since the epoch
    message: str
    args: tuple[object, ...] = ()
    fields: dict[str, object] | None = None
    error: BaseException | None = None


Fields: TypeAlias = Mapping[str, object] | None
# (level, stamp, pid, logger, message, fields, error) to one line.
Form: TypeAlias = Callable[[int, str, int, str, str, Fields, str | None], str]


class Voice:
    """Writes entries and records to an outlet in one format."""

    def __init__(self, outlet: Outlet, form: str, level: int, levels: Mapping[str, int]) -> None:
        """``levels`` are those of loggers that say less than ``level``."""
        self.level = level
        self._outlet = outlet
        self._levels = levels
        self._form: Form = {"json": as_json, "logfmt": as_logfmt}.get(form, as_text)
        self.reads_fields = self._form is not as_text
        self._encoding = "utf-8" if form == "json" else stderr_encoding()

    def wants(self, name: str, level: int) -> bool:
        """Whether an entry of this logger and level is shown."""
        return level >= self._levels.get(name, self.level)

    def say(self, name: str, entries: Sequence[Entry]) -> None:
        """Write entries, those that are shown. *Never raises.*"""
        least, pid, form, encoding = self._levels.get(name, self.level), os.getpid(), self._form, self._encoding
        lines = []
        for each in entries:
            if each.level >= least:
                message = expand(each.message, each.args) if each.args else each.message
                error = None if each.error is None else trace(each.error)
                line = form(each.level, stamp(each.at), pid, name, message, each.fields, error)
                lines.append(line.encode(encoding, "backslashreplace"))
        if lines:
            self._outlet.write(lines)

    def show(self, record: logging.LogRecord) -> None:
        """Write a record of the application."""
        context = {name: value for name in CONTEXT if (value := getattr(record, name, None)) is not None}
        message = expand(record.msg, record.args or ())
        if self._form is as_text:
            message += "".join(f" {name}={value}" for name, value in context.items())
        error = record.exc_info[1] if record.exc_info else None
        text = trace(error) if error is not None else record.exc_text
        line = self._form(record.levelno, stamp(record.created), os.getpid(), record.name, message, context, text)
        self._outlet.write([line.encode(self._encoding, "backslashreplace")])


def as_text(level: int, stamp: str, pid: int, _name: str, message: str, _fields: Fields, error: str | None) -> str:
    """For people: time, level, process, message."""
    line = f"{stamp} {LABELS.get(level) or level} {pid} {message if message.isprintable() else printable(message)}\n"
    return line if error is None else line + "".join(f"    {printable(each)}\n" for each in error.splitlines())


def as_json(level: int, stamp: str, pid: int, name: str, message: str, fields: Fields, error: str | None) -> str:
    """One JSON object a line."""
    data = msgspec.json.encode(facts(level, stamp, pid, name, message, fields, error), enc_hook=str)
    return escaped(data.decode()) + "\n"


def as_logfmt(level: int, stamp: str, pid: int, name: str, message: str, fields: Fields, error: str | None) -> str:
    """``key=value`` pairs, values quoted as JSON where they need it."""
    pairs = facts(level, stamp, pid, name, message, fields, error).items()
    return " ".join(f"{key}={quoted(value)}" for key, value in pairs) + "\n"


def facts(
    level: int, stamp: str, pid: int, name: str, message: str, fields: Fields, error: str | None
) -> dict[str, object]:
    """What a machine reads."""
    found: dict[str, object] = {
        "ts": stamp, "level": LEVELS.get(level) or str(level), "pid": pid, "logger": name,
        "message": clean(message),
    }  # fmt: skip
    if fields:
        found.update(fields)
    if error is not None:
        found["error"] = clean(error)
    return found


def clean(text: str) -> str:
    """Text without lone surrogates, which JSON cannot hold."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def quoted(value: object) -> str:
    """A value of logfmt."""
    text = str(value)
    plain = text and text.isprintable() and not any(mark in text for mark in ' "=')
    return text if plain else escaped(msgspec.json.encode(clean(text)).decode())


def printable(text: str) -> str:
    """Show control characters instead of sending them to the terminal."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in text)


def escaped(text: str) -> str:
    """Show what is not printable in JSON as JSON can, the line ends between its values excepted.

    JSON may have C1 controls, DEL and marks that turn the direction of a text as they are, and a terminal obeys them.
    """
    if text.isascii() and "\x7f" not in text:  # JSON escapes the other controls itself
        return text
    return "".join(mark if mark.isprintable() or mark == "\n" else utf16_escapes(mark) for mark in text)


def utf16_escapes(mark: str) -> str:
    """A character as JSON escapes it."""
    units = mark.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def expand(message: object, args: object) -> str:
    """The text of a message with its arguments."""
    try:
        text = str(message)
        return text % args if args else text
    except BaseException:  # noqa: BLE001 - a foreign __str__ may raise anything, and whoever logs is not to blame
        return f"{UNSHOWN}: {message}" if isinstance(message, str) else UNSHOWN


def trace(error: BaseException) -> str:
    """The traceback of an exception."""
    try:
        return "".join(traceback.format_exception(error)).rstrip("\n")
    except BaseException:  # noqa: BLE001 - the same
        return "<the traceback cannot be shown: formatting fails>"


last = (0, 0, "", "")


def stamp(at: float) -> str:
    """An instant as ISO 8601 in UTC with milliseconds."""
    global last  # instant, second, and their texts, for the next of the same: one assignment, so no lock
    ms = int(at * 1_000)
    before, second, to_second, text = last
    if ms != before:
        whole, rest = divmod(ms, 1_000)
        if whole != second:
            to_second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        text = f"{to_second}.{rest:03d}+00:00"
        last = (ms, whole, to_second, text)
    return text


def stderr_encoding() -> str:
    """What stderr is read as, where that is known."""
    try:
        return codecs.lookup(sys.__stderr__.encoding).name  # type: ignore[union-attr]
    except (AttributeError, LookupError, TypeError):
        return "utf-8"
