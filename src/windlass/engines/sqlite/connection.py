"""Connections to one file: how they are opened, how writes are grouped, how driver errors become ours.

One writer connection per process. Threads that write at the same time share one transaction and so one fsync: the
first to get the lock commits for all that wait (group commit). Every write transaction starts with BEGIN IMMEDIATE,
since a transaction that begins as a reader cannot wait for the lock. Another process may hold the write lock; we wait
for it with short, jittered sleeps for ``busy_timeout``, then up to ``BUSY_GIVE_UP`` in all.

Durability. In WAL mode ``synchronous=FULL`` syncs the log at each commit, so a commit that returned survives a power
cut. A group is committed that way if any write in it asks for it. A claim does not: losing one only means that the job
is claimed again.

No connection writes when it is closed, but for one that ``end`` closes: ``core`` says why.
"""

from __future__ import annotations

import os
import random
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, Generic, TypeAlias, TypeVar

import apsw

from windlass.core.errors import (
    ConfigError,
    EngineDamaged,
    EngineFull,
    EngineUnavailable,
    EngineUnusable,
    WindlassError,
)
from windlass.engines.base import no_text
from windlass.engines.holding import holds_here
from windlass.engines.sqlite.place import Place, writer_of

__all__ = ["Connection", "Counts", "Reader", "Writer", "connect", "damaged", "end", "leak", "start_log", "translated"]

T = TypeVar("T")
Work = Callable[[apsw.Connection], T]
Counts: TypeAlias = dict[tuple[int, str], int]  # by minute and series

BUSY_GIVE_UP: Final = 30.0  # seconds until a busy file is an outage; source: reliability rule R23
GROUP_MAX: Final = 64  # writes that share one commit at most
WAL_PAGES: Final = 4_000  # checkpoint after 16 MiB of log: one sync of the database for many commits
WAL_KEEP_BYTES: Final = 16 * 1024 * 1024

DAMAGE: Final = ("JSON", "integer overflow")  # in what SQLite says of a value that a statement cannot use

OF_DRIVER: Final = (apsw.Error, UnicodeEncodeError)

LEAKED: Final[list[object]] = []


def leak(*handles: object) -> None:
    """Keep handles that must neither be used nor closed in this process."""
    LEAKED.extend(handles)


def connect(path: str | None, busy_timeout_ms: int) -> Connection:
    """Open one connection to a file (None: in memory). Changes nothing in a file that is there; see ``start_log``.

    Raises EngineUnusable or EngineUnavailable.
    """
    with translated(path):
        if path is None:
            db = Connection(":memory:")
        else:
            create_private(path)
            db = Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
        db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        # A plan never depends on what is bound, or statements would be compiled anew for other values.
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        db.set_busy_handler(BusyWait(busy_timeout_ms / 1000))
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute("PRAGMA mmap_size = 0")
        db.execute("PRAGMA cache_size = -8000")
        db.execute("PRAGMA synchronous = FULL")
        return db


def start_log(db: apsw.Connection, path: str | None) -> None:
    """Have a file keep a write-ahead log. Raises EngineUnusable where it cannot."""
    if path is None:
        return
    with translated(path):
        mode = patiently(lambda: db.execute("PRAGMA journal_mode = WAL").fetchall())
        if mode != [("wal",)]:
            raise EngineUnusable(
                f"{path} cannot use a write-ahead log: is it on a network file system? Use a local disk"
            )
        db.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {WAL_KEEP_BYTES}")
        patiently(lambda: db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall())  # opens the log


def end(db: apsw.Connection) -> None:
    """Close a connection of this process. The last one of a file writes its log back, so that the file alone is whole.

    SQLite decides whether it is the last one, and does nothing in a file that has lost its name.
    """
    db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
    db.close()


