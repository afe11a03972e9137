"""What makes two deaths the same."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from windlass.core.fingerprint import DAMAGED, INTERRUPTED, POISON, _cause, cause_of, type_name
from windlass.core.model import Cause
from windlass.errors import RecordDamaged


class Lost(Exception):
    pass


def caught(fn: Callable[[], object]) -> Cause:
    try:
        fn()
    except Exception as error:
        return cause_of(error, __name__)
    raise AssertionError("nothing was raised")


def lose(what: str = "a parcel") -> None:
    raise Lost(what)


def lose_elsewhere() -> None:
    raise Lost("a parcel")


def chained(cause: type[Exception]) -> None:
    try:
        raise cause
    except Exception as error:
        raise Lost("a parcel") from error


def test_the_message_and_the_line_do_not_count() -> None:
    def from_another_line() -> None:
        lose("another one")

    assert caught(lose) == caught(from_another_line)


def test_the_class_the_place_and_the_class_of_the_cause_count() -> None:
    found = [caught(lose), caught(lose_elsewhere), caught(lambda: chained(KeyError)), caught(lambda: chained(OSError))]
    assert len({cause.fingerprint for cause in found}) == 4


def test_a_hidden_cause_does_not_count_and_an_implied_one_does() -> None:
    def handled() -> None:
        try:
            raise KeyError
        except KeyError:
            lose()

    def hidden() -> None:
        try:
            raise KeyError
        except KeyError:
            raise Lost from None

    assert caught(handled).fingerprint != caught(lose).fingerprint
    assert caught(hidden).error_type == caught(lose).error_type


def test_the_frame_is_the_last_one_of_the_application_and_not_of_a_library() -> None:
    cause = caught(lambda: json.loads("{"))
    assert cause.error_type == "json.decoder.JSONDecodeError"
    assert cause.frame.startswith(f"{__name__}.test_the_frame_is_the_last_one")


def test_an_application_that_is_installed_as_a_library_is_known_by_its_job() -> None:
    def broken() -> None:
        json.loads("{")

    with pytest.raises(ValueError) as error:
        broken()
    assert cause_of(error.value, "json").frame.startswith("json.decoder.")


def test_a_fingerprint_is_short_and_fixed() -> None:
    cause = caught(lose)
    assert len(cause.fingerprint) == 12
    int(cause.fingerprint, 16)
    assert cause_of(Lost()).fingerprint == cause_of(Lost("x")).fingerprint
    assert cause_of(ValueError("x")).frame == ""
    assert {POISON.error_type, INTERRUPTED.error_type} == {"WorkerCrashed", "windlass.errors.JobInterrupted"}


def test_builtins_stand_without_a_module() -> None:
    assert (type_name(ValueError), type_name(Lost)) == ("ValueError", f"{__name__}.Lost")


def test_the_causes_that_are_written_out_are_those_that_would_be_made() -> None:
    assert _cause("WorkerCrashed") == POISON
    assert _cause("windlass.errors.JobInterrupted") == INTERRUPTED
    assert _cause(type_name(RecordDamaged)) == DAMAGED
