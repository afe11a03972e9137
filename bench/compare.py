"""Compare windlass with other Python job queues, side by side on this machine. ``make compare``.

Makes an environment per queue below ``.bench/envs`` with the versions of ``peers.toml``, starts a redis-server of its
own on a free loopback port for every row of every run (append-only file, fsync every second), and runs each measurement
as a program of its own (``harness.py``). Rows take turns, so a disturbance does not hit one queue alone. Prints one
table of median (min to max) and writes all readings as JSON.

It must not import windlass or a driver: only the standard library. Invariants: everything started here has ended, by
its process id, when it ends; every wait has a deadline; a row that fails is reported as failed, never left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LAB = ROOT / ".bench"
INSTALL_WITHIN = 600.0  # seconds
MEASURE_WITHIN = 180.0  # seconds
START_WITHIN = 10.0  # seconds
END_WITHIN = 30.0  # seconds; above the harness's own, which ends the worker first

# What is printed, in this order: command of the harness, key of its answer, heading, format.
COLUMNS = (
    ("enqueue_one", "per_second", "enqueue, jobs/s", "{:,.0f}"),
    ("enqueue_many", "per_second", "bulk enqueue, jobs/s", "{:,.0f}"),
    ("drain", "per_second", "drain, jobs/s", "{:,.0f}"),
    ("drain", "cpu", "worker CPU, µs/job", "{:,.0f}"),
    ("latency", "p50", "latency p50, ms", "{:.2f}"),
    ("latency", "p99", "latency p99, ms", "{:.2f}"),
    ("sleep", "percent", "sleep, % of ideal", "{:.1f}"),
    ("fill", "bytes", "bytes per waiting job", "{:,.0f}"),
)
COMMANDS = tuple(dict.fromkeys(command for command, *_ in COLUMNS))
DURABILITY = {
    "sqlite": "fsync before a call returns: a power cut loses nothing acknowledged",
    "redis": "append-only file, fsync every second: a power cut loses about the last second",
}


@dataclass
class Row:
    """One line of the table, as ``peers.toml`` describes it, and what was measured."""

    name: str
    adapter: str
    store: str
    slots: int
    settings: str
    delivery: str
    variant: str = ""
    drain: int | None = None
    nap: bool = True
    only: list[str] = field(default_factory=lambda: list(COMMANDS))
    runs: list[dict[str, dict[str, float]]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def commands(self, run: int) -> list[str]:
        """What is measured in this run. Memory is exact, so once is enough."""
        wanted = [command for command in COMMANDS if command in self.only]
        if not self.nap:
            wanted.remove("sleep")
        if (self.store != "redis" or run > 0) and "fill" in wanted:
            wanted.remove("fill")
        return wanted

    def readings(self, command: str, key: str) -> list[float]:
        """What all runs gave for one column."""
        return [run[command][key] for run in self.runs if key in run.get(command, {})]


def main() -> int:
    """Run the comparison. Exit code 1 when a measurement failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended on the way out
    options = arguments()
    plan = tomllib.loads((HERE / "peers.toml").read_text())
    rows = [Row(**row) for row in plan["row"]]
    LAB.mkdir(exist_ok=True)
    if options.rows:
        wanted = [name.strip() for name in options.rows.split(",")]
        unknown = [name for name in wanted if not any(name in row.name for row in rows)]
        if unknown:
            print(f"--rows {','.join(unknown)}: no such row; there are {'; '.join(row.name for row in rows)}")
            return 2
        rows = [row for row in rows if any(name in row.name for name in wanted)]
    if any(row.store == "redis" for row in rows) and shutil.which("redis-server") is None:
        print("redis-server is not on PATH: install Redis or Valkey, or pass --rows SQLite")
        return 2
    counts = {command: max(40, int(count * options.scale)) for command, count in plan["counts"].items()}
    versions = {name: environment(name, plan["environments"][name]) for name in sorted({row.adapter for row in rows})}
    cpus = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_setaffinity") else []
    cpus = cpus if len(cpus) == 2 else []
    if cpus:
        os.sched_setaffinity(0, cpus[:1])  # what is started from here inherits it; the harness moves its worker
    target = Path(options.json)
    target.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for run in range(options.runs):
        for row in rows:
            print(f"run {run + 1} of {options.runs}: {row.name}", file=sys.stderr, flush=True)
            measure(row, run, counts, options.scale, cpus)
        report = {
            "machine": machine(cpus),
            "seconds": round(time.monotonic() - began, 1),
            "versions": versions,
            "counts": counts,
            "durability": DURABILITY,
            "rows": [asdict(row) for row in rows],
        }
        target.write_text(json.dumps(report, indent=1) + "\n")  # every run, so that one cut short leaves the others
    print(table(rows))
    print(facts(rows, versions))
    print(f"\n{machine(cpus)}; {time.monotonic() - began:.0f} s; all readings: {options.json}")
    failed = [row for row in rows if row.errors]
    for row in failed:
        print(f"\nfailed: {row.name}\n" + "\n".join(row.errors))
    return 1 if failed else 0


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare windlass with other Python job queues on this machine.")
    parser.add_argument("--rows", help="only rows whose name contains one of these, separated by commas")
    parser.add_argument("--runs", type=int, default=3, help="how often everything is measured (default 3)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the jobs, such as 0.05 for a trial")
    parser.add_argument("--json", default=os.path.relpath(LAB / "compare.json"), help="where all readings go")
    return parser.parse_args()


