"""The handles of one engine object: when they are opened, shared, closed, and what a fork does to them.

The engine opens at first use. A forked child opens its own handles at its next use, and that takes care: SQLite keeps
the locks of a process in memory, which a fork copies while the locks themselves stay behind. A child that opened the
file beside its inherited handles would believe it holds locks that it does not have, and another process could delete
the log under it. So a fork waits until no transaction of ours is open, and the child closes what it inherited before it
opens anything; as no connection of ours writes when it is closed there (``SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE``), that
touches nothing of the parent's. The process that opened a file ends otherwise: the last one to close it writes the log
back, so that a copy of the file alone is whole once everybody has stopped.

The store is the file that has the name, not the one that was opened. When these part (``place``), the engine follows:
it opens what is there now, if that has our tables, and does the call again there. A file that is gone is not made anew:
its volume may be away for a moment, and jobs in a new one would be hidden when it comes back.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, TypeVar

import apsw
import msgspec

from windlass.core.clock import Clock, SystemClock
from windlass.core.errors import EngineDamaged, EngineUnavailable, EngineUnusable, WindlassError
from windlass.core.work import Rules
from windlass.engines.base import EngineInfo
from windlass.engines.sqlite import schema
from windlass.engines.sqlite.connection import (
    BUSY_GIVE_UP,
    Connection,
    Reader,
    Work,
    Writer,
    acquired,
    connect,
    damaged,
    end,
    leak,
    patiently,
    start_log,
    translated,
)
from windlass.engines.sqlite.counts import write_counts
from windlass.engines.sqlite.joins import advance
from windlass.engines.sqlite.place import Place, StoreMoved
from windlass.engines.sqlite.repairer import Repairer
from windlass.engines.sqlite.signals import BLIND_POLL, FileSignal, MemorySignal, Signal
from windlass.engines.sqlite.steady import Steady
from windlass.logs import Log

__all__ = ["FOREIGN", "FOREIGN_ADVICE", "Endings", "SqliteCore", "foreign_handle"]

T = TypeVar("T")
# What a call raises that falls over what is stored.
DAMAGE: Final = (
    EngineDamaged, msgspec.MsgspecError, UnicodeDecodeError, TypeError, ValueError, OverflowError, ZeroDivisionError,
)  # fmt: skip
REPAIR_PAUSE_S: Final = 10.0
log = Log("windlass.engine")

FOLLOW_MAX: Final = 3  # how often one call follows a store that moves
PATIENCE_S: Final = 1.0  # how long closing waits for a transaction that nobody needs any more

FOREIGN: Final = "another SQLite library in this process has {path} open; two of them on one file break its locks"
FOREIGN_ADVICE: Final = "keep the job database in its own file, or open it through apsw or app.transaction()"


class Endings:
    """Tells the threads of this process that some job ended. One listener thread, only while somebody waits."""

    def __init__(self, signal: Signal) -> None:
        self.count = 0
        self._signal = signal
        self._changed = threading.Condition()
        self._waiters = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def listening(self) -> Iterator[Endings]:
        with self._changed:
            self._waiters += 1
            if self._thread is None and not self._closed:
                self._signal.listen()
                self._start()
        try:
            yield self
        finally:
            with self._changed:
                self._waiters -= 1
                last = self._waiters == 0
            if last:
                self._signal.wake()

    def _start(self) -> None:
        """Start the listener, where the machine has room for another thread; without it waiters look by themselves."""
        thread = threading.Thread(target=self._listen, name="windlass-endings", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return
        self._thread = thread

    def wait(self, seen: int, timeout: float) -> None:
        """Block until ``count`` is beyond ``seen`` or ``timeout`` seconds pass."""
        with self._changed:
            if self._thread is None:
                timeout = min(timeout, BLIND_POLL)
            self._changed.wait_for(lambda: self.count != seen, timeout)

    def close(self) -> None:
        """Wake the waiters and end the listener, so that the signal can be closed."""
        with self._changed:
            self._closed = True
            thread = self._thread
        if thread is not None and thread.is_alive():  # an interrupt may have come between its making and its start
            self._signal.wake()
            thread.join()

    def _listen(self) -> None:
        while True:
            self._signal.wait(60.0)
            with self._changed:
                self.count += 1
                self._changed.notify_all()
                if self._waiters == 0 or self._closed:
                    self._thread = None
                    return


class SqliteCore:
    """Connections, signals and settings of one engine object. *Thread-safe.*"""

    def __init__(
        self,
        path: str | None,
        *,
        clock: Clock | None = None,
        durability: str = "fsync",
        busy_timeout_ms: int = 5_000,
        namespace: str = "windlass",
        rules: Rules | None = None,
    ) -> None:
        self.path = path
        self.may_create = True
        self._clock: Clock = clock or SystemClock()
        self._durable = durability == "fsync" and path is not None
        self._busy_timeout_ms = busy_timeout_ms
        self._rules = rules or Rules()
        self._q = schema.Sql(namespace)
        self._boot = boot_id()
        self._had = False  # this object has had the store open, and has not been closed since
        self._alarms: list[str] = []  # stores that were followed, and that no upkeep has told of yet
        self._forget_handles()
        ENGINES.add(self)

    def _forget_handles(self) -> None:
        self._opening = threading.RLock()
        self._mending = threading.Lock()
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._signals: list[Signal] = []
        self._ready = self._make_signal("ready")
        self._ended = self._make_signal("done")
        self._endings = Endings(self._ended)
        self._forget_store()
        self._repairer = Repairer(self._q, self._clock, self._boot, self._rules)
        self._repaired_at = -REPAIR_PAUSE_S
        self._quieted: list[Writer | Reader] = []  # whose locks a fork that is under way has

    def _forget_store(self) -> None:
        """Forget what was read in a store."""
        self._steady = Steady(self._q, self._clock, self._boot)

    def _make_signal(self, name: str) -> Signal:
        signal: Signal = MemorySignal() if self.path is None else FileSignal(f"{self.path}-{name}", self.path)
        self._signals.append(signal)
        return signal

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            name="sqlite" if self.path else "memory",
            target=self.path or ":memory:",
            version=apsw.sqlite_lib_version(),
            durability="memory" if self.path is None else "fsync" if self._durable else "normal",
            shared=self.path is not None,
            one_writer=True,
        )

    def open(self) -> None:
        """Open the connections and migrate. *Idempotent, blocking.*"""
        with self._opening:
            if self._writer is not None:
                return
            create = self.may_create and not self._had
            if self.path is not None and not create and not os.path.exists(self.path):
                raise self._absent("there is no such file")
            if self.path is not None and foreign_handle(self.path):
                log.warning("%s: %s", FOREIGN.format(path=self.path), FOREIGN_ADVICE)
            db = connect(self.path, self._busy_timeout_ms)
            try:
                writer, reader = self._begin(db, create)
            except BaseException:
                end(db)
                raise
            self._reader, self._writer = reader, writer
            self._pid = os.getpid()
            self._had = self.path is not None

    def _begin(self, db: Connection, create: bool) -> tuple[Writer, Reader]:
        """Migrate what a connection has open, and give it and one beside it."""
        with translated(self.path):
            have = patiently(lambda: schema.version_of(db, self._q))
        if have == 0 and not create and self.path is not None:
            raise self._absent(f"it has no job tables of namespace {self._q.namespace!r}")
        if have > schema.VERSION:
            raise schema.newer(self.info.target, have)
        start_log(db, self.path)
        writer = Writer(db, self.path, partial(write_counts, self._q))
        if have < schema.VERSION:
            writer.run(lambda db: schema.migrate(db, self._q, self.info.target), durable=True)
        if self.path is None:
            return writer, Reader(db, None, writer, None)
        place = Place(self.path, db)
        other = connect(self.path, self._busy_timeout_ms)
        start_log(other, self.path)
        writer.place = place
        return writer, Reader(other, self.path, None, place)

    def _absent(self, why: str) -> EngineUnavailable:
        """The error for a store that has to be there and is not."""
        if self._had:
            return EngineUnavailable(
                f"the store {self.path} is gone: {why}. It was removed or replaced, or its volume is not mounted. Put "
                "it back, and calls go on; to begin with an empty one, start every process anew"
            )
        return EngineUnusable(
            f"no store at {self.path}: {why}. Name the right one with --url, WINDLASS_URL or the settings file; to "
            "make one here, run `windlass migrate`, start a worker, or enqueue a job"
        )

    def close(self) -> None:
        """Close the connections. *Idempotent.* An in-memory store is gone afterwards."""
        with self._opening:
            self._shut(BUSY_GIVE_UP)
            self._had = False
            self._endings.close()
            self._endings = Endings(self._ended)
            self._ready.close()
            self._ended.close()

    def _shut(self, patience: float) -> None:
        """Close the connections, or leave them open when they are in use for longer than ``patience`` seconds."""
        writer, reader = self._writer, self._reader
        self._writer = self._reader = None
        if writer is None or reader is None:
            return
        if self._pid != os.getpid():  # forked in a way that Python did not see, so the handles are the parent's
            leak(writer, reader)
            return
        if not writer.lock.acquire(timeout=patience):
            leak(writer, reader)
            return
        try:
            if not reader.lock.acquire(timeout=patience):
                leak(writer, reader)
                return
            try:
                if reader.db is not writer.db:
                    reader.db.close()
                end(writer.db)
            finally:
                reader.lock.release()
        finally:
            writer.lock.release()

    def __del__(self) -> None:
        """As ``close``, for one that nobody closed: its file is to be whole too."""
        with contextlib.suppress(Exception):  # half made, or Python is on its way out
            self._shut(0)

    def migrate(self) -> int:
        """Bring the schema up to date; give its version. *Idempotent.*"""
        self.open()
        return schema.VERSION

    def _ask(self, work: Work[T]) -> T:
        """Answer a question on one snapshot; what is damaged is repaired first."""
        try:
            return self._ask_file(work)
        except DAMAGE as error:
            self._repair(error)
            return self._told(lambda: self._ask_file(work))

    def _write(self, work: Work[T], *, durable: bool, whatever_is_set: bool = False, moves_jobs: bool = True) -> T:
        """Do one atomic write; ``durable`` asks for a sync where the engine's setting is fsync, or ``whatever_is_set``.

        One that ``moves_jobs`` decides the joins that have moved by it, or were left by another.

        One that falls over a damaged record was rolled back, and is done again when that is repaired.
        """
        durable = durable and (self._durable or whatever_is_set)

        def whole(db: apsw.Connection) -> tuple[T, bool]:
            value = work(db)
            return value, moves_jobs and advance(db, self._q, self._clock.wall_ms(), self._rules)

        try:
            value, moved = self._write_file(whole, durable=durable)
        except DAMAGE as error:
            self._repair(error)
            value, moved = self._told(lambda: self._write_file(whole, durable=durable))
        if moved:
            self._ready.touch()
            self._ended.touch()
        return value

    def _ask_file(self, work: Work[T]) -> T:
        """Answer a question on one snapshot of the file that has the name."""
        tries = FOLLOW_MAX
        while True:
            reader = self._open_reader()
            try:
                return reader.run(work)
            except StoreMoved as moved:
                tries -= 1
                self._follow(reader.place, moved, tries)

    def _write_file(self, work: Work[T], *, durable: bool) -> T:
        """Do one atomic write in the file that has the name."""
        tries = FOLLOW_MAX
        while True:
            writer = self._open_writer()
            try:
                return writer.run(work, durable=durable)
            except StoreMoved as moved:
                tries -= 1
                self._follow(writer.place, moved, tries)

    def _repair(self, error: BaseException) -> None:
        """Repair what is damaged in the store. Raises EngineDamaged from ``error`` when there is nothing to repair."""
        writer = self._open_writer()
        if writer.is_held_here or (isinstance(error, WindlassError) and not isinstance(error, EngineDamaged)):
            raise error
        with self._mending:
            if time.monotonic() - self._repaired_at >= REPAIR_PAUSE_S and not self._repair_now():
                self._repaired_at = time.monotonic()  # a whole look for nothing is not to be had at every call

    def _repair_now(self) -> int:
        """Look through the store and repair what is damaged; give how many records that were."""
        chunks = self._ask_file(self._repairer.find)
        repaired = self._write_file(lambda db: self._repairer.repair(db, chunks), durable=self._durable)
        self._ready.touch()
        self._ended.touch()
        return repaired

    def _told(self, work: Callable[[], T]) -> T:
        """Do it again after repairing."""
        try:
            return work()
        except EngineDamaged:
            raise
        except DAMAGE as error:
            raise damaged(self.path, error) from error

    def _open_reader(self) -> Reader:
        reader = self._reader
        if reader is None:
            self.open()
            reader = self._reader
            if reader is None:
                raise EngineUnavailable(f"{self.info.target} was closed by another thread: open it again")
        return reader

    def _open_writer(self) -> Writer:
        writer = self._writer
        if writer is None:
            self.open()
            writer = self._writer
            if writer is None:
                raise EngineUnavailable(f"{self.info.target} was closed by another thread: open it again")
        return writer

    def _follow(self, place: Place | None, moved: StoreMoved, tries: int) -> None:
        """Leave the files that are not the store any more, and open those that are. Raises when there are none."""
        if tries <= 0:
            raise moved
        with self._opening:
            writer = self._writer
            if writer is not None and place is not None and writer.place is place:
                rescued = place.keeps_its_log and rescue(writer)
                self._shut(PATIENCE_S)
                self._forget_store()
                if not place.take_log_along():
                    log.error(
                        "the log of the file that was %s before lies beside the new one, and is used as its log: jobs "
                        "of both may be mixed up. Stop every process, remove it (-wal, -shm), and restore the file",
                        self.path,
                    )
                self.open()
                what = f"{moved}; windlass goes on in the file that is there now"
                self._alarms.append(f"{what}, and has written back what was in the log" if rescued else what)
                log.warning("%s", self._alarms[-1])
        self.open()

    def _tell_alarms(self) -> tuple[str, ...]:
        """Give what was seen of a store that moved, once."""
        alarms = tuple(self._alarms)
        del self._alarms[: len(alarms)]
        return alarms

    def _end(self) -> None:
        """At the end of the process: leave a whole file behind, without waiting for anybody."""
        if self._opening.acquire(timeout=PATIENCE_S):
            try:
                self._shut(PATIENCE_S)
            finally:
                self._opening.release()

    def _before_fork(self) -> None:
        """Wait until no transaction is open, and let none begin; but not for one that waits for the code that forks."""
        self._opening.acquire()
        self._quieted = [
            handle
            for handle in (self._writer, self._reader)
            if handle is not None and not handle.is_held_here and acquired(handle.lock)
        ]

    def _after_fork(self) -> None:
        """In the parent: go on."""
        while self._quieted:
            self._quieted.pop().lock.release()
        self._opening.release()

    def _after_fork_in_child(self) -> None:
        """In the child: let go of what was the parent's, and start afresh."""
        for handle in (self._reader, self._writer):
            if handle is None or self.path is None:
                continue
            if handle.db.in_transaction:  # the code that forked is inside a transaction of its own
                leak(handle)
            else:
                handle.db.close()
        leak(self._writer if self.path is None else None, self._ready, self._ended, self._endings)
        self._forget_handles()


