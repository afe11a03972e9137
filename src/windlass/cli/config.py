"""``windlass config``: every setting, its value as one would write it, and where it came from. Passwords are masked."""

from __future__ import annotations

from typing import Final

import click
import msgspec

from windlass.cli.common import Session, pass_session
from windlass.cli.output import Column, emit_json, inline, note, table
from windlass.core.units import format_duration
from windlass.settings import Settings, mask_url
from windlass.settings.values import COUNTS

__all__ = ["config", "written"]

SIZES: Final = frozenset({"payload_max", "result_max", "error_max", "max_memory"})
SIZE_STEPS: Final = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


@click.command()
@pass_session
def config(session: Session) -> None:
    """Show every setting and where its value comes from."""
    loaded = session.loaded()
    settings = msgspec.structs.replace(loaded.settings, url=mask_url(loaded.settings.url))
    if session.json:
        file = None if loaded.file is None else str(loaded.file)
        values = {key: in_seconds(key, getattr(settings, key)) for key in Settings.__struct_fields__}
        emit_json({"settings": values, "origin": loaded.origin, "file": file, "warnings": loaded.warnings})
        return
    rows = [[key, written(key, getattr(settings, key)), loaded.origin[key]] for key in Settings.__struct_fields__]
    table([Column("Setting"), Column("Value"), Column("From")], rows)
    for warning in ([] if loaded.inherited is None else [loaded.inherited]) + loaded.warnings:
        note(f"warning: {warning}")


def in_seconds(key: str, value: object) -> object:
    """Give a value as JSON shows it: lengths of time in seconds, as everywhere in the API."""
    if key == "queues" and isinstance(value, dict):
        return {
            name: msgspec.structs.asdict(one) | {"max_wait": None if one.max_wait is None else one.max_wait / 1_000}
            for name, one in value.items()
        }
    if isinstance(value, int) and not isinstance(value, bool) and key not in COUNTS | SIZES:
        return value / 1_000
    return value


def written(key: str, value: object) -> str:
    """Write a value as it is written in a settings file, without quotes."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() if key in COUNTS:
            return str(value)
        case int() if key in SIZES:
            return next(
                (f"{value // step}{unit}" for step, unit in SIZE_STEPS if value and value % step == 0), str(value)
            )
        case int():
            return format_duration(value)
        case _:
            return inline(value)
