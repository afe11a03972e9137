"""What to do about payments that died: group them, mend them, run them again at a rate. ``python dead_letters.py``.

Stores six payments that cannot succeed, lets a worker run them to their death, and works them off as an operator
would. Exit code 1 when a payment is left dead that could be mended.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from windlass import JobFailed, JobHandle, Windlass  # noqa: E402

app = Windlass(reap="200ms")
DEADLINE = "60s"


@app.job(retry=0, redact=["card"])
def take_payment(order_id: str, cents: int, card: str) -> str:
    """Take one payment, if it can be."""
    if cents <= 0:
        raise ValueError(f"order {order_id} costs {cents}")
    if card == "expired":
        raise PermissionError(f"the card of order {order_id} was refused")
    return f"{order_id}: {cents}"


@contextmanager
def worker() -> Iterator[None]:
    """A worker of this file, while the block runs."""
    command = [sys.executable, "-m", "windlass", "-A", "shop.dead_letters:app", "worker", "--log-level", "error"]
    process = subprocess.Popen(command, cwd=HERE.parent)
    try:
        yield
    finally:
        process.terminate()
        process.wait(40)


def died(handles: list[JobHandle[str]]) -> int:
    """Wait for payments to end; give how many are dead."""
    count = 0
    for handle in handles:
        try:
            handle.result(timeout=DEADLINE)
        except JobFailed:
            count += 1
    return count


def main() -> int:
    from shop.dead_letters import app, take_payment  # the module that the worker imports, not __main__

    wrong = [take_payment.enqueue(f"ORD-{n}", 0, "good") for n in range(1, 4)]
    refused = [take_payment.enqueue(f"ORD-{n}", 3712, "expired") for n in range(4, 7)]
    with worker():
        print(f"{died([*wrong, *refused])} payments died, of:")
        for group in app.dead.groups():
            print(f"  {group.count} x {group.error} in {group.frame}, such as: {group.message}")

        print("The amounts were wrong: mend them, and run them again.")
        for n, handle in enumerate(wrong, 1):
            app.dead.edit(handle.id, args=[f"ORD-{n}", 4200, "good"])
        redrive = app.dead.retry(error=ValueError, rate="10/s")
        redrive.wait(DEADLINE)
        left = died(wrong)
        print(f"  {redrive.done} of {redrive.total} were run again, {left} of them died again")

        print("The cards stay refused: keep a copy, cards hidden, and let them go.")
        copy = Path("refused.jsonl")
        print(f"  {app.dead.export(copy, error=PermissionError)} in {copy}")
        print(f"  {app.dead.discard(error=PermissionError)} discarded, {app.dead.count()} left")
    return 1 if left or app.dead.count() else 0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        # Read when the jobs are imported, here and in the worker: a store of their own, on a server too.
        os.environ.setdefault("WINDLASS_URL", f"sqlite:///{folder}/jobs.db")
        os.environ["WINDLASS_NAMESPACE"] = f"shop-{secrets.token_hex(4)}"
        os.chdir(folder)
        sys.exit(main())
