"""``windlass bench``: how fast this machine runs jobs. Works in a store of its own and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
from pathlib import Path

import click

from windlass import __version__
from windlass.bench.lab import Lab
from windlass.bench.scenarios import SCENARIOS, Figure
from windlass.cli.common import Session, pass_session
from windlass.cli.output import Column, emit_json, note, record, table
from windlass.core.errors import ConfigError
from windlass.core.files import make_folder

__all__ = ["bench"]

FOLDER = Path(".bench")


@click.command()
@click.option(
    "--scenario", "names", multiple=True, type=click.Choice(list(SCENARIOS)), help="Measure only this; repeatable."
)
@click.option(
    "--jobs", type=click.IntRange(1, 10_000_000), metavar="N", help="Jobs to drain and to enqueue. Default: 50,000."
)
@click.option("--quick", is_flag=True, help="Fewer jobs and shorter waits: a check that it works, not a measurement.")
@pass_session
def bench(session: Session, names: tuple[str, ...], jobs: int | None, quick: bool) -> None:
    """Measure how fast this machine runs jobs, with a real worker.

    Uses new SQLite files below .bench, on the disk of the current directory, or with --url a namespace of its own in
    that store. Both are removed afterwards.
    """
    if session.url is not None and session.url.startswith("memory:"):
        raise ConfigError(f"--url {session.url}: the measured worker is another process and cannot see it; name a file")
    make_folder(str(FOLDER))
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=FOLDER))
    try:
        lab = Lab(session.url, folder, jobs=jobs or (2_000 if quick else 50_000), quick=quick)
        facts = _facts(lab)
        figures = _measure(lab, names or tuple(SCENARIOS))
    finally:
        shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # somebody else measures here too
            FOLDER.rmdir()
    if session.json:
        emit_json({**facts, "figures": figures})
        return
    record([(key, str(value)) for key, value in facts.items()])
    click.echo()
    columns = [Column("Scenario"), Column(""), Column("Figure", right=True), Column("Unit"), Column("How")]
    table(columns, [[each.scenario, each.name, _number(each.value), each.unit, each.how] for each in figures])


def _measure(lab: Lab, names: tuple[str, ...]) -> list[Figure]:
    figures: list[Figure] = []
    for name in names:
        what = (SCENARIOS[name].__doc__ or "").strip().replace("``", "")
        note(f"{name}: {what}")
        figures += SCENARIOS[name](lab)
    return figures


def _facts(lab: Lab) -> dict[str, object]:
    """What the figures depend on."""
    with lab.store() as app:
        engine = app.engine.info
    return {
        "windlass": __version__,
        "python": platform.python_version(),
        "engine": f"{engine.name} {engine.version}",
        "durability": engine.durability,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "quick": lab.quick,
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.2f}"
