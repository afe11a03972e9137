"""Circuits, locks and limits from the command line, and which guard ``explain`` names."""

from __future__ import annotations

from cli_shop import Shop, register

from windlass import Concurrency, Windlass
from windlass.guards import CircuitInfo
from windlass.guards.limits import LimitInfo, LockInfo
from windlass.model import Want


def test_circuits_ls_open_and_close(shop: Shop) -> None:
    assert "No circuits" in shop.run("circuits", "ls").stderr
    shop.write("windlass.toml", "[windlass.circuits.stripe]\nfailures = 7\n")
    opened = shop.run("circuits", "open", "stripe", "--for", "30m", "--reason", "bank")
    assert (opened.stdout, opened.stderr) == ("Circuit stripe is open for 30m.\n", "")
    head, line = shop.run("circuits", "ls").stdout.splitlines()
    assert head.split() == ["Circuit", "State", "Calls", "Failures", "Waiting", "Since", "Note"]
    assert line.split()[:2] == ["stripe", "open"]
    assert "bank, probed in" in line
    found = shop.json("circuits", "ls")
    assert isinstance(found, list)
    assert list(found[0]) == list(CircuitInfo.__dataclass_fields__)
    for verb in ("open", "close"):
        missing = shop.run("circuits", verb, "strpe", code=2).stderr
        assert (
            "no circuit 'strpe' is declared by the application or known to the store (did you mean 'stripe'?)"
            in missing
        )
    closed = shop.json("circuits", "close", "stripe")
    assert isinstance(closed, dict)
    assert (closed["name"], closed["state"]) == ("stripe", "closed")


def test_a_circuit_of_an_application_that_is_not_named_may_be_opened_with_a_note(shop: Shop) -> None:
    opened = shop.run("circuits", "open", "stripe", "--url", shop.url, app=False)
    assert opened.stdout == "Circuit stripe is open until it is closed.\n"
    assert "no circuit 'stripe'" in opened.stderr


def test_one_line_tells_that_a_circuit_was_opened(shop: Shop) -> None:
    process = shop.popen("circuits", "open", "stripe", "--url", shop.url)
    stdout, stderr = process.communicate(timeout=30)
    assert stdout == "Circuit stripe is open until it is closed.\n"
    assert stderr.startswith("Note: no circuit 'stripe'")
    assert len(stderr.splitlines()) == 1


def test_locks_ls_and_release(shop: Shop) -> None:
    assert "No lock is held" in shop.run("locks", "ls").stderr
    with shop.store() as app, app.lock("payment:42"):
        head, line = shop.run("locks", "ls").stdout.splitlines()
        assert head.split() == ["Key", "Fence", "Since", "Lease", "left", "Waiting", "Holder"]
        assert line.startswith("payment:42")
        found = shop.json("locks", "ls")
        assert isinstance(found, list)
        assert list(found[0]) == list(LockInfo.__dataclass_fields__)
        assert "did you mean" in shop.run("locks", "release", "payment:4", "--yes", code=1).stderr
        assert "is released" in shop.run("locks", "release", "payment:42", "--yes").stdout
        assert app.locks() == []


def limited(tenant: str) -> None: ...


def block(app: Windlass) -> str:
    """Fill the one slot of a tenant; give the id of the job that waits."""
    job = app.job(name="limited", limits=Concurrency(1, key="tenant:{tenant}"))(limited)
    job.enqueue("a")
    waiting = job.enqueue("a").id
    app.engine.claim(Want(register(app).id, 10))
    return waiting


def test_limits_ls_and_explain_name_the_guard(shop: Shop) -> None:
    assert "No limit is in use" in shop.run("limits", "ls").stderr
    with shop.store() as app:
        waiting = block(app)
        head, line = shop.run("limits", "ls").stdout.splitlines()
        assert head.split() == ["Limit", "Key", "Used", "Of", "Waiting"]
        assert line.split() == ["concurrency", "tenant:a", "1", "1", "1"]
        found = shop.json("limits", "ls")
        assert isinstance(found, list)
        assert list(found[0]) == list(LimitInfo.__dataclass_fields__)
        text = shop.run("explain", waiting).stdout
    assert "waits at the concurrency limit 'tenant:a': 1 of 1 slots are taken" in text


def test_explain_names_an_open_circuit(shop: Shop) -> None:
    with shop.store() as app:
        app.circuit("stripe").open(reason="maintenance")
        job = app.job(name="limited", circuit="stripe")(limited)
        waiting = job.enqueue("a").id
        app.engine.claim(Want(register(app).id, 10))
        text = shop.run("explain", waiting).stdout
    assert "open until somebody closes it (maintenance)" in text
    assert "windlass circuits close stripe" in text
