"""Locks, circuits and limits: the Coordinator half of the engine. Each call is one script.

A waiter for a lock listens to a channel; the count of releases that a try gave tells whether one happened before it
began to listen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from redis.client import PubSub

from windlass.core.coordination import Grip, LimitRow, LockRow
from windlass.core.errors import EngineUnavailable
from windlass.core.model import GuardKind
from windlass.core.work import LeaseRef
from windlass.engines.damage import made
from windlass.engines.redis.connection import Command
from windlass.engines.redis.core import repairing
from windlass.engines.redis.doctor import RedisDoctor
from windlass.engines.redis.errors import raised_by_driver
from windlass.engines.redis.wire import as_int, as_list, none_below_zero, strings

__all__ = ["RedisCoordinator"]

LIMITS_MAX: Final = 1_000


class RedisCoordinator(RedisDoctor):
    """``engines.base.Coordinator`` in the namespace's own keys."""

    def lock(self, key: str, token: str, lease_ms: int, owner: str, wait_ms: int) -> Grip:
        fence, left, held_by, seen = self._call("lock", (), [key, token, lease_ms, owner, wait_ms])
        (holder,) = strings([held_by])
        return Grip(none_below_zero(fence), as_int(left), holder, as_int(seen))

    def renew(self, locks: Sequence[tuple[str, str]], lease_ms: int) -> list[bool]:
        if not locks:
            return []
        args: list[Command] = [lease_ms]
        for key, token in locks:
            args += key, token
        (kept,) = strings(self._call("renew", (), args))
        return [one == "1" for one in kept]

    def unlock(self, key: str, token: str | None) -> bool:
        return bool(as_int(self._call("unlock", (), [key, token or ""])[0]))

    def wait_unlocked(self, seen: int, timeout: float) -> None:
        self._client()
        client = self._blocks
        if client is None:
            raise EngineUnavailable(f"{self.target} was closed while a thread waited on it")
        deadline = time.monotonic() + timeout
        pubsub: PubSub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        try:
            self._asked(lambda: pubsub.subscribe(self._key("locks").decode()))
            if as_int(self._call("locks", (), ())[0]) == seen:
                self._told(pubsub, deadline)
        finally:
            try:
                pubsub.close()
            except Exception as error:
                if not raised_by_driver(error):
                    raise

    @repairing
    def locks(self) -> list[LockRow]:
        flat = as_list(self._call("locks", (), ())[1])
        rows = []
        for at in range(0, len(flat), 6):
            key, owner = strings(flat[at : at + 2])
            fence, since, left, waiting = (as_int(one) for one in flat[at + 2 : at + 6])
            rows.append(made(LockRow, key=key, owner=owner, fence=fence, since=since, left_ms=left, waiting=waiting))
        return sorted(rows, key=lambda row: row.key)

    def probe(self, gate: str, token: str, places: int, lease_ms: int, job: LeaseRef | None) -> bool:
        ref: list[Command] = ["", 0] if job is None else [job.id, job.fence]
        return bool(as_int(self._call("probe", (), [gate, token, places, lease_ms, *ref])[0]))

    def end_probe(self, gate: str, token: str) -> None:
        self._call("end_probe", (), [gate, token])

    def probes(self, gates: Sequence[str]) -> list[int]:
        return [as_int(one) for one in self._call("probes", (), list(gates))]

    @repairing
    def limits(self) -> list[LimitRow]:
        flat = as_list(self._call("limits", (), [LIMITS_MAX])[0])
        rows = []
        for at in range(0, len(flat), 6):
            kind, key = strings(flat[at : at + 2])
            used, limit, per, waiting = (as_int(one) for one in flat[at + 2 : at + 6])
            rows.append(LimitRow(GuardKind(kind), key, used, limit if limit > 0 else None, per, waiting))
        return rows
