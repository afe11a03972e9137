"""Blocking until there is work, or until jobs have ended. Only hints travel here: whoever is woken looks again.

An idle worker blocks on the wake lists of the queues it serves, or on those of all when it serves any, and on the inbox
of its engine object. There are two of each: for jobs of the event loop, and for those of threads or of an unknown kind;
a worker blocks on those whose jobs it could start. What makes work ready puts one token into the queue's list and one
into that of all, and the server gives it to whoever has waited longest; a claim that leaves work behind passes a token
on. A list holds one token at most, so nothing grows when nobody listens.

The end of a job that somebody waits for is published by the script that ends it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from redis.client import PubSub
from redis.exceptions import ResponseError

from windlass.core.errors import EngineError, EngineUnavailable, EngineUnusable
from windlass.core.model import Slot
from windlass.core.work import Watch
from windlass.engines.redis.connection import Client, Command, node_of, send, send_both
from windlass.engines.redis.core import BLOCK_SLICE_S, RedisCore
from windlass.engines.redis.errors import raised_by_driver, translate
from windlass.engines.redis.scripts import script
from windlass.logs import Log

__all__ = ["RedisWaiting"]

log = Log("windlass.engine")
T = TypeVar("T")

BLIND_S: Final = 0.5  # between looks of a worker that nobody can wake
TOKEN_LIFE_MS: Final = 60_000
SHORTEST_BLOCK_S: Final = 0.001
LOOK_AGAIN_S: Final = 2.0  # the most a lost message can delay wait_finished
ASKED_FOR_MS: Final = 60_000  # how long an end is asked for; renewed at every look


class RedisWaiting(RedisCore):
    """``wait``, ``wake`` and ``wait_finished`` of the engine."""

    def _forget_handles(self) -> None:
        super()._forget_handles()
        self._wakes = threading.Lock()
        self._woken = False
        self._waiting = 0
        self._said_blind = False

    def wait(self, queues: Sequence[str | Watch] | None, timeout: float) -> bool:
        return self._unless_woken(lambda: self._block(queues, timeout), True)

    def _unless_woken(self, block: Callable[[], T], woken: T) -> T:
        """What a block on the server gives, or ``woken`` when ``wake`` came before it."""
        self._client()
        with self._wakes:
            if self._woken:
                self._woken = False
                return woken
            self._waiting += 1
        try:
            return block()
        finally:
            with self._wakes:
                self._waiting -= 1
                self._woken = False

    def _block(self, queues: Sequence[str | Watch] | None, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            if self._pop(self._wait_keys(queues), min(max(left, SHORTEST_BLOCK_S), BLOCK_SLICE_S)):
                return True
            if left <= BLOCK_SLICE_S or self._woken:  # the latter: the token of a wake got lost
                return self._woken

    def _wait_keys(self, queues: Sequence[str | Watch] | None) -> list[str]:
        """Our inbox, and the lists in which tokens for these jobs come."""
        lists: dict[str, None] = {self._inbox: None}
        for one in (None,) if queues is None else queues:
            queue, slots = (one.queue, one.slots) if isinstance(one, Watch) else (one, ())
            of = "" if queue is None else f":{queue}"
            if not slots or Slot.THREAD in slots:
                lists[f"{self._prefix}wake{of}"] = None
            if not slots or Slot.LOOP in slots:
                lists[f"{self._prefix}wake-loop{of}"] = None
        return list(lists)

    def _block_then(self, queues: Sequence[str | Watch] | None, timeout: float, call: Sequence[Command]) -> object:
        """Block for one slice at most, and whatever ends that, run a command: one round trip, since both are sent at
        once and the server does the second when the first is over. Gives its answer, or the error that was it.
        """
        client = node_of(self._waiting_client(), self._fixed[0])
        keys = self._wait_keys(queues)
        block = ("BLPOP", *keys, f"{min(max(timeout, SHORTEST_BLOCK_S), BLOCK_SLICE_S):.3f}")
        nothing, answer = self._asked(lambda: send_both(client, block, call))
        if isinstance(nothing, ResponseError):
            self._block(queues, timeout)  # which knows what to do about a list that is none
        return answer

    def _waiting_client(self) -> Client:
        client = self._blocks
        if client is None:
            raise EngineUnavailable(f"{self.target} was closed while a thread waited on it")
        return client

    def _pop(self, keys: Sequence[str], seconds: float) -> bool:
        client = self._waiting_client()
        try:
            return self._asked(lambda: send(client, "BLPOP", *keys, f"{seconds:.3f}")) is not None
        except EngineUnusable as error:
            if "WRONGTYPE" not in str(error):
                raise
            if not self._said_blind:
                self._said_blind = True
                log.warning(
                    "a list by which workers hear of jobs is something else, so they look by themselves: %s", error
                )
        # Only our own inbox is sure to be a list.
        self._asked(lambda: send(client, "BLPOP", keys[0], f"{min(seconds, BLIND_S):.3f}"))
        return True

    def wake(self) -> None:
        with self._wakes:
            blocked = self._waiting > 0 and not self._woken  # else a token is on its way already
            self._woken = True
        if blocked:
            self._nudge([self._inbox])

    def writer(self) -> int | None:
        return None  # no client can keep another from writing

    def _nudge(self, inboxes: Sequence[str]) -> None:
        """Put a token into inboxes. A hint: a server that is away is no error here, since waits end by themselves."""
        keys = [inbox.encode() for inbox in dict.fromkeys(inboxes)]
        try:
            self._run(self._client(), script("nudge"), keys, [TOKEN_LIFE_MS])
        except EngineError:
            pass

    def wait_finished(self, ids: Sequence[str], timeout: float) -> bool:
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return True
        deadline = time.monotonic() + timeout
        if self._unfinished(wanted) == 0:
            return True
        if timeout <= 0:
            return False
        client = self._waiting_client()
        pubsub: PubSub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        try:
            self._asked(lambda: pubsub.subscribe(self._key("awaited").decode()))
            while True:
                # Asked after the subscription stands, so an end in between is seen here or told there.
                if self._unfinished(wanted) == 0:
                    return True
                if not self._told(pubsub, deadline):
                    return False
        finally:
            try:
                pubsub.close()
            except Exception as error:
                if not raised_by_driver(error):
                    raise

    def _unfinished(self, ids: Sequence[str]) -> int:
        what = script("await")
        reply = self._run(self._client(), what, self._keys(what), self._sent((), ASKED_FOR_MS, *ids))
        return int(str(reply))

    def _told(self, pubsub: PubSub, deadline: float) -> bool:
        """Block until some awaited job ended or it is time to look again; false when the deadline has passed."""
        look = min(deadline, time.monotonic() + LOOK_AGAIN_S)
        while True:
            left = look - time.monotonic()
            if left <= 0:
                return time.monotonic() < deadline
            try:
                message = pubsub.get_message(timeout=left)
            except Exception as error:
                if not raised_by_driver(error):
                    raise
                raise translate(error, self.target) from error
            if message is not None:
                return True
