"""Jobs that harm their process (F31), and payloads that would harm whoever reads them (F32). Neighbours run on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from faults.harness import Fleet, Sink, check
from faults.jobs import FAILERS, KILLERS
from windlass import PayloadError, State

NEIGHBOURS = 200


def enqueue_all(fleet: Fleet, names: list[str]) -> dict[str, str]:
    """Poison and neighbours, mixed; the ids of the poison by name."""
    poison = {}
    for name in names:
        fleet.enqueue("pay", 5, times=NEIGHBOURS // len(names))
        (poison[name],) = fleet.enqueue(name)
    return poison


def assert_neighbours(fleet: Fleet, poison: dict[str, str], figure: Callable[[str, object], None]) -> None:
    verdict = check(fleet)
    neighbours = set(fleet.acked) - set(poison.values())
    charged = [one for one in neighbours if fleet.row(one).crashes]
    figure("F31", f"neighbours {len(neighbours)}, of them charged with a crash {len(charged)}; {verdict}")
    verdict.assert_safe()
    assert {fleet.info(one).state for one in neighbours} == {State.DONE}
    with Sink(fleet.folder) as sink:
        assert sink.keys() == neighbours


@pytest.mark.parametrize("executor", ["thread", pytest.param("process", marks=pytest.mark.thorough)])
def test_a_job_that_kills_its_process_is_dead_after_three_deaths(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None], executor: str
) -> None:
    fleet = fleets(lease="60s", renew="1s")
    poison = enqueue_all(fleet, [name if executor == "thread" else f"{name}_process" for name in KILLERS])
    fleet.start_ready(processes=2, threads=2)
    fleet.drain()
    for name, job in poison.items():
        dead = fleet.info(job)
        figure("F31", f"{name}: {dead.state}, {dead.reason}, {[error.message for error in dead.errors]}")
        assert (dead.state, dead.reason) == (State.DEAD, "poison")
        assert [error.type for error in dead.errors] == ["WorkerCrashed"] * 3
        how = "SIGSEGV" if "segfault" in name else "exit code 1"
        assert all(how in error.message for error in dead.errors)
    assert_neighbours(fleet, poison, figure)


@pytest.mark.parametrize("executor", ["thread", pytest.param("process", marks=pytest.mark.thorough)])
def test_a_job_that_tries_to_end_its_process_or_to_exhaust_it_fails_alone(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None], executor: str
) -> None:
    fleet = fleets(lease="60s", renew="1s")
    poison = enqueue_all(fleet, [name if executor == "thread" else f"{name}_process" for name in FAILERS])
    fleet.start_ready(processes=1, threads=2)
    (pid,) = fleet.worker_pids()
    fleet.drain()
    types = {}
    for name, job in poison.items():
        dead = fleet.info(job)
        assert dead.state is State.DEAD
        assert dead.attempt == 1
        (error,) = dead.errors
        types[name.removesuffix("_process")] = error.type.rpartition(".")[2]
    assert types == {
        "sys_exit": "SystemExit",
        "interrupt": "KeyboardInterrupt",
        "recurse": "RecursionError",
        "hoard": "MemoryError",
    }
    assert list(fleet.worker_pids()) == [pid], "the worker process did not live on"
    assert_neighbours(fleet, poison, figure)


# -- payloads at enqueue --


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


MIB = 1024 * 1024
REFUSED: dict[str, Callable[[], object]] = {
    "a byte over the cap": lambda: "x" * (MIB + 1),
    "depth 10,000": lambda: deep(10_000),
    "depth 100,000": lambda: deep(100_000),
    "a million keys": lambda: {str(n): n for n in range(1_000_000)},
    "NaN": lambda: float("nan"),
    "infinity": lambda: [float("-inf")],
    "2**64": lambda: 2**64,
    "-2**70": lambda: {"n": -(2**70)},
    "lone surrogate": lambda: "a\ud800b",
    "lone surrogate as key": lambda: {"\udfff": 1},
    "bytes": lambda: b"abc",
    "set": lambda: {1, 2},
    "naive datetime": lambda: datetime(2030, 1, 1),  # noqa: DTZ001
    "number as key": lambda: {1: 2},
    "an object": object,
}
ACCEPTED: dict[str, Callable[[], object]] = {
    "just below the cap": lambda: "x" * (MIB - 200),
    "NUL": lambda: "a\x00b",
    "2**63 - 1": lambda: 2**63 - 1,
    "depth 30": lambda: deep(30),
    "line separators": lambda: "\u2028\u2029\ufeff\U0001f4a9",
    "looks like SQL": lambda: "'); DROP TABLE windlass_jobs; --",
}


def test_payloads_that_would_not_survive_are_refused_whole_and_the_others_come_back_as_they_were(
    fleets: Callable[..., Fleet], figure: Callable[[str, object], None]
) -> None:
    fleet = fleets(result_max="2MiB")
    for what, make in REFUSED.items():
        with pytest.raises(PayloadError):
            fleet.enqueue("take", make())
        assert fleet.app.stats()["total_enqueued"] == 0, what
    made = {what: (fleet.enqueue("take", make())[0], make()) for what, make in ACCEPTED.items()}
    fleet.start_ready(processes=1)
    fleet.drain()
    for what, (job, value) in made.items():
        assert fleet.info(job).state is State.DONE, what
        assert fleet.info(job).result == value, what
    verdict = check(fleet)
    figure("F32", f"refused {len(REFUSED)} of {len(REFUSED)}, came back unchanged {len(ACCEPTED)}; {verdict}")
    verdict.assert_safe()
