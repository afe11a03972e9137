"""``windlass limits``: how full the Concurrency and Rate limits are, and how many jobs wait at each."""

from __future__ import annotations

import click

from windlass.cli.common import Commands, Session, pass_session
from windlass.cli.output import Column, emit_json, length, note, table
from windlass.guards.limits import LimitInfo

__all__ = ["limits"]


@click.group(cls=Commands)
def limits() -> None:
    """List limits and how full they are."""


@limits.command("ls")
@pass_session
def ls(session: Session) -> None:
    """List the limits of running and waiting jobs, and how full they are."""
    app = session.store()
    found = app.limits()
    if session.json:
        emit_json(found)
        return
    if not found:
        note(f"No limit is in use in {app.engine.info.name} {app.engine.info.target}.")
        return
    columns = [Column("Limit"), Column("Key"), Column("Used", right=True), Column("Of", right=True)]
    table([*columns, Column("Waiting", right=True)], [_row(one) for one in found])


def _row(one: LimitInfo) -> list[str]:
    of = "?" if one.limit is None else f"{one.limit:,}"
    if one.per is not None and one.limit is not None:
        of += f" per {length(one.per * 1_000)}"
    return [one.kind, one.key, f"{one.used:,}", of, f"{one.waiting:,}"]
