"""Clients of the driver: made from a URL or after a client of the user's, always with our own settings.

No retry below us: a call that is sent twice may happen twice, so whoever knows the call decides. Every wait has an
end. RESP2, since it is what every server and proxy speaks. One client serves calls; a second one, whose sockets may
stay silent for longer, serves those that block.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from hiredis import pack_command
from redis import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from windlass.core.errors import ConfigError, EngineUnavailable
from windlass.core.urls import parse_url
from windlass.engines.base import no_text
from windlass.settings import mask_url

__all__ = ["Client", "Command", "Spares", "hang_up", "make_client", "node_of", "send", "target_of"]

Client: TypeAlias = Redis | RedisCluster
Command: TypeAlias = str | bytes | int

CONNECTIONS_MAX: Final = 64  # of one engine object; a caller beyond that waits for pool_timeout
HEALTH_CHECK_S: Final = 25  # an idle connection is tried before use: load balancers drop idle ones after 30 s or more
SPARES_MAX: Final = 4  # few: a caller that waits for the pool is served from the pool alone
FRESH_S: Final = 0.05  # how long a connection that has just answered is trusted without a look at its socket


def common(timeout: float) -> dict[str, Any]:
    """The settings of every connection; ``timeout`` in seconds."""
    return {
        "protocol": 2,
        "decode_responses": False,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        "health_check_interval": HEALTH_CHECK_S,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "windlass",
    }


def target_of(url: str | None, client: object) -> str:
    """How a store is named in messages, without secrets."""
    if url is not None:
        return mask_url(url)
    if isinstance(client, RedisCluster):
        return "redis+cluster://" + ",".join(str(node.name) for node in nodes_of(client)[:3])
    if isinstance(client, Redis):
        about = client.connection_pool.connection_kwargs
        return f"redis://{about.get('host', about.get('path', '?'))}:{about.get('port', '')}/{about.get('db', 0)}"
    raise ConfigError(
        f"client= is a {type(client).__module__}.{type(client).__qualname__}; it takes a redis.Redis or a "
        "redis.RedisCluster, not an asyncio one; for another library write a redis:// URL"
    )


def make_client(url: str | None, user_client: object, timeout: float, pool_timeout: float) -> Client:
    """Make a client; a cluster's asks the cluster for its nodes, others connect at first use. Raises ConfigError."""
    settings = common(timeout)
    if url is None:
        return after(user_client, settings, pool_timeout)
    address = parse_url(url)
    made = settings | dict(address.options) | {"db": address.database}
    if address.username is not None:
        made["username"] = address.username
    if address.password is not None:
        made["password"] = address.password
    try:
        match address.scheme:
            case "redis+cluster":
                del made["db"]  # a cluster has one
                return cluster(address.hosts, made)
            case "redis+sentinel":
                asking = {key: settings[key] for key in ("socket_timeout", "socket_connect_timeout", "retry")}
                sentinel = Sentinel(address.hosts, sentinel_kwargs=asking, **made)  # type: ignore[no-untyped-call]
                master: Redis = sentinel.master_for(address.service, redis_class=Redis)  # type: ignore[no-untyped-call]
                return master
            case "redis" | "rediss":
                host, port = address.hosts[0]
                kind = Connection if address.scheme == "redis" else SSLConnection
                return pooled(kind, made | {"host": host, "port": port}, pool_timeout)
            case _:
                return pooled(UnixDomainSocketConnection, made | {"path": address.path}, pool_timeout)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"url {mask_url(url)!r}: {error}") from error


def pooled(kind: Callable[..., AbstractConnection], settings: Mapping[str, Any], pool_timeout: float) -> Redis:
    """A client of one server. A wrong setting is an error here, and not in a job."""
    settings = dict(settings)
    if isinstance(kind, type) and issubclass(kind, UnixDomainSocketConnection):
        settings.pop("socket_keepalive", None)  # nobody between the two ends could drop it
    kind(**settings)
    return Redis(
        connection_pool=BlockingConnectionPool(  # type: ignore[no-untyped-call]
            connection_class=kind, max_connections=CONNECTIONS_MAX, timeout=pool_timeout, **settings
        )
    )


def cluster(hosts: Sequence[tuple[str, int]], settings: Mapping[str, Any]) -> RedisCluster:
    """A client that asks one of these hosts for the nodes of the cluster."""
    nodes = [ClusterNode(host, port) for host, port in hosts]  # type: ignore[no-untyped-call]
    return RedisCluster(startup_nodes=nodes, **settings)


def nodes_of(client: RedisCluster) -> list[ClusterNode]:
    """The nodes that a cluster's client knows."""
    found: list[ClusterNode] = client.get_nodes()  # type: ignore[no-untyped-call]
    return found


