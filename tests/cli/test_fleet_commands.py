"""``top``, ``workers quiet|stop``, and what ``check`` and ``doctor`` say of pools and queues."""

from __future__ import annotations

from cli_shop import Shop

from windlass.core.ids import new_id
from windlass.core.work import PoolInfo, WorkerInfo

POOLS = "[windlass.pools]\ncritical = { threads = 2 }\nmailers = { processes = 1 }\n"


def test_top_once_draws_queues_and_running_jobs(shop: Shop) -> None:
    shop.enqueue("charge", "[1]")
    shop.enqueue("charge", "[2]")
    with shop.claimed():
        text = shop.run("top", "--once").stdout
    assert "1 worker process" in text
    assert "1 ready, 0 scheduled, 1 running" in text
    (line,) = [line for line in text.splitlines() if line.startswith("payments")]
    assert line.split()[:3] == ["payments", "1", "1"]
    assert "charge" in text


def test_top_of_an_empty_store_and_as_json(shop: Shop) -> None:
    assert "0 worker processes" in shop.run("top", "--once").stdout
    shop.enqueue("charge", "[1]")
    found = shop.json("top", "--once")
    assert isinstance(found, dict)
    assert (found["ready"], found["queues"][0]["name"]) == (1, "payments")


def test_a_worker_is_asked_by_its_id_or_the_beginning_of_it(shop: Shop) -> None:
    with shop.store() as app:
        group = new_id()
        for name in ("w1", "w2"):
            app.engine.extend(WorkerInfo(name, group, "h", 1, "*", 1, "1", 0), [], 60_000)
        assert "(2 processes) was asked to claim no more" in shop.run("workers", "quiet", group[:20]).stdout
        assert [worker.asked for worker in app.workers()] == [("quiet",)] * 2
        assert shop.json("workers", "stop", "w1") == [{"group": group, "asked": 2}]
        assert "asked to stop" in shop.run("workers", "ls").stdout


def test_a_worker_that_is_not_there_or_not_the_only_one_is_an_error(shop: Shop) -> None:
    assert "no worker 'w9' is registered" in shop.run("workers", "stop", "w9", code=2).stderr
    assert "give the id" in shop.run("workers", "stop", code=2).stderr
    with shop.store() as app:
        for name in ("w1", "w2"):
            app.engine.extend(WorkerInfo(name, f"g{name}", "h", 1, "*", 1, "1", 0), [], 60_000)
    assert "2 workers" in shop.run("workers", "quiet", "w", code=2).stderr
    assert "was asked to stop" in shop.run("workers", "stop", "--all").stdout


def test_workers_ls_shows_the_pools_of_each_process(shop: Shop) -> None:
    with shop.store() as app:
        for name, queues in (("w1", "critical:2 low:1"), ("w2", "mailers")):
            pool = PoolInfo(name, queues, ("critical",), 2, 2)
            app.engine.extend(WorkerInfo(name, "g", "h", 1, queues, 4, "1", 0, (pool,)), [], 60_000)
        _, group, first, second = shop.run("workers", "ls").stdout.splitlines()
    assert "2 processes" in group
    assert "critical:2 low:1" in first
    assert "mailers" in second


def test_workers_ls_shows_a_record_of_a_version_that_did_not_tell_its_supervisor(shop: Shop) -> None:
    with shop.store() as app:
        app.engine.extend(WorkerInfo("w1", "g", "box", 17, "*", 4, "1", 0), [], 60_000)
        _, group, process = shop.run("workers", "ls").stdout.splitlines()
    assert group.split()[:3] == ["g", "box", "*"]
    assert process.split()[:2] == ["w1", "17"]


def test_check_finds_jobs_whose_queue_is_in_no_pool(shop: Shop) -> None:
    shop.write("windlass.toml", POOLS)
    text = shop.run("check", code=1).stdout
    assert "queue payments" in text
    assert "no pool of windlass.toml, line 1 serves it; its jobs are charge" in text
    shop.write("windlass.toml", POOLS + 'rest = { queues = ["*"], threads = 1 }\n')
    assert "no pool" not in shop.run("check").stdout


def test_doctor_says_where_a_queue_is_paused(shop: Shop) -> None:
    shop.write("windlass.toml", '[windlass.queues.payments]\npaused = "bank is down"\n')
    text = shop.run("doctor").stdout
    assert "do not serve it: bank is down" in text
    assert "remove `paused` from windlass.toml, line 2" in text


def test_a_wrong_pool_is_an_error_with_its_line(shop: Shop) -> None:
    shop.write("windlass.toml", "[windlass.pools]\ncritical = { treads = 2 }\n")
    stderr = shop.run("config", code=2).stderr
    assert "pools (windlass.toml, line 2): critical: unknown option 'treads' (did you mean 'threads'?" in stderr
