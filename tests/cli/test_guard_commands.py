"""Circuits, locks and limits from the command line, and which gate ``explain`` names."""

from __future__ import annotations

from cli_shop import Shop, register

from windlass import Concurrency, Windlass
from windlass.core.work import Want
from windlass.guards import CircuitInfo
from windlass.guards.limits import LimitInfo, LockInfo


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


def test_blocked_jobs_are_shown_wherever_queues_are(shop: Shop) -> None:
    with shop.store() as app:
        app.circuit("stripe")
        pay = app.job(name="pay", queue="pay", circuit="stripe")(lambda n: n)
        slow = app.job(name="slow", queue="pay", limits=Concurrency(1, key="slow"))(lambda n: n)
        for n in range(8):
            pay.enqueue(n)
        assert "Blocked" not in shop.run("queues", "ls").stdout + shop.run("stats").stdout
        app.circuit("stripe").open()
        slow.enqueue(1)
        slow.enqueue(2)
        worker = register(app, "pay")
        assert len(app.engine.claim(Want(worker=worker.id, limit=20)).leases) == 1
        info = app.queue("pay").info()
        assert (info.ready, info.blocked, app.queue("pay").size) == (0, 9, 9)
        assert info.blocked_by == {"circuit:stripe": 8, "concurrency:slow": 1}
        assert info.latency > 0
        assert app.stats().queues["pay"].blocked == 9
        assert app.stats().queues["pay"].latency > 0
    head, line = shop.run("queues", "ls").stdout.splitlines()
    assert (head.split()[:3], line.split()[:3]) == (["Queue", "Ready", "Blocked"], ["pay", "0", "9"])
    assert "8 at circuit:stripe and 1 more" in line
    of_queues = shop.run("stats").stdout.splitlines()[-2:]
    assert (of_queues[0].split()[2], of_queues[1].split()[2]) == ("Blocked", "9")
    assert "8 at circuit:stripe and 1 more" in of_queues[1]
    picture = shop.run("top", "--once").stdout
    assert "9 blocked" in picture
    assert "8 at circuit:stripe and 1 more" in picture
    for command in (("stats",), ("top",)):
        found = shop.json(*command)
        assert isinstance(found, dict)
        assert found["blocked"] == 9
        assert found["queues"][0]["blocked_by"] == {"circuit:stripe": 8, "concurrency:slow": 1}
    listed = shop.json("queues", "ls")
    assert isinstance(listed, list)
    assert listed[0]["blocked"] == 9
    asked = shop.run("queues", "clear", "pay", code=2).stderr
    assert "Delete 9 waiting jobs" in asked


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
