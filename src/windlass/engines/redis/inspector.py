"""The cold path: questions of people and dashboards, and the few things they may change.

Every question is one script, so its answer is one moment. Lists are pages by arrival, never by offset; a page is put
together from bounded steps, so that a long search never holds up a claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from windlass.core import caps
from windlass.core.errors import ConfigError
from windlass.core.model import MINUTE_MS, UNKNOWN_GROUP, Count, State
from windlass.core.rows import (
    Action,
    BlockedRow,
    JobFilter,
    JobRow,
    JoinRow,
    Member,
    Metrics,
    Moved,
    QueueChange,
    QueueRow,
    Recovery,
    Waiting,
    Which,
    WorkerRow,
)
from windlass.core.units import shown, whole_number
from windlass.core.work import LeaseRef, QueueBound, RateBound
from windlass.engines.damage import made
from windlass.engines.redis.connection import Command
from windlass.engines.redis.core import UNSOUND, repairing
from windlass.engines.redis.reading import as_list, strings, to_join, to_row, to_worker
from windlass.engines.redis.waiting import RedisWaiting
from windlass.engines.redis.wire import as_int, change_texts, none_below_zero, pack_bounds

__all__ = ["RedisInspector"]

STEP_MAX: Final = 200  # rows read in one step of a listing: a payload may have a megabyte
INDEX_MAX: Final = 10_000  # jobs of one state up to which its index is read instead of every job
BLOCKED_PAGE: Final = 500  # pairs of gate and queue
ENDS: Final = {b"2": State.DONE, b"3": State.DEAD, b"4": State.CANCELLED}  # of members; as numbers of states
TOTAL_NAMES: Final = ("enqueued", "done", "retried", "dead", "cancelled", "stale", "recovered", "crashed", "trimmed")


class RedisInspector(RedisWaiting):
    """The Inspector half of the engine, but what ``waiting`` and ``doctor`` do."""

    def job(self, job_id: str) -> JobRow | None:
        rows = self._rows([job_id])
        return rows[0] if rows else None

    def _rows(self, ids: Sequence[str]) -> list[JobRow]:
        """The jobs that there are of these, in order."""
        if not ids:
            return []
        for tries in range(3):
            wall, *columns = self._call("rows", (), list(ids))
            found, spoiled = [], []
            for place, id in enumerate(ids):
                values = [as_list(column)[place] for column in columns]
                try:
                    row = to_row(id, values, as_int(wall))
                except UNSOUND as error:
                    spoiled.append((id.encode(), str(error)))
                else:
                    found += [] if row is None else [row]
            if not spoiled:
                break
            # What the scripts find nothing wrong with is made dead all the same when it cannot be shown.
            self._repairer.make_dead(spoiled, believed=tries > 0)
        return found

    @repairing
    def jobs(self, where: JobFilter, cursor: str | None, limit: int) -> tuple[list[JobRow], str | None]:
        if where.ids is not None and not where.ids:
            return [], None
        below = "+inf" if cursor is None else parse_cursor(cursor)
        state = "" if where.state is None else where.state.value
        found: list[tuple[int, JobRow]] = []
        more = True
        while more and len(found) <= limit:
            count = min(STEP_MAX, limit + 1) if where == JobFilter() else STEP_MAX
            args: list[Command] = [below, count, state, where.queue or "", INDEX_MAX, *(where.ids or ())]
            flat, again = self._call("page", (), args)
            ids = strings(as_list(flat)[::2])
            seqs = dict(zip(ids, (as_int(seq) for seq in as_list(flat)[1::2]), strict=True))
            found += [(seqs[row.id], row) for row in self._rows(ids) if fits(row, where)]
            more = bool(as_int(again))
            below = str(seqs[ids[-1]]) if ids else "0"
        rows = [row for _, row in found[:limit]]
        return rows, str(found[limit - 1][0]) if len(found) > limit else None

    def joins(self, ids: Sequence[str]) -> list[JoinRow | None]:
        if not ids:
            return []
        found = self._call("joins", (), list(ids))
        return [to_join(id, packed) for id, packed in zip(ids, found, strict=True)]

    def list_joins(self, prefix: str, cursor: str | None, limit: int) -> tuple[list[JoinRow], str | None]:
        flat, packed = self._call("list_joins", (), [prefix, cursor or "", limit + 1])
        ids = strings(as_list(flat))
        rows = [row for id, one in zip(ids, as_list(packed), strict=True) if (row := to_join(id, one)) is not None]
        return rows[:limit], ids[limit - 1] if len(ids) > limit else None

    def members(self, join: str, cursor: str | None, limit: int) -> tuple[list[Member], str | None]:
        flat, verdicts = self._call("members", (), [join, cursor or "", limit + 1])
        ids = strings(as_list(flat))
        found = [Member(id, ENDS.get(verdict)) for id, verdict in zip(ids, as_list(verdicts), strict=True)]  # type: ignore[call-overload]
        return found[:limit], ids[limit - 1] if len(ids) > limit else None

    @repairing
    def queues(self, bounds: Sequence[QueueBound] = ()) -> list[QueueRow]:
        wall, flat = self._call("queues", (), [pack_bounds(bounds)])
        now, values = as_int(wall), as_list(flat)
        rows = []
        for at in range(0, len(values), 11):
            name, pause = strings((values[at], values[at + 5]))
            ready, scheduled, running, latency = (as_int(one) for one in values[at + 1 : at + 5])
            limit, count, per_ms, started, held = (as_int(one) for one in values[at + 6 : at + 11])
            until_text, bar, words = pause.partition("|")
            who, _, reason = words.partition("|")
            until = int(until_text or 0) or None
            paused = bool(bar) and (until is None or until > now)
            rows.append(
                made(
                    QueueRow,
                    name=name,
                    ready=ready,
                    scheduled=scheduled,
                    running=running,
                    latency_ms=max(0, latency),
                    paused=paused,
                    paused_reason=reason or None if paused else None,
                    paused_until=until if paused else None,
                    paused_by=who or None if paused else None,
                    limit=none_below_zero(limit),
                    rate=RateBound(count, per_ms) if count else None,
                    started=started,
                    held=held,
                )
            )
        return sorted(rows, key=lambda row: row.name)

    @repairing
    def blocked(self) -> list[BlockedRow]:
        rows: list[BlockedRow] = []
        cursor: Command = "-"
        while cursor:
            following, flat = self._call("blocked", (), (cursor, BLOCKED_PAGE))
            values = as_list(flat)
            for gate, queue, jobs, due in zip(*(values[part::4] for part in range(4)), strict=True):
                place = strings((queue, gate))
                rows.append(BlockedRow(place[0], place[1], as_int(jobs), max(0, as_int(due))))
            cursor = following if isinstance(following, bytes) else b""
        return sorted(rows, key=lambda row: (row.queue, row.gate))

    @repairing
    def workers(self) -> list[WorkerRow]:
        boot, flat = self._call("workers", (), ())
        values = as_list(flat)
        rows = [
            to_worker(record, as_int(until), as_int(held), as_int(boot))
            for record, until, held in zip(values[::3], values[1::3], values[2::3], strict=True)
            if isinstance(record, bytes)
        ]
        return sorted(rows, key=lambda row: (row.info.started_at, row.info.id))

    @repairing
    def counts(self) -> dict[str, int]:
        *numbers, stored, totals = self._call("counts", (), ())
        states = (
            State.READY, State.SCHEDULED, State.RUNNING, State.DONE, State.DEAD, State.CANCELLED, State.BLOCKED,
        )  # fmt: skip
        names = (*(state.value for state in states), "held")
        found = {name: as_int(number) for name, number in zip(names, numbers, strict=True)}
        flat = as_list(totals)
        known = {name: as_int(value) for name, value in zip(strings(flat[::2]), flat[1::2], strict=True)}
        # Jobs are numbered as they are stored, by processes of any version; what was put back has a number too.
        known["enqueued"] = as_int(stored) - known.get("restored", 0)
        return found | {f"total_{name}": known.get(name, 0) for name in TOTAL_NAMES}

    @repairing
    def transition(self, action: Action, which: Which) -> list[Moved]:
        if isinstance(which, Recovery):
            return self._move(action, "rule", which.limit, which.after_ms, which.attempts, *which.errors)
        if isinstance(which, Waiting):
            return self._move(action, "waiting", which.limit, which.queue)
        moved = self._move_named(action, which)
        unseen = [place for place, one in enumerate(moved) if one.before is None]
        if unseen and self._repairer.make_dead([(moved[place].id.encode(), "it is not readable") for place in unseen]):
            for place, one in zip(unseen, self._move_named(action, [which[place] for place in unseen]), strict=True):
                moved[place] = one
        return moved

    def _move_named(self, action: Action, which: Sequence[str | LeaseRef]) -> list[Moved]:
        if not which:
            return []
        named = ((one.id, one.fence) if isinstance(one, LeaseRef) else (one, "") for one in which)
        return self._move(action, "named", *(part for pair in named for part in pair))

    def _move(self, action: Action, *chosen: Command) -> list[Moved]:
        args: list[Command] = [action.value, self._rules.keep_done_ms, self._rules.id_keep_ms, *chosen]
        _, flat, inboxes = self._call("transition", (), args)
        told = strings(as_list(inboxes))
        if told:
            self._nudge(told)  # the workers that run them look for cancels at once
        values = as_list(flat)
        ids, states, reasons = (strings(values[part::4]) for part in (0, 1, 3))
        return [
            Moved(id, State(state) if state else None, bool(as_int(moved)), reason or None)
            for id, state, moved, reason in zip(ids, states, values[2::4], reasons, strict=True)
        ]

    @repairing
    def metrics(self, prefixes: Sequence[str], minutes: int) -> Metrics:
        wall, reply = self._call("metrics", (), [minutes, *prefixes])
        flat = as_list(reply)
        numbers = zip(map(as_int, flat[::3]), strings(flat[1::3]), map(as_int, flat[2::3]), strict=True)
        return Metrics(as_int(wall), [Count(series, n, minute * MINUTE_MS) for minute, series, n in sorted(numbers)])

    def control(self, target: str, word: str) -> int:
        return as_int(self._call("control", (), [target, word])[1])

    def set_queue(self, queue: str, change: QueueChange) -> None:
        if change != QueueChange():
            self._call("set_queue", (), [queue, *change_texts(change)])


def fits(row: JobRow, where: JobFilter) -> bool:
    """Whether a job is one that was asked for."""
    return (
        (where.state is None or row.state is where.state)
        and (where.name is None or row.name == where.name)
        and (where.queue is None or row.queue == where.queue)
        and (where.tag is None or where.tag in row.tags)
        and (where.before is None or row.enqueued_at < where.before)
        and (where.after is None or row.enqueued_at >= where.after)
        and (where.ended_before is None or (row.finished_at is not None and row.finished_at < where.ended_before))
        and (where.ended_after is None or (row.finished_at is not None and row.finished_at >= where.ended_after))
        and (where.group is None or (row.state is State.DEAD and (row.fingerprint or UNKNOWN_GROUP) == where.group))
        and (where.error is None or is_error(row.error_type, where.error))
        and (where.ids is None or row.id in where.ids)
    )


def is_error(error_type: str | None, wanted: str) -> bool:
    """Whether an exception is meant by its dotted name, or by the last part of it."""
    return error_type is not None and wanted in (error_type, error_type.rpartition(".")[2])


def parse_cursor(cursor: str) -> str:
    """The place a page cursor stands for."""
    if (place := whole_number(cursor, caps.NUMBER)) is None:
        raise ConfigError(f"{shown(cursor)} is not a page cursor: pass the 'next' of the page before")
    return str(place)
