"""Stores that the windlass before wrote open, say what is in them, and drain: nothing lost, nothing twice.

What they hold, and which version wrote them, is said in ``stores/make.py``. These tests know no table and no key.
"""

from __future__ import annotations

import base64
import json
import lzma
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from servers import RedisServer
from windlass import LockBusy, State, Windlass
from windlass.core.clock import ManualClock
from windlass.worker.worker import Worker, WorkerOptions

STORES = Path(__file__).parent / "stores"
sys.path.insert(0, str(STORES))
from old_shop import DOCUMENTS, Shop, picture  # noqa: E402

BOOT = "the-boot-of-the-old-stores"
HOUR = 3_600_000
DEADLINE = 30.0
PAUSE = 0.02
WAITS = {State.READY, State.SCHEDULED, State.BLOCKED, State.RUNNING}
OF_THE_SERVER = {"persistence", "advisories", "eviction", "memory"}  # what the doctor says of any server like this one

# By what is in their way, the labels of the jobs that wait. Those of the first run at once, the others not yet.
FREE = {
    "ready-0", "ready-1", "ready-2", "ready-3", "ready-without-own-id", "ready-front", "ready-expires", "ready-apart",
    "unique-start", "unique-done", "unique-expiry", "laden", "released", "crashed", "aging-high", "aging-low",
    "running", "held", "bounded-1", "bounded-2", "once-runs", "single-runs", "single-blocked", "latest-runs",
    "latest-blocked", "probe",
}  # fmt: skip
ALONE = {"alone"}
PAUSED = {"paused"}
CIRCUIT = {"circuit-blocked"}
RATED = {"seldom-runs", "spaced-runs", "paced-1"}  # they were claimed before, and count once more when they run again
LATER = {"retrying", "snoozed", "scheduled", "scheduled-long", "seldom-blocked", "spaced-blocked", "paced-2"}
DEAD = {
    "dead-lost-1", "dead-lost-2", "dead-late", "dead-unknown", "dead-laden", "dead-recovered", "dead-poison",
}  # fmt: skip


def said(engine: str) -> dict[str, Any]:
    """What the version that made a store said of it."""
    return json.loads(lzma.decompress((STORES / "old.json.xz").read_bytes()))[engine]  # type: ignore[no-any-return]


def load(server: RedisServer) -> None:
    """Put the keys of the old store into an empty server."""
    put: dict[str, Callable[..., object]]
    with server.client() as client:
        put = {
            "hash": lambda key, made: client.hset(key, mapping={bytes_of(k): bytes_of(v) for k, v in made.items()}),
            "zset": lambda key, made: client.zadd(key, {bytes_of(k): score for k, score in made.items()}),
            "list": lambda key, made: client.rpush(key, *(bytes_of(v) for v in made)),
        }
        for key, (kind, made) in json.loads(lzma.decompress((STORES / "old.redis.json.xz").read_bytes())).items():
            put[kind](key, made)


def bytes_of(text: str) -> bytes:
    return base64.b64decode(text)


class Old:
    """A copy of an old store, the clock that stands where it stood then, and an application on it."""

    def __init__(self, url: str, engine: str) -> None:
        self.said = said(engine)
        self.clock = ManualClock(self.said.pop("now"))
        keep = "3650d"
        self.app = Windlass(
            url, clock=self.clock, lease="24d", reap="50ms", keep_done=keep, id_keep=keep, dead_keep=keep
        )  # a lease that outlives the leaps of the clock
        self.shop = Shop(self.app)

    def findings(self) -> list[str]:
        """What the doctor has to say of the store itself."""
        found = [one for one in self.app.engine.doctor() if one.level != "ok" and one.check not in OF_THE_SERVER]
        return [f"{one.check}: {one.message}" for one in found]

    def run(self, labels: set[str], *, alone: bool = False, step_ms: int = 0) -> None:
        """Let a worker run these, in any order: all of them, nothing else, and none for the second time.

        The clock goes on by ``step_ms`` whenever the worker has nothing to do, so that what is due later becomes due.
        """
        app, before = self.app, len(self.shop.ran)
        options = WorkerOptions(alone=alone)
        worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, options, clock=self.clock)
        worker.start()
        try:
            deadline = time.monotonic() + DEADLINE
            while not labels <= set(self.shop.ran[before:]) or app.stats()["running"]:
                late = labels - set(self.shop.ran)
                assert time.monotonic() < deadline, f"{late} have not run; there is {app.stats()}"
                time.sleep(PAUSE)
                self.clock.advance(step_ms)
        finally:
            worker.stop()
            clean = worker.shut_down()
        assert clean
        assert [label for label, count in Counter(self.shop.ran).items() if count > 1] == []
        assert set(self.shop.ran[before:]) == labels

    def state(self, job_id: str) -> tuple[State, str | None]:
        info = self.app.get(job_id)
        assert info is not None
        return info.state, info.reason


