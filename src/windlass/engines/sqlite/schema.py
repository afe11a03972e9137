"""The tables of the SQLite engine, and how a file gets them.

Each migration is a text that only adds; an old worker keeps running while a newer one has migrated. The one exception
is a rule that both could keep by themselves and not together, such as who has a lock: there the old table goes, and the
old worker's calls fail until it is replaced. The version lives
in a table of ours and not in ``user_version``, because the file may hold the user's own tables too. All names carry
the namespace as prefix (``prefix_of``), so several applications can share one file.

How a job moves: ``state`` says where it is, and each state that something searches has a partial index that holds
just the jobs in it. So a claim reads the head of ``ready`` however long the backlog or the history is.
"""

from __future__ import annotations

import re
from typing import Final

import apsw

from windlass.core import caps
from windlass.core.errors import EngineUnusable
from windlass.core.model import Slot

__all__ = ["HISTORY", "SLOTS", "SLOT_CODES", "VERSION", "Sql", "migrate"]

FENCE_MAX: Final = 2**53 - 2**40  # a greater fence is none that we gave
COUNT_MAX: Final = 2**53  # a greater count is none
HELD: Final = 1 << 50  # what a purge_at is put off by while the record is a member of a join
FOREVER: Final = 9_000_000_000_000_000  # a purge_at that never comes; under 2**53

# The errors of a job, with room for one more: of a very long history the errors behind the first one go, two for each
# that comes, so that a job that fails for weeks never grows beyond what a row can hold.
HISTORY: Final = f"""CASE WHEN length(errors) > {caps.HISTORY} THEN json_remove(errors, '$[1]', '$[1]')
                    ELSE coalesce(errors, '[]') END"""

SLOTS: Final = (None, Slot.THREAD, Slot.LOOP)  # what the column ``slot`` counts
SLOT_CODES: Final = {slot: code for code, slot in enumerate(SLOTS)}

