"""``windlass locks``: who holds which lock; take one away from a holder that is gone."""

from __future__ import annotations

import click

from windlass.cli.common import Commands, Session, pass_session
from windlass.cli.exits import FAILED
from windlass.cli.output import Column, confirm, emit_json, length, moment, note, say, table
from windlass.core.units import nearest

__all__ = ["locks"]


@click.group(cls=Commands)
def locks() -> None:
    """List and release locks."""


@locks.command("ls")
@pass_session
def ls(session: Session) -> None:
    """List the locks that are held, and how many wait for each."""
    app = session.store()
    found = app.locks()
    if session.json:
        emit_json(found)
        return
    if not found:
        note(f"No lock is held in {app.engine.info.name} {app.engine.info.target}.")
        return
    now = app.clock.wall_ms()
    columns = [Column("Key"), Column("Fence", right=True), Column("Since"), Column("Lease left", right=True)]
    columns += [Column("Waiting", right=True), Column("Holder")]
    rows = [
        [
            one.key,
            str(one.fence),
            moment(one.since, now),
            length(one.lease_left * 1_000) if one.lease_left > 0 else "over",
            f"{one.waiting:,}",
            one.owner,
        ]
        for one in found
    ]
    table(columns, rows)


@locks.command()
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def release(session: Session, key: str, yes: bool) -> int:
    """Take a lock away from its holder. Exits 1 if nobody holds it.

    The holder finds out at its next renewal.
    """
    app = session.store()
    held = {one.key: one for one in app.locks()}
    if key in held:
        confirm(f"Take lock {key} from {held[key].owner or 'its holder'}?", yes)
    released = app.release_lock(key)
    if session.json:
        emit_json({"key": key, "released": released})
    elif released:
        say(f"Lock {key} is released.")
    else:
        note(f"Nobody holds lock {key}{nearest(key, held)}")
    return 0 if released else FAILED
