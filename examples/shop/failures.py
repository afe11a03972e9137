"""What each failure of a payment service means to the shop, said once.

Run it by hand in the folder above, with a worker beside it:

    windlass -A shop.failures:app worker
    python -m shop.failures
"""

from __future__ import annotations

from shop.app import app
from windlass import (
    Dead,
    Discard,
    Exponential,
    JobCancelled,
    JobFailed,
    JobInfo,
    Retry,
    Snooze,
    current_job,
    on,
)

__all__ = ["app", "settle_invoice"]


class RateLimited(Exception):
    """The service is busy and says when to come back."""

    def __init__(self, retry_after: str) -> None:
        super().__init__(f"slow down for {retry_after} s")
        self.retry_after = retry_after


class CardRefused(Exception):
    """No later attempt will change the bank's mind."""


POLICY = Retry(
    attempts=5,
    within="24h",
    backoff=Exponential(factor="100ms", cap="10m"),
    rules=[
        on(RateLimited).after(lambda error: error.retry_after),
        on(ConnectionError, "http.client.HTTPException").retry(attempts=8),
        on(CardRefused).dead(),
    ],
)


@app.job(queue="payments", retry=POLICY, timeout="30s")
def settle_invoice(invoice: str) -> str:
    """Settle one invoice with a service that fails in every way; ``invoice`` says which."""
    attempt, first = current_job().attempt, current_job().scheduled_for == current_job().enqueued_at
    match invoice:
        case "busy" if attempt == 1:
            raise RateLimited("0.2")
        case "unsteady" if attempt < 3:
            raise ConnectionResetError("connection reset by peer")
        case "not yet open" if first:
            raise Snooze("200ms", "the bank opens in a moment")
        case "paid by hand":
            raise Discard("the customer paid at the counter")
        case "refused":
            raise CardRefused("do not honour")
        case "unknown":
            raise Dead("no such invoice; somebody has to look at it")
    return f"settled in attempt {attempt}"


@settle_invoice.on_dead
def tell_accounting(info: JobInfo) -> None:
    """Somebody has to look at a dead payment."""
    print(f"accounting: invoice {info.args} needs you: {info.reason or info.errors[-1].message}")


def main() -> None:
    """Enqueue an invoice of each kind and say what became of it."""
    for invoice in ("fine", "busy", "unsteady", "not yet open", "paid by hand", "refused", "unknown"):
        handle = settle_invoice.enqueue(invoice)
        try:
            print(f"{invoice}: {handle.result(timeout='30s')}")
        except (JobFailed, JobCancelled) as error:
            print(f"{invoice}: {error}")


if __name__ == "__main__":
    main()
