"""Makes the stores of the version before: run it with the windlass of commit 1763b72, beside a redis-server.

    PYTHONPATH=tests:tests/engines/stores python tests/engines/stores/make.py tests/engines/stores

It writes ``old.sqlite.xz`` (a file), ``old.redis.json.xz`` (the keys of a server, each with its type and values) and
``old.json.xz`` (what that version said of both). Its clock begins at ``NOW`` and moves only by hand.
"""

from __future__ import annotations

import base64
import json
import lzma
import sys
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
from old_shop import Shop, picture
from windlass.clock import ManualClock
from windlass.model import (
    Action,
    Cause,
    CircuitPolicy,
    JobError,
    Kind,
    Lease,
    Outcome,
    PoolInfo,
    Progress,
    QueueShare,
    QueueWork,
    RateBound,
    Recovery,
    Room,
    Rules,
    Slot,
    Tally,
    Want,
    WorkerInfo,
)

import windlass.engines.sqlite.core
from servers import RedisServer
from windlass import Windlass
from windlass.engines.base import Store

BOOT = "the-boot-of-the-old-stores"
NOW = 1_700_000_000_000
HOUR = 3_600_000
YEARS = 10 * 365 * 86_400_000
RULES = Rules(keep_done_ms=YEARS, dead_keep_ms=YEARS, id_keep_ms=YEARS)
LOST = Cause("shop.errors.Lost", "aaaaaaaaaaaa", "shop.jobs.ship")
LATE = Cause("TimeoutError", "bbbbbbbbbbbb", "shop.jobs.pay")


