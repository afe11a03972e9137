"""How ``doctor`` and ``check`` report: one line a finding, what to do under it, worst last so that it is seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from windlass.cli.common import Session
from windlass.cli.output import Column, emit_json, table
from windlass.engines.base import Finding

__all__ = ["ADVICE", "ERROR", "OK", "WARNING", "report"]

OK: Final = "ok"
ADVICE: Final = "advice"  # nothing is wrong; it could be better
WARNING: Final = "warning"
ERROR: Final = "error"
ORDER: Final = (OK, ADVICE, WARNING, ERROR)


def report(session: Session, findings: Sequence[Finding]) -> None:
    """Print findings, the worst ones last."""
    ordered = sorted(findings, key=lambda finding: ORDER.index(finding.level))
    if session.json:
        emit_json(ordered)
        return
    rows: list[list[str]] = []
    for finding in ordered:
        rows.append([finding.level, finding.check, finding.message])
        if finding.advice:
            rows.append(["", "", f"> {finding.advice}"])
    if rows:
        table([Column("Level"), Column("Check"), Column("Finding")], rows)
    bad = [(level, sum(finding.level == level for finding in findings)) for level in (ERROR, WARNING)]
    parts = [f"{number} {level}{'' if number == 1 else 's'}" for level, number in bad if number]
    click.echo(f"\n{', '.join(parts) or 'Nothing is wrong'}." if rows else "Nothing is wrong.")
