"""The jobs that every queue runs, and the file in which they leave their marks.

The same functions are registered with every queue. They do as little as can be: each writes two clock readings into its
own cell of a file that all processes of the measurement map into memory, so counting needs no lock, no store and no
system call, and a job that ran twice or not at all is seen. It must not import anything outside the standard library.

Readings are nanoseconds of the monotonic clock, which all processes of a machine share. A cell of zeros is a job that
has not run.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import time
from array import array
from pathlib import Path
from struct import Struct

__all__ = ["NAP", "Marks", "anap", "anoop", "asince", "nap", "noop", "since"]

NAP = 0.05  # seconds
CELL = Struct("=qq")  # began, ended


class Marks:
    """The cells of one measurement, in a file that is mapped by every process."""

    def __init__(self, path: Path, cells: int | None = None) -> None:
        """Map the file; with ``cells`` make it anew, all zeros."""
        if cells is not None:
            path.write_bytes(bytes(CELL.size * cells))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    def write(self, number: int, began: int, ended: int) -> None:
        """Note when a job began and ended."""
        CELL.pack_into(self._map, number * CELL.size, began, ended)

    def read(self) -> tuple[array[int], array[int]]:
        """Give all readings: when the jobs began, when they ended."""
        readings = array("q", self._map[:])
        return readings[::2], readings[1::2]

    def has(self, number: int) -> bool:
        """Whether this job has ended."""
        return bool(CELL.unpack_from(self._map, number * CELL.size)[1])

    def are_full(self) -> bool:
        """Whether all jobs have ended."""
        return 0 not in self.read()[1]


# A program that only enqueues imports this module too, and has no marks.
_write = Marks(Path(os.environ["BENCH_MARKS"])).write if "BENCH_MARKS" in os.environ else None


def mark(number: int, began: int, ended: int) -> None:
    assert _write is not None, "BENCH_MARKS is not set in the worker's environment"
    _write(number, began, ended)


def noop(number: int, text: str = "") -> None:
    """Do nothing. ``text`` is ballast for the memory measurement."""
    now = time.monotonic_ns()
    mark(number, now, now)


def nap(number: int) -> None:
    """Sleep, as a job does that waits for somebody else."""
    began = time.monotonic_ns()
    time.sleep(NAP)
    mark(number, began, time.monotonic_ns())


def since(number: int, sent: int) -> None:
    """Note when the job was sent and when its first line runs."""
    mark(number, sent, time.monotonic_ns())


async def anoop(number: int, text: str = "") -> None:
    """Do nothing. ``text`` is ballast for the memory measurement."""
    now = time.monotonic_ns()
    mark(number, now, now)


async def anap(number: int) -> None:
    """Sleep, as a job does that waits for somebody else."""
    began = time.monotonic_ns()
    await asyncio.sleep(NAP)
    mark(number, began, time.monotonic_ns())


async def asince(number: int, sent: int) -> None:
    """Note when the job was sent and when its first line runs."""
    mark(number, sent, time.monotonic_ns())
