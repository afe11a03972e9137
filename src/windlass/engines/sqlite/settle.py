"""Settling: end attempts by (id, fence), whole batches in one statement.

The policy above has decided the kind; here it becomes a state. What a fence does not match is left alone. A batch is
applied without looking first; only when fewer rows changed than were asked for is it taken apart to say which were
stale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw
import msgspec

from windlass.core.model import WAITING, NewJob, NewJoin, State, Write
from windlass.core.work import Kind, Outcome, Rules, Settled
from windlass.engines.sqlite.commit import store
from windlass.engines.sqlite.counts import count
from windlass.engines.sqlite.joins import any_known, make, wait_at
from windlass.engines.sqlite.notes import put_notes
from windlass.engines.sqlite.schema import FOREVER, HISTORY, SLOT_CODES, Sql

__all__ = ["settle"]

encode = msgspec.json.Encoder().encode

# The common end, and nothing else: a result and two times.
DONE: Final = """
UPDATE "windlass_jobs" SET state = 'done', attempt = attempt + 1, worker = NULL, cancel = 0, reason = NULL,
    finished_at = ?1, purge_at = ?1 + ended.keep, result = ended.result
FROM (SELECT value ->> 0 AS id, value ->> 1 AS fence, value ->> 2 AS keep, value ->> 3 AS result FROM json_each(?2))
    AS ended
WHERE "windlass_jobs".id = ended.id AND "windlass_jobs".fence = ended.fence AND "windlass_jobs".state = 'running'
"""
# Every other end. A cancel that was asked for while it ran wins over another run.
ENDED: Final = f"""
UPDATE "windlass_jobs" SET
    state = CASE WHEN cancel AND ended.again THEN 'cancelled' ELSE ended.state END,
    reason = CASE WHEN cancel AND ended.again THEN 'cancelled' ELSE ended.reason END,
    finished_at = CASE WHEN cancel OR NOT ended.again THEN ?1 END,
    purge_at = CASE WHEN cancel OR NOT ended.again THEN ?1 + ended.keep END,
    attempt = attempt + ended.used,
    crashes = crashes + ended.crashed,
    interruptions = interruptions + ended.interrupted,
    snoozes = snoozes + ended.snoozed,
    run_at = coalesce(ended.run_at, "windlass_jobs".run_at),
    place = coalesce(ended.run_at + shift, place),
    errors = CASE WHEN ended.error IS NULL THEN errors
                  ELSE json_insert({HISTORY}, '$[#]', json(ended.error)) END,
    result = ended.result,
    error_type = ended.error_type,
    fingerprint = ended.fingerprint,
    frame = ended.frame,
    retrying_since = CASE WHEN ended.failed THEN coalesce(retrying_since, started_at) ELSE retrying_since END,
    slot = coalesce(ended.slot, "windlass_jobs".slot),
    worker = NULL
FROM (SELECT value ->> 0 AS id, value ->> 1 AS fence, value ->> 2 AS state, value ->> 3 AS again,
             value ->> 4 AS used, value ->> 5 AS crashed, value ->> 6 AS interrupted, value ->> 7 AS snoozed,
             value ->> 8 AS run_at, value ->> 9 AS keep, value ->> 10 AS error, value ->> 11 AS reason,
             value ->> 12 AS result, value ->> 13 AS error_type, value ->> 14 AS fingerprint, value ->> 15 AS frame,
             value ->> 16 AS failed, value ->> 17 AS slot
      FROM json_each(?2)) AS ended
WHERE "windlass_jobs".id = ended.id AND "windlass_jobs".fence = ended.fence AND "windlass_jobs".state = 'running'
"""
VALID: Final = """
SELECT ended.key FROM json_each(?) AS ended JOIN "windlass_jobs" AS jobs ON jobs.id = ended.value ->> 0
WHERE jobs.fence = ended.value ->> 1 AND jobs.state = 'running'
"""

STATES: Final = {
    Kind.DONE: State.DONE,
    Kind.RETRY: State.SCHEDULED,
    Kind.DEAD: State.DEAD,
    Kind.CANCELLED: State.CANCELLED,
    Kind.SNOOZE: State.SCHEDULED,
    Kind.RELEASE: State.READY,
    Kind.CRASH: State.READY,
    Kind.AWAIT: State.BLOCKED,
}
USES_ATTEMPT: Final = frozenset({Kind.DONE, Kind.RETRY, Kind.DEAD, Kind.CANCELLED})
SERIES: Final = {
    Kind.DONE: "total:done",
    Kind.RETRY: "total:retried",
    Kind.DEAD: "total:dead",
    Kind.CANCELLED: "total:cancelled",
    Kind.CRASH: "total:crashed",
}


def settle(db: apsw.Connection, q: Sql, outcomes: Sequence[Outcome], now: int, rules: Rules) -> list[Settled]:
    """Apply outcomes inside the caller's write transaction; answers in the order given."""
    if not outcomes:
        return []
    db.execute("SAVEPOINT settle")
    applied = apply(db, q, outcomes, now, rules)
    answers = [Settled.APPLIED] * len(outcomes)
    if applied < len(outcomes):
        db.execute("ROLLBACK TO settle")
        answers = judge(db, q, outcomes)
        valid = [one for one, answer in zip(outcomes, answers, strict=True) if answer is Settled.APPLIED]
        apply(db, q, valid, now, rules)
        count(db, q, now, "total:stale", len(outcomes) - len(valid))
        outcomes = valid
    db.execute("RELEASE settle")
    then: list[Write] = []
    counts: dict[str, int] = {}
    for outcome in outcomes:
        then += outcome.then
        if outcome.notes:
            put_notes(db, q, outcome.id, outcome.notes)
        series = SERIES.get(outcome.kind)
        if series:
            counts[series] = counts.get(series, 0) + 1
    if then:
        follow(db, q, then, now, rules)
    # Behind what is stored: a run may wait for the children that it starts.
    awaiting = [(one.id, one.waits, 0) for one in outcomes if one.kind is Kind.AWAIT and one.waits is not None]
    wait_at(db, q, awaiting, now, rules)
    for series, ended in counts.items():
        count(db, q, now, series, ended)
    return answers


