"""A chain runs step by step, each with the result of the one before, in one commit and once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from windlass import (
    Call,
    Concurrency,
    ConfigError,
    Discard,
    JobContext,
    JobFailed,
    JobInfo,
    PayloadError,
    State,
    Unique,
    Windlass,
    chain,
)
from windlass.core.rows import Action
from windlass.events import JobEnqueued

Burst = Callable[[], None]


def info_of(app: Windlass, job_id: str) -> JobInfo:
    info = app.get(job_id)
    assert info is not None
    return info


def states(app: Windlass, *calls: Call[Any]) -> list[str | None]:
    found = [app.get(call.id) for call in calls]
    return [None if info is None else str(info.state) for info in found]


class Steps:
    """Jobs that say in which order they ran."""

    def __init__(self, app: Windlass) -> None:
        self.ran: list[object] = []
        self.broken = False

        @app.job(name="create")
        def create(number: int) -> dict[str, int]:
            self.ran.append(("create", number))
            return {"order": number}

        @app.job(name="reserve")
        def reserve(ctx: JobContext, order: dict[str, int], shelf: str = "a") -> tuple[int, str]:
            self.ran.append(("reserve", order, shelf))
            if self.broken:
                raise LookupError("nothing there")
            return order["order"], shelf

        @app.job(name="ship")
        async def ship(parcel: tuple[int, str], *, express: bool = False) -> timedelta:
            self.ran.append(("ship", parcel, express))
            return timedelta(days=1 if express else 3)

        self.create, self.reserve, self.ship = create, reserve, ship


@pytest.fixture
def steps(app: Windlass) -> Steps:
    return Steps(app)


def test_each_step_gets_the_result_of_the_one_before_as_its_parameter_is_annotated(
    app: Windlass, burst: Burst, steps: Steps
) -> None:
    handle = chain(steps.create.bind(7), steps.reserve.bind(), steps.ship.bind(express=True)).enqueue()
    assert len(app.jobs("ready")) == 1
    burst()
    assert steps.ran == [("create", 7), ("reserve", {"order": 7}, "a"), ("ship", (7, "a"), True)]
    assert handle.result(timeout=5) == timedelta(days=1)


def test_arguments_of_a_step_stand_behind_the_result(app: Windlass, burst: Burst, steps: Steps) -> None:
    call = steps.reserve.bind("z")  # type: ignore[arg-type]  # where mypy cannot see that it is a step
    chain(steps.create.bind(7), call).enqueue()
    burst()
    assert steps.ran[-1] == ("reserve", {"order": 7}, "z")


def test_previous_is_passed_by_name_wherever_it_stands_and_also_when_it_is_none(app: Windlass, burst: Burst) -> None:
    ran: list[object] = []

    @app.job(name="nothing")
    def nothing() -> None:
        ran.append("nothing")

    @app.job(name="last")
    def last(what: str, previous: object = "not given", more: int = 0) -> None:
        ran.append((what, previous, more))

    @app.job(name="named")
    def named(what: str, *, previous: object = "not given") -> None:
        ran.append((what, previous))

    @app.job(name="first")
    def first(value: object = "not given", *rest: int) -> None:
        ran.append((value, rest))

    @app.job(name="star")
    def star(*values: object) -> None:
        ran.append(values)

    chain(
        nothing.bind(),
        last.bind("a"),
        last.bind("b", more=2),
        last.bind("c", 3),
        named.bind("d"),
        first.bind(),
        first.bind(4, 5),
        star.bind(6),
    ).enqueue()
    burst()
    assert ran == [
        "nothing",
        ("a", None, 0),
        ("b", None, 2),
        ("c", None, 3),
        ("d", None),
        (None, ()),
        (None, (4, 5)),
        (None, 6),
    ]


def test_what_stands_behind_a_failed_step_ends_cancelled_and_goes_on_when_that_is_mended(
    app: Windlass, burst: Burst, steps: Steps
) -> None:
    calls: list[Call[Any]] = [steps.create.bind(7), steps.reserve.bind(), steps.ship.bind(), steps.ship.bind()]
    steps.broken = True
    chain(*calls[:3]).enqueue()
    burst()
    assert states(app, *calls[:3]) == ["done", "dead", "cancelled"]
    assert info_of(app, calls[2].id).reason == "skipped"
    steps.broken = False
    app.dead.retry([calls[1].id])
    assert states(app, calls[2]) == ["blocked"]
    burst()
    assert states(app, *calls[:3]) == ["done", "done", "done"]


def test_a_step_that_was_discarded_or_cancelled_ends_the_chain(app: Windlass, burst: Burst, steps: Steps) -> None:
    @app.job(name="not-now")
    def not_now() -> int:
        raise Discard("not now")

    calls: list[Call[Any]] = [not_now.bind(), steps.create.bind()]
    chain(*calls).enqueue()
    burst()
    assert states(app, *calls) == ["cancelled", "cancelled"]
    more: list[Call[Any]] = [steps.create.bind(1), steps.reserve.bind()]
    chain(*more).enqueue()
    app.cancel([more[0].id])
    assert states(app, *more) == ["cancelled", "cancelled"]


def test_a_chain_that_is_stored_twice_is_stored_once(app: Windlass, burst: Burst, steps: Steps) -> None:
    made = chain(steps.create.bind(7), steps.reserve.bind())
    first, second = made.enqueue(), made.enqueue()
    assert (first.duplicate, second.duplicate) == (False, True)
    assert first.id == second.id
    burst()
    assert steps.ran == [("create", 7), ("reserve", {"order": 7}, "a")]


def test_a_step_that_is_a_duplicate_is_the_one_that_is_there(app: Windlass, burst: Burst, steps: Steps) -> None:
    unique = steps.create.options(unique=Unique("order:{number}"))
    there = unique.enqueue(7)
    chain(unique.bind(7), steps.reserve.bind()).enqueue()
    assert len(app.jobs("ready")) == 1
    burst()
    assert steps.ran == [("create", 7), ("reserve", {"order": 7}, "a")]
    assert there.state is State.DONE


def test_the_records_of_the_steps_outlive_keep_done_until_the_chain_has_ended(
    app: Windlass, burst: Burst, steps: Steps
) -> None:
    create, later = steps.create.options(keep=0), steps.reserve.options(delay="1h")
    first, second = create.bind(7), later.bind()
    chain(first, second).enqueue()
    burst()
    assert states(app, first, second) == ["done", "scheduled"]  # its delay counts from when it goes on
    app.retry([second.id])
    burst()
    assert steps.ran[-1] == ("reserve", {"order": 7}, "a")


def test_a_result_that_was_not_stored_kills_the_step_and_says_why(app: Windlass, burst: Burst, steps: Steps) -> None:
    @app.job(name="large")
    def large() -> str:
        return "x" * 1_000_000

    handle = chain(large.bind(), steps.reserve.bind()).enqueue()
    burst()
    with pytest.raises(JobFailed, match=r"large\) is done, .* takes its result as 0, but: result not stored"):
        handle.result(timeout=5)
    assert handle.info().reason == "no result to go on with"
    assert steps.ran == []


def test_a_result_of_another_type_kills_the_step_and_says_where(app: Windlass, burst: Burst, steps: Steps) -> None:
    handle = chain(steps.create.bind(7), steps.ship.bind()).enqueue()
    burst()
    with pytest.raises(JobFailed, match="argument 'parcel' cannot be decoded"):
        handle.result(timeout=5)


def test_a_step_that_cannot_go_on_is_given_its_arguments_by_hand(app: Windlass, burst: Burst, steps: Steps) -> None:
    calls: list[Call[Any]] = [steps.create.bind(7), steps.ship.bind()]
    handle = chain(*calls).enqueue()
    burst()
    with pytest.raises(PayloadError, match=rf"is the result of job {calls[0].id}; give both args= and kwargs="):
        app.dead.edit(handle.id, kwargs={"express": True})
    app.dead.edit(handle.id, args=[(7, "b")], kwargs={"express": True}, retry=True)
    burst()
    assert steps.ran[-1] == ("ship", (7, "b"), True)
    assert handle.result(timeout=5) == timedelta(days=1)


def test_a_skipped_step_that_is_retried_by_hand_has_no_result_to_go_on_with(
    app: Windlass, burst: Burst, steps: Steps
) -> None:
    steps.broken = True
    chained = chain(steps.create.bind(7), steps.reserve.bind(), steps.ship.bind())
    handle = chained.enqueue()
    burst()
    handle.retry()
    burst()
    with pytest.raises(JobFailed, match=r"reserve\) is dead, so it has no result"):
        handle.result(timeout=5)


def test_what_is_redacted_is_hidden_in_the_errors_of_a_step_too(app: Windlass, burst: Burst) -> None:
    @app.job(name="card")
    def card() -> str:
        return "4242-secret"

    @app.job(name="pay", redact=["number"])
    def pay(number: str) -> None:
        raise ValueError(f"declined {number}")

    handle = chain(card.bind(), pay.bind()).enqueue()
    burst()
    with pytest.raises(JobFailed, match="declined") as caught:
        handle.result(timeout=5)
    assert "4242" not in str(caught.value)
    assert "4242" not in str(handle.info())


# -- around it ---------------------------------------------------------------------------------------------------------


def test_middleware_and_events_see_every_step(app: Windlass, steps: Steps) -> None:
    seen: list[str] = []
    told: list[str] = []
    app.on(JobEnqueued)(lambda event: told.append(event.name))

    @app.middleware("enqueue")
    def watch(call: Call[object]) -> Any:
        seen.append(call.name)
        yield

    made = chain(steps.create.bind(7), steps.reserve.bind(), steps.ship.bind())
    made.enqueue()
    made.enqueue()
    assert seen == ["create", "reserve", "ship"] * 2
    assert told == ["create", "reserve", "ship"]


def test_a_middleware_that_refuses_one_step_refuses_the_chain(app: Windlass, steps: Steps) -> None:
    @app.middleware("enqueue")
    def refuse(call: Call[object]) -> Any:
        if call.name == "ship":
            raise ValueError("no parcels today")
        yield

    with pytest.raises(ValueError, match="no parcels"):
        chain(steps.create.bind(7), steps.reserve.bind(), steps.ship.bind()).enqueue()
    assert len(app.jobs()) == 0


def test_a_chain_from_a_coroutine(app: Windlass, burst: Burst, steps: Steps) -> None:
    async def store() -> str:
        return (await chain(steps.create.bind(7), steps.reserve.bind()).aenqueue()).id

    job_id = asyncio.run(store())
    burst()
    assert info_of(app, job_id).result == (7, "a")


@pytest.mark.parametrize("url", ["memory", "sqlite"], indirect=True)  # those with transactions
def test_a_chain_inside_a_transaction_appears_with_its_commit(app: Windlass, burst: Burst, steps: Steps) -> None:
    made = chain(steps.create.bind(7), steps.reserve.bind())
    with pytest.raises(ZeroDivisionError), app.transaction() as tx:
        made.options(connection=tx).enqueue()
        raise ZeroDivisionError
    assert len(app.jobs()) == 0
    with app.transaction() as tx:
        handle = made.options(connection=tx).enqueue()
    burst()
    assert handle.result(timeout=5) == (7, "a")

    async def store() -> None:
        async with app.atransaction() as tx:
            await chain(steps.create.bind(8), steps.reserve.bind()).options(connection=tx).aenqueue()

    asyncio.run(store())
    burst()
    assert steps.ran[-1] == ("reserve", {"order": 8}, "a")


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_a_call_that_lacks_its_first_argument_is_for_a_chain_only(app: Windlass, steps: Steps) -> None:
    call = steps.reserve.bind()
    for store in (
        lambda: app.enqueue(call),
        lambda: app.enqueue_many([call]),
        lambda: app.enqueue_stream([call]),
        lambda: steps.reserve.enqueue(),
        lambda: asyncio.run(app.aenqueue(call)),
        lambda: chain(call, steps.ship.bind()),
    ):
        with pytest.raises(PayloadError, match=r"missing a required argument: 'order'.* In a chain"):
            store()
    assert len(app.jobs()) == 0


def test_what_can_never_fit_is_refused_at_once(app: Windlass, steps: Steps) -> None:
    @app.job(name="bare")
    def bare() -> None: ...

    @app.job(name="two")
    def two(one: int, two: int) -> None: ...

    bind: Any = two.bind
    with pytest.raises(PayloadError, match="missing a required argument"):
        bind()
    reserve: Any = steps.reserve.bind
    with pytest.raises(PayloadError, match="no argument 'shelv'"):
        reserve(shelv="a")
    first = steps.create.bind(1)
    with pytest.raises(PayloadError, match=r"call 2: job 'bare' has no parameter for the result of the step before"):
        chain(first, bare.bind())
    with pytest.raises(PayloadError, match=r"call 2: reserve: multiple values for argument 'order'"):
        chain(first, steps.reserve.bind(order={"order": 1}))
    with pytest.raises(PayloadError, match="too many positional arguments"):
        chain(first, steps.reserve.bind({"order": 1}, "b"))


def test_what_is_no_chain_is_refused(app: Windlass, steps: Steps) -> None:
    call = steps.create.bind(1)
    with pytest.raises(ConfigError, match="no calls"):
        chain()
    with pytest.raises(ConfigError, match=r"call 2, .* is in it already"):
        chain(call, call)
    job: Any = steps.create
    with pytest.raises(ConfigError, match=r"call 2: .* is not a call; write create.bind"):
        chain(call, job)
    with Windlass("memory://") as other, pytest.raises(ConfigError, match="one application"):
        chain(call, other.job(name="else")(lambda value: None).bind())


def test_guards_of_a_step_are_made_of_what_is_known(app: Windlass, burst: Burst, steps: Steps) -> None:
    first = steps.create.bind(1)
    known = steps.reserve.options(limits=[Concurrency(2, key="shelf:{shelf}")])
    call = known.bind("z")  # type: ignore[arg-type]
    handle = chain(first, call).enqueue()
    row = app.engine.job(handle.id)
    assert row is not None
    assert [guard.key for guard in row.guards] == ["shelf:z"]
    unknown = steps.reserve.options(unique=Unique("order:{order}"))
    with pytest.raises(ConfigError, match=r"call 2: .*unique: the key is made of 'order' .* nobody knows yet"):
        chain(steps.create.bind(1), unknown.bind())
    function = steps.reserve.options(limits=[Concurrency(2, key=lambda order, shelf="a": str(shelf))])
    with pytest.raises(ConfigError, match="nobody knows yet"):
        chain(steps.create.bind(1), function.bind())


@pytest.mark.parametrize("rule", ["keep_latest", "replace"])
def test_a_step_that_another_call_could_be_written_over_is_refused(app: Windlass, steps: Steps, rule: Any) -> None:
    step = steps.reserve.options(unique=Unique("shelf:{shelf}", on_conflict=rule))
    with pytest.raises(ConfigError, match=f"on_conflict='{rule}'.* take its place"):
        chain(steps.create.bind(1), step.bind())
    chain(steps.create.options(unique=Unique("x", on_conflict=rule)).bind(1), steps.reserve.bind()).enqueue()


def test_a_chain_of_hundreds(app: Windlass, burst: Burst) -> None:
    @app.job(name="count")
    def count(number: int = 0) -> int:
        return number + 1

    handle = chain(*(count.bind() for _ in range(200))).enqueue()
    burst()
    assert handle.result(timeout=5) == 200


def test_a_deleted_result_fails_the_step(app: Windlass, burst: Burst, steps: Steps) -> None:
    first, second = steps.create.bind(7), steps.reserve.options(delay="1h").bind()
    chain(first, second).enqueue()
    burst()
    app.delete([first.id])
    app.engine.transition(Action.RETRY, [second.id])
    burst()
    info = info_of(app, second.id)
    assert info.state is State.DEAD
    assert f"no record of job {first.id} is kept" in info.errors[-1].message
