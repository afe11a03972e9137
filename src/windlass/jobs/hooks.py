"""Functions that a job's death or retry calls: ``@app.on_dead``, ``@charge.on_retry`` and their like.

A hook sees the job as it is stored after the outcome was accepted, so one that mails somebody never mails about a job
that another worker owns. Deaths that no worker decided (a job that killed its process, one interrupted too often) call
it too. It runs on a thread of its own in a worker process, never in the job's slot. Invariants: an error in a hook is
logged with the hook's name and changes nothing; a process that dies takes the calls it still owed with it, so what must
happen for certain belongs into a job.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from windlass.core.errors import ConfigError
from windlass.core.foreign import Shield, name_of
from windlass.jobs.info import JobInfo
from windlass.logs import Log

__all__ = ["Hook", "Hooks", "Moment"]

log = Log("windlass.hooks")

Hook = TypeVar("Hook", bound=Callable[[JobInfo], object])


class Moment(StrEnum):
    """When a hook is called."""

    RETRY = "retry"  # a run failed and the job runs again
    DEAD = "dead"


class Hooks:
    """The hooks of one application."""

    def __init__(self) -> None:
        # None is every job. Tuples that are replaced whole: readers need no lock.
        self._hooks: dict[tuple[Moment, str | None], tuple[Callable[[JobInfo], object], ...]] = {}

    def add(self, moment: Moment, fn: Hook, job: str | None = None) -> Hook:
        """Register a hook for one job, or for all. Raises ConfigError for a function that takes no JobInfo."""
        name = f"the hook {name_of(fn)} of on_{moment}"
        if not callable(fn):
            raise ConfigError(f"{name} is not a function; decorate one that takes a JobInfo")
        if inspect.iscoroutinefunction(fn):
            raise ConfigError(f"{name} is async; hooks are plain functions, called on a thread of their own")
        try:
            inspect.signature(fn).bind(None)
        except TypeError as error:
            raise ConfigError(f"{name} must take one argument, the JobInfo: {error}") from None
        except ValueError:
            pass  # a built-in one without a signature
        self._hooks[moment, job] = (*self._hooks.get((moment, job), ()), fn)
        return fn

    def wants(self, moment: Moment) -> bool:
        """Whether any hook waits for this moment."""
        return any(known is moment for known, _ in self._hooks)

    def call(self, moment: Moment, info: JobInfo, job: str) -> None:
        """Call the hooks of this job, then those of all jobs. *Never fails.*"""
        for fn in (*self._hooks.get((moment, job), ()), *self._hooks.get((moment, None), ())):
            with Shield(log, "the hook %s of on_%s failed on job %s", name_of(fn), moment, info.id):
                fn(info)
