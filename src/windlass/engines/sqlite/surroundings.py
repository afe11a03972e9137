"""What is around a database file: who else may touch it, and how much room its disk has. For ``doctor``; only looks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from windlass.engines.base import Finding

__all__ = ["look_around"]

MIB: Final = 2**20
FULL: Final = 16 * MIB  # bytes; SQLite's log alone may need as much
SCARCE: Final = 256 * MIB


def look_around(path: str) -> Iterator[Finding]:
    """Give findings about the file and its folder. A file that has gone is not a matter of these."""
    folder = os.path.dirname(path) or "."
    try:
        file, around, disk = os.stat(path), os.stat(folder), os.statvfs(folder)
    except OSError:
        return
    yield rights(path, file, around)
    yield room(folder, disk.f_bavail * disk.f_frsize)


def rights(path: str, file: os.stat_result, folder: os.stat_result) -> Finding:
    """Who may change or read the database. In a folder with the sticky bit nobody replaces what is another's."""
    shared = 0 if folder.st_mode & stat.S_ISVTX else folder.st_mode
    for mode, what in ((file.st_mode, path), (shared, os.path.dirname(path))):
        if mode & stat.S_IWOTH:
            return Finding(
                "rights",
                "error",
                f"every user of this machine may write {what}, and so have your workers run jobs",
                f"take that right away: chmod o-w {what}",
            )
    if file.st_mode & stat.S_IROTH and folder.st_mode & stat.S_IXOTH:
        return Finding(
            "rights",
            "warning",
            f"every user of this machine may read {path}, and so the arguments of all jobs",
            f"take that right away: chmod o-r {path}",
        )
    return Finding("rights", "ok", "the file is not for every user of this machine")


def room(folder: str, free: int) -> Finding:
    """How much room there is on the disk for whoever is not root."""
    words = f"{free / MIB:,.0f} MiB are free on the disk of {folder}"
    if free < SCARCE:
        level = "error" if free < FULL else "warning"
        return Finding("disk", level, words, "make room; on a full disk enqueue raises EngineFull and stores nothing")
    return Finding("disk", "ok", words)
