"""How a worker process hears its supervisor, whatever the system refuses meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dead_shop import Shop, worker_of
from kit.waiting import PATIENCE, until
from windlass.core.work import LeaseRef
from windlass.worker.process.life import ControlLine, listen
from windlass.worker.process.messages import Command, Ended, Judge, encode
from windlass.worker.wire import Line
from windlass.worker.worker import Worker


@contextmanager
def heard_by(worker: Worker) -> Iterator[tuple[Line, threading.Event]]:
    """The supervisor's end of a line that a worker listens on, and what is set when the worker is to end."""
    ours, theirs = Line.pair(PATIENCE)
    ended = threading.Event()
    thread = threading.Thread(target=listen, args=(worker, ControlLine(theirs), ended), daemon=True)
    thread.start()
    yield ours, ended
    ours.close()
    thread.join(PATIENCE)
    theirs.close()


@pytest.mark.parametrize("message", [Ended(worker="w", cause="was killed"), Judge(1, (LeaseRef("a", 1),))])
def test_a_worker_goes_on_listening_when_there_is_no_room_for_a_thread(
    message: Ended | Judge, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    shop = Shop()
    worker = worker_of(shop.app)
    monkeypatch.setattr("windlass.worker.process.life.start_thread", refuse)
    with heard_by(worker) as (line, ended):
        line.send(encode(message))
        until(lambda: "cannot do what the supervisor says" in caplog.text, "it does not say so")
        assert not ended.is_set()
        line.send(encode(Command("stop")))
        assert ended.wait(PATIENCE)
    shop.app.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_cannot_hear_its_supervisor_any_more_stops() -> None:
    shop = Shop()
    worker = worker_of(shop.app)
    with heard_by(worker) as (line, ended):
        line.send(b"what nobody says")
        assert ended.wait(PATIENCE)
        assert worker.stopping
    shop.app.close()
