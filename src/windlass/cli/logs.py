"""Log lines of the ``windlass`` command: one record, one line, in the format of the setting ``log_format``.

Only the command configures logging; an application that runs a worker by itself keeps its own.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import msgspec

__all__ = ["configure_logs"]

FIELDS = ("job_id", "job_name", "attempt")  # what ctx.log adds to a record


def configure_logs(form: str, level: str) -> None:
    """Send all logs of this process to stderr. ``form`` is text, json or logfmt."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter({"json": JsonLines(), "logfmt": Logfmt()}.get(form, Text()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def facts(record: logging.LogRecord) -> dict[str, object]:
    """The fields of a record that a machine reads."""
    found: dict[str, object] = {
        "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "pid": record.process,
        "logger": record.name,
        "message": record.getMessage(),
    }
    found |= {name: value for name in FIELDS if (value := getattr(record, name, None)) is not None}
    if record.exc_info:
        found["error"] = logging.Formatter().formatException(record.exc_info)
    return found


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return msgspec.json.encode(facts(record), enc_hook=str).decode()


class Logfmt(logging.Formatter):
    """``key=value`` pairs, values quoted as JSON where they need it."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{key}={quoted(value)}" for key, value in facts(record).items())


def quoted(value: object) -> str:
    """A value of logfmt."""
    text = str(value)
    plain = text and text.isprintable() and not any(mark in text for mark in ' "=')
    return text if plain else msgspec.json.encode(text).decode()


class Text(logging.Formatter):
    """For people: time, level, process, message; control characters shown, not sent."""

    def format(self, record: logging.LogRecord) -> str:
        found = facts(record)
        extra = "".join(f" {name}={found[name]}" for name in FIELDS if name in found)
        line = f"{found['ts']} {record.levelname:<7} {record.process} {found['message']}{extra}"
        line = "".join(mark if mark.isprintable() else ascii(mark)[1:-1] for mark in line)
        return f"{line}\n{found['error']}" if "error" in found else line
