"""Steps of jobs whose processes are killed: between the effect and the memo, and after it; in children and workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet

from windlass import State
from windlass.engines.base import TransactionalSettle

MODULE = """
import asyncio, os, signal
from windlass import JobContext, Windlass

app = Windlass({url!r}, max_crashes=3, lease="60s", renew="1s")


def tell(ctx, what):
    fd = os.open("effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{{ctx.id}} {{what}}\\n".encode())


def die_once(ctx, where):
    try:
        os.close(os.open(f"{{ctx.id}}-{{where}}", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def pay(ctx: JobContext, n: int) -> tuple[int, int]:
    tell(ctx, n)
    if n == 1:
        die_once(ctx, "inside")
    return n, ctx.fence


async def apay(ctx: JobContext, n: int) -> tuple[int, int]:
    return pay(ctx, n)


def tx_pay(tx, ctx: JobContext, n: int) -> tuple[int, int]:
    tx.execute("INSERT INTO paid VALUES (?, ?)", (ctx.id, n))
    return pay(ctx, n)


async def atx_pay(tx, ctx: JobContext, n: int) -> tuple[int, int]:
    await tx.aexecute("INSERT INTO paid VALUES (?, ?)", (ctx.id, n))
    return pay(ctx, n)


def order(ctx: JobContext, **how: bool) -> list[int]:
    done = []
    for n in range(3):
        done.append(ctx.step(f"pay:{{n}}", tx_pay if how else pay, ctx, n, **how))
        if n < 2:
            die_once(ctx, n)
    assert [fence for _, fence in done] == sorted({{fence for _, fence in done}})  # each is of the run that kept it
    return [n for n, _ in done]


async def aorder(ctx: JobContext, **how: bool) -> list[int]:
    done = []
    for n in range(3):
        done.append(await ctx.astep(f"pay:{{n}}", atx_pay if how else apay, ctx, n, **how))
        if n < 2:
            die_once(ctx, n)
    assert [fence for _, fence in done] == sorted({{fence for _, fence in done}})
    return [n for n, _ in done]


app.job(name="child", executor="process")(order)
app.job(name="achild", executor="process")(aorder)
app.job(name="thread")(order)
"""


@pytest.fixture
def fleet(store: dict[str, str], tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path, store.get("WINDLASS_URL")) as made:
        (tmp_path / "fleet_jobs.py").write_text(MODULE.format(url=made.url))
        yield made


def effects(fleet: Fleet) -> Counter[tuple[str, ...]]:
    return Counter(tuple(line.split()) for line in (fleet.folder / "effects").read_text().splitlines())


def test_a_kill_before_the_memo_repeats_the_step_and_one_after_it_does_not(fleet: Fleet) -> None:
    is_sql = isinstance(fleet.app.engine, TransactionalSettle)
    worker = fleet.start("-c", "4")
    jobs: list[str] = []

    def run(*names: str, args: str = "[[], {}]") -> None:
        jobs.extend(fleet.enqueue(name, "default", 1, args)[0] for name in names)

    def ended() -> bool:
        infos = [fleet.app.get(job) for job in jobs]
        return all(info is not None and info.state is State.DONE for info in infos)

    run("child", "achild")
    if is_sql:
        with fleet.app.transaction() as tx:
            tx.execute("CREATE TABLE paid (id TEXT, n INTEGER)")
        run("child", "achild", args='[[], {"transaction": true}]')
    paying = jobs[2:]
    fleet.until(ended, "the children to end")
    run("thread")
    fleet.until(ended, "the jobs to end")
    fleet.stop(worker)
    for job in jobs:
        info = fleet.app.get(job)
        assert info is not None
        assert (info.result, info.attempt) == ([0, 1, 2], 1)
        assert [error.type for error in info.errors] == ["WorkerCrashed"] * 3  # max_crashes, but it got on
    assert effects(fleet) == Counter({(job, str(n)): 2 if n == 1 else 1 for job in jobs for n in range(3)})
    if is_sql:  # what was written in the transaction of a step is there once
        with fleet.app.transaction() as tx:
            assert sorted(tx.execute("SELECT id, n FROM paid")) == sorted((job, n) for job in paying for n in range(3))
