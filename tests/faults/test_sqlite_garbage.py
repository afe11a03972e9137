"""Garbage written straight into the tables (F32): the bad row ends with its bytes kept, its neighbours run on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from faults.harness import Fleet, Sink, check
from windlass import State, Windlass

MIB = 1024 * 1024
GARBAGE: dict[str, object] = {
    "no JSON": "this is not JSON",
    "empty": "",
    "invalid UTF-8 in a blob": b"\xff\xfe\x00\x80",
    "a number": 12345,
    "a real": 1.5e300,
    "other JSON": '{"surprise": [1, 2, 3]}',
    "NaN": '{"v":1,"args":[NaN],"kwargs":{}}',
    "deep": "[" * 100_000 + "]" * 100_000,
    "cut off": '{"v":1,"args":[1',
    "huge": '["' + "x" * 3 * MIB + '"]',
    "NUL": "\x00\x00",
}


def spoil(app: Windlass, column: str, job: str, value: object) -> None:
    """Write straight into the store, as a bad program or a bad disk would."""
    with app.transaction() as tx:
        tx.execute(f"UPDATE windlass_jobs SET {column} = ? WHERE id = ?", (value, job))


def test_raw_garbage_as_payload_is_dead_with_its_bytes_kept_and_neighbours_run(
    sqlite_fleet: Fleet, figure: Callable[[str, object], None]
) -> None:
    fleet = sqlite_fleet
    bad = {}
    for what, raw in GARBAGE.items():
        fleet.enqueue("pay", 1, times=5)
        (bad[what],) = fleet.enqueue("pay", 1)
        spoil(fleet.app, "payload", bad[what], raw)
    (bad["invalid UTF-8 in a text"],) = fleet.enqueue("pay", 1)
    with fleet.app.transaction() as tx:
        wrong = "UPDATE windlass_jobs SET payload = CAST(x'c328' AS TEXT) WHERE id = ?"
        tx.execute(wrong, (bad["invalid UTF-8 in a text"],))
    fleet.start_ready(processes=2, threads=2)
    fleet.drain()
    for what, job in bad.items():
        row = fleet.row(job)
        assert (row.state, row.reason) == (State.DEAD, "undecodable payload"), what
        raw = GARBAGE.get(what, b"\xc3\x28")
        kept = raw if isinstance(raw, bytes) else str(raw).encode()
        assert row.payload in (kept, b"1.5e+300"), what
        assert fleet.info(job).args is None
    verdict = check(fleet)
    figure("F32", f"garbage payloads {len(bad)}, all dead with their bytes; {verdict}")
    verdict.assert_safe()
    assert verdict.executed == len(fleet.acked) - len(bad)


@pytest.mark.parametrize("column", ["meta", "tags", "errors", "progress", "name", "reason", "attempt", "guards"])
def test_raw_garbage_elsewhere_in_a_job_never_holds_up_its_neighbours(sqlite_fleet: Fleet, column: str) -> None:
    fleet = sqlite_fleet
    bad = fleet.enqueue("pay", 1, times=5)
    for job, raw in zip(bad, ("no JSON", b"\xff\xfe", 7, '{"a":', "[1,2]"), strict=True):
        spoil(fleet.app, column, job, raw)
    neighbours = fleet.enqueue("pay", 1, times=20)
    tree = fleet.start_ready(processes=1, threads=2)
    fleet.app.engine.wait_finished(neighbours, 20)
    assert {fleet.info(one).state for one in neighbours} == {State.DONE}, fleet.last_words()
    with Sink(fleet.folder) as sink:
        assert set(neighbours) <= sink.keys()
    assert tree.runs
    assert len(fleet.worker_pids()) == 1
