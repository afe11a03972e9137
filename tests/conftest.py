"""Its place makes the helper modules beside it importable: ``servers``, ``proxy``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import settings

from servers import RedisServer

# How long an example takes says how busy the machine is, and nothing about us.
settings.register_profile("windlass", deadline=None)
settings.load_profile("windlass")

# The shipped suite shows values in its failing asserts. Said here, before any test module can have imported it.
pytest.register_assert_rewrite("windlass.testing.conformance")


SLOW = ("world", "faults")  # folders of tests that start workers and wait for them


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each of several test processes its share of the slow tests, and those first: they would be the tail."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    slow = [item for item in items if item.path.parent.name in SLOW]
    quick = [item for item in items if item.path.parent.name not in SLOW]
    share = -(-len(items) // workers)
    items.clear()
    for number in range(workers):
        mine = slow[number::workers]
        room = max(0, share - len(mine))
        items += mine + quick[:room]
        del quick[:room]
    items += quick


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """What the environment says of the store: nothing, or the URL of a server."""
    if request.param == "sqlite":
        yield {}
        return
    with closing(RedisServer("--appendonly", "yes")) as server:
        yield {"WINDLASS_URL": server.url}
