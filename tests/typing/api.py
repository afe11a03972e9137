"""Checked by the type checker, never run. Lines marked with an E must be errors of that code, and no others may be."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from windlass import (
    Batch,
    Call,
    Constant,
    JobContext,
    JobHandle,
    Once,
    Retry,
    Snooze,
    Windlass,
    Workflow,
    chain,
    group,
    on,
)
from windlass.engines.base import Tx
from windlass.events import JobDead, JobEnqueued
from windlass.flow.handle import StepInfo, WorkflowHandle, WorkflowInfo
from windlass.jobs.info import JobInfo, Page
from windlass.jobs.results import Step
from windlass.jobs.transactions import AsyncTx

app = Windlass("memory://", namespace="shop", keep_done="10m")


@app.job
def resize(path: str, width: int = 800) -> str:
    return path


@app.job(queue="payments", retry=5, timeout=30, priority=-10, expires="1h", tags=["money"])
def charge(payment_id: int) -> dict[str, int]:
    return {}


@app.job
def report(ctx: JobContext, day: str) -> int:
    return ctx.attempt


@app.job(queue="web")
async def fetch(ctx: JobContext, url: str) -> int:
    return 1


@app.job
async def ping(host: str) -> bool:
    return True


assert_type(charge.enqueue(42), JobHandle[dict[str, int]])
assert_type(charge.enqueue(42).result(timeout="5s"), dict[str, int])
assert_type(charge.bind(42), Call[dict[str, int]])
assert_type(charge(42), dict[str, int])
assert_type(report("monday"), int)
assert_type(report.enqueue("monday").info(), JobInfo)
assert_type(app.jobs(state="dead"), Page[JobInfo])

resize.enqueue("a.png")
resize.enqueue("a.png", width=100)
resize.enqueue("a.png", width="wide")  # E: arg-type
resize.enqueue()  # E: call-arg
charge.enqueue("wrong", 3)  # E: call-arg, arg-type
charge.enqueue(payment_id="wrong")  # E: arg-type
charge.bind("wrong")  # E: call-overload
report.enqueue("monday", "tuesday")  # E: call-arg
report.enqueue(1)  # E: arg-type

charge.options(delay="5m", queue="slow", priority=5).enqueue(42)
charge.options(at=datetime.now(UTC), retry=Retry(attempts=2)).enqueue(42)
charge.options(delay=timedelta(minutes=5)).enqueue("wrong")  # E: arg-type
charge.options(dealy="5m")  # E: call-arg
charge.options(priority="high")  # E: arg-type
charge.enqueue_in("5m", 42)
charge.enqueue_in("5m", "wrong")  # E: arg-type
charge.enqueue_at(datetime.now(UTC), 42)
charge.enqueue_at("tomorrow", 42)  # E: arg-type

app.enqueue_many([charge.bind(1), resize.bind("a.png")])
app.enqueue_stream(charge.bind(i) for i in range(10))
app.enqueue_many([charge(1)])  # E: arg-type

assert_type(chain(charge.bind(1), resize.bind(), report.bind()).enqueue(), JobHandle[int])
assert_type(chain(charge.bind(1), resize.bind(width=3)).enqueue().result(), str)
charge.bind(width=3)  # E: call-overload
assert_type(group(resize.bind("a"), resize.bind("b")).enqueue().results(timeout=5), list[str])
with app.batch("news", on_success=resize.bind("a")) as batch:
    assert_type(batch, Batch)
    batch.add(charge.bind(1))
    batch.add(charge)  # E: arg-type
app.batch("news", on_sucess=resize.bind("a"))  # E: call-arg


@app.job
def listing(day: str) -> list[int]:
    return []


@app.job
def total(amounts: list[dict[str, int]]) -> int:
    return len(amounts)


flow = Workflow("order", id="order-1", deadline="2d", stall_after=timedelta(hours=1), on_stall="retry")
charged = flow.add(charge.bind(1))
assert_type(charged, Step[dict[str, int]])
assert_type(charged.result, dict[str, int])
assert_type(charged.result["cents"], int)
assert_type(flow.add(resize.bind("a", width=charged.result["cents"]), after=charged, when="finished"), Step[str])
flow.add(resize.bind("a"), name="b", after=[charged, "resize"], when="any_failed", undo=resize.bind("c"))
flow.add(charge.bind(2), undo=lambda step: resize.bind("c", width=step.result["cents"]))
listed_days = flow.add(listing.bind("monday"))
amounts = flow.expand(charge.bind(), over=listed_days.result, after=charged)
assert_type(amounts, Step[list[dict[str, int]]])
assert_type(flow.add(total.bind(amounts.result)), Step[int])
assert_type(flow.add(Workflow("inner"), after=charged), Step[dict[str, Any]])
flow.add(resize.bind(charged.result))  # E: call-overload
flow.add(total.bind(listed_days.result))  # E: arg-type
flow.add(resize.bind("a", width=charged.result["cents"], hight=1))  # E: call-overload
flow.add(charge)  # E: call-overload
flow.add(charge(1))  # E: call-overload
flow.add(charge.bind(1), when="fails")  # E: call-overload
flow.add(charge.bind(1), after=charge.bind(2))  # E: call-overload
flow.add(charge.bind(1), undo=charge)  # E: arg-type
flow.add(charge.bind(1), undo=lambda step: resize.bind(step.result))  # E: call-overload
flow.add(charge.bind(1), atfer=charged)  # E: call-overload
flow.expand(charge.bind(), listed_days.result, when="failed")  # E: arg-type
flow.expand(charge.bind())  # E: call-arg
Workflow("order", on_stall="retyr")  # E: arg-type
Workflow("order", stal_after="1h")  # E: call-arg
started = app.start(flow)
assert_type(started, WorkflowHandle)
assert_type(started.result("5s"), dict[str, object])
assert_type(started.steps(), tuple[StepInfo, ...])
assert_type(started.retry("charge"), list[str])
assert_type(app.workflows("failed", stalled=True), Page[WorkflowInfo])
app.workflows("done")  # E: arg-type
app.start(charge.bind(1))  # E: arg-type


async def use() -> None:
    assert_type(await fetch("u"), int)
    assert_type(await fetch.enqueue("u").aresult(), int)
    assert_type(await ping.aenqueue("h"), JobHandle[bool])
    assert_type(await (await ping.options(queue="x").aenqueue("h")).aresult(), bool)
    await charge.aenqueue(42)
    await charge.aenqueue("wrong")  # E: arg-type
    await fetch("u", "v")  # E: call-arg

    async def calls() -> AsyncIterator[Call[bool]]:
        yield ping.bind("h")

    await app.aenqueue_stream(calls())
    assert_type(await app.astart(Workflow("order")), WorkflowHandle)
    assert_type(await started.aresult(), dict[str, object])
    async with app.atransaction() as tx:
        assert_type(tx, AsyncTx)
        await tx.aexecute("SELECT 1")
        tx.execute("SELECT ?", (1,))
        tx.result = 1
        assert_type(await charge.options(connection=tx).aenqueue(1), JobHandle[dict[str, int]])
    with app.atransaction():  # E: attr-defined, attr-defined
        pass


app.circuit("bank", failures=3)
app.circuit("bank", failuers=3)  # E: call-arg
app.dead.retry(rate="5/s", name="x")
app.dead.retry(rte="5/s")  # E: call-arg
app.dead.discard(app.dead.groups()[0])
Once("k", keep="1h")
Once("k", kep="1h")  # E: call-arg
Retry(3, wihtin="1h")  # E: call-arg
assert_type(app.lock("k").key, str)
assert_type(app.get("x"), JobInfo | None)


def both(ctx: JobContext) -> int:
    with ctx.transaction() as tx:
        assert_type(tx, Tx)
        tx.aexecute("SELECT 1")  # E: attr-defined
        return 1  # a transaction swallows no error, so nothing has to follow


def grow(ctx: JobContext) -> None:
    first = ctx.workflow.add(charge.bind(1), before="merge")
    assert_type(first, Step[dict[str, int]])
    assert_type(ctx.workflow.add(resize.bind("a", first.result["cents"]), after=[first, "b"], when="failed"), Step[str])
    ctx.workflow.add(Workflow("inner"))  # E: arg-type
    ctx.workflow.add(charge.bind(1), befor="merge")  # E: call-arg
    ctx.workflow.add(resize.bind(first.result))  # E: call-overload
    ctx.then(chain(charge.bind(1), resize.bind()))
    ctx.then(group(charge.bind(1), charge.bind(2)))
    ctx.then(Workflow("inner"))
    ctx.then(charge)  # E: arg-type


async def abide(ctx: JobContext) -> int:
    async with ctx.transaction() as tx:
        assert_type(tx, AsyncTx)
        return 1


def tally(order: int, *, vat: float = 0.2) -> dict[str, float]:
    return {}


def pay(tx: Tx, order: int, note: str = "") -> str:
    return note


async def apay(tx: AsyncTx, order: int, note: str = "") -> str:
    return note


async def receive(order: int) -> bytes:
    return b""


def steps(ctx: JobContext) -> None:
    assert_type(ctx.step("total", tally, 1, vat=0.1), dict[str, float])
    assert_type(ctx.step("lambda", lambda: 1), int)
    assert_type(ctx.step("class", Constant, 1), Constant)
    assert_type(ctx.step("pay", pay, 1, transaction=True), str)
    assert_type(ctx.step("pay", pay, 1, note="x", transaction=True), str)
    ctx.step("total", tally, "one")  # E: call-overload
    ctx.step("total", tally, 1, vta=0.1)  # E: call-arg
    ctx.step("total", tally, 1, transaction=True)  # E: call-arg
    ctx.step(tally, 1)  # E: call-overload
    ctx.step("pay", apay, 1)  # E: call-overload


async def asteps(ctx: JobContext) -> None:
    assert_type(await ctx.astep("total", tally, 1, vat=0.1), dict[str, float])
    assert_type(await ctx.astep("receive", receive, 1), bytes)
    assert_type(await ctx.astep("lambda", lambda: receive(1)), bytes)
    assert_type(await ctx.astep("pay", pay, 1, transaction=True), str)
    assert_type(await ctx.astep("pay", apay, 1, note="x", transaction=True), str)
    await ctx.astep("receive", receive, "one")  # E: call-overload
    await ctx.astep(receive, 1)  # E: call-overload


@app.middleware("execute")
def timing(ctx: JobContext) -> Iterator[None]:
    yield


@app.on(JobDead)
def page(event: JobDead) -> None:
    print(event.reason)


@app.job(retry=Retry(within="1h", backoff=lambda attempt, error: attempt * 2.5, rules=[on(OSError, "a.B").discard()]))
def ruled() -> None:
    raise Snooze(timedelta(minutes=5), "later")


@app.job(retry=[on(OSError).after(lambda error: "5s"), on(ValueError).retry(attempts=2, backoff=Constant("5s"))])
def listed() -> None: ...


@ruled.on_dead
@app.on_retry
def told(info: JobInfo) -> None: ...


told(charge.enqueue(1).info())
told(1)  # E: arg-type
ruled.on_dead(page)  # E: type-var
on(ValueError).retry(attempts="2")  # E: arg-type


@app.on(JobEnqueued)  # E: arg-type
def wrong(event: JobDead) -> None: ...


@app.job(quue="x")  # E: call-overload, untyped-decorator
def misspelt() -> None: ...