def follow(db: apsw.Connection, q: Sql, writes: Sequence[Write], now: int, rules: Rules) -> None:
    """Store what runs have left to be stored, all of it at once but for the writes that have lost."""
    jobs: list[NewJob] = []
    joins: list[NewJoin] = []
    seals: list[str] = []
    for write in writes:
        if any_known(db, q, write.joins):
            continue
        make(db, q, write.joins, now)  # or a later one would not lose to this one
        jobs += map(at_the_end_of_a_run, write.jobs)
        joins += write.joins
        seals += write.seals
    store(db, q, Write(tuple(jobs), joins=tuple(joins), seals=tuple(seals)), now, rules)


def at_the_end_of_a_run(job: NewJob) -> NewJob:
    """A follow-up whose unique key is taken gives way: nobody is there to catch its error."""
    if job.unique is None or job.unique.rule != "raise":
        return job
    return msgspec.structs.replace(job, unique=msgspec.structs.replace(job.unique, rule="return"))


def judge(db: apsw.Connection, q: Sql, outcomes: Sequence[Outcome]) -> list[Settled]:
    """Which outcomes hold a running job's fence; of two for one claim the first counts."""
    pairs = encode([(one.id, one.fence) for one in outcomes]).decode()
    valid = {int(key) for (key,) in db.execute(q(VALID), (pairs,))}
    seen: set[str] = set()
    answers = []
    for place, outcome in enumerate(outcomes):
        good = place in valid and outcome.id not in seen
        if good:
            seen.add(outcome.id)
        answers.append(Settled.APPLIED if good else Settled.STALE)
    return answers


def apply(db: apsw.Connection, q: Sql, outcomes: Sequence[Outcome], now: int, rules: Rules) -> int:
    """Write outcomes; give how many rows that changed."""
    done = []
    others = []
    keep_done = rules.keep_done_ms
    for one in outcomes:
        if one.kind is Kind.DONE and one.reason is None:
            done.append((one.id, one.fence, keep_done if one.keep_ms is None else one.keep_ms, one.result))
        else:
            others.append(ended(one, now, rules))
    changed = 0
    if done:
        db.execute(q(DONE), (now, encode(done).decode()))
        changed += db.changes()
    if others:
        db.execute(q(ENDED), (now, encode(others).decode()))
        changed += db.changes()
    return changed


def ended(one: Outcome, now: int, rules: Rules) -> tuple[object, ...]:
    """The array that ENDED reads for one outcome."""
    kind = one.kind
    state = STATES[kind] if kind is not Kind.AWAIT or one.waits is not None else State.READY
    run_at = now + one.delay_ms if kind in (Kind.RETRY, Kind.SNOOZE, Kind.CRASH) else None
    if state is State.READY and one.delay_ms > 0:
        state = State.SCHEDULED
    again = state in WAITING
    cause = one.cause if state is State.DEAD else None
    keep = one.keep_ms
    if keep is None:
        keep = rules.dead_keep_ms if state is State.DEAD else rules.keep_done_ms
    return (
        one.id,
        one.fence,
        state.value,
        1 if again else 0,
        1 if kind in USES_ATTEMPT else 0,
        1 if kind is Kind.CRASH else 0,
        1 if one.interrupted and kind is Kind.RELEASE else 0,
        1 if kind is Kind.SNOOZE else 0,
        run_at,
        FOREVER if keep is None else keep,
        one.error,
        one.reason,
        one.result,
        *((None, None, None) if cause is None else (cause.error_type, cause.fingerprint, cause.frame)),
        1 if kind is Kind.RETRY else 0,
        None if one.slot is None or not again else SLOT_CODES[one.slot],
    )
