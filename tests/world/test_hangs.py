"""A worker that is alive and does nothing: blocked loops, held interpreter locks, hung pumps."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.fleet import alive
from windlass import State
from world import World

JOBS = """
@app.job(name="blocks", timeout=1, retry=0)
async def blocks(seconds: float) -> str:
    note("blocks")
    time.sleep(seconds)
    return "as if nothing had been"


@app.job(name="blocks_below", timeout=1, retry=0)
async def blocks_below(seconds: float) -> None:
    async def part() -> None:
        time.sleep(seconds)
    note("blocks")
    await asyncio.create_task(part())


@app.job(name="deaf", timeout=1, retry=0)
async def deaf() -> None:
    note("deaf")
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass


@app.job(name="blocks_untimed", retry=0)
async def blocks_untimed() -> None:
    note("blocks")
    hold("gate")


@app.job(name="waits", timeout="1500ms", retry=0)
async def waits(seconds: float) -> str:
    note("waits")
    await asyncio.sleep(seconds)
    return "done"


@app.job(name="sleeper", retry=0)
async def sleeper() -> int:
    note("sleeper")
    while not os.path.exists("gate"):
        await asyncio.sleep(0.05)
    return os.getpid()


@app.job(name="backtrack", timeout=1, retry=0)
def backtrack() -> None:
    note("backtrack")
    re.match(r"(a+)+$", "a" * 40 + "b")


@app.job(name="c_call", timeout=1, retry=Retry(attempts=2, backoff=Constant("100ms")))
def c_call() -> None:
    note("c_call")
    ctypes.PyDLL(None).sleep(600)


@app.job(name="c_call_below", timeout=1, retry=0)
async def c_call_below() -> None:
    note("c_call")
    ctypes.PyDLL(None).sleep(600)


@app.job(name="c_call_untimed", retry=0)
def c_call_untimed() -> None:
    note("c_call")
    ctypes.PyDLL(None).sleep(8)


@app.job(name="keeps_out", retry=0)
def keeps_out(how: str) -> None:
    note(how)
    if open("ledger").read().count(how) == 1:
        with app.transaction():
            if how == "c_call":
                ctypes.PyDLL(None).sleep(600)
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(600)  # the other threads stop a moment later


@app.job(name="holds", timeout=2, retry=0)
async def holds() -> None:
    note("holds")
    while open("ledger").read().count("waits") < 1:
        await asyncio.sleep(0.01)
    ctypes.PyDLL(None).sleep(600)


@app.job(name="keeps_out_late", timeout=1, retry=0)
def keeps_out_late() -> None:
    note("late")
    with app.transaction():
        ctypes.PyDLL(None).sleep(600)


@app.job(name="innocent", retry=0)
def innocent() -> int:
    note("innocent")
    hold("gate")
    return os.getpid()


@app.job(name="closes", retry=0)
def closes(how) -> None:
    note("closes")
    os.closerange(3, 4096)
    if how == "stands still":
        os.kill(os.getpid(), signal.SIGSTOP)
    hold("gate")
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        made.write(JOBS)
        yield made


@pytest.mark.parametrize("name", ["blocks", "blocks_below", "deaf"])
def test_a_coroutine_that_outlives_its_timeout_takes_its_process_along_and_nobody_else(world: World, name: str) -> None:
    world.start("-t", "1")
    first = world.value(world.enqueue("aquick"))
    sleeper = world.enqueue("sleeper")
    world.until(lambda: "sleeper" in world.ledger())
    bad = world.enqueue(name, *(() if name == "deaf" else (600.0,)))
    world.until(lambda: len(world.ledger()) == 2)
    beside = world.enqueue("aquick")
    info = world.ended(bad)
    assert info.state is State.DEAD
    assert info.errors[-1].type.endswith("JobTimeout")
    assert world.value(beside) != first or name == "deaf"
    world.open_gate()
    assert world.value(sleeper) != first
    assert world.info(sleeper).attempt == 1
    assert f"job {name} {bad} still runs" in world.said()


def test_neighbours_of_a_coroutine_that_blocks_for_a_while_get_their_time_again(world: World) -> None:
    """Their timeout is over when the loop turns again, and none of it was theirs."""
    world.start()
    world.value(world.enqueue("aquick"))
    quick = [world.enqueue("waits", 0.3) for _ in range(5)]
    world.until(lambda: world.ledger().count("waits") == 5)
    more = [world.enqueue("blocks", 2.5), *(world.enqueue("waits", 0.3) for _ in range(5))]
    quick += more[1:]
    assert [world.value(job) for job in quick] == ["done"] * 10


