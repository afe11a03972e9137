"""Coroutine jobs share one event loop: none of them can end it, set it up for the others or cancel their tasks."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar

import pytest
from inside import end_of, worker_of

from kit.waiting import PATIENCE, until
from windlass import JobHandle, State, Windlass
from windlass.worker.loop import LoopThread


@pytest.fixture
def app() -> Iterator[Windlass]:
    with Windlass("memory://", lease=5, renew="100ms", reap="50ms", threads=2) as made:
        yield made


class Neighbours:
    """A coroutine job that runs while others misbehave, with a task and a thread of its own."""

    def __init__(self, app: Windlass) -> None:
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gate: asyncio.Event | None = None
        self._begun = threading.Event()

        @app.job(name="beside", retry=0)
        async def beside() -> str:
            self._loop, self._gate = asyncio.get_running_loop(), asyncio.Event()

            async def part() -> None:
                assert self._gate is not None
                self._begun.set()
                await self._gate.wait()

            async with asyncio.TaskGroup() as group:
                group.create_task(part())
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
            return await asyncio.to_thread(lambda: "done")

        self._job = beside

    def start(self) -> JobHandle[str]:
        self._begun.clear()
        handle = self._job.enqueue()
        assert self._begun.wait(PATIENCE)
        return handle

    def finish(self, handle: JobHandle[str]) -> None:
        """Let it go on: it must end as if nothing had happened."""
        assert self._loop is not None
        assert self._gate is not None
        self._loop.call_soon_threadsafe(self._gate.set)
        info = end_of(handle)
        assert (info.state, info.result, info.attempt) == (State.DONE, "done", 1)


@pytest.fixture
def neighbours(app: Windlass) -> Neighbours:
    return Neighbours(app)


async def leave(code: int = 3) -> None:
    await asyncio.sleep(0)
    sys.exit(code)


async def interrupt() -> None:
    raise KeyboardInterrupt


async def in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(leave())


async def interrupted_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(interrupt())


async def gathered() -> None:
    await asyncio.gather(leave(), asyncio.sleep(60))


async def in_a_timeout() -> None:
    await asyncio.wait_for(leave(), 60)


async def awaited() -> None:
    await asyncio.create_task(leave())


async def in_its_body() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


async def in_a_task_that_nobody_awaits() -> None:
    task = asyncio.create_task(leave())
    await asyncio.sleep(60)
    await task


async def in_a_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(60)


async def in_a_timer() -> None:
    asyncio.get_running_loop().call_later(0.001, sys.exit, 3)
    await asyncio.sleep(60)


async def in_a_done_callback() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    task.add_done_callback(lambda _task: sys.exit(3))
    await asyncio.sleep(60)


async def in_a_task_of_a_task() -> None:
    async def outer() -> None:
        await asyncio.create_task(leave())

    await asyncio.create_task(outer())


EXITS: list[tuple[Callable[[], Awaitable[None]], set[str]]] = [
    (in_a_group, {"SystemExit"}),
    (interrupted_in_a_group, {"KeyboardInterrupt"}),
    (gathered, {"SystemExit"}),
    (in_a_timeout, {"SystemExit"}),
    (awaited, {"SystemExit"}),
    (in_its_body, {"SystemExit"}),
    (in_a_task_that_nobody_awaits, {"SystemExit"}),
    (in_a_callback, {"SystemExit"}),
    (in_a_timer, {"SystemExit"}),
    (in_a_done_callback, {"SystemExit"}),
    (in_a_task_of_a_task, {"SystemExit"}),
]


@pytest.mark.parametrize(("body", "kinds"), EXITS, ids=[body.__name__ for body, _ in EXITS])
def test_a_coroutine_job_that_exits_anywhere_fails_alone(
    app: Windlass, neighbours: Neighbours, body: Callable[[], Awaitable[None]], kinds: set[str]
) -> None:
    @app.job(name="leaves", retry=0)
    async def leaves() -> None:
        await body()

    with worker_of(app):
        beside = neighbours.start()
        info = end_of(leaves.enqueue())
        assert info.state is State.DEAD
        assert {error.type for error in info.errors} == kinds
        neighbours.finish(beside)
        neighbours.finish(neighbours.start())


def test_a_job_may_handle_the_exit_of_its_own_task(app: Windlass) -> None:
    @app.job(name="parses", retry=0)
    async def parses() -> str:
        try:
            await asyncio.create_task(leave(2))
        except SystemExit as error:
            return f"usage, {error.code}"
        return "parsed"

    with worker_of(app):
        info = end_of(parses.enqueue())
    assert (info.state, info.result) == (State.DONE, "usage, 2")


def test_an_exit_after_the_end_of_its_job_is_told_with_its_name_and_harms_nobody(
    app: Windlass, neighbours: Neighbours, caplog: pytest.LogCaptureFixture
) -> None:
    gate: list[asyncio.Event] = []

    @app.job(name="leaves", retry=0)
    async def leaves() -> None:
        gate.append(asyncio.Event())

        async def later() -> None:
            await gate[0].wait()
            sys.exit(3)

        kept.append(asyncio.create_task(later()))

    kept: list[asyncio.Task[None]] = []
    with worker_of(app):
        handle = leaves.enqueue()
        assert end_of(handle).state is State.DONE
        beside = neighbours.start()
        kept[0].get_loop().call_soon_threadsafe(gate[0].set)
        until(lambda: f"job leaves {handle.id} raised SystemExit: 3 in a task or callback" in caplog.text)
        neighbours.finish(beside)
    assert isinstance(kept[0].exception(), SystemExit)


def test_an_exit_that_belongs_to_no_job_is_told_and_ends_no_loop(
    app: Windlass, neighbours: Neighbours, caplog: pytest.LogCaptureFixture
) -> None:
    with worker_of(app):
        beside = neighbours.start()
        assert neighbours._loop is not None
        neighbours._loop.call_soon_threadsafe(sys.exit, 7)
        until(lambda: "a callback on the event loop of the coroutine jobs raised SystemExit: 7" in caplog.text)
        neighbours._loop.call_soon_threadsafe(neighbours._loop.stop)
        until(lambda: "was stopped from outside; it goes on" in caplog.text)
        neighbours.finish(beside)


async def cancels_all() -> None:
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    await asyncio.sleep(0)


async def shuts_down() -> None:
    loop = asyncio.get_running_loop()
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.sleep(0)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
    loop.stop()


async def sets_up_the_loop() -> None:
    loop = asyncio.get_running_loop()

    def refuse(*args: object, **options: object) -> asyncio.Task[object]:
        raise RuntimeError("no tasks today")

    loop.set_task_factory(refuse)
    loop.set_exception_handler(lambda *_: sys.exit(1))
    loop.set_default_executor(None)  # type: ignore[arg-type]
    asyncio.set_event_loop(None)
    loop.call_soon(int, "no number")
    await asyncio.sleep(0)


async def closes() -> None:
    loop = asyncio.get_running_loop()
    loop.stop()
    loop.close()


@pytest.mark.parametrize("body", [cancels_all, shuts_down, sets_up_the_loop, closes])
def test_what_a_job_does_to_the_loop_as_a_whole_reaches_no_other_job(
    app: Windlass, neighbours: Neighbours, body: Callable[[], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    @app.job(name="meddles", retry=0)
    async def meddles() -> str:
        await body()
        return "done"

    with worker_of(app):
        beside = neighbours.start()
        handle = meddles.enqueue()
        info = end_of(handle)
        assert (info.state, info.result) == (State.DONE, "done")
        neighbours.finish(beside)
        neighbours.finish(neighbours.start())
    assert f"job meddles {handle.id}" in caplog.text


def test_a_job_that_cancels_every_task_and_its_own_fails_alone(app: Windlass, neighbours: Neighbours) -> None:
    @app.job(name="meddles", retry=0)
    async def meddles() -> None:
        for task in asyncio.all_tasks():
            task.cancel()
        await asyncio.sleep(60)

    with worker_of(app):
        beside = neighbours.start()
        info = end_of(meddles.enqueue())
        assert (info.state, info.errors[-1].type) == (State.DEAD, "asyncio.exceptions.CancelledError")
        neighbours.finish(beside)


def test_a_task_that_outlived_its_job_can_be_cancelled_by_another(app: Windlass) -> None:
    shared: list[asyncio.Task[None]] = []

    @app.job(name="connect")
    async def connect() -> None:
        shared.append(asyncio.create_task(asyncio.sleep(3600)))

    @app.job(name="disconnect", retry=0)
    async def disconnect() -> bool:
        shared[0].cancel()
        await asyncio.wait(shared)
        return shared[0].cancelled()

    with worker_of(app):
        end_of(connect.enqueue())
        assert end_of(disconnect.enqueue()).result is True


def test_a_job_cancelled_before_its_first_step_ends_cancelled(app: Windlass) -> None:
    holding, go_on = threading.Event(), threading.Event()

    @app.job(name="holds")
    async def holds() -> None:
        holding.set()
        go_on.wait(PATIENCE)  # the loop does nothing else meanwhile

    @app.job(name="waits", timeout=60)
    async def waits() -> None:
        raise AssertionError("it was cancelled before")

    with worker_of(app) as worker:
        first = holds.enqueue()
        assert holding.wait(PATIENCE)
        second = waits.enqueue()
        until(lambda: second.id in worker._held)
        second.cancel()
        until(lambda: (run := worker._held.get(second.id)) is None or run.cancelled)
        go_on.set()
        assert end_of(first).state is State.DONE
        assert end_of(second).state is State.CANCELLED


class Hostile:
    """A value that cannot be compared, as arrays cannot."""

    def __eq__(self, other: object) -> bool:
        sys.exit("no comparison")

    __hash__ = None  # type: ignore[assignment]


VARIABLE: ContextVar[object] = ContextVar("variable")


def test_what_a_job_leaves_in_context_variables_reaches_no_later_job(app: Windlass) -> None:
    @app.job(name="sets")
    async def sets() -> bool:
        seen = VARIABLE.get(None)
        VARIABLE.set(Hostile())
        return seen is None

    with worker_of(app):
        handles = [sets.enqueue() for _ in range(250)]  # more than there are slots, so that tasks are followed by tasks
        ends = [end_of(handle) for handle in handles]
    assert {(info.state, info.result) for info in ends} == {(State.DONE, True)}


def test_a_loop_that_is_closed_from_outside_is_told_and_ends_its_worker(caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()
    thread = LoopThread(ended.set)
    loop = thread.start()
    close = asyncio.SelectorEventLoop.close

    def close_while_it_runs() -> None:
        vars(loop)["_thread_id"] = None  # what closes it from another thread in the one moment when it does not run
        close(loop)  # type: ignore[arg-type]

    loop.call_soon_threadsafe(close_while_it_runs)
    assert ended.wait(PATIENCE)
    assert "was closed from outside" in caplog.text
    thread.stop(PATIENCE)


def test_the_loop_is_watched_though_there_was_no_room_for_the_thread_that_does(
    app: Windlass, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()

    @app.job(name="quick")
    async def quick() -> None:
        pass

    @app.job(name="blocks")
    async def blocks() -> None:
        gate.wait(PATIENCE)

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("windlass.worker.timeouts.LOOK", 0.02)
    monkeypatch.setattr("windlass.worker.timeouts.BLOCKED", 0.1)
    with worker_of(app):
        with monkeypatch.context() as crowded:
            crowded.setattr("windlass.worker.attempt.deadlines.start_thread", refuse)
            assert end_of(quick.enqueue()).state is State.DONE
        blocks.enqueue()
        until(lambda: "has blocked the event loop" in caplog.text, "a warning of the blocked loop")
        gate.set()
