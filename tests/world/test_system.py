"""Unusual moments of the system: no processes, descriptors, memory or threads; and processes nobody asked for."""

from __future__ import annotations

import os
import resource
import signal
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kit.fleet import alive
from world import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


LIMIT = """
import errno, os, subprocess, threading
def limited(call, error):
    def limited(*args, **kwargs):
        if os.path.exists("limit"):
            raise error()
        return call(*args, **kwargs)
    return limited
def refused():
    return OSError(errno.{code}, os.strerror(errno.{code}))
os.fork = limited(os.fork, refused)
subprocess._fork_exec = limited(subprocess._fork_exec, refused)
"""
THREADS = """
def no_thread():
    return RuntimeError("can't start new thread")
threading._start_new_thread = limited(threading._start_new_thread, no_thread)
"""


def write_limit(world: World, code: str = "EAGAIN", more: str = "") -> None:
    (world.folder / "limit_processes.py").write_text(LIMIT.format(code=code) + more)


@pytest.mark.parametrize("code", ["EAGAIN", "ENOMEM"])
def test_while_no_process_can_be_started_the_worker_holds_on_and_loses_nothing(world: World, code: str) -> None:
    write_limit(world, code)
    world.write("import limit_processes")
    worker = world.start_with("import limit_processes", "-p", "2", "-c", "1")
    first = world.value(world.enqueue("quick"))
    (world.folder / "limit").touch()
    children = [world.enqueue("inchild") for _ in range(3)]
    world.heard("no process can be started for job inchild")
    assert world.value(world.enqueue("quick"))  # what needs no process goes on, though there is one slot each
    assert isinstance(first, int)
    os.kill(first, signal.SIGKILL)
    worker.send_signal(signal.SIGHUP)
    world.heard("no process can be started, next try in 1.0 s")
    assert worker.poll() is None
    (world.folder / "limit").unlink()
    for job in children:
        assert isinstance(world.value(job), int)
        assert world.info(job).attempt == 1
    world.until(lambda: sum(one.alive for one in world.app.workers()) == 2)
    world.stop(worker)
    assert "Traceback" not in world.said()


def test_a_worker_that_starts_when_there_is_no_process_waits_for_one(world: World) -> None:
    write_limit(world)
    world.write("import limit_processes")
    (world.folder / "limit").touch()
    worker = world.start_with("import limit_processes")
    world.heard("no process can be started, next try in 0.5 s")
    (world.folder / "limit").unlink()
    assert world.value(world.enqueue("quick"))
    world.stop(worker)


def test_a_worker_that_cannot_start_its_threads_says_so_and_begins_when_it_can(world: World) -> None:
    (world.folder / "limit_processes.py").write_text(LIMIT.split("os.fork =")[0].replace("{code}", "EAGAIN") + THREADS)
    world.write("import limit_processes")
    (world.folder / "limit").touch()
    worker = world.start()
    world.heard("can't start new thread")
    (world.folder / "limit").unlink()
    assert world.value(world.enqueue("quick"))
    world.stop(worker)


def test_a_worker_that_never_comes_to_its_work_ends_with_a_code_that_says_so(world: World) -> None:
    world.write("""
class Broken(type(app.engine)):
    def extend(self, *args):
        os._exit(3)
app.engine.__class__ = Broken
""")
    worker = world.start()
    assert worker.ended() == 69
    assert "10 worker processes in a row ended before they came to their work" in world.said()


@contextmanager
def no_more_descriptors(pid: int) -> Iterator[Callable[[], None]]:
    """Leave a process no descriptor beyond those it has open; what it gives does so again, when some were closed."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    def tighten() -> None:
        while (free := first_free(pid)) < resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, before[1]))

    try:
        tighten()
        yield tighten
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def first_free(pid: int) -> int:
    """The descriptor that a process would get next."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return next(fd for fd in range(len(taken) + 1) if fd not in taken)


def test_a_zygote_without_descriptors_refuses_children_and_goes_on(world: World) -> None:
    world.write("")
    worker = world.start()
    world.value(world.enqueue("quick"))
    zygote = worker.below()[0]
    with no_more_descriptors(zygote):
        job = world.enqueue("inchild")
        world.heard("no process can be started for job inchild")
        assert alive(zygote)
    assert isinstance(world.value(job), int)
    world.stop(worker)
    assert "the zygote died" not in world.said()


def test_a_worker_process_without_descriptors_puts_jobs_for_children_off(world: World) -> None:
    world.write("")
    worker = world.start()
    pid = world.value(world.enqueue("quick"))
    assert isinstance(pid, int)
    with no_more_descriptors(pid):
        job = world.enqueue("inchild")
        world.heard("no process can be started for job inchild")
        assert world.value(world.enqueue("quick")) == pid
    assert isinstance(world.value(job), int)
    world.stop(worker)


