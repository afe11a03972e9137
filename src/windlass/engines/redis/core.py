"""One engine object's link to its store: clients, keys, the one way to run a script, and what a fork does.

Every call is one script and one round trip. Nothing is sent twice but a script that only reads. The engine opens at
first use. A forked child must not use its parent's sockets: it forgets them without closing and opens its own.

Invariants: every key of a namespace bears the hash tag ``{namespace}``, so a cluster keeps them on one node; a script
is given the fixed keys that it names and makes those of the queues it meets, so a call does not cost more with every
queue that there is.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeAlias, TypeVar

import msgspec
from redis.exceptions import NoScriptError

from windlass.core.clock import Clock, SystemClock
from windlass.core.errors import (
    ConfigError,
    EngineDamaged,
    EngineError,
    EngineUnavailable,
    EngineUnusable,
    WindlassError,
)
from windlass.core.work import Rules
from windlass.engines.base import EngineInfo
from windlass.engines.redis.connection import Client, Command, Spares, hang_up, make_client, node_of, send, target_of
from windlass.engines.redis.errors import is_busy, raised_by_driver, translate
from windlass.engines.redis.reading import as_list
from windlass.engines.redis.records import FIXED_INDEXES, QUEUE_INDEXES, QUEUE_KEYS, SCHEMA, Repairer
from windlass.engines.redis.scripts import FIXED_KEYS, READ_ONLY, TYPES, Script, script
from windlass.engines.redis.startup import Server, examine
from windlass.engines.redis.wire import as_int, pack
from windlass.logs import Log

__all__ = ["UNSOUND", "RedisCore", "repairing"]

T = TypeVar("T")
Seen: TypeAlias = Literal["writes", "jobs"]  # the counters by which a rollback shows

log = Log("windlass.engine")

GUARDED_S: Final = 10.0  # how long a store that had guards is taken to have some still
QUEUES_A_CALL: Final = 500  # whose keys are looked at in one call
BUSY_PAUSE_S: Final = 0.05  # between tries while the server answers that a script runs for long
REPAIR_PAUSE_S: Final = 10.0  # between two looks through the store that found nothing
BLOCK_SLICE_S: Final = 4.0  # longest single block on the server, so that a half-open connection is noticed


class RedisCore:
    """Connections, keys and calls of one engine object. *Thread-safe.*"""

    def __init__(
        self,
        url: str | None = None,
        *,
        client: object = None,
        clock: Clock | None = None,
        namespace: str = "windlass",
        rules: Rules | None = None,
        durability: str | None = None,
        network_timeout_ms: int = 5_000,
        pool_timeout_ms: int = 5_000,
    ) -> None:
        if (url is None) == (client is None):
            raise ConfigError("the Redis engine takes either a url or client=, and exactly one of them")
        self.target = target_of(url, client)
        self.may_create = True
        self.alarms: list[str] = []  # rollbacks that were seen and that no upkeep has told of yet
        self._url = url
        self._user_client = client
        # Without a clock of ours the server's own decides, in every script.
        self._clock = None if isinstance(clock, SystemClock) else clock
        self._namespace = namespace
        self._rules = rules or Rules()
        self._durability = durability
        self._timeout = network_timeout_ms / 1000
        self._pool_timeout = pool_timeout_ms / 1000
        self._prefix = f"{{{namespace}}}:"
        self._fixed = [f"{self._prefix}{name}".encode() for name in FIXED_KEYS]
        self._keys_for: dict[str, list[bytes]] = {}  # the fixed keys of a script
        self._server = Server()
        self._is_spoiled = False  # something is to be repaired as soon as the store is open
        if url is not None and not url.startswith("redis+cluster"):
            make_client(url, None, self._timeout, self._pool_timeout)  # a wrong URL shows where it is written
        self._forget_handles()
        ENGINES.add(self)

    def _forget_handles(self) -> None:
        self._opening = threading.RLock()
        self._calls: Client | None = None
        self._blocks: Client | None = None
        self._spares = Spares()
        self._flights = threading.Lock()
        self._landed = threading.Condition(self._flights)
        self._flying = 0  # calls under way
        self._guarded_until = 0.0  # monotonic seconds; until then scripts are called in their long form
        self._seen: dict[Seen, int] = {"writes": 0, "jobs": 0}
        self._repairer = Repairer(self)
        self._mending = threading.RLock()
        self._is_repairing = False  # the thread that has the lock above is at it
        self._repaired_at = -REPAIR_PAUSE_S
        self._inbox = f"{self._prefix}inbox:{uuid.uuid4()}"

    @property
    def info(self) -> EngineInfo:
        fsync = self._durability == "fsync"
        return EngineInfo(
            name="redis",
            target=self.target,
            version=self._server.version or "not connected yet",
            durability="fsync" if fsync else self._server.persistence,
            shared=True,
        )

    def open(self) -> None:
        """Connect, examine the server, look at our keys. *Idempotent, blocking.*

        Raises EngineUnavailable, EngineUnusable, or ConfigError for a durability that the server cannot give.
        """
        with self._opening:
            if self._calls is not None:
                return
            calls = self._make(self._timeout)
            try:
                server = self._asked(lambda: examine(node_of(calls, self._fixed[0]), self.target, self._durability))
                self._server = server
                self._look(calls)
                self._blocks = self._make(BLOCK_SLICE_S + self._timeout)
            except BaseException:
                hang_up(calls)
                raise
            for warning in server.warnings:
                log.warning("%s: %s", self.target, warning)
            log.info("%s: version %s, persistence %s", self.target, server.version, server.persistence)
            self._calls = calls
            if self._is_spoiled:
                self._repair_now()

    def close(self) -> None:
        """Close the connections, once the calls under way have ended; a ``wait`` is cut off. *Idempotent.*"""
        with self._opening:
            calls, blocks = self._calls, self._blocks
            self._calls = self._blocks = None
        if blocks is not None:
            hang_up(blocks)
        if calls is not None:
            with self._landed:
                self._landed.wait_for(lambda: self._flying == 0, self._timeout)
            hang_up(calls)

    def migrate(self) -> int:
        """Bring the schema up to date; give its version. *Idempotent.*"""
        self.open()
        return SCHEMA

    def _make(self, timeout: float) -> Client:
        return self._asked(lambda: make_client(self._url, self._user_client, timeout, self._pool_timeout))

    def _asked(self, ask: Callable[[], T]) -> T:
        """What the driver answers, or our error for its own."""
        try:
            return ask()
        except Exception as error:
            if not raised_by_driver(error):
                raise
            raise translate(error, self.target) from error

    def _look(self, client: Client) -> None:
        """Check types and schema of what is stored under our keys, and learn the queues."""
        self._is_spoiled = False
        self._check_types(client, ())
        node = node_of(client, self._fixed[0])
        if self._is_spoiled:
            return
        names = self._queue_names(node)
        for first in range(0, len(names), QUEUES_A_CALL):
            self._check_types(client, names[first : first + QUEUES_A_CALL])
        have = self._asked(lambda: send(node, "HGET", self._key("meta"), "schema"))
        if have is None:
            if self.may_create:
                self._asked(lambda: send(node, "HSETNX", self._key("meta"), "schema", SCHEMA))
        elif not isinstance(have, bytes) or not re.fullmatch(rb"\d{1,4}", have):
            self._is_spoiled = True
        elif as_int(have) > SCHEMA:
            raise EngineUnusable(
                f"{self.target} has jobs of schema {as_int(have)} in namespace {self._namespace!r}, and this windlass "
                f"knows schemas up to {SCHEMA}: upgrade windlass here, or choose another namespace"
            )

    def _types(self, client: Client, names: Sequence[str]) -> Iterator[tuple[bytes, str, str]]:
        """Of our keys that there are: the name, the type that it has, and the type that it must have."""
        keys = self._fixed + [key for name in names for key in self._keys_of(name)]
        found = as_list(self._send(client, script("check"), keys, self._sent(())))
        fixed = [TYPES.get(name, "hash") for name in FIXED_KEYS]
        of_queue = ["list" if name.startswith("wake") else "zset" for name in QUEUE_KEYS]
        for key, kind, wanted in zip(keys, found, fixed + of_queue * len(names), strict=True):
            have = kind.decode() if isinstance(kind, bytes) else str(kind)
            if have != "none":
                yield key, have, wanted

    def _check_types(self, client: Client, names: Sequence[str]) -> None:
        """Refuse keys that others write. A store that has been ours is repaired instead."""
        wrong = [one for one in self._types(client, names) if one[1] != one[2]]
        if not wrong or self._is_ours(client):
            self._is_spoiled = self._is_spoiled or bool(wrong)
            return
        key, have, wanted = wrong[0]
        raise EngineUnusable(
            f"{self.target}: key {key.decode()} is a {have} and not the {wanted} that windlass keeps there: "
            "something else writes it; choose another namespace or database"
        )

    def _is_ours(self, client: Client) -> bool:
        """Whether this was a store of ours before, by two keys of which one may be spoiled."""
        node = node_of(client, self._fixed[0])
        kinds = [self._asked(partial(send, node, "TYPE", self._key(name))) for name in ("meta", "body")]
        if kinds[0] == b"hash":
            return self._asked(lambda: send(node, "HEXISTS", self._key("meta"), "schema")) == 1
        return kinds[1] == b"hash"

    def _key(self, name: str) -> bytes:
        return self._fixed[FIXED_KEYS.index(name)]

    def _keys(self, what: Script) -> list[bytes]:
        """The keys that a script is given."""
        keys = self._keys_for.get(what.sha)
        if keys is None:
            keys = self._keys_for[what.sha] = [self._key(name) for name in what.keys]
        return keys

    def _keys_of(self, queue: str) -> list[bytes]:
        """Those of a queue, as the scripts make them."""
        return [f"{self._prefix}{kind}:{queue}".encode() for kind in QUEUE_KEYS]

    def _queue_names(self, node: Client) -> list[str]:
        names = self._asked(lambda: as_list(send(node, "HKEYS", self._key("queues"))))
        return sorted(one.decode("utf-8", "replace") for one in names if isinstance(one, bytes))

    def _sent(self, names: Sequence[str], *args: Command) -> list[Command]:
        """The arguments of a script; ``names`` are queues that others of them give by number."""
        return [self._clock_text(), pack(names), self._prefix, *args]

    def _clock_text(self) -> str:
        clock = self._clock
        return "" if clock is None else f"{clock.wall_ms()}:{clock.boot_ms()}"

    def _client(self) -> Client:
        client = self._calls
        if client is None:
            self.open()
            client = self._calls
            if client is None:
                raise EngineUnavailable(f"{self.target} was closed by another thread: open it again")
        return client

    def _call(
        self,
        name: str,
        names: Sequence[str],
        args: Sequence[Command],
        *,
        fsync: bool = False,
        guarded: bool = True,
    ) -> list[object]:
        """Run a script. Without ``guarded`` in its short form, as long as the store seems to have no guards."""
        client = self._client()
        run = self._run_to_disk if fsync else self._run
        while True:
            what, keys, sent = self._made_call(name, names, args, guarded=guarded)
            reply = as_list(run(client, what, keys, sent))
            if not self._is_for_guards(reply):
                return reply

    def _made_call(
        self, name: str, names: Sequence[str], args: Sequence[Command], *, guarded: bool
    ) -> tuple[Script, Sequence[bytes], Sequence[Command]]:
        """A script, its keys and its arguments."""
        what = script(name, guarded=guarded or time.monotonic() < self._guarded_until)
        return what, self._keys(what), self._sent(names, *args)

    def _is_for_guards(self, reply: Sequence[object]) -> bool:
        """Whether a short form found guards in the store, and so has done nothing; the next call is the long form."""
        if not reply or reply[0] != b"\0guards":
            return False
        self._guarded_until = time.monotonic() + GUARDED_S
        return True

    def _run(self, client: Client, what: Script, keys: Sequence[bytes], args: Sequence[Command]) -> object:
        """Run a script by its digest, or by its text where the server has lost it."""
        with self._flights:
            self._flying += 1
        try:
            try:
                return self._send(client, what, keys, args)
            except EngineDamaged:
                if not self._repair():
                    raise
                return self._send(client, what, keys, args)
        finally:
            with self._flights:
                self._flying -= 1
                if self._flying == 0:
                    self._landed.notify_all()

    def _send(self, client: Client, what: Script, keys: Sequence[bytes], args: Sequence[Command]) -> object:
        command = (len(keys), *keys, *args)
        tries = 2 if what.name in READ_ONLY else 1
        give_up_at = time.monotonic() + self._timeout
        while True:
            tries -= 1
            try:
                try:
                    return send(client, "EVALSHA", what.sha, *command, spares=self._spares)
                except NoScriptError:
                    return send(client, "EVAL", what.text, *command)
            except Exception as error:
                if not raised_by_driver(error):
                    raise
                if is_busy(error) and time.monotonic() < give_up_at:  # it did nothing, and may end any moment
                    tries += 1
                    time.sleep(BUSY_PAUSE_S)
                    continue
                ours = translate(error, self.target)
                if tries and isinstance(ours, EngineUnavailable) and not isinstance(ours, EngineUnusable):
                    continue
                raise ours from error

    # -- repairing --------------------------------------------------------------------------------------

    def _repair(self) -> bool:
        """Repair what is damaged in the store; false when that is under way in this thread, or found nothing lately."""
        with self._mending:
            if self._is_repairing or time.monotonic() - self._repaired_at < REPAIR_PAUSE_S:
                return False
            if not self._repair_now():
                self._repaired_at = time.monotonic()  # a whole look for nothing is not to be had at every call
            return True

    def _repair_now(self) -> int:
        """Look through the store and repair what is damaged; give how much that was."""
        with self._mending:
            self._is_repairing = True
            try:
                return self._repairer.repair()
            finally:
                self._is_repairing = False

    def _ask_plainly(self, *command: Command) -> object:
        node = node_of(self._calls or self._client(), self._fixed[0])
        return self._asked(lambda: send(node, *command))

    def _script(self, name: str, args: Sequence[Command], names: Sequence[str] = ()) -> list[object]:
        return self._call(name, names, args)

    def _correct(self, key: bytes, field: bytes, value: bytes, fresh: bytes | None) -> bool:
        args: list[Command] = [field, value] if fresh is None else [field, value, fresh]
        return as_int(self._send(self._client(), script("correct"), [key], args)) == 1

    def _kinds_of_keys(self) -> Iterator[tuple[bytes, str, str]]:
        """The keys that there are, each with the type it has and the one it must have."""
        client, queues, good = self._client(), self._key("queues"), True
        for key, have, wanted in self._types(client, ()):
            good = good and (key != queues or have == wanted)
            yield key, have, wanted
        if not good:
            return
        names, fixed = self._queue_names(node_of(client, self._fixed[0])), set(self._fixed)
        for first in range(0, len(names), QUEUES_A_CALL):
            yield from (one for one in self._types(client, names[first : first + QUEUES_A_CALL]) if one[0] not in fixed)

    def _index_keys(self) -> Iterator[tuple[bytes, tuple[str, ...], int, int, str]]:
        """Every index: its key, its queue, its number among the keys of a script or queue, how to read its members."""
        for name, (cut, states) in FIXED_INDEXES.items():
            yield self._key(name), (), FIXED_KEYS.index(name) + 1, cut, states
        for queue in self._queue_names(node_of(self._client(), self._fixed[0])):
            for name, (cut, states) in QUEUE_INDEXES.items():
                place = QUEUE_KEYS.index(name)
                yield self._keys_of(queue)[place], (queue,), place + 1, cut, states

    def _run_to_disk(self, client: Client, what: Script, keys: Sequence[bytes], args: Sequence[Command]) -> object:
        """Run a script and wait, on the same connection, until the server has synced it to its disk."""
        command = (len(keys), *keys, *args)
        wait = ("WAITAOF", 1, 0, int(self._timeout * 900))
        node = node_of(client, self._fixed[0])

        def ask(*call: Command) -> list[object]:
            pipeline = node.pipeline(transaction=False)
            pipeline.execute_command(*call)  # type: ignore[no-untyped-call]
            pipeline.execute_command(*wait)  # type: ignore[no-untyped-call]
            return list(pipeline.execute(raise_on_error=False))

        reply, synced = self._asked(lambda: ask("EVALSHA", what.sha, *command))
        if isinstance(reply, NoScriptError):
            reply, synced = self._asked(lambda: ask("EVAL", what.text, *command))
        for one in (reply, synced):
            if isinstance(one, Exception):
                raise translate(one, self.target) from one
        if as_int(as_list(synced)[0]) < 1:
            raise EngineUnavailable(
                f"{self.target} has stored the write but did not sync it to its disk in time: send it again, with the "
                "same ids its jobs are stored once"
            )
        return reply

    def _watch(self, seen: Seen, least: int, reply: object) -> None:
        """Compare a counter of the store with the least it can be after what it gave before this call was sent."""
        now = as_int(reply)
        if now < 0:  # something else has written it, so it says nothing
            return
        if now < least:
            self._seen[seen] = now
            self._alarm(
                f"its count of {seen} fell below {least} to {now}: it restarted or failed over without its last "
                "writes, so jobs and results of that time are gone"
            )
        elif now > self._seen[seen]:
            self._seen[seen] = now

    def _alarm(self, what: str) -> None:
        text = f"rollback: {self.target}, namespace {self._namespace!r}: {what}"
        self.alarms.append(text)
        log.error("%s", text)

    def _report_alarms(self) -> tuple[str, ...]:
        """Give the alarms there are, once, and note the last one in the store, where the doctor of anybody finds it."""
        alarms = tuple(self.alarms)
        if alarms:
            note = f"{self._wall_ms()} {alarms[-1]}"
            try:
                client = node_of(self._client(), self._key("meta"))
                self._asked(lambda: send(client, "HSET", self._key("meta"), "rollback", note))
            except EngineError:
                return ()  # what this upkeep has done stands; the alarms are told with the next one
            del self.alarms[: len(alarms)]
        return alarms

    def _wall_ms(self) -> int:
        return (self._clock or SystemClock()).wall_ms()

    def _after_fork(self) -> None:
        """In a forked child: leave the parent's sockets alone and start afresh."""
        LEAKED.append((self._calls, self._blocks, self._spares))
        self._forget_handles()


# What reading an answer raises when what is stored is not sound.
UNSOUND: Final = (ValueError, TypeError, LookupError, OverflowError, msgspec.MsgspecError, struct.error)
P = ParamSpec("P")


def repairing(ask: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """A question that is asked again, once the store is repaired, when its answer cannot be read."""

    @wraps(ask)
    def asked(self: RedisCore, *args: P.args, **more: P.kwargs) -> T:
        try:
            return ask(self, *args, **more)
        except UNSOUND as error:
            if isinstance(error, WindlassError) or not self._repair():
                raise
            return ask(self, *args, **more)

    return asked  # type: ignore[return-value]  # methods of an engine object, and of nothing else


LEAKED: Final[list[object]] = []
ENGINES: Final[weakref.WeakSet[RedisCore]] = weakref.WeakSet()


def reset_after_fork() -> None:
    """Every engine of a forked child starts afresh."""
    for engine in list(ENGINES):
        engine._after_fork()


os.register_at_fork(after_in_child=reset_after_fork)
