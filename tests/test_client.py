"""Storing calls: one, many, streams, from an event loop, inside transactions, with middleware and events around."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kit.waiting import PATIENCE, until
from windlass import Call, Duplicate, EngineFull, Job, Unique, Windlass
from windlass.client import CHUNK
from windlass.core.model import Write, Written
from windlass.engines.base import TransactionalCommit
from windlass.errors import ConfigError
from windlass.events import JobEnqueued
from windlass.jobs.handle import JobHandle


def charge(n: int) -> int:
    return n


def ship(path: str) -> str:
    return path


@pytest.fixture
def app() -> Iterator[Windlass]:
    with Windlass("memory://") as app:
        yield app


@pytest.fixture
def job(app: Windlass) -> Job[[int], int]:
    return app.job(name="charge")(charge)


def ready(app: Windlass) -> int:
    return app.stats()["ready"]


# -- one ---------------------------------------------------------------------------------------------------


def test_an_enqueued_job_is_stored_under_the_id_of_its_handle(app: Windlass, job: Job[[int], int]) -> None:
    handle = job.enqueue(42)
    info = app.get(handle.id)
    assert info is not None
    assert (info.name, info.args, handle.duplicate) == ("charge", (42,), False)


def test_the_same_id_is_stored_once(app: Windlass, job: Job[[int], int], caplog: pytest.LogCaptureFixture) -> None:
    first = job.options(id="pay-1").enqueue(1)
    second = job.options(id="pay-1").enqueue(1)
    assert (first.duplicate, second.duplicate, second.id) == (False, True, "pay-1")
    assert ready(app) == 1
    assert not caplog.records


def test_a_duplicate_with_other_arguments_is_ignored_with_a_warning(
    app: Windlass, job: Job[[int], int], caplog: pytest.LogCaptureFixture
) -> None:
    job.options(id="pay-1").enqueue(1)
    with caplog.at_level(logging.WARNING):
        assert job.options(id="pay-1").enqueue(2).duplicate
    assert "pay-1" in caplog.text
    info = app.get("pay-1")
    assert info is not None
    assert info.args == (1,)


def test_a_delayed_job_is_scheduled(app: Windlass, job: Job[[int], int]) -> None:
    info = job.enqueue_in("5m", 1).info()
    assert info.state == "scheduled"
    assert 299 <= (info.run_at - info.enqueued_at).total_seconds() <= 301
    assert job.enqueue_at(info.run_at, 2).info().run_at == info.run_at


# -- many --------------------------------------------------------------------------------------------------


def test_mixed_jobs_are_stored_in_order(app: Windlass, job: Job[[int], int]) -> None:
    other = app.job(name="ship")(ship)
    handles = app.enqueue_many([job.bind(1), other.bind("a.png"), job.bind(2)])
    infos = [handle.info() for handle in handles]
    assert [(info.name, info.args) for info in infos] == [("charge", (1,)), ("ship", ("a.png",)), ("charge", (2,))]


def test_the_same_calls_again_store_nothing_new(app: Windlass, job: Job[[int], int]) -> None:
    calls = [job.bind(n) for n in range(5)]
    app.enqueue_many(calls)
    again = app.enqueue_many(calls)
    assert [handle.id for handle in again] == [call.id for call in calls]
    assert all(handle.duplicate for handle in again)
    assert ready(app) == 5


def test_no_calls_are_no_work(app: Windlass) -> None:
    assert app.enqueue_many([]) == []
    assert app.enqueue_stream([]) == 0


def test_more_than_a_chunk_is_stored_whole(app: Windlass, job: Job[[int], int]) -> None:
    count = 2 * CHUNK + 1
    assert len(app.enqueue_many(job.bind(n) for n in range(count))) == count
    assert ready(app) == count


def test_a_stream_is_pulled_chunk_by_chunk(app: Windlass, job: Job[[int], int]) -> None:
    seen: list[int] = []

    def calls() -> Iterator[Call[int]]:
        for n in range(2 * CHUNK + 10):
            if n % CHUNK == 0:
                seen.append(ready(app))  # what is stored when the next chunk begins
            yield job.bind(n)

    assert app.enqueue_stream(calls()) == 2 * CHUNK + 10
    assert seen == [0, CHUNK, 2 * CHUNK]


def test_a_stream_does_not_count_duplicates(app: Windlass, job: Job[[int], int]) -> None:
    call = job.bind(1)
    assert app.enqueue_stream([call, call, job.bind(2)]) == 2


def test_an_iterable_that_fails_later_says_what_is_stored(app: Windlass, job: Job[[int], int]) -> None:
    def calls() -> Iterator[Call[int]]:
        yield from (job.bind(n) for n in range(CHUNK + 5))
        raise LookupError("row 1005")

    with pytest.raises(LookupError, match="row 1005") as caught:
        app.enqueue_many(calls())
    assert [note.partition(" (")[0] for note in caught.value.__notes__] == ["the first 1000 jobs are stored"]
    assert ready(app) == CHUNK


def test_a_failure_at_a_later_chunk_says_what_is_stored(app: Windlass, job: Job[[int], int]) -> None:
    def calls() -> Iterator[Call[int]]:
        for n in range(3 * CHUNK):
            if n == 2 * CHUNK:
                raise EngineFull("the disk is full")
            yield job.bind(n)

    with pytest.raises(EngineFull, match="first 2000 jobs are stored") as caught:
        app.enqueue_many(calls())
    assert len(vars(caught.value)["stored"]) == 2 * CHUNK
    with pytest.raises(EngineFull, match="2000 jobs of the stream are stored"):
        app.enqueue_stream(calls())


def test_a_unique_key_taken_at_a_later_chunk_says_what_is_stored(app: Windlass, job: Job[[int], int]) -> None:
    report = app.job(name="report", unique=Unique("day", on_conflict="raise"))(lambda: None)
    holder = report.enqueue()
    calls: list[Call[object]] = [*(job.bind(n) for n in range(CHUNK)), report.bind()]
    with pytest.raises(Duplicate, match=f"first {CHUNK} jobs are stored") as caught:
        app.enqueue_many(calls)
    assert vars(caught.value)["stored"] == [call.id for call in calls[:CHUNK]]
    assert caught.value.job_id == holder.id
    with pytest.raises(Duplicate, match=f"{CHUNK} jobs of the stream are stored"):
        app.enqueue_stream([*(job.bind(n) for n in range(CHUNK)), report.bind()])


# -- async -------------------------------------------------------------------------------------------------


def test_concurrent_async_enqueues_share_engine_calls(
    app: Windlass, job: Job[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    engine = app.engine
    real = engine.commit

    def counted(write: Write) -> Written:
        batches.append(len(write.jobs))
        return real(write)

    monkeypatch.setattr(engine, "commit", counted)

    async def main() -> list[JobHandle[int]]:
        return await asyncio.gather(*(job.aenqueue(n) for n in range(50)))

    handles = asyncio.run(main())
    assert batches == [50]
    assert [handle.info().args for handle in handles] == [(n,) for n in range(50)]


def test_an_async_enqueue_opens_the_engine_by_itself() -> None:
    async def main() -> str:
        async with Windlass("memory://") as app:
            job = app.job(name="charge")(charge)
            return (await (await job.aenqueue(1)).ainfo()).state

    assert asyncio.run(main()) == "ready"


def test_an_engine_error_reaches_every_async_caller(
    app: Windlass, job: Job[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(write: Write) -> Written:
        raise EngineFull("the disk is full")

    monkeypatch.setattr(app.engine, "commit", full)

    async def main() -> list[object]:
        return list(await asyncio.gather(job.aenqueue(1), job.aenqueue(2), return_exceptions=True))

    assert [type(one) for one in asyncio.run(main())] == [EngineFull, EngineFull]


def test_a_unique_key_that_raises_refuses_only_its_own_async_enqueue(app: Windlass, job: Job[[int], int]) -> None:
    report = app.job(name="report", unique=Unique("day", on_conflict="raise"))(lambda: None)

    async def main() -> list[object]:
        calls = (job.aenqueue(1), report.aenqueue(), job.aenqueue(2), report.aenqueue())
        return list(await asyncio.gather(*calls, return_exceptions=True))

    first, one, second, other = asyncio.run(main())
    assert isinstance(first, JobHandle)
    assert first.info().args == (1,)
    assert isinstance(second, JobHandle)
    assert second.info().args == (2,)
    # Which of the two came first is open: calls of different ticks are stored beside each other.
    stored, refused = (one, other) if isinstance(one, JobHandle) else (other, one)
    assert isinstance(stored, JobHandle)
    assert not stored.duplicate
    assert isinstance(refused, Duplicate)
    assert refused.job_id == stored.id


def test_a_unique_key_that_raises_refuses_no_other_call_of_its_tick(
    app: Windlass, job: Job[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = app.job(name="report", unique=Unique("day", on_conflict="raise"))(lambda: None)
    report.enqueue()
    real, batches = app.engine.commit, []

    def counted(write: Write) -> Written:
        batches.append(len(write.jobs))
        return real(write)

    async def main() -> list[object]:
        await job.aenqueue(0)  # nothing is to be opened any more
        monkeypatch.setattr(app.engine, "commit", counted)
        async with asyncio.timeout(30):
            calls = (job.aenqueue(1), report.aenqueue(), job.aenqueue(2))
            return list(await asyncio.gather(*calls, return_exceptions=True))

    first, refused, second = asyncio.run(main())
    assert batches == [3, 1, 1, 1]
    assert isinstance(refused, Duplicate)
    assert [one.info().args for one in (first, second) if isinstance(one, JobHandle)] == [(1,), (2,)]


def test_a_cancelled_async_enqueue_leaves_the_others_alone(app: Windlass, job: Job[[int], int]) -> None:
    async def main() -> JobHandle[int]:
        gone = asyncio.create_task(job.aenqueue(1))
        stays = asyncio.create_task(job.aenqueue(2))
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert asyncio.run(main()).info().args == (2,)


def test_an_async_enqueue_that_is_cancelled_while_it_is_stored_leaves_the_others_alone(
    app: Windlass, job: Job[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, gate = app.engine.commit, threading.Event()

    async def main() -> list[JobHandle[int] | BaseException]:
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def slowly(write: Write) -> Written:
            loop.call_soon_threadsafe(begun.set)
            gate.wait(30)
            return real(write)

        monkeypatch.setattr(app.engine, "commit", slowly)
        tasks = [asyncio.create_task(job.aenqueue(n)) for n in range(3)]
        await begun.wait()
        tasks[0].cancel()
        await asyncio.sleep(0)
        gate.set()
        async with asyncio.timeout(30):
            return await asyncio.gather(*tasks, return_exceptions=True)

    cancelled, *others = asyncio.run(main())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert [one.info().args for one in others if isinstance(one, JobHandle)] == [(1,), (2,)]


def test_async_twins_store_many_and_streams(app: Windlass, job: Job[[int], int]) -> None:
    async def calls() -> AsyncIterator[Call[int]]:
        for n in range(CHUNK + 1):
            yield job.bind(n)

    async def main() -> tuple[int, int, int]:
        many = await app.aenqueue_many([job.bind(1), job.bind(2)])
        await job.aenqueue_in("5m", 1)
        return len(many), await app.aenqueue_stream(calls()), await app.aenqueue_stream([job.bind(3)])

    assert asyncio.run(main()) == (2, CHUNK + 1, 1)
    assert ready(app) == CHUNK + 4


# -- transactions ------------------------------------------------------------------------------------------


def test_jobs_of_a_transaction_appear_with_its_commit(tmp_path: Path) -> None:
    with Windlass(f"sqlite:///{tmp_path}/jobs.db") as app:
        job = app.job(name="charge")(charge)
        with app.transaction() as tx:
            handle = job.options(connection=tx).enqueue(1)
        assert app.get(handle.id) is not None
        with pytest.raises(ZeroDivisionError), app.transaction() as tx:
            gone = app.enqueue_many([job.options(connection=tx).bind(2), job.options(connection=tx).bind(3)])
            raise ZeroDivisionError
        assert app.get(gone[0].id) is None


def test_calls_of_different_connections_do_not_mix(app: Windlass, job: Job[[int], int]) -> None:
    with app.transaction() as tx, pytest.raises(ConfigError, match="different connection"):
        app.enqueue_many([job.bind(1), job.options(connection=tx).bind(2)])


def test_a_connection_of_another_kind_is_refused(app: Windlass, job: Job[[int], int]) -> None:
    assert isinstance(app.engine, TransactionalCommit)
    with pytest.raises(ConfigError, match="connection="):
        job.options(connection=object()).enqueue(1)


# -- around it ---------------------------------------------------------------------------------------------


def test_an_enqueue_middleware_sees_the_call_and_what_follows(app: Windlass, job: Job[[int], int]) -> None:
    seen: list[object] = []

    @app.middleware("enqueue")
    def watch(call: Call[object]) -> Iterator[None]:
        seen.append((call.name, call.args, ready(app)))
        yield
        seen.append(ready(app))

    job.enqueue(7)
    assert seen == [("charge", (7,), 0), 1]
    asyncio.run(job.aenqueue(8))
    assert seen[2:] == [("charge", (8,), 1), 2]


def test_a_middleware_that_refuses_one_call_refuses_its_chunk(app: Windlass, job: Job[[int], int]) -> None:
    @app.middleware("enqueue")
    def refuse(call: Call[object]) -> Iterator[None]:
        if call.args == (2,):
            raise PermissionError("no twos")
        yield

    with pytest.raises(PermissionError):
        app.enqueue_many([job.bind(1), job.bind(2)])
    assert ready(app) == 0


def test_a_middleware_cannot_make_a_failed_enqueue_look_stored(app: Windlass, job: Job[[int], int]) -> None:
    @app.middleware("enqueue")
    def forgiving(call: Call[object]) -> Iterator[None]:
        try:
            yield
        except ConfigError:
            pass

    with pytest.raises(ConfigError, match="connection="):
        job.options(connection=object()).enqueue(1)


def test_a_middleware_that_fails_behind_a_stored_job_is_logged_and_no_other_hears_of_it(
    app: Windlass, job: Job[[int], int], caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    @app.middleware("enqueue")
    def outer(call: Call[object]) -> Iterator[None]:
        try:
            yield
        except BaseException:
            seen.append("outer was told of an error")
            raise
        seen.append("outer")

    @app.middleware("enqueue")
    def counting(call: Call[object]) -> Iterator[None]:
        yield
        raise ConnectionError("the metrics server is away")

    assert app.get(job.enqueue(7).id) is not None
    assert len(app.enqueue_many([job.bind(1), job.bind(2)])) == 2
    assert app.get(asyncio.run(job.aenqueue(8)).id) is not None
    assert seen == ["outer"] * 4
    assert caplog.text.count("counting failed behind its yield") == 4


def test_a_middleware_may_still_undo_an_enqueue_in_a_transaction_of_the_caller(
    app: Windlass, job: Job[[int], int]
) -> None:
    @app.middleware("enqueue")
    def strict(call: Call[object]) -> Iterator[None]:
        yield
        raise PermissionError("not today")

    with pytest.raises(PermissionError), app.transaction() as tx:
        job.options(connection=tx).enqueue(1)
    assert ready(app) == 0


def test_a_store_that_goes_away_behind_an_enqueue_does_not_make_it_fail(tmp_path: Path) -> None:
    with Windlass(f"sqlite:///{tmp_path}/jobs.db") as app:
        job = app.job(name="charge")(charge).options(id="pay-1")
        job.enqueue(1)

        @app.middleware("enqueue")
        def spoil(call: Call[object]) -> Iterator[None]:
            yield
            app.close()
            for file in tmp_path.iterdir():
                file.write_bytes(b"no database " * 1_000)

        assert job.enqueue(2).duplicate


def test_a_log_handler_that_raises_does_not_make_an_enqueue_fail(
    app: Windlass, job: Job[[int], int], capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise KeyError("a filter of the application")

    logger = logging.getLogger("windlass.client")
    logger.addFilter(refuse)
    try:
        job.options(id="pay-1").enqueue(1)
        assert job.options(id="pay-1").enqueue(2).duplicate
    finally:
        logger.removeFilter(refuse)


def test_an_event_is_emitted_for_each_new_job_and_none_for_a_duplicate(app: Windlass, job: Job[[int], int]) -> None:
    heard: list[JobEnqueued] = []
    app.on(JobEnqueued)(heard.append)
    call = job.bind(1)
    app.enqueue_many([call, job.bind(2)])
    app.enqueue_many([call])
    assert [event.name for event in heard] == ["charge", "charge"]
    assert heard[0] == JobEnqueued(call.id, "charge", "default")


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/jobs.db"])
def test_an_enqueue_beside_the_transaction_of_its_thread_says_what_to_do_and_harms_nobody(
    tmp_path: Path, url: str
) -> None:
    with Windlass(url.format(tmp_path)) as app, ThreadPoolExecutor(1) as others:
        job = app.job(name="charge")(charge)
        with app.transaction() as tx:
            neighbour = others.submit(lambda: job.enqueue(1))
            until(lambda: app.engine._writer._waiting, "the other thread waits for its turn")  # type: ignore[attr-defined]
            for wrong in (lambda: job.enqueue(2), lambda: app.transaction().__enter__()):
                with pytest.raises(ConfigError, match=r"options\(connection=tx\)"):
                    wrong()
            job.options(connection=tx).enqueue(3)
        neighbour.result(PATIENCE)
        assert sorted(info.args or () for info in app.jobs()) == [(1,), (3,)]


def test_an_await_that_would_wait_for_its_own_transaction_is_refused_at_once(tmp_path: Path) -> None:
    with Windlass(f"sqlite:///{tmp_path}/jobs.db") as app:
        job = app.job(name="charge")(charge)

        async def pay() -> None:
            with app.transaction() as tx:
                await job.options(connection=tx).aenqueue(1)
                with pytest.raises(ConfigError, match=r"options\(connection=tx\)"):
                    await job.aenqueue(2)

        asyncio.run(asyncio.wait_for(pay(), 30))
        assert [info.args for info in app.jobs()] == [(1,)]


# -- what is no call ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["job", "result", "handle"])
def test_what_is_no_call_is_refused_with_how_to_make_one(app: Windlass, job: Job[[int], int], given: str) -> None:
    wrong: object = {"job": job, "result": job(1), "handle": job.enqueue(1)}[given]
    hint = r"charge\.bind" if given == "job" else r"job\.bind"
    for enqueue in (app.enqueue, lambda one: app.enqueue_many([one]), lambda one: app.enqueue_stream([one])):
        with pytest.raises(ConfigError, match=f"is not a call; .*{hint}"):
            enqueue(wrong)  # type: ignore[arg-type]
    for aenqueue in (app.aenqueue, lambda one: app.aenqueue_many([one])):
        with pytest.raises(ConfigError, match="is not a call"):
            asyncio.run(aenqueue(wrong))  # type: ignore[arg-type]