def create_private(path: str) -> None:
    """Make sure the file is there and can be written; a new one is for its owner only."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise EngineUnusable(
            f"no folder {folder} for the database {path}: create it, or set WINDLASS_URL to another place"
        )
    if os.path.isdir(path):
        raise EngineUnusable(f"{path} is a folder: the URL must name a file")
    if not os.path.exists(path):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, stat.S_IRUSR | stat.S_IWUSR))
        except OSError as error:
            raise EngineUnusable(
                f"cannot create the database {path}: {error.strerror}; give this user write access to {folder}"
            ) from error
    elif not os.access(path, os.W_OK) or not os.access(folder, os.W_OK):
        raise EngineUnusable(
            f"cannot write {path}: this user needs write access to the file and to its folder (for the log beside it)"
        )


class Connection(apsw.Connection):
    """A connection of ours. ``counts`` collects what is counted; None: each count is written at once."""

    counts: Counts | None = None


class BusyWait:
    """How long to wait for another process's write lock: sleeps from 0.2 ms to 10 ms, jittered, up to a limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.waits = 0
        self._since = 0.0

    def __call__(self, tries: int) -> bool:
        now = time.monotonic()
        if tries == 0:
            self._since = now
        if now - self._since >= self.limit:
            return False
        self.waits += 1
        time.sleep(min(0.0002 * 2 ** min(tries, 6), 0.01) * random.uniform(0.5, 1.0))
        return True


@contextmanager
def translated(path: str | None) -> Iterator[None]:
    """Turn the driver's errors into ours at the boundary."""
    try:
        yield
    except OF_DRIVER as error:
        raise ours(error, path) from error


def ours(error: apsw.Error | UnicodeEncodeError, path: str | None) -> Exception:
    """The error that a user of windlass gets for one of the driver's."""
    return no_text(error) if isinstance(error, UnicodeEncodeError) else translate(error, path)


def translate(error: apsw.Error, path: str | None) -> WindlassError:
    """What a driver error means to a user of windlass."""
    where = path or "the in-memory database"
    match error:
        case apsw.FullError():
            return EngineFull(f"{where} is full ({error}): nothing was stored; free disk space or raise its page limit")
        case apsw.NotADBError():
            return EngineUnusable(
                f"{where} is not an SQLite database: set WINDLASS_URL to another file, or move this one away"
            )
        case apsw.CorruptError():
            return EngineUnusable(
                f"{where} is damaged ({error}): restore a backup, or salvage it with SQLite's .recover"
            )
        case apsw.BusyError() | apsw.LockedError():
            return EngineUnavailable(
                f"{where} is busy: {holder_of(path)} has held its write lock for {BUSY_GIVE_UP:.0f} s; nothing was "
                "stored"
            )
        case apsw.ReadOnlyError() | apsw.CantOpenError() | apsw.PermissionsError():
            return EngineUnusable(
                f"cannot write {where} ({error}): check the owner and mode of the file and its folder"
            )
        case apsw.MismatchError() | apsw.ConstraintError() | apsw.TooBigError() | apsw.RangeError():
            return damaged(where, error)
        case apsw.SQLError() if any(word in str(error) for word in DAMAGE):
            return damaged(where, error)
        case _:
            return EngineUnavailable(f"{where} failed: {type(error).__name__}: {error}; nothing was stored")


def holder_of(path: str | None) -> str:
    """Who keeps others from writing, for people to look after it."""
    pid = writer_of(path) if path else None
    return "another process" if pid is None else f"process {pid}"


def damaged(where: str | None, error: BaseException) -> EngineDamaged:
    """The error for a call that fell over what is stored."""
    return EngineDamaged(
        f"{where or 'the in-memory database'} holds something that is not sound ({type(error).__name__}: {error}), and "
        "nothing was stored; `windlass doctor` looks for it"
    )


class Ticket(Generic[T]):
    """One write that waits for its commit."""

    __slots__ = ("done", "durable", "error", "value", "work")

    def __init__(self, work: Work[T], durable: bool) -> None:
        self.work = work
        self.durable = durable
        self.done = False
        self.value: T | None = None
        self.error: BaseException | None = None