# Guards. What a job holds is a row keyed by gate and job, never a counter, and triggers delete it whenever the job
# leaves the state that entitles it: so whatever moves a job (settle, bury, reap, clear, a statement yet to be written)
# releases what it held, in the same step.
GUARDS: Final = """
    ALTER TABLE "windlass_jobs" ADD COLUMN guards TEXT;      -- [[kind, gate, limit, per_ms, burst, keep_ms], ...]
    ALTER TABLE "windlass_jobs" ADD COLUMN holding INTEGER;  -- 1: has guards that it may hold rows for
    ALTER TABLE "windlass_jobs" ADD COLUMN once_key TEXT;
    ALTER TABLE "windlass_jobs" ADD COLUMN uniq TEXT;        -- [key, until, ttl_ms, rule]
    ALTER TABLE "windlass_jobs" ADD COLUMN blocked_by TEXT;  -- the gate; counts only while the state is blocked
    CREATE INDEX "windlass_jobs_blocked" ON "windlass_jobs" (blocked_by, queue, level, place, seq)
        WHERE state = 'blocked';
    CREATE INDEX "windlass_jobs_once" ON "windlass_jobs" (once_key) WHERE once_key IS NOT NULL;
    CREATE TABLE "windlass_holds" (
        seq INTEGER NOT NULL, gate TEXT NOT NULL, PRIMARY KEY (seq, gate)
    ) WITHOUT ROWID;
    CREATE INDEX "windlass_holds_gate" ON "windlass_holds" (gate);
    CREATE TABLE "windlass_once" (
        key    TEXT PRIMARY KEY,
        id     TEXT NOT NULL,                -- the job that is done
        result TEXT,
        until  INTEGER NOT NULL,             -- and longer, while a record carries the key
        look   INTEGER NOT NULL              -- when upkeep looks whether it may go
    ) WITHOUT ROWID;
    CREATE INDEX "windlass_once_look" ON "windlass_once" (look);
    CREATE TABLE "windlass_gates" (          -- those that have waiters and may let some through from a time on
        gate TEXT PRIMARY KEY,
        at   INTEGER NOT NULL                -- steady ms; 0: now
    ) WITHOUT ROWID;
    CREATE INDEX "windlass_gates_at" ON "windlass_gates" (at);
    CREATE TABLE "windlass_rates" (
        gate  TEXT NOT NULL,
        at    INTEGER NOT NULL,              -- steady ms
        total INTEGER NOT NULL,              -- claims up to then, since the key was new
        PRIMARY KEY (gate, at)
    ) WITHOUT ROWID;
    CREATE TABLE "windlass_unique" (
        key        TEXT PRIMARY KEY,
        id         TEXT NOT NULL,            -- the job that holds it
        next       TEXT,                     -- the one that waits for its end
        until      TEXT NOT NULL,
        expires_at INTEGER
    ) WITHOUT ROWID;
    CREATE INDEX "windlass_unique_expires" ON "windlass_unique" (expires_at) WHERE expires_at IS NOT NULL;
    CREATE TABLE "windlass_locks" (
        key   TEXT PRIMARY KEY,
        token TEXT NOT NULL,
        fence INTEGER NOT NULL,
        until INTEGER NOT NULL,              -- steady ms
        since INTEGER NOT NULL,
        owner TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE "windlass_line" (           -- who waits for a lock, in order
        key    TEXT NOT NULL,
        ticket INTEGER NOT NULL,
        token  TEXT NOT NULL,
        until  INTEGER NOT NULL,
        PRIMARY KEY (key, ticket)
    ) WITHOUT ROWID;
    CREATE TABLE "windlass_circuits" (name TEXT PRIMARY KEY, doc TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE "windlass_probes" (         -- of calls that are no jobs
        name TEXT NOT NULL, token TEXT NOT NULL, until INTEGER NOT NULL, PRIMARY KEY (name, token)
    ) WITHOUT ROWID;

    -- Slots and probes belong to a running job, a Once key to a job that has not ended; its end as done is the marker.
    CREATE TRIGGER "windlass_jobs_guards_moved" AFTER UPDATE OF state ON "windlass_jobs"
    WHEN OLD.holding IS NOT NULL AND (OLD.state = 'running' OR NEW.purge_at IS NOT NULL) AND NEW.state != OLD.state
    BEGIN
        {opened} AND (NEW.purge_at IS NOT NULL OR substr(gate, 1, 5) != 'once:')
            ON CONFLICT (gate) DO UPDATE SET at = 0;
        DELETE FROM "windlass_holds"
            WHERE seq = OLD.seq AND (NEW.purge_at IS NOT NULL OR substr(gate, 1, 5) != 'once:');
    END;
    CREATE TRIGGER "windlass_jobs_once_done" AFTER UPDATE OF purge_at ON "windlass_jobs"
    WHEN OLD.once_key IS NOT NULL AND OLD.state = 'running' AND NEW.state = 'done'
    BEGIN
        INSERT INTO "windlass_once" (key, id, result, until, look)
            SELECT OLD.once_key, NEW.id, NEW.result, NEW.finished_at + (value ->> 5), NEW.finished_at + (value ->> 5)
            FROM json_each(OLD.guards) WHERE value ->> 0 = 'once'
            ON CONFLICT (key) DO UPDATE SET id = excluded.id, result = excluded.result, until = excluded.until,
                look = excluded.look;
    END;
    CREATE TRIGGER "windlass_jobs_guards_gone" AFTER DELETE ON "windlass_jobs" WHEN OLD.holding IS NOT NULL
    BEGIN
        {opened} ON CONFLICT (gate) DO UPDATE SET at = 0;
        DELETE FROM "windlass_holds" WHERE seq = OLD.seq;
    END;

    -- A unique key is held until the job starts, ends or expires; what waits behind the holder takes its place then.
    CREATE TRIGGER "windlass_jobs_unique_moved" AFTER UPDATE OF state ON "windlass_jobs"
    WHEN OLD.uniq IS NOT NULL AND OLD.purge_at IS NULL
        AND (NEW.purge_at IS NOT NULL OR NEW.state = 'running' AND OLD.uniq ->> 1 = 'start')
    BEGIN
        {freed}
    END;
    CREATE TRIGGER "windlass_jobs_unique_gone" AFTER DELETE ON "windlass_jobs" WHEN OLD.uniq IS NOT NULL
    BEGIN
        {freed}
    END;
    -- An ended job that is to run again needs its key; where another has taken it, the job stays as it is. Whoever lets
    -- an ended job run again sets expires_at, and nobody else does: so these two cost the hot path nothing.
    CREATE TRIGGER "windlass_jobs_unique_taken" BEFORE UPDATE OF expires_at ON "windlass_jobs"
    WHEN OLD.uniq IS NOT NULL AND OLD.purge_at IS NOT NULL AND NEW.purge_at IS NULL AND OLD.uniq ->> 1 != 'expiry'
        AND EXISTS (SELECT 1 FROM "windlass_unique" AS taken WHERE taken.key = OLD.uniq ->> 0 AND taken.id != OLD.id
                    AND (taken.expires_at IS NULL OR taken.expires_at > NEW.run_at))
    BEGIN
        UPDATE "windlass_jobs" SET reason = (SELECT 'unique key ' || key || ' is taken by ' || id
            FROM "windlass_unique" WHERE key = OLD.uniq ->> 0) WHERE seq = OLD.seq;
        SELECT RAISE(IGNORE);
    END;
    CREATE TRIGGER "windlass_jobs_unique_again" AFTER UPDATE OF expires_at ON "windlass_jobs"
    WHEN OLD.uniq IS NOT NULL AND OLD.purge_at IS NOT NULL AND NEW.purge_at IS NULL AND OLD.uniq ->> 1 != 'expiry'
    BEGIN
        INSERT INTO "windlass_unique" (key, id, until, expires_at)
            VALUES (OLD.uniq ->> 0, OLD.id, OLD.uniq ->> 1, NEW.run_at + (OLD.uniq ->> 2))
            ON CONFLICT (key) DO UPDATE SET id = excluded.id, next = NULL, until = excluded.until,
                expires_at = excluded.expires_at;
    END;
""".replace(
    "{opened}",
    """INSERT INTO "windlass_gates" (gate, at) SELECT gate, 0 FROM "windlass_holds" AS held
            WHERE seq = OLD.seq
            AND EXISTS (SELECT 1 FROM "windlass_jobs" WHERE state = 'blocked' AND blocked_by = held.gate)""",
).replace(
    "{freed}",
    """
        UPDATE "windlass_jobs" SET state = 'scheduled', blocked_by = NULL WHERE state = 'blocked' AND id = (
            SELECT next FROM "windlass_unique" WHERE key = OLD.uniq ->> 0 AND id = OLD.id);
        INSERT INTO "windlass_gates" (gate, at) SELECT 'unique:' || key, 0 FROM "windlass_unique"
            WHERE key = OLD.uniq ->> 0 AND id = OLD.id AND next IS NOT NULL ON CONFLICT (gate) DO NOTHING;
        UPDATE "windlass_unique" SET next = NULL, expires_at = CASE until WHEN 'expiry' THEN coalesce((
                SELECT run_at + (uniq ->> 2) FROM "windlass_jobs" AS holder
                WHERE holder.id = "windlass_unique".id AND json_valid(uniq)), 0) END
            WHERE key = OLD.uniq ->> 0 AND next = OLD.id;
        -- A key whose new holder does not say any more how long it holds it is free when that has ended.
        UPDATE "windlass_unique" SET id = behind.id, next = NULL, until = coalesce(behind.until, 'done'),
                expires_at = CASE behind.until WHEN 'expiry' THEN coalesce(behind.run_at + behind.ttl, 0) END
            FROM (SELECT id, run_at, CASE WHEN json_valid(uniq) THEN uniq ->> 1 END AS until,
                         CASE WHEN json_valid(uniq) THEN uniq ->> 2 END AS ttl FROM "windlass_jobs") AS behind
            WHERE key = OLD.uniq ->> 0 AND "windlass_unique".id = OLD.id AND behind.id = next;
        DELETE FROM "windlass_unique" WHERE key = OLD.uniq ->> 0 AND id = OLD.id AND until != 'expiry';
    """,
)

