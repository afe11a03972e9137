"""An application on each engine, and a worker that runs what is ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dead_shop import worker_of
from servers import RedisServer
from windlass import Windlass

# Add "redis" once long chains and nested batches hold there as well.
ENGINES = ["memory", "sqlite"]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as server:
        yield server


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store."""
    match request.param:
        case "redis":
            server: RedisServer = request.getfixturevalue("redis_server")
            with server.client() as client:
                client.flushall()
            return server.url
        case "sqlite":
            return f"sqlite:///{tmp_path}/jobs.db"
        case _:
            return "memory://"


@pytest.fixture
def app(url: str) -> Iterator[Windlass]:
    with Windlass(url, attempts=1, reap="50ms") as made:
        yield made


@pytest.fixture
def burst(app: Windlass) -> Callable[[], None]:
    """Run what is ready, and what becomes ready by that."""
    return lambda: worker_of(app, burst=True).run()
