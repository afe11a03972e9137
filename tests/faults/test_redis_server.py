"""A Redis server that fails under real workers: killed and restarted (F8, F9), full (F11), forgetful (F13), replaced by
an old replica (F14). The workers go on by themselves."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from faults.harness import NS, Fleet, Sink, check
from kit.waiting import PATIENCE, elapse, stretched
from proxy import Proxy
from servers import RedisServer, caught_up
from windlass import EngineFull, EngineUnavailable

RESUME_MOST = 5.0  # seconds from the end of a fault to the next job that runs


@contextmanager
def made(folder: Path, *options: str, **settings: str | int) -> Iterator[tuple[RedisServer, Fleet]]:
    """A server of the test's own, and a fleet on it that notices an outage soon."""
    with (
        closing(RedisServer(*options)) as server,
        Fleet(server.url, folder, network_timeout="1s", **settings) as fleet,
    ):
        yield server, fleet


def enqueue_through(fleet: Fleet, count: int, over: threading.Event) -> list[str]:
    """Enqueue with ids of our own, and again for as long as there is no answer; give the ids that were tried."""
    tried = []
    for n in range(count):
        job = f"own-{n}"
        tried.append(job)
        call = fleet.jobs.pay.options(id=job).bind(5)
        while not over.is_set():
            with suppress(EngineUnavailable):
                fleet.app.enqueue(call)
                fleet.acked.append(job)
                break
            over.wait(0.05)
        over.wait(0.01)
    return tried


def resume(fleet: Fleet) -> float:
    """Seconds from now until a job runs that was claimed from now on. Fences are times of the server's clock, in us."""
    now, fence = time.monotonic_ns(), time.time_ns() // 1_000

    def begun() -> list[int]:
        return [run.began for run in fleet.runs() if run.fence > fence]

    return (min(fleet.until(begun, "a job to be claimed again")) - now) / NS


def test_a_killed_server_that_comes_back_costs_no_confirmed_job_and_the_workers_resume(
    tmp_path: Path, figure: Callable[[str, object], None]
) -> None:
    with made(tmp_path, "--appendonly", "yes", "--appendfsync", "always", lease="5s") as (server, fleet):
        trees = [fleet.start_ready(processes=1, threads=4) for _ in range(2)]
        fleet.enqueue("pay", 20, times=400)
        over = threading.Event()
        client = threading.Thread(target=enqueue_through, args=(fleet, 150, over))
        client.start()
        resumed = []
        try:
            for _ in range(2):
                seen = len(fleet.runs())
                fleet.until(lambda seen=seen: len(fleet.runs()) > seen + 50, "jobs to run")  # type: ignore[misc]
                server.stop(signal.SIGKILL)
                elapse(0.7)
                server.start()
                resumed.append(resume(fleet))
        finally:
            client.join(stretched(PATIENCE))
            over.set()
        fleet.drain()
        verdict = check(fleet)
        figure("F8", f"resumed after {[round(one, 2) for one in resumed]} s: {verdict}")
        verdict.assert_safe()
        assert max(resumed) < stretched(RESUME_MOST)
        assert all(tree.runs for tree in trees)
        assert len(fleet.acked) == 550
        assert fleet.app.stats()["total_enqueued"] == 550
        with Sink(fleet.folder) as sink:
            assert sink.keys() == set(fleet.acked)


def test_a_server_that_keeps_nothing_is_warned_of_its_restart_is_reported_and_the_workers_go_on(
    tmp_path: Path, figure: Callable[[str, object], None]
) -> None:
    with made(tmp_path, lease="5s") as (server, fleet):
        tree = fleet.start_ready(processes=1, threads=4)
        fleet.enqueue("pay", 20, times=300)
        fleet.until(lambda: len(fleet.runs()) > 50, "jobs to run")
        lines = len(tree.said().splitlines())
        began = time.monotonic()
        server.stop(signal.SIGKILL)
        elapse(1.0)
        server.start()
        up = time.monotonic()
        fleet.until(lambda: fleet.app.workers(), "the worker to register anew")
        fleet.until(lambda: fleet.logged("store rolled back"), "the event of the rollback")
        resumed = time.monotonic() - up
        took, said = time.monotonic() - began, len(tree.said().splitlines()) - lines
        before = set(fleet.acked)
        new = fleet.enqueue("pay", 5, times=40)
        fleet.drain()
        runs = fleet.runs()
        lost = before - {run.job for run in runs}
        figure("F9", f"resumed after {resumed:.2f} s, lost {len(lost)} of {len(before)}, {said / took:.1f} log lines/s")
        assert {run.job for run in runs} >= set(new)
        assert tree.runs
        assert fleet.logged("keeps nothing on disk") == 1
        assert any(found.check == "rollback" for found in fleet.app.engine.doctor())
        assert resumed < stretched(RESUME_MOST)
        assert fleet.logged("Traceback") == 0
        fences = [run.fence for run in runs]
        assert len(set(fences)) == len(fences)


