"""One measurement of one queue: ``python -m harness ADAPTER COMMAND N``, run by the python of the queue's environment.

``compare.py`` starts it; it imports ``peers.ADAPTER``, sends the jobs, starts and ends the worker, and prints one JSON
object. It must not know any queue: what differs between them is in the adapter (see ``Adapter``). It imports nothing
outside the standard library, so it runs in every environment.

Commands: ``enqueue_one N``, ``enqueue_many N``, ``fill N`` (100 bytes of arguments, left in the store), ``drain N``,
``latency N``, ``sleep N``. The environment names the rest: BENCH_URL (Redis), BENCH_DIR (scratch folder), BENCH_VARIANT
(read by adapters that serve several rows), BENCH_SLOTS, BENCH_CPUS (server and worker CPU, empty: not pinned).

Invariants: every worker started here has ended, by its process id, before this program ends, also when it is told to
terminate; nothing waits without a deadline.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from work import NAP, Marks

__all__ = ["Adapter", "main"]

CHUNK = 1_000  # jobs per bulk call, the same for every queue
NAP_SLOTS = 50
PAUSE = 0.01  # seconds between two jobs of the latency measurement, for the worker to fall asleep
WARM_UP = 20  # jobs of the latency measurement that are not counted
DONE_WITHIN = 90.0  # seconds
END_WITHIN = 15.0  # seconds
BALLAST = "x" * 100

Row = tuple[object, ...]


class Adapter(Protocol):
    """What a module in ``peers`` defines. ``job`` is ``noop``, ``nap`` or ``since``.

    ``one`` and ``many`` may be coroutine functions, then both are. A queue without a bulk API has no ``many``.
    ``session`` (an async context manager) is optional and holds connections. ``worker`` gives the command line of one
    worker process.
    """

    def one(self, job: str, *args: object) -> Awaitable[None] | None: ...

    def many(self, job: str, rows: Sequence[Row]) -> Awaitable[None] | None: ...

    def session(self) -> AbstractAsyncContextManager[object]: ...

    def worker(self, slots: int) -> list[str]: ...


class Bench:
    """The measurements, over one adapter."""

    def __init__(self, adapter: Adapter, folder: Path, cpus: Sequence[int], slots: int) -> None:
        self._adapter = adapter
        self._folder = folder
        self._cpus = cpus
        self._slots = slots
        self._bulk = hasattr(adapter, "many")
        self._is_async = inspect.iscoroutinefunction(adapter.one)
        self._session: Callable[[], AbstractAsyncContextManager[object]] = getattr(adapter, "session", nullcontext)

    async def enqueue_one(self, count: int) -> dict[str, object]:
        """Jobs per second, one call each; the first one, which connects, is not counted."""
        async with self._session():
            await self._each("noop", [(0,)])
            began = time.perf_counter()
            await self._each("noop", [(number,) for number in range(1, count)])
            took = time.perf_counter() - began
        return {"per_second": (count - 1) / took}

    async def enqueue_many(self, count: int) -> dict[str, object]:
        """Jobs per second through the bulk API; the first chunk, which connects, is not counted."""
        async with self._session():
            await self._chunks("noop", [(0,)])
            began = time.perf_counter()
            await self._chunks("noop", [(number,) for number in range(1, count)])
            took = time.perf_counter() - began
        return {"per_second": (count - 1) / took}

    async def fill(self, count: int) -> dict[str, object]:
        """Leave jobs with 100 bytes of arguments in the store."""
        await self._fill("noop", [(number, BALLAST) for number in range(count)])
        return {"jobs": count}

    async def drain(self, count: int) -> dict[str, object]:
        """No-op jobs per second, from the first line of the first job to the last line of the last.

        With it the CPU time of the worker in µs a job, start and end included, less that of a worker with one job.
        """
        _, idle = await self._run("noop", 1, self._slots)
        took, busy = await self._run("noop", count, self._slots)
        return {"per_second": count / took, "cpu": (busy - idle) / count * 1e6}

    async def sleep(self, count: int) -> dict[str, object]:
        """Jobs of 50 ms on 50 slots: the share of what 50 slots could do, in percent."""
        took, _ = await self._run("nap", count, NAP_SLOTS)
        return {"percent": 100 * count * NAP / NAP_SLOTS / took}

    async def latency(self, count: int) -> dict[str, object]:
        """One job on an idle worker, in ms from the call that enqueues to the first line of the job."""
        marks = self._marks(count + WARM_UP)
        with self._worker(self._slots) as process:
            async with self._session():
                for number in range(count + WARM_UP):
                    await asyncio.sleep(PAUSE)
                    sent = time.monotonic_ns()
                    await self._each("since", [(number, sent)])
                    await until(partial(marks.has, number), process, PAUSE / 10)
        began, ended = marks.read()
        delays = [(end - begin) / 1e6 for begin, end in zip(began, ended, strict=True)]
        cuts = statistics.quantiles(delays[WARM_UP:], n=100, method="inclusive")
        return {"p50": cuts[49], "p99": cuts[98]}

    async def _run(self, job: str, count: int, slots: int) -> tuple[float, float]:
        """Store the jobs, start a worker, wait for the last, end the worker.

        Give the seconds between the first and the last mark, and the CPU seconds of the worker and all its children.
        """
        marks = self._marks(count)
        before = os.times()
        await self._fill(job, [(number,) for number in range(count)])
        with self._worker(slots) as process:
            await until(marks.are_full, process, 0.05)
        began, ended = marks.read()
        after = os.times()
        used = after.children_user + after.children_system - before.children_user - before.children_system
        return (max(ended) - min(began)) / 1e9, used

    async def _fill(self, job: str, rows: Sequence[Row]) -> None:
        async with self._session():
            await (self._chunks if self._bulk else self._each)(job, rows)

    async def _each(self, job: str, rows: Sequence[Row]) -> None:
        one = self._adapter.one
        if self._is_async:
            for row in rows:
                await cast(Awaitable[None], one(job, *row))
        else:
            for row in rows:
                one(job, *row)

    async def _chunks(self, job: str, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), CHUNK):
            sent = self._adapter.many(job, rows[start : start + CHUNK])
            if sent is not None:
                await sent

    def _marks(self, count: int) -> Marks:
        path = self._folder / "marks"
        os.environ["BENCH_MARKS"] = str(path)  # for the worker
        return Marks(path, count)

    @contextmanager
    def _worker(self, slots: int) -> Iterator[subprocess.Popen[bytes]]:
        """Run one worker process on its CPU while this program watches from the other."""
        command = self._adapter.worker(slots)
        with (self._folder / "worker.log").open("wb") as log:
            pin(self._cpus[1:])
            process = subprocess.Popen(
                command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            pin(self._cpus[:1])
        try:
            yield process
        finally:
            end(process)


def pin(cpus: Sequence[int]) -> None:
    """Bind this process, and what it starts from now on, to these CPUs; none: leave it."""
    if cpus:
        os.sched_setaffinity(0, cpus)


def end(process: subprocess.Popen[bytes]) -> None:
    """End the worker: ask, wait, and at last kill its process group."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the group is still its own
            process.wait()


