"""Compositions when the store goes away or a run is called off while it reads what it takes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from dead_shop import worker_of
from kit.waiting import PATIENCE, stretched, until
from windlass import EngineUnavailable, JobContext, State, Windlass, chain
from windlass.core.rows import JobRow
from windlass.flow import batch as module

Burst = Callable[[], None]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_step_whose_store_is_away_goes_back_with_nothing_charged(
    app: Windlass, burst: Burst, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    asked: list[str] = []
    job = app.engine.job

    def away_once(job_id: str) -> JobRow | None:
        asked.append(job_id)
        if len(asked) == 1:
            raise EngineUnavailable("the store is away")
        return job(job_id)

    @app.job(name="one")
    def one() -> int:
        return 1

    if is_async:

        @app.job(name="two")
        async def atwo(ctx: JobContext, number: int) -> tuple[int, int]:
            return number, ctx.attempt

        handle: Any = chain(one.bind(), atwo.bind()).enqueue()
    else:

        @app.job(name="two")
        def two(ctx: JobContext, number: int) -> tuple[int, int]:
            return number, ctx.attempt

        handle = chain(one.bind(), two.bind()).enqueue()
    monkeypatch.setattr(app.engine, "job", away_once)
    burst()
    assert len(asked) == 2
    monkeypatch.undo()
    assert handle.result(timeout=5) in ((1, 1), [1, 1])
    assert handle.info().errors == ()


def test_a_chunk_that_could_not_be_stored_goes_with_the_next_call(
    app: Windlass, burst: Burst, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 2)
    ran: list[int] = []

    @app.job(name="send")
    def send(number: int) -> None:
        ran.append(number)

    @app.job(name="ended")
    def ended() -> None:
        ran.append(-1)

    commit: Any = app.engine.commit
    away = [True, True]

    def flaky(write: Any) -> Any:
        if write.jobs and write.jobs[0].name == "send" and away:
            away.pop()
            if away:
                raise EngineUnavailable("the store is away")
            commit(write)
            raise EngineUnavailable("the answer was lost")
        return commit(write)

    monkeypatch.setattr(app.engine, "commit", flaky)
    with app.batch("news", on_complete=ended.bind()) as batch:
        for number in range(5):
            with contextlib.suppress(EngineUnavailable):
                batch.add(send.bind(number))
    assert not away
    burst()
    assert sorted(ran[:-1]) == [0, 1, 2, 3, 4]
    assert ran[-1] == -1
    assert batch.progress().done == 5


def test_a_batch_whose_end_could_not_be_stored_is_ended_by_opening_it_again(
    app: Windlass, burst: Burst, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    send = app.job(name="send")(lambda: ran.append("sent"))
    ended = app.job(name="ended")(lambda: ran.append("ended"))
    commit: Any = app.engine.commit

    def away_at_the_end(write: Any) -> Any:
        if write.seals:
            raise EngineUnavailable("the store is away")
        return commit(write)

    monkeypatch.setattr(app.engine, "commit", away_at_the_end)
    with pytest.raises(EngineUnavailable) as caught, app.batch("news", on_complete=ended.bind()) as batch:
        batch.add(send.bind())
    assert f"with app.batch(id={batch.id!r})" in caught.value.__notes__[0]
    monkeypatch.undo()
    with app.batch(id=batch.id) as again:
        again.add(send.bind())
    burst()
    assert ran == ["sent", "ended"]  # what was not stored at the end is gone with its block


def test_an_error_in_the_block_is_not_hidden_by_a_store_that_is_away(
    app: Windlass, burst: Burst, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = app.job(name="send")(lambda: None)

    def away(*_: object) -> Any:
        raise EngineUnavailable("the store is away")

    with pytest.raises(ZeroDivisionError) as caught, app.batch("news") as batch:
        batch.add(send.bind())
        monkeypatch.setattr(app.engine, "joins", away)
        raise ZeroDivisionError
    assert f"app.batch(id={batch.id!r}).cancel() does it" in caught.value.__notes__[0]


def test_a_coroutine_that_is_called_off_while_it_reads_ends_cancelled(
    app: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go = threading.Event(), threading.Event()
    job = app.engine.job

    @app.job(name="one")
    def one() -> int:
        return 1

    @app.job(name="two")
    async def two(number: int) -> int:
        return number

    handle = chain(one.bind(), two.bind()).enqueue()

    def slow(job_id: str) -> JobRow | None:
        if not go.is_set() and threading.current_thread().name.startswith("asyncio"):
            reading.set()
            go.wait(20)
        return job(job_id)

    monkeypatch.setattr(app.engine, "job", slow)
    worker = worker_of(app)
    worker.start()
    try:
        assert reading.wait(stretched(PATIENCE))
        handle.cancel()
        until(lambda: handle.info().state is State.CANCELLED, "the end of the step")
    finally:
        go.set()
        worker.stop()
        worker.shut_down()
