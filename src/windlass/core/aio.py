"""Blocking code and coroutines: on a thread of the loop's pool, or on one of its own where it may take long."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TypeVar, cast

__all__ = ["hop", "own_thread", "runs_loop"]

T = TypeVar("T")


def runs_loop() -> bool:
    """Whether an event loop runs in this thread, so that whatever blocks here stops all its coroutines."""
    asyncio = sys.modules.get("asyncio")  # without it there is no loop
    return asyncio is not None and asyncio._get_running_loop() is not None


async def hop(fn: Callable[[], T]) -> T:
    """Run blocking code on a thread of the running loop's pool."""
    import asyncio  # late: sync programs need not load it

    return await asyncio.to_thread(fn)


async def own_thread(fn: Callable[[], T]) -> T:
    """Run code that blocks for long on a thread of its own."""
    import asyncio

    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(T, value))

    def run() -> None:
        value: T | None = None
        trouble: BaseException | None = None
        try:
            value = fn()
        except StopIteration as error:  # no future takes it, as it would end a generator
            trouble = RuntimeError("a function raised StopIteration")
            trouble.__cause__ = error
        except BaseException as error:  # noqa: BLE001  it belongs to the waiter
            trouble = error
        try:
            loop.call_soon_threadsafe(settle, value, trouble)
        except RuntimeError:  # the loop is closed, so nobody waits
            pass

    threading.Thread(target=run, name="windlass-result", daemon=True).start()
    return await future
