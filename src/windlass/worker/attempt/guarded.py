"""Runs of jobs that have a circuit: the call of the dependency is the run itself.

The claim has let the job through, but it may have waited here since; so the circuit is asked once more when the run
begins, and a job that it refuses goes back to its place with nothing charged. The same happens when the store cannot be
asked: nothing runs unguarded.
"""

from __future__ import annotations

from collections.abc import Callable

from windlass.core.errors import CircuitOpen, EngineError
from windlass.core.foreign import Shield
from windlass.core.model import GuardKind
from windlass.core.work import LeaseRef, Outcome
from windlass.guards.circuit import Circuit
from windlass.guards.verdict import Verdict
from windlass.logs import Log
from windlass.worker.attempt.execute import run_async, run_sync
from windlass.worker.attempt.outcomes import released
from windlass.worker.attempt.run import JobRun

__all__ = ["count_outlived", "run_async_guarded", "run_guarded"]

log = Log("windlass.job")

UNCOUNTED = "the end of job %s %s could not be counted in its circuit %s"


def run_guarded(run: JobRun, body: Callable[[JobRun], Outcome | None] = run_sync) -> Outcome | None:
    """Run a job through its circuit, if it has one, to its outcome: a sync one here, or where ``body`` runs it."""
    circuit = circuit_of(run)
    if circuit is None:
        return body(run)
    try:
        passed = run.passed = circuit.enter(ref_of(run))
    except (CircuitOpen, EngineError) as error:
        return refused(run, error)
    outcome = body(run)
    if run.passed is not None:
        with Shield(log, UNCOUNTED, run.lease.name, run.lease.id, circuit.name):
            # A child process judged the error that it alone has seen; that one was killed for its time, we know.
            circuit.note(passed, run.verdict or verdict_of(run, circuit, passed.began))
    return outcome


def count_outlived(run: JobRun) -> None:
    """Count a run in a thread that goes on though its time is up, now: its process may end before it does."""
    circuit, passed = circuit_of(run), run.passed
    if circuit is not None and passed is not None:
        run.passed = None
        circuit.note(passed, circuit.judge(passed.began, None, timed_out=True))


async def run_async_guarded(run: JobRun) -> Outcome | None:
    """Run an async job through its circuit, if it has one, to its outcome."""
    circuit = circuit_of(run)
    if circuit is None:
        return await run_async(run)
    try:
        passed = await circuit.aenter(ref_of(run))
    except (CircuitOpen, EngineError) as error:
        return refused(run, error)
    outcome = await run_async(run)
    # A cancel that comes only now, of a timeout for example, changes nothing either: the body has ended.
    with Shield(log, UNCOUNTED, run.lease.name, run.lease.id, circuit.name):
        await circuit.anote(passed, verdict_of(run, circuit, passed.began))
    return outcome


def verdict_of(run: JobRun, circuit: Circuit, began: float) -> Verdict:
    """What a run that began at ``began`` says of its dependency; redacted arguments are not in it."""
    return circuit.judge(began, run.error, run.timed_out, hide=run.hide)


def circuit_of(run: JobRun) -> Circuit | None:
    """The circuit that the job was enqueued with. One that this process does not know is judged at the claim alone."""
    circuits = run.prepared.circuits
    if circuits is None:
        return None
    for guard in run.lease.guards:
        if guard.kind is GuardKind.CIRCUIT:
            return circuits.find(guard.key)
    return None


def ref_of(run: JobRun) -> LeaseRef:
    """The proof that the job runs."""
    return LeaseRef(run.lease.id, run.lease.fence)


def refused(run: JobRun, error: Exception) -> Outcome:
    """Give a job back that did not begin."""
    run.error = error
    return released(run)
