"""A transaction of the store's own database for a running job: refused where there is none, and bounded in time.

What is committed in it is the caller's affair. Invariant: one that held the store's only writer for too long is rolled
back, since nobody could renew a lease meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from windlass.core.clock import Clock
from windlass.core.errors import ConfigError, TransactionTooLong
from windlass.engines.base import Store, TransactionalCommit, TransactionalSettle, Tx
from windlass.settings import Settings

__all__ = ["Place", "open_transaction"]


class Place(Protocol):
    """Where a transaction takes place."""

    @property
    def engine(self) -> Store: ...

    @property
    def clock(self) -> Clock: ...

    @property
    def settings(self) -> Settings: ...


@contextmanager
def open_transaction(place: Place, what: str) -> Iterator[tuple[Tx, TransactionalSettle]]:
    """Open a transaction, and give it with the store that settles and notes in it. ``what`` begins every error."""
    engine = place.engine
    if not (isinstance(engine, TransactionalCommit) and isinstance(engine, TransactionalSettle)):
        raise ConfigError(
            f"{what}: the engine {place.engine.info.name!r} has no transactions; it needs a SQL engine. Use "
            "ctx.idempotency_key or ctx.fence at the sink instead"
        )
    with engine.transaction() as tx:
        began = place.clock.boot_ms()
        yield tx, engine
        took_ms, most_ms = place.clock.boot_ms() - began, place.settings.renew // 2
        if place.engine.info.one_writer and took_ms > most_ms:
            raise TransactionTooLong(
                f"{what}: its transaction was open for {took_ms / 1000:g} s and holds the store's only writer, so it "
                f"must end within {most_ms / 1000:g} s (half of renew); it was rolled back. Do slow work before it"
            )
