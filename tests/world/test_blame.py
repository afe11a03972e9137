"""Who is to blame, and what goes on while a worker stops: neighbours of hanging jobs, deaths and signals that meet."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.fleet import alive
from windlass import State
from world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


JOBS = """
@app.job(name="blocker", retry=0)
async def blocker() -> None:
    note("blocker")
    time.sleep(12)


@app.job(name="short", timeout=1, retry=0)
async def short() -> str:
    note("short")
    await asyncio.sleep(0.5)
    return "done"


@app.job(name="long_c_call", retry=0)
def long_c_call() -> str:
    while "nap" not in open("ledger").read():
        time.sleep(0.01)
    note("long")
    ctypes.PyDLL(None).sleep(14)
    return "done"


@app.job(name="nap", timeout=1, retry=0)
def nap() -> str:
    note("nap")
    time.sleep(0.3)
    return "done"


@app.job(name="c_call", timeout=1, retry=0)
def c_call() -> None:
    note("c_call")
    ctypes.PyDLL(None).sleep(600)


@app.job(name="spins", retry=0)
async def spins() -> None:
    note("spins")
    while not os.path.exists("gate"):
        end = time.monotonic() + 0.15
        while time.monotonic() < end:
            pass
        await asyncio.sleep(0)


@app.job(name="hung", timeout=1, retry=0)
async def hung() -> None:
    note("hung")
    await asyncio.sleep(600)


@app.job(name="held", retry=0)
def held() -> str:
    note("held")
    hold("gate")
    return "done"


class Hostile:
    def __await__(self):
        return self
    def __iter__(self):
        return self
    def __next__(self):
        if os.path.exists("gate"):
            raise StopIteration("done")
        return None
    def __getattr__(self, name):
        sys.exit(5)


@app.job(name="awaits_hostile", retry=0)
async def awaits_hostile() -> str:
    note("hostile")
    return await Hostile()
"""


def test_a_coroutine_whose_time_passes_while_another_blocks_the_loop_is_not_blamed_by_the_supervisor(
    world: World,
) -> None:
    world.write(JOBS)
    world.start()
    world.value(world.enqueue("aquick"))
    innocent = world.enqueue("short")
    world.until(lambda: "short" in world.ledger())
    blocker = world.enqueue("blocker")
    assert world.value(innocent) == "done"
    assert world.ended(blocker).state is State.DONE
    assert world.ledger().count("blocker") == 1


def test_a_job_that_waits_for_the_interpreter_lock_past_its_time_is_not_blamed_for_it(world: World) -> None:
    world.write(JOBS)
    world.start()
    world.value(world.enqueue("quick"))
    (world.folder / "ledger").touch()
    long = world.enqueue("long_c_call")
    innocent = world.enqueue("nap")
    assert world.value(long) == "done"
    assert world.value(innocent) == "done"
    assert world.ledger().count("long") == 1


def test_a_loop_that_is_always_late_keeps_no_coroutine_beyond_its_time_for_ever(world: World) -> None:
    world.write(JOBS)
    world.start()
    spins = [world.enqueue("spins") for _ in range(3)]
    world.until(lambda: world.ledger().count("spins") == 3)
    info = world.ended(world.enqueue("hung"))
    assert info.errors[-1].type.endswith("JobTimeout")
    world.open_gate()
    for job in spins:
        world.value(job)
        assert (world.info(job).attempt, world.info(job).errors) == (1, ())


def test_stacks_ask_nothing_of_the_application(world: World) -> None:
    world.write(JOBS)
    worker = world.start()
    job = world.enqueue("awaits_hostile")
    world.until(world.ledger)

    def is_shown() -> bool:
        """Ask again: the job says that it is there a moment before it awaits."""
        worker.send_signal(signal.SIGUSR1)
        return "in awaits_hostile" in world.said()

    world.until(is_shown, "the stack of the coroutine")
    world.open_gate()
    assert world.value(job) == "done"
    assert world.ledger() == ["hostile"]
    world.stop(worker)


def test_a_stop_ends_though_the_zygote_dies_meanwhile(world: World) -> None:
    world.write(JOBS)
    worker = world.start()
    job = world.enqueue("held")
    world.until(world.ledger)
    zygote = worker.below()[0]
    worker.send_signal(signal.SIGTERM)
    world.heard("stopping")
    os.kill(zygote, signal.SIGKILL)
    world.until(lambda: not alive(zygote))
    world.open_gate()
    assert worker.ended() == 0
    assert world.info(job).state is State.DONE


def test_a_starved_process_keeps_its_lease_while_its_worker_stops(world: World) -> None:
    """Else another worker would run the job beside the body that still runs here."""
    world.write(JOBS, lease="4s", shutdown_timeout="60s")
    worker = world.start()
    world.value(world.enqueue("quick"))
    (world.folder / "ledger").write_text("nap\n")
    job = world.enqueue("long_c_call")
    world.until(lambda: "long" in world.ledger())
    worker.send_signal(signal.SIGTERM)
    world.start()
    assert world.value(job) == "done"
    assert world.ledger().count("long") == 1
    assert worker.ended() == 0


@pytest.mark.parametrize("when", ["before it is found out", "while it is killed"])
def test_a_job_that_hangs_is_charged_though_its_worker_is_told_to_stop(world: World, when: str) -> None:
    world.write(JOBS, max_crashes=1)
    worker = world.start("-t", "3")
    world.value(world.enqueue("quick"))
    job = world.enqueue("c_call")
    world.until(world.ledger)
    if when == "while it is killed":
        world.heard(f"job c_call {job} is ")
    else:  # its time has to be up at least
        world.until(lambda: "hold the interpreter lock" in world.app.workers()[0].trouble)
    worker.send_signal(signal.SIGTERM)
    assert worker.ended() == 0
    info = world.info(job)
    assert info.state is State.DEAD, (info, world.said())


def test_a_helper_of_multiprocessing_outlives_the_processes_that_are_forked_beside_it(world: World) -> None:
    world.write("""
