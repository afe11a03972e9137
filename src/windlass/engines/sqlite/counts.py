"""What is counted: rows of a series, a minute and a number. For people and for advice; no job is decided by them.

A transaction of the engine collects what it counts and writes all of it at its end with one statement, also where
several writes share it (``connection.Writer``). So nothing may count and then go back to a savepoint. Inside a
transaction of the caller, who may do just that, each count is written at once.

Minute 0 is all that was before: upkeep adds up there what is too old to be asked for minute by minute.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import apsw
import msgspec

from windlass.core.model import MINUTE_MS, Count, minute_of
from windlass.core.work import Keep
from windlass.engines.damage import whole
from windlass.engines.sqlite.connection import Connection, Counts
from windlass.engines.sqlite.schema import COUNT_MAX, Sql

__all__ = ["count", "count_each", "count_these", "fold", "read_counts", "read_totals", "write_counts"]

ADD: Final = """
INSERT INTO "windlass_counts" (minute, series, n) %s ON CONFLICT (minute, series) DO UPDATE SET n = n + excluded.n
"""
FEW: Final = 8  # rows that are bound one by one, which takes half as long
ADD_FEW: Final = [ADD % f"VALUES {', '.join(['(?, ?, ?)'] * rows)}" for rows in range(1, FEW + 1)]
ADD_MANY: Final = ADD % "SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?) WHERE true"

# The minutes that there are, found by steps through the key.
MET: Final = """
WITH RECURSIVE met(minute) AS (
    SELECT (SELECT min(minute) FROM "windlass_counts" WHERE minute >= {first})
    UNION ALL
    SELECT (SELECT min(minute) FROM "windlass_counts" WHERE minute > met.minute) FROM met WHERE minute IS NOT NULL)
"""
OF: Final = """
FROM met CROSS JOIN "windlass_counts" AS counts
    ON counts.minute = met.minute AND series >= {prefix} AND series < {prefix} || char(1114111)
"""
READ: Final = f"""{MET.format(first="?1")}
SELECT counts.minute, series, n {OF.format(prefix="?3")} WHERE counts.minute <= ?2
"""
TOTALS: Final = f"""{MET.format(first="0")}
SELECT substr(series, 7), sum(n) {OF.format(prefix="'total:'")} GROUP BY series
UNION ALL SELECT 'enqueued', sum(n) {OF.format(prefix="'arrived:'")} HAVING count(*) > 0
"""
# Whether there are minutes outside of a span, as there are in one step of upkeep a minute.
ANY_SPENT: Final = """
SELECT EXISTS (SELECT 1 FROM "windlass_counts" WHERE minute BETWEEN 1 AND ?1 - 1)
    OR EXISTS (SELECT 1 FROM "windlass_counts" WHERE minute > ?2)
"""
SPENT: Final = """
FROM "windlass_counts" WHERE minute BETWEEN ?1 AND ?2 AND series >= ?3 || ':' AND series < ?3 || ';'
ORDER BY minute, series LIMIT ?4
"""
FOLD: Final = f"""
INSERT INTO "windlass_counts" (minute, series, n)
SELECT 0, coalesce(?5, series), sum(iif(typeof(n) = 'integer' AND n BETWEEN 0 AND {COUNT_MAX}, n, 0))
FROM (SELECT series, n {SPENT}) GROUP BY 2
ON CONFLICT (minute, series) DO UPDATE SET n = n + excluded.n
"""
FORGET: Final = f'DELETE FROM "windlass_counts" WHERE (minute, series) IN (SELECT minute, series {SPENT})'
LAST: Final = 2**62

encode = msgspec.json.Encoder().encode


def count(db: apsw.Connection, q: Sql, now: int, series: str, n: int, at: int | None = None) -> None:
    """Count ``n`` more, in the caller's write transaction."""
    if n:
        key = (minute_of(at, now), series)
        counts = db.counts if isinstance(db, Connection) else None
        if counts is None:
            write_counts(q, db, {key: n})
        else:
            counts[key] = counts.get(key, 0) + n


def count_each(db: apsw.Connection, q: Sql, now: int, kind: str, names: Sequence[str]) -> None:
    """Count one more of a kind for each of these names."""
    for name, n in Counter(names).items() if len(names) > 1 else [(name, 1) for name in names]:
        count(db, q, now, f"{kind}:{name}", n)


def count_these(db: apsw.Connection, q: Sql, now: int, counts: Sequence[Count]) -> None:
    """Count what a caller has counted."""
    for one in counts:
        count(db, q, now, one.series, one.n, one.at)


def write_counts(q: Sql, db: apsw.Connection, counts: Counts) -> None:
    """Write down what was counted."""
    if len(counts) <= FEW:
        db.execute(q(ADD_FEW[len(counts) - 1]), [part for key, n in counts.items() for part in (*key, n)])
    else:
        db.execute(q(ADD_MANY), (encode([(*key, n) for key, n in counts.items()]).decode(),))


def read_counts(db: apsw.Connection, q: Sql, now: int, prefixes: Sequence[str], minutes: int) -> list[Count]:
    """What the series that begin so counted in this minute and in so many before it."""
    present = minute_of(None, now)
    found = sorted(
        (whole(minute), str(series), whole(n))
        for prefix in prefixes
        for minute, series, n in db.execute(q(READ), (max(1, present - minutes), present, prefix))
    )
    return [Count(series, n, minute * MINUTE_MS) for minute, series, n in found]


def read_totals(db: apsw.Connection, q: Sql) -> Iterator[tuple[str, int]]:
    """What was counted since the store was made; a name may come twice."""
    for name, value in db.execute(q(TOTALS)):
        yield str(name), whole(value)


def fold(db: apsw.Connection, q: Sql, now: int, keeps: Sequence[Keep], budget: int) -> int:
    """Add up or forget the minutes that need not stay apart, at most ``budget`` rows of a kind; give how many went.

    So do minutes to come, which a clock that stepped back has left behind.
    """
    most, present = 0, minute_of(None, now)
    near = min((keep.minutes for keep in keeps), default=present)
    if not db.execute(q(ANY_SPENT), (present - near, present + near)).fetchall()[0][0]:
        return 0
    for keep in keeps:
        for span in ((1, present - keep.minutes - 1), (present + keep.minutes + 1, LAST)):
            if keep.into is not None:
                db.execute(q(FOLD), (*span, keep.kind, budget, None if keep.into == keep.kind else keep.into))
            db.execute(q(FORGET), (*span, keep.kind, budget))
            most = max(most, db.changes())
    return most
