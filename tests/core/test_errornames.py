"""Exceptions by dotted text: when they are looked up, and what is wrong for good."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from windlass.core.errornames import NamedError, NotYet, resolve
from windlass.errors import ConfigError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the import path; what is imported from it is forgotten afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path  # type: ignore[misc]
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_class_in_a_submodule_is_found(package: Path) -> None:
    (package / "lib_a").mkdir()
    (package / "lib_a" / "__init__.py").write_text("")
    (package / "lib_a" / "errors.py").write_text("class Outer:\n    class Slow(Exception): ...\n")
    found = resolve("lib_a.errors.Outer.Slow")
    assert found.__qualname__ == "Outer.Slow"
    with pytest.raises(ConfigError, match=r"lib_a has no exception 'erors' .did you mean 'errors'"):
        resolve("lib_a.erors.Outer.Slow")


def test_a_built_in_exception_needs_no_dots() -> None:
    assert resolve("TimeoutError") is TimeoutError
    assert resolve("builtins.TimeoutError") is TimeoutError


def test_a_missing_library_cannot_be_told_yet_and_is_found_once_it_is_there(package: Path) -> None:
    named = NamedError("lib_b.Slow")
    assert (named.known, named.problem()) == (None, "on('lib_b.Slow'): there is no module 'lib_b' here")
    (package / "lib_b.py").write_text("class Slow(Exception): ...\n")
    import importlib

    importlib.invalidate_caches()
    found = named.find()
    assert found is not None
    assert found.__name__ == "Slow"
    assert named.problem() is None


def test_a_library_that_cannot_be_imported_cannot_be_told_yet(package: Path) -> None:
    (package / "lib_c.py").write_text("raise RuntimeError('no licence')\n")
    with pytest.raises(NotYet, match="cannot be imported: no licence"):
        resolve("lib_c.Slow")


def test_a_class_further_down_in_the_module_being_imported_is_found_later(package: Path) -> None:
    (package / "lib_d.py").write_text(
        "from windlass.core.errornames import NamedError\n"
        "rule = NamedError('lib_d.Slow')\n"
        "early = rule.known\n"
        "class Slow(Exception): ...\n"
    )
    import importlib

    lib_d = importlib.import_module("lib_d")
    assert lib_d.early is None
    assert lib_d.rule.find() is lib_d.Slow


def test_what_cannot_be_found_when_needed_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    named = NamedError("nowhere.Gone")
    assert (named.find(), named.find()) == (None, None)
    assert [record.getMessage() for record in caplog.records] == [
        "a retry rule never matches in this process: on('nowhere.Gone'): there is no module 'nowhere' here"
    ]
