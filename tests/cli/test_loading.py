"""From ``module:attr`` to an application, and what is said when that fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cli_shop import Shop

from windlass import Windlass
from windlass.cli.loading import load_app
from windlass.errors import ConfigError


def refusal(target: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_app(target)
    return str(caught.value)


def test_the_attribute_is_app_when_left_out_and_the_current_directory_is_importable(shop: Shop) -> None:
    assert load_app("cli_shop_jobs") is load_app("cli_shop_jobs:app")
    assert str(shop.folder) in sys.path


def test_a_command_in_a_folder_below_finds_what_the_settings_file_names(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.write("windlass.toml", '[windlass]\napp = "cli_shop_jobs:app"\n')
    below = shop.folder / "src" / "deep"
    below.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each != str(shop.folder)])
    monkeypatch.chdir(below)
    assert shop.run("enqueue", "charge", "[1]", app=False).stdout


def test_the_attribute_may_be_a_path(shop: Shop) -> None:
    shop.write("cli_shop_box.py", "from windlass import Windlass\nclass Box: app = Windlass('memory://')\n")
    assert load_app("cli_shop_box:Box.app").settings.url == "memory://"


def test_a_missing_module_gets_the_nearest_spelling(shop: Shop) -> None:
    assert "did you mean 'cli_shop_jobs'" in refusal("cli_shop_jops:app")
    (shop.folder / "cli_shop_pkg").mkdir()
    shop.write("cli_shop_pkg/__init__.py", "")
    shop.write("cli_shop_pkg/jobs.py", "")
    assert "did you mean 'cli_shop_pkg.jobs'" in refusal("cli_shop_pkg.jbos:app")


def test_a_missing_attribute_gets_the_nearest_application(shop: Shop) -> None:
    shop.write("cli_shop_two.py", "from windlass import Windlass\nqueue_app = Windlass('memory://')\napi = 1\n")
    assert "did you mean 'queue_app'" in refusal("cli_shop_two:queueapp")
    assert "it has the applications queue_app" in refusal("cli_shop_two:x")
    assert "is of type int, not a Windlass" in refusal("cli_shop_two:api")


@pytest.mark.parametrize("target", ["shop/jobs.py", "./shop/jobs.py:app", "shop.jobs.py"])
def test_a_file_name_is_refused_with_the_module_name(target: str) -> None:
    assert "write module:attr" in refusal(target)
    assert "shop.jobs:app" in refusal(target)


@pytest.mark.parametrize(
    ("body", "line", "words"),
    [
        ("x = 1\nraise ValueError('no luck')\n", 2, "ValueError: no luck"),
        ("def f(:\n", 1, "SyntaxError"),
        ("import json\n\nimport cli_shop_missing_part\n", 3, "No module named 'cli_shop_missing_part'"),
        ("import json\njson.loads('{')\n", 2, "JSONDecodeError"),
        ("import sys\nsys.exit(4)\n", 2, "SystemExit: 4"),
        ("from windlass import Windlass\n\n\napp = Windlass(leese=3)\n", 4, "did you mean 'lease'"),
    ],
)
def test_a_failing_import_names_the_file_and_line_of_the_user(shop: Shop, body: str, line: int, words: str) -> None:
    file = shop.write("cli_shop_broken.py", body)
    result = shop.run("stats", "-A", "cli_shop_broken", app=False, code=2)
    assert f"{file}:{line}" in result.stderr
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_what_a_module_prints_does_not_mix_with_the_answer(shop: Shop) -> None:
    shop.write("cli_shop_loud.py", "print('hello')\nfrom cli_shop_jobs import app\n")
    result = shop.run("stats", "-A", "cli_shop_loud", "--json", app=False)
    assert result.stdout.startswith("{")
    assert "hello" in result.stderr


SHADOWS = ["msgspec", "click", "json", "apsw", "cronsim", "setproctitle", "heapq", "rich"]


def test_a_file_in_the_folder_replaces_nothing_that_is_installed(tmp_path: Path) -> None:
    """Neither in the command nor in the processes of a worker, the children of executor="process" among them."""
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"import os; open('shadowed-{name}', 'w').close(); os._exit(99)\n")
    (tmp_path / "helper.py").write_text("FACTOR = 2\n")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "jobs.py").write_text(
        "import importlib, json, heapq, msgspec, click\n"
        "from windlass import Windlass\n"
        "from helper import FACTOR\n"
        f"app = Windlass('sqlite:///{tmp_path}/w.db')\n"
        "@app.job(executor='process')\n"
        f"def where() -> list[str]: return [importlib.import_module(name).__file__ for name in {SHADOWS}]\n"
    )
    windlass = str(Path(sys.executable).parent / "windlass")
    for words in (["enqueue", "shop.jobs.where"], ["worker", "--burst"], ["stats"]):
        done = subprocess.run([windlass, "-A", "shop.jobs", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("shadowed-*")) == []
    with Windlass(f"sqlite:///{tmp_path}/w.db") as app:
        (job,) = app.jobs()
        assert job.state == "done", job.errors
        assert isinstance(job.result, list)
        assert not any(str(file).startswith(str(tmp_path)) for file in job.result)


def test_python_m_does_not_put_the_folder_first_either(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise SystemExit('shadowed')\n")
    (tmp_path / "shop.py").write_text("from windlass import Windlass\napp = Windlass('memory://')\n")
    command = [sys.executable, "-m", "windlass", "-A", "shop", "stats"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_application_itself_is_the_one_in_the_folder(shop: Shop) -> None:
    """Also where something installed has its name: whoever gave the name stands here."""
    installed = shop.folder / "site-packages"
    installed.mkdir()
    (installed / "cli_shop_same.py").write_text("app = 'installed'\n")
    (installed / "cli_shop_other.py").write_text("WHICH = 'installed'\n")
    shop.write("cli_shop_other.py", "WHICH = 'here'\n")
    shop.write(
        "cli_shop_same.py",
        "from windlass import Windlass, on\nfrom cli_shop_other import WHICH\n"
        "app = Windlass('memory://', namespace=WHICH)\n"
        "@app.job(retry=[on('cli_shop_same.Later').dead()])\ndef job() -> None: ...\n"
        "class Later(Exception): ...\n",  # a module on its way is told apart from one that is there
    )
    sys.path.insert(0, str(installed))
    before = list(sys.meta_path)
    assert load_app("cli_shop_same").settings.namespace == "installed"
    assert sys.meta_path == before


def test_a_folder_that_only_has_the_name_of_a_package_is_not_one(shop: Shop) -> None:
    (shop.folder / "cli_shop_data").mkdir()
    installed = shop.folder / "site-packages" / "cli_shop_data"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("from windlass import Windlass\napp = Windlass('memory://')\n")
    sys.path.insert(0, str(installed.parent))
    assert load_app("cli_shop_data").settings.url == "memory://"


def test_a_name_of_pythons_own_library_is_not_taken_from_the_folder(shop: Shop) -> None:
    shop.write("heapq.py", "from windlass import Windlass\napp = Windlass('memory://')\n")
    assert "heapq has no 'app'" in refusal("heapq:app")