ENGINES: Final[weakref.WeakSet[SqliteCore]] = weakref.WeakSet()


FORKING: Final[dict[int, list[SqliteCore]]] = {}  # thread: the engines that wait for its fork to be over


def before_fork() -> None:
    """Quiet every engine of this process."""
    mine = FORKING[threading.get_ident()] = sorted(ENGINES, key=id)
    for engine in mine:
        engine._before_fork()


def after_fork() -> None:
    """Let every engine of the parent go on."""
    for engine in reversed(FORKING.pop(threading.get_ident(), [])):
        engine._after_fork()


def after_fork_in_child() -> None:
    """Every engine of the child starts afresh."""
    mine = FORKING.pop(threading.get_ident(), [])
    FORKING.clear()
    for engine in reversed(mine):
        engine._after_fork_in_child()


def rescue(writer: Writer) -> bool:
    """Write back the log of a database that was cut short, or whose log was removed: here it is still open.

    False when not all of it was.
    """
    if not writer.lock.acquire(timeout=PATIENCE_S):
        return False
    try:
        ((busy, frames, written),) = writer.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return not busy and frames == written
    except apsw.Error as error:
        log.error("%s: its log could not be written back: %s", writer.path, error)
        return False
    finally:
        writer.lock.release()


def end_all() -> None:
    """At the end of the process, end every engine."""
    for engine in list(ENGINES):
        engine._end()


atexit.register(end_all)
os.register_at_fork(before=before_fork, after_in_parent=after_fork, after_in_child=after_fork_in_child)


def boot_id() -> str:
    """Names this boot of the machine; a lease of another boot is over."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def foreign_handle(path: str) -> bool:
    """Whether this process has the file open through something that is not apsw (Linux; elsewhere never)."""
    real = os.path.realpath(path)
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        return False
    open_here = 0
    for name in names:
        try:
            open_here += os.readlink(f"/proc/self/fd/{name}") == real
        except OSError:
            continue
    if not open_here:
        return False
    return not any(is_open_on(db, real) for db in apsw.connections())


def is_open_on(db: apsw.Connection, real: str) -> bool:
    """Whether an apsw connection may be the one that has the file open."""
    try:
        return bool(db.filename) and os.path.realpath(db.filename) == real
    except apsw.ThreadingViolationError:  # it is at work in another thread and does not say
        return True
