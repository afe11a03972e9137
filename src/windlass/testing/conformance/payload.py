"""What an engine carries without looking inside: every text comes back to the byte, and garbage harms only itself."""

from __future__ import annotations

import pytest

from windlass.core.rows import JobFilter
from windlass.core.work import PROGRESS, Kind
from windlass.testing.conformance.harness import (
    Harness,
    all_jobs,
    ended,
    job,
    join,
    note,
    place,
    row_of,
    take,
    take_one,
)

TEXTS = {
    "empty list": "[]",  # an engine that decodes and encodes turns it into an object
    "empty object": "{}",
    "unicode": '["é","漢字","🐌","\u2028","e\u0301"]',
    "escaped NUL": '["a\\u0000b"]',
    "escapes": '["\\\\","\\"","\\n","\\ud83d\\udc0c","%s %d %%","\'; --"]',
    "white space": "[ 1 ,\n\t2 ]",
    "numbers": "[9007199254740993,-9223372036854775808,1e-7,1.0,0.1,1E5,-0]",
    "key order and doubles": '{"b":1,"a":2,"b":3}',
    "deep": "[" * 1_500 + "]" * 1_500,
    "one MiB": '"' + "x" * (1_048_576 - 2) + '"',
    "not JSON at all": "} nonsense {",
}

GARBAGE = {
    "not UTF-8": b"\xff\xfe\x80",
    "NUL bytes": b"\x00\x00\x00",
    "cut JSON": b'{"a":[1,2',
    "nothing": b"",
}


class PayloadSuite:
    """Payloads, results, metadata, progress, names and tags."""

    @pytest.mark.parametrize("text", list(TEXTS.values()), ids=list(TEXTS))
    def test_a_payload_comes_back_to_the_byte(self, harness: Harness, text: str) -> None:
        store = harness.engine
        join(store)
        place(store, [job("before"), job("a", payload=text), job("after")])
        leases = {lease.id: lease for lease in take(store)}
        assert leases["a"].payload == text.encode()
        assert row_of(store, "a").payload == text.encode()
        assert sorted(leases) == ["a", "after", "before"]

    @pytest.mark.parametrize("text", list(TEXTS.values()), ids=list(TEXTS))
    def test_a_result_meta_and_progress_come_back_to_the_byte(self, harness: Harness, text: str) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a", meta=text)])
        lease = take_one(store)
        assert lease.meta == text.encode()
        note(store, lease, PROGRESS, text)
        store.settle([ended(lease, result=text)])
        row = row_of(store, "a")
        assert (row.result, row.meta, row.progress) == (text.encode(),) * 3

    @pytest.mark.parametrize("text", list(TEXTS.values()), ids=list(TEXTS))
    def test_a_follow_up_carries_its_payload_to_the_byte(self, harness: Harness, text: str) -> None:
        store = harness.engine
        join(store)
        place(store, [job("a")])
        store.settle([ended(take_one(store), then=(job("b", payload=text, meta=text),))])
        lease = take_one(store)
        assert (lease.id, lease.payload, lease.meta) == ("b", text.encode(), text.encode())

    @pytest.mark.parametrize("raw", list(GARBAGE.values()), ids=list(GARBAGE))
    def test_garbage_bytes_are_given_as_they_are_and_neighbours_run(self, harness: Harness, raw: bytes) -> None:
        store = harness.engine
        join(store)
        place(store, [job("before", payload="[1]"), job("bad"), job("after", payload="[2]")])
        harness.corrupt("bad", raw)
        leases = {lease.id: lease for lease in take(store)}
        assert {i: lease.payload for i, lease in leases.items()} == {"before": b"[1]", "bad": raw, "after": b"[2]"}
        store.settle([ended(leases["bad"], Kind.DEAD, reason="undecodable")])
        assert row_of(store, "bad").payload == raw
        assert {row.id: row.payload for row in all_jobs(store)}["bad"] == raw

    def test_a_long_and_foreign_name_id_queue_and_tags_come_back(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        name, job_id, queue = "pkg." + "läng" * 250, "pay:é/漢 {42} '%s' \"q\"" + "x" * 200, "Q" * 128
        tags = ("t,1", "ü", "a b", '"', "{}", "[]", "", "x" * 300)
        place(store, [job(job_id, name=name, queue=queue, tags=tags)])
        (lease,) = take(store)
        assert (lease.id, lease.name, lease.queue, lease.tags) == (job_id, name, queue, tags)
        row = row_of(store, job_id)
        assert (row.id, row.name, row.queue, row.tags) == (job_id, name, queue, tags)
        for tag in tags[:-2]:
            assert [found.id for found in all_jobs(store, JobFilter(tag=tag))] == [job_id]
        store.settle([ended(lease, reason="wörd 漢 ' \" \\")])
        assert row_of(store, job_id).reason == "wörd 漢 ' \" \\"

    def test_queue_names_of_every_legal_character_stay_apart(self, harness: Harness) -> None:
        store = harness.engine
        join(store)
        names = ["a", "A", "a.b", "a:b", "a-b", "a_b", "a:", ":a", "..", "0"]
        place(store, [job(f"j{n}", queue=name) for n, name in enumerate(names)])
        assert [row.name for row in store.queues()] == sorted(names)
        assert {lease.queue for lease in take(store)} == set(names)

    def test_priorities_and_numbers_keep_their_sign_and_size(self, harness: Harness) -> None:
        store, far = harness.engine, harness.clock.wall_ms() + 50 * 365 * 86_400_000
        place(store, [job("a", priority=-1_000, max_attempts=1_000_000), job("b", run_at=far, priority=1_000)])
        a, b = row_of(store, "a"), row_of(store, "b")
        assert (a.priority, a.max_attempts, b.priority, b.run_at) == (-1_000, 1_000_000, 1_000, far)
