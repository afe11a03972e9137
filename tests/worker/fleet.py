"""Real ``windlass worker`` processes over a store of their own, and a ledger that their jobs write.

The ledger is a file that every job body appends lines to: ``what id queue pid fence time size``. One write each, so
lines of several processes never mix. Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kit import fleet as kit
from windlass import Windlass
from windlass.core.ids import new_id
from windlass.core.model import NewJob
from windlass.testing.conformance.harness import place

JOBS = """
import os, time
from windlass import JobContext, Windlass

app = Windlass({url!r}, {settings})
ledger = os.open({ledger!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
leaked = []


def note(what, ctx):
    with open("/proc/self/statm", "rb") as file:
        size = int(file.read().split()[1]) * 4096
    line = f"{{what}} {{ctx.id}} {{ctx.queue}} {{os.getpid()}} {{ctx.fence}} {{time.monotonic_ns()}} {{size}}\\n"
    os.write(ledger, line.encode())


@app.job(name="work")
def work(ctx: JobContext, seconds: float = 0.0) -> int:
    note("begin", ctx)
    if seconds:
        time.sleep(seconds)
    note("end", ctx)
    return {version}


@app.job(name="leak")
def leak(ctx: JobContext, mib: int) -> None:
    leaked.append(b"x" * (mib * 2**20))
    note("end", ctx)


@app.job(name="hold")
def hold(ctx: JobContext, gate: str) -> None:
    note("begin", ctx)
    while not os.path.exists(gate):
        time.sleep(0.01)
"""


@dataclass(frozen=True)
class Line:
    """One line of the ledger."""

    what: str
    id: str
    queue: str
    pid: int
    fence: int
    at: int  # ns
    size: int  # bytes


class Fleet(kit.Fleet):
    """A store, a ledger, and the workers that a test starts."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        super().__init__(folder, url or f"sqlite:///{folder}/jobs.db", "fleet_jobs:app")
        self.ledger = folder / "ledger"
        (folder / ".git").mkdir()  # no settings file above this folder counts
        self.write_jobs()
        self.app = Windlass(self.url)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.app.close()

    def write_jobs(self, version: int = 1, **settings: object) -> None:
        text = ", ".join(f"{key}={value!r}" for key, value in ({"renew": "200ms", "reap": "500ms"} | settings).items())
        jobs = JOBS.format(url=self.url, settings=text, ledger=str(self.ledger), version=version)
        (self.folder / "fleet_jobs.py").write_text(jobs)

    def enqueue(self, name: str, queue: str, count: int, args: str = "[[], {}]") -> list[str]:
        """Store jobs by name, as another program would."""
        ids = [new_id() for _ in range(count)]
        payload = json.dumps([1, *json.loads(args)])
        for at in range(0, count, 1_000):
            place(self.app.engine, [NewJob(each, name, queue, payload) for each in ids[at : at + 1_000]])
        return ids

    def run(self, *options: str, code: int = 0) -> str:
        """Run a worker to its end; give what was said. It may take long, as long as its jobs go on."""
        worker = self.start(*options)
        while worker.runs:
            had = self.size()
            self.until(lambda had=had: not worker.runs or self.size() > had, "the end of the worker or of a job")  # type: ignore[misc]
        assert worker.ended() == code, self.said()
        return self.said()

    def size(self) -> int:
        """How much the ledger has."""
        return self.ledger.stat().st_size if self.ledger.exists() else 0

    def lines(self, what: str = "") -> list[Line]:
        if not self.ledger.exists():
            return []
        whole, _, _ = self.ledger.read_text().rpartition("\n")  # the last line may be half written
        rows = (line.split() for line in whole.splitlines())
        found = [Line(w, i, q, int(p), int(f), int(t), int(s)) for w, i, q, p, f, t, s in rows]
        return [line for line in found if not what or line.what == what]

    def alive(self, count: int) -> None:
        """Wait until so many worker processes claim."""
        self.until(lambda: sum(worker.alive for worker in self.app.workers()) == count)