# Counts take the place of totals and flow. A process of the version before may still write into those two tables, which
# are empty from now on: triggers count what it says. It says of a new job that it was enqueued and that it has arrived.
COUNTS: Final = """
    CREATE TABLE "windlass_counts" (
        minute INTEGER NOT NULL,             -- since the epoch; 0: all that was before
        series TEXT NOT NULL,
        n      INTEGER NOT NULL,
        PRIMARY KEY (minute, series)
    ) WITHOUT ROWID;
    INSERT INTO "windlass_counts" (minute, series, n)
        SELECT step / 6, 'arrived:' || queue, sum(arrived) FROM "windlass_flow"
        WHERE {sound} AND typeof(arrived) = 'integer' AND arrived BETWEEN 1 AND {most} GROUP BY 1, 2;
    INSERT INTO "windlass_counts" (minute, series, n)
        SELECT step / 6, 'claimed:' || queue, sum(claimed) FROM "windlass_flow"
        WHERE {sound} AND typeof(claimed) = 'integer' AND claimed BETWEEN 1 AND {most} GROUP BY 1, 2;
    INSERT INTO "windlass_counts" (minute, series, n)
        SELECT 0, 'total:' || name, max(0, value - iif(name = 'enqueued', (
            SELECT coalesce(sum(n), 0) FROM "windlass_counts" WHERE series >= 'arrived:' AND series < 'arrived;'), 0))
        FROM "windlass_totals"
        WHERE typeof(name) = 'text' AND typeof(value) = 'integer' AND value BETWEEN 1 AND {most};
    DELETE FROM "windlass_flow";
    DELETE FROM "windlass_totals";
    CREATE TRIGGER "windlass_totals_counted" AFTER INSERT ON "windlass_totals"
    BEGIN
        INSERT INTO "windlass_counts" (minute, series, n)
            SELECT 0, 'total:' || NEW.name, NEW.value WHERE NEW.name != 'enqueued'
            ON CONFLICT (minute, series) DO UPDATE SET n = n + excluded.n;
        DELETE FROM "windlass_totals" WHERE name = NEW.name;
    END;
    CREATE TRIGGER "windlass_flow_counted" AFTER INSERT ON "windlass_flow"
    BEGIN
        INSERT INTO "windlass_counts" (minute, series, n)
            SELECT NEW.step / 6, 'arrived:' || NEW.queue, NEW.arrived WHERE NEW.arrived > 0
            ON CONFLICT (minute, series) DO UPDATE SET n = n + excluded.n;
        INSERT INTO "windlass_counts" (minute, series, n)
            SELECT NEW.step / 6, 'claimed:' || NEW.queue, NEW.claimed WHERE NEW.claimed > 0
            ON CONFLICT (minute, series) DO UPDATE SET n = n + excluded.n;
        DELETE FROM "windlass_flow" WHERE step = NEW.step AND queue = NEW.queue;
    END;
""".replace("{most}", str(COUNT_MAX)).replace(
    "{sound}", "typeof(queue) = 'text' AND typeof(step) = 'integer' AND step > 6"
)

