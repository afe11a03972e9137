"""Between the end of a job's body and its settle, and what an application does to its own process."""

from __future__ import annotations

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


LEAVES = """
from contextvars import ContextVar
slot = ContextVar("slot")

class Bomb:
    def __del__(self):
        os._exit(9)

def leave(how):
    if how == "context variable":
        slot.set(Bomb())
    elif how == "callback":
        asyncio.get_running_loop().call_soon(os._exit, 9)
    elif how == "timer":
        threading.Timer(0.0, os._exit, (9,)).start()
    elif how == "cycle":
        bomb = Bomb()
        bomb.me = bomb
        import gc
        threading.Timer(0.0, gc.collect).start()

@app.job(name="leaves")
def leaves(how: str) -> None:
    note("leaves")
    leave(how)

@app.job(name="aleaves")
async def aleaves(how: str) -> None:
    note("leaves")
    leave(how)

@app.job(name="cleaves", executor="process")
def cleaves(how: str) -> None:
    note("leaves")
    leave(how)
    time.sleep(0.2)
"""


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("leaves", "context variable"),
        ("leaves", "timer"),
        ("leaves", "cycle"),
        ("aleaves", "callback"),
        ("aleaves", "context variable"),
        ("cleaves", "timer"),
    ],
)
def test_a_process_that_dies_behind_the_body_of_a_job_is_charged_to_it(world: World, name: str, how: str) -> None:
    """Its outcome is not stored, so it runs again, and must not for ever. When the settle wins, it is done."""
    world.write(LEAVES)
    world.start("-c", "2")
    filler = [world.enqueue("quick") for _ in range(3)]
    info = world.ended(world.enqueue(name, how))
    crashes = 3 if info.state is State.DEAD else len(world.ledger()) - 1
    assert [error.type for error in info.errors] == ["WorkerCrashed"] * crashes
    assert len(world.ledger()) <= 3
    for one in filler:
        world.value(one)
    world.value(world.enqueue("quick"))


A = """
def apply(what):
    if what == "default timeout":
        socket.setdefaulttimeout(0.3)
    elif what == "no wait":
        socket.setdefaulttimeout(0)
    elif what == "another socket class":
        class Proxied(socket.socket):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.settimeout(0.3)
            def sendmsg(self, *args):
                raise OSError("no such thing by a proxy")
            recvmsg = sendmsg
        socket.socket = Proxied
    elif what == "sigpipe":
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    elif what == "sigchld":
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    elif what == "mask":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGQUIT})
    elif what == "wakeup fd":
        ours, _theirs = socket.socketpair()
        ours.setblocking(False)
        signal.set_wakeup_fd(ours.fileno())
        globals()["kept"] = (ours, _theirs)
    elif what == "handlers":
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1):
            signal.signal(number, lambda *_: os._exit(99))
    elif what == "umask and folder":
        os.umask(0o777)
        os.chdir("/")
    elif what == "warnings":
        import warnings
        warnings.simplefilter("error")
    elif what == "recursion":
        sys.setrecursionlimit(150)
    elif what == "no stdout":
        sys.stdout.close()
        sys.stderr = None
    elif what == "thread at import":
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    elif what == "helper":
        subprocess.Popen(["sleep", "0.5"])
    elif what == "forked helper":
        if os.fork() == 0:
            time.sleep(1)
            os._exit(5)
    elif what == "default loop":
        asyncio.set_event_loop_policy(None)
        asyncio.new_event_loop = lambda: (_ for _ in ()).throw(RuntimeError("no loops here"))
    elif what == "trace":
        threading.setprofile(lambda *_: None)
        sys.setprofile(lambda *_: None)
    else:
        raise ValueError(what)


apply(WHAT)
"""


@pytest.mark.parametrize(
    "what",
    [
        "default timeout", "no wait", "another socket class", "sigpipe", "sigchld", "mask", "wakeup fd", "handlers",
        "umask and folder", "warnings", "recursion", "no stdout", "thread at import", "helper", "forked helper",
        "trace",
    ],
)  # fmt: skip
def test_what_an_application_does_to_its_process_does_not_reach_our_lines(world: World, what: str) -> None:
    world.write(f"WHAT = {what!r}\n{A}")
    worker = world.start("-t", "5")
    pids = {world.value(world.enqueue("quick")) for _ in range(3)}
    child = world.value(world.enqueue("inchild"))
    assert world.value(world.enqueue("aquick")) in pids
    # Silence is what a default timeout takes for the end: let some pass, twice its length.
    seen = max(one.beat_at for one in world.app.workers())
    for _ in range(3):
        world.until(lambda seen=seen: any(one.beat_at > seen for one in world.app.workers()))
        seen = max(one.beat_at for one in world.app.workers())
    assert world.value(world.enqueue("inchild")) == child
    pids |= {world.value(world.enqueue("quick"))}
    assert len(pids) == 1, world.said()
    world.stop(worker)
    assert "Traceback" not in world.said(), world.said()


ENDLESS = "import atexit; atexit.register(threading.Event().wait)\n"


def test_nothing_stays_of_an_application_whose_exit_handlers_hang(world: World) -> None:
    world.write(ENDLESS)
    worker = world.start()
    world.value(world.enqueue("quick"))
    before = worker.below()
    worker.send_signal(signal.SIGHUP)
    world.until(lambda: not any(map(alive, before)))
    world.value(world.enqueue("quick"))
    after = worker.below()
    world.stop(worker)
    assert not any(map(alive, after))


def test_nothing_stays_of_it_when_its_supervisor_is_killed(world: World) -> None:
    world.write(ENDLESS)
    worker = world.start()
    world.value(world.enqueue("quick"))
    tree = worker.below()
    worker.kill()
    world.until(lambda: not any(map(alive, tree)))


WARMS_UP = """
from windlass.events import WorkerStarted

@app.on(WorkerStarted)
def warm_up(event):
    hold("gate")

@app.job(name="takes_a_while", retry=0)
def takes_a_while() -> str:
    note("began")
    time.sleep(4)  # longer than a process gets that is to end at once
    open("gate", "w").close()
    return "done"
"""


def test_a_stop_while_the_application_is_still_told_of_the_start_leaves_jobs_their_grace(world: World) -> None:
    world.write(WARMS_UP)
    worker = world.start("-p", "1")
    job = world.enqueue("takes_a_while")
    world.until(lambda: world.ledger() == ["began"])
    world.stop(worker)
    assert world.value(job) == "done"
