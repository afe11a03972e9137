"""The rules of SECURITY.md: that its table is true, and those rules that no other test shows."""

from __future__ import annotations

import ast
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import windlass
from windlass import State, Windlass
from windlass.errors import ConfigError

ROOT = Path(__file__).parents[1]
SOURCE = Path(windlass.__file__).parent

# What makes code or objects out of bytes.
FORBIDDEN = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle", "yaml"}
# They import what the operator or the code of the application names, and never what is stored.
IMPORTERS = {"cli/main.py", "cli/loading.py", "core/errornames.py"}


# -- the table ---------------------------------------------------------------------------------------------


def rules() -> list[tuple[str, str]]:
    text = (ROOT / "SECURITY.md").read_text("utf-8")
    return re.findall(r"^\| (S\d+) \|[^|]*\|([^|]*)\|$", text, re.MULTILINE)


def test_the_table_has_every_rule_once() -> None:
    assert [rule for rule, _ in rules()] == [f"S{number}" for number in range(1, 25)]


@pytest.mark.parametrize("rule", [f"S{number}" for number in range(1, 25)])
def test_a_rule_is_kept_by_tests_that_exist_or_says_why_not(rule: str) -> None:
    state = dict(rules())[rule]
    named = re.findall(r"`(test_\w+)`", state)
    if not state.strip().startswith("kept"):
        assert re.match(r" (not yet|in part): ", state), state
    assert named or "not yet" in state
    tests = "".join(file.read_text("utf-8") for file in (ROOT / "tests").rglob("*.py"))
    tests += "".join(file.read_text("utf-8") for file in (SOURCE / "testing").rglob("*.py"))
    assert [name for name in named if f"def {name}(" not in tests] == []


# -- code ---------------------------------------------------------------------------------------------------


def trees() -> Iterator[tuple[str, ast.AST]]:
    suspect = re.compile("|".join([*FORBIDDEN, "eval", "exec", "compile", "__import__", "import_module"]))
    for file in SOURCE.rglob("*.py"):
        if suspect.search(text := file.read_text("utf-8")):
            yield file.relative_to(SOURCE).as_posix(), ast.parse(text)


def test_nothing_stored_can_become_code() -> None:
    found = []
    for name, tree in trees():
        for node in ast.walk(tree):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name.partition(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [(node.module or "").partition(".")[0]]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                if node.func.id in ("eval", "exec", "compile", "__import__"):
                    found.append((name, node.func.id))
                if node.func.id == "import_module" and name not in IMPORTERS:
                    found.append((name, "import_module"))
            elif isinstance(node, ast.Attribute) and node.attr == "import_module" and name not in IMPORTERS:
                found.append((name, "import_module"))
            found += [(name, module) for module in modules if module in FORBIDDEN]
    assert found == []


WORKER = """
import sys
seen, ran = [], []
def look(event, args):
    if event == "import":
        seen.append(str(args[0]).partition(".")[0])
    elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen"):
        ran.append(event)
sys.addaudithook(look)
from windlass import Windlass
from windlass.core.model import NewJob, Write
from windlass.worker.worker import Worker, WorkerOptions

names = ["os.system", "antigravity", "this.s", "shop.__class__.__mro__", "builtins.eval", "subprocess:Popen", "../evil"]
app = Windlass("memory://", unknown_grace=0, reap="50ms")
@app.job(name="shop")
def shop(command: str) -> None: raise SystemError(command)
bad = [NewJob(f"j{n}", name, "default", '[1,["touch pwned"],{}]') for n, name in enumerate(names)]
bad.append(NewJob("codec", "shop", "default", '{"codec":"pickle","body":"gASVHAAAAAAAAACMBXBvc2l4"}'))
app.engine.commit(Write(tuple(bad)))
def work():
    worker = Worker(app.engine, app.registry, app.settings, app.events, app.middlewares, WorkerOptions(burst=True))
    worker.run()
work()
for n in range(len(names)):
    assert app.get(f"j{n}").state == "dead", app.get(f"j{n}")
info = app.get("codec")
assert info.state == "dead", info
app.dead.groups(); list(app.dead.lines())
print({*seen} & {"antigravity", "this", "shop", "subprocess:Popen"}, ran)
"""


def test_names_that_are_stored_are_looked_up_and_never_imported(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WORKER], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["set() []"], done.stderr
    assert os.listdir(tmp_path) == []


# -- names --------------------------------------------------------------------------------------------------

HOSTILE = st.one_of(
    st.text(),
    st.sampled_from(
        ["'; DROP TABLE x; --", '"', "%", "_", "*", "\0", "{windlass}:meta", "\ud800", "a" * 10_000, "..", ""]
    ),
)


@pytest.fixture(scope="module")
def app() -> Iterator[Windlass]:
    with Windlass("memory://") as app:

        @app.job(name="pay", tags=["money"])
        def pay(n: int) -> None: ...

        pay.options(id="kept").enqueue(1)
        yield app


@given(text=HOSTILE)
def test_a_name_is_only_ever_a_value(app: Windlass, text: str) -> None:
    """It is refused, or compared as it is: no part of a statement, no pattern, no path to something else."""
    for ask in (
        lambda: [app.get(text)] if text != "kept" else [],
        lambda: list(app.jobs(name=text)) if text != "pay" else [],
        lambda: list(app.jobs(queue=text)) if text != "default" else [],
        lambda: list(app.jobs(tag=text)) if text != "money" else [],
        lambda: [app.queue(text).info().ready or None] if text != "default" else [],
        lambda: list(app.dead.list(error=text)),
        lambda: list(app.dead.list(group=text)),
    ):
        try:
            assert [each for each in ask() if each is not None] == []
        except ConfigError:
            pass
    info = app.get("kept")
    assert info is not None
    assert info.state is State.READY


@pytest.mark.parametrize("text", ["pa%", "p_y", "pay' OR '1'='1", "*", "(a+)+$", "[p]ay", "PAY"])
def test_a_filter_is_no_pattern(app: Windlass, text: str) -> None:
    assert list(app.jobs(name=text)) == []


@pytest.mark.parametrize("namespace", ["other", "windlass2"])
def test_namespaces_in_one_file_do_not_meet(tmp_path: Path, namespace: str) -> None:
    url = f"sqlite:///{tmp_path}/w.db"
    with Windlass(url) as one, Windlass(url, namespace=namespace) as two:
        handle = one.job(name="pay")(lambda: None).enqueue()
        one.queue("default").pause("only here")
        with one.lock("key"), two.lock("key"):
            assert [lock.key for lock in two.locks()] == ["key"]
        assert not two.queue("default").info().paused
        assert (list(two.jobs()), two.get(handle.id), two.stats()["ready"]) == ([], None, 0)
        two.delete([handle.id])
        assert one.get(handle.id) is not None


def test_the_files_of_a_database_are_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with Windlass(f"sqlite:///{tmp_path}/w.db") as app:

            @app.job(name="pay")
            def pay() -> None: ...

            pay.enqueue()
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert "w.db-wal" in modes
    assert set(modes.values()) == {0o600}
