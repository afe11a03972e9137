"""A batch streams its jobs, is sealed at the end of the block, and runs each of its callbacks once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from windlass import (
    Call,
    ConfigError,
    Discard,
    JobContext,
    PayloadError,
    State,
    TransitionRefused,
    Unique,
    Windlass,
)
from windlass.events import JobEnqueued
from windlass.flow import batch as module
from windlass.flow.members import FlowProgress

Burst = Callable[[], None]


class Mail:
    """A newsletter: jobs that do as they are told, and callbacks that say that they ran."""

    def __init__(self, app: Windlass) -> None:
        self.ran: list[object] = []
        self.mended = False

        @app.job(name="send")
        def send(user: int, how: str = "done") -> None:
            self.ran.append(user)
            match "done" if self.mended else how:
                case "dead":
                    raise ValueError("no such address")
                case "cancelled":
                    raise Discard("unsubscribed")

        @app.job(name="said")
        def said(what: str) -> None:
            self.ran.append(what)

        self.send, self.said = send, said

    def callbacks(self, prefix: str = "") -> Any:
        names = ("success", "complete", "death")
        return {f"on_{name}": self.said.bind(prefix + name) for name in names}

    def said_now(self) -> list[object]:
        """What the callbacks have said, in order, since the last look."""
        found = [one for one in self.ran if isinstance(one, str)]
        self.ran.clear()
        return found


@pytest.fixture
def mail(app: Windlass) -> Mail:
    return Mail(app)


def test_success_and_complete_run_once_when_all_are_done(app: Windlass, burst: Burst, mail: Mail) -> None:
    with app.batch("newsletter", **mail.callbacks()) as batch:
        for user in range(5):
            batch.add(mail.send.bind(user))
        assert batch.info().sealed is False
    info = batch.info()
    assert (info.id, info.name, info.sealed, info.ended_at) == (batch.id, "newsletter", True, None)
    assert info.progress == FlowProgress(5, 0, 0, 0)
    burst()
    assert set(mail.ran) == {0, 1, 2, 3, 4, "success", "complete"}
    assert len(mail.ran) == 7
    assert batch.progress() == FlowProgress(5, 5, 0, 0)
    assert batch.info().ended_at is not None
    death = app.get(f"{batch.id}:on_death")
    assert death is not None
    assert (death.state, death.reason) == (State.CANCELLED, "skipped")


def test_death_comes_with_the_first_one_and_a_redrive_lets_it_still_succeed(
    app: Windlass, burst: Burst, mail: Mail
) -> None:
    with app.batch("newsletter", **mail.callbacks()) as batch:
        batch.add(mail.send.bind(1))
        batch.add(mail.send.bind(2, "dead"))
        batch.add(mail.send.bind(3, "dead"))
        batch.add(mail.send.options(delay="1h").bind(4))
    burst()
    assert mail.said_now() == ["death"]  # before the rest has ended
    (waits,) = app.jobs("scheduled")
    app.retry([waits.id])
    burst()
    assert mail.said_now() == ["complete"]
    mail.mended = True
    app.dead.retry()
    burst()
    assert mail.said_now() == ["success"]
    assert batch.progress() == FlowProgress(4, 4, 0, 0)


def test_a_cancelled_member_counts_as_complete_and_not_as_success(app: Windlass, burst: Burst, mail: Mail) -> None:
    with app.batch("newsletter", **mail.callbacks()) as batch:
        batch.add(mail.send.bind(1))
        batch.add(mail.send.bind(2, "cancelled"))
    burst()
    assert mail.said_now() == ["complete"]
    assert batch.progress() == FlowProgress(2, 1, 0, 1)


def test_an_empty_batch_is_complete_at_once(app: Windlass, burst: Burst, mail: Mail) -> None:
    with app.batch("newsletter", **mail.callbacks()):
        pass
    burst()
    assert sorted(map(str, mail.said_now())) == ["complete", "success"]


def test_jobs_are_stored_in_chunks_and_not_held(app: Windlass, mail: Mail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 10)
    with app.batch("newsletter") as batch:
        for user in range(95):
            batch.add(mail.send.bind(user))
            assert len(batch._buffer) < 10
        assert batch.progress().total == 90
    assert batch.progress().total == 95


def test_a_job_may_end_before_the_batch_is_sealed(app: Windlass, burst: Burst, mail: Mail) -> None:
    with app.batch("newsletter", **mail.callbacks()) as batch:
        batch.add(mail.send.bind(1))
        batch._flush()
        burst()
        assert mail.ran == [1]
        batch.add(mail.send.bind(2))
    burst()
    assert mail.ran[1] == 2
    assert set(mail.ran[2:]) == {"success", "complete"}


def test_an_error_in_the_block_leaves_it_unsealed_and_cancelled(app: Windlass, burst: Burst, mail: Mail) -> None:
    with pytest.raises(ZeroDivisionError), app.batch("newsletter", **mail.callbacks()) as batch:
        batch.add(mail.send.bind(1))
        batch._flush()
        batch.add(mail.send.bind(2))
        raise ZeroDivisionError
    burst()
    assert mail.ran == []
    assert {job.state for job in app.jobs()} == {State.CANCELLED}
    info = batch.info()
    assert (info.sealed, info.progress) == (False, FlowProgress(1, 0, 0, 1))


def test_a_batch_can_be_cancelled_by_its_id(app: Windlass, burst: Burst, mail: Mail) -> None:
    with app.batch("newsletter", **mail.callbacks()) as batch:
        batch.add(mail.send.bind(1))
    app.batch(id=batch.id).cancel()
    burst()
    assert mail.ran == []


# -- adding later ------------------------------------------------------------------------------------------------------


def test_its_own_jobs_add_to_it_while_they_run(app: Windlass, burst: Burst, mail: Mail) -> None:
    @app.job(name="tree")
    def tree(ctx: JobContext, depth: int) -> None:
        mail.ran.append(depth)
        if depth == 0:
            return
        if depth % 2:
            app.batch(id=ctx.batches[0]).add(tree.bind(depth - 1))
        else:
            with app.batch(id=ctx.batches[0]) as again:
                again.add(tree.bind(depth - 1))
                again.add(tree.bind(0))

    with app.batch("tree", **mail.callbacks()) as batch:
        batch.add(tree.bind(4))
    burst()
    assert mail.ran[0] == 4
    assert sorted(mail.ran[:-2]) == [0, 0, 0, 1, 2, 3, 4]  # type: ignore[type-var]
    assert set(mail.ran[-2:]) == {"success", "complete"}
    assert batch.progress().total == 7


def test_a_batch_that_its_process_left_open_is_gone_on_with(app: Windlass, burst: Burst, mail: Mail) -> None:
    left = app.batch("newsletter", id="news-1", on_complete=mail.said.bind("complete"))
    left.__enter__()
    left.add(mail.send.options(id="to-1").bind(1))
    left._flush()
    for again in (app.batch(id="news-1"), None):
        if again is not None:
            again.add(mail.send.bind(2))
        else:
            with app.batch("newsletter", id="news-1", on_complete=mail.said.bind("complete")) as batch:
                batch.add(mail.send.options(id="to-1").bind(1))
                batch.add(mail.send.bind(3))
    burst()
    assert sorted(map(str, mail.ran)) == ["1", "2", "3", "complete"]


def test_a_batch_takes_no_jobs_once_it_is_sealed_or_over(app: Windlass, burst: Burst, mail: Mail) -> None:
    with app.batch("newsletter", id="news") as batch:
        batch.add(mail.send.bind(1))
    with pytest.raises(TransitionRefused, match="is sealed: only its own jobs add to it"):
        app.batch(id="news").add(mail.send.bind(2))
    with pytest.raises(TransitionRefused, match="is sealed"), app.batch(id="news"):
        pass
    with pytest.raises(TransitionRefused, match="is sealed"), app.batch("newsletter", id="news"):
        pass
    with pytest.raises(ConfigError, match="inside of its block"):
        batch.add(mail.send.bind(2))
    burst()
    with pytest.raises(TransitionRefused, match="has ended"):
        app.batch(id="news").add(mail.send.bind(2))
    with pytest.raises(TransitionRefused, match="there is no batch 'never'"):
        app.batch(id="never").add(mail.send.bind(2))
    with pytest.raises(TransitionRefused, match="there is no batch 'never'"):
        app.batch(id="never").info()
    assert mail.ran == [1]


# -- nested ------------------------------------------------------------------------------------------------------------


def test_an_outer_batch_ends_after_the_inner_one_and_its_callbacks(app: Windlass, burst: Burst, mail: Mail) -> None:
    with app.batch("all", **mail.callbacks("outer ")) as outer:
        outer.add(mail.send.bind(1))
        with outer.batch("some", **mail.callbacks("inner ")) as inner:
            inner.add(mail.send.bind(2))
            inner.add(mail.send.bind(3))
        outer.add(mail.send.bind(4))
    assert (inner.progress().total, outer.progress().total) == (2, 6)
    burst()
    assert sorted(map(str, mail.ran[:4])) == ["1", "2", "3", "4"]
    assert set(mail.ran[4:6]) == {"inner success", "inner complete"}
    assert set(mail.ran[6:]) == {"outer success", "outer complete"}


def test_a_death_in_the_inner_batch_is_one_in_the_outer_and_so_is_its_redrive(
    app: Windlass, burst: Burst, mail: Mail
) -> None:
    with (
        app.batch("all", **mail.callbacks("outer ")) as outer,
        outer.batch("some", **mail.callbacks("inner ")) as inner,
    ):
        inner.add(mail.send.bind(2, "dead"))
    burst()
    assert set(mail.said_now()) == {"inner death", "outer death", "inner complete", "outer complete"}
    mail.mended = True
    app.dead.retry()
    burst()
    assert mail.said_now() == ["inner success", "outer success"]


def test_a_job_makes_a_batch_inside_its_own(app: Windlass, burst: Burst, mail: Mail) -> None:
    @app.job(name="split")
    def split(ctx: JobContext) -> tuple[str, ...]:
        with app.batch(id=ctx.batches[0]).batch("part", on_success=mail.said.bind("inner")) as inner:
            inner.add(nested.bind())
        return ctx.batches

    @app.job(name="nested")
    def nested(ctx: JobContext) -> None:
        mail.ran.append(len(ctx.batches))

    with app.batch("all", on_success=mail.said.bind("outer")) as outer:
        outer.add(split.bind())
    burst()
    assert mail.ran == [2, "inner", "outer"]


def test_an_error_in_the_inner_block_cancels_that_and_is_no_success_of_the_outer(
    app: Windlass, burst: Burst, mail: Mail
) -> None:
    with app.batch("all", **mail.callbacks("outer ")) as outer:
        outer.add(mail.send.bind(1))
        with pytest.raises(ZeroDivisionError), outer.batch("some", **mail.callbacks("inner ")) as inner:
            inner.add(mail.send.bind(2))
            inner._flush()
            raise ZeroDivisionError
    burst()
    assert mail.ran == [1, "outer complete"]


# -- around it ---------------------------------------------------------------------------------------------------------


def test_a_batch_from_a_coroutine(app: Windlass, burst: Burst, mail: Mail) -> None:
    async def store() -> Any:
        async with app.batch("newsletter", **mail.callbacks()) as batch:
            for user in range(3):
                await batch.aadd(mail.send.bind(user))
            async with batch.batch("more") as inner:
                await inner.aadd(mail.send.bind(3))
        assert (await batch.aprogress()).total == (await batch.ainfo()).progress.total == 4
        return batch

    batch = asyncio.run(store())
    burst()
    assert set(mail.ran) == {0, 1, 2, 3, "success", "complete"}

    async def fail() -> None:
        async with app.batch("newsletter") as batch:
            await batch.aadd(mail.send.bind(9))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(fail())
    assert batch.progress().ended == 4


def test_batches_are_listed_in_pages_by_id(app: Windlass, burst: Burst, mail: Mail) -> None:
    for name in "abc":
        with app.batch(name, id=f"news-{name}", on_success=mail.said.bind(name)) as batch:
            batch.add(mail.send.bind(1))
            if name == "b":
                with batch.batch("inner", id="inner") as inner:
                    inner.add(mail.send.bind(2))
    with app.batch("open", id="open") as batch:
        first = app.batches(limit=3)
        second = asyncio.run(app.abatches(limit=3, cursor=first.next))
        assert [info.id for info in first] == ["inner", "news-a", "news-b"]
        assert [(info.id, info.name, info.sealed) for info in second] == [
            ("news-c", "c", True),
            ("open", "open", False),
        ]
        assert second.next is None
        assert [(info.parent, info.callbacks) for info in first][:2] == [("news-b", ()), ("", ("news-a:on_success",))]
        assert list(second)[1] == batch.info()
    burst()
    assert all(info.ended_at is not None for info in app.batches())
    with pytest.raises(ConfigError, match="a page has 1 to"):
        app.batches(limit=0)


def test_the_eta_is_that_of_a_sealed_batch_at_the_pace_so_far(app: Windlass, burst: Burst, mail: Mail) -> None:
    with app.batch("newsletter", id="news") as batch:
        for number in range(4):
            app.batch(id="news").add(mail.send.options(delay="1h" if number % 2 else 0).bind(number))
        burst()
        assert batch.progress() == FlowProgress(4, 2, 0, 0)
        assert batch.info().eta is None  # others may come
    info = batch.info()
    assert info.eta == info.moved_at - info.created_at
    app.cancel([job.id for job in app.jobs("scheduled")])
    assert batch.info().eta is None


def test_middleware_and_events_see_jobs_and_callbacks(app: Windlass, mail: Mail) -> None:
    seen: list[str] = []
    told: list[str] = []
    app.on(JobEnqueued)(lambda event: told.append(event.id))

    @app.middleware("enqueue")
    def watch(call: Call[object]) -> Any:
        seen.append(call.id)
        yield

    with app.batch("newsletter", id="news", on_success=mail.said.bind("success")) as batch:
        batch.add(call := mail.send.bind(1))
    assert seen == told == ["news:on_success", call.id]


def test_wrong_calls_and_options_are_refused(app: Windlass, mail: Mail) -> None:
    call = mail.said.bind("x")
    with pytest.raises(ConfigError, match="give a new batch a name"):
        app.batch()
    with pytest.raises(ConfigError, match="only a new batch, with a name, takes callbacks"):
        app.batch(id="news", on_death=call)
    with pytest.raises(ConfigError, match="is in it already"):
        app.batch("news", on_success=call, on_complete=call)
    with pytest.raises(ConfigError, match="use at most 160"):
        app.batch("news", id="x" * 161)
    latest = mail.said.options(unique=Unique("{what}", on_conflict="keep_latest"))
    with (
        pytest.raises(ConfigError, match=r"on_success: .* take its place"),
        app.batch("news", on_success=latest.bind("x")),
    ):
        pass
    bind: Any = mail.said.bind
    with pytest.raises(PayloadError, match="missing a required argument"), app.batch("news", on_success=bind()):
        pass
    with Windlass("memory://") as other:
        strange = other.job(name="else")(lambda: None).bind()
        with pytest.raises(ConfigError, match="one application"):
            app.batch("news", on_success=strange)
        with app.batch("news") as batch:
            with pytest.raises(ConfigError, match="one application"):
                batch.add(strange)
            with pytest.raises(PayloadError, match="missing a required argument"):
                batch.add(bind())
            job: Any = mail.send
            with pytest.raises(ConfigError, match=r"write send\.bind"):
                batch.add(job)
            with pytest.raises(ConfigError, match="is stored in many writes"):
                batch.add(mail.send.options(connection=object()).bind(1))
            with pytest.raises(ConfigError, match="entered already"), batch:
                pass
            batch.add(mail.send.options(unique=Unique("x", on_conflict="keep_latest")).bind(1))  # waits for no other
    with pytest.raises(ConfigError, match="nest the blocks"), batch.batch("inner"):
        pass