class Writer:
    """The one write connection of a process. Thread-safe."""

    def __init__(
        self, db: Connection, path: str | None, write_counts: Callable[[apsw.Connection, Counts], None]
    ) -> None:
        self.db = db
        self.path = path
        self._counts: Counts = {}  # of the transaction under way
        self._write_counts = write_counts
        db.counts = self._counts
        self.place: Place | None = None  # given once the file is known to be the store
        self.lock = threading.RLock()
        self.commits = 0
        self._holder: int | None = None  # the thread whose transaction is open
        self._waiting: deque[Ticket[object]] = deque()
        self._full = True
        self._begin = partial(db.execute, "BEGIN IMMEDIATE")
        self._end = partial(db.execute, "COMMIT")

    def run(self, work: Work[T], *, durable: bool) -> T:
        """Run ``work`` inside a write transaction and commit it. *Atomic, blocking.*

        ``work`` may be run again after a rollback, so it must do nothing but use the connection it is given. Raises
        what ``work`` raises, or EngineFull, EngineUnavailable, of these StoreMoved when the file is not the store any
        more; ConfigError inside a transaction of this thread.
        """
        self.refuse_nesting()  # before others wait for it together with theirs
        ticket: Ticket[T] = Ticket(work, durable)
        self._waiting.append(ticket)  # type: ignore[arg-type]
        self._get_lock(ticket)
        try:
            while not ticket.done:
                self._commit_waiting()
        finally:
            self.lock.release()
        if ticket.error is not None:
            raise ticket.error
        return ticket.value  # type: ignore[return-value]

    def _get_lock(self, ticket: Ticket[T]) -> None:
        """Wait for the writer, but not for ever: its holder may be waiting for us, such as a coroutine's ``await``."""
        if acquired(self.lock):
            return
        try:
            self._waiting.remove(ticket)  # type: ignore[arg-type]
        except ValueError:  # it is being committed in this moment
            self.lock.acquire()
            return
        raise held_too_long(self.path)

    def _commit_waiting(self) -> None:
        group: list[Ticket[object]] = []
        while self._waiting and len(group) < GROUP_MAX:
            group.append(self._waiting.popleft())
        try:
            self._commit(group)
        except BaseException as error:  # noqa: BLE001 - every waiting thread gets its own outcome
            if len(group) == 1:
                group[0].error = error
            else:
                self._commit_alone(group)
        for ticket in group:
            ticket.done = True

    def _commit_alone(self, group: list[Ticket[object]]) -> None:
        """One bad write must not sink its neighbours: give each its own transaction."""
        for ticket in group:
            try:
                self._commit([ticket])
            except BaseException as error:  # noqa: BLE001
                ticket.error = error

    def _commit(self, group: list[Ticket[object]]) -> None:
        durable = False
        for ticket in group:
            durable = durable or ticket.durable
        counts = self._counts
        try:
            with Transaction(self, durable) as db:
                for ticket in group:
                    ticket.value = ticket.work(db)
                if counts:
                    self._write_counts(db, counts)
        finally:
            counts.clear()

    def transaction(self, durable: bool) -> Transaction:
        """Hold the writer for one transaction, in a ``with`` block. Rolls back on any error. *Atomic, blocking.*

        Raises ConfigError inside another one of this thread or coroutine, EngineUnavailable when the writer is held by
        others for too long, and StoreMoved when the file is not the store any more, also after the commit.
        """
        return Transaction(self, durable)

    def begin(self, durable: bool) -> None:
        """Begin a transaction; for the holder of ``lock``. Raises the driver's errors, and StoreMoved."""
        place = self.place
        if place is not None:
            place.check()
        if durable is not self._full:
            self.db.execute("PRAGMA synchronous = FULL" if durable else "PRAGMA synchronous = NORMAL")
            self._full = durable
        try:
            patiently(self._begin)
            self._holder = threading.get_ident()
        except BaseException:
            if self.db.in_transaction:  # something struck this thread in between
                self.db.execute("ROLLBACK")
            raise

    def end(self, durable: bool, error: BaseException | None) -> None:
        """Commit, or roll back because of an error. Raises the driver's errors, and StoreMoved."""
        place = self.place
        try:
            if error is None:
                patiently(self._end)
        except BaseException as failed:
            error = failed
            raise
        finally:
            self._holder = None
            if error is not None:
                if self.db.in_transaction:
                    self.db.execute("ROLLBACK")
                if place is not None and isinstance(error, apsw.Error):
                    place.confirm(durable=True)  # that may be why
        if error is None:
            self.commits += 1
            if place is not None:
                place.confirm(durable=durable)

    @property
    def is_held_here(self) -> bool:
        """Whether the code here is inside a transaction of this writer, so that it must not wait for another."""
        return holds_here(self._holder)

    def refuse_nesting(self) -> None:
        """Raise ConfigError for code that waits for itself."""
        if self._holder is not None and self.is_held_here:
            raise ConfigError(
                "this code is inside app.transaction() or ctx.transaction(), which holds the store's only writer: "
                "enqueue there with options(connection=tx), and do everything else before or after the block"
            )


