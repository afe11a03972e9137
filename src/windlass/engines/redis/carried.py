"""Circuits of stores of the version before: a hash of msgpack values, where documents are now.

They are read over when a store is opened, each only where there is no document of that circuit yet. So it happens once,
whoever comes first. The hash stays as it is: a worker of the version before goes on by it until it is replaced, and
until then neither hears what the other makes of a circuit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec import Struct

from windlass.core import circuit
from windlass.core.circuit import CircuitDocument
from windlass.core.model import Swap

__all__ = ["HASH", "swaps_of"]

HASH = "circuits"


class OldCircuit(Struct):
    """A circuit as the scripts packed it; -1 and empty text stand for nothing."""

    state: str
    epoch: int
    since: int
    open_until: int
    half_open: int
    successes: int
    reason: str
    by_hand: int
    slices: list[tuple[int, int, int]]
    slice_ms: int


decode = msgspec.msgpack.Decoder(OldCircuit).decode


def swaps_of(flat: Sequence[object]) -> Iterator[Swap]:
    """The documents of circuits, from names and values in turn. What cannot be read is left out."""
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        if isinstance(name, bytes) and isinstance(value, bytes):
            try:
                text = circuit.encode(document_of(decode(value)))
                yield Swap(circuit.key_of(name.decode()), 0, text)
            except (ValueError, msgspec.MsgspecError):
                continue


def document_of(old: OldCircuit) -> CircuitDocument:
    """The document of one circuit. Raises ValueError for one that is not sound."""
    return msgspec.convert(
        {
            "state": old.state,
            "epoch": old.epoch,
            "since": old.since if old.since >= 0 else None,
            "open_until": old.open_until if old.open_until >= 0 else None,
            "half_open": old.half_open,
            "successes": old.successes,
            "reason": old.reason or None,
            "by_hand": bool(old.by_hand),
            "slices": old.slices,
            "slice_ms": old.slice_ms,
        },
        CircuitDocument,
    )
