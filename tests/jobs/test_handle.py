"""Handles and JobInfo: states, results, redaction, and what is said about records that cannot be read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from windlass import Windlass
from windlass.core.history import encode_error
from windlass.core.model import RESULT_NOT_STORED, NewJob, State
from windlass.core.work import PROGRESS, Kind, Lease, Note, Outcome, Want, WorkerInfo
from windlass.errors import (
    ConfigError,
    JobCancelled,
    JobFailed,
    PayloadError,
    ResultExpired,
    ResultNotStored,
    ResultTimeout,
    TransitionRefused,
)
from windlass.jobs.handle import JobHandle
from windlass.jobs.info import JobProgress, Page
from windlass.testing.conformance.harness import place


def charge(payment_id: int, card: str = "") -> dict[str, int]:
    return {"id": payment_id}


def tomorrow() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def app() -> Iterator[Windlass]:
    with Windlass("memory://") as app:
        app.job(name="charge", redact=["card"])(charge)
        yield app


def claim(app: Windlass) -> Lease:
    app.engine.extend(WorkerInfo("w1", "g", "host", 1, "*", 10, "0", 0), [], 60_000)
    return app.engine.claim(Want("w1", 1)).leases[0]


def settle(app: Windlass, lease: Lease, kind: Kind, result: str | None = None, **more: str) -> None:
    app.engine.settle([Outcome(lease.id, lease.fence, kind, result, more.get("error"), more.get("reason"))])


def enqueue(app: Windlass, *args: object, **kwargs: object) -> JobHandle[object]:
    spec = app.registry.get("charge")
    payload = spec.signature.encode(args, kwargs)
    return stored(app, NewJob("j1", "charge", "default", payload))


def stored(app: Windlass, new: NewJob) -> JobHandle[object]:
    place(app.engine, [new])
    return JobHandle(new.id, False, app.client.reader)


def test_a_new_job_is_described_with_aware_times(app: Windlass) -> None:
    info = enqueue(app, 42).info()
    assert (info.id, info.name, info.queue, info.state) == ("j1", "charge", "default", State.READY)
    assert (info.args, info.kwargs, info.attempt, info.errors) == ((42,), {}, 0, ())
    assert info.enqueued_at.utcoffset() is not None
    assert info.started_at is None
    assert info.progress is None


def test_the_result_of_a_done_job_is_typed_by_its_annotation(app: Windlass) -> None:
    job = app.job(name="tomorrow")(tomorrow)
    handle = job.enqueue()
    settle(app, claim(app), Kind.DONE, '"2030-01-01T00:00:00Z"')
    assert handle.result() == datetime(2030, 1, 1, tzinfo=UTC)
    assert handle.info().result == handle.result()
    assert handle.state is State.DONE


def test_a_result_that_is_not_as_annotated_raises_and_is_plain_data_in_info(app: Windlass) -> None:
    handle = enqueue(app, 42)
    settle(app, claim(app), Kind.DONE, '{"id":"not a number"}')
    with pytest.raises(PayloadError, match=r"charge: the result does not come back as it is annotated: Expected `int`"):
        handle.result(timeout=5)
    assert handle.info().result == {"id": "not a number"}


def test_an_id_that_is_no_text_for_a_store_is_an_error_of_ours(app: Windlass) -> None:
    handle = JobHandle("\ud800", False, enqueue(app, 42).reader)
    for ask in (lambda: handle.result(timeout=1), handle.info, handle.cancel, handle.retry, lambda: app.get("\ud800")):
        with pytest.raises(ConfigError, match="has a lone surrogate"):
            ask()


def test_an_error_shows_only_the_ends_of_a_huge_argument(app: Windlass) -> None:
    with pytest.raises(ConfigError) as caught:
        app.jobs(state="y" * 10_000_000)
    said = str(caught.value)
    assert len(said) < 5_000
    assert said.startswith("there is no state 'yyy")
    assert said.endswith("dead, cancelled")


def test_result_waits_for_the_end(app: Windlass) -> None:
    handle = enqueue(app, 1)
    lease = claim(app)
    ended = threading.Thread(target=settle, args=(app, lease, Kind.DONE, '{"id":1}'))
    ended.start()
    assert handle.result(timeout=30) == {"id": 1}
    ended.join()


def test_aresult_waits_without_blocking_the_loop(app: Windlass) -> None:
    handle = enqueue(app, 1)

    async def main() -> object:
        waiting = asyncio.create_task(handle.aresult(timeout=30))
        await asyncio.sleep(0)
        settle(app, claim(app), Kind.DONE, '{"id":1}')
        return await waiting

    assert asyncio.run(main()) == {"id": 1}


def test_an_unfinished_job_times_out(app: Windlass) -> None:
    handle = enqueue(app, 1)
    with pytest.raises(ResultTimeout, match="j1"):
        handle.result(timeout="10ms")
    with pytest.raises(TimeoutError):
        asyncio.run(handle.aresult(timeout=0))


def test_a_dead_job_raises_job_failed_with_its_last_error(app: Windlass) -> None:
    handle = enqueue(app, 1)
    error = encode_error(ValueError("no money"), attempt=1, at=1_000, limit=4096)
    settle(app, claim(app), Kind.DEAD, error=error, reason="out of attempts")
    with pytest.raises(JobFailed, match="ValueError: no money") as caught:
        handle.result()
    assert caught.value.job_id == "j1"
    (entry,) = handle.info().errors
    assert (entry.type, entry.message, entry.attempt) == ("ValueError", "no money", 1)
    assert entry.at == datetime.fromtimestamp(1, UTC)


def test_a_cancelled_job_raises_job_cancelled_with_the_reason(app: Windlass) -> None:
    handle = enqueue(app, 1)
    settle(app, claim(app), Kind.CANCELLED, reason="not needed")
    with pytest.raises(JobCancelled, match="not needed"):
        handle.result()


def test_a_result_that_was_not_stored_says_so(app: Windlass) -> None:
    handle = enqueue(app, 1)
    settle(app, claim(app), Kind.DONE, reason=f"{RESULT_NOT_STORED}: too large")
    with pytest.raises(ResultNotStored, match="too large"):
        handle.result()


def test_a_record_that_is_gone_raises_result_expired(app: Windlass) -> None:
    handle = enqueue(app, 1)
    app.delete(["j1"])
    for ask in (handle.result, handle.info, lambda: handle.state):
        with pytest.raises(ResultExpired):
            ask()


def test_progress_is_read_from_the_handle(app: Windlass) -> None:
    handle = enqueue(app, 1)
    lease = claim(app)
    assert handle.progress() is None
    app.engine.note([Note(lease.id, lease.fence, PROGRESS, '{"done":30,"total":120,"message":"rows"}')])
    assert handle.progress() == JobProgress(30, 120, "rows")
    assert JobProgress(30, 120).percent == 25
    assert JobProgress(30).percent is None
    assert asyncio.run(handle.aprogress()) == JobProgress(30, 120, "rows")


def test_cancel_and_retry_move_the_job_and_say_when_they_cannot(app: Windlass) -> None:
    handle = enqueue(app, 1)
    handle.cancel()
    assert handle.info().state is State.CANCELLED
    with pytest.raises(TransitionRefused, match="it is cancelled"):
        handle.cancel()
    handle.retry()
    assert handle.info().state is State.READY
    with pytest.raises(TransitionRefused, match="it is ready"):
        handle.retry()
    app.delete(["j1"])
    with pytest.raises(TransitionRefused, match="no record"):
        handle.retry()


def test_async_twins_do_what_the_sync_ones_do(app: Windlass) -> None:
    handle = enqueue(app, 1)

    async def main() -> list[State]:
        await handle.acancel()
        first = (await handle.ainfo()).state
        await handle.aretry()
        return [first, (await handle.ainfo()).state]

    assert asyncio.run(main()) == [State.CANCELLED, State.READY]


# -- redaction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("args", "kwargs"), [((1, "4111-1111"), {}), ((1,), {"card": "4111-1111"})])
def test_a_redacted_argument_is_masked_unless_revealed(
    app: Windlass, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    enqueue(app, *args, **kwargs)
    hidden, shown = app.get("j1"), app.get("j1", reveal=True)
    assert hidden is not None
    assert shown is not None
    assert "4111" not in repr(hidden)
    assert "•••" in repr(hidden)
    assert "4111-1111" in repr(shown)


def test_a_redacted_value_is_masked_in_errors_too(app: Windlass) -> None:
    enqueue(app, 1, "4111-1111")
    error = encode_error(ValueError("card 4111-1111 declined"), attempt=1, at=0, limit=4096)
    settle(app, claim(app), Kind.DEAD, error=error)
    info = app.get("j1")
    assert info is not None
    assert info.errors[0].message == "card ••• declined"
    assert "4111" not in info.errors[0].traceback
    with pytest.raises(JobFailed) as caught:
        JobHandle[object]("j1", False, app.client.reader).result()
    assert "4111" not in str(caught.value)


def test_a_secret_inside_another_leaves_nothing_in_sight(app: Windlass) -> None:
    def pay(card: str, pin: str) -> None: ...

    app.job(name="pay", redact=["card", "pin"])(pay).options(id="p1").enqueue("4111-2222", "4111")
    error = encode_error(ValueError("card 4111-2222 declined"), attempt=1, at=0, limit=4096)
    settle(app, claim(app), Kind.DEAD, error=error)
    info = app.get("p1")
    assert info is not None
    assert info.errors[0].message == "card ••• declined"


def test_an_unknown_job_that_redacts_hides_all_positional_arguments(app: Windlass) -> None:
    handle = stored(
        app, NewJob("j2", "gone", "default", '[1,[1,"4111"],{"card":"4111","n":2}]', meta='{"redact":["card"]}')
    )
    info = handle.info()
    assert (info.args, info.kwargs) == (("•••", "•••"), {"card": "•••", "n": 2})


def test_redacted_star_arguments_are_masked(app: Windlass) -> None:
    def many(*cards: str, **more: str) -> None: ...

    handle = app.job(name="many", redact=["cards", "more"])(many).enqueue("4111", "4112", pin="9999")
    assert (handle.info().args, handle.info().kwargs) == (("•••", "•••"), {"pin": "•••"})


# -- what cannot be read -----------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", ["{", "[]", '"text"', "[1,2,3]", "[1,[],[]]"])
def test_an_undecodable_payload_is_described_with_a_reason(app: Windlass, payload: str) -> None:
    info = stored(app, NewJob("j3", "charge", "default", payload)).info()
    assert (info.args, info.kwargs) == (None, None)
    assert info.reason is not None
    assert "cannot be decoded" in info.reason


def test_a_page_is_iterable() -> None:
    page = Page((1, 2), "next")
    assert list(page) == [1, 2]
    assert len(page) == 2
