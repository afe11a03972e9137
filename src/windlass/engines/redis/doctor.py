"""A look at the store itself: the server's settings, and entries that a lost write left behind.

Every script is atomic, so orphans come only from outside: a log cut in the middle, keys deleted by hand, eviction. The
look goes through the store in bounded steps while everybody works on.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from redis import Redis
from redis.connection import SSLConnection

from windlass.core.clock import from_ms
from windlass.core.errors import EngineDamaged
from windlass.engines.base import REPAIR, Finding
from windlass.engines.damage import LAST_MS
from windlass.engines.redis.access import look_at_access, look_at_version
from windlass.engines.redis.connection import Command, node_of, send
from windlass.engines.redis.inspector import RedisInspector
from windlass.engines.redis.reading import as_list
from windlass.engines.redis.records import DETAIL_HASHES
from windlass.engines.redis.startup import Server, examine
from windlass.engines.redis.wire import as_int

__all__ = ["RedisDoctor"]

STEP: Final = 500
SPOILED_SHOWN: Final = 5
NEARLY_FULL: Final = 0.9  # of maxmemory
ROLLBACK_SHOWN_MS: Final = 86_400_000
LOOK: Final = "enqueue the jobs of that time again where they are missing; with ids of your own that is safe"


class RedisDoctor(RedisInspector):
    """``Inspector.doctor`` of the engine."""

    def doctor(self, repair: bool = False) -> list[Finding]:
        """Check server and store; with ``repair``, repair orphans. *Blocking, in bounded steps.*"""
        node = node_of(self._client(), self._fixed[0])
        server = self._asked(lambda: examine(node, self.target, self._durability))
        findings = [
            Finding("redis", "ok", f"{self.target}: version {server.version}, role {server.role}"),
            policy(server),
            persistence(server),
            evictions(server),
            memory(server),
            look_at_version(server.version, valkey=server.valkey),
            *look_at_access(node.connection_pool.connection_kwargs, is_tls(node)),
            self._records(repair),
        ]
        if findings[-1].level != "error":  # else calls fall over what is damaged, and would repair it
            findings += [
                self._orphans("jobs that are in no index", self._audit(repair), repair),
                self._orphans("index entries without a job", self._sweep(repair), repair),
            ]
        findings += [Finding("rollback", "error", alarm, LOOK) for alarm in self.alarms]
        return findings + self._noted_rollback(node)

    def _noted_rollback(self, node: Redis) -> list[Finding]:
        """The last rollback that a worker saw, for a day."""
        try:
            note = self._asked(lambda: send(node, "HGET", self._key("meta"), "rollback"))
        except EngineDamaged:
            return []  # of another type, as ``_records`` has said
        if not isinstance(note, bytes):
            return []
        when, _, what = note.decode("utf-8", "replace").partition(" ")
        if not when.isdecimal() or not 0 <= int(when) <= LAST_MS or int(when) < self._wall_ms() - ROLLBACK_SHOWN_MS:
            return []
        return [Finding("rollback", "error", f"{from_ms(int(when)):%Y-%m-%d %H:%M:%S} UTC: {what}", LOOK)]

    def _records(self, repair: bool) -> Finding:
        spoiled = self._repairer.spoiled()
        if not spoiled and repair and (repaired := self._repair_now()):  # what no record shows by itself
            return Finding("records", "warning", f"{repaired} indexes and counters were wrong; repaired just now")
        if not spoiled:
            return Finding("records", "ok", "every record is sound")
        what = f"{len(spoiled)} records are damaged: {'; '.join(spoiled[:SPOILED_SHOWN])}"
        if not repair:
            return Finding("records", "error", what, f"repair them: `{REPAIR}`; any live worker does it too")
        self._repair_now()
        return Finding("records", "warning", f"{what}; repaired just now")

    def _orphans(self, what: str, count: int, repaired: bool) -> Finding:
        if count == 0:
            return Finding("orphans", "ok", f"no {what}")
        if repaired:
            return Finding("orphans", "warning", f"{count} {what}; repaired just now")
        return Finding("orphans", "error", f"{count} {what}", f"repair them: `{REPAIR}`")

    def _audit(self, repair: bool) -> int:
        """Jobs that no index has, and details of jobs that are gone."""
        wrong = 0
        for name in DETAIL_HASHES:
            for ids in self._scan("HSCAN", self._key(name)):
                args: list[Command] = [int(repair), self._rules.keep_done_ms, *ids]
                count, _ = self._call("audit", (), args)
                wrong += as_int(count)
        return wrong

    def _sweep(self, repair: bool) -> int:
        """Entries of indexes whose job is gone or in another state."""
        wrong = 0
        for key, queue, place, cut, states in self._index_keys():
            for members in self._scan("ZSCAN", key):
                args: list[Command] = [int(repair), place, cut, states, *members]
                (count,) = self._call("sweep", queue, args)
                wrong += as_int(count)
        return wrong

    def _scan(self, command: str, key: bytes) -> Iterator[list[bytes]]:
        """The fields or members of one key, in chunks."""
        cursor = 0
        while True:
            client = node_of(self._client(), key)
            try:
                following, flat = as_list(self._asked(partial(send, client, command, key, cursor, "COUNT", STEP)))
            except EngineDamaged:
                return  # of another type, as ``_records`` has said
            cursor = as_int(following)
            names = [name for name in as_list(flat)[::2] if isinstance(name, bytes)]
            if names:
                yield names
            if cursor == 0:
                return


def policy(server: Server) -> Finding:
    """Whether the server may evict jobs."""
    if server.policy == "noeviction":
        return Finding("eviction", "ok", "maxmemory-policy is noeviction")
    return Finding(
        "eviction",
        "warning",
        f"maxmemory-policy is {server.policy or 'not readable'}",
        "run CONFIG SET maxmemory-policy noeviction, and write it into the server's configuration",
    )


def persistence(server: Server) -> Finding:
    """What a restart of the server would lose."""
    if server.persistence.startswith("aof"):
        return Finding("persistence", "ok", server.persistence)
    lost = {
        "rdb": "a restart loses what came after the last snapshot",
        "memory": "a restart loses every job",
        "no-aof": "there is no append-only file, so a restart loses what came after the last snapshot, if there is one",
    }
    return Finding(
        "persistence", "warning", lost.get(server.persistence, "not readable"), "run CONFIG SET appendonly yes"
    )


def memory(server: Server) -> Finding:
    """Whether there is room for more jobs."""
    if server.maxmemory == 0:
        return Finding("memory", "ok", f"{server.used / 2**20:,.0f} MiB are used, and there is no bound")
    words = f"{server.used / 2**20:,.0f} of {server.maxmemory / 2**20:,.0f} MiB are used"
    if server.used < server.maxmemory * NEARLY_FULL:
        return Finding("memory", "ok", words)
    return Finding("memory", "warning", words, "raise maxmemory; a full server makes enqueue raise EngineFull")


def is_tls(node: Redis) -> bool:
    """Whether the connections to a node are encrypted."""
    return issubclass(node.connection_pool.connection_class, SSLConnection)


def evictions(server: Server) -> Finding:
    """Whether the server has thrown keys away."""
    if server.evicted == 0:
        return Finding("evicted_keys", "ok", "nothing was evicted")
    return Finding(
        "evicted_keys",
        "error",
        f"the server has evicted {server.evicted} keys since it started; jobs may be among them",
        "set maxmemory-policy to noeviction; orphans, if there are any, are listed on their own",
    )
