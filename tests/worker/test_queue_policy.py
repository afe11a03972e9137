"""How claims are shared out among queues: statistics over many claims."""

from __future__ import annotations

from collections import Counter

import pytest

from windlass.core.work import QueueShare
from windlass.errors import ConfigError
from windlass.worker.queues import QueuePolicy


def claim(policy: QueuePolicy, limit: int, backlog: Counter[str]) -> list[str]:
    """What an engine gives: each queue's share, then the rest in the same order."""
    shares = policy.shares(limit)
    assert shares is not None
    got: list[str] = []
    for most in ([share.limit for share in shares], [limit] * len(shares)):
        for share, count in zip(shares, most, strict=True):
            take = min(count, backlog[share.name], limit - len(got))
            backlog[share.name] -= take
            got += [share.name] * take
    policy.charge(got)
    return got


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10, 64, 500])
def test_saturated_queues_get_their_weights_to_within_a_claim(limit: int) -> None:
    policy = QueuePolicy.parse(["critical=6,default=3,low=1"])
    backlog = Counter({"critical": 10**6, "default": 10**6, "low": 10**6})
    got: Counter[str] = Counter()
    for _ in range(1_000):
        got.update(claim(policy, limit, backlog))
    total = 1_000 * limit
    assert got.total() == total
    for name, weight in (("critical", 0.6), ("default", 0.3), ("low", 0.1)):
        assert abs(got[name] - weight * total) <= 2


def test_nothing_starves_however_unlike_the_weights_are() -> None:
    policy = QueuePolicy.parse(["big=1000,small"])
    backlog = Counter({"big": 10**6, "small": 10**6})
    assert Counter(name for _ in range(3_003) for name in claim(policy, 1, backlog))["small"] == 3


def test_a_queue_that_was_empty_is_next_and_is_owed_nothing() -> None:
    policy = QueuePolicy.parse(["critical=6,default=3,low=1"])
    backlog = Counter({"low": 10**6})
    for _ in range(500):
        claim(policy, 1, backlog)
    backlog["critical"] = 1
    assert claim(policy, 1, backlog) == ["critical"] or claim(policy, 1, backlog) == ["critical"]
    backlog["critical"] = 10**6
    got = Counter(name for _ in range(700) for name in claim(policy, 1, backlog))
    assert abs(got["low"] - 100) <= 2  # one in seven: the heavy queue makes up for nothing


def test_what_a_queue_cannot_use_goes_to_the_others() -> None:
    policy = QueuePolicy.parse(["a=9,b"])
    assert Counter(claim(policy, 100, Counter({"a": 5, "b": 200}))) == {"a": 5, "b": 95}


def test_strict_takes_the_first_queue_first() -> None:
    policy = QueuePolicy.parse(["critical", "low"], strict=True)
    assert policy.shares(5) == (QueueShare("critical", 5), QueueShare("low", 5))
    assert claim(policy, 5, Counter({"critical": 3, "low": 100_000})) == ["critical"] * 3 + ["low"] * 2


def test_without_queues_the_engine_shares_by_itself() -> None:
    for policy in (QueuePolicy(), QueuePolicy.parse(["*"])):
        assert (policy.shares(10), policy.names, policy.must_learn) == (None, None, False)
        assert policy.covers("anything")


def test_a_pattern_meets_the_queues_it_learns_and_they_share_its_weight() -> None:
    policy = QueuePolicy.parse(["report-*=2,mail=2"])
    assert policy.must_learn
    assert policy.names is None  # it wakes for queues that are not there yet
    assert policy.learn(["mail", "other", "report-a", "report-b"])
    assert not policy.learn(["mail", "other", "report-a", "report-b"])
    backlog = Counter({"mail": 10**6, "report-a": 10**6, "report-b": 10**6, "other": 9})
    got = Counter(name for _ in range(400) for name in claim(policy, 1, backlog))
    assert {name: round(count / 100) for name, count in got.items()} == {"mail": 2, "report-a": 1, "report-b": 1}
    assert policy.learn(["mail", "report-a", "report-c"])
    assert {share.name for share in policy.shares(3) or ()} == {"mail", "report-a", "report-c"}


def test_a_queue_that_comes_later_is_owed_nothing_of_what_was_before() -> None:
    policy = QueuePolicy.parse(["report-*"])
    backlog = Counter(dict.fromkeys(["report-a", "report-b", "report-c"], 10**6))
    policy.learn(["report-a", "report-b"])
    for _ in range(500):
        claim(policy, 1, backlog)
    policy.learn(["report-a", "report-b", "report-c"])
    got = Counter(name for _ in range(30) for name in claim(policy, 1, backlog))
    assert all(abs(count - 10) <= 1 for count in got.values())
    assert len(got) == 3


def test_a_queue_that_is_named_is_not_served_by_a_pattern_too() -> None:
    policy = QueuePolicy.parse(["report-*", "report-urgent=9"])
    policy.learn(["report-urgent", "report-a"])
    shares = policy.shares(10)
    assert {share.name: share.limit for share in shares or ()} == {"report-urgent": 9, "report-a": 1}


def test_a_queue_to_leave_alone_is_left_alone_also_among_all() -> None:
    policy = QueuePolicy(without=["broken"])
    policy.learn(["broken", "mail"])
    assert [share.name for share in policy.shares(4) or ()] == ["mail"]
    assert not policy.covers("broken")
    assert QueuePolicy.parse(["broken"], without=["broken"]).shares(1) == ()


def test_a_policy_reads_as_it_was_written() -> None:
    assert str(QueuePolicy.parse(["a=3,report-*"])) == "a=3,report-*"
    assert str(QueuePolicy.parse(["a,b"], strict=True)) == "a,b (strict)"
    assert str(QueuePolicy()) == "*"
    with pytest.raises(ConfigError, match="name at least one"):
        QueuePolicy.parse([], strict=True)
