"""A bad network between real workers and Redis: resets (F15), silence (F16), lost answers (F17), slowness (F18)."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from faults import jobs
from faults.harness import NS, SHORT, Fleet, Sink, check
from kit.fleet import group_of
from kit.waiting import PATIENCE, elapse, stretched
from proxy import Proxy
from servers import RedisServer
from windlass import EngineUnavailable, Windlass
from windlass.engines.redis.scripts import script

CALLS = ("exchange", "claim", "settle", "extend", "note", "maintain", "bury", "depart", "enqueue", "transition")
RESUME_MOST = 5.0  # seconds from the end of a fault to the next job that is claimed


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    with redis_server.client() as client:
        client.flushall()
        for call in CALLS:  # else the answer that gets lost may be that the server does not know the script yet
            client.script_load(script(call, guarded=False).text)
    with closing(Proxy(redis_server.port)) as made:
        yield made


@pytest.fixture
def fleet(redis_server: RedisServer, proxy: Proxy, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet that looks at the server directly; what shall have the bad network is started with ``through``."""
    with Fleet(redis_server.url, tmp_path, renew="400ms", reap="300ms", network_timeout="500ms") as made:
        yield made


def through(proxy: Proxy) -> dict[str, str]:
    """The environment of a worker behind the proxy."""
    return {"WINDLASS_URL": proxy.url}


@contextmanager
def client_through(proxy: Proxy) -> Iterator[tuple[Windlass, SimpleNamespace]]:
    """An application behind the proxy, and its jobs."""
    with closing(Windlass(proxy.url, **(SHORT | {"network_timeout": "500ms"}))) as app:  # type: ignore[arg-type]
        yield app, jobs.install(app)


def claimed_from(fleet: Fleet) -> Callable[[], bool]:
    """A condition: a job runs that was claimed from now on. Fences are times of the server's clock, in us."""
    fence = time.time_ns() // 1_000
    return lambda: any(run.fence > fence for run in fleet.runs())


def test_connections_that_are_reset_each_second_cost_no_job_and_store_none_twice(
    fleet: Fleet, proxy: Proxy, figure: Callable[[str, object], None]
) -> None:
    tree = fleet.start_ready(processes=1, threads=4, **through(proxy))
    fleet.enqueue("pay", 20, times=700)
    over = threading.Event()

    def enqueue() -> None:
        n = 0
        with client_through(proxy) as (app, defined):
            while not over.is_set():
                call = defined.pay.options(id=f"own-{n}").bind(1)
                with suppress(EngineUnavailable):
                    app.enqueue(call)
                    fleet.acked.append(f"own-{n}")
                    n += 1
                over.wait(0.01)

    client = threading.Thread(target=enqueue)
    client.start()
    resumed = []
    for _ in range(3):
        elapse(1.0)
        proxy.drop()
        dropped, again = time.monotonic(), claimed_from(fleet)
        fleet.until(again, "a job to be claimed again")
        resumed.append(time.monotonic() - dropped)
    over.set()
    client.join(stretched(PATIENCE))
    fleet.drain()
    verdict = check(fleet)
    stored = fleet.app.stats()["total_enqueued"]
    figure("F15", f"resumed after {[round(one, 2) for one in resumed]} s, stored {stored}: {verdict}")
    verdict.assert_safe()
    assert max(resumed) < stretched(RESUME_MOST)
    assert stored == len(fleet.acked) == len(set(fleet.acked))
    assert tree.runs
    with Sink(fleet.folder) as sink:
        assert sink.keys() == set(fleet.acked)


def test_a_worker_in_a_silent_network_ends_itself_and_a_new_one_goes_on_when_it_heals(
    fleet: Fleet, proxy: Proxy, figure: Callable[[str, object], None]
) -> None:
    tree = fleet.start_ready(processes=1, threads=2, **through(proxy), WINDLASS_LEASE="2s")
    ((pid, worker),) = fleet.worker_pids().items()
    fleet.enqueue("pay", 300, times=30)
    fleet.until(lambda: fleet.running_on().get(pid), "jobs to run")
    fleet.suspended.add(pid)  # it may run on beside its successor until it has noticed; its fence is refused
    with proxy.silence():
        began = time.monotonic()
        fleet.start_ready(processes=1, threads=2)  # another machine, with a good network
        fleet.until(lambda: worker not in {one.id for one in fleet.app.workers()}, "the silent worker to be reaped")
        fleet.until(lambda: group_of(pid) is None, "the silent worker to end")
        ended = time.monotonic() - began
        late = [run for run in fleet.runs() if run.pid == pid and run.began / NS > began + stretched(2.0)]
        elapse(max(0.0, began + 4.5 - time.monotonic()))
    healed = time.monotonic()
    mine = fleet.until(lambda: fleet.worker_pids(tree), "the tree to have a worker again")
    resumed = time.monotonic() - healed
    fleet.drain()
    fleet.enqueue("pay", 50, times=40)
    fleet.drain()
    verdict = check(fleet)
    figure("F16", f"ended itself after {ended:.2f} s (lease 2 s), back {resumed:.2f} s after healing: {verdict}")
    verdict.assert_safe()
    assert late == [], "a job began on a lease that was over"
    assert ended < stretched(10)
    assert resumed < stretched(RESUME_MOST)
    assert pid not in mine
    assert set(mine) <= {run.pid for run in fleet.runs()}
    with Sink(fleet.folder) as sink:
        assert sink.keys() == set(fleet.acked)


