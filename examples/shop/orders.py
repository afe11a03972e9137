"""An order as a chain, and a newsletter as a batch. ``python orders.py``.

An order is paid, packed and shipped, one after the other, each step with the result of the one before. When the shelf
is empty the order waits in the dead list, nothing is shipped, and it goes on once somebody has filled the shelf. Exit
code 1 when a mail of the newsletter is missing.
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

from windlass import JobCancelled, Windlass, chain  # noqa: E402

app = Windlass(reap="200ms")
DEADLINE = "60s"


@app.job
def pay(order_id: str, cents: int) -> dict[str, str | int]:
    """Take the money; give the receipt."""
    return {"order": order_id, "cents": cents}


@app.job(retry=0)
def pack(receipt: dict[str, str | int], shelf: str) -> str:
    """Pack what was paid, from a shelf that is a file here."""
    if not Path(shelf).exists():
        raise LookupError(f"order {receipt['order']}: the shelf is empty")
    return f"parcel {receipt['order']}"


@app.job
def ship(parcel: str) -> str:
    """Hand over a parcel."""
    return f"{parcel} is on its way"


@app.job(queue="mail")
def send(customer: int) -> None:
    """Mail one newsletter."""


@app.job(queue="mail")
def sent(what: str) -> str:
    """Say that all mails are sent."""
    return f"The {what} is out"


@contextmanager
def worker() -> Iterator[None]:
    """A worker of this file, while the block runs."""
    command = [sys.executable, "-m", "windlass", "-A", "shop.orders:app", "worker", "--log-level", "error"]
    process = subprocess.Popen(command, cwd=HERE.parent)
    try:
        yield
    finally:
        process.terminate()
        process.wait(40)


def main() -> int:
    from shop.orders import app, pack, pay, send, sent, ship  # the module that the worker imports, not __main__

    shelf = Path("shelf").resolve()
    with worker():
        order = chain(pay.bind("ORD-7", 4200), pack.bind(shelf=str(shelf)), ship.bind()).enqueue()
        try:
            order.result(timeout=DEADLINE)
        except JobCancelled:
            print("The shelf was empty: the order is paid, and not shipped.")
        shelf.touch()
        app.dead.retry()
        print(f"The shelf is filled: {order.result(timeout=DEADLINE)}.")

        with app.batch("newsletter", on_success=sent.bind("newsletter")) as batch:
            for customer in range(2_500):
                batch.add(send.bind(customer))
        said = batch.callbacks["on_success"].result(timeout=DEADLINE)
        print(f"{said}: {batch.progress().done} of {batch.progress().total} mails")
    return 0 if batch.progress().done == 2_500 else 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        # Read when the jobs are imported, here and in the worker: a store of their own, on a server too.
        os.environ.setdefault("WINDLASS_URL", f"sqlite:///{folder}/jobs.db")
        os.environ["WINDLASS_NAMESPACE"] = f"shop-{secrets.token_hex(4)}"
        os.chdir(folder)
        sys.exit(main())
