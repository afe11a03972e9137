"""Orders and payments, in the shop's own database. Nothing here knows that jobs exist.

The database is a file of its own (``SHOP_DB``): never the one the jobs live in. ``pay`` is an idempotent sink: a second
delivery of the same payment finds its key taken and changes nothing, and a delivery with an older fence than one seen
before is refused. ``SHOP_SINK=plain`` takes both protections away, to show what they are for.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    id TEXT PRIMARY KEY, customer TEXT NOT NULL, city TEXT NOT NULL, line TEXT NOT NULL,
    cents INTEGER NOT NULL, currency TEXT NOT NULL, ordered_on TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS payments (
    number INTEGER PRIMARY KEY, order_id TEXT NOT NULL, cents INTEGER NOT NULL, currency TEXT NOT NULL,
    idempotency_key TEXT NOT NULL, fence INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS payments_order ON payments (order_id);
CREATE TABLE IF NOT EXISTS fences (order_id TEXT PRIMARY KEY, highest INTEGER NOT NULL);
"""
ONE_PAYMENT_A_KEY = "CREATE UNIQUE INDEX IF NOT EXISTS payments_key ON payments (idempotency_key)"
RAISE_FENCE = """
INSERT INTO fences (order_id, highest) VALUES (?1, ?2)
ON CONFLICT (order_id) DO UPDATE SET highest = ?2 WHERE highest <= ?2
"""


@dataclass(frozen=True)
class Order:
    """One line of the order file. ``ordered_on`` is an ISO date."""

    id: str
    customer: str
    city: str
    line: str
    amount: Decimal
    currency: str
    ordered_on: str


class Paid(StrEnum):
    """What became of one delivery of a payment."""

    NOW = "paid"
    BEFORE = "was paid before"
    LATE = "refused: a newer run has this order"


class Shop:
    """The shop's database. *Thread-safe*: one connection, one lock."""

    def __init__(self, path: str, *, idempotent: bool = True) -> None:
        self._idempotent = idempotent
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(SCHEMA)
        if idempotent:
            self._db.execute(ONE_PAYMENT_A_KEY)

    def add_orders(self, orders: Iterable[Order]) -> None:
        """Store orders; those that are known stay as they are. *Atomic, idempotent.*"""
        rows = [(o.id, o.customer, o.city, o.line, int(o.amount * 100), o.currency, o.ordered_on) for o in orders]
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany("INSERT OR IGNORE INTO orders VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def pay(self, order_id: str, amount: Decimal, currency: str, *, key: str, fence: int) -> Paid:
        """Take one payment, once per ``key`` however often it is delivered. *Atomic, idempotent, fenced.*"""
        row = (order_id, int(amount * 100), currency, key, fence)
        with self._lock, self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if self._idempotent and self._db.execute(RAISE_FENCE, (order_id, fence)).rowcount == 0:
                return Paid.LATE
            paid = self._db.execute(
                "INSERT OR IGNORE INTO payments (order_id, cents, currency, idempotency_key, fence)"
                " VALUES (?, ?, ?, ?, ?)",
                row,
            )
            return Paid.NOW if paid.rowcount == 1 else Paid.BEFORE

    def paid_orders(self) -> int:
        """How many orders have been paid."""
        return int(self._db.execute("SELECT count(DISTINCT order_id) FROM payments").fetchone()[0])

    def payments_by_order(self) -> dict[str, int]:
        """The number of payments of every order, 0 included."""
        rows = self._db.execute(
            "SELECT o.id, count(p.number) FROM orders o LEFT JOIN payments p ON p.order_id = o.id GROUP BY o.id"
        )
        return {str(order): int(count) for order, count in rows}

    def close(self) -> None:
        """Close the database."""
        self._db.close()


_open: dict[int, Shop] = {}  # by process id: a connection must not be carried over a fork
_opening = threading.Lock()


def shop() -> Shop:
    """Give the shop's database of this process (``SHOP_DB``, ``SHOP_SINK``)."""
    with _opening:
        pid = os.getpid()
        if pid not in _open:
            _open[pid] = Shop(os.environ.get("SHOP_DB", "shop.db"), idempotent=os.environ.get("SHOP_SINK") != "plain")
        return _open[pid]
