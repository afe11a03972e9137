"""A payment that is charged once, whatever happens around it.

Three layers, each for one thing that goes wrong: ``Once`` lets two deliveries of a payment run one after the other and
ends the second with the result of the first; the idempotency key lets the gateway drop what a crash repeats; the lock's
fence keeps a process that was suspended from writing to the account late.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from windlass import JobContext, LockBusy, Once, Windlass

__all__ = ["Gateway", "app", "book", "charge", "gateway"]

app = Windlass()


@dataclass
class Gateway:
    """Stands in for a payment service: it remembers idempotency keys, as real ones do."""

    charged: dict[str, int] = field(default_factory=dict)
    calls: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def charge(self, payment_id: int, cents: int, key: str) -> str:
        with self.lock:
            self.calls += 1
            self.charged.setdefault(key, cents)
            return f"receipt-{payment_id}"


gateway = Gateway()
balances: dict[str, tuple[int, int]] = {}  # account: cents and the highest fence that wrote


@app.job(name="shop.charge", queue="payments", once=Once("payment:{payment_id}", keep="24h"), retry=5)
def charge(ctx: JobContext, payment_id: int, cents: int) -> str:
    """Charge a payment and give its receipt; every delivery of the payment gives the same one."""
    return gateway.charge(payment_id, cents, ctx.idempotency_key)


@app.job(name="shop.book", queue="payments", retry=5)
def book(account: str, cents: int) -> int:
    """Add to an account under its lock. A busy lock puts the job back with no attempt used."""
    with app.lock(f"account:{account}", lease="10s", wait="2s") as lock:
        before, fence = balances.get(account, (0, 0))
        lock.check()
        if lock.fence < fence:  # a real sink does this in one statement: see docs/guards.md
            raise LockBusy(f"account {account} was written by a later holder", account)
        balances[account] = (before + cents, lock.fence)
        return before + cents
