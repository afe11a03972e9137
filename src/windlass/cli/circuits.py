"""``windlass circuits``: which dependencies are left alone, and why; open and close them by hand."""

from __future__ import annotations

import logging

import click

from windlass.cli.common import Commands, Session, pass_session
from windlass.cli.output import Column, emit_json, length, moment, note, say, table
from windlass.core.errors import ConfigError
from windlass.core.units import nearest
from windlass.guards import Circuit, CircuitInfo

__all__ = ["circuits"]


@click.group(cls=Commands)
def circuits() -> None:
    """List, open and close circuits."""


@circuits.command("ls")
@pass_session
def ls(session: Session) -> None:
    """List the circuits. Calls and failures are those of the window; waiting counts jobs."""
    app = session.store()
    found = app.circuit_states()
    if session.json:
        emit_json(found)
        return
    if not found:
        note(f"No circuits in {app.engine.info.name} {app.engine.info.target}.")
        return
    now = app.clock.wall_ms()
    columns = [Column("Circuit"), Column("State"), *(Column(each, right=True) for each in ("Calls", "Failures"))]
    columns += [Column("Waiting", right=True), Column("Since"), Column("Note")]
    table(columns, [_row(one, now) for one in found])


def _row(one: CircuitInfo, now: int) -> list[str]:
    remarks = [] if one.reason is None else [one.reason]
    if one.state == "open":
        remarks.append("until it is closed" if one.retry_in is None else f"probed in {length(one.retry_in * 1_000)}")
    since = "" if one.since is None else moment(one.since, now)
    return [one.name, one.state, f"{one.calls:,}", f"{one.failures:,}", f"{one.waiting:,}", since, ", ".join(remarks)]


@circuits.command("open")
@click.argument("name")
@click.option("--for", "for_", metavar="DURATION", help="For how long, such as 30m. Default: until it is closed.")
@click.option("--reason", metavar="TEXT", help="Why; shown to others.")
@pass_session
def open_(session: Session, name: str, for_: str | None, reason: str | None) -> None:
    """Open a circuit: no call goes through, and its jobs wait in their place."""
    circuit = _circuit(session, name, create=True)
    circuit.open(for_, reason)
    _report(session, circuit, f"Circuit {name} is open{f' for {for_}' if for_ else ' until it is closed'}.")


@circuits.command()
@click.argument("name")
@pass_session
def close(session: Session, name: str) -> None:
    """Close a circuit: calls go through again, and its waiting jobs start step by step."""
    circuit = _circuit(session, name)
    circuit.close()
    _report(session, circuit, f"Circuit {name} is closed.")


def _circuit(session: Session, name: str, *, create: bool = False) -> Circuit:
    """The circuit of that name. Raises ConfigError for one that no application has.

    A circuit lives in the application that declares it. Without one, the store may not have heard of it yet.
    """
    app = session.store(create=create)
    known = sorted({*app.circuits.names, *(one.name for one in app.circuit_states())})
    if name not in known:
        what = f"no circuit {name!r} is declared by the application or known to the store{nearest(name, known)}"
        if session.app_target() is not None:
            raise ConfigError(f"{what}; see `windlass circuits ls`")
        note(f"Note: {what}; only jobs of an application that declares it obey it")
    # This command says itself what it did; the log line is for programs.
    logging.getLogger("windlass.circuits").setLevel(logging.ERROR)
    return app.circuits.find(name) or app.circuit(name)


def _report(session: Session, circuit: Circuit, text: str) -> None:
    if session.json:
        emit_json(circuit.info())
    else:
        say(text)
