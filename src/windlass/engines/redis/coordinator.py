"""Holds, circuits and limits: the Coordinator half of the engine. Each call is one script.

A waiter in a line listens to a channel; the count of releases that a try gave tells whether one happened before it
began to listen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from redis.client import PubSub

from windlass.core.coordination import Grip, HoldRow, LimitRow
from windlass.core.errors import EngineUnavailable
from windlass.core.model import GuardKind
from windlass.core.work import LeaseRef
from windlass.engines.damage import made
from windlass.engines.redis.connection import Command
from windlass.engines.redis.core import repairing
from windlass.engines.redis.doctor import RedisDoctor
from windlass.engines.redis.errors import raised_by_driver
from windlass.engines.redis.reading import as_list, strings
from windlass.engines.redis.wire import as_int, none_below_zero

__all__ = ["RedisCoordinator"]

LIMITS_MAX: Final = 1_000


class RedisCoordinator(RedisDoctor):
    """``engines.base.Coordinator`` in the namespace's own keys."""

    def hold(
        self,
        gate: str,
        token: str,
        places: int,
        lease_ms: int,
        owner: str = "",
        wait_ms: int = 0,
        job: LeaseRef | None = None,
    ) -> Grip:
        ref: list[Command] = ["", 0] if job is None else [job.id, job.fence]
        args: list[Command] = [gate, token, places, lease_ms, owner, wait_ms, *ref]
        fence, left, held_by, seen = self._call("hold", (), args)
        (holder,) = strings([held_by])
        return Grip(none_below_zero(fence), as_int(left), holder, as_int(seen))

    def renew(self, held: Sequence[tuple[str, str]], lease_ms: int) -> list[bool]:
        if not held:
            return []
        args: list[Command] = [lease_ms]
        for gate, token in held:
            args += gate, token
        (kept,) = strings(self._call("renew", (), args))
        return [one == "1" for one in kept]

    def release(self, gate: str, token: str | None) -> bool:
        return bool(as_int(self._call("release", (), [gate, token or ""])[0]))

    def wait_released(self, seen: int, timeout: float) -> None:
        self._client()
        client = self._blocks
        if client is None:
            raise EngineUnavailable(f"{self.target} was closed while a thread waited on it")
        deadline = time.monotonic() + timeout
        pubsub: PubSub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        try:
            self._asked(lambda: pubsub.subscribe(self._key("locks").decode()))
            if as_int(self._call("holds", (), ())[0]) == seen:
                self._told(pubsub, deadline)
        finally:
            try:
                pubsub.close()
            except Exception as error:
                if not raised_by_driver(error):
                    raise

    @repairing
    def holds(self, prefix: str = "") -> list[HoldRow]:
        flat = as_list(self._call("holds", (), [prefix])[1])
        rows = []
        for at in range(0, len(flat), 7):
            gate, owner, job = strings([flat[at], flat[at + 1], flat[at + 6]])
            fence, since, waiting = (as_int(flat[at + n]) for n in (2, 3, 5))
            left = flat[at + 4]
            row = made(
                HoldRow,
                gate=gate,
                owner=owner,
                fence=fence,
                since=since,
                left_ms=None if left == b"" else as_int(left),
                waiting=waiting,
                job=job or None,
            )
            rows.append(row)
        return sorted(rows, key=lambda row: (row.gate, row.fence))

    @repairing
    def limits(self) -> list[LimitRow]:
        flat = as_list(self._call("limits", (), [LIMITS_MAX])[0])
        rows = []
        for at in range(0, len(flat), 6):
            kind, key = strings(flat[at : at + 2])
            used, limit, per, waiting = (as_int(one) for one in flat[at + 2 : at + 6])
            rows.append(LimitRow(GuardKind(kind), key, used, limit if limit > 0 else None, per, waiting))
        return rows
