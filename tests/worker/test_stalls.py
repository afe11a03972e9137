"""A job that makes no progress is reported with the line it hangs on, once for each stall, and may be ended for it.

The rules are shown on a clock of the test; the rest runs in a worker of this process, but for child processes.
"""

from __future__ import annotations

import asyncio
import heapq
import linecache
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from fleet import Fleet
from inside import end_of, worker_of

from kit.waiting import PATIENCE, until
from windlass import Constant, JobContext, JobHandle, JobInfo, Retry, State, Windlass, current_job, on
from windlass.cli import check
from windlass.core import caps
from windlass.core.meta import Meta, decode_meta, encode_meta
from windlass.core.notebook import Notebook
from windlass.core.stall import STALL, Stall, decode_stall, encode_stall
from windlass.errors import ConfigError, JobStalled
from windlass.events import JobStalled as Stalled
from windlass.jobs.info import JobStall
from windlass.worker.stacks import PLACES, Stack, stack_of
from windlass.worker.stalls import ANSWER, NO_ANSWER, Stalls, Watch
from windlass.worker.worker import Worker

AFTER = 0.03  # seconds: of the jobs that hang until their test lets them go


# -- the rules -----------------------------------------------------------------------------------------------


class Time:
    """A clock, and the deadlines that go by it."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.dropped: set[int] = set()
        self.count = 0

    def monotonic(self) -> float:
        return self.now

    def add(self, seconds: float, call: Callable[[], None]) -> int:
        self.count += 1
        heapq.heappush(self.heap, (self.now + seconds, self.count, call))
        return self.count

    def drop(self, number: int) -> None:
        self.dropped.add(number)

    def pass_by(self, seconds: float, *, late: float = 0.0) -> None:
        """Let time pass; ``late``: so much of it at once, in which nothing of this process runs."""
        end = self.now + seconds
        self.now += late
        while self.heap and self.heap[0][0] <= end:
            due, number, call = heapq.heappop(self.heap)
            self.now = max(self.now, due)
            if number not in self.dropped:
                call()
        self.now = max(self.now, end)


class Run:
    """A run as far as the detector knows it."""

    def __init__(self, time: Time, stall_ms: int = 10_000, on_stall: str = "alert") -> None:
        self.time = time
        self.stall_ms = stall_ms
        self.on_stall = on_stall
        self.lease = SimpleNamespace(id="a", name="job", queue="default", attempt=1)
        self.clock = SimpleNamespace(wall_ms=lambda: round(time.now * 1000))
        self.host = SimpleNamespace(note=self.note, events=SimpleNamespace(wants=lambda kind: False))
        self.lost = self.interrupted = self.timed_out = self.ended = False
        self.moved_at = 0.0
        self.stall: Stall | None = None
        self.noted: list[Stall] = []
        self.hide = str

    def note(self, run: object, key: str, value: str, *, durable: bool = False) -> None:
        assert (key, durable) == (STALL, False)  # a durable one would say that the job gets on
        stall = decode_stall(value)
        assert stall is not None
        self.noted.append(stall)

    def note_moved(self) -> None:
        self.moved_at = self.time.now

    @property
    def quiet(self) -> list[float]:
        """The seconds of the stalls that were told."""
        return [one.quiet_ms / 1000 for one in self.noted if one.moved_at is None]


HERE = Stack("here", ("there", "here"))


class Bench:
    """A detector on a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.time = Time()
        monkeypatch.setattr("windlass.worker.stalls.time", self.time)
        self.ended: list[Any] = []
        self.asked = 0
        self.stalls = Stalls(
            self.time,  # type: ignore[arg-type]
            None,  # type: ignore[arg-type]
            holds=lambda run: not run.ended,  # type: ignore[attr-defined]
            holder=lambda: None,
            end=self.ended.append,
        )

    def watch(self, run: Any, stack: Stack | None = HERE, unanswered: Stack | None = None) -> Watch:
        def ask(_: Watch) -> Stack | None:
            self.asked += 1
            return stack

        return self.stalls._begin(Watch(run, ask, lambda _: unanswered))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_a_job_that_progresses_is_never_reported(bench: Bench) -> None:
    run = Run(bench.time)
    bench.watch(run)
    for _ in range(100):
        bench.time.pass_by(9.9)
        run.note_moved()
    assert (run.noted, bench.asked) == ([], 0)
    assert bench.time.count < 900  # looks, not one for each note


