"""Deadlines: each is called when its time has come, and one that is not needed any more keeps nothing alive."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from queue import Queue

import pytest

from kit.waiting import PATIENCE, stretched
from windlass import Windlass
from windlass.worker.attempt.deadlines import SLACK, Deadlines
from windlass.worker.attempt.run import JobRun
from windlass.worker.worker import Worker, WorkerOptions

MANY = 500


@pytest.fixture
def deadlines() -> Iterator[Deadlines]:
    made = Deadlines()
    yield made
    made.close()


def test_calls_come_in_the_order_of_their_times(deadlines: Deadlines) -> None:
    came: Queue[str] = Queue()
    deadlines.add(0.1, lambda: came.put("later"))
    deadlines.add(0.0, lambda: came.put("now"))
    assert [came.get(timeout=PATIENCE), came.get(timeout=PATIENCE)] == ["now", "later"]


def test_a_dropped_deadline_is_not_called(deadlines: Deadlines) -> None:
    came: Queue[str] = Queue()
    dropped = deadlines.add(0.05, lambda: came.put("dropped"))
    deadlines.add(0.1, lambda: came.put("kept"))
    deadlines.drop(dropped)
    assert came.get(timeout=PATIENCE) == "kept"
    deadlines.drop(dropped)  # again, and one that was never given
    deadlines.drop(10_000)


def test_dropped_deadlines_far_off_take_no_room(deadlines: Deadlines) -> None:
    came: Queue[str] = Queue()
    near = [deadlines.add(0.0, lambda: came.put("near"))]
    for _ in range(MANY):
        deadlines.drop(deadlines.add(3_600, lambda: None))
    assert len(deadlines) <= SLACK + len(near)
    assert came.get(timeout=PATIENCE) == "near"


@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_a_worker_keeps_no_run_until_its_timeout_is_over(kind: str) -> None:
    with Windlass("memory://") as app:
        if kind == "thread":

            @app.job(name="quick", timeout="1h")
            def quick(n: int) -> None: ...

            app.enqueue_many(quick.bind(n) for n in range(MANY))
        else:

            @app.job(name="quick", timeout="1h")
            async def aquick(n: int) -> None: ...

            app.enqueue_many(aquick.bind(n) for n in range(MANY))
        options = WorkerOptions(burst=True)
        worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, options)
        before = runs_in_memory()
        worker.start()
        worker.wait()
        kept = runs_in_memory() - before
        worker.shut_down()
    assert kept < MANY / 2  # each thread and slot has the one it ran last


def runs_in_memory() -> int:
    gc.collect()
    return sum(isinstance(one, JobRun) for one in gc.get_objects())


def test_a_call_that_fails_ends_no_other_deadline(deadlines: Deadlines, caplog: pytest.LogCaptureFixture) -> None:
    called: Queue[str] = Queue()
    deadlines.add(0.0, lambda: sys.exit("no further"))
    deadlines.add(0.01, lambda: called.put("later"))
    assert called.get(timeout=stretched(PATIENCE)) == "later"
    assert "other time limits go on" in caplog.text


def test_a_thread_that_cannot_start_is_tried_again(deadlines: Deadlines, monkeypatch: pytest.MonkeyPatch) -> None:
    called: Queue[str] = Queue()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_room)
        with pytest.raises(RuntimeError, match="no room"):
            deadlines.add(0.0, lambda: called.put("first"))
    deadlines.add(0.0, lambda: called.put("second"))
    assert [called.get(timeout=stretched(PATIENCE)), called.get(timeout=stretched(PATIENCE))] == ["first", "second"]


def no_room(thread: threading.Thread) -> None:
    raise RuntimeError("no room for another thread")
