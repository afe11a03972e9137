"""Every public method that does I/O has an async twin, with the same parameters."""

from __future__ import annotations

import asyncio
import inspect
import keyword
import threading
from collections.abc import Callable
from typing import Any

import pytest

import public
from dead_shop import Shop
from windlass import Windlass

# What asks no store: it declares, computes, or only notes. A new method belongs here or gets a twin.
WITHOUT_IO = {
    "Windlass": "batch circuit job lock middleware on on_dead on_retry queue workflow",
    "Job": "as_item as_step bind on_dead on_retry options with_results",
    "AsyncJob": "as_item as_step bind on_dead on_retry options with_results",
    "JobContext": "flush then",  # flush is for the worker, and queues a note
    "Batch": "batch",
    "Chain": "composed options",
    "Group": "composed options",
    "Circuit": "due_in judge start_anew",
    "DeadList": "recover",
    "Lock": "check",
    "Stats": "as_json",
    "Workflow": "add composed expand parts",
    "WorkerStatus": "serves slots_for",
    "Exponential": "delay_ms range_ms",
    "On": "after dead discard retry",
    "Linear": "delay_ms range_ms",
    "Constant": "delay_ms range_ms",
    "Rate": "parsed",
    "Retry": "problems rule_for",
    "Rule": "matches names",
}
# What is for ``with`` and ``async with`` alike, and a sync handle whose async form is another class.
OTHERWISE = {("JobContext", "transaction"), ("Tx", "execute")}


def twin_of(method: str) -> str:
    return f"a{method}_" if keyword.iskeyword(f"a{method}") else f"a{method}"


def is_async(fn: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)


FOUND = {(name, method): fn for name, method, fn in public.methods()}
SYNC = [
    (name, method)
    for (name, method), fn in FOUND.items()
    if not is_async(fn) and (name, method) not in OTHERWISE and method not in WITHOUT_IO.get(name, "").split()
    if method not in ("of", "atransaction")  # makes a picture of a row; makes the block of an ``async with``
]


def test_the_walk_reaches_what_users_hold() -> None:
    wanted = "Windlass Job AsyncJob JobHandle JobContext Queue DeadList Redrive Circuit Lock Transaction AsyncTx Page"
    assert set(wanted.split()) <= set(public.classes())
    assert len(SYNC) >= 60


@pytest.mark.parametrize(("name", "method"), SYNC, ids=[".".join(each) for each in SYNC])
def test_a_method_that_does_io_has_a_twin_with_its_parameters(name: str, method: str) -> None:
    twin = FOUND.get((name, twin_of(method)))
    assert twin is not None, f"{name}.{method} has no twin {twin_of(method)}"
    given, expected = (list(inspect.signature(fn).parameters.values()) for fn in (twin, FOUND[name, method]))
    assert [(one.name, one.kind, one.default) for one in given] == [
        (one.name, one.kind, one.default) for one in expected
    ]


@pytest.mark.parametrize("name", [name for name, found in public.classes().items() if hasattr(found, "__enter__")])
def test_what_is_for_a_with_block_is_for_an_async_one_too(name: str) -> None:
    found = public.classes()[name]
    assert hasattr(found, "__aenter__")
    assert hasattr(found, "__aexit__")


def test_what_is_said_to_ask_no_store_exists() -> None:
    said = {(name, method) for name, methods in WITHOUT_IO.items() for method in methods.split()} | OTHERWISE
    assert said <= set(FOUND)


def test_making_a_queue_a_lock_and_a_circuit_opens_no_engine() -> None:
    app = Windlass("sqlite:////nowhere/at/all.db")
    app.queue("mail")
    app.lock("key")
    app.circuit("bank")
    app.job(name="print")(lambda: None).bind()
    assert app._client is None


def test_dead_lines_and_progress_reach_a_coroutine_on_its_loop() -> None:
    shop = Shop()
    with shop.app as app:
        heard: list[tuple[int, int, int]] = []

        def note(done: int, total: int) -> None:
            heard.append((done, total, threading.get_ident()))

        async def main() -> list[bytes]:
            lines = [line async for line in app.dead.alines()]
            await app.dead.adiscard(before=0, on_progress=note)
            return lines

        shop.die(*["late"] * 150)
        assert len(asyncio.run(main())) == 150
        assert heard == [(150, 150, threading.get_ident())]