def test_a_stall_is_told_once_and_again_when_the_job_has_moved_and_stalled_anew(bench: Bench) -> None:
    run = Run(bench.time)
    bench.watch(run)
    bench.time.pass_by(100)
    assert run.quiet == [10]
    run.note_moved()
    moved_at = bench.time.now
    bench.time.pass_by(100)
    assert run.quiet == [10, 10]
    first, moved, _ = run.noted
    assert moved == msgspec.structs.replace(first, moved_at=round(moved_at * 1000))
    assert bench.ended == []


@pytest.mark.parametrize("gone", ["ended", "lost", "interrupted", "timed_out"])
def test_a_run_that_is_not_on_any_more_is_not_reported(bench: Bench, gone: str) -> None:
    run = Run(bench.time)
    bench.watch(run)
    setattr(run, gone, True)
    bench.time.pass_by(100)
    assert (run.noted, bench.time.heap) == ([], [])


def test_a_run_that_has_ended_is_kept_by_nothing(bench: Bench) -> None:
    run = Run(bench.time)
    watch = bench.watch(run)
    bench.time.pass_by(25)
    bench.stalls.drop(watch)
    assert {number for _, number, _ in bench.time.heap} <= bench.time.dropped


@pytest.mark.parametrize("still", [8, 9.3, 9.8, 60])
def test_the_time_in_which_a_process_stands_still_does_not_count(bench: Bench, still: float) -> None:
    run = Run(bench.time)
    bench.watch(run)
    bench.time.pass_by(0.5)
    bench.time.pass_by(still, late=still)
    bench.time.pass_by(8)
    assert run.noted == []
    bench.time.pass_by(2)
    assert run.quiet == [pytest.approx(10)]


def test_a_process_that_is_late_again_and_again_still_finds_a_stall(bench: Bench) -> None:
    run = Run(bench.time)
    bench.watch(run)
    for _ in range(20):
        bench.time.pass_by(1.5, late=1)
    assert run.quiet == [pytest.approx(10)]


def test_a_process_that_stands_still_in_a_stall_tells_it_no_second_time(bench: Bench) -> None:
    run = Run(bench.time)
    bench.watch(run)
    bench.time.pass_by(15)
    bench.time.pass_by(60, late=60)
    bench.time.pass_by(60)
    assert run.quiet == [10]


def test_a_run_that_is_kept_from_running_is_not_blamed(bench: Bench) -> None:
    run = Run(bench.time)
    bench.watch(run, None)
    bench.time.pass_by(100)
    assert run.noted == []
    assert bench.asked > 5


def test_a_run_that_could_only_answer_late_is_not_blamed(bench: Bench) -> None:
    run = Run(bench.time)
    watch = bench.watch(run, None)
    bench.time.pass_by(11)
    bench.stalls.answered(watch, HERE, 0.0)
    bench.time.pass_by(9)
    assert run.noted == []


def test_the_time_in_which_another_coroutine_holds_the_loop_does_not_count(bench: Bench) -> None:
    runs = [Run(bench.time), Run(bench.time)]
    for run in runs:
        bench.stalls._on_loop.add(bench.watch(run))
    bench.time.pass_by(1)
    bench.stalls.lagged(runs[1], 5.0)  # type: ignore[arg-type]
    bench.time.pass_by(10)
    assert [run.quiet for run in runs] == [[], [10]]
    bench.time.pass_by(5)
    assert [run.quiet for run in runs] == [[10], [10]]


def test_a_child_process_that_does_not_answer_is_reported(bench: Bench) -> None:
    run = Run(bench.time)
    bench.watch(run, None, NO_ANSWER)
    bench.time.pass_by(10 + ANSWER)
    assert run.quiet == [10 + ANSWER]
    assert "does not answer" in run.noted[0].line


