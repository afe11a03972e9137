"""One process is meant, or the whole work: what a job in a child process started ends with it; nothing else does."""

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


PROGRAMS = """
def program(how):
    if how == "plain":
        return subprocess.Popen(["sleep", "600"])
    if how == "below":
        return subprocess.Popen(["sh", "-c", "sleep 600 & echo $! >> below; wait"])
    if how == "session":
        return subprocess.Popen(["sleep", "600"], start_new_session=True)
    if how == "fork":
        pid = os.fork()
        if pid == 0:
            while True:
                time.sleep(600)
        return type("Forked", (), {"pid": pid})
    raise ValueError(how)


@app.job(name="convert", executor="process", retry=0)
def convert(how: str) -> str:
    note(str(program(how).pid))
    hold("gate")
    return "converted"


@app.job(name="convert_quickly", executor="process", timeout=1, retry=0)
def convert_quickly(how: str) -> str:
    return convert(how)


@app.job(name="crash", executor="process", retry=0)
def crash(how: str) -> None:
    note(str(program(how).pid))
    os.kill(os.getpid(), signal.SIGSEGV)
"""


@pytest.mark.parametrize("how", ["plain", "below", "session", "fork"])
def test_a_timeout_ends_everything_that_the_job_started(world: World, how: str) -> None:
    world.write(PROGRAMS)
    world.start()
    info = world.ended(world.enqueue("convert_quickly", how))
    assert info.errors[-1].type.endswith("JobTimeout"), world.said()
    (pid,) = world.ledger()
    world.until(lambda: not alive(int(pid)))
    below = world.folder / "below"
    for pid in below.read_text().split() if below.exists() else ():
        world.until(lambda pid=pid: not alive(int(pid)))


@pytest.mark.parametrize("how", ["plain", "session"])
def test_a_cancel_ends_everything_that_the_job_started(world: World, how: str) -> None:
    world.write(PROGRAMS)
    world.start()
    job = world.enqueue("convert", how)
    world.until(world.ledger)
    world.app.cancel([job])
    assert world.ended(job).state is State.CANCELLED
    world.until(lambda: not alive(int(world.ledger()[0])))


def test_a_stop_ends_everything_that_the_job_started_and_waits_for_none_of_it(world: World) -> None:
    world.write(PROGRAMS)
    worker = world.start("-t", "1")
    job = world.enqueue("convert", "fork")
    world.until(world.ledger)
    world.stop(worker)
    world.until(lambda: not alive(int(world.ledger()[0])))
    info = world.info(job)
    assert (info.state, info.attempt) == (State.READY, 0)


def test_a_crash_ends_what_the_job_started(world: World) -> None:
    world.write(PROGRAMS, max_crashes=1)
    world.start()
    info = world.ended(world.enqueue("crash", "plain"))
    assert info.errors[-1].type == "WorkerCrashed"
    world.until(lambda: not alive(int(world.ledger()[0])))


@pytest.mark.parametrize("victim", ["worker", "supervisor"])
def test_a_child_and_its_programs_end_with_the_process_that_it_works_for(world: World, victim: str) -> None:
    world.write(PROGRAMS)
    worker = world.start("-t", "1")
    parent = world.value(world.enqueue("quick"))
    world.enqueue("convert", "plain")
    world.until(world.ledger)
    program = int(world.ledger()[0])
    assert isinstance(parent, int)
    os.kill(parent if victim == "worker" else worker.pid, signal.SIGKILL)
    world.until(lambda: not alive(program))