def environment(name: str, packages: Sequence[str]) -> dict[str, str]:
    """Make the environment of a queue unless it is there as described; give the versions of what is in it."""
    folder = LAB / "envs" / name
    python = str(folder / "bin" / "python")
    wanted = [package.format(root=ROOT) for package in packages]
    note = folder / "packages.json"
    if not note.exists() or json.loads(note.read_text()) != wanted:
        print(f"installing {name}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=INSTALL_WITHIN)
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", *wanted], check=True, timeout=INSTALL_WITHIN)
        note.write_text(json.dumps(wanted))
    listed = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", "list", "--format", "json"],
        check=True,
        timeout=INSTALL_WITHIN,
        capture_output=True,
    )
    installed = {package["name"].lower(): package["version"] for package in json.loads(listed.stdout)}
    return {package: installed[package] for package in sorted(installed) if package not in ("pip", "setuptools")}


def measure(row: Row, run: int, counts: dict[str, int], scale: float, cpus: Sequence[int]) -> None:
    """Measure one row once. What fails is noted in the row."""
    done: dict[str, dict[str, float]] = {}
    row.runs.append(done)
    for command in row.commands(run):
        count = int(row.drain * scale) if command == "drain" and row.drain else counts[command]
        load = os.getloadavg()[0]
        scratch = Path(tempfile.mkdtemp(prefix="run-", dir=LAB))
        try:
            with redis(scratch) if row.store == "redis" else no_redis() as port:
                before = used_memory(port) if command == "fill" else 0
                answer = harness(row, command, count, scratch, port, cpus)
                if command == "fill":
                    answer["bytes"] = (used_memory(port) - before) / count
            done[command] = answer | {"load": load}
        except (OSError, RuntimeError, subprocess.SubprocessError, TimeoutError) as error:
            row.errors.append(f"{command}, run {run + 1}: {error}")
            print(f"  {command} failed: {error}", file=sys.stderr, flush=True)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def harness(row: Row, command: str, count: int, scratch: Path, port: int, cpus: Sequence[int]) -> dict[str, float]:
    """Run one measurement as a program of its own. Raises RuntimeError with what it said when it fails."""
    python = LAB / "envs" / row.adapter / "bin" / "python"
    process = subprocess.Popen(
        [python, "-P", "-m", "harness", row.adapter, command, str(count)],
        cwd=scratch,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("WINDLASS_", "PYTHON"))},
            "PYTHONPATH": str(HERE),
            "PYTHONSAFEPATH": "1",
            "BENCH_URL": f"redis://127.0.0.1:{port}/0",
            "BENCH_DIR": str(scratch),
            "BENCH_VARIANT": row.variant,
            "BENCH_SLOTS": str(row.slots),
            "BENCH_CPUS": ",".join(map(str, cpus)),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        output, trouble = process.communicate(timeout=MEASURE_WITHIN)
    except BaseException:
        end(process)  # also at Ctrl-C; it ends its worker on the way out
        raise
    if process.returncode:
        log = scratch / "worker.log"
        said = trouble.decode(errors="replace")[-2_000:]
        logged = log.read_text(errors="replace")[-2_000:] if log.exists() else ""
        raise RuntimeError(f"ended with code {process.returncode}\n{said}\nworker: {logged}")
    answer: dict[str, float] = json.loads(output.splitlines()[-1])
    return answer


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    """Run an empty redis-server on the CPU of this program; give its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    settings = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "auto-aof-rewrite-percentage": "0",  # a rewrite would fall into one measurement and not into the next
        "maxmemory-policy": "noeviction",
    }
    with (folder / "redis.log").open("wb") as log:
        process = subprocess.Popen(
            ["redis-server", *(part for name, value in settings.items() for part in (f"--{name}", value))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + START_WITHIN
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"redis-server did not start: {(folder / 'redis.log').read_text()[-500:]}")
            time.sleep(0.01)
        yield port
    finally:
        end(process)


@contextmanager
def no_redis() -> Iterator[int]:
    """Stand in for a server where none is needed."""
    yield 0


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process: ask, wait, and at last kill."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def answers(port: int) -> bool:
    """Whether the server takes connections and has loaded."""
    try:
        return ask(port, "PING").startswith("+PONG")
    except OSError:
        return False


def used_memory(port: int) -> int:
    """What the server's data takes, in bytes."""
    for line in ask(port, "INFO memory").splitlines():
        if line.startswith("used_memory:"):
            return int(line.partition(":")[2])
    raise RuntimeError("the server's INFO has no used_memory")