# See ``joins``. Whoever ends a record, by whatever statement, has its verdict written here, and the counters follow.
JOINS: Final = """
    CREATE TABLE "windlass_joins" (
        id       TEXT PRIMARY KEY,
        sealed   INTEGER NOT NULL,
        total    INTEGER NOT NULL DEFAULT 0,
        ok       INTEGER NOT NULL DEFAULT 0,
        bad      INTEGER NOT NULL DEFAULT 0,
        void     INTEGER NOT NULL DEFAULT 0,
        made_at  INTEGER NOT NULL,
        moved_at INTEGER NOT NULL,
        ended_at INTEGER,
        purge_at INTEGER,                    -- null also while it goes with its home
        keep_ms  INTEGER NOT NULL,
        home     TEXT,
        meta     TEXT,
        dirty    INTEGER                     -- 1: its counters have moved, and nothing was decided since
    ) WITHOUT ROWID;
    CREATE INDEX "windlass_joins_dirty" ON "windlass_joins" (dirty) WHERE dirty IS NOT NULL;
    CREATE INDEX "windlass_joins_purge" ON "windlass_joins" (purge_at) WHERE purge_at IS NOT NULL;
    CREATE INDEX "windlass_joins_home" ON "windlass_joins" (home) WHERE home IS NOT NULL;
    CREATE TABLE "windlass_members" (
        id      TEXT NOT NULL,
        join_id TEXT NOT NULL,
        verdict TEXT,                        -- done, dead or cancelled; null: it has not ended
        PRIMARY KEY (id, join_id)
    ) WITHOUT ROWID;
    CREATE INDEX "windlass_members_join" ON "windlass_members" (join_id, id, verdict);
    CREATE TABLE "windlass_waits" (          -- of jobs that are blocked by a join, or were skipped for it
        id       TEXT PRIMARY KEY,
        join_id  TEXT NOT NULL,
        of       TEXT NOT NULL,
        count    INTEGER NOT NULL,
        delay_ms INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX "windlass_waits_join" ON "windlass_waits" (join_id, of, count);
    ALTER TABLE "windlass_jobs" ADD COLUMN tied INTEGER;  -- 1: may have rows in members or waits

    CREATE TRIGGER "windlass_members_in" AFTER INSERT ON "windlass_members"
    BEGIN
        UPDATE "windlass_joins" SET dirty = 1, total = total + 1, ok = ok + (NEW.verdict IS 'done'),
            bad = bad + (NEW.verdict IS 'dead'), void = void + (NEW.verdict IS 'cancelled') WHERE id = NEW.join_id;
    END;
    CREATE TRIGGER "windlass_members_moved" AFTER UPDATE OF verdict ON "windlass_members"
    WHEN OLD.verdict IS NOT NEW.verdict
    BEGIN
        UPDATE "windlass_joins" SET dirty = 1, ok = ok + (NEW.verdict IS 'done') - (OLD.verdict IS 'done'),
            bad = bad + (NEW.verdict IS 'dead') - (OLD.verdict IS 'dead'),
            void = void + (NEW.verdict IS 'cancelled') - (OLD.verdict IS 'cancelled') WHERE id = NEW.join_id;
    END;
    -- Only a join that is forgotten loses members. A record that no join has any more goes when it would have gone.
    CREATE TRIGGER "windlass_members_out" AFTER DELETE ON "windlass_members"
    BEGIN
        UPDATE "windlass_jobs" SET purge_at = purge_at - {held} WHERE id = OLD.id AND purge_at >= {held}
            AND purge_at < {forever}
            AND NOT EXISTS (SELECT 1 FROM "windlass_members" AS members WHERE members.id = OLD.id);
    END;
    CREATE TRIGGER "windlass_jobs_member_moved" AFTER UPDATE OF purge_at ON "windlass_jobs"
    WHEN OLD.tied IS NOT NULL AND (OLD.purge_at IS NULL) != (NEW.purge_at IS NULL)
    BEGIN
        UPDATE "windlass_members" SET verdict = CASE WHEN NEW.purge_at IS NOT NULL THEN NEW.state END
            WHERE id = NEW.id;
        UPDATE "windlass_jobs" SET purge_at = min(purge_at + {held}, {forever})
            WHERE seq = NEW.seq AND purge_at IS NOT NULL AND state != 'dead'
            AND EXISTS (SELECT 1 FROM "windlass_members" AS members WHERE members.id = NEW.id);
        -- What ended otherwise, or was made to run by hand, waits for nothing any more.
        DELETE FROM "windlass_waits" WHERE id = NEW.id AND NEW.reason IS NOT 'skipped' AND NEW.state != 'blocked';
    END;
    CREATE TRIGGER "windlass_jobs_member_gone" AFTER DELETE ON "windlass_jobs" WHEN OLD.tied IS NOT NULL
    BEGIN
        UPDATE "windlass_members" SET verdict = 'cancelled' WHERE id = OLD.id AND verdict IS NULL;
        DELETE FROM "windlass_waits" WHERE id = OLD.id;
    END;
""".replace("{held}", str(HELD)).replace("{forever}", str(FOREVER))

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
    GUARDS,
    """
    ALTER TABLE "windlass_queues" ADD COLUMN most INTEGER;     -- jobs that may run at once
    ALTER TABLE "windlass_queues" ADD COLUMN rate INTEGER;     -- jobs that may be claimed in per_ms
    ALTER TABLE "windlass_queues" ADD COLUMN per_ms INTEGER;
    ALTER TABLE "windlass_queues" ADD COLUMN held_back INTEGER NOT NULL DEFAULT 0;  -- 1: jobs wait because it is full
    ALTER TABLE "windlass_rates" ADD COLUMN until INTEGER;  -- of the newest row of a gate: when it is out of the window
    UPDATE "windlass_rates" SET until = at + 86400000
        WHERE at = (SELECT max(at) FROM "windlass_rates" AS other WHERE other.gate = "windlass_rates".gate);
    CREATE INDEX "windlass_rates_until" ON "windlass_rates" (until) WHERE until IS NOT NULL;
    """,
    # Each kind of slot has an order of its own, so a claim finds the head of one behind any number of the other.
    """
    ALTER TABLE "windlass_jobs" ADD COLUMN slot INTEGER NOT NULL DEFAULT 0;  -- 0 unknown, 1 thread, 2 event loop
    ALTER TABLE "windlass_jobs" ADD COLUMN held INTEGER;  -- 1: claimed ahead; counts only while the state is running
    DROP INDEX "windlass_jobs_ready";
    CREATE INDEX "windlass_jobs_ready" ON "windlass_jobs" (queue, slot, level, place, seq)
        WHERE state = 'ready' AND crashes < 2;
    DROP INDEX "windlass_jobs_blocked";
    CREATE INDEX "windlass_jobs_blocked" ON "windlass_jobs" (blocked_by, queue, slot, level, place, seq)
        WHERE state = 'blocked';
    DROP INDEX "windlass_jobs_held";
    CREATE INDEX "windlass_jobs_held" ON "windlass_jobs" (worker, cancel, queue, held) WHERE state = 'running';
    """,
    # A count of ended records passes over those that are promised to stay longer than all, without reading them.
    """
    DROP INDEX "windlass_jobs_ended";
    CREATE INDEX "windlass_jobs_ended" ON "windlass_jobs" (state, queue, purge_at, finished_at)
        WHERE purge_at IS NOT NULL;
    -- Neither a claim nor the upkeep may cost what names there are.
    ALTER TABLE "windlass_queues" ADD COLUMN idle_since INTEGER;  -- wall-clock ms: nothing has needed the name since
    CREATE INDEX "windlass_queues_set" ON "windlass_queues" (name)
        WHERE paused != 0 OR most IS NOT NULL OR rate IS NOT NULL OR held_back != 0;
    CREATE INDEX "windlass_queues_idle" ON "windlass_queues" (idle_since) WHERE idle_since IS NOT NULL;
    DROP TABLE "windlass_flow";
    CREATE TABLE "windlass_flow" (           -- of two minutes
        step    INTEGER NOT NULL,            -- wall-clock time in steps of ten seconds
        queue   TEXT NOT NULL,
        arrived INTEGER NOT NULL,
        claimed INTEGER NOT NULL,
        PRIMARY KEY (step, queue)
    ) WITHOUT ROWID;
    -- A dead job keeps no name; one that is made ready again (see windlass_jobs_unique_again) brings it back.
    CREATE TRIGGER "windlass_jobs_queue_again" AFTER UPDATE OF expires_at ON "windlass_jobs"
    WHEN OLD.purge_at IS NOT NULL AND NEW.purge_at IS NULL
    BEGIN
        INSERT INTO "windlass_queues" (name) VALUES (NEW.queue)
            ON CONFLICT (name) DO UPDATE SET idle_since = NULL WHERE idle_since IS NOT NULL;
    END;
    """,
    # Holds of tokens stand beside those of runs. Locks and probes that are held stay held. Circuits are documents; one
    # that is open stays open, and its jobs wait at its gate.
    """
    ALTER TABLE "windlass_holds" ADD COLUMN token TEXT;      -- null: a run has it; else seq is its fence below zero
    ALTER TABLE "windlass_holds" ADD COLUMN until INTEGER;   -- of a token: steady ms
    ALTER TABLE "windlass_holds" ADD COLUMN since INTEGER;   -- of a token: wall-clock ms
    ALTER TABLE "windlass_holds" ADD COLUMN owner TEXT;      -- of a token: for people
    DROP INDEX "windlass_holds_gate";
    CREATE INDEX "windlass_holds_gate" ON "windlass_holds" (gate, until);
    CREATE INDEX "windlass_holds_until" ON "windlass_holds" (until) WHERE until IS NOT NULL;
    INSERT INTO "windlass_holds" (gate, seq, token, until, since, owner)
        SELECT 'lock:' || key, -fence, token, until, since, owner FROM "windlass_locks";
    INSERT INTO "windlass_holds" (gate, seq, token, until, since, owner)
        SELECT 'circuit:' || name, -row_number() OVER (ORDER BY name, token), token, until, 0, ''
        FROM "windlass_probes";
    DROP TABLE "windlass_locks";
    DROP TABLE "windlass_probes";
    ALTER TABLE "windlass_line" RENAME TO "windlass_line_before";
    CREATE TABLE "windlass_line" (           -- tokens that wait for a place, in order
        gate   TEXT NOT NULL,
        ticket INTEGER NOT NULL,
        token  TEXT NOT NULL,
        until  INTEGER NOT NULL,             -- steady ms
        PRIMARY KEY (gate, ticket)
    ) WITHOUT ROWID;
    INSERT OR IGNORE INTO "windlass_line" (gate, ticket, token, until)
        SELECT 'lock:' || key, ticket, token, until FROM "windlass_line_before";
    DROP TABLE "windlass_line_before";
    INSERT INTO "windlass_documents" (key, version, value) SELECT 'circuit:' || name,
        row_number() OVER (ORDER BY name) + coalesce((SELECT value FROM "windlass_meta" WHERE key = 'document'), 0), doc
        FROM "windlass_circuits";
    INSERT INTO "windlass_meta" (key, value) SELECT 'document', count(*) FROM "windlass_circuits" WHERE true
        ON CONFLICT (key) DO UPDATE SET value = value + excluded.value;
    DROP TABLE "windlass_circuits";
    -- Named texts of a job, the progress that it shows among them.
    CREATE TABLE "windlass_notes" (
        seq INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (seq, key)
    ) WITHOUT ROWID;
    ALTER TABLE "windlass_jobs" ADD COLUMN noted INTEGER;  -- 1: may have rows in windlass_notes
    INSERT INTO "windlass_notes" (seq, key, value)
        SELECT seq, 'progress', progress FROM "windlass_jobs" WHERE typeof(progress) = 'text';
    UPDATE "windlass_jobs" SET noted = 1, progress = NULL WHERE progress IS NOT NULL;
    CREATE TRIGGER "windlass_jobs_notes_gone" AFTER DELETE ON "windlass_jobs" WHEN OLD.noted IS NOT NULL
    BEGIN
        DELETE FROM "windlass_notes" WHERE seq = OLD.seq;
    END;
    -- Workers of the version before write progress there.
    CREATE TRIGGER "windlass_jobs_progress" AFTER UPDATE OF progress ON "windlass_jobs" WHEN NEW.progress IS NOT NULL
    BEGIN
        INSERT OR REPLACE INTO "windlass_notes" (seq, key, value) VALUES (NEW.seq, 'progress', NEW.progress);
        UPDATE "windlass_jobs" SET noted = 1, progress = NULL WHERE seq = NEW.seq;
    END;
    """
    + COUNTS,
    JOINS,
    """
    ALTER TABLE "windlass_joins" ADD COLUMN watch_ms INTEGER NOT NULL DEFAULT 0;  -- 0: nobody watches it
    ALTER TABLE "windlass_joins" ADD COLUMN watch_at INTEGER;  -- when upkeep names it next, if it has not ended by then
    CREATE INDEX "windlass_joins_watch" ON "windlass_joins" (watch_at)
        WHERE watch_at IS NOT NULL AND ended_at IS NULL;
    """,
)
VERSION: Final = len(MIGRATIONS)
NEWEST: Final = ("joins", "watch_at")  # a column that the last of them has made
VERSION_MAX: Final = 9_999