def node_of(client: Client, key: bytes) -> Redis:
    """A client of the one server that has a key."""
    if isinstance(client, Redis):
        return client
    node = client.get_node_from_key(key.decode())  # type: ignore[no-untyped-call]
    if node is None:
        raise EngineUnavailable("no node of the cluster serves our keys now: see CLUSTER INFO")
    return client.get_redis_connection(node)


def hang_up(client: Client) -> None:
    """Close every connection of a client. The driver's own ``close`` leaves a pool that it was given alone."""
    if isinstance(client, RedisCluster):
        for node in nodes_of(client):
            if node.redis_connection is not None:
                node.redis_connection.connection_pool.disconnect()
        client.close()
    else:
        client.connection_pool.disconnect()


class Spares:
    """Connections that have just answered, kept out of their pool for the next call. *Thread-safe.*

    A loan from the driver's pool and its return take longer than a small script does on the server.
    """

    def __init__(self) -> None:
        self._free: deque[tuple[ConnectionPool, Connection, float]] = deque()

    def take(self, pool: ConnectionPool) -> Connection:
        """A connection that is good as far as one can know."""
        try:
            owner, connection, used_at = self._free.pop()
        except IndexError:
            return pool.get_connection()
        if owner is pool and time.monotonic() - used_at < FRESH_S:
            return connection
        owner.release(connection)
        return pool.get_connection()

    def put(self, pool: ConnectionPool, connection: Connection) -> None:
        """Keep a connection whose last answer has been read."""
        if len(self._free) < SPARES_MAX:
            self._free.append((pool, connection, time.monotonic()))
        else:
            pool.release(connection)


def send(client: Client, *command: Command, spares: Spares | None = None) -> object:
    """Send one command once and give the raw answer. Raises the driver's errors.

    Goes past the driver's ``execute_command``, which takes as long as the server does, except in a cluster, where that
    finds the node.
    """
    try:
        if not isinstance(client, Redis):  # to ask whether it is a RedisCluster takes 40 times as long
            return client.execute_command(*command)  # type: ignore[no-untyped-call]
        packed = pack_command(command)  # type: ignore[arg-type]
    except UnicodeEncodeError as error:
        raise no_text(error) from error
    pool = client.connection_pool
    connection = pool.get_connection() if spares is None else spares.take(pool)
    try:
        connection.send_packed_command([packed])  # type: ignore[no-untyped-call]
        reply: object = connection.read_response()
    except ResponseError:  # an answer like any other: the connection is good
        pool.release(connection)
        raise
    except BaseException:
        connection.disconnect()  # type: ignore[no-untyped-call]  # half a call may be under way on it
        pool.release(connection)
        raise
    if spares is None:
        pool.release(connection)
    else:
        spares.put(pool, connection)
    return reply


def send_both(client: Redis, first: Sequence[Command], second: Sequence[Command]) -> list[object]:
    """Send two commands at once and give both answers; an error that the server answers is one. Raises all others."""
    packed = pack_command(first) + pack_command(second)  # type: ignore[arg-type]
    pool = client.connection_pool
    connection = pool.get_connection()
    answers: list[object] = []
    try:
        connection.send_packed_command([packed])  # type: ignore[no-untyped-call]
        for _ in range(2):
            try:
                answers.append(connection.read_response())
            except ResponseError as error:
                answers.append(error)
    except BaseException:
        connection.disconnect()  # type: ignore[no-untyped-call]  # half a call may be under way on it
        raise
    finally:
        pool.release(connection)
    return answers


def after(client: object, settings: dict[str, Any], pool_timeout: float) -> Client:
    """A client to the same place as the user's, with our settings."""
    if isinstance(client, RedisCluster):
        about: dict[str, object] = client.get_connection_kwargs()  # type: ignore[no-untyped-call]
        kept = {key: value for key, value in about.items() if is_plain(key)}
        return cluster([(str(node.host), int(node.port)) for node in nodes_of(client)], kept | settings)
    if not isinstance(client, Redis):
        raise ConfigError(f"client= is a {type(client).__qualname__}: it takes a redis.Redis or a redis.RedisCluster")
    pool = client.connection_pool
    kept = {key: value for key, value in pool.connection_kwargs.items() if is_plain(key)}
    made = kept | settings
    if isinstance(pool, SentinelConnectionPool):
        return Redis(
            connection_pool=SentinelConnectionPool(  # type: ignore[no-untyped-call]
                pool.service_name, pool.sentinel_manager, connection_class=pool.connection_class, **made
            )
        )
    return pooled(pool.connection_class, made, pool_timeout)


def is_plain(key: str) -> bool:
    """Whether a connection's option says where and as whom to connect, and is not tied to the pool it came from."""
    return key != "connection_pool" and not key.startswith(("maint_", "orig_", "oss_", "event_", "cache"))