def test_a_child_process_knows_of_progress_that_was_not_noted(bench: Bench) -> None:
    run = Run(bench.time)
    watch = bench.watch(run, None, NO_ANSWER)
    bench.time.pass_by(10)
    bench.stalls.answered(watch, HERE, 4.0)
    bench.time.pass_by(5.5)
    assert (run.noted, bench.asked) == ([], 1)
    bench.time.pass_by(1)
    bench.stalls.answered(watch, HERE, 10.5)
    bench.time.pass_by(0)
    assert run.quiet == [10.5]
    bench.stalls.answered(watch, HERE, 11.0)  # nobody has asked
    bench.time.pass_by(0)
    assert len(run.noted) == 1


@pytest.mark.parametrize("on_stall", ["retry", "cancel"])
def test_a_run_that_is_to_end_is_ended_once(bench: Bench, on_stall: str) -> None:
    run = Run(bench.time, on_stall=on_stall)
    bench.watch(run)
    bench.time.pass_by(100)
    assert (run.quiet, bench.ended, run.stall) == ([10], [run], run.noted[0])


def test_a_run_is_ended_although_its_stall_cannot_be_noted(bench: Bench) -> None:
    run = Run(bench.time, on_stall="retry")
    run.host.note = None
    bench.watch(run)
    with pytest.raises(TypeError):
        bench.time.pass_by(10)
    assert bench.ended == [run]


@pytest.mark.parametrize("stall_ms", [-(2**63), -5, 0])
def test_a_stored_limit_that_makes_no_sense_keeps_nothing_busy(bench: Bench, stall_ms: int) -> None:
    run = Run(bench.time, stall_ms)
    bench.watch(run)
    bench.time.pass_by(1)
    assert len(run.noted) == 1
    assert bench.time.count < 1_100


# -- where it hangs ------------------------------------------------------------------------------------------


class Line:
    """A connection over which nothing comes until the test says so."""

    def __init__(self) -> None:
        self.end, self.far = socket.socketpair()

    def let_go(self) -> None:
        self.far.sendall(b"x")

    def close(self) -> None:
        self.end.close()
        self.far.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


@pytest.fixture
def app() -> Iterator[Windlass]:
    with Windlass("memory://", threads=2) as made:
        yield made


def bodies(line: Line) -> dict[str, Callable[..., Any]]:
    """Jobs that wait for a socket, each in a function below its body."""

    def in_thread() -> bytes:
        return receive()

    def receive() -> bytes:
        return line.end.recv(1)  # hangs

    async def awaits() -> bytes:
        return await areceive()

    async def areceive() -> bytes:
        line.end.setblocking(False)
        return await asyncio.get_running_loop().sock_recv(line.end, 1)  # hangs

    async def awaits_task() -> bytes:
        return await asyncio.create_task(areceive())

    async def blocks() -> bytes:
        return receive()

    return {"thread": in_thread, "awaits": awaits, "awaits_task": awaits_task, "blocks": blocks}


def code_at(place: str) -> str:
    """The line of code that a place names."""
    file, _, rest = place.rpartition(":")
    return linecache.getline(file, int(rest.partition(" in ")[0])).strip()


@pytest.mark.parametrize("kind", ["thread", "awaits", "awaits_task", "blocks"])
def test_a_job_blocked_on_a_socket_is_reported_with_the_line_it_hangs_on(
    app: Windlass, line: Line, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Stalled] = []
    app.on(Stalled)(told.append)
    job = app.job(name=kind, stall_after=AFTER)(bodies(line)[kind])
    with worker_of(app):
        handle = job.enqueue()
        until(lambda: handle.info().stall, f"the stall of {handle.info()}")
        info = handle.info()
        line.let_go()
        end = end_of(handle)
    stall = info.stall
    assert isinstance(stall, JobStall)
    assert code_at(stall.line).endswith("# hangs")
    assert f" in bodies.<locals>.{'receive' if kind in ('thread', 'blocks') else 'areceive'}" in stall.line
    assert stall.line in stall.stack
    assert not any("windlass/worker" in place for place in stall.stack[:1])
    assert stall.duration >= AFTER
    assert info.stalled
    assert (end.state, end.stall, end.stalled) == (State.DONE, stall, False)
    (event,) = told
    assert (event.id, event.name, event.attempt, event.line, event.stack) == (
        handle.id, kind, 1, stall.line, stall.stack,
    )  # fmt: skip
    assert caplog.text.count(f"job {kind} {handle.id} has made no progress for") == 1
    assert stall.line in caplog.text


