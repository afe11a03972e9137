"""Workflows: steps run when those before them have ended as they ask, and the end of the whole is told rightly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from windlass import ConfigError, JobCancelled, JobFailed, PayloadError, TransitionRefused, Windlass, Workflow
from windlass.errors import ResultExpired, ResultTimeout

Burst = Callable[[], None]


class Shop:
    """Jobs of an order, and a ledger of what they did. ``broken`` are those that fail."""

    def __init__(self, app: Windlass) -> None:
        self.app = app
        self.did: list[Any] = []
        self.broken: set[str] = set()

        @app.job(name="pay")
        def pay(n: int) -> dict[str, str]:
            return self.do("pay", {"receipt": f"r{n}"})

        @app.job(name="reserve")
        def reserve(n: int) -> list[int]:
            return self.do("reserve", [n, n + 1, n + 2])

        @app.job(name="ship")
        def ship(n: int, receipt: str | None = None) -> str:
            return self.do("ship", f"parcel {n} {receipt}")

        @app.job(name="refund")
        def refund(n: int) -> str:
            return self.do("refund", f"refunded {n}")

        @app.job(name="pack")
        def pack(item: int, colour: str = "brown") -> str:
            return self.do(f"pack {item}", f"{colour} {item}")

        @app.job(name="label")
        def label(parcels: list[str]) -> int:
            self.did.append(parcels)
            return self.do("label", len(parcels))

        self.pay, self.reserve, self.ship, self.refund, self.pack, self.label = pay, reserve, ship, refund, pack, label

    def do(self, what: str, value: Any) -> Any:
        self.did.append(what)
        if what in self.broken:
            raise ValueError(f"no {what}")
        return value

    def order(self, n: int = 1, **options: Any) -> Workflow:
        order = Workflow("order", id=f"order-{n}", **options)
        paid = order.add(self.pay.bind(n))
        stock = order.add(self.reserve.bind(n))
        order.add(self.ship.bind(n, receipt=paid.result["receipt"]), after=[paid, stock])
        order.add(self.refund.bind(n), after=[paid, stock], when="any_failed")
        return order

    def states(self, id: str) -> dict[str, str | None]:
        return {step.name: step.state for step in self.app.workflow(id).steps()}


@pytest.fixture
def shop(app: Windlass) -> Shop:
    return Shop(app)


def test_steps_run_in_order_and_take_results_of_others(shop: Shop, burst: Burst) -> None:
    handle = shop.app.start(shop.order())
    assert (handle.state, handle.duplicate) == ("running", False)
    assert handle.info().steps[2].waits_for == ("pay", "reserve")
    burst()
    assert sorted(shop.did[:2]) == ["pay", "reserve"]
    assert shop.did[2:] == ["ship"]
    assert (handle.state, handle.result(1)) == ("succeeded", {"ship": "parcel 1 r1"})
    assert shop.states("order-1") == {"pay": "done", "reserve": "done", "ship": "done", "refund": "skipped"}


def test_a_failure_that_a_branch_deals_with_leaves_the_workflow_succeeded(shop: Shop, burst: Burst) -> None:
    shop.broken = {"reserve"}
    handle = shop.app.start(shop.order())
    burst()
    assert (handle.state, handle.result(1)) == ("succeeded", {"refund": "refunded 1"})
    assert shop.states("order-1") == {"pay": "done", "reserve": "dead", "ship": "skipped", "refund": "done"}


def test_a_failure_that_nobody_deals_with_fails_the_workflow(shop: Shop, burst: Burst) -> None:
    shop.broken = {"reserve", "refund"}
    handle = shop.app.start(shop.order())
    burst()
    assert handle.state == "failed"
    with pytest.raises(JobFailed, match="step 'reserve', job order-1:reserve, is dead"):
        handle.result(1)


def test_starting_twice_starts_once(shop: Shop, burst: Burst, caplog: pytest.LogCaptureFixture) -> None:
    first, again = shop.app.start(shop.order()), shop.app.start(shop.order())
    assert (first.duplicate, again.duplicate) == (False, True)
    burst()
    assert again.result(1) == first.result(1)
    assert shop.app.start(shop.order()).state == "succeeded"
    other = Workflow("parcel", id="order-1")
    other.add(shop.pay.bind(9))
    assert shop.app.start(other).duplicate
    assert "exists as 'order'" in caplog.text
    assert len(shop.did) == 3


@pytest.mark.parametrize(
    ("when", "broken", "runs"),
    [
        ("succeeded", set(), True), ("succeeded", {"pay"}, False), ("failed", {"pay"}, False),
        ("failed", {"pay", "reserve"}, True), ("any_failed", {"pay"}, True), ("any_failed", set(), False),
        ("finished", set(), True), ("finished", {"pay", "reserve"}, True),
    ],
)  # fmt: skip
def test_when_says_how_the_steps_before_must_end(
    shop: Shop, burst: Burst, when: Any, broken: set[str], runs: bool
) -> None:
    shop.broken = broken
    flow = Workflow("w", id="w")
    flow.add(shop.refund.bind(1), after=[flow.add(shop.pay.bind(1)), flow.add(shop.reserve.bind(1))], when=when)
    shop.app.start(flow)
    burst()
    assert shop.states("w")["refund"] == ("done" if runs else "skipped")


def test_a_skipped_step_releases_its_followers_by_their_own_when(shop: Shop, burst: Burst) -> None:
    shop.broken = {"pay"}
    flow = Workflow("w", id="w")
    shipped = flow.add(shop.ship.bind(1), after=flow.add(shop.pay.bind(1)))
    flow.add(shop.refund.bind(1), name="last", after=shipped, when="finished")
    flow.add(shop.refund.bind(1), name="never", after=shipped, when="any_failed")
    shop.app.start(flow)
    burst()
    assert shop.states("w") == {"pay": "dead", "ship": "skipped", "last": "done", "never": "skipped"}


def test_a_result_that_is_not_there_is_none_for_a_step_that_asks_for_more_than_success(
    shop: Shop, burst: Burst
) -> None:
    shop.broken = {"pay"}
    flow = Workflow("w", id="w")
    paid = flow.add(shop.pay.bind(1))
    flow.add(shop.ship.bind(2, receipt=paid.result["receipt"]), after=paid, when="finished")
    handle = shop.app.start(flow)
    burst()
    assert handle.step("ship").result(1) == "parcel 2 None"


def test_a_part_of_a_result_that_is_not_there_kills_the_step_and_says_so(shop: Shop, burst: Burst) -> None:
    flow = Workflow("w", id="w")
    paid: Any = flow.add(shop.pay.bind(1))
    flow.add(shop.ship.bind(1, receipt=paid.result["recipe"]))
    handle = shop.app.start(flow)
    burst()
    assert handle.state == "failed"
    assert "['recipe']" in str(handle.steps()[1].error)


def test_a_dead_step_that_is_retried_lets_the_skipped_ones_go_on(shop: Shop, burst: Burst) -> None:
    shop.broken = {"reserve", "refund"}
    handle = shop.app.start(shop.order())
    burst()
    shop.broken = set()
    assert handle.retry("reserve") == ["reserve"]
    assert handle.state == "running"
    burst()
    assert shop.states("order-1")["ship"] == "done"
    assert handle.retry() == ["refund"]
    with pytest.raises(TransitionRefused, match="'reserve' is done"):
        handle.retry("reserve")
    burst()
    with pytest.raises(TransitionRefused, match="no dead step"):
        handle.retry()


def test_a_cancelled_workflow_runs_nothing_more(shop: Shop, burst: Burst) -> None:
    handle = shop.app.start(shop.order())
    handle.cancel()
    burst()
    assert (handle.state, shop.did) == ("cancelled", [])
    assert set(shop.states("order-1").values()) == {"cancelled"}
    with pytest.raises(JobCancelled):
        handle.result(1)
    handle.cancel()  # one that has ended stays as it is


def test_a_step_is_skipped_by_hand(shop: Shop, burst: Burst) -> None:
    handle = shop.app.start(shop.order())
    handle.skip("reserve")
    burst()
    assert shop.states("order-1") == {"pay": "done", "reserve": "skipped", "ship": "skipped", "refund": "skipped"}
    assert handle.state == "succeeded"
    with pytest.raises(TransitionRefused, match="'pay' is done"):
        handle.skip("pay")


def test_an_empty_workflow_has_succeeded_at_once(app: Windlass) -> None:
    handle = app.start(Workflow("empty"))
    assert (handle.state, handle.result(1)) == ("succeeded", {})


def test_a_list_is_expanded_and_its_results_come_in_order(shop: Shop, burst: Burst) -> None:
    flow = Workflow("w", id="w")
    stock = flow.add(shop.reserve.bind(10))
    packed = flow.expand(shop.pack.bind(colour="blue"), over=stock.result)
    flow.add(shop.label.bind(packed.result))
    handle = shop.app.start(flow)
    burst()
    assert handle.result(1) == {"label": 3}
    assert ["blue 10", "blue 11", "blue 12"] in shop.did
    assert [(step.name, step.parent) for step in handle.steps() if step.parent] == [
        ("pack/1", "pack"), ("pack/2", "pack"), ("pack/3", "pack"),
    ]  # fmt: skip


def test_an_empty_list_expands_to_nothing(app: Windlass, shop: Shop, burst: Burst) -> None:
    @app.job(name="nothing")
    def nothing() -> list[int]:
        return []

    flow = Workflow("w", id="w")
    flow.add(shop.label.bind(flow.expand(shop.pack.bind(), over=flow.add(nothing.bind()).result).result))
    handle = app.start(flow)
    burst()
    assert handle.result(1) == {"label": 0}


def test_an_item_that_fails_fails_the_expansion_and_both_can_be_retried(shop: Shop, burst: Burst) -> None:
    shop.broken = {"pack 11"}
    flow = Workflow("w", id="w")
    flow.expand(shop.pack.bind(), over=flow.add(shop.reserve.bind(10)).result, name="packed")
    handle = shop.app.start(flow)
    burst()
    assert handle.state == "failed"
    assert handle.step("packed").info().errors[-1].message.startswith("1 of 3 jobs")
    shop.broken = set()
    assert handle.retry() == ["packed"]
    burst()
    assert handle.result(1) == {"packed": ["brown 10", "brown 11", "brown 12"]}
    assert shop.did.count("pack 10") == 1


def test_what_is_no_list_is_not_expanded(shop: Shop, burst: Burst) -> None:
    flow = Workflow("w", id="w")
    flow.expand(shop.pack.bind(), over=flow.add(shop.pay.bind(1)).result)
    handle = shop.app.start(flow)
    burst()
    assert "expands a list, and got a dict" in handle.step("pack").info().errors[-1].message


def test_a_workflow_is_a_step_of_another(shop: Shop, burst: Burst) -> None:
    flow = Workflow("outer", id="outer")
    paid = flow.add(shop.pay.bind(1))
    inner = Workflow("parcel")
    packed = inner.add(shop.pack.bind(7))
    inner.add(shop.ship.bind(1, receipt=paid.result["receipt"]), after=packed)
    parcel = flow.add(inner, after=paid)
    flow.add(shop.ship.bind(2, receipt=parcel.result["ship"]), name="tell")
    handle = shop.app.start(flow)
    assert handle.state == "running"
    burst()
    assert handle.result(1) == {"tell": "parcel 2 parcel 1 r1"}
    assert [one.id for one in shop.app.workflows()] == ["outer"]
    sub = next(step.workflow for step in handle.steps() if step.workflow)
    assert shop.app.workflow(sub).info().parent == "outer"


def test_a_workflow_that_is_a_step_fails_and_is_retried_as_one(shop: Shop, burst: Burst) -> None:
    shop.broken = {"ship"}
    flow, inner = Workflow("outer", id="outer"), Workflow("parcel")
    inner.add(shop.ship.bind(1), after=inner.add(shop.pack.bind(7)))
    flow.add(inner)
    handle = shop.app.start(flow)
    burst()
    assert handle.state == "failed"
    shop.broken = set()
    handle.retry()
    burst()
    assert handle.result(1) == {"parcel": {"ship": "parcel 1 None"}}
    assert shop.did == ["pack 7", "ship", "ship"]


def test_steps_that_are_done_are_undone_in_reverse_when_the_workflow_fails(shop: Shop, burst: Burst) -> None:
    shop.broken = {"ship"}
    flow = Workflow("w", id="w")
    paid = flow.add(shop.pay.bind(1))
    first = flow.add(shop.pack.bind(1), after=paid, undo=shop.refund.bind(1))
    second = flow.add(shop.pack.bind(2), after=first, undo=shop.pack.bind(20))
    flow.add(shop.ship.bind(1), after=second, undo=shop.pack.bind(30))
    handle = shop.app.start(flow)
    burst()
    assert shop.did == ["pay", "pack 1", "pack 2", "ship", "pack 20", "refund"]
    assert handle.state == "failed"
    assert handle.step("undo").result(1) == ["undo/pack-2", "undo/pack"]
    assert [step.name for step in handle.steps()][-2:] == ["undo/pack-2", "undo/pack"]
    with pytest.raises(TransitionRefused, match="undone"):
        handle.retry()


def test_an_undo_is_made_of_its_step(shop: Shop, burst: Burst) -> None:
    shop.broken = {"reserve"}
    flow = Workflow("w", id="w")
    paid = flow.add(shop.pay.bind(1), undo=lambda paid: shop.ship.bind(9, receipt=paid.result["receipt"]))
    flow.add(shop.reserve.bind(1), after=paid)
    handle = shop.app.start(flow)
    burst()
    assert handle.step("undo/pay").result(1) == "parcel 9 r1"
    for wrong, message in (
        (lambda paid: paid, "undo of step 'pay'.* is not a call"),
        (shop.ship, r"write ship.bind\("),
    ):
        with pytest.raises(ConfigError, match=message):
            Workflow("w").add(shop.pay.bind(1), undo=wrong)  # type: ignore[arg-type, call-overload]


def test_an_undo_takes_the_result_of_another_step(shop: Shop, burst: Burst) -> None:
    shop.broken = {"reserve"}
    flow = Workflow("w", id="w")
    flow.add(shop.reserve.bind(1))
    paid = flow.add(shop.pay.bind(1))
    flow.add(shop.pack.bind(3), after=paid, undo=shop.ship.bind(9, receipt=paid.result["receipt"]))
    handle = shop.app.start(flow)
    burst()
    assert handle.step("undo/pack").result(1) == "parcel 9 r1"


def test_nothing_is_undone_when_all_goes_well_or_the_failure_is_dealt_with(shop: Shop, burst: Burst) -> None:
    flow = Workflow("w", id="w")
    flow.add(shop.pay.bind(1), undo=shop.refund.bind(1))
    handle = shop.app.start(flow)
    burst()
    assert (handle.state, shop.did) == ("succeeded", ["pay"])
    shop.broken = {"reserve"}
    flow = Workflow("w", id="dealt")
    flow.add(shop.pay.bind(1), undo=shop.refund.bind(1))
    flow.add(shop.pack.bind(1), after=flow.add(shop.reserve.bind(1)), when="failed")
    handle = shop.app.start(flow)
    burst()
    assert (handle.state, "refund" in shop.did) == ("succeeded", False)
    assert handle.result(1) == {"pay": {"receipt": "r1"}, "pack": "brown 1"}


@pytest.mark.parametrize("dealt_with", [False, True])
def test_a_failure_after_a_retry_is_undone_though_there_was_nothing_to_undo_before(
    shop: Shop, burst: Burst, dealt_with: bool
) -> None:
    shop.broken = {"pay"}
    flow = Workflow("w", id="w")
    paid = flow.add(shop.pay.bind(1), undo=shop.refund.bind(1))
    if dealt_with:
        flow.add(shop.reserve.bind(1), after=paid, when="failed")
    flow.add(shop.pack.bind(1), after=paid)
    handle = shop.app.start(flow)
    burst()
    assert (handle.state, shop.states("w")["undo"]) == ("succeeded" if dealt_with else "failed", "skipped")
    shop.broken = {"pack 1"}
    assert handle.retry() == ["pay"] if not dealt_with else handle.retry("pay") == ["pay"]
    burst()
    assert (handle.state, shop.states("w")["undo"], shop.did[-1]) == ("failed", "done", "refund")


def test_a_running_step_adds_steps_that_others_wait_for(app: Windlass, shop: Shop, burst: Burst) -> None:
    from windlass import JobContext

    @app.job(name="split", retry=1)
    def split(ctx: JobContext) -> None:
        first = ctx.workflow.add(shop.pack.bind(1), before="merge")
        ctx.workflow.add(shop.pack.bind(2), after=first, before="merge")
        if ctx.attempt == 1:
            raise ValueError("what was added goes with it")

    flow = Workflow("w", id="w")
    flow.add(shop.refund.bind(1), name="merge", after=flow.add(split.options(retry=0).bind()))
    app.start(flow)
    burst()
    assert shop.did == []
    app.workflow("w").cancel()

    @app.job(name="split2")
    def split2(ctx: JobContext) -> None:
        first = ctx.workflow.add(shop.pack.bind(1), before="merge")
        ctx.workflow.add(shop.pack.bind(2), after=first, before="merge")
        ctx.workflow.add(shop.pay.bind(3), after="merge", when="finished")

    flow = Workflow("w", id="w2")
    flow.add(shop.refund.bind(1), name="merge", after=flow.add(split2.bind()))
    handle = app.start(flow)
    burst()
    assert shop.did == ["pack 1", "pack 2", "refund", "pay"]
    assert shop.states("w2") == {
        "split2": "done", "merge": "done", "split2/pack": "done", "split2/pack-2": "done", "split2/pay": "done",
    }  # fmt: skip
    assert handle.state == "succeeded"


def test_bad_input_is_told_where_it_is_written(app: Windlass, shop: Shop) -> None:
    flow, other = Workflow("w", id="w"), Workflow("other", id="other")
    paid = flow.add(shop.pay.bind(1))
    far = other.add(shop.pay.bind(1))
    call = shop.pack.bind(1)
    flow.add(call, name="packed")
    for wrong, message in (
        (lambda: flow.add(shop.ship.bind(1), after=far), "another workflow"),
        (lambda: flow.add(shop.ship.bind(1), after="ship"), "no step 'ship' before it"),
        (lambda: flow.add(shop.ship.bind(1), after="pya"), "did you mean 'pay'"),
        (lambda: flow.add(shop.ship.bind(1), name="pay"), "a step 'pay' already"),
        (lambda: flow.add(shop.ship.bind(1), when="failed"), "give after="),
        (lambda: flow.add(shop.ship.bind(1), after=paid, when="fails"), "it is one of"),  # type: ignore[call-overload]
        (lambda: flow.add(shop.ship), "is not a call"),  # type: ignore[call-overload]
        (lambda: flow.add(shop.ship.bind(1), name="a:b"), "a colon"),
        (lambda: flow.add(shop.ship.bind(1), name="pack/1"), "a slash"),
        (lambda: flow.add(shop.ship.bind(1), name="undo"), "undoes others"),
        (lambda: flow.add(shop.ship.bind(1), after=None), "after is None"),  # type: ignore[call-overload]
        (lambda: flow.add(shop.ship.bind(1), after=paid.result), "after is <result of pay>"),
        (lambda: flow.add(shop.ship.options(connection=object()).bind(1)), "give it to start()"),
        (lambda: flow.add(flow), "no step of itself"),
        (lambda: flow.add(Workflow("e")), "has no steps"),
        (lambda: flow.add(other), "leave out its id="),
        (lambda: flow.expand(shop.pack.bind(), over=[1, 2]), "give the result of a step"),
        (lambda: Workflow("w", on_stall="retry"), "needs stall_after"),
        (lambda: Workflow("w", deadline=0), "longer than zero"),
        (lambda: app.workflows("done"), "it is one of"),  # type: ignore[arg-type]
        (lambda: app.start(shop.pay.bind(1)), "is no Workflow"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match=message.replace("(", r"\(").replace(")", r"\)")):
            wrong()
    with pytest.raises(PayloadError, match="add the call to that workflow"):
        shop.ship.bind(1, receipt=paid.result["receipt"]).maker.enqueuer.enqueue(
            shop.ship.bind(1, receipt=paid.result["receipt"])
        )
    taker = Workflow("taker", id="taker")
    taker.add(shop.ship.bind(1, receipt=far.result["receipt"]))
    undoer = Workflow("undoer", id="undoer")
    undoer.add(shop.pay.bind(1), undo=shop.ship.bind(1, receipt=far.result["receipt"]))
    for one in (taker, undoer):
        with pytest.raises(ConfigError, match="a step of another workflow"):
            app.start(one)
    with pytest.raises(ResultExpired, match="no workflow 'gone'"):
        app.workflow("gone").info()
    with Windlass("memory://") as elsewhere, pytest.raises(ConfigError):
        elsewhere.start(flow)


def test_the_twins_do_the_same(shop: Shop, burst: Burst) -> None:
    async def use() -> None:
        handle = await shop.app.astart(shop.order())
        with pytest.raises(ResultTimeout):
            await handle.aresult(0.05)
        assert (await handle.ainfo()).state == "running"
        await asyncio.to_thread(burst)
        assert await handle.aresult(1) == {"ship": "parcel 1 r1"}
        assert len(await handle.asteps()) == 4
        assert (await handle.aprogress()).done == 3
        assert [one.id for one in await shop.app.aworkflows("succeeded")] == ["order-1"]

    asyncio.run(use())


def test_a_workflow_is_stored_inside_a_transaction_or_not_at_all(shop: Shop) -> None:
    if shop.app.engine.info.name == "redis":
        with pytest.raises(ConfigError, match="has no transactions"):
            shop.app.start(shop.order(), connection=object())
        return
    with pytest.raises(RuntimeError), shop.app.transaction() as tx:
        shop.app.start(shop.order(), connection=tx)
        raise RuntimeError
    assert not shop.app.workflows().items
    with shop.app.transaction() as tx:
        shop.app.start(shop.order(), connection=tx)
    assert shop.app.workflow("order-1").state == "running"


@pytest.fixture
def grow(app: Windlass, shop: Shop) -> Any:
    """A step that adds one that packs ``item``, before another or not."""
    from windlass import JobContext

    @app.job(name="grow")
    def grow(ctx: JobContext, item: int, **more: Any) -> None:
        ctx.workflow.add(shop.pack.bind(item), **more)

    return grow


def test_a_step_that_was_added_while_it_ran_fails_the_workflow_and_is_retried(
    shop: Shop, grow: Any, burst: Burst
) -> None:
    shop.broken = {"pack 1"}
    flow = Workflow("w", id="w")
    flow.add(shop.refund.bind(1), after=flow.add(grow.bind(1, before="refund")))
    handle = shop.app.start(flow)
    burst()
    assert shop.states("w") == {"grow": "done", "refund": "skipped", "grow/pack": "dead"}
    with pytest.raises(JobFailed, match="step 'grow/pack'"):
        handle.result(1)
    shop.broken = set()
    assert handle.retry() == ["grow/pack"]
    burst()
    assert handle.result(1) == {"refund": "refunded 1"}


def test_the_failure_of_a_step_that_was_added_while_it_ran_undoes_the_others(
    shop: Shop, grow: Any, burst: Burst
) -> None:
    shop.broken = {"pack 1"}
    flow = Workflow("w", id="w")
    flow.add(grow.bind(1), after=flow.add(shop.pay.bind(1), undo=shop.refund.bind(1)))
    handle = shop.app.start(flow)
    burst()
    assert (handle.state, shop.did) == ("failed", ["pay", "pack 1", "refund"])


def test_the_failure_of_an_item_is_that_of_the_step_and_can_be_dealt_with(shop: Shop, burst: Burst) -> None:
    shop.broken = {"pack 11"}
    flow = Workflow("w", id="w")
    packed = flow.expand(shop.pack.bind(), over=flow.add(shop.reserve.bind(10)).result)
    flow.add(shop.refund.bind(1), after=packed, when="failed")
    handle = shop.app.start(flow)
    burst()
    assert (handle.state, handle.result(1)) == ("succeeded", {"refund": "refunded 1"})


def test_the_results_are_those_of_the_steps_that_were_last_when_it_began(shop: Shop, grow: Any, burst: Burst) -> None:
    flow = Workflow("w", id="w")
    flow.add(shop.ship.bind(1), after=flow.add(grow.bind(1, after="ship")))
    handle = shop.app.start(flow)
    burst()
    assert shop.states("w") == {"grow": "done", "ship": "done", "grow/pack": "done"}
    assert handle.result(1) == {"ship": "parcel 1 None"}


def test_a_workflow_takes_no_steps_once_it_was_given_away(shop: Shop) -> None:
    flow, inner = Workflow("w", id="w"), Workflow("inner")
    inner.add(shop.pay.bind(1))
    flow.add(inner)
    with pytest.raises(ConfigError, match=r"add\(\): it was started, or added to another workflow, already"):
        inner.add(shop.pay.bind(2))
    shop.app.start(flow)
    with pytest.raises(ConfigError, match=r"ctx.workflow.add\(\)"):
        flow.add(shop.pay.bind(2))
    assert shop.app.start(flow).duplicate


def test_a_running_step_adds_calls_and_no_workflows(app: Windlass, shop: Shop, burst: Burst) -> None:
    from windlass import JobContext

    @app.job(name="nest")
    def nest(ctx: JobContext) -> str:
        with pytest.raises(ConfigError, match=r"ctx.then\(\) starts a workflow"):
            ctx.workflow.add(Workflow("inner"))  # type: ignore[arg-type]
        return "told"

    flow = Workflow("w", id="w")
    flow.add(nest.bind())
    handle = app.start(flow)
    burst()
    assert handle.result(1) == {"nest": "told"}


def test_the_result_of_a_step_is_no_value_yet(shop: Shop) -> None:
    paid: Any = Workflow("w").add(shop.pay.bind(1))
    for use in (
        lambda: f"receipt {paid.result}",
        lambda: paid.result == "r1",
        lambda: paid.result["receipt"] != "r1",
        lambda: [*paid.result],
        lambda: paid.result or "none",
    ):
        with pytest.raises(TypeError, match=r"<result of pay.* is known when the step is done"):
            use()
    with pytest.raises(AttributeError, match=r"write \['receipt'\] for a part of it"):
        paid.result.receipt  # noqa: B018
    assert len({paid.result, paid.result}) == 2


def test_a_step_whose_undo_can_never_be_is_not_added(shop: Shop) -> None:
    flow = Workflow("w", id="w")
    for _ in range(2):
        with pytest.raises(ConfigError, match="nowhere"):
            flow.add(shop.pay.bind(1), name="pay", undo=lambda _: shop.refund.options(queue="no where nowhere").bind(1))
    assert len(flow) == 0
