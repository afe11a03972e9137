"""The kit that other tests stand on: a wait says what it missed, and a fleet leaves no process behind."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from kit import waiting
from kit.fleet import Fleet, alive
from kit.waiting import until, until_async, until_none

CHILDREN = """
import os, subprocess, sys, time
beside = subprocess.Popen(["sleep", "600"])
apart = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(os.getpid(), beside.pid, apart.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)


def test_a_wait_gives_what_it_saw() -> None:
    seen = iter([0, 0, 7])
    assert until(lambda: next(seen)) == 7
    again = iter([None, "there"])
    assert asyncio.run(until_async(lambda: next(again))) == "there"


@pytest.mark.usefixtures("hurry")
def test_a_wait_in_vain_says_what_for_what_was_seen_and_what_was_said() -> None:
    with pytest.raises(AssertionError, match=r"in vain: a job to run\nseen last: \[\]\nthe log"):
        until(list, "a job to run", lambda: "the log")
    with pytest.raises(AssertionError, match=r"in vain: .*until\(lambda: 1 > 2\)"):
        until(lambda: 1 > 2)


def test_what_takes_long_has_its_patience_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE", 0.0)
    monkeypatch.setattr(waiting, "PAUSE", 0.0)
    left = iter([3, 2, 1, 0])
    until_none(lambda: next(left))
    stuck = iter([3, 2, 2, 2])
    with pytest.raises(AssertionError, match="in vain: the end"):
        until_none(lambda: next(stuck), "the end")


def test_a_fleet_leaves_no_process_behind_also_not_one_in_a_session_of_its_own(tmp_path: Path) -> None:
    with Fleet(tmp_path, "", "none") as fleet:
        program = fleet.program(sys.executable, "-c", CHILDREN)
        pids = fleet.until(lambda: [int(word) for word in program.said().split()])
        assert all(map(alive, pids))
        assert sorted(program.below()) == sorted(pids[1:])
        assert set(program.members()) == {program.pid, pids[1]}
    assert not any(map(alive, pids))


def test_what_programs_say_is_read_by_program_and_as_a_whole(tmp_path: Path) -> None:
    with Fleet(tmp_path, "", "none", GREETING="hello") as fleet:
        one = fleet.program(sys.executable, "-c", "import os, sys; sys.exit(os.environ['GREETING'])")
        assert one.ended() == 1
        other = fleet.program(sys.executable, "-c", "print('hello again')", GREETING="")
        fleet.stop(other, how=0)
        assert (one.said(), other.said(), fleet.logged("hello")) == ("hello\n", "hello again\n", 2)
        fleet.heard("again")
