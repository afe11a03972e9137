"""``windlass migrate``: bring the tables of a store up to this version, under a lock, before the workers start."""

from __future__ import annotations

import click

from windlass.cli.common import Session, pass_session
from windlass.cli.output import emit_json, say

__all__ = ["migrate"]


@click.command()
@pass_session
def migrate(session: Session) -> None:
    """Upgrade the tables of the store to this version. Safe to repeat, and while workers run."""
    engine = session.store(create=True).engine
    version = engine.migrate()
    if session.json:
        emit_json({"name": engine.info.name, "target": engine.info.target, "version": version})
    else:
        say(f"{engine.info.name} {engine.info.target} is at schema {version}.")
