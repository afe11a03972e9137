"""How a server is reached and by whom, and whether it is known to be unsafe. For ``doctor``; pure.

Source of the versions: the advisories of Redis and Valkey on CVE-2025-49844 (a script may run code of its own choice
in the server) and its kin, October 2025.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Final

from windlass.engines.base import Finding

__all__ = ["look_at_access", "look_at_version"]

GUIDE: Final = 'see "A user with few rights" in docs/redis.md'
# Branch -> its first version without the holes. A branch that is not named and older than the last has none.
SAFE_REDIS: Final = {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2}
SAFE_VALKEY: Final = {(7, 2): 11, (8, 0): 6, (8, 1): 4}
NEWEST: Final = {"Redis": (8, 2), "Valkey": (8, 1)}


def look_at_access(connection: Mapping[str, object], tls: bool) -> Iterator[Finding]:
    """Give findings about the settings of a connection, as the driver has them."""
    host = str(connection.get("host", ""))
    near = "path" in connection or is_loopback(host)  # "path": a Unix socket
    user, password = connection.get("username"), connection.get("password")
    if not password:
        yield Finding(
            "access",
            "ok" if near else "warning",
            "the server asks for no password" + (", which is safe only while nobody else reaches it" if near else ""),
            "" if near else f"whoever reaches it can have your workers run jobs; {GUIDE}",
        )
    elif user in (None, "", "default"):
        yield Finding("access", "warning", "windlass is the default user, who may do everything", f"{GUIDE}")
    else:
        yield Finding("access", "ok", f"windlass is user {user!r}")
    if near or tls:
        yield Finding("transport", "ok", "TLS" if tls else "nothing leaves this machine")
    else:
        yield Finding(
            "transport",
            "warning",
            f"password and jobs go to {host} in clear",
            "write rediss://, unless the network between is encrypted itself",
        )


def look_at_version(version: str, *, valkey: bool) -> Finding:
    """Say whether a version has known holes that a script can use."""
    name = "Valkey" if valkey else "Redis"
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        return Finding("advisories", "ok", f"version {version!r} is none that advisories are known for")
    branch, patch = (int(found[1]), int(found[2])), int(found[3])
    safe = SAFE_VALKEY if valkey else SAFE_REDIS
    first = safe.get(branch)
    if (patch >= first) if first is not None else branch > NEWEST[name]:
        return Finding("advisories", "ok", f"{name} {version} has the fix of CVE-2025-49844")
    better = next((f"{a}.{b}.{n}" for (a, b), n in safe.items() if (a, b) >= branch), "the newest")
    return Finding(
        "advisories",
        "warning",
        f"{name} {version} lets a script run code of its own choice in the server (CVE-2025-49844), unless whoever "
        "packaged it has fixed that",
        f"upgrade to {better} or later; until then let nobody but windlass run scripts there",
    )


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address."""
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
