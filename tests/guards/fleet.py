"""A few real workers on one store, and what their ledger says."""

from __future__ import annotations

import sys
from pathlib import Path

from kit import fleet as kit
from kit.fleet import Process


class Fleet(kit.Fleet):
    """The folder of one test and the processes on it."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(
            folder, url, "guards.fleet_app:app", WINDLASS_URL=url, WINDLASS_RENEW="500ms", GUARDS_DIR=str(folder)
        )

    def worker(self, *options: str, lease: str = "10s") -> Process:
        """Start one worker that says little. A live one keeps its lease on any machine, unless that is to be short."""
        return self.start("--log-level", "error", *options, WINDLASS_LEASE=lease)

    def holder(self, turns: int) -> Process:
        """Start a program that takes the lock so often."""
        return self.program(sys.executable, "-m", "guards.holder", str(turns))

    def lines(self, *words: str) -> list[tuple[int, list[str]]]:
        """Lines of the ledger that begin with one of these words: time in ns, and the words."""
        try:
            text = (self.folder / "ledger").read_text()
        except FileNotFoundError:
            return []
        found = [line.split() for line in text.splitlines()]
        return [(int(line[0]), line[1:]) for line in found if line[1] in words]
