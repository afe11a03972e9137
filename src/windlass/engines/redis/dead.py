"""Dead jobs: counted, in groups too, and put back or written over.

Groups and counts walk the index of dead jobs in bounded steps, so a long list never holds up a claim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from msgspec import Struct

from windlass.core.model import UNKNOWN_GROUP, State
from windlass.core.rows import GroupRow, JobFilter, JobRow
from windlass.engines.redis.core import repairing
from windlass.engines.redis.inspector import RedisInspector, fits, is_error
from windlass.engines.redis.reading import as_list, cause_of, strings
from windlass.engines.redis.wire import as_int, dead_texts, keep_dead

__all__ = ["RedisDead"]

STEP: Final = 500


class Death(Struct, frozen=True):
    """What a walk sees of one dead job."""

    id: str
    name: str
    at: int
    error_type: str | None
    fingerprint: str | None
    frame: str | None


class Tally:
    """A group while it is counted."""

    def __init__(self, first: Death) -> None:
        self.newest = first
        self.count = 0
        self.first = first.at
        self.names: set[str] = set()

    def add(self, death: Death) -> None:
        self.count += 1
        self.names.add(death.name)
        self.first = min(self.first, death.at)
        if (death.at, death.id) > (self.newest.at, self.newest.id):
            self.newest = death


class RedisDead(RedisInspector):
    """The part of the Inspector that is about dead jobs alone."""

    @repairing
    def count(self, where: JobFilter) -> int:
        if where.state is State.DEAD or where.group is not None:
            return sum(1 for _ in self._deaths(where))
        number, cursor = 0, None
        while True:
            rows, cursor = self.jobs(where, cursor, STEP)
            number += len(rows)
            if cursor is None:
                return number

    @repairing
    def groups(self, where: JobFilter, limit: int) -> list[GroupRow]:
        found: dict[str, Tally] = {}
        for death in self._deaths(where):
            print = death.fingerprint or UNKNOWN_GROUP
            if print not in found:
                found[print] = Tally(death)
            found[print].add(death)
        largest = sorted(found.items(), key=lambda item: (-item[1].count, item[0]))[:limit]
        return [
            GroupRow(
                fingerprint=print,
                error_type=tally.newest.error_type,
                frame=tally.newest.frame,
                names=tuple(sorted(tally.names)),
                count=tally.count,
                first_seen=tally.first,
                last_seen=tally.newest.at,
                sample=tally.newest.id,
            )
            for print, tally in largest
        ]

    def _deaths(self, where: JobFilter) -> Iterator[Death]:
        """Walk the dead jobs of a filter, each once."""
        seen: set[str] = set()
        cursor: object = b"0"
        rows_needed = any(one is not None for one in (where.queue, where.tag, where.before, where.after))
        wanted = None if where.ids is None else set(where.ids)
        while True:
            cursor, flat = self._call("deaths", (), [cursor if isinstance(cursor, bytes) else 0, STEP])
            values = as_list(flat)
            deaths = [death for death in map(to_death, *(values[n::4] for n in range(4))) if death.id not in seen]
            seen.update(death.id for death in deaths)
            deaths = [death for death in deaths if matches(death, where) and (wanted is None or death.id in wanted)]
            if rows_needed:
                good = {row.id for row in self._rows([death.id for death in deaths]) if fits(row, where)}
                deaths = [death for death in deaths if death.id in good]
            yield from deaths
            if cursor == b"0":
                return

    def put_dead(self, rows: Sequence[JobRow], *, over: bool = False) -> list[bool]:
        if not rows:
            return []
        args = [int(over), keep_dead(self._rules), *(text for row in rows for text in dead_texts(row))]
        answers = self._call("put_dead", (), args)[1]
        if not isinstance(answers, bytes):
            raise TypeError(f"the server gave {type(answers).__name__} where a text belongs")
        return [answer == ord("1") for answer in answers]


def to_death(id: object, at: object, cause: object, name: object) -> Death:
    """A death of what ``scripts/deaths.lua`` gives for one job."""
    (job_id, job_name) = strings((id, name))
    known = cause_of(cause if isinstance(cause, bytes) else None)
    return Death(job_id, job_name, as_int(at), known.get("error_type"), known.get("fingerprint"), known.get("frame"))


def matches(death: Death, where: JobFilter) -> bool:
    """Whether a death is one that was asked for, as far as it can be told without the job."""
    return (
        where.state in (None, State.DEAD)
        and (where.name is None or death.name == where.name)
        and (where.group is None or (death.fingerprint or UNKNOWN_GROUP) == where.group)
        and (where.error is None or is_error(death.error_type, where.error))
        and (where.ended_before is None or death.at < where.ended_before)
        and (where.ended_after is None or death.at >= where.ended_after)
    )
