"""Logging of the ``windlass worker`` command, as the settings want it. See ``windlass.logs`` for how records flow."""

from __future__ import annotations

from collections.abc import Sequence

from windlass import logs
from windlass.settings import Settings

__all__ = ["configure_logs"]


def configure_logs(settings: Settings, level: str, hushed: Sequence[str] = ()) -> None:
    """Have this process write its log to stderr, or leave logging alone. ``hushed`` loggers say only errors."""
    if settings.configure_logging:
        logs.speak(settings.log_format, level, hushed)
    else:
        logs.leave_alone()