class Maker:
    """Brings a store into every state that there is."""

    def __init__(self, app: Windlass, clock: ManualClock) -> None:
        self.shop = Shop(app)
        self.app = app
        self.store: Store = app.engine
        self.clock = clock

    def join(self, worker: str, lease_ms: int = 30_000) -> None:
        self.store.extend(
            WorkerInfo(
                worker, "g1", "box", 4242, "*", 2, "1.0", NOW - 1_000,
                (PoolInfo("common", "*", ("*",), 2, 2),), (QueueWork("done", 7, 900),), "", 4200,
            ), (), lease_ms,
        )  # fmt: skip

    def take(self, queue: str, limit: int = 1, worker: str = "w-dead", **more: Any) -> list[Lease]:
        return self.store.claim(Want(worker, limit, (QueueShare(queue, limit),), **more)).leases

    def end(self, leases: Iterable[Lease], kind: Kind, **more: Any) -> None:
        for lease in leases:
            assert self.store.settle([Outcome(lease.id, lease.fence, kind, **more)]) == ["applied"]

    def error(self, kind: str, attempt: int) -> str:
        made = JobError(kind, f"broken at run {attempt}", "Traceback: äöü", self.clock.wall_ms(), attempt, "box", "w")
        return msgspec.json.encode(made).decode()

    def note(self, label: str, queue: str, **options: Any) -> None:
        self.shop.note.options(id=label, queue=queue, **options).enqueue(label)

    def make(self) -> None:
        self.join("w-dead", 3 * HOUR)
        self.make_ended()
        self.make_dead()
        self.make_waiting()
        self.make_marked()
        self.make_queues()
        self.make_coordination()
        self.clock.advance(60_000)
        self.join("w-dead", 30_000)  # from now on it is silent
        self.make_running()
        self.store.control("w-dead", "quiet")
        self.clock.advance(20_000)

    def make_ended(self) -> None:
        self.shop.note.options(queue="done").enqueue("done-without-own-id")
        self.note("done", "done", tags=["money", "eu"])
        self.end(self.take("done", 2), Kind.DONE, result='"note done"', keep_ms=YEARS)
        self.note("done-no-result", "done")
        self.end(self.take("done"), Kind.DONE, reason="result not stored: too large", keep_ms=YEARS)
        for label in ("once-first", "once-again"):
            self.shop.once.options(id=label, queue="done").enqueue(label, "once-done")
            for lease in self.take("done"):
                self.end([lease], Kind.DONE, result='"once once-first"', keep_ms=YEARS)
        self.note("cancelled-waiting", "ended")
        self.store.transition(Action.CANCEL, ["cancelled-waiting"])
        self.note("cancelled-expired", "ended", expires="1s")
        self.clock.advance(1_001)
        self.take("ended")
        self.note("cancelled-discarded", "ended")
        self.end(self.take("ended"), Kind.CANCELLED, reason="not wanted", keep_ms=YEARS)
        self.note("tomb", "ended")
        self.end(self.take("ended"), Kind.DONE, keep_ms=1)
        self.clock.advance(1_000)
        while self.store.maintain(RULES, 1_000).more:
            pass
        assert self.store.job("tomb") is None

    def make_dead(self) -> None:
        for label, cause in (("dead-lost-1", LOST), ("dead-lost-2", LOST), ("dead-late", LATE), ("dead-unknown", None)):
            self.note(label, "deaths", retry=3, tags=["money"])
            for attempt in (1, 2):
                self.end(self.take("deaths"), Kind.RETRY, error=self.error("ValueError", attempt))
                self.clock.advance(1_000)
            error = None if cause is None else self.error(cause.error_type, 3)
            self.end(self.take("deaths"), Kind.DEAD, error=error, cause=cause, reason="gave up", keep_ms=YEARS)
        self.shop.laden.options(id="dead-laden", queue="deaths", tags=["a"]).enqueue("dead-laden", "k")
        (laden,) = self.take("deaths")
        self.store.report([Progress(laden.id, laden.fence, '{"done":1,"total":4,"message":"half"}')])
        self.end([laden], Kind.DEAD, error=self.error("shop.errors.Lost", 1), cause=LOST, keep_ms=YEARS)
        self.note("dead-recovered", "deaths")
        self.end(self.take("deaths"), Kind.DEAD, error=self.error("OSError", 1), cause=Cause("OSError", "cccc"))
        assert self.store.recover(Recovery(("OSError",), 0, 3), 1) == ["dead-recovered"]
        (again,) = self.take("deaths")
        self.end([again], Kind.DEAD, error=self.error("OSError", 1), cause=Cause("OSError", "cccc"), keep_ms=YEARS)
        self.note("dead-poison", "poison")
        self.crash("dead-poison", "poison", 3)

    def crash(self, label: str, queue: str, times: int) -> None:
        """Let the process of a job die under it, again and again."""
        for time in range(1, times + 1):
            worker = f"w-{label}-{time}"
            self.clock.advance(5_000)  # it runs alone after a pause
            self.join(worker)
            (lease,) = self.take(queue, worker=worker, alone=time > 2)
            self.store.bury(worker, [lease.fence], self.error("WorkerCrashed", time), RULES)

    def make_waiting(self) -> None:
        shop = self.shop
        for number, queue in enumerate(("a", "a", "b", "b.c:d-e")):
            self.note(f"ready-{number}", queue, priority=number - 2, tags=["t", f"n{number}"])
        shop.note.options(queue="a").enqueue("ready-without-own-id")
        self.note("ready-front", "a", at_front=True)
        self.note("ready-expires", "a", expires="3650d", retry=2, timeout=30)
        shop.apart.options(id="ready-apart", queue="a").enqueue("ready-apart")
        self.note("scheduled", "later", delay="90m")
        self.note("scheduled-long", "later", delay="25h", priority=3)
        shop.start.options(id="unique-start", queue="unique").enqueue("unique-start", "start")
        shop.done.options(id="unique-done", queue="unique").enqueue("unique-done", "done")
        shop.expiry.options(id="unique-expiry", queue="unique").enqueue("unique-expiry", "expiry")
        shop.laden.options(id="laden", queue="unique").enqueue("laden", "fresh")

    def make_marked(self) -> None:
        """Jobs that wait with marks of runs before."""
        self.note("retrying", "later", retry=5)
        self.end(self.take("later"), Kind.RETRY, error=self.error("ValueError", 1), delay_ms=HOUR, reason="again")
        self.note("snoozed", "later")
        self.end(self.take("later"), Kind.SNOOZE, delay_ms=HOUR, reason="not yet")
        self.note("released", "marks")
        (lease,) = self.take("marks")
        self.store.report([Progress(lease.id, lease.fence, '{"done":5,"total":10}')])
        self.end([lease], Kind.RELEASE, interrupted=True)
        self.note("crashed", "crashed")
        self.crash("crashed", "crashed", 1)
        self.note("alone", "alone")
        self.crash("alone", "alone", 2)

    def make_queues(self) -> None:
        self.note("paused", "paused")
        self.store.set_limit("paused", 2)
        self.store.set_rate("paused", RateBound(5, 1_000))
        self.store.pause("paused", "deploy", None, "ann")
        self.store.pause("paused-for-long", None, NOW + YEARS, None)
        self.store.set_limit("bounded", 1)
        self.store.set_rate("paced", RateBound(1, HOUR))

    def make_coordination(self) -> None:
        store = self.store
        store.switch("stripe", None, True, "by hand", 1)
        policy = CircuitPolicy(failures=2, window_ms=HOUR, open_for_ms=60_000)
        assert store.tally("mail", policy, Tally(failed=2, reason="TimeoutError")).state == "open"
        assert store.tally("post", CircuitPolicy(2, HOUR, YEARS), Tally(failed=2, reason="OSError")).state == "open"
        store.tally("sms", policy, Tally(ok=3, failed=1))
        assert store.lock("ledger", "token-1", 48 * HOUR, "box:1", 0).fence is not None
        for token in ("token-2", "token-3"):
            assert store.lock("ledger", token, HOUR, f"box:{token}", 2 * HOUR).fence is None
        assert store.lock("left", "token-4", 1_000, "box:2", 0).fence is not None
        for key, ttl_ms in (("old:forever", None), ("old:long", YEARS), ("old:over", 1_000)):
            assert store.swap(key, 0, f"first of {key}", ttl_ms) is not None
        one = store.read(["old:forever"])[0]
        assert store.swap("old:forever", one.version, "second", None) is not None

    def make_running(self) -> None:
        shop = self.shop
        self.note("running", "running")
        (lease,) = self.take("running")
        self.store.report([Progress(lease.id, lease.fence, '{"done":3,"total":9,"message":"third"}')])
        self.note("running-cancel", "running")
        (lease,) = self.take("running")
        self.store.report([Progress(lease.id, lease.fence)])
        self.store.transition(Action.CANCEL, ["running-cancel"])
        self.note("held", "running")
        assert self.take("running", rooms=(Room(Slot.THREAD, 0, 1),))[0].held
        for label in ("bounded-1", "bounded-2"):
            self.note(label, "bounded")
        assert [lease.id for lease in self.take("bounded", 2)] == ["bounded-1"]
        for label in ("paced-1", "paced-2"):
            self.note(label, "paced")
        assert [lease.id for lease in self.take("paced", 2)] == ["paced-1"]
        for job, name in (
            (shop.once, "once"),
            (shop.single, "single"),
            (shop.seldom, "seldom"),
            (shop.spaced, "spaced"),
        ):
            for label in (f"{name}-runs", f"{name}-blocked"):
                job.options(id=label, queue="gates").enqueue(label, f"key-{name}")
        shop.pay.options(id="circuit-blocked", queue="gates").enqueue("circuit-blocked")
        shop.mail.options(id="probe", queue="mail").enqueue("probe")
        assert sorted(lease.id for lease in self.take("gates", 20)) == [
            "once-runs", "seldom-runs", "single-runs", "spaced-runs",
        ]  # fmt: skip
        for label in ("latest-runs", "latest-blocked"):
            shop.latest.options(id=label, queue="latest").enqueue(label, "latest")
            self.take("latest")


