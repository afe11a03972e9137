"""Which queues a set of slots serves, and how each claim is shared out among them.

Weighted (the default): stride scheduling. A queue that gets a job moves on by 1/weight, and the queue that is least far
on has the next turn, so under saturation each gets its share to within one job, in claims of any size. A queue that had
nothing is not owed what it could not use, and is never behind one that had: its first job has the next turn but those
of queues as far back. Strict: the order counts, and a later queue gets what the earlier ones leave.

Patterns (``report-*``) stand for the queues that the store knows; whoever owns a policy tells it their names. Queues of
one pattern share its weight alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from heapq import heapify, heapreplace

from windlass.core.errors import ConfigError
from windlass.core.patterns import is_pattern, matches, parse_queues
from windlass.core.work import QueueShare

__all__ = ["QueuePolicy"]


class QueuePolicy:
    """The queues of one set of slots; none of them named means every queue of the store, alike. Not thread-safe."""

    def __init__(
        self, weights: dict[str, int] | None = None, *, strict: bool = False, without: Collection[str] = ()
    ) -> None:
        """``without`` are queues to leave alone, whatever the patterns say."""
        self.strict = strict
        self._written = weights or {}
        self._without = frozenset(without)
        patterns = weights or {"*": 1}
        # The engine shares alike among all its queues by itself.
        self._every = patterns.keys() == {"*"} and not without
        self._patterns = patterns
        self._at: dict[str, float] = {}  # how far on each queue is: claims / weight
        self._weights: dict[str, float] = {}
        self._asked: dict[str, int] = {}
        self.learn(())

    @classmethod
    def parse(cls, texts: Sequence[str], *, strict: bool = False, without: Collection[str] = ()) -> QueuePolicy:
        """Read ``-q`` options: ``a``, ``a,b``, ``a=3``, ``a-*``. Raises ConfigError for a bad name or weight."""
        weights = parse_queues(texts)
        if strict and not weights:
            raise ConfigError("--strict orders the queues that -q names; name at least one")
        return cls(weights, strict=strict, without=without)

    def __str__(self) -> str:
        text = ",".join(name if weight == 1 else f"{name}={weight}" for name, weight in self._written.items()) or "*"
        return f"{text} (strict)" if self.strict else text

    @property
    def serves(self) -> tuple[str, ...]:
        """The names and patterns."""
        return tuple(self._patterns)

    @property
    def names(self) -> list[str] | None:
        """The queues to wait for, or None for all: a pattern may be met by a queue that is not there yet."""
        return None if self.is_open else list(self._weights)

    @property
    def is_open(self) -> bool:
        """Whether queues can come to it later, so that it must learn their names."""
        return any(map(is_pattern, self._patterns))

    @property
    def must_learn(self) -> bool:
        """Whether it needs the names of the store's queues to make shares."""
        return self.is_open and not self._every

    @property
    def is_ordered(self) -> bool:
        """Whether some queues go before others."""
        return self.strict or len(set(self._patterns.values())) > 1

    def covers(self, queue: str) -> bool:
        """Whether it serves a queue."""
        return queue not in self._without and matches(self._patterns, queue)

    def learn(self, names: Iterable[str]) -> bool:
        """Take in the queues that the store knows; true when that changed what is served."""
        before = self._weights.keys()
        known = list(names)
        weights: dict[str, float] = {}
        for pattern, weight in self._patterns.items():
            met = [name for name in known if matches((pattern,), name)] if is_pattern(pattern) else [pattern]
            met = [
                name
                for name in met
                if name not in self._without and name not in weights and not self._named(name, pattern)
            ]
            weights |= dict.fromkeys(met, weight / max(1, len(met)))
        start = min(self._at.values(), default=0.0)
        self._weights = weights
        self._at = {name: self._at.get(name, start) for name in weights}
        return weights.keys() != before

    def _named(self, name: str, pattern: str) -> bool:
        """A queue that is named is served as it is named, not by a pattern as well."""
        return name != pattern and name in self._patterns

    def shares(self, limit: int) -> tuple[QueueShare, ...] | None:
        """How to fill a claim of ``limit`` jobs; None: every queue of the store, alike."""
        if self._every:
            return None
        if self.strict or len(self._weights) < 2:
            return tuple(QueueShare(name, limit) for name in self._weights)
        # By the end of its next turn: of two that are as far on, the heavier goes first.
        turns = [
            (self._at[name] + 1 / weight, place, name) for place, (name, weight) in enumerate(self._weights.items())
        ]
        heapify(turns)
        order = [name for _, _, name in sorted(turns)]
        counts = dict.fromkeys(order, 0)
        for _ in range(limit):
            end, place, name = turns[0]
            counts[name] += 1
            heapreplace(turns, (end + 1 / self._weights[name], place, name))
        self._asked = counts
        return tuple(QueueShare(name, count) for name, count in counts.items())

    def charge(self, queues: Iterable[str], limit: int | None = None) -> None:
        """Note what a claim brought: the queue of each lease.

        Where room for kinds of jobs kept it below its ``limit``, shares of what it brought count.
        """
        if self._every or self.strict or len(self._weights) < 2:
            return
        got = dict.fromkeys(self._at, 0)
        for queue in queues:
            if queue in got:
                got[queue] += 1
        asked = self._asked
        if limit:
            total = sum(got.values())
            asked = {name: count * total // limit for name, count in asked.items()}
        full = [name for name, count in got.items() if count and count >= asked.get(name, 0)]
        # Where the furthest behind of those stands that still had jobs: nobody else may be owed more than they are.
        line = min((self._at[name] for name in full), default=None)
        for name, count in got.items():
            if line is not None and count < asked.get(name, 0):
                self._at[name] = max(self._at[name], line)
            self._at[name] += count / self._weights[name]
