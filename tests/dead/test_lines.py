"""Dead jobs as lines of JSON, there and back."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windlass.core.model import Guard, GuardKind, JobError, Slot, State, UniqueKey
from windlass.core.rows import JobRow
from windlass.dead.lines import GONE, JSON, SAME, from_line, to_line
from windlass.errors import PayloadError

ROW = JobRow(
    id="a", name="shop.jobs.pay", queue="payments", state=State.DEAD, payload=b'[1,[1,"\xc3\xa9"],{"x":1.50}]',
    priority=-3, attempt=2, max_attempts=5, fence=1_795_594_533_765_020, enqueued_at=1, run_at=2, started_at=3,
    finished_at=4, expires_at=None, worker=None, result=None,
    errors=msgspec.json.encode([JobError("ValueError", "bad", "trace", 4, 1, "box", "w1", "1.0")]), reason="why",
    progress=b'{"done":1}', tags=("x", "y"), meta=b'{"redact":["card"]}', crashes=1, interruptions=2, snoozes=3,
    cancel_requested=False, error_type="ValueError", fingerprint="abcdefabcdef", frame="shop.jobs.pay", recoveries=2,
    expires_ms=1_000, caller_id=True,
    guards=(Guard(GuardKind.ONCE, "pay:1", keep_ms=86_400_000), Guard(GuardKind.RATE, "api", 5, 60_000, 2)),
    unique=UniqueKey("report:1", "done", None, "keep_latest"), slot=Slot.LOOP, shift_ms=-90_000,
    notes=(("cursor:main", '{"at":7}'), ("step:é", "no JSON")),
)  # fmt: skip


def test_a_row_survives() -> None:
    assert from_line(to_line(ROW), "line 1") == ROW


def test_every_field_of_a_job_is_in_a_line_or_is_what_a_dead_one_has_no_more() -> None:
    assert {*SAME, *JSON, "payload", *GONE} == set(JobRow.__struct_fields__)
    assert all(getattr(ROW, name) == value for name, value in GONE.items())
    defaults = dict(zip(reversed(JobRow.__struct_fields__), reversed(JobRow.__struct_defaults__), strict=False))
    assert [name for name, value in defaults.items() if getattr(ROW, name) == value and name not in GONE] == []


def test_a_line_is_one_line_that_people_can_read() -> None:
    line = to_line(ROW)
    assert line.count(b"\n") == 1
    found = json.loads(line)
    assert (found["id"], found["payload"], found["tags"]) == ("a", [1, [1, "é"], {"x": 1.5}], ["x", "y"])
    assert found["errors"][0]["host"] == "box"


@given(st.binary(max_size=60))
def test_any_payload_survives_byte_for_byte(payload: bytes) -> None:
    row = msgspec.structs.replace(ROW, payload=payload)
    line = to_line(row)
    assert line.count(b"\n") == 1
    assert from_line(line, "line 1").payload == payload


@pytest.mark.parametrize("payload", [b"null", b"[1,\n[],{}]", b" 1 ", b"", b"\xff", b"[" * 5_000])
def test_odd_payloads_survive(payload: bytes) -> None:
    assert from_line(to_line(msgspec.structs.replace(ROW, payload=payload)), "line 1").payload == payload


def test_an_unreadable_history_does_not_hold_up_an_archive() -> None:
    line = to_line(msgspec.structs.replace(ROW, errors=b"\xff", meta=b"{", progress=b""))
    assert from_line(line, "line 1").errors is None


def test_hidden_arguments_are_refused() -> None:
    with pytest.raises(PayloadError, match=r"^dead.jsonl line 7: the arguments card of job a are hidden"):
        from_line(to_line(ROW, ["card"]), "dead.jsonl line 7")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b'{"id":"a","name":"n"}',
        b'{"id":"","name":"n","queue":"q"}',
        b'{"id":"a","name":"n","queue":"q q"}',
        b'{"id":"a","name":"n","queue":"q","paylod":[]}',
        b'{"id":"a","name":"n","queue":"q","payload_base64":"%"}',
        b'{"id":"a","name":"n","queue":"q","errors":[{"type":1}]}',
        b'{"id":"a","name":"n","queue":"q","fence":9007199254740992}',
        b'{"id":"a","name":"n","queue":"q","notes":[["","1"]]}',
        b'{"id":"a","name":"n","queue":"q","notes":[["x\\u0000","1"]]}',
        b'{"id":"a","name":"n","queue":"q","notes":[["x","%b"]]}' % (b"x" * 2**20),
    ],
)
def test_what_is_no_dead_job_is_refused_with_its_place(line: bytes) -> None:
    with pytest.raises(PayloadError, match=r"^here line 2 is not a dead job: "):
        from_line(line, "here line 2")