def ask(port: int, command: str) -> str:
    """Send one command on a connection of its own; give the raw answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"{command}\r\nQUIT\r\n".encode())
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer.decode()


def table(rows: Sequence[Row]) -> str:
    """All figures as one Markdown table: median (min to max)."""
    lines = [
        "| queue | " + " | ".join(heading for _, _, heading, _ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for row in rows:
        cells = [figure(row.readings(command, key), shape) for command, key, _, shape in COLUMNS]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(readings: Sequence[float], shape: str) -> str:
    """One cell of the table."""
    if not readings:
        return "–"
    median = shape.format(statistics.median(readings))
    if len(readings) == 1:
        return median
    return f"{median} ({shape.format(min(readings))} to {shape.format(max(readings))})"


def facts(rows: Sequence[Row], versions: dict[str, dict[str, str]]) -> str:
    """What stands beside the figures: version, durability, delivery and settings of each row."""
    lines = ["", "| queue | version | store | delivery | settings |", "|---|---|---|---|---|"]
    for row in rows:
        version = versions[row.adapter][row.adapter]
        lines.append(f"| {row.name} | {version} | {row.store} | {row.delivery} | {row.settings} |")
    lines += ["", *(f"{store}: {said}." for store, said in DURABILITY.items())]
    return "\n".join(lines)


def machine(cpus: Sequence[int]) -> str:
    """Where this was measured."""
    pinned = f"server on CPU {cpus[0]}, worker on CPU {cpus[1]}" if cpus else "not pinned"
    load = os.getloadavg()[0]
    return (
        f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, "
        f"{pinned}, load average {load:.1f} at the end"
    )


if __name__ == "__main__":
    sys.exit(main())
