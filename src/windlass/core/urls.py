"""The URL of a store, taken apart and checked: what it names is known, or an error where it is written.

Pure. Must not know drivers or open anything; the engines make of the parts what they need. Invariants: no option, part
or number that nobody reads passes in silence; no error shows a password, also not of a URL that is no URL.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

from windlass.core.errors import ConfigError
from windlass.core.units import nearest

__all__ = ["SCHEMES", "Address", "absolute", "mask_url", "parse_url"]

SCHEMES: Final = (
    "sqlite", "memory", "redis", "rediss", "redis+cluster", "redis+sentinel", "redis+unix", "unix", "postgresql",
)  # fmt: skip
# What other systems call them.
NAMES_ELSEWHERE: Final = {
    "redis+socket": "redis+unix", "valkey": "redis", "valkeys": "rediss", "redis+ssl": "rediss", "redis-cluster":
    "redis+cluster", "redis-sentinel": "redis+sentinel", "sentinel": "redis+sentinel", "sqlite3": "sqlite",
    "file": "sqlite", "postgres": "postgresql", "redis-socket": "redis+unix",
}  # fmt: skip
EXAMPLES: Final = {
    "sqlite": "sqlite:///relative.db or sqlite:////absolute/path.db",
    "memory": "memory://",
    "redis": "redis://localhost:6379/0",
    "rediss": "rediss://jobs.internal:6380/0",
    "redis+cluster": "redis+cluster://h1:6379,h2:6379",
    "redis+sentinel": "redis+sentinel://h1:26379,h2:26379/mymaster/0",
    "redis+unix": "redis+unix:///run/redis.sock?db=0",
    "unix": "unix:///run/redis.sock?db=0",
}
REDIS_PORT: Final = 6379
SENTINEL_PORT: Final = 26379
DATABASE_MAX: Final = 2**31 - 1

TLS_VERSIONS: Final = {"TLSv1.2": 771, "TLSv1.3": 772, "771": 771, "772": 772}  # as the module ssl numbers them
# Options of the driver that windlass decides itself, and the setting that says it where there is one.
OURS: Final = {
    "socket_timeout": "network_timeout", "socket_connect_timeout": "network_timeout", "timeout": "pool_timeout",
    "max_connections": None, "health_check_interval": None, "protocol": None, "decode_responses": None,
    "retry_on_timeout": None, "retry_on_error": None, "socket_keepalive": None, "client_name": None, "encoding": None,
}  # fmt: skip
SQLITE_OURS: Final = {"timeout": "busy_timeout", "synchronous": "durability"}


class Address(Struct, frozen=True):
    """Where a store is, and as whom to come. ``options`` are those of the connection, by the driver's names."""

    scheme: str
    path: str = ""  # of a file or a socket
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""  # the master that Sentinel watches
    database: int = 0
    username: str | None = None
    password: str | None = None
    options: Mapping[str, object] = {}


class Wrong(Exception):
    """What is wrong with a URL, without a value of it that may be secret."""


def parse_url(url: str, what: str = "url") -> Address:
    """Take a URL apart. Raises ConfigError, which begins with ``what``, for anything that is not known."""
    scheme, separator, rest = url.partition("://")
    try:
        if not separator:
            found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):?/?", url)
            known = EXAMPLES.get(found[1].lower() if found else "", EXAMPLES["sqlite"])
            raise Wrong(f"it has no '://' behind its scheme; write {known}, for example")
        if scheme not in SCHEMES:
            guess = NAMES_ELSEWHERE.get(scheme.lower())
            hint = f" (did you mean {guess!r}?)" if guess else nearest(scheme.lower(), SCHEMES)
            raise Wrong(f"unknown engine; a URL begins with {', '.join(f'{one}://' for one in SCHEMES)}{hint}")
        return PARSERS[scheme](scheme, rest)
    except Wrong as wrong:
        says = str(wrong)
        if not scheme.startswith("sqlite") and "@" in re.sub(r"^[^/?#]*", "", rest):
            # An "@" behind the first "/", "?" or "#": what stands there may be the rest of a password.
            says = "it cannot be read; in a user name or password write / as %2F, ? as %3F, # as %23 and @ as %40"
        raise ConfigError(f"{what} is {mask_url(url)!r}: {says}") from None


def absolute(url: str, base: str | os.PathLike[str]) -> str:
    """Give a URL whose ``sqlite:///`` path is seen from ``base``; others as they are."""
    if not url.startswith("sqlite:///"):
        return url
    path = os.path.normpath(os.path.join(base, unquote(url.removeprefix("sqlite:///"))))
    return "sqlite:///" + re.sub(r"[%?#]", lambda mark: f"%{ord(mark[0]):02X}", path)


