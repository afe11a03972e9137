"""``windlass explain``: why a job is not running, in words."""

from __future__ import annotations

import click

from windlass.cli.common import Session, pass_session
from windlass.cli.exits import FAILED
from windlass.cli.output import emit_json, printable

__all__ = ["explain"]


@click.command()
@click.argument("job_id", metavar="ID")
@pass_session
def explain(session: Session, job_id: str) -> int:
    """Say what a job is doing, and why it is not running. Exits 1 for an unknown id."""
    app = session.store()
    text = app.explain(job_id)
    if session.json:
        emit_json({"id": job_id, "explanation": text})
    else:
        click.echo(printable(text))
    return 0 if app.get(job_id) else FAILED
