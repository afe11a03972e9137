"""A redrive at a rate, as the store keeps it: one document that says what to move and how far it has come.

Must not move anything itself: a worker's redriver does. Invariants: a document is changed by compare-and-set only; a
step first notes the deaths it is about to move (``pending``), so whoever goes on after a crash moves the same ones and
no others, and moving a death twice has no effect.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from windlass.core.model import Swap, Versioned, Write
from windlass.core.rows import JobFilter
from windlass.core.work import LeaseRef
from windlass.engines.base import Coordinator, Store

__all__ = ["DONE", "PREFIX", "RATE_MAX", "RUNNING", "STOPPED", "Operation", "find", "save", "stop"]

PREFIX: Final = "redrive:"
RUNNING, STOPPED, DONE = "running", "stopped", "done"
KEEP_MS: Final = 86_400_000  # how long one that has ended can be asked about
RATE_MAX: Final = 1_000.0  # jobs a second; above that nobody sees the difference to all at once


class Operation(Struct, frozen=True, omit_defaults=True):
    """One redrive. ``done`` counts the deaths that were seen to; ``owner`` is the worker that does."""

    id: str
    where: JobFilter
    total: int
    rate: float
    started_at: int
    limit: int | None = None
    state: str = RUNNING
    done: int = 0
    cursor: str | None = None
    last: bool = False  # nothing follows behind the cursor
    pending: tuple[LeaseRef, ...] = ()
    owner: str = ""

    @property
    def left(self) -> int | None:
        """How many more may be moved; None: all there are."""
        return None if self.limit is None else max(0, self.limit - self.done - len(self.pending))


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Operation)


def find(store: Coordinator, keys: list[str]) -> list[tuple[Versioned, Operation]]:
    """Read operations; one that is gone, or that a newer version wrote, is left out."""
    found = []
    for document in store.read(keys):
        if document.value is not None:
            try:
                found.append((document, _decoder.decode(document.value)))
            except msgspec.MsgspecError:
                continue
    return found


def save(store: Store, operation: Operation, version: int) -> Versioned | None:
    """Write an operation over the version that was read; None when it has changed since."""
    ttl_ms = None if operation.state == RUNNING else KEEP_MS
    swap = Swap(PREFIX + operation.id, version, _encoder.encode(operation).decode(), ttl_ms)
    written = store.commit(Write(swaps=(swap,)))
    return None if written.lost else written.documents[0]


def stop(store: Store, operation_id: str) -> bool:
    """Let an operation move no more after the step it is in; false when it has ended or is not known."""
    while True:
        found = find(store, [PREFIX + operation_id])
        if not found or found[0][1].state != RUNNING:
            return False
        document, operation = found[0]
        if save(store, replace(operation, state=STOPPED), document.version) is not None:
            return True