def test_a_full_server_refuses_jobs_and_is_drained_by_its_workers(
    tmp_path: Path, figure: Callable[[str, object], None]
) -> None:
    with made(tmp_path, "--appendonly", "yes", keep_done="0s") as (server, fleet):
        with server.client() as client:
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 3_000_000)
        refused = 0
        with pytest.raises(EngineFull):
            for _ in range(100):
                refused = fleet.attempted
                fleet.enqueue("take", "x" * 20_000, times=10)
        assert fleet.app.stats()["ready"] == len(fleet.acked) == refused
        fleet.start_ready(processes=1, threads=4)
        fleet.drain()
        fleet.until(lambda: takes(fleet), "the server to take jobs again")
        fleet.drain()
        verdict = check(fleet)
        figure("F11", f"refused whole at {refused} jobs: {verdict}")
        assert not verdict.lost, verdict
        assert (verdict.executed, verdict.stale, verdict.ghosts) == (len(fleet.acked), 0, [])
        assert fleet.app.stats()["total_done"] == len(fleet.acked)


def takes(fleet: Fleet) -> bool:
    """Whether there is room for a job: upkeep has removed what was done."""
    try:
        fleet.enqueue("pay", 1)
    except EngineFull:
        return False
    return True


def test_a_server_that_forgets_its_scripts_all_the_time_is_no_trouble(
    tmp_path: Path, figure: Callable[[str, object], None]
) -> None:
    with made(tmp_path, "--appendonly", "yes") as (server, fleet), server.client() as client:
        fleet.start_ready(processes=2, threads=4)
        flushes = 0
        for _ in range(15):
            fleet.enqueue("pay", 10, times=20)
            client.script_flush()
            flushes += 1
            elapse(0.1)
        fleet.drain()
        verdict = check(fleet)
        troubles = fleet.logged("ERROR") + fleet.logged("WARNING")
        figure("F13", f"{flushes} flushes: {verdict}; warnings and errors logged {troubles}")
        verdict.assert_safe()
        assert troubles == 0, fleet.last_words()
        assert (verdict.duplicated, verdict.stale) == (0, 0)


def test_a_failover_to_an_old_replica_loses_what_it_had_not_and_is_reported(
    tmp_path: Path, figure: Callable[[str, object], None]
) -> None:
    with (
        closing(RedisServer("--appendonly", "yes")) as master,
        closing(RedisServer("--appendonly", "yes", "--replicaof", "127.0.0.1", str(master.port))) as replica,
        closing(Proxy(master.port)) as proxy,
        master.client() as one,
        replica.client() as other,
        Fleet(proxy.url, tmp_path, network_timeout="1s", lease="5s") as fleet,
    ):
        fleet.until(lambda: other.info("replication")["master_link_status"] == "up", "the replica to follow")
        tree = fleet.start_ready(processes=2, threads=4)
        fleet.enqueue("pay", 20, times=200)
        fleet.until(lambda: len(fleet.runs()) > 20, "jobs to run")
        caught_up(one, other)
        other.replicaof("NO", "ONE")  # from here on it misses every write
        late, split = set(fleet.enqueue("pay", 20, times=100)), time.time_ns() // 1_000

        def all_have_claimed() -> bool:
            """Whether every process has seen many writes that get lost.

            Who has seen none would notice nothing, and who has seen few might come back after as many new ones.
            """
            if fleet.open_jobs() < 50:
                late.update(fleet.enqueue("pay", 20, times=50))
            ran = Counter(run.pid for run in fleet.runs() if run.fence > split)
            pids = fleet.worker_pids()
            return len(pids) == 2 and all(ran[pid] >= 60 for pid in pids)

        fleet.until(all_have_claimed, "both processes to claim on the old master alone")
        promoted = time.monotonic()
        master.stop(signal.SIGKILL)
        proxy.point(replica.port)
        resumed = resume(fleet)
        fleet.until(lambda: fleet.logged("store rolled back"), "the rollback to be reported")
        noticed = time.monotonic() - promoted
        fleet.drain()
        new = fleet.enqueue("pay", 5, times=20)
        fleet.drain()
        runs = fleet.runs()
        lost = set(fleet.acked) - {run.job for run in runs}
        figure(
            "F14", f"resumed after {resumed:.2f} s, rollback reported after {noticed:.2f} s, acked and lost {len(lost)}"
        )
        assert lost <= late
        assert {run.job for run in runs} >= set(new)
        assert resumed < stretched(RESUME_MOST)
        assert tree.runs
        fences = [run.fence for run in runs]
        assert len(set(fences)) == len(fences)
        assert any(found.check == "rollback" for found in fleet.app.engine.doctor())
        with Sink(fleet.folder) as sink:
            assert sink.keys() == {run.job for run in runs}
