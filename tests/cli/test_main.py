"""The root command: its options before and behind a command, its help, and what every exit code means."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys

import apsw
import click
import pytest
from cli_shop import Shop, register
from click.testing import CliRunner

from kit.waiting import PATIENCE
from windlass import __version__
from windlass.cli.exits import NoLiveWorker, exit_code
from windlass.cli.main import COMMANDS, cli
from windlass.errors import EngineFull, JobFailed, TransitionRefused

OWN = [name for name in COMMANDS if name not in ("worker", "bench")]


def test_help_names_every_command_without_loading_one(shop: Shop) -> None:
    script = (
        "import sys; from windlass.cli.main import cli\n"
        "try: cli(['--help'])\n"
        "except SystemExit: print([m for m in sys.modules if m.startswith('windlass.cli.')], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for name, (_, summary) in COMMANDS.items():
        assert f"  {name}" in done.stdout
        assert summary in done.stdout
    assert not [name for name in COMMANDS if f"windlass.cli.{name}'" in done.stderr]
    assert "windlass.cli.main" in done.stderr


def test_no_command_shows_the_help(shop: Shop) -> None:
    assert shop.run(app=False).stdout == shop.run("--help", app=False).stdout
    assert "pause" in shop.run("queues", app=False).stdout


def test_version(shop: Shop) -> None:
    assert shop.run("--version", app=False).stdout == f"windlass {__version__}\n"


@pytest.mark.parametrize("name", OWN)
def test_every_command_is_where_the_root_looks_for_it_and_has_help(name: str) -> None:
    module, _, attribute = COMMANDS[name][0].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.help
    shown = CliRunner().invoke(cli, [name, "--help"])
    assert shown.exit_code == 0
    assert "..." not in shown.stdout.partition("\n")[2]  # no help is cut short; the usage line has [ARGS]...


def test_the_package_runs_as_the_command(shop: Shop) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "windlass", "--version"], capture_output=True, text=True, check=True, cwd=shop.folder
    )
    assert done.stdout == f"windlass {__version__}\n"


# -- options that stand anywhere ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["-A", "cli_shop_jobs:app", "--json", "stats"],
        ["stats", "-A", "cli_shop_jobs:app", "--json"],
        ["--json", "stats", "--app", "cli_shop_jobs"],
        ["--app=cli_shop_jobs:app", "stats", "--json"],
    ],
)
def test_app_and_json_stand_before_or_behind_the_command(shop: Shop, command: list[str]) -> None:
    shop.enqueue("charge", "[1]")
    assert json.loads(shop.run(*command, app=False).stdout)["ready"] == 1


@pytest.mark.parametrize("command", [["--json", "jobs", "ls"], ["jobs", "--json", "ls"], ["jobs", "ls", "--json"]])
def test_options_stand_anywhere_around_a_group(shop: Shop, command: list[str]) -> None:
    job = shop.enqueue("charge", "[1]")
    assert [each["id"] for each in json.loads(shop.run(*command).stdout)] == [job]


def test_an_option_behind_wins(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    assert json.loads(shop.run("-A", "nowhere", "stats", "-A", "cli_shop_jobs", "--json", app=False).stdout)["ready"]


def test_the_application_comes_from_the_environment_or_the_settings(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.enqueue("charge", "[1]")
    monkeypatch.setenv("WINDLASS_APP", "cli_shop_jobs:app")
    assert shop.run("queues", "ls", app=False).stdout.split("\n")[1].startswith("payments")
    monkeypatch.delenv("WINDLASS_APP")
    shop.write("windlass.toml", '[windlass]\napp = "cli_shop_jobs:app"\n')
    assert shop.run("queues", "ls", app=False).stdout.split("\n")[1].startswith("payments")


def test_a_store_is_named_by_url_without_an_application(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    for command in (["--url", shop.url, "stats", "--json"], ["stats", "--json", "--url", shop.url]):
        assert json.loads(shop.run(*command, app=False).stdout)["ready"] == 1


def test_an_application_and_a_url_are_one_too_many(shop: Shop) -> None:
    assert "leave one of them out" in shop.run("stats", "--url", shop.url, code=2).stderr


def test_a_command_that_needs_an_application_says_so(shop: Shop) -> None:
    assert "WINDLASS_APP" in shop.run("check", app=False, code=2).stderr
    assert "--url alone" in shop.run("check", "--url", shop.url, app=False, code=2).stderr


# -- exit codes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        (["jbos"], "did you mean 'jobs'"),
        (["jobs", "shwo"], "did you mean 'show'"),
        (["jobs", "ls", "--limit", "x"], "--limit"),
        (["jobs", "ls", "--limit", "0"], "1 to 1000"),
        (["jobs", "ls", "--state", "daed"], "did you mean 'dead'"),
        (["jobs", "ls", "--cursor", "x"], "page cursor"),
        (["jobs", "show"], "ID"),
    ],
)
def test_wrong_use_is_2_and_one_line(shop: Shop, command: list[str], hint: str) -> None:
    result = shop.run(*command, code=2)
    assert hint in result.stderr
    assert result.stderr.startswith("windlass: ")
    assert not result.stdout


def test_a_wrong_setting_is_2(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WINDLASS_LEASE", "soon")
    assert "lease" in shop.run("stats", app=False, code=2).stderr
    monkeypatch.delenv("WINDLASS_LEASE")
    assert "unknown engine" in shop.run("stats", "--url", "sqlit:///x.db", app=False, code=2).stderr


def test_a_file_that_is_no_database_is_3(shop: Shop) -> None:
    shop.write("shop.db", "this is no database\n" * 100)
    result = shop.run("stats", code=3)
    assert "is not an SQLite database" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_folder_that_is_not_there_is_3(shop: Shop) -> None:
    shop.run("stats", "--url", f"sqlite:///{shop.folder}/none/shop.db", app=False, code=3)


def test_a_newer_schema_is_3(shop: Shop) -> None:
    shop.run("migrate")
    database = apsw.Connection(str(shop.folder / "shop.db"))
    database.execute("UPDATE windlass_meta SET value = 99 WHERE key = 'schema'")
    database.close()
    assert "schema 99" in shop.run("jobs", "ls", code=3).stderr


def test_other_errors_are_1_and_an_absent_worker_69() -> None:
    assert exit_code(NoLiveWorker("none")) == 69
    for error in (EngineFull("full"), JobFailed("dead", "1"), TransitionRefused("no")):
        assert exit_code(error) == 1


def test_interrupt_is_130_without_a_traceback(shop: Shop) -> None:
    with shop.store() as app:
        register(app)  # alive, but it never claims: the command waits
        process = shop.popen("-A", "cli_shop_jobs", "enqueue", "charge", "[1]", "--wait")
        assert process.stdout is not None
        assert process.stdout.readline().strip()  # the id: from here on it waits
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, err
    assert "KeyboardInterrupt" not in err


def test_a_reader_that_has_gone_ends_it_quietly(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    reader, writer = os.pipe()
    os.close(reader)
    process = shop.popen("-A", "cli_shop_jobs", "jobs", "ls", stdout=writer)
    os.close(writer)
    _, err = process.communicate(timeout=PATIENCE)
    assert err == ""
