"""A tax service that is slow, limited and sometimes down, and jobs that neither hammer it nor get lost.

The circuit opens after five failures in a minute, or when half of at least twenty calls fail; while it is open the jobs
wait in the queue with their attempts intact. The limits keep the shop within what the service allows.
"""

from __future__ import annotations

from dataclasses import dataclass

from windlass import Concurrency, Rate, Windlass
from windlass.events import CircuitClosed, CircuitOpened

__all__ = ["Service", "TaxServiceError", "app", "news", "rate_of", "service", "tax"]

app = Windlass()


class TaxServiceError(Exception):
    """What the service answers when it cannot answer; ``retry_after`` in seconds where it said so."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass
class Service:
    """Stands in for the service."""

    down: bool = False
    calls: int = 0

    def rate(self, country: str) -> float:
        self.calls += 1
        if self.down:
            raise TaxServiceError("503 Service Unavailable")
        return {"FR": 0.2, "DE": 0.19}.get(country, 0.0)


service = Service()
news: list[str] = []
tax = app.circuit(
    "tax",
    failures=5,
    failure_rate=0.5,
    min_calls=20,
    window="60s",
    open_for="30s",
    half_open=2,
    slow_call="5s",
    trip_on=(TaxServiceError, TimeoutError),
)


@app.job(
    name="shop.rate_of",
    queue="taxes",
    circuit="tax",
    limits=[Concurrency(4, key="tax"), Rate("100/s", key="tax", burst=10)],
    retry=8,
)
def rate_of(country: str) -> float:
    """Ask the service for the rate of a country."""
    return service.rate(country)


@app.on(CircuitOpened)
def opened(event: CircuitOpened) -> None:
    """Tell somebody, once, that the service is down."""
    news.append(f"{event.circuit} is down: {event.reason}")


@app.on(CircuitClosed)
def closed(event: CircuitClosed) -> None:
    """Tell them that it is back."""
    news.append(f"{event.circuit} is back")