def test_a_coroutine_that_is_over_its_time_is_cancelled_though_others_block(world: World) -> None:
    world.start()
    slow = world.enqueue("waits", 600.0)
    world.until(lambda: "waits" in world.ledger())
    for _ in range(3):
        world.enqueue("blocks", 0.4)
    info = world.ended(slow)
    assert info.state is State.DEAD
    assert info.errors[-1].type.endswith("JobTimeout")


def test_a_loop_blocked_by_a_job_without_a_timeout_is_told_with_the_job_and_the_line(world: World) -> None:
    world.start("--http-port", "0")
    job = world.enqueue("blocks_untimed")
    world.heard(f"job blocks_untimed {job} has blocked the event loop")
    assert "world_jobs.py:" in world.said()
    assert "in hold" in world.said()
    assert world.value(world.enqueue("quick"))  # threads go on
    trouble = world.until(lambda: world.app.workers()[0].trouble)
    assert trouble == f"job blocks_untimed {job} blocks the event loop"
    assert trouble in world.command("workers", "ls")
    assert trouble in world.command("doctor", code=1)
    status, text = world.get("/readyz")
    assert (status, "event loop" in text) == (503, True)
    world.open_gate()
    world.heard("the event loop turns again")
    assert world.value(world.enqueue("aquick"))
    world.until(lambda: not world.app.workers()[0].trouble)
    assert world.get("/readyz")[0] == 200


def test_a_process_that_cannot_start_children_says_so_where_people_look(world: World) -> None:
    (world.folder / "limit_processes.py").write_text(
        "import os\nfork = os.fork\n"
        "def limited():\n    if os.path.exists('limit'): raise BlockingIOError(11, 'no processes')\n    return fork()\n"
        "os.fork = limited\n"
    )
    world.write("import limit_processes")
    world.start()
    world.value(world.enqueue("quick"))
    (world.folder / "limit").touch()
    job = world.enqueue("inchild")
    trouble = world.until(lambda: world.app.workers()[0].trouble)
    assert "no child process can be started" in trouble
    (world.folder / "limit").unlink()
    world.value(job)
    world.until(lambda: not world.app.workers()[0].trouble)


def test_a_process_whose_threads_are_starved_says_so_where_people_look(world: World) -> None:
    world.start()
    world.value(world.enqueue("quick"))
    world.enqueue("c_call_untimed")
    trouble = world.until(lambda: world.app.workers()[0].trouble)
    assert "hold the interpreter lock" in trouble
    world.until(lambda: not world.app.workers()[0].trouble)


@pytest.mark.parametrize("name", ["backtrack", "c_call_below"])
def test_a_job_that_holds_the_interpreter_lock_past_its_timeout_is_ended_with_its_process(
    world: World, name: str
) -> None:
    world.start("-t", "1")
    first = world.value(world.enqueue("quick"))
    innocent = world.enqueue("innocent")
    world.until(lambda: "innocent" in world.ledger())
    bad = world.enqueue(name)
    info = world.ended(bad)
    assert info.state is State.DEAD
    assert info.errors[-1].type.endswith("JobTimeout"), info.errors
    assert f"job {name} {bad} is " in world.said()
    assert "most recent call first" in world.said()  # its stack
    world.open_gate()
    assert world.value(innocent) != first
    assert (world.info(innocent).attempt, world.info(innocent).errors) == (1, ())
    assert not alive(int(str(first)))


def test_a_coroutine_beside_one_that_holds_the_interpreter_lock_does_not_fail(world: World) -> None:
    world.start("-p", "1")
    waits, holds = world.enqueue("waits", 0.5), world.enqueue("holds")
    assert world.value(waits) == "done"
    info = world.ended(holds)
    assert (info.state, info.errors[-1].type) == (State.DEAD, "windlass.errors.JobTimeout")


def test_the_job_of_a_process_that_somebody_stopped_does_not_fail(world: World) -> None:
    world.write(JOBS, lease="60s", renew="20s")  # it is not taken over meanwhile
    world.start("-p", "1")
    job = world.enqueue("waits", 1.0)
    world.until(lambda: "waits" in world.ledger())
    os.kill(world.app.workers()[0].pid, signal.SIGSTOP)
    assert world.value(job) == "done"
    assert world.info(job).attempt == 1


def test_it_is_retried_by_its_own_policy(world: World) -> None:
    world.start()
    bad = world.enqueue("c_call", max_attempts=2)
    info = world.ended(bad)
    assert [error.type.rpartition(".")[2] for error in info.errors] == ["JobTimeout", "JobTimeout"]
    assert world.ledger() == ["c_call", "c_call"]


