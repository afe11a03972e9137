"""What every thread and coroutine of a process is doing, written to our log when somebody asks (USR1, TTIN).

That happens with the interpreter lock, or frames would change while they are read. ``LAST_LOOK`` shows a process whose
threads do not get to run: ``faulthandler`` answers it without the lock. That may crash a process that does run, so only
one that is about to be killed gets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import signal
from collections.abc import Callable, Iterable, Iterator
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType

from windlass import logs

__all__ = ["DUMPS", "LAST_LOOK", "dump_on_signals", "frames_of", "where"]

DUMPS = (signal.SIGUSR1, signal.SIGTTIN)
LAST_LOOK: int | None = signal.SIGRTMAX - 1 if hasattr(signal, "SIGRTMAX") else None  # that no application uses


def dump_on_signals(describe: Callable[[], Iterable[str]], tasks: Callable[[], Iterable[asyncio.Task[object]]]) -> None:
    """Write stacks when a signal asks for them. ``describe`` says in a few lines what this process is running."""

    def dump(_number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(BaseException):  # it interrupts the main thread, which has other work
            faulthandler.dump_traceback(logs.own_stderr(), all_threads=True)
            lines = [*describe()]
            for task in tasks():
                lines.append(f"Task {task.get_name()} (most recent call last):")
                lines += [f'  File "{file}", line {line} in {name}' for file, line, name in frames_of(task.get_coro())]
            logs.write("\n".join(lines))

    for number in DUMPS:
        signal.signal(number, dump)
    if LAST_LOOK is not None:
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # stderr is closed
            faulthandler.register(LAST_LOOK, file=logs.own_stderr(), all_threads=True)


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
