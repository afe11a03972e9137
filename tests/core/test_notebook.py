"""How much a job may note, and what its run knows of it."""

from __future__ import annotations

import pytest

from windlass.core import caps
from windlass.core.notebook import Notebook
from windlass.errors import ConfigError, PayloadError


def test_a_notebook_knows_what_the_claim_brought_and_what_came_since() -> None:
    book = Notebook("j1", (("a", "1"), ("b", "2")))
    book.put("a", "3")
    book.put("b", None)
    book.put("no such", None)
    assert [book.get(key) for key in ("a", "b", "no such")] == ["3", None, None]


@pytest.mark.parametrize("key", ["", "k" * 201, "a\0b", "a\nb", "\ud800"])
def test_a_key_that_cannot_be_stored_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="of a note"):
        Notebook("j1", ()).put(key, "1")


def test_a_text_that_no_store_takes_is_refused_where_it_is_written() -> None:
    with pytest.raises(PayloadError, match="note 'a' of job j1 is no text that can be stored"):
        Notebook("j1", ()).put("a", "\ud800")


def test_a_text_that_is_too_long_is_refused_and_the_one_before_stays() -> None:
    book = Notebook("j1", (("a", "1"),))
    book.put("é" * 200, "x" * (caps.NOTE_SIZE - 400))
    with pytest.raises(PayloadError, match=r"^job j1 notes too much: note 'a' takes bytes: 1,048,577, .* 1,048,576"):
        book.put("a", "x" * caps.NOTE_SIZE)
    assert book.get("a") == "1"


def test_all_notes_of_a_job_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caps, "NOTES_SIZE", 10)
    book = Notebook("j1", (("a", "1234"),))
    book.put("b", "1234")
    with pytest.raises(PayloadError, match="all notes take bytes: 11, and the most is 10"):
        book.put("b", "12345")
    book.put("a", None)
    book.put("b", "12345")


def test_the_number_of_notes_is_bounded_and_one_that_is_there_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caps, "NOTES", 2)
    book = Notebook("j1", (("a", "1"),))
    book.put("b", "1")
    book.put("b", "2")
    with pytest.raises(PayloadError, match="there are notes: 3, and the most is 2"):
        book.put("c", "1")
    book.put("a", None)
    book.put("c", "1")
