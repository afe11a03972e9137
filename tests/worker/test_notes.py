"""Notes on their way from a run to the store, and back to the next run."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from test_pump import Gate, working

from servers import until
from windlass import JobContext, Snooze, State, Windlass
from windlass.core.work import Lease, LeaseRef, Note, Settled
from windlass.errors import EngineUnavailable, PayloadError
from windlass.jobs.info import JobProgress
from windlass.worker import pump
from windlass.worker.attempt.run import JobRun
from windlass.worker.notes import Notes


class Run:
    """What notes ask of a run."""

    def __init__(self, job_id: str, fence: int) -> None:
        self.lease = LeaseRef(job_id, fence)


def test_notes_are_told_in_order_and_those_that_could_not_be_told_come_first() -> None:
    notes = Notes()
    run: JobRun = Run("a", 7)  # type: ignore[assignment]
    notes.add(run, "x", "1")
    notes.add(run, "x", None, durable=True)
    taken = notes.take()
    assert taken == [Note("a", 7, "x", "1"), Note("a", 7, "x", None, durable=True)]
    assert notes.take() == []
    notes.add(run, "x", "2")
    notes.take_back(taken)
    assert notes.take() == [*taken, Note("a", 7, "x", "2")]


def test_an_outage_loses_no_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "OUTAGE_PAUSE", 0.01)
    outages: list[Exception] = [EngineUnavailable("the store is away")] * 3
    with Windlass("memory://", threads=1) as app:
        gate = Gate(app)
        note = app.engine.note

        def away(notes: Sequence[Note]) -> list[Settled]:
            if outages:
                raise outages.pop()
            return note(notes)

        monkeypatch.setattr(app.engine, "note", away)
        handle = gate.job.enqueue()
        with working(app) as worker:
            until(lambda: gate.entered, "the job does not run")
            (run,) = worker._held.runs()
            run.note("cursor:main", "1")
            run.note("cursor:main", "2")
            run.note("progress", '{"done":1}')
            until(lambda: handle.progress() == JobProgress(1.0, None, None), "the store is not told")
            row = app.engine.job(handle.id)
            assert row is not None
            assert (row.notes, outages) == ((("cursor:main", "2"),), [])
            gate.open()
            until(lambda: handle.state is State.DONE, "the job does not end")


def test_the_next_run_has_what_the_last_one_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    leases: list[Lease] = []
    with Windlass("memory://", threads=1) as app:

        @app.job(name="noting")
        def noting(ctx: JobContext) -> None:
            run = ctx._run
            assert isinstance(run, JobRun)
            leases.append(run.lease)
            if len(leases) == 1:
                with pytest.raises(PayloadError, match=f"job {ctx.id} notes too much"):
                    run.note("big", "x" * 2**21)
                run.note("step:a", "1", durable=True)
                raise Snooze(0.001)
            assert run.notebook is None
            run.note("step:b", "2")
            assert run.notebook is not None
            assert run.notebook.get("step:a") == "1"

        handle = noting.enqueue()
        with working(app):
            until(lambda: handle.state is State.DONE, "the job does not end")
        row = app.engine.job(handle.id)
    assert [lease.notes for lease in leases] == [(), (("step:a", "1"),)]
    assert row is not None
    assert row.notes == (("step:a", "1"), ("step:b", "2"))


def test_a_step_whose_value_cannot_be_kept_is_not_done_again_by_retries() -> None:
    calls = []

    def charge() -> object:
        calls.append(1)
        return {1}

    with Windlass("memory://", threads=1) as app:

        @app.job(name="stepping", retry=5)
        def stepping(ctx: JobContext) -> None:
            ctx.step("charge", charge)

        handle = stepping.enqueue()
        with working(app):
            until(lambda: handle.state is State.DEAD, "the job does not end")
        info = handle.info()
    assert (len(calls), len(info.errors)) == (1, 1)
    assert info.errors[0].type == "windlass.errors.StepNotKept"
    assert info.reason is not None
    assert info.reason.startswith(f"step 'charge' of job {handle.id}: value is a set")
