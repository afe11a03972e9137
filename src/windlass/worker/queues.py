"""Which queues a worker serves, and how a claim is shared out among them.

Weighted (the default): a claim gives each queue its share of the limit, in an order drawn by weight, and what one queue
leaves goes to the others; so no queue starves. Strict: the order counts, and a later queue gets what the earlier ones
leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from windlass.errors import ConfigError
from windlass.model import QueueShare
from windlass.units import check_name

__all__ = ["QueuePolicy"]


class QueuePolicy:
    """The queues of one worker; None of them named means every queue of the store, alike."""

    def __init__(self, weights: dict[str, int] | None = None, *, strict: bool = False) -> None:
        self.weights = weights or {}
        self.strict = strict

    @classmethod
    def parse(cls, texts: Sequence[str], *, strict: bool = False) -> QueuePolicy:
        """Read ``-q`` options: ``a``, ``a,b``, ``a=3``. Raises ConfigError for a bad name or weight."""
        weights: dict[str, int] = {}
        for part in (part.strip() for text in texts for part in text.split(",")):
            name, equals, weight = part.partition("=")
            check_name(name, "queue")
            if equals and not (weight.isdigit() and 1 <= int(weight) <= 1_000):
                raise ConfigError(f"queue {part!r}: a weight is a whole number from 1 to 1000, as in {name}=3")
            if name in weights:
                raise ConfigError(f"queue {name!r} is named twice")
            weights[name] = int(weight) if equals else 1
        if strict and not weights:
            raise ConfigError("--strict orders the queues that -q names; name at least one")
        return cls(weights, strict=strict)

    def __str__(self) -> str:
        if not self.weights:
            return "*"
        if self.strict:
            return ",".join(self.weights) + " (strict)"
        return ",".join(name if weight == 1 else f"{name}={weight}" for name, weight in self.weights.items())

    @property
    def names(self) -> list[str] | None:
        """The queues by name, or None for all."""
        return list(self.weights) or None

    def shares(self, limit: int, rng: Random) -> tuple[QueueShare, ...] | None:
        """How to fill a claim of ``limit`` jobs."""
        if not self.weights:
            return None
        if self.strict or len(self.weights) == 1:
            return tuple(QueueShare(name, limit) for name in self.weights)
        total = sum(self.weights.values())
        # The larger the weight the earlier, on average: Efraimidis and Spirakis, "Weighted random sampling", 2006.
        order = sorted(self.weights, key=lambda name: rng.random() ** (1 / self.weights[name]), reverse=True)
        return tuple(QueueShare(name, max(1, limit * self.weights[name] // total)) for name in order)