def test_what_a_note_says_goes_when_the_job_moves(app: Windlass, line: Line) -> None:
    moves = threading.Event()

    @app.job(name="moves", stall_after=AFTER)
    def moves_once(ctx: JobContext) -> None:
        assert moves.wait(PATIENCE)
        ctx.progress(1)
        line.end.recv(1)

    with worker_of(app):
        handle = moves_once.enqueue()
        until(lambda: handle.info().stalled, "the first stall")
        moves.set()
        until(lambda: "recv" in code_at(stall_of(handle).line), "the second stall")
        line.let_go()
        end_of(handle)


def stall_of(handle: JobHandle[Any]) -> JobStall:
    stall = handle.info().stall
    assert stall is not None
    return stall


def test_progress_that_is_not_written_is_progress_too(app: Windlass) -> None:
    @app.job(name="brisk", stall_after=60)
    def brisk(ctx: JobContext) -> None:
        for done in range(3):  # the first is written
            before = ctx._run.moved_at  # type: ignore[attr-defined]
            ctx.progress(done)
            assert ctx._run.moved_at > before  # type: ignore[attr-defined]

    with worker_of(app):
        assert end_of(brisk.enqueue()).state is State.DONE


def test_a_job_without_stall_after_is_not_watched(app: Windlass, line: Line) -> None:
    handle = app.job(name="plain")(bodies(line)["thread"]).enqueue()
    with worker_of(app) as worker:
        until(lambda: handle.state is State.RUNNING)
        until(lambda: any(run.context is not None for run in worker._held.runs()))
        assert len(worker._host.deadlines) == 0
        line.let_go()
        end_of(handle)


def test_a_coroutine_that_another_one_blocks_is_not_blamed(app: Windlass, line: Line) -> None:
    told: list[str] = []
    app.on(Stalled)(lambda event: told.append(event.name))
    go_on = threading.Event()

    @app.job(name="waits", stall_after=1)
    async def waits() -> None:
        while not go_on.is_set():
            await asyncio.sleep(0.001)
            current_job().progress(1)

    @app.job(name="blocks", stall_after=1.5)
    async def blocks() -> None:
        line.end.recv(1)

    with worker_of(app):
        first = waits.enqueue()
        until(lambda: first.progress())
        second = blocks.enqueue()
        until(lambda: second.info().stall)
        line.let_go()
        end_of(second)
        go_on.set()
        end_of(first)
    assert told == ["blocks"]


MODULE = """
import asyncio, ctypes, socket
from windlass import Constant, JobContext, Retry, Windlass, on
from windlass.errors import JobStalled

app = Windlass({url!r}, renew="200ms", reap="500ms")


def receive() -> bytes:
    ours, _theirs = socket.socketpair()
    return ours.recv(1)  # hangs


@app.job(name="sync", executor="process", stall_after="100ms")
def sync() -> None:
    receive()


@app.job(name="awaits", executor="process", stall_after="100ms")
async def awaits() -> None:
    ours, _theirs = socket.socketpair()
    ours.setblocking(False)
    await asyncio.get_running_loop().sock_recv(ours, 1)  # hangs


@app.job(name="blocks", executor="process", stall_after="100ms")
async def blocks() -> None:
    await asyncio.create_task(part())


async def part() -> None:
    receive()


@app.job(name="retried", executor="process", stall_after="100ms", on_stall="retry",
         retry=Retry(rules=[on(JobStalled).retry(attempts=2, backoff=Constant("1ms"))]))
def retried() -> None:
    receive()


@app.job(name="c_call", executor="process", stall_after="100ms", on_stall="cancel")
def c_call() -> None:
    ctypes.PyDLL(None).sleep(600)  # and keeps the interpreter lock


@app.job(name="lively", executor="process", stall_after="400ms")
def lively(ctx: JobContext) -> None:
    import time
    for n in range(20):
        time.sleep(0.04)
        ctx.progress(n)
"""


