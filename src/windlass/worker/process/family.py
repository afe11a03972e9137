"""The processes that a job in a child process has started: how to end them all, however deep they are.

A child leads a session of its own. What it starts stays in it, or stays below it in the tree of processes; only what
leaves both gets away: a daemon that forks twice, or a session of its own when the child is dead already. Linux shows
both in ``/proc``; elsewhere the child's process group has to do.
"""

from __future__ import annotations

import contextlib
import os
import signal

__all__ = ["end_family"]

ROUNDS = 10  # looks for processes that were started meanwhile; what is found is stopped, so the second finds few


def end_family(leader: int) -> None:
    """Kill a child process, its session and all that is below it.

    For the parent of the child alone, before it reaps it: until then the id belongs to nobody else. The child itself
    may have ended already.
    """
    spared = {0, 1, os.getpid()}
    found: set[int] = set()
    kill(leader, signal.SIGSTOP)  # or it could start more while we look
    for _ in range(ROUNDS):
        new = members(leader) - found - spared
        if not new:
            break
        for pid in new:
            kill(pid, signal.SIGSTOP)
        found |= new
    for pid in {leader, *found}:
        kill(pid, signal.SIGKILL)
    if not found:  # there is no /proc
        with contextlib.suppress(OSError):
            os.killpg(leader, signal.SIGKILL)


def members(leader: int) -> set[int]:
    """The leader, every process of its session, and every one below those."""
    parents: dict[int, int] = {}
    family: set[int] = set()
    for pid, parent, session in processes():
        parents[pid] = parent
        if session == leader or pid == leader:
            family.add(pid)
    below = family
    while below:
        below = {pid for pid, parent in parents.items() if parent in below} - family
        family |= below
    return family


def processes() -> list[tuple[int, int, int]]:
    """Id, parent and session of every process that can be seen."""
    found = []
    with contextlib.suppress(OSError):
        if os.readlink("/proc/self") != str(os.getpid()):
            return []  # of another namespace: its numbers mean other processes
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                    found.append((int(name), int(fields[1]), int(fields[3])))
    return found


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):  # it has just ended
        os.kill(pid, number)
