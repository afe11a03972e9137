"""What comes into each queue and what is claimed from it, counted in steps of ten seconds.

Rates, and the advice on how many workers are needed, are made of these. One write for a batch,
inside the batch's own transaction; upkeep forgets what is older than anybody may ask for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import apsw
import msgspec

from windlass.core.rows import QueueFlow
from windlass.engines.sqlite.schema import Sql

__all__ = ["count_flow", "forget_flow", "read_flow"]

STEP_MS: Final = 10_000
KEEP_MS: Final = 130_000  # two minutes, and the step that has begun before them

ADD: Final = """
ON CONFLICT (step, queue) DO UPDATE SET arrived = arrived + excluded.arrived, claimed = claimed + excluded.claimed
"""
COUNT: Final = f"""
INSERT INTO "windlass_flow" (step, queue, arrived, claimed)
SELECT ?1, value ->> 0, value ->> 1, value ->> 2 FROM json_each(?2) WHERE true {ADD}
"""
COUNT_ONE: Final = f'INSERT INTO "windlass_flow" (step, queue, arrived, claimed) VALUES (?, ?, ?, ?) {ADD}'
READ: Final = """
SELECT queue, sum(arrived), sum(claimed) FROM "windlass_flow" WHERE step >= ? GROUP BY queue ORDER BY queue
"""
FORGET: Final = 'DELETE FROM "windlass_flow" WHERE step < ?'

encode = msgspec.json.Encoder().encode


def count_flow(
    db: apsw.Connection, q: Sql, now: int, *, arrived: Sequence[str] = (), claimed: Sequence[str] = ()
) -> None:
    """Count jobs, each given as the name of its queue."""
    rows = [(queue, count, 0) for queue, count in counted(arrived)]
    rows += [(queue, 0, count) for queue, count in counted(claimed)]
    if len(rows) == 1:  # as in most calls, and a third of the cost
        db.execute(q(COUNT_ONE), (now // STEP_MS, *rows[0]))
    elif rows:
        db.execute(q(COUNT), (now // STEP_MS, encode(rows).decode()))


def counted(queues: Sequence[str]) -> Iterable[tuple[str, int]]:
    """How often each name is there."""
    return Counter(queues).items() if len(queues) > 1 else [(queue, 1) for queue in queues]


def read_flow(db: apsw.Connection, q: Sql, now: int, window_ms: int) -> list[QueueFlow]:
    """What came and went within the window, from the first whole step in it."""
    first = -(-(now - window_ms) // STEP_MS)
    span = max(1, now - first * STEP_MS)
    return [QueueFlow(queue, arrived, claimed, span) for queue, arrived, claimed in db.execute(q(READ), (first,))]


def forget_flow(db: apsw.Connection, q: Sql, now: int) -> None:
    """Delete what is too old to be asked for."""
    db.execute(q(FORGET), ((now - KEEP_MS) // STEP_MS,))