def test_jobs_in_child_processes_are_reported_where_they_hang_and_ended_where_that_is_asked_for(tmp_path: Path) -> None:
    with Fleet(tmp_path) as processes:
        (tmp_path / "fleet_jobs.py").write_text(MODULE.format(url=processes.url))
        names = ("sync", "awaits", "blocks", "retried", "c_call", "lively")
        ids = {name: processes.enqueue(name, "default", 1)[0] for name in names}

        def info(name: str) -> JobInfo:
            found = processes.app.get(ids[name])
            assert found is not None
            return found

        processes.start()
        processes.until(lambda: all(info(name).stall for name in ("sync", "awaits", "blocks")))
        processes.until(lambda: info("retried").state is State.DEAD and info("c_call").state is State.CANCELLED)
        processes.until(lambda: info("lively").state is State.DONE)
        for name in ("sync", "awaits", "blocks", "retried"):
            stall = info(name).stall
            assert stall is not None
            assert code_at(stall.line).endswith("# hangs"), stall
            assert "fleet_jobs.py" in stall.stack[0], stall
        assert [one.type for one in info("retried").errors] == ["windlass.errors.JobStalled"] * 2
        assert "does not answer" in str(info("c_call").stall)
        assert "made no progress" in str(info("c_call").reason)
        assert info("lively").stall is None


# -- what follows --------------------------------------------------------------------------------------------


def listening(app: Windlass, kind: str, **options: Any) -> Callable[[], JobHandle[None]]:
    """A job that hangs, and hears when it is told to end."""
    if kind == "thread":

        @app.job(name="hangs", stall_after=AFTER, **options)
        def hangs(ctx: JobContext) -> None:
            until(lambda: ctx.cancelled)
            ctx.progress(1)

        return hangs.enqueue

    @app.job(name="hangs", stall_after=AFTER, **options)
    async def ahangs() -> None:
        await asyncio.sleep(PATIENCE)

    return ahangs.enqueue


@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_a_stalled_job_is_retried_as_often_as_its_policy_says(app: Windlass, kind: str) -> None:
    enqueue = listening(app, kind, on_stall="retry", retry=Retry(attempts=3, backoff=Constant("1ms")))
    with worker_of(app):
        end = end_of(enqueue())
    assert (end.state, end.attempt) == (State.DEAD, 3)
    assert [one.type for one in end.errors] == ["windlass.errors.JobStalled"] * 3
    assert "made no progress for" in end.errors[0].message
    assert end.stall is not None
    assert end.stall.line in end.errors[-1].message


@pytest.mark.parametrize("error", [JobStalled, TimeoutError, "windlass.errors.JobStalled"])
def test_rules_decide_about_a_stall_as_about_any_error(app: Windlass, error: Any) -> None:
    enqueue = listening(app, "loop", on_stall="retry", retry=Retry(rules=[on(error).dead("it hangs")]))
    with worker_of(app):
        end = end_of(enqueue())
    assert (end.state, end.reason, end.attempt) == (State.DEAD, "it hangs", 1)


@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_a_stalled_job_is_cancelled(app: Windlass, kind: str) -> None:
    enqueue = listening(app, kind, on_stall="cancel")
    with worker_of(app):
        end = end_of(enqueue())
    assert (end.state, end.errors, end.attempt) == (State.CANCELLED, (), 1)
    assert end.stall is not None
    assert end.reason is not None
    assert end.stall.line in end.reason