def aging(app: Windlass) -> None:
    """Jobs whose priority counts for a time."""
    shop = Shop(app)
    for label, priority in (("aging-high", -2), ("aging-low", 2)):
        shop.note.options(id=label, queue="aging", priority=priority).enqueue(label)


def fill(url: str) -> dict[str, Any]:
    """Make one store, and give what this version says of it."""
    clock = ManualClock(NOW)
    with Windlass(url, clock=clock, aging="60s") as app:
        aging(app)
    with Windlass(url, clock=clock) as app:
        Maker(app, clock).make()
        print([finding for finding in app.engine.doctor() if finding.level != "ok"])
        return {"now": clock.wall_ms(), **picture(app)}


def packed(path: Path, content: bytes) -> None:
    path.write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    print(path.name, path.stat().st_size)


def dump(server: RedisServer) -> bytes:
    """Every key of a server: its type and its values."""

    def text(value: bytes) -> str:
        return base64.b64encode(value).decode()

    with server.client() as client:
        keys: dict[str, Any] = {}
        for key in sorted(client.keys("*")):
            if client.pttl(key) != -1:  # a token that wakes somebody who is gone
                continue
            match kind := client.type(key).decode():
                case "hash":
                    value: Any = {text(k): text(v) for k, v in sorted(client.hgetall(key).items())}
                case "zset":
                    value = {text(k): v for k, v in client.zrange(key, 0, -1, withscores=True)}
                case "list":
                    value = [text(v) for v in client.lrange(key, 0, -1)]
                case _:
                    raise AssertionError(f"{key!r} is a {kind}")
            keys[key.decode()] = [kind, value]
    return json.dumps(keys).encode()


def main(folder: Path) -> None:
    windlass.engines.sqlite.core.boot_id = lambda: BOOT  # type: ignore[attr-defined]
    said = {}
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "old.sqlite"
        said["sqlite"] = fill(f"sqlite:///{path}")
        with closing(apsw.Connection(str(path))) as db:
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("VACUUM")
        packed(folder / "old.sqlite.xz", path.read_bytes())
    with closing(RedisServer()) as server:
        said["redis"] = fill(server.url)
        packed(folder / "old.redis.json.xz", dump(server))
    packed(folder / "old.json.xz", json.dumps(said).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
