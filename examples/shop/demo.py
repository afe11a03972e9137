"""Ten thousand payments through real workers, one of them killed on the way. ``make demo``.

Starts ``windlass worker`` with two processes, imports the orders through a job, kills one worker process with SIGKILL
when half of the orders are paid, waits for the end, and checks the outcome against two things the job store has no
hand in: the shop's payments table, and a ledger that every job body appends to. Exit code 1 when a payment was lost
or taken twice.

``--no-idempotent-sink`` takes the payment without its idempotency key and fence, and so shows what they are for.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from shop import ledger  # noqa: E402
from windlass import JobHandle, State, Windlass  # noqa: E402

PROCESSES = 2
LOOK_EVERY = 0.02  # seconds between looks at the payments table
GIVE_UP_AFTER = 600.0  # seconds; even a busy machine needs less


@dataclass(frozen=True)
class Report:
    """What happened. Times are seconds. ``enqueued`` and ``executed`` count jobs and runs, the others orders."""

    enqueued: int
    executed: int
    paid_once: int
    executed_twice: int
    paid_twice: int
    lost: int
    held_by_killed: int
    recovered: int
    first_again: float | None
    all_again: float | None
    jobs_per_second: float

    @property
    def is_good(self) -> bool:
        """Whether every order was paid, and none twice."""
        return self.lost == 0 and self.paid_twice == 0

    def lines(self) -> list[tuple[str, str, str]]:
        """What is counted, how much of it, and who says so."""
        return [
            ("payments enqueued", f"{self.enqueued:,}", "the import job"),
            ("times a payment job ran", f"{self.executed:,}", "ledger"),
            ("orders paid once", f"{self.paid_once:,}", "payments table"),
            ("orders whose job ran twice", f"{self.executed_twice:,}", "ledger"),
            ("orders paid twice", f"{self.paid_twice:,}", "payments table"),
            ("orders lost", f"{self.lost:,}", "payments table"),
            ("unfinished jobs of the killed process", f"{self.held_by_killed:,}", "ledger"),
            ("  of these finished by another process", f"{self.recovered:,}", "ledger"),
            ("from the kill to the first one running again", seconds(self.first_again), "ledger"),
            ("from the kill to all of them running again", seconds(self.all_again), "ledger"),
            ("jobs per second, the kill included", f"{self.jobs_per_second:,.0f}", "ledger"),
        ]


def seconds(value: float | None) -> str:
    """A length of time for people."""
    return "-" if value is None else f"{value:.2f} s"


class Demo:
    """One run in a folder of its own."""

    def __init__(self, folder: Path, orders: int, *, idempotent: bool) -> None:
        self.orders = orders
        self.ledger = folder / "ledger"
        self.log = folder / "worker.log"
        self.is_ours = "WINDLASS_URL" not in os.environ
        self.ledger.mkdir(parents=True)
        # The jobs and their worker read these when they are imported.
        os.environ.setdefault("WINDLASS_URL", f"sqlite:///{folder}/jobs.db")
        os.environ["WINDLASS_NAMESPACE"] = f"demo-{secrets.token_hex(4)}"
        os.environ["SHOP_DB"] = str(folder / "shop.db")
        os.environ["SHOP_LEDGER"] = str(self.ledger)
        os.environ["SHOP_SINK"] = "idempotent" if idempotent else "plain"
        from shop.domain import shop
        from shop.jobs import app, import_orders

        self.shop = shop()
        self.app: Windlass = app
        self.import_orders = import_orders
        self.killed_at_ns = 0
        self.killed_pid = 0

    def run(self) -> Report:
        """Do all of it; whatever was started has ended when this returns."""
        worker = self.start_worker()
        try:
            imported = self.import_orders.enqueue(str(HERE / "orders.csv"), self.orders)
            self.wait_until_paid(self.orders // 2, worker, imported)
            self.kill_one(worker, imported)
            self.wait_until_over(worker, imported)
            enqueued = imported.result(timeout="5s")
        finally:
            stop(worker)
        report = self.check(enqueued)
        if not self.is_ours:
            self.clean_up()
        self.app.close()
        self.shop.close()
        return report

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start ``windlass worker`` as anybody would."""
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "windlass", "-A", "shop.jobs:app", "worker", "-p", str(PROCESSES)],
                cwd=HERE.parent,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_paid(self, count: int, worker: subprocess.Popen[bytes], imported: JobHandle[int]) -> None:
        """Wait until so many orders are paid."""
        while (paid := self.look(worker, imported)) < count:
            self.say(f"paid {paid:,} of {self.orders:,}")

    def kill_one(self, worker: subprocess.Popen[bytes], imported: JobHandle[int]) -> None:
        """Kill a worker process, without a warning, that has taken a payment and is not done with its job.

        It is held while we look for one. At times there is none: every job has ended and the import stores the next.
        """
        while True:
            for victim in self.app.workers():
                os.kill(victim.pid, signal.SIGSTOP)
                if self.is_paying(victim.pid):
                    self.killed_pid = victim.pid
                    self.killed_at_ns = time.monotonic_ns()
                    os.kill(victim.pid, signal.SIGKILL)
                    self.say(f"killed worker process {victim.pid} at {self.shop.paid_orders():,} paid orders\n")
                    return
                os.kill(victim.pid, signal.SIGCONT)
            if self.look(worker, imported) == self.orders:
                raise SystemExit("every order was paid before a worker process was met in the middle of one")

    def is_paying(self, pid: int) -> bool:
        """Whether a process has taken a payment whose job body has not ended."""
        mine = [entry for entry in ledger.read(self.ledger) if entry.pid == pid]
        open_ones = {entry.order_id for entry in mine} - {entry.order_id for entry in mine if entry.what == "end"}
        payments = self.shop.payments_by_order()
        return any(payments[order] for order in open_ones)

    def wait_until_over(self, worker: subprocess.Popen[bytes], imported: JobHandle[int]) -> None:
        """Wait until the import has ended and no job waits or runs."""
        while True:
            paid = self.look(worker, imported)
            self.say(f"paid {paid:,} of {self.orders:,}")
            counts = self.app.stats()
            if imported.state is State.DONE and not any(counts[state] for state in ("ready", "scheduled", "running")):
                self.say("")
                return

    def look(self, worker: subprocess.Popen[bytes], imported: JobHandle[int]) -> int:
        """Give the number of paid orders; end the demo when it cannot go on."""
        time.sleep(LOOK_EVERY)
        if worker.poll() is not None:
            raise SystemExit(f"the worker ended with code {worker.returncode}; see {self.log}")
        if imported.state is State.DEAD:
            raise SystemExit(f"the import failed: {imported.info().errors[-1].message}; see {self.log}")
        if time.monotonic() > STARTED + GIVE_UP_AFTER:
            raise SystemExit(f"not done after {GIVE_UP_AFTER:.0f} s: {self.app.stats()}; see {self.log}")
        return self.shop.paid_orders()

    def say(self, text: str) -> None:
        """Show how far it is, on a terminal."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def check(self, enqueued: int) -> Report:
        """Count what the ledger and the payments table have."""
        entries = ledger.read(self.ledger)
        payments = self.shop.payments_by_order()
        begins = [entry for entry in entries if entry.what == "begin"]
        runs = Counter(entry.order_id for entry in begins)
        mine = {entry.order_id for entry in begins if entry.pid == self.killed_pid}
        later = [entry for entry in entries if entry.pid != self.killed_pid and entry.order_id in mine]
        again = {entry.order_id: entry.at_ns for entry in later if entry.what == "begin"}
        ended = {entry.order_id for entry in later if entry.what == "end"}
        ended_there = {entry.order_id for entry in entries if entry.pid == self.killed_pid and entry.what == "end"}
        # Unfinished: the body was cut off, or it had ended and its settle had not reached the store.
        held = (mine - ended_there) | set(again)
        waits = sorted((at - self.killed_at_ns) / 1e9 for at in again.values())
        span = (entries[-1].at_ns - entries[0].at_ns) / 1e9
        return Report(
            enqueued=enqueued,
            executed=len(begins),
            paid_once=sum(count == 1 for count in payments.values()),
            executed_twice=sum(count > 1 for count in runs.values()),
            paid_twice=sum(count > 1 for count in payments.values()),
            lost=self.orders - sum(count > 0 for count in payments.values()),
            held_by_killed=len(held),
            recovered=len(held & ended),
            first_again=waits[0] if waits else None,
            all_again=waits[-1] if waits else None,
            jobs_per_second=len(runs) / span,
        )

    def clean_up(self) -> None:
        """Take our jobs out of a store that is not ours."""
        while page := self.app.jobs(limit=1_000):
            if not any(moved.applied for moved in self.app.delete([job.id for job in page])):
                return


def stop(worker: subprocess.Popen[bytes]) -> None:
    """End the worker and its processes in order; kill it when it does not."""
    worker.terminate()
    try:
        worker.wait(40)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()


def show(report: Report, *, idempotent: bool) -> None:
    """Print the table and what it means."""
    lines = report.lines()
    width = max(len(what) for what, _, _ in lines)
    print(f"\n{'':{width}}  {'':>10}  according to")
    for what, value, source in lines:
        print(f"{what:{width}}  {value:>10}  {source}")
    print()
    if report.is_good:
        print(
            "Nothing was lost, nothing was paid twice. Jobs that the killed process had not settled ran again;\n"
            "the idempotency key of the payment made the second run change nothing."
            if report.executed_twice
            else "Nothing was lost, nothing was paid twice."
        )
    elif not idempotent and not report.lost:
        print(
            f"{report.paid_twice} orders were paid twice: with no idempotency key at the sink, a job that runs again\n"
            "pays again. A queue promises at least once; the sink makes it once."
        )
    else:
        print("FAILED: see lost and paid twice above.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; give the exit code."""
    parser = argparse.ArgumentParser(
        description="Ten thousand payments, one worker process killed on the way.",
        epilog="Set WINDLASS_URL to use another store, such as redis://127.0.0.1:6379/0; else it is a file.",
    )
    parser.add_argument("--orders", type=int, default=10_000, metavar="N", help="how many orders (default: all 10,000)")
    parser.add_argument("--no-idempotent-sink", action="store_true", help="pay without idempotency key and fence")
    parser.add_argument("--folder", type=Path, default=Path(".demo"), help="where to work; emptied first")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    if not 100 <= options.orders <= 10_000:
        parser.error(f"--orders {options.orders}: the order file has 10,000, and fewer than 100 are over too soon")
    folder = options.folder.absolute()
    if folder.exists():
        if not (folder / "ledger").is_dir():
            parser.error(f"--folder {folder} is no folder of an earlier demo; name another one")
        shutil.rmtree(folder)
    idempotent = not options.no_idempotent_sink
    try:
        report = Demo(folder, options.orders, idempotent=idempotent).run()
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        show(report, idempotent=idempotent)
    return 0 if report.is_good else 1


STARTED = time.monotonic()

if __name__ == "__main__":
    sys.exit(main())