@pytest.mark.parametrize(("on_stall", "state"), [("retry", State.SCHEDULED), ("cancel", State.CANCELLED)])
@pytest.mark.parametrize("kind", ["thread", "loop"])
def test_a_stalled_job_that_does_not_listen_ends_with_its_process(
    app: Windlass, line: Line, monkeypatch: pytest.MonkeyPatch, kind: str, on_stall: Any, state: State
) -> None:
    monkeypatch.setattr("windlass.worker.timeouts.GRACE", 0.05)
    body = bodies(line)["thread" if kind == "thread" else "blocks"]
    job = app.job(name="deaf", stall_after=AFTER, on_stall=on_stall, retry=Retry(attempts=3, backoff=Constant("1h")))(
        body
    )
    handle = job.enqueue()
    worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)
    worker.start()
    until(lambda: worker.stopping, "the job does not outlive its stall")
    (overdue,) = worker.overdue()
    assert "made no progress" in f"{overdue.error} {overdue.reason}"
    line.let_go()
    until(lambda: not worker.held, "the job does not end")
    assert worker.shut_down()
    info = handle.info()
    assert info.state is state
    assert info.stall is not None


def test_a_job_that_stalls_while_its_worker_stops_is_reported(app: Windlass, line: Line) -> None:
    handle = app.job(name="late", stall_after=20 * AFTER)(bodies(line)["thread"]).enqueue()
    with worker_of(app) as worker:
        until(lambda: any(run.context is not None for run in worker._held.runs()))
        worker.stop()
        until(lambda: handle.info().stall)
        line.let_go()
        end_of(handle)


def test_a_call_says_its_own_limit_and_what_follows(app: Windlass) -> None:
    @app.job(name="free", retry=0)
    async def free() -> None:
        await asyncio.sleep(PATIENCE)

    with worker_of(app):
        end = end_of(free.options(stall_after=AFTER, on_stall="cancel").enqueue())
    assert end.state is State.CANCELLED


def test_what_only_a_newer_version_knows_is_an_alert(app: Windlass, line: Line) -> None:
    job = app.job(name="newer", stall_after=AFTER)(bodies(line)["thread"])
    call = job.bind()
    call = msgspec.structs.replace(
        call, new=msgspec.structs.replace(call.new, meta=encode_meta(Meta(stall_ms=40, on_stall="page somebody")))
    )
    with worker_of(app):
        handle = app.enqueue_many([call])[0]
        until(lambda: handle.info().stall)
        line.let_go()
        assert end_of(handle).state is State.DONE


def test_a_worker_of_the_version_before_reads_what_a_call_says() -> None:
    class Before(msgspec.Struct, omit_defaults=True):
        timeout_ms: int | None = None

    text = encode_meta(Meta(timeout_ms=5, stall_ms=7, on_stall="retry"))
    assert text is not None
    assert msgspec.json.decode(text, type=Before).timeout_ms == 5
    assert decode_meta(text.encode()).stall_ms == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stall_after": 0}, "stall_after is 0"),
        ({"stall_after": "soon"}, "stall_after"),
        ({"stall_after": 1, "on_stall": "retyr"}, "did you mean 'retry'"),
        ({"stall_after": 1, "on_stall": None}, "on_stall is None"),
        ({"on_stall": "retry"}, "without a stall_after"),
    ],
)
def test_wrong_options_are_refused_where_they_are_written(app: Windlass, options: dict[str, Any], message: str) -> None:
    job = app.job(name="right")(lambda: None)
    with pytest.raises(ConfigError, match=message):
        job.options(**options)
    with pytest.raises(ConfigError, match=message):
        app.job(name="wrong", **options)(lambda: None)


def test_a_call_cannot_lift_the_limit_of_the_definition(app: Windlass) -> None:
    job = app.job(name="limited", stall_after=1)(lambda: None)
    with pytest.raises(ConfigError, match="cannot remove the stall_after"):
        job.options(stall_after=None)
    assert job.options(on_stall="retry").bind().new.meta == '{"on_stall":"retry"}'


@pytest.mark.parametrize(("on_stall", "advised"), [("alert", False), ("retry", True), ("cancel", True)])
def test_check_advises_a_process_for_a_thread_that_is_to_be_ended(app: Windlass, on_stall: Any, advised: bool) -> None:
    job = app.job(name="in_thread", stall_after=1, on_stall=on_stall)(lambda: None)
    findings = [finding.message for finding in check._job(job.spec)]
    assert any("runs on a thread" in text for text in findings) is advised