def test_a_supervisor_without_descriptors_replaces_its_processes_when_it_has_some(world: World) -> None:
    world.write("")
    worker = world.start()
    pid = world.value(world.enqueue("quick"))
    assert isinstance(pid, int)
    with no_more_descriptors(worker.pid):
        os.kill(pid, signal.SIGKILL)
        worker.send_signal(signal.SIGHUP)
        world.until(lambda: world.said().count("no process can be started, next try") >= 2)
    assert world.value(world.enqueue("quick")) != pid
    world.stop(worker)
    assert "Traceback" not in world.said()


def test_a_probe_without_descriptors_does_not_spin_and_answers_later(world: World) -> None:
    world.write("")
    worker = world.start("--http-port", "0")
    world.value(world.enqueue("quick"))
    port = int(world.said().partition("http://127.0.0.1:")[2].split()[0])
    url = f"http://127.0.0.1:{port}/livez"
    assert urllib.request.urlopen(url, timeout=10).status == 200
    with no_more_descriptors(worker.pid) as tighten:
        world.until(lambda: not answers(url) or tighten())
        spent = cpu_of(worker.pid)
        assert not answers(url)
        assert cpu_of(worker.pid) - spent < 1.5
    assert world.until(lambda: answers(url))
    world.stop(worker)


def answers(url: str) -> bool:
    try:
        return bool(urllib.request.urlopen(url, timeout=3).status == 200)
    except OSError:
        return False


def cpu_of(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_dead_zygote_is_replaced_and_its_workers_finish_what_they_have(world: World) -> None:
    world.write("""
@app.job(name="held", executor="process")
def held() -> int:
    note("held")
    hold("gate")
    return os.getpid()
""")
    worker = world.start("-p", "2")
    world.value(world.enqueue("quick"))
    job = world.enqueue("held")
    world.until(world.ledger)
    old = {one.pid for one in world.app.workers() if one.alive}
    os.kill(worker.below()[0], signal.SIGKILL)
    world.heard("the zygote died")
    world.until(lambda: {one.pid for one in world.app.workers() if one.alive} - old)
    world.open_gate()
    world.value(job)
    assert world.info(job).attempt == 1
    world.until(lambda: not {one.pid for one in world.app.workers() if one.alive} & old)
    assert world.value(world.enqueue("inchild"))
    world.stop(worker)


@pytest.mark.parametrize("how", ["exit", "fork", "kill", "close"])
def test_an_application_that_ends_while_it_is_loaded_ends_the_worker_with_2(world: World, how: str) -> None:
    code = {
        "exit": "os._exit(0)",
        "fork": "os.fork() and os._exit(0)\ntime.sleep(3)",
        "kill": "os.kill(os.getpid(), signal.SIGKILL)",
        "close": "os.closerange(3, 256)",
    }
    world.write(code[how])
    worker = world.start()
    assert worker.ended() == 2
    assert "ended while it was loaded" in world.said()


def test_orphans_of_jobs_are_collected(world: World) -> None:
    world.write("""
@app.job(name="leave")
def leave() -> None:
    subprocess.run(["sh", "-c", "(sleep 0.1) & (sleep 0.1; exit 3) & exit 0"])
""")
    worker = world.start()
    for _ in range(5):
        world.value(world.enqueue("leave"))
    world.until(lambda: not zombies_of(worker.pid))
    world.stop(worker)


def zombies_of(parent: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] == "Z" and int(fields[1]) == parent:
                found.append(int(name))
    return found


def test_the_application_can_ask_a_helper_for_its_exit_code(world: World) -> None:
    """The helper belongs to the process that loaded the application, and to nobody else."""
    world.write("""
HELPER = subprocess.Popen(["sh", "-c", "exit 5"])
def tell():
    note(str(HELPER.wait()))
import atexit
atexit.register(tell)
""")
    worker = world.start()
    pid = world.value(world.enqueue("quick"))
    assert isinstance(world.value(world.enqueue("inchild")), int)
    assert world.value(world.enqueue("quick")) == pid
    world.stop(worker)
    world.until(world.ledger)
    assert world.ledger() == ["5"]


def test_a_stopped_process_in_the_middle_of_everything_does_not_stop_the_supervisor(world: World) -> None:
    world.write("")
    worker = world.start("-p", "2")
    pid = world.value(world.enqueue("quick"))
    assert isinstance(pid, int)
    os.kill(pid, signal.SIGSTOP)
    for _ in range(20):
        worker.send_signal(signal.SIGUSR1)
    jobs = [world.enqueue("quick") for _ in range(4)]
    worker.send_signal(signal.SIGHUP)
    for job in jobs:
        assert world.value(job) != pid
    world.until(lambda: not alive(pid))