def test_what_a_job_leaves_behind_in_order_is_left_alone(world: World) -> None:
    world.write(PROGRAMS)
    worker = world.start()
    world.open_gate()
    assert world.value(world.enqueue("convert", "session")) == "converted"
    pid = int(world.ledger()[0])
    assert alive(pid)
    world.stop(worker)
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("to", ["group", "all"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_every_process_is_one_to_the_worker_and_no_crash(world: World, number: int, to: str) -> None:
    """What systemd, shells and terminals do."""
    world.write(PROGRAMS, max_crashes=1)
    worker = world.start()
    child, thread = world.enqueue("convert", "plain"), world.enqueue("quick")
    world.value(thread)
    world.until(world.ledger)
    if to == "group":
        os.killpg(worker.pid, number)
    else:
        for pid in [worker.pid, *worker.below()]:
            if pid != int(world.ledger()[0]):  # the program is the job's: what a signal does to it, the job decides
                os.kill(pid, number)
    if number == signal.SIGTERM:
        world.heard("stopping")
        world.open_gate()
        assert worker.ended() == 0
    else:
        world.open_gate()
    assert world.value(child) == "converted"
    assert world.info(child).attempt == 1
    assert "was killed by" not in world.said()


@pytest.mark.parametrize("name", ["run_thread", "run_child"])
def test_a_program_that_gets_the_stop_signal_too_costs_its_job_no_attempt(world: World, name: str) -> None:
    """systemd sends TERM to every process of the service, those of jobs included."""
    world.write("""
@app.job(name="run_thread", retry=0)
def run_thread() -> None:
    program = subprocess.Popen(["sleep", "600"])
    note(str(program.pid))
    if program.wait():
        raise RuntimeError("no report") from subprocess.CalledProcessError(program.returncode, "sleep")

@app.job(name="run_child", retry=0, executor="process")
def run_child() -> None:
    run_thread()
""")
    worker = world.start()
    job = world.enqueue(name)
    world.until(world.ledger)
    for pid in [worker.pid, *worker.below()]:
        os.kill(pid, signal.SIGTERM)
    assert worker.ended() == 0
    info = world.info(job)
    assert (info.state, info.attempt, info.errors) == (State.READY, 0, ()), world.said()


def test_three_deploys_by_a_signal_to_the_group_leave_a_long_job_unharmed(world: World) -> None:
    world.write(PROGRAMS)
    job = world.enqueue("convert", "plain")
    for deploy in range(1, 4):
        worker = world.start("-t", "1")
        world.until(lambda deploy=deploy: len(world.ledger()) == deploy)
        os.killpg(worker.pid, signal.SIGTERM)
        assert worker.ended() == 0
    info = world.info(job)
    assert (info.state, info.attempt, len(info.errors)) == (State.READY, 0, 0)
    world.open_gate()
    world.start()
    assert world.value(job) == "converted"


def test_a_child_ends_as_a_program_of_its_own_would(world: World) -> None:
    world.write("""
import atexit, tempfile, weakref
FOLDER = tempfile.TemporaryDirectory()
atexit.register(lambda: note(f"left {os.getpid() == LOADER}"))
LOADER = os.getpid()

@app.job(name="register", executor="process")
def register() -> bool:
    atexit.register(lambda: note("said goodbye"))
    sys.stdout.write("not flushed by hand")
    return os.path.isdir(FOLDER.name)

@app.job(name="look")
def look() -> bool:
    return os.path.isdir(FOLDER.name)
""")
    worker = world.start()
    assert world.value(world.enqueue("register")) is True
    assert world.value(world.enqueue("look")) is True
    world.stop(worker)
    world.until(lambda: sorted(world.ledger()) == ["left True", "said goodbye"])
    assert "not flushed by hand" in world.said()


def test_people_see_which_process_is_which(world: World) -> None:
    world.write("")
    worker = world.start()
    pid, child = world.value(world.enqueue("quick")), world.value(world.enqueue("inchild"))
    titles = {}
    for each in worker.below():
        titles[each] = Path(f"/proc/{each}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    assert sorted(titles.values()) == [f"windlass {role} world_jobs:app" for role in ("child", "worker", "zygote")]
    assert (titles[pid], titles[child]) == ("windlass worker world_jobs:app", "windlass child world_jobs:app")


def test_a_child_that_dies_while_it_has_nothing_to_do_is_charged_to_nobody(world: World) -> None:
    world.write("", max_crashes=1)
    world.start("-c", "1")
    first = world.value(world.enqueue("inchild"))
    assert isinstance(first, int)
    os.kill(first, signal.SIGKILL)
    second = world.value(world.enqueue("inchild"))
    assert second != first


def test_a_program_left_behind_with_the_line_of_its_child_holds_nobody_up(world: World) -> None:
    """A raw fork inherits the line; whoever waits for its end would wait for the program."""
    world.write(
        """
@app.job(name="daemon", executor="process", retry=0)
def daemon() -> None:
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            note(str(os.getpid()))
            time.sleep(600)
        os._exit(0)
    hold("ledger")
    os._exit(7)
""",
        max_crashes=1,
    )
    world.start()
    info = world.ended(world.enqueue("daemon"))
    assert "exit code 7" in info.errors[-1].message
    pid = int(world.ledger()[0])
    if alive(pid):
        os.kill(pid, signal.SIGKILL)


FORKING = """
@app.job(name="forked", retry=0)
def forked() -> int:
    pid = os.fork()
    note(f"{os.getpid()}")
    if pid:
        os.waitpid(pid, 0)
    return pid


@app.job(name="aforked", retry=0)
async def aforked() -> int:
    return forked.__wrapped__()


@app.job(name="cforked", executor="process", retry=0)
def cforked() -> int:
    return forked.__wrapped__()


@app.job(name="sforked", retry=0)
def sforked() -> int:
    pid = os.fork()
    note(f"{os.getpid()}")
    if not pid:
        raise SystemExit(3)
    os.waitpid(pid, 0)
    return pid
"""


@pytest.mark.parametrize("name", ["forked", "aforked", "cforked", "sforked"])
def test_a_copy_that_comes_back_from_the_job_ends_there(world: World, name: str) -> None:
    world.write(FORKING, max_crashes=1)
    worker = world.start()
    job = world.enqueue(name)
    copy = world.value(job)
    assert isinstance(copy, int)
    assert str(copy) in world.ledger()
    assert not alive(copy)
    assert world.value(world.enqueue("quick")) is not None
    world.stop(worker)
    assert world.info(job).attempt == 1


SLOW = """
note("loading")
hold("gate")
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGTSTP], ids=lambda one: one.name)
def test_a_signal_to_the_group_while_the_application_is_loaded_does_not_end_the_loading(
    world: World, number: signal.Signals
) -> None:
    world.write(SLOW)
    worker = world.start()
    world.until(lambda: "loading" in world.ledger())
    os.killpg(worker.pid, number)
    world.open_gate()
    job = world.enqueue("quick")
    if number is signal.SIGTSTP:  # quiet, which a restart leaves as it is
        world.heard("quiet: no new jobs are claimed")
        world.stop(worker)
        world.start()
    assert world.value(job)
    assert "ended the process that loads" not in world.said()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_a_stop_of_the_group_while_the_application_is_loaded_is_a_stop(world: World, number: signal.Signals) -> None:
    world.write(SLOW)
    worker = world.start()
    world.until(lambda: "loading" in world.ledger())
    os.killpg(worker.pid, number)
    assert worker.ended() == 0, world.said()
    assert "ended while it was loaded" not in world.said()


def test_a_loading_process_that_is_killed_is_started_again(world: World) -> None:
    world.write(SLOW)
    worker = world.start()
    world.until(lambda: "loading" in world.ledger())
    (loading,) = worker.below()
    os.kill(loading, signal.SIGKILL)
    world.open_gate()
    assert world.value(world.enqueue("quick"))
    assert "SIGKILL ended the process that loads" in world.said()


def test_a_loading_process_that_such_a_signal_ends_all_the_same_is_started_again(world: World) -> None:
    world.write("signal.signal(signal.SIGTERM, signal.SIG_DFL)\n" + SLOW)
    worker = world.start()
    world.until(lambda: "loading" in world.ledger())
    (zygote,) = worker.below()
    os.kill(zygote, signal.SIGTERM)
    world.heard("SIGTERM ended the process that loads the application")
    world.open_gate()
    assert world.value(world.enqueue("quick"))
    world.stop(worker)
