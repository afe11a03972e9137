"""What the doctor says of the surroundings of a store: rights, room, versions, and the way to a server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from windlass import Windlass
from windlass.engines.redis.access import look_at_access, look_at_version
from windlass.engines.redis.doctor import memory
from windlass.engines.redis.startup import Server
from windlass.engines.sqlite.surroundings import FULL, SCARCE, room


def levels(app: Windlass) -> dict[str, str]:
    return {finding.check: finding.level for finding in app.engine.doctor()}


def test_a_database_of_its_owner_with_room_is_well(tmp_path: Path) -> None:
    with Windlass(f"sqlite:///{tmp_path}/w.db") as app:
        assert levels(app)["rights"] == "ok"
        assert levels(app)["disk"] in ("ok", "warning", "error")  # of whoever runs this


@pytest.mark.parametrize(
    ("file", "folder", "level"),
    [
        (0o666, 0o755, "error"),
        (0o602, 0o700, "error"),
        (0o600, 0o777, "error"),
        (0o600, 0o1777, "ok"),  # as /tmp: nobody replaces what is another's
        (0o644, 0o755, "warning"),
        (0o644, 0o700, "ok"),  # nobody else gets there
        (0o660, 0o770, "ok"),  # a group is the user's own affair
    ],
)
def test_a_database_for_everybody_is_said(tmp_path: Path, file: int, folder: int, level: str) -> None:
    place = tmp_path / "store"
    place.mkdir()
    with Windlass(f"sqlite:///{place}/w.db") as app:
        app.stats()
        os.chmod(place / "w.db", file)
        os.chmod(place, folder)
        (found,) = [finding for finding in app.engine.doctor() if finding.check == "rights"]
        assert (found.level, bool(found.advice)) == (level, level != "ok")
        os.chmod(place, 0o700)


@pytest.mark.parametrize(
    ("free", "level"), [(0, "error"), (FULL - 1, "error"), (FULL, "warning"), (SCARCE, "ok"), (2**40, "ok")]
)
def test_a_disk_without_room_is_said(free: int, level: str) -> None:
    assert room("/srv", free).level == level


@pytest.mark.parametrize(
    ("connection", "tls", "access", "transport"),
    [
        ({"host": "localhost"}, False, "ok", "ok"),
        ({"host": "127.0.0.9"}, False, "ok", "ok"),
        ({"host": "::1", "password": "x"}, False, "warning", "ok"),
        ({"path": "/run/redis.sock"}, False, "ok", "ok"),
        ({"host": "jobs.internal"}, False, "warning", "warning"),
        ({"host": "jobs.internal", "password": "x"}, True, "warning", "ok"),
        ({"host": "10.0.0.7", "username": "default", "password": "x"}, False, "warning", "warning"),
        ({"host": "10.0.0.7", "username": "jobs", "password": "x"}, True, "ok", "ok"),
    ],
)
def test_the_way_to_a_server_is_judged(connection: dict[str, object], tls: bool, access: str, transport: str) -> None:
    found = {finding.check: finding for finding in look_at_access(connection, tls)}
    assert (found["access"].level, found["transport"].level) == (access, transport)
    assert "x" not in found["access"].message.split()


@pytest.mark.parametrize(
    ("version", "valkey", "level"),
    [
        ("6.2.19", False, "warning"), ("6.2.20", False, "ok"), ("7.0.15", False, "warning"),
        ("7.2.10", False, "warning"),
        ("7.2.11", False, "ok"), ("7.4.5", False, "warning"), ("7.4.6", False, "ok"), ("8.0.3", False, "warning"),
        ("8.0.4", False, "ok"), ("8.2.1", False, "warning"), ("8.2.2", False, "ok"), ("8.4.0", False, "ok"),
        ("7.2.10", True, "warning"), ("7.2.11", True, "ok"), ("8.0.5", True, "warning"), ("8.0.6", True, "ok"),
        ("8.1.3", True, "warning"), ("8.1.4", True, "ok"), ("9.0.0", True, "ok"), ("unknown", False, "ok"),
    ],
)  # fmt: skip
def test_a_server_with_known_holes_is_named(version: str, valkey: bool, level: str) -> None:
    found = look_at_version(version, valkey=valkey)
    assert found.level == level
    assert (level == "ok") or "CVE-2025-49844" in found.message


def test_a_server_that_is_nearly_full_is_said() -> None:
    assert memory(Server(used=95, maxmemory=100)).level == "warning"
    assert memory(Server(used=50, maxmemory=100)).level == "ok"
    assert memory(Server(used=50)).level == "ok"
