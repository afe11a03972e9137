"""What a registered job is: the options that may be written, and the function with its options resolved.

Pure data: whoever shows, claims or runs a job needs no more than its spec.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, Literal, TypeAlias, TypedDict

from msgspec import Struct

from windlass.core.codec import Signature
from windlass.core.model import Slot
from windlass.core.retry import Retry, Rule
from windlass.core.units import Duration
from windlass.guards.circuit import Circuit
from windlass.guards.options import Limit, Once, Unique

__all__ = ["CALL_KEYS", "DEFAULT_QUEUE", "GUARD_KEYS", "JOB_KEYS", "CallOptions", "JobOptions", "JobSpec", "OnStall"]

DEFAULT_QUEUE: Final = "default"

OnStall: TypeAlias = Literal["alert", "retry", "cancel"]


class SharedOptions(TypedDict, total=False):
    """What may be said at the definition and at a call."""

    queue: str
    priority: int
    retry: int | Retry | Sequence[Rule]
    timeout: Duration | None
    stall_after: Duration | None
    on_stall: OnStall
    expires: Duration | None
    keep: Duration | None
    durability: Literal["fsync", "normal"] | None
    tags: Iterable[str]
    version: str | None
    once: Once | None
    unique: Unique | None
    circuit: str | Circuit | None
    limits: Limit | Iterable[Limit] | None


class JobOptions(SharedOptions, total=False):
    """What ``app.job`` takes."""

    name: str
    aliases: Iterable[str]
    executor: Literal["thread", "process"] | None
    redact: Iterable[str]


class CallOptions(SharedOptions, total=False):
    """What ``job.options`` takes. None for ``delay``, ``at`` and ``id`` is as if they were not given."""

    delay: Duration | None
    at: datetime | None
    id: str | None
    at_front: bool
    connection: object


GUARD_KEYS: Final = ("once", "unique", "circuit", "limits")
SHARED_KEYS: Final = (
    "queue", "priority", "retry", "timeout", "stall_after", "on_stall", "expires", "keep", "durability", "tags",
    "version", *GUARD_KEYS,
)  # fmt: skip
JOB_KEYS: Final = frozenset({*SHARED_KEYS, "name", "aliases", "executor", "redact"})
CALL_KEYS: Final = frozenset({*SHARED_KEYS, "delay", "at", "id", "at_front", "connection"})


class JobSpec(Struct, frozen=True, eq=False):
    """A registered function with its options resolved. Lengths are milliseconds; ``retry.attempts`` is set."""

    name: str
    fn: Callable[..., object]
    is_async: bool
    takes_context: bool
    signature: Signature
    queue: str
    priority: int
    retry: Retry
    timeout_ms: int | None
    stall_ms: int | None
    on_stall: OnStall
    expires_ms: int | None
    executor: Literal["thread", "process"] | None  # None: the loop for async jobs, a thread for others
    keep_ms: int | None
    durability: Literal["fsync", "normal"] | None
    tags: tuple[str, ...]
    redact: tuple[str, ...]
    version: str | None
    aliases: tuple[str, ...]
    guards: Mapping[str, object]  # the guard options, as they were written
    circuits: tuple[str, ...]  # those that were declared before the job

    @property
    def slot(self) -> Slot:
        """The kind of slot that it runs in."""
        return Slot.LOOP if self.is_async and self.executor != "process" else Slot.THREAD
