"""The one rule for code that is not ours: what it raises ends where it was called, and never without a word.

The application's code is called in many places besides a job's body: hooks, event handlers, rules, exception classes,
validators, log handlers. It may raise anything there, ``SystemExit`` and ``MemoryError`` included, and the thread or
loop of ours that calls it has other work to do. So such a call stands in ``Shield``, or catches BaseException itself
and asks ``is_ctrl_c`` first: the Ctrl-C of a person in a program of their own is no fault of that code.

Must not know jobs. Invariant: nothing here fails, whatever the code does.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from windlass.logs import Log, apart

__all__ = ["UNSHOWN", "Shield", "is_ctrl_c", "kind_name", "name_of", "said", "shield_logs", "start_thread"]

UNSHOWN: Final = "<the message cannot be shown>"
OURS: Final = __name__.partition(".")[0]
SHIELDED: Final = "windlass_shielded"


def is_ctrl_c(error: BaseException) -> bool:
    """Whether this is a person's Ctrl-C: only the main thread gets it, and never where SIGINT is ignored (a worker)."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    )


class Shield:
    """Logs what is raised in its block, and ends it there; only Ctrl-C goes on.

    ``text`` and ``args`` say for the log what failed and what follows.
    """

    __slots__ = ("_args", "_log", "_text")

    def __init__(self, log: Log, text: str, *args: object) -> None:
        self._log = log
        self._text = text
        self._args = args

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or is_ctrl_c(error):
            return False
        self._log.error(self._text, *self._args, exc_info=error)
        return True


def start_thread(target: Callable[[], object], name: str) -> threading.Thread:
    """Start a thread of ours that does not end without a word: Python itself says nothing of one that exits.

    Raises RuntimeError where the machine has no room for another; there is no thread then.
    """

    def run() -> None:
        with Shield(Log(OURS), "thread %s has ended, and should not have", name):
            target()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def said(error: BaseException) -> str:
    """Give the words of an error, whatever its ``__str__`` does."""
    try:
        return "".join((str(error),))  # a subclass of str would bring its own methods along
    except BaseException as trouble:
        if is_ctrl_c(trouble):
            raise
        return UNSHOWN


def kind_name(error: BaseException) -> str:
    """Give the name of an error's class."""
    return type.__dict__["__name__"].__get__(type(error))  # type: ignore[no-any-return]  # a metaclass may have another


def name_of(fn: object) -> str:
    """Give a name for a function of the application, whatever kind of object it is."""
    try:
        return f"{getattr(fn, '__module__', '?')}.{getattr(fn, '__qualname__', None) or repr(fn)}"
    except BaseException as trouble:
        if is_ctrl_c(trouble):
            raise
        return f"<{type(fn).__name__}>"


def shield_logs() -> None:
    """Let no handler or filter of the application's logging fail a thread of ours that logs. *Idempotent.*

    ``logging`` itself lets through what a filter raises, and everything from a handler that is no Exception.
    """
    if apart():
        return  # what we say asks no handler there
    for name in Log.names:
        logger = logging.getLogger(name)
        if not hasattr(logger, SHIELDED):
            vars(logger).update({SHIELDED: True, "handle": _shielded(logger.handle)})


def _shielded(handle: Callable[[logging.LogRecord], None]) -> Callable[[logging.LogRecord], None]:
    def shielded(record: logging.LogRecord) -> None:
        try:
            handle(record)
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            _last_words(record, error)

    return shielded


def _last_words(record: logging.LogRecord, error: BaseException) -> None:
    """Say on stderr what could not be logged."""
    with contextlib.suppress(BaseException):
        print(
            f"{OURS}: a log handler or filter failed with {kind_name(error)}: {said(error)}; "
            f"it was to log: {record.levelname} {record.getMessage()}",
            file=sys.__stderr__,
        )
