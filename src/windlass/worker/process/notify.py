"""Telling systemd how the worker is (``Type=notify``): one datagram to the socket that it names.

Source: sd_notify(3). Without NOTIFY_SOCKET nothing is done, and trouble with the socket is not ours to die of.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import Final

__all__ = ["notify", "pat_watchdog", "watchdog_s"]

PATIENCE: Final = 1.0  # seconds


def notify(text: str) -> None:
    """Send ``READY=1``, ``STOPPING=1``, ``WATCHDOG=1`` or the like."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)  # a reader that does not read must not hold up a worker
            sock.sendto(text.encode(), "\0" + path[1:] if path.startswith("@") else path)


def watchdog_s() -> float | None:
    """How often systemd wants to hear of us, in seconds: half of what it allows; None: it does not watch."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    return int(usec) / 2e6 if usec.isdigit() and pid in ("", str(os.getpid())) else None


def pat_watchdog(is_well: Callable[[], bool]) -> None:
    """From now on tell systemd that all is well, as often as it wants to hear it, from a thread of its own."""
    every = watchdog_s()
    if every is not None:
        threading.Thread(target=pat, args=(every, is_well), name="windlass-watchdog", daemon=True).start()


def pat(every: float, is_well: Callable[[], bool]) -> None:
    while True:
        if is_well():
            notify("WATCHDOG=1")
        time.sleep(every)
