"""An account of what really ran, kept outside any database: one append-only file for each process.

A line is written with one system call to a descriptor opened with ``O_APPEND``, so it is there even when the process
is killed right behind it. Times are nanoseconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_files: dict[int, int] = {}  # by process id, since a fork must not write into its parent's file


@dataclass(frozen=True)
class Entry:
    """Something a job body did. ``what`` is ``begin`` or ``end``."""

    pid: int
    at_ns: int
    what: str
    order_id: str
    fence: int


def write(what: str, order_id: str, fence: int) -> None:
    """Append one line to this process's file in the folder ``SHOP_LEDGER``; without one, do nothing."""
    folder = os.environ.get("SHOP_LEDGER")
    if folder is None:
        return
    pid = os.getpid()
    if pid not in _files:
        _files[pid] = os.open(f"{folder}/{pid}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(_files[pid], f"{time.monotonic_ns()} {what} {order_id} {fence}\n".encode())


def read(folder: Path) -> list[Entry]:
    """Give every entry of every process, by time."""
    return sorted(_entries(folder), key=lambda entry: entry.at_ns)


def _entries(folder: Path) -> Iterator[Entry]:
    for file in folder.glob("*.log"):
        for line in file.read_text().splitlines():
            at, what, order_id, fence = line.split()
            yield Entry(int(file.stem), int(at), what, order_id, int(fence))
