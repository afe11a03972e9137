"""Compositions in the processes of a real worker, also where a job runs in a child of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from kit.fleet import Fleet
from windlass import chain

MODULE = """
from windlass import JobContext, Windlass

app = Windlass({url!r})
ran = []


@app.job(name="make", executor="process")
def make(number: int) -> dict[str, int]:
    return {{"number": number}}


@app.job(name="take", executor="process")
async def take(ctx: JobContext, made: dict[str, int]) -> int:
    return made["number"] + 1


@app.job(name="grow", executor="process")
def grow(previous: int, left: int = 0) -> int:
    if left:
        with app.batch(id=current().batches[0]) as batch:
            batch.add(grow.bind(previous + 1, left - 1))
    return previous + 1


@app.job(name="ended")
def ended() -> str:
    return "ended"


def current():
    from windlass import current_job

    return current_job()
"""


@pytest.mark.parametrize("url", ["sqlite", "redis"], indirect=True)  # those of several processes
def test_results_and_batches_reach_the_children_of_a_worker(url: str, tmp_path: Path) -> None:
    file = tmp_path / "flows.py"
    file.write_text(MODULE.format(url=url))
    spec = importlib.util.spec_from_file_location("flows", file)
    assert spec is not None
    assert spec.loader is not None
    flows = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(flows)
    with flows.app as app:
        handle = chain(flows.make.bind(7), flows.take.bind(), flows.grow.bind()).enqueue()
        with app.batch("growing", on_success=flows.ended.bind()) as batch:
            batch.add(flows.grow.bind(0, 2))
        with Fleet(tmp_path, url, "flows:app") as fleet:
            assert fleet.start("--burst").ended() == 0
        assert handle.result(timeout=5) == 9
        assert batch.progress().done == 3
        end = app.get(f"{batch.id}:on_success")
        assert end is not None
        assert end.result == "ended"
