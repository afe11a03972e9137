"""The URL of a store: what it may say, and what is said of any other."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from windlass import ConfigError, Windlass
from windlass.core.urls import Address, absolute, mask_url, parse_url

RIGHT: list[tuple[str, Address]] = [
    ("memory://", Address("memory")),
    ("sqlite:////var/jobs.db", Address("sqlite", "/var/jobs.db")),
    ("sqlite:////var/a%3Fb%23c%25.db", Address("sqlite", "/var/a?b#c%.db")),
    ("redis://h", Address("redis", hosts=(("h", 6379),))),
    ("redis://h:1/", Address("redis", hosts=(("h", 1),))),
    ("redis://u:p%40%2F%3F%23@h:65535/15", Address("redis", "", (("h", 65535),), "", 15, "u", "p@/?#")),
    ("redis://:only@h?db=3", Address("redis", "", (("h", 6379),), "", 3, None, "only")),
    ("redis://h/2?db=2&username=u&password=p%26w+d", Address("redis", "", (("h", 6379),), "", 2, "u", "p&w+d")),
    ("redis://[::1]:7/0", Address("redis", hosts=(("::1", 7),))),
    (
        "rediss://h/0?ssl_cert_reqs=none&ssl_check_hostname=false&ssl_min_version=TLSv1.3&ssl_ca_certs=/a@b.pem",
        Address("rediss", hosts=(("h", 6379),), options={
            "ssl_cert_reqs": "none", "ssl_check_hostname": False, "ssl_min_version": 772, "ssl_ca_certs": "/a@b.pem",
        }),
    ),
    ("redis+cluster://u:p@a:1,b", Address("redis+cluster", "", (("a", 1), ("b", 6379)), "", 0, "u", "p")),
    (
        "redis+cluster://a/0?ssl=true&ssl_ca_certs=/ca.pem",
        Address("redis+cluster", hosts=(("a", 6379),), options={"ssl": True, "ssl_ca_certs": "/ca.pem"}),
    ),
    ("redis+sentinel://a,[::2]:5/main", Address("redis+sentinel", hosts=(("a", 26379), ("::2", 5)), service="main")),
    ("redis+sentinel://a:1/main/4", Address("redis+sentinel", hosts=(("a", 1),), service="main", database=4)),
    ("redis+unix:///run/redis.sock", Address("redis+unix", "/run/redis.sock")),
    ("unix:///run/a%20b%3F.sock?db=2", Address("unix", "/run/a b?.sock", database=2)),
    ("unix://u:p%2Fw@/run/redis.sock", Address("unix", "/run/redis.sock", username="u", password="p/w")),
    ("unix:///run/r.sock?username=u&password=p", Address("unix", "/run/r.sock", username="u", password="p")),
]  # fmt: skip


@pytest.mark.parametrize(("url", "wanted"), RIGHT, ids=[url for url, _ in RIGHT])
def test_a_url_names_a_store(url: str, wanted: Address) -> None:
    assert msgspec.to_builtins(parse_url(url)) == msgspec.to_builtins(wanted)


WRONG: list[tuple[str, str]] = [
    ("", "it has no '://'"),
    ("jobs.db", "it has no '://' behind its scheme; write sqlite:///relative.db"),
    ("redis:/h/0", "no '://' behind its scheme; write redis://localhost:6379/0"),
    ("redis:h", "write redis://localhost:6379/0"),
    ("unix:/run/redis.sock", "write unix:///run/redis.sock"),
    ("sqlite:/x.db", "write sqlite:///relative.db"),
    ("mysql://h", "unknown engine; a URL begins with sqlite://, memory://, redis://"),
    ("Redis://h", r"did you mean 'redis'\?"),
    ("valkey://h", "did you mean 'redis'"),
    ("redis+socket:///run/r.sock", r"did you mean 'redis\+unix'"),
    ("redis+clutser://h:1", r"did you mean 'redis\+cluster'"),
    ("sqlite3:///x.db", "did you mean 'sqlite'"),
    ("postgres://h/d", "did you mean 'postgresql'"),
    (
        "sqlite:///x.db?timeout=30",
        "has the option 'timeout', and a file has none; what you mean is the setting busy_timeout",
    ),
    ("sqlite:///x.db?mode=ro", "has the option 'mode', and a file has none; write %3F for a"),
    ("sqlite:///x.db?", "write %3F"),
    ("sqlite:///x.db#1", "there are no fragments; write %23"),
    ("sqlite://x.db", "names no file"),
    ("sqlite:///", "names no file"),
    ("sqlite:////", "names no file"),
    ("sqlite:///folder/", "names a folder"),
    ("sqlite:///:memory:", "a database in memory is memory://"),
    ("sqlite:///a%00b", "NUL"),
    ("memory://x", "nothing follows memory://"),
    ("memory://?shared=1", "nothing follows memory://"),
    ("redis://", "names no host; write redis://localhost:6379/0"),
    ("redis:///0", "names no host"),
    ("redis://u:p@/0", "names no host"),
    ("redis://:6379", "names no host"),
    ("redis://h:0", "is not host:port, where a port is a number from 1 to 65535"),
    ("redis://h:65536/0", "from 1 to 65535"),
    ("redis://h:-1", "from 1 to 65535"),
    ("redis://h:٣", "from 1 to 65535"),
    ("redis://h:", "from 1 to 65535"),
    ("redis://::1/0", "IPv6 address in brackets"),
    ("redis://h/one", "ends with no number of a database; write redis://localhost:6379/0"),
    ("redis://h/-1", "no number of a database"),
    ("redis://h/0/1", "no number of a database"),
    ("redis://h/99999999999", "no number of a database"),
    ("redis://h/1?db=2", "names two databases, /1 and db=2"),
    ("redis://h?db=x", "option db is none of what it may be: the number of a database"),
    ("redis://h/0#0", "there are no fragments"),
    ("redis://a,b/0", r"several hosts; that is redis\+cluster:// or redis\+sentinel://"),
    ("redis://u:p@h?password=q", "two of password"),
    ("redis://h?tiemout=3", "no option 'tiemout'; there are db, username"),
    ("redis://h?db=1&db=1", "option 'db' twice"),
    ("redis://h?socket_timeout=5", "'socket_timeout': set network_timeout in the settings instead; leave it out"),
    ("redis://h?timeout=5", "set pool_timeout in the settings"),
    ("redis://h?decode_responses=true", "windlass decides that itself; leave it out"),
    ("redis://h?ssl=true", "the scheme says it, rediss:// with TLS"),
    ("redis://h?ssl_cert_reqs=none", "ssl_cert_reqs is about TLS, and redis:// has none: that is rediss://"),
    ("rediss://h?ssl_cert_reqs=CERT_NONE", r"required, optional, none \(did you mean 'none'\?\)"),
    ("rediss://h?ssl_cert_reqs=requried", "did you mean 'required'"),
    ("rediss://h?ssl_cert_req=none", "did you mean 'ssl_cert_reqs'"),
    ("rediss://h?ssl_check_hostname=maybe", "true or false"),
    ("rediss://h?ssl_min_version=1.0", "TLSv1.2 or TLSv1.3"),
    ("rediss://h?ssl_ca_certs=", "not empty"),
    ("redis+cluster://a:1/3", "a cluster has no databases"),
    ("redis+cluster://a:1?db=3", "a cluster has no databases"),
    ("redis+cluster://a:1,,b", "names no host; write redis\\+cluster://h1:6379"),
    ("redis+cluster://a?ssl_ca_certs=/x", "ssl_ca_certs is about TLS.*add ssl=true"),
    ("redis+cluster://a?ssl=maybe", "true or false"),
    ("redis+sentinel://a:1", "does not name the master; write redis\\+sentinel://h1:26379,h2:26379/mymaster/0"),
    ("redis+sentinel://a:1/m/one", "mymaster/0"),
    ("redis+sentinel://a:1/m?sssl=true", "did you mean 'ssl'"),
    ("unix://run/redis.sock", "names no socket: the path of the socket begins with the third '/'"),
    ("redis+unix://", "names no socket"),
    ("unix:///", "names no socket"),
    ("unix:///r.sock?ssl_ca_certs=/x", "ssl_ca_certs is about TLS"),
    ("unix:///r.sock?dbb=1", "did you mean 'db'"),
    ("unix:///a%00b", "NUL"),
]


@pytest.mark.parametrize(("url", "message"), WRONG, ids=[url for url, _ in WRONG])
def test_a_wrong_url_is_refused_when_the_application_is_made(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"^url \(argument\) is .*"):
        Windlass(url)
    with pytest.raises(ConfigError, match=message):
        parse_url(url)


def test_a_wrong_url_of_the_environment_is_refused_when_the_application_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WINDLASS_URL", "redis://h?tiemout=1")
    with pytest.raises(ConfigError, match=r"url \(environment WINDLASS_URL\) is"):
        Windlass()


SECRET = "s3cr3t"
LEAKS = [
    "redis:/u:{}@host", "redis:u:{}@host/0", "redis//u:{}@host", "u:{}@host", "rediss:/:{}@h", "mysql://u:{}@h",
    "redis://u:{}@h:port", "redis://u:{}@h/x", "redis://u:{}@h?tiemout=1", "redis://u:a/{}@h", "redis://u:a?{}@h",
    "redis://u:a#{}@h", "redis://u:a?{}=1@h/0", "redis://u:{}@h:1:2", "redis://h?password={}&x=1",
    "rediss://h?ssl_password={}&x=1", "rediss://u:{}@h?ssl_cert_reqs=no", "redis+cluster://u:{}@a,b:x",
    "redis+sentinel://u:{}@a", "unix://u:{}@run/x.sock", "unix://u:a/{}@/x.sock?bd=1", "redis://u:p@h?password={}",
    "redis://u:a@{}@h:x", "redis://u:a/b?{}=c@h", "redis://h?db=1&db=2&password={}",
]  # fmt: skip


@pytest.mark.parametrize("url", LEAKS)
def test_no_error_shows_a_secret(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Windlass(url.format(SECRET))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert SECRET not in mask_url(url.format(SECRET))


def test_a_password_that_is_not_escaped_is_told_how() -> None:
    with pytest.raises(ConfigError, match=r"write / as %2F, \? as %3F, # as %23 and @ as %40"):
        parse_url("redis://u:p/w@h")


def test_a_path_with_the_marks_of_a_url_names_its_file(tmp_path: Path) -> None:
    folder = tmp_path / "a?b#c%41"
    folder.mkdir()
    url = absolute("sqlite:///x%3Fy.db", folder)
    assert parse_url(url).path == str(folder / "x?y.db")
    with Windlass(f"sqlite:///{quote(str(folder))}/jobs.db") as app:
        assert app.stats()["ready"] == 0
    assert "jobs.db" in os.listdir(folder)
