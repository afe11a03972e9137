"""Whole workers under load: shares, pools, recycling, rolling restarts, and what an operator asks of them.

Shares and orders are counted over many jobs in the ledger. The long runs, with figures, are under ``make soak``.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import apsw
import pytest
from fleet import Fleet, Line

from kit.waiting import PATIENCE, stretched

MIB = 2**20


def shares(starts: list[Line], until: int) -> dict[str, float]:
    """The share of each queue among the first starts."""
    counted = Counter(line.queue for line in starts[:until])
    return {queue: count / until for queue, count in counted.items()}


def pace(lines: list[Line]) -> float:
    """Jobs a second between the first and the last of these lines."""
    times = sorted(line.at for line in lines)
    return (len(times) - 1) * 1e9 / (times[-1] - times[0])


def saturate(fleet: Fleet, each: int) -> list[Line]:
    for queue in ("critical", "default", "low"):
        fleet.enqueue("work", queue, each)
    fleet.run("-q", "critical=6,default=3,low=1", "--burst", "-c", "4")
    starts = fleet.lines("begin")
    assert len(starts) == 3 * each
    return starts


@pytest.mark.parametrize("each", [3_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_weights_are_shares_of_the_starts_under_saturation(fleet: Fleet, each: int) -> None:
    starts = saturate(fleet, each)
    found = shares(starts, int(each / 0.6 * 0.9))
    print(f"6:3:1 over {each:,} jobs each: {found}")
    for queue, share in (("critical", 0.6), ("default", 0.3), ("low", 0.1)):
        assert abs(found[queue] - share) < 0.05


def test_strict_starts_every_critical_job_before_a_low_one(fleet: Fleet) -> None:
    fleet.enqueue("work", "low", 2_000)
    fleet.enqueue("work", "critical", 500)
    fleet.run("-q", "critical,low", "--strict", "--burst", "-c", "1")
    assert [line.queue for line in fleet.lines("begin")] == ["critical"] * 500 + ["low"] * 2_000


@pytest.mark.parametrize("low", [3_000, pytest.param(100_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("policy", [["-q", "critical=6,low=1"], ["-q", "critical,low", "--strict"]])
def test_a_critical_job_behind_a_backlog_has_the_next_free_slot(fleet: Fleet, policy: list[str], low: int) -> None:
    slots, seconds = 2, 0.01
    fleet.enqueue("work", "low", low, f"[[{seconds}], {{}}]")
    fleet.start(*policy, "-c", str(slots))
    waits = []
    for round in range(1, 11):
        fleet.until(lambda n=round: len(fleet.lines("begin")) > 20 * n)
        (job,) = fleet.enqueue("work", "critical", 1)
        asked = time.monotonic_ns()
        began = fleet.until(lambda j=job: [line for line in fleet.lines("begin") if line.id == j])[0].at
        between = [line for line in fleet.lines("begin") if line.queue == "low" and asked < line.at < began]
        waits.append((len(between), (began - asked) / 1e6))
    print(f"behind {low:,} jobs of 10 ms on {slots} slots: {[f'{count} starts, {ms:.1f} ms' for count, ms in waits]}")
    # What had been claimed before it, at most 20 ms of the worker's pace, and a slot each that was just taken.
    assert sorted(count for count, _ in waits)[5] <= slots + stretched(0.02) / seconds * slots
    if low > 10_000:
        assert sorted(ms for _, ms in waits)[5] <= 50


@pytest.mark.soak
def test_a_critical_job_on_an_idle_slot_starts_within_50_ms(fleet: Fleet) -> None:
    fleet.enqueue("work", "low", 100_000, "[[0.01], {}]")
    fleet.start("-q", "low", "--pool", "critical:1", "-c", "2")
    fleet.until(lambda: len(fleet.lines("begin")) > 50)
    waits = []
    for _ in range(50):
        asked = time.monotonic_ns()
        (job,) = fleet.enqueue("work", "critical", 1)
        waits.append((fleet.until(lambda j=job: [x for x in fleet.lines("begin") if x.id == j])[0].at - asked) / 1e6)
    waits.sort()
    print(f"on an idle slot beside 100,000 low jobs: p50 {waits[25]:.1f} ms, worst {waits[-1]:.1f} ms")
    assert waits[25] < 50


def test_slots_of_a_pool_are_kept_for_it(fleet: Fleet, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    fleet.enqueue("hold", "low", 5, json.dumps([[str(gate)], {}]))
    fleet.start("-q", "low", "-c", "2", "--pool", "critical,urgent-*:1")
    fleet.until(lambda: len(fleet.lines("begin")) == 2)
    for queue in ("critical", "urgent-eu", "critical"):
        done = fleet.enqueue("work", queue, 20)
        fleet.until(lambda ids=done: set(ids) <= {line.id for line in fleet.lines("end")})
    assert sum(line.queue == "low" for line in fleet.lines("begin")) == 2
    gate.touch()


def test_a_pattern_serves_queues_that_come_later_and_no_others(fleet: Fleet) -> None:
    other = fleet.enqueue("work", "mail", 3)
    fleet.start("-q", "report-*")
    fleet.alive(1)
    for queue in ("report-a", "report-b"):
        ids = fleet.enqueue("work", queue, 5)
        fleet.until(lambda each=ids: set(each) <= {line.id for line in fleet.lines("end")})
    assert not set(other) & {line.id for line in fleet.lines()}


def test_a_queue_that_the_settings_pause_is_left_alone(fleet: Fleet) -> None:
    (fleet.folder / "windlass.toml").write_text('[windlass.queues.broken]\npaused = "no paper"\n')
    fleet.enqueue("work", "broken", 3)
    ids = fleet.enqueue("work", "mail", 3)
    fleet.start()
    fleet.until(lambda: set(ids) <= {line.id for line in fleet.lines("end")})
    fleet.run("--burst")
    assert fleet.app.queue("broken").size == 3


LAYOUT = """\
[windlass.pools]
critical = { threads = 2 }
default = { threads = 5 }
low = { threads = 2, queues = ["low", "report-*"] }
mailers = { processes = 2 }
"""


def test_the_layout_of_the_settings_is_what_runs_and_what_is_shown(fleet: Fleet) -> None:
    (fleet.folder / "windlass.toml").write_text(LAYOUT)
    fleet.start()
    fleet.alive(3)
    shown = fleet.command("workers", "ls")
    print(shown)
    found = json.loads(fleet.command("workers", "ls", "--json"))
    assert len({worker["group"] for worker in found}) == 1
    pools = sorted([(pool["queues"], pool["threads"]) for pool in worker["pools"]] for worker in found)
    assert pools == [[("critical", 2), ("default", 5), ("low,report-*", 2)], [("mailers", 10)], [("mailers", 10)]]
    assert "3 processes" in shown
    assert "critical:2 default:5 low,report-*:2" in shown
    for queue in ("critical", "report-daily", "mailers"):
        ids = fleet.enqueue("work", queue, 5)
        fleet.until(lambda each=ids: set(each) <= {line.id for line in fleet.lines("end")})
    by_queue = {queue: {line.pid for line in fleet.lines() if line.queue == queue} for queue in ("critical", "mailers")}
    assert not by_queue["critical"] & by_queue["mailers"]


def test_no_process_runs_more_than_max_jobs_and_nothing_is_lost(fleet: Fleet) -> None:
    ids = fleet.enqueue("work", "default", 500)
    log = fleet.run("--burst", "--max-jobs", "40", "-c", "4")
    ended = Counter(line.id for line in fleet.lines("end"))
    assert ended == Counter(ids)
    per_process = Counter(line.pid for line in fleet.lines("end"))
    assert max(per_process.values()) <= 40
    assert len(per_process) >= 500 // 40
    assert "asks for its successor" in log


@pytest.mark.parametrize("runs", [80, pytest.param(1_000, marks=pytest.mark.soak)])
def test_a_leak_is_bounded_by_max_memory_and_nothing_is_lost(fleet: Fleet, runs: int) -> None:
    limit, slots, leak = 200, 2, 10
    ids = fleet.enqueue("leak", "default", runs, f"[[{leak}], {{}}]")
    began = time.monotonic()
    fleet.run("--burst", "--max-memory", f"{limit}MiB", "-c", str(slots))
    took = time.monotonic() - began
    lines = fleet.lines("end")
    assert Counter(line.id for line in lines) == Counter(ids)
    largest = max(line.size for line in lines) / MIB
    pids = len({line.pid for line in lines})
    print(f"{runs} runs of {leak} MiB in {took:.1f} s by {pids} processes, the largest {largest:.0f} of {limit} MiB")
    assert pids > 3
    # What was claimed before the first run ended was claimed without knowing how large a run is.
    assert largest <= limit + leak * (slots + 3)
    if runs >= 1_000:
        few = fleet.enqueue("leak", "default", 40, f"[[{leak}], {{}}]")
        fleet.run("--burst", "-c", str(slots))
        alone = [line for line in fleet.lines("end") if line.id in set(few)]
        print(f"throughput with recycling {pace(lines):.0f} jobs/s, of one process without {pace(alone):.0f}")


@pytest.mark.parametrize("restarts", [3, pytest.param(20, marks=pytest.mark.soak)])
@pytest.mark.parametrize("processes", [1, 2])
def test_rolling_restarts_under_load_lose_nothing_and_run_nothing_beside_itself(
    fleet: Fleet, restarts: int, processes: int
) -> None:
    fleet.write_jobs(keep_done_max="none")  # on a slow machine there are more than are kept of a queue
    ids = fleet.enqueue("work", "default", 400, "[[0.005], {}]")
    worker = fleet.start("-p", str(processes), "-c", "4")
    fleet.until(lambda: len(fleet.lines("begin")) > 20)
    for _ in range(restarts):
        known = {line.pid for line in fleet.lines("begin")}
        worker.send_signal(signal.SIGHUP)

        def moved(old: set[int] = known) -> bool:
            if len(ids) - len(fleet.lines("end")) < 200:  # the load goes on
                ids.extend(fleet.enqueue("work", "default", 200, "[[0.005], {}]"))
            return not {line.pid for line in fleet.lines("begin")} <= old

        fleet.until(moved)
    fleet.until_none(lambda: len(ids) - len(fleet.lines("end")), "every job to end")
    worker.terminate()
    assert worker.ended() == 0
    runs: dict[str, list[tuple[int, int]]] = {}
    ends = {(line.id, line.fence): line.at for line in fleet.lines("end")}
    for line in fleet.lines("begin"):
        runs.setdefault(line.id, []).append((line.at, ends.get((line.id, line.fence), line.at)))
    again = sum(len(spans) - 1 for spans in runs.values())
    beside = sum(one[1] > other[0] for spans in runs.values() for one, other in pairwise(sorted(spans)))
    pids = len({line.pid for line in fleet.lines("begin")})
    print(
        f"{restarts} restarts, {len(ids)} jobs, {pids} processes: {again} ran again, {beside} beside themselves, 0 lost"
    )
    assert beside == 0
    assert again == 0
    assert fleet.app.stats()["done"] == len(ids)


def test_a_restart_starts_the_new_process_before_the_old_one_ends(fleet: Fleet) -> None:
    worker = fleet.start("-q", "default")
    fleet.alive(1)
    (old,) = fleet.app.workers()
    worker.send_signal(signal.SIGHUP)
    seen: list[int] = []

    def turned() -> bool:
        alive = [each.id for each in fleet.app.workers() if each.alive]
        seen.append(len(alive))
        return len(alive) == 1 and alive != [old.id]

    fleet.until(turned)
    assert min(seen) >= 1


def test_workers_ls_shows_the_pid_to_signal_also_after_a_restart(fleet: Fleet) -> None:
    worker = fleet.start("-p", "2")
    fleet.alive(2)
    first = {each.id for each in fleet.app.workers()}
    worker.send_signal(signal.SIGHUP)
    fleet.until(lambda: len(now := {each.id for each in fleet.app.workers() if each.alive}) == 2 and not now & first)
    found = json.loads(fleet.command("workers", "ls", "--json"))
    assert {each["supervisor_pid"] for each in found} == {worker.pid}
    assert worker.pid not in {each["pid"] for each in found}
    _, group, *processes = fleet.command("workers", "ls").splitlines()
    assert group.split()[1:3] == [socket.gethostname(), str(worker.pid)]
    assert {line.split()[1] for line in processes} == {str(each["pid"]) for each in found}
    os.kill(found[0]["supervisor_pid"], signal.SIGTERM)
    assert worker.ended() == 0


def test_a_worker_warns_when_its_store_is_an_inherited_one(fleet: Fleet) -> None:
    jobs = fleet.folder / "fleet_jobs.py"
    jobs.write_text(jobs.read_text().replace(f"'{fleet.url}', ", "").replace(f'"{fleet.url}", ', ""))
    fleet.start(REDIS_URL="redis://me:secret@127.0.0.1:1/0")
    fleet.until(lambda: "taken from the environment variable REDIS_URL" in fleet.said())
    (line,) = [each for each in fleet.said().splitlines() if "variable REDIS_URL" in each]
    assert "WARNING" in line
    assert "set WINDLASS_URL" in line
    assert "secret" not in line


def test_code_that_does_not_load_leaves_the_old_running(fleet: Fleet) -> None:
    worker = fleet.start()
    fleet.alive(1)
    (fleet.folder / "fleet_jobs.py").write_text("nonsense(")
    worker.send_signal(signal.SIGHUP)
    fleet.until(lambda: "the old one goes on" in fleet.said())
    ids = fleet.enqueue("work", "default", 1)
    fleet.until(lambda: set(ids) <= {line.id for line in fleet.lines("end")})


def test_reload_runs_the_new_code_when_a_file_has_changed(fleet: Fleet) -> None:
    fleet.start("--reload")
    fleet.alive(1)
    fleet.write_jobs(version=2)
    fleet.until(lambda: "source files have changed" in fleet.said())

    def result() -> bool:
        (job,) = fleet.enqueue("work", "default", 1)
        row = fleet.until(lambda: (found := fleet.app.engine.job(job)) and found.finished_at and found)
        return row.result == b"2"

    fleet.until(result)


def test_quiet_and_stop_act_on_the_worker_as_a_whole(fleet: Fleet) -> None:
    worker = fleet.start("-p", "2", "-q", "default")
    fleet.alive(2)
    group = fleet.app.workers()[0].group
    one = fleet.app.workers()[1].id
    assert "asked to claim no more" in fleet.command("workers", "quiet", one)
    fleet.until(lambda: "quiet: no new jobs" in fleet.said())
    assert "asked to be quiet" in fleet.command("workers", "ls")
    fleet.enqueue("work", "default", 3)
    # A process that has died comes back quiet.
    os.kill(fleet.app.workers()[0].pid, signal.SIGKILL)
    fleet.until(lambda: fleet.said().count("worker 0") >= 3 and len(fleet.app.workers()) == 2)
    assert fleet.app.queue("default").size == 3
    asked = json.loads(fleet.command("workers", "stop", "--all", "--json"))
    assert [each["group"] for each in asked] == [group]
    assert worker.ended() == 0
    assert fleet.app.workers() == []
    assert fleet.lines() == []


def test_a_signal_that_comes_twice_at_once_is_one(fleet: Fleet) -> None:
    # timeout(1) sends it to its child, and then to the group of both.
    wrapper = fleet.program("timeout", "600", sys.executable, "-m", "windlass", "-A", fleet.loads, "worker", "-c", "1")
    fleet.alive(1)
    (job,) = fleet.enqueue("work", "default", 1, "[[0.5], {}]")
    fleet.until(lambda: fleet.lines("begin"))
    wrapper.send_signal(signal.SIGTERM)
    wrapper.ended()
    fleet.until(lambda: not fleet.app.workers())
    assert [line.id for line in fleet.lines("end")] == [job]


def get(port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_readyz_is_503_while_the_store_is_away_and_livez_is_not(fleet: Fleet) -> None:
    fleet.write_jobs(busy_timeout="50ms", poll_min="50ms", poll_max="50ms", lease="60s")
    fleet.start("-p", "2", "--http-port", "0")
    port = int(fleet.until(lambda: fleet.said().partition("http://127.0.0.1:")[2].split("\n")[0]))
    fleet.until(lambda: get(port, "/readyz")[0] == 200)
    db = apsw.Connection(f"{fleet.folder}/jobs.db")
    db.set_busy_timeout(30_000)
    db.execute("BEGIN IMMEDIATE")
    status, text = fleet.until(lambda: (seen := get(port, "/readyz"))[0] == 503 and seen)
    assert (status, "the store has been away" in text) == (503, True)
    assert get(port, "/livez") == (200, "ok\n")
    db.execute("ROLLBACK")
    db.close()
    fleet.until(lambda: get(port, "/readyz")[0] == 200)


def test_livez_is_503_when_a_process_has_stopped_looking_for_jobs(fleet: Fleet) -> None:
    fleet.write_jobs(live_within="500ms", poll_min="50ms", poll_max="50ms", lease="60s")
    fleet.start("--http-port", "0")
    port = int(fleet.until(lambda: fleet.said().partition("http://127.0.0.1:")[2].split("\n")[0]))
    fleet.until(lambda: get(port, "/readyz")[0] == 200)
    (child,) = fleet.app.workers()
    os.kill(child.pid, signal.SIGSTOP)
    status, text = fleet.until(lambda: (seen := get(port, "/livez"))[0] == 503 and seen)
    assert (status, "has not looked for jobs" in text) == (503, True)
    os.kill(child.pid, signal.SIGCONT)
    fleet.until(lambda: get(port, "/livez")[0] == 200)


def test_an_autoscaler_can_ask_a_worker_for_the_stats(fleet: Fleet) -> None:
    fleet.write_jobs(queues={"default": {"max_wait": "10s", "limit": 3}})
    fleet.start("-c", "2", "--http-port", "0")
    port = int(fleet.until(lambda: fleet.said().partition("http://127.0.0.1:")[2].split("\n")[0]))
    fleet.until(lambda: get(port, "/readyz")[0] == 200)
    fleet.enqueue("hold", "default", 5, f'[["{fleet.folder}/gate"], {{}}]')
    fleet.until(lambda: fleet.app.stats()["running"] == 2)
    status, text = get(port, "/api/v1/stats")
    stats = json.loads(text)
    assert (status, stats["running"], stats["ready"]) == (200, 2, 3)
    (queue,) = stats["queues"]
    assert (queue["name"], queue["ready"], queue["workers"], queue["limit"]) == ("default", 3, 1, 3)
    assert queue["max_wait"] == 10.0  # of the application, which the supervisor never imports
    (fleet.folder / "gate").touch()


def test_systemd_hears_when_it_is_ready_alive_and_stopping(fleet: Fleet) -> None:
    path = str(fleet.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(PATIENCE)
        worker = fleet.start("-p", "2", NOTIFY_SOCKET=path, WATCHDOG_USEC="200000")
        heard = []
        while "READY=1" not in heard:
            heard.append(systemd.recv(100).decode())
        fleet.alive(2)
        while heard[-1] != "WATCHDOG=1":
            heard.append(systemd.recv(100).decode())
        worker.terminate()
        while heard[-1] != "STOPPING=1":
            heard.append(systemd.recv(100).decode())
    assert set(heard) == {"READY=1", "WATCHDOG=1", "STOPPING=1"}
    assert worker.ended() == 0


@pytest.mark.parametrize(
    ("toml", "options", "message"),
    [
        ("[windlass.pools]\na = { threads = 0 }", [], "windlass.toml, line 2"),
        ("[windlass.pools]\na = {threads=1}\nb = {queues=['a*'], processes=1}", [], "windlass.toml, line 3"),
        ('[windlass]\nmax_memory = "10MiB"', [], "max_memory is 10 MiB (windlass.toml, line 2)"),
        ("[windlass]", ["--max-memory", "9MB"], "(--max-memory)"),
        ("[windlass]", ["-q", "a=0"], "'a=0': a weight is a whole number"),
        ("[windlass]", ["--pool", "a:0"], "'a:0' has no slots"),
        (
            "[windlass]\nstrict_queues = true\n[windlass.queues.default]",
            ["-q", "a"],
            "queue 'a' is not in the settings",
        ),
    ],
)
def test_a_wrong_layout_ends_the_worker_at_once_and_says_which_line(
    fleet: Fleet, toml: str, options: list[str], message: str
) -> None:
    (fleet.folder / "windlass.toml").write_text(toml + "\n")
    assert message in fleet.run(*options, code=2)
