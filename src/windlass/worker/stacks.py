"""What every thread and coroutine of a process is doing, written to our log when somebody asks (USR1, TTIN).

The threads come from ``faulthandler``, which needs no interpreter lock: they are shown at once, also of a process that
is stuck in a C call. The coroutines follow as soon as Python gets to run. Nothing here allocates much or takes a lock
of the application.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import signal
from collections.abc import Callable, Iterable, Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType

from windlass import logs

__all__ = ["DUMPS", "dump_on_signals", "frames_of", "where"]

DUMPS = (signal.SIGUSR1, signal.SIGTTIN)


def dump_on_signals(describe: Callable[[], Iterable[str]], tasks: Callable[[], Iterable[asyncio.Task[object]]]) -> None:
    """Write stacks when a signal asks for them. ``describe`` says in a few lines what this process is running."""

    def dump(_number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BaseException):  # it interrupts the main thread, which has other work
            lines = [*describe()]
            for task in tasks():
                lines.append(f"Task {task.get_name()} (most recent call last):")
                lines += [f'  File "{file}", line {line} in {name}' for file, line, name in frames_of(task.get_coro())]
            logs.write("\n".join(lines))

    for number in DUMPS:
        signal.signal(number, dump)
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # stderr is closed
            faulthandler.register(number, file=logs.own_stderr(), all_threads=True, chain=True)


def frames_of(coroutine: object) -> Iterator[tuple[str, int, str]]:
    """File, line and name of each frame of a coroutine that waits, the outermost first.

    Only Python's own kinds are looked into: an attribute of any other object may be code of the application.
    """
    seen: set[int] = set()
    while id(coroutine) not in seen:
        seen.add(id(coroutine))
        if isinstance(coroutine, CoroutineType):
            frame, coroutine = coroutine.cr_frame, coroutine.cr_await
        elif isinstance(coroutine, GeneratorType):
            frame, coroutine = coroutine.gi_frame, coroutine.gi_yieldfrom
        elif isinstance(coroutine, AsyncGeneratorType):
            frame, coroutine = coroutine.ag_frame, coroutine.ag_await
        else:
            return
        if frame is not None:
            yield place(frame)


def where(frame: FrameType | None, foreign: tuple[str, ...]) -> str:
    """The innermost place of a stack that is in none of the ``foreign`` files, as ``file:line in name``."""
    while frame is not None:
        file, line, name = place(frame)
        if not file.startswith(foreign):
            return f"{file}:{line} in {name}"
        frame = frame.f_back
    return "an unknown place"


def place(frame: FrameType) -> tuple[str, int, str]:
    return frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_qualname
