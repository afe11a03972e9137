"""Locks as user code has them: with and async with, waiting, renewal, loss."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from kit.waiting import PATIENCE, stretched, until
from windlass import ConfigError, LockBusy, LockLost, Windlass
from windlass.core.clock import ManualClock
from windlass.errors import EngineUnavailable, GuardUnavailable


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Windlass]:
    with Windlass(f"sqlite:///{tmp_path}/jobs.db") as app:
        yield app


def test_a_lock_is_held_inside_its_block_and_free_after_it(app: Windlass) -> None:
    with app.lock("k", lease="30s") as lock:
        lock.check()
        with pytest.raises(LockBusy, match="'k' is held by") as caught, app.lock("k"):
            raise AssertionError
        assert caught.value.key == "k"
        first = lock.fence
    with app.lock("k") as lock:
        assert lock.fence > first
    assert app.locks() == []


def test_outside_its_block_a_lock_has_no_fence_and_no_owner(app: Windlass) -> None:
    lock = app.lock("k")
    with pytest.raises(ConfigError, match="is not held"):
        _ = lock.fence
    with pytest.raises(LockLost, match="is not held"):
        lock.check()


def test_an_error_in_the_block_frees_the_lock(app: Windlass) -> None:
    with pytest.raises(LookupError), app.lock("k"):
        raise LookupError
    with app.lock("k"):
        pass


def test_waiters_are_woken_in_order_by_the_release(app: Windlass) -> None:
    order: list[int] = []
    threads = []
    with app.lock("k"):
        for n in range(4):
            thread = threading.Thread(target=enter, args=(app, order, n))
            thread.start()
            threads.append(thread)
            until(lambda n=n: app.locks()[0].waiting == n + 1)  # type: ignore[misc]
    for thread in threads:
        thread.join(stretched(PATIENCE))
    assert order == [0, 1, 2, 3]


def enter(app: Windlass, order: list[int], n: int) -> None:
    with app.lock("k", wait="30s"):
        order.append(n)


def test_who_gives_up_waiting_leaves_the_line(app: Windlass) -> None:
    with app.lock("k"):
        with pytest.raises(LockBusy, match="not free within 50 ms"), app.lock("k", wait=0.05):
            raise AssertionError
        assert app.locks()[0].waiting == 0


def test_a_lock_is_renewed_while_its_block_runs(app: Windlass) -> None:
    lefts: list[float] = []

    def is_renewed_twice() -> bool:
        lefts.append(app.locks()[0].lease_left)
        return sum(later > left for left, later in pairwise(lefts)) == 2

    with app.lock("k", lease=1.5) as lock:
        until(is_renewed_twice)
        lock.check()
        with pytest.raises(LockBusy), app.lock("k"):
            raise AssertionError


def test_a_lock_that_nothing_here_can_renew_is_given_back(app: Windlass, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def no_room(thread: threading.Thread) -> None:
        if thread.name == "windlass-locks":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_room)
    with pytest.raises(GuardUnavailable, match="can't start new thread"), app.lock("k"):
        raise AssertionError
    assert app.locks() == []


def test_waiters_of_a_machine_without_room_for_threads_find_out_by_looking(
    app: Windlass, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def no_room(thread: threading.Thread) -> None:
        if thread.name == "windlass-endings":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_room)
    order: list[int] = []
    with app.lock("k"):
        thread = threading.Thread(target=enter, args=(app, order, 1))
        thread.start()
        until(lambda: app.locks()[0].waiting == 1)
    thread.join(stretched(PATIENCE))
    assert order == [1]


def test_a_lock_that_was_taken_away_is_lost_at_the_next_check_and_leaving_it_is_no_error(app: Windlass) -> None:
    with app.lock("k", lease=1.5) as lock:
        assert app.release_lock("k")
        with app.lock("k"):
            until(lambda: is_lost(lock))
            with pytest.raises(LockLost, match="'k'"):
                lock.check()
    assert not app.release_lock("k")


def is_lost(lock: object) -> bool:
    try:
        lock.check()  # type: ignore[attr-defined]
    except LockLost:
        return True
    return False


def test_a_holder_that_slept_past_its_lease_finds_out_by_itself() -> None:
    clock = ManualClock()
    with Windlass("memory://", clock=clock) as app, app.lock("k", lease="30s") as lock:
        clock.advance(29_999)
        lock.check()
        clock.advance(1)
        with pytest.raises(LockLost, match="not renewed in time"):
            lock.check()


def test_an_async_lock_does_not_block_the_loop(app: Windlass) -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        entered = asyncio.Event()

        async def second() -> None:
            entered.set()
            async with app.lock("k", wait="30s") as lock:
                lock.check()
                seen.append("second")

        async with app.lock("k"):
            task = asyncio.create_task(second())
            await entered.wait()
            while not (await app.alocks())[0].waiting:
                await asyncio.sleep(0)
            seen.append("first")
        await task
        return seen

    assert asyncio.run(main()) == ["first", "second"]


def test_an_async_waiter_that_is_cancelled_leaves_nothing_behind(app: Windlass) -> None:
    async def main() -> None:
        async with app.lock("k"):
            task = asyncio.create_task(take())
            while not (await app.alocks())[0].waiting:
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with app.lock("k", wait="30s"):
            pass

    async def take() -> None:
        async with app.lock("k", wait="30s"):
            raise AssertionError

    asyncio.run(main())
    until(lambda: app.locks() == [])


@pytest.mark.parametrize(("options", "says"), [({"lease": 0}, "longer than zero"), ({"wait": "x"}, "not a duration")])
def test_a_wrong_length_is_an_error(app: Windlass, options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        app.lock("k", **options)  # type: ignore[arg-type]


def test_without_its_store_a_lock_is_not_taken(app: Windlass, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_args: object) -> None:
        raise EngineUnavailable("gone")

    monkeypatch.setattr(app.engine, "hold", away)
    with pytest.raises(GuardUnavailable, match="was not taken"), app.lock("k"):
        raise AssertionError