# -- what is stored ------------------------------------------------------------------------------------------


def test_code_may_be_called_anything(app: Windlass) -> None:
    go_on = threading.Event()
    name = "\udcff\n\x1b" + "x" * 10**6 + "\u202e.py"
    scope: dict[str, Any] = {"wait": lambda: go_on.wait(PATIENCE)}
    exec(compile("def sink(n):\n sink(n - 1) if n else wait()", name, "exec"), scope)  # noqa: S102

    @app.job(name="hostile", stall_after=AFTER)
    def hostile() -> None:
        scope["sink"](sys.getrecursionlimit() // 2)

    with worker_of(app):
        handle = hostile.enqueue()
        until(lambda: handle.info().stall)
        stall = stall_of(handle)
        go_on.set()
        end_of(handle)
    assert len(stall.stack) <= PLACES
    assert "".join(stall.stack).isprintable()
    row = app.engine.job(handle.id)
    assert row is not None
    assert len(dict(row.notes)[STALL].encode()) <= caps.STALL_SIZE


def test_arguments_are_not_in_it(app: Windlass) -> None:
    go_on = threading.Event()

    @app.job(name="secretive", stall_after=AFTER, redact=["card"])
    def secretive(card: str) -> None:
        scope: dict[str, Any] = {"wait": lambda: go_on.wait(PATIENCE)}
        exec(compile("def run():\n wait()", f"{card}.py", "exec"), scope)  # noqa: S102
        scope["run"]()

    told: list[Stalled] = []
    app.on(Stalled)(told.append)
    with worker_of(app):
        handle = secretive.enqueue("4111-1111")
        until(lambda: handle.info().stall)
        row = app.engine.job(handle.id)
        go_on.set()
        end_of(handle)
    assert row is not None
    assert "4111" not in f"{row.notes} {told}"
    assert "•••.py:2 in run" in stall_of(handle).stack


def test_a_stack_of_nothing_but_the_library_is_shown_as_it_is() -> None:
    inner, outer = (os.__file__, 1, "f"), (asyncio.__file__, 2, "g")
    places = (f"{asyncio.__file__}:2 in g", f"{os.__file__}:1 in f")
    assert stack_of([inner, outer]) == Stack(places[1], places)
    assert stack_of([]) == Stack("an unknown place", ())


def test_a_note_of_a_stall_has_a_bound_and_comes_back() -> None:
    stall = Stall(5, 6, "x:1 in y", tuple(f"{n}" * 1_000 for n in range(100)), 7)
    text = encode_stall(stall)
    assert len(text.encode()) <= caps.STALL_SIZE
    again = decode_stall(text)
    assert again is not None
    assert (again.at, again.quiet_ms, again.line, again.moved_at) == (5, 6, "x:1 in y", 7)
    assert again.stack == stall.stack[-len(again.stack) :] != ()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"at":"x"}', "[" * 100_000, '{"at":1,"quiet_ms":2,"line":3}'])
def test_a_spoiled_note_is_no_stall(text: str) -> None:
    assert decode_stall(text) is None


def test_a_stall_that_was_stored_at_no_instant_is_shown(app: Windlass) -> None:
    row = app.engine.job(app.job(name="spoiled")(lambda: None).enqueue().id)
    assert row is not None
    text = encode_stall(Stall(2**62, -(2**62), "x", (), -(2**62)))
    stall = app.client.reader.describe(msgspec.structs.replace(row, notes=((STALL, text),))).stall
    assert stall is not None
    assert stall.line == "x"


def test_what_the_worker_notes_takes_nothing_from_what_the_job_may() -> None:
    notes = [(f"step:{n}", "1") for n in range(caps.NOTES)]
    notebook = Notebook("a", [*notes, (STALL, "x" * 1_000)])
    notebook.put("step:0", "2")
    assert notebook.get(STALL) is None
