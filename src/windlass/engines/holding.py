"""Who waits for a transaction, so that nobody waits for itself.

A store with one writer lends it to one transaction at a time, and the thread that has it may work for code elsewhere: a
coroutine, the tasks it starts, the threads it hops to. Such code must not wait for the writer, since it would wait for
itself. A ``Holder`` travels with the context of that code and names the thread; when its transaction is over it names
none, so a copy of the context that lives longer is harmless.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import Final

__all__ = ["HOLDERS", "Holder", "holds_here"]


class Holder:
    """One transaction: ``thread`` holds the writer for it, None when it is over."""

    __slots__ = ("thread",)

    def __init__(self) -> None:
        self.thread: int | None = None


HOLDERS: Final[ContextVar[tuple[Holder, ...]]] = ContextVar("windlass_holders", default=())
"""The transactions that the code here runs inside of."""


def holds_here(thread: int | None) -> bool:
    """Whether this is the thread, or code that runs inside a transaction of that thread; never for None."""
    if thread is None:
        return False
    return thread == threading.get_ident() or any(holder.thread == thread for holder in HOLDERS.get())
