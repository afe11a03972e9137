"""A checkout in steps: what is done stays done, though the job runs three times. ``python checkout.py``.

The card is charged, the parcel is handed over, a mail is sent. In the first attempt the carrier does not answer, in the
second the process is killed. Exit code 1 when the card was not charged exactly once.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from windlass import Constant, JobContext, Retry, Windlass  # noqa: E402

app = Windlass(reap="200ms")


@dataclass
class Receipt:
    """What the payment service gives; it comes back as this in every attempt."""

    order: str
    cents: int


def tell(what: str) -> None:
    """Write a line into the book of all that was really done."""
    with Path("book").open("a") as book:
        book.write(f"{what}\n")


def charge(order: str, cents: int, *, key: str) -> Receipt:
    """Take the money. A real service drops a second call with this key: a kill may come before the step is stored."""
    tell(f"{order}: {cents} cents charged")
    return Receipt(order, cents)


def hand_over(receipt: Receipt, attempt: int) -> str:
    """Give the parcel to the carrier, who does not answer at first."""
    if attempt == 1:
        raise ConnectionError("the carrier does not answer")
    tell(f"{receipt.order}: handed over")
    return f"parcel of {receipt.order}"


@app.job(executor="process", retry=Retry(3, backoff=Constant("50ms")))
def check_out(ctx: JobContext, order: str, cents: int) -> str:
    """Charge, hand over, and say so."""
    receipt = ctx.step("charge", charge, order, cents, key=ctx.idempotency_key)
    parcel = ctx.step("hand over", hand_over, receipt, ctx.attempt)
    if not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)  # as when the machine has no memory left
    ctx.step("mail", tell, f"{order}: mailed")
    return f"{parcel}, {receipt.cents} cents, attempt {ctx.attempt}"


def main() -> int:
    from shop.checkout import check_out  # the module that the worker imports, not __main__

    command = [sys.executable, "-m", "windlass", "-A", "shop.checkout:app", "worker", "--log-level", "error"]
    worker = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(HERE.parent)})
    try:
        print(check_out.enqueue("ORD-7", 4200).result(timeout="60s"))
    finally:
        worker.terminate()
        worker.wait(40)
    lines = Path("book").read_text().splitlines()
    print(*lines, sep="\n")
    return 0 if lines == ["ORD-7: 4200 cents charged", "ORD-7: handed over", "ORD-7: mailed"] else 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        # Read when the jobs are imported, here and in the worker: a store of their own, on a server too.
        os.environ.setdefault("WINDLASS_URL", f"sqlite:///{folder}/jobs.db")
        os.environ["WINDLASS_NAMESPACE"] = f"shop-{secrets.token_hex(4)}"
        os.chdir(folder)
        sys.exit(main())
