"""Noticing that source files have changed."""

from __future__ import annotations

import select
from pathlib import Path

from windlass.worker.process.reload import FileWatch, changed_files, snapshot


def test_sources_are_seen_and_what_is_not_ours_is_left_out(tmp_path: Path) -> None:
    for name in ("app.py", "pkg/jobs.py", "windlass.toml", "notes.md", ".git/x.py", "__pycache__/a.py", "env/lib/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    (tmp_path / "env/pyvenv.cfg").write_text("")
    assert {str(Path(path).relative_to(tmp_path)) for path in snapshot(str(tmp_path))} == {
        "app.py", "pkg/jobs.py", "windlass.toml",
    }  # fmt: skip


def test_a_file_that_came_went_or_changed_is_a_change(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "b.py").write_text("1")
    before = snapshot(str(tmp_path))
    assert changed_files(before, snapshot(str(tmp_path))) == set()
    (tmp_path / "a.py").write_text("12")
    (tmp_path / "b.py").unlink()
    (tmp_path / "c.py").write_text("")
    found = changed_files(before, snapshot(str(tmp_path)))
    assert {Path(path).name for path in found} == {"a.py", "b.py", "c.py"}


def test_a_change_makes_the_socket_readable_and_is_news_once(tmp_path: Path) -> None:
    watch = FileWatch(str(tmp_path))
    watch.start()
    for number in range(100):  # the first snapshot may be taken after the first change
        (tmp_path / "a.py").write_text("x" * number)
        if select.select([watch.socket], [], [], 0.2)[0]:
            break
    else:
        raise AssertionError("no change was noticed")
    watch.drain()
    watch.close()
