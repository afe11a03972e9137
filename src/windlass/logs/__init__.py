"""What windlass says, and the way it takes. Nothing that an application does to ``logging`` can silence a worker.

windlass speaks through a ``Log``, never through ``logging`` itself. There are three situations:

- **An ordinary process** (a web application, a script, a worker that the application runs itself). A ``Log`` is the
  logger of the same name and no more: the application's configuration decides.
- **A process of the command ``windlass worker``.** A line goes to our own descriptor, a copy of what stderr was when
  the process began (``outlet``), in the format of ``log_format`` (``lines``), at the level of ``--log-level``. No
  handler, level, filter or class of ``logging`` is asked on that way. The same record then goes to the handlers that
  the application has on the logger and those above it, its levels and filters obeyed; but not to handlers that write
  to the console, or the line would be there twice. Those handlers run in a thread of their own (``relay``): one that
  hangs, raises or exits harms nothing but itself.
- **The same with ``configure_logging = false``.** We write nothing ourselves. Records go to ``logging`` through that
  thread, and the application's configuration decides what becomes of them.

What the *application* logs, ``ctx.log`` included, is its own affair and goes through ``logging`` as everywhere. Only a
record that none of its handlers takes is shown by us: by a handler of a logger above the root logger, where no
configuration, early or late, finds it, and where it hides nothing from ``basicConfig``.

The zygote writes to the descriptor alone, since it must not start threads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from windlass.logs.lines import Entry, Voice
from windlass.logs.outlet import Outlet
from windlass.logs.relay import Relay, takes

__all__ = ["Entry", "Log", "apart", "ask_root", "close", "leave_alone", "own_stderr", "speak", "start_relay", "write"]


class State:
    """Who speaks in this process."""

    outlet: Outlet | None = None  # kept for life: by the time of a second call stderr may be the application's
    voice: Voice | None = None
    relay: Relay | None = None


class Untouched(int):
    """The level of the root logger as long as the application has not set it."""


class Log:
    """Says things under a logger's name. *Thread-safe.* What a handler or filter raises decides about nothing."""

    names: ClassVar[set[str]] = set()  # of all there are

    def __init__(self, name: str) -> None:
        self.name = name
        self.names.add(name)

    def debug(self, message: str, *args: object) -> None:
        self._say(logging.DEBUG, message, args)

    def info(self, message: str, *args: object) -> None:
        self._say(logging.INFO, message, args)

    def warning(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        self._say(logging.WARNING, message, args, exc_info)

    def error(self, message: str, *args: object, exc_info: BaseException | None = None) -> None:
        self._say(logging.ERROR, message, args, exc_info)

    def exception(self, message: str, *args: object) -> None:
        """Say an error together with the exception that is being handled."""
        self._say(logging.ERROR, message, args, sys.exc_info()[1])

    def critical(self, message: str, *args: object) -> None:
        self._say(logging.CRITICAL, message, args)

    def wants(self, level: int) -> bool:
        """Whether anybody would see an entry of this level; ask before building many."""
        voice, relay = State.voice, State.relay
        if voice is None and relay is None:
            return logging.getLogger(self.name).isEnabledFor(level)
        return (voice is not None and voice.wants(self.name, level)) or (
            relay is not None and relay.hears(self.name, level)
        )

    def reads_fields(self, level: int) -> bool:
        """Whether the fields of an entry are of use, or its message says it all."""
        voice, relay = State.voice, State.relay
        return voice is None or voice.reads_fields or (relay is not None and relay.hears(self.name, level))

    def tell(self, entries: Sequence[Entry]) -> None:
        """Say several things with one write."""
        voice, relay = State.voice, State.relay
        if voice is not None:
            voice.say(self.name, entries)
        if relay is not None:
            relay.pass_on(self.name, entries)
        elif voice is None:
            logger = logging.getLogger(self.name)
            for each in entries:
                try:
                    logger.log(
                        each.level, each.message, *each.args, exc_info=each.error, extra=each.fields, stacklevel=4
                    )
                except Exception as error:  # noqa: BLE001  of the application, and whoever speaks has done its work already
                    _last_words(self.name, each, error)

    def _say(self, level: int, message: str, args: tuple[object, ...], error: BaseException | None = None) -> None:
        self.tell((Entry(level, time.time(), message, args, None, error),))


def _last_words(name: str, entry: Entry, error: Exception) -> None:
    """Say on stderr what could not be logged."""
    with contextlib.suppress(Exception):
        print(
            f"windlass: a log handler or filter failed with {type(error).__name__}: {error}; it was to log for {name}: "
            f"{entry.message % entry.args if entry.args else entry.message}",
            file=sys.__stderr__,
        )


class Unheard(logging.Handler):
    """Shows the application's records that none of its own handlers takes."""

    def emit(self, record: logging.LogRecord) -> None:
        voice = State.voice
        if voice is not None and not takes(record):
            voice.show(record)


BASIC_CONFIG: Final = logging.basicConfig
# The logger above the root logger. It is in no table of ``logging``, so nothing that is configured there reaches it.
ABOVE = logging.Logger("windlass (above root)")


def speak(form: str, level: str, hushed: Sequence[str] = ()) -> None:
    """Write what this process says to stderr as it is now. ``form`` is text, json or logfmt; ``hushed`` names loggers
    that say only errors. A second call changes the format."""
    if State.outlet is None:
        State.outlet = Outlet(2)
        logging.root.level = Untouched(logging.root.level)
    number = logging.getLevelNamesMapping()[level.upper()]
    State.voice = Voice(State.outlet, form, number, dict.fromkeys(hushed, logging.ERROR))
    ABOVE.handlers[:] = [Unheard(number)]
    logging.root.parent = ABOVE
    logging.basicConfig = basic_config


def basic_config(**options: Any) -> None:
    """Stand in for ``logging.basicConfig`` in a process of the command: do nothing when ``logging`` itself calls it.

    Its functions (``logging.error`` and the like) do that where nothing is configured. The handler that it makes writes
    what it is given to the console as it is, so a message could steer a terminal and forge lines of ours; without it
    the record is shown by us.
    """
    if options or sys._getframe(1).f_globals is not vars(logging):
        BASIC_CONFIG(**options)


def apart() -> bool:
    """Whether what we say in this process goes a way of its own, on which no handler of the application is asked."""
    return State.voice is not None or State.relay is not None


def leave_alone() -> None:
    """Write nothing ourselves: the configuration of the application decides."""
    State.voice = None
    logging.basicConfig = BASIC_CONFIG
    if logging.root.parent is ABOVE:
        logging.root.parent = None


def ask_root() -> None:
    """Have the root logger let through what ``--log-level`` shows, where the application left it as it was."""
    voice = State.voice
    if voice is not None and isinstance(logging.root.level, Untouched) and not logging.root.handlers:
        logging.root.setLevel(voice.level)


def start_relay() -> None:
    """Hand records to the handlers of the application from here on, for a process that runs its code."""
    State.relay = Relay(note, aloud=State.voice is not None)


def note(text: str) -> None:
    """Say a warning that goes to our descriptor alone."""
    if State.voice is not None:
        State.voice.say("windlass.logs", (Entry(logging.WARNING, time.time(), text),))


def close() -> None:
    """Give the handlers of the application a moment to take what they have not, and to write what they hold back."""
    if State.relay is not None:
        State.relay.close()


def write(text: str) -> None:
    """Write lines as they are to where our log goes, such as a dump of stacks."""
    outlet = State.outlet or Outlet(2)
    outlet.write([f"{line}\n".encode("utf-8", "backslashreplace") for line in text.splitlines()])
    if outlet is not State.outlet:
        outlet.close()


def own_stderr() -> int:
    """The descriptor of stderr that is ours, for a dump; the process's own where nothing was configured."""
    return 2 if State.outlet is None else State.outlet.fd


def _after_fork() -> None:
    """In a fork there are no threads, and a lock may be held by one of those that are missing."""
    State.relay = None
    if State.outlet is not None:
        State.outlet.make_lock()


os.register_at_fork(after_in_child=_after_fork)
