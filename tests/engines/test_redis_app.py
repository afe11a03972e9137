"""An application on Redis: made with a client of the user's, and told of a rollback by its worker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import redis.asyncio
from redis import Redis
from redis.exceptions import ResponseError

import windlass.engines.redis
from kit.waiting import PATIENCE, until
from servers import GUIDE, RedisServer, of_the_guide
from windlass import State, Windlass
from windlass.errors import ConfigError, EngineError, EngineUnavailable
from windlass.events import StoreRolledBack
from windlass.worker.worker import Worker


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with closing(RedisServer()) as made:
        yield made


@pytest.fixture
def client(server: RedisServer) -> Iterator[Redis]:
    with server.client() as made:
        made.flushall()
        yield made


def double(n: int) -> int:
    return 2 * n


def test_a_client_of_the_users_stands_in_place_of_a_url(client: Redis, server: RedisServer) -> None:
    with Windlass(client=client) as app, Windlass(server.url) as other:
        job = app.job(name="double")(double)
        assert not app.has_url
        assert "client=" in app.loaded.origin["url"]
        assert app.engine.info.target == f"redis://localhost:{server.port}/0"
        handle = job.enqueue(21)
        found = other.get(handle.id)
        assert found is not None
        assert found.state is State.READY
        app.close()
        assert app.stats()["ready"] == 1  # a later use opens it again
    assert client.ping()  # theirs is left alone


def test_a_client_beside_a_url_is_refused(client: Redis) -> None:
    with pytest.raises(ConfigError, match="leave one of them out"):
        Windlass("sqlite:///jobs.db", client=client)


@pytest.mark.parametrize(
    "wrong", [redis.asyncio.Redis(), "redis://localhost", object()], ids=["async", "url", "object"]
)
def test_what_is_no_client_is_refused_where_it_is_written(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"it takes a redis\.Redis or a redis\.RedisCluster"):
        Windlass(client=wrong)


def test_a_worker_with_processes_of_its_own_asks_for_a_url(server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        f"from redis import Redis\nfrom windlass import Windlass\napp = Windlass(client=Redis(port={server.port}))\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WINDLASS_")}
    done = subprocess.run(
        [sys.executable, "-m", "windlass", "-A", "mine:app", "worker"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "has client= for its store" in done.stderr
    assert "WINDLASS_URL" in done.stderr


def test_the_user_of_the_guide_can_do_what_a_worker_does(server: RedisServer, client: Redis) -> None:
    with Windlass(of_the_guide(server), reap="100ms", threads=1) as app:
        job = app.job(name="double")(double)
        worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)
        worker.start()
        try:
            assert job.enqueue(2).result(timeout=PATIENCE) == 4
            late = job.options(delay="1h").enqueue(3)
            app.queue("default").pause("why")
            app.queue("default").resume()
            assert app.cancel([late.id])[0].applied
            assert app.workers()
            assert app.jobs()
            with app.lock("one", wait="1s") as lock:
                lock.check()
            findings = {finding.check: finding for finding in app.engine.doctor(repair=True)}
            assert {finding.level for finding in findings.values()} <= {"ok", "warning"}
            assert findings["eviction"].level == "ok"  # seen without CONFIG
            assert "no append-only file" in findings["persistence"].message
        finally:
            worker.stop()
            worker.shut_down()


@pytest.mark.parametrize(
    "command",
    [
        "CONFIG GET requirepass", "CONFIG GET *", "CONFIG GET appendfsync", "CONFIG SET maxmemory 1", "KEYS *",
        "SCAN 0", "FLUSHALL", "FLUSHDB", "ACL LIST", "ACL WHOAMI", "DEBUG SLEEP 0", "SCRIPT FLUSH", "SCRIPT KILL",
        "SCRIPT LOAD x", "FUNCTION LIST", "CLIENT LIST", "CLIENT KILL TYPE normal", "SHUTDOWN", "MONITOR", "SAVE",
        "REPLICAOF NO ONE", "MODULE LIST", "SLOWLOG GET", "SWAPDB 0 1", "RENAME other:a other:b",
        "SET other 1", "GET other", "HGET other 1", "HSET other 1 1", "ZADD other 1 1", "PUBLISH other 1",
        "SUBSCRIBE other", "DEL other", "EXISTS other", "GETDEL {windlass}:meta",
        "EVAL return(redis.call('config','get','requirepass')) 0",
        "EVAL return(redis.call('hget','other','x')) 0", "COMMAND", "CLUSTER NODES", "LATENCY DOCTOR", "MEMORY DOCTOR",
    ],
)  # fmt: skip
def test_the_user_of_the_guide_can_do_no_more(server: RedisServer, client: Redis, command: str) -> None:
    user = urlsplit(of_the_guide(server))
    with (
        closing(Redis(port=server.port, username=user.username, password=user.password)) as small,
        pytest.raises(ResponseError, match=r"(?i)permission|user executing the script can't|not allowed"),
    ):
        small.execute_command(*command.split())


def test_no_right_of_the_guide_is_one_too_many() -> None:
    """Every command that it allows stands in the scripts or in the engine, or is the driver's."""
    (rule, _) = re.findall(r"^ACL SETUSER .*$", GUIDE.read_text("utf-8"), re.MULTILINE)
    allowed = {word[1:] for word in rule.split() if word.startswith("+")}
    folder = Path(windlass.engines.redis.__file__).parent
    code = "".join(file.read_text("utf-8") for file in folder.rglob("*") if file.suffix in (".lua", ".py"))
    named = {word.lower() for word in re.findall(r"""["']([A-Za-z]+)["']""", code)}
    of_the_driver = {"ping", "select", "client|setname", "info", "subscribe", "unsubscribe"}
    assert allowed - named - of_the_driver == set()