class Transaction:
    """One transaction of a writer, as a ``with`` block. A class, since a generator takes four times as many calls."""

    __slots__ = ("_durable", "_writer")

    def __init__(self, writer: Writer, durable: bool) -> None:
        self._writer = writer
        self._durable = durable

    def __enter__(self) -> apsw.Connection:
        writer = self._writer
        writer.refuse_nesting()
        if not acquired(writer.lock):
            raise held_too_long(writer.path)
        try:
            writer.begin(self._durable)
        except BaseException as error:
            writer.lock.release()
            if isinstance(error, OF_DRIVER):
                raise ours(error, writer.path) from error
            raise
        return writer.db

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        writer = self._writer
        try:
            writer.end(self._durable, error)
        except OF_DRIVER as failed:
            raise ours(failed, writer.path) from failed
        finally:
            writer.lock.release()
        if isinstance(error, OF_DRIVER):
            raise ours(error, writer.path) from error


def acquired(lock: threading.RLock) -> bool:
    """Wait for a lock as long as a busy file may be waited for; false when it is not to be had."""
    return lock.acquire(timeout=BUSY_GIVE_UP)


@contextmanager
def holding(lock: threading.RLock, path: str | None) -> Iterator[None]:
    """Hold a lock that a transaction of this process may have. Raises EngineUnavailable when it has it for too long."""
    if not acquired(lock):
        raise held_too_long(path)
    try:
        yield
    finally:
        lock.release()


def held_too_long(path: str | None) -> EngineUnavailable:
    """What a caller is told who could not get the writer."""
    return EngineUnavailable(
        f"{path or 'the in-memory database'} is busy: a transaction of this process has held its writer for "
        f"{BUSY_GIVE_UP:.0f} s; nothing was stored. Inside app.transaction(), enqueue with options(connection=tx)"
    )


def patiently(call: Callable[[], T]) -> T:
    """Do what needs a lock, going on past the busy timeout until BUSY_GIVE_UP.

    Some locks (a new file's switch to WAL) are refused at once without asking the busy handler, hence the sleep.
    """
    deadline = time.monotonic() + BUSY_GIVE_UP
    while True:
        try:
            return call()
        except (apsw.BusyError, apsw.LockedError):
            if time.monotonic() >= deadline:
                raise
            time.sleep(random.uniform(0.001, 0.01))


class Reader:
    """A connection for questions, beside the writer, so that a long look does not hold up a claim. Thread-safe."""

    def __init__(self, db: apsw.Connection, path: str | None, writer: Writer | None, place: Place | None) -> None:
        """``writer`` is given where both are one connection: in memory."""
        self.db = db
        self.path = path
        self.place = place
        self.lock = threading.RLock() if writer is None else writer.lock
        self._writer = writer

    @property
    def is_held_here(self) -> bool:
        """Whether a transaction that the code here is inside of is open on this connection."""
        return self._writer is not None and self._writer.is_held_here

    def run(self, work: Work[T]) -> T:
        """Run ``work`` on one consistent snapshot. *Blocking.* Raises StoreMoved when the file is not the store."""
        if self.is_held_here:
            with translated(self.path):
                return work(self.db)
        with holding(self.lock, self.path), translated(self.path):
            if self.place is not None:
                self.place.check()
            try:
                self.db.execute("BEGIN")
                try:
                    return work(self.db)
                finally:
                    self.db.execute("ROLLBACK")
            except apsw.Error:
                if self.place is not None:
                    self.place.confirm(durable=True)  # that may be why
                raise
