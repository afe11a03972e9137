"""Documents that processes agree on by compare-and-set: ``read`` and ``keys``, and ``commit`` of documents alone."""

from __future__ import annotations

from windlass.core.model import Versioned
from windlass.testing.conformance.harness import Harness, swap, together


class DocumentSuite:
    """Read, swap, keys."""

    def test_an_absent_document_has_version_zero(self, harness: Harness) -> None:
        assert harness.engine.read(["a", "b"]) == [Versioned("a", 0, None), Versioned("b", 0, None)]
        assert harness.engine.read([]) == []

    def test_a_document_is_made_only_where_there_is_none(self, harness: Harness) -> None:
        store = harness.engine
        made = swap(store, "a", 0, "one")
        assert made is not None
        assert (made.key, made.value) == ("a", "one")
        assert made.version > 0
        assert swap(store, "a", 0, "two") is None
        assert store.read(["a"]) == [made]

    def test_a_swap_needs_the_version_that_is_there(self, harness: Harness) -> None:
        store = harness.engine
        first = swap(store, "a", 0, "one")
        assert first is not None
        second = swap(store, "a", first.version, "two")
        assert second is not None
        assert second.version != first.version
        assert swap(store, "a", first.version, "three") is None
        assert harness.second().read(["a"]) == [second]

    def test_a_removed_document_comes_back_with_a_version_nobody_had(self, harness: Harness) -> None:
        store = harness.engine
        seen = set()
        for _ in range(3):
            made = swap(store, "a", 0, "x")
            assert made is not None
            seen.add(made.version)
            assert swap(store, "a", made.version, None) == Versioned("a", 0, None)
            assert store.read(["a"]) == [Versioned("a", 0, None)]
            assert swap(store, "a", made.version, "y") is None
        assert len(seen) == 3

    def test_a_document_is_over_after_its_time(self, harness: Harness) -> None:
        store = harness.engine
        made = swap(store, "a", 0, "x", 1_000)
        assert made is not None
        harness.clock.advance(999)
        assert store.read(["a"]) == [made]
        harness.clock.advance(1)
        assert store.read(["a"]) == [Versioned("a", 0, None)]
        assert store.keys("a") == []
        assert swap(store, "a", made.version, "y") is None
        assert swap(store, "a", 0, "y") is not None

    def test_a_swap_without_a_time_makes_it_last(self, harness: Harness) -> None:
        store = harness.engine
        made = swap(store, "a", 0, "x", 1_000)
        assert made is not None
        swap(store, "a", made.version, "y")
        harness.clock.advance(10_000_000)
        assert store.read(["a"])[0].value == "y"

    def test_keys_come_in_order_and_by_prefix(self, harness: Harness) -> None:
        store = harness.engine
        for key in ("b:1", "a:2", "a:1", "a%", "A:1", "a:3"):
            swap(store, key, 0, "x")
        assert store.keys("a:") == ["a:1", "a:2", "a:3"]
        assert store.keys("a:", limit=2) == ["a:1", "a:2"]
        assert store.keys("c") == []
        assert len(store.keys("")) == 6

    def test_of_many_at_once_one_wins(self, harness: Harness) -> None:
        store, other = harness.engine, harness.second()
        made = swap(store, "a", 0, "x")
        assert made is not None
        answers = together(
            *[lambda s=s, n=n: swap(s, "a", made.version, f"v{n}") for n, s in enumerate([store, other] * 4)]
        )
        (winner,) = [answer for answer in answers if answer is not None]
        assert store.read(["a"]) == [winner]