import multiprocessing

def serve():
    while True:
        time.sleep(600)

HELPER = multiprocessing.get_context("fork").Process(target=serve, daemon=True)
HELPER.start()
if not os.path.exists("ledger"):
    note(str(HELPER.pid))
""")
    worker = world.start("--max-jobs", "1")
    for _ in range(3):  # each in a process of its own
        world.value(world.enqueue("quick"))
    assert isinstance(world.value(world.enqueue("inchild")), int)
    helper = int(world.ledger()[0])
    assert alive(helper)
    world.stop(worker)
    world.until(lambda: not alive(helper))  # with the zygote, whose it is
    assert "can only join" not in world.said()


def test_a_deploy_charges_nobody_however_many_threads_are_busy(world: World) -> None:
    world.write(
        """
@app.job(name="busy", retry=0)
def busy() -> None:
    time.sleep(0.02)
""",
        max_crashes=1,
    )
    jobs = [world.enqueue("busy") for _ in range(3_000)]
    for _ in range(3):
        worker = world.start("-c", "100", "-t", "0.1")
        world.until(lambda: any(one.running for one in world.app.workers()))
        worker.send_signal(signal.SIGTERM)
        assert worker.ended() == 0
    assert "Traceback" not in world.said(), world.said()[-3_000:]
    assert not [job for job in jobs if (info := world.info(job)).errors or info.state is State.DEAD]


QUARANTINE = """
@app.job(name="kills_others", retry=0)
def kills_others(me: int) -> str:
    if "alone" not in open("/proc/self/cmdline").read():
        os._exit(9)
    note(f"alone {me}")
    while not all(f"alone {one}" in open("ledger").read() for one in range(2)):
        time.sleep(0.01)
    return "done"
"""


def test_jobs_in_quarantine_do_not_wait_for_one_another(world: World) -> None:
    """Each runs alone in its process, and a process that is busy with one does not keep the others waiting."""
    world.write(QUARANTINE)
    worker = world.start("-p", "1", "-c", "2")
    jobs = [world.enqueue("kills_others", me) for me in range(2)]
    assert [world.value(job) for job in jobs] == ["done", "done"]
    world.stop(worker)
