"""Rates of queues and the advice on workers, from what an engine says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from msgspec import structs

from windlass import Windlass
from windlass.core.clock import ManualClock
from windlass.core.model import MINUTE_MS, Count
from windlass.core.rows import BlockedRow, Metrics, QueueRow, WorkerRow
from windlass.core.work import PoolInfo, QueueWork, RateBound, WorkerInfo
from windlass.errors import ConfigError
from windlass.insight.queues import WorkerStatus
from windlass.insight.stats import QueueStats, advise
from windlass.settings import QueueSettings


def queue(name: str = "mail", ready: int = 0, latency_ms: int = 0) -> QueueRow:
    return QueueRow(name, ready, 0, 0, latency_ms, paused=False)


def worker(
    *serves: str, slots: int = 5, work: tuple[QueueWork, ...] = (), left: int = 9, without: tuple[str, ...] = ()
) -> WorkerRow:
    pool = PoolInfo("p", ",".join(serves), serves, slots, slots, without)
    info = WorkerInfo("w", "g", "host", 1, pool.queues, 2 * slots, "1", 0, (pool,), work)
    return WorkerRow(info, 0, 0, left)


NOW = 28_000_000 * MINUTE_MS  # a minute begins
NOTHING = Metrics(NOW, [])


def test_jobs_that_wait_for_others_stand_together_and_are_not_late() -> None:
    blocked = [BlockedRow("mail", f"join:edge:o:{number}", 1, 3_600_000) for number in range(100)]
    found = only(
        [queue(latency_ms=500)], NOTHING, [], blocked=[*blocked, BlockedRow("mail", "circuit:stripe", 3, 2_000)]
    )
    assert (found.blocked, found.blocked_by, found.latency) == (103, {"other jobs": 100, "circuit:stripe": 3}, 2.0)


def went(arrived: int, claimed: int = 0, *, ago: int = 1, now: int = NOW) -> Metrics:
    """What was counted of one queue, so many minutes ago."""
    at = NOW - ago * MINUTE_MS
    return Metrics(now, [Count("arrived:mail", arrived, at), Count("claimed:mail", claimed, at)])


def only(*args: object, max_wait: int | None = 10_000, blocked: Sequence[BlockedRow] = ()) -> QueueStats:
    (found,) = advise(*args, {"mail": QueueSettings(max_wait=max_wait)}, blocked)  # type: ignore[arg-type]
    return found


BUSY = (QueueWork("mail", ended=100, busy_ms=50_000),)  # half a second each


def test_rates_are_per_second_and_the_runtime_is_of_one_job() -> None:
    found = only([queue(ready=3, latency_ms=1_500)], went(600, 120), [worker("mail", work=BUSY)])
    assert (found.arrival, found.drain, found.runtime, found.latency) == (10.0, 2.0, 0.5, 1.5)
    assert (found.ready, found.workers, found.max_wait, found.late) == (3, 1, 10.0, False)


@pytest.mark.parametrize(
    ("ago", "into_ms", "arrival"),
    [
        (1, 0, 10.0),  # the whole of it is of the last minute
        (1, 15_000, 7.5),
        (1, 59_999, 0.0),
        (0, 0, 10.0),  # what has come counts for a minute, also when that has just begun
        (0, 59_999, 10.0),
        (2, 0, 0.0),
        (-1, 0, 0.0),  # of a clock that stepped back
    ],
)
def test_a_rate_is_that_of_the_last_minute_as_if_jobs_came_evenly(ago: int, into_ms: int, arrival: float) -> None:
    found = only([queue()], went(600, 600, ago=ago, now=NOW + into_ms), [])
    assert (round(found.arrival, 1), round(found.drain, 1)) == (arrival, arrival)


def test_a_steady_rate_is_told_as_it_is_at_every_moment_of_a_minute() -> None:
    for into_ms in range(0, MINUTE_MS, 7_000):
        counts = [*went(600).counts, *went(into_ms // 100, ago=0).counts]
        assert only([queue()], Metrics(NOW + into_ms, counts), []).arrival == pytest.approx(10)


@pytest.mark.parametrize(
    ("arrived", "ready", "needed"),
    [
        (0, 0, 0),  # nothing to do
        (60, 0, 1),  # 1/s of half a second: half a slot
        (600, 0, 1),  # 10/s: five slots are one worker
        (601, 0, 2),
        (600, 100, 2),  # and a hundred more within ten seconds: five slots more
        (0, 1_000, 10),
    ],
)
def test_as_many_workers_as_what_comes_and_what_waits_needs(arrived: int, ready: int, needed: int) -> None:
    assert only([queue(ready=ready)], went(arrived), [worker("mail", work=BUSY)]).workers_needed == needed


@pytest.mark.parametrize(
    ("limit", "rate", "needed"),
    [(None, None, 10), (7, None, 2), (1, None, 1), (None, RateBound(10, 1_000), 1), (None, RateBound(11, 1_000), 2)],
)
def test_no_more_workers_are_asked_for_than_limit_and_rate_let_work(
    limit: int | None, rate: RateBound | None, needed: int
) -> None:
    row = structs.replace(queue(ready=1_000), limit=limit, rate=rate)
    assert only([row], NOTHING, [worker("mail", work=BUSY)]).workers_needed == needed


def test_without_a_promise_or_a_runtime_there_is_no_advice() -> None:
    assert only([queue()], went(600), [worker("mail", work=BUSY)], max_wait=None).workers_needed is None
    assert only([queue()], went(600), [worker("mail")]).workers_needed is None
    assert only([queue(ready=1)], NOTHING, []).workers_needed is None


def test_only_live_workers_that_serve_the_queue_count() -> None:
    workers = [
        worker("ma*", slots=2, work=BUSY),
        worker("*", slots=8),
        worker("other"),
        worker("mail", left=-5, work=(QueueWork("mail", 1, 10**9),)),
        worker("*", without=("mail",)),
    ]
    found = only([queue()], went(1_200), workers)
    assert (found.workers, found.runtime, found.workers_needed) == (2, 0.5, 2)  # ten slots, of five a worker


def test_a_queue_that_waits_too_long_is_late() -> None:
    assert only([queue(ready=1, latency_ms=10_001)], NOTHING, []).late


def test_a_worker_of_a_version_without_pools_serves_what_it_wrote() -> None:
    info = WorkerInfo("w", "g", "host", 1, "a=3,b", 10, "0", 0)
    status = WorkerStatus.of(WorkerRow(info, 0, 0, 9))
    assert [status.serves(name) for name in ("a", "b", "c")] == [True, True, False]


@pytest.fixture
def app() -> Iterator[Windlass]:
    with Windlass("memory://", clock=ManualClock(), queues={"mail": {"max_wait": "10s", "paused": True}}) as made:
        yield made


def test_stats_are_a_dictionary_of_jobs_and_have_the_queues(app: Windlass) -> None:
    @app.job(name="send", queue="mail")
    def send() -> None: ...

    job = send.enqueue()
    stats = app.stats()
    assert stats["ready"] == 1
    assert list(stats.queues) == ["mail"]
    assert (stats.queues["mail"].ready, stats.queues["mail"].max_wait) == (1, 10.0)
    assert stats.queues["mail"].arrival > 0
    assert "Workers with these settings do not serve queue mail: paused in the settings." in app.explain(job.id)


def test_a_pause_says_who(app: Windlass) -> None:
    app.queue("mail").pause("deploy")
    assert "@" in (app.queue("mail").info().paused_by or "")
    app.queue("mail").pause("deploy", by="ada")
    assert app.queue("mail").info().paused_by == "ada"


def test_a_worker_knows_two_words(app: Windlass) -> None:
    with pytest.raises(ConfigError, match="'quite'.*did you mean 'quiet'"):  # noqa: RUF043
        app.control("g", "quite")
    assert app.control("g", "quiet") == 0


def test_aging_goes_with_every_job(app: Windlass) -> None:
    with Windlass("memory://", aging="10m") as aging:

        @aging.job(name="late", priority=3)
        def late() -> None: ...

        assert late.bind().new.aging_ms == 600_000
