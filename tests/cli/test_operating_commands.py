"""Queues, workers, stats, explain and migrate: looking at a store and steering it."""

from __future__ import annotations

import re

import pytest
from cli_shop import Shop, register

from windlass import State
from windlass.core.work import Kind, Want
from windlass.insight.queues import QueueInfo, WorkerStatus


def queue(shop: Shop, name: str = "payments") -> QueueInfo:
    with shop.store() as app:
        return app.queue(name).info()


def test_queues_ls(shop: Shop) -> None:
    assert "No queues yet" in shop.run("queues", "ls").stderr
    shop.enqueue("charge", "[1]")
    head, line = shop.run("queues", "ls").stdout.splitlines()
    assert head.split() == ["Queue", "Ready", "Scheduled", "Running", "Held", "Latency", "Workers", "State", "Note"]
    assert line.startswith("payments")
    assert "no live worker serves it" in line
    found = shop.json("queues", "ls")
    assert isinstance(found, list)
    assert [list(each) for each in found] == [list(QueueInfo.__dataclass_fields__)]


def test_queues_ls_counts_the_workers_of_each_queue(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    shop.enqueue("charge", "[1]", "--queue", "slow")
    with shop.store() as app:
        register(app, "payments=3,other")
        lines = shop.run("queues", "ls").stdout.splitlines()
    assert [found[1] for line in lines[1:] if (found := re.search(r"(\d+) +open", line))] == ["1", "0"]


def test_pause_and_resume(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    assert shop.run("queues", "pause", "payments", "--reason", "bank is down", "--until", "2h").stdout
    assert queue(shop).paused
    assert re.search(r"paused +bank is down, until .* UTC \(in (2 h|1 h 59 min)\)", shop.run("queues", "ls").stdout)
    found = shop.json("queues", "resume", "payments")
    assert isinstance(found, dict)
    assert (found["name"], found["paused"]) == ("payments", False)
    assert not queue(shop).paused


def test_a_queue_that_never_had_a_job_is_paused_with_a_note(shop: Shop) -> None:
    assert shop.run("queues", "pause", "payments").stderr == ""  # no job yet, but one that would go there
    assert shop.run("queues", "pause", "paymnts").stderr == (
        "Note: no job has ever been in queue paymnts (did you mean 'payments'?).\n"
    )
    assert [one["paused"] for one in shop.json("queues", "ls")] == [True, True]  # type: ignore[attr-defined, index]


def test_pause_until_an_instant(shop: Shop) -> None:
    shop.run("queues", "pause", "payments", "--until", "2031-01-02T03:04:05Z")
    until = queue(shop).paused_until
    assert until is not None
    assert until.isoformat() == "2031-01-02T03:04:05+00:00"
    for wrong in ("2031-01-02T03:04:05", "never"):
        assert "until" in shop.run("queues", "pause", "payments", "--until", wrong, code=2).stderr


def test_limit_and_rate_are_set_shown_and_lifted(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    assert "Queue payments: at most 2 jobs run at once." in shop.run("queues", "limit", "payments", "2").stdout
    assert "Queue payments: 5/m start." in shop.run("queues", "limit", "payments", "--rate", "5/m").stdout
    with shop.claimed():
        line = shop.run("queues", "ls").stdout.splitlines()[1]
        assert re.search(r" 1 of 2 .* 1 of 5/m started", line)
        assert " 1 of 2 " in shop.run("stats").stdout
    found = shop.json("queues", "limit", "payments", "none", "--rate", "none")
    assert isinstance(found, dict)
    assert (found["name"], found["limit"], found["rate"]) == ("payments", None, None)


def test_a_lifted_limit_says_that_the_settings_hold(shop: Shop) -> None:
    shop.write("windlass.toml", '[windlass.queues.payments]\nlimit = 3\nrate = "7/s"\n')
    said = shop.run("queues", "limit", "payments", "none", "--rate", "none").stdout
    assert "at most 3 jobs run at once, as windlass.toml, line 2 says; 7/s start, as windlass.toml, line 3 says" in said
    assert "at most 1 job runs at once." in shop.run("queues", "limit", "payments", "1").stdout


def test_a_wrong_limit_is_a_usage_error(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    assert "give a limit" in shop.run("queues", "limit", "payments", code=2).stderr
    assert "'few' is not a limit" in shop.run("queues", "limit", "payments", "few", code=2).stderr
    assert "pause the queue" in shop.run("queues", "limit", "payments", "0", code=2).stderr
    assert "write a number per time" in shop.run("queues", "limit", "payments", "--rate", "5", code=2).stderr
    assert queue(shop).limit is None
    assert "did you mean 'payments'" in shop.run("queues", "limit", "payment", "2").stderr


def test_pausing_a_queue_that_has_nothing_hints_at_the_nearest(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    assert "did you mean 'payments'" in shop.run("queues", "pause", "payment").stderr
    assert "queue name" in shop.run("queues", "pause", "a b", code=2).stderr


def test_clear_asks_and_leaves_what_runs(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    with shop.claimed():
        shop.enqueue("charge", "[2]")
        shop.enqueue("charge", "[3]", "--in", "1h")
        refused = shop.run("queues", "clear", "payments", input="n", code=1)
        assert "Delete 2 waiting jobs of queue payments" in refused.stderr
        assert "--yes" in shop.run("queues", "clear", "payments", input="", code=2).stderr
        assert shop.json("queues", "clear", "payments", "--yes") == {"name": "payments", "deleted": 2, "held": 0}
        assert (queue(shop).ready, queue(shop).running) == (0, 1)
    assert shop.run("queues", "clear", "payments", "--yes").stdout == "0 jobs deleted.\n"


def test_held_jobs_are_told_apart_from_running_ones(shop: Shop) -> None:
    for _ in range(3):
        shop.enqueue("charge", "[1]")
    with shop.store() as app:
        register(app, "payments")
        worker = app.workers()[0].id
        leases = app.engine.claim(Want(worker, 9, room=1)).leases
        assert (queue(shop).running, queue(shop).held) == (1, 2)
        assert shop.run("queues", "ls").stdout.splitlines()[1].split()[1:5] == ["0", "0", "1", "2"]
        assert "1 running, 2 held" in shop.run("top", "--once").stdout
        table = [line.split() for line in shop.run("stats").stdout.splitlines()]
        assert ["running", "1"] in table
        assert ["held", "2"] in table
        assert f"is held by worker {worker}" in shop.run("explain", leases[1].id).stdout
        assert f"has been running on worker {worker}" in shop.run("explain", leases[0].id).stdout
        assert shop.run("jobs", "ls").stdout.count("about to start") == 2
        cleared = shop.run("queues", "clear", "payments", "--yes").stdout
        assert cleared == "0 jobs deleted. 2 more are held by workers and about to start.\n"


def test_workers_ls_groups_processes(shop: Shop) -> None:
    assert "No workers" in shop.run("workers", "ls").stderr
    shop.enqueue("charge", "[1]")
    with shop.claimed("payments=3,other"):
        head, group, process = shop.run("workers", "ls").stdout.splitlines()
        found = shop.json("workers", "ls")
    assert head.split() == ["Worker", "Host", "Pid", "Queues", "Busy", "Started", "Beat", "State"]
    assert group.split()[1:4] == ["host-1", "payments=3,other", "1/10"]
    assert process.startswith("  ")
    assert "4711" in process
    assert "alive" in process
    assert isinstance(found, list)
    assert [list(each) for each in found] == [[*WorkerStatus.__dataclass_fields__, "alive"]]


def test_stats(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    shop.settle(Kind.DONE)
    lines = shop.run("stats").stdout.splitlines()
    assert "done          1" in lines
    with shop.store() as app:
        found = shop.json("stats")
        assert isinstance(found, dict)
        (queue,) = found.pop("queues")
        assert found == app.stats()
    assert {key: queue[key] for key in ("name", "ready", "workers")} == {"name": "payments", "ready": 0, "workers": 0}
    assert {state.value for state in State} <= {line.split()[0] for line in lines if line}


def test_explain(shop: Shop) -> None:
    job = shop.enqueue("charge", "[1]")
    assert "No worker is alive" in shop.run("explain", job).stdout
    found = shop.json("explain", job)
    assert isinstance(found, dict)
    assert found["id"] == job
    assert "There is no job nope" in shop.run("explain", "nope", code=1).stdout


@pytest.mark.parametrize("app", [True, False])
def test_migrate_can_be_repeated(shop: Shop, app: bool) -> None:
    first = shop.json("migrate", app=app)
    assert first == shop.json("migrate", app=app)
    assert isinstance(first, dict)
    assert first["name"] == "sqlite"
    assert f"is at schema {first['version']}." in shop.run("migrate", app=app).stdout