async def until(is_so: Callable[[], bool], process: subprocess.Popen[bytes], every: float) -> None:
    """Wait for what the worker does. Raises RuntimeError when it has ended, TimeoutError when it takes too long."""
    deadline = time.monotonic() + DONE_WITHIN
    while not is_so():
        if process.poll() is not None:
            raise RuntimeError(f"the worker ended by itself with code {process.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the jobs did not end within {DONE_WITHIN:g} s")
        await asyncio.sleep(every)


def run(measurement: Awaitable[dict[str, object]], *, fast_loop: bool) -> dict[str, object]:
    """Run a measurement; async queues get uvloop where their environment has it, as their documentation advises."""

    async def main() -> dict[str, object]:
        return await measurement

    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if fast_loop:
        try:
            factory = importlib.import_module("uvloop").new_event_loop
        except ModuleNotFoundError:
            factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main())


def main() -> None:
    """Run the command of the command line."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the worker is ended on the way out
    name, command, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    adapter = cast(Adapter, importlib.import_module(f"peers.{name}"))
    cpus = [int(cpu) for cpu in os.environ.get("BENCH_CPUS", "").split(",") if cpu]
    pin(cpus[1:])  # what enqueues has a CPU to itself, too
    bench = Bench(adapter, Path(os.environ["BENCH_DIR"]), cpus, int(os.environ["BENCH_SLOTS"]))
    if command == "enqueue_many" and not hasattr(adapter, "many"):
        answer: dict[str, object] = {}
    else:
        answer = run(getattr(bench, command)(count), fast_loop=inspect.iscoroutinefunction(adapter.one))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