def test_a_long_job_without_a_timeout_may_hold_the_interpreter_lock(world: World) -> None:
    world.start()
    job = world.enqueue("c_call_untimed")
    info = world.ended(job)
    assert info.state is State.DONE
    assert world.ledger() == ["c_call"]


@pytest.mark.parametrize("how", ["c_call", "is stopped"])
def test_a_process_that_stands_still_in_a_write_is_ended_and_keeps_nobody_out(world: World, how: str) -> None:
    world.start("-t", "2", "-p", "2")
    world.value(world.enqueue("quick"))
    job = world.enqueue("keeps_out", how)
    world.until(lambda: how in world.ledger())
    assert world.value(world.enqueue("quick"))
    info = world.ended(job)
    assert (info.state, info.attempt, info.errors) == (State.DONE, 1, ())
    assert world.ledger() == [how, how]
    assert "stands still in the middle of a write" in world.said()


def test_a_job_past_its_timeout_that_stands_still_in_a_write_has_failed(world: World) -> None:
    world.start("-t", "2", "-p", "2")
    job = world.enqueue("keeps_out_late")
    world.until(lambda: "late" in world.ledger())
    info = world.ended(job)
    assert info.state is State.DEAD
    assert [error.type for error in info.errors] == ["windlass.errors.JobTimeout"]
    assert world.ledger() == ["late"]


@pytest.mark.parametrize("how", ["goes on", "stands still"])
def test_a_job_that_closes_the_descriptors_of_its_process_is_charged_with_its_end(world: World, how: str) -> None:
    # It is killed 2 s after its grace. If it stands still, its lease is over by then but for the supervisor.
    world.write(JOBS, max_crashes=1)
    world.start("-t", "4", "-p", "2")
    job = world.enqueue("closes", how)
    world.until(lambda: "closes" in world.ledger())
    later = [world.enqueue("quick") for _ in range(20)]
    for one in later:
        world.value(one)
    info = world.ended(job)
    assert (info.state, info.reason) == (State.DEAD, "poison")
    assert "closed the descriptors" in info.errors[-1].message
    assert world.ledger() == ["closes"]


def test_stacks_show_where_coroutines_and_children_are(world: World) -> None:
    world.write(
        JOBS
        + """
@app.job(name="deep")
async def deep() -> None:
    async def innermost() -> None:
        note("deep")
        while not os.path.exists("gate"):
            await asyncio.sleep(0.05)
    await asyncio.create_task(innermost())


@app.job(name="child_deep", executor="process")
def child_deep() -> None:
    note("child")
    hold("gate")
"""
    )
    worker = world.start()
    deep, child = world.enqueue("deep"), world.enqueue("child_deep")
    world.until(lambda: sorted(world.ledger()) == ["child", "deep"])
    worker.send_signal(signal.SIGUSR1)
    world.heard("in deep.<locals>.innermost")
    world.heard(f"runs: child_deep {child}")
    world.until(lambda: world.said().count("in hold") >= 1)
    world.open_gate()
    world.value(deep)
    world.value(child)


@pytest.mark.parametrize("how", ["TSTP to the worker", "TSTP to its processes", "through the store"])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_quiet_worker_stays_quiet_when_one_of_its_processes_is_replaced(
    world: World, processes: int, how: str
) -> None:
    worker = world.start("-p", str(processes))
    pid = world.value(world.enqueue("quick"))
    assert isinstance(pid, int)
    world.until(lambda: sum(one.alive for one in world.app.workers()) == processes)
    if how == "TSTP to the worker":
        worker.send_signal(signal.SIGTSTP)
    elif how == "TSTP to its processes":
        for one in world.app.workers():
            os.kill(one.pid, signal.SIGTSTP)
    else:
        world.app.control(world.app.workers()[0].group, "quiet")
    world.heard("no new jobs are claimed")
    os.kill(pid, signal.SIGKILL)
    world.until(lambda: world.said().count(" serves ") == processes + 1)
    job = world.enqueue("quick")
    fresh = {one.id for one in world.app.workers() if one.alive}
    beats = {one.id: one.beat_at for one in world.app.workers()}
    world.until(
        lambda: all(one.beat_at > beats.get(one.id, one.beat_at) for one in world.app.workers() if one.id in fresh)
    )
    assert world.info(job).state is State.READY
    worker.send_signal(signal.SIGTERM)
