"""Which settings file is obeyed: where it is looked for, whose it may be, and our table in it.

A settings file names the store and the application, whose code is then run. So a file that nobody named must stand in
the project, and belong to whoever runs this or to root. The project is the nearest folder upwards with a repository,
else the nearest with a file that marks a Python project, else the current folder. Invariants: a file above the project
is not read, and one in it that is not ours is an error, not passed over, since going on without it would use another
store; a file that is named (``WINDLASS_CONFIG``) may be anybody's and anywhere.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from windlass.core.errors import ConfigError
from windlass.core.files import open_source
from windlass.core.units import nearest

__all__ = ["find_table", "read_file"]

NAMES: Final = ("windlass.toml", "pyproject.toml")
REPOSITORIES: Final = (".git", ".hg")
MARKS: Final = (*NAMES, "setup.py", "setup.cfg")
SIZE_MAX: Final = 1_048_576  # bytes: settings are small, and what is not need not be parsed to know that
NAME_IT: Final = "set WINDLASS_CONFIG={file} to use it all the same"


def find_table(here: Path, explicit: str | None, warnings: list[str]) -> tuple[Path | None, Mapping[str, object]]:
    """Give the settings file and our table in it. Adds to ``warnings``; raises ConfigError."""
    if explicit:
        file = here / explicit
        table = _table_of(file, read_file(file)[0])
        if table is None:
            raise ConfigError(f"{file} (WINDLASS_CONFIG) has no [tool.windlass] table; add one or name another file")
        return file, table
    folders = [here, *here.parents]
    root = _root_of(folders)
    within = folders[: folders.index(root) + 1]
    for file in _files_in(within):
        link = os.lstat(file)
        raw, found = read_file(file)
        if (table := _table_of(file, raw)) is not None:
            if (trouble := _not_ours(link, found)) is not None:
                raise ConfigError(
                    f"the settings file {file} {trouble}, so it is not obeyed; give it to this user, or "
                    f"{NAME_IT.format(file=file)}"
                )
            return file, table
    for folder in folders[len(within) :]:
        file = folder / NAMES[0]
        if os.path.lexists(file):
            warnings.append(
                f"the settings file {file} is above the project ({root}) and is not read; {NAME_IT.format(file=file)}"
            )
            break
    return None, {}


def read_file(file: Path) -> tuple[bytes, os.stat_result]:
    """The content of a settings file, and what that file was when it was opened. Raises ConfigError."""
    try:
        with open_source(str(file)) as source:
            raw, found = source.read(SIZE_MAX + 1), os.fstat(source.fileno())
    except OSError as error:
        raise ConfigError(f"the settings file {file} cannot be read: {error.strerror}") from error
    if len(raw) > SIZE_MAX:
        raise ConfigError(f"the settings file {file} is larger than {SIZE_MAX // 2**20} MiB; is it the right one?")
    return raw, found


def _files_in(folders: list[Path]) -> Iterator[Path]:
    # os.path: a folder that may not be searched is one without settings.
    return (file for folder in folders for name in NAMES if os.path.isfile(file := folder / name))


def _root_of(folders: list[Path]) -> Path:
    for marks in (REPOSITORIES, MARKS):
        for folder in folders:
            for mark in (folder / name for name in marks):
                if os.path.exists(mark) and _not_ours(os.lstat(mark), os.stat(mark)) is None:
                    return folder
    return folders[0]


def _not_ours(link: os.stat_result, found: os.stat_result) -> str | None:
    """Why a path is not one of this user's or root's that only they can change; None when it is."""
    for uid in (link.st_uid, found.st_uid):
        if uid not in (0, os.geteuid()):
            return f"belongs to user {uid}, and this is user {os.geteuid()}"
    return "can be written by everybody (chmod o-w)" if found.st_mode & stat.S_IWOTH else None


def _table_of(file: Path, raw: bytes) -> Mapping[str, object] | None:
    """Our table of a settings file, or None for a ``pyproject.toml`` that has none."""
    is_project = file.name == "pyproject.toml"
    if is_project and b"windlass" not in raw:
        return None  # and whatever is wrong with it is not ours to report
    import tomllib  # late: many applications have no settings file

    try:
        content = tomllib.loads(raw.decode())
    except ValueError as error:
        raise ConfigError(f"the settings file {file} is not valid TOML: {error}") from error
    except RecursionError:
        raise ConfigError(f"the settings file {file} is not valid TOML: it is nested too deeply") from None
    if is_project:
        tool = content.get("tool")
        content = {key: tool[key] for key in ("windlass",) if isinstance(tool, dict) and key in tool}
        if not content:
            return None
    for key in content:
        if key != "windlass":
            raise ConfigError(
                f"{file.name} has {key!r} at its root; settings stand under [windlass]{nearest(key, ['windlass'])}"
            )
    table = content.get("windlass", {})
    if not isinstance(table, dict):
        raise ConfigError(f"{file.name}: windlass is {table!r}; it must be a table")
    return table