@pytest.mark.parametrize("call", CALLS)
def test_an_answer_that_gets_lost_is_made_good(
    fleet: Fleet, proxy: Proxy, figure: Callable[[str, object], None], call: str
) -> None:
    fleet.enqueue("pay", 20, times=30)
    fleet.enqueue("note", 3, times=4)
    tree = fleet.start_ready(processes=1, threads=4, **through(proxy))
    if call in ("enqueue", "transition"):
        lose_in_client(fleet, proxy, call)
    else:
        provoke(fleet, proxy, call)
    fleet.drain()
    if tree.runs:
        tree.send_signal(signal.SIGTERM)
        assert tree.ended() == 0
    verdict = check(fleet)
    figure("F17", f"{call}: {verdict}")
    assert proxy.lost == 1
    verdict.assert_safe()
    assert verdict.executed == len(fleet.acked)


def lose_in_client(fleet: Fleet, proxy: Proxy, call: str) -> None:
    with client_through(proxy) as (app, defined):
        app.stats()  # else the loss may hit the opening of the connection
        if call == "enqueue":
            stored = defined.pay.options(id="own").bind(1)
            proxy.lose(script(call, guarded=False).sha)
            with pytest.raises(EngineUnavailable):
                app.enqueue(stored)
            assert app.enqueue(stored).duplicate
            fleet.acked.append("own")
        else:
            app.enqueue(defined.pay.options(id="unwanted", delay="1h").bind(1))
            proxy.lose(script(call, guarded=False).sha)
            with pytest.raises(EngineUnavailable):
                app.cancel(["unwanted"])
            assert not app.cancel(["unwanted"])[0].applied
            assert fleet.info("unwanted").state == "cancelled"


def provoke(fleet: Fleet, proxy: Proxy, call: str) -> None:
    """Lose the answer of a call that the workers make, and see to it that they make it."""
    proxy.lose(script(call, guarded=False).sha)
    match call:
        case "bury":
            fleet.until(fleet.running_on, "a job to run")
            fleet.kill_worker(next(iter(fleet.worker_pids())))
        case "depart":
            fleet.until(fleet.running_on, "a job to run")
            (tree,) = fleet.processes
            tree.send_signal(signal.SIGTERM)
            assert tree.ended() == 0
            fleet.start_ready(processes=1, threads=4)
        case "settle":  # at the end of a worker, when it claims no more
            fleet.until(fleet.running_on, "a job to run")
            (tree,) = fleet.processes
            tree.send_signal(signal.SIGTERM)
            assert tree.ended() == 0
            fleet.start_ready(processes=1, threads=4)
        case "note":
            fleet.enqueue("narrate", 300)
        case _:
            pass
    fleet.until(lambda: proxy.lost, f"the answer of {call} to be lost")


def test_a_slow_network_expires_no_lease(fleet: Fleet, proxy: Proxy, figure: Callable[[str, object], None]) -> None:
    # A new connection costs five round trips here, 2 s: a lease must be longer than that.
    lease = round(stretched(5))
    slow = {"WINDLASS_NETWORK_TIMEOUT": f"{lease}s", "WINDLASS_LEASE": f"{lease}s", "WINDLASS_RENEW": "1s"}
    fleet.start_ready(processes=1, threads=4, **through(proxy), **slow)
    proxy.delay = 0.2  # each way
    fleet.enqueue("pay", lease * 1_100)  # longer than a lease
    fleet.enqueue("pay", 20, times=8)
    fleet.drain()
    verdict = check(fleet)
    recovered = fleet.app.stats()["total_recovered"]
    figure("F18", f"400 ms a round trip: {verdict}; false expiries {recovered}")
    verdict.assert_safe()
    assert recovered == 0
    assert verdict.duplicated == 0
