"""The way of our records to the handlers of the application: a thread of its own, with a short queue before it.

A handler may wait for a lock or a server, raise, or exit; whoever logs here renews leases and settles jobs. So it only
puts the record into the queue. Invariants: nothing of the application's is changed; the queue is bounded, and what does
not fit is dropped and counted; nothing a handler raises leaves the thread.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Final

from windlass.logs.lines import Entry

__all__ = ["Relay", "takes"]

MOST: Final = 10_000  # records that wait
FAREWELL: Final = 1.0  # seconds for the handlers at the end

NOBODY: Final = logging.NullHandler()  # with it on the way, ``logging`` does not show the record by itself


class Relay:
    """Hands records to the application's handlers, later. *Thread-safe.*"""

    def __init__(self, say: Callable[[str], None], *, aloud: bool) -> None:
        """``say`` tells a person of trouble; ``aloud``: the records are on the console already, so handlers that write
        there are left out."""
        self._say = say
        self._aloud = aloud
        self._queue: SimpleQueue[tuple[logging.Logger, logging.LogRecord] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._dropped = 0
        self._failed = False

    def pass_on(self, name: str, entries: Sequence[Entry]) -> None:
        """Queue what the application's configuration lets through. *Never blocks, never raises.*"""
        try:
            logger = logger_of(name)
            aside = self._aloud and not any(True for _ in listeners(logger))
            for each in entries:
                # Whoever listens in without a handler, such as a collector of errors, wants those alone.
                if (aside and each.level < logging.WARNING) or not lets_through(logger, each.level):
                    continue
                if self._queue.qsize() >= MOST:
                    self._dropped += 1
                else:
                    self._queue.put((logger, record_of(logger, name, each)))
            if self._thread is None and not self._queue.empty():
                self._start()
        except BaseException:  # noqa: BLE001 - a class, factory or property of the application; we have said it
            self._complain()

    def hears(self, name: str, level: int) -> bool:
        """Whether the application's configuration lets a level through to some handler. *Never raises.*"""
        try:
            logger = logger_of(name)
            return lets_through(logger, level) and (not self._aloud or any(True for _ in listeners(logger)))
        except BaseException:  # noqa: BLE001 - the same
            self._complain()
            return False

    def close(self) -> None:
        """Wait a moment for what is queued, and let every handler write what it holds back."""
        try:
            self._queue.put(None)
            self._start()
            assert self._thread is not None
            self._thread.join(FAREWELL)
        except RuntimeError:  # no thread can be started any more
            pass

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="windlass-log-relay", daemon=True)
                thread.start()
                self._thread = thread

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._hand(*item)
                if self._dropped:
                    dropped, self._dropped = self._dropped, 0
                    self._say(f"the application's log handlers are too slow: {dropped} records were not handed to them")
            except BaseException:  # noqa: BLE001 - see the module
                self._complain()
        logging.shutdown()

    def _hand(self, logger: logging.Logger, record: logging.LogRecord) -> None:
        if not self._aloud:
            logger.handle(record)
            return
        kept: object = logger.filter(record)
        if kept:
            # A logger of the moment, so that whoever patches ``callHandlers`` to listen in goes on to hear us.
            path = logging.Logger(record.name)
            path.handlers = [NOBODY, *listeners(logger)]
            path.callHandlers(kept if isinstance(kept, logging.LogRecord) else record)

    def _complain(self) -> None:
        if not self._failed:
            self._failed = True
            error = sys.exc_info()[1]
            self._say(f"a log handler of the application failed ({type(error).__name__}); this is said once")


def logger_of(name: str) -> logging.Logger:
    """The logger of a name, or the nearest above it that exists. Hears: ``logging.config`` disables all that it is not
    told of, and nobody means that. A level does.

    Not by ``getLogger``, which waits for the lock that ``logging.config`` holds while its handlers connect.
    """
    known = logging.root.manager.loggerDict
    while name:
        found = known.get(name)
        if isinstance(found, logging.Logger):
            found.disabled = False
            return found
        name = name.rpartition(".")[0]
    return logging.root


def lets_through(logger: logging.Logger, level: int) -> bool:
    """What ``isEnabledFor`` says, without the same lock."""
    return logging.root.manager.disable < level and level >= logger.getEffectiveLevel()


def record_of(logger: logging.Logger, name: str, entry: Entry) -> logging.LogRecord:
    """A record as the application's factory makes it."""
    error = entry.error
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    return logger.makeRecord(
        name, entry.level, "(windlass)", 0, entry.message, entry.args, exc_info, None, entry.fields
    )


def listeners(logger: logging.Logger) -> Iterator[logging.Handler]:
    """The handlers that the application has for this logger, without those that write to the console."""
    return (handler for handler in handlers_of(logger) if not is_console(handler))


def handlers_of(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    """The application's handlers on the way of a logger's records."""
    while logger is not None:
        yield from (handler for handler in logger.handlers if not isinstance(handler, logging.NullHandler))
        logger = logger.parent if logger.propagate and logger is not logging.root else None  # above it is our own


def takes(record: logging.LogRecord) -> bool:
    """Whether a handler of the application takes this record."""
    found = logging.root.manager.loggerDict.get(record.name)
    logger = found if isinstance(found, logging.Logger) else logging.root
    return any(record.levelno >= handler.level for handler in handlers_of(logger))


def is_console(handler: logging.Handler) -> bool:
    """Whether what a handler writes lands where stdout or stderr of this process do."""
    stream = getattr(handler, "stream", None)
    if stream is None:
        return False
    if any(stream is one for one in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)):
        return True
    try:
        there = os.fstat(stream.fileno())
        return any(os.path.samestat(there, os.fstat(fd)) for fd in (1, 2))
    except Exception:  # noqa: BLE001 - no descriptor, or closed
        return False
