"""How a process that was forked from the zygote begins and ends: with exit handlers of its own, as a program has them.

What the application registered while it was loaded belongs to the process that loaded it. A fork that ran it too would
remove the temporary folder of its siblings, so each fork starts with none. What is registered later, by the jobs and
the libraries that they import, runs when the fork ends in order; and what was written is flushed.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import logging
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from typing import Any, NoReturn

from windlass import logs

__all__ = ["FAILED", "end", "live"]

END_WITHIN = 12.0  # seconds for handlers and threads; the supervisor is less patient, but it may be gone
FAILED = 70  # EX_SOFTWARE: something raised that nobody expected


def live(life: Callable[[], int]) -> NoReturn:
    """Be a forked process: run its life, then end with the exit code that it gives. Nothing behind the fork goes on."""
    code = FAILED
    try:
        forget_exits()
        code = life()
    except BaseException:  # noqa: BLE001 - it must not unwind into what the zygote was doing
        with contextlib.suppress(Exception):
            traceback.print_exc()
    end(code)


def end(code: int, *, in_order: bool = True, join: bool = True) -> NoReturn:
    """End this process; ``in_order``: after its exit handlers; ``join``: and after its threads that are no daemons."""
    if in_order:
        with contextlib.suppress(BaseException):
            faulthandler.dump_traceback_later(END_WITHIN, exit=True, file=logs.own_stderr())
        if join:
            with contextlib.suppress(BaseException):
                module: Any = threading
                module._shutdown()
        with contextlib.suppress(BaseException):
            handlers: Any = atexit
            handlers._run_exitfuncs()
    with contextlib.suppress(BaseException):
        logs.close()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os._exit(code)


def forget_exits() -> None:
    """Drop the exit handlers that were inherited, except those that keep books per process."""
    handlers: Any = atexit
    handlers._clear()
    atexit.register(logging.shutdown)
    finalize: Any = weakref.finalize
    for one in list(finalize._registry):
        one.atexit = False
    if finalize._registered_with_atexit:
        atexit.register(finalize._exitfunc)
    processes: Any = sys.modules.get("multiprocessing.util")
    if processes is not None:
        processes._finalizer_registry.clear()
        helpers: Any = sys.modules["multiprocessing.process"]
        helpers._children.clear()  # they are the loader's, to wait for and to end
        atexit.register(processes._exit_function)
