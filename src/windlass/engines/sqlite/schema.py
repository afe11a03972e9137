"""The tables of the SQLite engine, and how a file gets them.

Each migration is a text that only adds; an old worker keeps running while a newer one has migrated. The version lives
in a table of ours and not in ``user_version``, because the file may hold the user's own tables too. All names carry
the namespace as prefix, so several applications can share one file.

How a job moves: ``state`` says where it is, and each state that something searches has a partial index that holds
just the jobs in it. So a claim reads the head of ``ready`` however long the backlog or the history is.
"""

from __future__ import annotations

from typing import Final

import apsw

from windlass.errors import EngineUnusable

__all__ = ["VERSION", "Sql", "migrate"]

FOREVER: Final = 9_000_000_000_000_000  # a purge_at that never comes; under 2**53

MIGRATIONS: Final = (
    """
    CREATE TABLE "windlass_jobs" (
        seq           INTEGER PRIMARY KEY,   -- arrival
        id            TEXT NOT NULL UNIQUE,
        name          TEXT NOT NULL,
        queue         TEXT NOT NULL,
        state         TEXT NOT NULL,
        payload       NOT NULL,              -- JSON text; left as it is when it is not
        priority      INTEGER NOT NULL,
        place         INTEGER NOT NULL,      -- order within a priority: the due time, or negative for at_front
        run_at        INTEGER NOT NULL,
        enqueued_at   INTEGER NOT NULL,
        max_attempts  INTEGER NOT NULL,
        attempt       INTEGER NOT NULL DEFAULT 0,   -- runs that ended and count
        fence         INTEGER NOT NULL DEFAULT 0,
        crashes       INTEGER NOT NULL DEFAULT 0,
        interruptions INTEGER NOT NULL DEFAULT 0,
        snoozes       INTEGER NOT NULL DEFAULT 0,
        cancel        INTEGER NOT NULL DEFAULT 0,   -- asked for while it ran
        caller_id     INTEGER NOT NULL DEFAULT 0,
        worker        TEXT,
        started_at    INTEGER,
        finished_at   INTEGER,
        purge_at      INTEGER,               -- set when finished, and only then
        expires_ms    INTEGER,
        expires_at    INTEGER,
        result        TEXT,
        errors        TEXT,
        reason        TEXT,
        progress      TEXT,
        tags          TEXT,
        meta          TEXT
    );
    CREATE INDEX "windlass_jobs_ready" ON "windlass_jobs" (queue, priority, place, seq)
        WHERE state = 'ready' AND crashes < 2;
    CREATE INDEX "windlass_jobs_alone" ON "windlass_jobs" (state, queue, run_at)
        WHERE crashes >= 2 AND purge_at IS NULL;
    CREATE INDEX "windlass_jobs_due" ON "windlass_jobs" (run_at, queue) WHERE state = 'scheduled';
    CREATE INDEX "windlass_jobs_held" ON "windlass_jobs" (worker, cancel, queue) WHERE state = 'running';
    CREATE INDEX "windlass_jobs_ended" ON "windlass_jobs" (state, queue, purge_at) WHERE purge_at IS NOT NULL;
    CREATE INDEX "windlass_jobs_expiring" ON "windlass_jobs" (expires_at)
        WHERE expires_at IS NOT NULL AND purge_at IS NULL;
    CREATE TABLE "windlass_queues" (
        name   TEXT PRIMARY KEY,
        paused INTEGER NOT NULL DEFAULT 0,
        reason TEXT,
        until  INTEGER
    ) WITHOUT ROWID;
    CREATE TABLE "windlass_workers" (
        id          TEXT PRIMARY KEY,
        boot        TEXT NOT NULL,           -- a lease of another boot of the machine is over
        lease_until INTEGER NOT NULL,        -- boot-clock ms
        beat_at     INTEGER NOT NULL,        -- wall-clock ms, for people
        info        TEXT NOT NULL,
        control     TEXT
    ) WITHOUT ROWID;
    CREATE TABLE "windlass_tombstones" (
        id    TEXT PRIMARY KEY,
        until INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX "windlass_tombstones_until" ON "windlass_tombstones" (until);
    CREATE TABLE "windlass_totals" (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    """,
    # When the first run of the present budget that failed began: what a time budget counts from.
    'ALTER TABLE "windlass_jobs" ADD COLUMN retrying_since INTEGER',
    """
    ALTER TABLE "windlass_jobs" ADD COLUMN error_type TEXT;   -- with the two below: why a dead job died
    ALTER TABLE "windlass_jobs" ADD COLUMN fingerprint TEXT;
    ALTER TABLE "windlass_jobs" ADD COLUMN frame TEXT;
    ALTER TABLE "windlass_jobs" ADD COLUMN recoveries INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX "windlass_jobs_dead" ON "windlass_jobs" (coalesce(fingerprint, 'unknown'), seq) WHERE state = 'dead';
    CREATE INDEX "windlass_jobs_died" ON "windlass_jobs" (error_type, finished_at) WHERE state = 'dead';
    CREATE TABLE "windlass_documents" (
        key     TEXT PRIMARY KEY,
        version INTEGER NOT NULL,
        value   TEXT NOT NULL,
        until   INTEGER                      -- wall-clock ms; null: for ever
    ) WITHOUT ROWID;
    CREATE INDEX "windlass_documents_until" ON "windlass_documents" (until) WHERE until IS NOT NULL;
    """,
    # Order within a queue: a job that ages stands at level 0, its place shifted by what its priority is worth.
    """
    ALTER TABLE "windlass_jobs" ADD COLUMN shift INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE "windlass_jobs" ADD COLUMN level INTEGER GENERATED ALWAYS AS (iif(shift = 0, priority, 0)) VIRTUAL;
    DROP INDEX "windlass_jobs_ready";
    CREATE INDEX "windlass_jobs_ready" ON "windlass_jobs" (queue, level, place, seq)
        WHERE state = 'ready' AND crashes < 2;
    ALTER TABLE "windlass_queues" ADD COLUMN who TEXT;
    CREATE TABLE "windlass_flow" (
        queue   TEXT NOT NULL,
        step    INTEGER NOT NULL,            -- wall-clock time in steps of ten seconds
        arrived INTEGER NOT NULL,
        claimed INTEGER NOT NULL,
        PRIMARY KEY (queue, step)
    ) WITHOUT ROWID;
    """,
)
VERSION: Final = len(MIGRATIONS)


