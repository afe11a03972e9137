"""Jobs with ``executor="process"``: they can do what a job in a thread can, and a kill hits only the one it is for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet

from kit.waiting import PATIENCE
from windlass import State, Windlass
from windlass.core.model import Guard, GuardKind, NewJob, NewJoin, UniqueKey, Wait, Write
from windlass.core.work import Kind, Outcome, Want, WorkerInfo
from windlass.worker.attempt.deadlines import Deadlines
from windlass.worker.attempt.run import JobRun
from windlass.worker.children import Answer, ChildLine, Children, decode_to_worker
from windlass.worker.wire import Line
from windlass.worker.worker import Worker

MODULE = """
import os
from contextlib import contextmanager
from windlass import JobContext, Snooze, Windlass
from windlass.events import JobDead
from kit.waiting import until

app = Windlass({url!r}, renew="200ms", lease=5, reap="500ms", max_crashes=1)


@app.job(name="patient", executor="process")
def patient(ctx: JobContext) -> str:
    ctx.progress(1)
    until(lambda: ctx.stopping)
    return "stopped"


def answer_late(engine) -> None:
    # Commits are answered when two beats have found their jobs gone.
    begin = engine.transaction

    @contextmanager
    def transaction():
        with begin() as tx:
            yield tx
        for _ in range(2):
            seen = app.workers()[0].beat_at
            until(lambda: app.workers()[0].beat_at > seen)

    engine.transaction = transaction


def post(ctx: JobContext, late: bool) -> None:
    if late:
        answer_late(ctx._run.engine)
    with ctx.transaction() as tx:
        ctx.progress(1, 2)
        tx.result = "stored"
    until(lambda: os.path.exists("gate"))
    if not ctx._run.lost:
        open("end", "w").close()


app.job(name="posted", executor="process")(post)
app.job(name="posted_in_thread")(post)


@app.job(name="noting", executor="process")
def noting(ctx: JobContext) -> dict:
    noted = dict(ctx._run.lease.notes)
    if not noted:
        ctx._run.note("step:x", "é", durable=True)
        raise Snooze(0.01)
    return noted


@app.job(name="deadly", executor="process")
def deadly() -> None:
    os._exit(3)


leaked = []


@app.job(name="leaky", executor="process")
def leaky() -> int:
    leaked.append(b"x" * (100 * 2**20))
    return len(leaked)


@app.on(JobDead)
def report(event: JobDead) -> None:
    with open("deaths", "a") as file:
        file.write(f"{{event.name}} {{event.attempt}} {{event.reason}}\\n")
"""


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path) as made:
        (tmp_path / "fleet_jobs.py").write_text(MODULE.format(url=made.url))
        yield made


def test_a_job_in_a_process_sees_that_its_worker_stops(processes: Fleet) -> None:
    (job,) = processes.enqueue("patient", "default", 1)
    worker = processes.start()
    processes.until(lambda: (info := processes.app.get(job)) and info.progress)
    worker.send_signal(signal.SIGTERM)
    assert worker.ended() == 0
    info = processes.app.get(job)
    assert info is not None
    assert (info.state, info.result) == (State.DONE, "stopped")


@pytest.mark.parametrize("name", ["posted", "posted_in_thread"])
@pytest.mark.parametrize("late", [False, True])
def test_a_job_goes_on_after_its_transaction_has_settled_it(processes: Fleet, name: str, late: bool) -> None:
    (job,) = processes.enqueue(name, "default", 1, f"[[{str(late).lower()}], {{}}]")
    processes.start()
    processes.until(lambda: (info := processes.app.get(job)) and info.state is State.DONE)
    for _ in range(4):  # beats that say that the job is not leased any more
        (seen,) = {one.beat_at for one in processes.app.workers()}
        processes.until(lambda seen=seen: any(one.beat_at > seen for one in processes.app.workers()))
    (processes.folder / "gate").touch()
    processes.until((processes.folder / "end").exists)
    info = processes.app.get(job)
    assert info is not None
    assert info.result == "stored"


def test_what_a_job_in_a_process_notes_is_there_for_its_next_run(processes: Fleet) -> None:
    (job,) = processes.enqueue("noting", "default", 1)
    worker = processes.start()
    processes.until(lambda: (info := processes.app.get(job)) and info.state is State.DONE)
    worker.send_signal(signal.SIGTERM)
    assert worker.ended() == 0
    info = processes.app.get(job)
    assert info is not None
    assert info.result == {"step:x": "é"}


def test_a_job_that_kills_its_process_too_often_is_reported_dead(processes: Fleet) -> None:
    processes.enqueue("deadly", "default", 1)
    worker = processes.start("--burst")
    assert worker.ended() == 0
    assert (processes.folder / "deaths").read_text() == "deadly 1 poison\n"


def test_a_child_process_that_has_grown_to_max_memory_is_replaced(processes: Fleet) -> None:
    jobs = processes.enqueue("leaky", "default", 5)
    worker = processes.start("--burst", "-c", "1", "--max-memory", "200MiB")
    assert worker.ended() == 0
    results = [info.result for job in jobs if (info := processes.app.get(job))]
    assert results == [1, 2, 1, 2, 1]


class Answering:
    """Forks nothing: the other end of each socket is here, and answers when it is told that it is killed."""

    def __init__(self) -> None:
        self.ends: list[ChildLine] = []
        self.asked = threading.Event()

    def open(self) -> None:
        raise AssertionError("nobody asked for a zygote")

    def start(self) -> tuple[Line, int]:
        ours, theirs = Line.pair()
        self.ends.append(ChildLine(theirs))
        self.asked.set()
        return ours, len(self.ends)

    def kill(self, token: int) -> None:
        self.ends[token - 1].send(Answer(Outcome("a", 1, Kind.DONE), None))

    def status(self, token: int, timeout: float) -> int | None:
        return None


def test_what_follows_a_run_in_a_child_reaches_the_worker_as_it_is() -> None:
    ours, theirs = map(ChildLine, Line.pair())
    guards = (Guard(GuardKind.ONCE, "k", keep_ms=5),)
    job = NewJob("b", "ship", "q", "[]", guards=guards, unique=UniqueKey("u", "done", None, "raise"), joins=("J",))
    last = NewJob("c", "end", "q", "[]", waits=Wait("J", "end"))
    write = Write((job, last), joins=(NewJoin("J", ("a",), home="H"),), seals=("K",))
    answer = Answer(Outcome("a", 1, Kind.AWAIT, then=(write,), waits=Wait("J")), None)
    theirs.send(answer)
    assert decode_to_worker(ours.receive()) == answer
    ours.close()
    theirs.close()


def test_a_kill_that_comes_too_late_hits_no_other_job() -> None:
    with Windlass("memory://") as app:
        job = app.job(name="far", executor="process")(lambda: None)
        app.enqueue_many([job.bind(), job.bind()])
        worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)
        app.engine.extend(WorkerInfo("w", "g", "h", 1, "*", 2, "", 0), (), 60_000)
        fork, deadlines = Answering(), Deadlines()
        children = Children(fork)
        for number, lease in enumerate(app.engine.claim(Want("w", 2)).leases):
            run = JobRun(lease, worker._prepared["far"], worker._host)
            thread = threading.Thread(target=children.run, args=(run, deadlines, worker._host.stalls))
            fork.asked.clear()
            thread.start()
            assert fork.asked.wait(PATIENCE)
            assert len(fork.ends) == number + 1  # not the one that is being killed
            fork.ends[number].receive()
            children.kill(run)
            thread.join(PATIENCE)
            assert not thread.is_alive()
        deadlines.close()
        for end in fork.ends:
            end.close()
