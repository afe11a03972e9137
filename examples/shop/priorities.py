"""Payments that never wait behind newsletters, and newsletters that still move.

The layout is in ``windlass.toml`` beside this file: two slots for ``critical``, five for ``default``, two for ``low``
and all reports, and a process of its own for ``mailers``. Run this file to see it: it starts that worker, fills the low
queue, takes payments meanwhile, and prints how long the jobs of each queue waited and what ``windlass`` says of it.
Exit code 1 when a payment waited longer than its queue promises.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from windlass import JobHandle, Windlass

HERE = Path(__file__).resolve().parent
PAYMENTS = 20

FOLDER = Path(tempfile.gettempdir()) / f"windlass-{secrets.token_hex(4)}"

if __name__ == "__main__":
    # For this run and the worker it starts: the settings beside this file, and a store of their own.
    FOLDER.mkdir()
    os.environ["WINDLASS_CONFIG"] = str(HERE / "windlass.toml")
    os.environ.setdefault("WINDLASS_URL", f"sqlite:///{FOLDER}/shop.db")
    os.environ["WINDLASS_NAMESPACE"] = FOLDER.name

app = Windlass()


@app.job(queue="critical")
def charge(order: int) -> int:
    """Take a payment."""
    return order


@app.job(queue="default")
def confirm(order: int) -> int:
    """Tell the customer."""
    time.sleep(0.01)
    return order


@app.job(queue="low")
def newsletter(customer: int) -> int:
    """Send one newsletter. Those to the best customers go first (``priority``), and the others rise with time."""
    time.sleep(0.02)
    return customer


@app.job(queue="report-daily")
def report(day: str) -> str:
    """Make a report; the pattern ``report-*`` gives its queue to the low pool."""
    return day


@app.job(queue="mailers")
def mail(customer: int) -> int:
    """Talk to the mail server, in a process that may be recycled without harm to the others."""
    return customer


def waited(handles: list[JobHandle[int]]) -> float:
    """The longest time, in seconds, between due and start. Waits for the jobs to end."""
    longest = 0.0
    for handle in handles:
        handle.result(timeout=120)
        info = handle.info()
        if info.started_at is not None:
            longest = max(longest, (info.started_at - info.run_at).total_seconds())
    return longest


def show(*words: str) -> None:
    """Print a command and what it says."""
    print(f"\n$ windlass {' '.join(words)}", flush=True)
    subprocess.run([sys.executable, "-m", "windlass", *words], cwd=HERE, check=True)


def main() -> int:
    """Run the worker of this folder and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--newsletters", type=int, default=1_000, help="how many fill the low queue")
    count = parser.parse_args().newsletters
    worker = subprocess.Popen([sys.executable, "-m", "windlass", "worker", "--log-level", "warning"], cwd=HERE)
    try:
        app.enqueue_many(newsletter.options(priority=n % 3).bind(n) for n in range(count))
        report.enqueue("today")
        others = [confirm.enqueue(n) for n in range(PAYMENTS)] + [mail.enqueue(n) for n in range(PAYMENTS)]
        worst = waited([charge.enqueue(n) for n in range(PAYMENTS)])
        print(f"{app.queue('low').size:,} newsletters wait; {PAYMENTS} payments waited {worst * 1_000:.0f} ms at most")
        waited(others)
        show("workers", "ls")
        show("queues", "ls")
        show("stats")
    finally:
        worker.terminate()
        worker.wait(60)
    promise = app.settings.queues["critical"].max_wait
    return 0 if promise is not None and worst * 1_000 <= promise else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        app.close()
        shutil.rmtree(FOLDER)
