"""The shop's jobs: import an order file, take a payment.

A worker for them is started in the folder above with ``windlass -A shop.jobs:app worker``.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice
from pathlib import Path

from shop import ledger
from shop.app import app
from shop.domain import Order, shop
from windlass import Call, JobContext

__all__ = ["app", "import_orders", "pay_order"]

CHUNK = 500  # orders that are stored and enqueued together
RECEIPT_SECONDS = 0.01  # how long the mail server takes for a receipt


@app.job(queue="imports", timeout="10m", tags=["shop"])
def import_orders(ctx: JobContext, path: str, limit: int | None = None) -> int:
    """Store the orders of a CSV file and enqueue a payment for each; give how many. Safe to run twice."""
    orders = islice(read_orders(Path(path)), limit)
    done = 0
    while chunk := list(islice(orders, CHUNK)):
        shop().add_orders(chunk)
        app.enqueue_many(payment_of(order) for order in chunk)
        done += len(chunk)
        ctx.progress(done, message=f"order {chunk[-1].id}")
    return done


@app.job(queue="payments", retry=5, timeout="30s", tags=["shop", "money"])
def pay_order(ctx: JobContext, order_id: str, amount: Decimal, currency: str) -> str:
    """Take the payment of one order and mail a receipt. May run twice; pays once."""
    ledger.write("begin", order_id, ctx.fence)
    paid = shop().pay(order_id, amount, currency, key=ctx.idempotency_key, fence=ctx.fence)
    time.sleep(RECEIPT_SECONDS)
    ledger.write("end", order_id, ctx.fence)
    return paid


def payment_of(order: Order) -> Call[str]:
    """The payment job of an order. Its id is made from the order, so enqueueing it twice stores it once."""
    return pay_order.options(id=f"pay-{order.id}").bind(order.id, order.amount, order.currency)


def read_orders(path: Path) -> Iterator[Order]:
    """Read an order file line by line."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield Order(
                id=row["order_id"],
                customer=row["customer"],
                city=row["city"],
                line=row["line"],
                amount=Decimal(row["amount"]),
                currency=row["currency"],
                ordered_on=row["ordered_on"],
            )
