"""Jobs inside a transaction that the caller owns: commit them with your own writes, and settle with them.

The caller's writes and ours are one commit, so either both happened or neither. The transaction holds the one writer
of this process: others wait for it, and so does every other process on the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import apsw

from windlass.core.errors import ConfigError, EngineUnavailable
from windlass.core.model import Write, Written
from windlass.core.work import Outcome, Settled
from windlass.engines.base import Tx
from windlass.engines.sqlite.commit import commit
from windlass.engines.sqlite.core import FOLLOW_MAX
from windlass.engines.sqlite.inspector import SqliteInspector
from windlass.engines.sqlite.joins import advance
from windlass.engines.sqlite.place import StoreMoved, has_moved
from windlass.engines.sqlite.settle import settle

__all__ = ["SqliteTransactions", "SqliteTx"]


class SqliteTx:
    """An open transaction on the engine's writer. See ``engines.base.Tx``."""

    def __init__(self, db: apsw.Connection) -> None:
        self.result: Any = None
        self._db = db

    def execute(self, sql: str, bindings: Any = ()) -> apsw.Cursor:
        return self._db.execute(sql, bindings)

    @property
    def connection(self) -> apsw.Connection:
        return self._db


class SqliteTransactions(SqliteInspector):
    """TransactionalCommit and TransactionalSettle for the engine."""

    @contextmanager
    def transaction(self) -> Iterator[SqliteTx]:
        """Hold the writer; commit at the end of the block, roll back on an error. *Atomic, blocking.*"""
        with ExitStack() as stack:
            db = self._enter(stack)
            yield SqliteTx(db)
        self._ready.touch()
        self._ended.touch()

    def _enter(self, stack: ExitStack) -> apsw.Connection:
        """Begin a transaction, in the file that is the store now."""
        tries = FOLLOW_MAX
        while True:
            writer = self._open_writer()
            try:
                db = stack.enter_context(writer.transaction(self._durable))
            except StoreMoved as moved:
                tries -= 1
                self._follow(writer.place, moved, tries)
            else:
                # The caller may go back to a savepoint, so what is counted is written where it is.
                stack.callback(setattr, writer.db, "counts", writer.db.counts)
                writer.db.counts = None
                return db

    def commit_within(self, connection: object, write: Write) -> Written:
        db = connection.connection if isinstance(connection, SqliteTx) else connection
        if type(db).__module__ == "sqlite3":
            raise ConfigError(
                "connection= is a stdlib sqlite3 connection: two SQLite libraries on one file in one process void its "
                "locks; use an apsw.Connection, or `with app.transaction() as tx` and connection=tx"
            )
        if not isinstance(db, apsw.Connection):
            raise ConfigError(
                f"connection= is a {type(db).__module__}.{type(db).__qualname__}; the SQLite engine takes an "
                "apsw.Connection to its own file, or what app.transaction() gives"
            )
        mine = self._open_writer()
        if db is mine.db:
            if not db.in_transaction:
                raise ConfigError("the transaction of this tx has ended: enqueue inside the `with` block")
            return self._commit_here(db, write)[0]
        if self.path is None or not same_file(db.filename, self.path):
            raise ConfigError(
                f"connection= is open on {db.filename or ':memory:'}, and the jobs live in {self.info.target}: "
                "a transaction cannot span two databases"
            )
        if has_moved(db):
            raise EngineUnavailable(
                f"connection= is open on a file that is not {self.path} any more: it was removed or replaced; "
                "connect anew"
            )
        if not db.in_transaction:
            raise ConfigError(
                "connection= has no open transaction: begin one (BEGIN IMMEDIATE) before you enqueue in it"
            )
        written, moved = self._commit_here(db, write)
        if written.placed or write.opens or moved:
            self._touch_after_commit(db)
        return written

    def _commit_here(self, db: apsw.Connection, write: Write) -> tuple[Written, bool]:
        """Commit inside the caller's transaction; say whether that let jobs go on that waited for a join."""
        now = self._clock.wall_ms()
        written = commit(db, self._q, write, now, self._rules, self._steady)
        return written, advance(db, self._q, now, self._rules)

    def _touch_after_commit(self, db: apsw.Connection) -> None:
        """Wake workers once the caller's commit is visible; else they would find the jobs at their next poll."""
        ready = self._ready

        def committed(_db: apsw.Connection, _schema: str, _pages: int) -> int:
            ready.touch()
            return apsw.SQLITE_OK

        db.set_wal_hook(committed)
        # A WAL hook takes the place of the connection's automatic checkpoints; our own writer makes them.

    def settle_within(self, tx: Tx, outcome: Outcome) -> Settled:
        now = self._clock.wall_ms()
        (answer,) = settle(tx.connection, self._q, [outcome], now, self._rules)
        advance(tx.connection, self._q, now, self._rules)
        return answer


def same_file(one: str, other: str) -> bool:
    """Whether two paths name one file."""

    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
