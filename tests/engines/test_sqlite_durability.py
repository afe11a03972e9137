"""What SQLite has on disk before a call returns: counted by a file system of our own that sees each sync.

That the machine sees them too is shown by what a process asks of its kernel.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import syncs as program
from msgspec import structs
from syncs import MARKS, Syncs

from kit.waiting import PATIENCE, stretched, until
from windlass import Windlass
from windlass.core.circuit import CircuitPolicy, Tally
from windlass.core.model import Cause, NewJob, Write
from windlass.core.rows import Action, JobFilter, Recovery
from windlass.core.work import Kind, LeaseRef, Note, RateBound, Rules, Want
from windlass.engines.sqlite import SqliteEngine
from windlass.guards import agreed
from windlass.testing.conformance.harness import (
    add,
    clear,
    discard,
    edit,
    ended,
    error,
    info,
    job,
    join,
    pause,
    place,
    recover,
    redrive,
    resume,
    row_of,
    set_limit,
    set_rate,
    swap,
    take_one,
)


@pytest.fixture
def syncs() -> Iterator[Syncs]:
    made = Syncs()
    try:
        yield made
    finally:
        made.unregister()


@pytest.fixture
def engine(syncs: Syncs, tmp_path: Path) -> Iterator[SqliteEngine]:
    with closing(SqliteEngine(str(tmp_path / "jobs.db"))) as made:
        made.open()
        join(made)
        yield made


class Stage:
    """A store with a job that runs, a dead one, one that waits, a lock and a paused queue."""

    def __init__(self, engine: SqliteEngine) -> None:
        self.engine = engine
        add(engine, "dead")
        cause = Cause("ValueError", "fingerprint", "frame")
        engine.settle([ended(take_one(engine), Kind.DEAD, error=error(), cause=cause)])
        self.row = row_of(engine, "dead")
        self.death = LeaseRef("dead", self.row.fence)
        add(engine, "runs")
        self.lease = take_one(engine)
        add(engine, "waits")
        engine.hold("lock:lock", "token", 1, 60_000, "me")
        pause(engine, "held-up")

    def note(self, *, durable: bool = False) -> Note:
        return Note(self.lease.id, self.lease.fence, "step:x", "1", durable)

    def enqueue_within(self) -> None:
        with self.engine.transaction() as tx:
            self.engine.commit_within(tx, Write((job("new"),)))


Act = Callable[[SqliteEngine, Stage], object]

# What has been confirmed, and what a person has asked for, is there after a power cut.
DURABLE: dict[str, Act] = {
    "enqueue": lambda it, _: place(it, [job("new")]),
    "enqueue many": lambda it, _: place(it, [job("new"), job("newer")]),
    "enqueue within": lambda _, stage: stage.enqueue_within(),
    "settle": lambda it, stage: it.settle([ended(stage.lease)]),
    "settle and claim": lambda it, stage: it.exchange([ended(stage.lease)], Want("w1", 1)),
    "note something durable": lambda it, stage: it.note([stage.note(), stage.note(durable=True), stage.note()]),
    "depart": lambda it, _: it.depart("w1"),
    "bury": lambda it, stage: it.bury("w1", [stage.lease.fence], error("WorkerCrashed"), Rules()),
    "cancel": lambda it, _: it.transition(Action.CANCEL, ["waits"]),
    "redrive": lambda it, stage: redrive(it, [stage.death]),
    "recover": lambda it, _: recover(it, Recovery(("ValueError",), 0, 3, 10)),
    "edit": lambda it, stage: edit(it, stage.death, "[2]", (), None),
    "discard": lambda it, stage: discard(it, [stage.death]),
    "restore": lambda it, stage: it.put_dead([structs.replace(stage.row, id="other")]),
    "pause": lambda it, _: pause(it, "default", "deploy"),
    "resume": lambda it, _: resume(it, "held-up"),
    "set a limit": lambda it, _: set_limit(it, "default", 2),
    "set a rate": lambda it, _: set_rate(it, "default", RateBound(2, 1_000)),
    "clear": lambda it, _: clear(it, "default", 10),
    "control": lambda it, _: it.control("w1", "quiet"),
    "switch": lambda it, _: agreed.switch(it, "api", None, True, "by hand", 1),
    "swap": lambda it, _: swap(it, "key", 0, "1"),
}
# What a power cut may take: the job runs again, or who relied on it is gone as well.
QUICK: dict[str, Act] = {
    "enqueue a job that asks for no sync": lambda it, _: place(it, [quick("new")]),
    "claim": lambda it, _: it.claim(Want("w1", 1)),
    "claim and settle nothing": lambda it, _: it.exchange([], Want("w1", 1)),
    "extend": lambda it, _: it.extend(info("w1"), (), 30_000),
    "note": lambda it, stage: it.note([stage.note()]),
    "maintain": lambda it, _: it.maintain(Rules(), 100),
    "hold": lambda it, _: it.hold("lock:other", "token", 1, 1_000, "me"),
    "renew": lambda it, _: it.renew([("lock:lock", "token")], 1_000),
    "release": lambda it, _: it.release("lock:lock", "token"),
    "tally": lambda it, _: agreed.tally(it, "api", CircuitPolicy(5, 60_000, 1_000, 1), Tally(failed=1)),
}


def quick(job_id: str) -> NewJob:
    return structs.replace(job(job_id), durable=False)


@pytest.mark.parametrize("name", DURABLE)
def test_a_call_that_confirms_something_has_it_on_disk(engine: SqliteEngine, syncs: Syncs, name: str) -> None:
    stage = Stage(engine)
    join(engine)  # a write that needs no sync
    before = syncs.count
    DURABLE[name](engine, stage)
    assert syncs.count > before


@pytest.mark.parametrize("name", QUICK)
def test_a_call_that_a_power_cut_may_undo_waits_for_no_disk(engine: SqliteEngine, syncs: Syncs, name: str) -> None:
    stage = Stage(engine)
    before, commits = syncs.count, engine._open_writer().commits
    QUICK[name](engine, stage)
    assert engine._open_writer().commits > commits
    assert syncs.count == before


def test_each_write_of_a_connection_is_synced_as_it_asks_whatever_the_one_before_asked(
    engine: SqliteEngine, syncs: Syncs
) -> None:
    seen = []
    for number, make in enumerate([quick, job, quick, quick, job, job, quick]):
        before = syncs.count
        place(engine, [make(f"j{number}")])
        seen.append(syncs.count > before)
    assert seen == [False, True, False, False, True, True, False]


@pytest.mark.parametrize("makes", [(quick, quick, job), (job, quick, quick), (quick, job, quick)])
def test_one_durable_write_makes_all_that_share_its_commit_durable(
    engine: SqliteEngine, syncs: Syncs, makes: tuple[Callable[[str], NewJob], ...]
) -> None:
    writer = engine._open_writer()
    writers: list[threading.Thread] = []
    with writer.lock:
        for number, make in enumerate(makes):
            thread = threading.Thread(target=place, args=(engine, [make(f"j{number}")]))
            writers.append(thread)
            thread.start()
            until(lambda n=number: len(writer._waiting) == n + 1, "the write does not wait for its turn")
        commits, before = writer.commits, syncs.count
    for thread in writers:
        thread.join(stretched(PATIENCE))
    assert writer.commits == commits + 1
    assert syncs.count > before
    assert len(engine.jobs(JobFilter(), None, 10)[0]) == 3


def test_writes_that_share_a_commit_and_ask_for_no_sync_get_none(engine: SqliteEngine, syncs: Syncs) -> None:
    writer = engine._open_writer()
    with writer.lock:
        writers = [threading.Thread(target=place, args=(engine, [quick(f"j{n}")])) for n in range(3)]
        for thread in writers:
            thread.start()
        until(lambda: len(writer._waiting) == 3, "the writes do not wait for their turn")
        before = syncs.count
    for thread in writers:
        thread.join(stretched(PATIENCE))
    assert syncs.count == before


def test_one_job_that_is_to_be_durable_makes_its_batch_so(engine: SqliteEngine, syncs: Syncs) -> None:
    before = syncs.count
    place(engine, [quick("a"), quick("b"), job("c")])
    assert syncs.count > before


def test_the_setting_says_what_is_usual_and_a_job_may_ask_for_the_other(syncs: Syncs, tmp_path: Path) -> None:
    def is_synced(app: Windlass, durability: str | None) -> bool:
        app.engine.open()
        fn = app.job(name=f"job-{durability}", durability=durability)(lambda: None)  # type: ignore[call-overload]
        before = syncs.count
        fn.enqueue()
        return syncs.count > before

    with Windlass(f"sqlite:///{tmp_path}/usual.db") as app:
        assert [is_synced(app, one) for one in (None, "normal", "fsync")] == [True, False, True]
    with Windlass(f"sqlite:///{tmp_path}/normal.db", durability="normal") as app:
        assert [is_synced(app, one) for one in (None, "normal", "fsync")] == [False, False, True]


def test_a_process_asks_its_kernel_for_one_sync_for_each_call_that_needs_one(tmp_path: Path) -> None:
    command = [sys.executable, program.__file__, str(tmp_path / "jobs.db")]
    strace = shutil.which("strace")
    if strace is not None and subprocess.run([strace, "-o", os.devnull, "true"], capture_output=True).returncode == 0:
        trace = tmp_path / "trace"
        tracing = [strace, "-f", "-qq", "-e", "trace=fsync,fdatasync,write", "-o", str(trace)]
        subprocess.run([*tracing, *command], check=True, timeout=stretched(PATIENCE), stdout=subprocess.DEVNULL)
        told = trace.read_text()
    else:
        told = subprocess.run(
            [*command, "count"], check=True, timeout=stretched(PATIENCE), capture_output=True, text=True
        ).stdout
    seen: dict[str, int] = {}
    for mark, _ in re.findall(rf"\b({'|'.join(MARKS)})\b|(f(?:data)?sync)\(", told):
        if mark:
            seen[mark] = 0
            last = mark
        elif seen:
            seen[last] += 1
    assert seen.pop("closed") > 0  # the log was written back
    assert seen == {"enqueued": 1, "relaxed": 0, "claimed": 0, "settled": 1}
