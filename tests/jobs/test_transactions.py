"""Transactions in coroutines: what they commit, what ends them, and that they never hold up an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

import apsw
import pytest

from kit.waiting import PATIENCE, until_async
from servers import RedisServer
from windlass import Call, EngineUnavailable, Job, Windlass
from windlass.core.clock import SystemClock
from windlass.core.work import Want, WorkerInfo
from windlass.engines.holding import HOLDERS
from windlass.errors import ConfigError, LeaseLost, TransactionTooLong
from windlass.jobs.context import JobContext
from windlass.settings import Settings

URLS = ["memory://", "sqlite:///{}/jobs.db"]


def charge(n: int) -> int:
    return n


@pytest.fixture(params=URLS, ids=["memory", "sqlite"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Windlass]:
    with Windlass(request.param.format(tmp_path)) as app:
        with app.transaction() as tx:
            tx.execute("CREATE TABLE notes (n INTEGER)")
        yield app


@pytest.fixture
def job(app: Windlass) -> Job[[int], int]:
    return app.job(name="charge")(charge)


def run(main: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), PATIENCE))


def notes(app: Windlass) -> list[int]:
    with app.transaction() as tx:
        return [n for (n,) in tx.execute("SELECT n FROM notes ORDER BY n")]


def stored(app: Windlass) -> list[tuple[object, ...]]:
    return sorted(info.args or () for info in app.jobs())


def around(call: Call[object]) -> Iterator[None]:
    yield


def waiters() -> int:
    """How many transactions have a thread."""
    return sum(thread.name == "windlass-transaction" for thread in threading.enumerate())


# -- what is committed -------------------------------------------------------------------------------------


def test_rows_and_jobs_of_an_async_transaction_appear_with_its_commit(app: Windlass, job: Job[[int], int]) -> None:
    async def main() -> None:
        async with app.atransaction() as tx:
            await tx.aexecute("INSERT INTO notes VALUES (?)", (1,))
            tx.execute("INSERT INTO notes VALUES (2)")
            handle = await job.options(connection=tx).aenqueue(1)
            job.options(connection=tx).enqueue(2)
            await app.aenqueue_many([job.options(connection=tx).bind(3)])
            assert await app.aenqueue_stream(iter([job.options(connection=tx).bind(4)])) == 1
            await job.options(connection=tx.connection).aenqueue_in("1h", 5)
            assert (await tx.aexecute("SELECT count(*) FROM notes")).fetchall() == [(2,)]
        assert (await handle.ainfo()).args == (1,)

    run(main)
    assert notes(app) == [1, 2]
    assert stored(app) == [(1,), (2,), (3,), (4,), (5,)]


def test_an_error_in_an_async_transaction_rolls_back_and_comes_out_as_it_is(
    app: Windlass, job: Job[[int], int]
) -> None:
    error = ZeroDivisionError("mine")

    async def main() -> None:
        async with app.atransaction() as tx:
            await tx.aexecute("INSERT INTO notes VALUES (1)")
            await job.options(connection=tx).aenqueue(1)
            raise error

    with pytest.raises(ZeroDivisionError) as caught:
        run(main)
    assert caught.value is error
    assert not any("serve" in entry.name for entry in caught.traceback)
    assert (notes(app), stored(app)) == ([], [])


def test_an_error_of_a_statement_is_that_of_the_sync_twin(app: Windlass) -> None:
    with pytest.raises(EngineUnavailable) as sync, app.transaction() as tx:
        tx.execute("SELECT nonsense")

    async def main() -> None:
        async with app.atransaction() as tx:
            await tx.aexecute("SELECT nonsense")

    with pytest.raises(EngineUnavailable) as twin:
        run(main)
    assert str(twin.value) == str(sync.value)


def test_an_async_transaction_that_has_ended_takes_nothing_more(app: Windlass, job: Job[[int], int]) -> None:
    async def main() -> None:
        async with app.atransaction() as tx:
            pass
        with pytest.raises(ConfigError, match="has ended"):
            tx.execute("SELECT 1")
        with pytest.raises(ConfigError, match="has ended"):
            await tx.aexecute("SELECT 1")
        with pytest.raises(ConfigError, match="has ended"):
            await job.options(connection=tx).aenqueue(1)

    run(main)


# -- where it runs -----------------------------------------------------------------------------------------


def traced(db: apsw.Connection) -> set[int]:
    """The threads that use a connection from now on."""
    seen: set[int] = set()

    def note(*_: object) -> bool:
        seen.add(threading.get_ident())
        return True

    db.exec_trace = note
    return seen


def test_the_callers_own_connection_is_used_on_the_callers_thread(tmp_path: Path) -> None:
    with Windlass(f"sqlite:///{tmp_path}/jobs.db") as app:
        job = app.job(name="charge")(charge)
        app.stats()
        db = apsw.Connection(f"{tmp_path}/jobs.db")
        mine = job.options(connection=db)

        async def calls() -> AsyncIterator[Call[int]]:
            yield mine.bind(6)

        async def main() -> None:
            threads = traced(db)
            db.execute("BEGIN IMMEDIATE")
            await mine.aenqueue(1)
            await mine.aenqueue_in("1h", 2)
            await app.aenqueue(mine.bind(3))
            await app.aenqueue_many([mine.bind(4)])
            await app.aenqueue_stream(mine.bind(n) for n in (5,))
            await app.aenqueue_stream(calls())
            app.middleware("enqueue")(around)
            await mine.aenqueue(7)
            db.execute("COMMIT")
            assert threads == {threading.get_ident()}

        run(main)
        db.close()
        assert stored(app) == [(n,) for n in range(1, 8)]


def test_everything_of_an_async_transaction_runs_on_its_thread(app: Windlass, job: Job[[int], int]) -> None:
    async def main() -> None:
        async with app.atransaction() as tx:
            threads = traced(tx.connection)
            await tx.aexecute("INSERT INTO notes VALUES (1)")
            tx.execute("INSERT INTO notes VALUES (2)")
            await job.options(connection=tx).aenqueue(1)
            job.options(connection=tx).enqueue(2)
        tx.connection.exec_trace = None
        assert len(threads) == 1
        assert threads.isdisjoint({threading.get_ident()})

    run(main)


# -- one writer --------------------------------------------------------------------------------------------


def test_a_transaction_that_waits_for_another_of_its_loop_leaves_the_loop_free(app: Windlass) -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def first() -> None:
            async with app.atransaction() as tx:
                await tx.aexecute("INSERT INTO notes VALUES (1)")
                await go_on.wait()

        async def second() -> None:
            async with app.atransaction() as tx:
                assert (await tx.aexecute("SELECT n FROM notes")).fetchall() == [(1,)]

        one = asyncio.create_task(first())
        await until_async(lambda: waiters() == 1)
        two = asyncio.create_task(second())
        await until_async(lambda: waiters() == 2)
        go_on.set()  # the loop runs, or nobody would get here
        await asyncio.gather(one, two)

    run(main)


def test_many_transactions_and_enqueues_of_one_loop_take_turns(app: Windlass, job: Job[[int], int]) -> None:
    async def pay(n: int) -> None:
        if n % 2:
            await job.aenqueue(n)
        async with app.atransaction() as tx:
            count = (await tx.aexecute("SELECT count(*) FROM notes")).fetchall()[0][0]
            await asyncio.sleep(0)
            await tx.aexecute("INSERT INTO notes VALUES (?)", (count,))
            await job.options(connection=tx).aenqueue(n)

    async def main() -> None:
        await asyncio.gather(*(pay(n) for n in range(20)))

    run(main)
    assert notes(app) == list(range(20))
    assert len(stored(app)) == 30


def test_what_would_wait_for_its_own_transaction_is_refused_at_once(app: Windlass, job: Job[[int], int]) -> None:
    async def main() -> None:
        async with app.atransaction() as tx:
            for wrong in (
                lambda: job.aenqueue(1),
                lambda: app.aenqueue_many([job.bind(1)]),
                lambda: asyncio.gather(job.aenqueue(1)),
                lambda: app.atransaction().__aenter__(),
                lambda: app.queue("default").apause(),
                lambda: tx.arun(lambda: job.enqueue(1)),
            ):
                with pytest.raises(ConfigError, match=r"options\(connection=tx\)"):
                    await wrong()
            for also in (lambda: job.enqueue(1), lambda: app.transaction().__enter__()):
                with pytest.raises(ConfigError, match=r"options\(connection=tx\)"):
                    also()
        await job.aenqueue(2)

    run(main)
    assert stored(app) == [(2,)]


def test_a_task_that_outlives_the_transaction_it_began_in_may_write(app: Windlass, job: Job[[int], int]) -> None:
    async def main() -> None:
        over = asyncio.Event()

        async def later() -> None:
            await over.wait()
            async with app.atransaction() as tx:
                await tx.aexecute("INSERT INTO notes VALUES (1)")
            await job.aenqueue(1)

        async with app.atransaction():
            task = asyncio.create_task(later())
        over.set()
        await task

    run(main)
    assert (notes(app), stored(app)) == ([1], [(1,)])


def test_looking_inside_a_transaction_works(app: Windlass, job: Job[[int], int]) -> None:
    before = job.enqueue(1)

    async def main() -> None:
        async with app.atransaction() as tx:
            inside = await job.options(connection=tx).aenqueue(2)
            assert (await before.ainfo()).args == (1,)
            assert before.info().args == (1,)
            # In memory there is one connection, which sees its own writes; a file is read as it was committed.
            seen = await app.aget(inside.id)
            assert (seen is not None) is (app.settings.url == "memory://")

    run(main)


@pytest.mark.parametrize("wrong", ["transaction", "enqueue", "look"])
def test_sync_calls_of_another_task_give_up_instead_of_stopping_the_loop_for_good(
    app: Windlass, job: Job[[int], int], monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    # A file is read beside its writer; in memory there is one connection.
    reads_on = wrong == "look" and app.settings.url != "memory://"
    monkeypatch.setattr("windlass.engines.sqlite.connection.BUSY_GIVE_UP", 0.2)

    async def main() -> None:
        inside, over = asyncio.Event(), asyncio.Event()

        async def holds() -> None:
            async with app.atransaction():
                inside.set()
                await over.wait()

        task = asyncio.create_task(holds())
        await inside.wait()
        with nullcontext() if reads_on else pytest.raises(EngineUnavailable, match="has held its writer"):
            match wrong:
                case "transaction":
                    app.transaction().__enter__()
                case "enqueue":
                    job.enqueue(1)
                case _:
                    assert app.get("x") is None
        over.set()
        await task

    run(main)


def test_a_transaction_that_never_gets_the_writer_says_so(
    app: Windlass, job: Job[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass.engines.sqlite.connection.BUSY_GIVE_UP", 0.2)

    async def late() -> None:
        async with app.atransaction():
            raise AssertionError("it is not to be had")

    with app.transaction(), pytest.raises(ExceptionGroup) as caught:
        thread_errors: list[Exception] = []

        def other() -> None:
            try:
                run(late)
            except EngineUnavailable as error:
                thread_errors.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(PATIENCE)
        raise ExceptionGroup("from the thread", thread_errors)
    assert caught.group_contains(EngineUnavailable, match="has held its writer")


# -- how it ends -------------------------------------------------------------------------------------------


def test_a_cancel_inside_the_block_rolls_back_and_frees_the_writer(app: Windlass, job: Job[[int], int]) -> None:
    async def main() -> None:
        inside = asyncio.Event()

        async def pay() -> None:
            async with app.atransaction() as tx:
                await tx.aexecute("INSERT INTO notes VALUES (1)")
                await job.options(connection=tx).aenqueue(1)
                inside.set()
                await asyncio.sleep(3600)

        task = asyncio.create_task(pay())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await job.aenqueue(2)

    run(main)
    assert (notes(app), stored(app)) == ([], [(2,)])


def test_a_timeout_inside_the_block_is_a_timeout(app: Windlass, job: Job[[int], int]) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), app.atransaction() as tx:
                await tx.aexecute("INSERT INTO notes VALUES (1)")
                await asyncio.sleep(3600)
        await job.aenqueue(1)

    run(main)
    assert notes(app) == []


def test_a_cancel_while_it_waits_for_the_writer_goes_out_at_once_and_takes_nothing(
    app: Windlass, job: Job[[int], int]
) -> None:
    async def main() -> None:
        async def second() -> None:
            async with app.atransaction() as tx:
                await tx.aexecute("INSERT INTO notes VALUES (9)")

        # Made outside the block, or it would be refused as part of it.
        started = asyncio.Event()

        async def waits() -> None:
            started.set()
            await inside.wait()
            await second()

        inside = asyncio.Event()
        task = asyncio.create_task(waits())
        await started.wait()
        async with app.atransaction() as tx:
            inside.set()
            await until_async(lambda: waiters() == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await tx.aexecute("INSERT INTO notes VALUES (1)")
        await job.aenqueue(1)
        await until_async(lambda: waiters() == 0)

    run(main)
    assert (notes(app), stored(app)) == ([1], [(1,)])


def test_a_cancel_during_the_commit_comes_out_when_that_is_over(app: Windlass) -> None:
    async def main() -> None:
        gate, ending = threading.Event(), asyncio.Event()

        async def pay() -> None:
            async with app.atransaction() as tx:
                await tx.aexecute("INSERT INTO notes VALUES (1)")
                slow.append(asyncio.ensure_future(tx.arun(lambda: gate.wait(PATIENCE))))
                await asyncio.sleep(0)
                ending.set()

        slow: list[asyncio.Future[bool]] = []
        task = asyncio.create_task(pay())
        await ending.wait()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()  # or nobody could tell whether it is committed
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await slow[0]

    run(main)
    assert notes(app) == [1]


def test_a_block_that_nobody_ends_lets_go_when_its_coroutine_is_gone(app: Windlass, job: Job[[int], int]) -> None:
    async def pay() -> None:
        async with app.atransaction() as tx:
            await tx.aexecute("INSERT INTO notes VALUES (1)")
            await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    coroutine = pay()
    inside = loop.create_future()

    def step() -> None:
        if notes_inside():
            inside.set_result(None)
        else:
            loop.call_later(0.001, step)

    def notes_inside() -> bool:
        return bool(app.engine._writer and app.engine._writer._holder)  # type: ignore[attr-defined]

    async def drive() -> None:
        task = asyncio.ensure_future(coroutine)
        loop.call_soon(step)
        await inside
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    loop.run_until_complete(asyncio.wait_for(drive(), PATIENCE))
    loop.close()
    with contextlib.suppress(RuntimeError):  # it may not wait any more
        coroutine.close()
    job.enqueue(1)
    assert (notes(app), stored(app)) == ([], [(1,)])


def test_nothing_is_left_in_the_context_of_the_task(app: Windlass) -> None:
    async def main() -> None:
        async with app.atransaction():
            assert len(HOLDERS.get()) == 1
        assert HOLDERS.get() == ()
        await until_async(lambda: waiters() == 0)  # the thread ends just after it has said how it went

    run(main)


def test_a_fork_inside_an_async_transaction_leaves_it_to_the_parent(tmp_path: Path) -> None:
    with Windlass(f"sqlite:///{tmp_path}/jobs.db") as app:
        job = app.job(name="charge")(charge)

        async def main() -> None:
            async with app.atransaction() as tx:
                await job.options(connection=tx).aenqueue(1)
                pid = os.fork()
                if pid == 0:
                    try:
                        code = 0 if app.stats()["ready"] == 0 else 1
                    finally:
                        os._exit(code)
                assert os.waitpid(pid, 0)[1] == 0

        run(main)
        assert stored(app) == [(1,)]


# -- of a job ----------------------------------------------------------------------------------------------


class Run:
    """The worker's side of a run, made by hand over the real engine."""

    def __init__(self, app: Windlass) -> None:
        self.engine = app.engine
        self.clock = SystemClock()
        self.settings: Settings = app.settings
        self.keep_ms: int | None = None
        self.stopping = self.cancelled = self.settled = False

    def note(self, key: str, value: str | None) -> None: ...

    def around_enqueue(self, calls: Sequence[Call[object]]) -> AbstractContextManager[None]:
        return nullcontext()

    def note_moved(self) -> None: ...

    def note_settling(self) -> None: ...

    def note_settled(self, settled: bool) -> None:
        self.settled = settled


