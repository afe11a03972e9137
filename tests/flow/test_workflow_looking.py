"""What people see of workflows and of jobs in them: nothing that is redacted, names in place of gates."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from windlass import JobContext, Windlass, Workflow, chain
from windlass.core.model import NewJoin, Write

Burst = Callable[[], None]


class Shop:
    """Jobs that say nothing, list three items, or fail."""

    def __init__(self, app: Windlass) -> None:
        self.app = app

        @app.job(name="work")
        def work(number: int = 0) -> int:
            return number

        @app.job(name="list")
        def list_() -> list[int]:
            return [1, 2, 3]

        @app.job(name="fail")
        def fail(previous: object = None) -> None:
            raise ValueError("no stock")

        self.work, self.list, self.fail = work, list_, fail
        self.later = work.options(delay="1h")

    def start(self, *steps: str) -> Workflow:
        """A workflow of four steps."""
        order = Workflow("order", id="order-1")
        pay, reserve = order.add(self.work.bind(), name="pay"), order.add(self.later.bind(), name="reserve")
        order.add(self.work.bind(), name="ship", after=[pay, reserve])
        order.add(self.work.bind(), name="refund", after=[pay, reserve], when="any_failed")
        self.app.start(order)
        return order


@pytest.fixture
def shop(app: Windlass) -> Shop:
    return Shop(app)


def test_explain_names_the_steps_that_a_step_waits_for(app: Windlass, burst: Burst, shop: Shop) -> None:
    shop.start()
    assert app.explain("order-1:ship") == (
        "Job order-1:ship (work) waits for 2 of 2 steps: 'pay' (ready), 'reserve' (scheduled). It is step 'ship' of "
        "workflow order (order-1). It runs when all have succeeded."
    )
    burst()
    assert "waits for 1 of 2 steps: 'reserve' (scheduled). " in app.explain("order-1:ship")
    assert app.explain("order-1:refund").endswith("It runs when one has failed.")
    assert "is done; " in app.explain("order-1:pay")
    assert app.explain("order-1:pay").endswith("It is step 'pay' of workflow order (order-1).")


def test_explain_says_why_a_step_was_skipped(app: Windlass, burst: Burst, shop: Shop) -> None:
    order = Workflow("order", id="order-1")
    failing, paid = order.add(shop.fail.bind(), name="reserve"), order.add(shop.work.bind(), name="pay")
    order.add(shop.work.bind(), name="ship", after=[paid, failing])
    order.add(shop.work.bind(), name="refund", after=paid, when="failed")
    app.start(order)
    burst()
    assert app.explain("order-1:ship").endswith("It was to run when all have succeeded: 'reserve' (dead).")
    assert app.explain("order-1:refund").endswith("It was to run when all have failed: 'pay' (done).")


def test_explain_names_what_a_step_has_started_and_waits_for(app: Windlass, burst: Burst, shop: Shop) -> None:
    order, sub = Workflow("order", id="order-1"), Workflow("pack")
    sub.add(shop.later.bind(), name="wrap")
    order.expand(shop.later.bind(), over=order.add(shop.list.bind()).result, name="each")
    order.add(sub)
    app.start(order)
    burst()
    items = "'each/1' (scheduled), 'each/2' (scheduled), 'each/3' (scheduled)"
    assert f"waits for 3 of the 3 jobs that it made: {items}. It is step 'each' of" in app.explain("order-1:each")
    steps = {step.name: step for step in app.workflow("order-1").steps()}
    assert (steps["each"].waits_for, steps["pack"].waits_for) == (("each/1", "each/2", "each/3"), ())
    inner = steps["pack"].workflow
    assert f"waits for workflow pack ({inner}), which it runs: 1 of 1 steps have not ended. " in (
        app.explain("order-1:pack")
    )


def test_explain_names_what_undoing_waits_for(app: Windlass, burst: Burst, shop: Shop) -> None:
    order = Workflow("order", id="order-1")
    one = order.add(shop.work.bind(), name="one", undo=shop.later.bind(1))
    two = order.add(shop.work.bind(), name="two", after=one, undo=shop.later.bind(2))
    order.add(shop.fail.bind(), name="three", after=two)
    order.add(shop.later.bind(), name="other")
    app.start(order)
    burst()
    assert "waits for 1 of 4 steps to end: 'other' (scheduled). " in app.explain("order-1:undo")
    app.cancel(["order-1:other"])
    burst()
    assert "waits for 2 of 2 steps that undo others: 'undo/one' (blocked), 'undo/two' (scheduled). " in (
        app.explain("order-1:undo")
    )
    (first,) = [step.id for step in app.workflow("order-1").steps() if step.name == "undo/one"]
    assert "waits for 1 of 1 jobs to end: 'undo/two' (scheduled). " in app.explain(first)


def test_explain_names_the_batch_and_the_chain(app: Windlass, burst: Burst, shop: Shop) -> None:
    with app.batch("newsletter", id="news", on_success=shop.work.bind()):
        app.batch(id="news").add(shop.work.bind())
        app.batch(id="news").add(one := shop.later.bind())
        burst()
        said = app.explain("news:on_success")
        assert "waits for batch newsletter (news): 1 of 2 jobs have not ended, and it takes more." in said
    assert "1 of 2 jobs have not ended." in app.explain("news:on_success")
    assert "It is a job of batch newsletter (news)." in app.explain(one.id)
    last = chain(first := shop.later.bind(), shop.work.bind()).enqueue()
    assert app.explain(last.id) == (
        f"Job {last.id} (work) waits for the job before it in its chain: job {first.id} (work, scheduled)."
    )


def test_explain_of_a_workflow_or_a_batch_says_what_it_is(app: Windlass, shop: Shop) -> None:
    shop.start()
    with app.batch("newsletter", id="news"):
        pass
    assert app.explain("order-1").endswith("There is a workflow of this id: `windlass workflows show order-1`.")
    assert app.explain("news").endswith("There is a batch of this id: `windlass batches show news`.")
    assert app.explain("else").endswith("its record has been removed.")


def test_explain_names_three_of_many(app: Windlass, shop: Shop) -> None:
    order = Workflow("order", id="order-1")
    many = [order.add(shop.work.bind(), name=f"s{at}") for at in range(1_200)]
    order.add(shop.work.bind(), name="last", after=many)
    app.start(order)
    assert "waits for 1,200 of 1,200 steps: 's0' (ready), 's1' (ready), 's10' (ready) and 1,197 more. " in (
        app.explain("order-1:last")
    )


def test_a_job_says_which_step_it_is_and_of_which_batches(app: Windlass, burst: Burst, shop: Shop) -> None:
    seen: list[tuple[object, ...]] = []

    @app.job(name="look")
    def look(ctx: JobContext) -> None:
        info = app.get(ctx.id)
        assert info is not None
        seen.append((info.workflow, info.step, info.batches))

    order = Workflow("order", id="order-1")
    order.add(look.bind(), name="looking")
    app.start(order)
    with app.batch("outer", id="outer") as outer, outer.batch("inner", id="inner") as inner:
        inner.add(look.bind())
    look.enqueue()
    burst()
    assert set(seen) == {("order-1", "looking", ()), (None, None, ("inner", "outer")), (None, None, ())}


@pytest.mark.parametrize("engine", ["here", "elsewhere"])
def test_what_is_redacted_shows_up_in_no_step(app: Windlass, burst: Burst, url: str, engine: str) -> None:
    @app.job(name="charge", redact=["card"])
    def charge(card: str) -> None:
        raise ValueError(f"card {card} is declined")

    order = Workflow("order", id="order-1")
    order.add(charge.bind("4711-0815"))
    app.start(order)
    burst()
    if engine == "elsewhere" and url != "memory://":
        with Windlass(url) as other:
            (step,) = other.workflow("order-1").steps()
    else:
        (step,) = app.workflow("order-1").steps()
    assert step.error == "ValueError: card ••• is declined"


def test_facts_that_nobody_can_read_hide_no_composition(app: Windlass) -> None:
    joins = (NewJoin("workflow:w", meta='{"name": 1}'), NewJoin("batch:b", meta="["))
    app.engine.commit(Write((), joins=joins))
    assert [(info.id, info.name) for info in app.workflows()] == [("w", "")]
    assert [(info.id, info.name, info.callbacks) for info in app.batches()] == [("b", "", ())]
