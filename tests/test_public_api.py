"""The names users import, and that importing them is light."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import windlass
from windlass import JobError, JobInfo, errors

NAMES = set(
    """
    AsyncJob Call Circuit CircuitOpen Concurrency ConfigError Constant Dead Discard Duplicate EngineFull
    EngineUnavailable Exponential Job JobCancelled JobContext JobError JobFailed JobHandle JobInfo LeaseLost
    Linear LockBusy LockLost NotInJob Once Page PayloadError Rate ResultExpired ResultNotStored ResultTimeout
    Retry RetryAfter Snooze State TransitionRefused Unique Windlass WindlassError __version__ current_job on
    Batch StepInfo Workflow WorkflowHandle WorkflowInfo chain group
    """.split()  # noqa: SIM905
)

# Drivers, servers' clients and the command line; and what only an error, a question of people or a death needs.
HEAVY = set(
    """
    apsw redis hiredis click rich watchfiles cronsim
    asyncio concurrent.futures multiprocessing subprocess socket ssl http.client email.utils logging.config tempfile
    shutil hashlib hmac secrets base64 difflib tomllib getpass importlib.util sqlite3
    windlass.engines.sqlite windlass.engines.redis windlass.worker windlass.cli windlass.bench windlass.testing
    windlass.insight.explain windlass.insight.stats windlass.dead.lines windlass.guards.limits
    """.split()  # noqa: SIM905
)


def test_the_public_names_are_these() -> None:
    assert set(windlass.__all__) == NAMES
    for name in windlass.__all__:
        assert getattr(windlass, name) is not None


def test_errors_at_the_top_are_those_of_the_errors_module() -> None:
    for name in windlass.__all__:
        found = getattr(windlass, name)
        if isinstance(found, type) and issubclass(found, Exception):
            assert found is getattr(errors, name)


def test_the_records_people_see_have_these_fields() -> None:
    info = """
        id name queue state args kwargs attempt max_attempts errors enqueued_at run_at started_at finished_at progress
        result tags reason worker held workflow step batches
    """
    assert [field.name for field in fields(JobInfo)] == info.split()
    assert [field.name for field in fields(JobError)] == (
        ["type", "message", "traceback", "at", "attempt", "host", "worker", "version"]
    )


def test_the_version_is_that_of_the_project() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'version = "{windlass.__version__}"' in project


def test_importing_loads_no_driver_and_nothing_heavy() -> None:
    code = f"import sys, windlass; print([name for name in {HEAVY!r} if name in sys.modules])"
    source = str(Path(windlass.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": source}, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
