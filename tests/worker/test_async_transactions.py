"""Transactions of coroutine jobs in a real worker: on its loop and in child processes, ended well and cut off."""

from __future__ import annotations

from pathlib import Path

from fleet import Fleet

from windlass import State

MODULE = """
import asyncio
from windlass import JobContext, Windlass

app = Windlass({url!r}, renew="2s", lease="6s", reap="500ms")


async def pay(ctx, n):
    async with ctx.transaction() as tx:
        await tx.aexecute("INSERT INTO paid VALUES (?, ?)", (n, ctx.id))
        tx.result = n


@app.job(name="loop")
async def on_the_loop(ctx: JobContext, n: int) -> None:
    await pay(ctx, n)


@app.job(name="child", executor="process")
async def in_a_child(ctx: JobContext, n: int) -> None:
    await pay(ctx, n)


@app.job(name="slow", timeout="100ms")
async def slow(ctx: JobContext, n: int) -> None:
    async with ctx.transaction() as tx:
        await tx.aexecute("INSERT INTO paid VALUES (?, ?)", (n, ctx.id))
        await asyncio.sleep(3600)
"""


def test_coroutine_jobs_commit_with_their_completion_and_those_cut_off_leave_nothing(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        (tmp_path / "fleet_jobs.py").write_text(MODULE.format(url=fleet.url))
        with fleet.app.transaction() as tx:
            tx.execute("CREATE TABLE paid (n INTEGER, id TEXT)")
        good = fleet.enqueue("loop", "default", 20, "[[1], {}]") + fleet.enqueue("child", "default", 3, "[[1], {}]")
        bad = fleet.enqueue("slow", "default", 3, "[[2], {}]")
        assert fleet.start("--burst").ended() == 0, fleet.said()
        ended = {id: info for id in good + bad if (info := fleet.app.get(id))}
        assert {(ended[id].state, ended[id].result) for id in good} == {(State.DONE, 1)}
        assert {ended[id].errors[-1].type.rpartition(".")[2] for id in bad} == {"JobTimeout"}, fleet.said()
        with fleet.app.transaction() as tx:
            assert sorted(tx.execute("SELECT n, id FROM paid").fetchall()) == sorted((1, id) for id in good)
