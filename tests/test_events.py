"""The hub: who hears what, and what a broken handler does to others."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from windlass import events
from windlass.errors import ConfigError
from windlass.events import Event, Events, JobDead, JobEnqueued, WorkerStarted

ONE = JobEnqueued("1", "shop.charge", "default")


def test_a_handler_hears_its_type_only() -> None:
    hub, heard = Events(), list[Event]()
    hub.subscribe(JobEnqueued, heard.append)
    hub.emit(ONE)
    hub.emit(WorkerStarted("w"))
    assert heard == [ONE]


def test_a_handler_of_the_root_hears_everything() -> None:
    hub, heard = Events(), list[Event]()
    hub.subscribe(Event, heard.append)
    hub.emit(ONE)
    hub.emit(WorkerStarted("w"))
    assert heard == [ONE, WorkerStarted("w")]


def test_nobody_is_wanted_until_somebody_subscribes() -> None:
    hub = Events()
    assert not hub.wants(JobEnqueued)
    hub.subscribe(JobEnqueued, lambda event: None)
    assert hub.wants(JobEnqueued)
    assert not hub.wants(JobDead)


def test_a_broken_handler_is_logged_by_name_and_the_next_one_still_hears(caplog: pytest.LogCaptureFixture) -> None:
    hub, heard = Events(), list[Event]()

    def broken(event: JobEnqueued) -> None:
        raise RuntimeError("boom")

    hub.subscribe(JobEnqueued, broken)
    hub.subscribe(JobEnqueued, heard.append)
    with caplog.at_level(logging.ERROR):
        hub.emit(ONE)
    assert heard == [ONE]
    assert "broken" in caplog.text
    assert "boom" in caplog.text


def test_an_async_handler_is_refused() -> None:
    async def later(event: JobEnqueued) -> None: ...

    with pytest.raises(ConfigError, match="async"):
        Events().subscribe(JobEnqueued, later)


def test_what_is_no_event_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="not an event type"):
        Events().subscribe(ValueError, print)  # type: ignore[type-var]


def test_every_public_event_is_a_frozen_dataclass() -> None:
    kinds = [getattr(events, name) for name in events.__all__ if name != "Events"]
    assert len(kinds) > 10
    for kind in kinds:
        assert issubclass(kind, Event)
        assert dataclasses.is_dataclass(kind)
    with pytest.raises(dataclasses.FrozenInstanceError):
        ONE.id = "2"  # type: ignore[misc]
