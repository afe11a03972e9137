"""The arithmetic of rates, beside a model that remembers every start and counts."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from windlass.core.ratewindow import AHEAD_SLACK_MS, Entry, RateWindow


class Rate(Struct, frozen=True):
    limit: int
    per_ms: int
    burst: int | None = None


class Log:
    """A log of grants as an engine keeps it, in a list."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, int]] = []

    def newest(self) -> tuple[int, int] | None:
        return self.entries[-1] if self.entries else None

    def count_at(self, at: int) -> int:
        return max((count for when, count in self.entries if when <= at), default=0)

    def reached_at(self, count: int, after: int) -> int | None:
        return next((when for when, reached in self.entries if when > after and reached >= count), None)

    def write(self, entry: Entry | None) -> None:
        if entry is None:
            return
        if entry.out is None:
            self.entries = []
        else:
            out = [one for one in self.entries if one[0] <= entry.out]
            self.entries = [one for one in self.entries if one[0] != entry.at and one not in out[:-1]]
        self.entries.append((entry.at, entry.count))


rates = st.builds(Rate, st.integers(1, 5), st.integers(1, 50))
bursty = st.builds(Rate, st.integers(1, 5), st.integers(1, 50), st.integers(1, 4))
steps = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), max_size=40)  # ms that pass, how many want to start


def granted(rate: Rate, asked: Iterable[tuple[int, int]], late_ms: int = 0, slack: int = 0) -> list[int]:
    """When each of those that asked was let through, if it was."""
    log, now, found = Log(), 1_000, []
    for passed, wanted in asked:
        now += passed
        window = RateWindow(rate, log, now, late_ms)
        for _ in range(wanted):
            if window.room(slack) <= 0:
                break
            window.given += 1
            found.append(now)
        log.write(window.entry())
    return found


def most_in(starts: list[int], length: int) -> int:
    """How many at most lie in one stretch of this length, which has one of its ends only."""
    return max((sum(first <= at < first + length for at in starts) for first in starts), default=0)


def naive(rate: Rate, asked: Iterable[tuple[int, int]], late_ms: int = 0) -> list[int]:
    """The same by counting all that was ever granted."""
    now, found = 1_000, []
    for passed, wanted in asked:
        now += passed
        for _ in range(wanted):
            if sum(at > now - rate.per_ms - late_ms for at in found) >= rate.limit:
                break
            found.append(now)
    return found


def evenly(rate: Rate, asked: Iterable[tuple[int, int]]) -> list[int]:
    """A bucket of ``burst`` that fills by one each ``per_ms / limit``, in units that make it exact."""
    unit, full = rate.per_ms, (rate.burst or 0) * rate.per_ms
    now, level, found = 1_000, full, []
    for passed, wanted in asked:
        now += passed
        level = min(full, level + passed * rate.limit)
        for _ in range(wanted):
            if level < unit:
                break
            level -= unit
            found.append(now)
    return found


@given(rates, steps)
def test_no_window_has_more_than_its_limit_and_nobody_waits_for_nothing(
    rate: Rate, asked: list[tuple[int, int]]
) -> None:
    starts = granted(rate, asked)
    assert most_in(starts, rate.per_ms) <= rate.limit
    assert starts == naive(rate, asked)


@given(rates, steps, st.integers(0, 20), st.data())
def test_starts_that_come_late_keep_the_limit(
    rate: Rate, asked: list[tuple[int, int]], late_ms: int, data: st.DataObject
) -> None:
    grants = granted(rate, asked, late_ms)
    assert grants == naive(rate, asked, late_ms)
    starts = [at + data.draw(st.integers(0, late_ms)) for at in grants]
    assert most_in(sorted(starts), rate.per_ms) <= rate.limit


@given(rates, steps)
def test_starts_that_wait_for_a_place_keep_the_limit_too(rate: Rate, asked: list[tuple[int, int]]) -> None:
    apart = [(passed * 50, wanted) for passed, wanted in asked]
    grants = granted(rate, apart, slack=AHEAD_SLACK_MS)
    assert most_in(grants, rate.per_ms + AHEAD_SLACK_MS) <= rate.limit


@given(bursty, steps)
def test_a_burst_is_spent_and_filled_evenly(rate: Rate, asked: list[tuple[int, int]]) -> None:
    assert rate.burst is not None
    starts, exact = granted(rate, asked), evenly(rate, asked)
    assert most_in(starts, 1) <= rate.burst
    assert most_in(starts, rate.per_ms) <= rate.limit + rate.burst
    # What is spent is logged in whole ms, rounded up: it lets through no more, and less by what was rounded.
    assert len(starts) <= len(exact)
    assert len(starts) == len(exact) or rate.per_ms % rate.limit


@given(st.one_of(rates, bursty), steps, st.integers(0, 20))
def test_it_opens_when_it_says_and_no_sooner(rate: Rate, asked: list[tuple[int, int]], late_ms: int) -> None:
    log, now = Log(), 1_000
    for passed, wanted in asked:
        now += passed
        window = RateWindow(rate, log, now, late_ms)
        while wanted and window.room() > 0:
            window.given += 1
            wanted -= 1
        shut, opens = window.room() <= 0, window.opens_at()
        log.write(window.entry())
        if shut:
            assert RateWindow(rate, log, opens, late_ms).room() > 0 or rate.burst is not None
            assert RateWindow(rate, log, opens + 1, late_ms).room() > 0
            assert opens - 1 == now or RateWindow(rate, log, opens - 1, late_ms).room() <= 0


@given(rates, steps)
def test_what_has_started_is_what_is_used(rate: Rate, asked: list[tuple[int, int]]) -> None:
    log, now, starts = Log(), 1_000, []
    for passed, wanted in asked:
        now += passed
        window = RateWindow(rate, log, now)
        assert window.used() == sum(at > now - rate.per_ms for at in starts)
        while wanted and window.room() > 0:
            window.given += 1
            starts.append(now)
            wanted -= 1
        log.write(window.entry())


def test_a_clock_that_goes_back_opens_no_window() -> None:
    rate, log = Rate(2, 100), Log()
    for now in (1_000, 500):
        window = RateWindow(rate, log, now)
        while window.room() > 0:
            window.given += 1
        log.write(window.entry())
    assert log.newest() == (1_000, 2)
    assert RateWindow(rate, log, 500).opens_at() == 1_100


def test_the_log_keeps_what_a_window_can_need_and_no_more() -> None:
    rate, log = Rate(1_000, 10), Log()
    for now in range(1_000, 9_000, 7):
        window = RateWindow(rate, log, now)
        window.given += 1
        log.write(window.entry())
    assert len(log.entries) <= (rate.per_ms + AHEAD_SLACK_MS) / 7 + 3