def mask_url(url: str) -> str:
    """Hide the secrets of a URL for logs and errors: the password, and query values that look like one."""
    # Up to the last "@", since people forget to escape one in a password; too much hidden is better than too little.
    # With or without a scheme, colon and slashes, since a URL that is shown is often one that is wrong.
    url = re.sub(r"(?s)^((?:[^:/?#@]*:?/+)?[^:/?#@]*):.*@", r"\1:•••@", url)
    if "://" not in url:
        url = re.sub(r"(?s)^.*@", "•••@", url)  # nobody can tell what is what in it
    return re.sub(r"(?i)([?&][^=&#]*(?:pass|secret|token)[^=&#]*=)[^&#]*", r"\1•••", url)


# --- SQLite ----------------------------------------------------------------------------------------


def _sqlite(scheme: str, rest: str) -> Address:
    path, mark, query = rest.partition("?")
    if mark:
        name = re.split("[=&]", query, maxsplit=1)[0]
        setting = SQLITE_OURS.get(name)
        hint = f"; what you mean is the setting {setting}" if setting else ""
        raise Wrong(f"it has the option {name!r}, and a file has none{hint}; write %3F for a '?' in the name of a file")
    if "#" in path:
        raise Wrong("it has a '#', and there are no fragments; write %23 for one in the name of a file")
    path = unquote(path)
    if not path.startswith("/") or not path.strip("/"):
        raise Wrong(f"it names no file; write {EXAMPLES['sqlite']}")
    if path.endswith("/"):
        raise Wrong(f"it names a folder; write {EXAMPLES['sqlite']}")
    if ":memory:" in path:
        raise Wrong("a database in memory is memory://")
    if "\0" in path:
        raise Wrong("it has a NUL in its path")
    return Address(scheme, os.path.abspath(path[1:]))


def _memory(scheme: str, rest: str) -> Address:
    if rest:
        raise Wrong("nothing follows memory://, which is a database of this process alone")
    return Address(scheme)


def _postgresql(scheme: str, _rest: str) -> Address:
    return Address(scheme)  # its engine reads the rest


# --- Redis -----------------------------------------------------------------------------------------


def _redis(scheme: str, rest: str) -> Address:
    who, where, path, query = _parts(rest)
    if "," in where:
        raise Wrong("it names several hosts; that is redis+cluster:// or redis+sentinel://")
    hosts = (_host(where, REDIS_PORT, scheme),)
    options = _options(scheme, query, tls=scheme == "rediss")
    return _address(scheme, who, options, hosts=hosts, database=_database(scheme, path[1:], options))


def _cluster(scheme: str, rest: str) -> Address:
    who, where, path, query = _parts(rest)
    options = _options(scheme, query, tls=None)
    if path.strip("/") not in ("", "0") or options.pop("db", 0):
        raise Wrong("a cluster has no databases: end the URL after the hosts")
    return _address(scheme, who, options, hosts=tuple(_host(one, REDIS_PORT, scheme) for one in where.split(",")))


def _sentinel(scheme: str, rest: str) -> Address:
    who, where, path, query = _parts(rest)
    hosts = tuple(_host(one, SENTINEL_PORT, scheme) for one in where.split(","))
    options = _options(scheme, query, tls=None)
    service, _, database = path[1:].partition("/")
    if not service:
        raise Wrong(f"it does not name the master; write {EXAMPLES[scheme]}")
    number = _database(scheme, database, options)
    return _address(scheme, who, options, hosts=hosts, service=unquote(service), database=number)


def _unix(scheme: str, rest: str) -> Address:
    who, where, path, query = _parts(rest)
    if where or path in ("", "/"):
        raise Wrong(f"it names no socket: the path of the socket begins with the third '/', as in {EXAMPLES[scheme]}")
    path = unquote(path)
    if "\0" in path:
        raise Wrong("it has a NUL in its path")
    options = _options(scheme, query, tls=False)
    return _address(scheme, who, options, path=path, database=_database(scheme, "", options))


def _parts(rest: str) -> tuple[str, str, str, str]:
    """User and password, hosts, path, query."""
    if "#" in rest:
        raise Wrong("it has a '#', and there are no fragments")
    front, _, query = rest.partition("?")
    where, slash, path = front.partition("/")
    who, _, where = where.rpartition("@")
    return who, where, slash + path, query


def _host(text: str, usual_port: int, scheme: str) -> tuple[str, int]:
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%A-Za-z_-]+\]|[^:\[\]\s]*)(?::(.*))?", text)
    if found is None or (text.count(":") > 1 and "[" not in text):
        raise Wrong(f"a host of it is not host:port; write {EXAMPLES[scheme]}, an IPv6 address in brackets")
    host, port = found[1].strip("[]"), found[2]
    if not host:
        raise Wrong(f"it names no host; write {EXAMPLES[scheme]}")
    if port is not None and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65_536):
        raise Wrong("a host of it is not host:port, where a port is a number from 1 to 65535")
    return unquote(host), usual_port if port is None else int(port)


