"""Orders as workflows, the shelf filled by a chain, and a newsletter as a batch. ``python orders.py``.

An order is paid, taken from the shelf and shipped. When the shelf is empty a branch refunds the payment. When the
carrier does not answer the order stands still, and it goes on where it stood once somebody retries it. Exit code 1 when
an order is paid twice or for nothing, or a mail of the newsletter is missing.
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

from windlass import JobContext, JobFailed, Windlass, Workflow, chain  # noqa: E402

app = Windlass(reap="200ms")
DEADLINE = "60s"


def place(name: str) -> Path:
    """What stands in for the bank, the shelf and the carrier: a file of ours."""
    return Path(os.environ.get("SHOP_FOLDER", ".")) / name


# -- an order ----------------------------------------------------------------------------------------------------------


@app.job
def pay(ctx: JobContext, order: str, cents: int) -> dict[str, str]:
    """Take the money, once for each key; give the receipt."""
    receipt = f"paid-{ctx.idempotency_key.replace(':', '-')}"
    place(receipt).write_text(str(cents))
    return {"receipt": receipt}


@app.job(retry=0)
def reserve(order: str, item: str) -> str:
    """Take an item from the shelf. Run again, it finds what it took before."""
    if not place(f"{item}-for-{order}").exists():
        shelf = sorted(place(".").glob(f"shelf-{item}-*"))
        if not shelf:
            raise LookupError(f"order {order}: no {item} is on the shelf")
        shelf[0].rename(place(f"{item}-for-{order}"))
    return item


@app.job(retry=0)
def ship(order: str, item: str) -> str:
    """Hand the parcel to the carrier."""
    if not place("carrier").exists():
        raise ConnectionError("the carrier does not answer")
    return f"{order}: a {item} is on its way"


@app.job
def refund(order: str, receipt: str | None) -> str:
    """Give the money back, if any was taken. Run twice, it does so once."""
    if receipt is not None:
        place(receipt).unlink(missing_ok=True)
    return f"{order}: refunded"


def order_of(order: str, item: str, cents: int) -> Workflow:
    """Make the workflow of an order; its id makes sure that it is started once."""
    flow = Workflow("order", id=f"order-{order}")
    paid = flow.add(pay.bind(order, cents), name="pay")
    stock = flow.add(reserve.bind(order, item), name="reserve", after=paid)
    flow.add(ship.bind(order, stock.result), name="ship")
    # It waits for the payment as well, whose receipt it takes; None, when that is what has failed.
    flow.add(refund.bind(order, receipt=paid.result["receipt"]), name="refund", after=stock, when="any_failed")
    return flow


# -- the shelf ---------------------------------------------------------------------------------------------------------


@app.job
def buy(item: str, pieces: int) -> list[str]:
    """Buy items; give their names."""
    return [f"{item}-{number}" for number in range(pieces)]


@app.job
def shelve(bought: list[str]) -> str:
    """Put on the shelf what was bought."""
    for name in bought:
        place(f"shelf-{name}").touch()
    return f"{len(bought)} pieces are on the shelf"


# -- the newsletter ----------------------------------------------------------------------------------------------------


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
    from shop.orders import app, buy, order_of, send, sent, shelve  # the module that the worker imports, not __main__

    with worker():
        shelved = chain(buy.bind("lamp", 2), shelve.bind()).enqueue()
        print(f"{shelved.result(timeout=DEADLINE)}.")
        place("carrier").touch()

        order = app.start(order_of("ORD-7", "lamp", 4200))
        print(f"{order.result(timeout=DEADLINE)['ship']}.")
        again = app.start(order_of("ORD-7", "lamp", 4200))
        print(f"ORD-7 was ordered again: duplicate {again.duplicate}, {again.state}.")

        order = app.start(order_of("ORD-8", "moon", 99_900))
        print(f"{order.result(timeout=DEADLINE)['refund']}, and the order has {order.state}.")

        place("carrier").unlink()
        order = app.start(order_of("ORD-9", "lamp", 4200))
        try:
            order.result(timeout=DEADLINE)
        except JobFailed:
            states = ", ".join(f"{step.name} {step.state}" for step in order.steps())
            print(f"ORD-9 stands still: {states}.")
        place("carrier").touch()
        order.retry("ship")
        print(f"The carrier is back. {order.result(timeout=DEADLINE)['ship']}.")
        paid = sorted(path.name for path in place(".").glob("paid-*"))
        print(f"Paid: {', '.join(paid)}.")

        with app.batch("newsletter", on_success=sent.bind("newsletter")) as batch:
            for customer in range(2_500):
                batch.add(send.bind(customer))
        said = batch.callbacks["on_success"].result(timeout=DEADLINE)
        print(f"{said}: {batch.progress().done} of {batch.progress().total} mails")
    return 0 if len(paid) == 2 and batch.progress().done == 2_500 else 1


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        # Read when the jobs are imported, here and in the worker: a store of their own, on a server too.
        os.environ.setdefault("WINDLASS_URL", f"sqlite:///{folder}/jobs.db")
        os.environ["WINDLASS_NAMESPACE"] = f"shop-{secrets.token_hex(4)}"
        os.environ["SHOP_FOLDER"] = folder
        os.chdir(folder)
        sys.exit(main())
