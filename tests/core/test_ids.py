"""Job ids: order, uniqueness, and the check of those that callers make."""

from __future__ import annotations

import os
import threading
import uuid

import pytest

from windlass.core import ids
from windlass.core.ids import check_id, new_id
from windlass.errors import ConfigError


def test_id_is_a_version_7_uuid() -> None:
    made = [new_id() for _ in range(2_000)]
    for text in made:
        parsed = uuid.UUID(text)
        assert (str(parsed), parsed.version, parsed.variant) == (text, 7, uuid.RFC_4122)


def test_id_carries_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    later = (ids._ms + 60_000) * 1_000_000
    monkeypatch.setattr(ids, "time_ns", lambda: later)
    monkeypatch.setattr(ids, "_ms", ids._ms)  # put back afterwards
    assert uuid.UUID(new_id()).int >> 80 == later // 1_000_000


def test_ids_rise_also_when_the_clock_stands_or_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = new_id()
    readings = iter([5, 4, 4, 3] * 500)
    monkeypatch.setattr(ids, "time_ns", lambda: next(readings))
    made = [first, *(new_id() for _ in range(2_000))]
    assert made == sorted(set(made))


def test_ids_of_threads_are_distinct_and_rise_in_each() -> None:
    made: list[list[str]] = [[] for _ in range(4)]

    def fill(mine: list[str]) -> None:
        mine.extend(new_id() for _ in range(5_000))

    threads = [threading.Thread(target=fill, args=(mine,)) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in made)
    assert len({one for mine in made for one in mine}) == 20_000


def test_forked_children_make_ids_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = (ids._ms + 1_000) * 1_000_000
    monkeypatch.setattr(ids, "_ms", ids._ms)
    monkeypatch.setattr(ids, "time_ns", lambda: frozen)  # parent and children all in one millisecond
    before = new_id()
    seen: list[str] = []
    for _ in range(2):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, new_id().encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            seen.append(pipe.read())
        assert os.waitpid(child, 0)[1] == 0
    seen.append(new_id())
    assert len(set(seen)) == 3
    assert all(one > before for one in seen)


def test_fork_while_another_thread_holds_the_lock_does_not_block_the_child() -> None:
    with ids._lock:
        child = os.fork()
        if child == 0:
            new_id()
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("text", ["a", "pay-42", "x" * 200, "commande n° 7/é", "🙂", pytest.param(new_id(), id="made")])
def test_good_caller_id_passes(text: str) -> None:
    assert check_id(text) == text


@pytest.mark.parametrize("text", ["", "x" * 201, "a\0", "a\nb", "\x7f", "\x85", "a\u2028", "\ud800", 7, None, b"a"])
def test_bad_caller_id_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="job id"):
        check_id(text)
