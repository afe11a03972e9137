"""Which queues have ready jobs: found by steps through the index of those jobs, not by asking each name there is.

Each step seeks the next queue behind the last one, so a walk costs what there is to claim, however many names the
store has met. A walk goes round: it begins behind the place where the last claim stopped, so that a worker with one
free slot reaches every queue in time. Must not know shares, bounds or guards; which queues to pass by it is told.

A name is bytes on its way, because the file may hold one that is no text; jobs of such a queue are passed by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import apsw
import msgspec

from windlass.engines.sqlite.schema import SLOTS, Sql

__all__ = ["FEW", "Walk", "busy_among"]

FEW: Final = 64  # so many queues are asked one by one
MANY: Final = 256  # busy queues that are looked through for those asked for, before these are asked instead

# Which jobs count, as the partial indexes windlass_jobs_ready and windlass_jobs_alone have it.
READY: Final = "state = 'ready' AND crashes < 2"
LONE: Final = "state = 'ready' AND crashes >= 2 AND purge_at IS NULL"


class Texts:
    """The statements for jobs of one condition."""

    def __init__(self, counts: str) -> None:
        def step(condition: str) -> str:
            return f"""(SELECT queue FROM "windlass_jobs" WHERE {counts} AND {condition} AND queue < x''
                ORDER BY queue LIMIT 1)"""

        def kinds(name: str) -> str:
            """The first and the last kind of slot among the ready jobs of a queue; most have one."""
            kind = f'SELECT slot FROM "windlass_jobs" WHERE {counts} AND queue = {name} ORDER BY slot'
            return f"({kind} LIMIT 1) AS low, ({kind} DESC LIMIT 1)"

        # The first queue, whether it is the only one, and the one that is next: with one busy queue that is all.
        self.ends = f"""
            SELECT CAST(first AS BLOB), {step("queue > first")} IS NULL,
                CAST(coalesce({step("queue > CAST(? AS TEXT)")}, first) AS BLOB), {kinds("first")}
            FROM (SELECT {step("true")} AS first)
        """
        self.round = f"""
            WITH RECURSIVE walk(met, has_begun) AS (
                SELECT CAST(:start AS TEXT), 0
                UNION ALL
                SELECT coalesce({step("queue > met")}, CAST(:first AS TEXT)), 1
                FROM walk WHERE NOT has_begun OR met != CAST(:start AS TEXT))
            SELECT CAST(met AS BLOB), {kinds("met")}
            FROM walk WHERE (NOT has_begun OR met != CAST(:start AS TEXT)) %s LIMIT :most
        """
        self.but_kinds = f"""AND EXISTS (SELECT 1 FROM "windlass_jobs"
            WHERE {counts} AND queue = met AND slot IN (SELECT value FROM json_each(:slots)))"""
        self.among = f"SELECT value, {kinds('value')} FROM json_each(?) WHERE low IS NOT NULL"


TEXTS: Final = (Texts(READY), Texts(LONE))
BUT_THESE: Final = " AND met NOT IN (SELECT value FROM json_each(:without)) "

# The queues that have jobs which wait at a gate, by steps through the index of blocked jobs.
WAITING: Final = """
WITH RECURSIVE waiting(met) AS (
    SELECT (SELECT queue FROM "windlass_jobs" WHERE state = 'blocked' AND blocked_by = :gate
            AND queue > CAST(:after AS TEXT) AND queue < x'' ORDER BY queue LIMIT 1)
    UNION ALL
    SELECT (SELECT queue FROM "windlass_jobs" WHERE state = 'blocked' AND blocked_by = :gate
            AND queue > met AND queue < x'' ORDER BY queue LIMIT 1)
    FROM waiting WHERE met IS NOT NULL)
SELECT CAST(met AS BLOB) FROM waiting WHERE met IS NOT NULL LIMIT :most
"""

encode = msgspec.json.Encoder().encode


class Walk:
    """Goes round the busy queues for the claims of one engine object."""

    def __init__(self, q: Sql) -> None:
        self._q = q
        self._begin = b""
        self._stop = b""

    def go_on(self) -> None:
        """Begin the walks from now on where the last one stopped."""
        self._begin = self._stop

    def round(
        self,
        db: apsw.Connection,
        most: int,
        *,
        without: Collection[str] = (),
        slots: Sequence[int] = range(len(SLOTS)),
        alone: bool = False,
    ) -> tuple[dict[str, range], bool]:
        """Up to ``most`` queues with the kinds of their ready jobs, and whether there may be more.

        Those in ``without`` are passed by, and those that have no job of the kinds in ``slots``.
        """
        texts = TEXTS[alone]
        ends: tuple[Any, ...] = db.execute(self._q(texts.ends), (self._begin,)).fetchall()[0]
        first, is_one, start, low, high = ends
        if first is None:
            return {}, False
        found: list[tuple[Any, ...]] = [(first, low, high)]
        if not is_one or without or len(slots) < len(SLOTS):
            but = (BUT_THESE if without else "") + (texts.but_kinds if len(slots) < len(SLOTS) else "")
            told = {"start": start, "first": first, "most": most}
            lists = {"without": encode(list(without)).decode(), "slots": encode(list(slots)).decode()}
            found = db.execute(self._q(texts.round % but), told | lists).fetchall()
        if not found:
            return {}, False
        more = len(found) >= most
        # Behind the last one; where all were met, one queue further than this time.
        self._stop = found[-1][0] if more else found[0][0]
        return kinds_of(found), more

    def waiting_at(self, db: apsw.Connection, gate: str) -> Iterator[list[str]]:
        """The queues that have jobs which wait at a gate, some at a time, round from where this claim begins."""
        after, has_turned = self._begin, not self._begin
        while True:
            rows: list[tuple[Any, ...]] = db.execute(
                self._q(WAITING), {"gate": gate, "after": after, "most": FEW}
            ).fetchall()
            met = [name for (name,) in rows]
            if has_turned:
                met = [name for name in met if not self._begin or name <= self._begin]
            yield [name for name in map(as_text, met) if name is not None]
            if len(met) == FEW:
                after = met[-1]
            elif has_turned:
                return
            else:
                after, has_turned = b"", True


def busy_among(
    db: apsw.Connection, q: Sql, names: Sequence[str], most: int, *, alone: bool = False
) -> dict[str, range]:
    """Of these queues those that have ready jobs, with the kinds of them; of a great many only the first ``most``."""
    sql = q(TEXTS[alone].among)
    if len(names) <= FEW:
        return kinds_of(db.execute(sql, (encode(names).decode(),)))
    found, more = Walk(q).round(db, MANY, alone=alone)
    if not more:
        return {name: found[name] for name in names if name in found}
    found = {}
    for at in range(0, len(names), MANY):
        found |= kinds_of(db.execute(sql, (encode(names[at : at + MANY]).decode(),)))
        if len(found) >= most:
            break
    return found


def kinds_of(rows: Iterable[tuple[Any, ...]]) -> dict[str, range]:
    """The kinds of slots by queue; of what a damaged file has, only names that are text and kinds that are known."""
    kinds = {}
    last = len(SLOTS) - 1
    for name, low, high in rows:
        if not isinstance(low, int):
            continue
        known = name if isinstance(name, str) else as_text(name)
        if known is None:
            continue
        kinds[known] = range(max(0, low), (min(last, high) if isinstance(high, int) else last) + 1)
    return kinds


def as_text(name: bytes) -> str | None:
    """A name, or None for one that is no text."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return None
