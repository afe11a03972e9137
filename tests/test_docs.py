"""The documentation is run and compared with the code, so that what it says is so.

Of every page: fenced ``python`` blocks that begin with ``# name.py`` are parts of that file; the others together are
one script, run while a real worker runs the first of the files. What a ``print(...)  # => text`` prints must be that
text. Lines ``$ windlass ...`` of ``console`` blocks must be commands with options that exist.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kit.fleet import Fleet
from windlass.cli.main import COMMANDS, cli
from windlass.core.model import TRANSITIONS, State
from windlass.settings import Settings
from windlass.settings.values import READERS

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+)\.py\n")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """The line each block begins at, and its text."""
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        if match[1] == language:
            yield text.count("\n", 0, match.start(2)), match[2]


def parts(page: Path) -> tuple[dict[str, str], str]:
    """The files of a page by module name, and its script. Lines stand where they stand in the page."""
    files: dict[str, str] = {}
    script = ""
    for line, text in blocks(page, "python"):
        if match := FILE.match(text):
            files[match[1]] = files.get(match[1], "") + text + "\n\n"
        else:
            script += "\n" * (line - script.count("\n")) + text
    return files, script


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "python"))], ids=name_of)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page: Path, tmp_path: Path) -> None:
    files, script = parts(page)
    (tmp_path / ".git").mkdir()  # no settings file above this folder counts
    for module, text in files.items():
        (tmp_path / f"{module}.py").write_text(text, encoding="utf-8")
    (tmp_path / "page.py").write_text(script, encoding="utf-8")
    with Fleet(tmp_path, "", f"{next(iter(files))}:app") as fleet:
        fleet.start()
        with (tmp_path / "errors").open("w+") as errors:  # only what it prints is compared
            ran = fleet.program(sys.executable, "-W", "error", "page.py", stderr=errors.fileno())
            assert ran.ended() == 0, errors.seek(0) or f"{errors.read()}\n{fleet.last_words()}"
    wanted = re.findall(r"^ *print\(.*\)  # => (.*)$", script, re.MULTILINE)
    assert wanted
    assert script.count("print(") == len(wanted)
    assert ran.said().splitlines() == wanted


def commands_shown(page: Path) -> list[str]:
    return [line[2:] for _, text in blocks(page, "console") for line in text.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("page", [page for page in PAGES if any(blocks(page, "console"))], ids=name_of)
def test_the_commands_of_a_page_exist_with_their_options(page: Path) -> None:
    shown = [line for line in commands_shown(page) if line.startswith("windlass ")]
    for line in shown:
        parse(cli, shlex.split(line)[1:])
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in commands_shown(page):
        if line.startswith("make "):
            words = [word for word in line.split()[1:] if "=" not in word]
            assert set(words) <= targets, line
            shown.append(line)
    assert shown


def parse(command: click.Command, words: list[str], parent: click.Context | None = None) -> None:
    """Read a command line as click does, without running anything. Raises click.UsageError."""
    context = command.make_context(command.name, words, parent)
    if isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        _, following, left = command.resolve_command(context, rest)
        assert following is not None
        parse(following, left, context)


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}"


def test_the_docs_and_the_help_use_the_words_of_the_table() -> None:
    others = re.compile(r"\b(buried|amend|mend|reviv|withdraw|prefetch|(closed|open) guard|at (a|which) guard)", re.I)
    texts = {name_of(page): page.read_text(encoding="utf-8") for page in PAGES} | {"--help": help_of(cli)}
    del texts["CONTRIBUTING.md"]  # it has the table
    found = {name: word[0] for name, text in texts.items() if (word := others.search(text)) is not None}
    assert not found


def help_of(command: click.Command, parent: click.Context | None = None) -> str:
    """The help of a command and of all below it."""
    context = click.Context(command, info_name=command.name, parent=parent)
    texts = [command.get_help(context)]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            texts.append(help_of(below, context))
    return "\n".join(texts)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        if page.name != "index.md":
            assert f"({page.relative_to(ROOT / 'docs')})" in index


def test_the_diagram_of_states_is_the_table_of_transitions() -> None:
    diagrams = [text for _, text in blocks(ROOT / "docs" / "how-it-works.md", "mermaid") if "stateDiagram" in text]
    assert len(diagrams) == 1
    drawn = re.findall(r"^ +(\w+) --> (\w+)", diagrams[0], re.MULTILINE)
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == {(before.value, after.value) for before in State for after in TRANSITIONS[before]}


def test_the_page_of_settings_has_every_setting_with_its_default() -> None:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", text, re.MULTILINE))
    assert set(rows) == set(Settings.__struct_fields__)
    for key, written in rows.items():
        assert READERS[key](value_of(written), key) == getattr(Settings(), key), key


def value_of(written: str) -> object:
    """What a default in the docs would be in a settings file."""
    if written.isdigit():
        return int(written)
    return {"false": False, "true": True, "{}": {}, "[]": []}.get(written, written)


def commands() -> Iterator[tuple[str, click.Command]]:
    for name, (target, _) in COMMANDS.items():
        module, _, attribute = target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if isinstance(command, click.Group):
            yield from ((f"{name} {each}", command.commands[each]) for each in command.commands)
        else:
            yield name, command


@pytest.mark.parametrize(("name", "command"), [pytest.param(*pair, id=pair[0]) for pair in commands()])
def test_the_page_of_commands_has_every_command_and_option(name: str, command: click.Command) -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    section = re.search(rf"^### `windlass {name}[ `].*?(?=^##)", text, re.MULTILINE | re.DOTALL)
    assert section is not None, f"docs/cli.md has no section for windlass {name}"
    shared = {"--app", "--url", "--json"}
    options = {max(param.opts, key=len) for param in command.params if isinstance(param, click.Option)} - shared
    assert set(re.findall(r"^\| `(?:-\w, )?(--[\w-]+)", section[0], re.MULTILINE)) == options
