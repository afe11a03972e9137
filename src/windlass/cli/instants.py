"""Instants as an operator writes them on a command line. Invariant: what leaves here knows its time zone."""

from __future__ import annotations

from datetime import datetime

from windlass.core.errors import ConfigError

__all__ = ["instant"]


def instant(text: str, option: str) -> datetime:
    """Read ISO 8601 with a time zone, such as ``2026-01-02T03:04Z``. Raises ConfigError that names the option."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{option} is {text!r}, which is not a date and time; write ISO 8601, such as 2026-01-02T03:04:05Z"
        ) from None
    if when.utcoffset() is None:
        raise ConfigError(f"{option} is {text!r}, which has no time zone; add Z or an offset such as +02:00")
    return when
