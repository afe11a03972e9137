"""The job that runs in this thread or coroutine, for code that must know of it without knowing jobs."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, Protocol

__all__ = ["RUNNING", "Running", "hide_in_job"]


class Running(Protocol):
    """What is asked of the context of a job by those below it."""

    @property
    def id(self) -> str: ...

    @property
    def name(self) -> str: ...

    def _hide(self, text: str) -> str:
        """Mask what the job redacts."""
        ...


RUNNING: Final[ContextVar[Running]] = ContextVar("windlass_job")
"""Set by the worker; unset outside of jobs."""


def hide_in_job(text: str) -> str:
    """Mask what the job redacts that runs here, if one does."""
    job = RUNNING.get(None)
    return text if job is None else job._hide(text)
