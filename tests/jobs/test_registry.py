"""Names of jobs: one name, one job."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from windlass import Windlass
from windlass.errors import ConfigError


def charge(n: int) -> int:
    return n


def refund(n: int) -> int:
    return -n


@pytest.fixture
def app() -> Windlass:
    return Windlass("memory://")


def test_a_job_is_found_by_name_and_alias(app: Windlass) -> None:
    job = app.job(name="charge", aliases=["old.charge"])(charge)
    assert app.registry.get("charge") is app.registry.get("old.charge") is job.spec
    assert app.registry.names() == ["charge"]
    assert len(app.registry) == 1


def test_an_unknown_name_gets_the_nearest_spelling(app: Windlass) -> None:
    app.job(name="shop.charge")(charge)
    assert app.registry.find("shop.chrage") is None
    with pytest.raises(ConfigError, match=r"did you mean .shop\.charge."):
        app.registry.get("shop.chrage")


def test_a_taken_name_is_refused_and_says_by_what(app: Windlass) -> None:
    app.job(name="pay")(charge)
    with pytest.raises(ConfigError, match=r"taken by charge .*test_registry\.py"):
        app.job(name="pay")(refund)


def test_a_taken_alias_registers_nothing(app: Windlass) -> None:
    app.job(name="pay")(charge)
    with pytest.raises(ConfigError, match="taken"):
        app.job(name="refund", aliases=["pay"])(refund)
    assert app.registry.names() == ["pay"]


def test_the_same_function_twice_is_refused_with_advice(app: Windlass) -> None:
    app.job(charge)
    with pytest.raises(ConfigError, match=r"charge\.options"):
        app.job(charge)


def test_functions_made_in_a_loop_do_not_replace_each_other(app: Windlass) -> None:
    def make() -> None:
        @app.job(name="same")
        def job() -> None: ...

    make()
    with pytest.raises(ConfigError, match="taken"):
        make()


def test_a_reloaded_module_replaces_its_jobs(app: Windlass, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reloaded_jobs.py").write_text(
        "from shared_app import app\n@app.job\ndef ship(n: int) -> int: return n\n"
    )
    module = type(sys)("shared_app")
    vars(module)["app"] = app
    monkeypatch.setitem(sys.modules, "shared_app", module)
    monkeypatch.syspath_prepend(str(tmp_path))
    jobs = importlib.import_module("reloaded_jobs")
    first = app.registry.get("reloaded_jobs.ship")
    importlib.reload(jobs)
    assert app.registry.get("reloaded_jobs.ship") is not first
    assert app.registry.get("reloaded_jobs.ship") is jobs.ship.spec
    monkeypatch.delitem(sys.modules, "reloaded_jobs")
