"""Processes that lost their parent: the supervisor takes them in, so that none stays in the process table for ever.

As the first process of a container (PID 1) it gets them anyway; elsewhere it asks for them, where the system can do
that (Linux), and so also hears how worker processes end whose zygote has died.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator

__all__ = ["adopt", "collect"]

PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


def adopt() -> bool:
    """Become the process that orphans below this one are given to; false where they could not be found."""
    try:
        import ctypes

        with open(f"/proc/self/task/{os.getpid()}/children", "rb"):
            pass
        return bool(ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def collect(spare: Collection[int]) -> Iterator[tuple[int, int]]:
    """Reap every child that has ended, except those that somebody else here waits for; give id and wait status."""
    for pid in children() - set(spare):
        with contextlib.suppress(ChildProcessError):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                yield ended, status


def children() -> set[int]:
    """The ids of the children of this process."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for task in os.listdir("/proc/self/task"):
            with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/children", "rb") as file:
                found.update(map(int, file.read().split()))
    return found
