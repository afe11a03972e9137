"""A worker with two processes on each engine, and an application that does everything at random that it should not.

Innocent jobs of each kind are enqueued all the time beside culprits: jobs that change their process, exit where nobody
expects it, start programs, block the loop, hold the interpreter lock, close descriptors, kill their process behind
their body. From outside come deploys, signals to the whole group, killed processes, and times without processes.

Counted, and printed: jobs that were lost (no record, or no end when all is quiet), stuck (running and never ending),
times in which a worker silently did nothing (a job of some kind did not end within ``SILENCE`` while others should),
and innocents that were charged (dead, or an attempt used). ``WINDLASS_SOAK_SECONDS`` sets the length, and
``WINDLASS_TEST_SEED`` replays the choices.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit.fleet import Process, alive
from servers import RedisServer
from windlass import State
from world import World

SECONDS = float(os.environ.get("WINDLASS_SOAK_SECONDS", "3600"))
SEED = int(os.environ.get("WINDLASS_TEST_SEED", str(random.SystemRandom().randrange(10**6))))
PATIENCE = float(os.environ.get("WINDLASS_SOAK_PATIENCE", "400"))  # seconds for everything to end at last
KILL_SEEN = 2.0  # seconds after which the end of a process that was killed is known
SILENCE = 60.0  # seconds in which each kind of job must have ended at least once, whatever happens beside

CODE = """
import limit_processes
import argparse, contextvars, gc, logging, logging.config, random

# -- innocents --

@app.job(name="good_thread", retry=3)
def good_thread(ms: int) -> None:
    time.sleep(ms / 1000)

@app.job(name="good_loop", retry=3)
async def good_loop(ms: int) -> None:
    await asyncio.sleep(ms / 1000)

@app.job(name="good_timed_loop", retry=3, timeout="20s")
async def good_timed_loop(ms: int) -> None:
    await asyncio.sleep(ms / 1000)

@app.job(name="good_child", retry=3, executor="process", timeout="60s")
def good_child(ms: int) -> None:
    time.sleep(ms / 1000)

# -- A: what an application does to its process --

@app.job(name="a_changes", retry=0)
def a_changes(what: int) -> None:
    [
        lambda: socket.setdefaulttimeout(random.choice([0.1, 2, None])),
        lambda: logging.config.dictConfig({"version": 1, "root": {"level": "ERROR"}}),
        lambda: logging.disable(random.choice([logging.CRITICAL, logging.NOTSET])),
        lambda: os.umask(0o777) and None,
        lambda: os.chdir("/"),
        lambda: sys.setswitchinterval(random.choice([0.001, 0.05])),
        lambda: gc.disable() if random.random() < 0.5 else gc.enable(),
    ][what % 7]()

# -- B: exits where nobody expects them --

class Exits(Exception):
    def __str__(self):
        sys.exit(3)

@app.job(name="b_subtask", retry=0)
async def b_subtask() -> None:
    async def part():
        argparse.ArgumentParser().parse_args(["--no-such-option"])
    async with asyncio.TaskGroup() as group:
        group.create_task(part())

@app.job(name="b_str", retry=0)
def b_str() -> None:
    raise Exits

@app.job(name="b_stop_loop", retry=0)
async def b_stop_loop() -> None:
    asyncio.get_running_loop().stop()

@app.job(name="b_cancel_all", retry=0)
async def b_cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0.1)

@app.job(name="b_callback", retry=0)
async def b_callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 4)
    await asyncio.sleep(0.05)

@app.job(name="b_interrupt", retry=0)
def b_interrupt() -> None:
    raise KeyboardInterrupt

# -- C: programs of jobs --

@app.job(name="c_programs", executor="process", timeout=2, retry=0)
def c_programs() -> None:
    subprocess.run(["sh", "-c", "sleep 30 & sleep 30"])

@app.job(name="c_orphan", retry=0)
def c_orphan() -> None:
    subprocess.run(["sh", "-c", "(sleep 0.3) & exit 0"])

@app.job(name="c_crash", executor="process", retry=0)
def c_crash() -> None:
    subprocess.Popen(["sleep", "30"])
    os.kill(os.getpid(), signal.SIGSEGV)

# -- H: alive and doing nothing --

@app.job(name="h_blocks", timeout=1, retry=0)
async def h_blocks(seconds: float) -> None:
    time.sleep(seconds)

@app.job(name="h_deaf", timeout=1, retry=0)
async def h_deaf() -> None:
    while True:
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            pass

@app.job(name="h_deaf_thread", timeout=1, retry=0)
def h_deaf_thread() -> None:
    time.sleep(600)

@app.job(name="h_backtrack", timeout=1, retry=0)
def h_backtrack() -> None:
    re.match(r"(a+)+$", "a" * 40 + "b")

@app.job(name="h_c_call", timeout=1, retry=0)
def h_c_call() -> None:
    ctypes.PyDLL(None).sleep(600)

# -- N: long ones, so that slots are full --

