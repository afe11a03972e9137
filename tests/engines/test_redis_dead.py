"""Dead letters on Redis, through workers: what ``tests/dead/test_dead.py`` shows on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from dead_shop import Shop
from kit.waiting import PATIENCE
from servers import RedisServer
from windlass.core.rows import JobFilter
from windlass.events import DeadRecovered, DeadTrimmed


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


@pytest.fixture
def url(server: RedisServer) -> str:
    with server.client() as client:
        client.flushall()
    return server.url


def test_groups_of_thousands_are_counted_in_steps(url: str) -> None:
    shop = Shop(url)
    shop.die(*["late", "lost", "broken"] * 700, card="4111-1111")
    dead = shop.app.dead
    groups = dead.groups()
    assert sorted((group.error, group.count) for group in groups) == [
        ("LookupError", 700), ("RuntimeError", 700), ("TimeoutError", 700),
    ]  # fmt: skip
    assert {group.names for group in groups} == {("ship",)}
    (late,) = (group for group in groups if group.error == "TimeoutError")
    assert "•••" in late.message
    assert dead.count(group=late) == dead.count(error=TimeoutError, queue="default", tag="money") == 700
    shop.app.close()


def test_a_redrive_at_a_rate_moves_each_job_once(url: str) -> None:
    shop = Shop(url)
    shop.die(*["late"] * 60, *["lost"] * 60)
    shop.runs.clear()
    with shop.working():
        operation = shop.app.dead.retry(error="TimeoutError", rate="100/s")
        assert operation.wait(PATIENCE)
    shop.burst()
    assert (operation.done, operation.state) == (60, "done")
    assert sorted(shop.runs) == list(range(60))
    assert shop.app.dead.retry(operation.id).done == 0
    shop.app.close()


def test_editing_export_and_load(url: str, tmp_path: Path) -> None:
    shop = Shop(url)
    ids = shop.die("late", "lost", "broken")
    before = [shop.app.engine.job(job_id) for job_id in ids]
    assert shop.app.dead.export(tmp_path / "f", reveal=True) == 3
    assert shop.app.dead.discard(before=0) == 3
    assert shop.app.engine.count(JobFilter()) == 0
    assert shop.app.dead.load(tmp_path / "f") == 3
    assert [shop.app.engine.job(job_id) for job_id in ids] == before
    assert shop.app.dead.edit(ids[0], [5, "fine"], retry=True).args == (5, "fine")
    shop.burst()
    assert shop.states(ids) == ["done", "dead", "dead"]
    shop.app.close()


def test_recovery_ends_at_its_cap_and_the_archive_keeps_what_is_trimmed(url: str, tmp_path: Path) -> None:
    file = tmp_path / "dead.jsonl"
    shop = Shop(url, dead_max=0, dead_archive=str(file), recover=[{"on": "TimeoutError", "after": "0s", "attempts": 2}])
    recovered: list[str] = []
    shop.app.on(DeadRecovered)(lambda event: recovered.extend(event.ids))
    trimmed: list[str] = []
    shop.app.on(DeadTrimmed)(lambda event: trimmed.extend(event.ids))
    (lost,) = shop.enqueue("lost")
    for _ in range(20):
        shop.burst()  # each begins with an upkeep
        if trimmed:
            break
    assert trimmed == [lost]
    assert shop.app.dead.load(file) == 1
    assert recovered == []
    shop.app.close()

    shop = Shop(url, recover=[{"on": "TimeoutError", "after": "0s", "attempts": 2}])
    shop.app.on(DeadRecovered)(lambda event: recovered.extend(event.ids))
    (late,) = shop.enqueue("late")
    for _ in range(20):
        shop.burst()
    assert recovered == [late] * 2
    assert shop.states([late]) == ["dead"]
    assert len(shop.runs) == 3
    shop.app.close()
