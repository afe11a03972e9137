"""The jobs that a fleet runs under faults, and what they leave behind outside the engine.

A run is written to the ledger at its start and its end, so that what happened is known without asking the engine.
Driven by the environment: ``FLEET_DIR`` is where ledger, sink and markers are. Must not look into the engine.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import apsw

from windlass import Constant, JobContext, Retry, Windlass
from windlass.core.clock import SystemClock
from windlass.core.work import Lease
from windlass.events import StoreRolledBack

DEFINED: list[tuple[Callable[..., Any], dict[str, Any]]] = []
INSTALLED: dict[str, Any] = {}  # by the last call of ``install``; a process that runs jobs has one application
HOARD_LIMIT = 512 * 1024 * 1024  # bytes beyond what the process has, for the job that wants too much
FOREVER = 10_000_000_000  # bytes


def job(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Note a function as a job of every application that ``install`` is called for."""

    def note(fn: Callable[..., Any]) -> Callable[..., Any]:
        DEFINED.append((fn, {"name": fn.__name__, **options}))
        return fn

    return note


def install(app: Windlass) -> SimpleNamespace:
    """Define all jobs on an application; give them by name."""
    INSTALLED.update({options["name"]: app.job(**options)(fn) for fn, options in DEFINED})
    return SimpleNamespace(**INSTALLED)


class SkewedClock(SystemClock):
    """The machine's clocks, with the wall clock off by what the file ``skew-PID`` of the fleet says (ms)."""

    def wall_ms(self) -> int:
        try:
            with open(f"{folder()}/skew-{os.getpid()}", encoding="ascii") as file:
                return super().wall_ms() + int(file.read() or 0)
        except FileNotFoundError:
            return super().wall_ms()


def fleet_app() -> Windlass:
    """The application of a fleet's worker processes; its settings come from the environment."""
    if pages := os.environ.get("FLEET_PAGES"):
        apsw.connection_hooks.append(lambda db: limit(db, pages))
    app = Windlass(clock=SkewedClock())
    install(app)

    @app.middleware("execute")
    def record(ctx: JobContext) -> Iterator[None]:
        write("S", ctx)
        try:
            yield
        finally:
            write("E", ctx)

    @app.on(StoreRolledBack)
    def tell(event: StoreRolledBack) -> None:
        print(f"store rolled back: {event.what}", flush=True)

    return app


def limit(db: apsw.Connection, pages: str) -> None:
    """Let the engine's file grow to so many pages and no further, as a full disk would."""
    if db.filename.endswith("jobs.db"):
        db.execute(f"PRAGMA max_page_count = {pages}")


def folder() -> str:
    return os.environ["FLEET_DIR"]


# -- the ledger: one file per process, whole lines, appended --

DESCRIPTORS: dict[int, int] = {}
LEDGER_LOCK = threading.Lock()


