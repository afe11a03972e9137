"""``windlass stats``: how many jobs are in each state, and what happened since the store was made."""

from __future__ import annotations

from typing import Final

import click

from windlass.cli.common import Session, pass_session
from windlass.cli.output import Column, emit_json, table

__all__ = ["stats"]

TOTAL: Final = "total_"


@click.command()
@pass_session
def stats(session: Session) -> None:
    """Count jobs by state, and what happened since the store was made."""
    counts = session.store().stats()
    if session.json:
        emit_json(counts)
        return
    now = [[name, f"{number:,}"] for name, number in counts.items() if not name.startswith(TOTAL)]
    ever = [[name.removeprefix(TOTAL), f"{number:,}"] for name, number in counts.items() if name.startswith(TOTAL)]
    table([Column("State"), Column("Jobs", right=True)], now)
    click.echo()
    table([Column("Since the store was made"), Column("Times", right=True)], ever)