def test_a_rollback_is_an_event_of_the_worker_and_shows_in_anybodys_doctor() -> None:
    with (
        closing(RedisServer()) as server,
        Windlass(server.url, reap="100ms", renew="100ms", lease="5s", threads=1) as app,
    ):
        job = app.job(name="double")(double)
        events: list[StoreRolledBack] = []
        app.on(StoreRolledBack)(events.append)
        worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares)
        worker.start()
        try:
            assert job.enqueue(2).result(timeout=PATIENCE) == 4
            with server.client() as client:
                client.flushall()
            until(lambda: events, "no event tells of the rollback")
        finally:
            worker.stop()
            worker.shut_down()
        assert events[0].worker == worker.info.id
        assert "rollback" in events[0].what
        assert len({event.what for event in events}) == len(events)
        with Windlass(server.url) as other:
            found = [finding for finding in other.engine.doctor() if finding.check == "rollback"]
        assert [finding.level for finding in found] == ["error"]
        assert "UTC" in found[0].message


def test_a_unix_socket_serves_as_a_store_by_url_and_by_client(tmp_path: Path) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    socket, password = folder / "redis.sock", "s/e?c#r@t"
    with closing(RedisServer("--unixsocket", str(socket), "--requirepass", password, password=password)):
        at = f"{quote(str(socket))}?db=1"
        ids = []
        for scheme in ("redis+unix", "unix"):
            with Windlass(f"{scheme}://:{quote(password, safe='')}@{at}", reap="100ms") as app:
                double = app.job(name="double")(lambda n: 2 * n)
                ids.append(double.enqueue(4).id)
                assert [app.get(one) is not None for one in ids] == [True] * len(ids)
                assert password not in app.engine.info.target
        with (
            closing(redis.Redis(unix_socket_path=str(socket), db=1, password=password)) as client,
            Windlass(client=client) as app,
        ):
            assert app.stats()["ready"] == 2
            assert str(socket) in app.engine.info.target


def test_a_socket_that_is_not_there_is_an_engine_that_is_away(tmp_path: Path) -> None:
    with Windlass(f"unix://{tmp_path}/none.sock") as app, pytest.raises(EngineUnavailable, match=r"none\.sock"):
        app.stats()
    with Windlass("rediss://127.0.0.1:1/0?ssl_ca_certs=/no/such.pem") as app, pytest.raises(EngineError):
        app.stats()
