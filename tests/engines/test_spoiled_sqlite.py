"""Garbage in every column of every table of SQLite: its neighbours run, every question is answered, no job vanishes.

The tables and columns are those that the store has. A sample of the cases runs under ``make test``, all of them under
``make soak``; ``WINDLASS_SEED`` chooses another sample and another order of what is done with the store, and
``WINDLASS_CASE`` runs the cases whose names have that text in them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import apsw
import pytest

from spoiled import GARBAGE, Scene, Verdict, build, flipped, judge
from windlass.core.clock import ManualClock
from windlass.engines.sqlite import SqliteEngine

SEED = int(os.environ.get("WINDLASS_SEED", "11"))
SAMPLE = 40


class Built:
    """A store that something of everything is in, to be copied."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.engine = SqliteEngine(None, clock=self.clock)
        self.engine.open()
        self.scene: Scene = build(self.engine, self.clock)
        self.now = self.clock.wall_ms()

    def copy(self) -> tuple[SqliteEngine, ManualClock]:
        clock = ManualClock(self.now)
        engine = SqliteEngine(None, clock=clock)
        engine.open()
        with connection(engine).backup("main", connection(self.engine), "main") as backup:
            backup.step()
        return engine, clock


def connection(engine: SqliteEngine) -> apsw.Connection:
    assert engine._writer is not None
    return engine._writer.db


def cases(db: apsw.Connection, rng: Random) -> Iterator[tuple[str, str, str, object, object]]:
    """Name, table, column, rowid or primary key as a condition, and the garbage, of every case."""
    tables = [str(name) for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    for table in tables:
        columns = list(db.execute(f'SELECT name, pk FROM pragma_table_info("{table}")'))
        keys = [str(name) for name, pk in columns if pk]
        for column, _ in columns:
            rows = list(db.execute(f'SELECT {", ".join(keys)} FROM "{table}" WHERE "{column}" IS NOT NULL'))
            rows = rows or list(db.execute(f'SELECT {", ".join(keys)} FROM "{table}"'))
            for n in range(len(GARBAGE) + 3 if rows else 0):  # tables of the version before are empty
                key = rng.choice(rows)
                parts = zip(keys, map(apsw.format_sql_value, key), strict=True)
                where = " AND ".join(f"{name} = {value}" for name, value in parts)
                ((old,),) = db.execute(f'SELECT "{column}" FROM "{table}" WHERE {where}')
                yield f"{table}.{column} {where}", table, column, where, garbage(n, old, rng)


def garbage(n: int, old: object, rng: Random) -> object:
    """The garbage numbered n in place of a value; a text is given as (bytes,) since it may be no UTF-8."""
    if n < len(GARBAGE):
        return GARBAGE[n]
    if n == len(GARBAGE):
        return (b"\xc3\x28",)
    if isinstance(old, int):
        return old ^ (1 << rng.randrange(62)) if n == len(GARBAGE) + 1 else old // 1_000
    raw = old if isinstance(old, bytes) else str(old).encode()
    return (flipped(raw, rng) if n == len(GARBAGE) + 1 else raw[: len(raw) // 2],)


def spoil(db: apsw.Connection, table: str, column: str, where: object, value: object) -> bool:
    """Write a value, past every check; false where SQLite itself refuses it."""
    db.execute("PRAGMA ignore_check_constraints = 1")
    made = "CAST(? AS TEXT)" if isinstance(value, tuple) else "?"
    bound = value[0] if isinstance(value, tuple) else value
    triggers = list(db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"))
    for name, _ in triggers:
        db.execute(f'DROP TRIGGER "{name}"')
    try:
        db.execute(f'UPDATE "{table}" SET "{column}" = {made} WHERE {where}', (bound,))
    except (apsw.ConstraintError, apsw.MismatchError, apsw.SQLError):
        return False
    finally:
        for _, sql in triggers:
            db.execute(sql)
        db.execute("PRAGMA ignore_check_constraints = 0")
    return True


def victims(db: apsw.Connection, table: str, where: object) -> list[str]:
    """The jobs that may end otherwise for it: that of a row, or those that wait for what it says."""
    if table.endswith("_joins"):
        table, where = table.replace("_joins", "_waits"), str(where).replace("id =", "join_id =")
    if not table.endswith(("_jobs", "_waits")):
        return []
    return [str(id) for (id,) in db.execute(f'SELECT id FROM "{table}" WHERE {where}')]


def run(count: int | None) -> None:
    rng = Random(SEED)
    built = Built()
    every = list(cases(connection(built.engine), rng))
    only = os.environ.get("WINDLASS_CASE")
    chosen = [one for one in every if only in one[0]] if only else every if count is None else rng.sample(every, count)
    total, refused, bad = Verdict(), 0, 0
    for name, table, column, where, value in chosen:
        engine, clock = built.copy()
        db = connection(engine)
        ids = victims(db, table, where)
        if not spoil(db, table, column, where, value):
            refused += 1
        else:
            luck = Random(f"{SEED} {name} {value!r}")
            verdict = judge(engine, clock, built.scene, ids, luck, f"{name} := {value!r:.60}")
            bad += not verdict.is_good
            total.add(verdict)
        engine.close()
    columns = len({(table, column) for _, table, column, _, _ in every})
    print(
        f"\nSQLite, seed {SEED}: {columns} columns, {len(chosen)} of {len(every)} cases, {refused} refused by SQLite, "
        f"{bad} bad: {total.figures()}"
    )
    assert total.is_good, total.told()


def test_a_sample_of_garbage_in_tables_harms_only_itself() -> None:
    run(SAMPLE)


@pytest.mark.soak
def test_garbage_in_every_column_of_every_table_harms_only_itself() -> None:
    run(None)
