"""Every field of a job is stored, read back, and put back with a dead job.

These walk the fields of ``NewJob`` and ``JobRow``, so a new one that an engine forgets fails here, and so does one
that is not given a value here.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from windlass.core.model import Cause, Guard, GuardKind, NewJob, Slot, State, UniqueKey
from windlass.core.rows import JobRow, all_notes
from windlass.core.work import Kind, LeaseRef
from windlass.testing.conformance.harness import (
    Harness,
    discard,
    ended,
    error,
    job,
    join,
    place,
    redrive,
    row_of,
    take,
    take_one,
)

CALL: Final = NewJob(
    id="a",
    name="shop.jobs.pay",
    queue="payments",
    payload='[1,["\u00e9"],{}]',
    priority=-3,
    max_attempts=7,
    expires_ms=5_000,
    tags=("money", "eu"),
    meta='{"version":"2"}',
    caller_id=True,
    aging_ms=40,
    guards=(Guard(GuardKind.ONCE, "pay:1", keep_ms=1_000), Guard(GuardKind.RATE, "api", 5, 60_000, burst=2)),
    unique=UniqueKey("u", "done", 7_000, "return"),
    slot=Slot.LOOP,
)
# What a call says of when and how it is stored, and a row in other words: tested where that is.
OTHERWISE: Final = {"run_at", "delay_ms", "at_front", "durable", "aging_ms", "joins", "waits"}
# What is said of a job that waits or runs, or has ended well.
LIVE: Final = {"expires_at", "worker", "result", "cancel_requested", "blocked_by", "held"}
ASKED: Final = {"name", "payload", "tags", "meta", "guards", "unique"}


def unset(one: Struct) -> set[str]:
    """The fields that have their default value."""
    names, defaults = one.__struct_fields__, one.__struct_defaults__
    return {name for name, value in zip(names[::-1], defaults[::-1], strict=False) if getattr(one, name) == value}


def differing(one: Struct, other: Struct) -> set[str]:
    return {name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)}


def raw(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def died(harness: Harness) -> JobRow:
    """A dead job that has a value in every field that a dead one may have, which is not stored any more."""
    store = harness.engine
    join(store)
    place(store, [CALL])
    harness.clock.advance(10)
    lease = take_one(store)
    cause = Cause("shop.errors.Lost", "aaaaaaaaaaaa", "shop.jobs.ship")
    store.settle([ended(lease, Kind.DEAD, error=error(), reason="why", cause=cause)])
    row = replace(
        row_of(store, "a"),
        progress=b'{"done":1}',
        notes=(("step:x", "1"),),
        crashes=1,
        interruptions=2,
        snoozes=3,
        recoveries=4,
        started_at=harness.clock.wall_ms() - 1,
    )
    discard(store, [LeaseRef("a", lease.fence)])
    return row


class FieldSuite:
    """The fields of a job, all of them."""

    def test_every_field_of_a_call_is_stored_and_read_back(self, harness: Harness) -> None:
        assert unset(CALL) == OTHERWISE - {"aging_ms"}
        place(harness.engine, [CALL])
        row = row_of(harness.engine, "a")
        told = set(CALL.__struct_fields__) - OTHERWISE
        assert told <= set(row.__struct_fields__)
        assert [name for name in sorted(told) if raw(getattr(row, name)) != raw(getattr(CALL, name))] == []
        assert row.shift_ms == CALL.priority * CALL.aging_ms

    def test_every_field_of_a_dead_job_is_put_back(self, harness: Harness) -> None:
        row = died(harness)
        assert unset(row) - LIVE == set()
        assert harness.engine.put_dead([row]) == [True]
        assert differing(row, row_of(harness.engine, "a")) - LIVE == set()

    def test_a_dead_job_that_was_put_back_runs_as_what_it_was(self, harness: Harness) -> None:
        store, row = harness.engine, died(harness)
        store.put_dead([row])
        assert redrive(store, [LeaseRef("a", row.fence)]) == [True]
        (lease,) = take(store)
        fresh = {"fence", "attempt", "run_at", "crashes", "interruptions", "snoozes", "reason", "held", "notes"}
        same = set(lease.__struct_fields__) & set(row.__struct_fields__) - fresh
        assert [name for name in sorted(same) if getattr(lease, name) != getattr(row, name)] == []
        assert lease.notes == tuple(sorted(all_notes(row)))

    def test_a_dead_job_that_was_put_back_ages_as_before(self, harness: Harness) -> None:
        store, clock = harness.engine, harness.clock
        join(store)
        place(store, [replace(job("ages", priority=5), aging_ms=10), job("waits", priority=5)])
        leases = take(store)
        store.settle([ended(lease, Kind.DEAD, error=error()) for lease in leases])
        rows = [row_of(store, lease.id) for lease in leases]
        deaths = [LeaseRef(row.id, row.fence) for row in rows]
        discard(store, deaths)
        store.put_dead(rows)
        redrive(store, deaths)
        clock.advance(51)
        place(store, [job("urgent")])
        assert [lease.id for lease in take(store)] == ["ages", "urgent", "waits"]

    def test_what_a_dead_job_is_to_do_is_written_over_and_nothing_else(self, harness: Harness) -> None:
        store, row = harness.engine, died(harness)
        store.put_dead([row])
        before = row_of(store, "a")
        other = JobRow(
            id=row.id, name="other", queue="other", state=State.DEAD, payload=b"[2]", priority=9, attempt=9,
            max_attempts=9, fence=row.fence, enqueued_at=9, run_at=9, started_at=9, finished_at=9, expires_at=9,
            worker="w9", result=b"9", errors=b"[]", reason="other", progress=b"9", tags=("other",), meta=b"{}",
            crashes=9, interruptions=9, snoozes=9, cancel_requested=True, error_type="other", fingerprint="other",
            frame="other", recoveries=9, expires_ms=9, guards=(Guard(GuardKind.CIRCUIT, "other"),),
            unique=UniqueKey("other", "start", None, "raise"), slot=Slot.THREAD, shift_ms=9,
        )  # fmt: skip
        assert store.put_dead([other], over=True) == [True]
        assert differing(before, row_of(store, "a")) == ASKED
