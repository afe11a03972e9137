"""The exceptions that windlass raises, but for those that a job raises to say how its run ends (``control``).

``windlass.errors`` is where users find them, and draws the tree. Imports nothing, so every module may raise.
"""

from __future__ import annotations

MESSAGE_MAX = 4_000  # characters: an argument that a message names may have millions


class WindlassError(Exception):
    """Root of all errors that windlass raises."""

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= MESSAGE_MAX else f"{text[: MESSAGE_MAX // 2]} ... {text[-MESSAGE_MAX // 2 :]}"


class ConfigError(WindlassError, ValueError):
    """A setting, option, name or URL is wrong; the message names it and the nearest valid spelling."""


class UnknownOption(ConfigError, TypeError):
    """There is no such keyword; the message names the nearest one. Python's own error for it would be a TypeError."""


class FileRefused(WindlassError, OSError):
    """A path leads to something that windlass does not read or write: a link, a device, a file of another user."""

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class PayloadError(WindlassError, ValueError):
    """A value would not survive the store; the message names its path, such as ``args[0].items[3]``."""


class EngineError(WindlassError):
    """Root of the errors of a store."""


class EngineUnavailable(EngineError):
    """The store cannot be reached or is busy. Nothing was half-stored; the same call may work later."""


class EngineUnusable(EngineUnavailable):
    """The store will not work until someone changes something (not a database, newer schema, wrong password)."""


class GuardUnavailable(EngineUnavailable):
    """A lock or a circuit could not ask its store, so what it guards was not run."""


class EngineFull(EngineError):
    """The store refused the write for want of space. Nothing was half-stored."""


class EngineDamaged(EngineError):
    """A call failed over what the store holds, and nothing was found that could be repaired. ``doctor`` tells more."""


class Duplicate(WindlassError):
    """A unique key is taken by a live job and the conflict rule is ``raise``."""

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class ResultError(WindlassError):
    """Root of what ``handle.result()`` raises; ``job_id`` names the job."""

    def __init__(self, message: str, job_id: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobFailed(ResultError):
    """The job is dead."""


class JobCancelled(ResultError):
    """The job ended cancelled. Also raised inside a running job whose cancel was requested."""


class ResultTimeout(ResultError, TimeoutError):
    """The job did not finish within the timeout."""


class ResultExpired(ResultError):
    """The job's record is no longer kept, so its result is gone."""


class ResultNotStored(ResultError):
    """The job is done, but its result could not be stored (too large, or not JSON)."""


class JobTimeout(WindlassError, TimeoutError):
    """The run took longer than the job's timeout; an attempt is used."""


class JobStalled(WindlassError, TimeoutError):
    """The run made no progress for ``stall_after``, and was ended for it; an attempt is used."""


class JobInterrupted(WindlassError):
    """The run was interrupted by stopping workers more often than ``max_interruptions``; an attempt is used."""


class RecordDamaged(WindlassError):
    """The record of the job was damaged in the store. The job is dead, with what could be kept of it."""


class LeaseLost(WindlassError):
    """Another worker owns the job now; nothing this run writes will be accepted."""


class LockBusy(WindlassError):
    """Somebody else holds the lock. Leaving a job, it puts the job back with no attempt used."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


class LockLost(WindlassError):
    """The lock's lease ran out or somebody released it by force: another may hold it now. Stop without writing."""


class CircuitOpen(WindlassError):
    """The circuit lets no call through. ``retry_in`` is when to ask again, in seconds; None: when somebody closes it.

    Leaving a job, it puts the job back with no attempt used.
    """

    def __init__(self, message: str, name: str, retry_in: float | None) -> None:
        super().__init__(message)
        self.name = name
        self.retry_in = retry_in


class TransitionRefused(WindlassError):
    """The job's state does not allow what was asked; the message says which states do."""


class TransactionTooLong(WindlassError):
    """A job's transaction held the store's only writer for more than half of ``renew``; it was rolled back."""


class NotInJob(WindlassError, RuntimeError):
    """A job context was asked for outside a running job."""