class Sql:
    """Puts the namespace into a statement's table names, once per statement."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._made: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        try:
            return self._made[text]
        except KeyError:
            made = text.replace('"windlass_', f'"{self.namespace}_')
            self._made[text] = made
            return made


def version_of(db: apsw.Connection, q: Sql) -> int:
    """The schema version the file has; 0 when it has none of our tables."""
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (f"{q.namespace}_meta",)).fetchall():
        return 0
    rows = db.execute(q("SELECT value FROM \"windlass_meta\" WHERE key = 'schema'")).fetchall()
    return int(str(rows[0][0])) if rows else 0


def migrate(db: apsw.Connection, q: Sql, target: str) -> int:
    """Bring the file up to VERSION inside the caller's write transaction; give the version. *Idempotent.*

    Raises EngineUnusable when the file was written by a newer windlass.
    """
    db.execute(q('CREATE TABLE IF NOT EXISTS "windlass_meta" (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID'))
    have = version_of(db, q)
    if have > VERSION:
        raise newer(target, have)
    for text in MIGRATIONS[have:]:
        db.execute(q(text))
    db.execute(q("INSERT OR REPLACE INTO \"windlass_meta\" (key, value) VALUES ('schema', ?)"), (VERSION,))
    return VERSION


def newer(target: str, have: int) -> EngineUnusable:
    """The error for a file of a later schema."""
    return EngineUnusable(
        f"{target} has job tables of schema {have}, and this windlass knows schemas up to {VERSION}: "
        "upgrade windlass here, or point WINDLASS_URL at another file"
    )