class Sql:
    """Puts the prefix of a namespace into a statement's table names, once per statement."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.prefix = prefix_of(namespace)
        self._made: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        try:
            return self._made[text]
        except KeyError:
            made = text.replace('"windlass_', f'"{self.prefix}_')
            self._made[text] = made
            return made


def prefix_of(namespace: str) -> str:
    """What the names of a namespace's tables begin with: the namespace itself, but for three kinds of them.

    SQLite takes ``Shop`` for ``shop``, keeps names that begin with ``sqlite_`` for itself, and has one set of names for
    tables and indexes, so that an index of ``shop`` would be a table of ``shop_jobs``. No namespace has a ``^``, so no
    two get the same prefix.
    """
    prefix = re.sub("[A-Z]", lambda letter: f"^{letter[0].lower()}", namespace)
    if prefix == "sqlite" or prefix.startswith("sqlite_"):
        prefix = f"^^{prefix}"
    return re.sub("_jobs$", "^_jobs", prefix)


def version_of(db: apsw.Connection, q: Sql) -> int:
    """The schema version the file has; 0 when it has none of our tables."""
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (f"{q.prefix}_meta",)).fetchall():
        return 0
    value = "CASE typeof(value) WHEN 'integer' THEN value END"  # a text may be no UTF-8
    rows = db.execute(q(f"SELECT {value} FROM \"windlass_meta\" WHERE key = 'schema'")).fetchall()
    have = rows[0][0] if rows else 0
    number = have if isinstance(have, int) and 0 <= have <= VERSION_MAX else None
    if number is not None and number >= VERSION:
        return number
    # What the last migration made says more than a number that is too low or none: such a one was damaged.
    table, column = NEWEST
    found = db.execute(q("SELECT 1 FROM pragma_table_info(?) WHERE name = ?"), (f"{q.prefix}_{table}", column))
    if found.fetchall():
        return VERSION
    if number is not None:
        return number
    raise EngineUnusable(
        "the number of the schema in the meta table is damaged, and the tables are not those of this windlass: restore "
        "a backup, or open the file with the windlass that made it"
    )


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