def claimed(app: Windlass, job: Job[[int], int]) -> tuple[JobContext, Run]:
    job.options(id="j1").enqueue(1)
    app.engine.extend(WorkerInfo("w1", "g", "host", 1, "*", 10, "0", 0), [], 30_000)
    run = Run(app)
    return JobContext(app.engine.claim(Want("w1", 1)).leases[0], run), run


def test_a_coroutine_commits_its_writes_follow_ups_and_completion_together(app: Windlass, job: Job[[int], int]) -> None:
    ctx, its_run = claimed(app, job)

    async def main() -> None:
        async with ctx.transaction() as tx:
            await tx.aexecute("INSERT INTO notes VALUES (1)")
            ctx.then(job.bind(2))
            tx.result = "paid"
        with pytest.raises(ConfigError, match="one per attempt"):
            async with ctx.transaction():
                raise AssertionError

    run(main)
    info = app.get("j1")
    assert info is not None
    assert (info.state, info.result, its_run.settled, notes(app)) == ("done", "paid", True, [1])
    assert stored(app) == [(1,), (2,)]


def test_a_cancelled_coroutine_completes_nothing(app: Windlass, job: Job[[int], int]) -> None:
    ctx, its_run = claimed(app, job)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), ctx.transaction() as tx:
                await tx.aexecute("INSERT INTO notes VALUES (1)")
                await asyncio.sleep(3600)
        await ctx.aensure_owner()
        async with ctx.transaction() as tx:  # nothing was committed, so it may be tried again
            await tx.aexecute("INSERT INTO notes VALUES (2)")

    run(main)
    assert (its_run.settled, notes(app)) == (True, [2])


