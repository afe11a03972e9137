"""``windlass retry-plan``, and what ``windlass check`` says of rules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from windlass.cli.main import cli

SHOP = """
from windlass import Constant, Exponential, Retry, Windlass, on

app = Windlass("sqlite:///jobs.db")

class CardStolen(Exception): ...

def own(attempt, error):
    return error.code

@app.job(name="charge", retry=Retry(attempts=4, backoff=Exponential(base=2, factor=10, cap="30s"), rules=[
    on(CardStolen).dead(),
    on("nowhere.Limited").after(lambda e: e.wait),
    on(ConnectionError).retry(attempts=2, backoff=Constant("1m")),
    on(LookupError).discard("no such order"),
    on(OSError).retry(backoff=own),
]))
def charge(n: int) -> None: ...

@app.job(name="sync", retry=Retry(within="10m", backoff=Constant("4m")))
def sync() -> None: ...

@app.job(name="once", retry=0)
def once() -> None: ...
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An application in a module of its own, in the current directory."""
    name = f"shop_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"{name}:app"


def run(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    """Run a command line; give its exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(args), prog_name="windlass")
    out, err = capsys.readouterr()
    return int(str(ended.value.code or 0)), out, err


def test_each_rule_gives_its_delays_and_the_total_until_dead(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "-A", shop, "retry-plan", "charge", "--json")
    plan = json.loads(out)
    assert (code, plan["name"], plan["attempts"], plan["within"]) == (0, "charge", 4, None)
    rules = {tuple(rule["errors"]): rule for rule in plan["rules"]}
    assert list(rules) == [
        (name,)
        for name in ("CardStolen", "nowhere.Limited", "ConnectionError", "LookupError", "OSError", "any other error")
    ]
    assert (rules["CardStolen",]["action"], rules["CardStolen",]["delays"]) == ("dead", [])
    assert (rules["LookupError",]["action"], rules["LookupError",]["reason"]) == ("discard", "no such order")
    assert rules["ConnectionError",]["delays"] == [{"attempt": 1, "least": 60, "most": 60}]
    assert rules["ConnectionError",]["total"] == {"attempt": 2, "least": 60, "most": 60}
    assert rules["any other error",]["delays"] == [
        {"attempt": 1, "least": 0, "most": 10},
        {"attempt": 2, "least": 0, "most": 20},
        {"attempt": 3, "least": 0, "most": 30},
    ]
    assert rules["any other error",]["total"] == {"attempt": 4, "least": 0, "most": 60}


def test_what_only_an_error_can_tell_is_not_guessed(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "-A", shop, "retry-plan", "charge", "--json")
    rules = {rule["errors"][0]: rule for rule in json.loads(out)["rules"]}
    for name in ("nowhere.Limited", "OSError"):
        assert rules[name]["delays"][0] == {"attempt": 1, "least": None, "most": None}
        assert rules[name]["total"]["most"] is None


def test_a_time_budget_ends_the_plan(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "-A", shop, "retry-plan", "sync", "--json")
    plan = json.loads(out)
    assert (plan["attempts"], plan["within"]) == (None, 600)
    assert plan["rules"][0]["total"] == {"attempt": 3, "least": 480, "most": 480}


def test_people_read_the_plan_in_words(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "-A", shop, "retry-plan", "charge")
    assert out.startswith("charge: 4 runs\n\nCardStolen\n  dead at once\n")
    assert "ConnectionError\n  after run 1: 1 min\n  dead after run 2, 1 min of waiting in all\n" in out
    assert "LookupError\n  ends cancelled at once, reason 'no such order'\n" in out
    assert "after run 1: what the error asks for" in out
    assert out.endswith("after run 3: 0 s to 30 s\n  dead after run 4, 0 s to 1 min of waiting in all\n")
    _, out, _ = run(capsys, "-A", shop, "retry-plan", "once")
    assert out == "once: 1 run\n\nany other error\n  dead after run 1, 0 s of waiting in all\n"


def test_an_unknown_job_gets_the_nearest_name(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "-A", shop, "retry-plan", "chrage")
    assert code == 2
    assert "did you mean 'charge'" in err


def test_check_reports_rules_that_it_cannot_resolve(shop: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "-A", shop, "check", "--json")
    findings = [one for one in json.loads(out) if one["level"] == "warning"]
    assert code == 1
    assert [(one["check"], one["message"]) for one in findings] == [
        ("job charge", "on('nowhere.Limited'): there is no module 'nowhere' here")
    ]
