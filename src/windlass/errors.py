"""The exception tree.

    WindlassError
    ├── ConfigError                 a wrong setting, option, name or URL; raised where it is written
    │   └── UnknownOption           a keyword that does not exist; a TypeError too
    ├── FileRefused                 a file that is not ours, or no regular file; an OSError too
    ├── PayloadError                arguments or a result that would not survive the store
    │   └── StepNotKept             what a step of a job gave; a job that it leaves is dead, as if it had raised Dead
    ├── EngineError
    │   ├── EngineUnavailable       the store cannot be reached or is busy; the same call may work later
    │   │   ├── EngineUnusable      it never will: not a database, a newer schema, a wrong password
    │   │   └── GuardUnavailable    a lock or circuit could not ask its store; a job that it leaves is given back
    │   ├── EngineFull              the store refused a write for want of space; nothing was half-stored
    │   └── EngineDamaged           the store holds what is not sound, and it could not be repaired
    ├── Duplicate                   a unique key is taken and the conflict rule says raise
    ├── ResultError
    │   ├── JobFailed               the job is dead; carries its JobInfo errors
    │   ├── JobCancelled            the job ended cancelled
    │   ├── ResultTimeout           not finished within the timeout
    │   ├── ResultExpired           the record is no longer kept
    │   └── ResultNotStored         the job is done but its result could not be stored
    ├── JobTimeout                  the run took longer than its timeout
    ├── JobStalled                  the run made no progress for its stall_after, and was ended for it
    ├── JobInterrupted              the run was interrupted more often than max_interruptions allows
    ├── RecordDamaged               the job's record was damaged in the store; what could be kept of it is kept
    ├── LeaseLost                   another worker owns the job now
    ├── LockBusy                    somebody else holds the lock; a job that it leaves is given back
    ├── LockLost                    the lock's lease ran out, and somebody else may hold it
    ├── CircuitOpen                 the circuit lets no call through now; a job that it leaves is given back
    ├── TransitionRefused           cancel, retry or delete of a job whose state does not allow it
    ├── TransactionTooLong          a job's transaction held the only writer of its store for too long
    ├── NotInJob                    a context was asked for outside a job
    └── Control                     raised by a job, anywhere below it, to say how its run ends
        ├── Snooze                  later, no attempt used
        ├── RetryAfter              a failed attempt with a delay of its own
        ├── Discard                 the job ends cancelled
        └── Dead                    the job ends dead

Every message says what happened, to which id or queue, and what to do. Engines translate their driver's errors at
their boundary; only EngineUnavailable is ever retried.
"""

from __future__ import annotations

from windlass.core.control import Control, Dead, Delayed, Discard, RetryAfter, Snooze, StepNotKept
from windlass.core.errors import (
    CircuitOpen,
    ConfigError,
    Duplicate,
    EngineDamaged,
    EngineError,
    EngineFull,
    EngineUnavailable,
    EngineUnusable,
    FileRefused,
    GuardUnavailable,
    JobCancelled,
    JobFailed,
    JobInterrupted,
    JobStalled,
    JobTimeout,
    LeaseLost,
    LockBusy,
    LockLost,
    NotInJob,
    PayloadError,
    RecordDamaged,
    ResultError,
    ResultExpired,
    ResultNotStored,
    ResultTimeout,
    TransactionTooLong,
    TransitionRefused,
    UnknownOption,
    WindlassError,
)

__all__ = [
    "CircuitOpen",
    "ConfigError",
    "Control",
    "Dead",
    "Delayed",
    "Discard",
    "Duplicate",
    "EngineDamaged",
    "EngineError",
    "EngineFull",
    "EngineUnavailable",
    "EngineUnusable",
    "FileRefused",
    "GuardUnavailable",
    "JobCancelled",
    "JobFailed",
    "JobInterrupted",
    "JobStalled",
    "JobTimeout",
    "LeaseLost",
    "LockBusy",
    "LockLost",
    "NotInJob",
    "PayloadError",
    "RecordDamaged",
    "ResultError",
    "ResultExpired",
    "ResultNotStored",
    "ResultTimeout",
    "RetryAfter",
    "Snooze",
    "StepNotKept",
    "TransactionTooLong",
    "TransitionRefused",
    "UnknownOption",
    "WindlassError",
]

# Their names are stored with jobs and written in settings, so they do not tell in which file a class happens to stand.
for _name in __all__:
    globals()[_name].__module__ = __name__
