"""Where the faults happen (the store), under which seed, and the figures that are printed at the end."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from faults.harness import Fleet
from servers import RedisServer

FIGURES: list[str] = []
FIRST = "sqlite"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what says the same of every engine to the first one, and to ``make soak`` on the others."""
    for item in items:
        params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if params.get("store_url", FIRST) != FIRST and item.get_closest_marker("thorough"):
            item.add_marker("soak")


@pytest.fixture
def share(request: pytest.FixtureRequest) -> float:
    """The part of its load that a fault gets: less on engines other than the first."""
    return 1.0 if request.getfixturevalue("store_url").startswith("sqlite") else 0.3


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server that tests use one after the other."""
    with closing(RedisServer("--appendonly", "yes")) as server:
        yield server


@pytest.fixture(params=[FIRST, "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh store that several processes share."""
    if request.param == FIRST:
        return f"sqlite:///{tmp_path}/jobs.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    with server.client() as client:
        client.flushall()
    return server.url


@pytest.fixture
def fleets(store_url: str, tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Make a fleet on the store: ``fleets(lease="1s")``. It is gone after the test."""
    made: list[Fleet] = []

    def make(**settings: str | int) -> Fleet:
        made.append(Fleet(store_url, tmp_path, **settings))
        return made[-1]

    yield make
    for fleet in made:
        fleet.__exit__()


@pytest.fixture
def sqlite_fleet(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on one SQLite file, for faults that only a file can have."""
    with Fleet(f"sqlite:///{tmp_path}/jobs.db", tmp_path) as fleet:
        yield fleet


@pytest.fixture
def seed() -> int:
    """The seed of this run: WINDLASS_TEST_SEED, or a new one; printed, so that a failure can be played again."""
    chosen = int(os.environ.get("WINDLASS_TEST_SEED") or random.randrange(2**31))
    print(f"WINDLASS_TEST_SEED={chosen}")
    return chosen


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Note a figure for the table at the end of the run, and print it: ``figure("F1", verdict)``."""

    def tell(fault: str, what: object) -> None:
        line = f"{fault} {request.node.name}: {what}"
        print(line)
        FIGURES.append(line)

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("fault figures")
        for line in FIGURES:
            terminalreporter.write_line(line)
