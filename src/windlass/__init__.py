"""Background jobs, safe by default: one API on several engines.

Start with ``app = Windlass()`` and ``@app.job``. Exceptions live in ``windlass.errors``, events in ``windlass.events``;
what user code catches or raises is also here. Importing this package loads no driver and touches no store.
"""

from windlass.app import Windlass
from windlass.core.model import State
from windlass.core.retry import Constant, Exponential, Linear, Retry, on
from windlass.errors import (
    CircuitOpen,
    ConfigError,
    Dead,
    Discard,
    Duplicate,
    EngineFull,
    EngineUnavailable,
    JobCancelled,
    JobFailed,
    LeaseLost,
    LockBusy,
    LockLost,
    NotInJob,
    PayloadError,
    ResultExpired,
    ResultNotStored,
    ResultTimeout,
    RetryAfter,
    Snooze,
    TransitionRefused,
    WindlassError,
)
from windlass.flow.batch import Batch
from windlass.flow.chain import chain
from windlass.flow.group import group
from windlass.flow.handle import StepInfo, WorkflowHandle, WorkflowInfo
from windlass.flow.workflow import Workflow
from windlass.guards import Circuit, Concurrency, Once, Rate, Unique
from windlass.jobs.call import Call
from windlass.jobs.context import JobContext, current_job
from windlass.jobs.definition import AsyncJob, Job
from windlass.jobs.handle import JobHandle
from windlass.jobs.info import JobError, JobInfo, Page

__all__ = [
    "AsyncJob",
    "Batch",
    "Call",
    "Circuit",
    "CircuitOpen",
    "Concurrency",
    "ConfigError",
    "Constant",
    "Dead",
    "Discard",
    "Duplicate",
    "EngineFull",
    "EngineUnavailable",
    "Exponential",
    "Job",
    "JobCancelled",
    "JobContext",
    "JobError",
    "JobFailed",
    "JobHandle",
    "JobInfo",
    "LeaseLost",
    "Linear",
    "LockBusy",
    "LockLost",
    "NotInJob",
    "Once",
    "Page",
    "PayloadError",
    "Rate",
    "ResultExpired",
    "ResultNotStored",
    "ResultTimeout",
    "Retry",
    "RetryAfter",
    "Snooze",
    "State",
    "StepInfo",
    "TransitionRefused",
    "Unique",
    "Windlass",
    "WindlassError",
    "Workflow",
    "WorkflowHandle",
    "WorkflowInfo",
    "__version__",
    "chain",
    "current_job",
    "group",
    "on",
]

__version__ = "0.1.0"