def _database(scheme: str, text: str, options: dict[str, object]) -> int:
    """The number of the database, from the path or ``db=``."""
    asked = options.pop("db", None)
    text = text.removesuffix("/")
    if not text:
        return 0 if asked is None else int(str(asked))
    if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= DATABASE_MAX):
        raise Wrong(f"its path ends with no number of a database; write {EXAMPLES[scheme]}")
    if asked not in (None, int(text)):
        raise Wrong(f"it names two databases, /{int(text)} and db={asked}; leave one")
    return int(text)


def _address(
    scheme: str,
    who: str,
    options: dict[str, object],
    *,
    path: str = "",
    hosts: tuple[tuple[str, int], ...] = (),
    service: str = "",
    database: int = 0,
) -> Address:
    user, colon, password = who.partition(":")
    username: object = unquote(user) if user else None
    secret: object = unquote(password) if colon and password else None
    for name, value in (("username", username), ("password", secret)):
        if name in options and value is not None:
            raise Wrong(f"it has two of {name}: one before the '@' and one as an option; leave one")
    username, secret = options.pop("username", username), options.pop("password", secret)
    return Address(
        scheme, path, hosts, service, database,
        None if username is None else str(username), None if secret is None else str(secret), options,
    )  # fmt: skip


def _flag(text: str) -> object:
    flags = {"true": True, "yes": True, "1": True, "on": True, "false": False, "no": False, "0": False, "off": False}
    if text.lower() not in flags:
        raise Wrong("true or false")
    return flags[text.lower()]


def _verification(text: str) -> object:
    words = ("required", "optional", "none")
    if text not in words:
        guess = text.lower().removeprefix("cert_")
        hint = f" (did you mean {guess!r}?)" if guess in words else nearest(guess, words)
        raise Wrong(f"{', '.join(words)}{hint}")
    return text


def _number(text: str) -> object:
    if not (text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= DATABASE_MAX):
        raise Wrong("the number of a database, such as 0")
    return int(text)


def _version(text: str) -> object:
    if text not in TLS_VERSIONS:
        raise Wrong(f"TLSv1.2 or TLSv1.3{nearest(text, TLS_VERSIONS)}")
    return TLS_VERSIONS[text]


def _word(text: str) -> object:
    if not text:
        raise Wrong("not empty")
    return text


PLAIN: Final[Mapping[str, Callable[[str], object]]] = {"db": _number, "username": _word, "password": _word}
TLS: Final[Mapping[str, Callable[[str], object]]] = {
    "ssl_ca_certs": _word, "ssl_ca_path": _word, "ssl_ca_data": _word, "ssl_certfile": _word, "ssl_keyfile": _word,
    "ssl_password": _word, "ssl_cert_reqs": _verification, "ssl_check_hostname": _flag, "ssl_min_version": _version,
    "ssl_ciphers": _word,
}  # fmt: skip


def _options(scheme: str, query: str, tls: bool | None) -> dict[str, object]:
    """The options of a URL. ``tls``: whether its scheme says TLS; None: the option ``ssl`` does."""
    known = {**PLAIN, **TLS, **({"ssl": _flag} if tls is None else {})}
    options: dict[str, object] = {}
    for name, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
        if name in OURS:
            setting = OURS[name]
            instead = f"set {setting} in the settings instead" if setting else "windlass decides that itself"
            raise Wrong(f"it has the option {name!r}: {instead}; leave it out")
        if name == "ssl" and tls is not None:
            raise Wrong("it has the option 'ssl': the scheme says it, rediss:// with TLS and redis:// without")
        if name not in known:
            raise Wrong(f"there is no option {name!r}{nearest(name, known)}; there are {', '.join(known)}")
        if name in options:
            raise Wrong(f"it has the option {name!r} twice; leave one")
        try:
            options[name] = known[name](value)
        except Wrong as wrong:
            raise Wrong(f"its option {name} is none of what it may be: {wrong}") from None
    if not options.get("ssl", tls) and (found := [name for name in options if name in TLS]):
        how = {None: "add ssl=true", False: "that is rediss:// with a host"}[tls]
        raise Wrong(f"its option {found[0]} is about TLS, and {scheme}:// has none: {how}")
    return options


PARSERS: Final[Mapping[str, Callable[[str, str], Address]]] = {
    "sqlite": _sqlite, "memory": _memory, "postgresql": _postgresql, "redis": _redis, "rediss": _redis,
    "redis+cluster": _cluster, "redis+sentinel": _sentinel, "redis+unix": _unix, "unix": _unix,
}  # fmt: skip
