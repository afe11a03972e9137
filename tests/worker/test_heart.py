"""How far a worker believes in its lease, by its age: to the millisecond, on a clock that only the test moves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kit.waiting import PATIENCE, stretched, until
from windlass import Windlass
from windlass.core.clock import ManualClock
from windlass.core.work import Heartbeat, LeaseRef
from windlass.engines.sqlite import SqliteEngine
from windlass.testing.conformance.harness import add, info, take
from windlass.worker.heart import Heart, Trust
from windlass.worker.slots import SlotTable
from windlass.worker.worker import Worker

LEASE_MS = 30_000
NEVER_MS = 3_600_000  # the heart beats when the test says so


class Patient:
    """A heart on a store that can be taken away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.engine = SqliteEngine(str(path), clock=self.clock)
        self.table = SlotTable.create(1)
        self.ended = threading.Event()
        self.beats: list[Heartbeat] = []
        self.trusted: list[Trust] = []  # while each beat was told
        self.held: list[LeaseRef] = []
        self.heart = Heart(
            self.engine, self.clock, lambda: info("w1"), lease_ms=LEASE_MS, renew_ms=NEVER_MS, table=self.table,
            leases=lambda: self.held, on_beat=self.tell, on_end=self.ended.set,
        )  # fmt: skip

    def tell(self, beat: Heartbeat) -> None:
        self.trusted.append(self.heart.trust())
        self.beats.append(beat)

    def beat(self) -> None:
        """Have it beat, and wait for that."""
        count = len(self.beats)
        self.heart.beat_now()
        until(lambda: len(self.beats) > count, "the heart does not beat")

    def take_the_store_away(self) -> None:
        self.path.rename(self.path.with_name("elsewhere.db"))

    def close(self) -> None:
        self.heart.stop()
        self.engine.close()
        self.table.close()


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Patient]:
    with closing(Patient(tmp_path / "jobs.db")) as made:
        made.heart.start()
        yield made


def test_trust_falls_with_the_age_of_the_lease(patient: Patient) -> None:
    seen = []
    at = 0
    for age in (0, 19_999, 20_000, 29_999, 30_000, 59_999, 60_000, 600_000):
        patient.clock.advance(age - at)
        at = age
        seen.append(patient.heart.trust())
    assert seen == [
        Trust.FULL, Trust.FULL, Trust.NO_CLAIMS, Trust.NO_CLAIMS, Trust.NO_SETTLES, Trust.NO_SETTLES, Trust.NONE,
        Trust.NONE,
    ]  # fmt: skip


def test_a_renewal_brings_trust_back_and_its_age_counts_from_it(patient: Patient) -> None:
    patient.clock.advance(LEASE_MS)
    patient.beat()
    until(lambda: patient.heart.trust() is Trust.FULL, "the renewal does not count")
    patient.clock.advance(LEASE_MS - 1)
    assert patient.heart.trust() is Trust.NO_CLAIMS


def test_the_age_counts_from_before_the_renewal_was_sent(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    extend = patient.engine.extend

    def slowly(*args: object) -> Heartbeat:
        beat = extend(*args)  # type: ignore[arg-type]
        patient.clock.advance(20_000)  # on its way back
        return beat

    monkeypatch.setattr(patient.engine, "extend", slowly)
    patient.beat()
    assert patient.trusted[-1] is Trust.NO_CLAIMS
    assert patient.heart.trust() is Trust.NO_CLAIMS


def test_nobody_trusts_a_new_lease_before_it_is_told_what_was_lost(patient: Patient) -> None:
    add(patient.engine, "a")
    (lease,) = take(patient.engine)
    patient.held = [LeaseRef(lease.id, lease.fence), LeaseRef("gone", 1)]
    patient.clock.advance(LEASE_MS)
    patient.beat()
    assert patient.beats[-1].lost == (LeaseRef("gone", 1),)
    assert patient.trusted[-1] is Trust.NO_SETTLES


def test_a_renewal_by_the_supervisor_counts_too(patient: Patient) -> None:
    patient.clock.advance(2 * LEASE_MS)
    patient.table.renew(patient.clock.boot_ms() - 100)
    assert patient.heart.trust() is Trust.FULL


def test_a_worker_that_is_cut_off_ends_itself_at_two_leases(patient: Patient, caplog: pytest.LogCaptureFixture) -> None:
    patient.take_the_store_away()
    patient.clock.advance(2 * LEASE_MS - 1)
    patient.heart.beat_now()
    until(lambda: caplog.text.count("could not renew") >= 1, "the beat does not fail")
    seen = caplog.text.count("could not renew")
    patient.heart.beat_now()  # only one that goes on hears this
    until(lambda: caplog.text.count("could not renew") > seen, "the heart has ended before its time")
    assert not patient.ended.is_set()
    patient.clock.advance(1)
    patient.heart.beat_now()
    assert patient.ended.wait(stretched(PATIENCE))
    assert "has been cut off for two leases" in caplog.text


def test_a_worker_that_was_cut_off_stops_and_tells_its_store_no_goodbye(tmp_path: Path) -> None:
    path, clock = tmp_path / "jobs.db", ManualClock()
    with Windlass(f"sqlite:///{path}") as app:
        app.job(name="brief")(lambda: None)
        worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, clock=clock)
        worker.start()
        try:
            path.rename(tmp_path / "elsewhere.db")
            clock.advance(2 * app.settings.lease)
            worker._heart.beat_now()
            assert worker._end.wait(stretched(PATIENCE))
        finally:
            (tmp_path / "elsewhere.db").rename(path)
            worker.abort()
            worker.shut_down()
        assert worker.cut_off
        assert [row.info.id for row in app.engine.workers()] == [worker.info.id]