def write(mark: str, ctx: JobContext | Lease) -> None:
    pid = os.getpid()
    line = f"{mark} {ctx.id} {ctx.attempt} {ctx.fence} {pid} {time.monotonic_ns()}\n"
    with LEDGER_LOCK:
        fd = DESCRIPTORS.get(pid)
        if fd is None:
            fd = os.open(f"{folder()}/ledger-{pid}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            DESCRIPTORS[pid] = fd
        os.write(fd, line.encode())


# -- the sink: a database of its own that takes an effect once per key, and never one of an older fence --

SINK = """
CREATE TABLE IF NOT EXISTS effects (key TEXT PRIMARY KEY, fence INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS visits (key TEXT, fence INTEGER, verdict TEXT);
"""
HANDLES: dict[int, apsw.Connection] = {}
SINK_LOCK = threading.Lock()


def open_sink(where: str) -> apsw.Connection:
    db = apsw.Connection(f"{where}/sink.db")
    db.set_busy_timeout(10_000)
    db.execute("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF")
    db.execute(SINK)
    return db


def effect(key: str, fence: int) -> str:
    """Have the effect of a key once: ``first``; later ``again``, or ``refused`` for a fence below the last one."""
    with SINK_LOCK:
        pid = os.getpid()
        db = HANDLES.get(pid)
        if db is None:
            db = HANDLES[pid] = open_sink(folder())
        db.execute("BEGIN IMMEDIATE")
        found = db.execute("SELECT fence FROM effects WHERE key = ?", (key,)).fetchone()
        if found is None:
            verdict = "first"
            db.execute("INSERT INTO effects VALUES (?, ?)", (key, fence))
        elif fence < found[0]:
            verdict = "refused"
        else:
            verdict = "again"
            db.execute("UPDATE effects SET fence = ? WHERE key = ?", (fence, key))
        db.execute("INSERT INTO visits VALUES (?, ?, ?)", (key, fence, verdict))
        db.execute("COMMIT")
    return verdict


# -- jobs --


@job()
def work(ms: int) -> int:
    time.sleep(ms / 1000)
    return ms


@job()
async def awork(ms: int) -> int:
    await asyncio.sleep(ms / 1000)
    return ms


@job(executor="process")
def pwork(ms: int) -> int:
    time.sleep(ms / 1000)
    return ms


@job()
def pay(ctx: JobContext, ms: int) -> str:
    """Take a while, then have an effect that is keyed and fenced."""
    time.sleep(ms / 1000)
    return effect(ctx.idempotency_key, ctx.fence)


@job()
def note(ctx: JobContext, steps: int) -> None:
    for done in range(steps):
        ctx.progress(done + 1, steps)


@job()
def narrate(ctx: JobContext, ms: int) -> None:
    """Report progress all the time, and so hear of a cancel at once."""
    until = time.monotonic() + ms / 1000
    while time.monotonic() < until:
        ctx.progress(time.monotonic(), until)
        time.sleep(0.01)


@job()
def take(value: object) -> object:
    return value


@job()
def book(ctx: JobContext) -> None:
    """Write into the engine's own database, and complete, in one transaction."""
    with ctx.transaction() as tx:
        tx.execute("INSERT INTO bookings VALUES (?)", (ctx.id,))


# -- steps of workflows: each has an effect, fails so many attempts, and gives a number made of what it takes --

MOST = 1_000_003
TWICE = Retry(attempts=2, backoff=Constant("10ms"))


def worth(value: Any) -> int:
    """The number that a result counts for: 0 for none, and the sum of a list or of a mapping."""
    parts = value.values() if isinstance(value, dict) else value
    return sum(map(worth, parts)) % MOST if isinstance(value, dict | list) else int(value or 0)


@job(retry=TWICE)
def node(ctx: JobContext, *taken: Any, fails: int = 0) -> int:
    effect(ctx.idempotency_key, ctx.fence)
    if ctx.attempt <= fails:
        raise ValueError(f"attempt {ctx.attempt} fails")
    return (1 + sum(map(worth, taken))) % MOST


@job(retry=TWICE)
def listing(ctx: JobContext, count: int) -> list[int]:
    effect(ctx.idempotency_key, ctx.fence)
    ctx.progress(1, 1)
    return list(range(count))


@job(retry=TWICE)
def item(ctx: JobContext, number: int, broken: list[int]) -> int:
    effect(ctx.idempotency_key, ctx.fence)
    if number in broken:
        raise ValueError(f"item {number} fails")
    return number


@job(retry=TWICE)
def grow(ctx: JobContext, count: int, before: str) -> None:
    """Add steps that another one waits for, each after the one before it."""
    effect(ctx.idempotency_key, ctx.fence)
    ctx.progress(1, 1)
    last: Any = ()
    for _ in range(count):
        last = ctx.workflow.add(INSTALLED["node"].bind(), after=last, before=before)


@job()
def spin(seconds: float) -> None:
    """Keep the interpreter busy without a single call that lets go of it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@job()
def clutch(seconds: float) -> None:
    """Hold the interpreter lock inside a C call."""
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))


@job()
def die_once(name: str) -> None:
    """Kill the own process in the first run."""
    try:
        os.close(os.open(f"{folder()}/died-{name}", os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


# -- poison: each in a thread and in a process of its own --


def segfault() -> None:
    ctypes.string_at(0)


def exit_now() -> None:
    os._exit(1)


def sys_exit() -> None:
    sys.exit(3)


def interrupt() -> None:
    raise KeyboardInterrupt


def recurse() -> None:
    recurse()


def hoard() -> None:
    """Ask for more memory than the process may have."""
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + HOARD_LIMIT, hard))
    try:
        bytearray(FOREVER)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


KILLERS = ("segfault", "exit_now")
FAILERS = ("sys_exit", "interrupt", "recurse", "hoard")
for poison in (segfault, exit_now, sys_exit, interrupt, recurse, hoard):
    job(name=poison.__name__, retry=0)(poison)
    job(name=f"{poison.__name__}_process", retry=0, executor="process")(poison)
