"""A terminal that is drawn on again and again: the alternate screen, keys without Enter, and all undone at the end.

Must not know what is drawn. Invariants: the terminal is restored on every way out (a key, Ctrl-C, an error, a signal
that ends the process) and while the process is suspended; nothing is drawn outside the window. For the main thread.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import Final, TypeAlias

__all__ = ["Screen"]

Handler: TypeAlias = "Callable[[int, FrameType | None], object] | int | None"

# The alternate screen, no cursor, no wrapping; and back.
ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l"
LEAVE: Final = "\x1b[?7h\x1b[?25h\x1b[?1049l"
HOME: Final = "\x1b[H"
REST_OF_LINE: Final = "\x1b[K"
REST: Final = "\x1b[J"

ENDING: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
RESUMED: Final = (signal.SIGCONT, signal.SIGWINCH)


class Ended(BaseException):
    """A signal that ends the process came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Screen:
    """The terminal on stdout, and the keys of stdin where that is a terminal too. A context manager."""

    def __init__(self) -> None:
        self._out = sys.stdout.fileno()
        self._keys = sys.stdin.fileno() if sys.stdin.isatty() else None
        self._modes: list[int | list[bytes | int]] | None = None
        self._handlers: dict[int, Handler] = {}
        self._wakeup = -1

    def __enter__(self) -> Screen:
        self._wake = os.pipe()
        for end in self._wake:
            os.set_blocking(end, False)
        self._wakeup = signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        for number in (*ENDING, *RESUMED, signal.SIGTSTP):
            self._handlers[number] = signal.getsignal(number)
        for number in ENDING:
            signal.signal(number, self._end)
        for number in RESUMED:
            signal.signal(number, self._resume)
        signal.signal(signal.SIGTSTP, self._suspend)
        if self._keys is not None:
            self._modes = termios.tcgetattr(self._keys)
        try:
            self._take()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._give_back()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for end in self._wake:
            os.close(end)
        if isinstance(error, Ended):
            signal.signal(error.number, signal.SIG_DFL)
            os.kill(os.getpid(), error.number)  # whoever waits for this process learns what ended it

    @property
    def size(self) -> os.terminal_size:
        """Columns and lines of the window."""
        try:
            columns, lines = os.get_terminal_size(self._out)
        except OSError:  # it has gone; SIGHUP tells
            columns = lines = 0
        return os.terminal_size((columns or 80, lines or 24))  # some terminals do not tell

    def show(self, lines: Sequence[str]) -> None:
        """Draw lines from the top; those that have no room are left out."""
        rows = self.size.lines
        # A line is erased before it is drawn: behind a full line the cursor stands on its last character.
        drawn = [f"{REST_OF_LINE}{line}" for line in lines[:rows]]
        if len(drawn) < rows:
            drawn.append(REST)
        self._write(HOME + "\r\n".join(drawn))

    def wait(self, seconds: float) -> str | None:
        """Wait for a key. Gives it; "" when it is time to draw again before that, None when the time is over."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            watched = [self._wake[0]] if self._keys is None else [self._wake[0], self._keys]
            ready, _, _ = select.select(watched, [], [], left)
            if self._wake[0] in ready:
                os.read(self._wake[0], 4096)
                return ""
            if self._keys in ready:
                assert self._keys is not None
                try:
                    pressed = os.read(self._keys, 64)
                except OSError:
                    pressed = b""
                if pressed:
                    return pressed.decode(errors="replace")
                self._keys = None  # closed; nobody will press a key any more
        return None

    # -- the terminal --

    def _take(self) -> None:
        if self._keys is not None:
            tty.setcbreak(self._keys, termios.TCSANOW)  # signals of the keyboard go on as usual
        self._write(ENTER)

    def _give_back(self) -> None:
        self._write(LEAVE)
        if self._keys is not None and self._modes is not None:
            try:
                termios.tcsetattr(self._keys, termios.TCSANOW, self._modes)
            except termios.error:
                pass  # the terminal has gone

    def _write(self, text: str) -> None:
        data = text.encode(sys.stdout.encoding or "utf-8", "replace")
        try:
            while data:
                data = data[os.write(self._out, data) :]
        except OSError:
            pass  # the terminal has gone; SIGHUP tells

    # -- signals --

    def _end(self, number: int, _: FrameType | None) -> None:
        raise Ended(number)

    def _suspend(self, number: int, _: FrameType | None) -> None:
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._suspend)  # from here on it is resumed

    def _resume(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGCONT:
            self._take()