def test_a_coroutine_that_lost_its_job_rolls_back(app: Windlass, job: Job[[int], int]) -> None:
    ctx, its_run = claimed(app, job)
    app.engine.depart("w1")

    async def main() -> None:
        with pytest.raises(LeaseLost):
            async with ctx.transaction() as tx:
                await tx.aexecute("INSERT INTO notes VALUES (1)")

    run(main)
    assert (its_run.settled, notes(app)) == (False, [])


def test_an_async_transaction_that_holds_the_only_writer_too_long_is_rolled_back(tmp_path: Path) -> None:
    with Windlass(f"sqlite:///{tmp_path}/jobs.db", renew="20ms", lease="30s") as app:
        ctx, _ = claimed(app, app.job(name="charge")(charge))
        with app.transaction() as tx:
            tx.execute("CREATE TABLE notes (n INTEGER)")

        async def main() -> None:
            with pytest.raises(TransactionTooLong):
                async with ctx.transaction() as tx:
                    await tx.aexecute("INSERT INTO notes VALUES (1)")
                    await asyncio.sleep(0.05)  # longer than half of renew

        run(main)
        assert notes(app) == []


# -- without transactions ----------------------------------------------------------------------------------


def test_redis_says_that_it_has_none() -> None:
    with closing(RedisServer()) as server, Windlass(server.url) as app:
        job = app.job(name="charge")(charge)
        ctx, _ = claimed(app, job)

        async def main() -> None:
            with pytest.raises(ConfigError, match="needs a SQL engine"):
                async with app.atransaction():
                    raise AssertionError
            with pytest.raises(ConfigError, match="needs a SQL engine"):
                async with ctx.transaction():
                    raise AssertionError
            with pytest.raises(ConfigError, match="has no transactions"):
                await job.options(connection=object()).aenqueue(1)
            with pytest.raises(ConfigError, match="has no transactions"):
                await app.aenqueue_many([job.options(connection=object()).bind(1)])

        run(main)
