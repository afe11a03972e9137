"""What a sound value is, in every key, and what becomes of one that is not.

The scripts trust nothing that is stored: a value that is not sound is as if it were not there, and a job whose record
is not is noted in ``damaged`` and goes nowhere. Here such jobs are made dead (``scripts/repair.lua``) and such values
removed, by bounded steps of upkeep that go round through the store (``look_on``), or all at once when a call fails over
what is stored (``repair``). A key of another type is set aside under ``damaged:NAME``, and what it indexed is put back
from the records.

Invariants: a fixed key without a rule here fails a test; a value is replaced only while it is still the one that was
looked at; each change is logged.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Final, Protocol, TypeAlias

import msgspec
from msgspec import Meta

from windlass.core.fingerprint import DAMAGED
from windlass.core.model import JobError, Until
from windlass.core.work import Rules
from windlass.engines.damage import LAST_MS
from windlass.engines.redis.connection import Command
from windlass.engines.redis.reading import as_list, cause_of, decode_info, decode_worker, strings, to_join
from windlass.engines.redis.wire import as_int, cause_text, error_head, keep_dead, pack
from windlass.logs import Log

__all__ = ["HASHES", "QUEUE_INDEXES", "QUEUE_KEYS", "Repairer", "Store"]

log = Log("windlass.engine")

STEP: Final = 500
CALLS_A_LOOK: Final = 4  # of the store, in one step of upkeep: some 2 ms every few seconds
MARKER_MS: Final = 86_400_000  # how long a Once marker with a spoiled time stays
SCHEMA: Final = 1
QUEUE_KEYS: Final = ("ready", "due", "alone", "done", "cancelled", "wake", "wake-loop")
DETAIL_HASHES: Final = ("body", "rec", "result", "errors", "reason", "progress", "cause", "recoveries")
# Index -> where the id begins in a member (0: behind a NUL), and the states in a record that belong there.
FIXED_INDEXES: Final = {
    "arrivals": (1, "01234"),
    "running": (0, "1"),
    "cancels": (0, "1"),
    "dead": (1, "3"),
    "dead-purge": (1, "3"),
    "expiring": (1, "0"),
}
QUEUE_INDEXES: Final = {
    "ready": (13, "0"),
    "due": (21, "0"),
    "alone": (13, "0"),
    "done": (1, "2"),
    "cancelled": (1, "4"),
}

Rule: TypeAlias = Callable[[bytes, bytes], object]  # raises ValueError or its like for a value that is not sound

NUMBER_MAX: Final = 2**53 - 2**40
Number = Annotated[int, Meta(gt=-(2**53), lt=2**53)]
PAUSE: Final = re.compile(r"|\d{1,15}\|.*", re.DOTALL)
QUEUE: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
COUNTS: Final = re.compile(rb"\d{1,10}:.+", re.DOTALL)
FLOW: Final = re.compile(rb"[ac]\d{1,12}:[A-Za-z0-9_.:-]{1,128}")


def text(field: bytes, value: bytes) -> object:
    field.decode()
    return value.decode()


def anything(field: bytes, value: bytes) -> object:
    return None


def number(field: bytes, value: bytes) -> object:
    field.decode()
    return expect(re.fullmatch(rb"\d{1,16}", value) and int(value) < NUMBER_MAX)


def expect(good: object) -> object:
    """Raise ValueError when a condition does not hold."""
    if not good:
        raise ValueError("not sound")
    return good


def of_meta(field: bytes, value: bytes) -> object:
    match field.decode():
        case "fence" | "seq" | "mark" | "document" | "unlocks":
            return number(field, value)
        case "schema":
            return expect(value == b"%d" % SCHEMA)
        case "locks-cursor" | "lines-cursor" | "queues-cursor":
            return expect(re.fullmatch(rb"\d{1,20}", value))
        case "rollback":
            return expect(re.fullmatch(r"\d{1,15} .*", value.decode(), re.DOTALL) and int(value.split()[0]) <= LAST_MS)
        case _:
            return None


def of_worker(field: bytes, value: bytes) -> object:
    worker = decode_worker(value)
    return expect(0 <= worker.beat_at <= LAST_MS) and decode_info(worker.info)


def of_queue(field: bytes, value: bytes) -> object:
    expect(QUEUE.fullmatch(field.decode()))
    until = value.decode()
    return expect(PAUSE.fullmatch(until) and int(until.partition("|")[0] or 0) <= LAST_MS)


def of_counts(field: bytes, value: bytes) -> object:
    return expect(COUNTS.fullmatch(field)) and number(field, value)


def of_flow(field: bytes, value: bytes) -> object:
    return expect(FLOW.fullmatch(field)) and number(field[:1], value)


def of_errors(field: bytes, value: bytes) -> object:
    return msgspec.json.decode(b"[%b]" % value, type=list[JobError])


def packed(kind: Any) -> Rule:
    decode = msgspec.msgpack.Decoder(kind).decode

    def check(field: bytes, value: bytes) -> object:
        field.decode()
        return decode(value)

    return check


def of_join(field: bytes, value: bytes) -> object:
    row = to_join(field.decode(), value)
    return expect(row is not None and row.tally.open >= 0 and max(row.made_at, row.moved_at) <= LAST_MS)


def in_turn(field: bytes, value: bytes) -> object:
    found = decode_list(value)
    return expect(len(found) % 2 == 0 and all(map(is_str, found[::2])) and all(map(is_int, found[1::2])))


def of_leases(field: bytes, value: bytes) -> object:
    field.decode()
    found = decode_list(value)
    leases = [found[at : at + 5] for at in range(0, len(found), 5)]
    return expect(leases and all(is_lease(lease) for lease in leases))


def is_lease(lease: list[Any]) -> bool:
    return len(lease) == 5 and is_str(lease[0]) and all(map(is_int, lease[1:4])) and is_str(lease[4])


def of_rate(field: bytes, value: bytes) -> object:
    return expect(len(decode_numbers(value)) % 2 == 0)


def is_str(value: object) -> bool:
    return isinstance(value, str)


def is_int(value: object) -> bool:
    return isinstance(value, int) and abs(value) < 2**53


VERDICTS: Final = (b"0", b"2", b"3", b"4")
decode_list = msgspec.msgpack.Decoder(list[Any]).decode
decode_numbers = msgspec.msgpack.Decoder(list[Number]).decode


# Every hash: what makes a value sound. Those of jobs are judged by the scripts.
HASHES: Final[dict[str, Rule]] = {
    "meta": of_meta,
    "body": anything,
    "rec": anything,
    "result": anything,
    "errors": of_errors,
    "reason": text,
    "progress": anything,
    "workers": of_worker,
    "counts": of_counts,
    "queues": of_queue,
    "idle": lambda field, value: expect(QUEUE.fullmatch(field.decode())) and number(field, value),
    "cause": lambda field, value: cause_of(value) or expect(False),
    "recoveries": lambda field, value: number(field, value) and expect(int(value) < 65_536),
    "documents": packed(tuple[Number, Number, str]),
    "totals": number,
    "flow": of_flow,
    "notes": text,
    "guards": anything,
    "blocked-by": text,
    "once": packed(tuple[str, str, Number]),
    "rates": of_rate,
    "unique": packed(tuple[str, str, Until, Number]),
    "locks": of_leases,
    "lines": in_turn,
    "bounds": packed(tuple[Number, Number, Number]),
    "starved": text,
    "joins": lambda field, value: expect(value in VERDICTS) if b"\0" in field else of_join(field, value),
    "damaged": text,
}


class Store(Protocol):
    """What repairing asks of an engine object."""

    _rules: Rules

    def _ask_plainly(self, *command: Command) -> object: ...
    def _script(self, name: str, args: Sequence[Command], names: Sequence[str] = ()) -> list[object]: ...
    def _correct(self, key: bytes, field: bytes, value: bytes, fresh: bytes | None) -> bool: ...
    def _kinds_of_keys(self) -> Iterator[tuple[bytes, str, str]]: ...
    def _key(self, name: str) -> bytes: ...
    def _index_keys(self) -> Iterator[tuple[bytes, tuple[str, ...], int, int, str]]: ...
    def _wall_ms(self) -> int: ...


class Repairer:
    """Looks through a store for what is not sound, and repairs it. One an engine object."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._looking = threading.Lock()
        self._walk: Iterator[None] = iter(())
        self._there: set[bytes] = set()  # keys that had the right type when this round began
        self.repaired = 0
        self.found: list[str] = []

    def look_on(self) -> int:
        """Look at the next part of the store and repair it; give how much was repaired."""
        if not self._looking.acquire(blocking=False):
            return 0  # another thread is at it
        try:
            before = self.repaired
            self.make_noted_dead()
            for _ in range(CALLS_A_LOOK):
                try:
                    next(self._walk)
                except StopIteration:
                    self._walk = self._round(repair=True)
            return self.repaired - before
        finally:
            self._looking.release()

    def repair(self) -> int:
        """Look through the whole store and repair it; give how much was repaired."""
        before = self.repaired
        for _ in self._round(repair=True):
            pass
        self.make_noted_dead()
        return self.repaired - before

    def spoiled(self) -> list[str]:
        """What is not sound, in words for people. Changes nothing."""
        self.found = []
        for _ in self._round(repair=False):
            pass
        return self.found

    def make_noted_dead(self) -> None:
        """Make jobs dead that scripts have met and noted."""
        flat = as_list(self._store._ask_plainly("HGETALL", self._store._key("damaged")))
        noted = [(id, why.decode("utf-8", "replace")) for id, why in zip(flat[::2], flat[1::2], strict=True)
                 if isinstance(id, bytes) and isinstance(why, bytes)]  # fmt: skip
        if noted:
            self.make_dead(noted)

    def make_dead(self, jobs: Sequence[tuple[bytes, str]], *, believed: bool = False) -> list[str]:
        """Make jobs dead whose record is not sound; ``believed``: also where the scripts see nothing wrong."""
        args: list[Command] = [keep_dead(self._store._rules), cause_text(DAMAGED), int(believed)]
        for id, why in jobs:
            reason = f"its record was damaged: {why}"
            args += id, kept_under(id), reason, error_head(JobError(DAMAGED.error_type, reason, "", 0, 0))
        dead = strings(as_list(self._store._script("repair", args)[1]))
        for name in dead:
            log.error("job %s is dead: its record was damaged", name)
        self.repaired += len(dead)
        return dead

    # -- one round through the store --

    def _round(self, *, repair: bool) -> Iterator[None]:
        """Look at everything, in bounded steps. Without ``repair`` only ``found`` is filled."""
        self._there, wrong_types = set(), 0
        for key, kind, wanted in self._store._kinds_of_keys():
            if kind == wanted:
                self._there.add(key)
                continue
            wrong_types += 1
            self._note(f"key {key.decode('utf-8', 'replace')} is a {kind} and not a {wanted}")
            if repair:
                prefix, _, rest = key.partition(b":")
                self._store._ask_plainly("RENAME", key, b"%b:damaged:%b" % (prefix, rest))
        yield
        for name, rule in HASHES.items():
            if rule is anything:
                continue
            for fields in self._scan("HSCAN", name):
                for field, value in fields:
                    if not holds(rule, field, value):
                        self._note(f"{name} of {field.decode('utf-8', 'backslashreplace')}")
                        if repair:
                            self._store._correct(self._store._key(name), field, value, self._in_place_of(name, field))
                yield
        if not repair and wrong_types:
            return  # the scripts would fall over those, and repair them
        for name in DETAIL_HASHES:
            for ids in self._scan("HSCAN", name):
                yield from self._audit([id for id, _ in ids], repair)
        for ids in self._scan("ZSCAN", "arrivals"):
            yield from self._audit([id for id, _ in ids], repair)
        if not repair:
            return
        self.repaired += as_int(self._store._script("align", [])[0])
        yield
        for command, name in (("ZSCAN", "holds"), ("ZSCAN", "blocked"), ("HSCAN", "unique"), ("HSCAN", "notes"),
                              ("HSCAN", "joins")):  # fmt: skip
            for members in self._scan(command, name):
                self.repaired += as_int(self._store._script("ties", [name, *(one for one, _ in members)])[0])
                yield
        for members in self._scan("ZSCAN", "leases"):
            latest = as_int(self._store._script("workers", [])[0]) + LEASE_MAX_MS
            for worker, score in members:
                if float(score) > latest:
                    self._note(f"the lease of worker {worker.decode('utf-8', 'replace')} ends at {score.decode()}")
                    until = latest - LEASE_MAX_MS + GRACE_MS
                    self._store._ask_plainly("ZADD", self._store._key("leases"), until, worker)
            yield
        for index, queue, place, cut, states in self._store._index_keys():
            for members in self._scan("ZSCAN", index):
                args: list[Command] = [1, place, cut, states, *(one for one, _ in members)]
                self.repaired += as_int(self._store._script("sweep", args, queue)[0])
                yield

    def _audit(self, ids: Sequence[bytes], repair: bool) -> Iterator[None]:
        strange = [id for id in ids if not is_text(id)]
        self.found += [f"job {id!r}, whose id is no text" for id in strange]
        if strange and repair:
            self.make_dead([(id, "its id was no text") for id in strange])
        wrong, noted = self._store._script("audit", [int(repair), self._store._rules.keep_done_ms, *ids])
        self.repaired += as_int(wrong) if repair else 0
        self.found += [f"job {id}" for id in strings(as_list(noted))]
        if repair and as_list(noted):
            self.make_noted_dead()
        yield

    def _note(self, what: str) -> None:
        self.found.append(what)
        self.repaired += 1
        log.error("damaged: %s", what)

    def _in_place_of(self, name: str, field: bytes) -> bytes | None:
        """What is put in the place of a spoiled value; None: nothing, the field goes."""
        match name:
            case "meta" if field == b"schema":
                return b"%d" % SCHEMA
            case "queues" if QUEUE.fullmatch(field.decode("utf-8", "replace")):
                return b""
            case "once":
                return pack(("a job whose id was damaged", "", self._store._wall_ms() + MARKER_MS))
            case _:
                return None

    def _scan(self, command: str, name: str | bytes) -> Iterator[list[tuple[bytes, bytes]]]:
        """The fields or members of one key with their values or scores, in chunks."""
        key = name if isinstance(name, bytes) else self._store._key(name)
        if key not in self._there:
            return
        cursor = 0
        while True:
            following, flat = as_list(self._store._ask_plainly(command, key, cursor, "COUNT", STEP))
            cursor = as_int(following)
            values = [one for one in as_list(flat) if isinstance(one, bytes)]
            if values:
                yield list(zip(values[::2], values[1::2], strict=True))
            if cursor == 0:
                return


LEASE_MAX_MS: Final = 30 * 86_400_000
GRACE_MS: Final = 30_000


def holds(rule: Rule, field: bytes, value: bytes) -> bool:
    """Whether a value is sound by its rule."""
    try:
        rule(field, value)
    except (ValueError, TypeError, RecursionError, msgspec.MsgspecError):
        return False
    return True


def is_text(id: bytes) -> bool:
    """Whether an id can be one."""
    return holds(text, b"", id) and bool(id)


def kept_under(id: bytes) -> str:
    """The id that a damaged job is kept under: its own, if that can be one."""
    return id.decode() if is_text(id) else f"damaged-{id.hex()[:64]}"
