"""A file system that counts syncs, and a process that has something to sync: it says what it is about to do."""

from __future__ import annotations

import os
import sys
from contextlib import closing

import apsw
from msgspec import structs

from windlass.engines.sqlite import SqliteEngine
from windlass.testing.conformance.harness import ended, job, join, place, take

MARKS = ("enqueued", "relaxed", "claimed", "settled", "closed")


class Syncs(apsw.VFS):
    """The file system of the machine, through which every connection goes; it counts the syncs of logs."""

    def __init__(self) -> None:
        self.count = 0
        self.base = apsw.vfs_names()[0]
        super().__init__("counting", self.base, makedefault=True)

    def tell(self) -> None:
        """Somebody may want to hear of each."""

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return CountedFile(self, name, flags)


class CountedFile(apsw.VFSFile):
    """One open file. A commit is on disk when its log is, so other files do not count."""

    def __init__(self, syncs: Syncs, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._syncs = syncs
        self._is_log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)
        super().__init__(syncs.base, name, flags)

    def xSync(self, flags: int) -> None:
        self._syncs.count += self._is_log
        self._syncs.tell()
        super().xSync(flags)


class Told(Syncs):
    def tell(self) -> None:
        say("fsync(")


def say(word: str) -> None:
    os.write(1, f"{word}\n".encode())


def main(path: str, *, counts: bool) -> None:
    """Make calls of which some need a sync, each behind its mark."""
    told = Told() if counts else None
    with closing(SqliteEngine(path)) as engine:
        engine.open()
        join(engine)
        say("enqueued")
        place(engine, [job("a")])
        say("relaxed")
        place(engine, [structs.replace(job("b"), durable=False)])
        say("claimed")
        (lease,) = take(engine, limit=1)
        say("settled")
        engine.settle([ended(lease)])
        say("closed")
    if told is not None:
        told.unregister()


if __name__ == "__main__":
    main(sys.argv[1], counts=sys.argv[2:] == ["count"])
