"""What the Redis engine does when server or network fail: restarts, damage, a full server, failover, lost answers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from threading import Event, Thread

import pytest
from redis.exceptions import RedisError

from kit.waiting import until
from proxy import Proxy
from servers import RedisServer, Replicated, caught_up
from windlass.core.clock import ManualClock
from windlass.core.model import State, Swap, Write
from windlass.core.rows import Action, JobFilter
from windlass.core.work import Buried, Kind, LeaseRef, Note, Outcome, Rules, Settled, Want
from windlass.engines.redis import RedisEngine
from windlass.engines.redis.scripts import script
from windlass.errors import EngineError, EngineFull, EngineUnavailable, EngineUnusable
from windlass.testing.conformance.harness import (
    add,
    ended,
    error,
    info,
    job,
    join,
    place,
    row_of,
    state_of,
    take,
    upkeep,
)

SHORT_MS = 1_000  # network timeout of tests that wait for it; a server beside other work may take 300 ms


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with closing(RedisServer("--enable-debug-command", "yes")) as made:
        yield made


@pytest.fixture
def proxied(server: RedisServer) -> Iterator[tuple[Proxy, RedisEngine]]:
    with closing(Proxy(server.port)) as proxy, closing(RedisEngine(proxy.url, network_timeout_ms=SHORT_MS)) as engine:
        engine.open()
        yield proxy, engine


def again(call: Callable[[], object]) -> Callable[[], bool]:
    """A condition: the call goes through now."""

    def works() -> bool:
        try:
            call()
        except EngineUnavailable:
            return False
        return True

    return works


def test_a_restart_with_a_synced_append_only_file_loses_no_job() -> None:
    with (
        closing(RedisServer("--appendonly", "yes", "--appendfsync", "always")) as server,
        closing(RedisEngine(server.url)) as engine,
    ):
        join(engine)
        add(engine, *[f"j{n}" for n in range(200)])
        leases = take(engine, limit=50)
        engine.settle([ended(lease) for lease in leases[:20]])
        server.stop(signal.SIGKILL)
        with pytest.raises(EngineUnavailable, match="start it"):
            add(engine, "lost")
        server.start()
        until(again(engine.counts), "the engine does not come back")
        counts = engine.counts()
        assert (counts["ready"], counts["running"], counts["done"]) == (150, 30, 20)
        assert engine.settle([ended(lease) for lease in leases[20:]]) == [Settled.APPLIED] * 30
        assert engine.alarms == []
        assert {finding.level for finding in engine.doctor()} <= {"ok", "warning"}


def test_a_restart_without_persistence_is_warned_of_noticed_and_survived(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(RedisEngine(server.url)) as engine:
        engine.open()
        assert "keeps nothing on disk" in caplog.text
        join(engine)
        add(engine, "a")
        lease = take(engine)[0]
        server.stop(signal.SIGKILL)
        server.start()
        until(again(engine.counts), "the engine does not come back")
        assert engine.settle([ended(lease)]) == [Settled.STALE]
        assert len(engine.alarms) == 1
        assert "rollback" in engine.alarms[0]
        add(engine, "b")
        join(engine)
        (new,) = take(engine)
        assert new.fence > lease.fence
        assert any(finding.check == "rollback" for finding in engine.doctor())


def test_a_log_cut_in_the_middle_is_put_right_by_the_doctor() -> None:
    with closing(RedisServer("--appendonly", "yes", "--aof-use-rdb-preamble", "no")) as server:
        with closing(RedisEngine(server.url)) as engine:
            join(engine)
            add(engine, *[f"j{n}" for n in range(300)])
            engine.settle([ended(lease) for lease in take(engine, limit=100)])
        server.stop(signal.SIGKILL)
        (log,) = server.folder.glob("appendonlydir/*.incr.aof")
        with log.open("r+b") as file:
            file.truncate(log.stat().st_size - 777)
        server.start("--aof-load-truncated", "yes")
        with closing(RedisEngine(server.url)) as engine:
            engine.doctor(repair=True)
            assert {finding.level for finding in engine.doctor() if finding.check == "orphans"} == {"ok"}
            listed = 0
            rows, cursor = engine.jobs(JobFilter(), None, 100)
            listed += len(rows)
            while cursor is not None:
                rows, cursor = engine.jobs(JobFilter(), cursor, 100)
                listed += len(rows)
            counts = engine.counts()
            assert listed == sum(counts[state.value] for state in State)


@pytest.mark.parametrize(
    ("index", "state"),
    [("ready:default", State.READY), ("running", State.READY), ("dead", State.DEAD), ("arrivals", State.READY)],
)
def test_a_lost_index_is_made_anew_from_the_jobs(server: RedisServer, index: str, state: State) -> None:
    with closing(RedisEngine(server.url)) as engine, server.client() as client:
        join(engine)
        add(engine, "a")
        if index in ("running", "dead"):
            (lease,) = take(engine)
            if index == "dead":
                engine.settle([ended(lease, Kind.DEAD)])
        client.delete(f"{{windlass}}:{index}")
        before = [finding for finding in engine.doctor() if finding.level == "error"]
        assert [(finding.check, "repair" in finding.advice) for finding in before] == [("orphans", True)]
        engine.doctor(repair=True)
        assert [finding for finding in engine.doctor() if finding.level == "error"] == []
        assert state_of(engine, "a") is state
        assert [row.id for row in engine.jobs(JobFilter(), None, 10)[0]] == ["a"]


def test_entries_of_jobs_that_are_gone_are_found_and_taken_out(server: RedisServer) -> None:
    with closing(RedisEngine(server.url)) as engine, server.client() as client:
        join(engine)
        add(engine, "a", "b", "c")
        take(engine, limit=1)
        client.delete("{windlass}:body")
        told = [finding.message for finding in engine.doctor() if finding.check in ("records", "orphans")]
        assert any("damaged" in message or "without a job" in message for message in told)
        engine.doctor(repair=True)
        assert {finding.level for finding in engine.doctor() if finding.check == "orphans"} == {"ok"}
        assert engine.counts()["ready"] == engine.counts()["running"] == 0
        assert take(engine) == []


def test_a_claim_passes_over_an_entry_without_a_job(server: RedisServer) -> None:
    with closing(RedisEngine(server.url)) as engine, server.client() as client:
        join(engine)
        add(engine, "a", "b")
        client.hdel("{windlass}:body", "a")
        assert [lease.id for lease in take(engine)] == ["b"]


def test_a_full_server_refuses_jobs_whole_while_claims_and_settles_go_on(server: RedisServer) -> None:
    with closing(RedisEngine(server.url)) as engine, server.client() as client:
        join(engine)
        big = "[" + '"x",' * 20_000 + "1]"
        add(engine, *[f"small{n}" for n in range(200)])
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 1_000_000)
        stored = 0
        with pytest.raises(EngineFull, match="raise maxmemory"):
            for n in count():
                place(engine, [job(f"big{n}-{k}", payload=big) for k in range(3)])
                stored += 3
        for jobs in ((), (job("beside"),)):
            with pytest.raises(EngineFull):
                engine.commit(Write(jobs, (Swap("x", 0, "1"), Swap("y", 0, 8 * big))))
        assert engine.keys("") == []
        counts = engine.counts()
        assert counts["ready"] == counts["total_enqueued"] == 200 + stored
        done = 0
        leases = take(engine, limit=50)
        while leases:
            done += len(leases)
            join(engine)
            engine.note([Note(leases[0].id, leases[0].fence, key, "[1]") for key in ("progress", "step:x")])
            first = leases[0]
            then = () if first.id.startswith("next") else (job(f"next-{first.id}"),)
            outcomes = [ended(first, then=then), *map(ended, leases[1:])]
            settled, claimed = engine.exchange(outcomes, Want(worker="w1", limit=50))
            assert set(settled) == {Settled.APPLIED}
            leases = claimed.leases
        assert done > 200 + stored
        assert engine.counts()["done"] == done
        upkeep(engine, Rules(keep_done_max=0))
        assert {finding.level for finding in engine.doctor() if finding.check == "orphans"} == {"ok"}


@pytest.mark.parametrize("maxmemory", [0, 100_000_000])
def test_a_server_that_may_evict_is_refused_or_warned_about(
    server: RedisServer, maxmemory: int, caplog: pytest.LogCaptureFixture
) -> None:
    with server.client() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", maxmemory)
    with closing(RedisEngine(server.url)) as engine:
        if maxmemory:
            with pytest.raises(EngineUnusable, match="CONFIG SET maxmemory-policy noeviction"):
                engine.open()
        else:
            engine.open()
            assert "CONFIG SET maxmemory-policy noeviction" in caplog.text
            assert any(finding.check == "eviction" for finding in engine.doctor() if finding.level == "warning")


def test_no_call_minds_that_the_server_forgets_its_scripts(server: RedisServer) -> None:
    with closing(RedisEngine(server.url)) as engine, server.client() as client:
        for n in range(30):
            client.script_flush()
            join(engine)
            client.script_flush()
            add(engine, f"a{n}", f"b{n}")
            client.script_flush()
            leases = take(engine)
            client.script_flush()
            settled, _ = engine.exchange([ended(lease) for lease in leases], Want(worker="w1", limit=1))
            assert settled == [Settled.APPLIED] * 2
            client.script_flush()
            engine.wake()
            upkeep(engine)
        assert engine.counts()["done"] == 60
        engine.wait(["default"], 0.01)  # takes what is left of the last wake, which would end the listening at once
        add(engine, "late")
        client.script_flush()
        claimed = engine.listen(["default"], 30, Want(worker="w1", limit=1))
        assert claimed is not None
        assert [lease.id for lease in claimed.leases] == ["late"]


def test_a_failover_to_an_old_replica_is_noticed_and_repeats_no_fence(server: RedisServer) -> None:
    with (
        closing(RedisServer("--replicaof", "127.0.0.1", str(server.port))) as replica,
        closing(Proxy(server.port)) as proxy,
        closing(RedisEngine(proxy.url)) as engine,
        server.client() as one,
        replica.client() as other,
    ):
        until(lambda: other.info("replication")["master_link_status"] == "up", "the replica does not follow")
        join(engine)
        add(engine, *[f"kept{n}" for n in range(10)])
        fences = [lease.fence for lease in take(engine, limit=5)]
        caught_up(one, other)
        other.replicaof("NO", "ONE")  # from here on it misses every write
        add(engine, *[f"lost{n}" for n in range(10)])
        leases = take(engine, limit=10)
        fences += [lease.fence for lease in leases]
        server.stop(signal.SIGKILL)
        proxy.point(replica.port)
        until(again(lambda: engine.settle([ended(leases[0])])), "the engine does not come back")
        assert any("fell below" in alarm for alarm in engine.alarms)
        join(engine)
        fences += [lease.fence for lease in take(engine, limit=100)]
        assert len(set(fences)) == len(fences)
        assert max(fences[:15]) < min(fences[15:])


def test_a_failover_that_sentinel_leads_is_followed() -> None:
    with closing(Replicated()) as servers, closing(RedisEngine(servers.url, network_timeout_ms=1_000)) as engine:
        join(engine)
        add(engine, "a")
        with servers.master.client() as master, servers.replica.client() as replica:
            caught_up(master, replica)
        until(lambda: told(servers.sentinel, "SENTINEL", "FAILOVER", "mymaster"), "sentinel leads no failover")
        # The old master ends its clients when it steps down.
        until(lambda: told(servers.master, "ROLE")[:1] == [b"slave"], "the master stays master")
        until(again(lambda: join(engine)), "the engine does not follow")
        assert [lease.id for lease in take(engine)] == ["a"]


def told(server: RedisServer, *command: str) -> list[object]:
    """What a server answers, as a list; an empty one for an error."""
    with server.client() as client:
        try:
            answer = client.execute_command(*command)
        except RedisError:
            return []
    return list(answer) if isinstance(answer, list | tuple) else [answer]


def test_a_vanished_worker_record_is_a_rollback_and_a_reaped_worker_is_none(server: RedisServer) -> None:
    clock = ManualClock()
    with closing(RedisEngine(server.url, clock=clock)) as engine, server.client() as client:
        join(engine)
        clock.advance(60_000)
        upkeep(engine)
        join(engine)
        assert engine.alarms == []
        client.delete("{windlass}:leases")
        join(engine)
        assert any("w1" in alarm for alarm in engine.alarms)


def test_dropped_connections_cost_one_call_each_and_double_nothing(proxied: tuple[Proxy, RedisEngine]) -> None:
    proxy, engine = proxied
    for n in range(20):
        proxy.drop()
        until(again(lambda n=n: add(engine, f"a{n}", f"b{n}")), "enqueue does not come back")
    counts = engine.counts()
    assert counts["ready"] == counts["total_enqueued"] == 40


def test_a_silent_network_ends_every_call_and_a_wait_in_time(proxied: tuple[Proxy, RedisEngine]) -> None:
    proxy, engine = proxied
    join(engine)
    with proxy.silence():
        for call in (lambda: add(engine, "a"), lambda: take(engine), lambda: join(engine), engine.counts):
            with pytest.raises(EngineUnavailable, match="network_timeout"):
                call()
    until(again(lambda: add(engine, "b")), "the engine does not come back")
    assert state_of(engine, "b") is State.READY


def test_a_wait_ends_when_its_connection_is_cut(proxied: tuple[Proxy, RedisEngine]) -> None:
    proxy, engine = proxied
    over = Event()

    def body() -> None:
        with pytest.raises(EngineError):
            engine.wait(["default"], 60)
        over.set()

    Thread(target=body, daemon=True).start()

    def cut() -> bool:
        proxy.drop()
        return over.is_set()

    until(cut, "the wait did not end")


def test_slow_answers_are_no_errors(proxied: tuple[Proxy, RedisEngine]) -> None:
    proxy, engine = proxied
    join(engine)
    for id, delay in (("a", 0.0), ("b", 0.05)):  # the first calls send the texts of scripts, in many parts
        add(engine, id)
        proxy.delay = delay
        (lease,) = take(engine)
        assert engine.extend(info("w1"), [LeaseRef(lease.id, lease.fence)], 30_000).lost == ()
        assert engine.settle([ended(lease)]) == [Settled.APPLIED]


class TestLostAnswers:
    """The server did what was asked, and the answer never came: the same call again does no harm."""

    @pytest.fixture
    def lose(self, proxied: tuple[Proxy, RedisEngine]) -> Callable[[str, Callable[[], object]], None]:
        proxy, engine = proxied
        join(engine)
        # Each call may be the first of its script on this server, so its text must be known there.
        for name in NAMES:
            engine._asked(
                lambda name=name: engine._client().execute_command("SCRIPT", "LOAD", script(name, guarded=False).text)
            )

        def lose(name: str, call: Callable[[], object]) -> None:
            engine.counts()  # else a first call may only learn of the queues
            proxy.lose(script(name, guarded=False).sha)
            with pytest.raises(EngineUnavailable):
                call()
            assert proxy.lost == 1

        return lose

    @pytest.fixture
    def engine(self, proxied: tuple[Proxy, RedisEngine]) -> RedisEngine:
        return proxied[1]

    def test_enqueue(self, engine: RedisEngine, lose: Callable[..., None]) -> None:
        lose("enqueue", lambda: add(engine, "a", "b"))
        assert [placed.duplicate for placed in place(engine, [job("a"), job("b")])] == [True, True]
        assert engine.counts()["ready"] == engine.counts()["total_enqueued"] == 2

    def test_commit_of_documents_and_jobs(self, engine: RedisEngine, lose: Callable[..., None]) -> None:
        write = Write((job("a"),), (Swap("x", 0, "1"),))
        lose("commit", lambda: engine.commit(write))
        again = engine.commit(write)
        assert (again.placed, again.lost, [one.value for one in again.documents]) == ([], True, ["1"])
        assert engine.counts()["ready"] == engine.counts()["total_enqueued"] == 1

    def test_commit_of_documents(self, engine: RedisEngine, lose: Callable[..., None]) -> None:
        write = Write(swaps=(Swap("x", 0, "1"),))
        lose("swap", lambda: engine.commit(write))
        assert engine.commit(write).documents == tuple(engine.read(["x"]))

    def test_claim(self, engine: RedisEngine, lose: Callable[..., None]) -> None:
        add(engine, "a")
        lose("claim", lambda: take(engine))
        assert take(engine) == []
        (stray,) = engine.extend(info("w1"), (), 30_000).strays
        assert engine.settle([Outcome(stray.id, stray.fence, Kind.RELEASE)]) == [Settled.APPLIED]
        (lease,) = take(engine)
        assert (lease.id, lease.attempt, lease.fence > stray.fence) == ("a", 1, True)

    def test_settle(self, engine: RedisEngine, lose: Callable[..., None]) -> None:
        add(engine, "a")
        (lease,) = take(engine)
        outcome = ended(lease, result="1", then=(job("b"),))
        lose("settle", lambda: engine.settle([outcome]))
        assert engine.settle([outcome]) == [Settled.STALE]
        assert (row_of(engine, "a").result, engine.counts()["total_done"]) == (b"1", 1)
        assert state_of(engine, "b") is State.READY

    def test_exchange(self, engine: RedisEngine, lose: Callable[..., None]) -> None:
        add(engine, "a", "b")
        (lease,) = take(engine, limit=1)
        lose("exchange", lambda: engine.exchange([ended(lease)], Want(worker="w1", limit=1)))
        settled, claimed = engine.exchange([ended(lease)], Want(worker="w1", limit=1))
        assert (settled, claimed.leases) == ([Settled.STALE], [])
        assert [stray.id for stray in engine.extend(info("w1"), (), 30_000).strays] == ["b"]

    def test_note(self, engine: RedisEngine, lose: Callable[..., None]) -> None:
        add(engine, "a")
        (lease,) = take(engine)
        notes = [Note("a", lease.fence, "x", "1"), Note("a", lease.fence, "y")]
        lose("note", lambda: engine.note(notes))
        assert engine.note(notes) == [Settled.APPLIED] * 2
        assert row_of(engine, "a").notes == (("x", "1"),)

    def test_extend(self, engine: RedisEngine, lose: Callable[..., None]) -> None:
        lose("extend", lambda: join(engine))
        join(engine)
        assert len(engine.workers()) == 1

    def test_depart(self, engine: RedisEngine, lose: Callable[..., None]) -> None:
        add(engine, "a")
        take(engine)
        lose("depart", lambda: engine.depart("w1"))
        assert engine.depart("w1") == Buried()
        assert row_of(engine, "a").interruptions == 1

    def test_bury(self, engine: RedisEngine, lose: Callable[..., None]) -> None:
        add(engine, "a")
        (lease,) = take(engine)
        lose("bury", lambda: engine.bury("w1", [lease.fence], error(), Rules()))
        engine.bury("w1", [lease.fence], error(), Rules())
        assert row_of(engine, "a").crashes == 1

    def test_maintain(self, engine: RedisEngine, lose: Callable[..., None]) -> None:
        add(engine, "a")
        take(engine)
        engine.extend(info("w1"), (), -1)
        lose("maintain", lambda: engine.maintain(Rules(), 100))
        assert engine.maintain(Rules(), 100).released == ()
        assert row_of(engine, "a").interruptions == 1

    def test_transition(self, engine: RedisEngine, lose: Callable[..., None]) -> None:
        add(engine, "a")
        lose("transition", lambda: engine.transition(Action.CANCEL, ["a"]))
        (moved,) = engine.transition(Action.CANCEL, ["a"])
        assert (moved.before, moved.applied, engine.counts()["total_cancelled"]) == (State.CANCELLED, False, 1)

    def test_a_question_is_asked_again_by_the_engine(self, lose: object, proxied: tuple[Proxy, RedisEngine]) -> None:
        proxy, engine = proxied
        add(engine, "a")
        proxy.lose(script("rows").sha)
        assert state_of(engine, "a") is State.READY
        assert proxy.lost == 1


NAMES = (
    "enqueue",
    "commit",
    "swap",
    "claim",
    "settle",
    "exchange",
    "note",
    "extend",
    "depart",
    "bury",
    "maintain",
    "transition",
    "rows",
)
