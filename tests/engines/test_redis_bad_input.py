"""What the Redis engine refuses, and how it says so: URLs, clients, servers, keys, passwords, options, cursors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event, Timer

import pytest
import redis
import redis.asyncio

from kit.waiting import until
from proxy import Proxy
from servers import RedisServer, of_the_guide, plain
from windlass.core.clock import ManualClock
from windlass.core.model import NewJob, State
from windlass.core.rows import Action, JobFilter
from windlass.core.work import Kind, Rules, Settled
from windlass.engines.redis import RedisEngine
from windlass.engines.redis.startup import CAPABILITIES, Server
from windlass.engines.url import connect
from windlass.errors import ConfigError, EngineError, EngineUnavailable, EngineUnusable
from windlass.settings import Settings
from windlass.testing.conformance.harness import add, ended, history, job, join, place, resume, row_of, state_of, take

SECRET = "s3cr3t-pass"
SRC = Path(__file__).parents[2] / "src"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


@pytest.fixture
def engine(server: RedisServer) -> Iterator[RedisEngine]:
    with server.client() as client:
        client.flushall()
    with closing(RedisEngine(server.url)) as made:
        yield made


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis+clutser://h:1", "did you mean 'redis\\+cluster'"),
        ("redis://localhost:port/0", "localhost:port"),
        ("redis://localhost/0?tiemout=3", "tiemout"),
        ("redis+sentinel://h1:26379,h2:26379", "mymaster"),
        ("redis+sentinel://h1:x/mymaster", "is not host:port"),
        ("redis+sentinel://h1/mymaster/one", "mymaster/0"),
        ("redis+sentinel://h1/mymaster?sssl=true", "did you mean 'ssl'"),
    ],
)
def test_a_wrong_url_is_refused_where_it_is_written(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        RedisEngine(url)


def test_a_cluster_url_with_a_database_is_refused() -> None:
    with pytest.raises(ConfigError, match="no databases"):
        RedisEngine("redis+cluster://127.0.0.1:1/3").open()


def test_neither_or_both_of_url_and_client_are_refused(server: RedisServer) -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        RedisEngine()
    with server.client() as client, pytest.raises(ConfigError, match="exactly one"):
        RedisEngine(server.url, client=client)


def test_a_client_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="asyncio"):
        RedisEngine(client=redis.asyncio.Redis())  # type: ignore[arg-type]


def test_a_client_of_the_user_says_where_and_our_settings_say_how(server: RedisServer) -> None:
    with redis.Redis(port=server.port, decode_responses=True, protocol=3, client_name="mine") as client:
        with closing(RedisEngine(client=client, namespace="theirs")) as engine:
            join(engine)
            add(engine, "a")
            assert [lease.payload for lease in take(engine)] == [b"[]"]
            assert str(server.port) in engine.info.target
            names = {str(one["name"]) for one in client.client_list()}
            assert {"mine", "windlass"} <= names
        assert client.ping()


def test_settings_choose_the_engine_by_its_url(server: RedisServer) -> None:
    store = connect(Settings(url=server.url, namespace="chosen"))
    with closing(store):
        add(store, "a")
        assert (store.info.name, state_of(store, "a")) == ("redis", State.READY)


def test_settings_with_a_redis_url_load_no_driver_before_it_is_named() -> None:
    code = "import sys, windlass, windlass.engines.url; assert 'redis' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(SRC)})


def test_namespaces_on_one_server_do_not_meet(server: RedisServer) -> None:
    with (
        closing(RedisEngine(server.url, namespace="n1")) as one,
        closing(RedisEngine(server.url, namespace="n2")) as two,
    ):
        add(one, "a")
        assert (state_of(one, "a"), state_of(two, "a")) == (State.READY, None)


def test_no_server_is_unavailable_and_says_so() -> None:
    server = RedisServer()
    server.close()
    with pytest.raises(EngineUnavailable, match="start it, or correct the URL"):
        RedisEngine(server.url).open()


@pytest.mark.parametrize("password", [None, "wrong-one"])
def test_a_wrong_or_missing_password_is_unusable_and_never_shown(password: str | None) -> None:
    with closing(RedisServer("--requirepass", SECRET, password=SECRET)) as server:
        who = "" if password is None else f":{password}@"
        with pytest.raises(EngineUnusable, match="password") as caught:
            RedisEngine(f"redis://{who}127.0.0.1:{server.port}/0").open()
        assert "wrong-one" not in str(caught.value)
        with closing(RedisEngine(f"redis://:{SECRET}@127.0.0.1:{server.port}/0")) as engine:
            engine.open()
            told = [engine.info.target, *(finding.message for finding in engine.doctor()), engine.target]
            assert not [text for text in told if SECRET in text]


def test_a_user_that_may_not_do_enough_is_unusable(server: RedisServer) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "small", "on", ">pw", "~*", "&*", "+info", "+ping", "+client")
    with pytest.raises(EngineUnusable, match="does not allow this user"):
        RedisEngine(f"redis://small:pw@127.0.0.1:{server.port}/0").open()


def test_a_user_that_lacks_a_right_of_a_script_is_told_of_the_guide(server: RedisServer) -> None:
    url = of_the_guide(server)
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "jobs", "-zadd")
    with closing(RedisEngine(url)) as engine, pytest.raises(EngineUnusable, match="give it the rights of the guide"):
        add(engine, "a")


def test_tls_to_a_server_without_it_is_unusable(server: RedisServer) -> None:
    with pytest.raises(EngineUnusable, match="TLS"):
        RedisEngine(server.url.replace("redis://", "rediss://"), network_timeout_ms=300).open()


def test_a_read_only_replica_is_unusable(server: RedisServer) -> None:
    with (
        closing(RedisServer("--replicaof", "127.0.0.1", str(server.port))) as replica,
        pytest.raises(EngineUnusable, match="read-only replica"),
    ):
        RedisEngine(replica.url).open()


def test_a_master_that_became_a_replica_is_unavailable(server: RedisServer) -> None:
    with closing(RedisServer()) as other, closing(RedisEngine(other.url)) as engine, other.client() as client:
        add(engine, "a")
        client.replicaof("127.0.0.1", str(server.port))
        with pytest.raises(EngineUnavailable, match="replica"):
            add(engine, "b")


def test_a_node_of_a_cluster_is_unusable_by_a_plain_url() -> None:
    with closing(RedisServer("--cluster-enabled", "yes")) as node, pytest.raises(EngineError, match="cluster"):
        RedisEngine(node.url).open()


def test_a_database_that_is_not_there_is_unusable(server: RedisServer) -> None:
    with pytest.raises(EngineUnusable, match="no such database"):
        RedisEngine(server.url.replace("/0", "/99")).open()


@pytest.mark.parametrize("key", ["body", "queues", "arrivals", "ready:default"])
def test_a_key_of_another_type_is_unusable_at_open(engine: RedisEngine, server: RedisServer, key: str) -> None:
    with server.client() as client:
        client.hset("{windlass}:queues", "default", "")
        client.delete(f"{{windlass}}:{key}")
        client.set(f"{{windlass}}:{key}", "1")
    with pytest.raises(EngineUnusable, match=f"key {{windlass}}:{key} is a string"):
        engine.open()


@pytest.mark.parametrize("key", ["body", "queues", "arrivals", "ready:default", "meta", "busy", "dues"])
@pytest.mark.parametrize("opens", [False, True])
def test_a_key_of_a_store_of_ours_that_changed_its_type_is_set_aside_and_what_it_held_is_put_back(
    engine: RedisEngine, server: RedisServer, key: str, opens: bool
) -> None:
    with server.client() as client, closing(RedisEngine(server.url)) as other:
        add(engine, "a")
        client.delete(f"{{windlass}}:{key}")
        client.set(f"{{windlass}}:{key}", "1")
        used = other if opens else engine
        add(used, "b")
        join(used)
        used.maintain(Rules(), 1_000)
        assert client.get(f"{{windlass}}:damaged:{key}") == b"1"
        rows = {row.id: (row.state, row.reason) for row in used.jobs(JobFilter(), None, 10)[0]}
        lost = (State.DEAD, "its record was damaged: its body is gone")
        assert rows == {"a": lost if key == "body" else (State.READY, None), "b": (State.READY, None)}
        assert {lease.id for lease in take(used)} == ({"b"} if key == "body" else {"a", "b"})


def test_a_newer_schema_is_unusable(engine: RedisEngine, server: RedisServer) -> None:
    with server.client() as client:
        client.hset("{windlass}:meta", "schema", 99)
    with pytest.raises(EngineUnusable, match=r"schema 99.*upgrade windlass"):
        engine.open()


@contextmanager
def hogged(server: RedisServer) -> Iterator[Callable[[], None]]:
    """A server that is busy with a script without end, and answers so, until what this gives is called."""
    with plain(server.port) as hog, server.client() as client:
        client.config_set("busy-reply-threshold", 50)
        connection = hog.connection_pool.get_connection()
        connection.send_command("EVAL", "while true do end", 0)
        killed = Event()

        def kill() -> None:
            if not killed.is_set():
                killed.set()
                client.script_kill()

        try:
            until(lambda: is_refused(client), "the server is never busy")
            yield kill
        finally:
            kill()
            connection.disconnect()


def is_refused(client: redis.Redis) -> bool:
    try:
        client.get("x")
    except redis.exceptions.ResponseError as error:
        return "BUSY" in str(error)
    return False


def test_a_server_that_is_busy_for_longer_than_a_call_may_take_is_unavailable(server: RedisServer) -> None:
    with server.client() as client, closing(RedisEngine(server.url, network_timeout_ms=300)) as engine:
        client.flushall()
        engine.open()
        with hogged(server):
            assert "busy with one script" in told(engine)


def test_a_call_waits_while_the_server_is_busy_with_one_script(engine: RedisEngine, server: RedisServer) -> None:
    engine.open()
    with hogged(server) as kill:
        killer = Timer(0.3, kill)
        killer.start()
        assert told(engine) == ""
        killer.join()
    assert engine.counts()["ready"] == 1


def told(engine: RedisEngine) -> str:
    """What the engine says of its trouble."""
    try:
        add(engine, "a")
    except EngineUnavailable as error:
        return str(error)
    return ""


def test_fsync_is_refused_where_the_server_cannot_promise_it(server: RedisServer) -> None:
    with server.client() as client:
        number = tuple(int(part) for part in str(client.info()["redis_version"]).split(".")[:2])
    engine = RedisEngine(server.url, durability="fsync")
    if number < CAPABILITIES["fsync"]:
        with pytest.raises(ConfigError, match=r"needs Redis 7\.2"):
            engine.open()
    else:
        with pytest.raises(EngineUnusable, match="CONFIG SET appendonly yes"):
            engine.open()


def test_a_job_that_asks_for_fsync_is_refused_where_it_cannot_be_had(engine: RedisEngine) -> None:
    with pytest.raises(ConfigError, match="job a"):
        place(engine, [NewJob(id="a", name="n", queue="default", payload="[]", durable=True)])
    assert engine.job("a") is None


def test_only_a_late_server_with_an_append_only_file_can_sync() -> None:
    assert not Server(number=(7, 0), persistence="aof-everysec").can_sync
    assert not Server(number=(7, 2), persistence="rdb").can_sync
    assert Server(number=(7, 2), persistence="aof-everysec").can_sync


def test_numbers_that_a_double_cannot_hold_are_refused(engine: RedisEngine) -> None:
    with pytest.raises(ConfigError, match="job a: priority"):
        place(engine, [job("b"), job("a", priority=2**60)])
    assert engine.counts()["ready"] == 0


def test_a_cursor_that_is_none_is_refused(engine: RedisEngine) -> None:
    with pytest.raises(ConfigError, match="not a page cursor"):
        engine.jobs(JobFilter(), "abc", 10)


def test_a_body_that_is_not_ours_harms_no_neighbour(engine: RedisEngine, server: RedisServer) -> None:
    join(engine)
    add(engine, "a", "bad", "b")
    with server.client() as client:
        body = client.hget("{windlass}:body", "bad")
        assert body is not None
        client.hset("{windlass}:body", "bad", body[:-20] + b"\xc1" * 8 + body[-12:])
    leases = {lease.id: lease for lease in take(engine)}
    assert (set(leases), leases["bad"].name) == ({"a", "bad", "b"}, "")


@pytest.mark.parametrize("body", [b"", b"junk", b"\x00" * 26, b"\xff" * 40])
def test_a_job_with_a_body_of_garbage_is_dead_with_its_bytes_and_its_neighbours_run(
    engine: RedisEngine, server: RedisServer, body: bytes
) -> None:
    join(engine)
    add(engine, "a", "bad", "b")
    with server.client() as client:
        client.hset("{windlass}:body", "bad", body)
    assert [lease.id for lease in take(engine)] == ["a", "b"]
    assert any(finding.check == "records" and "bad" in finding.message for finding in engine.doctor())
    engine.maintain(Rules(), 1_000)
    row = row_of(engine, "bad")
    assert (row.state, row.reason, row.payload) == (
        State.DEAD, "its record was damaged: its body is not readable", body,
    )  # fmt: skip
    assert history(row)[0].type == row.error_type == "windlass.errors.RecordDamaged"
    assert [row.id for row in engine.jobs(JobFilter(), None, 10)[0]] == ["b", "bad", "a"]
    assert [group.sample for group in engine.groups(JobFilter(), 10)] == ["bad"]
    assert all(finding.level == "ok" for finding in engine.doctor() if finding.check in ("records", "orphans"))


def test_thousands_of_jobs_in_one_call_are_stored_and_settled(engine: RedisEngine) -> None:
    join(engine)
    ids = [f"j{n}" for n in range(9_001)]
    add(engine, *ids)
    leases = take(engine, limit=20_000)
    assert [lease.id for lease in leases] == ids
    engine.depart("w1")
    assert engine.counts()["ready"] == 9_001


def test_leases_follow_the_clock_of_the_server(engine: RedisEngine) -> None:
    join(engine, lease_ms=100_000)
    (row,) = engine.workers()
    assert 0 < row.lease_left_ms <= 100_000
    add(engine, "a")
    (lease,) = take(engine)
    assert lease.fence > 1_600_000_000_000_000


def test_a_forked_child_opens_its_own_connections(engine: RedisEngine) -> None:
    add(engine, "a")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            add(engine, "b")
            os.write(writer, b"1" if engine.counts()["ready"] == 2 else b"0")
        finally:
            os._exit(0)
    os.close(writer)
    assert os.read(reader, 1) == b"1"
    os.waitpid(child, 0)
    os.close(reader)
    assert engine.counts()["ready"] == 2


def test_a_cancel_wakes_the_worker_that_runs_the_job(engine: RedisEngine, server: RedisServer) -> None:
    with closing(RedisEngine(server.url)) as other:
        join(engine)
        add(engine, "a")
        take(engine)
        while engine.wait(["default"], 0.01):
            pass
        other.transition(Action.CANCEL, ["a"])
        assert engine.wait(["default"], 30)


def test_wake_lists_and_inboxes_stay_short_when_nobody_listens(engine: RedisEngine, server: RedisServer) -> None:
    for n in range(50):
        add(engine, f"j{n}")
        resume(engine, "default")
    with server.client() as client:
        assert [client.llen(key) for key in client.keys("*wake*")] == [1] * 4  # two of the queue, two of all


def test_an_engine_that_knows_other_queues_than_the_store_learns_them(engine: RedisEngine, server: RedisServer) -> None:
    add(engine, "a", queue="one")
    assert engine.counts()["ready"] == 1
    with server.client() as client, closing(RedisEngine(server.url)) as other:
        client.flushall()
        add(other, "b", queue="two")  # as many queues as the engine knows, and not the same
        join(other)
        (lease,) = take(other)
        assert engine.settle([ended(lease, Kind.RELEASE)]) == [Settled.APPLIED]
    assert [row.name for row in engine.queues()] == ["two"]


def test_a_closed_engine_leaves_no_connection_and_opens_again(engine: RedisEngine, server: RedisServer) -> None:
    add(engine, "a")
    engine.wait(["default"], 0.01)
    engine.close()
    with server.client() as client:
        until(lambda: "windlass" not in {str(one["name"]) for one in client.client_list()}, "a connection stays open")
    assert state_of(engine, "a") is State.READY


def test_a_manual_clock_rules_every_time(server: RedisServer) -> None:
    clock = ManualClock(5_000)
    with closing(RedisEngine(server.url, namespace="manual", clock=clock)) as engine:
        add(engine, "a")
        row = engine.job("a")
        assert row is not None
        assert (row.enqueued_at, row.run_at) == (5_000, 5_000)


def test_every_script_says_what_it_takes_gives_and_costs() -> None:
    folder = SRC / "windlass" / "engines" / "redis" / "scripts"
    for path in folder.glob("*.lua"):
        text = path.read_text("utf-8")
        assert all(f"-- {word}" in text for word in ("KEYS", "ARGV", "Returns", "Cost")), path.name


def test_a_stopped_server_is_reported_in_time_and_masked() -> None:
    with closing(RedisServer()) as server, closing(Proxy(server.port)) as proxy:
        url = f"redis://:{SECRET}@127.0.0.1:{proxy.port}/0"
        engine = RedisEngine(url, network_timeout_ms=200)
        server.send(signal.SIGSTOP)
        with pytest.raises(EngineUnavailable) as caught:
            engine.open()
        assert SECRET not in str(caught.value)
