"""What the exit codes of the ``windlass`` command mean, and which error gives which.

Invariant: a script can tell a failed job (1) from a wrong command (2), an absent store (3) and an absent worker (69).
Source of the numbers: the contract of the command line; 69 is EX_UNAVAILABLE of sysexits.h, 130 is 128 + SIGINT.
"""

from __future__ import annotations

from typing import Final

from windlass.core.errors import ConfigError, EngineUnavailable, FileRefused, PayloadError, WindlassError

__all__ = ["ENGINE_AWAY", "FAILED", "INTERRUPTED", "NO_WORKER", "WRONG_USE", "NoLiveWorker", "exit_code"]

FAILED: Final = 1
WRONG_USE: Final = 2
ENGINE_AWAY: Final = 3
NO_WORKER: Final = 69
INTERRUPTED: Final = 130


class NoLiveWorker(WindlassError):
    """Nobody is there to run the job that a command waits for."""


def exit_code(error: WindlassError) -> int:
    """Give the exit code of an error that ends a command."""
    match error:
        case ConfigError() | PayloadError() | FileRefused():
            return WRONG_USE
        case EngineUnavailable():
            return ENGINE_AWAY
        case NoLiveWorker():
            return NO_WORKER
        case _:
            return FAILED
