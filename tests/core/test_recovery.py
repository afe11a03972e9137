"""Rules of recovery: what may be written, and which exceptions they mean."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from windlass.core.recovery import RecoveryRule
from windlass.core.rows import Recovery
from windlass.errors import ConfigError
from windlass.settings import load_settings


class Slow(TimeoutError):
    pass


class Slower(Slow):
    pass


def rule(on: object, **more: object) -> Recovery:
    return RecoveryRule.of({"on": on, **more}, "recover").resolve()


def test_a_class_means_its_subclasses_too() -> None:
    found = rule([TimeoutError]).errors
    assert {"TimeoutError", f"{__name__}.Slow", f"{__name__}.Slower", "windlass.errors.JobTimeout"} <= set(found)
    assert rule(Slower).errors == (f"{__name__}.Slower",)


def test_a_name_means_the_class_once_it_is_imported() -> None:
    assert rule(f"{__name__}.Slow").errors == (f"{__name__}.Slow", f"{__name__}.Slower")
    assert rule("never.imported.Error").errors == ("never.imported.Error",)
    assert rule("ConnectionError").errors == rule(ConnectionError).errors
    assert rule("JobTimeout").errors == ("windlass.errors.JobTimeout",)
    assert rule("WorkerCrashed").errors == ("WorkerCrashed",)
    assert socket.gaierror.__name__ in {name.rpartition(".")[2] for name in rule("OSError").errors}


def test_names_that_nothing_imported_has_are_told() -> None:
    made = RecoveryRule.of({"on": ["never.imported.Error", f"{__name__}.Slow", "WorkerCrashed", KeyError]}, "recover")
    assert made.unknown() == ["never.imported.Error"]


def test_the_defaults_are_an_hour_and_three_times() -> None:
    found = rule(KeyError)
    assert (found.after_ms, found.attempts) == (3_600_000, 3)
    found = rule(KeyError, after="90s", attempts=1)
    assert (found.after_ms, found.attempts) == (90_000, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "on is missing"),
        ({"on": []}, "on is empty"),
        ({"on": "TimeoutEror"}, "did you mean 'TimeoutError'"),
        ({"on": [3]}, "give exception classes"),
        ({"on": [int]}, "give exception classes"),
        ({"on": "no spaces.here"}, "there is no exception"),
        ({"on": KeyError, "attempt": 3}, "did you mean 'attempts'"),
        ({"on": KeyError, "attempts": 0}, "attempts is 0"),
        ({"on": KeyError, "attempts": None}, "attempts is None"),
        ({"on": KeyError, "after": "soon"}, "after"),
        ({"on": KeyError, "after": -1}, "negative"),
    ],
)
def test_what_is_wrong_is_said_where_it_is_written(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        RecoveryRule.of(options, "recover")
    assert str(caught.value).startswith("recover")


def test_settings_have_rules_as_a_list_or_with_names(tmp_path: Path) -> None:
    folder = tmp_path
    for text in (
        '[[windlass.recover]]\non = ["TimeoutError"]\nafter = "10m"\n',
        '[windlass.recover.slow]\non = ["TimeoutError"]\nafter = "10m"\n',
    ):
        (folder / "windlass.toml").write_text(text)
        assert load_settings(environ={}, start=folder).settings.recover == [{"on": ["TimeoutError"], "after": "10m"}]
    (folder / "windlass.toml").write_text('[[windlass.recover]]\non = ["TimeoutEror"]\n')
    with pytest.raises(ConfigError, match=r"recover \(windlass.toml\), rule 1: .*TimeoutError"):
        load_settings(environ={}, start=folder)


def test_the_archive_is_looked_for_beside_the_settings_file(tmp_path: Path) -> None:
    folder = tmp_path
    (folder / "windlass.toml").write_text('[windlass]\ndead_archive = "dead.jsonl"\n')
    below = folder / "below"
    below.mkdir()
    assert load_settings(environ={}, start=below).settings.dead_archive == str(folder / "dead.jsonl")
