"""What workers do for dead jobs by themselves: recovery by rules, and the archive."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from dead_shop import Shop
from kit.waiting import PATIENCE, until
from windlass.core.model import State
from windlass.core.rows import Action, JobFilter, Moved
from windlass.core.work import LeaseRef, Rules, Upkeep
from windlass.dead.lines import from_line
from windlass.errors import EngineUnavailable
from windlass.events import DeadRecovered, DeadTrimmed
from windlass.worker.archive import Archive, append


def deaths(shop: Shop) -> list[LeaseRef]:
    rows, _ = shop.app.engine.jobs(JobFilter(state=State.DEAD), None, 10_000)
    return [LeaseRef(row.id, row.fence) for row in rows]


# -- recovery ----------------------------------------------------------------------------------------------


def test_fail_recover_fail_ends_dead_after_exactly_the_cap() -> None:
    shop = Shop()
    shop.app.dead.recover(on=(TimeoutError,), after=0, attempts=3)
    recovered: list[str] = []
    shop.app.on(DeadRecovered)(lambda event: recovered.extend(event.ids))
    job_id, other = shop.enqueue("late", "lost")
    with shop.working():
        until(lambda: len(shop.runs) == 5 and shop.states([job_id]) == ["dead"])
    shop.burst()  # a burst begins with an upkeep
    assert recovered == [job_id] * 3
    assert shop.runs.count(0) == 4  # the first run and three recoveries
    assert shop.runs.count(1) == 1
    info = shop.app.get(job_id)
    assert info is not None
    assert (info.state, len(info.errors)) == (State.DEAD, 4)
    assert shop.states([other]) == ["dead"]
    shop.app.close()


def test_settings_have_rules_too_and_a_person_begins_anew() -> None:
    shop = Shop(recover=[{"on": ["TimeoutError"], "after": 0, "attempts": 1}])
    (job_id,) = shop.enqueue("late")
    with shop.working():
        until(lambda: len(shop.runs) == 2 and shop.states([job_id]) == ["dead"])
        shop.app.dead.retry(job_id)
        until(lambda: len(shop.runs) == 4 and shop.states([job_id]) == ["dead"])
    row = shop.app.engine.job(job_id)
    assert row is not None
    assert row.recoveries == 1
    shop.app.close()


def test_a_working_world_lets_a_recovered_job_succeed() -> None:
    shop = Shop()
    handle = shop.ship.enqueue(1, "late")
    shop.burst()
    shop.app.dead.edit(handle.id, kwargs={}, args=[1, "fine"])
    shop.app.dead.recover(on="TimeoutError", after=0)  # not before: the first worker has upkeep of its own
    with shop.working():
        until(lambda: shop.states([handle.id]) == ["done"], "the rule does not let it live again")
        assert handle.result(timeout=PATIENCE) == 1
    shop.app.close()


# -- steps -------------------------------------------------------------------------------------------------


def test_upkeep_goes_on_at_once_while_there_is_more_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windlass.worker.keeper.BUDGET", 5)
    shop = Shop(reap="1h", dead_max=0)
    ids = shop.die(*["late"] * 22)
    told: list[str] = []
    shop.app.on(DeadTrimmed)(lambda event: told.extend(event.ids))
    with shop.working():
        until(lambda: len(told) == 22)
    assert sorted(told) == sorted(ids)
    shop.app.close()


def test_upkeep_that_the_store_could_not_do_is_done_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shop = shop_of_one_death(tmp_path, dead_max=0)
    outages = [EngineUnavailable("the store is away"), EngineUnavailable("the store is away")]
    maintain = shop.app.engine.maintain

    def away(rules: Rules, budget: int) -> Upkeep:
        if outages:
            raise outages.pop()
        return maintain(rules, budget)

    monkeypatch.setattr(shop.app.engine, "maintain", away)
    with shop.working():
        until(lambda: shop.app.dead.count() == 0)
    assert caplog.text.count("upkeep has to wait: the store is away") == 2
    shop.app.close()


# -- bounds ------------------------------------------------------------------------------------------------


def test_trimming_is_logged_counted_and_told(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(reap="1h", dead_max=2)
    told: list[str] = []
    shop.app.on(DeadTrimmed)(lambda event: told.extend(event.ids))
    ids = shop.die(*["late"] * 5)
    with shop.working():
        until(lambda: len(told) == 3)
    assert set(told) < set(ids)
    assert (shop.app.stats()["total_trimmed"], shop.app.dead.count()) == (3, 2)
    assert "removed 3 dead jobs past dead_keep or dead_max" in caplog.text
    shop.app.close()


def test_what_is_trimmed_is_in_the_archive_first_and_can_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "dead.jsonl"
    shop = Shop(reap="1h", dead_max=1, dead_archive=str(file))
    told: list[str] = []
    shop.app.on(DeadTrimmed)(lambda event: told.extend(event.ids))
    shop.die("late", "late", "lost")
    with shop.working():
        until(lambda: len(told) == 2)
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == sorted(told, reverse=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert shop.app.stats()["total_trimmed"] == 2
    assert shop.app.dead.load(file) == 2
    assert shop.app.dead.count() == 3
    shop.app.close()


def test_what_cannot_be_archived_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop(dead_max=0, dead_archive=str(tmp_path / "no" / "dead.jsonl"))
    shop.die("late")
    with shop.working():
        until(lambda: "dead_archive" in caplog.text)
    assert shop.app.dead.count() == 1
    assert "cannot be written" in caplog.text
    shop.app.close()


def test_archives_add_to_the_file_and_hold_each_job_once(tmp_path: Path) -> None:
    shop, file = Shop(), tmp_path / "dead.jsonl"
    shop.die(*["late"] * 250)
    archive = Archive(str(file), shop.app.engine)
    first, rest = deaths(shop)[:10], deaths(shop)
    assert len(archive.take(first)) == 10
    assert len(archive.take(rest)) == 240  # the first ten are gone, and are not written again
    assert archive.take(rest) == []
    rows = [from_line(line, "line") for line in file.read_bytes().splitlines()]
    assert len({row.id for row in rows}) == len(rows) == 250
    shop.app.close()


def test_a_line_is_on_disk_before_its_job_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop, file = Shop(), tmp_path / "f"
    (job_id,) = shop.die("late")
    steps: list[str] = []
    sync, transition = os.fsync, shop.app.engine.transition

    def synced(fd: int) -> None:
        if os.path.samestat(os.fstat(fd), file.stat()):
            steps.append(f"synced {json.loads(file.read_bytes())['id']}")
        sync(fd)

    def trimmed(action: Action, which: Sequence[LeaseRef]) -> list[Moved]:
        steps.append(f"deleted {which[0].id}")
        return transition(action, which)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(shop.app.engine, "transition", trimmed)
    assert Archive(str(file), shop.app.engine).take(deaths(shop)) == [job_id]
    assert steps == [f"synced {job_id}", f"deleted {job_id}"]
    shop.app.close()


def test_a_disk_that_does_not_take_a_line_keeps_the_job_and_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, file = Shop(), tmp_path / "f"
    shop.die("late")
    file.touch(0o600)

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        Archive(str(file), shop.app.engine).take(deaths(shop))
    assert (shop.app.dead.count(), file.read_bytes()) == (1, b"")
    shop.app.close()


def test_a_death_that_is_over_is_not_archived(tmp_path: Path) -> None:
    shop = Shop()
    shop.die("late")
    archive, (death,) = Archive(str(tmp_path / "f"), shop.app.engine), deaths(shop)
    shop.app.dead.retry()
    shop.burst()  # it died again
    assert archive.take([death]) == []
    assert (tmp_path / "f").read_bytes() == b""
    shop.app.close()


def test_a_full_disk_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"a whole line\n")
    fd = os.open(file, os.O_WRONLY | os.O_APPEND)
    write = os.write
    calls: list[int] = []

    def part(fd: int, data: bytes) -> int:
        if calls:
            raise OSError(errno.ENOSPC, "No space left on device")
        calls.append(fd)
        return write(fd, data[:5])

    monkeypatch.setattr(os, "write", part)
    with pytest.raises(OSError, match="No space"):
        append(fd, b"another line\n")
    os.close(fd)
    assert file.read_bytes() == b"a whole line\n"


def shop_of_one_death(folder: Path, **settings: object) -> Shop:
    """A shop with a job that died before its first worker starts."""
    url = f"sqlite:///{folder}/jobs.db"
    earlier = Shop(url)
    earlier.die("late")
    earlier.app.close()
    return Shop(url, **settings)


def test_another_program_that_keeps_the_archive_does_not_stop_upkeep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("windlass.worker.archive.PATIENCE", 0.0)
    file = tmp_path / "dead.jsonl"
    shop = shop_of_one_death(tmp_path, dead_max=0, dead_archive=str(file))
    file.touch(0o600)
    with file.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with shop.working():
            until(lambda: caplog.text.count("another process has had it locked") > 1)
    assert shop.app.dead.count() == 1
    shop.app.close()


def test_code_of_the_application_that_does_not_end_in_upkeep_keeps_no_worker_from_its_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("windlass.worker.keeper.FIRST_STEP", 0.05)
    shop = shop_of_one_death(tmp_path, dead_max=0)
    begun, gate = threading.Event(), threading.Event()

    def hang(_: DeadTrimmed) -> None:
        begun.set()
        gate.wait(PATIENCE)

    shop.app.on(DeadTrimmed)(hang)
    with shop.working():
        assert begun.wait(PATIENCE)
        shop.enqueue("fine")
        until(lambda: len(shop.runs) == 1)
        assert not gate.is_set()
        gate.set()
    shop.app.close()
