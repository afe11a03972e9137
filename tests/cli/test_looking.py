"""Looking makes nothing: a command in the wrong folder says so, and only what puts something into a store makes one."""

from __future__ import annotations

import os
from pathlib import Path

import apsw
import pytest
from cli_shop import Shop

from servers import RedisServer

LOOKS = (
    "stats", "doctor", "jobs ls", "jobs show ID", "jobs cancel ID", "jobs retry ID", "jobs delete ID", "queues ls",
    "queues resume payments", "queues clear payments --yes", "workers ls", "workers quiet --all", "workers stop --all",
    "dead ls", "dead groups", "dead show ID", "dead retry ID", "dead discard ID", "dead export -", "circuits ls",
    "locks ls", "locks release key", "limits ls", "explain ID", "top --once",
    "workflows ls", "workflows show ID", "workflows show ID --watch", "workflows cancel ID", "workflows retry ID",
    "workflows skip ID STEP", "batches ls", "batches show ID",
)  # fmt: skip


@pytest.fixture(autouse=True)
def without_store(shop: Shop) -> None:
    for file in shop.folder.glob("shop.db*"):
        file.unlink()


def listing(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if not file.name.startswith("__"))


@pytest.mark.parametrize("command", LOOKS)
def test_a_command_that_looks_makes_no_store(shop: Shop, command: str) -> None:
    before = listing(shop.folder)
    result = shop.run("--url", "sqlite:///typo.db", *command.split(), code=3, app=False)
    assert f"no store at {shop.folder}/typo.db" in result.stderr
    assert "windlass migrate" in result.stderr
    assert listing(shop.folder) == before


def test_a_look_through_the_application_makes_no_store_either(shop: Shop) -> None:
    before = listing(shop.folder)
    shop.run("stats", code=3)
    shop.run("dead", "edit", "ID", "[1]", code=3)
    assert listing(shop.folder) == before


def test_commands_that_need_no_store_need_none(shop: Shop) -> None:
    before = listing(shop.folder)
    shop.run("config")
    shop.run("check")
    shop.run("retry-plan", "charge")
    assert listing(shop.folder) == before


def test_what_puts_something_into_a_store_makes_it(shop: Shop) -> None:
    shop.run("--url", "sqlite:///one.db", "migrate", app=False)
    shop.run("--url", "sqlite:///two.db", "queues", "pause", "payments", app=False)
    shop.run("--url", "sqlite:///three.db", "circuits", "open", "stripe", app=False)
    shop.run("enqueue", "charge", "[1]")
    for name in ("one.db", "two.db", "three.db", "shop.db"):
        shop.run("--url", f"sqlite:///{name}", "stats", app=False)


def test_a_look_at_the_database_of_another_program_leaves_it_as_it_is(shop: Shop) -> None:
    path = shop.folder / "other.db"
    db = apsw.Connection(str(path))
    db.execute("CREATE TABLE mine (n)")
    db.close()
    before = path.read_bytes(), listing(shop.folder)
    result = shop.run("--url", "sqlite:///other.db", "stats", code=3, app=False)
    assert "no job tables of namespace 'windlass'" in result.stderr
    assert (path.read_bytes(), listing(shop.folder)) == before
    path.write_bytes(b"")
    shop.run("--url", "sqlite:///other.db", "stats", code=3, app=False)
    assert path.read_bytes() == b""


def test_a_look_at_another_namespace_makes_none_there(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.run("enqueue", "charge", "[1]")
    monkeypatch.setenv("WINDLASS_NAMESPACE", "shpo")
    result = shop.run("--url", shop.url, "stats", code=3, app=False)
    assert "no job tables of namespace 'shpo'" in result.stderr
    db = apsw.Connection(str(shop.folder / "shop.db"))
    assert db.execute("SELECT count(*) FROM sqlite_schema WHERE name LIKE 'shpo%'").fetchall() == [(0,)]
    db.close()


def test_a_look_at_an_empty_redis_leaves_it_empty(shop: Shop) -> None:
    server = RedisServer()
    try:
        for command in ("stats", "jobs ls", "queues ls", "workers ls", "doctor", "limits ls"):
            shop.run("--url", server.url, *command.split(), app=False, code=0)
        assert server.client().keys("*") == []
    finally:
        server.close()
    assert os.listdir(shop.folder)
