"""What every thread and coroutine of a process is doing, written to our log when somebody asks (USR1, TTIN).

And where one job is. That is said in bounds, whatever its code is called: files and names are not looked into, and what
is in variables is not in it.

A dump happens with the interpreter lock, or frames would change while they are read. ``LAST_LOOK`` shows a process
whose threads do not get to run: ``faulthandler`` answers it without the lock. That may crash a process that does run,
so only one that is about to be killed gets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import TypeAlias

from msgspec import Struct

from windlass import logs
from windlass.logs.lines import printable
from windlass.worker.attempt.execute import run_async, run_sync

__all__ = ["DUMPS", "LAST_LOOK", "Stack", "dump_on_signals", "frames_of", "stack_of_task", "stack_of_thread", "where"]

DUMPS = (signal.SIGUSR1, signal.SIGTTIN)
PLACES = 50  # innermost ones of a stack that are looked at
TEXT = 160  # characters of the name of a file or a function, the last ones
UNKNOWN = "an unknown place"
BODIES = (run_sync.__code__, run_async.__code__)
LIBRARIES = ("<frozen", *(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(os.__file__).parent)))

Place: TypeAlias = tuple[str, int, str]  # file, line and name

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


def frames_of(coroutine: object) -> Iterator[Place]:
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


class Stack(Struct, frozen=True):
    """Where a job is: the innermost line that is neither windlass's nor of Python's own library, and the way there.

    Each place is ``file:line in name``, the outermost first.
    """

    line: str
    places: tuple[str, ...]


def stack_of_thread(ident: int) -> Stack:
    """Where the job is that runs in a thread, or the coroutine that is on in the thread of a loop."""
    return stack_of(frames_below(sys._current_frames().get(ident)))


def stack_of_task(task: asyncio.Task[object]) -> Stack:
    """Where a task awaits, through the tasks that it awaits. The loop must be in no other code meanwhile."""
    places: deque[Place] = deque(maxlen=PLACES)
    for _ in range(PLACES):
        places.extend(frames_of(task.get_coro()))
        awaited = getattr(task, "_fut_waiter", None)
        if not isinstance(awaited, asyncio.Task):
            break
        task = awaited
    return stack_of([*places][::-1])


def stack_of(places: Sequence[Place]) -> Stack:
    """Make a stack of places, the innermost first."""
    own = [number for number, (file, _, _) in enumerate(places) if not is_library(file)]
    inner = [show_place(one) for one in (places[: own[-1] + 1] if own else places)]
    line = inner[own[0]] if own else (inner or [UNKNOWN])[0]
    return Stack(line, tuple(reversed(inner)))


def frames_below(frame: FrameType | None) -> list[Place]:
    """The places of a stack down to the body of the job that runs in it, the innermost first."""
    places: list[Place] = []
    while frame is not None and frame.f_code not in BODIES and len(places) < PLACES:
        places.append(place(frame))
        frame = frame.f_back
    return places


def where(frame: FrameType | None) -> str:
    """The line that a stack is at; see ``Stack``."""
    return stack_of(frames_below(frame)).line


def place(frame: FrameType) -> Place:
    return frame.f_code.co_filename, frame.f_lineno or 0, frame.f_code.co_qualname


def is_library(file: str) -> bool:
    """Whether a file is windlass's or Python's own; packages that stand in its library's folder are not."""
    return file.startswith(LIBRARIES) and "-packages" not in file


def show_place(one: Place) -> str:
    file, line, name = one
    return f"{shorten(file)}:{line} in {shorten(name)}"


def shorten(text: str) -> str:
    """The end of a text that may be anything, on one line and fit to be stored."""
    text = "".join((text,))  # a subclass of str would bring its own methods along
    return printable(text if len(text) <= TEXT else f"...{text[-TEXT:]}")