@pytest.fixture(params=["sqlite", "redis"])
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Old]:
    monkeypatch.setattr("windlass.engines.sqlite.core.boot_id", lambda: BOOT)
    with ExitStack() as stack:
        if request.param == "sqlite":
            (tmp_path / "old.db").write_bytes(lzma.decompress((STORES / "old.sqlite.xz").read_bytes()))
            url = f"sqlite:///{tmp_path}/old.db"
        else:
            server = stack.enter_context(closing(RedisServer()))
            load(server)
            url = server.url
        made = Old(url, request.param)
        stack.enter_context(made.app)
        yield made


def test_an_old_store_says_what_it_said(old: Old) -> None:
    now = json.loads(json.dumps(picture(old.app)))
    for one in (*now["circuits"], *old.said["circuits"]):
        if one["state"] == "half_open":
            del one["since"]  # it is since its time came now, not since it was opened
    for part, before in old.said.items():
        assert known(now[part], before) == before, part
    assert list(now["jobs"]) == list(old.said["jobs"])
    assert [job.id for job in old.app.jobs(limit=1_000) if job.id not in old.app.explain(job.id)] == []
    assert old.findings() == []


def known(now: Any, before: Any) -> Any:
    """What is said now, without the fields of which the version before knew nothing."""
    if isinstance(now, dict) and isinstance(before, dict):
        return {key: known(value, before[key]) for key, value in now.items() if key in before}
    if isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
        return [known(*pair) for pair in zip(now, before, strict=True)]
    return now


def test_an_old_store_drains_and_each_job_runs_once(old: Old) -> None:
    app, clock = old.app, old.clock
    clock.advance(60_000)  # the worker that held jobs has been silent for longer than its lease
    old.run(FREE)
    assert old.state("running-cancel") == (State.CANCELLED, "cancelled")
    assert old.state("once-blocked") == (State.DONE, "duplicate of once-runs")
    old.run(ALONE, alone=True)

    app.queue("paused").resume()
    old.run(PAUSED)
    app.circuit("stripe").close()
    old.run(CIRCUIT)
    old.run(RATED | LATER, step_ms=600_000)
    assert [job.id for job in app.jobs(limit=1_000) if job.state in WAITS] == []

    assert {job.id for job in app.dead.list()} == DEAD
    assert app.dead.retry().done == len(DEAD)
    old.run(DEAD)
    assert {job.id: job.state for job in app.jobs(limit=1_000) if job.state not in (State.DONE, State.CANCELLED)} == {}
    before = old.said["counts"]
    assert app.stats()["total_enqueued"] == before["total_enqueued"]
    ended = len(old.shop.ran) + len({"once-blocked"})
    assert app.stats()["total_done"] == before["total_done"] + ended
    assert old.findings() == []


def test_what_an_old_store_remembers_of_ids_and_keys_holds(old: Old) -> None:
    shop = old.shop
    for label in ("tomb", "done", "ready-0"):
        assert shop.note.options(id=label).enqueue(label).duplicate
    for job, key, holder in (
        (shop.start, "start", "unique-start"),
        (shop.expiry, "expiry", "unique-expiry"),
        (shop.latest, "latest", "latest-blocked"),
        (shop.done, "done", "unique-done"),
    ):
        again = job.enqueue(f"new {holder}", key)
        assert (again.id, again.duplicate) == (holder, True)
    once = shop.once.options(id="once-later").enqueue("once-later", "once-done")
    old.clock.advance(60_000)
    replaced = {"unique-done", "latest-blocked"}
    old.run(FREE - replaced | {f"new {label}" for label in replaced})
    assert old.state(once.id) == (State.DONE, "duplicate of once-first")
    assert once.result() == "once once-first"


def test_circuits_locks_and_documents_of_an_old_store_go_on(old: Old) -> None:
    app = old.app
    circuits = {name: app.circuit(name) for name in ("stripe", "mail", "post", "sms")}
    assert {name: one.state for name, one in circuits.items()} == {
        "stripe": "open", "mail": "half_open", "post": "open", "sms": "closed",
    }  # fmt: skip
    with circuits["mail"]:
        pass  # the one probe that is needed
    assert circuits["mail"].state == "closed"
    circuits["post"].close()
    assert circuits["post"].state == "closed"

    (held,) = [one for one in app.locks() if one.key == "ledger"]
    with pytest.raises(LockBusy), app.lock("ledger"):
        pass
    with app.lock("left") as lock:
        assert lock.fence > held.fence
    assert app.release_lock("ledger")
    with pytest.raises(LockBusy), app.lock("ledger"):
        pass  # it is the turn of those in the line
    old.clock.advance(3 * HOUR)
    with app.lock("ledger") as lock:
        assert lock.fence > held.fence

    forever, long, over, never = app.engine.read(DOCUMENTS)
    assert (forever.value, long.value, over.version, never.version) == ("second", "first of old:long", 0, 0)
    assert old.findings() == []