@app.job(name="n_long", retry=3)
def n_long() -> None:
    time.sleep(random.uniform(3, 8))

@app.job(name="n_long_loop", retry=3)
async def n_long_loop() -> None:
    await asyncio.sleep(random.uniform(3, 8))

# -- O: behind the body --

slot = contextvars.ContextVar("slot")

class Bomb:
    def __del__(self):
        os._exit(9)

@app.job(name="o_leaves", retry=0)
def o_leaves() -> None:
    slot.set(Bomb())

@app.job(name="o_callback", retry=0)
async def o_callback() -> None:
    asyncio.get_running_loop().call_soon(os._exit, 9)
"""
LIMIT = """
import errno, os, subprocess
def limited(call):
    def limited(*args, **kwargs):
        if os.path.exists({path!r}):
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return call(*args, **kwargs)
    return limited
os.fork = limited(os.fork)
subprocess._fork_exec = limited(subprocess._fork_exec)
"""
GOOD = ("good_thread", "good_loop", "good_timed_loop", "good_child", "n_long", "n_long_loop")
BAD: dict[str, object] = {
    "a_changes": lambda rng: [rng.randrange(100)],
    "b_subtask": lambda _: [],
    "b_str": lambda _: [],
    "b_stop_loop": lambda _: [],
    "b_cancel_all": lambda _: [],
    "b_callback": lambda _: [],
    "b_interrupt": lambda _: [],
    "c_programs": lambda _: [],
    "c_orphan": lambda _: [],
    "c_crash": lambda _: [],
    "h_blocks": lambda rng: [rng.choice([0.5, 2.0, 30.0])],
    "h_deaf": lambda _: [],
    "h_deaf_thread": lambda _: [],
    "h_backtrack": lambda _: [],
    "h_c_call": lambda _: [],
    "o_leaves": lambda _: [],
    "o_callback": lambda _: [],
}
RARE = {"h_blocks", "h_deaf", "h_deaf_thread", "h_backtrack", "h_c_call", "o_leaves", "o_callback", "c_crash"}


class Standstills:
    """Seconds in which this whole machine stood still, such as a guest whose host had no time for it.

    A process of its own measures, so that nothing which holds this one up is taken for the machine.
    """

    PROGRAM = (
        "import time\nwhile True:\n b = time.monotonic(); time.sleep(0.5); print(time.monotonic() - b, flush=True)"
    )

    def __init__(self) -> None:
        self.total = 0.0
        self._process = subprocess.Popen([sys.executable, "-c", self.PROGRAM], stdout=subprocess.PIPE, text=True)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            took = float(line)
            if took > 5:
                self.total += took

    def end(self) -> None:
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._listener.join()
        self._process.stdout.close()


class Soak:
    """One engine's run."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.rng = random.Random(f"{SEED} {name}")
        self.good: dict[str, str] = {}  # id: name
        self.bad: dict[str, str] = {}
        self.events: Counter[str] = Counter()
        self.kills: list[float] = []  # when, by the wall clock
        self.silences: list[str] = []
        self.last: dict[str, float] = {}
        self.stood: dict[str, float] = {}  # how long the machine had stood still at ``last``
        self.standstills = Standstills()
        self.watched: dict[str, list[str]] = {name: [] for name in GOOD[:4]}

    def run(self) -> None:
        world, rng = self.world, self.rng
        limit = str(world.folder / "limit")
        (world.folder / "limit_processes.py").write_text(LIMIT.format(path=limit))
        world.write(CODE, lease="6s", renew="1s", reap="1s", keep_done="4h", keep_done_max=10_000_000)
        worker = self.start()
        end = time.monotonic() + SECONDS
        next_deploy = time.monotonic() + 30
        self.last = dict.fromkeys(self.watched, time.monotonic())
        while time.monotonic() < end:
            for _ in range(rng.randrange(1, 4)):
                self.enqueue_good(rng.choice(GOOD))
            if rng.random() < 0.5:
                name = rng.choice(sorted(BAD))
                if name not in RARE or rng.random() < 0.15:
                    arguments = BAD[name](rng)  # type: ignore[operator]
                    self.bad[world.enqueue(name, *arguments)] = name
                    self.events[name] += 1
            if rng.random() < 0.004:
                self.without_processes(limit)
            if rng.random() < 0.006:
                self.kill_some(worker)
            if time.monotonic() > next_deploy:
                next_deploy = time.monotonic() + rng.uniform(20, 90)
                worker = self.deploy(worker)
            self.look()
            time.sleep(rng.uniform(0.05, 0.5))
        for _ in range(2):  # one more generation, with nothing wrong any more
            worker.send_signal(signal.SIGHUP)
        self.judge()
        self.standstills.end()
        world.stop(worker)

    def enqueue_good(self, name: str) -> None:
        arguments = () if name.startswith("n_") else (self.rng.choice([0, 1, 20, 300]),)
        job = self.world.enqueue(name, *arguments, max_attempts=4)
        self.good[job] = name
        if name in self.watched:
            self.watched[name].append(job)

    def without_processes(self, limit: str) -> None:
        self.events["no processes for 5 s"] += 1
        Path(limit).touch()
        threading.Timer(5.0, lambda: Path(limit).unlink(missing_ok=True)).start()

    def kill_some(self, worker: Process) -> None:
        """Kill a worker process, a child or the zygote, as the system does when memory is short."""
        titles = {pid: title_of(pid) for pid in worker.below()}
        known = [pid for pid, title in titles.items() if title.startswith("windlass") and "alone" not in title]
        if known:
            pid = self.rng.choice(known)
            self.events[f"killed {titles[pid].partition(' world')[0]}"] += 1
            if alive(pid):
                self.kills.append(time.time())
                os.kill(pid, signal.SIGKILL)

    def killed_at(self, moment: float) -> bool:
        """Whether an end that was seen then may be of a process that the soak has killed."""
        return any(-0.1 < moment - at < KILL_SEEN for at in self.kills)

    def start(self) -> Process:
        return self.world.start_with("import limit_processes", "-p", "2", "-c", "6", "--async-slots", "10", "-t", "5")

    def deploy(self, worker: Process) -> Process:
        how = self.rng.choice(["TERM to the group", "HUP", "HUP to the group", "USR1 to the group"])
        self.events[how] += 1
        if how == "TERM to the group":
            os.killpg(worker.pid, signal.SIGTERM)
            code = worker.ended()
            assert code == 0, (code, self.world.said()[-3_000:])
            return self.start()
        if how == "HUP":
            worker.send_signal(signal.SIGHUP)
        else:
            os.killpg(worker.pid, signal.SIGHUP if how.startswith("HUP") else signal.SIGUSR1)
        return worker

    def look(self) -> None:
        """Whether jobs of each kind end."""
        now = time.monotonic()
        for name, jobs in self.watched.items():
            del jobs[:-200]
            # Of the oldest some may be in quarantine; the newest tell whether anything of their kind still runs.
            ended = [job for job in {*jobs[:5], *jobs[-20:]} if self.world.info(job).state is State.DONE]
            stood = self.standstills.total
            if ended or not jobs:
                self.last[name], self.stood[name] = now, stood
                for job in ended:
                    jobs.remove(job)
            elif now - self.last[name] - (stood - self.stood.get(name, 0.0)) > SILENCE:
                self.silences.append(f"{name} at {now:.0f}")
                self.last[name], self.stood[name] = now, stood

    def judge(self) -> None:
        world = self.world
        deadline = time.monotonic() + PATIENCE
        open_ones = {*self.good, *self.bad}
        while open_ones and time.monotonic() < deadline:
            open_ones = {job for job in open_ones if (i := world.app.get(job)) and not i.finished_at}
            time.sleep(1)
        lost = [job for job in {*self.good, *self.bad} if world.app.get(job) is None] + sorted(open_ones)
        charged, shared, unlucky = [], 0, 0
        for job, name in self.good.items():
            info = world.app.get(job)
            if info is not None:
                # Two crashes beside it sent it to run alone, and there the soak has killed it: by the rules, poison.
                if info.reason == "poison" and self.killed_at(info.errors[-1].at.timestamp()):
                    unlucky += 1
                elif info.state is not State.DONE or info.attempt > 1:
                    charged.append(
                        f"{name} {job} {info.state} {info.attempt} {[(e.type, e.message) for e in info.errors]}"
                    )
                shared += any(error.type == "WorkerCrashed" for error in info.errors)
        ends = Counter(f"{name}: {i.state}" for job, name in self.bad.items() if (i := world.app.get(job)))
        print(f"\n== soak on {self.name}: {SECONDS:.0f} s, WINDLASS_TEST_SEED={SEED} ==")
        print(f"innocent jobs {len(self.good):,}, culprits {len(self.bad):,}")
        print("what happened:", ", ".join(f"{what} {count}" for what, count in sorted(self.events.items())))
        print("how culprits ended:", ", ".join(f"{what} {count}" for what, count in sorted(ends.items())))
        print(f"the machine stood still for {self.standstills.total:.0f} s")
        print(f"innocents that shared a process with a crash (a crash charge, no attempt): {shared}")
        print(f"innocents that the soak itself killed while they ran alone: {unlucky}")
        print(
            f"lost {len(lost)}, stuck {len(open_ones)}, silently stopped {len(self.silences)}, "
            f"innocents charged {len(charged)}"
        )
        assert not lost, lost[:5]
        assert not self.silences, self.silences
        assert not charged, charged[:5]


def title_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


@pytest.fixture(params=["sqlite", "redis"])
def soak(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Soak]:
    server = RedisServer() if request.param == "redis" else None
    try:
        with World(tmp_path, None if server is None else server.url) as world:
            yield Soak(world, request.param)
    finally:
        if server is not None:
            server.close()


@pytest.mark.soak
def test_an_application_that_does_everything_wrong_loses_nothing_and_harms_nobody_else(soak: Soak) -> None:
    soak.run()
