"""What the fleet of the guard tests runs. Each line of the ledger is one append, so the order of lines is that of time.

``GUARDS_DIR`` is the folder of one test: ``ledger`` is what happened, ``down`` exists while the dependency is down,
``crash`` while the next payment is to kill its process.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from windlass import Concurrency, JobContext, Once, Rate, Retry, Windlass
from windlass.core.retry import Exponential
from windlass.events import CircuitClosed, CircuitEvent, CircuitHalfOpened, CircuitOpened

FOLDER = Path(os.environ["GUARDS_DIR"])

app = Windlass(reap="300ms", poll_min="100ms", keep_done="1h", keep_done_max=None)
api = app.circuit("api", failures=5, window="10s", open_for="1s", half_open=1, trip_on=(ConnectionError,))


def write(*words: object) -> None:
    """Append one line, with the time, to the ledger."""
    line = " ".join(map(str, (time.time_ns(), *words))) + "\n"
    fd = os.open(FOLDER / "ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


@app.on(CircuitEvent)
def changed(event: CircuitEvent) -> None:
    """Note what the circuit did."""
    write({CircuitOpened: "opened", CircuitHalfOpened: "half_open", CircuitClosed: "closed"}[type(event)])


@app.job(name="call", circuit=api, retry=Retry(attempts=100, backoff=Exponential(cap="1s")))
def call(number: int) -> None:
    """Call the dependency."""
    write("call", number)
    if (FOLDER / "down").exists():
        raise ConnectionError("the dependency is down")
    write("served", number)


@app.job(name="limited", limits=Concurrency(3, key="tenant:{tenant}"))
def limited(ctx: JobContext, tenant: str) -> None:
    """Hold a slot for a while."""
    time.sleep(0.02)
    write("limited", ctx.id, ctx.fence)


@app.job(name="paced", limits=Rate("40/s", key="api"))
def paced(number: int) -> None:
    """Start, no oftener than the rate allows."""
    write("paced", number)


@app.job(name="pay", once=Once("payment:{payment}", keep="1s"), retry=Retry(1))
def pay(ctx: JobContext, payment: str, fails: bool = False) -> str:
    """Charge a payment; the gateway drops repeats of an idempotency key, as real ones do."""
    if fails:
        raise ValueError("the card was refused")
    write("charge", payment, ctx.idempotency_key)
    if (FOLDER / f"crash-{payment}").exists():
        (FOLDER / f"crash-{payment}").unlink()
        os._exit(1)
    return f"receipt of {payment}"


remote = app.circuit("remote", failures=3, window="60s", open_for="1h", trip_on=(ConnectionError,))


@app.job(name="remote", circuit=remote, executor="process", retry=0, timeout="500ms")
def call_in_child(how: str) -> None:
    """Call another dependency, in a process of its own."""
    if how == "hang":
        time.sleep(600)
    raise ConnectionError("refused") if how == "refuse" else LookupError("no such thing")


hung = app.circuit("hung", failures=1, window="60s", open_for="1h", trip_on=(ConnectionError,))


@app.job(name="hung", circuit=hung, retry=0, timeout="100ms")
def call_in_thread() -> None:
    """Call a dependency that does not answer, in a thread that nobody can stop."""
    time.sleep(600)
